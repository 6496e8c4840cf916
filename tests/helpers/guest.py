"""The guest family's folder, with copies of seqloom's files that its own import from beside them."""

import importlib
import shutil
import sys
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers.dynamic_module_utils import get_relative_imports

MODELING = Path(__file__).parents[2] / "modeling"


def lay(folder: Path) -> set[str]:
    """Makes ``guest_family`` in a folder; the names of its files of models."""
    package = Path(shutil.copytree(Path(__file__).with_name("guest_family"), folder / "guest_family"))
    waiting = [path for path in package.glob("*.py") if path.stem != "__init__"]
    while waiting:
        for name in get_relative_imports(waiting.pop()):
            path = package / f"{name}.py"
            if not path.exists():
                waiting.append(Path(shutil.copy(MODELING / path.name, path)))
    # Processes that are started meanwhile know the family too: Python imports this file at its start.
    (folder / "sitecustomize.py").write_text("import guest_family  # noqa: F401\n", encoding="utf-8")
    return {path.name for path in package.glob("*.py")} - {"__init__.py"}


def forget() -> None:
    """As if the family had never been made known."""
    from seqloom.modeling import CONFIG_CLASSES

    config_class = importlib.import_module("guest_family").GuestSeq2SeqConfig
    del CONFIG_CLASSES[config_class.model_type]
    for mapping in (AutoModel._model_mapping, AutoModelForSeq2SeqLM._model_mapping):
        del mapping._extra_content[config_class]
    del AutoConfig.for_model.__globals__["CONFIG_MAPPING"]._extra_content[config_class.model_type]
    for name in [name for name in sys.modules if name.partition(".")[0] == "guest_family"]:
        del sys.modules[name]
