"""Data sets of the Hub, through `datasets` itself: by name, configuration, slice and revision, private, as a stream."""

import csv
import io
import json

import datasets
import pytest
from helpers.hub_server import File
from helpers.runs import configure

from seqloom.__main__ import main
from seqloom.data.pairs import load_pairs
from seqloom.settings.schema import DataSettings, MixSettings
from seqloom.support import hub_files

CARD = """---
configs:
- config_name: plain
  data_files: [{split: train, path: plain/train.csv}, {split: validation, path: plain/dev.csv}]
- config_name: loud
  data_files: [{split: train, path: loud/train.csv}, {split: validation, path: loud/dev.csv}]
---
"""
LETTERS = "abcdefgh"
WORDS = [one + other for one in LETTERS for other in LETTERS]


def table(words: list[str], loud: bool = False) -> File:
    """Words and the same words backwards, as a csv."""
    text = io.StringIO()
    csv.writer(text).writerows([("en", "de"), *((word, word[::-1].upper() if loud else word[::-1]) for word in words)])
    return File(text.getvalue().encode(), False)


@pytest.fixture
def repository(hub):
    """Two configurations; of the tag v1, half as many words."""
    repository = hub.create("datasets/me/pairs")
    for words in (WORDS[:32], WORDS):
        files = {
            "plain/train.csv": table(words), "plain/dev.csv": table(WORDS[:9]),
            "loud/train.csv": table(words, loud=True), "loud/dev.csv": table(WORDS[:9], loud=True),
        }  # fmt: skip
        repository.add("Words", {"README.md": File(CARD.encode(), False), **files})
        repository.tags.setdefault("v1", repository.head)
    return repository


def test_from_the_cache_where_the_hub_is_out_of_reach(hub, monkeypatch):
    """Without half a minute of trying; and what is not there is refused with the reason."""
    lines = "".join(json.dumps({"en": word, "de": word[::-1]}) + "\n" for word in WORDS)
    files = {f"{split}.jsonl": File(lines.encode(), False) for split in ("train", "validation")}
    hub.create("datasets/me/lines").add("Words", files)

    def read_lines(**changes):
        given = settings(**{"dataset": "me/lines", "config_name": None, **changes})
        return {split: data[:] for split, data in load_pairs(given, seed=0).splits.items()}

    with hub.client():
        expected = read_lines()
        asked = len(hub.requests)
        monkeypatch.setattr(hub_files, "out_of_reach", lambda: "no route to it")
        assert read_lines() == expected
        with pytest.raises(ValueError, match=r"'me/others' cannot be loaded .*; the Hub is out of reach: no route"):
            read_lines(dataset="me/others")
        assert not datasets.config.HF_HUB_OFFLINE  # as it was
    assert len(hub.requests) == asked


def settings(**changes) -> DataSettings:
    return DataSettings(**{"dataset": "me/pairs", "config_name": "plain", "source": "en", "target": "de", **changes})


def read(hub, token: str | None = None, **changes) -> dict[str, list[tuple[str, str]]]:
    """Every pair of every split."""
    with hub.client(token):
        found = load_pairs(settings(**changes), seed=0).splits
        return {split: [(pair["source"], pair["target"]) for pair in data] for split, data in found.items()}


@pytest.mark.usefixtures("repository")
class TestRead:
    def test_by_its_name(self, hub):
        found = read(hub)
        assert found["train"] == [(word, word[::-1]) for word in WORDS]
        assert found["validation"] == found["train"][:9]

    def test_configuration(self, hub):
        assert read(hub, config_name="loud")["train"][1] == ("ab", "BA")

    def test_split_and_slice(self, hub):
        found = read(hub, train_split="train[:10]", validation_split="train[10:14]")
        assert [source for source, _ in found["train"]] == WORDS[:10]
        assert [source for source, _ in found["validation"]] == WORDS[10:14]
        assert len(read(hub, train_split="train[:50%]+validation")["train"]) == 32 + 9

    def test_revisions(self, hub, repository):
        first = repository.history()[1].oid
        assert len(read(hub)["train"]) == 64
        for revision in ("v1", first):
            assert len(read(hub, revision=revision)["train"]) == 32
        with hub.client():
            told = [load_pairs(settings(revision=name), seed=0).provenance["revision"] for name in (None, "v1")]
        assert told[0] != told[1]

    def test_private(self, hub, repository):
        repository.private = True
        assert len(read(hub, hub.READ)["train"]) == 64
        for token in (None, hub.STRANGER):
            with pytest.raises(ValueError, match=r"'me/pairs' cannot be loaded.*private datasets need `hf auth login`"):
                read(hub, token)

    def test_streamed(self, hub):
        assert read(hub, streaming=True) == read(hub)
        assert len(read(hub, streaming=True, train_split="train[:10]")["train"]) == 10

    def test_mixed(self, hub, tmp_path):
        """With another configuration of it."""
        mixed = MixSettings(dataset="me/pairs", config_name="loud", source="en", target="de", weight=1.0)
        found = read(hub, mix=[mixed])
        assert {("ab", "ba"), ("ab", "BA")} <= set(found["train"])

    def test_a_way_that_is_cut_off(self, hub):
        for path, streaming in (("train.csv", False), ("train.csv", True), ("", False)):
            hub.fail("", path, 503, times=999)
            with pytest.raises(ValueError, match=r"me/pairs'? cannot be (loaded|read)"):
                read(hub, streaming=streaming)
            hub.heal()
        assert len(read(hub)["train"]) == 64


@pytest.mark.usefixtures("repository")
class TestWrong:
    """Each is one sentence, which says what."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dataset": "me/nothing"}, "'me/nothing' cannot be loaded .*check the name"),
            ({"dataset": "nobody/pairs"}, "'nobody/pairs' cannot be loaded"),
            ({"dataset": "a b/c?"}, "'a b/c\\?' cannot be loaded"),
            ({"config_name": "quiet"}, "cannot be loaded .*'quiet' not found. Available: .*plain"),
            ({"config_name": None}, "cannot be loaded .*Config name is missing.*plain"),
            ({"revision": "v9"}, "cannot be loaded .*v9"),
            ({"train_split": "training"}, "data.train_split is 'training', but there is no training; there is train"),
            ({"train_split": "train[:"}, "not a slice that can be taken"),
            ({"train_split": "train[100:]"}, "has no pairs"),
            ({"train_split": "train[:50%]", "streaming": True}, "not a slice that can be taken"),
            ({"source": "fr"}, "data.source is 'fr', but the columns of split 'train' of me/pairs are en, de"),
            ({"target": "en"}, "data.source and data.target are both 'en'"),
        ],
    )
    def test_settings(self, hub, changes, message):
        with pytest.raises(ValueError, match=message):
            read(hub, **changes)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("plain/train.csv", b"", "cannot be (loaded|read)|has no pairs"),
            ("plain/train.csv", b"en,de\n", "cannot be (loaded|read)|has no pairs"),
            ("plain/train.csv", b"\xff\xfe\x00", "me/pairs'? cannot be (loaded|read)"),
            ("plain/train.csv", b"en,de\na,b,c\n", "cannot be (loaded|read)"),
            ("README.md", b"---\nconfigs: 3\n---\n", "cannot be loaded"),
            ("README.md", CARD.replace("loud/train.csv", "loud/none.csv").encode(), "cannot be loaded"),
        ],
    )
    @pytest.mark.parametrize("streaming", [False, True])
    def test_files(self, hub, repository, name, content, message, streaming):
        repository.add("Spoilt", {**repository.commits[repository.head].tree, name: File(content, False)})
        with pytest.raises(ValueError, match=message):
            read(hub, streaming=streaming, config_name="loud" if "none.csv" in str(content) else "plain")


@pytest.mark.slow
@pytest.mark.usefixtures("repository", "fresh_accelerator")
def test_trained_from_it(hub, tmp_path, capsys):
    """By the commands."""
    config = configure(tmp_path, dict.fromkeys(("few", "validation", "test")), "rnn", data={
        "train_files": None, "validation_files": None, "test_files": None, "dataset": "me/pairs",
        "config_name": "plain", "revision": "v1", "source": "en", "target": "de", "train_split": "train[:20]",
    })  # fmt: skip
    with hub.client():
        assert main(["train", config, "--evaluation.split", "validation"]) == 0
        assert "20 of 20 pairs kept" in capsys.readouterr().out
        assert main(["evaluate", str(tmp_path / "run"), "--split", "validation", "--overwrite"]) == 0
        assert main(["train", config, "--output_dir", str(tmp_path / "new"), "--config_name", "quiet"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "data.config_name" in line
