"""To a MarianMTModel (Junczys-Dowmunt et al. 2018), which transformers loads anywhere without anybody's code.

A post-norm Transformer with sinusoidal positions has Marian's formulas and, in seqloom, its names: weights go over one
to one. What Marian has besides is a table of the sinusoids, which ends, and a bias of the logits, which is zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerBase

from seqloom.modeling.tokenization_seq2seq_pair import Seq2SeqPairTokenizer

ENGINE = "transformers"
DTYPES = ("float32", "float16", "bfloat16")
POSITIONS = 2048
"""Rows of the table of sinusoids, which is computed when the model is loaded and not stored."""
INSTEAD = "export it with --to {engines}, or push it as it is, with its code"
SAME = (
    "vocab_size", "decoder_vocab_size", "share_encoder_decoder_embeddings", "tie_word_embeddings", "d_model",
    "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim",
    "decoder_ffn_dim", "activation_function", "scale_embedding", "dropout", "attention_dropout", "activation_dropout",
    "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
"""Fields that mean the same to both."""

USE = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIR")
model = AutoModelForSeq2SeqLM.from_pretrained("DIR")
outputs = model.generate(**tokenizer(["some text"], return_tensors="pt"))
print(tokenizer.batch_decode(outputs, skip_special_tokens=True))
"""
USE_PAIR = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

source_tokenizer = AutoTokenizer.from_pretrained("DIR/source_tokenizer")
target_tokenizer = AutoTokenizer.from_pretrained("DIR/target_tokenizer")
model = AutoModelForSeq2SeqLM.from_pretrained("DIR")
outputs = model.generate(**source_tokenizer(["some text"], return_tensors="pt"))
print(target_tokenizer.batch_decode(outputs, skip_special_tokens=True))
"""


def check(model: Any, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
    """Refuses what a MarianMTModel has no formula for.

    Raises:
        ValueError: There is something; the message says what.
    """
    config = model.config
    if config.model_type != "transformer_seq2seq":
        raise ValueError(f"a MarianMTModel is a Transformer; this is a {config.model_type} ({config.name_in_words}): "
                         "share it with its code instead (seqloom push), or export it with --to onnx.")  # fmt: skip
    lacking = []
    if config.normalize_before:
        lacking.append("normalize_before (its layers are post-norm)")
    if config.position_embedding_type != "sinusoidal":
        lacking.append(f"{config.position_embedding_type} positions (its are sinusoidal)")
    if config.activation_function not in ("relu", "gelu"):
        lacking.append(f"activation_function {config.activation_function} (its feed-forward networks have no gate)")
    if lacking:
        engines = "onnx or --to torch" if config.position_embedding_type == "relative" else "ctranslate2 or --to onnx"
        raise ValueError(f"a MarianMTModel has no {', no '.join(lacking)}: {INSTEAD.format(engines=engines)}.")


def write(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str) -> dict[str, Any]:
    """As `seqloom.export.forms.Form.write`; the config's and, of a pair, the tokenizers' files are written anew."""
    config = model.config
    fields = {name: getattr(config, name) for name in SAME}
    if not config.tie_word_embeddings:  # ours are three matrices then
        fields["share_encoder_decoder_embeddings"] = False
    marian = MarianMTModel(MarianConfig(**fields, forced_eos_token_id=None, max_position_embeddings=POSITIONS))
    weights = model.state_dict()
    missing, unexpected = marian.load_state_dict(weights, strict=False)
    ours = {"final_logits_bias", *(f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder"))}
    assert not unexpected, unexpected
    assert set(missing) <= ours | {"model.shared.weight"}, missing
    marian.generation_config = model.generation_config
    marian.to(getattr(torch, dtype)).save_pretrained(folder)
    for code in folder.glob("configuration_*.py"):  # of the model's own config, which is a MarianConfig now
        code.unlink()
    notes = [
        f"A MarianMTModel has a table of {POSITIONS:,} positions, where the model reaches any length "
        "(`max_position_embeddings` in config.json makes it longer: it is computed, not stored)."
    ]
    if isinstance(tokenizer, Seq2SeqPairTokenizer):
        tokenizer.target_tokenizer.save_pretrained(folder / "target_tokenizer")
        plain = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, model_max_length=tokenizer.model_max_length,
            padding_side=tokenizer.padding_side, split_special_tokens=tokenizer.split_special_tokens,
            clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces, **tokenizer.special_tokens_map,
        )  # fmt: skip
        plain.save_pretrained(folder / "source_tokenizer")
        notes.append(
            "Source and target have a tokenizer each, and transformers has none for both: without seqloom, take the "
            "two plain ones in source_tokenizer and target_tokenizer."
        )
    return {"engine_version": transformers.__version__, "notes": notes}
