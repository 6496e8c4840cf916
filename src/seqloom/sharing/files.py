"""What of a run's folder goes up to the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from transformers.dynamic_module_utils import get_relative_import_files

from seqloom import run_folder
from seqloom.settings.schema import Settings
from seqloom.sharing.privacy import shareable_settings, without_places

WEIGHTS = (".safetensors", ".safetensors.index.json")
TOKENIZER_FILES = {
    "tokenizer.json", "target_tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "source.spm", "target.spm",
}  # fmt: skip
PRIVATE = {run_folder.DATA, run_folder.MARKER, run_folder.LOCK}
"""Files of a run that this machine needs and nobody else."""
TELLING = (run_folder.RECORD, run_folder.LOG, run_folder.CURVE)
"""Files that tell of scores."""


def model_files(folder: Path) -> list[Path]:
    """Weights, configs, tokenizer, the code that they name and what that imports, in a folder of other things too."""
    code: set[str] = set()
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            named = json.loads((folder / name).read_text(encoding="utf-8"))
            references = [*named.get("auto_map", {}).values()]
            references += [pipeline["impl"] for pipeline in named.get("custom_pipelines", {}).values()]
            flat = [part for value in references for part in (value if isinstance(value, list) else [value])]
            code |= {f"{reference.partition('.')[0]}.py" for reference in flat if reference}
    for path in [folder / name for name in code if (folder / name).is_file()]:
        code |= {Path(other).name for other in get_relative_import_files(path)}
    names = {"config.json", "generation_config.json"} | TOKENIZER_FILES | code
    return [path for path in sorted(folder.iterdir()) if path.is_file() and
            (path.name in names or path.name.endswith(WEIGHTS))]  # fmt: skip


def shared_files(folder: Path, settings: Settings, record: dict[str, Any]) -> tuple[dict[str, Path | bytes], list[str]]:
    """What goes up, without a path of this machine; and the names of the folder's files that do not."""
    files: dict[str, Path | bytes] = {path.name: path for path in model_files(folder)}
    files |= {name: folder / name for name in TELLING if (folder / name).is_file()}
    files[run_folder.SETTINGS] = yaml.safe_dump(
        shareable_settings(settings), sort_keys=False, allow_unicode=True
    ).encode()
    files[run_folder.RECORD] = json.dumps(shareable_record(record), indent=2, ensure_ascii=False).encode()
    here = {path.name for path in folder.iterdir() if path.is_file()}
    return files, sorted(here - set(files) - {run_folder.CARD, *PRIVATE})


def shareable_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record without a path of this machine."""
    evaluation = {name: value for name, value in (record["evaluation"] or {}).items() if name != "folder"}
    return record | {"data": without_places(record["data"]), "evaluation": evaluation or None}
