"""Vanishing and exploding gradients: how much of a gradient is left after so many steps back.

A tanh-RNN's gradient over a distance is a product of as many Jacobians, which shrinks or grows geometrically (Bengio et
al. 1994; Pascanu et al. 2013, arXiv:1211.5063); the gates of LSTM and GRU let it pass (Hochreiter & Schmidhuber 1997),
and attention has a way of one step to everywhere (Vaswani et al. 2017). Measured of the small networks of
`memory_networks`, as they are initialised and trained, and of the compared models on their own test sentences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM

from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments.gradient_norms import (
    SMALLEST,
    factor_per_step,
    fallen_at,
    input_norms,
    source_norms,
    state_norms,
)
from seqloom.comparison.instruments.memory_networks import (
    STANDARD,
    RecurrentNetwork,
    Training,
    TransformerNetwork,
    adding,
    build,
    load_or_train,
    systems_of,
)
from seqloom.comparison.measures.gradient_figures import NAMES, candidates_plot, inputs_plot, states_plot
from seqloom.comparison.measures.gradient_findings import evenness, factor_of, findings
from seqloom.comparison.measures.memory_tasks import plan
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.traits import in_words
from seqloom.scoring.predictions import read_predictions
from seqloom.support.console import has_terminal
from seqloom.support.language import later, say

GAINS = (1.0, 1.5, 2.0)
DRAWS = 6
"""Of fresh weights, and groups of sequences or sentences of trained ones: what a verdict's spread is of."""
DISTANCES = (10, 50, 100)
"""Those in the systems' tables."""
STATES_CAPTION = later(
    "Norm of the Jacobian between two states against their distance; 1 keeps the length of every "
    "direction. Right: the tanh-RNN with its orthogonal matrix multiplied by a gain. What is below "
    "the axis is not drawn."
)
STATES_TABLE = later(
    "Jacobians ∂state_T / ∂state_t: fitted factor per step of distance, first distance at which the "
    "norm is below 1 % of that at distance 1, and norms at some distances."
)
INPUTS_CAPTION = later(
    "Mean norm of the gradient of the last answer's loss with respect to the inputs, against their "
    "distance from the end, relative to distance 1. What is below the axis is not drawn."
)
INPUTS_TABLE = later(
    "Gradients of the last answer's loss with respect to the inputs; columns as above, norms relative to distance 1."
)
CANDIDATES_TABLE = later(
    "Gradient of the first target token's loss with respect to the source's embeddings, by distance "
    "from the source's end, in the middle and the longest third of the test sentences; the last "
    "columns are relative to distance 1."
)
CANDIDATES_CAPTION = later(
    "Gradient of the first target token's loss with respect to the source's embeddings, in the "
    "longest third of the test sentences: mean norm by the distance from either end, relative to its "
    "mean over distances."
)


def measure(
    candidates: Sequence[Candidate],
    options: Options,
    *,
    distance: int = 200,
    num_sequences: int = 64,
    num_sentences: int = 256,
    **changes: Any,
) -> dict[str, Any]:
    """Measures the small networks and the candidates.

    Args:
        candidates: Their first seed's model is measured.
        options: Weights that `memory_tasks` left under its folder are used.
        distance: The greatest, in steps.
        num_sequences: Over which the small networks' norms are averaged.
        num_sentences: Of the candidates' test sentences.
        changes: Of the trainings, as for `memory_tasks.plan`.
    """
    found = systems_of(candidate.config for candidate in candidates)
    trainings = measured_trainings(plan(options.seed, **{"systems": found, **changes}))
    systems: dict[str, dict[str, Any]] = {}
    generator = torch.Generator().manual_seed(options.seed)
    inputs, wanted = adding(distance + 1, num_sequences, generator)
    states = [*STANDARD, "uniform", *(name for name in found if name not in STANDARD)]
    with tqdm(
        total=len(states) + len(GAINS) + len(candidates),
        desc="gradient flow",
        unit=" models",
        leave=False,
        disable=not has_terminal(),
    ) as bar:
        for name in states:
            training = trainings["rnn" if name == "uniform" else name]
            fresh = [_fresh(training, name, draw) for draw in range(DRAWS)]
            systems[name] = {"initial": _of_draws([_flow(one, inputs, wanted, options.seed) for one in fresh])}
            if name != "uniform":
                trained = load_or_train(training, options.folder)
                systems[name]["trained"] = _of_groups(trained, inputs, wanted, options.seed)
            bar.update()
        gains, of_gains = {}, {}
        for gain in GAINS:
            scaled = [scale_(_fresh(trainings["rnn"], "rnn", draw), gain) for draw in range(DRAWS)]
            flow = _of_draws([_flow(one, inputs, wanted, options.seed) for one in scaled])
            gains[f"{gain:g}"], of_gains[f"{gain:g}"] = flow["states"], flow["factors"]
            bar.update()
        models = {}
        for candidate in candidates:
            models[candidate.name] = _measure_candidate(candidate, options, num_sentences)
            bar.update()
    training = trainings["rnn"]
    return {
        "systems": systems,
        "gains": gains,
        "gain_factors": of_gains,
        "candidates": models,
        "hidden_size": training.hidden_size,
        "trained_on": training.length,
        "sequences": num_sequences,
    }


def measured_trainings(trainings: Sequence[Training]) -> dict[str, Training]:
    """Those whose weights are measured: the adding problem at the middle length, clipped; by system."""
    chosen = [training for training in trainings if training.task == "adding" and training.clipping is not None]
    lengths = sorted({training.length for training in chosen})
    return {training.system: training for training in chosen if training.length == lengths[len(lengths) // 2]}


@torch.no_grad()
def uniform_(network: nn.Module, seed: int) -> RecurrentNetwork:
    """torch's own initialisation, uniform in ± 1 / √hidden, in place of the package's orthogonal one."""
    assert isinstance(network, RecurrentNetwork)
    torch.manual_seed(seed)
    network.layer.rnn.reset_parameters()
    return network


@torch.no_grad()
def scale_(network: nn.Module, gain: float) -> RecurrentNetwork:
    """Multiplies the recurrent matrix, in place; an orthogonal one then has that spectral radius."""
    assert isinstance(network, RecurrentNetwork)
    network.layer.rnn.weight_hh_l0.mul_(gain)
    return network


def _flow(
    network: RecurrentNetwork | TransformerNetwork, inputs: torch.Tensor, wanted: torch.Tensor, seed: int
) -> dict[str, Any]:
    """Norms by distance, in float64: over the states (recurrent networks alone) and to the inputs."""
    network = network.double().requires_grad_(False)
    flow = {"inputs": _plain(input_norms(network, inputs.double(), wanted.double()).mean(0))}
    if isinstance(network, RecurrentNetwork):
        layer = network.layer
        torch.manual_seed(seed)
        size = network.config.hidden_size * layer.cell.num_states
        directions = nn.functional.normalize(torch.randn(len(inputs), size, dtype=torch.float64), dim=-1)
        norms = state_norms(layer, inputs[:, 1:].double(), directions)
        flow["states"] = _plain(norms.square().mean(0).sqrt())
    return flow


def _fresh(training: Training, name: str, draw: int) -> RecurrentNetwork | TransformerNetwork:
    """A network before its training; of the first draw, the one that is trained."""
    network = build(training.system, training.task, training.hidden_size, training.seed + draw)
    return uniform_(network, training.seed + draw) if name == "uniform" else network


def _of_draws(flows: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """The first draw's norms, and of every one the logarithms of what the findings speak of."""
    return {**flows[0], **_logs(flows)}


def _of_groups(
    network: RecurrentNetwork | TransformerNetwork, inputs: torch.Tensor, wanted: torch.Tensor, seed: int
) -> dict[str, Any]:
    """The norms over all sequences, and the logarithms of groups of them: of this one network."""
    whole = _flow(network, inputs, wanted, seed)
    size = max(1, len(inputs) // DRAWS)
    groups = [
        _flow(network, inputs[start : start + size], wanted[start : start + size], seed + 1 + start)
        for start in range(0, size * min(DRAWS, len(inputs)), size)
    ]
    return {**whole, **_logs(groups)}


def _logs(flows: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """``factors``: of the rate per step, over the states where there are some; ``lowest``: of the weakest norm of an
    input over that at distance 1."""
    factors = [factor_per_step(flow.get("states", flow["inputs"])) for flow in flows]
    lowest = [min(flow["inputs"][1:]) / flow["inputs"][1] if flow["inputs"][1:] and flow["inputs"][1] else 0.0
              for flow in flows]  # fmt: skip
    return {
        "factors": [math.log(factor) for factor in factors if factor is not None],
        "lowest": [math.log(max(value, SMALLEST)) for value in lowest],
    }


def _plain(norms: torch.Tensor) -> list[float]:
    """As JSON holds them; too large ones end the list."""
    values = norms.tolist()
    return values[: next((i for i, value in enumerate(values) if not math.isfinite(value)), len(values))]


def _measure_candidate(candidate: Candidate, options: Options, num_sentences: int) -> dict[str, Any]:
    """Mean norms by the distance from the source's end, of the middle and the longest third of the sentences."""
    predictions = read_predictions(candidate.predictions[0])
    sources, targets = predictions.sources[:num_sentences], predictions.references[:num_sentences]
    model, tokenizer = candidate.load()
    draws = []
    for draw in range(DRAWS):
        torch.manual_seed(options.seed + draw)
        fresh = AutoModelForSeq2SeqLM.from_config(model.config).to(model.device).eval().requires_grad_(False)
        draws.append(source_norms(fresh, tokenizer, sources, targets))
    norms = {"trained": source_norms(model.requires_grad_(False), tokenizer, sources, targets), "initial": draws[0]}
    lengths = [len(row) for row in norms["trained"]]
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    third = math.ceil(len(order) / 3)
    longest = order[2 * third :] or order
    shortest = min(lengths[index] for index in longest)  # the groups too are looked at as far as all reach
    groups = [longest[start::DRAWS] for start in range(min(DRAWS, len(longest)))]
    replicates = {
        "initial": [evenness(_from_the_end([rows[index] for index in longest])) for rows in draws],
        "trained": [
            evenness(_from_the_end([norms["trained"][index][-shortest:] for index in group])) for group in groups
        ],
    }
    return {
        "evenness": {kind: [math.log(value) for value in values if value] for kind, values in replicates.items()},
        "traits": asdict(candidate.traits),
        "buckets": [
            {
                "sentences": len(chosen),
                "shortest": lengths[chosen[0]],
                "longest": lengths[chosen[-1]],
                **{kind: _from_the_end([rows[index] for index in chosen]) for kind, rows in norms.items()},
                **{f"{kind}_from_start": _from_the_end([rows[index].flip(0) for index in chosen])
                   for kind, rows in norms.items()},
            }
            for chosen in (order[third : 2 * third] if len(order) > 2 else [], longest)
            if chosen
        ],
    }  # fmt: skip


def _from_the_end(rows: Sequence[torch.Tensor]) -> list[float]:
    """Mean norms by distance from the last token, as far as all sentences reach."""
    shortest = min(len(row) for row in rows)
    return torch.stack([row[len(row) - shortest :].flip(0) for row in rows]).mean(0).tolist()


def section(result: dict[str, Any]) -> Section:
    """The report's part, from what `measure` returned."""
    systems, models = result["systems"], result["candidates"]
    farthest = max(len(flow["inputs"]) for kinds in systems.values() for flow in kinds.values()) - 1
    parts: list[Any] = [
        Plot("gradient_states", states_plot(result), say(STATES_CAPTION)),
        _systems_table(systems, "states", say(STATES_TABLE)),
        Plot("gradient_inputs", inputs_plot(systems), say(INPUTS_CAPTION)),
        _systems_table(systems, "inputs", say(INPUTS_TABLE)),
    ]
    if models:
        plot = Plot("gradient_candidates", candidates_plot(models), say(CANDIDATES_CAPTION))
        parts += [plot, _candidates_table(models)]
    factors = {
        in_words(NAMES[name]): kinds["trained"]["states"]
        for name, kinds in systems.items()
        if "states" in kinds.get("trained", {})
    }
    return Section(
        title=say("Gradient flow: vanishing and exploding gradients"),
        question=say("How much of a gradient arrives at what was read long ago?"),
        findings=findings(result),
        parts=parts,
        how=(
            say(
                "Small networks of one layer and width {hidden_size}: seqloom's recurrent layers, and its "
                "Transformer layer under a causal mask (so that the last position sees all before it); "
                "{sequences} sequences of {farthest} inputs of the adding problem, in float64. Norms over states "
                "are ‖Jᵀv‖ of random unit vectors v, their root mean square, that is the Jacobian's Frobenius "
                "norm over √n; the LSTM's state is hidden and cell together. Factors are fitted to the "
                "logarithms by least squares. The compared models: their own test sentences, gradients at the "
                "output of the encoder's embeddings, trained weights and fresh ones of the same config. A "
                "verdict is of {draws} draws of fresh weights (the first is drawn), or, of a trained network, "
                "which there is one of, of {draws} groups of its sequences or sentences, by Student's interval "
                "of the mean logarithm.",
                hidden_size=result["hidden_size"],
                sequences=result["sequences"],
                farthest=farthest + 1,
                draws=DRAWS,
            )
        ),
        limits=(
            say(
                "Initialisation, width and inputs matter; one network of each kind was trained. Networks trained "
                "on {trained_on} numbers are measured over longer distances than they were trained for. In a "
                "trained model the gradient follows the sentence too: a first target word may hang on the first "
                "source words more than on any other.",
                trained_on=result["trained_on"],
            )
        ),
        headline={
            say("gradient kept per step, trained"): {name: factor_of(values) for name, values in factors.items()}
        },
    )


def _systems_table(systems: dict[str, Any], what: str, caption: str) -> Table:
    rows = []
    for name, kinds in systems.items():
        for kind, flow in kinds.items():
            norms = flow.get(what)
            if not norms:
                continue
            unit = (norms[1] or 1.0) if what == "inputs" else 1.0
            fallen = fallen_at(norms)
            places = [f"{norms[place] / unit:.2g}" if place < len(norms) else "–" for place in DISTANCES]
            rows.append(
                [
                    in_words(NAMES[name]),
                    say(kind),
                    factor_of(norms),
                    str(fallen or say("not within {number}", number=len(norms) - 1)),
                    *places,
                ]
            )
    header = [
        say("system"),
        say("weights"),
        say("factor per step"),
        say("below 1 % at"),
        *(say("at {place}", place=place) for place in DISTANCES),
    ]
    return Table(header, rows, caption)


def _candidates_table(models: dict[str, Any]) -> Table:
    buckets = [(name, bucket) for name, model in models.items() for bucket in model["buckets"]]
    farthest = max(len(bucket["trained"]) for _, bucket in buckets) - 1
    distances = [distance for distance in (2, 5, 10, 20, 50, 100) if distance <= farthest]
    rows = []
    for name, bucket in buckets:
        for kind in ("initial", "trained"):
            norms = bucket[kind]
            unit = norms[min(1, len(norms) - 1)]
            places = [f"{norms[place] / unit:.2g}" if place < len(norms) and unit else "–" for place in distances]
            weakest = f"{min(norms) / max(norms):.0%}" if max(norms) > 0 else "–"
            lengths = f"{bucket['shortest']}–{bucket['longest']}"
            rows.append(
                [name, lengths, say(kind), factor_of(norms), weakest, f"{sum(norms) / len(norms):.2g}", *places]
            )
    header = [
        say("model"),
        say("tokens"),
        say("weights"),
        say("factor per token"),
        say("weakest / strongest"),
        say("mean norm"),
    ]
    return Table([*header, *(say("at {place}", place=place) for place in distances)], rows, say(CANDIDATES_TABLE))
