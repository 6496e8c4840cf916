"""Engines and processes change nothing of what is learnt: DDP, FSDP2, streams split by process, launch files.

Everything that needs several processes runs in two launches (two processes, then three), all over gloo on the CPU.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from helpers.patience import HANGS
from helpers.runs import ROOT, SMALL, configure, read_log, run, weights, write_pairs
from transformers import AutoModelForSeq2SeqLM

from seqloom.commands.train import main
from seqloom.data.updates import UpdateStream
from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.checks import model_config_class
from seqloom.settings.schema import TrainingSettings

CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"), key=lambda path: path.stem)
# Runs of several configurations, one after the other, in one group of processes; with what the optimizer was given.
SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from seqloom.commands.train import main
from seqloom.training import loop

rank, found = int(os.environ["RANK"]), {"gradients": [], "positions": [], "sharded": []}
def keep_gradients(optimizer, args, kwargs):
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    found["sharded"].append(sum(isinstance(grad, DTensor) for grad in grads) / len(grads))
    grads = [grad.full_tensor() if isinstance(grad, DTensor) else grad.clone() for grad in grads]
    found["gradients"].append([grad.cpu() for grad in grads])
register_optimizer_step_pre_hook(keep_gradients)
make_update = loop.make_update
def keep_position(run, position):
    found["positions"].append((position.index, position.num_tokens, position.micro_batches))
    return make_update(run, position)
loop.make_update = keep_position
Accelerator.end_training = lambda accelerator: None  # the group of processes is needed again

for engine, out, *words in json.loads(Path(sys.argv[1]).read_text()):
    os.environ["ACCELERATE_USE_FSDP"] = "true" if engine == "fsdp" else "false"
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for values in found.values():
        values.clear()
    if main(words):
        sys.exit(1)
    torch.save(found, f"{out}/found-{rank}.pt")
torch.distributed.destroy_process_group()
"""
# Adam makes whole steps of gradients that are rounding errors (of the keys' biases) unless its epsilon is above them.
ENGINES = {"adam_epsilon": 1e-4, "gradient_accumulation_steps": 2, "eval_metric": "cer", "average_checkpoints": 2,
           "eval_samples": 23, "learning_rate": 0.05, "lr_scheduler_type": "linear", "warmup_steps": 2}  # fmt: skip
SPLIT = {"batch_tokens": 24, "batches_per_update": 2, "learning_rate": 1e-12, "max_steps": None, "num_train_epochs": 2,
         "eval_steps": 3, "gradient_accumulation_steps": 2}  # fmt: skip


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def launch(folder: Path, processes: int, jobs: list[list[str]]) -> None:
    """Runs configurations in as many processes, by the launch file for FSDP2 on CPUs."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    file = ROOT / "configs" / "accelerate" / "cpu-2-processes-fsdp2.yaml"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes",
        str(processes), "--main_process_port", "0", str(folder / "script.py"), str(folder / "jobs.json"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sizes = {"few": 60, "validation": 51, "test": 31}
    return {name: write_pairs(folder, name, size) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def tables(tmp_path_factory, pairs):
    """The training pairs in three files of uneven length."""
    folder = tmp_path_factory.mktemp("tables")
    sides = [Path(path).read_text().splitlines() for path in pairs["few"]]
    rows = [json.dumps({"source": source, "target": target}) for source, target in zip(*sides, strict=True)]
    for name, part in (("a", rows[:33]), ("b", rows[33:40]), ("c", rows[40:])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n")
    return [str(folder / f"{name}.jsonl") for name in "abc"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory, pairs, tables):
    """The folder of everything that ran in two processes, and then in three."""
    folder = tmp_path_factory.mktemp("launched")
    whole = {**ENGINES, "max_steps": 6}
    two, three = [], []

    def job(jobs, engine, name, family, *words, again=False, **changes):
        path = folder / name
        config = str(path / "config.yaml") if again else configure(path, pairs, family, **changes)
        jobs.append([engine, str(path), config, *words])

    for family in SMALL:
        job(two, "ddp", f"ddp-{family}", family, training=whole)
        job(two, "fsdp", f"fsdp-{family}", family, training=whole)
        # Layers large enough to be measured, and a loss in chunks; or all as torch has it.
        wide = {**SMALL[family], "hidden_size" if family == "rnn" else "d_model": 128}
        for engine, name, options in (
            ("ddp", "plain", {"fast_layers": False}), ("ddp", "fast", {}), ("fsdp", "fast", {"loss_chunk_tokens": 7}),
        ):  # fmt: skip
            job(two, engine, f"{engine}-{name}-{family}", family, model={**wide, "dropout": 0.0},
                training={**ENGINES, "batch_tokens": 1000, "max_steps": 2, "eval_steps": 2, **options})  # fmt: skip
    # Stopped after three updates of six, with dropout, to be gone on with.
    for name in ("unbroken", "broken", "broken-3"):
        job(two, "fsdp", name, "transformer", *([] if name == "unbroken" else ["--max_steps", "3"]),
            training={**whole, "lr_scheduler_type": "constant"},
            model={**SMALL["transformer"], "dropout": 0.0 if name == "broken-3" else 0.3})  # fmt: skip
    job(two, "fsdp", "broken", "", "--resume", again=True)
    job(three, "fsdp", "broken-3", "", "--resume", again=True)
    stream = {"streaming": True, "split_stream": True, "shuffle_buffer": 12, "train_files": tables}
    for name, workers, words in (("split", 0, []), ("split-broken", 2, ["--max_steps", "3"]), ("split-workers", 2, [])):
        data = {**stream, "num_workers": workers}
        job(two, "ddp", name, "transformer", *words, data=data, training=SPLIT)
    job(two, "ddp", "split-broken", "", "--resume", again=True)
    launch(folder, 2, two)
    launch(folder, 3, three)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, pairs):
    """The same as the launched ones, in this process; and its gradients."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    found = {}

    def in_one_process(name: str, family: str, **training) -> Path:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        folder = tmp_path_factory.mktemp(name)
        found[folder] = []

        def keep(optimizer, args, kwargs):
            found[folder].append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

        with register_optimizer_step_pre_hook(keep):
            run(folder, pairs, family, training={**ENGINES, "max_steps": 6, **training})
        return folder

    folders = {
        (family, pieces): in_one_process(family, family, gradient_accumulation_steps=pieces)
        for family in SMALL
        for pieces in (1, 2, 4, 8)
    }
    return folders, found


def far(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest difference of two gradients, relative to the largest entry."""
    scale = max(tensor.abs().max().item() for tensor in theirs)
    return max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True)) / scale


@pytest.mark.slow
class TestEngines:
    @pytest.mark.parametrize("family", list(SMALL))
    def test_gradients_do_not_depend_on_pieces(self, alone, family):
        """1 x 8, 2 x 4, 4 x 2 and 8 x 1: right before the optimizer's step."""
        folders, found = alone
        whole = found[folders[family, 1]]
        for pieces in (2, 4, 8):
            cut = found[folders[family, pieces]]
            assert len(cut) == len(whole) == 6
            assert far(cut[0], whole[0]) < 1e-6
            assert any(not torch.equal(one, other) for one, other in zip(cut[0], whole[0], strict=True))

    @pytest.mark.parametrize("engine", ["ddp", "fsdp"])
    @pytest.mark.parametrize("family", list(SMALL))
    def test_two_processes_learn_the_same(self, alone, launched, family, engine):
        """First gradients, then losses, norms, learning rates and scores of every line, and the weights."""
        folders, found = alone
        one, two = folders[family, 2], launched / f"{engine}-{family}"
        theirs = torch.load(two / "found-0.pt", weights_only=False)
        assert set(theirs["sharded"]) == {1.0 if engine == "fsdp" else 0.0}
        assert far(theirs["gradients"][0], found[one][0]) < 1e-6
        logs = [read_log(folder) for folder in (one, two)]
        assert len(logs[0]) == len(logs[1]) == 8
        for ours, other in zip(*logs, strict=True):
            for name in set(ours) - {"memory_mib"}:
                assert other[name] == pytest.approx(ours[name], rel=1e-5, abs=1e-6), name
            assert other.get("learning_rate") == ours.get("learning_rate")
        for place in ("run", "run/checkpoints/best"):
            model, other = (AutoModelForSeq2SeqLM.from_pretrained(folder / place) for folder in (one, two))
            for (name, weight), sharded in zip(model.named_parameters(), other.parameters(), strict=True):
                assert (weight - sharded).abs().max() < 1e-5, (place, name)
            embeddings = {id(part.weight) for part in (other.get_input_embeddings(), other.get_output_embeddings())}
            assert len(embeddings) == 1
        assert weights(one / "run").keys() == weights(two / "run").keys()
        # Scored by decoding in validation, alike: the mean's score decides what is kept.
        records = [json.loads((folder / "run" / "record.json").read_text()) for folder in (one, two)]
        assert records[0]["model"] == records[1]["model"]
        assert records[0]["evaluation"]["metrics"] == records[1]["evaluation"]["metrics"]
        assert records[1]["environment"]["processes"] == 2

    @pytest.mark.parametrize("engine", ["ddp", "fsdp"])
    @pytest.mark.parametrize("family", list(SMALL))
    def test_faster_layers_learn_the_same(self, launched, family, engine):
        """Whatever the first process measured, all take it."""
        plain, fast = (launched / name for name in (f"ddp-plain-{family}", f"{engine}-fast-{family}"))
        ours, theirs = (torch.load(folder / "found-0.pt", weights_only=False)["gradients"] for folder in (fast, plain))
        assert far(ours[0], theirs[0]) < 1e-5
        choices = [json.loads((folder / "run" / "record.json").read_text())["fast_layers"] for folder in (plain, fast)]
        assert choices[0] is None
        assert choices[1].keys() == {"linear", "dropout"}

    def test_checkpoints_are_sharded(self, launched):
        checkpoint = launched / "fsdp-rnn" / "run" / "checkpoints" / "step-00000006"
        for part in ("pytorch_model_fsdp_0", "optimizer_0"):
            assert len(list((checkpoint / part).glob("*.distcp"))) == 2
        assert not (checkpoint / "model.safetensors").exists()

    def test_sharded_and_resumed(self, launched):
        """With dropout, bit for bit."""
        whole, broken = launched / "unbroken", launched / "broken"
        assert read_log(broken)[-1]["step"] == 6
        losses = [[line["loss"] for line in read_log(folder) if "loss" in line] for folder in (whole, broken)]
        assert losses[0] == losses[1]
        ours, theirs = weights(broken / "run"), weights(whole / "run")
        resumed = torch.load(broken / "found-0.pt", weights_only=False)
        assert [index for index, *_ in resumed["positions"]] == [3, 0, 1]  # three updates, not six
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def test_sharded_and_resumed_by_more_processes(self, launched, pairs, tmp_path):
        """Two processes began, three went on."""
        record = json.loads((launched / "broken-3" / "run" / "record.json").read_text())
        assert record["environment"]["processes"] == 3
        options = {**ENGINES, "max_steps": 6, "lr_scheduler_type": "constant"}
        run(tmp_path, pairs, training=options)
        ours, theirs = (
            [line["loss"] for line in read_log(folder) if "loss" in line]
            for folder in (launched / "broken-3", tmp_path)
        )
        assert ours == pytest.approx(theirs, rel=1e-5)
        model, other = weights(tmp_path / "run"), weights(launched / "broken-3" / "run")
        assert max((model[name] - other[name]).abs().max() for name in model) < 1e-5

    def test_a_sharded_checkpoint_in_a_run_that_is_not(self, launched, capsys):
        assert main([str(launched / "fsdp-rnn" / "config.yaml"), "--resume", "--max_steps", "9"]) == 1
        assert "was saved with FSDP2, and this run is without it" in capsys.readouterr().err


class TestRefusals:
    """Engines that would train something else than one thinks."""

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"ACCELERATE_USE_FSDP": "true"}, "FSDP of version 1; set fsdp_version: 2"),
            ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "ema_decay is 0.9, but the launch file shards"),
            ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for DEEPSPEED, which seqloom does not drive"),
            ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "asks for MEGATRON_LM, which seqloom does not drive"),
        ],
    )
    def test_engines(self, tmp_path, pairs, capsys, monkeypatch, asked, message):
        for name, value in asked.items():
            monkeypatch.setenv(name, value)
        assert main([configure(tmp_path, pairs, training={"ema_decay": 0.9})]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_streams(self, tmp_path, pairs, tables, capsys):
        for message, data in (
            ("set data.streaming to true", {"split_stream": True}),
            ("set data.streaming to true", {"num_workers": 2}),
            ("leave one of them out", {"num_workers": 2, "streaming": True, "train_split": "train[:9]"}),
            ("data.num_workers is -1", {"num_workers": -1, "streaming": True}),
            ("give data.validation_files", {"streaming": True, "split_stream": True, "validation_files": None}),
        ):
            assert main([configure(tmp_path, pairs, data={"train_files": tables, **data})]) == 1
            assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def streams(data, processes: int, workers: int, **options) -> list[list[tuple]]:
    """Updates of two epochs, as (number, tokens, pairs), of streams that run beside each other, one a thread."""
    barrier, sent, found = threading.Barrier(processes), {}, [[] for _ in range(processes)]

    def one(rank: int) -> None:
        def gather(values: list[int]) -> list[list[int]]:
            sent[rank] = values
            barrier.wait(timeout=HANGS)
            every = [sent[other] for other in range(processes)]
            barrier.wait(timeout=HANGS)
            return every

        stream = UpdateStream(
            data(), TrainingSettings(**{"batch_tokens": 24, "max_steps": 1, "batches_per_update": 2, **options}),
            pad_token_id=0, shuffle_buffer=10, num_processes=processes, process_index=rank, gather=gather,
            num_workers=workers,
        )  # fmt: skip
        stream.summary()
        for epoch in range(2):
            for position in stream.epoch(epoch):
                rows = [
                    ids[0] - 100
                    for batch in position.micro_batches
                    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"], strict=True)
                    if (labels != IGNORED).any()
                ]
                own = sum(int((batch["labels"] != IGNORED).sum()) for batch in position.micro_batches)
                found[rank].append((epoch, position.index, position.num_tokens, own, len(position.micro_batches), rows))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def shard_rows(parts: list[list[int]]):
    """Encoded pairs, numbered from 100 on by their first token."""
    for part in parts:
        for number in part:
            yield {"input_ids": [100 + number, *range(1, number % 5)], "labels": [*range(3, 4 + number % 7), 2]}


@pytest.mark.slow
class TestSplitStreams:
    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("processes", [1, 2])
    @pytest.mark.parametrize("sizes", [(31, 4, 9), (41,), (5, 0, 0, 27)])
    def test_no_pair_is_lost_or_doubled(self, sizes, processes, workers):
        starts = [0, *itertools.accumulate(sizes)]
        parts = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=False)]

        def data():
            features = datasets.Features({name: datasets.List(datasets.Value("int64")) for name in
                                          ("input_ids", "labels")})  # fmt: skip
            return datasets.IterableDataset.from_generator(shard_rows, gen_kwargs={"parts": parts}, features=features)

        found = streams(data, processes, workers)
        assert found == streams(data, processes, workers)
        for epoch in range(2):
            mine = [[update for update in rank if update[0] == epoch] for rank in found]
            assert sorted(row for rank in mine for *_, rows in rank for row in rows) == list(range(sum(sizes)))
            for updates in zip(*mine, strict=True):  # as many in every process
                assert len({(index, tokens, pieces) for _, index, tokens, _, pieces, _ in updates}) == 1
                assert updates[0][2] == sum(own for *_, own, _, _ in updates)
            if processes == 2 and len(sizes) > 1:  # whole files
                owners = [{row for *_, rows in rank for row in rows} for rank in mine]
                for part in parts:
                    assert any(set(part) <= owner for owner in owners)
        orders = [[rows for rank in found for number, *_, rows in rank if number == epoch] for epoch in range(2)]
        assert orders[0] != orders[1]

    def test_starts_anywhere(self):
        def data():
            return datasets.IterableDataset.from_generator(shard_rows, gen_kwargs={"parts": [list(range(40))]})

        def updates(start):
            options = TrainingSettings(batch_tokens=24, max_steps=1)
            stream = UpdateStream(data(), options, pad_token_id=0, shuffle_buffer=10, num_workers=1)
            torch.manual_seed(1)
            found = [(p.index, p.num_tokens, p.micro_batches[0]["labels"].tolist()) for p in stream.epoch(1, start)]
            assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1)))
            return found  # and drew nothing from the generator of the dropout

        assert updates(0)[5:] == updates(5)
        assert len(updates(5)) > 3

    @pytest.mark.parametrize("name", ["split", "split-workers"])
    def test_loss_is_the_mean_over_all_processes_tokens(self, launched, name, pairs):
        """Computed by hand from both processes' batches, with weights that do not move."""
        folder = launched / name
        ranks = [torch.load(folder / f"found-{rank}.pt", weights_only=False)["positions"] for rank in range(2)]
        losses = [line["loss"] for line in read_log(folder) if "loss" in line]
        assert len(losses) == len(ranks[0]) == len(ranks[1]) > 8
        model, seen = AutoModelForSeq2SeqLM.from_pretrained(folder / "run"), []
        for loss, *parts in zip(losses, *ranks, strict=True):
            total = count = 0
            for *_, batches in parts:
                for batch in batches:
                    if (batch["labels"] != IGNORED).any():
                        logits = model(**batch).logits.flatten(0, 1)
                        total += torch.nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
                        count += (batch["labels"] != IGNORED).sum()
                        seen += [tuple(row.tolist()) for row in batch["input_ids"]]
            assert {num_tokens for _, num_tokens, _ in parts} == {int(count)}
            assert loss == pytest.approx((total / count).item(), rel=1e-5)
        assert len(seen) == 2 * 60  # two epochs
        record = json.loads((folder / "run" / "record.json").read_text())
        assert record["progress"]["target_tokens"] == sum(num_tokens for _, num_tokens, _ in ranks[0])
        assert {len(batches) for rank in ranks for *_, batches in rank} == {4}  # 2 batches in 2 pieces
        empty = [all((batch["labels"] == IGNORED).all() for batch in batches) for rank in ranks for *_, batches in rank]
        assert 0 < sum(empty) < len(empty)  # one part ended before the other

    def test_resumed(self, launched, capsys):
        ours, theirs = (read_log(launched / name) for name in ("split-broken", "split-workers"))
        losses = [[line["loss"] for line in log if "loss" in line] for log in (ours, theirs)]
        assert losses[0] == losses[1]
        # With another number of processes, each would go on with another part.
        config = launched / "split" / "config.yaml"
        before = read_log(launched / "split")
        assert main([str(config), "--resume", "--num_train_epochs", "3"]) == 1
        assert "started with 2 processes and data.split_stream" in capsys.readouterr().err
        assert read_log(launched / "split") == before


class TestLaunchFiles:
    def test_all_are_there(self):
        assert [path.stem for path in CONFIGS] == [
            "1-gpu", "8-gpus", "cpu-2-processes", "cpu-2-processes-fsdp2", "multi-node-fsdp2",
        ]  # fmt: skip

    @pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
    def test_accelerate_knows_every_key(self, path):
        config = load_config_from_file(str(path))  # refuses unknown keys, but not within fsdp_config
        known = vars(launch_command_parser().parse_args(["train.py"]))
        fsdp = getattr(config, "fsdp_config", {}) or {}
        assert set(fsdp) <= set(known)
        assert ("fsdp_version" in fsdp) == (config.distributed_type == "FSDP")
        assert fsdp.get("fsdp_version", 2) == 2
        assert fsdp.get("fsdp_state_dict_type", "SHARDED_STATE_DICT") == "SHARDED_STATE_DICT"
        text = path.read_text()
        assert f"--config_file configs/accelerate/{path.name}" in text
        assert config.num_processes % config.num_machines == 0

    def test_wrapping_is_by_the_models_classes(self):
        for model_type, fields in SMALL.items():
            config = {name: value for name, value in fields.items() if name != "model_type"}
            model = AutoModelForSeq2SeqLM.from_config(
                model_config_class(fields["model_type"])(**config, vocab_size=9, decoder_vocab_size=9)
            )
            names = {type(module).__name__ for module in model.modules()}
            assert set(model._no_split_modules) <= names, model_type
