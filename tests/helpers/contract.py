"""What a model says, compared."""

import torch

from helpers.tiny import SOURCES, batch, close, pad


def say(model):
    """Tokens of a beam search."""
    inputs = batch()
    inputs.pop("labels")
    return model.generate(**inputs, max_new_tokens=6, num_beams=2)


def assert_same(first, second, tolerance=1e-6):
    """Equal logits, equal tokens."""
    close(second(**batch()).logits, first(**batch()).logits, tolerance)
    assert torch.equal(say(second), say(first))


# Weights


def matrices(model) -> tuple:
    """Source, target and output matrix."""
    modules = (model.get_input_embeddings(), model.get_decoder_input_embeddings(), model.get_output_embeddings())
    return tuple(module.weight for module in modules)


def distinct(model) -> int:
    """How many matrices these are."""
    return len({weight.data_ptr() for weight in matrices(model)})


def sources(side, repeats=1, extra=0):
    return pad(SOURCES * repeats, side, extra)
