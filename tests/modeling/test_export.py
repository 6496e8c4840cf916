"""Exported programs and compiled models give what the models give, for other batches and lengths too."""

import pytest
import torch
from helpers.contract import sources
from helpers.tiny import ONE_LAYER, SOURCES, TARGETS, VOCAB, batch, close, pad, tiny
from torch import nn
from torch.export import Dim, export
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput

from seqloom.modeling.cache_rnn_seq2seq import RecurrentStateLayer
from seqloom.modeling.modeling_rnn_seq2seq import RnnSeq2SeqEncoderOutput

pytestmark = pytest.mark.slow

# torch.export and torch.compile


BATCH, SOURCE, TARGET, PAST = Dim("batch", max=64), Dim("source", max=128), Dim("target", max=128), Dim("past", max=128)


class Encoder(nn.Module):
    """Ids and mask → the encoder's tensors."""

    def __init__(self, model):
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids, attention_mask):
        return self.encoder(input_ids, attention_mask, return_dict=False)


class Decoder(nn.Module):
    """All target ids so far and the encoder's tensors → logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, decoder_input_ids, attention_mask, encoder_outputs):
        return self.model(
            encoder_outputs=encoder_outputs,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits


class CachedStep(nn.Module):
    """One target id, the encoder's output, and keys and values of the ids before → logits, and what is kept now."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, decoder_input_ids, attention_mask, memory, keys, values):
        past, layers = DynamicCache(), len(keys)
        for index in range(layers):
            past.update(keys[index], values[index], index)
        outputs = self.model(
            encoder_outputs=BaseModelOutput(memory),
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            past_key_values=EncoderDecoderCache(past, DynamicCache()),
            use_cache=True,
        )
        kept = outputs.past_key_values.self_attention_cache.layers
        return outputs.logits, [layer.keys for layer in kept], [layer.values for layer in kept]


class RecurrentStep(nn.Module):
    """One target id, the encoder's output, and the decoder's state → logits and the next state."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, decoder_input_ids, attention_mask, memory, keys, state):
        feeds = self.model.config.input_feeding
        layer = RecurrentStateLayer()
        layer.update((*state, *(() if feeds else (None,))), keys)
        outputs = self.model(
            encoder_outputs=RnnSeq2SeqEncoderOutput(memory, final_hidden=state[0]),
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            past_key_values=Cache(layers=[layer]),
            use_cache=True,
        )
        return outputs.logits, [part for part in layer.tensors if part is not None]


def exported_program(module, inputs, shapes):
    """Traced afresh: what was compiled before would leave its own guards in the program."""
    torch.compiler.reset()
    return export(module, inputs, dynamic_shapes=shapes, strict=False)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["lstm-luong", "gru-bahdanau", "rnn", "min-gru-luong", "hybrid", "post-norm", "relative"]
)
def test_exported_encoder_reads_other_batches_and_lengths(name):
    encoder = Encoder(tiny(name))
    shapes = ({0: BATCH, 1: SOURCE},) * 2
    exported = exported_program(encoder, sources("left"), shapes).module()
    others = [sources(side, repeats, extra) for side, repeats, extra in
              (("right", 1, 0), ("left", 2, 5), ("inside", 3, 1))]  # fmt: skip
    one = torch.tensor([SOURCES[0] * 3])
    for input_ids, attention_mask in [*others, (one, torch.ones_like(one))]:
        found, expected = exported(input_ids, attention_mask), encoder(input_ids, attention_mask)
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            close(mine, theirs)
    together, alone = exported(*sources("left", 1, 3))[0], encoder(torch.tensor(SOURCES[2:3]), torch.ones(1, 2).long())
    close(together[2, -2:], alone[0][0])  # a short sentence among long ones


@torch.no_grad()
@pytest.mark.parametrize("name", ["lstm-luong", "gru", "ssru", "hybrid", "post-norm"])
def test_exported_decoder_reads_other_batches_and_lengths(name):
    model = tiny(name)
    encoder, decoder = Encoder(model), Decoder(model)
    input_ids, attention_mask = sources("left")
    memory = encoder(input_ids, attention_mask)
    of_memory = [{0: BATCH, 1: SOURCE}] + [{0: BATCH}] * (len(memory) - 1)
    exported = exported_program(
        decoder,
        (pad(TARGETS)[0], attention_mask, memory),
        ({0: BATCH, 1: TARGET}, {0: BATCH, 1: SOURCE}, tuple(of_memory)),
    ).module()
    input_ids, attention_mask = sources("right", 2, 4)
    memory = encoder(input_ids, attention_mask)
    for length in (2, 9):
        ids = torch.randint(3, VOCAB, (len(input_ids), length))
        close(exported(ids, attention_mask, memory), decoder(ids, attention_mask, memory))


@torch.no_grad()
@pytest.mark.parametrize("name", ["rotary-swiglu-pre-norm", "relative"])
def test_exported_step_with_a_cache_goes_on_and_on(name):
    model = tiny(name)
    step, config = CachedStep(model), model.config
    heads = config.decoder_attention_heads

    def empty(size, length):
        return [torch.randn(size, heads, length, config.d_model // heads) for _ in range(config.decoder_layers)]

    input_ids, attention_mask = sources("left")
    memory = Encoder(model)(input_ids, attention_mask)[0]
    kept = [{0: BATCH, 2: PAST}] * config.decoder_layers
    exported = exported_program(
        step,
        (torch.tensor([[3]] * 4), attention_mask, memory, empty(4, 3), empty(4, 3)),
        ({0: BATCH}, {0: BATCH, 1: SOURCE}, {0: BATCH, 1: SOURCE}, kept, kept),
    ).module()
    input_ids, attention_mask = sources("right", 2, 2)
    memory = Encoder(model)(input_ids, attention_mask)[0]
    ids = torch.randint(3, VOCAB, (8, 7))
    expected = Decoder(model)(ids, attention_mask, (memory,))
    first = model(
        encoder_outputs=(memory,), attention_mask=attention_mask, decoder_input_ids=ids[:, :2], use_cache=True
    ).past_key_values.self_attention_cache.layers
    keys, values = [layer.keys for layer in first], [layer.values for layer in first]
    for position in range(2, 7):
        logits, keys, values = exported(ids[:, position : position + 1], attention_mask, memory, keys, values)
        close(logits[:, 0], expected[:, position])


@torch.no_grad()
@pytest.mark.parametrize("name", ["lstm-luong-fed", "gru-bahdanau", "lstm-luong"])
def test_exported_recurrent_step_goes_on_and_on(name):
    model = tiny(name)
    encoder, step, decoder = Encoder(model), RecurrentStep(model), model.get_decoder()

    def start(*options):
        input_ids, attention_mask = sources(*options)
        encoded = encoder(input_ids, attention_mask)
        state, feed, keys = decoder.recall(None, RnnSeq2SeqEncoderOutput.from_any(encoded))
        return encoded, (attention_mask, encoded[0], keys), [*state, *([] if feed is None else [feed])]

    _, source, state = start("left")
    of_source = {0: BATCH, 1: SOURCE}
    exported = exported_program(
        step,
        (torch.tensor([[3]] * 4), *source, state),
        (
            {0: BATCH}, of_source, of_source, of_source if torch.is_tensor(source[2]) else None,
            [{0: BATCH}] * len(state),
        ),
    ).module()  # fmt: skip
    encoded, source, state = start("right", 2, 3)
    ids = torch.randint(3, VOCAB, (8, 6))
    expected = Decoder(model)(ids, source[0], encoded)
    for position in range(6):
        logits, state = exported(ids[:, position : position + 1], *source, state)
        close(logits[:, 0], expected[:, position])


@torch.no_grad()
def test_exported_program_survives_the_disk(tmp_path):
    encoder = Encoder(tiny("gru-bahdanau"))
    program = exported_program(encoder, sources("left"), ({0: BATCH, 1: SOURCE},) * 2)
    torch.export.save(program, tmp_path / "encoder.pt2")
    loaded = torch.export.load(tmp_path / "encoder.pt2").module()
    for found, expected in zip(loaded(*sources("right", 2, 2)), encoder(*sources("right", 2, 2)), strict=True):
        close(found, expected)


@torch.no_grad()
def test_compiled_transformer_is_the_same():
    model = tiny("post-norm", **ONE_LAYER)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model.forward, backend=backend, dynamic=True)
    for options in ({}, {"extra": 3}, {"side": "left"}):
        close(compiled(**batch(**options)).logits, model(**batch(**options)).logits)
    assert graphs
    torch._dynamo.reset()
