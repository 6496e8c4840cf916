"""What a comparison measured, as its conclusion asks for it: costs, scores and tests by candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqloom.comparison.measures.generation import controls_of
from seqloom.comparison.measures.generation_figures import token_milliseconds
from seqloom.comparison.traits import Traits, recorded
from seqloom.scoring.significance import ROUNDING
from seqloom.support.wording import with_interval


@dataclass(frozen=True)
class Measured:
    """What a comparison measured, as a conclusion asks for it."""

    kinds: dict[str, str]
    """Of the candidates, in their order, by name: ``GRU, Luong attention``."""
    measures: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Of the candidates."""
        return list(self.kinds)

    @property
    def metric(self) -> str | None:
        """The first that the outputs were scored by: the one that the settings put first."""
        return next(iter(self.measures.get("quality", {}).get("metrics", {})), None)

    @property
    def entry(self) -> dict[str, Any]:
        """Scores and tests of that metric."""
        return self.measures["quality"]["metrics"][self.metric]

    @property
    def runs(self) -> dict[str, int]:
        """How many of each candidate were scored."""
        return {one["name"]: one.get("runs", 1) for one in self.measures["quality"]["candidates"]}

    @property
    def traits(self) -> dict[str, Traits]:
        """What each candidate is, as far as a measure tells."""
        entries = self.measures.get("quality", {}).get("candidates", ())
        return {one["name"]: recorded(one if "traits" in one else self.kinds[one["name"]]) for one in entries}

    def pair(self, one: str, other: str) -> dict[str, Any]:
        """How much better the one is than the other: ``gap``, ``interval`` (more is better), ``better`` (a name or
        None), ``p``."""
        pair = next(pair for pair in self.entry["pairs"] if {pair["a"], pair["b"]} == {one, other})
        sign = (1 if pair["a"] == one else -1) * (1 if self.entry["higher_is_better"] else -1)
        interval = sorted(sign * bound for bound in pair["interval"])
        return {"gap": sign * pair["difference"], "interval": interval, "better": pair["better"], "p": pair["p"]}

    def gap(self, one: str, other: str, sign: str = "") -> str:
        """``5.14 [4.26, 6.05]``: how much better the one is."""
        pair = self.pair(one, other)
        return with_interval(pair["gap"], pair["interval"], sign)

    @property
    def parameters(self) -> dict[str, int]:
        """By candidate, where they were counted."""
        counted = self.measures.get("weight", {}).get("models") or self.measures.get("generation", {}).get("candidates")
        return {name: (counted or {})[name]["parameters"] for name in self.names if name in (counted or {})}

    @property
    def seconds(self) -> dict[str, list[float]]:
        """Of training, every run's, validations not counted."""
        curves = self.measures.get("learning_curves", {}).get("curves", {})
        found = {name: [run["seconds"][-1] for run in curve["runs"]] for name, curve in curves.items()}
        for name, model in self.measures.get("weight", {}).get("models", {}).items():
            if (known := model.get("training_seconds")) and name not in found:
                found[name] = known
        return found

    def cpu_shares(self, name: str) -> list[float]:
        """How much of its time each of a candidate's trainings was at work, where it was watched."""
        curves = self.measures.get("learning_curves", {}).get("curves", {})
        models = self.measures.get("weight", {}).get("models", {})
        return (curves.get(name) or models.get(name) or {}).get("cpu_shares", [])

    @property
    def milliseconds(self) -> dict[str, float]:
        """A sentence's, one a call, written as the outputs that were scored where such a number of beams was timed."""
        result = self.measures.get("generation")
        if not result:
            return {}
        size, length = result["batch_sizes"][0], result["batch_length"]
        found = {}
        for name, candidate in result["candidates"].items():
            if (value := token_milliseconds(candidate, self.beams, size, length)) is not None:
                found[name] = value * length
        return found

    @property
    def beams(self) -> int:
        """Of the outputs that were scored, if all had as many and these were timed; else the fewest that were."""
        scored = {
            one.get("generation", {}).get("num_beams") for one in self.measures.get("quality", {}).get("candidates", ())
        }
        timed = self.measures["generation"]["beams"]
        return scored.pop() if len(scored) == 1 and scored <= set(timed) else timed[0]

    @property
    def controls(self) -> list[float]:
        """How far the time of a sentence was from itself."""
        return controls_of(self.measures["generation"]) if "generation" in self.measures else []


def first_of(entry: dict[str, Any]) -> list[str]:
    """The best by a metric, and all that no test tells from it; of equals, all. The best comes first."""
    scores = {name: score["score"] for name, score in entry["scores"].items()}
    sign = 1 if entry["higher_is_better"] else -1
    order = sorted(scores, key=lambda name: -sign * scores[name])
    top = [name for name in order if abs(scores[name] - scores[order[0]]) <= ROUNDING]
    apart = {frozenset((pair["a"], pair["b"])) for pair in entry["pairs"] if pair["better"]}
    return [name for name in order if name in top or any(frozenset((name, one)) not in apart for one in top)]


def is_worthless(entry: dict[str, Any], name: str) -> bool:
    """Whether nothing at all is right."""
    return entry["higher_is_better"] and entry["scores"][name]["score"] <= 0


def typical_length(known: Measured) -> int | None:
    """Tokens of the longer side of a typical pair."""
    models = known.measures.get("weight", {}).get("models", {}).values()
    return max((max(model["source_length"], model["target_length"]) for model in models), default=None)


def cell_of(traits: Traits) -> str:
    """What a model is, its attention apart."""
    return traits.name.partition(",")[0]
