"""Short runs of small models: their configurations, data, logs and weights."""

import json
import os
import random
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from seqloom.settings.reading import load_settings
from seqloom.training import checkpoints, loop
from seqloom.training.run import run_training

ROOT = Path(__file__).parents[2]
MODELS = {
    "rnn": {
        "model_type": "rnn_seq2seq", "cell_type": "gru", "hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1,
    },
    "transformer": {
        "model_type": "transformer_seq2seq", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "normalize_before": True,
    },
}  # fmt: skip
MODELS["hybrid"] = {**MODELS["transformer"], "model_type": "hybrid_seq2seq"}


SMALL = {
    "rnn": {**MODELS["rnn"], "hidden_size": 8},
    "transformer": {**MODELS["transformer"], "d_model": 8, "encoder_layers": 1, "decoder_layers": 1},
}
SMALL["hybrid"] = {**SMALL["transformer"], "model_type": "hybrid_seq2seq"}


def write_pairs(folder: Path, name: str, pairs: int) -> list[str]:
    """Words of a to h, and the same words backwards."""
    words = random.Random(name)
    sources = ["".join(words.choices("abcdefgh", k=words.randint(1, 3))) for _ in range(pairs)]
    paths = [folder / f"{name}.{side}" for side in ("source", "target")]
    for path, texts in zip(paths, (sources, [text[::-1] for text in sources]), strict=True):
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return [str(path) for path in paths]


def configure(folder: Path, pairs: dict, family: str = "transformer", /, **changes) -> str:
    """A configuration file of a few short updates, ``changes`` being fields of its sections."""
    raw = {
        "output_dir": str(folder / "run"),
        "model": {**SMALL[family], "dropout": 0.0},
        "data": {f"{split}_files": pairs[name] for split, name in
                 (("train", "few"), ("validation", "validation"), ("test", "test"))},
        "tokenizer": {"kind": "char", "vocab_size": 20},
        "training": {"batch_tokens": 60, "max_steps": 6, "logging_steps": 1, "learning_rate": 0.01, "eval_steps": 3,
                     "lr_scheduler_type": "constant", "num_threads": 1},
        "evaluation": {"metrics": ["exact_match"]},
    }  # fmt: skip
    for section, fields in changes.items():
        raw[section] = {**raw.get(section, {}), **fields} if isinstance(fields, dict) else fields
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return str(folder / "config.yaml")


def run(folder: Path, pairs: dict, family: str = "transformer", /, *, resume: bool = False, **changes) -> dict:
    """Trains; gives the record back."""
    return run_training(load_settings(configure(folder, pairs, family, **changes)), resume=resume)


def read_log(folder: Path, *, timed: bool = False) -> list[dict]:
    """The lines of a run's log, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "run" / "training_log.jsonl").read_text().splitlines()]
    clock = () if timed else ("seconds", "tokens_per_second", "memory_mib")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def read_losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder) if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(BaseException):
    """Nobody catches it."""


def kill_in(monkeypatch, place: str) -> None:
    """Kills the next run in its 8th update, in its 2nd, or while it renames or saves what its 6th left."""
    calls = []

    def counted(function, number):
        def wrapped(*args, **kwargs):
            calls.append(number)
            if len(calls) == number:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    if place in ("update", "start"):
        original = loop.make_update
        monkeypatch.setattr(loop, "make_update", counted(original, 8 if place == "update" else 2))
    elif place == "save":
        original = os.replace

        def replace(source, target):
            if Path(target).name == "step-00000006":
                raise Killed
            original(source, target)

        monkeypatch.setattr(os, "replace", replace)
    elif place == "best":
        monkeypatch.setattr(checkpoints, "save_model", counted(checkpoints.save_model, 2))


def contents(folder: Path, but: str = "ballast") -> dict[str, bytes]:
    """Every file of a folder, by its place."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != but}
