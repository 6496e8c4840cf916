"""`seqloom translate`: a line out for every line in."""

import io
import os
import subprocess
import sys

import pytest
from helpers.letters import alone, make_tokenizer, texts
from helpers.tiny import tiny

from seqloom.__main__ import main


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
        assert b"error: the input is not UTF-8" in done.stderr

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
