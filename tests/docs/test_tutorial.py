"""The tutorial's commands, in its order, on its own data and recipe, with two updates in place of 1,500."""

import io
import sys
from pathlib import Path

import pytest
from helpers.pages import blocks, commands

from seqloom.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
FEW = [
    "--max_steps=2",
    "--eval_steps=2",
    "--warmup_steps=1",
    "--validation_size=20",
    "--hidden_size=16",
    "--max_new_tokens=9",
]
ELSEWHERE = ("serve", "demo-page", "export")
"""The last section's: tests/serving, tests/demo and tests/export begin these."""


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_tutorial(hub, tmp_path, monkeypatch, capsys):
    make_pairs, use = blocks(PAGE, "python")
    (recipe,) = blocks(PAGE, "yaml")
    monkeypatch.chdir(tmp_path)
    exec(make_pairs, {})
    shown = blocks(PAGE, "csv")[0].splitlines()
    assert set(shown) <= set(Path("numbers.csv").read_text(encoding="utf-8").splitlines())
    Path("numbers.yaml").write_text(recipe, encoding="utf-8")
    Path("sources.txt").write_text("forty three\n", encoding="utf-8")

    ours = [words for words in commands(PAGE) if words[0] not in ("python", "curl")]
    assert len(ours) > 8
    for words in ours:
        _, name, *rest = words[words.index("seqloom") :]
        if name in ELSEWHERE or "numbers-int8" in rest:
            continue
        rest = rest[: rest.index("<")] if "<" in rest else rest
        few = FEW if name == "train" and "--resume" not in rest else []
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"forty three\n")))
        with hub.client(hub.WRITE):
            assert main([name, *rest, *few]) == 0, (words, capsys.readouterr())
    assert Path("attention.png").is_file()
    assert "me/numbers" in hub.repositories
    capsys.readouterr()
    exec(use, {})
    assert capsys.readouterr().out.startswith("[")
