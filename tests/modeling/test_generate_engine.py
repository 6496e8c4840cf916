"""Watermarks, caches, compilation, drafts and half precision of `generate`, for every family."""

import copy
import shutil

import pytest
import torch
from helpers.features import EVERY_COLUMN, forced, marian
from helpers.generating import END, generate, sentences, trained
from helpers.tiny import SEPARATE, SOURCES, START, close, has_implementations, is_recurrent, tiny
from transformers import (
    WatermarkDetector,
    WatermarkingConfig,
)
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.generation import (
    CompileConfig,
)

pytestmark = pytest.mark.slow


@pytest.fixture(params=EVERY_COLUMN)
def name(request):
    """Models of every column."""
    return request.param


@pytest.fixture
def model(name):
    """Models of every column, taught; those who change one copy it."""
    return trained(name)


def test_watermarking(model):
    """Each token chooses the 5 of 20 that the next one may well be; another model is marked just so."""
    options = {"do_sample": True, "top_k": 0, "min_new_tokens": 30, "max_new_tokens": 30}
    mark = WatermarkingConfig(bias=12.0, greenlist_ratio=0.25)
    for marked in (model, marian()):
        outputs = generate(marked, watermarking_config=mark, output_logits=True, **options)
        favourites = {}
        for step, (scores, logits) in enumerate(zip(outputs.scores, outputs.logits, strict=True)):
            for row in range(4):
                bias = (scores[row] - logits[row]).nan_to_num(0.0)
                favoured = set((bias > 6).nonzero().flatten().tolist())
                assert favourites.setdefault(int(outputs.sequences[row, step]), favoured) - {END} == favoured - {END}
                assert len(favoured) in (4, 5)  # the end may be one and is forbidden here
        assert len(set(map(tuple, favourites.values()))) > 1
        detector = WatermarkDetector(model_config=marked.config, device="cpu", watermarking_config=mark)
        found, plain = detector(outputs.sequences, return_dict=True), generate(marked, **options).sequences
        assert found.prediction.all()
        assert (found.z_score > detector(plain, return_dict=True).z_score).all()


def test_dynamic_cache(model):
    for options in ({"min_new_tokens": 12, "max_new_tokens": 12}, {"num_beams": 4, "num_return_sequences": 4}):
        cached, plain = (generate(model, use_cache=use_cache, **options) for use_cache in (True, False))
        assert isinstance(cached.past_key_values, EncoderDecoderCache if has_implementations(model) else Cache)
        assert plain.past_key_values is None
        assert torch.equal(cached.sequences, plain.sequences)
        for first, second in zip(cached.scores, plain.scores, strict=True):
            close(first, second, 1e-4)


def test_static_cache(model):
    options = {"cache_implementation": "static", "disable_compile": True}
    if is_recurrent(model):
        with pytest.raises(ValueError, match=r"cache_implementation='static'.*leave cache_implementation out"):
            generate(model, **options)
        return
    for more in ({}, {"num_beams": 3, "num_return_sequences": 3}):
        expected, found = generate(model, **more), generate(model, **more, **options)
        assert torch.equal(found.sequences, expected.sequences)
        for first, second in zip(found.scores, expected.scores, strict=True):
            close(first, second, 1e-4)


def test_quantized_cache(model):
    with pytest.raises(ValueError, match="quantized"):
        generate(model, cache_implementation="quantized")
    with pytest.raises(ValueError, match="quantized"):
        generate(marian(), cache_implementation="quantized")


def test_compile(model):
    """A compiled forward gives the same tokens; a Transformer's is one graph."""
    torch._dynamo.reset()
    expected, compiled = generate(model), copy.deepcopy(model)
    try:
        compiled.forward = torch.compile(compiled.forward, backend="eager", fullgraph=not is_recurrent(model))
        assert torch.equal(generate(compiled).sequences, expected.sequences)
    finally:
        torch._dynamo.reset()


def test_compile_config(model):
    """`generate` compiles by itself where a static cache lets it."""
    if is_recurrent(model):
        with pytest.raises(ValueError, match=r"cache_implementation='static'"):
            generate(model, cache_implementation="static", compile_config=CompileConfig())
        return
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    expected = generate(model).sequences
    own = trained("post-norm") is model and shutil.which("g++")
    for kind in (backend, "inductor") if own else (backend,):  # inductor writes C++
        torch._dynamo.reset()
        config = CompileConfig(backend=kind, fullgraph=True, mode=None)
        config._compile_all_devices = True  # else on a GPU alone
        outputs = generate(copy.deepcopy(model), cache_implementation="static", compile_config=config)
        assert torch.equal(outputs.sequences, expected)
    assert graphs
    torch._dynamo.reset()


def passes(model, **options):
    """Sequences of the first source, and how often the model was run for them."""
    runs = []
    handle = model.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        return generate(model, SOURCES[:1], **options).sequences, len(runs)
    finally:
        handle.remove()


def test_prompt_lookup_decoding(model):
    """Tokens said before are proposed again: the result is the greedy one, in fewer passes."""
    options = {"suppress_tokens": [END], "max_new_tokens": 40}  # whoever may not stop repeats itself
    expected, number = passes(model, **options)
    assert number == 40
    found, number = passes(model, prompt_lookup_num_tokens=3, **options)
    assert torch.equal(found, expected)
    assert number < 40


def test_prompt_lookup_decoding_of_two_vocabularies(name):
    """The target's may be the larger."""
    model = tiny(name, **SEPARATE)
    prefix = {"decoder_input_ids": torch.tensor([[START, 21, 22, 21, 22, 21]])}
    expected, _ = passes(model, **prefix)
    found, _ = passes(model, prompt_lookup_num_tokens=3, **prefix)
    assert torch.equal(found, expected)


def test_assisted_decoding(model):
    options = {"min_new_tokens": 12, "max_new_tokens": 12}
    expected, number = passes(model, **options)
    assert number == 12
    for assistant, is_good in ((copy.deepcopy(model), True), (tiny("gru-bahdanau"), False), (tiny("rotary"), False)):
        found, number = passes(model, assistant_model=assistant, **options)
        assert torch.equal(found, expected)
        assert number < 12 if is_good else number <= 12
        sampled, _ = passes(model, assistant_model=assistant, do_sample=True, top_k=1, **options)
        assert torch.equal(sampled, expected)
    with pytest.raises(ValueError, match="batch_size = 1"):
        generate(model, assistant_model=model)


def test_classifier_free_guidance(model):
    """`generate` would run the unconditional text as a decoder-only model's input: no encoder-decoder can take it."""
    for refusing in (model, marian()):
        with pytest.raises(ValueError, match="decoder"):
            generate(refusing, guidance_scale=1.5)


def test_strategies_moved_to_the_hub(model):
    for options in (
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"num_beams": 2, "force_words_ids": [[5]]},
        {"dola_layers": "low"},
    ):
        with pytest.raises(ValueError, match="requires `trust_remote_code=True`"):
            generate(model, **options)


def test_half_precision(model):
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)
        for num_beams in (1, 2):
            outputs = generate(half, num_beams=num_beams, output_logits=True)
            assert torch.stack(outputs.scores).isnan().sum() == 0
            expected = forced(model, outputs.sequences).logits
            if num_beams == 1:
                for row, tokens in enumerate(sentences(outputs)):
                    found = torch.stack([logits[row] for logits in outputs.logits[: len(tokens)]])
                    close(found, expected[row, : len(tokens)], 0.25)
