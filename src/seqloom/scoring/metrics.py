"""Metrics of generated text: ours by name without a network, every other one from the Hub.

Ours are ``evaluate.Metric``s, thin around sacrebleu, jiwer and rouge_score. They have these rules in common:

- Scores are percentages. Each result has the main value as ``score`` and says in ``signature`` how it was made.
- A prediction has one reference (a string) or several (a list of strings), and their number may differ from pair to
  pair. BLEU, chrF and TER use them all, as sacrebleu does; the others take the reference closest to the prediction.
- Whatever is counted is added up over the whole corpus before it is divided; only ROUGE is a mean over sentences.
- With ``bootstrap_samples`` a result has the score's 95 % ``interval`` too (see `seqloom.scoring.significance`).
- Texts are compared as they are given: no lower case (ROUGE and TER apart) and no Unicode normalisation. What a model's
  tokenizer normalises, `seqloom.scoring.normalization` normalises in the references before.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import datasets
import evaluate
import jiwer
import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER

from seqloom.scoring import significance
from seqloom.scoring.scripts import UnicodeTokenizer, bleu_note, bleu_tokenizer, words_note
from seqloom.scoring.significance import Statistics
from seqloom.settings.schema import TrainingSettings
from seqloom.support.language import term
from seqloom.support.wording import nearest, unknown
from seqloom.version import __version__


class TextMetric(evaluate.Metric):
    """A metric of predicted texts against their references.

    Texts stay in memory, where runs cannot collide, unless processes share a score (``num_process``).
    """

    label: ClassVar[str]
    """What tables and plots call it."""
    higher_is_better: ClassVar[bool] = True
    splits_at_spaces: ClassVar[bool] = False
    """Its units are words, found by the spaces between them."""

    def __init__(self, *, num_process: int = 1, keep_in_memory: bool | None = None, **kwargs: Any):
        keep_in_memory = num_process == 1 if keep_in_memory is None else keep_in_memory
        super().__init__(num_process=num_process, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        return "" if self.keep_in_memory else super()._build_data_dir()  # in memory, HF_HOME may be read-only

    def _info(self) -> evaluate.MetricInfo:
        string = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="\npredictions: list of str; references: list of str, or of lists of str.",
            features=datasets.Features({"predictions": string, "references": datasets.Sequence(string)}),
        )

    def add_batch(self, *, predictions: Sequence[str], references: Sequence[str | list[str]]) -> None:
        """Add predictions and the references of each."""
        _check_pairs(predictions, references)
        references = [list(entry) if isinstance(entry, list | tuple) else [entry] for entry in references]
        if not all(references):
            raise ValueError("each prediction needs at least one reference; given is an empty list.")
        for text in chain(predictions, *references):
            if not isinstance(text, str):  # evaluate alone would write None and numbers as text
                raise ValueError(f"predictions are strings and references strings or lists of them, not {text!r}.")
        super().add_batch(predictions=list(predictions), references=references)

    def add(self, *, prediction: str | None = None, reference: str | list[str] | None = None, **kwargs: Any) -> None:
        """Add one prediction and its references."""
        example = {"predictions": prediction, "references": reference, **kwargs}  # evaluate.combine uses the plurals
        self.add_batch(**{name: [value] for name, value in example.items()})

    def measure(self, predictions: list[str], references: list[list[str]]) -> tuple[dict, Statistics]:
        """The result, and the statistics of the sentences (float64) that its ``score`` is computed from.

        A metric that has options takes them too.
        """
        raise NotImplementedError

    @classmethod
    def note(cls, references: Sequence[str | list[str]], **options: Any) -> str | None:
        """What is to be said beside a score of these references; None where nothing is."""
        return words_note(references) if cls.splits_at_spaces else None

    def _compute(
        self, predictions: list[str], references: list[list[str]], *, bootstrap_samples: int = 0, **options: Any
    ) -> dict[str, Any]:
        result, statistics = self.measure(predictions, references, **options)
        if bootstrap_samples:
            result["interval"] = significance.interval(statistics, bootstrap_samples)
        return result


class SacrebleuMetric(TextMetric):
    """A metric of sacrebleu; the arguments of ``compute`` are those of its class there."""

    scorer: ClassVar[type]
    fields: ClassVar[tuple[str, ...]]

    def measure(self, predictions: list[str], references: list[list[str]], **options: Any) -> tuple[dict, Statistics]:
        try:
            scorer = self.scorer(**options)
        except (AssertionError, KeyError, TypeError) as error:
            raise ValueError(f"{self.name} does not take {options}: see sacrebleu's {self.scorer.__name__}.") from error
        except (ImportError, RuntimeError, OSError) as error:  # a tokenizer's package or file
            said = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{self.name} cannot work with {options} here: {said}.") from error
        streams = list(zip_longest(*references))  # (references, sentences), None where a sentence has fewer
        # The two halves of corpus_score; sacrebleu's own bootstrap stands between them too.
        rows = scorer._extract_corpus_statistics(predictions, streams)
        result = scorer._aggregate_and_compute(rows)
        statistics = Statistics(
            np.array(rows, dtype=np.float64), lambda sums: scorer._compute_score_from_stats(sums.tolist()).score
        )
        values = {name: getattr(result, name) for name in self.fields}
        return values | {"signature": str(scorer.get_signature())}, statistics


class Sacrebleu(SacrebleuMetric):
    """BLEU: n-gram precision with a brevity penalty (Papineni et al., 2002), as sacrebleu computes it (Post, 2018).

    ``tokenize``, ``lowercase``, ``smooth_method``, ``force`` ... are sacrebleu's. Without ``tokenize`` it is what suits
    the references (`seqloom.scoring.scripts`): 13a, which splits off punctuation, for languages with spaces.
    """

    label = "BLEU"
    scorer = BLEU
    fields = ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")

    def measure(self, predictions: list[str], references: list[list[str]], **options: Any) -> tuple[dict, Statistics]:
        tokenize = options.get("tokenize")
        if tokenize is not None and tokenize not in BLEU.TOKENIZERS:
            raise ValueError(
                f"{self.name} does not take {options}: {unknown(f'tokenize={tokenize!r}', BLEU.TOKENIZERS)}"
            )
        if tokenize is None:
            options = options | {"tokenize": bleu_tokenizer(references).tokenize}
        # Whoever asks for tokenize="none" knows that the text is tokenised: sacrebleu need not warn of it.
        return super().measure(predictions, references, **{"force": tokenize == "none"} | options)

    @classmethod
    def note(cls, references: Sequence[str | list[str]], **options: Any) -> str | None:
        return bleu_note(references, **options)


class Chrf(SacrebleuMetric):
    """chrF2, the F-score of character n-grams (Popović, 2015); with ``word_order=2`` chrF++ (Popović, 2017)."""

    label = "chrF"
    scorer = CHRF
    fields = ("score", "char_order", "word_order", "beta")


class Ter(SacrebleuMetric):
    """Translation edit rate: edits and shifts of words per reference word (Snover et al., 2006). Less is better."""

    label = "TER"
    higher_is_better = False
    splits_at_spaces = True
    scorer = TER
    fields = ("score", "num_edits", "ref_length")


class CountingMetric(TextMetric):
    """A metric that counts the errors among a number of units: ``count`` is all that its kinds differ in.

    Outer whitespace is stripped and a run of whitespace is one space. Of several references the one with the lowest
    error rate counts. An empty reference adds the prediction's units as errors; where all are empty, the errors are
    divided by 1, as jiwer does.
    """

    rule: ClassVar[str]
    library: ClassVar[str] = f"seqloom|version:{__version__}"

    def count(self, prediction: str, reference: str) -> tuple[int, int]:
        """Errors and units of one pair."""
        raise NotImplementedError

    def measure(self, predictions: list[str], references: list[list[str]]) -> tuple[dict, Statistics]:
        rows = []
        for prediction, group in zip(predictions, references, strict=True):
            words = " ".join(prediction.split())
            pairs = [self.count(words, " ".join(reference.split())) for reference in group]
            rows.append(min(pairs, key=lambda pair: pair[0] / max(pair[1], 1)))
        errors, total = (sum(column) for column in zip(*rows, strict=True))
        signature = f"nrefs:{_num_references(references)}|case:mixed|space:collapsed|{self.rule}|lib:{self.library}"
        result = {"score": self._score((errors, total)), "errors": errors, "total": total, "signature": signature}
        return result, Statistics(np.array(rows, dtype=np.float64), self._score, is_share=self.higher_is_better)

    def _score(self, sums: np.ndarray | tuple[int, int]) -> float:
        errors, divisor = sums[0], max(sums[1], 1)
        return 100 * ((divisor - errors) if self.higher_is_better else errors) / divisor


class ExactMatch(CountingMetric):
    """Percent of predictions equal to their reference, whitespace apart."""

    label = "Exact match"
    rule = "unit:text"

    def count(self, prediction: str, reference: str) -> tuple[int, int]:
        return int(prediction != reference), 1


class TokenAccuracy(CountingMetric):
    """Percent of positions with the same whitespace token; a missing or surplus token is a wrong position."""

    label = "Token accuracy"
    splits_at_spaces = True
    rule = "tok:whitespace|unit:position|length:longer"

    def count(self, prediction: str, reference: str) -> tuple[int, int]:
        pairs = list(zip_longest(prediction.split(), reference.split()))
        return sum(ours != theirs for ours, theirs in pairs), len(pairs)


class Wer(CountingMetric):
    """Word error rate: insertions, deletions and substitutions per reference word. Less is better."""

    label = "WER"
    higher_is_better = False
    splits_at_spaces = True
    rule = "tok:whitespace|unit:word"
    library = f"jiwer|version:{importlib.metadata.version('jiwer')}"

    def align(self, reference: str, prediction: str) -> jiwer.WordOutput | jiwer.CharacterOutput:
        """The edits between the two, in this metric's units."""
        return jiwer.process_words(reference, prediction)

    def count(self, prediction: str, reference: str) -> tuple[int, int]:
        found = self.align(reference, prediction)
        missed = found.substitutions + found.deletions
        return missed + found.insertions, missed + found.hits


class Cer(Wer):
    """Character error rate: the same per code point of the reference (a Korean syllable is one), spaces included."""

    label = "CER"
    splits_at_spaces = False
    rule = "tok:char|unit:codepoint"

    def align(self, reference: str, prediction: str) -> jiwer.WordOutput | jiwer.CharacterOutput:
        return jiwer.process_characters(reference, prediction)


class Per(Wer):
    """Phoneme error rate: the same per phoneme, where phonemes are separated by whitespace (``HH AH0 L OW1``)."""

    label = "PER"
    splits_at_spaces = False  # phonemes are parted in every language
    rule = "tok:whitespace|unit:phoneme"


class Rouge(TextMetric):
    """F-scores of ROUGE-1, -2, -L and -Lsum (Lin, 2004), each the mean over sentences; ``score`` is ROUGE-L.

    rouge_score's own tokenizer keeps nothing but a-z and 0-9; ours does the same for every script. There is no
    stemming. ROUGE-Lsum takes lines for sentences.
    """

    label = "ROUGE-L"
    splits_at_spaces = True
    kinds: ClassVar[list[str]] = ["rouge1", "rouge2", "rougeL", "rougeLsum"]

    def measure(self, predictions: list[str], references: list[list[str]]) -> tuple[dict, Statistics]:
        from rouge_score.rouge_scorer import RougeScorer  # and all of nltk with it

        scorer = RougeScorer(self.kinds, tokenizer=UnicodeTokenizer())
        scores = [scorer.score_multi(group, text) for text, group in zip(predictions, references, strict=True)]
        means = {kind: 100 * fmean(score[kind].fmeasure for score in scores) for kind in self.kinds}
        signature = (
            f"nrefs:{_num_references(references)}|case:lc|tok:unicode|stem:no|main:rougeL|value:f1|mean:sentence"
            f"|lib:rouge_score|version:{importlib.metadata.version('rouge_score')}"
        )
        rows = np.array([(score["rougeL"].fmeasure, 1.0) for score in scores])  # F and a sentence each
        statistics = Statistics(rows, lambda sums: 100 * sums[0] / sums[1])
        return {"score": means["rougeL"], **means, "signature": signature}, statistics


METRICS: dict[str, type[TextMetric]] = {
    "sacrebleu": Sacrebleu,
    "chrf": Chrf,
    "ter": Ter,
    "exact_match": ExactMatch,
    "token_accuracy": TokenAccuracy,
    "wer": Wer,
    "cer": Cer,
    "per": Per,
    "rouge": Rouge,
}


def load_metric(name: str) -> evaluate.Metric | evaluate.EvaluationModule:
    """One of ours by its name; any other name is ``evaluate.load``'s, which needs the Hub or its cache.

    Raises:
        ValueError: If there is no such metric, or the Hub is out of reach.
    """
    if name in METRICS:
        return METRICS[name]()
    if not name.strip():
        raise ValueError(f"a metric's name is empty; seqloom has {', '.join(METRICS)}.")
    try:
        return evaluate.load(name)
    except ImportError as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"metric {name!r} lacks a package: {said}.") from error
    except (OSError, ValueError, LookupError) as error:  # FileNotFoundError, ConnectionError; the rest of odd names
        near = nearest(name, METRICS)
        hint = f"did you mean {near}?" if near else "use one of seqloom's own."
        raise ValueError(
            f"metric {name!r} is not one of seqloom's ({', '.join(METRICS)}) and evaluate.load cannot get it: {hint}"
        ) from error


def higher_is_better(name: str, told: bool | None = None) -> bool:
    """Whether more is better. Of metrics of the Hub, which do not say, the settings tell (``greater_is_better``), else
    they are taken to grow with quality; the loss does not."""
    if name in METRICS:
        return METRICS[name].higher_is_better
    return name != "loss" and told is not False


def note(name: str, references: Sequence[str | list[str]], options: dict[str, Any]) -> str | None:
    """What is to be said beside a metric's score of these references: ``wer: the references are Thai, …``."""
    said = METRICS[name].note(references, **options) if name in METRICS else None
    return f"{name}: {said}." if said else None


def as_signed(name: str, options: dict[str, Any], signature: str) -> dict[str, Any]:
    """The arguments with the tokenizer that a signature names: what is chosen depends on what is installed."""
    tokenizer = re.search(r"\|tok:([^|]*)", signature) if name == "sacrebleu" else None
    return {"tokenize": tokenizer[1]} | options if tokenizer and tokenizer[1] in BLEU.TOKENIZERS else options


def label(name: str) -> str:
    """What tables and plots call a metric: ``BLEU``; one of the Hub by its name."""
    return term(METRICS[name].label) if name in METRICS else name


@dataclass(frozen=True)
class Goal:
    """What a run's validations are judged by."""

    name: str
    """``loss``, or a metric of greedy outputs."""
    greater_is_better: bool | None = None
    """Of a metric of the Hub: what the settings say."""

    @classmethod
    def of(cls, training: TrainingSettings) -> Goal:
        """The one that the settings choose: ``metric_for_best_model``, else ``eval_metric``, else the loss."""
        return cls(training.metric_for_best_model or training.eval_metric or "loss", training.greater_is_better)

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is: of two scores times it, the greater one is the better."""
        return 1 if higher_is_better(self.name, self.greater_is_better) else -1

    def is_better(
        self, score: float, other: float | None, loss: float | None = None, other_loss: float | None = None
    ) -> bool:
        """Whether a score is better than another, or the first of all: of equal ones the lower loss decides, where both
        are known."""
        if other is None or score != other:
            return other is None or self.sign * score > self.sign * other
        return loss is not None and other_loss is not None and loss < other_loss


def compute(
    name: str,
    predictions: Sequence[str],
    references: Sequence[str | list[str]],
    *,
    sources: Sequence[str] | None = None,
    bootstrap_samples: int = 0,
    **kwargs,
) -> dict[str, Any]:
    """Compute a metric by its name; ``kwargs`` are those of its own ``compute``.

    Args:
        name: One of seqloom's, or any that `load_metric` finds.
        predictions, references: Texts; the reference of each, or a list of its references.
        sources: For metrics of the Hub that read them, as COMET does.
        bootstrap_samples: Resamples of the sentences for the score's interval; 0 for none.

    Returns:
        The metric's result in plain Python, with ``score`` and ``signature``. The ``score`` of a metric of the Hub is
        the value under its own name, else under ``score``, else the first number. With ``bootstrap_samples`` also the
        score's 95 % ``interval``; None for one of the Hub, which does not tell what its score is made of.

    Raises:
        ValueError: If there is no such metric, nothing to score, or not one reference entry for each prediction.
    """
    _check_pairs(predictions, references)
    metric = load_metric(name)
    if name in METRICS:
        kwargs["bootstrap_samples"] = bootstrap_samples
    elif "sources" in (metric.features[0] if isinstance(metric.features, list) else metric.features):
        kwargs["sources"] = sources
        if sources is None:
            raise ValueError(f"metric {name!r} reads the sources too, which are not at hand here: choose another one.")
    result = _plain(metric.compute(predictions=predictions, references=references, **kwargs))
    if name in METRICS:
        return result
    numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
    if not numbers:
        raise ValueError(f"metric {name!r} gives no single number to use as score, only {', '.join(result)}.")
    score = next(numbers[key] for key in (Path(name).stem, "score", *numbers) if key in numbers)
    result |= {"score": float(score), "signature": f"evaluate:{evaluate.__version__}|metric:{name}"}
    return result | ({"interval": None} if bootstrap_samples else {})


def _check_pairs(predictions: Sequence, references: Sequence) -> None:
    if isinstance(predictions, str) or isinstance(references, str) or predictions is None or references is None:
        raise ValueError("predictions and references must both be lists, with one entry for each sentence.")
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(
            f"there are {len(predictions)} predictions and {len(references)} entries of references: "
            "give as many of both, and at least one."
        )


def _num_references(references: list[list[str]]) -> int | str:
    """As sacrebleu's signature has it."""
    counts = {len(group) for group in references}
    return counts.pop() if len(counts) == 1 else "var"


def _plain(value: Any) -> Any:
    """The value without NumPy's or torch's types."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
