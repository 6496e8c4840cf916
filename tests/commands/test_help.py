"""Help lists every command, key and field, is as wide as the terminal, and imports no model library."""

import dataclasses
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from seqloom.__main__ import COMMANDS, main
from seqloom.commands.command import fields_of, usage
from seqloom.commands.help import describe, families, known_keys
from seqloom.commands.score import Evaluate
from seqloom.commands.train import Train
from seqloom.comparison.sections import MEASURES
from seqloom.settings.checks import model_fields
from seqloom.settings.schema import DERIVED, ScoringSettings

ROOT = Path(__file__).parents[2]


FOR_TRAINING = {
    "max_source_length", "max_target_length", "shuffle_buffer", "split_stream", "num_workers", "num_proc",
}  # fmt: skip
"""Of data, what no scoring reads."""


class TestHelp:
    @pytest.fixture(autouse=True)
    def width(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
    def test_lists_everything(self, command, capsys):
        assert main([command.name, "--help"]) == main([command.name, "nonsense", "-h"]) == 0
        text = capsys.readouterr().out
        assert text == (describe(command) + "\n") * 2
        assert max(map(len, text.partition("Examples:")[0].splitlines())) <= 80
        lines = text.splitlines()
        alone, options = fields_of(command)
        for name in options:
            assert any(line.startswith(f"  --{name}") for line in lines)
        assert "`" not in text.partition("Examples:")[0]
        assert text.startswith(f"usage: seqloom {command.name}")
        for example in command.examples.split("\n"):
            assert example.strip() in text
        assert " ".join(usage(command).split()) in " ".join(text.split())
        assert command.needs or not alone

    @pytest.mark.parametrize("command", [Train, Evaluate, COMMANDS["compare"]], ids=lambda command: command.name)
    def test_lists_every_key_with_type_default_and_meaning(self, command):
        text = " ".join(describe(command).split())
        for section in dataclasses.fields(command.settings):
            inner = typing.get_type_hints(command.settings)[section.name]
            if not dataclasses.is_dataclass(inner) or section.name not in (command.sections or section.name):
                continue
            for key in dataclasses.fields(inner):
                if (command, section.name) == (Evaluate, "data") and key.name in FOR_TRAINING:
                    assert f"--{key.name}" not in text
                    continue
                assert f" --{key.name} " in text or f" --{section.name}.{key.name} " in text
        assert "--learning_rate Peak learning rate. (float, default 0.001)" in text or command is Evaluate
        assert "--num_beams Beams; 1 is greedy. (int, default 1)" in text
        assert "--data.split Which split" in text
        choices = "(simple|length|addprim_jump|addprim_turn_left|length_26 or null, default null)"
        assert choices in text.replace("| ", "|")  # a line may end between them
        assert "(list of str, default sacrebleu chrf)" in text
        assert "each entry of data.mix: " in text
        assert "weight Its share of the training pairs, " in text

    @pytest.mark.parametrize("family", ["rnn_seq2seq", "transformer_seq2seq", "hybrid_seq2seq"])
    def test_lists_every_field_of_every_family(self, family):
        tokens = {"bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"}
        assert {key.name for key in families()[family]} == model_fields(family) - DERIVED - tokens
        assert all(key.meaning and key.kind and key.default for key in families()[family])
        assert f"model, where model_type is {family}:" in describe(Train)

    def test_keys_that_settings_know(self):
        for command in (Train, Evaluate):
            assert {f.name for f in dataclasses.fields(command.settings)} & known_keys(command)
        assert {"learning_rate", "d_model", "cell_type", "output_dir", "model_type"} <= known_keys(Train)
        assert "learning_rate" not in known_keys(Evaluate)
        assert Evaluate.settings is ScoringSettings

    def test_measures(self):
        text = " ".join(describe(COMMANDS["compare"]).split())
        assert f"They are {', '.join(MEASURES)}." in text

    def test_as_wide_as_the_terminal(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        lines = describe(Train).partition("Examples:")[0].splitlines()
        assert 95 < max(map(len, lines)) <= 100

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "program",
        [["-m", "seqloom", "train"], ["-m", "seqloom", "compare"], ["-m", "seqloom"], ["train.py"], ["evaluate.py"]],
        ids=" ".join,
    )
    def test_imports_no_model_library(self, program):
        """Which would take seconds."""
        command = [sys.executable, "-X", "importtime", *program, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.startswith("usage: seqloom ")
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "seqloom.settings.schema" in imported
        heavy = {"torch", "transformers", "numpy", "datasets", "accelerate", "huggingface_hub", "matplotlib"}
        assert not imported & heavy

    @pytest.mark.slow
    def test_whoever_imports_seqloom_has_the_models(self):
        """In a script that is called like one of ours too, whatever its words."""
        code = "import sys; sys.argv = ['train.py', '--help']; import seqloom; print('transformers' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"

    @pytest.mark.slow
    def test_names_come_when_they_are_asked_for(self):
        code = (
            "import sys; sys.argv = ['/usr/bin/seqloom']; import seqloom\n"
            "print('torch' in sys.modules, seqloom.__version__ != '', 'translate' in dir(seqloom))\n"
            "from seqloom import *\n"
            "print('torch' in sys.modules, translate.__name__, RnnSeq2SeqConfig().model_type, hasattr(seqloom, 'x'))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["False True True", "True translate rnn_seq2seq False"]

    @pytest.mark.slow
    def test_reader_who_leaves(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "seqloom", "train", "--help"], stdout=write, stderr=subprocess.PIPE, check=False
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (0, b"")
