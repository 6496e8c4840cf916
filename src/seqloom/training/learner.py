"""What learns: the model, its optimizer and schedule, its moving average, as Accelerate wraps them."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from seqloom.data.tokenization import check_matches, target_tokenizer
from seqloom.data.updates import UpdateStream
from seqloom.decoding.loading import Seq2SeqLM
from seqloom.decoding.options import check_options, options_of, try_options
from seqloom.modeling.configuration_seq2seq import Seq2SeqConfig
from seqloom.settings.checks import model_config_class
from seqloom.settings.schema import Settings, TrainingSettings
from seqloom.support import layers
from seqloom.support.console import say
from seqloom.training.devices import prepare
from seqloom.training.initialisation import fresh_model, frozen_parameters, initialise
from seqloom.training.material import Material
from seqloom.training.r_drop import check_dropout
from seqloom.training.state import Progress, Run
from seqloom.training.teaching import make_teacher


def make_learner(settings: Settings, accelerator: Accelerator, folder: Path, material: Material) -> Run:
    """A run before its first update.

    Raises:
        ValueError: The settings do not make a model, or not one that fits the tokenizer.
    """
    training, tokenizer = settings.training, material.tokenizer
    model = make_model(settings, tokenizer, material.train_stream)
    choose_attention(model, settings, accelerator)
    total, progress = model.num_parameters(), Progress()
    trained = f", {total - frozen_parameters(model):,} of them to train" if training.freeze else ""
    say(accelerator, f"model: {type(model).__name__} with {total:,} parameters{trained}")
    if training.init_from is not None and material.checkpoint is None:
        with accelerator.main_process_first():
            taken = initialise(model, tokenizer, training.init_from, training.init_parameters)
        say(accelerator, str(taken))
        progress.start = taken.record()
    teacher = None
    if settings.distillation.teacher is not None:
        teacher, progress.teacher = make_teacher(
            settings, model, tokenizer, accelerator, material.train_stream, material.pairs.splits["validation"]
        )
    max_steps = material.max_steps(settings)
    optimizer, scheduler = make_optimizer(model, settings, max_steps)
    average = make_average(model, settings, accelerator)
    wrapped, optimizer = prepare(accelerator, model, optimizer)
    set_seed(training.seed, device_specific=True)  # every process drops out other units
    run = Run(
        settings, folder, accelerator, wrapped, optimizer, scheduler, tokenizer, material.train_stream,
        material.validation_stream, material.validation_pairs(training.eval_samples), max_steps, progress,
        average=average, teacher=teacher,
    )  # fmt: skip
    if material.checkpoint is None:
        if told := short_of_warmup(settings.training, run.max_steps):
            say(accelerator, f"warning: {told}")
        halved = accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16"
        if halved and (told := slow_in_bfloat16(layers.gain_of_bfloat16())):
            say(accelerator, f"warning: {told}")
        use_fast_layers(run)
    return run


def make_config(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Seq2SeqConfig:
    """What a model of the settings is made from, for the tokenizer's vocabularies."""
    fields = {name: value for name, value in settings.model.items() if name != "model_type"}
    return model_config_class(settings.model["model_type"])(
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


def make_model(settings: Settings, tokenizer: PreTrainedTokenizerBase, train_stream: UpdateStream) -> Seq2SeqLM:
    """A model of the settings' family, for the tokenizer's vocabularies, with its generation config."""
    config = make_config(settings, tokenizer)
    check_matches(tokenizer, config)
    check_dropout(config, settings.training.r_drop_alpha)
    model = fresh_model(config, settings.training)
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
    model.generation_config.update(**generation.generate_kwargs)
    check_options(model.generation_config, options_of(generation))
    model.generation_config.validate(strict=True)  # as saving will do, but now
    try_options(model, tokenizer, options_of(generation))
    return model


def choose_attention(model: PreTrainedModel, settings: Settings, accelerator: Accelerator) -> None:
    """On a CPU in bf16, attention written out, unless the settings have another: torch's sdpa is far slower there."""
    is_open = settings.training.attn_implementation is None and model.config._attn_implementation == "sdpa"
    if is_open and accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        model.set_attn_implementation("eager")
        say(accelerator, "attention: eager, which on a CPU in bf16 is faster than sdpa (training.attn_implementation)")


def short_of_warmup(training: TrainingSettings, max_steps: int | None) -> str | None:
    """What is to be said of a run that ends while the learning rate still rises."""
    warmup = training.warmup_steps
    if max_steps is None or not warmup or warmup < max_steps:
        return None
    return (
        f"training.warmup_steps is {warmup:,}, but the run ends after {max_steps:,} updates, while the learning rate "
        f"still rises to {training.learning_rate:g}: warm up for less (--warmup_steps {max_steps // 10}, say), or "
        "train for longer."
    )


def slow_in_bfloat16(gain: float) -> str | None:
    """What is to be said of a CPU that multiplies in bfloat16 ``gain`` times as fast as in float32."""
    if gain > 0.8:
        return None
    return (
        f"training.mixed_precision is bf16, in which this processor multiplies {1 / gain:.2g} times slower than in "
        "float32: with --mixed_precision no the run should be over sooner ('seqloom doctor' shows both speeds)."
    )


def use_fast_layers(run: Run) -> None:
    """Lets the layers compute as the run's progress says, or, if it says nothing yet, as a measurement finds best.

    All processes take the same way, and so does the run when it is resumed, on whatever machine.
    """
    accelerator, training, progress = run.accelerator, run.settings.training, run.progress
    if not training.fast_layers:
        return
    model = accelerator.unwrap_model(run.model)
    if progress.fast_layers is None:
        choice = layers.NOTHING
        if accelerator.is_main_process and accelerator.device.type == "cpu":
            passes = 2 if training.r_drop_alpha else 1
            tokens = passes * (training.batch_tokens or layers.MOST_ROWS)
            rows = tokens // (accelerator.num_processes * training.gradient_accumulation_steps)
            choice = layers.measure(model, rows, in_float32=accelerator.mixed_precision == "no")
        (progress.fast_layers,) = broadcast_object_list([choice])
    layers.speed_up(model, progress.fast_layers)
    if told := layers.in_words(progress.fast_layers):
        say(accelerator, told)


def make_average(model: PreTrainedModel, settings: Settings, accelerator: Accelerator) -> AveragedModel | None:
    """The weights' exponential moving average, part of the checkpoints; to be made before Accelerate wraps the model.

    It starts as the weights after the first update. (`check_engine` has refused what shares the weights out.)
    """
    decay = settings.training.ema_decay
    if decay is None:
        return None
    average = AveragedModel(model, device=accelerator.device, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.requires_grad_(False)
    return average


def make_optimizer(
    model: nn.Module, settings: Settings, max_steps: int | None
) -> tuple[torch.optim.Optimizer, LambdaLR]:
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
