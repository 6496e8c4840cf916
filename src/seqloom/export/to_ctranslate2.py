"""To CTranslate2 (OpenNMT): any Transformer of seqloom's, its weights in CTranslate2's own layout.

The layout is written here rather than through its converters: those know families by their configs' class names, and
want a folder of transformers'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from seqloom.data.tokenization import target_tokenizer
from seqloom.decoding.run_ctranslate2 import FOLDER, compute_type
from seqloom.modeling.positions_transformer_seq2seq import sinusoids

ENGINE = "ctranslate2"
DTYPES = (
    "float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16",
)  # fmt: skip
POSITIONS = 4096
"""Rows of the table of sinusoids, which is stored: CTranslate2's own are others (they begin with position 1)."""

USE = """
import ctranslate2
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIR", trust_remote_code=True)
translator = ctranslate2.Translator("DIR/ctranslate2")
source = tokenizer.convert_ids_to_tokens(tokenizer("some text").input_ids)
result = translator.translate_batch([source], beam_size=5)[0]
target = getattr(tokenizer, "target_tokenizer", tokenizer)
print(target.decode(target.convert_tokens_to_ids(result.hypotheses[0]), skip_special_tokens=True))
"""


def check(model: Any, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
    """Refuses what CTranslate2 has no layers for.

    Raises:
        ValueError: The model is recurrent, its positions are relative, or its tokens are not numbered one after the
            other.
    """
    config = model.config
    if config.model_type != "transformer_seq2seq":
        raise ValueError(f"CTranslate2 has the layers of Transformers alone, and this is a {config.model_type} "
                         f"({config.name_in_words}): export it with --to onnx or --to torch.")  # fmt: skip
    if config.position_embedding_type not in ("sinusoidal", "rotary"):
        raise ValueError(f"CTranslate2 has sinusoidal and rotary positions, and this Transformer has "
                         f"{config.position_embedding_type} ones: export it with --to onnx or --to torch.")  # fmt: skip
    for side in (tokenizer, target_tokenizer(tokenizer)):
        if sorted(side.get_vocab().values()) != list(range(len(side))):
            raise ValueError(
                "CTranslate2 numbers the tokens of a vocabulary from 0 on, and this tokenizer leaves numbers out or "
                "has them twice: export it with --to onnx or --to torch."
            )


def write(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str) -> dict[str, Any]:
    """As `seqloom.export.forms.Form.write`; everything is in a folder of its own, which CTranslate2 reads."""
    import ctranslate2
    from ctranslate2.specs import TransformerSpec

    encoder, decoder = model.model.encoder, model.model.decoder
    specs = TransformerSpec(*(stack_spec(stack, model.config) for stack in (encoder, decoder)))
    specs.decoder.projection.weight = array(model.lm_head.weight)
    source, target = (by_id(side) for side in (tokenizer, target_tokenizer(tokenizer)))
    if source == target:
        specs.register_source_vocabulary(source)
        specs.register_target_vocabulary(source)
    else:
        specs.register_source_vocabulary(source)
        specs.register_target_vocabulary(target)
    config = specs.config
    config.bos_token, config.eos_token, config.unk_token = tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token
    start = model.generation_config.decoder_start_token_id
    start = model.generation_config.bos_token_id if start is None else start
    config.decoder_start_token = target[start]
    config.add_source_bos = config.add_source_eos = False
    config.layer_norm_epsilon = encoder.layers[0].final_layer_norm.eps
    specs.validate()
    specs.optimize(quantization=dtype)
    (folder / FOLDER).mkdir()
    specs.save(str(folder / FOLDER))
    about: dict[str, Any] = {"engine_version": ctranslate2.__version__, "notes": []}
    if (computed := compute_type(dtype)) != dtype:
        note = f"It was checked on a processor without arithmetic in {dtype}, which computed in {computed}."
        about["notes"].append(note)
    if dtype.startswith("int8"):
        about["notes"].append(
            "On x86 processors without VNNI, CTranslate2's products of eight bits overflow unless CT2_USE_MKL=1 is in "
            "the environment when it is loaded; seqloom sets it there."
        )
    if model.config.position_embedding_type == "sinusoidal":
        about |= {"max_source_positions": POSITIONS, "max_target_positions": POSITIONS}
    return about


def by_id(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A vocabulary in the order of its ids."""
    tokens = tokenizer.get_vocab()
    return sorted(tokens, key=lambda token: tokens[token])


def array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a parameter, as specifications take it: they are quantised in place."""
    return tensor.detach().float().numpy().copy()


def stack_spec(stack: Any, config: Any) -> Any:
    """Encoder or decoder."""
    from ctranslate2.specs import Activation, TransformerDecoderSpec, TransformerEncoderSpec

    is_decoder = hasattr(stack.layers[0], "encoder_attn")
    is_rotary = config.position_embedding_type == "rotary"
    activations = {"relu": Activation.RELU, "gelu": Activation.GELU, "swiglu": Activation.SWISH}
    heads = config.decoder_attention_heads if is_decoder else config.encoder_attention_heads
    options: dict[str, Any] = {
        "pre_norm": config.normalize_before,
        "activation": activations[config.activation_function],
        "ffn_glu": config.activation_function == "swiglu",
    }
    if is_rotary:
        options |= {"rotary_dim": 0, "rotary_interleave": False, "rotary_base": config.rope_theta}
    kind = TransformerDecoderSpec if is_decoder else TransformerEncoderSpec
    spec = kind(len(stack.layers), heads, **options)
    spec.scale_embeddings = float(stack.embed_scale)
    (spec.embeddings if is_decoder else spec.embeddings[0]).weight = array(stack.embed_tokens.weight)
    if not is_rotary:
        table = torch.cat(sinusoids(torch.arange(POSITIONS), config.d_model), dim=-1)
        spec.position_encodings.encodings = array(table)
    if config.normalize_before:
        set_norm(spec.layer_norm, stack.layer_norm)
    for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
        attention = layer.self_attn
        set_linear(layer_spec.self_attention.linear[0], attention.q_proj, attention.k_proj, attention.v_proj)
        set_linear(layer_spec.self_attention.linear[1], attention.out_proj)
        set_norm(layer_spec.self_attention.layer_norm, layer.self_attn_layer_norm)
        if is_decoder:
            attention = layer.encoder_attn
            set_linear(layer_spec.attention.linear[0], attention.q_proj)
            set_linear(layer_spec.attention.linear[1], attention.k_proj, attention.v_proj)
            set_linear(layer_spec.attention.linear[2], attention.out_proj)
            set_norm(layer_spec.attention.layer_norm, layer.encoder_attn_layer_norm)
        set_linear(layer_spec.ffn.linear_0, layer.fc1)
        if layer.fc_gate is not None:
            set_linear(layer_spec.ffn.linear_0_noact, layer.fc_gate)
        set_linear(layer_spec.ffn.linear_1, layer.fc2)
        set_norm(layer_spec.ffn.layer_norm, layer.final_layer_norm)
    return spec


def set_linear(spec: Any, *layers: nn.Linear) -> None:
    """One product of layers that read the same."""
    spec.weight = np.concatenate([array(layer.weight) for layer in layers])
    spec.bias = np.concatenate([array(layer.bias) for layer in layers])


def set_norm(spec: Any, norm: nn.LayerNorm) -> None:
    """A layer norm; its ε is the config's."""
    spec.gamma, spec.beta = array(norm.weight), array(norm.bias)
