"""The models compute what others do: transformers' Marian, torch's Transformer, and the papers' equations as loops.

Every comparison goes over logits and over the gradients of all parameters.
"""

import math

import pytest
import torch
from helpers.tiny import RNNS, SOURCES, START, TARGETS, batch, close, pad, tiny
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import MarianConfig, MarianMTModel

from seqloom import (
    RnnSeq2SeqConfig,
    RnnSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqConfig,
    TransformerSeq2SeqForConditionalGeneration,
)
from seqloom.modeling.modeling_seq2seq import seq2seq_loss
from seqloom.modeling.positions_transformer_seq2seq import rotate, sinusoids

SIZES = {
    "vocab_size": 20, "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20,
}  # fmt: skip


def gradients_of(model, value) -> dict:
    """Of every parameter; afterwards the model has none."""
    model.zero_grad()
    value.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def marian_and_ours(implementation, **options):
    """The same weights in MarianMTModel and in ours."""
    special = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": START}
    marian = MarianMTModel._from_config(
        MarianConfig(
            **SIZES, **special, **{"activation_function": "relu", "scale_embedding": True, **options},
            forced_eos_token_id=None,
        ),
        attn_implementation="eager",
    ).eval()  # fmt: skip
    ours = TransformerSeq2SeqForConditionalGeneration._from_config(
        TransformerSeq2SeqConfig(**SIZES, **special, **options), attn_implementation=implementation
    ).eval()
    with torch.no_grad():
        for parameter in marian.parameters():
            if parameter.requires_grad:  # which Marian's table of positions does not
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    weights = marian.state_dict()
    assert not weights["final_logits_bias"].any()
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    return marian, ours


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation_function": "gelu", "scale_embedding": False},
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23},
        {"tie_word_embeddings": False},
    ],
    ids=["paper", "gelu", "separate", "untied"],
)
def test_post_norm_transformer_is_marian(options, implementation):
    marian, ours = marian_and_ours(implementation, **options)
    inputs = batch()
    theirs, mine = marian(**inputs), ours(**inputs)
    close(mine.logits, theirs.logits)
    close(mine.loss, theirs.loss)
    is_token = inputs["attention_mask"].bool()
    close(mine.encoder_last_hidden_state[is_token], theirs.encoder_last_hidden_state[is_token])
    expected, found = gradients_of(marian, theirs.loss), gradients_of(ours, mine.loss)
    assert found.keys() == {name for name in expected if expected[name] is not None}
    for name, gradient in found.items():
        close(gradient, expected[name])


@pytest.mark.parametrize("beams", [1, 4])
def test_generates_what_marian_generates(beams):
    marian, ours = marian_and_ours("sdpa")
    input_ids, attention_mask = pad(SOURCES)
    with torch.no_grad():  # sentences that change and end, at different lengths
        for model in (marian, ours):
            model.model.shared.weight *= 0.3
    options = {"max_new_tokens": 9, "num_beams": beams, "num_return_sequences": beams, "length_penalty": 0.6}
    theirs, mine = (
        model.generate(input_ids=input_ids, attention_mask=attention_mask, **options) for model in (marian, ours)
    )
    assert torch.equal(mine, theirs)
    assert len({tuple(row) for row in mine[:, 1:].tolist()}) > beams


def copy_layer(ours, theirs):
    """From our layer to torch's."""
    attentions = [("self_attn", "self_attn", "norm1"), ("encoder_attn", "multihead_attn", "norm2")]
    for mine, its, norm in attentions[: 1 + hasattr(ours, "encoder_attn")]:
        attention = getattr(ours, mine)
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        target = getattr(theirs, its)
        target.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        target.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
        target.out_proj.load_state_dict(attention.out_proj.state_dict())
        getattr(theirs, norm).load_state_dict(getattr(ours, f"{mine}_layer_norm").state_dict())
    last = theirs.norm3 if hasattr(ours, "encoder_attn") else theirs.norm2
    last.load_state_dict(ours.final_layer_norm.state_dict())
    theirs.linear1.load_state_dict(ours.fc1.state_dict())
    theirs.linear2.load_state_dict(ours.fc2.state_dict())


def table(positions, width) -> torch.Tensor:
    """Section 3.5 of the paper in float64, sines before cosines."""
    rows = [
        [math.sin(position / 10000 ** (2 * i / width)) for i in range(width // 2)]
        + [math.cos(position / 10000 ** (2 * i / width)) for i in range(width // 2)]
        for position in positions
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_pre_norm_transformer_is_torchs(activation):
    same = {"decoder_attention_heads": 2, "decoder_ffn_dim": 24}  # torch has one width and one number of heads
    ours = tiny("pre-norm", activation_function=activation, **same).model
    theirs = nn.Transformer(16, 2, 2, 3, 24, dropout=0.0, activation=activation, batch_first=True, norm_first=True)
    with torch.no_grad():
        for side in ("encoder", "decoder"):
            mine, its = getattr(ours, side), getattr(theirs, side)
            for my_layer, its_layer in zip(mine.layers, its.layers, strict=True):
                copy_layer(my_layer, its_layer)
            its.norm.load_state_dict(mine.layer_norm.state_dict())

    def embedded(ids):
        return ours.shared(ids) * 4 + table(range(ids.shape[1]), 16).float()

    input_ids, attention_mask = pad(SOURCES)
    decoder_input_ids, _ = pad(TARGETS)
    target_length = decoder_input_ids.shape[1]
    expected = theirs(
        embedded(input_ids),
        embedded(decoder_input_ids),
        tgt_mask=torch.ones(target_length, target_length).triu(1).bool(),
        src_key_padding_mask=~attention_mask.bool(),
        memory_key_padding_mask=~attention_mask.bool(),
    )
    found = ours(input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids).last_hidden_state
    close(found, expected)
    direction = torch.randn_like(found)
    close(*(torch.autograd.grad((states * direction).sum(), ours.shared.weight)[0] for states in (found, expected)))


def turned(vector, position, theta):
    """Su et al. 2021: pairs of dimensions as complex numbers, each turned by its own angle."""
    half = len(vector) // 2
    angles = torch.tensor([position * theta ** (-i / half) for i in range(half)])
    turned = torch.complex(vector[:half], vector[half:]) * torch.polar(torch.ones(half), angles)
    return torch.cat((turned.real, turned.imag))


def distance_score(module, query, i, j, place):
    """Dai et al. 2019, section 3.3: terms (b) and (d) of a score, the encoding of the distance written out."""
    width = module.relative.weight.shape[1]
    angles = [(i - j) / 10000 ** (2 * k / width) for k in range(width // 2)]
    encoding = torch.tensor([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])
    return (query + module.relative.position_bias[place]) @ (module.relative.weight @ encoding)[place]


def naive_transformer(model, source, target):
    """One sentence through pre-norm, rotary or relative, SwiGLU: a loop over heads, queries and keys, or over steps."""
    config, head, model = model.config, model.lm_head, model.model
    is_rotary = config.position_embedding_type == "rotary"

    def attend(module, queries, memory, heads, causal=False, positions=False):
        size = config.d_model // heads
        rows = []
        for i, query in enumerate(queries):
            parts = []
            for head in range(heads):
                place = slice(head * size, (head + 1) * size)
                q, scores, values = module.q_proj(query)[place], [], []
                q = turned(q, i, config.rope_theta) if positions and is_rotary else q
                for j, state in enumerate(memory[: i + 1] if causal else memory):
                    k = module.k_proj(state)[place]
                    k = turned(k, j, config.rope_theta) if positions and is_rotary else k
                    score = q @ k
                    if positions and not is_rotary:
                        score = (q + module.relative.content_bias[place]) @ k + distance_score(module, q, i, j, place)
                    scores.append(score / math.sqrt(size))
                    values.append(module.v_proj(state)[place])
                parts.append(torch.stack(scores).softmax(0) @ torch.stack(values))
            rows.append(module.out_proj(torch.cat(parts)))
        return torch.stack(rows)

    def feed(layer, states):
        return layer.fc2(F.silu(layer.fc1(states)) * layer.fc_gate(states))

    def recur(recurrence, inputs):
        state, outputs = (torch.zeros(config.d_model),) * 2, []
        kind = config.cell_type
        step = (naive_parallel_cell if kind == "ssru" else naive_cell)(kind, recurrence.rnn, "")
        for row in inputs:
            state = step(row, state)
            outputs.append(torch.relu(state[0]) if kind == "ssru" else state[0])
        return torch.stack(outputs)

    memory = model.encoder.embed_tokens.weight[source] * math.sqrt(config.d_model)
    for layer in model.encoder.layers:
        normed = layer.self_attn_layer_norm(memory)
        memory = memory + attend(layer.self_attn, normed, normed, config.encoder_attention_heads, positions=True)
        memory = memory + feed(layer, layer.final_layer_norm(memory))
    memory = model.encoder.layer_norm(memory)

    heads = config.decoder_attention_heads
    states = model.decoder.embed_tokens.weight[target] * math.sqrt(config.d_model)
    for layer in model.decoder.layers:
        if hasattr(layer, "recurrence"):
            states = states + recur(layer.recurrence, layer.recurrence_layer_norm(states))
        else:
            normed = layer.self_attn_layer_norm(states)
            states = states + attend(layer.self_attn, normed, normed, heads, causal=True, positions=True)
        states = states + attend(layer.encoder_attn, layer.encoder_attn_layer_norm(states), memory, heads)
        states = states + feed(layer, layer.final_layer_norm(states))
    return head(model.decoder.layer_norm(states))


def naive_cell(kind, rnn, suffix):
    """A step of the cell with the weights of one direction of ``rnn``; the state is (hidden, cell or None)."""
    weights = {
        f"{part}": getattr(rnn, f"{part}_l0{suffix}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    cell = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[kind](rnn.input_size, rnn.hidden_size)

    def step(inputs, state):
        if kind == "lstm":
            return functional_call(cell, weights, (inputs, state))
        return functional_call(cell, weights, (inputs, state[0])), None

    return step


def naive_parallel_cell(kind, rnn, suffix):
    """The same for cells whose gates read the inputs alone: Feng et al. 2024, sections 3.1 and 3.2; Kim et al. 2019."""
    index, parts = int(suffix != ""), {"min_gru": 2, "min_lstm": 3, "ssru": 2}[kind]
    size = rnn.hidden_size
    rows = slice(index * parts * size, (index + 1) * parts * size)

    def step(inputs, state):
        before = state[0]
        if kind == "ssru":  # no bias but the gate's
            forget, value = (rnn.proj.weight[rows] @ inputs).split(size)
            forget = torch.sigmoid(forget + rnn.bias[0, index])
            return forget * before + (1 - forget) * value, None
        *gates, candidate = (rnn.proj.weight[rows] @ inputs + rnn.bias[:, index].flatten()).split(size)
        if kind == "min_gru":
            update = torch.sigmoid(gates[0])
            return (1 - update) * before + update * candidate, None
        forget, let_in = map(torch.sigmoid, gates)
        return forget / (forget + let_in) * before + let_in / (forget + let_in) * candidate, None

    return step


def naive_rnn(model, source, target):
    """One sentence through the recurrent encoder-decoder, step by step, as the papers write it."""
    config, decoder = model.config, model.model.decoder
    kind = config.cell_type
    cell = naive_parallel_cell if kind in ("min_gru", "min_lstm", "ssru") else naive_cell
    given = torch.relu if kind == "ssru" else lambda state: state  # what a layer gives of the state that it carries

    outputs, finals = [model.model.encoder.embed_tokens.weight[token] for token in source], []
    for layer in model.model.encoder.layers:
        readings, ends = [], []
        for suffix in ("", "_reverse") if config.bidirectional else ("",):
            step = cell(kind, layer.rnn, suffix)
            state = (torch.zeros(layer.rnn.hidden_size), torch.zeros(layer.rnn.hidden_size))
            reading = []
            for inputs in reversed(outputs) if suffix else outputs:
                state = step(inputs, state)
                reading.append(given(state[0]))
            readings.append(reading[::-1] if suffix else reading)
            ends.append(state)
        outputs = [torch.cat(parts) for parts in zip(*readings, strict=True)]
        finals.append([torch.cat(parts) for parts in zip(*ends, strict=True) if parts[0] is not None])

    # A decoder layer starts from the encoder layer as far below the top; a taller decoder repeats the topmost.
    finals = finals[-config.decoder_layers :]
    finals += [finals[-1]] * (config.decoder_layers - len(finals))
    states = []
    for index, final in enumerate(finals):
        first = final
        if config.bridge == "zeros":
            first = [torch.zeros(config.hidden_size) for _ in final]
        elif config.bridge == "dense":  # Bahdanau et al. 2015, A.2.2: s_0 = tanh(W h), one W for each layer and part
            matrices = decoder.bridge[index :: config.decoder_layers]
            first = [torch.tanh(matrix(end)) for matrix, end in zip(matrices, final, strict=True)]
        states.append((first[0], first[1] if kind == "lstm" else None))

    def attend(query):
        attention = decoder.attention
        scores = []
        for output in outputs:
            if config.attention == "bahdanau":  # v · tanh(W s + U h)
                inner = attention.query_proj(query) + attention.key_proj.weight @ output
                scores.append(attention.score.weight[0] @ torch.tanh(inner))
            elif config.attention_score == "general":  # s · W h
                scores.append(query @ attention.key_proj.weight @ output)
            else:  # s · h
                scores.append(query @ output)
        weights = torch.stack(scores).softmax(0)
        return sum(weight * output for weight, output in zip(weights, outputs, strict=True))

    steps = [cell(kind, layer.rnn, "") for layer in decoder.layers]
    attentional, logits = torch.zeros(config.embedding_size), []
    for token in target:
        embedding = decoder.embed_tokens.weight[token]
        inputs = embedding
        if config.attention == "bahdanau":  # the context of the state before enters this step
            context = attend(states[-1][0])
            inputs = torch.cat((embedding, context))
        if config.input_feeding:
            inputs = torch.cat((embedding, attentional))
        for index, step in enumerate(steps):
            states[index] = step(inputs, states[index])
            inputs = given(states[index][0])
        if config.attention == "bahdanau":
            readout = torch.tanh(decoder.readout.weight @ torch.cat((inputs, embedding, context)))
        elif config.attention == "luong":  # h̃ = tanh(W [c; h]): equation 5 of Luong et al. 2015
            readout = attentional = torch.tanh(decoder.readout.weight @ torch.cat((attend(inputs), inputs)))
        elif config.embedding_size != config.hidden_size:
            readout = decoder.readout.weight @ inputs
        else:
            readout = inputs
        logits.append(model.lm_head.weight @ readout)
    return torch.stack(logits)


@pytest.mark.parametrize(
    ("name", "changes", "reference"),
    [
        ("rotary-swiglu-pre-norm", {}, naive_transformer),
        ("rotary-swiglu-pre-norm", {"position_embedding_type": "relative"}, naive_transformer),
        ("hybrid-lstm", {}, naive_transformer),
        ("hybrid-lstm", {"cell_type": "ssru", "position_embedding_type": "relative"}, naive_transformer),
        *((name, {}, naive_rnn) for name in RNNS),
    ],
)
def test_model_is_the_papers_equations(name, changes, reference):
    model = tiny(name, **changes)
    inputs = batch()
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    expected = [
        reference(model, source, ids[: len(target)].tolist())
        for source, ids, target in zip(SOURCES, decoder_input_ids, TARGETS, strict=True)
    ]
    logits = model(**inputs).logits
    found = [row[: len(target)] for row, target in zip(logits, TARGETS, strict=True)]
    close(torch.cat(found), torch.cat(expected), 2e-5)

    direction = torch.randn_like(torch.cat(found))
    ours = gradients_of(model, (torch.cat(found) * direction).sum())
    theirs = gradients_of(model, (torch.cat(expected) * direction).sum())
    for parameter, gradient in ours.items():
        close(gradient, theirs[parameter], 1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_is_cross_entropy(smoothing, dtype):
    logits = (torch.randn(4, 7, 30) * 3).to(dtype).requires_grad_()
    labels = torch.randint(0, 30, (4, 7))
    labels[1, 3:] = -100
    labels[3] = -100
    loss = seq2seq_loss(logits, labels, label_smoothing=smoothing)
    twin = logits.detach().float().requires_grad_()
    expected = F.cross_entropy(twin.view(-1, 30), labels.view(-1), ignore_index=-100, label_smoothing=smoothing)
    assert loss.dtype == torch.float32
    close(loss, expected)
    (3 * loss).backward()
    (3 * expected).backward()
    assert logits.grad.dtype == dtype
    close(logits.grad.float(), twin.grad, {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype])
    assert not logits.grad[labels == -100].any()


@pytest.mark.parametrize("items", [5, torch.tensor(5), torch.tensor(5.0)])
def test_loss_divides_by_the_items_of_the_batch(items):
    logits, labels = torch.randn(2, 6, 9), torch.randint(0, 9, (2, 6))
    expected = F.cross_entropy(logits.view(-1, 9), labels.view(-1), reduction="sum", label_smoothing=0.2) / 5
    close(seq2seq_loss(logits, labels, num_items_in_batch=items, label_smoothing=0.2), expected)


def test_loss_of_nothing_to_learn_is_zero():
    logits = torch.randn(2, 3, 9, requires_grad=True)
    loss = seq2seq_loss(logits, torch.full((2, 3), -100), label_smoothing=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_loss_survives_large_logits():
    logits = torch.tensor([[[3e4, -3e4, 0.0]]], dtype=torch.float16)
    for label, expected in ((0, 0.0), (1, 6e4)):
        close(seq2seq_loss(logits, torch.tensor([[label]])), torch.tensor(expected), 1e-2)


def test_positions_are_the_papers_however_far():
    far = [0, 1, 2, 511, 4096, 20000]
    expected = table(far, 64)
    found = torch.cat(sinusoids(torch.tensor(far), 64), dim=-1)
    torch.testing.assert_close(found[:4].double(), expected[:4], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=4e-3)  # float32 angles


def test_rotation_knows_only_distances():
    query, key = torch.randn(2, 1, 1, 1, 8)

    def score(i, j):
        (sine, cosine) = sinusoids(torch.tensor([[i], [j]]), 8)
        return (rotate(query, sine[:1], cosine[:1]) * rotate(key, sine[1:], cosine[1:])).sum()

    close(score(3, 8), score(40, 45))
    close(score(0, 0), (query * key).sum())
    assert abs(score(3, 8) - score(3, 9)) > 1e-3


def test_default_transformer_is_the_papers_base_model():
    config = TransformerSeq2SeqConfig()
    assert (config.encoder_layers, config.decoder_layers) == (6, 6)
    assert (config.d_model, config.encoder_ffn_dim, config.decoder_ffn_dim) == (512, 2048, 2048)
    assert (config.encoder_attention_heads, config.decoder_attention_heads) == (8, 8)
    assert (config.dropout, config.attention_dropout, config.activation_dropout) == (0.1, 0.0, 0.0)
    assert (config.activation_function, config.normalize_before) == ("relu", False)
    assert (config.position_embedding_type, config.scale_embedding) == ("sinusoidal", True)
    assert (config.share_encoder_decoder_embeddings, config.tie_word_embeddings) == (True, True)

    d, ffn, vocab = 512, 2048, 37000
    attention, feed_forward, norm = 4 * (d * d + d), d * ffn + ffn + ffn * d + d, 2 * d
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    with torch.device("meta"):
        model = TransformerSeq2SeqForConditionalGeneration(config)
    assert model.num_parameters() == vocab * d + 6 * encoder + 6 * decoder  # 63 million; the paper says 65


@pytest.mark.parametrize(("cell", "parts"), [("rnn", 1), ("gru", 3), ("lstm", 4)], ids=["rnn", "gru", "lstm"])
def test_recurrent_model_has_the_papers_number_of_parameters(cell, parts):
    e, h, v = 10, 16, 20
    config = RnnSeq2SeqConfig(
        vocab_size=v, hidden_size=h, embedding_size=e, encoder_layers=1, decoder_layers=1, cell_type=cell,
        attention="bahdanau",
    )  # fmt: skip

    def layer(inputs, size):
        return parts * (size * inputs + size * size + 2 * size)

    encoder, decoder = 2 * layer(e, h // 2), layer(e + h, h)
    bridge = (2 if cell == "lstm" else 1) * (h * h + h)
    attention, readout = (h * h) + (h * h + h) + h, (2 * h + e) * e
    with torch.device("meta"):
        model = RnnSeq2SeqForConditionalGeneration(config)
    assert model.num_parameters() == v * e + encoder + decoder + bridge + attention + readout
