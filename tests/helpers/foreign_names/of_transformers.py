"""Names of transformers, and what each must do."""

import functools
import inspect
import math
from contextlib import suppress

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, pipeline
from transformers.generation import GenerationMixin

import seqloom.modeling as ours
from helpers.foreign_names.table import SPECIAL, generate, leans_on, pair, watch, watch_reads, words
from helpers.tiny import SEPARATE, VOCAB, batch, close, tiny
from seqloom.decoding.asked import options_for
from seqloom.modeling import modeling_rnn_seq2seq, modeling_seq2seq, modeling_transformer_seq2seq
from seqloom.modeling.cache_rnn_seq2seq import RecurrentStateLayer
from seqloom.modeling.pipeline_seq2seq import TASK, Seq2SeqPipeline

# transformers: generation -------------------------------------------------------------------------------------------


@leans_on(
    "private", "transformers", "GenerationMixin._beam_search", "coverage",
    "`generate` returns the beams' best; the penalty orders all of them, before any is dropped",
)  # fmt: skip
def check_beam_search(monkeypatch):
    """It is what `generate` itself searches with, and without a penalty ours finds what that finds."""
    from seqloom.decoding.coverage import coverage_beam_search

    model = tiny("post-norm")
    callers = watch(monkeypatch, GenerationMixin, "_beam_search")
    plain = generate(model, num_beams=3, output_scores=True)
    assert callers == ["transformers"]
    again = generate(model, num_beams=3, custom_generate=coverage_beam_search, coverage_penalty=0.0)
    assert callers == ["transformers", "seqloom"]
    assert torch.equal(plain.sequences, again.sequences)
    close(plain.sequences_scores, again.sequences_scores)


@leans_on(
    "private", "transformers", "GenerationMixin._prepare_cache_for_generation", "cache_rnn_seq2seq",
    "nothing else lets a model choose the cache that `generate` makes",
)  # fmt: skip
def check_cache_preparation(monkeypatch):
    """`generate` calls ours, and goes on with the cache that it puts into the arguments."""
    callers = watch(monkeypatch, ours.RnnSeq2SeqForConditionalGeneration, "_prepare_cache_for_generation")
    outputs = generate(tiny("gru-bahdanau"))
    assert callers == ["transformers"]
    assert [type(layer) for layer in outputs.past_key_values.layers] == [RecurrentStateLayer]


@leans_on(
    "private", "transformers", "GenerationMixin._get_candidate_generator", "modeling_seq2seq",
    "`generate` sizes prompt lookup's drafts by the config's vocab_size, which is the source's",
)  # fmt: skip
def check_candidate_generator(monkeypatch):
    """`generate` calls ours; what it returns has the vocabulary's size, and uses it."""
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    sizes = []
    original = PromptLookupCandidateGenerator.get_candidates

    def drafts(self, *args, **kwargs):
        sizes.append(self.vocab_size)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PromptLookupCandidateGenerator, "get_candidates", drafts)
    callers = watch(monkeypatch, modeling_seq2seq.Seq2SeqHeadMixin, "_get_candidate_generator")
    model = tiny("gelu-separate")
    inputs = {"input_ids": torch.tensor([[5, 9, 5, 9, 2]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    model.generate(**inputs, max_new_tokens=6, prompt_lookup_num_tokens=2)
    assert callers == ["transformers"]
    assert set(sizes) == {SEPARATE["decoder_vocab_size"]}
    assert "vocab_size" in original.__code__.co_names


@leans_on(
    "private", "transformers", "GenerationMixin._prepare_generation_config", "modeling_seq2seq asked",
    "`generate` prefers the max_new_tokens that is saved with a model to the max_length of a call",
)  # fmt: skip
def check_generation_config(monkeypatch):
    """`generate` calls ours, and counts by what it returns."""
    callers = watch(monkeypatch, modeling_seq2seq.Seq2SeqHeadMixin, "_prepare_generation_config")
    model = tiny("post-norm")
    model.generation_config.max_new_tokens = 9
    found = model.generate(torch.tensor([[5, 9, 2]]), max_length=4, suppress_tokens=[2])
    assert callers == ["transformers"]
    assert found.shape[1] == 4


@leans_on(
    "private", "transformers",
    "GenerationMixin._prepare_generated_length | GenerationMixin._prepare_special_tokens | "
    "GenerationMixin._validate_generation_mode", "asked",
    "what `generate` makes of a model's generation config and a caller's options is known to it alone",
)  # fmt: skip
def check_generation_preparation(monkeypatch, name):
    """`generate` calls it too, before it decodes, with the arguments that we give."""
    model = tiny("post-norm")
    callers = watch(monkeypatch, GenerationMixin, name)
    generate(model, num_beams=2)
    assert callers == ["transformers"]
    options = options_for(model, {"max_new_tokens": 7, "num_beams": 2, "min_length": 3, "eos_token_id": [2, 5]})
    assert callers == ["transformers", "seqloom"]
    assert (options.max_new_tokens, options.min_new_tokens, options.eos_tokens) == (7, 2, (2, 5))


@leans_on(
    "private", "transformers",
    "GenerationConfig._decoder_start_token_tensor | GenerationConfig._eos_token_tensor | "
    "GenerationConfig._pad_token_tensor | GenerationConfig._get_default_generation_params", "asked",
    "where `generate` keeps the ids that it resolved, and the values that change nothing",
)  # fmt: skip
def check_generation_config_internals():
    """They are the ids that were given; and a plain config's values are those of the defaults."""
    model = tiny("post-norm")
    config, _ = model._prepare_generation_config(None, decoder_start_token_id=7, eos_token_id=[5, 6], pad_token_id=4)
    model._prepare_special_tokens(config, True, device="cpu")
    assert config._decoder_start_token_tensor.flatten().tolist() == [7]
    assert config._eos_token_tensor.tolist() == [5, 6]
    assert int(config._pad_token_tensor) == 4
    assert config._get_default_generation_params().items() >= {"num_beams": 1, "repetition_penalty": 1.0}.items()


@leans_on(
    "hook", "transformers", "CacheLayerMixin", "cache_rnn_seq2seq",
    "the decoder's state is a layer of a `Cache`, whose methods the cache calls by these names",
)  # fmt: skip
def check_cache_layer(monkeypatch):
    """Each method of ours that the base class or other layers have too is called by `Cache` itself."""
    from transformers.cache_utils import Cache, CacheLayerMixin

    assert issubclass(RecurrentStateLayer, CacheLayerMixin)
    calls = {
        "activate_past_recording": (),
        "get_seq_length": (),
        "get_max_length": (),
        "get_mask_sizes": (1, 0),
        "reorder_cache": (torch.tensor([1, 0]),),
        "batch_repeat_interleave": (2,),
        "batch_select_indices": (torch.tensor([1]),),
        "crop": (-1,),
        "reset": (),
    }
    for method, arguments in calls.items():
        layer = RecurrentStateLayer()
        layer.record_past = True
        layer.update((torch.ones(2, 3),), torch.ones(2, 2, 3))
        callers = watch(monkeypatch, RecurrentStateLayer, method)
        getattr(Cache(layers=[layer]), method)(*arguments)
        assert callers[:1] == ["transformers"], method
    for flag in ("is_croppable", "supports_early_init"):
        readers = watch_reads(monkeypatch, RecurrentStateLayer, flag)
        cache = Cache(layers=[RecurrentStateLayer()])
        assert cache.is_croppable
        cache.early_initialization(1, 1, 1, torch.float32, "cpu")
        assert "transformers" in readers, flag
    # Some caches call these; `update` goes on to `store`, which the model calls.
    others = {"offload", "prefetch", "lazy_initialization", "update"}
    assert others <= set(dir(CacheLayerMixin))
    assert {method for method in vars(RecurrentStateLayer) if not method.startswith("_")} == {
        *calls, *others, "is_croppable", "supports_early_init", "store",
    }  # fmt: skip


# transformers: models -----------------------------------------------------------------------------------------------


@leans_on(
    "private", "transformers", "PreTrainedModel._init_weights",
    "modeling_hybrid_seq2seq modeling_rnn_seq2seq modeling_transformer_seq2seq",
    "the documented place for a model's initialisation",
)  # fmt: skip
def check_init_weights(monkeypatch):
    """Making a model calls ours for its modules, and there is one to go on to."""
    assert callable(PreTrainedModel._init_weights)
    for family, name in (
        (modeling_rnn_seq2seq.RnnSeq2SeqPreTrainedModel, "gru"),
        (modeling_transformer_seq2seq.TransformerSeq2SeqPreTrainedModel, "post-norm"),
    ):
        callers = watch(monkeypatch, family, "_init_weights")
        tiny(name)
        assert "transformers" in callers


@leans_on(
    "private", "transformers", "PreTrainedModel._tied_weights_keys",
    "modeling_rnn_seq2seq modeling_transformer_seq2seq",
    "the documented list of matrices that are one; ours depends on the config",
)  # fmt: skip
def check_tied_weights_keys():
    """The matrices are made one by one, and tied by the library, by this list alone."""
    for name in ("gru", "post-norm"):
        model = tiny(name)
        assert model.lm_head.weight is model.model.shared.weight
        assert model.model.decoder.embed_tokens.weight is model.model.shared.weight
        assert model.all_tied_weights_keys == model._tied_weights_keys


@leans_on(
    "private", "transformers", "PreTrainedModel._no_split_modules",
    "modeling_hybrid_seq2seq modeling_rnn_seq2seq modeling_transformer_seq2seq",
    "the documented list of layers that stay whole on a device; FSDP wraps by it",
)  # fmt: skip
def check_no_split_modules(monkeypatch):
    """The library gathers it from a model's parts, and Accelerate's FSDP2 wraps these layers."""
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    for name in ("gru", "post-norm"):
        model = tiny(name)
        expected = set(type(model)._no_split_modules)
        assert vars(model)["_no_split_modules"] == expected
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy=transformer_auto_wrap_policy)
        plugin.set_auto_wrap_policy(model)
        assert {layer.__name__ for layer in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]} == expected


@leans_on(
    "private", "transformers",
    "PreTrainedModel._supports_sdpa | PreTrainedModel._supports_flash_attn | PreTrainedModel._supports_flex_attn",
    "modeling_transformer_seq2seq",
    "the documented flags by which a model is given another attention",
)  # fmt: skip
def check_attention_flags(monkeypatch, name):
    """It is asked before a model gets that attention."""
    attentions = {
        "_supports_sdpa": "sdpa",
        "_supports_flash_attn": "flash_attention_2",
        "_supports_flex_attn": "flex_attention",
    }
    readers = watch_reads(monkeypatch, modeling_transformer_seq2seq.TransformerSeq2SeqPreTrainedModel, name)
    model = tiny("post-norm", attn_implementation="eager")
    readers.clear()
    with suppress(ImportError):  # FlashAttention is a package of its own, missed after the flag was read
        model.get_correct_attn_implementation(attentions[name])
    assert "transformers" in readers


@leans_on(
    "private", "transformers", "PreTrainedModel._can_compile_fullgraph",
    "modeling_hybrid_seq2seq modeling_transformer_seq2seq",
    "the documented flag of models that compile in one graph; transformers 5.23 itself reads it nowhere",
)  # fmt: skip
def check_can_compile_fullgraph():
    """It is a flag of every model."""
    assert isinstance(PreTrainedModel._can_compile_fullgraph, bool)


@leans_on(
    "private", "transformers", "PreTrainedModel._can_record_outputs",
    "modeling_hybrid_seq2seq modeling_transformer_seq2seq",
    "the documented table of the layers whose outputs `capture_outputs` returns",
)  # fmt: skip
def check_can_record_outputs(monkeypatch):
    """The library reads it, and returns what it names: no code of ours gathers hidden states."""
    readers = [
        watch_reads(monkeypatch, stack, "_can_record_outputs")
        for stack in (
            modeling_transformer_seq2seq.TransformerSeq2SeqEncoder,
            modeling_transformer_seq2seq.TransformerSeq2SeqDecoder,
        )
    ]
    model = tiny("post-norm", attn_implementation="eager")
    assert all("transformers" in some for some in readers)
    outputs = model(**batch(), output_hidden_states=True, output_attentions=True)
    assert len(outputs.encoder_hidden_states) == len(outputs.encoder_attentions) + 1 == 3
    assert len(outputs.decoder_hidden_states) == 4
    assert len(outputs.decoder_attentions) == len(outputs.cross_attentions) == 3


@leans_on(
    "private", "transformers", "PreTrainedConfig._attn_implementation",
    "learner loading modeling_transformer_seq2seq positions_transformer_seq2seq",
    "no public name tells which attention a model runs on; public are only the ways to set it",
)  # fmt: skip
def check_attn_implementation():
    """It is what was set, in the config, and follows `set_attn_implementation`."""
    from seqloom.decoding.loading import eager_attention

    model = tiny("post-norm", attn_implementation="sdpa")
    assert model.config._attn_implementation == "sdpa"
    model.model.decoder.layers[0].self_attn.register_forward_hook(lambda module, inputs, output: seen.append(output[1]))
    seen = []
    with eager_attention(model):
        assert model.config._attn_implementation == "eager"
        model(**batch())
    assert model.config._attn_implementation == "sdpa"
    model(**batch())
    assert [weights is None for weights in seen] == [False, True]


@leans_on(
    "private", "transformers",
    "PreTrainedModel._resize_token_embeddings | PreTrainedModel._get_resized_embeddings | "
    "PreTrainedModel._get_resized_lm_head",
    "modeling_seq2seq",
    "`resize_token_embeddings` knows one vocabulary, and there are three matrices of two",
)  # fmt: skip
def check_resizing(monkeypatch, name):
    """`resize_token_embeddings` calls ours, which has the library make the new matrices."""
    is_ours = name == "_resize_token_embeddings"
    callers = watch(monkeypatch, modeling_seq2seq.Seq2SeqEmbeddingsMixin if is_ours else PreTrainedModel, name)
    model = tiny("gru")
    before = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(VOCAB + 3)
    assert ("transformers" if is_ours else "seqloom") in callers
    assert model.lm_head.weight.shape[0] == model.config.vocab_size == VOCAB + 3
    assert torch.equal(model.get_input_embeddings().weight[:VOCAB], before)


# transformers: pipeline and tokenizer -------------------------------------------------------------------------------


@leans_on(
    "private", "transformers",
    "Pipeline._sanitize_parameters | Pipeline._forward | Pipeline._load_tokenizer | Pipeline._load_processor | "
    "Pipeline._load_image_processor | Pipeline._load_feature_extractor",
    "pipeline_seq2seq",
    "the documented parts of a pipeline, and what `pipeline` loads for it",
)  # fmt: skip
def check_pipeline(monkeypatch, tmp_path, name):
    """`pipeline` reads the flags, and a call goes through both methods."""
    tiny("gru").save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=words(), **SPECIAL).save_pretrained(tmp_path)
    callers = (watch_reads if name.startswith("_load") else watch)(monkeypatch, Seq2SeqPipeline, name)
    pipe = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert pipe.tokenizer is not None
    pipe("a b c", max_new_tokens=3)
    assert "transformers" in callers


@leans_on(
    "private", "transformers", "PreTrainedTokenizerBase._decode", "tokenization_seq2seq_pair",
    "every way to decode goes through it, and a pair reads the target's ids unless told otherwise",
)  # fmt: skip
def check_decode(monkeypatch):
    """`decode` and `batch_decode` go through ours, with all that they were given."""
    callers = watch(monkeypatch, ours.Seq2SeqPairTokenizer, "_decode")
    tokenizer = pair()
    assert tokenizer.decode([4, 5]) == "a b"
    assert tokenizer.batch_decode([[4, 12], [5, 6]], use_source_tokenizer=True) == ["a i", "b c"]
    assert callers == ["transformers"] * 3


@leans_on(
    "private", "transformers", "PreTrainedTokenizerBase._save_pretrained", "tokenization_seq2seq_pair",
    "a pair's second file is among those that are saved, and pushed",
)  # fmt: skip
def check_save_pretrained(monkeypatch, tmp_path):
    """`save_pretrained` calls ours, and returns what it returns."""
    callers = watch(monkeypatch, ours.Seq2SeqPairTokenizer, "_save_pretrained")
    saved = pair().save_pretrained(tmp_path)
    assert callers == ["transformers"]
    assert str(tmp_path / "target_tokenizer.json") in saved


@leans_on(
    "hook", "transformers", "PreTrainedTokenizerBase.convert_to_native_format", "tokenization_seq2seq_pair",
    "the inherited one takes tokenizer.json apart, and a pair reads it as it is",
)  # fmt: skip
def check_native_format(monkeypatch, tmp_path):
    """`from_pretrained` calls ours."""
    pair().save_pretrained(tmp_path)
    callers = watch(monkeypatch, ours.Seq2SeqPairTokenizer, "convert_to_native_format")
    AutoTokenizer.from_pretrained(tmp_path)
    assert callers == ["transformers"]


# transformers: modules that are in no reference ---------------------------------------------------------------------


@leans_on(
    "module", "transformers", "transformers.cache_utils",
    "cache_rnn_seq2seq generate_calls modeling_hybrid_seq2seq modeling_rnn_seq2seq modeling_seq2seq "
    "modeling_transformer_seq2seq",
    "the caches' home; the classes themselves can be had from transformers too",
)  # fmt: skip
def check_cache_utils():
    """The classes are the public ones."""
    import transformers
    from transformers import cache_utils

    for name in ("Cache", "CacheLayerMixin", "DynamicCache", "EncoderDecoderCache"):
        assert getattr(cache_utils, name) is getattr(transformers, name)


@leans_on(
    "module", "transformers", "transformers.tokenization_utils_base | transformers.modeling_layers",
    "tokenization_seq2seq_pair modeling_rnn_seq2seq modeling_transformer_seq2seq",
    "the home of BatchEncoding and of GradientCheckpointingLayer; both can be had from transformers too",
)  # fmt: skip
def check_homes():
    """The classes are the public ones."""
    import transformers
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.tokenization_utils_base import BatchEncoding

    assert BatchEncoding is transformers.BatchEncoding
    assert GradientCheckpointingLayer is transformers.GradientCheckpointingLayer


@leans_on(
    "module", "transformers", "transformers.initialization",
    "cells_rnn_seq2seq modeling_rnn_seq2seq modeling_transformer_seq2seq positions_transformer_seq2seq",
    "torch's own functions would also draw anew what came from a checkpoint",
)  # fmt: skip
def check_initialization():
    """Its functions leave alone a parameter that is marked as loaded."""
    from transformers import initialization as init

    for fill in (
        functools.partial(init.uniform_, a=2.0, b=3.0), functools.partial(init.normal_, mean=9.0, std=0.1),
        init.xavier_uniform_, functools.partial(init.copy_, other=torch.full((3, 3), 7.0)),
    ):  # fmt: skip
        loaded, fresh = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
        loaded._is_hf_initialized = True
        fill(loaded)
        fill(fresh)
        assert bool((loaded == 1).all())
        assert not bool((fresh == 1).any())
    bias = nn.Parameter(torch.ones(3))
    init.zeros_(bias)
    assert not bias.any()


@leans_on(
    "module", "transformers", "transformers.masking_utils",
    "modeling_hybrid_seq2seq modeling_seq2seq modeling_transformer_seq2seq positions_transformer_seq2seq",
    "makes the mask that every attention implementation wants, each another; says how a decoder's memory is called",
)  # fmt: skip
def check_masking_utils():
    """Masks hide the padding and, the causal one, the future."""
    from transformers import masking_utils
    from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

    config = tiny("post-norm", attn_implementation="eager").config
    given = torch.tensor([[1, 1, 0]])
    common = {"config": config, "inputs_embeds": torch.zeros(1, 3, 16), "attention_mask": given}
    both = create_bidirectional_mask(**common)  # (1, 1, 3, 3), 0 where one may look
    causal = create_causal_mask(**common, past_key_values=None)
    assert (both[0, 0] == 0).int().tolist() == [[1, 1, 0]] * 3
    assert (causal[0, 0] == 0).int().tolist()[:2] == [[1, 0, 0], [1, 1, 0]]

    # By name, which of them have a place for every score: those that these two make, who can be kept from making none.
    makers = {name: masking_utils.ALL_MASK_ATTENTION_FUNCTIONS[name] for name in ("eager", "sdpa", "flex_attention")}
    assert makers.pop("flex_attention") not in makers.values()
    assert makers == {"eager": masking_utils.eager_mask, "sdpa": masking_utils.sdpa_mask}
    common |= {"config": tiny("post-norm", attn_implementation="sdpa").config, "attention_mask": None}
    assert create_bidirectional_mask(**common) is None
    assert create_bidirectional_mask(**common, allow_is_bidirectional_skip=False).shape == (1, 1, 3, 3)
    assert create_causal_mask(**common, past_key_values=None, allow_is_causal_skip=False).shape == (1, 1, 3, 3)


@leans_on(
    "module", "transformers", "transformers.modeling_utils", "modeling_transformer_seq2seq",
    "ALL_ATTENTION_FUNCTIONS is how the models of transformers find the attention that they were given",
)  # fmt: skip
def check_attention_functions():
    """It gives the functions by name, and the one of our own for "eager"."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert ALL_ATTENTION_FUNCTIONS.get_interface("eager", math.hypot) is math.hypot
    assert callable(ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", math.hypot))
    assert {"sdpa", "flex_attention"} <= set(ALL_ATTENTION_FUNCTIONS.valid_keys())


@leans_on(
    "module", "transformers", "transformers.utils | transformers.utils.generic | transformers.utils.output_capturing",
    "cells_rnn_seq2seq modeling_hybrid_seq2seq modeling_rnn_seq2seq modeling_seq2seq modeling_transformer_seq2seq "
    "engine",
    "the decorators of every model in transformers: tuples, the config's defaults, hidden states",
)  # fmt: skip
def check_decorators():
    """``return_dict=False`` gives a tuple; the config's defaults hold where the call says nothing."""
    from transformers.utils import can_return_tuple, is_torchdynamo_exporting
    from transformers.utils.generic import merge_with_config_defaults
    from transformers.utils.output_capturing import OutputRecorder, capture_outputs

    assert all(map(callable, (can_return_tuple, merge_with_config_defaults, OutputRecorder, capture_outputs)))
    assert is_torchdynamo_exporting() is False
    for name in ("gru-bahdanau", "post-norm"):
        model = tiny(name)
        inputs = {key: value for key, value in batch().items() if key != "labels"}
        inputs["decoder_input_ids"] = torch.ones(4, 1, dtype=torch.long)
        assert isinstance(model(**inputs, return_dict=False), tuple)
        model.config.use_cache = False
        assert model(**inputs).past_key_values is None
        model.config.use_cache = True
        assert model(**inputs).past_key_values is not None


@leans_on(
    "module", "transformers", "transformers.dynamic_module_utils", "code verify",
    "the Auto classes would take this process's own code instead of the pushed code; only it knows which files travel",
)  # fmt: skip
def check_dynamic_modules(tmp_path):
    """It loads a class from a folder's code, not the one that is registered here, and follows a file's imports."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_imports

    tiny("gru").save_pretrained(tmp_path)
    found = get_class_from_dynamic_module("configuration_rnn_seq2seq.RnnSeq2SeqConfig", str(tmp_path))
    assert found.__name__ == "RnnSeq2SeqConfig"
    assert found is not ours.RnnSeq2SeqConfig
    assert list(inspect.signature(get_class_from_dynamic_module).parameters)[:2] == [
        "class_reference", "pretrained_model_name_or_path",
    ]  # fmt: skip
    assert {"revision", "cache_dir"} <= set(inspect.signature(get_class_from_dynamic_module).parameters)
    assert "configuration_seq2seq" in get_relative_imports(tmp_path / "configuration_rnn_seq2seq.py")
