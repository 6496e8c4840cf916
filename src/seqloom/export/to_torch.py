"""A model compiled ahead of time, by AOTInductor: ``encoder.pt2`` and ``decoder.pt2``, for Python and C++."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from seqloom.decoding.run_torch import NAMES, machine
from seqloom.export.graphs import check_model, graphs, quiet

ENGINE = "torch"
DTYPES = ("float32",)

USE = """
import json

import torch
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIR", trust_remote_code=True)
config = json.load(open("DIR/generation_config.json"))
encoder, decoder = (torch._inductor.aoti_load_package(f"DIR/{name}.pt2") for name in ("encoder", "decoder"))
ids = torch.tensor([tokenizer("some text").input_ids])
mask = torch.ones_like(ids)
of_source, of_target = encoder(ids, mask)
grows = of_target[0].dim() == 5  # a Transformer's, which is told how much it has written
end = torch.tensor(config["eos_token_id"])
token, written = torch.tensor([[config["decoder_start_token_id"]]]), []
while not torch.isin(token, end) and len(written) < 256:
    lengths = [torch.tensor([len(written)])] if grows else []
    logits, of_target = decoder(token, mask, of_source, of_target, *lengths)
    token = logits.argmax(-1)
    written.append(token.item())
print(getattr(tokenizer, "target_tokenizer", tokenizer).decode(written, skip_special_tokens=True))
"""


def check(model: Any, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
    """Refuses what there are no graphs of, and a machine without a compiler.

    Raises:
        ValueError: As for `check_model` and `check_compiler`.
    """
    check_model(model)
    check_compiler()


def write(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str) -> dict[str, Any]:
    """As `seqloom.export.forms.Form.write`: ``encoder.pt2`` and ``decoder.pt2``, in minutes."""
    for name, graph in zip(("encoder", "decoder"), graphs(model), strict=True):
        names = {"inputs": graph.input_names, "outputs": graph.output_names}
        with quiet():
            torch._inductor.aoti_compile_and_package(
                graph.program(), package_path=str(folder / f"{name}.pt2"),
                inductor_configs={"aot_inductor.metadata": {NAMES: json.dumps(names)}},
            )  # fmt: skip
    made_for = machine()
    note = (
        f"It is compiled for torch {made_for['torch']} on {made_for['platform']}, and for processors with all the "
        "instructions of the one that compiled it; its files hold the names of folders of that machine."
    )
    return {"engine_version": torch.__version__, "made_for": made_for, "notes": [note]}


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
