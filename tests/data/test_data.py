"""Pairs come out the same from every place and form they can be in; what cannot be used says so in one sentence."""

import gzip
import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerFast

from seqloom.data.encoding import encode
from seqloom.data.pairs import check_scorable, check_unchanged, load_pairs
from seqloom.settings.schema import DataSettings

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS = [{"source": f"a{n} b", "target": f"c{n} d e"} for n in range(40)]
# What other readers take for the end of a line: a lone carriage return, U+0085, U+2028, a form feed; and for no value.
ODD = ["x\ry", "x\u0085y", "x\u2028y", "x\x0cy", "", " ", "NA", "null", "12", '"', 'a "b" c', "가 나", "ends in \r"]


def texts(write, sources, targets, names=("train.en", "train.de")) -> list[str]:
    sides = ("".join(f"{line}\n" for line in side) for side in (sources, targets))
    return [write(name, side) for name, side in zip(names, sides, strict=True)]


def table(write, name: str, rows: list[dict]) -> str:
    kind = name.removesuffix(".gz").rpartition(".")[2]
    if kind == "jsonl":
        return write(name, "".join(json.dumps(row) + "\n" for row in rows))
    if kind == "json":
        return write(name, json.dumps(rows))
    if kind == "parquet":
        write(name, "")
        Dataset.from_list(rows).to_parquet(name)
        return name
    if kind == "tsv":
        return write(name, "".join("\t".join(row) + "\n" for row in [rows[0].keys(), *(row.values() for row in rows)]))
    quoted = [",".join('"' + str(cell).replace('"', '""') + '"' for cell in row.values()) for row in rows]
    return write(name, "\n".join([",".join(rows[0]), *quoted, ""]))


def train_only(settings: DataSettings) -> list[dict]:
    """All pairs of the training split, which load_pairs parts into training and validation."""
    splits = load_pairs(settings, seed=0, splits=("train", "validation")).splits
    assert all(part.column_names == ["source", "target"] for part in splits.values())
    return sorted([*splits["train"], *splits["validation"]], key=lambda row: ROWS.index(row) if row in ROWS else 0)


def message(settings: DataSettings) -> str:
    """The one sentence with which loading fails."""
    with pytest.raises(ValueError, match=r".") as info:
        [list(split) for split in load_pairs(settings, seed=0).splits.values()]
    assert type(info.value) is ValueError
    assert info.value.__cause__ is None
    assert info.value.__suppress_context__ or info.value.__context__ is None
    assert "\n" not in str(info.value)
    return str(info.value)


STREAMING = pytest.mark.parametrize("streaming", [False, True])
TABLES = ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "tsv.gz", "json.gz", "jsonl.gz"]


@STREAMING
@pytest.mark.parametrize("names", [("a.en", "a.de"), ("train.en.gz", "train.de.gz"), ("plain", "plain.txt.gz")])
def test_text_files(write, names, streaming):
    paths = texts(write, [row["source"] for row in ROWS], [row["target"] for row in ROWS], names)
    settings = DataSettings(train_files=paths, streaming=streaming, validation_size=4)
    assert train_only(settings) == ROWS


@STREAMING
@pytest.mark.parametrize("kind", TABLES)
def test_tables(write, kind, streaming):
    paths = [table(write, f"{part}.{kind}", ROWS[part * 20 : part * 20 + 20]) for part in range(2)]
    settings = DataSettings(train_files=paths, streaming=streaming, validation_size=4)
    assert train_only(settings) == ROWS


def test_names_are_no_patterns(write):
    paths = [table(write, f"train[{part}].csv", ROWS[part * 20 : part * 20 + 20]) for part in range(2)]
    assert train_only(DataSettings(train_files=paths)) == ROWS


@STREAMING
def test_only_newlines_end_lines_of_text(write, streaming):
    paths = texts(write, ODD, [f"{n}\r" for n in range(len(ODD))])
    splits = load_pairs(DataSettings(train_files=paths, validation_files=paths, streaming=streaming), seed=0).splits
    expected = [{"source": text.removesuffix("\r"), "target": str(n)} for n, text in enumerate(ODD)]
    assert list(splits["train"]) == list(splits["validation"]) == expected


def test_text_may_begin_with_a_mark_and_end_without_newline(write):
    paths = [write("a.en", b"\xef\xbb\xbfone\r\ntwo"), write("a.de", "eins\nzwei\n")]
    splits = load_pairs(DataSettings(train_files=paths, validation_files=paths), seed=0).splits
    assert splits["train"][:] == {"source": ["one", "two"], "target": ["eins", "zwei"]}


@STREAMING
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_cells_are_texts_as_they_stand(write, kind, streaming):
    rows = [{"source": text, "target": f"0{n}"} for n, text in enumerate(ODD)]
    paths = [table(write, f"a.{kind}", rows)]
    splits = load_pairs(DataSettings(train_files=paths, validation_files=paths, streaming=streaming), seed=0).splits
    assert list(splits["train"]) == list(splits["validation"]) == rows


@STREAMING
def test_nested_columns(write, streaming):
    rows = [{"id": n, "translation": {"de": row["target"], "en": row["source"]}} for n, row in enumerate(ROWS)]
    settings = DataSettings(
        train_files=[table(write, "a.jsonl", rows)],
        source="translation.en",
        target="translation.de",
        streaming=streaming,
        validation_size=4,
    )
    assert train_only(settings) == ROWS
    said = message(replace(settings, source="translation.fr"))
    assert "translation.fr" in said
    assert "id, translation.de, translation.en" in said


@STREAMING
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_local_folder(write, kind, streaming):
    rows = [{"english": row["source"], "german": row["target"]} for row in ROWS]
    rows[0] = {"english": "NA", "german": "12"}
    table(write, f"corpus/train.{kind}", rows)
    table(write, f"corpus/test.{kind}", rows[:3])
    settings = DataSettings(dataset="corpus", source="english", target="german", streaming=streaming, validation_size=4)
    pairs = load_pairs(settings, seed=0)
    assert [*pairs.splits] == ["train", "validation", "test"]
    assert isinstance(pairs.splits["train"], IterableDataset if streaming else Dataset)
    assert pairs.splits["test"][0] == {"source": "NA", "target": "12"}
    assert {file["name"] for file in pairs.provenance["files"]} == {f"train.{kind}", f"test.{kind}"}


@STREAMING
def test_folder_of_save_to_disk(write, tmp_path, streaming):
    data = Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    DatasetDict({"dev": data}).save_to_disk(tmp_path / "many")
    for name, split in (("one", "train"), ("many", "dev")):
        settings = DataSettings(dataset=str(tmp_path / name), train_split=split, streaming=streaming, validation_size=4)
        assert train_only(settings) == ROWS


@STREAMING
def test_scan(streaming):
    settings = DataSettings(dataset="scan", streaming=streaming, train_split="train[:500]", validation_size=40)
    pairs = load_pairs(settings, seed=0)
    assert pairs.provenance["dataset"] == "scan"
    assert pairs.provenance["split"] == "simple"
    assert pairs.provenance["pairs"] == {"train": "streamed" if streaming else 460, "validation": 40, "test": 4182}
    assert len(list(pairs.splits["train"])) == 460


@STREAMING
def test_slices(write, streaming):
    for split in ("train", "validation", "test"):
        table(write, f"corpus/{split}.jsonl", [{**row, "split": split} for row in ROWS])
    settings = DataSettings(
        dataset="corpus",
        train_split="train[5:9]+test[:2]",
        validation_split="validation[38:]",
        test_split="test[39:]+validation[:1]",
        streaming=streaming,
    )
    splits = load_pairs(settings, seed=0).splits
    assert list(splits["train"]) == ROWS[5:9] + ROWS[:2]
    assert list(splits["validation"]) == ROWS[38:]
    assert list(splits["test"]) == [ROWS[39], ROWS[0]]
    relative = replace(settings, train_split="train[:10%]")
    if streaming:
        assert "write it as train[:1000]" in message(relative)
    else:
        assert list(load_pairs(relative, seed=0).splits["train"]) == ROWS[:4]
    assert "write it as train[:1000]" in message(replace(settings, train_split="train[5]"))
    assert "has no" in message(replace(settings, validation_split="validation[40:]"))
    files = DataSettings(train_files=["corpus/train.jsonl"], train_split="train[:30]", validation_size=3)
    assert load_pairs(files, seed=0).provenance["pairs"] == {"train": 27, "validation": 3}


def test_validation_is_cut_from_train(write):
    settings = DataSettings(train_files=[table(write, "a.jsonl", ROWS)])
    first, again, other = (load_pairs(settings, seed=seed).splits for seed in (1, 1, 2))
    for split in ("train", "validation"):
        assert first[split][:] == again[split][:]
        assert load_pairs(settings, seed=1, splits=[split]).splits[split][:] == first[split][:]
    assert first["validation"][:] != other["validation"][:]
    assert len(first["validation"]) == 4  # a tenth
    assert len(load_pairs(replace(settings, validation_size=3), seed=1).splits["validation"]) == 3
    both = concatenate_datasets([first["train"], first["validation"]])
    assert sorted(both["source"]) == sorted(row["source"] for row in ROWS)
    few = DataSettings(train_files=[table(write, "b.jsonl", ROWS[:9])])
    assert "9 training pairs are too few" in message(few)


def test_validation_of_a_stream_is_its_beginning(write):
    settings = DataSettings(train_files=[table(write, "a.jsonl", ROWS)], streaming=True, validation_size=4)
    splits = load_pairs(settings, seed=1).splits
    assert list(splits["validation"]) == ROWS[:4]
    assert isinstance(splits["validation"], Dataset)
    assert list(splits["train"]) == list(splits["train"]) == ROWS[4:]
    assert "ends within data.validation_size" in message(replace(settings, validation_size=40))


def test_splits_asked_for(write):
    files = {f"{split}_files": [table(write, f"{split}.jsonl", ROWS)] for split in ("train", "validation", "test")}
    settings = DataSettings(**files)
    assert [*load_pairs(settings, seed=0).splits] == ["train", "validation", "test"]
    assert [*load_pairs(replace(settings, train_files=["gone"]), seed=0, splits=["test"]).splits] == ["test"]
    assert [*load_pairs(replace(settings, test_files=None), seed=0, splits=["test"]).splits] == []
    table(write, "corpus/test.jsonl", ROWS)
    only_test = DataSettings(dataset="corpus")
    assert [*load_pairs(only_test, seed=0, splits=["test"]).splits] == ["test"]
    assert "there is no split 'train'" in message(only_test)
    mixed = replace(only_test, validation_files=files["validation_files"])
    assert [*load_pairs(mixed, seed=0, splits=["validation", "test"]).splits] == ["validation", "test"]


def test_missing_splits(write):
    for split in ("train", "validation"):
        table(write, f"corpus/{split}.jsonl", ROWS)
    settings = DataSettings(dataset="corpus", validation_split="dev")
    assert "'dev'" in message(settings)
    assert "there is train, validation" in message(settings)
    assert "no heldout" in message(replace(settings, validation_split="validation", test_split="heldout[:5]"))
    files = DataSettings(train_files=["corpus/train.jsonl"], test_split="heldout")
    assert "'heldout'" in message(files)


def test_provenance(write):
    paths = texts(write, ["a"] * 20, ["b"] * 20)
    provenance = load_pairs(DataSettings(train_files=paths), seed=7).provenance
    assert provenance["pairs"] == {"train": 18, "validation": 2}
    assert provenance["splits"]["validation"] == "2 pairs drawn from the training split with seed 7"
    assert provenance["splits"]["train"][0] == {
        "name": "train.en",
        "bytes": 40,
        "sha256": hashlib.sha256(b"a\n" * 20).hexdigest(),
    }
    streamed = load_pairs(DataSettings(train_files=paths, streaming=True, validation_size=1), seed=7).provenance
    assert streamed["pairs"] == {"train": "streamed", "validation": 1}
    json.dumps([provenance, streamed])


def test_changed_files_are_read_again(write):
    for target in ("one", "two"):
        paths = texts(write, ["a"] * 20, [target] * 20)
        assert set(load_pairs(DataSettings(train_files=paths), seed=0).splits["train"]["target"]) == {target}


@STREAMING
def test_sides_of_unequal_length(write, streaming):
    settings = DataSettings(train_files=texts(write, "abcdefghijklm", "abcdefghijk"), streaming=streaming)
    settings = replace(settings, validation_size=3)
    assert "train.de has 11 lines and train.en has 13" in message(settings)
    settings = replace(settings, train_files=settings.train_files[::-1])
    assert "train.de has 11 lines and train.en has 13" in message(settings)


@STREAMING
def test_bytes_that_are_no_text(write, streaming):
    target = write("b", "x\n" * 30)
    settings = DataSettings(streaming=streaming, validation_size=3)
    for name in ("a", "a.gz"):
        source = write(name, b"x\n" * 20 + b"caf\xe9\n" + b"x\n" * 9)
        said = message(replace(settings, train_files=[source, target]))
        assert f"{name}, line 21: byte 4 (0xe9) is not UTF-8" in said
    wide = write("wide", "x\n".encode("utf-16-le") * 30)  # ASCII without a byte order mark is UTF-8 too, but for this
    said = message(replace(settings, train_files=[wide, target]))
    assert "wide, line 1: byte 0 is in no text of UTF-8; convert it (from UTF-16?) or repair the line." in said


def test_bytes_of_tables_that_are_no_text(write):
    for kind, text in {"csv": "source,target\nx,y\ncafé,y\n", "jsonl": '{}\n{}\n{"source": "café"}\n'}.items():
        settings = DataSettings(train_files=[write(f"a.{kind}", text.encode("latin-1"))])
        assert f"a.{kind}, line 3: byte" in message(settings)
        assert f"a.{kind}, line 3: byte" in message(replace(settings, streaming=True))


@STREAMING
def test_files_that_cannot_be_used(write, streaming):
    good = texts(write, "abc", "abc")
    settings = DataSettings(streaming=streaming, train_files=good)

    def said(*paths: str) -> str:
        return message(replace(settings, train_files=list(paths)))

    assert "there is no file gone.en" in said("gone.en", good[1])
    assert "empty.en of data.train_files is empty" in said(write("empty.en", ""), good[1])
    assert "have no lines" in said(write("a.gz", ""), write("b.gz", ""))
    assert "not compressed with gzip" in said(write("plain.gz", "text\n", compress=False), good[1])
    cut = write("cut.gz", gzip.compress(b"text\n" * 100)[:-12], compress=False)
    assert "cut.gz is damaged after line" in said(cut, write("long.de", "text\n" * 100))
    assert "two line-aligned text files" in said(good[0])
    assert "two line-aligned text files" in said(good[0], table(write, "a.csv", ROWS))
    assert "tables of one kind" in said("a.csv", table(write, "a.tsv", ROWS))
    assert "cannot be read as json" in said(write("bad.json", '[{"source": '))
    assert "cannot be read as parquet" in said(write("bad.parquet", "PAR1"))
    assert any(words in said(write("header.csv", "source,target\n")) for words in ("no pairs", "no data"))


@STREAMING
def test_columns_that_cannot_be_used(write, streaming):
    rows = [{"english": "a", "german": "b", "id": 1, "words": ["a"]}]
    settings = DataSettings(train_files=[table(write, "a.jsonl", rows)], target="german", streaming=streaming)
    said = message(settings)
    assert "data.source is 'source'" in said
    assert "english, german, id, words" in said
    assert "holds int64 instead of text" in message(replace(settings, source="id"))
    assert "holds List instead of text" in message(replace(settings, source="words"))
    assert "must be two columns" in message(replace(settings, source="german"))


def test_dataset_that_cannot_be_loaded(write, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", "./nothing"):
        said = message(DataSettings(dataset=name))
        assert repr(name) in said
        assert "data.train_files" in said
    table(write, "corpus/train.jsonl", ROWS)
    assert "'fr'" in message(DataSettings(dataset="corpus", config_name="fr"))


PAIRS = [("a b", "c"), ("", "c"), ("a b c", "c"), (" \t", "c"), ("a", None), ("a", "b c a"), ("b", "b c"), (None, "a")]


def encoding_settings(**changes) -> DataSettings:
    return DataSettings(**{"train_files": ["a", "b"], "max_source_length": 2, "max_target_length": 2, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [None, 2])
def test_encode_drops_and_counts(tokenizer, num_proc):
    pairs = Dataset.from_dict({"source": [s for s, _ in PAIRS], "target": [t for _, t in PAIRS]})
    encoded, report = encode(pairs, tokenizer, encoding_settings(num_proc=num_proc))
    assert encoded[:] == {"input_ids": [[1, 2], [2]], "labels": [[3], [2, 3]]}
    assert (report.kept, report.empty, report.too_long) == (2, 4, 2)
    assert str(report) == "2 of 8 pairs kept; dropped 4 with an empty side and 2 that are too long"
    unlimited = encoding_settings(max_source_length=None, max_target_length=None)
    assert encode(pairs, tokenizer, unlimited)[1].kept == 4


def test_encode_streams_and_counts_as_it_goes(tokenizer):
    pairs = Dataset.from_dict({"source": [s for s, _ in PAIRS], "target": [t for _, t in PAIRS]}).to_iterable_dataset()
    encoded, report = encode(pairs, tokenizer, encoding_settings())
    assert (report.kept, report.empty, report.too_long) == (0, 0, 0)
    assert list(encoded) == [{"input_ids": [1, 2], "labels": [3]}, {"input_ids": [2], "labels": [2, 3]}]
    assert (report.kept, report.empty, report.too_long) == (2, 4, 2)
    shuffled = encoded.shuffle(seed=0, buffer_size=4)
    shuffled.set_epoch(1)
    assert len(list(shuffled)) == 2
    assert (report.kept, report.empty, report.too_long) == (4, 8, 4)


def test_evaluation_keeps_every_pair(tokenizer):
    pairs = Dataset.from_dict({"source": ["a b c", "", "a"], "target": ["", "b", "a b c"]})
    encoded, report = encode(pairs, tokenizer, encoding_settings(), drop=False)
    assert encoded["input_ids"][:] == [[1, 2, 3], [], [1]]
    assert str(report).startswith("3 of 3 pairs kept")
    broken = Dataset.from_dict({"source": ["a", "b", None], "target": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="pair 3 has no source"):
        encode(broken, tokenizer, encoding_settings(), drop=False)


def test_a_split_without_a_reference_is_not_scored():
    for targets in ([""], ["", " \t"], [None, ""]):
        with pytest.raises(ValueError, match="every target of the test split is empty"):
            check_scorable(Dataset.from_dict({"source": ["a"] * len(targets), "target": targets}), "test")
    check_scorable(Dataset.from_dict({"source": ["a", "b"], "target": ["", "c"]}), "test")


def test_nothing_left(tokenizer):
    for source in ("", "a b c"):
        with pytest.raises(ValueError, match=r"0 of 5 pairs kept.*max_source_length"):
            encode(Dataset.from_dict({"source": [source] * 5, "target": ["b"] * 5}), tokenizer, encoding_settings())


@pytest.mark.slow
def test_encoding_is_cached_across_processes(write, tokenizer, tmp_path):
    """The same files, tokenizer and limits are tokenized once; other limits or files again."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    names = ("train.en", "train.de")

    def cached(limit: int) -> str:
        settings = encoding_settings(train_files=names, max_source_length=limit)
        train = load_pairs(settings, seed=0).splits["train"]
        loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
        return encode(train, loaded, settings)[0].cache_files[0]["filename"]

    texts(write, ["a b"] * 20, ["c"] * 20, names)
    first = cached(8)
    program = (
        f"import datasets; datasets.config.HF_DATASETS_CACHE = {str(datasets.config.HF_DATASETS_CACHE)!r}\n"
        "from transformers import PreTrainedTokenizerFast\nfrom seqloom.data.encoding import encode\n"
        "from seqloom.data.pairs import load_pairs\n"
        "from seqloom.settings.schema import DataSettings\n"
        f"settings = DataSettings(train_files={names}, max_source_length=8, max_target_length=2)\n"
        f"loaded = PreTrainedTokenizerFast.from_pretrained({str(tmp_path / 'tokenizer')!r})\n"
        "train = load_pairs(settings, seed=0).splits['train']\n"
        "print(encode(train, loaded, settings)[0].cache_files[0]['filename'])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == first == cached(8) != cached(9)
    texts(write, ["a a"] * 20, ["c"] * 20, names)
    assert cached(8) != first


@pytest.mark.parametrize("before", [{}, {"splits": 1}, {"splits": {"train": [1, {}, {"name": []}]}}])
def test_a_record_of_the_data_that_is_none_is_of_others(before):
    with pytest.raises(ValueError, match=r"changed since the run began"):
        check_unchanged(before, {"splits": {"train": [{"name": "a.csv"}]}})
