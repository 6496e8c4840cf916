"""What we lean on in the engines of exported models."""

import json

import pytest
import torch

from helpers.exports import lively, tokenizer_of
from helpers.foreign_names.table import leans_on
from helpers.tiny import close


def written(tmp_path):
    """A model's folder of CTranslate2's."""
    from seqloom.export import to_ctranslate2

    model = lively(1)
    to_ctranslate2.write(model, tokenizer_of(model), tmp_path, "float32")
    return tmp_path / "ctranslate2"


@leans_on(
    "hook", "ctranslate2", "Translator(files=): config.json, model.bin, shared_vocabulary.json", "run_ctranslate2",
    "ends and starts are told by each call, and a config that names others is given from memory",
)  # fmt: skip
def check_files(tmp_path):
    """The names of the files are these, and a config from memory goes before the one on the disk."""
    import ctranslate2

    place = written(tmp_path)
    assert {path.name for path in place.iterdir()} == {"config.json", "model.bin", "shared_vocabulary.json"}
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    config = json.loads(files["config.json"]) | {"decoder_start_token": "b"}
    changed = ctranslate2.Translator(str(place), files=files | {"config.json": json.dumps(config).encode()})
    one, other = (each.score_batch([["a", "</s>"]], [["c"]])[0].log_probs for each in
                  (changed, ctranslate2.Translator(str(place))))  # fmt: skip
    assert one != other


@leans_on(
    "hook", "ctranslate2", "translate_batch of the end alone", "run_ctranslate2",
    "a source that is nothing but config.json's eos_token has the empty output; we name another end",
)  # fmt: skip
def check_empty_source(tmp_path):
    """It still does, with the config as it was written."""
    import ctranslate2

    translator = ctranslate2.Translator(str(written(tmp_path)))
    assert translator.translate_batch([["</s>"]])[0].hypotheses == [[]]


@leans_on(
    "hook", "ctranslate2", "set_random_seed", "run_ctranslate2",
    "it seeds threads that begin later: a translator is opened anew for a new seed",
)  # fmt: skip
def check_seed(tmp_path):
    """A translator that was opened after it repeats what it drew."""
    import ctranslate2

    place, drawn = str(written(tmp_path)), []
    for seed in (1, 1, 2):
        ctranslate2.set_random_seed(seed)
        translator = ctranslate2.Translator(place)
        told = {"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 20, "max_decoding_length": 9}
        drawn.append(translator.translate_batch([["a", "b", "</s>"]], **told)[0].hypotheses)
    assert drawn[0] == drawn[1] != drawn[2]


@leans_on(
    "hook", "ctranslate2", "specs: optimize(quantization)", "to_ctranslate2",
    "weights are rounded in place: it is given copies",
)  # fmt: skip
def check_quantized_in_place():
    """An array that it was given is another one afterwards, whose rows go up to 127."""
    from ctranslate2.specs import TransformerSpec

    from seqloom.export.to_ctranslate2 import stack_spec

    model = lively(1)
    stacks = [stack_spec(stack, model.config) for stack in (model.model.encoder, model.model.decoder)]
    spec = TransformerSpec(*stacks)
    mine = spec.encoder.layer[0].ffn.linear_0.weight
    spec.decoder.projection.weight = model.lm_head.weight.detach().numpy().copy()
    spec.register_source_vocabulary([str(number) for number in range(20)])
    spec.register_target_vocabulary([str(number) for number in range(20)])
    before = mine.copy()
    spec.validate()
    spec.optimize(quantization="int8")
    assert abs(mine).max() == pytest.approx(127)
    assert torch.equal(torch.tensor(before), model.model.encoder.layers[0].fc1.weight)


@leans_on(
    "private", "torch", "torch._inductor.aoti_compile_and_package", "run_torch to_torch",
    "AOTInductor's documented door; of what it loads we call `loader.boxed_run`, which takes and gives flat tensors, "
    "and `loader.get_metadata`; `cpp_builder.get_cpp_compiler` says whether there is a compiler",
)  # fmt: skip
def check_packages(tmp_path):
    """A program is compiled, keeps what it was told, and runs with other sizes."""
    path, length = str(tmp_path / "double.pt2"), torch.export.Dim("length", max=64)
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.randn(4, 3),), dynamic_shapes=({0: length},))
    options = {"aot_inductor.metadata": {"told": "kept"}}
    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=options)
    loader = torch._inductor.aoti_load_package(path).loader
    assert loader.get_metadata()["told"] == "kept"
    for rows in (1, 7):
        given = torch.randn(rows, 3)
        close(loader.boxed_run([given])[0], program.module()(given))
    assert torch._inductor.cpp_builder.get_cpp_compiler()


@leans_on(
    "hook", "onnxruntime", "capi.onnxruntime_pybind11_state: InvalidProtobuf", "run_onnx",
    "the classes of its errors are nowhere else, and no builtin ones",
)  # fmt: skip
def check_errors(tmp_path):
    """What is no ONNX raises one of them."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(errors.InvalidProtobuf):
        onnxruntime.InferenceSession(str(tmp_path / "bad.onnx"), providers=["CPUExecutionProvider"])
