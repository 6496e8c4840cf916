"""Every name of another library that is not promised to stay and that we lean on all the same, in one table.

A row (`leans_on`) says whose name it is, where we use it and why nothing public does; the check below it says what the
name must do, and has it done for real. So the day on which it is renamed, removed or no longer called is a red test
with the library and the name in its id, and not a hook that quietly never runs. There are five kinds of rows:

- *private*: names that begin with an underscore, which we call, set or override (documented ones among them);
- *module*: modules that are in no reference, from which we import;
- *variable*: environment variables that Accelerate's launcher sets and we read, or we set and the libraries read;
- *hook*: public names whose caller is no promise: methods that the library calls inside, attributes that it reads;
- *text*: words of errors that we match, since the error has no class of its own.

`TestCompleteness` finds the first three kinds in our sources and holds the table against them, in both directions.
"""

import ast
import datetime
import functools
import importlib
import inspect
import logging
import math
import os
import re
import sys
import threading
import types
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import torch
from helpers.tiny import SEPARATE, VOCAB, batch, close, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, pipeline
from transformers.generation import GenerationMixin

import seqloom.modeling as ours
from seqloom.modeling import modeling_rnn_seq2seq, modeling_seq2seq, modeling_transformer_seq2seq
from seqloom.modeling.cache_rnn_seq2seq import RecurrentStateLayer
from seqloom.modeling.pipeline_seq2seq import TASK, Seq2SeqPipeline

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    kind: str
    library: str
    name: str
    where: tuple[str, ...]
    """Our files, without their folders, so that they may move."""
    why: str
    check: Callable[..., None]
    """Its docstring says what the name must do; its parameters are fixtures, and ``name``: the row's last part."""


TABLE: list[Row] = []


def leans_on(kind: str, library: str, names: str, where: str, why: str):
    """Enters a row for each of the names, which one check is for."""

    def enter(check: Callable[..., None]) -> Callable[..., None]:
        TABLE.extend(Row(kind, library, name, tuple(where.split()), why, check) for name in names.split(" | "))
        return check

    return enter


def watch(monkeypatch, owner: type | types.ModuleType, name: str) -> list[str]:
    """Who calls ``owner.name`` from now on, by the first part of the caller's module: ``["transformers", …]``."""
    original, callers = getattr(owner, name), []

    @functools.wraps(original)
    def spy(*args, **kwargs):
        callers.append(sys._getframe(1).f_globals["__name__"].partition(".")[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, staticmethod(spy) if inspect.ismethod(original) else spy)
    return callers


class Read:
    """A class attribute that notes who reads it, as `watch` notes who calls."""

    def __init__(self, value):
        self.value, self.readers = value, []

    def __get__(self, instance, owner):
        self.readers.append(sys._getframe(1).f_globals["__name__"].partition(".")[0])
        return self.value


def watch_reads(monkeypatch, owner: type, name: str) -> list[str]:
    """Who reads ``owner.name``, which must be there, from now on."""
    attribute = Read(vars(owner)[name])
    monkeypatch.setattr(owner, name, attribute)
    return attribute.readers


def generate(model, **options):
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    return model.generate(**inputs, **{"max_new_tokens": 4, "return_dict_in_generate": True} | options)


def words(size: int = VOCAB) -> Tokenizer:
    """A tokenizer of single letters."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *"abcdefghijklmnopqrstuvwxyz"][:size])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def pair() -> ours.Seq2SeqPairTokenizer:
    return ours.Seq2SeqPairTokenizer(tokenizer_object=words(), target_tokenizer_object=words(10), **SPECIAL)


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
    "private", "transformers", "GenerationMixin._prepare_cache_for_generation", "modeling_rnn_seq2seq",
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
    # Some caches call these; `update` is for them, and `store` for the model.
    others = {"offload", "prefetch", "lazy_initialization", "update"}
    assert others <= set(dir(CacheLayerMixin))
    assert {method for method in vars(RecurrentStateLayer) if not method.startswith("_")} == {
        *calls, *others, "is_croppable", "supports_early_init", "store",
    }  # fmt: skip


# transformers: models -----------------------------------------------------------------------------------------------


@leans_on(
    "private", "transformers", "PreTrainedModel._init_weights", "modeling_rnn_seq2seq modeling_transformer_seq2seq",
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
    "modeling_rnn_seq2seq modeling_transformer_seq2seq",
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
    "private", "transformers", "PreTrainedModel._can_compile_fullgraph", "modeling_transformer_seq2seq",
    "the documented flag of models that compile in one graph; transformers 5.23 itself reads it nowhere",
)  # fmt: skip
def check_can_compile_fullgraph():
    """It is a flag of every model."""
    assert isinstance(PreTrainedModel._can_compile_fullgraph, bool)


@leans_on(
    "private", "transformers", "PreTrainedModel._can_record_outputs", "modeling_transformer_seq2seq",
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
    "private", "transformers", "PreTrainedConfig._attn_implementation", "loading modeling_transformer_seq2seq",
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
    "cache_rnn_seq2seq modeling_rnn_seq2seq modeling_seq2seq modeling_transformer_seq2seq",
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
    "cells_rnn_seq2seq modeling_rnn_seq2seq modeling_transformer_seq2seq",
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
    "module", "transformers", "transformers.masking_utils", "modeling_transformer_seq2seq",
    "makes the mask that every attention implementation wants, each another",
)  # fmt: skip
def check_masking_utils():
    """Masks hide the padding and, the causal one, the future."""
    from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

    config = tiny("post-norm", attn_implementation="eager").config
    given = torch.tensor([[1, 1, 0]])
    common = {"config": config, "inputs_embeds": torch.zeros(1, 3, 16), "attention_mask": given}
    both = create_bidirectional_mask(**common)  # (1, 1, 3, 3), 0 where one may look
    causal = create_causal_mask(**common, past_key_values=None)
    assert (both[0, 0] == 0).int().tolist() == [[1, 1, 0]] * 3
    assert (causal[0, 0] == 0).int().tolist()[:2] == [[1, 0, 0], [1, 1, 0]]


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
    "cells_rnn_seq2seq modeling_rnn_seq2seq modeling_seq2seq modeling_transformer_seq2seq",
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
    "module", "transformers", "transformers.dynamic_module_utils", "verify",
    "the Auto classes would take this process's own code instead of the pushed code",
)  # fmt: skip
def check_dynamic_modules(tmp_path):
    """It loads a class from a folder's code, and not the one that is registered here."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    tiny("gru").save_pretrained(tmp_path)
    found = get_class_from_dynamic_module("configuration_rnn_seq2seq.RnnSeq2SeqConfig", str(tmp_path))
    assert found.__name__ == "RnnSeq2SeqConfig"
    assert found is not ours.RnnSeq2SeqConfig
    assert list(inspect.signature(get_class_from_dynamic_module).parameters)[:2] == [
        "class_reference", "pretrained_model_name_or_path",
    ]  # fmt: skip
    assert {"revision", "cache_dir"} <= set(inspect.signature(get_class_from_dynamic_module).parameters)


# accelerate ---------------------------------------------------------------------------------------------------------


def launched(options: str, prepare: str = "prepare_multi_gpu_env") -> dict[str, str]:
    """What ``accelerate launch`` with these options tells its processes."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils import launch

    command = f"{options} --num_processes 2 --num_machines 1 --machine_rank 0 --mixed_precision no train.py"
    args = launch_command_parser().parse_args(command.split())
    # What the command itself fills in, from its defaults and its file.
    args.num_cpu_threads_per_process, args.dynamo_backend, args.use_cpu = 1, "no", False
    args.deepspeed_fields_from_accelerate_config = ""
    told = getattr(launch, prepare)(args)
    told = told[1] if isinstance(told, tuple) else told  # some give the command too
    return {name: value for name, value in told.items() if name not in os.environ}


@leans_on(
    "variable", "accelerate", "ACCELERATE_USE_FSDP | FSDP_VERSION", "devices",
    "a run learns in no other way, before Accelerate is made, what its launch file asks for",
)  # fmt: skip
def check_fsdp_variables():
    """The launcher sets both, also to a version that we refuse."""
    told = launched("--use_fsdp --fsdp_version 2")
    assert (told["ACCELERATE_USE_FSDP"].lower(), told["FSDP_VERSION"]) == ("true", "2")
    assert launched("--use_fsdp --fsdp_version 1")["FSDP_VERSION"] == "1"
    assert "ACCELERATE_USE_FSDP" not in launched("")


@leans_on(
    "variable", "accelerate", "ACCELERATE_USE_", "devices",
    "followed by FSDP, DEEPSPEED or MEGATRON_LM: the engines that the loop was not made for must be refused",
)  # fmt: skip
def check_engine_variables():
    """The launcher sets the one of each engine."""
    assert launched("--use_megatron_lm")["ACCELERATE_USE_MEGATRON_LM"].lower() == "true"
    assert launched("--use_deepspeed", "prepare_deepspeed_cmd_env")["ACCELERATE_USE_DEEPSPEED"].lower() == "true"


@leans_on(
    "variable", "accelerate", "ACCELERATE_", "signals",
    "whoever was launched hears from the launcher's end only by a signal of its own",
)  # fmt: skip
def check_any_variable():
    """The launcher sets such of one process and of several."""
    for prepare in ("prepare_simple_launcher_cmd_env", "prepare_multi_gpu_env"):
        assert any(name.startswith("ACCELERATE_") for name in launched("", prepare))


@leans_on(
    "variable", "accelerate", "FSDP_CPU_RAM_EFFICIENT_LOADING", "devices",
    "every process makes its model from the seed; else transformers would leave all but one empty",
)  # fmt: skip
def check_sparing_loading(monkeypatch):
    """Accelerate's plugin and transformers' loading go by it, and by what we set it to."""
    from accelerate import FullyShardedDataParallelPlugin
    from transformers.distributed import fsdp

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(fsdp, "_is_torch_distributed_initialized", lambda: True)
    for value in (True, False):
        monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", str(value).lower())
        assert fsdp.is_fsdp_enabled() is value
        assert FullyShardedDataParallelPlugin(fsdp_version=2).cpu_ram_efficient_loading is value
    assert "is_fsdp_enabled" in inspect.getsource(sys.modules["transformers.modeling_utils"])


@leans_on(
    "hook", "accelerate", "PartialState.distributed_type", "devices",
    "Accelerate makes DDP of several CPU processes, whatever the launch file says of FSDP",
)  # fmt: skip
def check_shared_state(fresh_accelerator):
    """All instances of a class share their attributes, and the accelerator's kind is the one that we set."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DistributedType

    accelerator = Accelerator(cpu=True)
    assert not accelerator.is_fsdp2
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    assert PartialState().distributed_type == accelerator.distributed_type == DistributedType.FSDP
    assert Accelerator(cpu=True).distributed_type == DistributedType.FSDP


@leans_on(
    "hook", "accelerate", "fsdp2_prepare_model: get_input_embeddings, get_output_embeddings", "devices",
    "Accelerate 1.15 shards embeddings apart from the rest, which torch does not allow of matrices that are one",
)  # fmt: skip
def check_hidden_embeddings():
    """It still asks the model for them, so that hiding them is needed and helps."""
    from accelerate.utils import fsdp_utils

    code = fsdp_utils.fsdp2_prepare_model.__code__
    assert {"get_input_embeddings", "get_output_embeddings"} <= {*code.co_names, *map(str, code.co_consts)}


@leans_on(
    "module", "accelerate", "accelerate.utils.constants", "checkpoints",
    "FSDP_MODEL_NAME begins the names of what FSDP saves, by which a sharded checkpoint is known",
)  # fmt: skip
def check_fsdp_model_name():
    """What saves and what loads a sharded model call it so."""
    from accelerate.utils import fsdp_utils
    from accelerate.utils.constants import FSDP_MODEL_NAME

    assert FSDP_MODEL_NAME
    assert fsdp_utils.FSDP_MODEL_NAME == FSDP_MODEL_NAME
    for function in (fsdp_utils.save_fsdp_model, fsdp_utils.load_fsdp_model):
        assert "FSDP_MODEL_NAME" in function.__code__.co_names


@leans_on(
    "module", "accelerate", "accelerate.tracking", "devices",
    "get_available_trackers says what is installed, before Accelerate leaves out in silence what is not",
)  # fmt: skip
def check_trackers():
    """Its members, as text, are the names that ``log_with`` takes."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = {str(tracker) for tracker in get_available_trackers()}
    assert installed <= set(LOGGER_TYPE_TO_CLASS)
    assert "tensorboard" in LOGGER_TYPE_TO_CLASS
    has_tensorboard = importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX")
    assert ("tensorboard" in installed) is bool(has_tensorboard)


@leans_on(
    "text", "accelerate", "logger accelerate.utils.other", "console",
    "it warns of tied matrices at every save, and has no switch but its logger's level",
)  # fmt: skip
def check_logger(caplog, fresh_accelerator):
    """The warning comes through that logger."""
    from accelerate import Accelerator
    from accelerate.utils import clean_state_dict_for_safetensors

    Accelerator(cpu=True)  # without one, Accelerate's loggers refuse to speak
    weight = torch.ones(3)
    with caplog.at_level(logging.WARNING):
        clean_state_dict_for_safetensors({"first": weight, "second": weight})
    assert [record.name for record in caplog.records if "shared tensor" in record.getMessage()] == [
        "accelerate.utils.other"
    ]


# datasets, evaluate, sacrebleu, tokenizers, tqdm --------------------------------------------------------------------


@leans_on(
    "hook", "datasets", "DatasetGenerationError.__cause__", "sources",
    "what is wrong with a file is said by our own error, which datasets wraps",
)  # fmt: skip
def check_generation_error():
    """A generator's error is the cause of the one that comes out."""
    from datasets import Dataset, Features, Value

    def broken():
        yield {"source": "a"}
        raise ValueError("line 2 is damaged")

    with pytest.raises(Exception, match="generating the dataset") as caught:
        Dataset.from_generator(broken, features=Features({"source": Value("string")}))
    assert str(caught.value.__cause__) == "line 2 is damaged"


@leans_on(
    "hook", "datasets", "CsvConfig.keep_default_na, CsvConfig.sep, DatasetBuilder.hash", "sources",
    "by the first a table is known, whose cells pandas would take for missing; the last names a data set's version",
)  # fmt: skip
def check_builder(tmp_path):
    """Only tables have the first two, and every builder the last."""
    from datasets import load_dataset_builder

    (tmp_path / "some.csv").write_text("source,target\na,NA\n")
    (tmp_path / "some.json").write_text('{"source": "a"}\n')
    table = load_dataset_builder("csv", data_files=str(tmp_path / "some.csv"))
    assert table.config.keep_default_na is True
    assert table.config.sep == ","
    other = load_dataset_builder("json", data_files=str(tmp_path / "some.json"))
    assert not hasattr(other.config, "keep_default_na")
    assert table.hash
    assert other.hash


@leans_on(
    "private", "evaluate", "Metric._info | Metric._compute | Metric._build_data_dir", "metrics",
    "the first two are the documented parts of a metric; the last makes a folder where nothing is to be written",
)  # fmt: skip
def check_evaluate(monkeypatch, name):
    """Making a metric and computing it go through all three."""
    from seqloom.scoring import metrics

    callers = watch(monkeypatch, metrics.TextMetric, name)
    metric = metrics.ExactMatch()
    assert metric.compute(predictions=["a"], references=["a"])["score"] == 100
    assert callers == ["evaluate"]
    assert metric.data_dir == ""


@leans_on(
    "private", "sacrebleu",
    "Metric._extract_corpus_statistics | Metric._aggregate_and_compute | Metric._compute_score_from_stats", "metrics",
    "`corpus_score` keeps to itself what the sentences add, of which intervals and tests are made",
)  # fmt: skip
def check_sacrebleu(monkeypatch, name):
    """`corpus_score` goes through all three, and ours gives its score; sums of the rows give it too."""
    from seqloom.scoring import metrics

    predictions, references = ["the cat sat on a mat", "no dogs here"], [["the cat sat on the mat"], ["no dog here"]]
    for metric in ("sacrebleu", "chrf", "ter"):
        scorer = metrics.METRICS[metric].scorer
        callers = watch(monkeypatch, scorer, name)
        expected = scorer().corpus_score(predictions, list(zip(*references, strict=True))).score
        assert callers == ["sacrebleu"]
        assert metrics.compute(metric, predictions, references)["score"] == expected
        _, statistics = metrics.METRICS[metric]().measure(predictions, references)
        assert statistics.score(statistics.values.sum(0)) == pytest.approx(expected)
        assert "seqloom" in callers


@leans_on(
    "text", "tokenizers", "'not large enough to contain all chars'", "tokenization",
    "its trainers raise a plain Exception",
)  # fmt: skip
def check_small_vocabulary():
    """Unigram's trainer says so, and we say what to do."""
    from seqloom.data.tokenization import train_tokenizer
    from seqloom.settings.schema import TokenizerSettings

    texts = ["".join(map(chr, range(97, 117)))]
    with pytest.raises(ValueError, match="too few for the characters of the training data"):
        train_tokenizer(texts, texts, TokenizerSettings(kind="unigram", vocab_size=8))


@leans_on(
    "text", "tqdm", "module tqdm.notebook", "console",
    "a notebook is no terminal and has a bar all the same; `tqdm.auto` does not say which it chose",
)  # fmt: skip
def check_notebook_bar():
    """The bar of notebooks is of that module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tqdm.notebook
    assert tqdm.notebook.tqdm.__module__ == "tqdm.notebook"


# huggingface_hub ----------------------------------------------------------------------------------------------------


@leans_on(
    "hook", "huggingface_hub", "errors.HTTPError, HTTPError.response, HfHubHTTPError.server_message", "hub",
    "the client's own class of errors, which has changed with the client (requests, httpx, httpx2)",
)  # fmt: skip
def check_hub_errors(hub):
    """An answer is one, with its status and words; so is no answer, without them."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    from seqloom.sharing.hub import why

    with hub.client(hub.WRITE):
        hub.fail("POST", "/create", 403, headers={"X-Error-Message": "your plan is too small"})
        with pytest.raises(HTTPError) as refused:
            HfApi().create_repo("me/model")
        assert refused.value.response.status_code == 403
        assert "your plan is too small" in refused.value.server_message
        assert "the token may not write there" in why(refused.value)
        hub.stop()
        with pytest.raises(HTTPError) as unreachable:
            HfApi().create_repo("me/model")
        assert getattr(unreachable.value, "response", None) is None
        assert "the Hub cannot be reached" in why(unreachable.value)
        hub.start()


@leans_on(
    "text", "huggingface_hub", "ModelCard.validate: {'errors': [{'message': …}]}", "hub",
    "a ValueError whose text is the Hub's answer, in JSON",
)  # fmt: skip
def check_card_errors(hub):
    """The client passes on the answer as it is, and we take the messages from it."""
    from huggingface_hub import ModelCard

    from seqloom.sharing.hub import check_header

    with hub.client(hub.WRITE), pytest.raises(ValueError, match="the card would be refused") as caught:
        check_header(ModelCard("---\nlicense: 17\nlanguage: 3\n---\n"))
    assert '{"' not in str(caught.value)


@leans_on(
    "hook", "huggingface_hub", "RuntimeError.__cause__ of an upload", "hub",
    "uploads fail with a RuntimeError that only its cause tells from one of torch",
)  # fmt: skip
def check_upload_error(hub):
    """The Hub's error is its cause."""
    from huggingface_hub import HfApi

    from seqloom.sharing.hub import why

    with hub.client(hub.WRITE):
        HfApi().create_repo("me/model")
        hub.fail("PUT", "/lfs/", 403, times=99)
        with pytest.raises(RuntimeError) as caught:
            HfApi().upload_file(path_or_fileobj=bytes(1000), path_in_repo="model.safetensors", repo_id="me/model")
    assert why(caught.value) is not None
    assert why(RuntimeError("shapes do not match")) is None


# torch and safetensors ----------------------------------------------------------------------------------------------


@leans_on(
    "private", "torch", "torch._higher_order_ops.scan", "export_rnn_seq2seq",
    "a loop that an exported program keeps; the prototype has no public name yet (there is no torch.scan)",
)  # fmt: skip
def check_scan():
    """Exported, it is still a loop, and gives what torch's own kernel gives."""
    from seqloom.modeling.export_rnn_seq2seq import scan_layer

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)

        def forward(self, inputs):
            return scan_layer(self.rnn, inputs, None, ())[0]

    layer = Layer()
    length = torch.export.Dim("length", min=2, max=64)
    exported = torch.export.export(layer, (torch.randn(2, 5, 3),), dynamic_shapes=({1: length},), strict=False)
    assert any("scan" in str(node.target) for node in exported.graph.nodes)
    longer = torch.randn(2, 9, 3)
    close(exported.module()(longer), layer.rnn(longer)[0])


@leans_on(
    "module", "torch", "torch.utils.flop_counter", "flops",
    "FlopCounterMode is in no reference of torch, and there is no other count of what really ran",
)  # fmt: skip
def check_flop_counter():
    """It counts a multiply-add as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        torch.ones(2, 3) @ torch.ones(3, 5)
    assert counter.get_total_flops() == 2 * 2 * 3 * 5


@leans_on(
    "text", "torch", "'file write failed', 'unexpected pos'", "disk",
    "torch gives no reason for a file that was written short: a RuntimeError of its archive writer",
)  # fmt: skip
def check_torch_full(tmp_path):
    """Too large a file is one that torch says so of."""
    from seqloom.support.disk import is_full

    with limited_files(4096), pytest.raises(RuntimeError) as caught:
        torch.save(torch.zeros(100_000), tmp_path / "state.pt")
    assert getattr(caught.value, "errno", None) is None
    caught.value.__context__ = None  # its own words must do
    assert is_full(caught.value)


@leans_on(
    "text", "safetensors", "'File too large', 'No space left', 'quota exceeded'", "disk",
    "a SafetensorError has the system's words, but not its number",
)  # fmt: skip
def check_safetensors_full(tmp_path):
    """It has them of too large a file, and the system's words of a full disk and quota are those we match."""
    import errno

    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from seqloom.support.disk import is_full

    with limited_files(4096), pytest.raises(SafetensorError) as caught:
        save_file({"weight": torch.zeros(100_000)}, tmp_path / "model.safetensors")
    assert getattr(caught.value, "errno", None) is None
    assert is_full(caught.value)
    for number in ("ENOSPC", "EFBIG", "EDQUOT"):
        assert is_full(SafetensorError(f"I/O error: {os.strerror(getattr(errno, number))} (os error)")), number


@contextmanager
def limited_files(size: int):
    """No file may grow beyond so many bytes: a disk that is full, without one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@leans_on(
    "text", "torch", "'gloo', 'Connection closed', 'Connection reset', 'peer' (and 'NCCL')", "train",
    "gloo fails with a plain RuntimeError when another process is gone (NCCL's words need two GPUs to be heard)",
)  # fmt: skip
def check_lost_connection(monkeypatch):
    """Two groups of one process stand for two processes; the one that waits for the other, which goes, says so."""
    from seqloom.commands.train import is_lost_connection

    store, groups = torch.distributed.HashStore(), {}

    def join(rank: int) -> None:
        groups[rank] = torch.distributed.ProcessGroupGloo(store, rank, 2, datetime.timedelta(seconds=20))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work = groups[0].allreduce([torch.ones(1)])
    del groups[1]
    with pytest.raises(RuntimeError) as caught:
        work.wait()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_connection(caught.value)
    assert not is_lost_connection(RuntimeError("shapes do not match"))
    assert issubclass(torch.distributed.DistBackendError, RuntimeError)  # NCCL's


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.kind}-{row.library}-{row.name}")
def test_it_is_there_and_does_what_we_need(row, request):
    assert inspect.getdoc(row.check)
    given = {"name": row.name.rpartition(".")[2]}
    wanted = inspect.signature(row.check).parameters
    row.check(**{name: given[name] if name in given else request.getfixturevalue(name) for name in wanted})


# The table against our sources --------------------------------------------------------------------------------------

SOURCES = sorted(
    path
    for folder in (ROOT, ROOT / "modeling", ROOT / "benchmarks", ROOT / "src" / "seqloom")
    for path in (folder.rglob("*.py") if folder.name == "seqloom" else folder.glob("*.py"))
)
LIBRARIES = (
    "torch", "transformers", "accelerate", "datasets", "evaluate", "sacrebleu", "tokenizers", "huggingface_hub",
    "safetensors",
)  # fmt: skip
# Modules that the libraries' references name, so that what is imported from them may be called public.
PUBLIC = {
    "accelerate.utils", "datasets.distributed", "huggingface_hub.dataclasses", "huggingface_hub.errors",
    "huggingface_hub.utils", "sacrebleu.metrics", "safetensors.torch", "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp", "torch.nn", "torch.nn.attention", "torch.nn.utils.rnn", "torch.optim.lr_scheduler",
    "torch.optim.swa_utils", "torch.utils.data", "transformers.generation", "transformers.modeling_outputs",
    "transformers.pipelines", "transformers.utils.logging", "tokenizers.decoders", "tokenizers.models",
    "tokenizers.normalizers", "tokenizers.pre_tokenizers", "tokenizers.processors", "tokenizers.trainers",
}  # fmt: skip


def is_private(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def our_classes() -> dict[tuple[str, str], type]:
    """Every class of the package by file and name, but for protocols, which only say what others have."""
    found = {}
    for path in SOURCES:
        for room, package in ((ROOT / "src" / "seqloom", "seqloom"), (ROOT / "modeling", "seqloom.modeling")):
            if path.is_relative_to(room) and path.name not in ("__main__.py", "__init__.py"):
                parts = path.relative_to(room).with_suffix("").parts
                module = importlib.import_module(".".join((package, *parts)))
                for thing in vars(module).values():
                    is_ours = isinstance(thing, type) and thing.__module__ == module.__name__
                    if is_ours and Protocol not in thing.__bases__:
                        found[str(path), thing.__name__] = thing
    return found


def foreign_private_names() -> dict[str, set[str]]:
    """Names with an underscore that are another library's, and the files that have them.

    What a class of ours defines or sets on itself (``def _name``, ``_name = …``, ``self._name = …``) is foreign where a
    base from elsewhere has it too, its own or, of a mixin, that of a class which mixes it in; else it is ours. What is
    merely used (``thing._name``, ``getattr(thing, "_name")``, ``_name=…`` in a call, ``from … import``, ``def _name``
    of a protocol) is foreign unless some class of ours owns the name. Not found: an attribute that we set on ourselves
    and a base sets on its instances only.
    """
    classes = our_classes()
    mine = set(classes.values())
    found, used, own = defaultdict(set), defaultdict(set), set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Protocol" for base in node.bases):
                for name in defined_names(node):
                    used[name].add(path.stem)
            elif isinstance(node, ast.ClassDef):
                it = classes.get((str(path), node.name))
                heirs = [heir for heir in mine if it is not None and issubclass(heir, it)]
                bases = {base for heir in heirs for base in heir.__mro__} - mine - {object}
                for name in defined_names(node):
                    if any(hasattr(base, name) for base in bases):
                        found[name].add(path.stem)
                    else:
                        own.add(name)
            elif isinstance(node, ast.Attribute):
                used[node.attr].add(path.stem)
            elif isinstance(node, ast.keyword):
                used[node.arg].add(path.stem)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] != "seqloom":
                for name in (*node.module.split("."), *(alias.name for alias in node.names)):
                    used[name].add(path.stem)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
                used[getattr(node.args[1], "value", None)].add(path.stem)
    for name in set(filter(is_private, used)) - own:
        found[name] |= used[name]
    return dict(found)


def defined_names(node: ast.ClassDef) -> set[str]:
    """What a class has in its body, and what its methods set on ``self``."""
    names = set()
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(part.name)
        for target in part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]:
            names.add(getattr(target, "id", None))
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            names |= {part.attr} if getattr(part.value, "id", "") == "self" else set()
    return set(filter(is_private, names))


def is_module(name: str) -> bool:
    try:
        return importlib.import_module(name) is not None
    except ModuleNotFoundError:
        return False


def unstable_modules() -> dict[str, set[str]]:
    """Modules of the libraries, below their roots, that are imported (from) and not in `PUBLIC`."""
    found = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in LIBRARIES:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                parts = list(filter(is_module, names))
                imported = parts + ([node.module] if len(parts) < len(names) else [])
            for module in imported:
                is_deep = "." in module and module.partition(".")[0] in LIBRARIES
                if is_deep and module not in PUBLIC and not any(map(is_private, module.split("."))):
                    found[module].add(path.stem)
    return dict(found)


def engine_variables() -> dict[str, set[str]]:
    """Texts that are, or begin, the name of a variable of Accelerate's."""
    found = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(r"(ACCELERATE|FSDP)_[A-Z_]*", str(node.value)):
                found[node.value].add(path.stem)
    return dict(found)


def scanned_name(row: Row) -> str:
    """A row's name as the sources have it: of a dotted private one the last part with an underscore."""
    return next(filter(is_private, reversed(row.name.split("."))), row.name) if row.kind == "private" else row.name


class TestCompleteness:
    """Whoever begins to lean on such a name enters it above, with a check; whoever no longer does takes it out."""

    @pytest.mark.parametrize(
        ("kind", "scan"),
        [("private", foreign_private_names), ("module", unstable_modules), ("variable", engine_variables)],
        ids=["private", "module", "variable"],
    )
    def test_the_table_lists_what_the_sources_use(self, kind, scan):
        found = scan()
        rows = {scanned_name(row): row for row in TABLE if row.kind == kind}
        missing = {name: sorted(files) for name, files in found.items() if name not in rows}
        assert missing == {}, "used, and not in the table"
        assert sorted(set(rows) - set(found)) == [], "in the table, and not used"
        for check in {row.check for row in rows.values()}:
            mine = {name: row for name, row in rows.items() if row.check is check}
            files = set().union(*(found[name] for name in mine))
            assert {file for row in mine.values() for file in row.where} == files, f"the files of {sorted(mine)}"

    def test_every_row_is_of_files_that_there_are(self):
        stems = {path.stem for path in SOURCES}
        assert {file for row in TABLE for file in row.where} <= stems

    def test_no_row_is_there_twice(self):
        names = [(row.library, row.name) for row in TABLE]
        assert len(names) == len(set(names))
