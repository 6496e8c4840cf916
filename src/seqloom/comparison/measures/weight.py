"""Light or heavy: parameters, FLOPs, memory, file size, time and energy, and what a given quality took.

A Transformer is held to be heavy (Wu et al. 2020, arXiv:2004.11886: too much computation for a phone), yet cheap to
bring to a quality (Vaswani et al. 2017, arXiv:1706.03762, table 2). Both are counted here on the models at hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from seqloom import run_folder
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.budgets import (
    SHARE,
    SPENT,
    Validations,
    common_metric,
    over_seeds,
    read_all,
    to_quality,
    worth_reaching,
)
from seqloom.comparison.instruments.flops import costs
from seqloom.comparison.instruments.footprint import POWERCAP, Work, has_meter, watch
from seqloom.comparison.measures.heavier import findings_of, number
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.trainings import watched_share
from seqloom.comparison.traits import in_words
from seqloom.figures.style import as_label, look, new_figure, share_legend
from seqloom.scoring import metrics
from seqloom.settings.schema import TrainingSettings
from seqloom.support.console import has_terminal
from seqloom.support.language import say
from seqloom.support.machine import environment, hardware_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BATCH_TOKENS = 2048
"""Of an update of a model whose settings are not known."""
MEMORY = ("generation_memory_mib", "training_memory_mib")
DECODED_ROWS = 32
"""Sentences that are decoded together."""


def measure(
    candidates: Sequence[Candidate],
    options: Options,
    *,
    quality: float | None = None,
    energy_seconds: float = 5.0,
    powercap: Path = POWERCAP,
) -> dict[str, Any]:
    """Everything that a model costs.

    Args:
        candidates: Of any make; what is not known of one is None.
        options: ``num_threads``, and ``num_jobs`` processes side by side where no energy is counted.
        quality: Of the validations' metric; what it took to reach it is told. Default: most of what the best model
            gained.
        energy_seconds: Of training work, where the machine tells its energy.
        powercap: Linux' folder of energy counters.
    """
    runs = read_all(candidates)
    metric = common_metric(runs)
    share = SHARE if quality is None and runs else None
    if quality is None and runs:
        quality = worth_reaching(runs, metric)
    meter = has_meter(options.device, powercap)
    bar = tqdm(total=2 * len(candidates), desc="light or heavy", unit=" steps", disable=not has_terminal())
    found, works = {}, []
    with bar:
        for candidate in candidates:
            traits, cost = candidate.traits, costs(candidate)
            found[candidate.name] = {
                "kind": traits.description,
                "traits": dataclasses.asdict(traits),
                **cost,
                "model_bytes": file_size(candidate.folders[0]),
                "seeds": len(candidate.folders),
                **speed(candidate, runs.get(candidate.name, [])),
                "to_quality": to_quality(runs.get(candidate.name, []), metric, quality, cost["training_flops"]),
            }
            training = candidate.settings.training if candidate.settings else batch_of_others(candidates)
            lengths = (cost["source_length"], cost["target_length"])
            own = training.batch_size or max(1, training.batch_tokens // max(lengths))
            found[candidate.name]["own_update_rows"] = own
            works.append(
                Work(
                    str(candidate.folders[0]), *lengths, own, DECODED_ROWS, dataclasses.asdict(training),
                    options.num_threads, energy_seconds if meter else 0.0, str(powercap),
                )
            )  # fmt: skip
            bar.update()
        # Of equal batches, or the recipes' batch sizes would be compared: the smallest of theirs, which all can hold.
        rows = min((work.rows for work in works), default=1)
        works = [dataclasses.replace(work, rows=rows) for work in works]
        again = [dataclasses.replace(work, energy_seconds=0.0) for work in works]
        with ThreadPoolExecutor(1 if meter else options.num_jobs) as pool:  # what counts energy must be alone
            twice = list(pool.map(watch, [*works, *again]))
        for name, watched, control in zip(found, twice, twice[len(works) :], strict=False):
            found[name]["update_rows"] = rows
            found[name]["joules_per_1000_tokens"] = joules_per_1000(watched.pop("energy"))
            found[name] |= watched
            found[name]["again"] = {kind: control[kind] for kind in MEMORY}
            bar.update()
    return {
        "models": found,
        "metric": metric if runs else None,
        "quality": quality,
        "share": share,
        "hardware": environment()["hardware"],
        "device": options.device.type,
        "threads": options.num_threads,
        "has_meter": meter,
    }


def batch_of_others(candidates: Sequence[Candidate]) -> TrainingSettings:
    """For a model without settings: updates as large as the first recipe's, so that their memory can be compared."""
    for candidate in candidates:
        if candidate.settings is not None:
            known = candidate.settings.training
            return TrainingSettings(batch_size=known.batch_size, batch_tokens=known.batch_tokens)
    return TrainingSettings(batch_tokens=BATCH_TOKENS)


def file_size(folder: Path) -> int | None:
    """Bytes of the weights: of ``*.safetensors``, or of ``*.bin`` where there are none."""
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if files := list(folder.glob(pattern)):
            return sum(file.stat().st_size for file in files)
    return None


def speed(candidate: Candidate, runs: Sequence[Validations]) -> dict[str, Any]:
    """Target tokens a second and seconds an epoch, validations not counted, and the hardware, as the runs have it."""
    rates = [run.tokens_per_second for run in runs]
    plans, machines = [], []
    for folder in candidate.folders:
        if run_folder.is_finished(folder):
            record = run_folder.read_record(folder)
            plans.append(record["data"]["plan"])
            machines.append(record["environment"]["hardware"])
    is_stream = candidate.settings is not None and candidate.settings.data.streaming  # whose plan is of its beginning
    epochs = []
    if not is_stream and len(plans) == len(rates):
        epochs = [
            plan["updates"] * plan["target_tokens_per_update"] / rate for plan, rate in zip(plans, rates, strict=True)
        ]
    return {
        "tokens_per_second": over_seeds(rates),
        "training_seconds": [run.seconds[-1] for run in runs],
        "speed_spreads": [run.speed_spread for run in runs],
        "epoch_seconds": over_seeds(epochs),
        "trained_on": sorted(set(machines)),
        "cpu_shares": [share for folder in candidate.folders if (share := watched_share(folder)) is not None],
    }


def joules_per_1000(energy: dict[str, Any] | None) -> float | None:
    """Of processors and accelerator together."""
    if energy is None:
        return None
    return 1000 * sum(value for value in energy["joules"].values() if value is not None) / energy["tokens"]


def section(result: dict[str, Any]) -> Section:
    """The table of costs and what it says."""
    models, quality = result["models"], result["quality"]
    figure, panels = new_figure(3, 2, height=0.9 + 0.28 * len(models))
    spent = {name: model["to_quality"] for name, model in models.items()}
    drawn = [
        (say("parameters (light: embeddings)"), {n: m["parameters"] for n, m in models.items()}, number),
        (say("training FLOPs a target token"), {n: m["training_flops"] for n, m in models.items()}, number),
        (say("FLOPs a generated token"), {n: m["generation_flops"] for n, m in models.items()}, number),
        (say("peak memory of training (MiB)"), {n: m["training_memory_mib"] for n, m in models.items()}, mebibytes),
        (say("model file (MB)"), {n: _scaled(m["model_bytes"], 1e-6) for n, m in models.items()}, mebibytes),
        (say("seconds to the quality"), {n: _mean(spent[n] and spent[n]["seconds"]) for n in models}, mebibytes),
    ]
    for panel, (title, values, form) in zip(panels, drawn, strict=True):
        _draw(panel, title, values, form)
    for number_, model in enumerate(models.values()):
        panels[0].barh(number_, model["embedding_parameters"], color="white", alpha=0.55, height=0.7)
    share_legend(figure, panels[0])
    is_cpu, energy = result["device"] == "cpu", say("Energy: this machine does not tell.")
    if result["has_meter"]:
        energy = say("Energy is read from the machine's own counters while updates are repeated for some seconds.")
    mark = f"{metrics.label(result['metric'])} {quality:.4g}" if quality is not None else ""
    caption = say("What each model weighs; less is lighter, and — is not known.")
    if mark:
        caption += say(" The quality is a validation {mark}, {choice}.", mark=mark, choice=_quality_in_words(result))
    headline = {
        say("parameters"): {n: number(m["parameters"]) for n, m in models.items()},
        say("training FLOPs a target token"): {n: number(m["training_flops"]) for n, m in models.items()},
        say("peak memory of training"): {
            n: _with(mebibytes(m["training_memory_mib"]), "MiB") for n, m in models.items()
        },
    }
    if mark:
        row = {n: _with(_reached(spent[n] and spent[n]["seconds"]), "s") for n in models}
        headline[say("training time to validation {mark}", mark=mark)] = row
    findings, cautions = findings_of(result, mark)
    return Section(
        title=say("Light or heavy"),
        question=say("What do the models weigh: in parameters, operations, memory, bytes, seconds and joules?"),
        findings=[*findings, *cautions],
        parts=[
            Plot("weight", figure, caption),
            Table(["", *models], _rows(result, mark), say("Costs of every model.")),
        ],
        how=say(
            "FLOPs are counted by torch's FlopCounterMode on the model's own calls (a multiply-add is two; "
            "matrix products alone) for one pair of the median lengths of the test data; generating is "
            "greedy, with the cache, the encoder included. Peak memory is of a fresh process for each model: "
            "for generation, {decoded_rows} sentences of the median length at once; for training, three "
            "updates of a batch of such pairs with the settings' optimizer, as many pairs for all: the "
            "smallest batch of the recipes. Each is measured in two processes, whose difference is what a "
            "ratio must exceed. {what}, the model included ({hardware}, threads: {threads}). Speed and "
            "seconds are from the training logs, validations not counted; of several seeds, the mean (lowest "
            "to highest). Seconds to the "
            "quality end where the straight line from the last validation below it to the first that reaches "
            "it does; between these two the verdict takes them to be anywhere, and, of one run each, as far off as "
            "the speed changed from one line of the log to the next. {energy}",
            decoded_rows=DECODED_ROWS,
            what=say("It is what the resident set grows by" if is_cpu else "It is the highest sum of torch's tensors"),
            hardware=hardware_in_words(result["hardware"]),
            threads=result["threads"],
            energy=energy,
        ),
        limits=say(
            "The sizes are those that were chosen: these models are compared, not all of their kind. A token "
            "is what the model's own tokenizer cuts: where tokenizers differ, so do tokens. A median pair "
            "stands for all, and the longest update of a training takes more memory; a moving average of the "
            "weights is not in it. Joules are of the whole processor or card, what idles and what others run "
            "on it included."
        ),
        headline=headline,
        cautions=cautions,
    )


def _quality_in_words(result: dict[str, Any]) -> str:
    """How the mark was chosen; earlier versions took another one."""
    if "share" not in result:
        return say("the best that every run reaches or the one asked for")
    return (
        say("{share:.0%} of what the best model gained", share=result["share"])
        if result["share"]
        else say("the one asked for")
    )


def _reached(stat: dict[str, Any] | None, form=None) -> str:
    """Mean and bounds over the seeds; ``never reached``, by one of several or by all."""
    form = form or mebibytes
    if stat is None or stat["mean"] is not None:
        return _spread(stat, form)
    known = [form(place) for place in stat["runs"] if place is not None]
    several = (
        say(" by {missing} of {runs} runs", missing=len(stat["runs"]) - len(known), runs=len(stat["runs"]))
        if known
        else ""
    )
    return say("never reached{several}", several=several)


def mebibytes(value: float | None) -> str:
    """A plain number of about three digits."""
    return "—" if value is None else f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def whole(value: float) -> str:
    """``3,000``."""
    return f"{value:,.0f}"


def _mean(stat: dict[str, float] | None) -> float | None:
    return None if stat is None else stat["mean"]


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _with(text: str, unit: str) -> str:
    return f"{text} {unit}" if text[0].isdigit() else text


def _spread(stat: dict[str, float] | None, form=mebibytes) -> str:
    """Mean, and in brackets lowest and highest where they differ."""
    if stat is None:
        return "—"
    return form(stat["mean"]) + (
        say(" ({low} to {high})", low=form(stat["low"]), high=form(stat["high"])) if stat["high"] > stat["low"] else ""
    )


def _rows(result: dict[str, Any], mark: str) -> list[list[str]]:
    """A row each quantity, a column each model."""
    models = list(result["models"].values())

    def row(title: str, cell) -> list[str]:
        return [title, *(cell(model) for model in models)]

    rows = [
        row(say("kind"), lambda m: in_words(m["kind"])),
        row(say("parameters"), lambda m: f"{m['parameters']:,}"),
        row(say("… of embeddings and output matrix"), lambda m: f"{m['embedding_parameters']:,}"),
        row(say("… of the rest"), lambda m: f"{m['parameters'] - m['embedding_parameters']:,}"),
        row(say("median source / target (tokens)"), lambda m: f"{m['source_length']} / {m['target_length']}"),
        row(say("training FLOPs a target token"), lambda m: number(m["training_flops"])),
        row(say("FLOPs a generated token"), lambda m: number(m["generation_flops"])),
        row(say("peak memory of training (MiB)"), lambda m: mebibytes(m["training_memory_mib"])),
        row(say("… pairs in that update"), lambda m: f"{m['update_rows']:,}"),
        row(say("… pairs in the recipe's own"), lambda m: f"{m.get('own_update_rows', m['update_rows']):,}"),
        row(say("peak memory of generation (MiB)"), lambda m: mebibytes(m["generation_memory_mib"])),
        row(say("model file (MB)"), lambda m: mebibytes(_scaled(m["model_bytes"], 1e-6))),
        row(say("target tokens a second"), lambda m: _spread(m["tokens_per_second"])),
        row(say("seconds an epoch"), lambda m: _spread(m["epoch_seconds"])),
        row(say("energy (J per 1,000 target tokens)"), lambda m: mebibytes(m["joules_per_1000_tokens"])),
    ]
    for name, title in SPENT.items() if mark else ():
        form = whole if name == "updates" else number
        rows.append(
            [
                say("{title} to {mark}", title=say(title), mark=mark),
                *(_reached((m["to_quality"] or {}).get(name), form) for m in models),
            ]
        )
    return rows


def _draw(panel: Axes, title: str, values: dict[str, float | None], form) -> None:
    """A bar each model, with its value at the end."""
    highest = max((value for value in values.values() if value is not None), default=1) or 1
    for place, (name, value) in enumerate(values.items()):
        panel.barh(place, value or 0, color=look(place)["color"], height=0.7, label=as_label(name))
        panel.text((value or 0) + 0.02 * highest, place, form(value), va="center", fontsize="small")
    panel.set_xlim(0, 1.35 * highest)
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.set_yticks([])
    panel.set_xticks([])
    panel.spines[["left", "bottom"]].set_visible(False)
    panel.grid(visible=False)
    panel.set_title(title, fontsize="medium", loc="left")
