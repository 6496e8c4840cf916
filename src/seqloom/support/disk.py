"""Files that appear whole or not at all, their checksums, and what a full disk means."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError

from seqloom.support.foreign import from_json

MANIFEST = "manifest.json"
AGAIN = "make room, and give the command again."
"""What helps when a disk is full."""
RESUME = "make room, or set training.save_total_limit to 1, and go on with --resume."
"""What helps a training."""


def replace_folder(new: Path, place: Path) -> None:
    """Renames a folder into place, over an older one if there is one."""
    if place.exists():
        old = place.with_name(f"old-{place.name}")
        remove(old)
        os.replace(place, old)
        os.replace(new, place)
        sync(place.parent)
        remove(old)
    else:
        os.replace(new, place)
        sync(place.parent)


def discard(folder: Path) -> None:
    """Deletes a folder, which a kill meanwhile does not leave as half of one."""
    aside = folder.with_name(f"deleting-{folder.name}")
    remove(aside)
    os.replace(folder, aside)
    remove(aside)


def remove(path: Path) -> None:
    """Deletes a file, a link or a folder, if it is there and as far as that is possible: `recover` tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Writes the manifest of a folder: ``{file: [bytes, sha256]}``. All of it is on the disk then, not in memory."""
    manifest = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        manifest[path.relative_to(folder).as_posix()] = [path.stat().st_size, sha256(path)]
        sync(path)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (folder / MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync(path)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, its first damaged file named; None if it is whole."""
    try:
        manifest = from_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"{MANIFEST}: it is missing"
    except (OSError, ValueError) as error:
        return f"{MANIFEST}: it cannot be read ({error})"
    if not isinstance(manifest, dict) or not manifest:
        return f"{MANIFEST}: it is no manifest"
    for name, entry in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name}: it is missing"
        try:
            size = path.stat().st_size
            if [size, sha256(path)] != entry:
                is_cut = isinstance(entry, list) and size != entry[0]
                return f"{name}: {f'{size} bytes of {entry[0]}' if is_cut else 'its content is not what was written'}"
        except OSError as error:
            return f"{name}: it cannot be read ({error})"
    # Hidden files are a file manager's.
    here = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    names = (path.relative_to(folder).as_posix() for path in here)
    more = next((name for name in names if name not in {MANIFEST, *manifest}), None)
    return None if more is None else f"{more}: {MANIFEST} has no word of it"


def sha256(path: Path) -> str:
    """A file's digest, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_aside(path: Path, write: Callable[[Path], object], advice: str = AGAIN) -> None:
    """Replaces a file by what ``write`` writes, whole or not at all. A symbolic link stays one: what it names is
    replaced."""
    write_together({path: write}, advice)


def write_together(files: Mapping[Path, Callable[[Path], object]], advice: str = AGAIN) -> None:
    """Replaces several files once all of them are whole beside their places: what fails leaves them all as they were.

    Args:
        files: What writes each.
        advice: As for `explained_when_full`.
    """
    places: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            place = Path(os.path.realpath(path))
            aside = place.with_name(f"saving-{place.name}")
            places[aside] = place
            with explained_when_full(aside, advice=advice):
                write(aside)
                sync(aside)
        for aside, place in places.items():
            os.replace(aside, place)
    except BaseException:
        for aside in places:
            remove(aside)
        raise
    for folder in {place.parent for place in places.values()}:
        sync(folder)


def text(content: str) -> Callable[[Path], object]:
    """Writes a text, for `write_aside`."""
    return lambda aside: aside.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def explained_when_full(
    aside: Path, needed: int | None = None, removes: bool = True, advice: str = RESUME
) -> Iterator[None]:
    """Removes what could not be written to its end, and says so in one sentence if the disk is full.

    Args:
        aside: The half-written file or folder.
        needed: Bytes, about, of the whole one.
        removes: Whether it is this process's to remove.
        advice: What to do.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if removes:
            remove(aside)
        if not is_full(error):
            raise
        place = next(path for path in aside.absolute().parents if path.exists())
        sizes = f"{shutil.disk_usage(place).free / 1e6:,.1f} MB are free"
        if needed is not None:
            sizes = f"about {needed / 1e6:,.1f} MB are needed and {sizes}"
        raise OSError(
            f"the disk is full: {aside.name.removeprefix('saving-')} was not saved in {place} ({sizes}); what was "
            f"saved before is whole: {advice}"
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether a disk or a quota is full, as Python, torch (a RuntimeError) or safetensors say it."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
            return True
        # torch tells no reason: a file that was written short.
        if re.search(r"No space left|File too large|quota exceeded|file write failed|unexpected pos", str(error), re.I):
            return True
        error = error.__context__
    return False


def check_output(file: Path, option: str, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Refuses what cannot be written, before there is anything to write.

    Args:
        file: Where it would go.
        option: Of the command line, that named it: ``--output``.
        suffixes: That it can have.
        overwrite: Whether a file that is there may be replaced.
    """
    if file.suffix.lower() not in suffixes:
        raise ValueError(f"{option} is {file}: give a name that ends in {suffixes[0]}.")
    if file.exists() and (not overwrite or not file.is_file()):
        raise ValueError(f"{file} is there already; give --overwrite to replace it, or another {option}.")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {file.parent} to write {file.name} to; make it first.")
