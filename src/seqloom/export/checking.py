"""Whether an exported model says what the model says that it was made from.

Both write the same sources, by greedy search, with five beams, and as the model's own generation config asks; both
score what the model has written. In float32 every output must be the same, token for token, but for ties: outputs that
the model itself writes when its scores are off by no more than the two differ in theirs. In other dtypes the share of
equal outputs is stated, and both scores where there are references.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from seqloom import run_folder
from seqloom.data.lines import lines
from seqloom.data.pairs import load_pairs
from seqloom.decoding.asked import NotOurs, options_for
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.exported import ExportedModel
from seqloom.decoding.limits import check_sources, within_positions
from seqloom.decoding.loading import Seq2SeqLM, open_model
from seqloom.decoding.options import limited
from seqloom.decoding.search import Decoder, search
from seqloom.decoding.targets import SearchOptions
from seqloom.decoding.translate import GREEDY
from seqloom.modeling.pipeline_seq2seq import generated_mask, teacher_forced
from seqloom.scoring import metrics
from seqloom.scoring.normalization import normalized
from seqloom.settings.reading import load_scoring_settings
from seqloom.support.wording import in_markdown, plural

SAMPLE_SIZE = 200
BEAMS: dict[str, Any] = {**GREEDY, "num_beams": 5}
LARGEST = 1e-3
"""Nats by which log p of a token may differ in float32: what kernels of other libraries round otherwise is a hundredth
of it; another formula (of GELU, say) is more."""
REPORT = "nothing was written. This is a fault of seqloom's or of the engine's: please report it."
DRAWS = 32
"""Of rounding errors, among which an output that differs must be found."""
BATCH = 32


@dataclass(frozen=True)
class Sample:
    """What is decoded to check an export."""

    origin: str
    """Where it is from, in words."""
    ids: list[list[int]]
    references: list[str] | None = None
    metric: str | None = None
    metric_kwargs: dict[str, Any] = field(default_factory=dict)


def sample_of(name: str, model: Seq2SeqLM, tokenizer: PreTrainedTokenizerBase, sources: Path | None = None) -> Sample:
    """The sources that an export is checked with.

    Args:
        name: The model's folder, or its name on the Hub.
        model, tokenizer: What lies there.
        sources: A file of lines; None: the validation sources of the model's run; random tokens where there are none.

    Raises:
        ValueError: The file cannot be read, or has no line that the model can.
    """
    if sources is not None:
        if not sources.is_file():
            raise ValueError(f"there is no file {sources} of --sources; give lines of text.")
        texts = list(itertools.islice(lines(str(sources)), SAMPLE_SIZE))
        if not texts:
            raise ValueError(f"{sources} of --sources has no lines.")
        ids = tokenizer(texts)["input_ids"]
        check_sources(model, ids)
        return Sample(f"the first {plural(len(texts), 'line')} of {in_markdown(sources.name)}", ids)
    reason = "the model's folder tells of no data"
    if (Path(name) / run_folder.SETTINGS).is_file():
        try:
            settings, _ = load_scoring_settings(name)
            pairs = load_pairs(settings.data, settings.seed, splits=("validation",)).splits["validation"]
        except ValueError:  # files that are gone, a Hub out of reach
            reason = "the data of the model's run are not here"
        else:
            pairs = pairs.select(range(min(SAMPLE_SIZE, len(pairs))))
            metric = next(iter(settings.evaluation.metrics), None)
            metric = metric if metric in metrics.METRICS else None
            return Sample(
                f"{plural(len(pairs), 'source')} of the validation split of the model's run",
                tokenizer(pairs["source"][:])["input_ids"], pairs["target"][:], metric,
                settings.evaluation.metric_kwargs.get(metric or "", {}),
            )  # fmt: skip
    return Sample(f"{SAMPLE_SIZE} sources of random tokens, since {reason}", random_sources(tokenizer))


def random_sources(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Sources of 1 to 20 tokens and the end; always the same."""
    drawing = torch.Generator().manual_seed(0)
    special = set(tokenizer.all_special_ids)
    ids = torch.tensor([index for index in range(len(tokenizer)) if index not in special] or [tokenizer.eos_token_id])
    lengths = torch.randint(1, 21, (SAMPLE_SIZE,), generator=drawing).tolist()
    ends = [tokenizer.eos_token_id]
    return [[*ids[torch.randint(len(ids), (length,), generator=drawing)].tolist(), *ends] for length in lengths]


def check(
    folder: Path,
    model: Seq2SeqLM,
    tokenizer: PreTrainedTokenizerBase,
    sample: Sample,
    dtype: str,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs what was exported and holds it against the model.

    Args:
        folder: Of the exported model.
        model, tokenizer: What it was made from.
        sample: What is decoded.
        dtype: Of its weights.
        say: Takes a line for the user.

    Returns:
        For ``export.json``: ``sources``, ``largest_difference`` (nats), and ``searches``, by their names.

    Raises:
        ValueError: In float32, something differs that is no rounding.
    """
    exported = open_model(str(folder))
    exported = exported if isinstance(exported, ExportedModel) else exported.to("cpu")
    is_exact = dtype == "float32"
    checked: dict[str, Any] = {"sources": sample.origin, "searches": {}}
    say(f"checking with {sample.origin}")
    for name, given in searches(model).items():
        expected = written(model, sample.ids, given)
        found = written(exported, sample.ids, given)
        if "largest_difference" not in checked:
            checked["largest_difference"] = difference(model, exported, sample.ids, expected)
            if is_exact and not checked["largest_difference"] <= LARGEST:
                raise ValueError(
                    f"not exported: log p of a token differs by {checked['largest_difference']:.2g} from the model's, "
                    f"which is no rounding; {REPORT}"
                )
        differing = [index for index, (one, other) in enumerate(zip(expected, found, strict=True)) if one != other]
        ties = 0
        if is_exact:
            for index in differing:
                if not is_tie(model, sample.ids[index], given, found[index], checked["largest_difference"]):
                    raise ValueError(
                        f"not exported: with {name}, output {index + 1:,} of {len(expected):,} differs, and no "
                        f"rounding explains it: {tokenizer.decode(expected[index])!r} of the model, "
                        f"{tokenizer.decode(found[index])!r} of what was exported; {REPORT}"
                    )
                ties += 1
        entry: dict[str, Any] = {"outputs": len(expected), "equal": len(expected) - len(differing), "ties": ties}
        if not is_exact and sample.references is not None and sample.metric is not None:
            entry["metric"] = sample.metric
            entry["scores"] = [scored(tokenizer, ids, sample) for ids in (expected, found)]
        checked["searches"][name] = entry
        say(in_words(name, entry))
    return checked


def in_words(name: str, entry: dict[str, Any]) -> str:
    """What the check of a search found, in a sentence."""
    text = f"{name}: {entry['equal']:,} of {entry['outputs']:,} outputs are the model's own, token for token"
    if entry["ties"]:
        text += f"; {entry['ties']:,} differ by ties within rounding"
    if "scores" in entry:
        text += f"; {entry['metric']} {entry['scores'][1]:.2f}, the model's {entry['scores'][0]:.2f}"
    return text


def searches(model: Any) -> dict[str, dict[str, Any]]:
    """What is decoded by, by name; the model's own where it is another one and draws nothing.

    Raises:
        ValueError: The model's own asks for what no search of ours has.
    """
    own = limited(model.generation_config, {})
    found = {"greedy search": own | GREEDY, "5 beams": own | BEAMS}
    try:
        asked = options_for(model, own)
        known = [options_for(model, given) for given in found.values()]
    except NotOurs as reason:
        raise ValueError(
            f"not exported: generation_config.json asks for a search that the model alone has ({reason}): take it out "
            "there, and give it to generate."
        ) from None
    if asked not in known and not asked.do_sample:
        found["the model's own generation config"] = own
    return found


def written(model: Any, sources: Sequence[list[int]], given: dict[str, Any]) -> list[list[int]]:
    """Ids of the best output of every source: without the start, with the end."""
    given = within_positions(model, given) | {"num_return_sequences": 1}
    ends = given.get("eos_token_id", model.generation_config.eos_token_id)
    outputs: list[list[int]] = [[] for _ in sources]
    if isinstance(model, ExportedModel):
        for index, found in model.search(sources, model.asked(given)):
            outputs[index] = found[0].tokens
        return outputs
    for batch in batches(sources):
        sequences = model.generate(**padded(model, [sources[index] for index in batch]), **given)
        lengths = generated_mask(sequences, ends).sum(-1).tolist()
        for index, ids, length in zip(batch, sequences.tolist(), lengths, strict=True):
            outputs[index] = ids[1 : 1 + length]
    return outputs


def batches(sources: Sequence[list[int]]) -> Iterator[list[int]]:
    """Places of sources, those of like lengths together."""
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    for first in range(0, len(order), BATCH):
        yield order[first : first + BATCH]


def padded(model: Any, rows: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    """Rows of ids as a model reads them."""
    width = max(1, *map(len, rows))
    pad = model.config.pad_token_id or 0
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


@torch.inference_mode()
def difference(model: Any, exported: Any, sources: Sequence[list[int]], outputs: Sequence[list[int]]) -> float:
    """The largest difference between the two in log p of a token of what the model wrote."""
    start = model.generation_config.decoder_start_token_id
    start = model.generation_config.bos_token_id if start is None else start
    both = []
    for one in (model, exported):
        if isinstance(one, ExportedModel):
            both.append([score for scores in one.score(sources, outputs, start) for score in scores])
            continue
        each: list[list[float]] = [[] for _ in sources]
        for batch in batches(sources):
            sequences = padded(one, [[start, *outputs[index]] for index in batch])["input_ids"]
            scores, _ = teacher_forced(one, sequences, **padded(one, [sources[index] for index in batch]))
            for index, mine in zip(batch, scores.tolist(), strict=True):
                each[index] = mine[: len(outputs[index])]
        both.append([score for mine in each for score in mine])
    return max((abs(ours - theirs) for ours, theirs in zip(*both, strict=True)), default=0.0)


class Rounded:
    """A decoder whose scores are off by a little, as those of another library are."""

    def __init__(self, decoder: Decoder, size: float, seed: int):
        self.decoder, self.size, self.device = decoder, size, decoder.device
        self.drawing = torch.Generator().manual_seed(seed)

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, beams: int) -> Any:
        """As the decoder's."""
        return self.decoder.start(input_ids, attention_mask, beams)

    def step(self, tokens: torch.Tensor, state: Any) -> torch.Tensor:
        """As the decoder's, with noise."""
        scores = self.decoder.step(tokens, state)
        return scores + self.size * torch.randn(scores.shape, generator=self.drawing)


@torch.inference_mode()
def is_tie(model: Any, source: list[int], given: dict[str, Any], output: list[int], rounding: float) -> bool:
    """Whether the model writes an output when its scores are off by as much as was found."""
    options: SearchOptions = options_for(model, within_positions(model, given))
    decoder: Any = decoder_for(model)
    for seed in range(DRAWS):
        [(_, found)] = search(Rounded(decoder, max(rounding, 1e-6), seed), [source], options)
        if found[0].tokens == output:
            return True
    return False


def scored(tokenizer: PreTrainedTokenizerBase, outputs: Sequence[list[int]], sample: Sample) -> float:
    """What outputs score by the model's first metric."""
    assert sample.metric is not None
    assert sample.references is not None
    texts = tokenizer.batch_decode(list(outputs), skip_special_tokens=True)
    references = normalized(sample.references, tokenizer).texts
    return round(metrics.compute(sample.metric, texts, references, **sample.metric_kwargs)["score"], 4)
