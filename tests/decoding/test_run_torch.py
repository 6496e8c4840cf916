"""Packages are refused, in a sentence, where they were not made for."""

from pathlib import Path

import pytest

from seqloom.decoding.run_torch import check_machine, machine


def test_here_it_runs():
    check_machine(Path("made"), machine())
    made_for = machine()
    check_machine(Path("made"), made_for | {"instructions": made_for["instructions"][:-1]})


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"torch": "9.0"}, r"made was compiled for torch 9\.0 and this is \d.*: compiled models .* or --to onnx"),
        ({"platform": "plan9 vax"}, r"compiled for platform plan9 vax and this is .*: .* export the model again here"),
        ({"instructions": ["abacus"]}, r"compiled for a processor with abacus, which this one has not: export the mod"),
    ],
)
def test_elsewhere_it_is_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_machine(Path("made"), machine() | changed)
