"""What weights should start from: small models of every rule after a few hundred updates, over widths and cells.

    python benchmarks/initialisation.py --widths 32 128 512 --cells rnn lstm gru --attentions none luong bahdanau
    python benchmarks/initialisation.py --task multi30k --data DIR --widths 128 --learning_rates 0.001 0.002 0.004
    python benchmarks/initialisation.py --family transformer --learning_rates 0.0003 0.0006 0.0012
    python benchmarks/initialisation.py --tables runs/a.json runs/b.json      # trains nothing

Data, batches, optimizer and clipping are `seqloom train`'s, by the task's recipe; only the weights are filled anew.
Each value is the validation loss after all updates with the best of the learning rates, the mean over seeds.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import Result, end_in_one_sentence, save
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from seqloom.settings.reading import load_settings
from seqloom.settings.schema import Settings
from seqloom.support.wording import listing, table
from seqloom.training.devices import make_accelerator
from seqloom.training.learner import make_learner
from seqloom.training.material import gather_material
from seqloom.training.state import Run
from seqloom.training.update import make_update
from seqloom.training.validation import validate

CONFIGS = Path(__file__).parent.parent / "configs"
TASKS = {"scan": "scan", "multi30k": "multi30k-en-de"}
RECIPES = {"rnn": "rnn", "transformer": "transformer"}
FILES = {"train": "train", "validation": "val"}
"""Of Multi30k, lowercased and tokenised: ``NAME.lc.norm.tok.en.gz``."""
VOCABULARY = 8_000
KEYS = ("task", "family", "vocabulary", "cell", "attention", "width")
"""What a column of the table is of."""


Rule = Callable[[PreTrainedModel], None]


def glorot(weight: torch.Tensor) -> float:
    """The bound of Glorot and Bengio 2010."""
    return math.sqrt(6 / sum(weight.shape))


def fill(
    model: PreTrainedModel, limit: Callable[[torch.Tensor], float], spread: Callable[[int], float], inputs: bool = False
) -> None:
    """Matrices uniform in ± ``limit``, every gate's by its own shape; embeddings normal with ``spread`` of their width;
    recurrent matrices, biases and norms stay as they are. ``inputs`` scales what reads embeddings up to undo theirs."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=spread(module.embedding_dim))
        elif isinstance(module, nn.Linear) and name != "lm_head":
            bound = limit(module.weight)
            nn.init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.RNNBase):
            for key, weight in module.named_parameters():
                if key.startswith("weight_ih"):
                    for gate in weight.split(module.hidden_size):
                        bound = limit(gate)
                        nn.init.uniform_(gate, -bound, bound)
                    if inputs and ".layers.0." in name:
                        embedding = model.model.decoder.embed_tokens.embedding_dim
                        weight[:, :embedding].div_(spread(embedding))
    if not model.config.tie_word_embeddings:
        nn.init.normal_(model.lm_head.weight, std=spread(model.lm_head.in_features))


def as_torch(model: PreTrainedModel) -> None:
    """What the modules of torch fill themselves with: ± 1 / √inputs (cells: ± 1 / √hidden), embeddings N(0, 1)."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding, nn.RNNBase)) and name != "lm_head":
            module.reset_parameters()


def uniform(limit: float) -> Rule:
    """All of them in ± this."""
    return functools.partial(fill, limit=lambda _: limit, spread=lambda _: limit / math.sqrt(3))


def by_width(spread: Callable[[int], float], **options: bool) -> Rule:
    """Glorot's, with embeddings of this standard deviation."""
    return functools.partial(fill, limit=glorot, spread=spread, **options)


RULES: dict[str, Rule] = {
    "default": lambda _: None,
    "±0.1": uniform(0.1),
    "±0.2": uniform(0.2),
    "±0.4": uniform(0.4),
    "torch": as_torch,
    "Glorot, 0.5/√d": by_width(lambda d: 0.5 / math.sqrt(d)),
    "Glorot, 1/√d": by_width(lambda d: 1 / math.sqrt(d)),
    "Glorot, 2/√d": by_width(lambda d: 2 / math.sqrt(d)),
    "Glorot, 4/√d": by_width(lambda d: 4 / math.sqrt(d)),
    "Glorot, 1/∜d": by_width(lambda d: d**-0.25),
    "Glorot, 0.06": by_width(lambda _: 0.06),
    "Glorot, 0.25": by_width(lambda _: 0.25),
    "Glorot, 0.5": by_width(lambda _: 0.5),
    "Glorot, 1": by_width(lambda _: 1.0),
    "Glorot, 1/√d, inputs·√d": by_width(lambda d: 1 / math.sqrt(d), inputs=True),
}
"""By name; after the comma stands the embeddings' standard deviation, d is their width."""


def main() -> None:
    """The command."""
    args = parse()
    if args.tables:
        results = [result for path in args.tables for result in json.loads(path.read_text("utf-8"))["results"]]
    else:
        torch.set_num_threads(args.threads)
        results = measure(args)
        print(f"written to {args.output}\n")
    print(losses_table(results))


def parse() -> argparse.Namespace:
    """The command line's options, judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="scan")
    parser.add_argument("--data", type=Path, help="of Multi30k: the folder of train.lc.norm.tok.en.gz and the others")
    parser.add_argument("--family", choices=RECIPES, default="rnn")
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 128, 512])
    parser.add_argument("--cells", nargs="+", default=["gru"])
    parser.add_argument("--attentions", nargs="+", default=["luong"])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="RULE", help=listing(RULES))
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[0.0015, 0.003, 0.006])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch_tokens", type=int, default=1024)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/initialisation.json"))
    parser.add_argument("--tables", nargs="+", type=Path, help="files that were written before: prints their table")
    parser.add_argument("more", nargs="*", metavar="--key value", help="of the recipe: -- --model.embedding_size 64")
    args = parser.parse_args()
    if args.updates < 2:
        raise ValueError(f"--updates is {args.updates}; it must be 2 or more.")
    if (args.task == "multi30k") == (args.data is None):
        raise ValueError("--data belongs to --task multi30k: the folder that its files lie in.")
    return args


def measure(args: argparse.Namespace) -> list[Result]:
    """Trains all, one after the other, and writes each as it is there."""
    results: list[Result] = []
    if args.family == "transformer":
        args.cells, args.attentions = ["transformer"], ["self"]
    with tempfile.TemporaryDirectory() as name:
        material = None
        runs = itertools.product(args.widths, args.cells, args.attentions, args.learning_rates, args.seeds, args.rules)
        for width, cell, attention, rate, seed, rule in tqdm(
            list(runs), unit=" runs", dynamic_ncols=True, disable=None
        ):
            settings = settings_of(args, Path(name), width, cell, attention, rate, seed)
            accelerator = make_accelerator(settings)
            if material is None:
                material = gather_material(settings, accelerator, Path(name), resume=False, dry_run=True)
            torch.manual_seed(seed)
            run = make_learner(settings, accelerator, Path(name), material)
            started = time.perf_counter()
            found = train(run, RULES[rule], seed)
            results.append({
                "task": args.task, "family": args.family, "vocabulary": len(material.tokenizer), "width": width,
                "cell": cell, "attention": attention, "rule": rule, "learning_rate": rate, "seed": seed, **found,
                "updates": args.updates, "seconds": time.perf_counter() - started,
            })  # fmt: skip
            save(args.output, results)
    return results


def settings_of(
    args: argparse.Namespace, folder: Path, width: int, cell: str, attention: str, rate: float, seed: int
) -> Settings:
    """The recipe, so wide, with so few updates."""
    recipe = f"{TASKS[args.task]}-{RECIPES[args.family]}"
    if args.family == "transformer":
        recipe += "-tiny" * (args.task == "multi30k")
        model = {"d_model": width, "encoder_ffn_dim": 2 * width, "decoder_ffn_dim": 2 * width}
    else:
        model = {"hidden_size": width, "embedding_size": width, "cell_type": cell, "attention": attention}
    words = {f"model.{key}": value for key, value in model.items()}
    training = {
        "learning_rate": rate, "max_steps": args.updates, "warmup_steps": args.updates // 6, "seed": seed,
        "batch_tokens": args.batch_tokens, "num_threads": args.threads, "fast_layers": False, "eval_metric": "null",
    }  # fmt: skip
    words |= {f"training.{key}": value for key, value in training.items()} | {"output_dir": folder}
    given = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    if args.task == "multi30k":
        for split, name in FILES.items():
            given += [f"--{split}_files", *(str(args.data / f"{name}.lc.norm.tok.{side}.gz") for side in ("en", "de"))]
        for key in ("dataset", "source", "target"):
            given += [f"--data.{key}", "null"]
        given += ["--tokenizer.vocab_size", str(VOCABULARY)]
    return load_settings(CONFIGS / f"{recipe}.yaml", [*given, *args.more])


def train(run: Run, rule: Rule, seed: int) -> Result:
    """Fills a model by the rule and trains it: ``first`` and last validation ``loss``; infinite where it became no
    number."""
    with torch.no_grad():
        rule(run.accelerator.unwrap_model(run.model))
    torch.manual_seed(seed)
    first = validate(run)["loss"]
    try:
        while run.progress.step < run.max_steps:
            for position in run.train_stream.epoch(run.progress.epoch):
                make_update(run, position)
                run.progress.step += 1
                if run.progress.step == run.max_steps:
                    break
            run.progress.epoch += 1
        loss = validate(run)["loss"]
    except ValueError:  # too many updates in a row that were no number
        loss = math.nan
    return {"first": first, "loss": loss if math.isfinite(loss) else None}


def losses_table(results: Sequence[Result]) -> str:
    """A row a rule: the loss in every column's setting, and how many times the best rule's it is over all of them
    (geometric mean)."""
    columns = list(dict.fromkeys(tuple(result[key] for key in KEYS) for result in results))
    rules = list(dict.fromkeys(result["rule"] for result in results))
    cells = {(rule, column): best(results, rule, column) for rule in rules for column in columns}
    least = {column: min(cells[rule, column][0] for rule in rules) for column in columns}
    rows = []
    for rule in rules:
        found = [(column, *cells[rule, column]) for column in columns]
        behind = [math.log(loss / least[column]) for column, loss, _ in found if math.isfinite(loss)]
        shown = [f"{loss:.4g} ({rate:g})" if math.isfinite(loss) else "" for _, loss, rate in found]
        rows.append([rule, *shown, f"{math.exp(statistics.mean(behind)):.2f}" if len(behind) == len(columns) else ""])
    heads = [" ".join(map(str, column)) for column in columns]
    return table(["rule", *(f"{head}:" for head in heads), "times the best:"], rows)


def best(results: Sequence[Result], rule: str, column: tuple[Any, ...]) -> tuple[float, float]:
    """The mean loss over seeds with the best learning rate, and that rate; infinite where there is none."""
    losses: dict[float, list[float]] = {}
    for result in results:
        if result["rule"] == rule and tuple(result[key] for key in KEYS) == column:
            loss = math.inf if result["loss"] is None else result["loss"]
            losses.setdefault(result["learning_rate"], []).append(loss)
    means = {rate: statistics.mean(values) for rate, values in losses.items()}
    return min(((loss, rate) for rate, loss in means.items()), default=(math.inf, 0.0))


if __name__ == "__main__":
    end_in_one_sentence(main)
