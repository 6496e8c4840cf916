"""The loss of some tokens at a time is the loss of all, and holds the scores of no more than these."""

import pytest
import torch
from helpers.tiny import EVERY, VOCAB, batch, close, gradients, tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seqloom.modeling.modeling_seq2seq import IGNORED, chunked_loss, seq2seq_loss


class Largest(TorchDispatchMode):
    """Counts the numbers of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
            if torch.is_tensor(output):
                self.numel = max(self.numel, output.numel())
        return outputs


def losses_and_gradients(model, inputs, **options):
    model.zero_grad()
    loss = model(**inputs, **options).loss
    (3 * loss).backward()  # what comes from above is passed on
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_loss_and_gradients_of_every_model(name, chunk):
    model, inputs = tiny(name), batch()
    for options in ({"label_smoothing": 0.1}, {"label_smoothing": 0.0, "num_items_in_batch": 31}):
        loss, expected = losses_and_gradients(model, inputs, **options)
        found, others = losses_and_gradients(model, inputs, **options, loss_chunk_tokens=chunk)
        close(found, loss)
        for parameter, gradient in expected.items():
            close(others[parameter], gradient, 2e-5)


def test_no_scores_are_returned_and_none_without_labels_asked_for():
    model, inputs = tiny("post-norm"), batch()
    assert model(**inputs, loss_chunk_tokens=4).logits is None
    labels = inputs.pop("labels")
    outputs = model(**inputs, decoder_input_ids=labels.clamp(min=0), loss_chunk_tokens=4)
    assert outputs.logits.shape == (*labels.shape, VOCAB)


def test_ignored_labels_alone_are_a_loss_of_zero():
    model, inputs = tiny("post-norm"), batch()
    inputs["labels"].fill_(IGNORED)
    loss, found = losses_and_gradients(model, inputs, loss_chunk_tokens=4)
    assert loss == 0
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("frozen", ["lm_head", "model"])
def test_what_is_frozen_gets_no_gradient(frozen):
    model, inputs = tiny("untied-unscaled"), batch()
    getattr(model, frozen).requires_grad_(False)
    model(**inputs, loss_chunk_tokens=4).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name


def test_without_gradients_none_are_computed():
    head, calls = nn.Linear(8, 30), []
    head.weight.register_hook(calls.append)
    states, labels = torch.randn(3, 5, 8, requires_grad=True), torch.randint(0, 30, (3, 5))
    with torch.no_grad():
        loss = chunked_loss(head, states, labels, 4)
    assert not loss.requires_grad
    close(loss, seq2seq_loss(head(states), labels).detach())
    assert calls == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    torch.manual_seed(0)
    head, labels = nn.Linear(8, 30, bias=False).to(dtype), torch.randint(0, 30, (3, 5))
    states = torch.randn(3, 5, 8, dtype=dtype, requires_grad=True)
    whole = torch.autograd.grad(seq2seq_loss(head(states), labels), (states, head.weight))
    parts = torch.autograd.grad(chunked_loss(head, states, labels, 4), (states, head.weight))
    for one, other in zip(whole, parts, strict=True):
        assert one.dtype == other.dtype == dtype
        close(one, other, 1e-12 if dtype == torch.float64 else 1e-2)


def test_the_scores_of_all_tokens_are_never_held():
    """Backward included; nothing that is made is larger than the matrix or than a chunk's scores."""
    tokens, width, vocab, chunk = 600, 4, 500, 50
    head, labels = nn.Linear(width, vocab, bias=False), torch.randint(0, vocab, (1, tokens))
    found = {}
    for name, options in (("all", None), ("chunks", chunk)):
        states = torch.randn(1, tokens, width, requires_grad=True)
        with Largest() as largest:
            loss = seq2seq_loss(head(states), labels) if options is None else chunked_loss(head, states, labels, chunk)
            loss.backward()
        found[name] = largest.numel
    assert found == {"all": tokens * vocab, "chunks": chunk * vocab}
