"""A run from settings to model folder: what it learns and what it leaves behind."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers.runs import (
    MODELS,
    read_log,
    read_losses,
    run,
    same,
    weights,
)
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from seqloom.settings.reading import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


class TestLearning:
    """Every family learns to spell words backwards, and leaves a folder that transformers loads."""

    @pytest.fixture(scope="class", params=list(MODELS))
    def learnt(self, request, data, tmp_path_factory):
        folder = tmp_path_factory.mktemp(request.param)
        record = run(
            folder, data, request.param, model={**MODELS[request.param], "dropout": 0.0},
            data={"train_files": data["train"]},
            training={"batch_tokens": 400, "max_steps": 180, "warmup_steps": 10, "lr_scheduler_type": "linear",
                      "logging_steps": 10, "eval_steps": 90, "eval_metric": "exact_match"},
            generation={"num_beams": 2, "max_new_tokens": 9},
        )  # fmt: skip
        return folder, record

    def test_learns(self, learnt):
        folder, record = learnt
        losses = read_losses(folder)
        assert losses[0] > 1.5
        assert losses[-1] < 0.2
        assert record["evaluation"]["metrics"]["exact_match"]["score"] > 90
        assert record["progress"]["best_score"] > 90

    def test_transformers_loads_it(self, learnt):
        folder, _ = learnt
        tokenizer = AutoTokenizer.from_pretrained(folder / "run")
        model = AutoModelForSeq2SeqLM.from_pretrained(folder / "run")
        sources = ["abc", "d", "hf"]
        outputs = model.generate(**tokenizer(sources, return_tensors="pt", padding=True))
        texts = tokenizer.batch_decode(outputs, skip_special_tokens=True)
        assert texts == [source[::-1] for source in sources]

    def test_what_is_written(self, learnt):
        folder, record = learnt
        assert load_settings(folder / "run" / "settings.yaml") == load_settings(folder / "config.yaml")
        assert json.loads((folder / "run" / "record.json").read_text()) == json.loads(json.dumps(record))
        assert sorted(path.name for path in (folder / "run" / "checkpoints").iterdir()) == [
            "best", "step-00000090", "step-00000180",
        ]  # fmt: skip
        generation = GenerationConfig.from_pretrained(folder / "run")
        assert (generation.num_beams, generation.max_new_tokens) == (2, 9)
        scores = json.loads((folder / "run" / "evaluation" / "test" / "scores.json").read_text())
        assert scores == json.loads(json.dumps(record["evaluation"]))
        log = read_log(folder, timed=True)
        assert [line["step"] for line in log if "loss" in line] == list(range(10, 181, 10))
        assert [line["step"] for line in log if "eval_loss" in line] == [90, 180]
        assert all(line["tokens_per_second"] > 0 for line in log if "loss" in line)

    def test_validation_is_the_mean_over_all_tokens(self, learnt):
        """One pair at a time, without padding or batches, gives the loss and the greedy score of the log."""
        folder, record = learnt
        best = folder / "run" / "checkpoints" / "best"
        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(best), AutoTokenizer.from_pretrained(best)
        settings = load_settings(folder / "run" / "settings.yaml")
        sides = [Path(path).read_text().splitlines() for path in settings.data.validation_files]
        total = count = right = 0
        for source, target in zip(*sides, strict=True):
            encoded = tokenizer(source, text_target=target, return_tensors="pt")
            with torch.no_grad():
                total += model(**encoded).loss.item() * encoded["labels"].numel()
            count += encoded["labels"].numel()
            del encoded["labels"]
            right += tokenizer.decode(model.generate(**encoded, num_beams=1)[0], skip_special_tokens=True) == target
        (line,) = [
            line for line in read_log(folder) if line["step"] == record["progress"]["best_step"] and "best" in line
        ]
        assert line["eval_loss"] == pytest.approx(total / count, rel=1e-5)
        assert line["eval_exact_match"] == pytest.approx(100 * right / len(sides[0]))


class TestTokenizers:
    """Every kind, shared and not, runs."""

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram", "word", "char"])
    @pytest.mark.parametrize("shared", [True, False])
    def test_kinds(self, tmp_path, data, kind, shared):
        sizes = {"byte_bpe": 263, "bpe": 17, "unigram": 17, "word": 40, "char": 20}
        tokenizer = {"kind": kind, "vocab_size": sizes[kind], "shared": shared}
        if not shared:
            tokenizer["target_vocab_size"] = sizes[kind] - 1
        record = run(
            tmp_path, data, "rnn", tokenizer=tokenizer, training={"max_steps": 2, "eval_metric": "exact_match"}
        )
        assert all(map(math.isfinite, read_losses(tmp_path)))
        assert record["evaluation"]["sentences"] == 31
        config = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").config
        loaded = AutoTokenizer.from_pretrained(tmp_path / "run")
        assert config.vocab_size == len(loaded)
        assert config.share_encoder_decoder_embeddings == shared
        if not shared:
            assert config.decoder_vocab_size == len(loaded.target_tokenizer)
        assert (config.pad_token_id, config.eos_token_id) == (loaded.pad_token_id, loaded.eos_token_id)

    def test_one_that_is_there(self, tmp_path, data):
        run(tmp_path / "first", data, training={"max_steps": 1})
        path = str(tmp_path / "first" / "run")
        run(tmp_path / "second", data, training={"max_steps": 1}, tokenizer={"path": path})
        first, second = (tmp_path / name / "run" for name in ("first", "second"))
        assert (first / "tokenizer.json").read_text() == (second / "tokenizer.json").read_text()
        assert same(weights(first), weights(second))


class TestGenerationConfig:
    def test_longest_output(self, tmp_path, data):
        run(tmp_path / "short", data, training={"max_steps": 1})
        assert GenerationConfig.from_pretrained(tmp_path / "short" / "run").max_new_tokens == 32
        run(tmp_path / "given", data, training={"max_steps": 1}, generation={"max_new_tokens": 5})
        assert GenerationConfig.from_pretrained(tmp_path / "given" / "run").max_new_tokens == 5

    def test_further_arguments(self, tmp_path, data):
        options = {"no_repeat_ngram_size": 2, "bad_words_ids": [[4]]}
        run(tmp_path, data, training={"max_steps": 1}, generation={"generate_kwargs": options})
        saved = GenerationConfig.from_pretrained(tmp_path / "run")
        assert (saved.no_repeat_ngram_size, saved.bad_words_ids) == (2, [[4]])
