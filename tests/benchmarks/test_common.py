"""Sides take turns, their ratio has an interval that holds what it says, and what is wrong is said in a sentence."""

import json
import math

import common
import pytest


def coverage(number: int) -> float:
    """How often the interval of so many values holds the median, exactly."""
    low, high = common.median_interval(range(1, number + 1))  # the ranks of the order statistics
    return sum(math.comb(number, below) for below in range(int(low), int(high))) / 2**number


class TestTurns:
    def test_all_sides_get_every_input_and_begin_by_turns(self):
        calls = []
        sides = {name: lambda value, name=name: calls.append((name, value)) for name in "abc"}
        laps = common.take_turns("", sides, [10, 20], rounds=6, warmup=1)
        assert [value for name, value in calls if name == "a"] == [20, 10, 20, 10, 20, 10, 20]
        orders = ["".join(name for name, _ in calls[first : first + 3]) for first in range(0, len(calls), 3)]
        assert set(orders) == {"abc", "cba"}
        assert {len(times) for times in laps.seconds.values()} == {6}  # the warm-up is not among them

    def test_what_the_sides_return_is_checked(self):
        seen = []
        common.take_turns("", {"double": lambda n: 2 * n}, [1, 2, 3], rounds=6, warmup=0, check=seen.append)
        assert seen == [{"double": 2 * (number % 3 + 1)} for number in range(6)]

    def test_too_few_rounds(self):
        with pytest.raises(ValueError, match=r"rounds is 5; it must be 6 or more"):
            common.take_turns("", {}, [1], rounds=5, warmup=0)

    def test_two_sides(self):
        result = common.compare("it", {"a": len, "b": sorted}, [[3, 1, 2]], len, rounds=6, warmup=1)
        assert result["what"] == "it"
        assert len(result["seconds"]["b"]) == 6
        assert "it | a | b" in common.table([result])


class TestIntervals:
    @pytest.mark.parametrize("number", range(6, 60))
    def test_hold_the_median(self, number):
        assert coverage(number) >= 0.95

    def test_ratio(self):
        assert common.ratio_of([1.0, 2, 3, 4, 5, 6, 70], [1.0] * 7) == {"ratio": 4, "interval": [1, 70]}

    def test_sides_with_tokens_of_their_own(self):
        """Speeds are compared, not seconds: what one side has in a round need not be what the other has."""
        found = common.in_figures("it", {"a": [1.0] * 6, "b": [2.0] * 6}, {"a": [10] * 6, "b": [40] * 6})
        assert found["tokens_per_second"] == {"a": 10, "b": 20}
        assert (found["ratio"], found["interval"]) == (0.5, [0.5, 0.5])


class TestRecord:
    @pytest.mark.slow
    def test_says_where_it_comes_from(self, tmp_path):
        common.save(tmp_path / "new" / "it.json", [{"a": 1}], seconds=2.0)
        record = json.loads((tmp_path / "new" / "it.json").read_text())
        assert record["results"] == [{"a": 1}]
        assert record["seconds"] == 2.0
        assert {"command", "commit", "date", "environment", "machine"} <= set(record)
        assert record["machine"]["cores"] >= 1

    def test_versions(self):
        found = common.versions(("torch", "no-such-package"))
        assert found["torch"]
        assert found["no-such-package"] is None

    def test_a_sentence(self, capsys):
        def refuse():
            raise ValueError("this is wrong: do that.")

        with pytest.raises(SystemExit, match=r"error: this is wrong: do that\."):
            common.end_in_one_sentence(refuse)
