"""One command line: what is typed is understood or refused in one sentence."""

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from helpers.runs import configure, write_pairs
from helpers.scored import scored_folder
from safetensors import SafetensorError

from seqloom.__main__ import COMMANDS, main
from seqloom.attention.attend import WHAT
from seqloom.commands.attend import Attend
from seqloom.commands.command import Command, parse
from seqloom.commands.plot import Plot
from seqloom.commands.push import Push
from seqloom.commands.score import Evaluate
from seqloom.commands.shell import run
from seqloom.commands.train import Train
from seqloom.figures.curves import COLUMNS
from seqloom.settings.schema import Settings

ROOT = Path(__file__).parents[2]


@dataclass(kw_only=True)
class Sow(Command):
    """Sows.

    In rows.
    """

    name = "sow"
    needs = "the field comes first"
    settings = Settings

    place: str
    """Where."""
    seeds: list[int] = field(default_factory=list, metadata={"least": 1})
    """Which."""
    depth: int = 3
    """How deep."""
    tool: Literal["hand", "drill"] = "hand"
    """With what."""
    log: Path | None = None
    """What was done."""
    again: bool | Literal["auto"] = False
    """Once more."""
    wet: bool = False
    """In rain."""

    def run(self):
        if self.log:
            raise FileNotFoundError(errno.ENOENT, "no such\nfile", str(self.log))
        print(self.place, self.seeds, self.depth, self.tool, self.again, self.wet, *self.overrides)


@dataclass(kw_only=True)
class Reap(Command):
    """Reaps."""

    name = "reap"
    needs = "no field is given"
    stand_anywhere = True

    places: list[Path]
    """Where."""
    tool: str = "scythe"
    """With what."""


class TestWords:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("a", {}),
            ("a --seeds 1 2 --depth 4", {"seeds": [1, 2], "depth": 4}),
            ("a --seeds=1 --depth=0 --tool drill --wet", {"seeds": [1], "depth": 0, "tool": "drill", "wet": True}),
            ("--wet a", {"wet": True}),
            ("a --wet --wet", {"wet": True}),
            ("a --log x/y", {"log": Path("x/y")}),
            ("a --again", {"again": True}),
            ("a --again auto", {"again": "auto"}),
            ("a --again=auto", {"again": "auto"}),
            ("--again a", {"again": True}),
            ("a --again --seeds 1", {"again": True, "seeds": [1]}),
            ("a --train_files x y --wet", {"wet": True, "overrides": ["--train_files", "x", "y"]}),
            ("a --data.split=x --length_penalty -1", {"overrides": ["--data.split=x", "--length_penalty", "-1"]}),
            ("a --seed 1 --seeds 2", {"seeds": [2], "overrides": ["--seed", "1"]}),
        ],
    )
    def test_understood(self, words, expected):
        call = parse(Sow, words.split())
        defaults = {"place": "a", "seeds": [], "depth": 3, "tool": "hand", "log": None, "again": False, "wet": False}
        assert dataclasses.asdict(call) | {"overrides": call.overrides} == {"overrides": [], **defaults, **expected}
        assert list(call.argv) == words.split()

    def test_between_options(self):
        call = parse(Reap, ["a", "--tool", "sickle", "b"])
        assert (call.places, call.tool) == ([Path("a"), Path("b")], "sickle")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--wet", "the field comes first. usage: seqloom sow PLACE [--key value ...] [--seeds N ...] [--depth N]"),
            ("--depth 3 a", "--depth has 2 values; it takes one"),
            ("a b", "'b' stands where an --option was expected. usage: seqloom sow"),
            ("a --wet b", "'b' stands where an --option was expected"),
            ("a --again never", "'never' stands where an --option was expected"),
            ("a --again=never", "--again takes auto or no value, not 'never'"),
            ("a --wet=yes", "--wet takes no value, not 'yes'"),
            ("a --seeds", "--seeds needs a value. usage: seqloom sow"),
            ("a --depth=", "--depth needs a value"),
            ("a --depth --wet", "--depth needs a value"),
            ("a --depth deep", "--depth is 'deep'; it must be a whole number, 0 or more"),
            ("a --depth -1", "--depth is '-1'; it must be a whole number, 0 or more"),
            ("a --seeds 1 0", "--seeds is '0'; it must be a whole number, 1 or more"),
            ("a --seeds 1 --seeds 2", "--seeds is given twice; give it once"),
            ("a --tool plough", "--tool is 'plough'; it can be hand, drill"),
            ("a --dept 3", "--dept is unknown; did you mean --depth?"),
            ("a --log x", "[Errno 2] no such file: 'x'"),
        ],
    )
    def test_refused(self, words, message, capsys):
        assert run(Sow, words.split()) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line

    def test_done(self, capsys):
        assert run(Sow, ["a", "--wet", "--seed", "3"]) == 0
        assert capsys.readouterr().out == "a [] 3 hand False True --seed 3\n"

    def test_without_settings(self):
        with pytest.raises(
            ValueError, match=r"--tools is unknown; did you mean --tool\? usage: seqloom reap PLACE \.\.\."
        ):
            parse(Reap, ["a", "--tools", "b"])

    def test_a_texts_words_are_its_own(self):
        """Of options too, nothing is read as anything else."""
        call = parse(Attend, ["m", "null", "--target", '"1_0"', "--html", "null"])
        assert (call.sentences, call.target, call.html) == (["null"], '"1_0"', Path("null"))
        assert parse(Push, ["1_0", "me/2", "--hub_revision", "1e5"]).hub_revision == "1e5"
        assert parse(Evaluate, ["1e5", "--against", "2024_01_02"]).against == "2024_01_02"

    def test_choices_are_those_that_there_are(self):
        choices = {command: typing.get_type_hints(command) for command in (Attend, Plot)}
        assert typing.get_args(choices[Attend]["what"]) == WHAT
        assert typing.get_args(choices[Plot]["x"]) == tuple(COLUMNS)


class TestEnvelope:
    """What is raised, and what is said and returned."""

    @pytest.mark.parametrize("error", [ValueError("a\n  b"), OSError("a b")])
    def test_sentences(self, error, monkeypatch, capsys):
        monkeypatch.setattr(Sow, "run", raiser(error))
        assert run(Sow, ["a"]) == 1
        assert capsys.readouterr() == ("", "error: a b\n")

    def test_fields_of_configs(self, monkeypatch, capsys):
        from huggingface_hub.errors import StrictDataclassFieldValidationError

        error = StrictDataclassFieldValidationError(field="dropout", cause=TypeError("a float"))
        monkeypatch.setattr(Sow, "run", raiser(error))
        assert run(Sow, ["a"]) == 1
        assert "dropout" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (
                ModuleNotFoundError("No module named 'yaml'", name="yaml"),
                "package yaml .* not installed: pip install PyYAML",
            ),
            (ModuleNotFoundError("No module named 'a.b'", name="sentencepiece.b"), "pip install sentencepiece"),
            (ImportError("X requires the sacremoses library: `pip install sacremoses`"), "`pip install sacremoses`"),
            (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory .*training.batch_tokens"),
            (MemoryError(), "not enough memory .*the system gave none"),
            (OverflowError("int too large to convert to float"), "a number is larger than what can be reckoned with"),
            (SafetensorError("HeaderTooLarge"), "HeaderTooLarge"),
            (ValueError(), "ValueError, without a word of why"),
            (ValueError("x" * 9000), "^error: x{600} … x{400}$"),
        ],
    )
    def test_other_sentences(self, error, message, monkeypatch, capsys):
        monkeypatch.setattr(Sow, "run", raiser(error))
        assert run(Sow, ["a"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(message, line)

    def test_larger_than_the_machine(self, monkeypatch, capsys):
        """As torch itself says it."""
        monkeypatch.setattr(Sow, "run", lambda _: torch.empty(1 << 60, dtype=torch.uint8))
        assert run(Sow, ["a"]) == 1
        assert "there is not enough memory" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("a"), TypeError("a"), RuntimeError("a"), AttributeError("a"), RecursionError("a"),
            AssertionError(),
            ModuleNotFoundError("No module named 'seqloom.nothing'", name="seqloom.nothing"),
            ImportError("cannot import name 'a' from 'torch'", name="torch"),
            ModuleNotFoundError("No module named 'torch.nothing'", name="torch.nothing"),
        ],
    )  # fmt: skip
    def test_mistakes_of_ours_are_no_sentences(self, monkeypatch, error):
        monkeypatch.setattr(Sow, "run", raiser(error))
        with pytest.raises(type(error)):
            run(Sow, ["a"])

    def test_interrupted(self, monkeypatch, capsys):
        for command, words in ((Sow, ["a"]), (Train, ["scan-rnn"]), (COMMANDS["compare"], ["a"])):
            monkeypatch.setattr(command, "run", raiser(KeyboardInterrupt()))
            assert run(command, words) == 130
            assert capsys.readouterr() == ("", f"{command.interrupted}\n")

    def test_status(self, monkeypatch):
        monkeypatch.setattr(Sow, "run", lambda _: 128 + signal.SIGTERM)
        assert run(Sow, ["a"]) == 143

    def test_one_process_says_what_all_find(self, monkeypatch, capsys):
        error = ValueError("all alike")
        monkeypatch.setattr(Train, "run", raiser(error))
        monkeypatch.setenv("RANK", "1")
        assert run(Train, ["scan-rnn"]) == 1
        assert capsys.readouterr().err == ""
        error.is_own = True
        assert run(Train, ["scan-rnn"]) == 1
        assert capsys.readouterr().err == "error: process 1: all alike\n"
        monkeypatch.setattr(Evaluate, "run", raiser(ValueError("alone")))
        assert run(Evaluate, ["a"]) == 1
        assert capsys.readouterr().err == "error: alone\n"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_is_in_it(self, name, capsys):
        assert main([name, "--nonsense-that-there-is-not", "x"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")

    def test_commands(self, capsys):
        assert main(["transalte"]) == 2
        assert capsys.readouterr().err == "error: 'transalte' is no command of seqloom's; did you mean translate?\n"
        assert main(["x"]) == 2
        assert f"there are {', '.join(COMMANDS)}." in capsys.readouterr().err
        assert main([]) == 2
        listed = capsys.readouterr().out
        assert main(["--help"]) == main(["-h"]) == 0
        assert capsys.readouterr().out == listed * 2
        for command in COMMANDS.values():
            assert f"  {command.name} " in listed


def raiser(error):
    def run(_):
        raise error

    return run


@pytest.mark.slow
def test_launched(tmp_path):
    """As many will start it: two processes, whose words are said once."""
    pairs = {name: write_pairs(tmp_path, name, 40) for name in ("few", "validation", "test")}
    config = configure(tmp_path, pairs)

    def launched(*words: str) -> subprocess.CompletedProcess:
        launch = ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu-2-processes.yaml"]
        command = [sys.executable, *launch, "train.py", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    done = launched(config, "--max_steps", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training data: ") == 1
    assert (tmp_path / "run" / "record.json").is_file()
    done = launched(config)
    assert done.returncode == 1
    assert re.search(r"^error: the output folder", done.stderr, re.M)
    *_, last, _rule, _ = done.stderr.split("\n")  # the launcher's own report ends with it
    assert last.strip().startswith("traceback : error: the output folder")
    assert "seqloom/commands" not in done.stderr  # no traceback of ours


SHELLS = [
    ("translate {model} <&-", 1, "error: stdin cannot be used: closed by whoever started this"),
    ("translate {model} >&- < {texts}", 1, "error: stdout cannot be used"),
    ("translate {model} <&- >&-", 1, "error: stdin and stdout cannot be used"),
    ("translate {model} < {texts} | head -n 1", 0, ""),
    ("translate {model} < {texts} > /dev/full", 1, "error: [Errno 28] No space left on device"),
    ("translate {nothing} < {texts} 2>&-", 1, ""),
    ("plot {nothing} >&- <&-", 1, "error: there is no folder"),
    ("--help | head -n 1", 0, ""),
    ("train --help > /dev/full", 1, "error: [Errno 28] No space left on device"),
    ("evaluate {model} --output_dir {new} --num_threads 3 2>&1 | head -c 1", 1, ""),
    ("train {config} | head -n 1", 141, "whatever read the output has left: ended at once; --resume goes on"),
    ("train {config} --output_dir {new}/closed --max_steps 1 >&- <&-", 0, ""),
    (
        "train {config} --output_dir {new}/full --max_steps 1 > /dev/full",
        1,
        "error: [Errno 28] No space left on device",
    ),
]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
@pytest.mark.parametrize(("line", "status", "message"), SHELLS)
def test_streams(tmp_path, line, status, message):
    """Readers that leave, streams that are closed, full disks: as the shell has them."""
    pairs = {name: write_pairs(tmp_path, name, 40) for name in ("few", "validation", "test")}
    (tmp_path / "texts").write_text("abc\n" * 50)
    places = {
        "model": scored_folder(tmp_path) if "{model}" in line else "", "texts": tmp_path / "texts",
        "nothing": tmp_path / "nothing", "new": tmp_path / "new", "config": configure(tmp_path / "x", pairs),
    }  # fmt: skip
    words = f"set -o pipefail; {sys.executable} -m seqloom {line.format(**places)}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()[-300:].startswith(message) or message in done.stderr) == (status, True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_a_terminal_of_ascii(tmp_path):
    """What its encoding lacks is spelt out, in sentences too."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    words = [sys.executable, "-m", "seqloom", "plot", "한국어"]
    done = subprocess.run(words, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.decode("ascii").startswith("error: there is no folder \\ud55c")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train scan-rn", "did you mean the recipe scan-rnn?"),
        ("train scan-rnn --max_stepz 3", "--max_stepz is unknown; did you mean --max_steps?"),
        ("train scan-rnn --max_steps ten", "training.max_steps is 'ten'; it must be int or null."),
        ("train scan-rnn --hidden_size 8 --learning_rate -1", "training.learning_rate is -1.0; it must be more"),
        ("train scan-rnn --resume --overwrite", "--resume goes on with what --overwrite would delete"),
        ("distill teacher scan-rnn --batch_size 8", "set the one and make the other null"),
        ("translate model --num_beams many", "generation.num_beams is 'many'; it must be int."),
        ("attend model sentence --num_beams many", "generation.num_beams is 'many'; it must be int."),
        ("serve model --num_beams many", "generation.num_beams is 'many'; it must be int."),
        ("evaluate model --limit many", "--limit is unknown"),
        ("evaluate model --seed many", "seed is 'many'; it must be int."),
        ("distill teacher scan-rn", "did you mean the recipe scan-rnn?"),
        ("evaluate model --num_beem 3", "--num_beem is unknown; did you mean --num_beams?"),
    ],
)
def test_a_slip_is_answered_before_torch_is_loaded(words, message):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['seqloom', *{words.split()!r}]\n"
        "try:\n    runpy.run_module('seqloom', run_name='__main__', alter_sys=False)\n"
        "finally:\n    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert message in done.stderr
