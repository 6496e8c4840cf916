"""Tiny models of all families, and batches for them."""

import torch

from seqloom import (
    HybridSeq2SeqConfig,
    HybridSeq2SeqForConditionalGeneration,
    RnnSeq2SeqConfig,
    RnnSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqConfig,
    TransformerSeq2SeqForConditionalGeneration,
)

VOCAB = 20


SEPARATE = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23}


ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}


# Every cell, attention, bridge and direction; depths and widths that differ, so that nothing fits by accident.
RNNS = {
    "rnn": {"cell_type": "rnn", "attention": "none", "bidirectional": False, "bridge": "copy", "embedding_size": 12},
    "gru": {"cell_type": "gru", "attention": "none", "encoder_layers": 3, "decoder_layers": 2, "embedding_size": 10},
    "lstm-untied": {
        "attention": "none", "bidirectional": False, "bridge": "copy", "tie_word_embeddings": False, "init_range": None,
    },
    "rnn-bahdanau": {
        "cell_type": "rnn", "attention": "bahdanau", "bidirectional": False, "encoder_layers": 1, "bridge": "zeros",
    },
    "gru-bahdanau": {
        "cell_type": "gru", "attention": "bahdanau", "embedding_size": 10, "init_range": None, **ONE_LAYER,
    },
    "lstm-bahdanau": {"attention": "bahdanau", "encoder_layers": 3, "decoder_layers": 2, "bridge": "copy", **SEPARATE},
    "lstm-luong": {"attention": "luong", "embedding_size": 10},
    "gru-luong-dot": {
        "cell_type": "gru", "attention_score": "dot", "bidirectional": False, "encoder_layers": 1, "decoder_layers": 3,
        "bridge": "zeros",
    },
    "lstm-luong-fed": {"attention_score": "dot", "input_feeding": True, "decoder_layers": 3, "embedding_size": 10},
    "rnn-luong-fed": {
        "cell_type": "rnn", "input_feeding": True, "bidirectional": False, "bridge": "copy", "embedding_size": 10,
        **SEPARATE,
    },
    "ssru": {"cell_type": "ssru", "attention": "none", "decoder_layers": 3, "embedding_size": 10},
    "min-gru-luong": {"cell_type": "min_gru", "attention": "luong", "bridge": "copy"},
    "min-lstm-bahdanau": {"cell_type": "min_lstm", "attention": "bahdanau", "bidirectional": False, **ONE_LAYER},
}  # fmt: skip


TRANSFORMERS = {
    "post-norm": {},
    "pre-norm": {"normalize_before": True},
    "gelu-separate": {"activation_function": "gelu", **SEPARATE},
    "rotary": {"position_embedding_type": "rotary"},
    "rotary-swiglu-pre-norm": {
        "position_embedding_type": "rotary", "activation_function": "swiglu", "normalize_before": True,
        "rope_theta": 100,
    },
    "relative": {"position_embedding_type": "relative"},
    "untied-unscaled": {"tie_word_embeddings": False, "scale_embedding": False},
}  # fmt: skip


# One state and two; both norms, and unequal vocabularies.
HYBRIDS = {
    "hybrid": {},
    "hybrid-lstm": {
        "cell_type": "lstm", "position_embedding_type": "rotary", "activation_function": "swiglu",
        "normalize_before": True, **SEPARATE,
    },
}  # fmt: skip


EVERY = {**RNNS, **HYBRIDS, **TRANSFORMERS}


# Ids 3 to 19 and the end; as many sentences as there are lengths worth telling apart.
SOURCES = [[5, 9, 3, 17, 4, 11, 2], [8, 6, 13, 2], [12, 2], [7, 7, 18, 3, 10, 2]]


TARGETS = [[4, 18, 6, 2], [9, 16, 3, 7, 12, 2], [15, 5, 2], [11, 2]]


START = 1


def tiny(name: str, noise=0.2, **changes):
    """A small model in evaluation mode; its parameters, biases and norms included, are all random and far from zero."""
    torch.manual_seed(1)
    if name in RNNS:
        sizes = {"hidden_size": 16, "init_range": 0.5}
        config = RnnSeq2SeqConfig(**{"vocab_size": VOCAB, **sizes, **RNNS[name], **changes})
        model = RnnSeq2SeqForConditionalGeneration(config)
    else:
        sizes = {
            "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20,
        }  # fmt: skip
        fields = {"vocab_size": VOCAB, **sizes, **EVERY[name], **changes}
        if name in HYBRIDS:
            model = HybridSeq2SeqForConditionalGeneration(HybridSeq2SeqConfig(**fields))
        else:
            model = TransformerSeq2SeqForConditionalGeneration(TransformerSeq2SeqConfig(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    return model.eval()


def pad(rows, side="right", extra=0, value=14):
    """Rows of ids → (ids, mask). Padding is a real token by default: only the mask tells it from the sentence.

    Sides are "right", "left" and "inside" (after the first token).
    """
    length = max(map(len, rows)) + extra
    ids, mask = torch.full((len(rows), length), value), torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        head = {"right": len(row), "left": 0, "inside": 1}[side]
        for place, part in ((slice(0, head), row[:head]), (slice(length - len(row) + head, length), row[head:])):
            ids[i, place], mask[i, place] = torch.tensor(part), 1
    return ids, mask


def batch(sources=SOURCES, targets=TARGETS, side="right", extra=0) -> dict:
    """Padded inputs and labels as a model takes them."""
    input_ids, attention_mask = pad(sources, side, extra)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": pad(targets, value=-100)[0]}


def close(first, second, tolerance=1e-5):
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


def is_recurrent(model) -> bool:
    """Its decoder carries a state."""
    return model.config.has_recurrent_decoder


def has_implementations(model) -> bool:
    """Of attention, transformers' own."""
    return getattr(model.config, "has_encoder_self_attention", True)


def gradients(model) -> dict:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
