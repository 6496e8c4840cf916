"""Decoding: seqloom's search against stock `generate`, MarianMTModel, CTranslate2 and onnxruntime, same weights.

    python benchmarks/decoding_speed.py                                # four shapes, random weights, fixed lengths
    python benchmarks/decoding_speed.py --shapes base --beams 5 --batches 64 --most_seconds 600
    python benchmarks/decoding_speed.py --model runs/mine              # the sentences of its own test split
    python benchmarks/decoding_speed.py --model runs/mine --sources FILE --references FILE --metric sacrebleu

README.md, beside this file, says how it is measured and how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import FEWEST, Result, check_rounds, end_in_one_sentence, ratio_of, save, speeds_of, take_turns
from common import versions as versions_of
from engines import ENGINES, SOURCES, STOCK, Decode, Ids, NotHere, Search, export_all, load_engine, load_ours
from transformers import AutoModelForSeq2SeqLM
from transformers.utils.logging import disable_progress_bar

from seqloom import RnnSeq2SeqConfig, TransformerSeq2SeqConfig, run_folder
from seqloom.data.lines import lines
from seqloom.data.tokenization import target_tokenizer, train_tokenizer
from seqloom.decoding.loading import check_files, tokenizer_of, whole_model
from seqloom.scoring.metrics import METRICS, higher_is_better
from seqloom.scoring.predictions import Predictions, measure_sentences, read_predictions
from seqloom.scoring.significance import compare_systems
from seqloom.settings.schema import TokenizerSettings
from seqloom.settings.typed import from_yaml
from seqloom.support.wording import listing, plural, table, with_interval

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
VOCAB_SIZE = 10_000
LENGTHS = {"short": 10, "long": 40}
"""Tokens of source and output where weights are random."""
SOURCES_A_ROUND = {"random": {1: 2}, "real": {1: 4, 64: 128}}
"""Sentences in a round, by the number that is decoded together; by default that number."""
MOST_DIFFERENT = 0.05
"""Share of sentences in which what must give the same tokens may differ for the worse: of two scores that are equal to
the last digits of a float32 a search may go on with either, and what comes of it in the end may be better or worse."""
EXTRA = ("ctranslate2", "onnxruntime")


def transformer(width: int, depth: int, heads: int) -> TransformerSeq2SeqConfig:
    """Post-norm, sinusoidal, tied: what MarianMTModel computes too."""
    sides = {
        f"{side}_{part}": value
        for side in ("encoder", "decoder")
        for part, value in {"layers": depth, "attention_heads": heads, "ffn_dim": 4 * width}.items()
    }
    return TransformerSeq2SeqConfig(vocab_size=VOCAB_SIZE, d_model=width, **sides, **SPECIAL)


def recurrent(cell: str) -> RnnSeq2SeqConfig:
    """With Luong's attention."""
    return RnnSeq2SeqConfig(
        vocab_size=VOCAB_SIZE, hidden_size=256, cell_type=cell, encoder_layers=2, decoder_layers=2, attention="luong",
        **SPECIAL,
    )  # fmt: skip


SHAPES = {
    "tiny": partial(transformer, 128, 4, 4),
    "base": partial(transformer, 512, 6, 8),
    "gru": partial(recurrent, "gru"),
    "lstm": partial(recurrent, "lstm"),
}


Pair = tuple[list[int], list[int], list[int]]
"""A source, an engine's output for it and `generate`'s."""


@dataclass
class Subject:
    """A model, and what it is given."""

    name: str
    words: str
    """What it is."""
    folder: Path
    rounds: dict[tuple[int, str], list[Ids]]
    """Sources of the rounds, by how many are decoded together and how long they are."""
    limits: dict[str, dict[str, int]]
    """Of outputs, by the same lengths: fields of `Search`."""


def main() -> None:
    """The command."""
    args = parse()
    disable_progress_bar()
    results: list[Result] = []
    quality: list[Result] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="seqloom-bench-") as name:
        scratch = Path(name)
        for subject, given in subjects(args, scratch):
            engines, missing = load_all(subject.folder, scratch, args)
            for engine, reason in missing.items():
                print(f"{subject.name}: no {engine}: {reason}", flush=True)
            results += measure(subject, engines, missing, args)
            if given is not None:
                quality += measure_quality(subject, engines, given, args)
            about = {"packages": versions_of(EXTRA), "quality": quality, "seconds": time.perf_counter() - started}
            save(args.output, results, **about)
    for result in results:
        print(f"\n{result['model']}, {case(result)}\n\n{speed_table(result)}")
    if quality:
        print(f"\n{quality_table(quality)}")
    print(f"\nwritten to {args.output}")


def parse() -> argparse.Namespace:
    """The command line's options, judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="random weights of these shapes; default: all")
    parser.add_argument("--model", nargs="+", type=Path, default=[], help="folders of trained models")
    parser.add_argument("--sources", type=Path, help="a line each, plain or .gz; default: the model's own test split")
    parser.add_argument("--references", type=Path, help="likewise; with them the loss of quality is measured")
    parser.add_argument("--metric", choices=METRICS, default="sacrebleu", help="by which quality is measured")
    parser.add_argument("--metric_kwargs", default="{}", help="its options: '{tokenize: none}'")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE",
                        help=listing(ENGINES))  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64], help="sentences decoded together")
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS), help="of random weights")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="each a side of its own")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each case takes, about; at least six rounds")
    parser.add_argument("--most_seconds", type=float, default=130.0, help="a case that takes longer is left out")
    parser.add_argument("--most_rounds", type=int, default=30)
    parser.add_argument("--most_sentences", type=int, default=1000, help="by which quality is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/decoding_speed.json"))
    args = parser.parse_args()
    for name in ("batches", "beams", "threads"):
        if wrong := [value for value in getattr(args, name) if value < 1]:
            raise ValueError(f"--{name} has {wrong[0]}; they are 1 or more.")
    check_rounds(args.most_rounds)
    if STOCK not in args.engines:
        raise ValueError(f"--engines lacks {STOCK}, which the others are measured against: add it.")
    if (args.sources or args.references) and not args.model:
        raise ValueError("--sources and --references are for a trained model: give --model FOLDER too.")
    if args.references and not args.sources:
        raise ValueError("--references are of sentences in a file: give --sources FILE too.")
    args.shapes = args.shapes or ([] if args.model else list(SHAPES))
    names = [*args.shapes, *(folder.resolve().name for folder in args.model)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two models are called {twice[0]}: measure them one by one, each with its own --output.")
    options = from_yaml(args.metric_kwargs, "--metric_kwargs")
    if not isinstance(options, dict):
        raise ValueError(f"--metric_kwargs is {args.metric_kwargs!r}; give a mapping such as '{{tokenize: none}}'.")
    args.metric_kwargs = options
    return args


def subjects(args: argparse.Namespace, scratch: Path) -> list[tuple[Subject, Predictions | None]]:
    """All models, and of each that has references its sentences."""
    for folder in args.model:
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder} of a model; give one that seqloom train has written.")
        check_files(str(folder))
    found: list[tuple[Subject, Predictions | None]] = [
        (random_subject(name, scratch / name, args), None) for name in args.shapes
    ]
    return [*found, *(trained_subject(folder, args) for folder in args.model)]


def random_subject(name: str, folder: Path, args: argparse.Namespace) -> Subject:
    """A model of a shape, with random weights, that writes outputs of fixed lengths."""
    generator = torch.Generator().manual_seed(args.seed)
    config = SHAPES[name]()
    save_random(config, folder, args.seed)
    rounds = {}
    for length in args.lengths:
        for batch in args.batches:
            number = SOURCES_A_ROUND["random"].get(batch, batch)
            ids = torch.randint(4, VOCAB_SIZE, (4, number, LENGTHS[length] - 1), generator=generator)
            ends = torch.full((4, number, 1), SPECIAL["eos_token_id"])
            rounds[batch, length] = torch.cat((ids, ends), -1).tolist()
    limits = {length: {"min_new_tokens": LENGTHS[length], "max_new_tokens": LENGTHS[length]} for length in args.lengths}
    words = f"{config.describe()}; random weights, vocabulary {VOCAB_SIZE:,}"
    return Subject(name, words, folder, rounds, limits)


def save_random(config: Any, folder: Path, seed: int = 0) -> None:
    """A model of random weights, a tokenizer of made-up words that fits it, and a few sources to check exports with."""
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config.max_new_tokens = max(LENGTHS.values())  # random weights do not end by themselves
    model.save_pretrained(folder)
    words = [f"w{number}" for number in range(config.vocab_size)]
    lines_to_check = (" ".join(words[first : first + 8]) for first in range(0, 64, 8))
    (folder / SOURCES).write_text("".join(f"{line}\n" for line in lines_to_check), encoding="utf-8")
    settings = TokenizerSettings(kind="word", vocab_size=config.vocab_size, shared=True)
    train_tokenizer([" ".join(words)], [], settings).save_pretrained(folder)


def trained_subject(folder: Path, args: argparse.Namespace) -> tuple[Subject, Predictions | None]:
    """A trained model with real sentences, which end where they end."""
    name = folder.resolve().name
    if args.sources:
        sources = lines_of(args.sources)
        references = lines_of(args.references) if args.references else None
        if references is not None and len(references) != len(sources):
            raise ValueError(
                f"{args.references} has {len(references):,} lines, {args.sources} has {len(sources):,}: a line each."
            )
    else:
        kept = run_folder.evaluation(folder, "test") / run_folder.PREDICTIONS
        if not kept.is_file():
            raise ValueError(f"{folder} has no scored test split: give --sources FILE, a sentence a line.")
        given = read_predictions(kept)
        sources, references = given.sources, given.scored_references
    sources = sources[: args.most_sentences]
    if not sources:
        raise ValueError(f"{args.sources or folder} holds no sentence.")
    model = whole_model(str(folder))
    tokenizer = tokenizer_of(model, str(folder))
    ids: Ids = tokenizer(sources)["input_ids"]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(args.seed)).tolist()
    rounds = {}
    for batch in args.batches:
        number = min(len(ids), SOURCES_A_ROUND["real"].get(batch, batch))
        pieces = [order[first : first + number] for first in range(0, len(order) - number + 1, number)]
        rounds[batch, "real"] = [[ids[row] for row in piece] for piece in pieces]
    most = model.generation_config.max_new_tokens or 256
    words = f"{model.config.describe()}; trained, {plural(len(ids), 'sentence')}, {statistics.mean(map(len, ids)):.0f} "
    subject = Subject(name, f"{words}tokens on average", folder, rounds, {"real": {"max_new_tokens": most}})
    if references is None:
        return subject, None
    references = references[: len(sources)]
    given = Predictions(sources, references, references)
    measure_sentences(args.metric, given, **args.metric_kwargs)  # what the metric does not take shows before all else
    return subject, given


def lines_of(path: Path) -> list[str]:
    """Of a text file, plain or compressed."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    return list(lines(str(path)))


def load_all(folder: Path, scratch: Path, args: argparse.Namespace) -> tuple[dict[str, Decode], dict[str, str]]:
    """The engines that serve a model, and why the others do not."""
    export_all(args.engines, folder, scratch)
    engines, missing = {}, {}
    for name in args.engines:
        try:
            engines[name] = load_engine(name, folder, scratch, args.threads)
        except NotHere as reason:
            missing[name] = str(reason)
    return engines, missing


def measure(
    subject: Subject, engines: dict[str, Decode], missing: dict[str, str], args: argparse.Namespace
) -> list[Result]:
    """Every case of a model."""
    results = []
    for length, limits in subject.limits.items():
        for batch in args.batches:
            for beams in args.beams:
                search = Search(beams, batch, **limits)
                result = measure_case(subject.folder, engines, subject.rounds[batch, length], search, args)
                result = {
                    "model": subject.name, "words": subject.words, "batch": batch, "beams": beams, "length": length,
                    "limits": limits, "missing": missing, **result,
                }  # fmt: skip
                print(progress(result), flush=True)
                results.append(result)
    return results


def measure_case(
    folder: Path, engines: dict[str, Decode], inputs: Sequence[Ids], search: Search, args: argparse.Namespace
) -> Result:
    """All engines in turn, each with every number of threads, on the same sentences.

    Raises:
        ValueError: What must give the tokens of `generate` gives others, of lower scores.
    """
    keys = [(name, threads) for name in engines for threads in args.threads]
    sides = {label(*key): partial(engines[key[0]], search=search, threads=key[1]) for key in keys}
    taken, limit = 0.0, args.most_seconds / FEWEST
    for done, side in enumerate(sides.values(), start=1):  # the first run is slow, and tells how many there can be
        for again in (False, True):
            started = time.perf_counter()
            side(inputs[0])
            seconds = time.perf_counter() - started
            if again or seconds > 1:
                break
        taken += seconds
        if taken > limit:
            why = f"{plural(done, 'run')} of {len(sides)} took {taken:.0f} s, and each is due {FEWEST} times"
            return {"rounds": 0, "engines": {}, "left_out": f"{why}: more than --most_seconds {args.most_seconds:g}"}
    rounds = max(FEWEST, min(args.most_rounds, round(args.seconds / taken)))
    counted: dict[str, list[int]] = {name: [] for name in sides}
    others: dict[str, list[Pair]] = {name: [] for name in sides}
    stock = label(STOCK, args.threads[0])

    def check(outputs: dict[str, Ids]) -> None:
        sources = inputs[len(counted[stock]) % len(inputs)]
        for name, found in outputs.items():
            counted[name].append(sum(map(len, found)))
            pairs = zip(sources, found, outputs[stock], strict=True)
            others[name] += [pair for pair in pairs if pair[1] != pair[2]]

    laps = take_turns(search.words, sides, inputs, rounds=rounds, warmup=0, check=check)
    num_sentences = rounds * len(inputs[0])
    measured: dict[str, dict[str, Result]] = {name: {} for name in engines}
    for name, threads in keys:
        side, base = label(name, threads), label(STOCK, threads)
        most = MOST_DIFFERENT * num_sentences
        if ENGINES[name].same_tokens and len(others[side]) > most and (worse := num_worse(folder, others[side])) > most:
            raise ValueError(
                f"{side}: {len(others[side]):,} of {num_sentences:,} outputs are not those of {STOCK}, and {worse:,} "
                "have a lower score: nothing that is timed would mean anything."
            )
        measured[name][str(threads)] = {
            "tokens_per_second": statistics.median(speeds_of(counted[side], laps.seconds[side])),
            **ratio_of(laps.seconds[base], laps.seconds[side]),  # of time, since it is the same sentences
            "other_outputs": len(others[side]),
            "cpu_share": laps.cpu_share[side],
            "seconds": laps.seconds[side],
        }
    return {"rounds": rounds, "sentences": num_sentences, "engines": measured, "left_out": None}


def num_worse(folder: Path, pairs: Sequence[Pair]) -> int:
    """How many outputs have a lower score than `generate`'s: the mean log-probability of a token, in float64."""
    model = load_ours(folder).double()
    start = model.config.decoder_start_token_id

    @torch.inference_mode()
    def score(source: list[int], output: list[int]) -> float:
        asked = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([[start, *output[:-1]]])}
        log_probs = model(**asked).logits[0].log_softmax(-1)  # (output, vocab)
        return float(log_probs.gather(-1, torch.tensor(output)[:, None]).mean())

    return sum(score(source, found) < score(source, stock) for source, found, stock in pairs)


def label(engine: str, threads: int) -> str:
    """Of a side."""
    return f"{engine}, {plural(threads, 'thread')}"


def measure_quality(
    subject: Subject, engines: dict[str, Decode], given: Predictions, args: argparse.Namespace
) -> list[Result]:
    """The score of every engine's outputs for all sentences, and its difference from that of `generate`'s."""
    model = whole_model(str(subject.folder))
    tokenizer = tokenizer_of(model, str(subject.folder))
    ids: Ids = tokenizer(given.sources)["input_ids"]
    results = []
    for beams in args.beams:
        search = Search(beams, max(args.batches), **subject.limits["real"])
        outputs = {name: decode(ids, search, max(args.threads)) for name, decode in engines.items()}
        measured = {}
        for name, found in outputs.items():
            texts = target_tokenizer(tokenizer).batch_decode(found, skip_special_tokens=True)
            measured[name] = measure_sentences(
                args.metric, Predictions(given.sources, given.references, texts), **args.metric_kwargs
            )
        scores = {}
        for name, (_, statistics_of) in measured.items():
            tests = compare_systems(
                [statistics_of], [measured[STOCK][1]], higher_is_better=higher_is_better(args.metric)
            )
            other = sum(a != b for a, b in zip(outputs[name], outputs[STOCK], strict=True))
            scores[name] = {
                "score": tests["scores"][0], "difference": tests["difference"], "interval": tests["interval"],
                "p": tests["p"], "other_outputs": other,
            }  # fmt: skip
        signature = measured[STOCK][0]
        results.append({"model": subject.name, "metric": args.metric, "signature": signature, "beams": beams,
                        "sentences": len(ids), "scores": scores})  # fmt: skip
        print(f"{subject.name}, {search.words}: {args.metric} of {len(ids):,} sentences", flush=True)
    return results


def threads_of(results: Sequence[Result]) -> list[str]:
    """Numbers of threads that were measured."""
    return sorted({threads for result in results for side in result["engines"].values() for threads in side}, key=int)


def engines_of(results: Sequence[Result]) -> list[str]:
    """Engines that were measured, in the order of `ENGINES`."""
    return [name for name in ENGINES if any(name in result["engines"] for result in results)]


def case(result: Result) -> str:
    """``64 together, beam 5, 48 tokens``."""
    together = "one by one" if result["batch"] == 1 else f"{result['batch']} together"
    length = f", {result['limits']['max_new_tokens']} tokens" if result["length"] in LENGTHS else ""
    return f"{together}, {Search(result['beams'], 0, 0).words}{length}"


def progress(result: Result) -> str:
    """A case in a line."""
    if result["left_out"]:
        return f"{result['model']}, {case(result)}: left out, {result['left_out']}"
    ratios = [
        f"{name} {of_threads[min(of_threads, key=int)]['ratio']:.2f}"
        for name, of_threads in result["engines"].items()
        if name != STOCK
    ]
    return f"{result['model']}, {case(result)}: {plural(result['rounds'], 'round')}; over {STOCK}: {', '.join(ratios)}"


def speed_table(result: Result) -> str:
    """A case in Markdown, an engine a row."""
    if result["left_out"]:
        return f"Left out: {result['left_out']}."
    rows = []
    for name, of_threads in result["engines"].items():
        for threads, side in of_threads.items():
            low, high = side["interval"]
            ratio = "1" if name == STOCK else f"**{side['ratio']:.2f}** ({low:.2f} to {high:.2f})"
            rows.append([name, threads, f"{side['tokens_per_second']:,.0f}", ratio, f"{side['other_outputs']:,}"])
    rows += [[name, "", reason, "", ""] for name, reason in result["missing"].items()]
    others = f"other outputs, of {result['sentences']:,}:"
    return table(["engine", "threads:", "tokens/s:", f"times {STOCK} (95 %):", others], rows)


def quality_table(quality: Sequence[Result]) -> str:
    """Scores in Markdown."""
    rows = [
        [result["model"], Search(result["beams"], 0, 0).words, name, f"{entry['score']:.2f}",
         "" if name == STOCK else with_interval(entry["difference"], entry["interval"], "+"),
         f"{entry['other_outputs']:,} of {result['sentences']:,}"]
        for result in quality
        for name, entry in result["scores"].items()
    ]  # fmt: skip
    headers = ["model", "search", "engine", f"{quality[0]['metric']}:", f"minus {STOCK}'s [95 %]:", "other outputs:"]
    return table(headers, rows)


if __name__ == "__main__":
    end_in_one_sentence(main)
