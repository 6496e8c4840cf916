"""What a command says one does next can be typed as it stands, and says no more than three lines."""

import contextlib
import io
import json
import shlex
import shutil
import sys

import pytest
from helpers.runs import configure

from seqloom.__main__ import main
from seqloom.commands import following
from seqloom.commands.following import example_of, opening, program, tell_next, typed, without


def told(errors: str) -> list[str]:
    """The lines that come next, of what a command printed to standard error."""
    _, mark, rest = errors.rpartition("next: ")
    assert mark, errors
    return [line.strip() for line in rest.splitlines()]


def type_in(line: str, monkeypatch) -> list[str]:
    """Does as a shell does with a line of these; gives back what is told next, if anything is."""
    *before, command = line.split(" | ")
    start = program()
    assert command.startswith(f"{start} ")
    text = ""
    if before:
        echo, text = shlex.split(before[0])
        assert echo == "echo"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{text}\n"))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main(shlex.split(command.removeprefix(start))) == 0, errors.getvalue()
    return told(errors.getvalue()) if "next: " in errors.getvalue() else []


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_from_a_dry_run_to_beams(tmp_path, data, monkeypatch, capsys):
    """Each line as it is printed, into a folder whose name a shell would take apart; the run has no test split."""
    monkeypatch.chdir(tmp_path)
    configure(tmp_path, data, "rnn", data={"test_files": None})
    words = ["train", "config.yaml", "--output_dir", "it's mine", "--dry_run"]
    training = type_in(f"{program()} {shlex.join(words)}", monkeypatch)
    assert len(training) == 1
    after = type_in(training[0], monkeypatch)
    assert len(after) == 3
    assert [line.split(" | ")[-1].removeprefix(program()).split()[0] for line in after] == [
        "evaluate", "translate", "attend",
    ]  # fmt: skip
    (beams,) = type_in(after[0], monkeypatch)
    assert (tmp_path / "it's mine" / "evaluation" / "validation" / "scores.json").is_file()
    capsys.readouterr()
    assert type_in(after[1], monkeypatch) == []  # its output is data
    assert capsys.readouterr().out.count("\n") == 1
    assert type_in(after[2], monkeypatch) == [opening("it's mine-attention.html")]
    assert type_in(beams, monkeypatch) == []
    assert (tmp_path / "it's mine-beam5" / "scores.json").is_file()
    shutil.copytree("it's mine", "theirs")
    line = typed("evaluate", "it's mine", "--against", "theirs", "--split", "validation")
    (comparing,) = type_in(line.replace("seqloom", program(), 1), monkeypatch)
    type_in(f"{comparing} --measures quality", monkeypatch)
    assert (tmp_path / "report" / "report.html").is_file()


def test_says_three_lines_once(monkeypatch, capsys):
    tell_next("seqloom demo", None, "echo a | seqloom translate b", "seqloom push --help", "seqloom doctor")
    start = program()
    assert capsys.readouterr() == (
        "",
        f"next: {start} demo\n      echo a | {start} translate b\n      {start} push --help\n",
    )
    tell_next(None)
    monkeypatch.setenv("RANK", "1")
    tell_next("seqloom demo")
    assert capsys.readouterr() == ("", "")


def test_the_program_is_what_the_shell_finds(tmp_path, monkeypatch):
    own = tmp_path / "a b" / "bin"
    own.mkdir(parents=True)
    for name in ("seqloom", "python3"):
        (own / name).write_text("", encoding="utf-8")
        (own / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == f"'{own / 'python3'}' -m seqloom"
    monkeypatch.chdir(tmp_path)
    assert program() == "'a b/bin/python3' -m seqloom"
    monkeypatch.setenv("PATH", str(own))
    assert (program(), following.python()) == ("seqloom", "python3")


def test_words_as_they_are_typed(tmp_path):
    assert typed("train", "it's", "--seed", 1) == """seqloom train 'it'"'"'s' --seed 1"""
    words = ["m", "--num_beams=1", "--output_dir", "x", "--metrics", "chrf", "--overwrite"]
    assert without(words, "--output_dir", "--num_beams", "--overwrite") == ["m", "--metrics", "chrf"]
    for example, is_taken in (("it's", True), ("-n", False), ("a\\nb", False), ("", False), ("a" * 500, False)):
        (tmp_path / "record.json").write_text(json.dumps({"example": example}), encoding="utf-8")
        assert example_of(tmp_path) == (example if is_taken else None)
    assert example_of(tmp_path / "none") is None
