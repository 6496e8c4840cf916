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
    SYSTEMS,
    WINDOW,
    Training,
    train_and_keep,
)
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.verdicts import Case, told
from seqloom.figures.style import log_scale, look, new_figure, share_legend
from seqloom.scoring.estimates import Estimate
from seqloom.support.console import has_terminal

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
    systems = changes.pop("systems", tuple(SYSTEMS))
    sizes = {"hidden_size": 32, "batch_size": 32, "learning_rate": 0.01, "seed": seed}
    return [
        Training(task, length, system, clipping, **{**sizes, "updates": UPDATES[task], **changes})
        for task in lengths
        for length in lengths[task]
        for system in systems
        for clipping in (1.0, None)
    ]


def measure(candidates: Sequence[Candidate], options: Options, **changes: Any) -> dict[str, Any]:
    """Trains every system on every task; the candidates are not asked. Changes are as for `plan`."""
    trainings = plan(options.seed, **changes)
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
    about = (
        f"width {first['hidden_size']}, one layer, batches of {first['batch_size']} new sequences, "
        f"Adam with learning rate {first['learning_rate']:g}"
    )
    parts: list[Any] = [Plot("memory_tasks", _errors_plot(runs, tasks), _ERRORS_CAPTION)]
    parts += [_table(runs, task) for task in tasks]
    parts.append(Plot("memory_curves", _curves_plot(runs, tasks), _CURVES_CAPTION))
    longest = {
        f"longest {NAMES[task]} solved": {
            SYSTEMS[system]: f"{_reach(runs, task, system)} {UNITS[task]}" if _reach(runs, task, system) else "none"
            for system in _systems(runs)
        }
        for task in tasks
    }
    return Section(
        title="Memory: the adding problem and the copy task",
        question="How far back can a state remember what attention can look up?",
        findings=findings(result),
        parts=parts,
        how=(
            f"The same task, updates and {about} for all; one seed ({first['seed']}). Recurrent networks are seqloom's "
            "layer with its own initialisation (recurrent matrices orthogonal, the LSTM's forget gate open) and a "
            "linear readout; the Transformer is one pre-norm layer with sinusoidal positions under a causal mask. "
            f"Errors are losses on {result['tested']} fresh sequences, divided by the loss of who remembers nothing: "
            "always answering 1 (adding problem), or blanks and then any symbol (copy task). A training ends when the "
            f"mean loss of {result['window']} updates is below {result['solved_below']:.0%} of that: the task is "
            "solved. Clipping is at norm 1. Whether one system is better is tested over all tasks and lengths: the "
            "mean of the differences between the trainings of two systems, with Student's interval of it."
        ),
        limits=(
            "Small networks, few updates and one seed: who solves a task after twice the updates is not seen here, and "
            f"neighbouring numbers of updates are no ranking. The copy task recalls {NUM_RECALLED} symbols where the "
            "paper recalls ten, so that some hundred updates suffice. These are the systems, not the compared models."
        ),
        headline=longest,
    )


def findings(result: dict[str, Any]) -> list[str]:
    """Who solved what; what was expected, and whether it was seen."""
    runs = result["runs"]
    return [*_solved(runs), gates(runs), clipping(runs), norms(runs)]


NAMES = {"adding": "adding problem", "copy": "copy task"}
UNITS = {"adding": "numbers", "copy": "steps of gap"}
_ERRORS_CAPTION = (
    "Error on fresh sequences against the task's length; 1 is the error of who remembers nothing, the dotted line is "
    "where a task counts as solved. Solid lines with clipping, dashed ones without."
)
_CURVES_CAPTION = "Loss against updates at the middle length, with clipping; a line ends where the task was solved."


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
        yes = [f"{SYSTEMS[run['system']]} ({run['solved_after']} updates)" for run in here if run["solved_after"]]
        no = [
            f"{SYSTEMS[run['system']]} "
            + ("(diverged)" if run["error"] is None else f"({run['error']:.0%} of the baseline)")
            for run in here
            if not run["solved_after"]
        ]
        text = f"{NAMES[task].capitalize()}, {length} {UNITS[task]}: solved by {', '.join(yes) or 'nobody'}"
        sentences.append(text + (f"; not in {here[0]['updates']} updates by {', '.join(no)}." if no else "."))
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
                place = f"{NAMES[run['task']]} {run['length']}"
                better += [f"{place} ({_share(run)} against {_share(plain)})"] * (gains[-1] > CLEAR)
                worse += [f"{place} ({_share(run)} against {_share(plain)})"] * (gains[-1] < -CLEAR)
        if gains:
            text = f"{SYSTEMS[system]}, an error lower by {in_percent(gains)} of the baseline in the mean"
            text += f"; much lower at {', '.join(better)}" if better else ""
            cases.append(Case(text + (f"; much higher at {', '.join(worse)}" if worse else ""), Estimate.of(gains)))
    return " ".join(
        told("Expected (Hochreiter & Schmidhuber 1997): gated cells remember farther than the tanh-RNN.", cases)
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
        place = f"{SYSTEMS[run['system']]}, {NAMES[run['task']]} {run['length']}"
        text = f"{place} ({_share(run)} with, {_share(plain)} without)"
        helped += [text] * (gains[-1] > CLEAR)
        harmed += [text] * (gains[-1] < -CLEAR)
    expected = "Expected (Pascanu et al. 2013): clipping the gradient's norm helps."
    if not gains:
        return f"{expected} Not measured."
    text = f"in {len(gains)} trainings the error is lower by {in_percent(gains)} of the baseline in the mean; by "
    text += f"{CLEAR:.0%} or more it helped {len(helped)} and harmed {len(harmed)}"
    text += f"; helped: {'; '.join(helped)}" if helped else ""
    text += f"; harmed: {'; '.join(harmed)}" if harmed else ""
    return " ".join(told(expected, [Case(text, Estimate.of(gains))]))


def norms(runs: list[dict[str, Any]]) -> str:
    """Whose gradients exploded?"""
    here = _clipped(runs, False) or runs
    largest = {system: max(run["largest_norm"] for run in _find(here, system=system)) for system in _systems(runs)}
    text = ", ".join(f"{SYSTEMS[system]} {norm:.3g}" for system, norm in largest.items())
    cases = []
    for system in ("lstm", "gru"):
        ratios = [
            math.log(max(plain["largest_norm"], TINY) / max(run["largest_norm"], TINY))
            for run in _find(here, system=system)
            for plain in _find(here, system="rnn", task=run["task"], length=run["length"])
        ]
        if ratios:
            ratio = math.exp(sum(ratios) / len(ratios))
            cases.append(Case(f"{ratio:.3g} times those of the {SYSTEMS[system]} in the mean", Estimate.of(ratios)))
    expected = "Expected (Bengio et al. 1994): the tanh-RNN's gradients explode more than those of gated cells."
    return f"{' '.join(told(expected, cases))} Largest gradient norm of any update without clipping: {text}."


def _gain(run: dict[str, Any], plain: dict[str, Any]) -> float:
    """How much lower the first one's error is; who does worse than remembering nothing remembers nothing."""
    return min(1.0, _error(plain)) - min(1.0, _error(run))


def _share(run: dict[str, Any]) -> str:
    return "diverged" if run["error"] is None else f"{run['error']:.0%}"


def _table(runs: list[dict[str, Any]], task: str) -> Table:
    """A row a length and system, with and without clipping."""
    has_accuracy = task == "copy"
    rows = []
    for run, plain in sorted(_pairs(_find(runs, task=task)), key=lambda pair: pair[0]["length"]):
        cells = [str(run["length"]), SYSTEMS[run["system"]], _share(run), _share(plain)]
        if has_accuracy:
            cells += [f"{one['accuracy']:.0%}" if one["error"] is not None else "–" for one in (run, plain)]
        cells += [str(one["solved_after"] or f"not in {one['updates']}") for one in (run, plain)]
        rows.append(cells + [f"{one['largest_norm']:.3g}" for one in (run, plain)])
    names = ["error", *(["accuracy"] if has_accuracy else []), "solved after", "largest norm"]
    header = ["length", "system", *(f"{name}, {kind}" for name in names for kind in ("clipped", "not clipped"))]
    caption = (
        f"{NAMES[task].capitalize()}: error as a share of the baseline"
        + (f", accuracy of the {NUM_RECALLED} recalled symbols (chance: 12 %)" if has_accuracy else "")
        + f", updates until solved, largest norm of the gradient before clipping. Length in {UNITS[task]}."
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
                name = SYSTEMS[system] if is_clipped else None
                panel.plot(*zip(*points, strict=True) if points else ([], []), **{**look(number), **style}, label=name)
        panel.plot([], [], color="0.4", ls="--", marker="o", markerfacecolor="white", label="without clipping")
        panel.axhline(SOLVED, color="0.45", lw=1, ls=":")
        panel.set_title(NAMES[task].capitalize(), fontsize="medium")
        log_scale(panel, sorted({run["length"] for run in _find(runs, task=task)}))
        panel.set_xlabel(f"length ({UNITS[task]})")
        panel.set_ylim(0, min(2.0, 1.08 * max([1.0, *(run["error"] or 0.0 for run in runs)])))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0].set_ylabel("error (share of the baseline)")
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
                panel.plot(*points, **{**look(number), "markersize": 3}, label=SYSTEMS[system])
        panel.axhline(SOLVED, color="0.45", lw=1, ls=":")
        panel.set_title(f"{NAMES[task].capitalize()}, {length} {UNITS[task]}", fontsize="medium")
        panel.set_xlabel("updates")
        panel.set_xlim(left=0)
        panel.set_ylim(0, min(2.0, panel.get_ylim()[1]))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0].set_ylabel("loss (share of the baseline)")
    share_legend(figure, panels[0])
    return figure
