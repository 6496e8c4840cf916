"""A whole training run: `seqloom train` against transformers' Seq2SeqTrainer with a MarianMTModel of the same shape.

    python benchmarks/whole_run.py --threads 1
    python benchmarks/whole_run.py --compare random --mixed_precision bf16

Reading, batching, padding, forward, backward, clipping, optimizer and schedule; no validation and no saving. Each side
runs in a process of its own, as it would, and the two take turns. README.md, beside this file, says how to read it.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Result, in_figures, save, table
from tqdm.auto import tqdm
from training_speed import TASKS, caption_lengths, transformer_sides

from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.schema import DataSettings, Settings, TokenizerSettings, TrainingSettings

STRATEGIES = {"random": "random", "grouped": "group_by_length"}
"""How Seq2SeqTrainer makes its batches, by what this file calls it."""
WORDS = 9_000


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--compare", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="BATCHES", help="of the trainer"
    )
    parser.add_argument("--batch_tokens", type=int, default=2048, help="of seqloom; the trainer's has as many pairs")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--updates", type=int, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/whole_run.json"))
    args = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(Path(folder), args)
        for batches in args.compare:
            results.append(compare_runs(batches, settings, args))
            save(args.output, results)
    print(table(results), f"\nwritten to {args.output}", sep="\n")


def make_settings(folder: Path, args: argparse.Namespace) -> Settings:
    """A run like that of the Multi30k recipe, on random pairs that are as long as captions."""
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(WORDS)]
    often = 1 / np.arange(10, WORDS + 10)  # Zipf's law
    for side, lengths in zip(("source", "target"), caption_lengths(0, pairs=29_000), strict=True):
        drawn = random.choice(WORDS, size=int(lengths.sum()), p=often / often.sum())
        lines = np.split(drawn, np.cumsum(lengths)[:-1])
        texts = [" ".join(words[number] for number in line) for line in lines]
        (folder / side).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    files, task = [str(folder / side) for side in ("source", "target")], TASKS["tiny"]
    model = {"model_type": "transformer_seq2seq", "d_model": task["width"], "dropout": 0.1}
    for side in ("encoder", "decoder"):
        model |= {f"{side}_layers": task["depth"], f"{side}_attention_heads": task["heads"]}
        model |= {f"{side}_ffn_dim": 4 * task["width"]}
    return Settings(
        output_dir=str(folder / "run"),
        model=model,
        data=DataSettings(train_files=files),
        tokenizer=TokenizerSettings(kind="word", vocab_size=10_000),
        training=TrainingSettings(
            batch_tokens=args.batch_tokens, max_steps=100_000, lr_scheduler_type="constant", num_threads=args.threads,
            label_smoothing_factor=0.1, mixed_precision=args.mixed_precision,
        ),
    )  # fmt: skip


def compare_runs(batches: str, settings: Settings, args: argparse.Namespace) -> Result:
    """Some updates of each side in turn, in alternating order."""
    sides = {"seqloom train": run_seqloom, "Seq2SeqTrainer": functools.partial(run_trainer, STRATEGIES[batches])}
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for name, side in sides.items():
        connections[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(side, settings, args.updates, theirs), daemon=True))
        processes[-1].start()
        connections[name].recv()  # made: one after the other, since both read and tokenize
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    counts: dict[str, list[int]] = {name: [] for name in sides}
    what = f"whole run, {batches} batches{', bf16' if args.mixed_precision == 'bf16' else ''}"
    for number in tqdm(range(-args.warmup, args.rounds), desc=what, unit=" rounds", dynamic_ncols=True, leave=False):
        for name in list(sides) if number % 2 else reversed(sides):
            connections[name].send("go on")
            took, tokens = connections[name].recv()
            if number >= 0:
                seconds[name].append(took)
                counts[name].append(tokens)
    for process in processes:
        process.kill()
        process.join()
    return in_figures(what, seconds, counts)


class Turns:
    """Counts a side's updates and tokens, and waits between rounds until it is its turn."""

    def __init__(self, updates: int, connection: Connection):
        self.updates, self.connection = updates, connection
        self.made = self.tokens = 0

    def wait(self) -> None:
        """Before the first update."""
        self.connection.send("ready")
        self.connection.recv()
        self.started = time.perf_counter()

    def note(self) -> None:
        """After an update."""
        self.made += 1
        if self.made % self.updates == 0:
            self.connection.send((time.perf_counter() - self.started, self.tokens))
            self.tokens = 0
            self.connection.recv()
            self.started = time.perf_counter()


def serve(side: Callable[[Settings, Turns], None], settings: Settings, updates: int, connection: Connection) -> None:
    """Trains, in a process of its own, until it is killed."""
    torch.set_num_threads(settings.training.num_threads or torch.get_num_threads())
    side(settings, Turns(updates, connection))


def run_seqloom(settings: Settings, turns: Turns) -> None:
    """As `seqloom train` does it."""
    from seqloom.support.machine import keep_freed_memory
    from seqloom.training.devices import make_accelerator
    from seqloom.training.learner import make_learner
    from seqloom.training.update import make_update

    keep_freed_memory()
    accelerator = make_accelerator(settings)
    run = make_learner(settings, accelerator, Path(settings.output_dir), material_of(settings, accelerator))
    turns.wait()
    while True:
        for position in run.train_stream.epoch(run.progress.epoch):
            make_update(run, position)
            turns.tokens += position.num_tokens
            turns.note()
        run.progress.epoch += 1


def run_trainer(strategy: str, settings: Settings, turns: Turns) -> None:
    """The same tokenizer, pairs, shape of model and pairs an update."""
    from accelerate import Accelerator
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    material, training = material_of(settings, Accelerator(cpu=True)), settings.training
    tokenizer, task = material.tokenizer, TASKS["tiny"] | {"vocab_size": len(material.tokenizer)}
    model, _ = transformer_sides(task, "eager" if training.mixed_precision == "bf16" else "sdpa")["MarianMTModel"]

    class Note(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.wait()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turns.note()

    class Trainer(Seq2SeqTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            turns.tokens += int((inputs["labels"] != IGNORED).sum())
            return super().training_step(model, inputs, *args, **kwargs)

    arguments = Seq2SeqTrainingArguments(
        output_dir=settings.output_dir,
        per_device_train_batch_size=round(material.plan.pairs / material.plan.updates),
        train_sampling_strategy=strategy,
        label_smoothing_factor=training.label_smoothing_factor,
        learning_rate=training.learning_rate,
        lr_scheduler_type="constant",
        max_steps=training.max_steps or -1,
        bf16=training.mixed_precision == "bf16",
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    dataset = material.train_stream.dataset
    Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator, callbacks=[Note()]).train()


def material_of(settings: Settings, accelerator: Any) -> Any:
    """Pairs and tokenizer, the same for both."""
    from seqloom.training.material import gather_material

    return gather_material(settings, accelerator, Path(settings.output_dir), resume=False, dry_run=True)


if __name__ == "__main__":
    main()
