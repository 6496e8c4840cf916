"""What is said of learning curves follows their numbers, and how sure they are."""

import pytest

from seqloom.comparison.measures import learning_curves


class TestLearningCurves:
    def test_interpolation(self):
        assert learning_curves.score_at([10, 20, 40], [1, 3, 2], 15) == 2
        assert learning_curves.score_at([10, 20, 40], [1, 3, 2], 30) == 2.5
        assert learning_curves.score_at([10, 20, 40], [1, 3, 2], 40) == 2
        assert learning_curves.score_at([10, 20, 40], [1, 3, 2], 9) is None
        assert learning_curves.score_at([10, 20, 40], [1, 3, 2], 41) is None

    def test_findings_follow_the_numbers(self):
        def told(rnn, tf, higher: bool = True, name: str = "loss", validated: int | None = 500) -> str:
            def curve(runs, is_recurrent):
                spent = {budget: [1, 2] for budget in learning_curves.BUDGETS}
                return {
                    "number": 0, "is_recurrent": is_recurrent, "validated": validated,
                    "runs": [{**spent, "scores": run} for run in runs],
                }  # fmt: skip

            curves = {"rnn": curve(rnn, True), "tf": curve(tf, False)}
            equal = {budget: learning_curves.at_equal(curves, budget) for budget in learning_curves.BUDGETS}
            metric = "chrf" if higher else name
            values = {"metric": metric, "higher_is_better": higher, "curves": curves, "equal": equal, "without_log": []}
            return "\n".join(learning_curves.section(values).findings)

        alone = "Said of these trained models"
        assert "NOT SEEN: tf against rnn (-80)" in told([[1, 90]], [[1, 10]])
        assert " SEEN: tf against rnn (+80)" in told([[1, 10]], [[1, 90]])
        assert "NOT SEEN: tf against rnn" in told([[90, 1]], [[90, 50]], higher=False, name="ter")
        assert alone in told([[1, 90]], [[1, 10]])
        assert "rnn is ahead whichever of them is held equal" in told([[1, 90]], [[1, 10]])
        several = told([[1, 90], [1, 80], [1, 85]], [[1, 50], [1, 52], [1, 54]])
        assert "rnn is ahead of tf." in several
        assert "NOT SEEN: tf against rnn (-33)" in several
        assert alone not in several
        # Seeds that are farther apart than the recipes; the runs' losses; sentences that nobody counted; hardly a gap.
        for open_ in (
            told([[1, 90], [1, 30], [1, 60]], [[1, 50], [1, 52], [1, 54]]),
            told([[9, 1.0]], [[9, 5.0]], higher=False), told([[1, 90]], [[1, 10]], validated=None),
            told([[1, 50.0]], [[1, 50.1]]), told([[1, 50.0]], [[1, 50.0]]), told([[1, 50.1]], [[1, 50.0]]),
        ):  # fmt: skip
            assert "NOT CLEAR: tf against rnn" in open_
            assert "SEEN" not in open_
            assert " are not told apart." in open_
            assert "ahead of" not in open_.partition("Expected")[0]

    def test_the_order_depends(self):
        def curve(number, is_recurrent, seconds, score):
            spent = {
                "updates": [0, 4],
                "tokens": [0, 4],
                "seconds": [0, seconds],
                "flops": [0, 4],
                "scores": [0, score],
            }
            return {"number": number, "is_recurrent": is_recurrent, "validated": 400, "runs": [spent]}

        curves = {"rnn": curve(0, True, 2, 50.0), "tf": curve(1, False, 9, 90.0)}
        equal = {budget: learning_curves.at_equal(curves, budget) for budget in learning_curves.BUDGETS}
        assert equal["seconds"] == {"at": 2, "scores": {"rnn": [50.0], "tf": [20.0]}}
        values = {"metric": "chrf", "higher_is_better": True, "curves": curves, "equal": equal, "without_log": []}
        assert "Who is ahead depends" in "\n".join(learning_curves.section(values).findings)

    @pytest.mark.parametrize(
        ("value", "budget", "text"),
        [(71.4, "seconds", "71.4 seconds of training"), (0.0578, "seconds", "0.0578 seconds of training"),
         (1234.5, "seconds", "1,234 seconds of training"), (2.47e6, "tokens", "2.47 million target tokens"),
         (4e12, "flops", "4 × 10¹² FLOPs"), (450, "tokens", "450 target tokens")],
    )  # fmt: skip
    def test_amounts(self, value, budget, text):
        assert learning_curves.amount(value, budget) == text
