"""What `generate` promises for every model: cache, batch and padding change nothing, and scores are the model's own."""

import copy

import pytest
import torch
from helpers.generating import END, generate, sentences, trained
from helpers.tiny import (
    EVERY,
    HYBRIDS,
    RNNS,
    SOURCES,
    START,
    TARGETS,
    TRANSFORMERS,
    VOCAB,
    batch,
    close,
    has_implementations,
    pad,
    tiny,
)
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

pytestmark = pytest.mark.slow

WAYS = {
    "greedy": {"min_new_tokens": 16, "max_new_tokens": 16},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "short-beams": {"num_beams": 4, "length_penalty": -1.0, "early_stopping": True},
    "long-beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": "never"},
    "samples": {"do_sample": True, "top_k": 0, "temperature": 1.5, "num_return_sequences": 3},
}


@pytest.fixture(params=list(EVERY))
def model(request):
    """Every tiny model, taught; shared by the tests, which leave it as it is."""
    return trained(request.param)


@pytest.fixture(params=[*RNNS, *HYBRIDS])
def recurrent(request):
    """Every one whose decoder carries a state, taught."""
    return trained(request.param)


@pytest.fixture(params=list(TRANSFORMERS))
def transformer(request):
    """Every Transformer, taught."""
    return trained(request.param)


def test_says_what_it_was_taught(model):
    outputs = generate(model)
    assert sentences(outputs) == TARGETS
    assert (outputs.sequences[:, 0] == START).all()
    rest = outputs.sequences[3, 3:]  # of the shortest
    assert (rest == model.config.pad_token_id).all()


@pytest.mark.parametrize("way", list(WAYS))
def test_cache_changes_nothing(model, way):
    cached, plain = (generate(model, use_cache=use_cache, **WAYS[way]) for use_cache in (True, False))
    assert isinstance(cached.past_key_values, EncoderDecoderCache if has_implementations(model) else Cache)
    assert plain.past_key_values is None
    assert torch.equal(cached.sequences, plain.sequences)
    for first, second in zip(cached.scores, plain.scores, strict=True):
        close(first, second, 1e-4)
    if "num_beams" in WAYS[way]:
        close(cached.sequences_scores, plain.sequences_scores)


@pytest.mark.parametrize("beams", [1, 5])
def test_padding_and_batch_mates_change_nothing(model, beams):
    options = {"num_beams": beams, "num_return_sequences": beams}
    alone = [generate(model, [source], **options) for source in SOURCES]
    for side in ("left", "right"):
        together = generate(model, side=side, extra=2, **options)
        for i, outputs in enumerate(alone):
            assert sentences(outputs)[0] == sentences(together)[i * beams]
            if beams > 1:  # the others by their scores: two may be as good as equal
                close(outputs.sequences_scores, together.sequences_scores[i * beams :][:beams], 1e-4)


@pytest.mark.parametrize("penalty", [0.0, 0.6])
def test_score_of_a_beam_is_the_models_own(model, penalty):
    outputs = generate(model, num_beams=4, num_return_sequences=4, length_penalty=penalty)
    found = sentences(outputs)
    for i in range(4):
        assert len({tuple(sentence) for sentence in found[4 * i : 4 * i + 4]}) == 4
    labels, is_token = pad(found)
    input_ids, attention_mask = (tensor.repeat_interleave(4, dim=0) for tensor in pad(SOURCES))
    log_likelihoods = model(input_ids, attention_mask=attention_mask, labels=labels).logits.log_softmax(-1)
    totals = (log_likelihoods.gather(-1, labels[..., None]).squeeze(-1) * is_token).sum(-1)
    close(outputs.sequences_scores, totals / is_token.sum(-1) ** penalty, 1e-4)


def test_beams_find_the_best_there_is(model):
    """As many beams as there are pairs of tokens leave nothing out."""
    vocab = model.config.decoder_vocab_size
    source = torch.tensor(SOURCES[:1])
    best = generate(model, SOURCES[:1], num_beams=vocab, max_new_tokens=2, length_penalty=0.0).sequences[0]
    pairs = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))  # (vocab², 2)
    logits = model(source.expand(len(pairs), -1), labels=pairs).logits.log_softmax(-1)
    totals = logits.gather(-1, pairs[..., None]).squeeze(-1)
    totals[pairs[:, 0] == END, 1] = 0  # nothing comes after the end
    likeliest = pairs[totals.sum(-1).argmax()].tolist()
    assert best[1:].tolist()[: len(likeliest)] == likeliest or END in likeliest[:1]


def test_prefix_is_continued(model):
    starts = torch.tensor([[START, *target[:1]] for target in TARGETS])
    for beams in (1, 3):
        outputs = generate(model, decoder_input_ids=starts, num_beams=beams)
        assert sentences(outputs) == TARGETS


def test_prefixes_of_different_lengths(model):
    """Padded on the left, they are continued as they would be alone."""
    prefixes = [[START, 4, 18], [START, 9], [START], [START, 7, 7, 3]]
    decoder_input_ids, decoder_attention_mask = pad(prefixes, "left")
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    cached, plain = (
        generate(
            model,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            use_cache=use_cache,
            **options,
        ).sequences
        for use_cache in (True, False)
    )
    assert torch.equal(cached, plain)
    for i, prefix in enumerate(prefixes):
        alone = generate(model, SOURCES[i : i + 1], decoder_input_ids=torch.tensor([prefix]), **options).sequences
        assert cached[i, 4 - len(prefix) :].tolist() == alone[0].tolist()


def test_prefixes_need_no_start(model):
    """`generate` puts it before them, and before their padding."""
    bare, mask = pad([[4, 18], [9], [15, 5], [7]], "left")
    whole, whole_mask = pad([[START, 4, 18], [START, 9], [START, 15, 5], [START, 7]], "inside")
    first, second = (
        generate(model, decoder_input_ids=ids, decoder_attention_mask=mask, num_beams=2)
        for ids, mask in ((bare, mask), (whole, whole_mask))
    )
    assert torch.equal(first.sequences, second.sequences)
    alone = generate(model, SOURCES[1:2], decoder_input_ids=torch.tensor([[START, 9]]), num_beams=2)
    assert sentences(first)[1][2:] == sentences(alone)[0][1:]


def test_source_in_other_forms(model):
    input_ids, attention_mask = pad(SOURCES)
    options = {"attention_mask": attention_mask, "max_new_tokens": 9, "num_beams": 3}
    expected = sentences(generate(model, num_beams=3))
    embeds = model.get_input_embeddings()(input_ids)
    assert sentences(model.generate(inputs_embeds=embeds, **options)) == expected
    encoder_outputs = model.get_encoder()(input_ids, attention_mask)
    assert sentences(model.generate(encoder_outputs=encoder_outputs, **options)) == expected


def test_streamer_gets_every_token(model):
    class Streamer:
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    streamer = Streamer()
    sequences = generate(model, SOURCES[:1], streamer=streamer).sequences
    assert streamer.tokens == sequences[0].tolist()
    assert streamer.ended


@pytest.mark.parametrize("beams", [1, 3])
def test_attention_maps_of_every_step(model, beams):
    model = copy.deepcopy(model)
    if has_implementations(model):
        model.set_attn_implementation("eager")
    outputs = generate(
        model, num_beams=beams, output_attentions=True, output_hidden_states=True, output_logits=True, min_new_tokens=5
    )
    steps = outputs.sequences.shape[1] - 1
    rows = 4 * beams
    assert len(outputs.scores) == len(outputs.logits) >= steps
    assert all(scores.shape == (rows, model.config.decoder_vocab_size) for scores in outputs.scores)
    assert all(len(states) == model.config.decoder_layers + 1 for states in outputs.decoder_hidden_states)
    assert all(state.shape[:2] == (rows, 1) for states in outputs.decoder_hidden_states for state in states)
    if getattr(model.config, "attention", None) == "none":
        assert not any(outputs.cross_attentions or ())
        return
    heads = getattr(model.config, "decoder_attention_heads", 1)
    for maps in outputs.cross_attentions:
        assert all(weights.shape == (rows, heads, 1, 7) for weights in maps)
    if beams == 1:  # the same maps as with the target given
        input_ids, attention_mask = pad(SOURCES)
        whole = model(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=outputs.sequences[:, :-1],
            output_attentions=True,
        )
        for layer, expected in enumerate(whole.cross_attentions):
            found = torch.cat([maps[layer] for maps in outputs.cross_attentions], dim=2)
            close(found, expected)


@pytest.mark.parametrize("side", [None, "left", "right", "inside"])
def test_target_may_come_in_pieces(model, side):
    input_ids, attention_mask = pad(SOURCES)
    decoder_input_ids, mask = pad(TARGETS, side or "right")
    is_token = mask.bool() if side else torch.ones_like(mask).bool()
    inputs = {"attention_mask": attention_mask, "encoder_outputs": model.get_encoder()(input_ids, attention_mask)}

    def run(start, end, **options):
        seen = {"decoder_attention_mask": mask[:, :end]} if side else {}
        return model(**inputs, decoder_input_ids=decoder_input_ids[:, start:end], **seen, **options)

    expected = run(0, 6, use_cache=False).logits
    for ends in ([1, 2, 3, 4, 5, 6], [2, 5, 6]):
        cache, logits = None, []
        for start, end in zip([0, *ends], ends, strict=False):
            outputs = run(start, end, use_cache=True, past_key_values=cache)
            cache = outputs.past_key_values
            assert cache.get_seq_length() == end
            logits.append(outputs.logits)
        close(torch.cat(logits, dim=1)[is_token], expected[is_token])


def test_cache_follows_its_beams(model):
    """After reordering, every row continues the row it was taken from."""
    source = torch.tensor(SOURCES[:1]).expand(3, -1)
    prefixes, following = torch.tensor([[START, 4], [START, 9], [START, 15]]), torch.tensor([[6], [8], [3]])
    order = torch.tensor([2, 0, 0])
    cache = model(source, decoder_input_ids=prefixes, use_cache=True).past_key_values
    cache.reorder_cache(order)
    found = model(source, decoder_input_ids=following, past_key_values=cache).logits[:, -1]
    whole = torch.cat((prefixes[order], following), dim=1)
    close(found, model(source, decoder_input_ids=whole).logits[:, -1])


def test_cache_follows_across_sentences(model):
    """A row may continue another sentence's: with its source, as much of that as the cache holds, too."""
    order = torch.tensor([2, 0, 0, 3])
    inputs = {name: ids for name, ids in batch().items() if name != "labels"}
    prefixes, following = torch.tensor([[START, 4], [START, 9], [START, 15], [START, 7]]), torch.tensor([[6], [8]] * 2)
    cache = model(**inputs, decoder_input_ids=prefixes, use_cache=True).past_key_values
    cache.reorder_cache(order)
    taken = {name: ids[order] for name, ids in inputs.items()}
    found = model(**taken, decoder_input_ids=following, past_key_values=cache).logits[:, -1]
    whole = torch.cat((prefixes[order], following), dim=1)
    close(found, model(**taken, decoder_input_ids=whole).logits[:, -1])


def test_cache_is_kept_only_when_asked_for(model):
    source, target = torch.tensor(SOURCES[:1]), torch.tensor(TARGETS[:1])
    assert model(source, decoder_input_ids=target).past_key_values is not None  # the config says so
    assert model(source, decoder_input_ids=target, use_cache=False).past_key_values is None
    assert model(source, labels=target).past_key_values is None


def test_drafted_tokens_change_nothing(model):
    """Prompt lookup and an assistant propose tokens; what is wrong is taken back, and the result is the greedy one."""
    drafts = [{"prompt_lookup_num_tokens": 3}, {"assistant_model": model}]
    if model.config.decoder_vocab_size == VOCAB:  # others that know nothing: nearly all they propose is refused
        drafts += [{"assistant_model": tiny("gru-bahdanau")}, {"assistant_model": tiny("rotary")}]
    expected = generate(model, SOURCES[:1], min_new_tokens=8).sequences
    for draft in drafts:
        assert torch.equal(generate(model, SOURCES[:1], min_new_tokens=8, **draft).sequences, expected)


def test_recurrent_state_does_not_grow(recurrent):
    sizes = set()
    for length in (1, 3, 30):
        cache = generate(recurrent, min_new_tokens=length, max_new_tokens=length).past_key_values
        assert cache.get_seq_length() == length
        layers = getattr(cache, "self_attention_cache", cache).layers
        held = [tensor for layer in layers for tensor in (*layer.tensors, layer.keys) if tensor is not None]
        assert all(tensor.shape[0] == len(SOURCES) for tensor in held)
        assert not any(layer.past for layer in layers)
        sizes.add(sum(tensor.numel() for tensor in held))
    assert len(sizes) == 1


@pytest.mark.parametrize("name", ["lstm-luong", "hybrid"])
@pytest.mark.parametrize("kind", ["static", "offloaded", "quantized"])
def test_recurrent_state_is_no_cache_of_keys_and_values(kind, name):
    with pytest.raises(ValueError, match=f"cache_implementation='{kind}'.*recurrent.*leave cache_implementation out"):
        generate(trained(name), cache_implementation=kind)


@pytest.mark.parametrize("beams", [1, 3])
def test_static_cache_changes_nothing(transformer, beams):
    expected, found = (
        generate(transformer, num_beams=beams, cache_implementation=kind, disable_compile=True)
        for kind in (None, "static")
    )
    assert torch.equal(found.sequences, expected.sequences)
    if beams > 1:
        close(found.sequences_scores, expected.sequences_scores)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_static_cache_knows_the_positions_of_padded_prefixes(transformer, implementation):
    transformer = copy.deepcopy(transformer)
    transformer.set_attn_implementation(implementation)
    decoder_input_ids, decoder_attention_mask = pad([[START, 4, 18], [START, 9], [START], [START, 7, 7, 3]], "left")
    dynamic, static = (
        generate(
            transformer, decoder_input_ids=decoder_input_ids, decoder_attention_mask=decoder_attention_mask,
            cache_implementation=kind, disable_compile=True,
        )
        for kind in (None, "static")
    )  # fmt: skip
    assert torch.equal(static.sequences, dynamic.sequences)
    for first, second in zip(static.scores, dynamic.scores, strict=True):
        close(first, second, 1e-4)


def test_recorded_states_are_taken_back(recurrent):
    model = recurrent
    inputs = {"encoder_outputs": model.get_encoder()(torch.tensor([SOURCES[0], SOURCES[0][::-1]]))}
    target, wrong = torch.tensor([[START, 4, 18, 6, 5], [START, 9, 16, 3, 7]]), torch.full((2, 4), 8)
    expected = model(**inputs, decoder_input_ids=target).logits
    for kept in (0, 2):  # back to before the first token, and to after the second
        cache = model.new_cache()
        cache.activate_past_recording()
        seen = torch.cat((target[:, :kept], wrong), dim=1)
        model(**inputs, decoder_input_ids=seen, past_key_values=cache)
        assert cache.get_seq_length() == kept + 4
        cache.crop(-4)
        assert cache.get_seq_length() == kept
        close(model(**inputs, decoder_input_ids=target[:, kept:], past_key_values=cache).logits, expected[:, kept:])
        with pytest.raises(ValueError, match=f"cannot take back {6 - kept} tokens: {5 - kept} earlier states"):
            cache.crop(kept - 6)


def test_a_cache_of_another_kind_is_refused(recurrent):
    inputs = {"input_ids": torch.tensor(SOURCES[:1]), "decoder_input_ids": torch.tensor([[START]])}
    for cache in (DynamicCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())):
        with pytest.raises(ValueError, match=f"{type(cache).__name__} that holds no recurrent state"):
            recurrent(**inputs, past_key_values=cache)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hybrid-lstm", {"decoder_layers": 1}), ("hybrid-lstm", {"d_model": 32}), ("hybrid-lstm", {"cell_type": "gru"}),
        ("lstm-luong-fed", {"decoder_layers": 1}), ("lstm-luong-fed", {"hidden_size": 32}),
        ("lstm-luong-fed", {"cell_type": "gru"}),
    ],
)  # fmt: skip
def test_a_state_of_another_model_is_refused(name, changes):
    inputs = {"input_ids": torch.tensor(SOURCES[:1]), "decoder_input_ids": torch.tensor([[START]])}
    cache = tiny(name, **changes)(**inputs).past_key_values
    with pytest.raises(
        ValueError, match=r"another model, [13] layers of [12] × (16|32) numbers, and this one has 3 layers of 2 × 16"
    ):
        tiny(name)(**inputs, past_key_values=cache)


def test_recurrent_state_is_repeated_chosen_and_forgotten(recurrent):
    input_ids, attention_mask = pad(SOURCES)
    following = torch.tensor([[6], [8], [3], [4]])

    def after(change, rows):
        cache = recurrent(
            input_ids, attention_mask=attention_mask, decoder_input_ids=following, use_cache=True
        ).past_key_values
        change(cache)
        return recurrent(
            input_ids[rows],
            attention_mask=attention_mask[rows],
            decoder_input_ids=following[rows],
            past_key_values=cache,
        ).logits[:, -1]

    twice = following.repeat(1, 2)
    expected = recurrent(input_ids, attention_mask=attention_mask, decoder_input_ids=twice).logits[:, -1]
    rows = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    close(after(lambda cache: cache.batch_repeat_interleave(2), rows), expected[rows])
    rows = torch.tensor([3, 1])
    close(after(lambda cache: cache.batch_select_indices(rows), rows), expected[rows])
    once = recurrent(input_ids, attention_mask=attention_mask, decoder_input_ids=following).logits[:, -1]
    close(after(lambda cache: cache.reset(), torch.arange(4)), once)


def test_generates_in_half_precision(model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    outputs = generate(half, num_beams=2)
    assert outputs.sequences_scores.isfinite().all()
    assert sentences(outputs)[3] == TARGETS[3]


def test_loaded_model_generates_the_same(model, tmp_path):
    """The saved folder knows where sentences start and end."""
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        assert getattr(loaded.generation_config, name) == getattr(model.config, name)
    assert sentences(generate(loaded)) == TARGETS


@pytest.mark.parametrize("name", ["lstm-luong", "hybrid", "post-norm"])
def test_memory_by_another_name(name):
    """transformers 5.24 says ``cache``."""
    model, given = tiny(name), {"decoder_input_ids": torch.tensor([[START]]), "use_cache": True}
    encoded = model.get_encoder()(torch.tensor(SOURCES[:1]))
    logits = []
    for key in ("past_key_values", "cache"):
        first = model(encoder_outputs=encoded, **given)
        given_again = given | {"decoder_input_ids": torch.tensor([[5]]), key: first.past_key_values}
        logits.append(model(encoder_outputs=encoded, **given_again).logits)
    assert torch.equal(*logits)
    assert not torch.equal(
        logits[0], model(encoder_outputs=encoded, **given | {"decoder_input_ids": torch.tensor([[5]])}).logits
    )
