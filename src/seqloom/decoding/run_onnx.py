"""Runs a model that was exported to ONNX, by ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seqloom.decoding.graph_decoder import GraphDecoder, Kept


class OnnxGraph:
    """A file, in a session of its own, with torch's number of threads; tensors go in and out without a copy.

    Raises:
        ValueError: ONNX Runtime cannot read it.
    """

    def __init__(self, path: Path):
        from onnxruntime import InferenceSession, SessionOptions
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3  # errors, which are raised too
        try:
            self.session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (
            errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile,
            errors.NotImplemented, errors.RuntimeException,
        ) as error:  # fmt: skip
            raise ValueError(f"{path.name}: {error}") from None
        self.input_names = [node.name for node in self.session.get_inputs()]
        self.output_names = [node.name for node in self.session.get_outputs()]

    def __call__(self, inputs: Kept) -> Kept:
        given = {name: part.numpy() for name, part in zip(self.input_names, inputs, strict=True)}
        return [torch.from_numpy(part) for part in self.session.run(self.output_names, given)]


def open_engine(folder: Path, about: dict[str, Any]) -> GraphDecoder:
    """The decoder of an exported model's folder.

    Raises:
        ValueError: ONNX Runtime cannot read a file of it.
    """
    return GraphDecoder(OnnxGraph(folder / "encoder.onnx"), OnnxGraph(folder / "decoder.onnx"))
