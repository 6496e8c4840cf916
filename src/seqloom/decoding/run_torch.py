"""Runs a model that was compiled ahead of time, by AOTInductor: nothing is compiled when it starts."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from seqloom.decoding.asked import NotHere
from seqloom.decoding.graph_decoder import GraphDecoder, Kept

NAMES = "seqloom"
"""The entry of a package's metadata that names its inputs and outputs."""


class PackagedGraph:
    """A package, loaded; its tensors go in and out flat."""

    def __init__(self, path: Path):
        self.loader = torch._inductor.aoti_load_package(str(path)).loader
        names = json.loads(self.loader.get_metadata()[NAMES])
        self.input_names, self.output_names = names["inputs"], names["outputs"]

    def __call__(self, inputs: Kept) -> Kept:
        return self.loader.boxed_run(list(inputs))


def machine() -> dict[str, Any]:
    """What a package is tied to: torch, the system, and the instructions that this processor has."""
    has = torch.cpu.get_capabilities()
    return {
        "torch": torch.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "instructions": sorted(name for name, value in has.items() if value is True),
    }


def check_machine(folder: Path, made_for: dict[str, Any]) -> None:
    """Refuses what was compiled for something else: it would crash, not raise.

    Raises:
        NotHere: It was; the message says for what.
    """
    here = machine()
    for name in ("torch", "platform"):
        if made_for[name] != here[name]:
            raise NotHere(
                f"{folder} was compiled for {name} {made_for[name]} and this is {here[name]}: compiled models run "
                "where they are made; export the model again here, or --to onnx, which runs everywhere."
            )
    lacking = sorted(set(made_for["instructions"]) - set(here["instructions"]))
    if lacking:
        raise NotHere(
            f"{folder} was compiled for a processor with {', '.join(lacking)}, which this one has not: export the "
            "model again here, or --to onnx, which runs everywhere."
        )


def open_engine(folder: Path, about: dict[str, Any]) -> GraphDecoder:
    """The decoder of an exported model's folder.

    Raises:
        NotHere: It was compiled for another machine or another torch.
    """
    check_machine(folder, about["made_for"])
    return GraphDecoder(PackagedGraph(folder / "encoder.pt2"), PackagedGraph(folder / "decoder.pt2"))
