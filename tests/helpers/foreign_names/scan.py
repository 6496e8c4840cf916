"""Names of other libraries that our sources use: private ones, modules that are in no reference, variables."""

import ast
import importlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path
    for folder in (ROOT, ROOT / "modeling", ROOT / "benchmarks", ROOT / "src" / "seqloom")
    for path in (folder.rglob("*.py") if folder.name == "seqloom" else folder.glob("*.py"))
)
LIBRARIES = (
    "torch", "transformers", "accelerate", "datasets", "evaluate", "sacrebleu", "tokenizers", "huggingface_hub",
    "safetensors", "ctranslate2",
)  # fmt: skip
# Modules that the libraries' references name, so that what is imported from them may be called public.
PUBLIC = {
    "accelerate.utils", "ctranslate2.specs",
    "datasets.distributed", "huggingface_hub.dataclasses", "huggingface_hub.errors",
    "huggingface_hub.utils", "sacrebleu.metrics", "safetensors.torch", "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp", "torch.nn", "torch.nn.attention", "torch.nn.utils.rnn", "torch.optim.lr_scheduler",
    "torch.optim.swa_utils",
    "torch.utils.data", "transformers.generation", "transformers.modeling_outputs", "transformers.pipelines",
    "transformers.utils.logging", "tokenizers.decoders", "tokenizers.models", "tokenizers.normalizers",
    "tokenizers.pre_tokenizers", "tokenizers.processors", "tokenizers.trainers",
}  # fmt: skip


def is_private(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def our_classes() -> dict[tuple[str, str], type]:
    """Every class of the package by file and name, but for protocols, which only say what others have."""
    found = {}
    for path in SOURCES:
        for room, package in ((ROOT / "src" / "seqloom", "seqloom"), (ROOT / "modeling", "seqloom.modeling")):
            if path.is_relative_to(room) and path.name not in ("__main__.py", "__init__.py"):
                parts = path.relative_to(room).with_suffix("").parts
                module = importlib.import_module(".".join((package, *parts)))
                for thing in vars(module).values():
                    is_ours = isinstance(thing, type) and thing.__module__ == module.__name__
                    if is_ours and Protocol not in thing.__bases__:
                        found[str(path), thing.__name__] = thing
    return found


def foreign_private_names() -> dict[str, set[str]]:
    """Names with an underscore that are another library's, and the files that have them.

    What a class of ours defines or sets on itself (``def _name``, ``_name = …``, ``self._name = …``) is foreign where a
    base from elsewhere has it too, its own or, of a mixin, that of a class which mixes it in; else it is ours. What is
    merely used (``thing._name``, ``getattr(thing, "_name")``, ``_name=…`` in a call, ``from … import``, ``def _name``
    of a protocol) is foreign unless some class of ours owns the name. Not found: an attribute that we set on ourselves
    and a base sets on its instances only.
    """
    classes = our_classes()
    mine = set(classes.values())
    found, used, own = defaultdict(set), defaultdict(set), set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Protocol" for base in node.bases):
                for name in defined_names(node):
                    used[name].add(path.stem)
            elif isinstance(node, ast.ClassDef):
                it = classes.get((str(path), node.name))
                heirs = [heir for heir in mine if it is not None and issubclass(heir, it)]
                bases = {base for heir in heirs for base in heir.__mro__} - mine - {object}
                for name in defined_names(node):
                    if any(hasattr(base, name) for base in bases):
                        found[name].add(path.stem)
                    else:
                        own.add(name)
            elif isinstance(node, ast.Attribute):
                used[node.attr].add(path.stem)
            elif isinstance(node, ast.keyword):
                used[node.arg].add(path.stem)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] != "seqloom":
                for name in (*node.module.split("."), *(alias.name for alias in node.names)):
                    used[name].add(path.stem)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
                used[getattr(node.args[1], "value", None)].add(path.stem)
    for name in set(filter(is_private, used)) - own:
        found[name] |= used[name]
    return dict(found)


def defined_names(node: ast.ClassDef) -> set[str]:
    """What a class has in its body, and what its methods set on ``self``."""
    names = set()
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(part.name)
        for target in part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]:
            names.add(getattr(target, "id", None))
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            names |= {part.attr} if getattr(part.value, "id", "") == "self" else set()
    return set(filter(is_private, names))


def is_module(name: str) -> bool:
    try:
        return importlib.import_module(name) is not None
    except ModuleNotFoundError:
        return False


def unstable_modules() -> dict[str, set[str]]:
    """Modules of the libraries, below their roots, that are imported (from) and not in `PUBLIC`."""
    found = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in LIBRARIES:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                parts = list(filter(is_module, names))
                imported = parts + ([node.module] if len(parts) < len(names) else [])
            for module in imported:
                is_deep = "." in module and module.partition(".")[0] in LIBRARIES
                if is_deep and module not in PUBLIC and not any(map(is_private, module.split("."))):
                    found[module].add(path.stem)
    return dict(found)


def engine_variables() -> dict[str, set[str]]:
    """Texts that are, or begin, the name of a variable of Accelerate's."""
    found = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(r"(ACCELERATE|FSDP)_[A-Z_]*", str(node.value)):
                found[node.value].add(path.stem)
    return dict(found)
