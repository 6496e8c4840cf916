"""docs/generation.md says of every feature of `generate` what the tests of it say."""

import ast
import re
from pathlib import Path

from helpers.features import COLUMNS

ROOT = Path(__file__).parents[2]
FILES = [*(ROOT / "tests" / "modeling").glob("test_generate_*.py"), ROOT / "tests" / "decoding" / "test_coverage.py"]


class TestTable:
    """docs/generation.md says of every feature and family what is tested here, and nothing else."""

    def rows(self):
        lines = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8").splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]

    def test_columns_are_the_families(self):
        header, rule, *rows = self.rows()
        assert header == ["Feature", "Option", *COLUMNS, "Test"]
        assert all(re.fullmatch("-+", cell) for cell in rule)
        assert all(len(row) == len(header) for row in rows)

    def test_every_test_is_named(self):
        named = [name for row in self.rows()[2:] for name in re.findall(r"`(.*?)`", row[-1])]
        features = [
            f"{path.relative_to(ROOT).as_posix()}::{node.name}"
            for path in FILES
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        assert len(features) > 50
        assert sorted(named) == sorted(features)
        assert all(row[-1] for row in self.rows())

    def test_what_is_not_yes_has_a_note(self):
        text = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
        notes = set(re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE))
        used = set()
        for row in self.rows()[2:]:
            for cell in row[2:-1]:
                found = re.fullmatch(r"yes|(?:yes|refused|nothing|not ours) \((\d+)\)", cell)
                assert found, cell
                used |= set(found.groups()) - {None}
        assert used == notes
