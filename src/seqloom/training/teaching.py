"""A teacher in the training loss: word-level distillation (Hinton et al. 2015, arXiv:1503.02531; Kim and Rush 2016,
arXiv:1606.07947, section 3.1).

    (1 - α) · loss of the labels + α · T² · Σ over the target tokens of KL(teacher ‖ student) / their number

Both distributions are softmaxes of scores divided by the temperature T; with ``top_k``, the teacher's is over its
likeliest k tokens alone. T² keeps the gradient of the second part as large as that of the first, whatever T is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from seqloom.data.tokenization import target_tokenizer
from seqloom.data.updates import UpdateStream
from seqloom.decoding.limits import source_positions, target_positions
from seqloom.decoding.loading import Seq2SeqLM, tokenizer_of, whole_model
from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.modeling.pipeline_seq2seq import at_least_float32
from seqloom.settings.schema import DistillationSettings, Settings
from seqloom.sharing.teachers import describe_teacher
from seqloom.support.console import say

COMPARED = 100
"""Validation pairs by which it shows whether two tokenizers cut texts alike."""
IMPOSSIBLE = -1e4
"""log p of what a teacher rules out (score -inf): its probability is 0 in every float, but 0 · ∞ would be no number."""


def distillation_loss(
    scores: torch.Tensor,
    teacher_scores: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> torch.Tensor:
    """T² times the Kullback-Leibler divergence of the student from the teacher, summed over the labelled positions.

    Args:
        scores: (batch, target, vocab), the student's; computed in float32 or finer, whatever their type.
        teacher_scores: (batch, target, vocab or more), the teacher's; rows behind the vocabulary (padding of its
            matrix) do not count.
        labels: (batch, target), -100 where nothing is to be learnt.
        temperature: T.
        top_k: How many of the teacher's likeliest tokens count; None: all.
    """
    counted = labels != IGNORED
    student, teacher = scores[counted], teacher_scores[counted][:, : scores.shape[-1]]  # (tokens, vocab)
    student = (student.to(at_least_float32(student)) / temperature).log_softmax(-1)
    teacher = teacher.to(at_least_float32(teacher)) / temperature
    if top_k is not None and top_k < teacher.shape[-1]:
        teacher, tokens = teacher.topk(top_k, dim=-1)  # (tokens, k)
        student = student.gather(-1, tokens)
    teacher = teacher.log_softmax(-1).clamp(min=IMPOSSIBLE)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum()


class Teacher:
    """A model that is asked in every update; it learns nothing, and drops nothing out."""

    def __init__(self, model: Seq2SeqLM, settings: DistillationSettings, accelerator: Accelerator):
        self.model = model.to(accelerator.device).eval().requires_grad_(False)
        self.settings, self.accelerator = settings, accelerator

    @torch.no_grad()
    def scores(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Its scores of every next target token, (batch, target, vocab), of a batch as `collate` gives it."""
        decoder_input_ids = self.model.prepare_decoder_input_ids_from_labels(labels=inputs["labels"])
        with self.accelerator.autocast():
            return self.model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                decoder_input_ids=decoder_input_ids, use_cache=False,
            ).logits  # fmt: skip

    def mixed(
        self, loss: torch.Tensor, scores: torch.Tensor, inputs: dict[str, torch.Tensor], num_tokens: int
    ) -> torch.Tensor:
        """The labels' loss of a batch and the teacher's, mixed.

        Args:
            loss: The labels', divided by ``num_tokens``.
            scores: The student's.
            inputs: The batch.
            num_tokens: Target tokens of the whole update.
        """
        how = self.settings
        taught = distillation_loss(
            scores, self.scores(inputs), inputs["labels"], temperature=how.temperature, top_k=how.top_k
        )
        return (1 - how.alpha) * loss + how.alpha * taught / num_tokens


def make_teacher(
    settings: Settings,
    student: Seq2SeqLM,
    students: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    train_stream: UpdateStream,
    pairs: Dataset,
) -> tuple[Teacher, dict[str, Any]]:
    """The teacher of a run's settings, and what its record tells of it.

    Args:
        settings: The run's.
        student, students: Its model and its tokenizer.
        accelerator: Where the teacher computes.
        train_stream: Whose pairs it must be able to read and write.
        pairs: Some that show whether both tokenizers cut texts alike.

    Raises:
        ValueError: There is no such model; or its vocabulary is not the student's, it cuts texts otherwise, or it
            reads or writes fewer tokens than the pairs have.
    """
    distillation = settings.distillation
    name, revision = distillation.teacher, distillation.teacher_revision
    assert name is not None
    with accelerator.main_process_first():
        try:
            model = whole_model(name, revision, dtype=torch.float32)
            tokenizer = tokenizer_of(model, name, revision)
        except ValueError as error:
            said = " ".join(str(error).split())
            raise ValueError(f"distillation.teacher is {name!r}, which cannot teach: {said}") from error
        described = describe_teacher(name, model.config, revision)
    check_vocabulary(name, model, tokenizer, student, students)
    check_same_tokens(name, tokenizer, students, pairs)
    check_positions(name, model, settings, train_stream)
    say(accelerator, f"teacher: {type(model).__name__} with {model.num_parameters():,} parameters, {name}")
    how = {"alpha": distillation.alpha, "temperature": distillation.temperature, "top_k": distillation.top_k}
    return Teacher(model, distillation, accelerator), {"teacher": described, "kind": "word", **how}


def check_vocabulary(
    name: str,
    teacher: Seq2SeqLM,
    tokenizer: PreTrainedTokenizerBase,
    student: Seq2SeqLM,
    students: PreTrainedTokenizerBase,
) -> None:
    """Refuses a teacher whose tokens are not the student's, id for id.

    Raises:
        ValueError: They are not.
    """
    sides = (("source", tokenizer, students), ("target", target_tokenizer(tokenizer), target_tokenizer(students)))
    for side, theirs, ours in sides:
        there, here = theirs.get_vocab(), ours.get_vocab()
        if there != here:
            same = len(there.items() & here.items())
            raise ValueError(
                f"distillation.teacher is {name!r}, whose {side} vocabulary of {len(there):,} tokens is not this run's "
                f"of {len(here):,} ({same:,} are the same): give the run its tokenizer with tokenizer.path, or distil "
                "what it says with seqloom distill, which takes any teacher."
            )
    needed, given = (model.get_output_embeddings().weight.shape[0] for model in (student, teacher))
    if given < needed:
        raise ValueError(
            f"distillation.teacher is {name!r}, which scores {given:,} tokens, but this run has {needed:,}: give the "
            "run the teacher's tokenizer with tokenizer.path."
        )


def check_same_tokens(
    name: str, theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase, pairs: Dataset
) -> None:
    """Refuses a teacher whose tokenizer, though of the same vocabulary, makes other tokens of the first pairs.

    Raises:
        ValueError: It does.
    """
    some = pairs.select(range(min(COMPARED, len(pairs))))
    for number, row in enumerate(some, start=1):
        there, here = (tokenizer(row["source"], text_target=row["target"]) for tokenizer in (theirs, ours))
        if any(there[column] != here[column] for column in ("input_ids", "labels")):
            raise ValueError(
                f"distillation.teacher is {name!r}, whose tokenizer has this run's vocabulary but makes other tokens "
                f"of validation pair {number}: give the run its tokenizer with tokenizer.path."
            )


def check_positions(name: str, teacher: Seq2SeqLM, settings: Settings, stream: UpdateStream) -> None:
    """Refuses a teacher that has no positions for the longest pairs.

    Raises:
        ValueError: It has not.
    """
    data = settings.data
    limits: Sequence[int | None] = (data.max_source_length, data.max_target_length)
    if not stream.is_streaming and stream.dataset_of is None:  # else others are segmented later
        limits = [int(lengths.max()) for lengths in stream.lengths]
    for side, most, longest in zip(
        ("source", "target"), (source_positions(teacher), target_positions(teacher)), limits, strict=True
    ):
        if most is not None and (longest is None or longest > most):
            raise ValueError(
                f"distillation.teacher is {name!r}, which has positions for {most:,} {side} tokens, but training pairs "
                f"have {'any number' if longest is None else f'up to {longest:,}'}: set data.max_{side}_length to "
                f"{most} or less."
            )
