"""A folder's lock: one process has it, the others are told which, and it goes with that process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.patience import HANGS

from seqloom.support import locks
from seqloom.support.locks import FolderInUse, Lock

HOLD = """
import os, sys
from pathlib import Path
from seqloom.support.locks import Lock
Lock(Path(sys.argv[1])).acquire()
child = os.fork() if sys.argv[2:] else 1
if child:
    print("held", flush=True)
sys.stdin.read()  # until the test is over
"""


@pytest.fixture
def hold(tmp_path):
    """Another process that holds the folder's lock."""
    started = []

    def _hold(*words: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "lock"), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout.readline() == "held\n"
        started.append(process)
        return process

    yield _hold
    for process in started:
        process.kill()
        process.stdin.close()
        process.wait()


@pytest.mark.parametrize("content", [b"[" * 4096, b"\xff", b"12", b'{"pid": "x", "host": "y", "since": "z"}'])
def test_a_lock_that_says_nobody(tmp_path, content):
    """What it holds is no claim: whoever comes takes it."""
    (tmp_path / "lock").write_bytes(content)
    with Lock(tmp_path / "lock") as lock:
        lock.acquire()
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


class TestLock:
    def test_one_at_a_time(self, tmp_path):
        path = tmp_path / "lock"
        with Lock(path) as first:
            first.acquire()
            assert json.loads(path.read_text())["pid"] == os.getpid()
            for ask in (Lock(path).acquire, Lock(path).check):
                with pytest.raises(FolderInUse, match=f"is in use: process {os.getpid()} on .* since 2"):
                    ask()
            first.check()  # its own
        assert not path.exists()
        with Lock(path) as second:
            second.acquire()

    def test_asking_changes_nothing(self, tmp_path):
        Lock(tmp_path / "lock").check()
        Lock(tmp_path / "no folder" / "lock").check()
        assert not list(tmp_path.iterdir())
        (tmp_path / "lock").write_text("left")
        Lock(tmp_path / "lock").check()
        assert (tmp_path / "lock").read_text() == "left"

    def test_what_nobody_acquired_stays(self, tmp_path):
        (tmp_path / "lock").write_text("left")
        with Lock(tmp_path / "lock"):
            pass
        assert (tmp_path / "lock").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("words", [(), ("with a child",)])
    def test_a_killed_process_holds_nothing(self, tmp_path, hold, words):
        """Nor does what it has forked."""
        process, lock = hold(*words), Lock(tmp_path / "lock")
        with pytest.raises(FolderInUse, match=f"process {process.pid} on"):
            lock.acquire()
        process.kill()
        process.wait()
        with lock:
            lock.acquire()
            lock.check()

    @pytest.mark.slow
    def test_waiting(self, tmp_path, hold):
        process, lock = hold(), Lock(tmp_path / "lock")
        lock.wait(0.3)
        with pytest.raises(FolderInUse):
            lock.check()
        process.kill()
        lock.wait(HANGS)
        lock.check()

    @pytest.mark.slow
    def test_where_the_file_system_has_none(self, tmp_path, monkeypatch):
        """The content decides: who is gone holds nothing, who is on another machine is believed."""
        import fcntl

        def none(*_):
            raise OSError(next(iter(locks.NO_LOCKS)), "no locks")

        monkeypatch.setattr(fcntl, "flock", none)
        path = tmp_path / "lock"
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        here = locks.platform.node()
        for pid, host, is_free in ((gone.pid, here, True), (os.getppid(), here, False), (gone.pid, "elsewhere", False)):
            path.write_text(json.dumps({"pid": pid, "host": host, "since": "yesterday"}))
            if is_free:
                Lock(path).check()
            else:
                with pytest.raises(FolderInUse, match=f"process {pid} on {host}"):
                    Lock(path).check()

    def test_what_it_says_where_the_content_was_cut(self, tmp_path):
        with Lock(Path(tmp_path / "lock")) as lock:
            lock.acquire()
            (tmp_path / "lock").write_text('{"pid"')
            with pytest.raises(FolderInUse, match="another process is at work in it"):
                Lock(tmp_path / "lock").check()
