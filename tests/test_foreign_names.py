"""Every name of another library that is not promised to stay and that we lean on all the same, in one table.

A row (`leans_on`) says whose name it is, where we use it and why nothing public does; the check below it says what the
name must do, and has it done for real. So the day on which it is renamed, removed or no longer called is a red test
with the library and the name in its id, and not a hook that quietly never runs. There are five kinds of rows:

- *private*: names that begin with an underscore, which we call, set or override (documented ones among them);
- *module*: modules that are in no reference, from which we import;
- *variable*: environment variables that Accelerate's launcher sets and we read, or we set and the libraries read;
- *hook*: public names whose caller is no promise: methods that the library calls inside, attributes that it reads;
- *text*: words of errors that we match, since the error has no class of its own.

The rows are in helpers/foreign_names. `TestCompleteness` finds the first three kinds in our sources and holds the table
against them, in both directions.
"""

import inspect

import pytest
from helpers.foreign_names import of_engines, of_others, of_transformers
from helpers.foreign_names.scan import SOURCES, engine_variables, foreign_private_names, is_private, unstable_modules
from helpers.foreign_names.table import TABLE, Row

ENTERED = (of_transformers, of_others, of_engines)  # importing them enters their rows


EXPORTING = ("torch._higher_order_ops.scan", "torch._inductor.aoti_compile_and_package")
"""Their checks export a program."""
ROWS = [
    pytest.param(
        row,
        id=f"{row.kind}-{row.library}-{row.name}",
        marks=[pytest.mark.slow] if row.name in EXPORTING else [],
    )
    for row in TABLE
]


@pytest.mark.parametrize("row", ROWS)
def test_it_is_there_and_does_what_we_need(row, request):
    assert inspect.getdoc(row.check)
    given = {"name": row.name.rpartition(".")[2]}
    wanted = inspect.signature(row.check).parameters
    row.check(**{name: given[name] if name in given else request.getfixturevalue(name) for name in wanted})


def scanned_name(row: Row) -> str:
    """A row's name as the sources have it: of a dotted private one the last part with an underscore."""
    return next(filter(is_private, reversed(row.name.split("."))), row.name) if row.kind == "private" else row.name


class TestCompleteness:
    """Whoever begins to lean on such a name enters it, with a check; whoever no longer does takes it out."""

    @pytest.mark.parametrize(
        ("kind", "scan"),
        [("private", foreign_private_names), ("module", unstable_modules), ("variable", engine_variables)],
        ids=["private", "module", "variable"],
    )
    def test_the_table_lists_what_the_sources_use(self, kind, scan):
        found = scan()
        rows = {scanned_name(row): row for row in TABLE if row.kind == kind}
        missing = {name: sorted(files) for name, files in found.items() if name not in rows}
        assert missing == {}, "used, and not in the table"
        assert sorted(set(rows) - set(found)) == [], "in the table, and not used"
        for check in {row.check for row in rows.values()}:
            mine = {name: row for name, row in rows.items() if row.check is check}
            files = set().union(*(found[name] for name in mine))
            assert {file for row in mine.values() for file in row.where} == files, f"the files of {sorted(mine)}"

    def test_every_row_is_of_files_that_there_are(self):
        stems = {path.stem for path in SOURCES}
        assert {file for row in TABLE for file in row.where} <= stems

    def test_no_row_is_there_twice(self):
        names = [(row.library, row.name) for row in TABLE]
        assert len(names) == len(set(names))
