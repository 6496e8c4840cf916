"""What is said of remedies: of what stands for another alone, with the verdict of its interval, and where not."""

import pytest
from helpers.tiny import tiny

from seqloom import HybridSeq2SeqConfig, RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.comparison.instruments.memory_networks import STANDARD, systems_of
from seqloom.comparison.measures.data_handling import parallel, systems
from seqloom.comparison.remedies import as_good, at_once, lighter, pairs_of, quicker
from seqloom.comparison.traits import traits_of

CONFIGS = {
    "gru": RnnSeq2SeqConfig(cell_type="gru"),
    "plain": RnnSeq2SeqConfig(cell_type="gru", attention="none"),
    "min": RnnSeq2SeqConfig(cell_type="min_gru"),
    "waits": RnnSeq2SeqConfig(cell_type="ssru", attention="bahdanau"),
    "tf": TransformerSeq2SeqConfig(),
    "hybrid": HybridSeq2SeqConfig(),
}
TRAITS = {name: traits_of(config) for name, config in CONFIGS.items()}
ENTRIES = {name: {"traits": vars(traits)} for name, traits in TRAITS.items()}


def test_who_stands_for_whom():
    assert pairs_of(TRAITS) == ([("min", "gru")], [("hybrid", "tf")])
    assert pairs_of({"gru": TRAITS["gru"], "tf": TRAITS["tf"]}) == ([], [])


@pytest.mark.parametrize(
    ("step", "noise", "verdict"), [(1.0, 0.01, "SEEN"), (4.0, 0.01, "NOT SEEN"), (1.9, 0.5, "NOT CLEAR")]
)
def test_recurrence_at_once(step, noise, verdict):
    """Against the GRU (2) and the Transformer (2); a cell whose attention waits is named."""
    result = parallel(systems(CONFIGS.values()))
    times = {name: {64: 2.0, 512: 2.0} for name in systems(CONFIGS.values())}
    times["minGRU, Luong attention"][512] = times["Transformer encoder, SSRU decoder"][512] = step
    gru, transformer, waits = at_once(result, times, [noise, -noise])
    assert gru.endswith(f"{verdict}: minGRU, Luong attention {step / 2:.2f} times GRU, Luong attention at 512 tokens.")
    assert (
        f"{verdict}: minGRU, Luong attention {step / 2:.2f} times Transformer at 512 tokens; Transformer enc"
        in transformer
    )
    assert waits.startswith("Not remedied: SSRU, Bahdanau attention takes one step after the other")
    assert at_once({}, times, [noise]) == []


def test_lighter():
    models = {
        name: {**ENTRIES[name], "parameters": size, "training_flops": 10, "generation_flops": 10 * size}
        for name, size in {"tf": 100, "hybrid": 60, "gru": 50}.items()
    }
    (said,) = lighter(models)
    assert "SEEN: parameters (hybrid 0.6 times tf); FLOPs a generated token (hybrid 0.6 times tf)." in said
    assert "NOT CLEAR: training FLOPs a target token (hybrid 1 times tf)." in said
    assert lighter({name: models[name] for name in ("tf", "gru")}) == []


def test_quicker():
    def result(milliseconds: float) -> dict:
        seconds = {"tf": {"1": {"1": {"32": 4.0}}}, "hybrid": {"1": {"1": {"32": milliseconds}}}}
        return {
            "beams": [1], "batch_sizes": [1, 64], "batch_length": 32,
            "candidates": {name: {**ENTRIES[name], "seconds": one} for name, one in seconds.items()},
        }  # fmt: skip

    assert "SEEN: hybrid 0.50 times tf (sentences a call: 1, beams: 1)." in quicker(result(2.0), [0.01, -0.01])[0]
    assert "NOT CLEAR: hybrid 0.95 times tf" in quicker(result(3.8), [0.2, -0.1])[0]
    assert "NOT CLEAR" in quicker(result(2.0), [])[0]


@pytest.mark.parametrize(
    ("gap", "half", "p", "verdict"),
    [
        (-0.2, 0.5, 0.6, "SEEN"), (-3.0, 0.5, 0.001, "NOT SEEN"), (-0.5, 1.5, 0.5, "NOT CLEAR"),
        (-0.2, 0.5, None, "NOT CLEAR"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_turned", [False, True])
def test_quality_is_kept(gap, half, p, verdict, is_turned):
    sign = -1 if is_turned else 1
    pair = {
        "a": "tf" if is_turned else "hybrid", "b": "hybrid" if is_turned else "tf", "p": p, "difference": sign * gap,
        "interval": sorted(sign * bound for bound in (gap - half, gap + half)),
        "wins": 0, "losses": 0, "ties": 1_000_000,
    }  # fmt: skip
    result = {
        "candidates": [{"name": name, **ENTRIES[name]} for name in ("tf", "hybrid")],
        "metrics": {
            "exact_match": {
                "higher_is_better": True, "pairs": [pair],
                "scores": {"tf": {"score": 50.0}, "hybrid": {"score": 50 + gap}},
            }
        },
    }  # fmt: skip
    (said,) = as_good(result)
    assert f" {verdict}: hybrid {gap:+.2f} [{gap - half:+.2f}, {gap + half:+.2f}] against tf." in said
    result["metrics"]["exact_match"]["scores"]["tf"]["score"] = 0.5  # of which there is nothing to keep
    assert " NOT CLEAR: hybrid" in as_good(result)[0]
    result["metrics"]["exact_match"]["scores"]["tf"]["score"] = 50.0
    pair["ties"] = 100  # too few for less than a point, whatever the resamples say
    assert " SEEN: hybrid" not in as_good(result)[0].replace("NOT SEEN", "")


def test_gradients_are_asked_of_the_cells_that_are_compared():
    assert systems_of([tiny("gru").config, CONFIGS["tf"]]) == STANDARD
    assert systems_of(CONFIGS.values()) == (*STANDARD, "min_gru", "ssru")
