"""Like with like: references are held against outputs in the Unicode form and the case of the tokenizer."""

import dataclasses
import gzip
import json
import unicodedata

import pytest
from helpers.scored import LETTERS, make_model, make_tokenizer, read, sentences
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from seqloom.commands.score import main
from seqloom.data.tokenization import train_tokenizer
from seqloom.scoring.against import compare_predictions
from seqloom.scoring.normalization import normalized
from seqloom.scoring.predictions import read_predictions
from seqloom.settings.schema import DataSettings, EvaluationSettings, Settings, TokenizerSettings, TrainingSettings
from seqloom.sharing.verify import check_record

KOREAN = "가나다라마각난달"


def apart(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("kind", ["byte_bpe", "char", "word"])
@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({}, "nfc", " Größe  ﬁ 각 "),
        ({"normalization": "nfkc"}, "nfkc", " Größe  fi 각 "),
        ({"lowercase": True}, "nfc+lc", " größe  ﬁ 각 "),
        ({"normalization": "none", "lowercase": True}, "lc", apart(" größe  ﬁ 각 ")),
        ({"normalization": "none"}, None, apart(" Größe  ﬁ 각 ")),
    ],
)
def test_what_the_tokenizer_normalises_and_nothing_else(kind, settings, name, expected):
    size = 262 if kind == "byte_bpe" else 100
    texts = ["Größe ﬁ 각 größe fi Größe"] * 3
    tokenizer = train_tokenizer(texts, texts, TokenizerSettings(kind=kind, vocab_size=size, **settings))
    found = normalized([apart(" Größe  ﬁ 각 "), "a"], tokenizer)
    assert (found.texts, found.normalization) == ([expected, "a"], name)


def test_nothing_is_said_where_nothing_changes():
    found = normalized(["각", "Größe"], make_tokenizer())
    assert (found.texts, found.normalization) == (["각", "Größe"], None)
    assert found.sign({"score": 1.0, "signature": "x"}) == {"score": 1.0, "signature": "x"}


def test_of_a_pair_the_target_counts_and_others_steps_stay_out():
    settings = TokenizerSettings(kind="char", shared=False)
    pair = train_tokenizer(["a"], ["A"], settings)
    pair.target_tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert normalized(["A" + apart("ä")], pair).texts == ["a" + apart("ä")]
    bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    for steps in (None, normalizers.StripAccents(), normalizers.NFD()):
        if steps is not None:
            bare.normalizer = steps
        found = normalized(["Ä"], PreTrainedTokenizerFast(tokenizer_object=bare))
        assert (found.texts, found.normalization) == (["Ä"], None)
    assert normalized(["Ä"], object()).texts == ["Ä"]  # one without the library


@pytest.fixture
def scored(tmp_path):
    """Scores a model that makes texts of Korean, or of letters, on targets made of its own outputs."""

    def _scored(make, letters=KOREAN):
        tokenizer, place = make_tokenizer(letters=letters), tmp_path / "model"
        model = make_model(tokenizer)
        model.generation_config.min_new_tokens, model.generation_config.suppress_tokens = 3, [0, 1, 3]
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        sources = [text.translate(str.maketrans(LETTERS, letters)) for text in sentences(11)]
        targets = ["x"] * len(sources)
        for _ in range(2):
            for name, texts in (("source", sources), ("target", targets)):
                (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            data = DataSettings(
                train_files=["none"], test_files=[str(tmp_path / side) for side in ("source", "target")]
            )
            settings = Settings(
                output_dir="runs/x", model={"model_type": "transformer_seq2seq"}, data=data,
                training=TrainingSettings(max_steps=1), evaluation=EvaluationSettings(metrics=["exact_match", "chrf"]),
            )  # fmt: skip
            settings.save(place / "settings.yaml")
            assert main([str(place), "--overwrite"]) == 0
            scores, lines = read(place / "evaluation" / "test")
            targets = [make(line["hypothesis"]) for line in lines]
        return place, settings, scores, lines

    return _scored


def test_perfect_outputs_for_decomposed_korean_are_perfect(scored, capsys):
    place, settings, scores, lines = scored(apart)
    assert [result["score"] for result in scores["metrics"].values()] == [100, 100]
    assert scores["normalization"] == "nfc"
    assert all(result["signature"].endswith("|refs:nfc") for result in scores["metrics"].values())
    assert "|refs:nfc" in capsys.readouterr().out
    assert all(line["reference"] == apart(line["hypothesis"]) for line in lines)  # as they were given
    path = place / "evaluation" / "test" / "predictions.jsonl"
    kept = read_predictions(path)
    assert kept.scored_references == kept.hypotheses != kept.references
    check_record(place, {"evaluation": scores}, settings)  # what is pushed is what was scored
    as_given = kept._replace(scored=None, normalization=None)
    both = compare_predictions(kept, as_given, dataclasses.replace(settings.evaluation, bootstrap_samples=20))
    assert both["exact_match"]["scores"] == [100, 0]
    assert both["exact_match"]["signature"].endswith("|refs:nfc and as given")


def test_composed_references_are_scored_as_ever(scored):
    _, _, scores, lines = scored(lambda text: text)
    assert scores["metrics"]["chrf"]["score"] == 100
    assert not any("|refs:" in result["signature"] for result in scores["metrics"].values())
    assert "normalization" not in scores
    assert all(line.keys() == {"source", "reference", "hypothesis"} for line in lines)


@pytest.mark.parametrize("wrong", [{"scored_reference": 3, "normalization": "nfc"}, {"scored_reference": "a"}])
def test_damaged_predictions_are_refused(tmp_path, wrong):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"source": "a", "reference": "b", "hypothesis": "c", **wrong}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .* has a scored_reference or normalization that is no text"):
        read_predictions(path)


def test_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "predictions.jsonl.gz"
    content = bytearray(gzip.compress(json.dumps({"source": "a" * 99, "reference": "b", "hypothesis": "c"}).encode()))
    content[20:24] = b"\xff\x00\xff\x00"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be unpacked .*: is it damaged"):
        read_predictions(path)
