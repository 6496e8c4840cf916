"""`seqloom translate`: a line out for every line in."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
from helpers.exports import exported, lively
from helpers.letters import alone, make_tokenizer, texts
from helpers.tiny import tiny

from seqloom import translate
from seqloom.__main__ import main
from seqloom.commands.translate import lines_of, one_line
from seqloom.data import lines as text_lines
from seqloom.data.lines import lines as file_lines


def piped(data: bytes, encoding="utf-8"):
    return io.TextIOWrapper(io.BytesIO(data), encoding=encoding)


class TestLines:
    """What is read is what training reads of a file; what is written has one line for one output."""

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_read_as_training_reads(self, tmp_path, encoding, mark, end):
        lines = ["가나", "", "a\rb", "c\u2028d\x85", "\ufeffe", " f "]
        data = mark + end.join(line.encode() for line in lines)
        assert [*lines_of(piped(data, encoding))] == [*lines_of(piped(data + end, encoding))] == lines
        (tmp_path / "lines").write_bytes(data)
        assert [*file_lines(str(tmp_path / "lines"))] == lines

    def test_text_in_the_place_of_a_stream(self):
        assert [*lines_of(io.StringIO("\ufeffa\r\nb\n"))] == ["a", "b"]

    def test_says_which_line_is_not_utf8(self):
        with pytest.raises(ValueError, match=r"the input, line 2: byte 3 \(0xff\) is not UTF-8"):
            [*lines_of(piped(b"a\nbc\xff\n"))]
        with pytest.raises(ValueError, match="the input, line 1: byte 0 is in no text of UTF-8"):
            [*lines_of(piped("ab\n".encode("utf-16-le")))]

    def test_one_line(self):
        assert one_line("a\nb\r\nc\rd\n") == "a b c d "
        assert one_line(" a\u2028b\x85\t") == " a\u2028b\x85\t"


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path):
        model = tiny("lstm-luong")
        model.generation_config.max_new_tokens = 8
        model.save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        return tmp_path

    def test_lines(self, folder, monkeypatch, capsys):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{text}\n" for text in texts(5))))
        assert main(["translate", str(folder), "--num_beams", "2"]) == 0
        expected = [alone(tiny("lstm-luong"), make_tokenizer(), text, num_beams=2)[0] for text in texts(5)]
        assert capsys.readouterr().out.split("\n") == [*expected, ""]

    def test_several_outputs_with_scores(self, folder, monkeypatch, capsys):
        """In groups, as a table and as JSON; the same outputs and scores each time."""
        sources, given = ["abc", "fe", "de"], {"num_beams": 4, "num_return_sequences": 3}
        how = {"return_hypotheses": True, "max_new_tokens": 8, **given}
        expected = translate(tiny("lstm-luong"), make_tokenizer(), sources, **how)

        def said(*words):
            monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{text}\n" for text in sources)))
            assert main(["translate", str(folder), "--num_beams", "4", *words]) == 0
            return capsys.readouterr().out

        group = said("--num_return_sequences", "3")
        assert group == "".join(
            f"{source}\n" + "".join(f"{one.score:9.3f}  {one.text}\n" for one in found) + "\n"
            for source, found in zip(sources, expected, strict=True)
        )
        assert said("--generate_kwargs", "{num_return_sequences: 3}") == group
        header, *rows = said("--num_return_sequences=3", "--tsv").splitlines()
        assert header.split("\t") == ["line", "rank", "score", "source", "output"]
        assert [row.split("\t") for row in rows] == [
            [str(line), str(rank), f"{one.score:.4f}", source, one.text]
            for line, (source, found) in enumerate(zip(sources, expected, strict=True), start=1)
            for rank, one in enumerate(found, start=1)
        ]
        lines = [json.loads(line) for line in said("--num_return_sequences", "3", "--json").splitlines()]
        assert [line["source"] for line in lines] == sources
        assert [[one["text"] for one in line["outputs"]] for line in lines] == [[h.text for h in f] for f in expected]
        assert lines[0]["outputs"][1]["tokens"] == len(expected[0][1].target_tokens)
        (alone,) = json.loads(said("--json").splitlines()[2])["outputs"]
        assert alone == lines[2]["outputs"][0]
        for words, message in (
            (["--num_return_sequences", "5"], "with 4 beams has no more outputs than that: give --num_beams 5 or more"),
            (["--tsv", "--json"], "two forms of the same"),
            (
                ["--num_return_sequences", "2", "--generate_kwargs", "{num_return_sequences: 2}"],
                "leave one of them out",
            ),
        ):
            assert main(["translate", str(folder), "--num_beams", "4", *words]) == 1
            assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "empty"),
        [
            ([], ""),
            (["--tsv"], "1\t0.0000\t{source}\t"),
            (["--json"], '{{"source": "{source}", "outputs": [{{"text": "", "score": 0.0, "tokens": 0}}]}}'),
            (["--num_beams", "2", "--num_return_sequences", "2"], "{source}\n    0.000  \n"),
            pytest.param(["--num_jobs", "2"], "", marks=pytest.mark.long),
            (["--target_prefix", "a"], ""),
        ],
    )
    def test_nothing_gives_nothing(self, folder, monkeypatch, capsys, words, empty):
        """Not what a model makes up; the other lines are as each is alone."""

        def said(*lines):
            monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
            assert main(["translate", str(folder), *words]) == 0
            out = capsys.readouterr().out.removeprefix("line\trank\tscore\tsource\toutput\n")
            return re.sub(r"^\d+\t", "", out, flags=re.MULTILINE)  # the number of the line

        lines = ["", "abc", "", "  ", "de", " "]
        alone = [said(line) if line.strip() else f"{empty.format(source=line)}\n" for line in lines]
        assert said(*lines) == "".join(alone)

    def test_says_what_is_not_to_be_relied_on(self, folder, monkeypatch, capsys):
        monkeypatch.setattr(sys, "stdin", io.StringIO("abc\n" * 3 + "ab漢字\n\n"))
        assert main(["translate", str(folder), "--max_new_tokens", "1"]) == 0
        told = capsys.readouterr().err.splitlines()
        assert told == [
            "warning: 1 of 5 lines had words that the model does not know, so their outputs say nothing of these: "
            "line 4 '漢'.",
            "warning: the outputs of 4 of 5 lines were cut at their greatest length (lines 1, 2, 3, 4); "
            "--max_new_tokens allows more.",
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["ctranslate2", pytest.param("onnx", marks=pytest.mark.long)])
    def test_several_outputs_of_an_exported_model(self, engine, tmp_path, monkeypatch, capsys):
        exported(tmp_path, lively(1), engine)
        found = []
        for name in ("model", "exported"):
            monkeypatch.setattr(sys, "stdin", io.StringIO("abc\ndefgh\n"))
            words = ("--num_beams", "3", "--num_return_sequences", "2", "--json")
            assert main(["translate", str(tmp_path / name), *words]) == 0
            found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        for mine, theirs in zip(*found, strict=True):
            for one, other in zip(mine["outputs"], theirs["outputs"], strict=True):
                assert one["text"] == other["text"]
                assert one["score"] == pytest.approx(other["score"], abs=1e-3)

    def test_a_length_that_counts_the_start(self, folder, monkeypatch, capsys):
        """It goes before the model's own limit, however that is counted."""
        said = []
        for words in (["--generate_kwargs", "{max_length: 4}"], ["--max_new_tokens", "3"], []):
            monkeypatch.setattr(sys, "stdin", io.StringIO("abc\n"))
            assert main(["translate", str(folder), *words]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1] != said[2]

    def test_the_seed_draws(self, folder, monkeypatch, capsys):
        """The same one draws the same outputs, another one others, none is the usual one."""
        drawn = "{do_sample: true, temperature: 3.0, top_k: 0}"

        def said(*words):
            monkeypatch.setattr(sys, "stdin", io.StringIO("abc\nde\nfgh\n"))
            assert main(["translate", str(folder), "--generate_kwargs", drawn, *words]) == 0
            return capsys.readouterr().out

        assert said("--seed", "5") == said("--seed", "5")
        assert said("--seed", "5") != said("--seed", "6")
        assert said() == said("--seed", "42")

    def test_a_search_that_the_model_itself_asks_for_and_is_none(self, folder, capsys):
        config = folder / "generation_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "bad_words_ids": "x"}), encoding="utf-8")
        assert main(["translate", str(folder)]) == 1
        assert "cannot work with the model's own generation_config.json" in capsys.readouterr().err

    def test_one_line_for_one_line_whatever_it_holds(self, folder, monkeypatch, capsys):
        (letter,) = {*alone(tiny("lstm-luong"), make_tokenizer(), "abc")[0][:1]}
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["\n"] = vocabulary.pop(letter)  # what the model says first ends a line
        file.write_text(json.dumps(tokenizer), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", piped(b"abc\n\r\nabc"))
        assert main(["translate", str(folder)]) == 0
        first, _, third, rest = capsys.readouterr().out.split("\n")
        assert first == third == alone(tiny("lstm-luong"), make_tokenizer(), "abc")[0].replace(letter, " ")
        assert rest == ""

    @pytest.mark.slow
    def test_writes_utf8_whatever_the_locale(self, folder):
        letter = alone(tiny("lstm-luong"), make_tokenizer(), "abc")[0][0]
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["가"] = vocabulary.pop(letter)
        file.write_text(json.dumps(tokenizer), encoding="utf-8")
        command = [sys.executable, "-m", "seqloom", "translate", str(folder)]
        environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        done = subprocess.run(command, input=b"abc\n", capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode("utf-8").startswith("가")

    @pytest.mark.slow
    def test_ends_quietly_when_its_reader_goes(self, folder):
        command = [sys.executable, "-m", "seqloom", "translate", str(folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            running.stdout.close()
            _, errors = running.communicate(b"abc\n" * 20)
        assert (running.returncode, errors) == (0, b"")

    @pytest.mark.slow
    def test_lines_end_with_line_feeds_alone(self, folder):
        """One output a line; what is no UTF-8 is refused; a reader who leaves early is no error."""
        command = [sys.executable, "-m", "seqloom", "translate", str(folder)]

        def translated(data: bytes, **options):
            return subprocess.run(command, input=data, capture_output=True, check=False, **options)

        done = translated("ab\rc\nd\u2028e\n".encode(), env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"})
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split(b"\n")) == 3
        assert b"Loading weights" not in done.stderr
        done = translated(b"ab\n\xff\n")
        assert done.returncode == 1
        assert b"is not UTF-8; convert it" in done.stderr

    def test_refuses(self, folder, capsys):
        assert main(["translate", str(folder), "--nonsense", "2"]) == 1
        assert "--nonsense is unknown" in capsys.readouterr().err
        assert main(["translate", str(folder / "none")]) == 1
        assert "there is no folder" in capsys.readouterr().err
        assert main(["translate"]) == 2
        assert main(["transalte"]) == 2
        assert "no command of seqloom's" in capsys.readouterr().err
        assert main(["--help"]) == 0
        assert "Translates lines of text" in capsys.readouterr().out


def test_a_line_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(text_lines, "LONGEST_TEXT", 100)
    with pytest.raises(ValueError, match="the input, line 2 is longer than 1,600 bytes"):
        [*lines_of(piped(b"a\n" + b"x" * 9_000))]
    with pytest.raises(ValueError, match="the input, line 1, has a text of 101 characters"):
        [*lines_of(piped(b"x" * 101))]
