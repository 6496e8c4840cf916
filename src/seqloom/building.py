"""What a run is built of, each part made from the settings: Accelerate, tokenizer, batches, model, optimizer."""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from datasets import IterableDataset
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, get_scheduler

from seqloom.batching import UpdateStream
from seqloom.checkpoints import Progress
from seqloom.data import Data, EncodingReport, Pairs, encode
from seqloom.initialisation import freeze
from seqloom.settings import Settings, load_settings, model_config_class
from seqloom.subwords import Sampler, is_sampled
from seqloom.tokenization import check_matches, load_tokenizer, target_tokenizer, train_tokenizer


@dataclass
class Run:
    """What the loop works with."""

    settings: Settings
    folder: Path
    accelerator: Accelerator
    model: nn.Module
    """As Accelerate wraps it; ``accelerator.unwrap_model(run.model)`` is the model itself."""
    optimizer: Any
    scheduler: Any
    tokenizer: Any
    train_stream: UpdateStream
    validation_stream: UpdateStream
    validation_pairs: Any
    """The texts that are decoded in validations."""
    max_steps: int | None
    progress: Progress
    pieces: int = 1
    """Into which every batch is cut further, since it did not fit into memory."""
    average: AveragedModel | None = None
    """The weights' exponential moving average, with ``training.ema_decay``."""

    @property
    def scored_model(self) -> PreTrainedModel:
        """The model that is validated and saved: the moving average where there is one, else the one that learns."""
        return self.accelerator.unwrap_model(self.model) if self.average is None else self.average.module


def make_accelerator(settings: Settings) -> Accelerator:
    """Accelerate, on whatever ``accelerate launch`` or torchrun started."""
    precision = settings.training.mixed_precision
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and precision == "fp16":
        raise ValueError("training.mixed_precision is fp16, which needs a GPU; on a CPU take bf16 or no.")
    installed = [str(tracker) for tracker in get_available_trackers()]
    for tracker in settings.training.report_to:  # Accelerate would leave out in silence what is not installed
        if tracker not in installed:
            raise ValueError(
                f"training.report_to has {tracker!r}, which is not installed here or not one of Accelerate's trackers; "
                f"installed: {', '.join(installed) or 'none'} (pip install 'seqloom[trackers]')."
            )
    check_engine(settings)
    # Every process makes its model from the seed; told to load sparingly, transformers would leave all but one empty.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        log_with=list(settings.training.report_to) or None,
        # The main process tokenizes and scores while the others wait, longer than the default of some minutes.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
        project_dir=str(Path(settings.output_dir) / "trackers"),
    )
    shard_on_cpu(accelerator)
    if on_cpu:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(settings.training.num_threads or max(1, cores // local_processes))
    return accelerator


def check_engine(settings: Settings) -> None:
    """Refuses the engines that the loop was not made for, by what ``accelerate launch`` tells its processes.

    Raises:
        ValueError: FSDP in its first version, or with a moving average; or an engine of its own loop.
    """

    def asked_for(name: str) -> bool:
        return os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"

    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if asked_for(name):  # clips and steps inside its backward, whatever the loop does afterwards
            raise ValueError(
                f"the launch file asks for {name}, which seqloom does not drive; FSDP2 shards weights, gradients and "
                "optimizer as well: take configs/accelerate/multi-node-fsdp2.yaml."
            )
    if not asked_for("FSDP"):
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(
            f"the launch file asks for FSDP of version {version}; set fsdp_version: 2 in its fsdp_config, as in "
            "configs/accelerate/multi-node-fsdp2.yaml."
        )
    if settings.training.ema_decay is not None:
        raise ValueError(
            f"training.ema_decay is {settings.training.ema_decay}, but the launch file shards the model (FSDP2), and a "
            "moving average of all of it would need the memory that this saves; take training.average_checkpoints."
        )


def shard_on_cpu(accelerator: Accelerator) -> None:
    """Lets CPU processes shard the model where the launch file asks for FSDP2.

    This is what Accelerate 1.15 does for several GPUs; of several CPU processes it would make DDP without a word.
    """
    is_asked_for = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if is_asked_for and accelerator.distributed_type == DistributedType.MULTI_CPU:
        state = accelerator.state
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        if accelerator.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(accelerator.mixed_precision)
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def prepare(accelerator: Accelerator, model: PreTrainedModel, optimizer: torch.optim.Optimizer):
    """Model and optimizer as Accelerate wraps them: as they are, for DDP, or sharded by FSDP2."""
    hidden = ("get_input_embeddings", "get_output_embeddings") if accelerator.is_fsdp2 else ()
    # Accelerate 1.15 shards input and output embeddings apart from the rest, but torch 2.13 wants all that share a
    # matrix in one group, and encoder and decoder share it too. Not found, they stay in the group of the whole model.
    for name in hidden:
        setattr(model, name, lambda: None)
    model, optimizer = accelerator.prepare(model, optimizer)
    for name in hidden:
        delattr(model, name)
    return model, optimizer


def check_output_folder(folder: Path, settings: Settings, resume: bool, overwrite: bool) -> None:
    """Refuses to write over anything unless told to, and to resume another run."""
    is_run = (folder / "settings.yaml").is_file()
    if resume and is_run:
        earlier = load_settings(folder / "settings.yaml")
        for section in ("model", "data", "tokenizer"):
            then, now = (values.to_dict()[section] for values in (earlier, settings))
            others = [name for name in {**then, **now} if then.get(name) != now.get(name) and name != "num_proc"]
            if others:
                raise ValueError(
                    f"the run in {folder} was started with another {section} section than the one given "
                    f"({', '.join(others)}); resume with {folder / 'settings.yaml'}, or train into another output_dir."
                )
        for name in ("seed", "batch_tokens", "batch_size", "batches_per_update"):
            if getattr(earlier.training, name) != getattr(settings.training, name):
                raise ValueError(
                    f"training.{name} is {getattr(settings.training, name)}, but the run in {folder} was started with "
                    f"{getattr(earlier.training, name)}: resuming would mix two orders of the data; keep it."
                )
        for name in ("freeze", "ema_decay", "optim"):
            if getattr(earlier.training, name) != getattr(settings.training, name):
                raise ValueError(
                    f"training.{name} is {getattr(settings.training, name)}, but the run in {folder} was started with "
                    f"{getattr(earlier.training, name)}, and its checkpoints hold what belongs to that: keep it."
                )
    elif resume:
        raise ValueError(f"there is no run to resume in {folder}: it has no settings.yaml; start it without --resume.")
    elif folder.exists() and (
        # A kill at the very start leaves a folder that is as good as empty.
        not folder.is_dir() or any(path.name != "saving-settings.yaml" for path in folder.iterdir())
    ):
        if not overwrite:
            raise ValueError(
                f"the output folder {folder} is not empty; give --resume to go on, --overwrite to start anew, or "
                "another --output_dir."
            )
        if not is_run:
            raise ValueError(
                f"{folder} holds no run of seqloom's, so --overwrite will not delete it; choose another one."
            )


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
    scheduler._last_lr = rates


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


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: it would return every activation to the kernel and ask for it again."""
    if sys.platform == "linux" and not torch.accelerator.is_available() and ctypes.util.find_library("c"):
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        if hasattr(libc, "mallopt"):
            mmap_threshold, trim_threshold, largest = -3, -1, 2**31 - 1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(mmap_threshold, largest)
            libc.mallopt(trim_threshold, largest)
