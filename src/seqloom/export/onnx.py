"""A model as ONNX: ``encoder.onnx`` and ``decoder.onnx``, which any runtime of ONNX runs, in float32 or int8."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seqloom.export.graphs import graphs

OPSET = 20
"""Of ONNX's operators; ONNX Runtime has it since 1.17."""


def write_onnx(model: Any, folder: Path, dtype: str = "float32") -> dict[str, Any]:
    """Writes both files.

    Args:
        model: One of seqloom's, in evaluation mode, in float32 on the CPU.
        folder: That is there.
        dtype: ``"float32"``, or ``"int8"``: the weights of matrix products, by output; what they read, by call. The
            embeddings stay float32.

    Returns:
        Versions, for ``export.json``.
    """
    import onnx
    import onnxruntime

    for name, graph in zip(("encoder", "decoder"), graphs(model), strict=True):
        with quiet():
            program = torch.onnx.export(
                graph.program(), dynamo=True, opset_version=OPSET, verbose=False, optimize=True,
                input_names=graph.input_names, output_names=graph.output_names, dynamic_shapes=graph.dynamic_shapes,
            )  # fmt: skip
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of code, with the folders of this machine
        program.save(folder / f"{name}.onnx")
        if dtype == "int8":
            quantize(folder / f"{name}.onnx")
    return {"opset": OPSET, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__}


def quantize(path: Path) -> None:
    """A file's matrix products in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_suffix(".float32.onnx")
    path.rename(whole)
    with quiet():
        quantize_dynamic(
            whole, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )  # fmt: skip
    whole.unlink()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of operators that nobody asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
