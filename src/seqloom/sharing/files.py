"""What of a run's folder goes up to the Hub."""

from __future__ import annotations

import json
from importlib.metadata import requires
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import yaml

from seqloom import run_folder
from seqloom.settings.schema import Settings
from seqloom.sharing.code import code_files
from seqloom.sharing.privacy import shareable_log, shareable_record, shareable_settings

WEIGHTS = (".safetensors", ".safetensors.index.json")
TOKENIZER_FILES = {
    "tokenizer.json", "target_tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "source.spm", "target.spm",
    "tokenizer.model", "chat_template.jinja",
}  # fmt: skip
PRIVATE = {run_folder.DATA, run_folder.MARKER, run_folder.LOCK}
"""Files of a run that this machine needs and nobody else."""
HANDLER = ("handler.py", "requirements.txt")
"""What an Inference Endpoint runs, and what it installs before."""
TELLING = (run_folder.RECORD, run_folder.LOG, run_folder.CURVE)
"""Files that tell of scores."""


def model_files(folder: Path) -> list[Path]:
    """Weights, configs, tokenizer, the code that they name and what that imports, in a folder of other things too."""
    names = {"config.json", "generation_config.json"} | TOKENIZER_FILES | code_files(folder)
    return [path for path in sorted(folder.iterdir()) if path.is_file() and
            (path.name in names or path.name.endswith(WEIGHTS))]  # fmt: skip


def shared_files(folder: Path, settings: Settings, record: dict[str, Any]) -> tuple[dict[str, Path | bytes], list[str]]:
    """What goes up, without a path of this machine; and the names of the folder's files that do not."""
    files: dict[str, Path | bytes] = {path.name: path for path in model_files(folder)}
    files |= {name: folder / name for name in TELLING if (folder / name).is_file()}
    known = record.get("places", ())
    values = shareable_settings(settings, known)
    files[run_folder.SETTINGS] = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
    log = run_folder.read_log(folder)
    if (shared := shareable_log(log, known)) != log:
        files[run_folder.LOG] = "".join(f"{json.dumps(line)}\n" for line in shared).encode()
    files[run_folder.RECORD] = json.dumps(shareable_record(record), indent=2, ensure_ascii=False).encode()
    here = {path.name for path in folder.iterdir() if path.is_file()}
    return files, sorted(here - set(files) - {run_folder.CARD, *PRIVATE})


def handler_files(folder: Path) -> dict[str, Path | bytes]:
    """What an Inference Endpoint runs the model by, and installs before; the folder's own where there are such."""
    code, needed = HANDLER
    ours = resources("seqloom.sharing").joinpath(code).read_bytes()
    lines = [line for line in requires("seqloom") or () if line.startswith("transformers") and "extra" not in line]
    made = {code: ours, needed: "".join(f"{line}\n" for line in lines).encode()}
    return {name: folder / name if (folder / name).is_file() else data for name, data in made.items()}
