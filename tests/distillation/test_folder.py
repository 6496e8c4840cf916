"""What a kill leaves of a distilled set, and what is somebody else's."""

import json

import pytest

from seqloom import run_folder
from seqloom.distillation.folder import CHUNK, check_folder, whole_chunks, written


def lines(count: int) -> bytes:
    return b"".join(
        json.dumps({"source": str(n), "target": "", "state": "kept"}).encode() + b"\n" for n in range(count)
    )


@pytest.mark.parametrize("left", [0, 1, CHUNK - 1, CHUNK, CHUNK + 7, 3 * CHUNK])
@pytest.mark.parametrize("half", [b"", b'{"source": "a'])
def test_goes_on_after_the_last_whole_chunk(tmp_path, left, half):
    work = tmp_path / "outputs.jsonl"
    work.write_bytes(lines(left) + half)
    done = left // CHUNK * CHUNK
    assert whole_chunks(work) == done
    assert work.read_bytes() == lines(done)
    assert [line["source"] for line in written(work)] == [str(number) for number in range(done)]


def test_nothing_yet(tmp_path):
    assert whole_chunks(tmp_path / "outputs.jsonl") == 0


def test_a_damaged_line_is_named(tmp_path):
    work = tmp_path / "outputs.jsonl"
    work.write_bytes(lines(3) + b"[1]\n")
    with pytest.raises(ValueError, match=r"line 4 of .*outputs\.jsonl is damaged: --overwrite makes"):
        list(written(work))


def test_folders(tmp_path):
    check_folder(tmp_path / "new", overwrite=False)
    check_folder(tmp_path, overwrite=False)
    run_folder.mark(tmp_path, run_folder.DISTILLED)
    check_folder(tmp_path, overwrite=True)
    (tmp_path / "run").mkdir()
    run_folder.mark(tmp_path / "run", run_folder.RUN)
    with pytest.raises(ValueError, match="holds something else"):
        check_folder(tmp_path / "run", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="holds something else"):
        check_folder(tmp_path / "file", overwrite=False)
