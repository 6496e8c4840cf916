"""A model compiled ahead of time, by AOTInductor: ``encoder.pt2`` and ``decoder.pt2``, for Python and C++."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from seqloom.decoding.run_torch import NAMES, machine
from seqloom.export.graphs import graphs


def write_package(model: Any, folder: Path) -> dict[str, Any]:
    """Writes both files, in minutes: a C++ compiler works.

    Args:
        model: One of seqloom's, in evaluation mode, in float32 on the CPU.
        folder: That is there.

    Returns:
        What they are made for, for ``export.json``.

    Raises:
        ValueError: There is no compiler.
    """
    check_compiler()
    for name, graph in zip(("encoder", "decoder"), graphs(model), strict=True):
        names = {"inputs": graph.input_names, "outputs": graph.output_names}
        torch._inductor.aoti_compile_and_package(
            graph.program(), package_path=str(folder / f"{name}.pt2"),
            inductor_configs={"aot_inductor.metadata": {NAMES: json.dumps(names)}},
        )  # fmt: skip
    return machine()


def check_compiler() -> None:
    """Refuses a machine without one.

    Raises:
        ValueError: It has none, or none that works.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ValueError(
            "--to torch compiles the model with a C++ compiler, and this machine has none that torch finds: install "
            "g++ (apt install g++), or name one in the environment variable CXX; --to onnx needs none."
        ) from None
