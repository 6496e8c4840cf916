"""Names of accelerate, datasets, evaluate, sacrebleu, tokenizers, tqdm, huggingface_hub, torch and safetensors."""

import datetime
import importlib
import inspect
import logging
import os
import sys
import threading
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from helpers.foreign_names.table import leans_on, watch
from helpers.tiny import close

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
    "hook", "torch", "FileSystemReader.read_metadata: the classes of .metadata", "states",
    "torch unpickles it, and values that are no tensors, whatever they ask for; so we look first what that is",
)  # fmt: skip
def check_sharded_metadata(tmp_path):
    """What torch itself writes passes, and what is added to it does not."""
    import pickle

    import torch.distributed.checkpoint as dist_cp

    from seqloom.training.states import check_states

    state = {"weight": torch.ones(2).bfloat16(), "step": torch.tensor(1), "lr": 0.1, "betas": (0.9, 0.98), "none": None}
    dist_cp.save(state, storage_writer=dist_cp.FileSystemWriter(tmp_path), no_dist=True)
    check_states(tmp_path)
    metadata = pickle.loads((tmp_path / ".metadata").read_bytes())
    metadata.planner_data = print
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"asks for builtins.print"):
        check_states(tmp_path)


@leans_on(
    "hook", "accelerate", "utils.load: weights_only", "states",
    "Accelerate reads optimizer, scaler and random states by it, which holds our look beforehand to what it will do",
)  # fmt: skip
def check_accelerate_load(tmp_path):
    """It takes tensors and NumPy's random states, and no other class."""
    import pickle

    import numpy as np
    from accelerate import checkpointing, utils

    assert checkpointing.load is utils.load
    torch.save({"seed": np.random.get_state(), "state": torch.ones(2)}, tmp_path / "good.pkl")
    utils.load(tmp_path / "good.pkl", map_location="meta", mmap=True)
    torch.save({"state": print}, tmp_path / "bad.pkl")
    with pytest.raises(pickle.UnpicklingError):
        utils.load(tmp_path / "bad.pkl", map_location="meta", mmap=True)


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
    with caplog.at_level(logging.WARNING, logger="accelerate.utils.other"):
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


@leans_on(
    "private", "torch", "Module._forward_hooks | Module._forward_pre_hooks", "engine",
    "nothing public says whether hooks are attached, which a lean decoder would leave out",
)  # fmt: skip
def check_forward_hooks(name):
    """A hook is in it."""
    module = nn.Linear(2, 2)
    assert not getattr(module, name)
    register = module.register_forward_hook if name == "_forward_hooks" else module.register_forward_pre_hook
    register(print)
    assert list(getattr(module, name).values()) == [print]


@leans_on(
    "private", "torch", "ops.mkldnn._linear_pointwise | ops.mkldnn._reorder_linear_weight", "layers packed",
    "a linear layer of oneDNN, in float32 too, with its weight laid out once; torch sends those to MKL",
)  # fmt: skip
def check_onednn_linear():
    """It is `F.linear`, whatever number of rows the weight was laid out for, with an activation if wanted."""
    layer, relu = nn.Linear(24, 40), torch.relu
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), 16)
    with torch.inference_mode():
        for rows in (1, 16, 50):
            inputs = torch.randn(rows, 24)
            for name, activation in (("none", lambda states: states), ("relu", relu)):
                found = torch.ops.mkldnn._linear_pointwise(inputs, packed, layer.bias, name, [], "")
                close(found, activation(layer(inputs)))


@leans_on(
    "private", "torch", "ops.mkldnn._is_mkldnn_bf16_supported | ops.mkldnn._is_mkldnn_fp16_supported",
    "cells_rnn_seq2seq", "whether oneDNN has its kernels for that type on this processor",
)  # fmt: skip
def check_types_of_onednn(name):
    """Where it says yes, an LSTM runs under autocast in that type. (Where it says no, torch raises an error.)"""
    says = getattr(torch.ops.mkldnn, name.rpartition(".")[2])()
    assert isinstance(says, bool)
    if says:
        with torch.autocast("cpu", torch.bfloat16 if "bf16" in name else torch.float16):
            outputs, _ = nn.LSTM(4, 4, batch_first=True)(torch.ones(2, 3, 4))
        assert outputs.isfinite().all()


@leans_on(
    "private", "sacrebleu", "BLEU._preprocess_segment", "word_counts",
    "the words that BLEU counts, for which sacrebleu has no public name",
)  # fmt: skip
def check_words_of_bleu(monkeypatch):
    """BLEU itself goes through it, and gets a text with its words between spaces."""
    from sacrebleu.metrics import BLEU

    callers = watch(monkeypatch, BLEU, "_preprocess_segment")
    BLEU().corpus_score(["no dogs."], [["no dogs."]])
    assert set(callers) == {"sacrebleu"}
    assert BLEU(lowercase=True)._preprocess_segment("No dogs.").split() == ["no", "dogs", "."]


@leans_on(
    "module", "huggingface_hub", "huggingface_hub.constants", "checkup hub_files",
    "ENDPOINT and HF_HUB_OFFLINE are what the Hub is asked by",
)  # fmt: skip
def check_constants_of_hub():
    """Documented environment variables make them, and the library's own requests go by them."""
    from huggingface_hub import HfApi, constants

    assert HfApi().endpoint == constants.ENDPOINT
    assert os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/") == constants.ENDPOINT
    assert isinstance(constants.HF_HUB_OFFLINE, bool)


@leans_on(
    "module", "transformers", "transformers.models.whisper.tokenization_whisper", "languages",
    "the names of a hundred languages by their codes",
)  # fmt: skip
def check_names_of_languages():
    """In small letters, by the codes of ISO 639."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    assert {code: LANGUAGES[code] for code in ("en", "de", "ko")} == {"en": "english", "de": "german", "ko": "korean"}
