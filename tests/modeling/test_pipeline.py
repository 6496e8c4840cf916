"""The pipeline gives what the model gives one by one, and travels with it."""

import json

import pytest
import torch
from helpers.letters import SAMPLING, alone, make_tokenizer, texts
from helpers.tiny import tiny
from transformers import pipeline

import seqloom


class TestPipeline:
    @pytest.fixture(params=["lstm-luong", "post-norm"])
    def folder(self, request, tmp_path):
        model, tokenizer = tiny(request.param), make_tokenizer()
        model.generation_config.max_new_tokens = 8
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    def test_texts(self, folder):
        pipe = pipeline("seq2seq-generation", model=str(folder))
        assert isinstance(pipe, seqloom.Seq2SeqPipeline)
        sources = texts(6)
        expected = [
            [{"generated_text": text} for text in alone(pipe.model, pipe.tokenizer, source)] for source in sources
        ]
        assert pipe(sources[0]) == expected[0]
        assert pipe(sources) == expected
        assert pipe(sources, batch_size=4) == expected  # padding changes nothing
        assert list(pipe(source for source in sources)) == expected

    def test_several_with_scores(self, folder):
        pipe = pipeline("seq2seq-generation", model=str(folder), **SAMPLING)
        torch.manual_seed(5)
        found = pipe(texts(4), num_return_sequences=3, return_scores=True, batch_size=4)
        lengths = set()
        for source, results in zip(texts(4), found, strict=True):
            assert len(results) == 3
            for result in results:
                text, score = result.values()
                lengths.add(len(text))
                labels = pipe.tokenizer(text_target=text, return_tensors="pt")["input_ids"]
                labels = labels if len(text) < 8 else labels[:, :-1]  # it was cut before its end
                loss = pipe.model(**pipe.tokenizer(source, return_tensors="pt"), labels=labels).loss.item()
                assert score == pytest.approx(-loss * labels.numel(), abs=1e-3)
        assert len(lengths) > 2

    def test_refuses_what_is_no_text(self, folder):
        with pytest.raises(ValueError, match="takes a text, a list or a generator of texts, not 3"):
            pipeline("seq2seq-generation", model=str(folder))(3)

    def test_travels(self, folder, tmp_path):
        """A folder names the pipeline for those without seqloom; whoever has seqloom is not asked for trust."""
        pipe = pipeline("seq2seq-generation", model=str(folder))
        pipe.save_pretrained(tmp_path / "again")
        for place in (folder, tmp_path / "again"):
            config = json.loads((place / "config.json").read_text())
            (task,) = config["custom_pipelines"].values()
            assert task["impl"] == "pipeline_seq2seq.Seq2SeqPipeline"
            assert (place / "pipeline_seq2seq.py").is_file()
        assert not hasattr(pipe.model.config, "custom_pipelines")
        assert pipeline("seq2seq-generation", model=str(tmp_path / "again"))("ab") == pipe("ab")
