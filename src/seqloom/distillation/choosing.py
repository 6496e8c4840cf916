"""Which of a teacher's outputs is kept: one that came to its end, and of several the best by a metric.

Kim and Rush 2016 (section 3.3, sequence-level interpolation) take the candidate that is most like the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqloom.decoding.limits import within_positions
from seqloom.decoding.loading import GenerativeModel
from seqloom.decoding.options import limited
from seqloom.modeling.pipeline_seq2seq import ends_of
from seqloom.scoring import metrics
from seqloom.scoring.significance import sentence_scores
from seqloom.support.wording import listing

Output = tuple[str, list[int]]
"""A text, and the ids of its tokens."""


@dataclass(frozen=True)
class Ends:
    """How an output shows that it was cut at the limit of length."""

    eos_token_ids: frozenset[int]
    longest: int | None
    """Tokens of an output whose end was forced on it, as some models' configs have it; None: none is."""

    @classmethod
    def of(cls, model: GenerativeModel, given: dict[str, Any]) -> Ends:
        """Of a model, and of what `generate` is given."""
        config = model.generation_config
        longest = None
        if given.get("forced_eos_token_id", config.forced_eos_token_id) is not None:
            limits = within_positions(model, limited(config, given))
            longest = limits.get("max_new_tokens") or config.max_new_tokens
            total = limits.get("max_length") or config.max_length
            if longest is None and total is not None:
                longest = total - 1  # which counts the token that it begins with
        return cls(frozenset(ends_of(model, given)), longest)

    def is_cut(self, tokens: Sequence[int]) -> bool:
        """Whether it came to no end of its own."""
        if not self.eos_token_ids:
            return False
        is_ended = bool(tokens) and tokens[-1] in self.eos_token_ids
        return not is_ended or (self.longest is not None and len(tokens) >= self.longest)


@dataclass(frozen=True)
class Choice:
    """The best of some candidates."""

    best_of: int
    metric: str
    options: dict[str, Any]
    """Of the metric's ``compute``."""

    @classmethod
    def of(cls, best_of: int, metric: str, metric_kwargs: dict[str, dict[str, Any]], references: list[str]) -> Choice:
        """The choice that is asked for.

        Args:
            best_of: Candidates of each source.
            metric: One of seqloom's own.
            metric_kwargs: ``evaluation.metric_kwargs``.
            references: Some, from which BLEU's tokenizer shows.

        Raises:
            ValueError: There is no such metric, or it does not take its options.
        """
        if best_of == 1:
            return cls(1, metric, {})
        if metric not in metrics.METRICS:
            raise ValueError(
                f"--metric is {metric!r}; of seqloom's own, which tell of one sentence, there are "
                f"{listing(metrics.METRICS)}."
            )
        options = dict(metric_kwargs.get(metric, {}))
        if not references:
            raise ValueError("--best_of holds candidates against references, but the first training pairs have none.")
        of_all = metrics.compute(metric, references, references, **options)  # which refuses what it does not take
        if metric == "sacrebleu":
            # A sentence is short: the orders that it is too short for are left out (sacrebleu's sentence BLEU).
            options = {"effective_order": True} | metrics.as_signed(metric, options, of_all["signature"])
        return cls(best_of, metric, options)

    @property
    def needs_references(self) -> bool:
        """Whether a pair without a reference is of no use."""
        return self.best_of > 1

    def record(self) -> dict[str, Any]:
        """For the record; nothing where there is no choice."""
        if self.best_of == 1:
            return {}
        return {"best_of": self.best_of, "metric": self.metric, "metric_kwargs": self.options}

    def best(self, ends: Ends, keep_cut: bool, found: Any, reference: str) -> dict[str, Any]:
        """What is kept of a source's outputs, and why if nothing is.

        Args:
            ends: How an output shows that it was cut.
            keep_cut: Whether it is kept then.
            found: An `Output`, or with several candidates a list of them.
            reference: What the candidates are held against.

        Returns:
            ``target``, the text; ``state``: ``kept``, ``kept_cut``, ``empty`` or ``cut``, of which the last two go.
        """
        candidates: list[Output] = found if self.best_of > 1 else [found]
        states = []
        for text, tokens in candidates:
            is_cut = ends.is_cut(tokens)
            states.append("empty" if not text.strip() else ("kept_cut" if keep_cut else "cut") if is_cut else "kept")
        usable = [number for number, state in enumerate(states) if state.startswith("kept")]
        if not usable:
            return {"target": candidates[0][0], "state": states[0]}
        best = usable[int(np.argmax(self.scores([candidates[number][0] for number in usable], reference)))]
        return {"target": candidates[best][0], "state": states[best]}

    def scores(self, texts: list[str], reference: str) -> np.ndarray:
        """How good each text is, more being better, (texts,)."""
        if len(texts) == 1:
            return np.zeros(1)
        metric = metrics.METRICS[self.metric]
        _, statistics = metric().measure(texts, [[reference]] * len(texts), **self.options)
        return sentence_scores([statistics]) * (1 if metric.higher_is_better else -1)
