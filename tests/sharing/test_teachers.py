"""A teacher is known again by what it is, not by where it lies; and the card's words of it."""

import pytest
from helpers.tiny import tiny

from seqloom.sharing.teachers import describe_teacher, distilled_from, is_same_teacher, licence_note, teachings

CARD = "---\nlicense: cc-by-4.0\nlanguage: [en, de]\n---\n\n# mine\n"


@pytest.fixture
def folder(tmp_path):
    """A saved model, its card, and what else lies in a run's folder."""
    place = tmp_path / "mine"
    tiny("gru").save_pretrained(place)
    (place / "README.md").write_text(CARD)
    for name in ("evaluation/test", "checkpoints/best", "ctranslate2"):
        (place / name).mkdir(parents=True)
    (place / "evaluation" / "test" / "scores.json").write_text("{}")
    (place / "checkpoints" / "best" / "model.safetensors").write_text("another")
    (place / "ctranslate2" / "model.bin").write_text("weights")
    return place


def test_what_it_is(folder, tmp_path):
    about = describe_teacher(str(folder), tiny("gru").config)
    assert about["name"] == "mine"
    assert about["model_type"] == "rnn_seq2seq"
    assert (about["license"], about["language"]) == ("cc-by-4.0", ["en", "de"])
    assert {"model.safetensors", "config.json", "generation_config.json", "ctranslate2/model.bin"} <= set(
        about["files"]
    )
    assert not [name for name in about["files"] if name.startswith(("README", "evaluation", "checkpoints"))]
    assert str(tmp_path) not in str(about)


def test_known_again(folder, tmp_path):
    config = tiny("gru").config
    before = describe_teacher(str(folder), config)
    moved = folder.rename(tmp_path / "other")
    (moved / "README.md").unlink()
    (moved / "evaluation" / "test" / "scores.json").write_text("[]")
    assert is_same_teacher(before, describe_teacher(str(moved), config))
    (moved / "ctranslate2" / "model.bin").write_text("Weights")
    assert not is_same_teacher(before, describe_teacher(str(moved), config))


@pytest.mark.parametrize("card", ["", "no header", "---\n[\n---\n", "---\n- a\n---\n", "---\nlicense: unknown\n---\n"])
def test_a_card_that_says_nothing(folder, card):
    (folder / "README.md").write_text(card)
    about = describe_teacher(str(folder), tiny("gru").config)
    assert "license" not in about
    assert "language" not in about


def test_words():
    teacher = {"name": "big", "model_type": "marian", "files": {}}
    decoding = {"num_beams": 5}
    file = {"name": "train.jsonl", "distilled": {"kind": "sequence", "teacher": teacher, "decoding": decoding}}
    record = {"data": {"splits": {"train": [file]}}}
    assert distilled_from(record) == "distilled from big (sequence-level, beam 5)"
    assert licence_note(record).startswith("The licence of its teacher big is not stated by a card of its own")
    decoding |= {"do_sample": True, "num_beams": 1, "best_of": 8, "metric": "sacrebleu"}
    assert distilled_from(record) == "distilled from big (sequence-level, drawn, best of 8 by BLEU)"
    hub = {"name": "me/big", "revision": "abc", "license": "mit"}
    word = {"kind": "word", "teacher": hub, "alpha": 0.5, "temperature": 2.0, "top_k": None}
    both = record | {"teacher": word}
    assert distilled_from(both).endswith(" and me/big (word-level, α 0.5, temperature 2)")
    assert "The licence of its teacher me/big is mit by its own card" in licence_note(both)
    nothing = {"data": {"splits": {"train": "train"}}}
    assert (teachings(nothing), distilled_from(nothing), licence_note(nothing)) == ([], "", "")
