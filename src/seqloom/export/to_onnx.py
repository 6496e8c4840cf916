"""A model as ONNX: ``encoder.onnx`` and ``decoder.onnx``, which any runtime of ONNX runs, in float32 or int8."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from seqloom.export.graphs import check_model, graphs, quiet
from seqloom.support.wording import listing

ENGINE = "onnx"
DTYPES = ("float32", "int8")
OPSET = 20
"""Of ONNX's operators; ONNX Runtime has it since 1.17."""

USE = """
import json

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIR", trust_remote_code=True)
config = json.load(open("DIR/generation_config.json"))
encoder, decoder = (onnxruntime.InferenceSession(f"DIR/{name}.onnx") for name in ("encoder", "decoder"))
ids = np.array([tokenizer("some text").input_ids])
kept = {"attention_mask": np.ones_like(ids)}
read = encoder.run(None, {"input_ids": ids, **kept})
kept.update(zip((node.name for node in encoder.get_outputs()), read))
token, written = config["decoder_start_token_id"], []
while token not in np.atleast_1d(config["eos_token_id"]) and len(written) < 256:
    kept |= {"tokens": np.array([[token]]), "lengths": np.array([len(written)])}
    logits, *new = decoder.run(None, {node.name: kept[node.name] for node in decoder.get_inputs()})
    kept.update((f"target_{index}", tensor) for index, tensor in enumerate(new))
    token = int(logits[0, 0].argmax())
    written.append(token)
print(getattr(tokenizer, "target_tokenizer", tokenizer).decode(written, skip_special_tokens=True))
"""


def check(model: Any, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
    """Refuses what there are no graphs of.

    Raises:
        ValueError: As for `check_model`; or a package is missing that writes ONNX.
    """
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"--to onnx needs {listing(missing)}: pip install 'seqloom[onnx]'")
    check_model(model)


def write(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str) -> dict[str, Any]:
    """As `seqloom.export.forms.Form.write`: ``encoder.onnx`` and ``decoder.onnx``."""
    import onnx
    import onnxruntime

    for name, graph in zip(("encoder", "decoder"), graphs(model), strict=True):
        if dtype == "int8" and name == "decoder":  # apart from the embeddings, which stay as they are
            graph.module.lm_head = copy.deepcopy(graph.module.lm_head)
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
    notes = [f"The files have opset {OPSET} of ONNX; torch {torch.__version__} and onnx {onnx.__version__} wrote them."]
    if dtype == "int8":
        notes.append("In int8 are the weights of the matrix products; the embeddings stay float32.")
    return {"engine_version": onnxruntime.__version__, "opset": OPSET, "notes": notes}


def quantize(path: Path) -> None:
    """A file's matrix products in int8, weights in seven bits.

    With eight, ONNX Runtime's sums overflow on some processors (`seqloom.support.int8`), and the file is to give the
    same on all.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_suffix(".float32.onnx")
    path.rename(whole)
    with quiet():
        quantize_dynamic(
            whole, path, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )  # fmt: skip
    whole.unlink()
