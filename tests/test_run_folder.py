"""Files of a run that are no text, or nested without an end: the file is named."""

import pytest

from seqloom import run_folder

DAMAGE = [b"\xff\n", b"[" * 100_000 + b"\n", b"12\n", b"\x00\n"]


@pytest.mark.parametrize("content", DAMAGE)
def test_objects(tmp_path, content):
    (tmp_path / run_folder.DATA).write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.json is damaged"):
        run_folder.read_object(tmp_path / run_folder.DATA)


@pytest.mark.parametrize("content", DAMAGE)
def test_logs(tmp_path, content):
    (tmp_path / run_folder.LOG).write_bytes(b'{"step": 1, "loss": 2.5}\n' + content)
    with pytest.raises(ValueError, match=r"line 2 of .*training_log\.jsonl is damaged"):
        run_folder.read_log(tmp_path)
