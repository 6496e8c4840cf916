"""The command ``seqloom demo``, which ``make demo`` runs: both families on the built-in task, trained and compared."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqloom.commands.command import Command
from seqloom.commands.following import attending, tell_next, typed

FOLDER = Path("runs") / "demo"
FAMILIES = {"RNN": "scan-rnn.yaml", "Transformer": "scan-transformer.yaml"}
INPUTS = ("jump around left twice", "walk and run opposite right thrice", "look after turn left")


@dataclass(kw_only=True)
class Demo(Command):
    """Trains an RNN and a Transformer on the built-in task, in minutes.

    They are scored, compared, saved to runs/demo and loaded back. Given again, it goes on where it was stopped; what is
    trained already is not trained anew.
    """

    name = "demo"
    interrupted = "ended at once; the same command goes on from the last checkpoint."
    examples = """
        seqloom demo
    """

    def run(self) -> int | None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the task is built in: nothing is looked up
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        from seqloom import run_folder
        from seqloom.settings.reading import load_settings
        from seqloom.settings.recipes import installed
        from seqloom.training.run import run_training
        from seqloom.training.signals import Stopped

        records = {}
        for family, config in FAMILIES.items():
            print(f"\n{family}: the recipe {config.removesuffix('.yaml')}", flush=True)
            folder = FOLDER / config.removesuffix(".yaml")
            settings = load_settings(installed() / config)
            settings = replace(settings, output_dir=str(folder))
            is_kept = run_folder.is_run(folder) and load_settings(folder / run_folder.SETTINGS) == settings
            if is_kept and run_folder.is_finished(folder):
                print(f"it is trained already: {folder}", flush=True)
                records[family] = run_folder.read_record(folder)
                continue
            try:  # a run of other settings is another version's
                records[family] = run_training(settings, resume=is_kept, overwrite=folder.exists() and not is_kept)
            except Stopped as stopped:
                print("stopped with a checkpoint; the same command goes on from it.")
                return 128 + stopped.signal
        print(f"\n{comparison(records)}\n")

        folder = FOLDER / FAMILIES["Transformer"].removesuffix(".yaml")
        print(f"Loaded from {folder} with from_pretrained:")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        outputs = model.generate(**tokenizer(list(INPUTS), return_tensors="pt", padding=True))
        for text, actions in zip(INPUTS, tokenizer.batch_decode(outputs, skip_special_tokens=True), strict=True):
            print(f"  {text}\n    → {actions}")
        folders = [FOLDER / config.removesuffix(".yaml") for config in FAMILIES.values()]
        tell_next(
            attending(folders[0], INPUTS[0], attends=True),
            typed("compare", *folders, "--output", f"{FOLDER}-report"),
            typed("recipes"),
        )
        return None


def comparison(records: dict[str, dict[str, Any]]) -> str:
    """A table of what the runs' records say, a column a family."""
    rows: dict[str, list[str]] = {"": list(records)}
    for record in records.values():
        progress, scores = record["progress"], record["evaluation"]
        values = {
            "parameters": f"{record['model']['parameters']:,}",
            "training, seconds": f"{progress['seconds']:.0f}",
            "updates": f"{progress['step']:,}",
            "target tokens a second": f"{progress['target_tokens'] / progress['seconds']:,.0f}",
            "test exact match, %": f"{scores['metrics']['exact_match']['score']:.2f}",
            "test token accuracy, %": f"{scores['metrics']['token_accuracy']['score']:.2f}",
            "sentences decoded a second": f"{scores['sentences_per_second']:,.0f}",
        }
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    width = max(map(len, rows))
    return "\n".join(
        f"{name:<{width}}" + "".join(f"  {value:>12}" for value in values) for name, values in rows.items()
    )
