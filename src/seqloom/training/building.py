"""What a run is built of, each part made from the settings: tokenizer, batches, model, optimizer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import IterableDataset
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, get_scheduler

from seqloom.data.encoding import EncodingReport, encode
from seqloom.data.pairs import Pairs
from seqloom.data.sources import Data
from seqloom.data.subwords import Sampler, is_sampled
from seqloom.data.tokenization import check_matches, load_tokenizer, target_tokenizer, train_tokenizer
from seqloom.data.updates import UpdateStream
from seqloom.settings.checks import model_config_class
from seqloom.settings.schema import Settings
from seqloom.training.initialisation import freeze
from seqloom.training.state import Run


def set_hyper_parameters(run: Run) -> None:
    """Gives a resumed optimizer and schedule the settings' values, where the checkpoint brought those of before."""
    training, scheduler = run.settings.training, run.scheduler
    scheduler.base_lrs = [training.learning_rate] * len(scheduler.base_lrs)
    rates = [
        base * factor(scheduler.last_epoch)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    decays = (training.weight_decay, 0.0)  # as make_optimizer has them
    for group, rate, decay in zip(run.optimizer.param_groups, rates, decays, strict=True):
        group["lr"], group["initial_lr"], group["weight_decay"] = rate, training.learning_rate, decay
        group["betas"], group["eps"] = (training.adam_beta1, training.adam_beta2), training.adam_epsilon


def make_tokenizer(settings: Settings, pairs: Pairs, resumed: Path | None):
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


def make_sampled(
    pairs: Data, settings: Settings, tokenizer, accelerator: Accelerator, report: EncodingReport
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
    dataset, settings: Settings, tokenizer, accelerator: Accelerator, is_validation: bool = False, dataset_of=None
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

    stream = UpdateStream(
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
    if is_split:
        accelerator.register_for_checkpointing(stream)  # which resumes with as many processes only
    return stream


def make_model(settings: Settings, tokenizer, train_stream: UpdateStream) -> PreTrainedModel:
    """A model of the settings' family, for the tokenizer's vocabularies, with its generation config."""
    fields = {name: value for name, value in settings.model.items() if name != "model_type"}
    config = model_config_class(settings.model["model_type"])(
        **fields,
        vocab_size=len(tokenizer),
        decoder_vocab_size=len(target_tokenizer(tokenizer)),
        share_encoder_decoder_embeddings=target_tokenizer(tokenizer) is tokenizer,
        label_smoothing=settings.training.label_smoothing_factor,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
    )
    check_matches(tokenizer, config)
    attention = settings.training.attn_implementation
    model = AutoModelForSeq2SeqLM.from_config(config, **({"attn_implementation": attention} if attention else {}))
    freeze(model, settings.training.freeze)
    if settings.training.gradient_checkpointing:
        # The older transformers have the second name alone; in the newer ones it warns.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    generation = settings.generation
    longest = generation.max_new_tokens
    if longest is None:
        limit = settings.data.max_target_length or 256
        longest = max(32, 2 * (limit if train_stream.is_streaming else int(train_stream.lengths[1].max())))
    model.generation_config.max_new_tokens = longest
    model.generation_config.num_beams = generation.num_beams
    if generation.num_beams > 1:
        model.generation_config.length_penalty = generation.length_penalty
        model.generation_config.early_stopping = generation.early_stopping
    unknown = model.generation_config.update(**generation.generate_kwargs)
    if unknown:
        raise ValueError(f"generation.generate_kwargs has {', '.join(unknown)}, which generate does not know.")
    model.generation_config.validate(strict=True)  # as saving will do, but now
    return model


def make_average(model: PreTrainedModel, settings: Settings, accelerator: Accelerator) -> AveragedModel | None:
    """The weights' exponential moving average, part of the checkpoints; to be made before Accelerate wraps the model.

    It starts as the weights after the first update. (`check_engine` has refused what shares the weights out.)
    """
    decay = settings.training.ema_decay
    if decay is None:
        return None
    average = AveragedModel(model, device=accelerator.device, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.requires_grad_(False)
    accelerator.register_for_checkpointing(average)
    return average


def make_optimizer(model: nn.Module, settings: Settings, max_steps: int | None):
    """Optimizer and schedule. Biases and normalisation weights do not decay."""
    training = settings.training
    if max_steps is None and training.lr_scheduler_type in ("cosine", "linear"):
        raise ValueError(
            f"lr_scheduler_type {training.lr_scheduler_type} must know its end, which a streamed set has not: give "
            "training.max_steps, or take inverse_sqrt or constant."
        )
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decaying = [parameter for parameter in learning if parameter.dim() > 1]
    others = [parameter for parameter in learning if parameter.dim() <= 1]
    optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[training.optim](
        [{"params": decaying}, {"params": others, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
        fused=True,
    )
    name = "constant_with_warmup" if training.lr_scheduler_type == "constant" else training.lr_scheduler_type
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=training.warmup_steps, num_training_steps=max_steps)
    return optimizer, scheduler
