"""A comparison: models are trained or taken, every measure is asked, the report is written."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from seqloom import run_folder
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.folder import make_folder
from seqloom.comparison.matching import check_matchable, in_words, match
from seqloom.comparison.report import MEASURES, write
from seqloom.comparison.trainings import train_all
from seqloom.data.pairs import load_pairs
from seqloom.decoding.loading import check_exists
from seqloom.decoding.options import check_options, options_of
from seqloom.scoring.naming import check_config
from seqloom.scoring.score import evaluate_model, settings_of
from seqloom.settings.reading import given_values, is_given, load_run_settings, load_settings
from seqloom.settings.schema import DataSettings, EvaluationSettings, GenerationSettings, ScoringSettings, Settings
from seqloom.settings.unused import scored_keys
from seqloom.support.console import duration
from seqloom.support.disk import text, write_aside
from seqloom.support.language import Language
from seqloom.support.locks import Lock
from seqloom.support.machine import environment
from seqloom.training.clearing import inputs_of


@dataclass(frozen=True)
class Request:
    """The command line, understood."""

    configs: tuple[str, ...]
    models: tuple[str, ...]
    output: Path
    overrides: tuple[str, ...] = ()
    """Words of the command line that go to the settings."""
    seeds: tuple[int, ...] = ()
    """For the configurations; none: each recipe's own."""
    measures: tuple[str, ...] = MEASURES
    split: Literal["train", "validation", "test"] = "test"
    num_threads: int = 1
    num_jobs: int = 1
    match: Literal["parameters"] | None = None
    """What the recipes' widths are chosen to have in common."""

    def to_dict(self) -> dict[str, Any]:
        """What a comparison that is resumed must have in common with the one that was begun."""
        names = ("configs", "models", "overrides", "seeds", "split", "num_threads", "match")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}


def compare(
    request: Request, *, command: str, resume: bool = False, overwrite: bool = False, language: Language = "en"
) -> dict[str, Any]:
    """Trains, scores and measures, and writes the report.

    Args:
        request: What to compare, and how.
        command: For the record.
        resume: Go on with the comparison in the output folder.
        overwrite: Delete what a comparison wrote into it first.
        language: Of the report. What was measured is of none: resumed in another one, nothing is measured anew.

    Returns:
        What was written to ``report.json``.

    Raises:
        ValueError: The request, the data or the output folder do not allow it, or a training failed.
    """
    names = names_of_subjects(request)
    refuse_unknown_keys(request)
    if request.match:
        check_matchable(request.configs, request.models)
    runs = recipes(request, names)
    models = finished_models(request, names, runs)
    check_same_pairs(runs, models, request.split)
    matched: list[dict[str, Any]] = []
    if request.match:
        runs, matched = match(runs)
        print("\n".join(in_words(matched)), flush=True)
    with Lock(request.output / run_folder.LOCK) as lock:
        inputs = inputs_of_all(request, runs, models)
        make_folder(request.output, request.to_dict(), lock, inputs, resume=resume, overwrite=overwrite)
        torch.set_num_threads(request.num_threads)
        train_all([settings for per_seed in runs.values() for settings in per_seed])
        candidates = [candidate_of_recipe(name, per_seed, request) for name, per_seed in runs.items()]
        candidates += [candidate_of_model(*model, request) for model in models]
        entries = take_measures(candidates, request)
        record = make_record(command, candidates, runs, entries) | ({"matched": matched} if matched else {})
        write(request.output, record, language)
    return record


def refuse_unknown_keys(request: Request) -> None:
    """Refuses models that are not there or name others' metrics, and words that nothing reads; with a configuration its
    settings refuse."""
    known = scoring_overrides(request.overrides)
    wrong = next((word for word in request.overrides if word.startswith("--") and word not in known), None)
    if wrong and not request.configs:
        raise ValueError(
            f"{wrong} says nothing about models that are taken as they are: give settings of data:, generation: "
            "and evaluation:."
        )
    for model in request.models:
        check_exists(model)
        if run_folder.is_run(Path(model)):  # whose settings the measures train by
            settings = load_run_settings(Path(model))
            check_config(Path(model) / run_folder.SETTINGS, settings, request.overrides)


def finished_models(
    request: Request, names: Sequence[str], runs: dict[str, list[Settings]]
) -> list[tuple[str, str, list[str]]]:
    """Name, place and words of the command line of every model that is taken as it is."""
    return [
        (name, model, overrides_for(model, request, runs))
        for name, model in zip(names[len(runs) :], request.models, strict=True)
    ]


def take_measures(candidates: Sequence[Candidate], request: Request) -> dict[str, dict[str, Any]]:
    """Every measure that is wanted, by name; what was measured before stays in the report."""
    options = Options(
        folder=request.output,
        seed=request.seeds[0] if request.seeds else 42,
        num_threads=request.num_threads,
        num_jobs=request.num_jobs,
    )
    wanted = [name for name in MEASURES if name in request.measures or kept_in(request.output, name).is_file()]
    entries: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(wanted, start=1):
        print(f"\nmeasure {number} of {len(wanted)}: {name.replace('_', ' ')}", flush=True)
        entries[name] = take_measure(name, candidates, options)
        print(f"  {duration(entries[name]['seconds'])}")
    return entries


def make_record(
    command: str,
    candidates: Sequence[Candidate],
    runs: dict[str, list[Settings]],
    entries: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """What ``report.json`` holds."""
    return {
        "command": command,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment(),
        "candidates": [
            {
                "name": candidate.name,
                "kind": candidate.traits.name,
                "description": candidate.traits.description,
                "folders": [str(folder) for folder in candidate.folders],
                "seeds": list(candidate.seeds),
            }
            for candidate in candidates
        ],
        "seconds": {
            "training": round(trained_seconds(runs), 1),
            **{name: entry["seconds"] for name, entry in entries.items()},
        },
        "measures": {name: entry["result"] for name, entry in entries.items()},
    }


def kept_in(folder: Path, measure: str) -> Path:
    """The file that a measure's result is kept in."""
    return folder / "measures" / f"{measure}.json"


def take_measure(name: str, candidates: Sequence[Candidate], options: Options) -> dict[str, Any]:
    """A measure's ``result`` and its ``seconds``; as it was kept, where it was taken before."""
    kept = kept_in(options.folder, name)
    if not kept.is_file():
        started = time.perf_counter()
        result = importlib.import_module(f"seqloom.comparison.measures.{name}").measure(candidates, options)
        entry = {"seconds": round(time.perf_counter() - started, 1), "result": result}
        kept.parent.mkdir(exist_ok=True)
        write_aside(kept, text(json.dumps(entry, ensure_ascii=False, allow_nan=False)))
    entry = run_folder.read_object(kept)
    if not {"seconds", "result"} <= set(entry):
        raise ValueError(f"{kept} is damaged: it lacks seconds or result; delete it, and it is measured anew.")
    return entry


def names_of_subjects(request: Request) -> list[str]:
    """What the report calls them, configurations first."""
    folders = [model for model in request.models if Path(model).is_dir()]
    short = (
        dict(zip(folders, run_folder.names_of([Path(folder) for folder in folders]), strict=True)) if folders else {}
    )
    names = [Path(config).stem for config in request.configs]
    names += [short.get(model, model) for model in request.models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two of what is to be compared are called {name}; rename one of them, or give it once.")
    return names


def recipes(request: Request, names: Sequence[str]) -> dict[str, list[Settings]]:
    """The settings of every training, by candidate: one a seed."""
    found: dict[str, list[Settings]] = {}
    if any(word.partition("=")[0] == "--training.num_threads" for word in request.overrides):
        raise ValueError(
            "training.num_threads is not for a comparison, whose report states one number of threads for all that it "
            f"times: give --num_threads (now {request.num_threads})."
        )
    for name, config in zip(names, request.configs, strict=False):
        settings = load_settings(config, request.overrides, print)
        check_config(config, settings, request.overrides)
        check_options(GenerationConfig(), options_of(settings.generation))
        for seed in request.seeds or (settings.training.seed,):
            found.setdefault(name, []).append(
                dataclasses.replace(
                    settings,
                    # The threads that the report states: its seconds are of trainings too.
                    training=dataclasses.replace(settings.training, seed=seed, num_threads=request.num_threads),
                    evaluation=dataclasses.replace(settings.evaluation, split=request.split),
                    hub=dataclasses.replace(settings.hub, push_to_hub=None, hub_private_repo=None, hub_revision=None),
                    output_dir=str(request.output / "models" / f"{name}-seed-{seed}"),
                )
            )
    return found


def check_same_pairs(
    runs: dict[str, list[Settings]], models: Sequence[tuple[str, str, Sequence[str]]], split: str
) -> None:
    """Refuses what would be scored on different sentences, before anything is trained."""
    first, pairs = "", None
    sources = [
        (name, settings.data, settings.training.seed) for name, per_seed in runs.items() for settings in per_seed
    ]
    scorings = ((name, settings_of(model, words)[0]) for name, model, words in models)
    sources += [(name, settings.data, settings.seed) for name, settings in scorings]
    for name, data, seed in sources:
        found = load_pairs(data, seed, splits=(split,)).splits.get(split)
        if found is None:
            raise ValueError(f"the data of {name} have no {split} split; choose another one with --split.")
        texts = (found["source"][:], found["target"][:])
        if pairs is None:
            first, pairs = name, texts
        elif texts != pairs:
            raise ValueError(
                f"{first} and {name} would be scored on different sentences; give both the same data "
                "(--dataset or --test_files), and to several seeds a split that is not cut by the seed."
            )


def inputs_of_all(
    request: Request, runs: dict[str, list[Settings]], models: Sequence[tuple[str, str, Sequence[str]]]
) -> list[str]:
    """What the comparison reads."""
    of_runs = [place for per_seed in runs.values() for settings in per_seed for place in inputs_of(settings)]
    of_models = [place for _, model, words in models for place in settings_of(model, words)[0].data.places()]
    return [*request.configs, *request.models, *of_runs, *of_models]


def candidate_of_recipe(name: str, per_seed: Sequence[Settings], request: Request) -> Candidate:
    """A recipe whose trainings are finished; they have scored the split already."""
    folders = tuple(Path(settings.output_dir) for settings in per_seed)
    return Candidate(
        name,
        folders,
        per_seed[0],
        tuple(settings.training.seed for settings in per_seed),
        tuple(run_folder.evaluation(folder, request.split) / run_folder.PREDICTIONS for folder in folders),
    )


def candidate_of_model(name: str, model: str, words: Sequence[str], request: Request) -> Candidate:
    """A model as it is, scored here."""
    folder = request.output / "predictions" / name.replace("/", "--")
    if not (folder / run_folder.SCORES).is_file():
        print(f"\nscoring {model}", flush=True)
        evaluate_model(model, [*words, "--output_dir", str(folder)], overwrite=True)
    is_run = run_folder.is_run(Path(model))
    settings = load_run_settings(Path(model)) if is_run else None
    seeds = (settings.training.seed,) if settings else ()
    return Candidate(name, (Path(model),), settings, seeds, (folder / run_folder.PREDICTIONS,))


def overrides_for(model: str, request: Request, runs: dict[str, list[Settings]]) -> list[str]:
    """The words of the command line that a model is scored with. One that says nothing of its data gets those of the
    first configuration, its metrics too."""
    split, words = request.split, scoring_overrides(request.overrides)
    if not runs:  # what is of no use to scoring is refused there
        return [*words, "--split", split]
    first, is_own = next(iter(runs.values()))[0], run_folder.is_run(Path(model))
    is_told = is_given(words, "dataset", "test_files")
    data = None if is_told else load_run_settings(Path(model)).data if is_own else first.data
    in_files = bool(getattr(data, f"{split}_files", None)) or given_values(words, f"{split}_files") not in (
        [],
        ["null"],
    )
    read = scored_keys(split, in_files=in_files)
    words = [*scoring_overrides(request.overrides, read), "--split", split]
    if is_told or is_own:
        return words
    given = {f"data.{key}": value for key, value in dataclasses.asdict(first.data).items() if key in read}
    given |= {"seed": first.training.seed, "evaluation.metrics": first.evaluation.metrics}
    kwargs = first.evaluation.metric_kwargs
    given |= {"evaluation.metric_kwargs": {name: kwargs[name] for name in first.evaluation.metrics if name in kwargs}}
    return [*(f"--{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items()), *words]


def scoring_overrides(overrides: Sequence[str], of_data: Collection[str] | None = None) -> list[str]:
    """Those of the overrides that scoring knows: a model that is trained has no learning rate.

    Args:
        of_data: The keys of ``data`` that stay, others being for the trainings; None: all.
    """
    sections = {"data": DataSettings, "generation": GenerationSettings, "evaluation": EvaluationSettings}
    known = {field.name for cls in (*sections.values(), ScoringSettings) for field in dataclasses.fields(cls)}
    unread = set() if of_data is None else {field.name for field in dataclasses.fields(DataSettings)} - {*of_data}
    words, is_wanted = [], False
    for word in overrides:
        if word.startswith("--"):
            section, dot, key = word[2:].partition("=")[0].partition(".")
            is_wanted = section in (sections if dot else known)
            is_wanted &= (key if dot else section) not in (unread if section == "data" or not dot else ())
        if is_wanted:
            words.append(word)
    return words


def trained_seconds(runs: dict[str, list[Settings]]) -> float:
    """Of all trainings, by their records."""
    folders = [Path(settings.output_dir) for per_seed in runs.values() for settings in per_seed]
    records = [run_folder.read_record(folder) for folder in folders if run_folder.is_finished(folder)]
    return sum(record["progress"]["seconds"] for record in records)


def commit() -> str | None:
    """Of the checkout that this code is from, with ``-dirty`` where something in it is changed; None outside of one."""
    checkout = Path(__file__).parents[3]
    if shutil.which("git") is None or not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
