"""The house stands as designed: who imports whom, which `evaluate` is meant, where a test lies."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.imports import imports

import seqloom
import seqloom.modeling

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "modeling").glob("*.py"))
MODULES = sorted((ROOT / "src" / "seqloom").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = [*ROOT.glob("*.py"), *TESTS, *ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*/*.py")]
ROOMS = (
    "__main__", "commands", "serving", "demo_page", "comparison", "export", "distillation", "training", "sharing",
    "scoring", "attention", "decoding", "data", "settings", "run_folder", "figures", "support", "modeling", "version",
)  # fmt: skip
"""From the top down: a file imports from its own room and from those below it."""
INSIDE = {
    "commands": (
        "attend", "compare", "demo", "demo_page", "distill", "doctor", "export", "plot", "push", "recipes",
        "reproduce", "score", "serve", "train", "translate", "checkup", "following", "shell", "sentences", "help",
        "command",
    ),
    "serving": ("run", "app", "worker", "engine", "requests", "metrics", "languages"),
    "demo_page": ("space", "page", "cards", "answers", "beams", "models"),
    "comparison": (
        "compare", "folder", "report", "first_screen", "conclusion", "matching", "measured", "measures", "remedies",
        "trainings", "instruments", "candidates", "verdicts", "traits", "sections",
    ),
    "export": (
        "compiled", "export", "card", "checking", "to_marian", "to_ctranslate2", "to_onnx", "to_torch", "graphs",
        "forms",
    ),
    "distillation": ("sequences", "choosing", "folder", "students"),
    "training": (
        "reproduction", "run", "loop", "ending", "restoring", "learner", "update", "tracking", "validation", "material",
        "refusals", "clearing", "initialisation", "checkpoints", "stopping", "state", "teaching", "r_drop", "states",
        "devices", "signals",
    ),
    "sharing": (
        "proof", "push", "handler", "card", "history", "sources", "teachers", "verify", "hub", "files", "code",
        "privacy",
    ),
    "scoring": (
        "against", "rescoring", "score", "predictions", "naming", "trials", "metrics", "scripts", "significance",
        "estimates", "normalization",
    ),
    "attention": ("attend", "page", "maps", "words"),
    "decoding": (
        "jobs", "streaming", "translate", "engine", "lean_hybrid", "lean_rnn", "lean_transformer", "attention_state",
        "packed", "options", "coverage", "limits", "loading", "exported", "run_ctranslate2", "run_onnx", "run_torch",
        "graph_decoder",
        "asked", "search", "replay", "targets", "constraints", "values",
    ),
    "settings": ("reading", "recipes", "replaced", "unused", "checks", "bounds", "typed", "schema"),
    "data": (
        "updates", "batches", "encoding", "subwords", "overlap", "pairs", "sources", "tables", "lines",
        "tokenization", "scan",
    ),
    "figures": ("pages", "curves", "style", "fonts"),
    "support": (
        "console", "disk", "layers", "int8", "locks", "machine", "foreign", "starting", "wording", "language",
        "hub_files", "xet",
    ),
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


def can_fail(node: ast.AST) -> bool:
    """Whether it asserts, or calls what does by its name."""
    called = getattr(node, "func", None)
    name = getattr(called, "attr", getattr(called, "id", ""))
    return isinstance(node, ast.Assert) or name.startswith(("assert", "check", "close", "refused", "raises", "warns"))


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

    @pytest.mark.slow
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
            "decoder_for",
            "load_exported",
            "stream",
            "translate",
        }
        for family in ("RnnSeq2Seq", "TransformerSeq2Seq", "HybridSeq2Seq"):
            for part in ("Config", "PreTrainedModel", "Model", "ForConditionalGeneration"):
                assert f"{family}{part}" in seqloom.__all__
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", seqloom.__version__)

    @pytest.mark.slow
    def test_auto_classes_know_the_families_after_one_import(self, tmp_path):
        code = (
            "import seqloom\n"
            "from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM\n"
            "sizes = {'d_model': 8, 'encoder_layers': 1, 'decoder_layers': 1, 'encoder_attention_heads': 1,\n"
            "         'decoder_attention_heads': 1}\n"
            "for name, fields in (('rnn', {'hidden_size': 8}), ('transformer', sizes), ('hybrid', sizes)):\n"
            "    config = AutoConfig.for_model(f'{name}_seq2seq', vocab_size=9, **fields)\n"
            "    for auto in (AutoModel, AutoModelForSeq2SeqLM):\n"
            "        print(type(config).__name__, type(auto.from_config(config)).__name__)\n"
        )
        assert python(code, cwd=tmp_path).splitlines() == [
            "RnnSeq2SeqConfig RnnSeq2SeqModel",
            "RnnSeq2SeqConfig RnnSeq2SeqForConditionalGeneration",
            "TransformerSeq2SeqConfig TransformerSeq2SeqModel",
            "TransformerSeq2SeqConfig TransformerSeq2SeqForConditionalGeneration",
            "HybridSeq2SeqConfig HybridSeq2SeqModel",
            "HybridSeq2SeqConfig HybridSeq2SeqForConditionalGeneration",
        ]


class TestTests:
    """A test lies in the room of the file that it tests, and stands on its own."""

    def test_every_folder_is_a_room(self):
        folders = {
            path.parent.relative_to(ROOT / "tests").as_posix() for path in TESTS if path.name.startswith("test_")
        }
        assert folders <= {".", "benchmarks", "docs", *ROOMS}
        others = {path.relative_to(ROOT / "tests").parts[0] for path in TESTS if not path.name.startswith("test_")}
        assert others <= {"conftest.py", "helpers", *folders}

    def test_nothing_strays_into_the_checkout(self):
        """What a run without a place of its own writes into the folder that it is called in."""
        found = {path.name for path in ROOT.iterdir()}
        strayed = {name for name in found if (ROOT / name / ".seqloom.json").exists()}
        assert strayed == set()
        assert not found & {"attention.png", "attention.html", "learning_curve.png", "settings.yaml", "scores.json"}

    def test_no_test_is_a_library(self):
        """What several tests use is a helper or a fixture."""
        ours = {path.stem for path in TESTS} | {path.relative_to(ROOT / "tests").parts[0] for path in TESTS} | {"tests"}
        for path in TESTS:
            for module, level, _ in imports(path):
                assert level == 0 or "helpers" in path.parts, path
                assert level or module.split(".")[0] not in ours - {"helpers"}, f"{path} imports {module}"

    def test_a_file_of_tests_is_soon_read(self):
        lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in TESTS}
        assert {name for name, length in lengths.items() if length > 650} == set()

    @pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT / "tests")))
    def test_every_test_can_fail(self, path):
        """It asserts something, expects an error, or calls a helper whose name says that it does."""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and path.name.startswith("test_"):
                assert any(map(can_fail, ast.walk(node))), f"{path.name}: {node.name}"
