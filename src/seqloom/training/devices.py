"""What a run computes on: Accelerate, the engines it can drive, and models as these wrap them."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from seqloom import run_folder
from seqloom.decoding.loading import Seq2SeqLM
from seqloom.settings.schema import Settings
from seqloom.support.machine import available_cores


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
        project_dir=str(Path(settings.output_dir) / run_folder.TRACKERS),
    )
    shard_on_cpu(accelerator)
    if on_cpu:
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(settings.training.num_threads or max(1, available_cores() // local_processes))
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
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP  # all instances share one state


def prepare(
    accelerator: Accelerator, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
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


def full_state_dict(accelerator: Accelerator, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight in full, tied ones under each of their names, on every process.

    All processes must ask together: where the model is sharded, each gives its part.
    """
    if isinstance(model, FSDPModule):
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        return cast(dict[str, torch.Tensor], state)  # which could hold more than weights, as a model's does not
    return accelerator.unwrap_model(model).state_dict()


def whole_model(accelerator: Accelerator, model: torch.nn.Module) -> Seq2SeqLM:
    """The model without Accelerate's wrapping; a copy, where it is sharded, that no other process is needed for.

    All processes must ask together.
    """
    if not isinstance(model, FSDPModule):
        return accelerator.unwrap_model(model)
    with torch.random.fork_rng(devices=[]):  # the weights drawn are at once replaced
        whole = AutoModelForSeq2SeqLM.from_config(model.config).to(accelerator.device)
    whole.generation_config = model.generation_config
    whole.load_state_dict(full_state_dict(accelerator, model))
    return whole.eval()


def in_first_process(accelerator: Accelerator, act: Callable[[], object]) -> None:
    """Lets the first process do something that the others wait for.

    Raises:
        ValueError: In every process, what was wrong in the first.
    """
    problem = None
    if accelerator.is_main_process:
        try:
            act()
        except ValueError as error:
            problem = str(error)
    (problem,) = broadcast_object_list([problem])
    if problem is not None:
        raise ValueError(problem)
