"""Two models, or the predictions that were kept of them, on the same sentences: does the one differ from the other?"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from seqloom import run_folder
from seqloom.decoding.loading import check_exists, open_model
from seqloom.scoring import metrics, significance
from seqloom.scoring.naming import check_names, on_the_line
from seqloom.scoring.normalization import signed
from seqloom.scoring.predictions import (
    Predictions,
    alone_in,
    check_is_ours,
    check_same_sentences,
    measure_sentences,
    normalizations,
    read_predictions,
    read_scores,
)
from seqloom.scoring.score import decoding_of, empties, load_split, score_model, scores_folder, settings_of, weights_of
from seqloom.scoring.significance import Statistics
from seqloom.scoring.trials import try_metrics
from seqloom.settings.schema import EvaluationSettings, ScoringSettings
from seqloom.support import disk
from seqloom.support.foreign import from_json
from seqloom.support.hub_files import is_only_here
from seqloom.support.language import say
from seqloom.support.wording import listing, p_value, value_in_words, with_interval


def compare_models(name: str, other: str, overrides: Sequence[str] = (), *, overwrite: bool = False) -> dict[str, Any]:
    """Scores two models on the same sentences and tests whether they differ, as ``--against OTHER`` asks.

    Predictions that are kept of the same split, sentences and generation settings are taken as they are. The data are
    those of MODEL's run (of OTHER's, where MODEL is a file), or as given; so are the metrics. ``--output_dir`` and
    ``--revision`` are MODEL's; OTHER's scores have their default folder.

    Args:
        name, other: Each a model (a folder or a name on the Hub), a folder that ``seqloom evaluate`` wrote, or a
            ``predictions.jsonl``.
        overrides: As for `evaluate_model`.
        overwrite: Decode anew, and replace earlier scores and results.

    Returns:
        What was written to ``against-OTHER.json``, in ``--output_dir`` or beside MODEL's predictions; where that file
        is there and says something else, to ``against-OTHER-2.json``.

    Raises:
        ValueError: Model, data, files or settings do not allow it, or the two have not the same sentences.
    """
    name, other = _predictions_in(name), _predictions_in(other)
    files = {system: _is_file(system) for system in (name, other)}
    leading = name if not files[name] or files[other] else other
    settings, generate_kwargs = settings_of(_home(leading), overrides)
    if files[leading]:
        settings = _with_metrics_beside(leading, settings, overrides)
        if generate_kwargs:
            raise ValueError(
                f"{', '.join(generate_kwargs)} cannot be set for two files of predictions, already decoded: "
                "leave it out, or name models."
            )
    check_names(settings.evaluation.metrics, f"what lies with {leading}", on_the_line(overrides))
    samples = settings.evaluation.bootstrap_samples
    if not samples:
        raise ValueError("bootstrap_samples is 0, which leaves nothing to test with; give --bootstrap_samples 1000.")
    try_metrics(settings.evaluation)
    of_other = dataclasses.replace(settings, output_dir=None, revision=None)
    each = {name: settings, other: of_other}
    paths = {s: Path(s) if files[s] else scores_folder(s, each[s]) / run_folder.PREDICTIONS for s in (name, other)}
    if name == other or paths[name].resolve() == paths[other].resolve():
        raise ValueError(f"{name} and {other} are the same predictions; give another model or file to --against.")
    for system in (name, other):
        if not files[system]:
            check_exists(system)
    found = {
        system: read_predictions(paths[system])
        for system in (name, other)
        if files[system] or (not overwrite and _is_kept(system, each[system], generate_kwargs))
    }
    missing = [system for system in (name, other) if system not in found]
    for system in missing:
        check_is_ours(paths[system].parent, each[system].data.places())
    if len(missing) == 1:  # whether its sentences are the other's shows before they are decoded
        pairs, _ = load_split(settings)
        data = Predictions(pairs["source"][:], pairs["target"][:], [])
        check_same_sentences(found | {f"the data of {missing[0]}": data})
    for system in missing:
        score_model(system, each[system], generate_kwargs)
        found[system] = read_predictions(paths[system])
    check_same_sentences(found)
    results = {
        "systems": {"a": name, "b": other},
        "decoding": {letter: decoded_by(paths[system]) for letter, system in (("a", name), ("b", other))},
        "sentences": len(found[name].sources),
        "metrics": compare_predictions(found[name], found[other], settings.evaluation),
    }
    signatures = other_signatures(results, {"A": paths[name].parent, "B": paths[other].parent})
    results["notes"] = notes_on(found, settings.evaluation) + signatures
    folder = Path(settings.output_dir) if settings.output_dir else paths[name].parent
    with alone_in(folder):
        path = _write_beside(folder, f"against-{_short_name(other)}", results, overwrite)
    return results | {"file": str(path), "split": settings.split_to_score()}


def _predictions_in(name: str) -> str:
    """The file of predictions, where a folder holds those and no model; else the name as it is.

    Raises:
        ValueError: The folder holds folders of predictions, a split each.
    """
    folder = Path(name)
    if not folder.is_dir() or (folder / run_folder.CONFIG).exists():
        return name
    if (folder / run_folder.PREDICTIONS).is_file():
        return str(folder / run_folder.PREDICTIONS)
    splits = sorted(path.parent.name for path in folder.glob(f"*/{run_folder.PREDICTIONS}"))
    if splits:
        raise ValueError(f"{name} holds the predictions of {listing(splits)}: give the folder of one of them.")
    return name


def _is_file(name: str) -> bool:
    """Whether it names predictions and no model."""
    return name.endswith((".jsonl", ".jsonl.gz")) or Path(name).is_file()


def _home(name: str) -> Path | str:
    """Where the settings are: the model's folder, that of a model whose predictions these are, else nowhere."""
    folder = Path(name).resolve().parent.parent
    return folder.parent if _is_file(name) and folder.name == "evaluation" else name


def _with_metrics_beside(name: str, settings: ScoringSettings, overrides: Sequence[str]) -> ScoringSettings:
    """Where neither the command nor a run names metrics, those of the scores beside the file."""
    is_given = {word.partition("=")[0] for word in overrides} & {"--metrics", "--evaluation.metrics"}
    scores = read_scores(Path(name).parent)
    if is_given or run_folder.is_run(Path(_home(name))) or not scores.get("metrics"):
        return settings
    return dataclasses.replace(
        settings, evaluation=dataclasses.replace(settings.evaluation, metrics=list(scores["metrics"]))
    )


def _is_kept(name: str, settings: ScoringSettings, generate_kwargs: dict[str, Any]) -> bool:
    """Whether the predictions of a model that would be made now are there already.

    Raises:
        ValueError: Others are in their place.
    """
    folder = scores_folder(name, settings)
    if not (folder / run_folder.SCORES).exists():
        return False
    scores = read_scores(folder)
    try:
        config = GenerationConfig.from_pretrained(
            name, revision=settings.revision or "main", local_files_only=is_only_here(name)
        )
    except OSError:  # only the model itself tells
        config = open_model(name, settings.revision, settings.trust_remote_code).generation_config
    generation = decoding_of(config, generate_kwargs, settings.seed, settings.generation.decode_dtype)
    now = {"split": settings.split_to_score(), "revision": settings.revision, "generation": generation}
    if settings.output_dir:  # which may hold another model's
        now["model"] = name
    kept = {key: scores.get(key) for key in now}
    if kept == now:
        found, (pairs, _) = read_predictions(folder / run_folder.PREDICTIONS), load_split(settings)
        is_of_these = scores.get("weights") in (None, weights_of(name))
        if is_of_these and found[:2] == (pairs["source"][:], pairs["target"][:]):
            return True
        differing = "of other sentences" if is_of_these else "of other weights than the model has now"
    else:
        key = next(key for key in now if kept[key] != now[key])
        differing = f"with {key} {kept[key]!r} rather than {now[key]!r}"
    raise ValueError(
        f"{folder} holds scores already, {differing}: give --overwrite to make them anew, another --output_dir (for "
        "the first model), or its predictions.jsonl in the model's stead."
    )


def _short_name(name: str) -> str:
    """For a file's name: a folder's own name, a Hub name with dashes, the last parts of a file's path."""
    path = Path(name)
    if _is_file(name):
        words = "-".join(path.resolve().with_suffix("").parts[-4:])
    else:
        words = path.resolve().name if path.is_dir() else name.replace("/", "--")
    return re.sub(r"[^\w.-]+", "-", words).strip("-.")[-80:]


def _write_beside(folder: Path, stem: str, results: dict[str, Any], overwrite: bool) -> Path:
    """Writes the results as JSON, beside earlier ones that say something else rather than over them."""
    text = json.dumps(results, indent=2, ensure_ascii=False)
    for number in itertools.count(1):
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        if not path.exists() or (overwrite and _is_result(path)) or path.read_bytes() == text.encode():
            disk.write_aside(path, disk.text(text))
            return path
    raise AssertionError("numbers have no end")


def _is_result(path: Path) -> bool:
    """Whether a file is one of results, as seqloom writes them."""
    try:
        results = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(results, dict) and {"systems", "sentences", "metrics"} <= set(results)


INDEPENDENT = (
    "The tests take the sentences as independent of each other: where neighbours are of one document, differences are "
    "less certain than the p-values say. What another training seed would give is not in them."
)


def compare_predictions(
    ours: Predictions, theirs: Predictions, settings: EvaluationSettings
) -> dict[str, dict[str, Any]]:
    """Scores, intervals and tests by the metric's name."""
    results = {}
    for name in settings.metrics:
        options, samples = settings.metric_kwargs.get(name, {}), settings.bootstrap_samples
        if name not in metrics.METRICS:  # of the Hub
            both = [
                metrics.compute(name, system.hypotheses, system.scored_references, sources=system.sources, **options)
                for system in (ours, theirs)
            ]
            scores = [result["score"] for result in both]
            results[name] = {
                "scores": scores,
                "intervals": [None, None],
                "difference": scores[0] - scores[1],
                "tests": None,
                "signature": signed(both[0]["signature"], normalizations(ours, theirs)),
            }
            continue
        (signature, a), (_, b) = (measure_sentences(name, system, **options) for system in (ours, theirs))
        tests = paired_tests(name, [a], [b], samples)
        results[name] = {
            "scores": tests["scores"],
            "intervals": [significance.interval(system, samples) for system in (a, b)],
            "difference": tests["difference"],
            "tests": tests,
            "signature": signed(signature, normalizations(ours, theirs)),
        }
    return results


def notes_on(found: dict[str, Predictions], settings: EvaluationSettings) -> list[str]:
    """What is to be said of empty texts, and of metrics that do not suit the references."""
    references = next(iter(found.values())).scored_references
    notes = empties(references, [])
    for system, predictions in found.items():
        notes += [f"{system}: {note}" for note in empties([], predictions.hypotheses)]
    said = (metrics.note(name, references, settings.metric_kwargs.get(name, {})) for name in settings.metrics)
    return [*notes, *filter(None, said)]


def paired_tests(name: str, a: Sequence[Statistics], b: Sequence[Statistics], samples: int) -> dict[str, Any]:
    """`significance.compare_systems`, told what one of seqloom's metrics is like."""
    return significance.compare_systems(
        a,
        b,
        samples=samples,
        higher_is_better=metrics.higher_is_better(name),
        is_binary=name == "exact_match",
    )


def other_signatures(results: dict[str, Any], folders: dict[str, Path]) -> list[str]:
    """Which of the scores that lie beside the predictions were made otherwise, versions apart."""
    notes = []
    for letter, folder in folders.items():
        kept = read_scores(folder).get("metrics", {})
        for name, result in results["metrics"].items():
            signatures = [kept.get(name, {}).get("signature"), result["signature"]]
            # How references are normalised goes with the predictions, not with the metric's arguments.
            without_version = [re.sub(r"version:[^|]*|\|refs:[^|]*$", "", text or "") for text in signatures]
            if signatures[0] and without_version[0] != without_version[1]:
                notes.append(
                    f"{name}: the score that is kept with {letter}'s predictions has another signature, "
                    f"{signatures[0]}; give its arguments with --metric_kwargs for the same."
                )
    return notes


def decoded_by(predictions: Path) -> dict[str, Any] | None:
    """What predictions were decoded by, as the scores beside them tell; None where nothing does."""
    if predictions.name != run_folder.PREDICTIONS:
        return None
    generation = read_scores(predictions.parent).get("generation")
    return settings_read(generation) if isinstance(generation, dict) else None


def settings_read(generation: dict[str, Any]) -> dict[str, Any]:
    """Without what greedy decoding does not look at, so that it does not look like a difference."""
    generation = {"num_beams": 1} | generation  # transformers' default
    of_beams = {"length_penalty", "early_stopping"} if generation["num_beams"] == 1 else set()
    return {name: value for name, value in generation.items() if name not in of_beams}


def decoding_in_words(decoding: dict[str, Any] | None) -> str:
    """``num_beams 5, length_penalty 1.0``."""
    if decoding is None:
        return say("settings that nothing beside the predictions tells")
    return ", ".join(f"{name} {value_in_words(value)}" for name, value in decoding.items())


def decoding_note(a: dict[str, Any] | None, b: dict[str, Any] | None) -> str:
    """Whether both sides were decoded alike, in a sentence; nothing where they were."""
    if a is None or b is None:
        return "Whether both were decoded alike is not known: a difference may be the decoding's."
    others = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    if not others:
        return ""
    return f"The two were decoded differently ({listing(others)}): a difference may be the decoding's, not the models'."


def comparison_text(results: dict[str, Any]) -> str:
    """What `compare_models` found: a table, what it says of each metric, and how it was tested."""
    names, decoding = results["systems"], results["decoding"]
    lines = [f"A: {names['a']}", f"B: {names['b']}", f"{results['sentences']:,} sentences"]
    lines += [f"{side.upper()} was decoded with {decoding_in_words(decoding[side])}" for side in ("a", "b")]
    lines += [*filter(None, [decoding_note(**decoding)]), ""]
    rows = [("metric", "A", "B", "A - B", "p bootstrap", "p randomisation", "p exact")]
    verdicts, signatures = [], []
    for name, result in results["metrics"].items():
        tests = result["tests"] or {}
        rows.append(
            (
                name,
                *map(with_interval, result["scores"], result["intervals"]),
                with_interval(result["difference"], tests.get("interval"), sign="+"),
                *(p_value(tests.get(f"p_{test}")) for test in ("bootstrap", "randomisation", "exact")),
            )
        )
        verdicts.append(f"{name}: {_verdict(tests)}")
        signatures.append(f"{name}: {result['signature']}" + (f"; {tests['signature']}" if tests else ""))
    used = [any(column) for column in zip(*rows[1:], strict=True)]
    table = [list(itertools.compress(row, used)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    lines += ["", *verdicts, "", *signatures, *results["notes"], "", INDEPENDENT]
    return "\n".join(lines + ([f"the results are in {results['file']}"] if "file" in results else []))


def _verdict(tests: dict[str, Any]) -> str:
    if not tests:
        return "not tested, since a metric of the Hub does not tell what its score is made of."
    sentences = f"{tests['wins']:,} sentences better in A, {tests['losses']:,} in B, {tests['ties']:,} the same"
    p = p_value(tests["p"])
    decided = f"{'p' if p.startswith('<') else 'p ='} {p}, {tests['test']}; {sentences}"
    if tests["better"] is None:
        return f"no difference was found at p < {significance.LEVEL:g} ({decided})."
    return f"{tests['better'].upper()} is better ({decided})."
