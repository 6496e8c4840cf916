"""The house stands as designed: who imports whom, which `evaluate` is meant, what the README tells one to type."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import seqloom
import seqloom.modeling
from seqloom.__main__ import COMMANDS
from seqloom.commands.command import parse
from seqloom.settings.reading import load_scoring_settings, load_settings
from seqloom.settings.schema import ScoringSettings, Settings

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "modeling").glob("*.py"))
MODULES = sorted((ROOT / "src" / "seqloom").rglob("*.py"))
SCRIPTS = [*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
ROOMS = (
    "__main__", "commands", "comparison", "training", "sharing", "scoring", "attention", "decoding", "data", "settings",
    "run_folder", "figures", "support", "modeling", "version",
)  # fmt: skip
"""From the top down: a file imports from its own room and from those below it."""
INSIDE = {
    "comparison": (
        "compare", "report", "measures", "trainings", "instruments", "candidates", "traits", "sections",
    ),
    "training": (
        "run", "loop", "ending", "restoring", "learner", "update", "tracking", "validation", "material", "refusals",
        "initialisation", "checkpoints", "stopping", "state", "devices", "signals",
    ),
    "settings": ("reading", "checks", "typed", "schema"),
    "data": ("updates", "batches", "encoding", "subwords", "pairs", "sources", "tokenization", "scan"),
}  # fmt: skip
"""The same within a room, where its files build on each other."""


def place(path: Path) -> tuple[str, ...]:
    """The room, and the file or folder in it, of a module."""
    return path.relative_to(ROOT / "src" / "seqloom").with_suffix("").parts


def below(importing: Sequence[str], imported: Sequence[str]) -> bool:
    """Whether an arrow between two modules, each by its parts below seqloom, points down or stays on its floor."""
    room, other = importing[0], imported[0]
    if room != other:
        return ROOMS.index(room) < ROOMS.index(other)
    order = INSIDE.get(room, ())
    if not order or len(importing) < 2 or len(imported) < 2 or importing[1] == imported[1]:
        return True
    return order.index(importing[1]) < order.index(imported[1])


def imports(code: Path | str) -> list[tuple[str, int, list[str]]]:
    """Module, level (dots) and names of every import, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(code.read_text(encoding="utf-8") if isinstance(code, Path) else code)):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level, [alias.name for alias in node.names]))
    return found


def python(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestEvaluate:
    """The root holds an evaluate.py; whoever imports `evaluate` there gets the library all the same."""

    @pytest.mark.slow
    def test_from_the_root(self):
        code = (
            "import evaluate, sys; evaluate.Metric; evaluate.load\n"
            "from evaluate.utils import logging\n"
            "assert sys.modules['evaluate'] is evaluate\n"
            "print(evaluate.__file__)"
        )
        assert Path(python(code, cwd=ROOT)).name == "__init__.py"  # the library is a package, our script a file

    def test_here(self):
        import evaluate

        assert Path(evaluate.__file__).name == "__init__.py"
        assert issubclass(importlib.import_module("seqloom.scoring.metrics").TextMetric, evaluate.Metric)

    def test_without_the_library(self):
        """The name is missing then, as it should be, rather than the script found again and again."""
        code = (
            "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
            "try:\n    import evaluate\n"
            "except ModuleNotFoundError as error:\n    print(error.name, error)"
        )
        assert python(code, cwd=ROOT) == "evaluate No module named 'evaluate': pip install evaluate"

    def test_no_module_of_the_package_has_a_librarys_name(self):
        names = {path.stem for path in (*MODULES, *MODELS)}
        assert not names & {"evaluate", "datasets", "tokenizers", "transformers", "accelerate", "torch"}


class TestImports:
    @pytest.mark.parametrize("path", [*MODELS, *MODULES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
    def test_models_have_one_name(self, path):
        """`import modeling` would make a second copy of every class."""
        for module, level, _ in imports(path):
            assert level or module.split(".")[0] != "modeling", f"{path}: import seqloom.modeling instead"

    @pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
    def test_models_travel_without_seqloom(self, path):
        """Transformers copies the files that ``from .name import`` names, found by a regular expression."""
        for module, level, names in imports(path):
            assert module.split(".")[0] != "seqloom"
            if level:
                assert level == 1
                assert re.fullmatch(r"\w+", module), f"from {'.' * level}{module} import {names}"
                assert (path.parent / f"{module}.py").is_file()
        for match in re.findall(r"from\s+\.(\S*)\s+import", path.read_text(encoding="utf-8")):  # in docstrings too
            assert (path.parent / f"{match}.py").is_file()

    @pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
    def test_models_need_what_is_declared(self, path):
        for module, level, _ in imports(path):
            known = {"torch", "transformers", "tokenizers", "huggingface_hub"} | set(sys.stdlib_module_names)
            assert level or module.split(".")[0] in known

    def test_every_module_has_its_room(self):
        parts = [place(path) for path in MODULES if path.stem != "__init__"]
        assert {room for room, *_ in parts} <= set(ROOMS)
        for room, order in INSIDE.items():
            assert {inner[0] for name, *inner in parts if name == room} <= {*order}

    @pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src" / "seqloom")))
    def test_arrows_point_down(self, path):
        mine = place(path)
        for module, level, names in imports(path):
            assert level == 0, f"{path}: relative import of {module}"
            if module.split(".")[0] != "seqloom" or mine == ("__init__",):
                continue
            parts = module.split(".")[1:]
            for other in [[*parts, name] for name in names] if len(parts) < 2 else [parts]:
                assert below(mine, other), f"{'.'.join(mine)} imports {'.'.join(other)}, which is not below it"

    def test_rooms_are_empty(self):
        """What a package's own file imports, everything in it would wait for, and meet in a circle."""
        for path in MODULES:
            assert path.stem != "__init__" or place(path) == ("__init__",) or not imports(path)

    @pytest.mark.parametrize("path", [*MODELS, *MODULES], ids=lambda path: path.stem)
    def test_a_file_tells_one_story(self, path):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450

    def test_no_circles(self):
        arrows = {}
        for path in MODULES:
            name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
            arrows[name] = {
                inner
                for module, _, names in imports(path)
                if module.split(".")[0] == "seqloom"
                for inner in (module, *(f"{module}.{name}" for name in names))
            }
        arrows = {name: targets & arrows.keys() for name, targets in arrows.items() if not name.endswith("__init__")}
        while arrows:
            leaves = {name for name, targets in arrows.items() if not targets & arrows.keys()}
            assert leaves, f"in a circle: {', '.join(arrows)}"
            arrows = {name: targets for name, targets in arrows.items() if name not in leaves}

    def test_doors_are_doors(self):
        for door, module in (("train.py", "seqloom.commands.train"), ("evaluate.py", "seqloom.commands.score")):
            assert [name for name, _, _ in imports(ROOT / door) if name.startswith("seqloom")] == [module]


class TestNames:
    def test_public_names(self):
        for module in (seqloom, seqloom.modeling):
            for name in module.__all__:
                assert getattr(module, name) is not None
        assert set(seqloom.modeling.__all__) == set(seqloom.__all__) - {
            "Hypothesis",
            "__version__",
            "coverage_beam_search",
            "stream",
            "translate",
        }
        for family in ("RnnSeq2Seq", "TransformerSeq2Seq"):
            for part in ("Config", "PreTrainedModel", "Model", "ForConditionalGeneration"):
                assert f"{family}{part}" in seqloom.__all__
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", seqloom.__version__)

    @pytest.mark.slow
    def test_auto_classes_know_the_families_after_one_import(self, tmp_path):
        code = (
            "import seqloom\n"
            "from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM\n"
            "for name, fields in (('rnn', {'hidden_size': 8}), ('transformer', {'d_model': 8, 'encoder_layers': 1,\n"
            "        'decoder_layers': 1, 'encoder_attention_heads': 1, 'decoder_attention_heads': 1})):\n"
            "    config = AutoConfig.for_model(f'{name}_seq2seq', vocab_size=9, **fields)\n"
            "    for auto in (AutoModel, AutoModelForSeq2SeqLM):\n"
            "        print(type(config).__name__, type(auto.from_config(config)).__name__)\n"
        )
        assert python(code, cwd=tmp_path).splitlines() == [
            "RnnSeq2SeqConfig RnnSeq2SeqModel",
            "RnnSeq2SeqConfig RnnSeq2SeqForConditionalGeneration",
            "TransformerSeq2SeqConfig TransformerSeq2SeqModel",
            "TransformerSeq2SeqConfig TransformerSeq2SeqForConditionalGeneration",
        ]


READMES = [path for path in sorted(ROOT.glob("README*.md")) if path.stat().st_size]


def commands(path: Path) -> list[list[str]]:
    """The words of every command in a README's blocks of code, continuation lines joined."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = (
        "\n".join(block for language, block in blocks if language in ("", "bash", "sh"))
        .replace("\\\n", " ")
        .splitlines()
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.skipif(not READMES, reason="there is no README yet")
@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
class TestReadme:
    """Commands that the README gives are commands that there are."""

    def test_targets_of_make(self, path):
        asked = {words[1] for words in commands(path) if words[0] == "make"}
        asked |= set(re.findall(r"`make (\w+)`", path.read_text(encoding="utf-8")))
        assert asked
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert asked <= set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))

    def test_commands(self, path, tmp_path):
        """Commands and configurations exist, their words are understood, and every override is known."""
        checked = set()
        for words in commands(path):
            for word in words:
                assert not word.startswith("configs/") or (ROOT / word).is_file(), word
            start = next((place for place, word in enumerate(words) if word in ("seqloom", "train.py")), None)
            if start is None:
                continue
            name, *rest = ["train", *words[start + 1 :]] if words[start] == "train.py" else words[start + 1 :]
            rest = rest[: rest.index("<")] if "<" in rest else rest
            call = parse(COMMANDS[name], rest)
            if call.settings is Settings:
                configs = [word for word in rest if word.startswith("configs/")] or ["configs/scan-rnn.yaml"]
                load_settings(ROOT / configs[0], call.overrides)
            elif call.settings is ScoringSettings:
                load_scoring_settings(tmp_path, call.overrides)
            checked.add(name)
        assert checked >= {"train", "evaluate", "compare", "attend", "push"}

    def test_links(self, path):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), link

    def test_code(self, path):
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for block in blocks:
            for module, _, names in imports(block):
                imported = importlib.import_module(module)
                assert all(hasattr(imported, name) for name in names)
