"""Training: our Transformer against transformers' MarianMTModel, the fused recurrent decoder against a step loop; each,
with --over plain, against itself without what `seqloom train` does to make layers faster.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --compare tiny --attn_implementation eager --threads 1
    python benchmarks/training_speed.py --compare recurrent --over plain --threads 1
    python benchmarks/training_speed.py --padding configs/scan-rnn.yaml --training.batch_tokens 4096

README.md, beside this file, says how to read it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Result, compare, save, table
from torch import nn
from transformers import AutoModelForSeq2SeqLM, Cache, MarianConfig, PreTrainedModel

from seqloom import RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.data.batches import collate, plan_epoch
from seqloom.data.encoding import encode
from seqloom.data.pairs import load_pairs
from seqloom.data.scan import load_scan
from seqloom.data.updates import UpdateStream
from seqloom.modeling.cache_rnn_seq2seq import RecurrentStateLayer
from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.reading import load_settings
from seqloom.settings.schema import TrainingSettings
from seqloom.support.layers import measure, speed_up
from seqloom.support.machine import keep_freed_memory
from seqloom.training.material import make_tokenizer

Batch = dict[str, torch.Tensor]
Loss = Callable[[PreTrainedModel, Batch, float], torch.Tensor]
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
TASKS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 128, "depth": 4, "heads": 4, "vocab_size": 10_000, "batch_tokens": 4096},
    "base": {"width": 512, "depth": 6, "heads": 8, "vocab_size": 10_000, "batch_tokens": 4096},
    "recurrent": {"width": 256, "depth": 2, "cell_type": "lstm", "vocab_size": 10_000, "batch_tokens": 4096},
    "recurrent-scan": {"width": 128, "depth": 1, "cell_type": "gru", "vocab_size": 24, "batch_tokens": 1024},
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--compare", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS)
    )
    parser.add_argument("--label_smoothing", nargs="+", type=float, default=[0.1, 0.0], help="one comparison each")
    parser.add_argument(
        "--attn_implementation", help="sdpa or eager, of both Transformers; default: what training takes by itself"
    )
    parser.add_argument("--over", choices=("stock", "plain"), default="stock", help="what seqloom is compared with")
    parser.add_argument(
        "--fast_layers", action=argparse.BooleanOptionalAction, default=True, help="as training.fast_layers, of seqloom"
    )
    parser.add_argument("--loss_chunk_tokens", type=int, help="as training.loss_chunk_tokens, of seqloom")
    parser.add_argument("--vocab_size", type=int, help="instead of the task's own")
    parser.add_argument("--batch_tokens", type=int, help="instead of the task's own")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    parser.add_argument(
        "--keep_freed_memory", action=argparse.BooleanOptionalAction, default=True, help="as train.py does"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/training_speed.json"))
    parser.add_argument("--padding", nargs=argparse.REMAINDER, metavar="CONFIG --key value", help="only print its plan")
    args = parser.parse_args()
    if args.padding:
        print_padding(*args.padding)
        return
    if args.keep_freed_memory:
        keep_freed_memory()
    torch.set_num_threads(args.threads)
    results: list[Result] = []
    for name in args.compare:
        results += compare_task(name, args)
        save(args.output, results)
    print(table(results), f"\nwritten to {args.output}", sep="\n")


def compare_task(name: str, args: argparse.Namespace) -> list[Result]:
    """One task, once for every label smoothing."""
    task = TASKS[name] | {key: value for key in ("vocab_size", "batch_tokens") if (value := getattr(args, key))}
    torch.manual_seed(args.seed)
    is_recurrent, in_bf16 = name.startswith("recurrent"), args.mixed_precision == "bf16"
    attention = args.attn_implementation or ("eager" if in_bf16 else "sdpa")
    sides = recurrent_sides(task) if is_recurrent else transformer_sides(task, attention)
    first, (ours, loss) = next(iter(sides.items()))
    if args.over == "plain":
        sides = {first: (ours, loss), "plain": (copy.deepcopy(ours), loss)}
    if args.fast_layers:
        speed_up(ours, measure(ours, task["batch_tokens"], in_float32=not in_bf16))
    if args.loss_chunk_tokens:
        sides[first] = ours, partial(fused_loss, loss_chunk_tokens=args.loss_chunk_tokens)
    lengths = scan_lengths() if name == "recurrent-scan" else caption_lengths(args.seed)
    batches = make_batches(*lengths, task, args.seed)
    results = []
    for label_smoothing in args.label_smoothing:
        losses = [loss(model.eval(), batches[0], label_smoothing).item() for model, loss in sides.values()]
        assert abs(losses[0] - losses[1]) < 1e-4 * losses[0], f"{name}: the sides compute different losses, {losses}"
        steps = {
            side: partial(train_on, model.train(), loss, label_smoothing, in_bf16)
            for side, (model, loss) in sides.items()
        }
        what = f"{name}, ε {label_smoothing:g}{', bf16' if in_bf16 else ''}"
        results.append(compare(what, steps, batches, target_tokens, rounds=args.rounds, warmup=args.warmup))
    return results


def train_on(model: PreTrainedModel, loss: Loss, label_smoothing: float, bf16: bool, batch: Batch) -> None:
    """Forward and backward."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        value = loss(model, batch, label_smoothing)
    value.backward()
    model.zero_grad()


def target_tokens(batch: Batch) -> int:
    """Padding does not count."""
    return int((batch["labels"] != IGNORED).sum())


def transformer_sides(task: dict[str, Any], attn_implementation: str) -> dict[str, tuple[PreTrainedModel, Loss]]:
    """The two Transformers, of one shape and with the same weights."""
    width, depth, heads = task["width"], task["depth"], task["heads"]
    fields = {
        "vocab_size": task["vocab_size"],
        "d_model": width,
        "activation_function": "relu",
        "dropout": 0.1,
        **SPECIAL,
    }
    for side in ("encoder", "decoder"):
        fields |= {f"{side}_layers": depth, f"{side}_attention_heads": heads, f"{side}_ffn_dim": 4 * width}
    configs = TransformerSeq2SeqConfig(**fields), MarianConfig(**fields, scale_embedding=True, forced_eos_token_id=None)
    ours, marian = (
        AutoModelForSeq2SeqLM.from_config(config, attn_implementation=attn_implementation) for config in configs
    )
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, marian)]
    assert counts[0] == counts[1], f"the sides have {counts} trained weights"
    marian.load_state_dict(ours.state_dict(), strict=False)  # lacks its table of positions and a bias of zeros
    return {"seqloom": (ours, fused_loss), "MarianMTModel": (marian, marian_loss)}


def recurrent_sides(task: dict[str, Any]) -> dict[str, tuple[PreTrainedModel, Loss]]:
    """One recurrent model, decoded in two ways."""
    config = RnnSeq2SeqConfig(
        vocab_size=task["vocab_size"], hidden_size=task["width"], cell_type=task["cell_type"], dropout=0.1,
        encoder_layers=task["depth"], decoder_layers=task["depth"], attention="luong", **SPECIAL,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config)
    return {"fused": (model, fused_loss), "step loop": (model, step_loop_loss)}


def fused_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float, **options: int) -> torch.Tensor:
    """All target tokens in one call."""
    return model(**batch, label_smoothing=label_smoothing, **options).loss


def marian_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """As a training script computes it, since Marian's own loss has no label smoothing."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    logits = model(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing
    )


def step_loop_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """One target token a call, from the state that the call before it left."""
    encoder_outputs = model.get_encoder()(batch["input_ids"], attention_mask=batch["attention_mask"])
    inputs = {"encoder_outputs": encoder_outputs, "attention_mask": batch["attention_mask"]}
    cache = Cache(layers=[RecurrentStateLayer()])
    tokens = model.prepare_decoder_input_ids_from_labels(batch["labels"]).split(1, dim=1)
    logits = [model(**inputs, decoder_input_ids=token, past_key_values=cache).logits for token in tokens]
    return model.loss_function(torch.cat(logits, dim=1), batch["labels"], label_smoothing=label_smoothing)


def caption_lengths(seed: int, pairs: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs, in tokens about as long as image captions."""
    random = np.random.default_rng(seed)
    sources = random.lognormal(np.log(12), 0.35, pairs)
    sides = sources, sources * random.lognormal(0, 0.15, pairs)
    return tuple(side.round().clip(3, 40).astype(int) for side in sides)


def scan_lengths() -> tuple[np.ndarray, np.ndarray]:
    """The built-in task's own."""
    pairs = load_scan("simple")["train"]
    return tuple(np.array([len(text.split()) + 1 for text in pairs[side]]) for side in ("source", "target"))


def make_batches(
    source_lengths: np.ndarray, target_lengths: np.ndarray, task: dict[str, Any], seed: int
) -> list[Batch]:
    """Random ids of these lengths, in the batches that seqloom plans."""
    random = np.random.default_rng(seed)
    settings = TrainingSettings(batch_tokens=task["batch_tokens"], max_steps=1, seed=seed)
    batches = []
    for (rows,) in plan_epoch(source_lengths, target_lengths, settings, epoch=0):
        sides = [
            [random.integers(len(SPECIAL), task["vocab_size"], length).tolist() for length in lengths[rows]]
            for lengths in (source_lengths, target_lengths)
        ]
        batches.append(collate(*sides, SPECIAL["pad_token_id"]))
    return batches


def print_padding(path: str, *overrides: str) -> None:
    """The first epoch's plan of a training configuration."""
    settings = load_settings(path, overrides)
    pairs = load_pairs(settings.data, settings.training.seed, splits=("train",))
    tokenizer = make_tokenizer(settings, pairs, None)
    dataset, report = encode(pairs.splits["train"], tokenizer, settings.data)
    print(report, UpdateStream(dataset, settings.training, pad_token_id=tokenizer.pad_token_id).summary(), sep="\n")


if __name__ == "__main__":
    main()
