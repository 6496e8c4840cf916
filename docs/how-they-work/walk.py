"""One sentence goes through the toy models: every number of docs/how-they-work.md, by the names that its text has.

Where a formula stands in the chapter, it is computed here as it stands there, from the model's own weights, and held
against what the model itself gives (`agree`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import toys
from toys import ENGLISH, FRENCH, Model

from seqloom import TransformerSeq2SeqConfig, TransformerSeq2SeqForConditionalGeneration

SENTENCE = "the black cat sleeps now"
LONG = "the black cat sleeps here and the white mouse sings here and the green dog runs now"
"""For gradients: far enough from its end to its beginning."""
SHOWN = 4
"""Numbers of a vector that a table has room for."""
BEAMS, SENTENCES = 2, 200
"""Of the search; for each number of clauses."""
HEAD, ASKING = 1, "the"
"""The head of the encoder's first layer that is computed by hand (counted from 0), and the word whose row is shown."""
NORMED = "cat"
"""The word at which add & norm is shown."""

Values = dict[str, Any]


def agree(mine: torch.Tensor, models: torch.Tensor) -> None:
    """What was computed by the formula is what the model computes."""
    torch.testing.assert_close(mine, models, rtol=1e-6, atol=1e-6)


def numbers(tensor: torch.Tensor) -> list[Any]:
    """Lists of four decimals: more than is printed, fewer than a processor could change."""
    rounded = [[round(value, 4) for value in row] for row in tensor.detach().reshape(-1, tensor.shape[-1]).tolist()]
    return rounded[0] if tensor.dim() == 1 else rounded


@torch.no_grad()
def of_ids() -> Values:
    """Words, ids, and the vocabularies."""
    words = [*SENTENCE.split(), "</s>"]
    return {
        "sentence": SENTENCE,
        "words": words,
        "ids": toys.encode([SENTENCE], ENGLISH)[0].tolist(),
        "english": ENGLISH,
    }


@torch.no_grad()
def of_gru(model: Model) -> Values:
    """Embeddings, gates and states of the encoder."""
    input_ids = toys.encode([SENTENCE], ENGLISH)
    encoder, layer = model.model.encoder, model.model.encoder.layers[0].rnn
    embeddings = encoder.embed_tokens(input_ids)[0]  # (length, width)
    width = embeddings.shape[1]
    state, steps = torch.zeros(width, dtype=torch.float64), []
    for embedding in embeddings:
        from_word = layer.weight_ih_l0 @ embedding + layer.bias_ih_l0
        from_state = layer.weight_hh_l0 @ state + layer.bias_hh_l0
        (reset_word, keep_word, new_word), (reset_state, keep_state, new_state) = (
            part.split(width) for part in (from_word, from_state)
        )
        reset, keep = torch.sigmoid(reset_word + reset_state), torch.sigmoid(keep_word + keep_state)
        new = torch.tanh(new_word + reset * new_state)
        before, state = state, (1 - keep) * new + keep * state
        steps.append(torch.stack((reset, keep, new, before, state)))
    gates = torch.stack(steps, dim=1)  # (5, length, width)
    outputs = encoder(input_ids)
    agree(gates[4], outputs.last_hidden_state[0])
    unit = int((gates[1].amax(0) - gates[1].amin(0)).argmax())
    return {
        "parameters": model.num_parameters(),
        "width": width,
        "matrix": numbers(encoder.embed_tokens.weight),
        "embeddings": numbers(embeddings),
        "written": [*toys.translated(model, [SENTENCE])[0].split(), "</s>"],
        "unit": unit,
        "of_unit": dict(zip(("reset", "keep", "new", "before", "after"), numbers(gates[:, :, unit]), strict=True)),
        "keep": numbers(gates[1]),
        "reset": numbers(gates[0]),
        "states": numbers(gates[4]),
    }


def ranked(scores: torch.Tensor, count: int = 3) -> list[list[Any]]:
    """The likeliest words of scores (vocab), with their probabilities."""
    probabilities, best = scores.softmax(-1).topk(count)
    return [[FRENCH[index], round(p, 4)] for p, index in zip(probabilities.tolist(), best.tolist(), strict=True)]


def gains(model: Model, inputs: torch.Tensor) -> list[float]:
    """How large a small change of each state still is in the last one: root mean square of the Jacobian's rows."""
    layer = model.model.encoder.layers[0].rnn
    with torch.no_grad():
        states = layer(inputs)[0][0]  # (length, width)
    found = [1.0]
    for step in range(len(states) - 2, -1, -1):

        def last(state: torch.Tensor, step: int = step) -> torch.Tensor:
            return layer(inputs[:, step + 1 :], state[None, None])[1][0, 0]

        jacobian: Any = torch.autograd.functional.jacobian(last, states[step])
        found.append(float(jacobian.norm() / math.sqrt(jacobian.shape[0])))
    return found


def of_gradient(rnn: Model, gru: Model) -> Values:
    """The product of tanh' on the tanh-RNN's own states, and how much of a change is left, in it and in the GRU."""
    input_ids = toys.encode([LONG], ENGLISH)
    with torch.no_grad():
        inputs = {model: model.model.encoder.embed_tokens(input_ids) for model in (rnn, gru)}
        layer = rnn.model.encoder.layers[0].rnn
        states = layer(inputs[rnn])[0][0]
        slopes = 1 - states**2  # tanh' = 1 − tanh²
        matrix = layer.weight_hh_l0
        product = torch.eye(len(matrix), dtype=torch.float64)
        of_tanh = torch.ones(len(matrix), dtype=torch.float64)
        products, norms = [1.0], [1.0]
        for slope in slopes.flip(0)[:-1]:
            of_tanh = of_tanh * slope
            product = product @ (slope[:, None] * matrix)
            products.append(float(of_tanh.mean()))
            norms.append(float(product.norm() / math.sqrt(len(matrix))))
    measured = gains(rnn, inputs[rnn])
    agree(torch.tensor(norms), torch.tensor(measured))
    return {
        "words": [*LONG.split(), "</s>"],
        "slope": round(float(slopes.mean()), 4),
        "slopes": numbers(slopes.flatten()),
        "tanh": [float(f"{value:.4g}") for value in products],
        "rnn": [float(f"{value:.4g}") for value in measured],
        "gru": [float(f"{value:.4g}") for value in gains(gru, inputs[gru])],
    }


@torch.no_grad()
def of_attention(model: Model) -> Values:
    """Luong's attention while the French sentence is written, and one step of it by hand."""
    input_ids = toys.encode([SENTENCE], ENGLISH)
    french = toys.translated(model, [SENTENCE])[0].split()
    fed = torch.tensor([[1, *(FRENCH.index(word) for word in french)]])
    outputs = model(input_ids=input_ids, decoder_input_ids=fed, output_attentions=True, output_hidden_states=True)
    memory, states = outputs.encoder_last_hidden_state[0], outputs.decoder_hidden_states[-1][0]
    step = french.index("noir")
    scores = memory @ states[step]  # a number for each source word: s·h
    powers = scores.exp()
    weights = powers / powers.sum()
    agree(weights, outputs.cross_attentions[0][0, 0, step])
    context = weights @ memory
    readout = torch.tanh(model.model.decoder.readout(torch.cat((context, states[step]))))
    agree(model.lm_head(readout), outputs.logits[0, step])
    return {
        "parameters": model.num_parameters(),
        "width": len(context),
        "written": [*french, "</s>"],
        "weights": numbers(outputs.cross_attentions[0][0, 0]),
        "read": french[step - 1],
        "writes": french[step],
        "scores": numbers(scores),
        "powers": numbers(powers),
        "sum": round(float(powers.sum()), 4),
        "of_step": numbers(weights),
        "context": numbers(context)[:SHOWN],
        "next": ranked(outputs.logits[0, step]),
    }


@torch.no_grad()
def of_positions(model: Model) -> Values:
    """Sines and cosines, and what the encoder's first layer reads: √d times the embedding, plus them."""
    encoder = model.model.encoder
    input_ids = toys.encode([SENTENCE], ENGLISH)
    width = model.config.d_model
    places = torch.arange(input_ids.shape[1], dtype=torch.float64)[:, None]
    angles = places / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    encoding = torch.cat((angles.sin(), angles.cos()), dim=-1)  # (length, width)
    scaled = encoder.embed_tokens(input_ids)[0] * math.sqrt(width)
    agree(scaled + encoding, encoder(input_ids, output_hidden_states=True).hidden_states[0][0])
    return {"width": width, "scaled": numbers(scaled), "encoding": numbers(encoding), "sum": numbers(scaled + encoding)}


@torch.no_grad()
def of_head(model: Model) -> Values:
    """One head of the encoder's first layer by hand, and every head's weights."""
    encoder, words = model.model.encoder, [*SENTENCE.split(), "</s>"]
    attention = encoder.layers[0].self_attn
    outputs = encoder(toys.encode([SENTENCE], ENGLISH), output_hidden_states=True, output_attentions=True)
    states, size = outputs.hidden_states[0][0], attention.head_dim
    of_heads = [
        projection(states).split(size, dim=-1) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]
    given = [(q @ k.T / math.sqrt(size)).softmax(-1) @ v for q, k, v in zip(*of_heads, strict=True)]
    agree(attention.out_proj(torch.cat(given, dim=-1)), attention(states[None])[0][0])
    query, key, _ = (parts[HEAD] for parts in of_heads)
    products = query @ key.T
    scores = products / math.sqrt(size)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    agree(weights, outputs.attentions[0][0, HEAD])
    word = words.index(ASKING)
    looked = int(weights[word].argmax())
    return {
        "size": size,
        "heads": model.config.encoder_attention_heads,
        "layers": model.config.encoder_layers,
        "head": HEAD + 1,
        "word": words[word],
        "looked": words[looked],
        "query": numbers(query),
        "key": numbers(key),
        "one_query": numbers(query[word]),
        "one_key": numbers(key[looked]),
        "one_by_one": numbers(query[word] * key[looked]),
        "products": numbers(products[word]),
        "scores": numbers(scores[word]),
        "powers": numbers(scores[word].exp()),
        "sum": round(float(scores[word].exp().sum()), 4),
        "weights": numbers(weights[word]),
        "all_scores": numbers(scores),
        "every": [[numbers(head) for head in layer[0]] for layer in outputs.attentions],
    }


@torch.no_grad()
def of_layer(model: Model) -> Values:
    """Add & norm and the feed-forward network of the encoder's first layer, at one word."""
    encoder, words = model.model.encoder, [*SENTENCE.split(), "</s>"]
    layer = encoder.layers[0]
    outputs = encoder(toys.encode([SENTENCE], ENGLISH), output_hidden_states=True)
    before = outputs.hidden_states[0]
    attended, _ = layer.self_attn(before)

    def norm(states: torch.Tensor, module: Any) -> torch.Tensor:
        mean, variance = states.mean(-1, keepdim=True), states.var(-1, unbiased=False, keepdim=True)
        return (states - mean) / (variance + module.eps).sqrt() * module.weight + module.bias

    added = before + attended
    normed = norm(added, layer.self_attn_layer_norm)
    inner = torch.relu(layer.fc1(normed))
    out = layer.fc2(inner)
    after = norm(normed + out, layer.final_layer_norm)
    agree(after, outputs.hidden_states[1])
    word = words.index(NORMED)
    at = {"before": before, "attended": attended, "added": added, "normed": normed, "out": out, "after": after}
    plain = (added[0, word] - added[0, word].mean()) / added[0, word].std(unbiased=False)
    return {
        "word": words[word],
        "inner_width": inner.shape[-1],
        "mean": round(float(added[0, word].mean()), 4),
        "deviation": round(float(added[0, word].std(unbiased=False)), 4),
        "plain": numbers(plain)[:SHOWN],
        "zeros": int((inner[0, word] == 0).sum()),
        "inner": numbers(inner[0]),
        **{name: numbers(states[0]) for name, states in at.items()},
    }


@torch.no_grad()
def of_decoder(model: Model) -> Values:
    """The causal mask at work, the probabilities of every next word, greedy's sentence and the beams'."""
    input_ids = toys.encode([SENTENCE], ENGLISH)
    greedy = toys.translated(model, [SENTENCE])[0].split()
    fed = torch.tensor([[1, *(FRENCH.index(word) for word in greedy)]])
    outputs = model(input_ids=input_ids, decoder_input_ids=fed, output_attentions=True)
    shorter = model(input_ids=input_ids, decoder_input_ids=fed[:, :3]).logits
    agree(shorter, outputs.logits[:, :3])  # what comes later changes nothing before it
    chances = outputs.logits[0].softmax(-1)
    path = [float(chances[step, FRENCH.index(word)]) for step, word in enumerate([*greedy, "</s>"])]
    tree = beams(model, input_ids)
    best = max((node for step in tree for node in step if node["kept"] and node["word"] == "</s>"), key=probability)
    assert best["text"] == toys.translated(model, [SENTENCE], num_beams=BEAMS)[0]
    return {
        "parameters": model.num_parameters(),
        "read": ["<s>", *greedy],
        "greedy": " ".join(greedy),
        "steps": [ranked(scores, 4) for scores in outputs.logits[0]],
        "path": [round(p, 4) for p in path],
        "product": round(math.prod(path), 4),
        "mask": [[numbers(head) for head in layer[0]] for layer in outputs.decoder_attentions],
        "beams": BEAMS,
        "tree": tree,
        "best": best["text"],
        "best_probability": best["probability"],
    }


def probability(node: Values) -> float:
    """Of all of a beam's words together."""
    return node["probability"]


def beams(model: Model, input_ids: torch.Tensor) -> list[list[Values]]:
    """Beam search, drawn as a tree: at each step the best continuations of every beam, and which of them are kept.

    Beams that have ended stand aside; the search is over when none of the others is better.
    """
    alive: list[Values] = [{"name": "", "ids": [1], "text": "", "probability": 1.0}]
    ended, tree = 0.0, []
    while alive:
        step = []
        for beam in alive:
            logits = model(input_ids=input_ids, decoder_input_ids=torch.tensor([beam["ids"]])).logits[0, -1]
            for p, index in zip(*(found.tolist() for found in logits.softmax(-1).topk(BEAMS)), strict=True):
                ids = [*beam["ids"], index]
                step.append(
                    {
                        "from": beam["text"], "word": FRENCH[index], "ids": ids, "text": toys.decode(ids, FRENCH),
                        "chance": round(p, 4), "probability": beam["probability"] * p,
                    }
                )  # fmt: skip
        step.sort(key=probability, reverse=True)
        for place, node in enumerate(step):
            node["kept"] = place < BEAMS and node["probability"] > ended
        alive = [node for node in step if node["kept"] and node["word"] != "</s>"]
        ended = max([ended, *(node["probability"] for node in step if node["kept"] and node["word"] == "</s>")])
        tree.append(step)
    for step in tree:
        for node in step:
            node["probability"] = round(node["probability"], 4)
            del node["ids"]
    return tree


def of_bottleneck(models: dict[str, Model]) -> Values:
    """Percent of sentences without a fault, by their clauses."""
    return {
        "clauses": [1, 2, 3, 4],
        "sentences": SENTENCES,
        **{
            name: [round(100 * toys.right(models[name], clauses, SENTENCES)) for clauses in (1, 2, 3, 4)]
            for name in ("gru", "attention", "transformer")
        },
    }


def of_base() -> Values:
    """Shapes and parameters of the default Transformer, the paper's base model; nothing is computed with it."""
    config = TransformerSeq2SeqConfig()
    with torch.device("meta"):
        model: Model = TransformerSeq2SeqForConditionalGeneration(config)
    layer = model.model.encoder.layers[0]
    return {
        "vocabulary": config.vocab_size,
        "width": config.d_model,
        "heads": config.encoder_attention_heads,
        "head_size": layer.self_attn.head_dim,
        "inner": config.encoder_ffn_dim,
        "layers": config.encoder_layers,
        "attention": count(layer.self_attn),
        "feed_forward": count(layer.fc1) + count(layer.fc2),
        "norms": count(layer.self_attn_layer_norm) + count(layer.final_layer_norm),
        "layer": count(layer),
        "decoder_layer": count(model.model.decoder.layers[0]),
        "embeddings": count(model.model.shared),
        "whole": model.num_parameters(),
    }


def count(module: Any) -> int:
    """Its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def walk() -> Values:
    """Sends the sentence through the four trained models."""
    models = {kind: toys.load(kind) for kind in toys.WIDTHS}
    return {
        "task": {
            "pairs": [list(pair) for pair in examples()],
            "now": [100 * count / sum(toys.NOW.values()) for count in toys.NOW.values()],
            "steps": toys.STEPS, "batch": toys.BATCH,
        },
        "ids": of_ids(),
        "gru": of_gru(models["gru"]),
        "gradient": of_gradient(models["rnn"], models["gru"]),
        "bottleneck": of_bottleneck(models),
        "attention": of_attention(models["attention"]),
        "positions": of_positions(models["transformer"]),
        "head": of_head(models["transformer"]),
        "layer": of_layer(models["transformer"]),
        "base": of_base(),
        "decoder": of_decoder(models["transformer"]),
    }  # fmt: skip


def examples() -> list[tuple[str, str]]:
    """A few pairs of the training."""
    rng = toys.random.Random(3)
    return [toys.sentence(rng, clauses) for clauses in (1, 1, 1, 2)]
