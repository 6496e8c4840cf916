"""Curves, starts and refusals of costs.py, on models that are small."""

import sys
from pathlib import Path

import costs
import pytest
from engines import STOCK


def parsed(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["costs.py", *words.split()])
    return costs.parse()


class TestCurves:
    @pytest.mark.slow
    def test_every_axis_work_and_family(self, monkeypatch):
        monkeypatch.setattr(costs, "QUICK_AXES", {"length": (2, 4), "batch": (1, 2)})
        monkeypatch.setattr(costs, "AT", {"length": 2, "batch": 1, "vocabulary": 20, "width": 16})
        curves = costs.measure_curves(parsed(monkeypatch, "--quick --rounds 6"), Path())
        assert len(curves) == 2 * len(costs.WORKS) * len(costs.FAMILIES)
        for curve in curves:
            assert len(curve["milliseconds"]) == len(curve["parameters"]) == 2
            assert all(low <= middle <= high for middle, (low, high) in
                       zip(curve["milliseconds"], curve["intervals"], strict=True))  # fmt: skip
        assert costs.curves_table(curves).count("\n") == 1 + len(curves)


class TestStarts:
    @pytest.mark.slow
    def test_in_a_process_of_its_own(self, monkeypatch, tmp_path):
        given = parsed(monkeypatch, "--quick --engines generate")
        (found,) = costs.measure_starts(given, tmp_path)
        assert found["engine"] == STOCK
        assert min(found[name] for name in ("interpreter", "import", "load", "first_output", "next_output")) > 0
        assert found["memory_many_mib"] is None or found["memory_many_mib"] >= found["memory_one_mib"] > 100

    @pytest.mark.slow
    def test_what_does_not_start_says_why(self, tmp_path):
        with pytest.raises(ValueError, match=r"generate did not start: .*no folder"):
            costs.start({"engine": STOCK, "folder": "/no/folder", "scratch": "", "threads": 1, "sources": []})


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("--rounds 2", r"rounds is 2; it must be 6 or more"),
            ("--threads 0", r"--threads is 0; it must be 1 or more"),
            ("--repeats 0", r"--repeats is 0; it must be 1 or more"),
        ],
    )
    def test_words(self, given, said, monkeypatch):
        with pytest.raises(ValueError, match=said):
            parsed(monkeypatch, given)
