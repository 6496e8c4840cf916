"""`seqloom train`: its words, and the command from the root."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import (
    configure,
)

from seqloom.commands.train import main

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class TestCommand:
    def test_words_of_the_command_line(self, capsys, tmp_path):
        assert main([]) == 2
        assert main(["--help"]) == 0
        assert capsys.readouterr().out.count("usage: seqloom train CONFIG") == 2
        for words in (["--resume"], ["--learning_rate", "1"]):
            assert main(words) == 1
            assert capsys.readouterr().err.startswith("error: the configuration file comes first")
        assert main([str(tmp_path / "nowhere.yaml")]) == 1
        assert "there is no configuration file" in capsys.readouterr().err

    @pytest.mark.slow
    def test_the_real_command(self, tmp_path, data):
        config = configure(tmp_path, data, data={"train_files": ["nowhere.en", "nowhere.de"]})
        command = [sys.executable, "train.py", config]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: there is no file nowhere.en")
        assert not (tmp_path / "run").exists()
