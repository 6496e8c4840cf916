"""What a model starts from and what of it learns: another model's weights, and parameters that stay as they are.

Embeddings and output rows belong to tokens, so they are taken over by token, whatever the two vocabularies' sizes and
orders (as Zoph et al. 2016 do for transfer between languages, arXiv:1604.02201, where the tokens are shared); all other
tensors by name and shape.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from seqloom.data.sources import describe_file
from seqloom.data.tokenization import target_tokenizer
from seqloom.decoding.loading import Seq2SeqLM, tokenizer_of, whole_model
from seqloom.settings.schema import TrainingSettings
from seqloom.sharing.files import WEIGHTS
from seqloom.sharing.privacy import last_part
from seqloom.sharing.teachers import commit_of
from seqloom.support.machine import total_memory

LISTED = 6
"""Names that a message gives in full."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Makes the matching parameters stay as they are.

    Tied matrices are one parameter of several names, which stays as it is if any of them matches.

    Args:
        model: As it was built.
        patterns: Shell patterns over the names of parameters; case counts.

    Returns:
        The names of all frozen parameters, of tied ones the first.

    Raises:
        ValueError: A pattern matches nothing, or nothing is left to train.
    """
    for pattern in patterns:
        for name in _matching(model, [pattern], "training.freeze"):
            model.get_parameter(name).requires_grad_(False)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if len(frozen) == len(list(model.parameters())):
        raise ValueError(f"training.freeze is {list(patterns)}, which leaves nothing to train: take some out.")
    return frozen


def frozen_parameters(model: nn.Module) -> int:
    """How many parameters, counted one by one, stay as they are."""
    return sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)


@dataclass(frozen=True)
class Taken:
    """What `initialise` took over, and from where."""

    name: str
    """Folder or Hub name."""
    revision: str | None
    """The commit that was loaded from the Hub; None for a folder."""
    files: list[dict[str, Any]]
    """A folder's weights, as `describe_file` tells of them."""
    parameters: int
    """Those taken over, counted one by one."""
    new: int
    """Those that began anew."""
    frozen_new: list[str]
    """Where parameters are that began anew and stay as they are."""
    line: str
    """What was taken over and what was not."""

    def record(self) -> dict[str, Any]:
        """For the run's record."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "line"}

    def __str__(self) -> str:
        if not self.frozen_new:
            return self.line
        return (
            f"{self.line}\nwarning: training.freeze keeps what was not taken over as it was drawn at random, unlearnt: "
            f"{_some(self.frozen_new)}; leave these out of training.freeze, unless that is what you want."
        )


def fresh_model(config: PreTrainedConfig, training: TrainingSettings) -> Seq2SeqLM:
    """A model of random weights as a training begins with: its attention, what is frozen, what is computed twice.

    Raises:
        ValueError: As for `freeze`; or the weights alone are more than the machine's memory.
    """
    with torch.random.fork_rng([]), torch.device("meta"):  # where nothing is allocated
        number = AutoModelForSeq2SeqLM.from_config(config).num_parameters()
    memory = total_memory()
    if memory is not None and 4 * number > memory:
        raise ValueError(
            f"the model would have {number:,} parameters, {4 * number / 2**30:,.0f} GiB of weights, but this machine "
            f"has {memory / 2**30:,.0f} GiB of memory: make it smaller."
        )
    attention = training.attn_implementation
    model = AutoModelForSeq2SeqLM.from_config(config, **({"attn_implementation": attention} if attention else {}))
    freeze(model, training.freeze)
    if training.gradient_checkpointing:
        # The older transformers have the second name alone; in the newer ones it warns.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    return model


@torch.no_grad()
def initialise(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, patterns: Sequence[str]) -> Taken:
    """Takes over another model's weights, wherever they fit.

    Args:
        model: As it was built, with fresh weights.
        tokenizer: Its tokenizer, or pair of tokenizers.
        name: Folder or Hub name of any model that ``AutoModelForSeq2SeqLM`` loads.
        patterns: Shell patterns over the names of ``model``'s parameters: which of them are taken over.

    Returns:
        What was taken and what was not; as a text, a line, and a warning if what was not is frozen.

    Raises:
        ValueError: There is no such model; a pattern matches nothing; nothing fits.
    """
    wanted = _matching(model, patterns, "training.init_parameters")
    other = _load(name)
    given = dict(other.named_parameters(remove_duplicate=False))
    taken: list[str] = []
    rows: list[str] = []
    missing: list[str] = []
    new = {key: parameter.numel() for key, parameter in model.named_parameters()}  # by parameter, as yet
    total = sum(new.values())
    tables = _tables(model, wanted)
    if tables:
        theirs = tokenizer_of(other, name)
        sides = {"source": (tokenizer, theirs), "target": (target_tokenizer(tokenizer), target_tokenizer(theirs))}
        places = {"source": _encoder_embeddings(other), "target": _decoder_embeddings(other)}
        filled: dict[int, set[int]] = {}  # rows of a tied matrix are taken once, the source's first
        for table, side, is_output in tables:
            place = other.get_output_embeddings() if is_output else places[side]
            parameter, from_ = model.get_parameter(table), getattr(place, "weight", None)
            done = filled.setdefault(id(parameter), set())
            if from_ is not None and from_.shape[1:] == parameter.shape[1:]:
                pairs = _same_tokens(*sides[side], len(parameter), len(from_))
                pairs = [(ours, their) for ours, their in pairs if ours not in done]
                if pairs:
                    mine, others = (torch.tensor(column) for column in zip(*pairs, strict=True))
                    parameter[mine] = from_[others].to(parameter)
                    done.update(mine.tolist())
        for table, parameter in model.named_parameters():
            if id(parameter) in filled:
                count = len(filled[id(parameter)])
                new[table] -= count * parameter[0].numel()
                (rows if count else missing).append(f"{table} ({count:,} of {len(parameter):,} rows)")
    by_token = {id(model.get_parameter(table)) for table, *_ in tables}
    for key in wanted:
        parameter = model.get_parameter(key)
        if id(parameter) in by_token:
            continue
        if key in given and given[key].shape == parameter.shape:
            parameter.copy_(given[key].to(parameter))
            taken.append(key)
            new[key] = 0
        else:
            reason = f" (there {'×'.join(map(str, given[key].shape))})" if key in given else ""
            missing.append(key + reason)
    if not taken and not rows:
        raise ValueError(
            f"nothing of training.init_from {name!r} fits this model: no tensor of training.init_parameters has the "
            f"same name and shape, no token the same text and width; it has {_some([*given])}, wanted were "
            f"{_some(wanted)}."
        )
    fresh = [key for key, _ in model.named_parameters() if key not in wanted]
    parts = [f"{len(taken):,} tensors by name ({_some(taken)})"] if taken else []
    parts += [f"by token {_some(rows)}"] if rows else []
    left = [f"not there or of another shape: {_some(missing)}"] if missing else []
    left += [f"not asked for: {_some(fresh)}"] if fresh else []
    line = (
        f"taken over from {last_part(name)}: {', '.join(parts)}. Freshly initialised: {'; '.join(left) or 'nothing'}."
    )
    frozen_new = [
        key + (f" ({new[key] // parameter[0].numel():,} rows)" if new[key] < parameter.numel() else "")
        for key, parameter in model.named_parameters()
        if new[key] and not parameter.requires_grad
    ]
    begun = sum(new.values())
    folder = Path(name)
    weights = [path for path in sorted(folder.glob("*")) if path.name.endswith((*WEIGHTS, ".bin"))]
    files = [describe_file(str(path), stream=False) for path in weights]
    return Taken(name, None if folder.is_dir() else commit_of(name), files, total - begun, begun, frozen_new, line)


def _load(name: str) -> Seq2SeqLM:
    try:
        return whole_model(name, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(
            f"training.init_from is {name!r}, which is no model that can be taken over: {' '.join(str(error).split())}"
        ) from error


def _tables(model: PreTrainedModel, wanted: Iterable[str]) -> list[tuple[str, str, bool]]:
    """The wanted matrices that have a row for every token: name, side, and whether it is the output's."""
    names: dict[int, str] = {}
    for name in wanted:
        names.setdefault(id(model.get_parameter(name)), name)
    places = (
        (_encoder_embeddings(model), "source", False),
        (_decoder_embeddings(model), "target", False),
        (model.get_output_embeddings(), "target", True),
    )
    return [(names[id(place.weight)], side, out) for place, side, out in places if id(place.weight) in names]


def _encoder_embeddings(model: PreTrainedModel) -> nn.Module:
    return model.get_encoder().get_input_embeddings()


def _decoder_embeddings(model: PreTrainedModel) -> nn.Module:
    return model.get_decoder().get_input_embeddings()


def _same_tokens(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, most: int, their_most: int
) -> list[tuple[int, int]]:
    """Rows of the tokens that both have, ours and theirs, in our order."""
    vocabulary = theirs.get_vocab()
    pairs = ((index, vocabulary[token]) for token, index in ours.get_vocab().items() if token in vocabulary)
    return sorted((mine, their) for mine, their in pairs if mine < most and their < their_most)


def _matching(model: nn.Module, patterns: Sequence[str], setting: str) -> list[str]:
    """First names of the parameters that a pattern matches under any of their names."""
    first: dict[int, str] = {}
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    found = []
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            near = difflib.get_close_matches(pattern.rstrip("*."), names, n=3, cutoff=0.3) or names[:3]
            raise ValueError(
                f"{setting} has {pattern!r}, which no parameter's name matches; near it are {', '.join(near)}."
            )
        found += hits
    for name, parameter in model.named_parameters():
        first[id(parameter)] = name
    return list(dict.fromkeys(first[id(model.get_parameter(name))] for name in found))


def _some(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more:,} more" if more > 0 else "")
