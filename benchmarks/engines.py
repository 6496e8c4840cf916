"""What decodes: stock `generate`, MarianMTModel, seqloom's own search, CTranslate2, onnxruntime, each behind one call.

Ids in, ids out, for a model's folder. An engine that cannot serve a model here is not left out in silence: `NotHere`
says why. Each imports no more than it needs, so that a process of its own shows what it costs to start.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

STOCK = "generate"
"""What the others are measured against: the model's own `generate`, as transformers has it."""
SOURCES = "sources.txt"
"""In a folder of random weights: lines by which `seqloom export` checks what it wrote."""
Ids = list[list[int]]
Decode = Callable[[Ids, "Search", int], Ids]
"""Sources (end token included), what to search, CPU threads → outputs, up to the end token, that included."""


class NotHere(Exception):
    """Why an engine does not serve a model on this machine."""


@dataclass(frozen=True)
class Search:
    """What is asked of an engine."""

    beams: int
    batch: int
    """Sentences that are decoded together."""
    max_new_tokens: int
    min_new_tokens: int = 0

    @property
    def words(self) -> str:
        """``greedy`` or ``beam 5``."""
        return "greedy" if self.beams == 1 else f"beam {self.beams}"

    @property
    def options(self) -> dict[str, Any]:
        """Of `generate`."""
        limits = {"max_new_tokens": self.max_new_tokens}
        if self.min_new_tokens:
            limits["min_new_tokens"] = self.min_new_tokens
        return {"num_beams": self.beams, "do_sample": False, "early_stopping": False, "length_penalty": 1.0, **limits}


@dataclass(frozen=True)
class Engine:
    """One way to decode."""

    load: Callable[[Path, Path, Sequence[int]], Decode]
    """Of a model's folder, a folder for what is exported, and the numbers of threads that will be asked for.

    Raises:
        NotHere: It does not serve this model here.
    """
    dtype: str
    """Of its products."""
    packages: tuple[str, ...] = ()
    """That it needs beside seqloom's own."""
    form: str | None = None
    """What `seqloom export` makes for it."""
    imports: tuple[str, ...] = ("torch", "transformers", "seqloom")
    """What a program that uses it imports."""
    same_tokens: bool = False
    """Whether it must give the tokens of stock `generate`: the same arithmetic, the same rules of search."""


def load_generate(folder: Path, scratch: Path, threads: Sequence[int]) -> Decode:
    """transformers' own loop."""
    return generate_with(load_ours(folder))


def load_ours(folder: Path) -> Any:
    """The model that a folder holds, in evaluation mode."""
    from seqloom.decoding.loading import whole_model

    return whole_model(str(folder)).eval()


def generate_with(model: Any) -> Decode:
    """`generate` of a model, longest sources first, so many sentences a call."""
    import torch

    pad, end = model.config.pad_token_id, model.config.eos_token_id

    def decode(sources: Ids, search: Search, threads: int) -> Ids:
        torch.set_num_threads(threads)
        outputs: Ids = [[]] * len(sources)
        for rows in batches(sources, search.batch):
            width = max(len(sources[row]) for row in rows)
            input_ids = torch.tensor([sources[row] + [pad] * (width - len(sources[row])) for row in rows])
            lengths = torch.tensor([len(sources[row]) for row in rows])
            attention_mask = (torch.arange(width) < lengths[:, None]).long()
            found = model.generate(input_ids=input_ids, attention_mask=attention_mask, **search.options)
            for row, tokens in zip(rows, found[:, 1:].tolist(), strict=True):
                outputs[row] = up_to_end(tokens, end)
        return outputs

    return decode


def batches(sources: Ids, size: int) -> Iterator[list[int]]:
    """Places of sources, longest first, so many at a time."""
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]), reverse=True)
    for first in range(0, len(order), size):
        yield order[first : first + size]


def up_to_end(tokens: list[int], end: int) -> list[int]:
    """Without what stands behind the first end token."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def load_marian(folder: Path, scratch: Path, threads: Sequence[int]) -> Decode:
    """transformers' MarianMTModel with the same weights, of a model that computes what Marian does."""
    return generate_with(as_marian(load_ours(folder)))


def as_marian(ours: Any) -> Any:
    """The same weights in transformers' MarianMTModel.

    Raises:
        NotHere: It has no such layers.
    """
    from transformers import MarianConfig, MarianMTModel

    config = ours.config
    needed = {"normalize_before": False, "position_embedding_type": "sinusoidal", "tie_word_embeddings": True}
    other = [name for name, value in needed.items() if getattr(config, name, None) != value]
    if other or config.activation_function == "swiglu" or not config.share_encoder_decoder_embeddings:
        raise NotHere("MarianMTModel has post-norm Transformers with sinusoidal positions and one embedding alone")
    names = ["vocab_size", "d_model", "activation_function", "scale_embedding"]
    names += [f"{side}_{part}" for side in ("encoder", "decoder") for part in ("layers", "attention_heads", "ffn_dim")]
    names += ["pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"]
    fields = {name: getattr(config, name) for name in names}
    marian = MarianMTModel(MarianConfig(**fields, forced_eos_token_id=None, max_position_embeddings=1024)).eval()
    missing = marian.load_state_dict(ours.state_dict(), strict=False)  # lacks its tables of positions and zeros
    assert not missing.unexpected_keys, missing.unexpected_keys
    return marian


def own_search(dtype: str) -> Callable[[Path, Path, Sequence[int]], Decode]:
    """seqloom's search, as `seqloom.translate` calls it; the decoder, with its packed weights, is made once."""

    def load(folder: Path, scratch: Path, threads: Sequence[int]) -> Decode:
        from seqloom.decoding.engine import NotOurs, decoder_for

        model = load_ours(folder)
        try:
            decoder = decoder_for(model, dtype)
        except NotOurs as reason:
            raise NotHere(f"it is left to generate, since {reason}") from None
        return search_with(dict.fromkeys(threads, decoder), model.config)

    return load


def search_with(decoders: dict[int, Any], config: Any) -> Decode:
    """seqloom's search with decoders, one for each number of threads."""
    import torch

    from seqloom.decoding.search import search as run
    from seqloom.decoding.targets import SearchOptions

    @torch.inference_mode()
    def decode(sources: Ids, search: Search, threads: int) -> Ids:
        torch.set_num_threads(threads)
        options = SearchOptions(
            start_token=config.decoder_start_token_id, eos_tokens=(config.eos_token_id,),
            pad_token=config.pad_token_id, max_new_tokens=search.max_new_tokens,
            min_new_tokens=search.min_new_tokens, num_beams=search.beams,
        )  # fmt: skip
        # The budget counts source tokens: as many as so many sentences of middling length have.
        width = max(map(len, sources)) if len(sources) <= search.batch else sum(map(len, sources)) / len(sources)
        budget = round(search.batch * width) * search.beams if search.batch > 1 else 1
        outputs: Ids = [[]] * len(sources)
        for row, found in run(decoders[threads], sources, options, batch_tokens=budget):
            outputs[row] = found[0].tokens
        return outputs

    return decode


def onnxruntime(dtype: str) -> Callable[[Path, Path, Sequence[int]], Decode]:
    """seqloom's search over the graphs that `seqloom export` writes, which onnxruntime runs."""

    def load(folder: Path, scratch: Path, threads: Sequence[int]) -> Decode:
        place = exported(folder, scratch, "onnx", dtype)
        import torch

        from seqloom.decoding.exported import open_exported

        decoders = {}
        for number in threads:
            torch.set_num_threads(number)  # a session is opened with as many
            model = open_exported(place)
            decoders[number] = model.engine
        return search_with(decoders, model.config)

    return load


def ctranslate2(dtype: str) -> Callable[[Path, Path, Sequence[int]], Decode]:
    """CTranslate2's Translator, of what `seqloom export` writes."""

    def load(folder: Path, scratch: Path, threads: Sequence[int]) -> Decode:
        place = exported(folder, scratch, "ctranslate2", dtype) / "ctranslate2"
        from ctranslate2 import Translator

        translators = {
            number: Translator(str(place), device="cpu", compute_type=dtype, intra_threads=number, inter_threads=1)
            for number in threads
        }
        vocabularies = {}
        for side in ("source", "target"):
            files = [place / f"{name}_vocabulary.json" for name in (side, "shared")]
            vocabularies[side] = json.loads(next(file for file in files if file.is_file()).read_text(encoding="utf-8"))
        words, numbers = vocabularies["source"], {word: row for row, word in enumerate(vocabularies["target"])}
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        end = numbers[config["eos_token"]]
        is_ended = bool(config.get("add_source_eos"))

        def decode(sources: Ids, search: Search, threads: int) -> Ids:
            results = translators[threads].translate_batch(
                [[words[row] for row in (ids[:-1] if is_ended else ids)] for ids in sources],
                beam_size=search.beams, max_batch_size=search.batch, batch_type="examples",
                min_decoding_length=max(1, search.min_new_tokens), max_decoding_length=search.max_new_tokens,
                return_end_token=True,
            )  # fmt: skip
            return [up_to_end([numbers[word] for word in result.hypotheses[0]], end) for result in results]

        return decode

    return load


@cache
def export(folder: Path, scratch: Path, kind: str, dtype: str) -> Path | NotHere:
    """What `seqloom export` writes of a model, once; or why it does not: there is no such command, or its sentence."""
    if importlib.util.find_spec("seqloom.commands.export") is None:
        return NotHere("this seqloom has no command `export`")
    place = scratch / f"{folder.resolve().name}-{kind}-{dtype}"
    if place.is_dir():
        return place
    words = ["export", str(folder), "--to", kind, "--dtype", dtype, "--output_dir", str(place)]
    if (folder / SOURCES).is_file():
        words += ["--sources", str(folder / SOURCES)]
    done = subprocess.run([sys.executable, "-m", "seqloom", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return NotHere((said[-1] if said else f"export ended with status {done.returncode}").removeprefix("error: "))
    return place


def exported(folder: Path, scratch: Path, kind: str, dtype: str) -> Path:
    """Where it lies.

    Raises:
        NotHere: It was not written.
    """
    found = export(folder, scratch, kind, dtype)
    if isinstance(found, NotHere):
        raise found
    return found


def export_all(names: Sequence[str], folder: Path, scratch: Path) -> None:
    """Lets `seqloom export` write what engines need, two at a time, since it is not timed."""
    chosen = [engine for engine in map(ENGINES.get, names) if engine and engine.form and not absent(engine)]
    with ThreadPoolExecutor(2) as pool:
        for engine in chosen:
            pool.submit(export, folder, scratch, engine.form, engine.dtype)


def absent(engine: Engine) -> list[str]:
    """Packages that it needs and that are not installed."""
    return [package for package in engine.packages if importlib.util.find_spec(package) is None]


CT2 = ("ctranslate2",), "ctranslate2", ("ctranslate2",)
ONNX = ("onnxruntime",), "onnx", ("onnxruntime", "torch", "seqloom")
"""Packages, form and imports."""
ENGINES: dict[str, Engine] = {
    STOCK: Engine(load_generate, "float32"),
    "MarianMTModel": Engine(load_marian, "float32", same_tokens=True),
    "seqloom float32": Engine(own_search("float32"), "float32", same_tokens=True),
    "seqloom bfloat16": Engine(own_search("bfloat16"), "bfloat16"),
    "seqloom int8": Engine(own_search("int8"), "int8"),
    "CTranslate2 float32": Engine(ctranslate2("float32"), "float32", *CT2),
    "CTranslate2 int8": Engine(ctranslate2("int8"), "int8", *CT2),
    "onnxruntime float32": Engine(onnxruntime("float32"), "float32", *ONNX, same_tokens=True),
    "onnxruntime int8": Engine(onnxruntime("int8"), "int8", *ONNX),
}


def load_engine(name: str, folder: Path, scratch: Path, threads: Sequence[int]) -> Decode:
    """An engine, ready.

    Raises:
        NotHere: A package is missing, or it does not serve this model.
    """
    engine = ENGINES[name]
    if lacking := absent(engine):
        raise NotHere(f"{lacking[0]} is not installed")
    return engine.load(folder, scratch, threads)
