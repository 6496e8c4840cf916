"""`seqloom evaluate`: its words, and the command from the root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.scored import read, scored_folder

from seqloom.commands.score import main

ROOT = Path(__file__).parents[2]


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path):
        return scored_folder(tmp_path)

    @pytest.mark.slow
    def test_the_real_command(self, folder):
        """From the root, where `import evaluate` inside must find the library and not the command."""
        command = [sys.executable, "evaluate.py", str(folder), "--num_beams", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("chrf ")
        assert read(folder / "evaluation" / "test")[0]["generation"]["num_beams"] == 2


class TestWords:
    def test_words_of_the_command_line(self, capsys):
        assert main([]) == 2
        assert main(["--help"]) == 0
        told = capsys.readouterr().out
        assert told.count("usage: seqloom evaluate [MODEL]") == 2
        assert "--test_files" in told
        assert "--shuffle_buffer" not in told  # which no scoring reads
        for words in (["--overwrite"], ["--split", "test"]):
            assert main(words) == 1
            assert capsys.readouterr().err.startswith("error: the model comes first")
