"""A table's two columns are the texts that stand in it, in every kind; where they are not, a sentence says the line."""

import gzip
import json
import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from seqloom.data import lines
from seqloom.data.encoding import encode
from seqloom.data.pairs import load_pairs
from seqloom.data.tables import first_gap, read_table
from seqloom.settings.schema import DataSettings, MixSettings

pytestmark = pytest.mark.usefixtures("own_cache")

STREAMING = pytest.mark.parametrize("streaming", [False, True])
ROWS = [{"source": f"the {n}th of May", "target": f"2020-05-{n:02}"} for n in range(4, 24)]


def table(kind: str, rows: list[dict], **further) -> bytes:
    """The rows, of texts without separators, in a kind of table; each with further columns."""
    rows = [{**row, **further} for row in rows]
    if kind == "json":
        return json.dumps(rows, indent=1).encode()
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    separator = "\t" if kind == "tsv" else ","
    return "".join(separator.join(map(str, cells)) + "\n" for cells in [rows[0], *(r.values() for r in rows)]).encode()


def pairs_of(path: str, **columns) -> list[tuple[str | None, str | None]]:
    return [
        (row["source"], row["target"])
        for _, row in read_table(path, **{"source": "source", "target": "target", **columns})
    ]


SIDES = ("source", "target")


def refusal(path: str, **columns) -> str:
    with pytest.raises(ValueError, match=r".") as info:
        pairs_of(path, **columns)
    assert type(info.value) is ValueError
    assert "\n" not in str(info.value)
    return str(info.value)


class TestCells:
    """csv and tsv"""

    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz"])
    def test_a_cell_more_than_the_header_is_refused(self, write, name):
        """Instead of taking the first column for the names of the rows, and the second for the source."""
        separator = "\t" if "tsv" in name else ","
        for first, further in (("", ""), ("x,y\n", ",CC-BY")):
            text = f"source,target\n{first}hello,hallo,{further}\ncat,Katze,{further}\n"
            said = refusal(write(name, text.replace(",", separator)))
            line, cells = (3 if first else 2), 3 + further.count(",")
            assert f"{name}, line {line} has {cells} cells, but the header names 2 columns" in said

    def test_a_comma_in_the_first_row_alone(self, write):
        rows = "hello,hallo\n" * 19
        assert "line 2 has 3 cells" in refusal(write("a.csv", f"source,target\nYes, indeed,Ja\n{rows}"))
        assert pairs_of(write("a.csv", f'source,target\n"Yes, indeed",Ja\n{rows}'))[0] == ("Yes, indeed", "Ja")

    def test_what_the_header_names_may_be_empty(self, write):
        assert pairs_of(write("a.csv", "source,target,\nhello,hallo,\n")) == [("hello", "hallo")]

    def test_a_carriage_return_is_text_unless_a_newline_follows(self, write):
        text = 'id,source,target\r\n1,x\ry,z\r\r\n2,"x\r\ny","\r"\r\n3,a "b" c,"""\r"""\r\n4,c,d\r'
        expected = [("x\ry", "z\r"), ("x\r\ny", "\r"), ('a "b" c', '"\r"'), ("c", "d")]
        assert pairs_of(write("a.csv", text)) == expected
        assert pairs_of(write("a.tsv", 'source\ttarget\r\nx\ry\tz\r\r\n"\tb\n')) == [("x\ry", "z\r"), ('"', "b")]

    def test_cells_are_what_is_written(self, write):
        cells = ["2020-05-04", "007", "1.50", "1e5", "NA", "null", "", " x ", "True", "가"]
        for separator, name in ((",", "a.csv"), ("\t", "a.tsv")):
            text = "".join(f"{cell}{separator}{cell}\n" for cell in ["source", *cells]).replace("source", "target", 2)
            text = text.replace("target", "source", 1)
            assert pairs_of(write(name, text)) == [(cell, cell) for cell in cells]

    def test_lines_are_counted_by_newlines(self, write):
        text = 'source,target\n"a\nb",c\n\n \n"d\n\ne",f\ng\n'
        assert [number for number, _ in read_table(write("a.csv", text), *SIDES)] == [2, 6, 9]
        assert first_gap("a.csv", *SIDES) == "a.csv, line 9 has no target"

    def test_a_quote_that_is_never_closed(self, write):
        said = refusal(write("a.csv", 'source,target\na,b\nc,"d\ne,f\n'))
        assert "a.csv, line 3: a double quote opens a cell that no other one closes" in said

    @pytest.mark.parametrize("row", ['"c,d\nx,"y" z\n', '"c" d,e\n', 'c,"d"e\n'])
    def test_a_cell_that_goes_on_behind_its_quote(self, write, row):
        """Whose rows would else be swallowed, or its quotes."""
        said = refusal(write("a.csv", f"source,target\na,b\n{row}"))
        assert "a.csv, line 3: a cell goes on behind its closing quote" in said
        assert pairs_of(write("a.csv", 'source,target\n"a ""b"" c",d"e"\n')) == [('a "b" c', 'd"e"')]

    def test_the_same_name_twice(self, write):
        assert "2 columns 'source'" in refusal(write("a.csv", "source,target,source\na,b,c\n"))
        assert pairs_of(write("a.csv", "source,target,note,note\na,b,c,d\n")) == [("a", "b")]

    def test_a_header_of_another_table(self, write):
        assert "data.source is 'source', but the columns of a.csv are english, german" in refusal(
            write("a.csv", "english,german\na,b\n")
        )
        assert pairs_of("a.csv", source="german", target="english") == [("b", "a")]

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("a.csv", "source;target\na;b\n", "parted by ';', and those of a .csv are by commas; write them so."),
            ("a.csv", "source\ttarget\na\tb\n", r"parted by '\t', and those of a .csv are by commas"),
            ("a.csv", '"source"|"target"\na|b\n', "parted by '|', and those of a .csv are by commas"),
            ("a.tsv", "source,target\na,b\n", "parted by ',', and those of a .tsv are by tabs; write them so."),
            (
                "a.csv",
                "one,eins\ntwo,zwei\n",
                "are one, eins, by its first line; if that is a pair already, put a line",
            ),
            ("a.csv", "sources;targets\na;b\n", "are sources;targets, by its first line"),
        ],
    )
    def test_why_a_column_is_not_named(self, write, name, text, said):
        assert said in refusal(write(name, text))


class TestJson:
    @pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
    @pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
    def test_lists_lines_and_objects_over_lines(self, write, monkeypatch, name, chunk):
        """However they are cut into what is read at a time."""
        rows = [{"n": 1.5, "source": '가 😀 "]', "target": "}"}, {"source": "a\r", "target": "", "n": []}]
        read = lines.open_bytes

        class Slow:
            def __init__(self, path):
                self.file = read(path)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.file.close()

            def read(self, _):
                return self.file.read(chunk)

        monkeypatch.setattr(lines, "open_bytes", Slow)
        for text in (
            json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False), "\n\n".join(map(json.dumps, rows)),
            "\n".join(json.dumps(row, indent=1) for row in rows) + "\r\n", "\ufeff " + json.dumps(rows),
        ):  # fmt: skip
            assert pairs_of(write(name, text)) == [('가 😀 "]', "}"), ("a\r", "")]

    def test_dates_and_numbers_in_quotes_are_text(self, write):
        rows = [{"source": "2020-05-04", "target": "2020-05-04T10:00:00"}, {"source": "12", "target": "1.50"}]
        assert pairs_of(write("a.jsonl", table("jsonl", rows))) == [tuple(row.values()) for row in rows]

    def test_what_is_no_text(self, write):
        for value, kind in ((12, "int64"), (1.5, "float64"), (True, "bool"), (["a"], "List"), ({"a": 1}, "Struct")):
            rows = [{"source": "a", "target": "b"}, {"source": "a", "target": value}]
            said = refusal(write("a.jsonl", table("jsonl", rows)))
            assert f"a.jsonl, line 2: data.target is 'target', but that column holds {kind} instead of text" in said
        assert "line 1: data.source has half a character" in refusal(
            write("a.jsonl", '{"source": "\\ud83d", "target": ""}')
        )

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ('[{"source": ', 1), ('[{"source": "a",\n "target": "b"}\n {"source": "a"}]', 3), ('[{},\n]', 2),
            ('[{"source": "a", "target": "b"}', 1), ('[{"source": "a", "target": "b"}]\nx', 2),
            ('{"source": "a", "target": "b}\n{"source": "a", "target": "b"}\n', 1), ('{"a": "a",\n"b" "b"}', 2),
            ('{"source": "a", "target": "b"},\n{"source": "a"}\n', 1), ('{"source": "a", "target": "b"}\n3', 2),
            ('{"source": "a", "target": ' + "[" * 100_000, 1),
        ],
    )  # fmt: skip
    def test_what_is_no_json(self, write, text, line):
        assert f"a.json, line {line}: cannot be read as json" in refusal(write("a.json", text))

    def test_a_broken_line_is_found_before_the_rest_is_read(self, write):
        text = '{"source": "a", "target": "b"\n' + '{"source": "a", "target": "b"}\n' * 100 + "\xff"
        assert "a.jsonl, line 2: cannot be read as json" in refusal(write("a.jsonl", text.encode("latin-1")[:-1]))

    def test_a_column_that_only_some_rows_have(self, write):
        rows = [{"source": "a"}] * 3 + [{"source": "a", "target": None}, {"target": "b", "source": "c"}]
        path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        assert pairs_of(path) == [("a", None)] * 4 + [("c", "b")]
        assert first_gap(path, *SIDES) == "a.jsonl, line 1 has no target"
        said = refusal(write("a.jsonl", '{"source": "a", "a": {"b": 1}}\n{"c": 1, "a": {}}\n'))
        assert "data.target is 'target', but the columns of a.jsonl are source, a.b, c, a" in said

    def test_nested(self, write):
        rows = [{"translation": {"en": "a", "de": "b"}}, {"translation": None}, {"translation": {"en": "c"}}]
        path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        found = pairs_of(path, source="translation.en", target="translation.de")
        assert found == [("a", "b"), (None, None), ("c", None)]
        assert "holds Struct instead" in refusal(path, source="translation", target="translation.de")


class TestParquet:
    @pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
    def test_columns(self, write, name):
        rows = [{"id": n, "pair": {"en": f"a{n}", "de": None if n == 1500 else "2020-05-04"}} for n in range(2500)]
        path = write(name, table("parquet", rows))
        assert pairs_of(path, source="pair.en", target="pair.de") == [tuple(row["pair"].values()) for row in rows]
        assert first_gap(path, "pair.en", "pair.de") == f"{name}, row 1501 has no target"
        assert "the columns of" in refusal(path)
        assert "holds int64 instead of text" in refusal(path, source="id", target="pair.de")

    def test_kinds_of_text(self, write):
        text = pa.array(["a", None, "b"])
        columns = {"source": text.dictionary_encode(), "target": text.cast(pa.large_string()), "n": [[1], [], None]}
        pq.write_table(pa.table(columns), write("a.parquet", ""))
        assert pairs_of("a.parquet") == [("a", "a"), (None, None), ("b", "b")]
        pq.write_table(pa.table(columns | {"target": text.cast(pa.string_view())}), "a.parquet")
        assert pairs_of("a.parquet") == [("a", "a"), (None, None), ("b", "b")]

    def test_the_same_name_twice(self, write):
        text = pa.array(["a"])
        table = pa.Table.from_arrays([text, text, text], names=["source", "target", "target"])
        pq.write_table(table, write("a.parquet", ""))
        assert "a.parquet has several columns 'target'" in refusal("a.parquet")

    def test_damage(self, write):
        content = table("parquet", ROWS)
        for broken in (content[:-20], b"PAR1", content[:30] + bytes(30) + content[60:]):
            assert "a.parquet cannot be read as parquet" in refusal(write("a.parquet", broken))


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_text_that_no_sentence_has(write, monkeypatch, kind):
    monkeypatch.setattr(lines, "LONGEST_TEXT", 100)
    rows = [{"source": "a" * 100, "target": "b"}, {"source": "b", "target": "c" * 101}]
    said = refusal(write(f"a.{kind}", table(kind, rows)))
    assert "has a text of 101 characters; at most 100 are allowed" in said
    texts = [write("a.en", "a\nb\n"), write("a.de", "a\n" + "b" * 101)]
    with pytest.raises(ValueError, match=r"^a.de, line 2 has a text of 101 characters"):
        load_pairs(DataSettings(train_files=texts), 0)


def load(streaming: bool = False, **fields) -> dict:
    settings = DataSettings(**{"streaming": streaming, "validation_size": 2, **fields})
    return {split: list(pairs) for split, pairs in load_pairs(settings, 0).splits.items()}


@STREAMING
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_other_columns_do_not_matter(write, kind, streaming):
    """Nor that they are others in another file."""
    plain = kind.removesuffix(".gz")
    first = write(f"a.{kind}", table(plain, ROWS[:9], note="x"))
    second = write(f"b.{kind}", table(plain, ROWS[9:], id=1, note=2))
    assert load(streaming, train_files=[first, second], validation_files=[first]) == {
        "train": ROWS, "validation": ROWS[:9],
    }  # fmt: skip


@STREAMING
def test_a_folder_is_read_with_the_same_care(write, streaming):
    write("corpus/train.jsonl", table("jsonl", ROWS, note=1))
    write("corpus/test.jsonl", table("jsonl", ROWS[:3], note="x"))
    found = load(streaming, dataset="corpus", validation_split="train[:4]")
    assert found == {"train": ROWS, "validation": ROWS[:4], "test": ROWS[:3]}
    write("shifted/train.csv", "source,target\nhello,hallo,\n" * 9)
    with pytest.raises(ValueError, match=r"shifted/train.csv, line 2 has 3 cells"):
        load(streaming, dataset="shifted")


@STREAMING
def test_a_split_that_nobody_asks_for_is_not_read(write, streaming):
    write("corpus/train.csv", "source,target\n" + "a,b\n" * 20)
    write("corpus/test.csv", "source\na\n")
    settings = DataSettings(dataset="corpus", streaming=streaming, validation_size=2)
    assert load_pairs(settings, 0, ("train", "validation")).splits["validation"][:] == {
        "source": ["a", "a"], "target": ["b", "b"],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"test.csv are source"):
        load_pairs(settings, 0, ("test",))


def test_a_folder_with_settings_of_its_own(write):
    write("corpus/README.md", "---\nconfigs:\n- config_name: x\n  data_files: some.csv\n  sep: ;\n---\n")
    write("corpus/some.csv", "source;target\n" + "x\ry;2020-05-04\n" * 20)
    assert load(dataset="corpus")["train"] == [{"source": "x\ry", "target": "2020-05-04"}] * 18
    write("corpus/README.md", "---\nconfigs:\n- config_name: x\n  data_files: some.csv\n  skiprows: [1, 2]\n---\n")
    seen = []
    for word in ("old", "new"):
        write("corpus/some.csv", "source,target\nskip\nskip\n" + f"{word},x\n" * 20)
        os.utime("corpus/some.csv", (1e9, 1e9))
        seen.append(load(dataset="corpus")["train"][0]["source"])
    assert seen == ["old", "new"]


@STREAMING
def test_tables_that_pandas_reads(write, streaming):
    """Those of the Hub, and of folders whose settings ask for more than we read."""
    write("corpus/README.md", "---\nconfigs:\n- config_name: x\n  data_files: some.csv\n  skiprows: [1]\n---\n")
    write("corpus/some.csv", "source,target\nskip\n" + "hello,hallo\n" * 20)
    assert load(streaming, dataset="corpus")["train"] == [{"source": "hello", "target": "hallo"}] * 18
    for further in ("", "CC-BY"):
        write("corpus/some.csv", "source,target\nskip\n" + f"hello,hallo,{further}\n" * 20)
        with pytest.raises(ValueError, match="Length of header or names does not match length of data"):
            load(streaming, dataset="corpus")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl.gz", "a.parquet", "corpus/train.csv"])
def test_another_content_is_read_anew_whatever_its_date(write, name):
    seen, caches = [], []
    for word in ("old", "new", "new"):
        kind = name.removesuffix(".gz").rpartition(".")[2]
        content = table(kind, [{"source": word, "target": "x"}] * 20)
        write(name, gzip.compress(content, mtime=0) if name.endswith("gz") else content, compress=False)
        os.utime(name, (1e9, 1e9))
        place = {"dataset": "corpus"} if "/" in name else {"train_files": [name]}
        train = load_pairs(DataSettings(**place), 0, ("train",)).splits["train"]
        seen.append(train[0]["source"])
        caches.append(train.cache_files[0]["filename"])
    assert seen == ["old", "new", "new"]
    assert caches[0] != caches[1] == caches[2]


SHORT = {
    "csv": "source,target\na b,c\n" + "a b\n" + "a,b\n" * 18,
    "tsv": "source\ttarget\na b\tc\n" + "a b\n" + "a\tb\n" * 18,
    "jsonl": '{"source": "a b", "target": "c"}\n{"source": "a b"}\n' + '{"source": "a", "target": "b"}\n' * 18,
}


class TestMissingCells:
    @STREAMING
    @pytest.mark.parametrize("kind", [*SHORT])
    def test_refused_where_it_would_be_scored(self, write, kind, streaming):
        path = write(f"a.{kind}", SHORT[kind])
        line = 2 if kind == "jsonl" else 3
        write(f"corpus/train.{kind}", SHORT[kind])
        write(f"corpus/test.{kind}", SHORT[kind])
        for fields in (
            {"train_files": [path], "test_files": [path]}, {"train_files": [path], "validation_files": [path]},
            {"dataset": "corpus"},
        ):  # fmt: skip
            with pytest.raises(ValueError, match=rf"{kind}, line {line} has no target: .* write the missing one"):
                load(streaming, **fields)
        sliced = {"train_files": [path], "test_files": [path], "test_split": "test[1:9]"}
        with pytest.raises(ValueError, match=r"data.test_files: pair 1 has no target"):
            load(streaming, **sliced)
        assert len(load(streaming, **{**sliced, "test_split": "test[2:9]"})["test"]) == 7

    @pytest.mark.parametrize("kind", [*SHORT])
    def test_counted_in_training(self, write, kind, tokenizer):
        """And never among what is cut for validation."""
        settings = DataSettings(train_files=[write(f"a.{kind}", SHORT[kind])])
        for seed in range(12):
            splits = load_pairs(settings, seed).splits
            _, report = encode(splits["train"], tokenizer, settings)
            assert (report.kept, report.empty) == (19 - len(splits["validation"]), 1)
            assert None not in splits["validation"]["target"][:]
        stream = load_pairs(replace(settings, streaming=True, validation_size=3), 0).splits
        assert stream["validation"]["source"][:] == ["a b", "a"]

    def test_mixed(self, write):
        rest = MixSettings(weight=1, train_files=[write("b.tsv", SHORT["tsv"])])
        settings = DataSettings(train_files=[write("a.jsonl", SHORT["jsonl"])], mix=[rest], weight=1)
        assert {None, "c"} <= {row["target"] for row in load_pairs(settings, 0).splits["train"]}
        write("b.tsv", "source\ttarget\na\tb\tc\n")
        with pytest.raises(ValueError, match=r"data.mix\[0\]: b.tsv, line 2 has 3 cells"):
            load_pairs(settings, 0)


@STREAMING
def test_the_files_of_a_stream_are_its_shards(write, streaming):
    files = [write(f"{n}.csv", table("csv", ROWS[n * 5 : n * 5 + 5])) for n in range(4)]
    train = load_pairs(DataSettings(train_files=files, validation_files=files, streaming=streaming), 0).splits["train"]
    assert list(train) == ROWS
    assert isinstance(train, Dataset) or train.num_shards == 4


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz"])
def test_a_line_without_an_end_is_not_read_to_it(write, monkeypatch, name):
    monkeypatch.setattr(lines, "LONGEST_TEXT", 100)
    comma = b"\t" if "tsv" in name else b","
    start = b'{"source": "a", "target": "' if "json" in name else b"source" + comma + b"target\n"
    content = start + b"x" * 3_000_000
    said = refusal(write(name, content))
    assert f"{name}, line {1 if 'json' in name else 2}" in said
    assert "is longer than 1,600 bytes; a text may have 100 characters" in said
