"""Files of a run that are no text, or nested without an end: the file is named."""

import json

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


def test_a_log_that_goes_back(tmp_path):
    """As one that stands in the file twice."""
    lines = '{"step": 1, "loss": 2.5}\n{"step": 3, "loss": 2}\n{"step": 3, "eval_loss": 2}\n'
    (tmp_path / run_folder.LOG).write_text(lines)
    assert [line["step"] for line in run_folder.read_log(tmp_path)] == [1, 3, 3]
    (tmp_path / run_folder.LOG).write_text(lines * 2)
    with pytest.raises(
        ValueError, match=r"line 4 of .*training_log\.jsonl is of an earlier update than the one before"
    ):
        run_folder.read_log(tmp_path)


def test_a_log_that_ends_before_its_run(tmp_path):
    record = dict.fromkeys(run_folder.RECORDED) | {"progress": {"step": 6}}
    (tmp_path / run_folder.RECORD).write_text(json.dumps(record))
    run_folder.check_log_ends(tmp_path, [{"step": 3}, {"step": 6}])
    with pytest.raises(
        ValueError, match=r"training_log\.jsonl ends after update 3, but its run after 6: lines are missing"
    ):
        run_folder.check_log_ends(tmp_path, [{"step": 3}])
