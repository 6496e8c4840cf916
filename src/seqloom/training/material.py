"""What a run learns from: its pairs, the tokenizer, and the updates that both make."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from seqloom import run_folder
from seqloom.data.batches import PlanSummary
from seqloom.data.encoding import EncodingReport, encode
from seqloom.data.overlap import count_overlap, overlap_in_words
from seqloom.data.pairs import Pairs, check_scorable, check_unchanged, load_pairs
from seqloom.data.sources import Data
from seqloom.data.subwords import Sampler, is_sampled
from seqloom.data.tokenization import load_tokenizer, train_tokenizer
from seqloom.data.updates import UpdateStream
from seqloom.settings.schema import Settings, TokenizerSettings
from seqloom.support.console import say
from seqloom.support.wording import listing
from seqloom.training import checkpoints


@dataclass(frozen=True)
class Material:
    """What a run learns from."""

    pairs: Pairs
    tokenizer: PreTrainedTokenizerBase
    train_stream: UpdateStream
    validation_stream: UpdateStream
    report: EncodingReport
    """What was kept and dropped; of a stream it goes on counting."""
    plan: PlanSummary
    """Of the first epoch, or of what is held first of a stream."""
    overlap: dict[str, int] | None
    """Held-out pairs that are training pairs too, by the split; None: not counted."""
    checkpoint: Path | None
    """The one that the run goes on from, whose tokenizer this is."""

    def validation_pairs(self, most: int | None) -> Dataset:
        """The first texts of the validation split, at most so many."""
        texts = self.pairs.splits["validation"]
        return texts.select(range(min(most or len(texts), len(texts))))

    def max_steps(self, settings: Settings) -> int | None:
        """Updates that the run makes; None where only its epochs, of a stream, are bounded."""
        training = settings.training
        if training.num_train_epochs is None or self.train_stream.is_streaming:
            return training.max_steps
        epochs_steps = training.num_train_epochs * self.plan.updates
        return min(training.max_steps or epochs_steps, epochs_steps)

    def record(self, settings: Settings) -> dict[str, Any]:
        """What the run's record says of its data."""
        kept = counted(settings, self.train_stream.is_streaming, self.report, is_resumed=self.checkpoint is not None)
        plan = dataclasses.asdict(self.plan)
        return {**self.pairs.provenance, "train": kept, "plan": plan, "overlap": self.overlap}


def gather_material(
    settings: Settings, accelerator: Accelerator, folder: Path, *, resume: bool, dry_run: bool
) -> Material:
    """Reads the pairs, finds the checkpoint to go on from, trains or loads the tokenizer, and plans the updates.

    Raises:
        ValueError: The data cannot be used, or are not those that the run began with; or no checkpoint is whole.
    """
    with accelerator.main_process_first():
        pairs = load_pairs(settings.data, settings.training.seed)
    for split in ("validation", settings.evaluation.split or ""):
        if split in pairs.splits:
            check_scorable(pairs.splits[split], split)
    if resume and (folder / run_folder.DATA).is_file():
        check_unchanged(run_folder.read_object(folder / run_folder.DATA), pairs.provenance)
    checkpoint = tokenizer = overlap = None
    if accelerator.is_main_process:
        if resume:
            if not dry_run:
                checkpoints.recover(folder)
            checkpoint = checkpoints.last_checkpoint(folder, functools.partial(say, accelerator))
        # One process trains it for all, since unigram's trainer does not give the same tokenizer twice.
        tokenizer = make_tokenizer(settings, pairs, folder if checkpoint is not None else None)
        if checkpoint is None and (unused := unused_claims(settings.tokenizer)):
            told = f"tokenizer: loaded from {settings.tokenizer.path}; of no use beside that: {listing(unused)}"
            say(accelerator, told)
        overlap = count_overlap(pairs.splits)
    checkpoint, tokenizer, overlap = broadcast_object_list([checkpoint, tokenizer, overlap])
    with accelerator.main_process_first():
        train_set, report = encode(pairs.splits["train"], tokenizer, settings.data)
        validation_set, _ = encode(pairs.splits["validation"], tokenizer, settings.data, drop=False)
    is_streaming = isinstance(train_set, IterableDataset)
    read = "a stream, whose pairs are counted as they are read" if is_streaming else str(report)
    say(accelerator, f"training data: {read}")
    if "cut" in pairs.provenance:
        say(accelerator, f"validation data: cut from the training data, {pairs.provenance['cut']}")
    say(accelerator, f"held-out data: {overlap_in_words(overlap, pairs.provenance['pairs'])}")
    if (scored := settings.evaluation.split) is not None and scored not in pairs.splits:
        way_out = f"give --{scored}_files, or --evaluation.split validation to score the validation pairs"
        say(accelerator, f"there is no {scored} split: the finished model will not be scored; {way_out}.")
    dataset_of = make_sampled(pairs.splits["train"], settings, tokenizer, accelerator, report)
    train_stream = make_stream(train_set, settings, tokenizer, accelerator, dataset_of=dataset_of)
    validation_stream = make_stream(validation_set, settings, tokenizer, accelerator, is_validation=True)
    plan = train_stream.summary()
    say(accelerator, f"plan: {plan}")
    return Material(pairs, tokenizer, train_stream, validation_stream, report, plan, overlap, checkpoint)


def make_tokenizer(settings: Settings, pairs: Pairs, resumed: Path | None) -> PreTrainedTokenizerBase:
    """Loads the tokenizer, or trains it on the training data."""
    if resumed is not None:
        return load_tokenizer(resumed)
    if settings.tokenizer.path is not None:
        return load_tokenizer(settings.tokenizer.path)
    most = settings.tokenizer.train_samples
    train_set = pairs.splits["train"]
    head = train_set.take(most) if isinstance(train_set, IterableDataset) or len(train_set) > most else train_set

    def texts(side: str) -> Iterator[str]:
        return (text for part in head.iter(batch_size=1000) for text in part[side] if text)

    return train_tokenizer(texts("source"), texts("target"), settings.tokenizer)


def unused_claims(tokenizer: TokenizerSettings) -> list[str]:
    """What a recipe says of the tokenizer that it would train, where one is loaded in its place."""
    if tokenizer.path is None:
        return []
    still_used = ("path", "bpe_dropout", "sampling_alpha")
    fields = [f for f in dataclasses.fields(tokenizer) if f.name not in still_used]
    return [f"tokenizer.{f.name}" for f in fields if getattr(tokenizer, f.name) != f.default]


def make_sampled(
    pairs: Data,
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    report: EncodingReport,
) -> Callable[[int], Data] | None:
    """What encodes the training pairs anew for every epoch, where their segmentations are drawn; else None.

    Raises:
        ValueError: They cannot be drawn from the run's tokenizer.
    """
    if not is_sampled(settings.tokenizer):
        return None
    seed, longest = settings.training.seed, settings.training.batch_tokens or math.inf
    _ = Sampler(tokenizer, settings.tokenizer, seed, 0).sides  # it shows now whether they can

    def dataset_of(epoch: int) -> Data:
        sampler = Sampler(tokenizer, settings.tokenizer, seed, epoch, longest)
        with accelerator.main_process_first():
            return encode(pairs, tokenizer, settings.data, sampler=sampler, report=report)[0]

    return dataset_of


def make_stream(
    dataset: Data,
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    is_validation: bool = False,
    dataset_of: Callable[[int], Data] | None = None,
) -> UpdateStream:
    """Encoded pairs as updates; validation data as single batches that no pair is too long for."""
    training = settings.training
    if is_validation:
        longest = max(map(len, (*dataset["input_ids"], *dataset["labels"])))
        training = dataclasses.replace(
            training,
            batch_tokens=None if training.batch_tokens is None else max(training.batch_tokens, longest),
            batches_per_update=1,
            gradient_accumulation_steps=1,
        )
    is_split = settings.data.split_stream and not is_validation

    def gather(values: list[int]) -> list[list[int]]:
        return accelerator.gather(torch.tensor([values], device=accelerator.device)).tolist()

    return UpdateStream(
        dataset,
        training,
        pad_token_id=tokenizer.pad_token_id,
        shuffle_buffer=settings.data.shuffle_buffer,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        gather=gather if is_split else None,
        num_workers=settings.data.num_workers,
        dataset_of=dataset_of,
    )


def counted(settings: Settings, is_streaming: bool, report: EncodingReport, *, is_resumed: bool) -> str:
    """What was kept and dropped, in words: of a stream only what this process has read."""
    since = " since the run was last resumed" if is_resumed else ""
    if settings.data.num_workers:
        return "a stream, read by processes of its own"  # which counted apart
    if settings.data.split_stream:
        return f"a stream; of what the first process read{since}, {report}"
    return f"a stream; of everything read{since}, {report}" if is_streaming else str(report)
