"""How far back can it remember? The adding problem and the copy task at several lengths, with and without clipping.

The tasks are Hochreiter & Schmidhuber 1997's and Arjovsky et al. 2016's (arXiv:1511.06464), clipping is of the
gradient's norm (Pascanu et al. 2013, arXiv:1211.5063); `memory_networks` has them and the systems: seqloom's recurrent
layer (tanh-RNN, LSTM, GRU) and its Transformer layer under a causal mask, of one width, with their own initialisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.memory_networks import (
    NUM_RECALLED,
    NUM_TESTED,
    SOLVED,
    STANDARD,
    SYSTEMS,
    WINDOW,
    Training,
    systems_of,
    train_and_keep,
)
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.traits import in_words
from seqloom.comparison.verdicts import Case, told
from seqloom.figures.style import log_scale, look, new_figure, share_legend
from seqloom.scoring.estimates import Estimate
from seqloom.support.console import has_terminal
from seqloom.support.language import later, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LENGTHS = {"adding": (10, 30, 80), "copy": (5, 20, 50)}
UPDATES = {"adding": 800, "copy": 1000}
CLEAR = 0.1
"""A smaller difference of one training's errors (shares of the baseline) is not named."""
TINY = 1e-12
"""A gradient of nothing."""


def plan(seed: int, **changes: Any) -> list[Training]:
    """What is trained by default; changes are of `Training`'s fields, ``lengths`` and ``systems``."""
    lengths = changes.pop("lengths", LENGTHS)
    systems = changes.pop("systems", STANDARD)
    sizes = {"hidden_size": 32, "batch_size": 32, "learning_rate": 0.01, "seed": seed}
    return [
        Training(task, length, system, clipping, **{**sizes, "updates": UPDATES[task], **changes})
        for task in lengths
        for length in lengths[task]
        for system in systems
        for clipping in (1.0, None)
    ]


def measure(candidates: Sequence[Candidate], options: Options, **changes: Any) -> dict[str, Any]:
    """Trains every system on every task: the standard ones, and the parallel cells of candidates. Changes are as for
    `plan`."""
    found = systems_of(candidate.config for candidate in candidates)
    trainings = plan(options.seed, **{"systems": found, **changes})
    order = sorted(range(len(trainings)), key=lambda index: -trainings[index].length)  # the longest first
    runs: list[dict[str, Any]] = [{}] * len(trainings)
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(trainings), desc="memory tasks", unit=" trainings", leave=False, disable=not has_terminal())
        )
        if options.num_jobs > 1:
            jobs = stack.enter_context(ProcessPoolExecutor(options.num_jobs, get_context("spawn")))
            waiting = {jobs.submit(train_and_keep, trainings[index], options.folder): index for index in order}
            done = ((waiting[job], job.result()) for job in as_completed(waiting))
        else:
            done = ((index, train_and_keep(trainings[index], options.folder)) for index in order)
        for index, result in done:
            runs[index] = result
            bar.update()
    return {"runs": runs, "solved_below": SOLVED, "window": WINDOW, "tested": NUM_TESTED}


def section(result: dict[str, Any]) -> Section:
    """The report's part, from what `measure` returned."""
    runs = result["runs"]
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    first = runs[0]
    about = say(
        "width {hidden_size}, one layer, batches of {batch_size} new sequences, Adam with learning rate "
        "{learning_rate:g}",
        hidden_size=first["hidden_size"],
        batch_size=first["batch_size"],
        learning_rate=first["learning_rate"],
    )
    parts: list[Any] = [Plot("memory_tasks", _errors_plot(runs, tasks), say(_ERRORS_CAPTION))]
    parts += [_table(runs, task) for task in tasks]
    parts.append(Plot("memory_curves", _curves_plot(runs, tasks), say(_CURVES_CAPTION)))
    longest = {
        say("longest {task} solved", task=say(NAMES[task])): {
            in_words(SYSTEMS[system]): say(SIZES[task], length=_reach(runs, task, system))
            if _reach(runs, task, system)
            else say("none")
            for system in _systems(runs)
        }
        for task in tasks
    }
    return Section(
        title=say("Memory: the adding problem and the copy task"),
        question=say("How far back can a state remember what attention can look up?"),
        findings=findings(result),
        parts=parts,
        how=(
            say(
                "The same task, updates and {about} for all; one seed ({seed}). Recurrent networks are seqloom's "
                "layer with its own initialisation (recurrent matrices orthogonal, the LSTM's forget gate open) "
                "and a linear readout; the Transformer is one pre-norm layer with sinusoidal positions under a "
                "causal mask. Errors are losses on {tested} fresh sequences, divided by the loss of who "
                "remembers nothing: always answering 1 (adding problem), or blanks and then any symbol (copy "
                "task). A training ends when the mean loss of {window} updates is below {solved_below:.0%} of "
                "that: the task is solved. Clipping is at norm 1. Whether one system is better is tested over "
                "all tasks and lengths: the mean of the differences between the trainings of two systems, with "
                "Student's interval of it.",
                about=about,
                seed=first["seed"],
                tested=result["tested"],
                window=result["window"],
                solved_below=result["solved_below"],
            )
        ),
        limits=(
            say(
                "Small networks, few updates and one seed: who solves a task after twice the updates is not seen "
                "here, and neighbouring numbers of updates are no ranking. The copy task recalls {num_recalled} "
                "symbols where the paper recalls ten, so that some hundred updates suffice. These are the "
                "systems, not the compared models.",
                num_recalled=NUM_RECALLED,
            )
        ),
        headline=longest,
    )


def findings(result: dict[str, Any]) -> list[str]:
    """Who solved what; what was expected, and whether it was seen."""
    runs = result["runs"]
    return [*_solved(runs), gates(runs), clipping(runs), norms(runs)]


NAMES = {"adding": later("adding problem"), "copy": later("copy task")}
UNITS = {"adding": later("numbers"), "copy": later("steps of gap")}
SIZES = {"adding": later("{length} numbers"), "copy": later("{length} steps of gap")}
_ERRORS_CAPTION = later(
    "Error on fresh sequences against the task's length; 1 is the error of who remembers nothing, "
    "the dotted line is where a task counts as solved. Solid lines with clipping, dashed ones "
    "without."
)
_CURVES_CAPTION = later(
    "Loss against updates at the middle length, with clipping; a line ends where the task was solved."
)


def _titled(task: str) -> str:
    """A task's name at the beginning of a sentence."""
    name = say(NAMES[task])
    return name[0].upper() + name[1:]


def _systems(runs: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(run["system"] for run in runs))


def _find(runs: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [run for run in runs if all(run[name] == value for name, value in wanted.items())]


def _clipped(runs: list[dict[str, Any]], is_clipped: bool = True) -> list[dict[str, Any]]:
    return [run for run in runs if (run["clipping"] is not None) == is_clipped]


def _pairs(runs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The same training with and without clipping."""
    keys = ("task", "length", "system")
    without = {tuple(run[key] for key in keys): run for run in _clipped(runs, False)}
    return [(run, without[key]) for run in _clipped(runs) if (key := tuple(run[name] for name in keys)) in without]


def _error(run: dict[str, Any]) -> float:
    return math.inf if run["error"] is None else run["error"]


def _reach(runs: list[dict[str, Any]], task: str, system: str) -> int:
    """The greatest length that was solved with clipping; 0: none."""
    solved = [run["length"] for run in _find(_clipped(runs), task=task, system=system) if run["solved_after"]]
    return max(solved, default=0)


def _solved(runs: list[dict[str, Any]]) -> list[str]:
    """Who solved what: a sentence a task and length."""
    sentences = []
    for task, length in dict.fromkeys((run["task"], run["length"]) for run in runs):
        here = _find(_clipped(runs), task=task, length=length)
        yes = [
            say(
                "{system} ({solved_after} updates)",
                system=in_words(SYSTEMS[run["system"]]),
                solved_after=run["solved_after"],
            )
            for run in here
            if run["solved_after"]
        ]
        no = [
            f"{in_words(SYSTEMS[run['system']])} "
            + (say("(diverged)") if run["error"] is None else say("({error:.0%} of the baseline)", error=run["error"]))
            for run in here
            if not run["solved_after"]
        ]
        text = say(
            "{task}, {size}: solved by {systems}",
            task=_titled(task),
            size=say(SIZES[task], length=length),
            systems=", ".join(yes) or say("nobody"),
        )
        sentences.append(
            text
            + (say("; not in {updates} updates by {no}.", updates=here[0]["updates"], no=", ".join(no)) if no else ".")
        )
    return sentences


def gates(runs: list[dict[str, Any]]) -> str:
    """Did LSTM and GRU remember what the tanh-RNN does not? Of all tasks and lengths together: one training each is a
    draw, but there are several."""
    cases = []
    for system in ("lstm", "gru"):
        gains, better, worse = [], [], []
        for run in _find(_clipped(runs), system=system):
            for plain in _find(_clipped(runs), system="rnn", task=run["task"], length=run["length"]):
                gains.append(_gain(run, plain))
                place = f"{say(NAMES[run['task']])} {run['length']}"
                better += [
                    say("{place} ({run} against {plain})", place=place, run=_share(run), plain=_share(plain))
                ] * (gains[-1] > CLEAR)
                worse += [say("{place} ({run} against {plain})", place=place, run=_share(run), plain=_share(plain))] * (
                    gains[-1] < -CLEAR
                )
        if gains:
            text = say(
                "{system}, an error lower by {gains} of the baseline in the mean",
                system=in_words(SYSTEMS[system]),
                gains=in_percent(gains),
            )
            text += say("; much lower at {better}", better=", ".join(better)) if better else ""
            cases.append(
                Case(
                    text + (say("; much higher at {worse}", worse=", ".join(worse)) if worse else ""),
                    Estimate.of(gains),
                )
            )
    return " ".join(
        told(say("Expected (Hochreiter & Schmidhuber 1997): gated cells remember farther than the tanh-RNN."), cases)
    )


def in_percent(values: list[float]) -> str:
    """Their mean, with its interval where there are several."""
    known = Estimate.of(values)
    if not math.isfinite(known.error):
        return f"{known.value:.0%}"
    return "{:.0%} [{:.0%}, {:.0%}]".format(known.value, *known.interval())


def clipping(runs: list[dict[str, Any]]) -> str:
    """Did clipping matter, and where?"""
    helped, harmed, gains = [], [], []
    for run, plain in _pairs(runs):
        gains.append(_gain(run, plain))
        place = f"{in_words(SYSTEMS[run['system']])}, {say(NAMES[run['task']])} {run['length']}"
        text = say("{place} ({run} with, {plain} without)", place=place, run=_share(run), plain=_share(plain))
        helped += [text] * (gains[-1] > CLEAR)
        harmed += [text] * (gains[-1] < -CLEAR)
    expected = say("Expected (Pascanu et al. 2013): clipping the gradient's norm helps.")
    if not gains:
        return say("{expected} Not measured.", expected=expected)
    text = say(
        "in {number} trainings the error is lower by {gains} of the baseline in the mean; by {clear:.0%} or more it "
        "helped {helped} and harmed {harmed}",
        number=len(gains), gains=in_percent(gains), clear=CLEAR, helped=len(helped), harmed=len(harmed),
    )  # fmt: skip
    text += say("; helped: {helped}", helped="; ".join(helped)) if helped else ""
    text += say("; harmed: {harmed}", harmed="; ".join(harmed)) if harmed else ""
    return " ".join(told(expected, [Case(text, Estimate.of(gains))]))


def norms(runs: list[dict[str, Any]]) -> str:
    """Whose gradients exploded?"""
    here = _clipped(runs, False) or runs
    largest = {system: max(run["largest_norm"] for run in _find(here, system=system)) for system in _systems(runs)}
    text = ", ".join(f"{in_words(SYSTEMS[system])} {norm:.3g}" for system, norm in largest.items())
    cases = []
    for system in ("lstm", "gru"):
        ratios = [
            math.log(max(plain["largest_norm"], TINY) / max(run["largest_norm"], TINY))
            for run in _find(here, system=system)
            for plain in _find(here, system="rnn", task=run["task"], length=run["length"])
        ]
        if ratios:
            ratio = math.exp(sum(ratios) / len(ratios))
            cases.append(
                Case(
                    say("{ratio:.3g} times those of the {system} in the mean", ratio=ratio, system=SYSTEMS[system]),
                    Estimate.of(ratios),
                )
            )
    expected = say("Expected (Bengio et al. 1994): the tanh-RNN's gradients explode more than those of gated cells.")
    return say(
        "{expected} Largest gradient norm of any update without clipping: {text}.",
        expected=" ".join(told(expected, cases)),
        text=text,
    )


def _gain(run: dict[str, Any], plain: dict[str, Any]) -> float:
    """How much lower the first one's error is; who does worse than remembering nothing remembers nothing."""
    return min(1.0, _error(plain)) - min(1.0, _error(run))


def _share(run: dict[str, Any]) -> str:
    return say("diverged") if run["error"] is None else f"{run['error']:.0%}"


def _table(runs: list[dict[str, Any]], task: str) -> Table:
    """A row a length and system, with and without clipping."""
    has_accuracy = task == "copy"
    rows = []
    for run, plain in sorted(_pairs(_find(runs, task=task)), key=lambda pair: pair[0]["length"]):
        cells = [str(run["length"]), in_words(SYSTEMS[run["system"]]), _share(run), _share(plain)]
        if has_accuracy:
            cells += [f"{one['accuracy']:.0%}" if one["error"] is not None else "–" for one in (run, plain)]
        cells += [str(one["solved_after"] or say("not in {updates}", updates=one["updates"])) for one in (run, plain)]
        rows.append(cells + [f"{one['largest_norm']:.3g}" for one in (run, plain)])
    names = [say("error"), *([say("accuracy")] if has_accuracy else []), say("solved after"), say("largest norm")]
    header = [
        say("length"),
        say("system"),
        *(f"{name}, {kind}" for name in names for kind in (say("clipped"), say("not clipped"))),
    ]
    caption = (
        say("{task}: error as a share of the baseline", task=_titled(task))
        + (
            say(", accuracy of the {num_recalled} recalled symbols (chance: 12 %)", num_recalled=NUM_RECALLED)
            if has_accuracy
            else ""
        )
        + say(
            ", updates until solved, largest norm of the gradient before clipping. Length in {units}.",
            units=say(UNITS[task]),
        )
    )
    return Table(header, rows, caption)


def _errors_plot(runs: list[dict[str, Any]], tasks: list[str]) -> Figure:
    from matplotlib.ticker import PercentFormatter

    figure, panels = new_figure(len(tasks))
    for panel, task in zip(panels, tasks, strict=True):
        for number, system in enumerate(_systems(runs)):
            for is_clipped in (True, False):
                here = _find(_clipped(runs, is_clipped), task=task, system=system)
                points = sorted((run["length"], run["error"]) for run in here if run["error"] is not None)
                style = {} if is_clipped else {"ls": "--", "markerfacecolor": "white"}
                name = in_words(SYSTEMS[system]) if is_clipped else None
                panel.plot(*zip(*points, strict=True) if points else ([], []), **{**look(number), **style}, label=name)
        panel.plot([], [], color="0.4", ls="--", marker="o", markerfacecolor="white", label=say("without clipping"))
        panel.axhline(SOLVED, color="0.45", lw=1, ls=":")
        panel.set_title(_titled(task), fontsize="medium")
        log_scale(panel, sorted({run["length"] for run in _find(runs, task=task)}))
        panel.set_xlabel(say("length ({units})", units=say(UNITS[task])))
        panel.set_ylim(0, min(2.0, 1.08 * max([1.0, *(run["error"] or 0.0 for run in runs)])))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0].set_ylabel(say("error (share of the baseline)"))
    share_legend(figure, panels[0])
    return figure


def _curves_plot(runs: list[dict[str, Any]], tasks: list[str]) -> Figure:
    from matplotlib.ticker import PercentFormatter

    figure, panels = new_figure(len(tasks))
    for panel, task in zip(panels, tasks, strict=True):
        lengths = sorted({run["length"] for run in _find(runs, task=task)})
        length = lengths[len(lengths) // 2]
        for number, system in enumerate(_systems(runs)):
            for run in _find(_clipped(runs), task=task, system=system, length=length):
                points = zip(*run["curve"], strict=True) if run["curve"] else ([], [])
                panel.plot(*points, **{**look(number), "markersize": 3}, label=in_words(SYSTEMS[system]))
        panel.axhline(SOLVED, color="0.45", lw=1, ls=":")
        panel.set_title(f"{_titled(task)}, {say(SIZES[task], length=length)}", fontsize="medium")
        panel.set_xlabel(say("updates"))
        panel.set_xlim(left=0)
        panel.set_ylim(0, min(2.0, panel.get_ylim()[1]))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0].set_ylabel(say("loss (share of the baseline)"))
    share_legend(figure, panels[0])
    return figure
