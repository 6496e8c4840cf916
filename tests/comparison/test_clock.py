"""The clock of what is compared: arithmetic of times, turns and controls. Nothing is timed."""

import math

import numpy as np
import pytest
import torch

from seqloom.comparison.instruments import clock as clock_module
from seqloom.comparison.instruments import training_steps
from seqloom.support import machine

LENGTHS = [16, 32, 64, 128, 256, 512, 1024, 2048]
CPU = torch.device("cpu")


def powers(factor: float, power: float) -> dict[int, float]:
    return {length: factor * length**power for length in LENGTHS}


class TestArithmetic:
    def test_exponents_of_powers(self):
        assert clock_module.exponent(powers(3e-3, 1.7)) == pytest.approx(1.7)
        bent = powers(1.0, 1.0) | {1024: 1024.0, 2048: 4096.0}  # the last step alone is quadratic
        assert clock_module.local_exponent(bent) == pytest.approx(2)
        assert clock_module.exponent(bent, at_most=1024) == pytest.approx(1)
        assert 1 < clock_module.exponent(bent, 256) < 2

    def test_no_exponent_of_one_length(self):
        assert clock_module.exponent({16: 1.0}) is None
        assert clock_module.exponent(powers(1, 1), at_least=2048) is None
        assert clock_module.local_exponent({16: 1.0}) is None

    def test_crossing_of_powers(self):
        """n² / 300 passes n at 300, a length that was not measured."""
        linear, quadratic = powers(1.0, 1.0), powers(1 / 300, 2.0)
        assert clock_module.crossing(quadratic, linear) == pytest.approx(300)
        assert clock_module.crossing(linear, quadratic) is None
        assert clock_module.crossing(powers(2, 1), linear) == 0
        assert clock_module.crossing(linear, linear) is None
        assert clock_module.crossing({16: 1.0}, {32: 1.0}) is None

    def test_the_last_crossing_counts(self):
        """Slower at first, faster in between, slower in the end."""
        assert clock_module.crossing({1: 2.0, 10: 0.5, 100: 2.0}, {1: 1.0, 10: 1.0, 100: 1.0}) == pytest.approx(10**1.5)

    def test_growth_decides_what_is_too_much(self):
        known = {128: 100.0, 256: 200.0}
        assert training_steps.too_much(known, 512, longest_step=0.39) == {"seconds": pytest.approx(0.4)}
        assert training_steps.too_much(known, 512, longest_step=0.41) is None
        quadratic = {128: 100.0, 256: 400.0}
        assert training_steps.too_much(quadratic, 1024, longest_step=1) == {"seconds": pytest.approx(6.4)}
        jump = {128: 1.0, 256: 400.0}  # a disturbed timing: never taken for more than quadratic
        assert training_steps.too_much(jump, 512, longest_step=1) == {"seconds": pytest.approx(1.6)}
        assert training_steps.too_much({128: 400.0, 256: 400.0}, 512, longest_step=0.7)["seconds"] == pytest.approx(0.8)
        assert training_steps.too_much({}, 512, longest_step=0.001) is None

    def test_errors_of_exponents(self):
        """As numpy's own fit has it, of points of unit error."""
        lengths = [256, 512, 1024, 2048]
        expected = np.linalg.inv(np.stack([np.log(lengths), np.ones(4)]) @ np.stack([np.log(lengths), np.ones(4)]).T)
        assert clock_module.slope_error(lengths) == pytest.approx(math.sqrt(expected[0, 0]))

    def test_control_in_words(self):
        assert "differed from itself by 2.0% (root mean square of 2 pairs)" in clock_module.spread_in_words(
            [math.log(1.02), -math.log(1.02)]
        )
        assert "timed no control" in clock_module.spread_in_words([])
        assert clock_module.log_ratios([(2.0, 1.0), (None, 1.0), (1.0, None)]) == [math.log(2)]

    def test_disturbance_is_told(self):
        (said,) = clock_module.disturbance(0.5, threads=1)
        assert "50%" in said
        assert clock_module.disturbance(0.97, threads=1) == []
        assert clock_module.disturbance(0.5, threads=2) == []  # threads that wait for each other


class TestClock:
    def test_rounds_take_all_in_turn(self, monkeypatch):
        calls = []
        steps = {name: lambda name=name: calls.append(name) for name in "abc"}
        seconds = iter([0.5, 2.0, 0.5, *([0.3, 2.2, 0.4] * 9)])

        def clock(step, device):
            step()
            return next(seconds)

        monkeypatch.setattr(clock_module, "seconds_of", clock)
        medians = clock_module.median_seconds(steps, CPU, 3)
        assert "".join(calls) == "abc" + "ca" + "abc" + "cba"  # the slow one's first run counted
        assert set(medians) == set("abc")

    def test_median_without_the_warm_up(self, monkeypatch):
        seconds = iter([0.9, 0.1, 0.3, 0.2])
        monkeypatch.setattr(clock_module, "seconds_of", lambda step, device: next(seconds))
        assert clock_module.median_seconds({"a": None}, CPU, 3) == {"a": 0.2}

    def test_quick_steps_run_more_often(self):
        calls = []
        clock_module.median_seconds({"a": lambda: calls.append(1)}, CPU, 2)
        assert len(calls) == 1 + 2 * clock_module.MOST_RUNS

    def test_threads_are_restored(self):
        before = torch.get_num_threads()

        def fail():
            with machine.cpu_threads(before + 1):
                assert torch.get_num_threads() == before + 1
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.get_num_threads() == before
