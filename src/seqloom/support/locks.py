"""One writer a folder: a lock that says who holds it, and that goes with the process.

The operating system keeps the lock (``flock``, on Windows a locked byte), so that it ends with the process however that
ended: what a killed one leaves is an empty claim, and the next takes it over. The file's content only tells who it is.

Assumed of a network file system: that it passes such locks on between machines, as NFS does, and Lustre and GPFS where
they are mounted so. One that keeps them on each machine for itself tells two machines nothing of each other. Where
there are none at all, the content decides: a process of this machine that is gone holds nothing, one of another
machine is believed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from seqloom.support.foreign import from_json

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""What a file system says that has none."""
OFFSET = 1 << 30
"""On Windows what is locked cannot be read: a byte behind the content."""
PATIENCE = 0.5
"""Seconds, for whoever only looks whether it is free."""


class FolderInUse(ValueError):
    """Another process works in the folder."""


class Lock:
    """A folder's lock; as a context it is let go at the end, if it was acquired.

    Args:
        path: The lock's file. Its folder must be there to acquire it, but not to ask.
        what: It is for, where that is less than the folder: a file.
    """

    def __init__(self, path: Path, what: Path | None = None):
        self.path, self.what = path, what
        self._file: int | None = None

    def acquire(self) -> None:
        """Takes the lock, for as long as the process lives or until `release`.

        Raises:
            FolderInUse: Another process holds it; the message says which.
        """
        deadline = time.monotonic() + PATIENCE
        while self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if self._take(file):
                    if self._is_current(file):
                        self._file = file
                elif time.monotonic() > deadline:
                    raise self._in_use(file)
            finally:
                if self._file is None:
                    os.close(file)
            if self._file is None:
                time.sleep(0.02)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        me = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError):  # on a full disk it is a lock all the same
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, json.dumps(me).encode())
            os.fsync(self._file)

    def check(self) -> None:
        """Looks whether it is free, and changes nothing.

        Raises:
            FolderInUse: Another process holds it.
        """
        if self._file is not None:
            return
        try:
            file = os.open(self.path, os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            if not self._take(file):
                raise self._in_use(file)
        finally:
            os.close(file)  # which gives it back

    def wait(self, seconds: float) -> None:
        """Waits until it is free, but not longer than this; whoever wants it then is told who holds it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                return self.check()
            except FolderInUse:
                time.sleep(0.1)

    def release(self) -> None:
        """Lets it go, and removes the file."""
        if self._file is None:
            return
        file, self._file = self._file, None
        if sys.platform == "win32":  # which removes no file that is open
            os.close(file)
            with contextlib.suppress(OSError):
                self.path.unlink()
            return
        if self._is_current(file):
            self.path.unlink(missing_ok=True)
        os.close(file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _forget(self) -> None:
        """In a forked process: else the lock would outlive the one that took it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _take(self, file: int) -> bool:
        """Whether the lock could be had; where the system has none, whether its holder is gone."""
        try:
            if sys.platform == "win32":
                import msvcrt

                os.lseek(file, OFFSET, os.SEEK_SET)
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in NO_LOCKS and _is_gone(_holder(file))
        return True

    def _is_current(self, file: int) -> bool:
        """Whether nobody has removed or replaced the file since it was opened."""
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False

    def _in_use(self, file: int) -> FolderInUse:
        holder = _holder(file)
        who = "another process is at work in it"
        if holder:
            who = f"process {holder['pid']} on {holder['host']} has been at work in it since {holder['since']}"
        place, other = (self.path.parent, "folder") if self.what is None else (self.what, "name")
        where = "in it" if self.what is None else "beside it"
        return FolderInUse(
            f"{place} is in use: {who}. Wait until it has ended, or take another {other}. "
            f"(If no such process is left, delete {self.path.name} {where}.)"
        )


@contextlib.contextmanager
def alone_with(files: Iterable[Path]) -> Iterator[None]:
    """Holds a lock for each of some files, hidden beside it, while they are made.

    Raises:
        FolderInUse: Another process makes one of them.
    """
    with contextlib.ExitStack() as held:
        for file in files:
            held.enter_context(Lock(file.with_name(f".{file.name}.lock"), file)).acquire()
        yield


def _holder(file: int) -> dict[str, Any] | None:
    """Who has written the content, if that is whole."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        holder = from_json(os.read(file, 4096))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(holder, dict) and {"pid", "host", "since"} <= set(holder) and type(holder["pid"]) is int
    return holder if is_whole else None


def _is_gone(holder: dict[str, Any] | None) -> bool:
    """Whether a holder is a process of this machine that has ended."""
    if holder is None:
        return True
    if sys.platform == "win32" or holder["host"] != platform.node():  # os.kill would end it there
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return holder["pid"] == os.getpid()
