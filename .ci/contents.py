"""contents.py WHEEL OTHER: does a wheel hold the package's sources, all of them and nothing else, and OTHER the same?

Packages are listed by hand in setup.cfg, since their folders lie in four places, which `find:` cannot follow. One that
was forgotten is missed here, rather than by whoever installs the wheel.
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = {"src/seqloom": "seqloom", **{name: f"seqloom/{name}" for name in ("modeling", "configs", "model_cards")}}


def sources() -> set[str]:
    """Where each file of the sources belongs in a wheel."""
    return {
        f"{inside}/{path.relative_to(ROOT / room).as_posix()}"
        for room, inside in ROOMS.items()
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def contents(wheel: str) -> dict[str, int]:
    """A wheel's files and their checksums, without its list of them, which other tools write in another order."""
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.CRC for item in archive.infolist() if not item.filename.endswith("/RECORD")}


def main() -> None:
    first, second = map(contents, sys.argv[1:])
    held = {name for name in first if ".dist-info/" not in name}
    for name in sorted(sources() - held):
        print(f"not in the wheel: {name} (options.packages and options.package_data in setup.cfg)")
    for name in sorted(held - sources()):
        print(f"in the wheel, but not in the sources: {name}")
    other = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    for name in other:
        print(f"not the same in both wheels: {name}")
    if other or held != sources():
        sys.exit(1)
    print(f"{len(held)} files of the sources, all in the wheel; the sdist makes the same wheel.")


if __name__ == "__main__":
    main()
