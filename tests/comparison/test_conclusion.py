"""What a comparison concludes from what was measured: no more than intervals and tests say, and no winner of equals."""

import itertools
import json
import shutil
from dataclasses import asdict

import pytest
from helpers.runs import run, write_pairs

from seqloom import HybridSeq2SeqConfig, RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.commands.compare import main
from seqloom.comparison.conclusion import BETWEEN, HEAVY, LIGHT, MIXED, NOT_CLEAR, PARALLEL, SEQUENTIAL, WITH, conclude
from seqloom.comparison.first_screen import FirstScreen
from seqloom.comparison.measures import data_handling
from seqloom.comparison.traits import traits_of

KINDS = {
    "plain": RnnSeq2SeqConfig(vocab_size=9, cell_type="gru", attention="none"),
    "gru": RnnSeq2SeqConfig(vocab_size=9, cell_type="gru"),
    "twin": RnnSeq2SeqConfig(vocab_size=9, cell_type="gru"),
    "min": RnnSeq2SeqConfig(vocab_size=9, cell_type="min_gru"),
    "tf": TransformerSeq2SeqConfig(vocab_size=9),
    "hybrid": HybridSeq2SeqConfig(vocab_size=9),
}
SIZES = {"plain": 100, "gru": 120, "twin": 120, "min": 90, "tf": 300, "hybrid": 200}
MS = {"plain": 1.0, "gru": 1.2, "twin": 1.2, "min": 1.1, "tf": 3.0, "hybrid": 1.5}
STEP = {"plain": 4.0, "gru": 5.0, "twin": 5.0, "min": 1.0, "tf": 2.0, "hybrid": 1.5}


def record_of(scores: dict[str, float], half: float = 1.0, runs: int = 1, noise: float = 0.02, **steps: float) -> dict:
    """A comparison whose differences of more than ``half`` are found, and whose times are known to about ``noise``."""
    traits = {name: traits_of(KINDS[name]) for name in scores}
    pairs = []
    for a, b in itertools.combinations(scores, 2):
        gap = scores[a] - scores[b]
        better = (a if gap > 0 else b) if abs(gap) > half else None
        pairs.append(
            {
                "a": a, "b": b, "difference": gap, "interval": [gap - half, gap + half], "better": better,
                "p": 0.001 if better else 1.0, "p_holm": 0.001 if better else 1.0, "test": "exact", "wins": 0,
                "losses": 0, "ties": 5000, "p_exact": 1.0,
            }
        )  # fmt: skip
    lengths = (16, 64, 256)
    part = {
        traits[name].name: {str(n): (steps or STEP)[name] * n for n in lengths} for name in scores if name != "twin"
    }
    again = {str(n): part[next(iter(part))][str(n)] * (1 + noise * (-1) ** i) for i, n in enumerate(lengths)}
    seconds = {name: {"1": {"1": {"32": MS[name] / 1000 * 32}, "64": {"32": MS[name]}}} for name in scores}
    first = seconds[next(iter(scores))]["1"]
    measures = {
        "quality": {
            "candidates": [
                {"name": name, "traits": asdict(traits[name]), "runs": runs, "generation": {"num_beams": 1}}
                for name in scores
            ],
            "metrics": {
                "exact_match": {
                    "higher_is_better": True, "pairs": pairs,
                    "scores": {n: {"score": s, "interval": [s - half, s + half]} for n, s in scores.items()},
                }
            },
        },
        "data_handling": {
            "devices": [{
                "name": "CPU", "type": "cpu", "threads": 1, "milliseconds": dict.fromkeys(data_handling.PARTS, part),
                "control": dict.fromkeys(data_handling.PARTS, again),
            }],
            **data_handling.parallel(
                data_handling.systems([KINDS[name] for name in scores])
            ),
        },
        "weight": {
            "models": {
                name: {"parameters": SIZES[name], "source_length": 20, "target_length": 30, "training_seconds": [10.0]}
                for name in scores
            }
        },
        "generation": {
            "batch_sizes": [1, 64], "batch_length": 32, "beams": [1],
            "candidates": {name: {"seconds": one, "parameters": SIZES[name]} for name, one in seconds.items()},
            "control": {"seconds": {"1": {
                "1": {"32": first["1"]["32"] * (1 + noise)}, "64": {"32": first["64"]["32"] * (1 - noise)},
            }}},
        },
    }  # fmt: skip
    candidates = [{"name": name, "kind": one.name, "description": one.description} for name, one in traits.items()]
    return json.loads(json.dumps({"candidates": candidates, "measures": measures}))


def sentence(record: dict, about: str) -> str:
    return conclude(record)["sentences"].get(about, "")


class TestModels:
    def test_a_winner(self):
        found = conclude(record_of({"plain": 60, "gru": 90, "tf": 80}))
        assert found["first"] == ["gru"]
        assert found["sentences"]["model"] == (
            "gru, because its Exact match, 90.00 [89.00, 91.00], is better than that of plain and tf; the next is tf, "
            "10.00 [9.00, 11.00] behind. Said of these trained models, of one run each, and not of their recipes."
        )
        assert [(row["name"], row["place"]) for row in found["ranking"]] == [("gru", 1), ("tf", 2), ("plain", 3)]
        assert "Said of these trained models" not in sentence(record_of({"plain": 60, "gru": 90}, runs=3), "model")

    def test_two_that_are_the_same(self):
        """Under two names: no difference anywhere, no winner, and no quickest."""
        found = conclude(record_of({"gru": 90, "twin": 90}))
        assert found["first"] == []
        assert found["sentences"]["model"].startswith(
            "no winner, because no difference in Exact match was found between"
        )
        assert {row["place"] for row in found["ranking"]} == {1}
        assert "Quickest" not in found["sentences"]["cost"]
        assert found["sentences"]["undecided"].startswith("which of gru and twin is better; ")
        assert found["sentences"]["weight"].startswith("not asked, because none has 5 % more or fewer parameters")
        assert (
            found["verdicts"]["attention"] is found["verdicts"]["weight"] is found["verdicts"]["data_handling"] is None
        )
        assert found["remedies"] == {}

    def test_some_at_the_top(self):
        found = conclude(record_of({"plain": 60, "gru": 90, "tf": 90.5}))
        assert found["first"] == ["tf", "gru"]
        assert found["sentences"]["model"].startswith("tf or gru, because tf is better in Exact match than plain, and ")
        assert [(row["name"], row["place"]) for row in found["ranking"]] == [("tf", 1), ("gru", 1), ("plain", 3)]

    def test_a_broken_one(self):
        """Beside a good one it is behind; of broken ones none is recommended."""
        assert conclude(record_of({"gru": 90, "tf": 0.0}, half=0.5))["first"] == ["gru"]
        assert sentence(record_of({"gru": 0.0, "tf": 0.0}), "model").startswith(
            "none of these models, because the best"
        )

    def test_one_run_against_several(self):
        record = record_of({"gru": 90, "tf": 60})
        (pair,) = record["measures"]["quality"]["metrics"]["exact_match"]["pairs"]
        pair |= {"p": None, "p_holm": None, "better": None}
        assert "gru and tf not tested, one run against several" in sentence(record, "model")
        assert conclude(record)["first"] == []

    def test_less_is_better(self):
        record = record_of({"gru": 30, "tf": 60})
        entry = record["measures"]["quality"]["metrics"].pop("exact_match")
        entry["higher_is_better"], entry["pairs"][0]["better"] = False, "gru"
        record["measures"]["quality"]["metrics"]["ter"] = entry
        assert "; the next is tf, 30.00 [29.00, 31.00] behind" in sentence(record, "model")
        assert [row["name"] for row in conclude(record)["ranking"]] == ["gru", "tf"]

    @pytest.mark.parametrize("left", [(), ("quality",), ("generation", "weight"), ("data_handling",)], ids=str)
    def test_what_was_not_measured_is_said(self, left):
        record = record_of({"gru": 90, "tf": 60})
        record["measures"] = {name: record["measures"][name] for name in left}
        found = conclude(record)
        assert "what was not measured" in found["sentences"]["undecided"]
        assert FirstScreen.of(record).lines
        assert (FirstScreen.of(record).ranking is None) == ("quality" not in left)

    def test_one_alone(self):
        assert sentence(record_of({"gru": 90}), "model").startswith("nothing to choose, because gru alone was scored")


class TestQuestions:
    @pytest.mark.parametrize(
        ("steps", "noise", "verdict"),
        [
            ({"gru": 5.0, "tf": 2.0}, 0.02, PARALLEL), ({"gru": 2.0, "tf": 5.0}, 0.02, SEQUENTIAL),
            ({"gru": 2.0, "tf": 2.1}, 0.1, NOT_CLEAR), ({"gru": 2.0, "tf": 2.0}, 0.02, NOT_CLEAR),
            ({"plain": 1.0, "gru": 5.0, "tf": 2.0}, 0.02, MIXED),
        ],
    )  # fmt: skip
    def test_data_handling(self, steps, noise, verdict):
        found = conclude(record_of(dict.fromkeys(steps, 50.0), noise=noise, **steps))
        assert found["verdicts"]["data_handling"] == verdict
        assert found["sentences"]["data_handling"].startswith(
            f"{verdict}, because at 16 tokens, about the length of your"
        )
        assert ("sequential or parallel" in found["sentences"]["undecided"]) == (verdict == NOT_CLEAR)

    def test_without_a_control_nothing_is_clear(self):
        record = record_of({"gru": 50, "tf": 60}, gru=9.0, tf=1.0)
        del record["measures"]["data_handling"]["devices"][0]["control"]
        assert conclude(record)["verdicts"]["data_handling"] == NOT_CLEAR

    def test_attention(self):
        """Of the same cell where there are such two; and how the gap goes with the length."""
        record = record_of({"plain": 60, "gru": 90, "tf": 60.2})
        record["measures"]["attention"] = {
            "data": {
                "gaps": [
                    {
                        "with": "gru", "without": "plain", "short": 10.0, "long": 50.0,
                        "change": {"value": 40.0, "error": 2.0, "freedom": 1000},
                    }
                ]
            }
        }  # fmt: skip
        found = conclude(record)
        assert found["verdicts"]["attention"] == WITH
        assert found["sentences"]["attention"] == (
            "with attention, because gru is better than plain by 30.00 [29.00, 31.00]; the gap is 10.0 points on the "
            "shortest sources and 50.0 on the longest, a growth."
        )
        found = conclude(record_of({"plain": 60, "tf": 60.2}))
        assert found["verdicts"]["attention"] == NOT_CLEAR
        assert "(they differ in more than attention)" in found["sentences"]["attention"]
        assert sentence(record_of({"gru": 60, "tf": 70}), "attention").startswith(
            "not decided for your data, because all"
        )

    @pytest.mark.parametrize(
        ("scores", "verdict"),
        [
            ({"plain": 90, "gru": 80, "tf": 70}, LIGHT), ({"plain": 70, "gru": 80, "tf": 90}, HEAVY),
            ({"plain": 70, "gru": 90, "tf": 80}, BETWEEN), ({"plain": 70, "gru": 90, "tf": 90.5}, NOT_CLEAR),
        ],
    )  # fmt: skip
    def test_weight(self, scores, verdict):
        assert conclude(record_of(scores))["verdicts"]["weight"] == verdict

    def test_weights_around_the_best(self):
        """Each as heavy as the best to within 5 %, though not as each other."""
        record = record_of({"plain": 70, "gru": 90, "twin": 80})
        for name, size in (("plain", 96), ("gru", 100), ("twin", 104)):
            record["measures"]["weight"]["models"][name]["parameters"] = size
        assert conclude(record)["verdicts"]["weight"] is None
        assert sentence(record, "weight").startswith("not asked, because none has")

    def test_a_ratio_of_hundreds(self):
        record = record_of({"plain": 90, "tf": 70})
        record["measures"]["weight"]["models"]["tf"]["parameters"] = 25_000
        assert "tf, 250 times the parameters of plain" in sentence(record, "weight")

    def test_remedies(self):
        found = conclude(record_of({"gru": 90, "min": 89.8, "tf": 90, "hybrid": 80}, half=0.5))
        assert found["remedies"] == {
            "min for gru": {"step": "SEEN", "sentence": "NOT CLEAR", "quality": "SEEN"},
            "hybrid for tf": {"step": "SEEN", "sentence": "SEEN", "quality": "NOT SEEN"},
        }
        said = found["sentences"]["remedied"]
        assert said.startswith("min for gru: a training step takes 0.20 [")
        assert "0.67 times the parameters, Exact match -10.00 [-10.50, -9.50] (more than a point is lost)." in said
        assert conclude(record_of({"gru": 90, "tf": 60}))["sentences"].keys().isdisjoint({"remedied"})

    def test_a_disturbed_training(self):
        record = record_of({"gru": 90, "tf": 60})
        assert "other work" not in sentence(record, "cost")
        record["measures"]["weight"]["models"]["gru"]["cpu_shares"] = [0.99, 0.5]
        assert sentence(record, "cost").count("The machine had other work while they were trained") == 1

    def test_quickest(self):
        assert "Quickest to write: gru." in sentence(record_of({"gru": 90, "tf": 60}, noise=0.001), "cost")
        told = sentence(record_of({"plain": 90, "gru": 90, "tf": 60}, noise=0.2), "cost")
        assert "Quickest" not in told or "not told apart" in told


class TestFirstScreen:
    def test_plot_and_ranking(self):
        record = record_of({"plain": 60, "gru": 90, "tf": 80})
        screen = FirstScreen.of(record)
        assert [panel.get_xlabel() for panel in screen.plot.figure.axes] == [
            "seconds of training", "ms a sentence", "parameters",
        ]  # fmt: skip
        assert [row[:2] for row in screen.ranking.rows] == [["gru", "1"], ["tf", "2"], ["plain", "3"]]
        assert screen.ranking.rows[0][-1] == "120"
        assert screen.chosen == {}

    def test_many_can_be_chosen_from(self):
        scores = {name: 50.0 + 10 * number for number, name in enumerate(KINDS)}
        assert FirstScreen.of(record_of(scores)).chosen == {name: 6 - number for number, name in enumerate(KINDS)}


@pytest.mark.slow
def test_a_model_and_its_copy(tmp_path):
    """Scored for real: nothing is told of two folders that hold the same."""
    data = {name: write_pairs(tmp_path, name, size) for name, size in {"few": 60, "validation": 21, "test": 31}.items()}
    run(tmp_path / "one", data, "rnn", training={"eval_metric": "exact_match"})
    shutil.copytree(tmp_path / "one" / "run", tmp_path / "copy")
    words = [str(tmp_path / "one" / "run"), str(tmp_path / "copy"), "--output", str(tmp_path / "out")]
    assert main([*words, "--measures", "quality", "learning_curves"]) == 0
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["conclusion"]["first"] == []
    assert {row["place"] for row in record["conclusion"]["ranking"]} == {1}
    (pair,) = record["measures"]["quality"]["metrics"]["exact_match"]["pairs"]
    assert (pair["difference"], pair["better"]) == (0.0, None)
    text = (tmp_path / "out" / "report.md").read_text()
    assert " is better than " not in text
    assert " is ahead of " not in text
