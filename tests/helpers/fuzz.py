"""Wrong input of every kind, drawn from a seed: settings, data files, models and runs; and what a command makes of it.

A command ends with 0 (the input is *accepted*) or with one *sentence*; whatever else it does is a *traceback*.
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import sys
import traceback
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from accelerate.state import AcceleratorState, GradientState
from transformers import GenerationConfig

from seqloom.__main__ import COMMANDS
from seqloom.commands.shell import run
from seqloom.modeling import CONFIG_CLASSES
from seqloom.settings.checks import model_fields
from seqloom.settings.schema import MixSettings, ScoringSettings, Settings
from seqloom.settings.typed import field_types, is_section

LONGEST_SENTENCE = 1500
"""Characters that a person still reads."""
SECONDS = 60
"""After which a command hangs."""

VALUES = [
    None, True, False, 0, 1, -1, 2, 3.5, -0.5, 0.0, 1e-30, 1e30, 10**9, -(10**9), 2**63, 10**400, float("nan"),
    float("inf"), float("-inf"), "", " ", "x", "null", "1e5", "nan", "-1", "0x10", "ü한국어🍎", "\u0000", "a\nb",
    "../x", "/", "/dev/null", "no/such/place", "x" * 5000,
    "*", "[", "{", "{}", "%s", "é" * 300, [], [[]], [None], [1, 2],
    ["x"], ["a", "b", "c"], ["../x"], [{}], {}, {"x": 1}, {"": None}, {1: 2}, {"a": {"b": {"c": []}}}, "2024-01-01",
    "train",
]  # fmt: skip
"""What may stand behind a key, whatever its type."""


@dataclasses.dataclass
class Case:
    """One input: what it is, how it is laid out in an empty folder, and the words of the command on it."""

    name: str
    prepare: Callable[[Path], list[str]]


@dataclasses.dataclass
class Tally:
    """What came of all."""

    accepted: list[str] = dataclasses.field(default_factory=list)
    sentences: list[str] = dataclasses.field(default_factory=list)
    tracebacks: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        counts = [len(self.accepted), len(self.sentences), len(self.tracebacks)]
        return "{} tried: {} accepted, {} sentences, {} tracebacks".format(sum(counts), *counts)

    def save(self, folder: Path) -> None:
        """A file of each, to be looked at."""
        for name, lines in vars(self).items():
            (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


class Hangs(BaseException):
    """Nobody catches it."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_):
        raise Hangs(f"it is not over after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(case: Case, folder: Path, tally: Tally) -> None:
    """Tries it in a folder that is made for it and removed."""
    folder.mkdir()
    said, told = io.StringIO(), io.StringIO()
    words: list[str] = []
    home = Path.cwd()
    stdin, sys.stdin = sys.stdin, io.StringIO("abc\nhgf\n")
    try:
        words = case.prepare(folder)
        os.chdir(folder)  # where a file goes that is given by its name alone
        with alarm(SECONDS), contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
            status: object = run(COMMANDS[words[0]], words[1:])
    except (Exception, Hangs, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in place if "seqloom" in frame.filename
                or "modeling" in frame.filename]  # fmt: skip
        status = f"{type(error).__name__}: {' '.join(str(error).split())[:300]} in {' '.join(ours[-4:])}"
    finally:
        os.chdir(home)
        sys.stdin = stdin
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        shutil.rmtree(folder, ignore_errors=True)
    errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
    entry = f"{case.name} | {' '.join(words[:1])} | {status} | {' '.join([*errors, *told.getvalue().split()])[:400]}"
    if status == 0 and not errors:
        tally.accepted.append(entry)
    elif status == 1 and len(errors) == 1 and 20 < len(errors[0]) < LONGEST_SENTENCE:
        tally.sentences.append(entry)
    else:
        tally.tracebacks.append(entry)


def shown(value: object) -> str:
    return repr(value) if len(repr(value)) < 60 else f"{repr(value)[:40]}… ({len(repr(value))} characters)"


# Settings.


def leaves(cls: type, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], typing.Any]]:
    """Every key of a dataclass, sections and what is in them."""
    for f, hint in field_types(cls):
        yield (*where, f.name), hint
        if is_section(hint):
            yield from leaves(hint, (*where, f.name))


def settings_cases(config: dict, model: Path) -> list[Case]:
    """Every key with every value: in the file of a training, and on the line of a scoring."""
    keys = [keys for keys, _ in leaves(Settings)]
    keys += [("data", "mix", "0", f.name) for f in dataclasses.fields(MixSettings)]
    keys += [("model", name) for name in sorted(set().union(*map(model_fields, CONFIG_CLASSES)))]
    families = list(CONFIG_CLASSES)
    cases = []
    for key in keys:
        for value in VALUES:
            family = families[len(cases) % len(families)]
            cases.append(Case(f"{'.'.join(key)} = {shown(value)}", in_file(config, key, value, family)))
    for key, _ in leaves(ScoringSettings):
        for value in VALUES:
            word = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0]
            if "\0" in word:
                continue  # which no word can hold
            if key[-1] == "max_new_tokens" and isinstance(value, int | str) and len(str(value)) > 2:
                continue  # an untrained model makes use of it all
            command = ("evaluate", "translate", "attend")[len(cases) % 3]
            cases.append(Case(f"--{'.'.join(key)} {shown(word)}", on_line(command, model, key, word.strip("\n"))))
    return cases


def in_file(config: dict, key: tuple[str, ...], value: object, family: str) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        raw = json.loads(json.dumps(config))
        raw["output_dir"] = str(folder / "run")
        sizes = {"hidden_size": 8} if family == "rnn_seq2seq" else {
            "d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8,
            "decoder_ffn_dim": 8}  # fmt: skip
        raw["model"] = {"model_type": family, "encoder_layers": 1, "decoder_layers": 1, **sizes}
        place = raw
        if key[:2] == ("data", "mix") and len(key) > 2:
            raw["data"]["mix"] = [{"train_files": raw["data"]["train_files"], "weight": 1}]
        for name in key[:-1]:
            place = place[int(name)] if name.isdigit() else place.setdefault(name, {})
        place[key[-1]] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
        return ["train", str(folder / "config.yaml"), "--dry_run"]

    return prepare


def on_line(command: str, model: Path, key: tuple[str, ...], word: str) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        texts = ["abc"] if command == "attend" else []
        place = [] if key == ("output_dir",) or command != "evaluate" else ["--output_dir", str(folder / "scores")]
        return [command, str(model), *texts, *place, f"--{'.'.join(key)}={word}"]

    return prepare


# Files of data.


def tables(pairs: list[tuple[str, str]], folder: Path) -> dict[str, bytes]:
    """The same pairs as a file of every kind."""
    rows = [dict(zip(("source", "target"), pair, strict=True)) for pair in pairs]
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in ("source", "target")}), folder / "x.parquet")
    cells = [("source", "target"), *pairs]
    return {
        "csv": "".join(f"{a},{b}\n" for a, b in cells).encode(),
        "tsv": "".join(f"{a}\t{b}\n" for a, b in cells).encode(),
        "json": json.dumps(rows).encode(),
        "jsonl": "".join(f"{json.dumps(row)}\n" for row in rows).encode(),
        "parquet": (folder / "x.parquet").read_bytes(),
        "txt": "".join(f"{a}\n" for a, _ in pairs).encode(),
    }


DEEP = b"[" * 100_000 + b"]" * 100_000


def flip(content: bytes, dice: random.Random) -> bytes:
    """Some bytes of it are others."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        if changed:
            changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda content, dice: b"",
    "half": lambda content, dice: content[: len(content) // 2],
    "cut anywhere": lambda content, dice: content[: dice.randrange(max(len(content), 1))],
    "without its last byte": lambda content, dice: content[:-1],
    "without its first bytes": lambda content, dice: content[4:],
    "other bytes": flip,
    "garbage": lambda content, dice: dice.randbytes(300),
    "zeros": lambda content, dice: bytes(len(content) or 10),
    "a zero inside": lambda content, dice: content[:20] + b"\0" + content[20:],
    "not UTF-8": lambda content, dice: content[:10] + b"\xff\xfe\x80" + content[10:],
    "latin-1": lambda content, dice: content[:12] + "é".encode("latin-1") + content[12:],
    "UTF-16": lambda content, dice: content.decode("latin-1").encode("utf-16"),
    "UTF-32": lambda content, dice: content.decode("latin-1").encode("utf-32"),
    "a mark of UTF-8": lambda content, dice: b"\xef\xbb\xbf" + content,
    "two marks": lambda content, dice: b"\xef\xbb\xbf" * 2 + content,
    "CRLF": lambda content, dice: content.replace(b"\n", b"\r\n"),
    "CR": lambda content, dice: content.replace(b"\n", b"\r"),
    "blank lines": lambda content, dice: content.replace(b"\n", b"\n\n"),
    "one line": lambda content, dice: content.replace(b"\n", b" "),
    "twice": lambda content, dice: content * 2,
    "lines shuffled": lambda content, dice: b"\n".join(dice.sample(lines := content.split(b"\n"), len(lines))),
    "a quote": lambda content, dice: content.replace(b"\n", b'\n"', 2),
    "spaces": lambda content, dice: b"   \n \n",
    "null": lambda content, dice: b"null",
    "a number": lambda content, dice: b"12",
    "a long number": lambda content, dice: b"9" * 5000,
    "NaN": lambda content, dice: b"NaN",
    "a text": lambda content, dice: b'"text"',
    "a list": lambda content, dice: b"[1, [], null]",
    "an empty list": lambda content, dice: b"[]",
    "an object": lambda content, dice: b'{"a": 1}',
    "an empty object": lambda content, dice: b"{}",
    "nested deeply": lambda content, dice: DEEP,
    "objects nested deeply": lambda content, dice: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "half a character": lambda content, dice: b'{"source": "\\ud800", "target": "x"}\n',
    "html": lambda content, dice: b"<!DOCTYPE html><html><body>404</body></html>",
    "a pickle": lambda content, dice: b"\x80\x04K\x01.",
    "a pointer of LFS": lambda content, dice: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
}
"""A file's content, spoilt."""


def data_cases(contents: dict[str, bytes], config: dict, model: Path, dice: random.Random) -> list[Case]:
    """Each kind of file in each state, trained on, validated with and scored on."""
    cases = []
    for kind, content in contents.items():
        for name, damage in DAMAGES.items():
            spoilt = damage(content, dice)
            for packed in ("", ".gz"):
                for role in ("train", "validation", "test"):
                    place = data_file(spoilt, content, kind, packed, role, config, model)
                    cases.append(Case(f"{role}.{kind}{packed}: {name}", place))
    for role in ("train", "test"):
        for kind, content in contents.items():
            for name in ("folder", "missing", "forbidden name", "column", "same column"):
                cases.append(Case(f"{role}.{kind}: {name}", data_place(name, content, kind, role, config, model)))
    return cases


def _command(role: str, files: list[str], folder: Path, config: dict, model: Path, *more: str) -> list[str]:
    if role == "test":
        return ["evaluate", str(model), "--output_dir", str(folder / "scores"), "--test_files", *files, *more]
    raw = {**config, "output_dir": str(folder / "run"), "data": {**config["data"], f"{role}_files": files}}
    (folder / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return ["train", str(folder / "config.yaml"), "--dry_run", *more]


def data_file(spoilt, content, kind, packed, role, config, model) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        import gzip

        names = [f"a.{kind}{packed}"] + ([f"b.{kind}{packed}"] if kind == "txt" else [])
        for name, held in zip(names, (spoilt, content), strict=False):
            (folder / name).write_bytes(gzip.compress(held) if packed else held)
        if packed and len(spoilt) % 3 == 0:  # the archive itself is spoilt
            whole = (folder / names[0]).read_bytes()
            (folder / names[0]).write_bytes(whole[: len(whole) * 2 // 3])
        return _command(role, [str(folder / name) for name in names], folder, config, model)

    return prepare


def data_place(name, content, kind, role, config, model) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        path, more = folder / f"a.{kind}", []
        if name == "folder":
            path.mkdir()
        elif name == "forbidden name":
            path = folder / f"{'x' * 300}.{kind}"
        elif name != "missing":
            path.write_bytes(content)
            more = ["--source", "nothing" if name == "column" else "target"]
        files = [str(path)] * (2 if kind == "txt" else 1)
        return _command(role, files, folder, config, model, *more)

    return prepare


# Folders of models, runs and reports.

WORDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "evaluate": lambda run, new: ["evaluate", str(run), "--output_dir", str(new / "scores")],
    "evaluate what is kept": lambda run, new: ["evaluate", str(run)],
    "against": lambda run, new: ["evaluate", str(run), "--against", str(new / "other"), "--output_dir", str(new / "a")],
    "translate": lambda run, new: ["translate", str(run)],
    "attend": lambda run, new: ["attend", str(run), "abc", "--output", str(new / "map.png")],
    "compare": lambda run, new: ["compare", str(run), str(new / "other"), "--output", str(new / "report"),
                                 "--measures", "quality", "learning_curves"],  # which time nothing
    "plot": lambda run, new: ["plot", str(run), "--output", str(new / "curves.png")],
    "push": lambda run, new: ["push", str(run), "me/model"],
    "export": lambda run, new: ["export", str(run), "--to", "ctranslate2", "--output_dir", str(new / "exported")],
    "resume": lambda run, new: ["train", str(run / "settings.yaml"), "--output_dir", str(run), "--resume", "--dry_run"],
    "overwrite": lambda run, new: ["train", str(run / "settings.yaml"), "--output_dir", str(run), "--overwrite",
                                   "--dry_run"],
    "init_from": lambda run, new: ["train", str(new / "config.yaml"), "--output_dir", str(new / "x"), "--dry_run",
                                   "--init_from", str(run)],
    "tokenizer.path": lambda run, new: ["train", str(new / "config.yaml"), "--output_dir", str(new / "x"), "--dry_run",
                                        "--tokenizer.path", str(run), "--tokenizer.kind", "char"],
}  # fmt: skip
"""Every command on a run's folder."""


def folder_cases(whole: Path, config: dict, dice: random.Random) -> list[Case]:
    """Each file of a run, spoilt in each way, under each command."""
    cases = []
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    for file in files:
        content = (whole / file).read_bytes()
        states: dict[str, bytes | None] = {"deleted": None, "a folder": None, "a link to nothing": None}
        states |= {name: damage(content, dice) for name, damage in DAMAGES.items()}
        if file.suffix == ".json":
            states |= dict(values_spoilt(content, dice))
        for name, spoilt in states.items():
            for command in WORDS:
                prepare = folder_state(whole, file, name, spoilt, command, config)
                cases.append(Case(f"{file}: {name} under {command}", prepare))
    return cases


def values_spoilt(content: bytes, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """A file of JSON in which one value is another, or is lacking."""
    found = json.loads(content)
    if not isinstance(found, dict):
        return
    more = sorted(name for name in vars(GenerationConfig()) if name[0] != "_") if "transformers_version" in found and (
        "vocab_size" not in found) else []  # fmt: skip
    for key in dict.fromkeys([*found, *more]):
        yield f"without {key}", json.dumps({name: value for name, value in found.items() if name != key}).encode()
        value = dice.choice([value for value in VALUES if not isinstance(value, dict) or 1 not in value])
        yield f"{key} = {shown(value)}", json.dumps({**found, key: value}).encode()


def folder_state(whole, file, name, spoilt, command, config) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        run, path = folder / "run", folder / "run" / file
        shutil.copytree(whole, run)
        if command in ("against", "compare"):
            shutil.copytree(whole, folder / "other")
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        if spoilt is None:
            path.unlink()
            if name == "a folder":
                path.mkdir()
            elif name == "a link to nothing":
                path.symlink_to(folder / "nowhere")
        else:
            path.write_bytes(spoilt)
        return WORDS[command](run, folder)

    return prepare
