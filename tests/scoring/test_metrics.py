"""The metrics say what their libraries say, what a hand computes, and how they were made; none needs a network."""

from importlib.metadata import version
from typing import ClassVar

import datasets
import evaluate
import jiwer
import numpy as np
import pytest
import sacrebleu
from helpers.scores import statistics
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from seqloom.scoring import metrics, significance
from seqloom.scoring.metrics import METRICS, compute, higher_is_better, load_metric
from seqloom.scoring.scripts import UnicodeTokenizer

PREDICTIONS = ["Der schöne Hund läuft über die Straße .", "나는 오늘 학교에 갔다", "the cat sat on mat"]
REFERENCES = ["Der schöne Hund lief über die Straße.", "나는 어제 학교에 갔다", "the cat sat on the mat"]
SECOND = ["Ein schöner Hund läuft über die Straße.", "오늘 나는 학교에 갔다", "the cat was on the mat"]
LESS_IS_BETTER = {"ter", "wer", "cer", "per"}


@pytest.mark.parametrize(
    ("name", "scorer", "options"),
    [
        ("sacrebleu", BLEU, {}),
        ("sacrebleu", BLEU, {"tokenize": "char", "lowercase": True, "smooth_method": "floor", "force": True}),
        ("chrf", CHRF, {}),
        ("chrf", CHRF, {"word_order": 2}),
        ("ter", TER, {}),
        ("ter", TER, {"case_sensitive": True}),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_sacrebleu_is_sacrebleu(name, scorer, options, several):
    references = [list(pair) for pair in zip(REFERENCES, SECOND, strict=True)] if several else REFERENCES
    result = compute(name, PREDICTIONS, references, **options)
    direct = scorer(**options)
    expected = direct.corpus_score(PREDICTIONS, [REFERENCES, SECOND] if several else [REFERENCES])
    assert 0 < result["score"] < 100
    assert result.pop("signature") == str(direct.get_signature())
    assert result == {field: getattr(expected, field) for field in result}


def test_bleu_has_its_parts_and_signature():
    result = compute("sacrebleu", PREDICTIONS, REFERENCES)
    assert {"score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len", "signature"} == set(result)
    assert result["signature"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "nw:2" in compute("chrf", PREDICTIONS, REFERENCES, word_order=2)["signature"]
    assert compute("ter", ["a b c d"], ["a b x d"])["score"] == 25


def test_the_number_of_references_may_differ():
    ragged = [[REFERENCES[0], SECOND[0]], REFERENCES[1], [REFERENCES[2]]]
    result = compute("sacrebleu", PREDICTIONS, ragged)
    assert result["score"] == BLEU().corpus_score(PREDICTIONS, [REFERENCES, [SECOND[0], None, None]]).score
    for name in METRICS:
        assert "nrefs:var" in compute(name, PREDICTIONS, ragged)["signature"]


def test_options_sacrebleu_does_not_know_are_refused():
    metric = load_metric("sacrebleu")
    for options in ({"tokenize": "nope"}, {"smooth_method": "nope"}, {"nope": 1}):
        with pytest.raises(ValueError, match=r"sacrebleu does not take .*nope"):
            metric.compute(predictions=["a"], references=["a"], **options)
    assert metric.compute(predictions=["a b c d"], references=["a b c d"])["score"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("name", "prediction", "reference", "score"),
    [
        ("exact_match", " a \t b\n", "a b", 100),
        ("exact_match", "ab", "a b", 0),
        ("exact_match", "Straße", "straße", 0),
        ("exact_match", "", "", 100),
        ("token_accuracy", "a b c", "a x c", 100 * 2 / 3),
        ("token_accuracy", "a b", "a b c d", 50),
        ("token_accuracy", "a b c d", "a b", 50),
        ("token_accuracy", "b c d", "a b c d", 0),
        ("token_accuracy", "나는  갔다", "나는 갔다", 100),
        ("token_accuracy", "", "", 100),
        ("token_accuracy", "a", "", 0),
        ("wer", "the cat sat", "the cat sat down", 25),
        ("wer", "나는 오늘 갔다", "나는\t어제  갔다", 100 / 3),
        ("wer", "a b c d", "x", 400),
        ("wer", "", "", 0),
        ("wer", "a b", "", 200),
        ("wer", "", "a b", 100),
        ("cer", "gruß", "gruss", 40),
        ("cer", "학교에 갔어", "학교에 갔다", 100 / 6),
        ("cer", "ab", "a b", 100 / 3),
        ("cer", "", "", 0),
        ("per", "HH AH0 L OW1", "HH EH0 L OW1", 25),
        ("per", "h a l o:", "h a l o: s", 20),
    ],
)
def test_counts_by_hand(name, prediction, reference, score):
    assert compute(name, [prediction], [reference])["score"] == pytest.approx(score)


def test_error_rates_are_jiwers_over_the_corpus():
    predictions, references = [*PREDICTIONS, "surplus"], [*REFERENCES, ""]
    assert compute("wer", predictions, references)["score"] == pytest.approx(100 * jiwer.wer(references, predictions))
    assert compute("cer", predictions, references)["score"] == pytest.approx(100 * jiwer.cer(references, predictions))
    assert compute("per", predictions, references)["score"] == compute("wer", predictions, references)["score"]
    result = compute("wer", ["a", "a b c d"], ["x", "a b c d"])
    assert (result["errors"], result["total"], result["score"]) == (1, 5, 20)  # not the mean of 100 and 0


def test_of_several_references_the_closest_counts():
    predictions, references = ["a b", "c"], [["a b c d e", "a x"], "c"]
    assert compute("exact_match", ["a b", "c"], [["x", "a b"], ["d"]])["score"] == 50
    assert compute("token_accuracy", predictions, references)["errors"] == 1
    result = compute("wer", predictions, [["x y z", "a b c"], "c"])
    assert (result["errors"], result["total"]) == (1, 4)
    best = compute("rouge", ["the cat"], [["a dog", "the cat"]])
    assert best["score"] == best["rouge2"] == 100


def test_rouge_is_rouge_score_and_keeps_every_script():
    predictions = ["The cat_sat, on 2 mats!\nIt slept.", "a b c"]
    references = ["A cat sat on 2 mats.\nIt snored.", "a c b"]
    result = compute("rouge", predictions, references)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    scores = [scorer.score(target, text) for target, text in zip(references, predictions, strict=True)]
    for kind in scorer.rouge_types:
        assert result[kind] == pytest.approx(100 * np.mean([score[kind].fmeasure for score in scores]))
    assert result["score"] == result["rougeL"]
    korean = compute("rouge", ["나는 오늘 학교에 갔다."], ["나는 어제 학교에 갔다"])
    assert (korean["rouge1"], korean["rougeL"]) == (75, 75)  # the library's tokenizer finds no words: 0
    assert UnicodeTokenizer().tokenize("Größe über_alles – हिन्दी") == ["größe", "über", "alles", "हिन्दी"]


def test_every_metric_is_a_percentage_with_a_signature():
    for name, metric in METRICS.items():
        result = compute(name, REFERENCES, REFERENCES)
        assert result["score"] == pytest.approx(0 if name in LESS_IS_BETTER else 100)
        assert isinstance(result["score"], float)
        assert higher_is_better(name) is metric.higher_is_better is (name not in LESS_IS_BETTER)
        assert load_metric(name).name == name
        pairs = dict(pair.split(":") for pair in result["signature"].split("|"))
        assert pairs["nrefs"] == "1"
        assert "version" in pairs
    assert higher_is_better("bertscore")
    assert f"lib:jiwer|version:{version('jiwer')}" in compute("cer", ["a"], ["a"])["signature"]
    assert "tok:unicode" in compute("rouge", ["a"], ["a"])["signature"]
    assert "unit:phoneme" in compute("per", ["a"], ["a"])["signature"]
    assert "space:collapsed" in compute("exact_match", ["a"], ["a"])["signature"]
    assert "length:longer" in compute("token_accuracy", ["a"], ["a"])["signature"]


@pytest.mark.parametrize("name", METRICS)
def test_evaluates_own_ways_in_give_the_same(name):
    references = [REFERENCES[0], [REFERENCES[1], SECOND[1]], (REFERENCES[2],)]
    expected = compute(name, PREDICTIONS, references)
    metric = load_metric(name)
    metric.add_batch(predictions=PREDICTIONS[:2], references=references[:2])
    metric.add(prediction=PREDICTIONS[2], reference=references[2])
    assert metric.compute() == expected
    assert metric.compute(predictions=PREDICTIONS, references=references) == expected  # nothing is left over


OPTIONS = [
    *((name, {}) for name in METRICS),
    ("sacrebleu", {"smooth_method": "add-k", "smooth_value": 0.5}),
    ("sacrebleu", {"tokenize": "char", "effective_order": True}),
    ("chrf", {"word_order": 2, "eps_smoothing": True}),
]


def corpus(size: int, several: bool = False) -> tuple[list[str], list]:
    """Texts of very different lengths and qualities, an empty one among them."""
    words, generator = (
        ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "run"],
        np.random.default_rng(1),
    )
    references = [" ".join(generator.choice(words, generator.integers(1, 15))) for _ in range(size)]
    predictions = []
    for reference in references:
        kept = generator.random(len(reference.split())) < generator.random()
        predictions.append(
            " ".join(w if k else str(generator.choice(words)) for w, k in zip(reference.split(), kept, strict=True))
        )
    predictions[-1] = ""
    return predictions, [
        [text, text[4:] or "x"][: 1 + i % 2] for i, text in enumerate(references)
    ] if several else references


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_resamples_score_is_the_metrics_own(name, options, several):
    """The metric, given the texts of a resample, says what the sums of their statistics say; the interval is theirs."""
    predictions, references = corpus(40, several)
    parts = statistics(name, predictions, references, **options)
    assert parts.score(parts.values.sum(axis=0)) == pytest.approx(
        compute(name, predictions, references, **options)["score"]
    )
    scores = significance.resampled_scores(parts, 12)
    for counts, score in zip(significance.resamples(40, 12), scores, strict=True):
        assert counts.sum() == 40
        drawn = np.repeat(np.arange(40), counts)
        texts, targets = [predictions[i] for i in drawn], [references[i] for i in drawn]
        assert score == pytest.approx(compute(name, texts, targets, **options)["score"], rel=1e-9)
    assert len({round(score, 6) for score in scores}) > 3
    result = compute(name, predictions, references, bootstrap_samples=12, **options)
    if not parts.is_share:  # of which Wilson's is: test_significance.py
        assert result["interval"] == np.quantile(scores, [0.025, 0.975]).tolist()
    assert {**result, "interval": None} == {**compute(name, predictions, references, **options), "interval": None}


@pytest.mark.parametrize(("name", "scorer"), [("sacrebleu", BLEU), ("chrf", CHRF), ("ter", TER)])
def test_the_bootstrap_is_sacrebleus(name, scorer, monkeypatch):
    """Its very resamples; it gives their mean, and half the width between the 26th score and the 26th last."""
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    predictions, references = corpus(60)
    theirs = scorer().corpus_score(predictions, [references], n_bootstrap=1000)
    scores = np.sort(significance.resampled_scores(statistics(name, predictions, references), 1000))
    assert scores.mean() == pytest.approx(theirs._mean, rel=1e-5)
    assert (scores[-26] - scores[25]) / 2 == pytest.approx(theirs._ci, rel=1e-4)
    low, high = compute(name, predictions, references, bootstrap_samples=1000)["interval"]
    assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.02)


@pytest.mark.slow
def test_intervals():
    """The same every time, in plain Python, around the score, the narrower the more sentences; none unasked for."""
    predictions, references = corpus(50)
    for name in METRICS:
        result = compute(name, predictions, references, bootstrap_samples=300)
        low, high = result["interval"]
        assert low < result["score"] < high
        assert type(low) is type(high) is float
        assert result == compute(name, predictions, references, bootstrap_samples=300)
        low_many, high_many = compute(name, predictions * 10, references * 10, bootstrap_samples=300)["interval"]
        assert high_many - low_many < (high - low) / 2
        assert "interval" not in compute(name, predictions, references)
        one = compute(name, predictions[:1], references[:1], bootstrap_samples=10)
        alike = compute(name, references[:1] * 5, references[:1] * 5, bootstrap_samples=10)
        if name in ("exact_match", "token_accuracy"):  # of five sentences that are right more could be wrong
            assert alike["interval"] == pytest.approx([100 * 5 / (5 + 1.959964**2), 100])
            assert one["interval"][1] - one["interval"][0] > 50
            continue
        assert one["interval"] == pytest.approx([one["score"]] * 2)
        assert alike["interval"] == pytest.approx([alike["score"]] * 2)


def test_systems_meet_the_same_resamples():
    """As a paired comparison needs: in each resample the better system is better, however the resamples differ."""
    predictions, references = corpus(50)
    pairs = enumerate(zip(predictions, references, strict=True))
    better = [reference if i % 3 else text for i, (text, reference) in pairs]
    ours, theirs = (statistics("wer", texts, references) for texts in (better, predictions))
    assert (significance.resampled_scores(ours, 50) < significance.resampled_scores(theirs, 50)).all()


def test_combine():
    metric = evaluate.combine([load_metric("wer"), load_metric("exact_match")])
    result = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result["wer_score"] == compute("wer", PREDICTIONS, REFERENCES)["score"]
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction, reference)
    assert metric.compute() == result


def test_one_process_writes_nothing_and_several_share_files(tmp_path):
    assert METRICS["wer"](cache_dir=str(tmp_path)).compute(predictions=["a"], references=["a"])["score"] == 0
    assert not list(tmp_path.iterdir())
    assert not METRICS["wer"](cache_dir=str(tmp_path), num_process=2, experiment_id="pair").keep_in_memory


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a", "b"], ["a"], "2 predictions and 1 entries"),
        ([], [], "0 predictions and 0 entries"),
        ("ab", "ab", "must both be lists"),
        (["a"], None, "must both be lists"),
        (["a", None], ["a", "b"], "not None"),
        (["a", "b"], ["a", ["b", 3]], "not 3"),
        (["a", "b"], ["a", []], "at least one reference"),
    ],
)
def test_wrong_input_is_refused(predictions, references, message):
    for name in ("sacrebleu", "wer", "rouge"):
        with pytest.raises(ValueError, match=message):
            compute(name, predictions, references)
        with pytest.raises(ValueError, match=message):
            load_metric(name).compute(predictions=predictions, references=references)


def test_an_unknown_name_is_answered_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"'sacreblue' is not one of seqloom's \(sacrebleu, .*did you mean sacrebleu\?"
    ):
        load_metric("sacreblue")
    with pytest.raises(ValueError, match="use one of seqloom's own"):
        compute("somebody/zzz", ["a"], ["a"])


class Foreign(evaluate.Metric):
    """A metric as the Hub has them: numpy values, no score, no signature."""

    values: ClassVar[dict] = {"parts": np.arange(2), "count": 3, "foreign": np.float32(0.5)}

    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return self.values


@pytest.mark.parametrize(("name", "score"), [("foreign", 0.5), ("somebody/foreign", 0.5), ("other", 3.0)])
def test_a_metric_of_the_hub_is_given_score_and_signature(monkeypatch, name, score):
    monkeypatch.setattr(metrics.evaluate, "load", lambda _: Foreign(keep_in_memory=True))
    result = compute(name, ["a"], ["b"])
    signature = f"evaluate:{evaluate.__version__}|metric:{name}"
    assert result == {"parts": [0, 1], "count": 3, "foreign": 0.5, "score": score, "signature": signature}
    assert type(result["score"]) is type(result["foreign"]) is float
    assert compute(name, ["a"], ["b"], bootstrap_samples=10) == {**result, "interval": None}
    monkeypatch.setattr(Foreign, "values", {"parts": np.arange(2)})
    with pytest.raises(ValueError, match="no single number"):
        compute(name, ["a"], ["b"])


class OfSources(Foreign):
    """One that reads the sources too, as COMET does."""

    def _info(self):
        features = datasets.Features(
            {name: datasets.Value("string") for name in ("sources", "predictions", "references")}
        )
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, sources, predictions, references):
        scores = [float(source == prediction) for source, prediction in zip(sources, predictions, strict=True)]
        return {"mean_score": sum(scores) / len(scores), "scores": scores}


def test_a_metric_that_reads_the_sources_is_given_them(monkeypatch):
    monkeypatch.setattr(metrics.evaluate, "load", lambda _: OfSources(keep_in_memory=True))
    result = compute("comet", ["a", "b"], ["c", "c"], sources=["a", "x"])
    assert (result["score"], result["scores"]) == (0.5, [1.0, 0.0])
    with pytest.raises(ValueError, match="'comet' reads the sources too"):
        compute("comet", ["a"], ["b"])
