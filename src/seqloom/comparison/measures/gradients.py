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
    factor_per_step,
    fallen_at,
    input_norms,
    source_norms,
    state_norms,
)
from seqloom.comparison.instruments.memory_networks import (
    SYSTEMS,
    RecurrentNetwork,
    Training,
    TransformerNetwork,
    adding,
    build,
    load_or_train,
)
from seqloom.comparison.measures.gradient_figures import NAMES, candidates_plot, inputs_plot, states_plot
from seqloom.comparison.measures.memory_tasks import plan
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.traits import recorded
from seqloom.scoring.predictions import read_predictions
from seqloom.support.console import has_terminal

GAINS = (1.0, 1.5, 2.0)
DISTANCES = (10, 50, 100)
"""Those in the systems' tables."""
STATES_CAPTION = (
    "Norm of the Jacobian between two states against their distance; 1 keeps the length of every direction. Right: the "
    "tanh-RNN with its orthogonal matrix multiplied by a gain. What is below the axis is not drawn."
)
STATES_TABLE = (
    "Jacobians ∂state_T / ∂state_t: fitted factor per step of distance, first distance at which the norm is below 1 % "
    "of that at distance 1, and norms at some distances."
)
INPUTS_CAPTION = (
    "Mean norm of the gradient of the last answer's loss with respect to the inputs, against their distance from the "
    "end, relative to distance 1. What is below the axis is not drawn."
)
INPUTS_TABLE = (
    "Gradients of the last answer's loss with respect to the inputs; columns as above, norms relative to distance 1."
)
CANDIDATES_TABLE = (
    "Gradient of the first target token's loss with respect to the source's embeddings, by distance from the source's "
    "end, in the middle and the longest third of the test sentences; the last columns are relative to distance 1."
)
CANDIDATES_CAPTION = (
    "Gradient of the first target token's loss with respect to the source's embeddings, in the longest third of the "
    "test sentences: mean norm by the distance from either end, relative to its mean over distances."
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
    trainings = measured_trainings(plan(options.seed, **changes))
    systems: dict[str, dict[str, Any]] = {}
    generator = torch.Generator().manual_seed(options.seed)
    inputs, wanted = adding(distance + 1, num_sequences, generator)
    states = [*SYSTEMS, "uniform"]
    with tqdm(
        total=len(states) + len(GAINS) + len(candidates), desc="gradient flow", leave=False, disable=not has_terminal()
    ) as bar:
        for name in states:
            training = trainings["rnn" if name == "uniform" else name]
            networks = {"initial": build(training.system, training.task, training.hidden_size, training.seed)}
            if name == "uniform":
                uniform_(networks["initial"], options.seed)
            else:
                networks["trained"] = load_or_train(training, options.folder)
            systems[name] = {kind: _flow(network, inputs, wanted, options.seed) for kind, network in networks.items()}
            bar.update()
        gains = {}
        for gain in GAINS:
            training = trainings["rnn"]
            scaled = scale_(build("rnn", "adding", training.hidden_size, training.seed), gain)
            gains[f"{gain:g}"] = _flow(scaled, inputs, wanted, options.seed)["states"]
            bar.update()
        models = {}
        for candidate in candidates:
            models[candidate.name] = _measure_candidate(candidate, options, num_sentences)
            bar.update()
    training = trainings["rnn"]
    return {
        "systems": systems,
        "gains": gains,
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


def _plain(norms: torch.Tensor) -> list[float]:
    """As JSON holds them; too large ones end the list."""
    values = norms.tolist()
    return values[: next((i for i, value in enumerate(values) if not math.isfinite(value)), len(values))]


def _measure_candidate(candidate: Candidate, options: Options, num_sentences: int) -> dict[str, Any]:
    """Mean norms by the distance from the source's end, of the middle and the longest third of the sentences."""
    predictions = read_predictions(candidate.predictions[0])
    sources, targets = predictions.sources[:num_sentences], predictions.references[:num_sentences]
    model, tokenizer = candidate.load()
    torch.manual_seed(options.seed)
    fresh = AutoModelForSeq2SeqLM.from_config(model.config).to(model.device).eval()
    norms = {
        kind: source_norms(measured.requires_grad_(False), tokenizer, sources, targets)
        for kind, measured in (("trained", model), ("initial", fresh))
    }
    lengths = [len(row) for row in norms["trained"]]
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    third = math.ceil(len(order) / 3)
    return {
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
            for chosen in (order[third : 2 * third] if len(order) > 2 else [], order[2 * third :] or order)
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
        Plot("gradient_states", states_plot(result), STATES_CAPTION),
        _systems_table(systems, "states", STATES_TABLE),
        Plot("gradient_inputs", inputs_plot(systems), INPUTS_CAPTION),
        _systems_table(systems, "inputs", INPUTS_TABLE),
    ]
    if models:
        plot = Plot("gradient_candidates", candidates_plot(models), CANDIDATES_CAPTION)
        parts += [plot, _candidates_table(models)]
    factors = {
        NAMES[name]: kinds["trained"]["states"]
        for name, kinds in systems.items()
        if "states" in kinds.get("trained", {})
    }
    return Section(
        title="Gradient flow: vanishing and exploding gradients",
        question="How much of a gradient arrives at what was read long ago?",
        findings=findings(result),
        parts=parts,
        how=(
            f"Small networks of one layer and width {result['hidden_size']}: seqloom's recurrent layers, and its "
            "Transformer layer under a causal mask (so that the last position sees all before it); "
            f"{result['sequences']} sequences of {farthest + 1} inputs of the adding problem, in float64. Norms over "
            "states are ‖Jᵀv‖ of random unit vectors v, their root mean square, that is the Jacobian's Frobenius norm "
            "over √n; the LSTM's state is hidden and cell together. Factors are fitted to the logarithms by least "
            "squares. The compared models: their own test sentences, gradients at the output of the encoder's "
            "embeddings, trained weights and fresh ones of the same config."
        ),
        limits=(
            "Initialisation, width and inputs matter, and one seed of each is measured. Networks trained on "
            f"{result['trained_on']} numbers are measured over longer distances than they were trained for. In a "
            "trained model the gradient follows the sentence too: a first target word may hang on the first source "
            "words more than on any other."
        ),
        headline={"gradient kept per step, trained": {name: _factor(values) for name, values in factors.items()}},
    )


def findings(result: dict[str, Any]) -> list[str]:
    """What was expected, and whether it was seen."""
    systems = result["systems"]
    return [
        _falls("rnn", "initial", systems, "At initialisation (recurrent matrices orthogonal)"),
        _falls("uniform", "initial", systems, "With torch's uniform initialisation of the tanh-RNN"),
        _falls("rnn", "trained", systems, f"Trained on the adding problem of {result['trained_on']} numbers"),
        _attends(systems),
        _explodes(result["gains"]),
        *(_candidates_findings(result["candidates"]) if result["candidates"] else []),
    ]


def _factor(norms: Sequence[float]) -> str:
    factor = factor_per_step(norms)
    return "–" if factor is None else f"{factor:.3f}"


def _is_less(factor: float | None, other: float | None) -> bool:
    """Whether a factor is less than another; not, where one is missing."""
    return factor is not None and other is not None and factor < other


def _falls(plain: str, kind: str, systems: dict[str, Any], when: str) -> str:
    """Does the tanh-RNN's gradient fall faster than LSTM's and GRU's?"""
    ours = factor_per_step(systems[plain][kind]["states"])
    gated = {name: factor_per_step(systems[name][kind]["states"]) for name in ("lstm", "gru")}
    verdicts = {
        is_seen: [NAMES[name] for name, factor in gated.items() if _is_less(ours, factor) is is_seen]
        for is_seen in (True, False)
    }
    seen = " and ".join(
        f"{'SEEN' if is_seen else 'NOT SEEN'} against {' and '.join(names)}"
        for is_seen, names in verdicts.items()
        if names
    )
    places = []
    for name in (plain, *gated):
        norms = systems[name][kind]["states"]
        fallen = fallen_at(norms)
        where = f"below 1 % after {fallen} steps" if fallen else f"not below 1 % within {len(norms) - 1} steps"
        places.append(f"{NAMES[name]} {_factor(norms)} ({where})")
    return (
        f"Expected (Bengio et al. 1994): the tanh-RNN's gradient falls faster with distance than those of gated cells. "
        f"{when}: {seen}; factor per step {', '.join(places)}."
    )


def _attends(systems: dict[str, Any]) -> str:
    """Does the Transformer's gradient stay?"""
    norms = systems["transformer"]["trained"]["inputs"]
    fallen = fallen_at(norms)
    text = f"factor per step {_factor(norms)}, " + (
        f"below 1 % after {fallen} steps" if fallen else f"not below 1 % within {len(norms) - 1} steps"
    )
    return (
        "Expected (Vaswani et al. 2017): attention is one step from everywhere, so the Transformer's gradient with "
        f"respect to its inputs does not vanish with distance. Trained: {'NOT SEEN' if fallen else 'SEEN'}, {text}."
    )


def _explodes(gains: dict[str, list[float]]) -> str:
    """Does a larger recurrent matrix make it grow?"""
    factors = {gain: factor_per_step(norms) for gain, norms in gains.items()}
    large = [factor for gain, factor in factors.items() if float(gain) > 1]
    verdict = "SEEN" if large and all(factor is not None and factor > 1 for factor in large) else "NOT SEEN"
    text = ", ".join(f"gain {gain}: {_factor(norms)}" for gain, norms in gains.items())
    return (
        "Expected (Pascanu et al. 2013): a recurrent matrix of a spectral radius above 1 can make the tanh-RNN's "
        f"gradient explode. {verdict}: factor per step at {text} (above 1 grows)."
    )


def _evenness(model: dict[str, Any], kind: str) -> float | None:
    """The weakest position's norm over the strongest's, in the longest sentences."""
    norms = model["buckets"][-1][kind]
    return min(norms) / max(norms) if max(norms) > 0 else None


def _candidates_findings(models: dict[str, Any]) -> list[str]:
    """Does attention bring the gradient to every source position more evenly?"""
    sentences = []
    for kind, when in (("initial", "With fresh weights"), ("trained", "Trained")):
        measured = {name: _evenness(model, kind) for name, model in models.items()}
        even = {name: value for name, value in measured.items() if value is not None}
        text = ", ".join(f"{name} {value:.0%}" for name, value in even.items())
        known = {name: recorded(models[name]).has_cross_attention for name in even}
        without, with_it = (
            [even[name] for name, attends in known.items() if attends is is_so] for is_so in (False, True)
        )
        if without and with_it:
            verdict = "SEEN" if max(without) < min(with_it) else "NOT SEEN"
            said = (
                "Expected (Bahdanau et al. 2015): without attention the gradient reaches the source's positions less "
                f"evenly than with it. {when}: {verdict}; "
            )
        else:
            alone = f"with{'' if with_it else 'out'} attention alone" if with_it or without else "of kinds not known"
            said = f"{when}, models {alone}, so nothing to hold them against: "
        sentences.append(f"{said}the weakest position's gradient is this share of the strongest's: {text}.")
    return sentences


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
            rows.append([NAMES[name], kind, _factor(norms), str(fallen or f"not within {len(norms) - 1}"), *places])
    header = ["system", "weights", "factor per step", "below 1 % at", *(f"at {place}" for place in DISTANCES)]
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
            rows.append([name, lengths, kind, _factor(norms), weakest, f"{sum(norms) / len(norms):.2g}", *places])
    header = ["model", "tokens", "weights", "factor per token", "weakest / strongest", "mean norm"]
    return Table([*header, *(f"at {place}" for place in distances)], rows, CANDIDATES_TABLE)
