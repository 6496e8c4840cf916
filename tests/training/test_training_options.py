"""Options of the training: averages, freezing, another model's weights, mixed data, sampled segmentations."""

import collections
import dataclasses
import itertools
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import (
    configure,
    read_log,
    run,
    same,
    weights,
    write_pairs,
)
from tokenizers import Tokenizer, models
from transformers import AutoModelForSeq2SeqLM

from seqloom.data import subwords
from seqloom.data.encoding import encode
from seqloom.data.pairs import load_pairs
from seqloom.data.tokenization import load_tokenizer, train_tokenizer
from seqloom.settings.reading import load_settings
from seqloom.settings.schema import DataSettings, TokenizerSettings
from seqloom.settings.typed import build
from seqloom.training import checkpoints, ending, learner, loop, update

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Nobody catches it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 200, "few": 60, "validation": 51, "test": 31}
    return {name: write_pairs(folder, name, size) for name, size in sizes.items()}


def kill_and_resume(monkeypatch, folder: Path, pairs: dict, number: int, family: str = "transformer", /, **changes):
    """A run that dies in its update `number`, then another process's worth of it."""
    calls, original = [], loop.make_update

    def dies(*words):
        calls.append(words)
        if len(calls) == number:
            raise Killed
        return original(*words)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_update", dies)
        with pytest.raises(Killed):
            run(folder, pairs, family, **changes)
    AcceleratorState._reset_state(reset_partial_state=True)
    random.seed(5)
    torch.manual_seed(5)
    return run(folder, pairs, family, resume=True, **changes)


def assert_same_run(one: Path, other: Path) -> None:
    """Logs, last checkpoint's weights, kept weights and final model are the same, bit for bit."""
    assert read_log(one) == read_log(other)
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors")) for folder in (one, other)]
    assert files[0] == files[1]
    assert len(files[0]) >= 3
    for name in files[0]:
        assert same(checkpoints.load_file(one / name), checkpoints.load_file(other / name)), name


def refused(folder: Path, pairs: dict, message: str, **changes) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, pairs, **changes)
    assert not (folder / "run").exists()


@pytest.fixture
def seen(monkeypatch):
    """The learning weights after every update, by name."""
    found = []
    original = loop.make_update

    def spy(run, position):
        result = original(run, position)
        model = run.accelerator.unwrap_model(run.model)
        found.append({name: value.detach().double() for name, value in model.named_parameters()})
        return result

    monkeypatch.setattr(loop, "make_update", spy)
    return found


class TestMovingAverage:
    """training.ema_decay"""

    @pytest.mark.parametrize("family", ["rnn", "transformer"])
    def test_is_the_hand_written_one(self, tmp_path, data, seen, family):
        decay = 0.7
        record = run(tmp_path, data, family, training={"ema_decay": decay, "max_steps": 6, "eval_steps": 2})
        best, average = record["progress"]["best_step"], None
        for step, current in enumerate(seen, start=1):
            average = current if average is None else {
                name: decay * average[name] + (1 - decay) * current[name] for name in current
            }  # fmt: skip
            if step == best:
                expected = average
        saved = weights(tmp_path / "run")
        assert saved.keys() == expected.keys()
        for name, tensor in saved.items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-7)
            assert not torch.allclose(tensor.double(), seen[best - 1][name], atol=1e-4)
        assert "moving average with decay 0.7" in record["model"]["weights"]
        assert same(weights(tmp_path / "run" / "checkpoints" / "best"), saved)
        # The learning weights go on in the checkpoint, next to their average.
        raw = weights(tmp_path / "run" / "checkpoints" / "step-00000006")
        for name, tensor in raw.items():
            torch.testing.assert_close(tensor.double(), seen[-1][name])

    def test_is_what_is_validated(self, tmp_path, data):
        """The log's loss is that of the folder it kept as best; the learning is not touched by it."""
        options = {"max_steps": 3, "eval_steps": 3, "learning_rate": 0.1}
        run(tmp_path / "average", data, training={**options, "ema_decay": 0.9})
        run(tmp_path / "raw", data, training=options)
        ours, theirs = (read_log(tmp_path / name) for name in ("average", "raw"))
        assert ours[:-1] == theirs[:-1]
        assert ours[-1]["eval_loss"] != pytest.approx(theirs[-1]["eval_loss"], rel=1e-3)
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "average" / "run")
        settings = load_settings(tmp_path / "average" / "run" / "settings.yaml")
        tokenizer = load_tokenizer(tmp_path / "average" / "run")
        sides = [Path(path).read_text().splitlines() for path in settings.data.validation_files]
        total = count = 0
        for source, target in zip(*sides, strict=True):
            encoded = tokenizer(source, text_target=target, return_tensors="pt")
            with torch.no_grad():
                total += model(**encoded).loss.item() * encoded["labels"].numel()
            count += encoded["labels"].numel()
        assert ours[-1]["eval_loss"] == pytest.approx(total / count, rel=1e-5)

    def test_tied_weights_stay_tied(self, tmp_path, data):
        run(tmp_path, data, training={"ema_decay": 0.5})
        saved = weights(tmp_path / "run")
        assert "lm_head.weight" not in saved
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
        assert model.lm_head.weight is model.model.shared.weight

    def test_goes_on_after_a_kill(self, tmp_path, data, monkeypatch):
        changes = {"training": {"ema_decay": 0.8, "max_steps": 8}, "model": {"dropout": 0.1}}
        run(tmp_path / "whole", data, **changes)
        AcceleratorState._reset_state(reset_partial_state=True)
        kill_and_resume(monkeypatch, tmp_path / "killed", data, 5, **changes)
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        with pytest.raises(ValueError, match=r"training.ema_decay is None, but the run .* was started with 0.8"):
            run(tmp_path / "whole", data, resume=True, training={"max_steps": 9}, model=changes["model"])

    def test_an_update_that_is_left_out(self, tmp_path, data, monkeypatch):
        """Weights that did not move are not averaged once more."""
        original = update.accumulate_gradients

        def spoil(run, position):
            loss = original(run, position)
            return math.nan if run.progress.step == 2 else loss

        monkeypatch.setattr(update, "accumulate_gradients", spoil)
        run(tmp_path, data, training={"ema_decay": 0.8, "max_steps": 4, "eval_steps": 4})
        (file,) = [
            path
            for path in (tmp_path / "run" / "checkpoints" / "step-00000004").glob("custom_checkpoint_*.pkl")
            if "n_averaged" in torch.load(path)
        ]
        assert torch.load(file)["n_averaged"] == 3

    def test_refusals(self, tmp_path, data, monkeypatch):
        refused(tmp_path, data, "ema_decay is 1.0; it must be", training={"ema_decay": 1.0})
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
        refused(tmp_path, data, "ema_decay is 0.9, but the launch file shards", training={"ema_decay": 0.9})


class TestCheckpointsAveraged:
    """training.average_checkpoints with training.average_kind"""

    @pytest.fixture
    def scripted(self, monkeypatch):
        """Validations that find the given scores; returns the weights that each one saw."""
        states = []

        def script(*scores: float, name: str = "loss"):
            remaining = list(scores)

            def validate(run):
                states.append({key: value.detach().clone() for key, value in run.scored_model.named_parameters()})
                return {"loss": 1.0, name: remaining.pop(0)}

            for module in (loop, ending):
                monkeypatch.setattr(module, "validate", validate)
            return states

        return script

    @pytest.mark.parametrize(
        ("kind", "name", "scores", "steps"),
        [
            ("last", "loss", (3.0, 1.0, 2.0, 2.5, 4.0), (3, 4, 5)),
            ("best", "loss", (3.0, 1.0, 2.0, 2.5, 4.0), (2, 3, 4)),
            ("best", "loss", (1.0, 2.0, 2.0, 2.0, 1.5), (1, 2, 5)),  # the earlier one of equals
            ("best", "exact_match", (3.0, 1.0, 2.0, 2.5, 4.0), (1, 4, 5)),
        ],
    )
    def test_is_the_mean_by_hand(self, tmp_path, data, scripted, kind, name, scores, steps):
        seen = scripted(*scores, 0.0 if name == "loss" else 100.0, name=name)
        options = {
            "max_steps": 5, "eval_steps": 1, "average_checkpoints": 3, "average_kind": kind, "learning_rate": 0.1,
        }  # fmt: skip
        metric = {} if name == "loss" else {"eval_metric": name}
        record = run(tmp_path, data, training={**options, **metric})
        for key, tensor in weights(tmp_path / "run").items():
            mean = sum(seen[step - 1][key].double() for step in steps) / 3
            torch.testing.assert_close(tensor, mean.float(), rtol=1e-6, atol=1e-7)
        assert f"updates {', '.join(map(str, steps))}" in record["model"]["weights"]
        kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints" / "weights").iterdir())
        assert kept == [f"step-{step:08d}.safetensors" for step in steps]

    @pytest.mark.parametrize("kind", ["last", "best"])
    def test_goes_on_after_a_kill(self, tmp_path, data, monkeypatch, kind):
        options = {
            "max_steps": 8, "eval_steps": 2, "average_checkpoints": 2, "average_kind": kind, "learning_rate": 0.3,
        }  # fmt: skip
        records = [run(tmp_path / "whole", data, training=options)]
        AcceleratorState._reset_state(reset_partial_state=True)
        records.append(kill_and_resume(monkeypatch, tmp_path / "killed", data, 6, training=options))
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        assert records[0]["model"] == records[1]["model"]

    def test_kept_weights_of_a_future_that_did_not_come(self, tmp_path, data, monkeypatch):
        """They were kept, then the run was killed before its checkpoint and resumed with other validations."""
        model = torch.nn.Linear(1, 1)
        for step, score in ((2, 1.0), (4, 5.0), (6, 9.0)):
            checkpoints.keep_weights(model, tmp_path, step, 3, score)
        checkpoints.keep_weights(model, tmp_path, 5, 3, 0.0)
        assert checkpoints.load_average(model, tmp_path) == [2, 4, 5]


class TestFreezing:
    """training.freeze"""

    @pytest.fixture
    def begun(self, monkeypatch):
        """The model as it is built."""
        states = []
        original = learner.make_model

        def make(*words):
            model = original(*words)
            states.append({name: value.detach().clone() for name, value in model.named_parameters()})
            return model

        monkeypatch.setattr(learner, "make_model", make)
        return states

    @pytest.mark.parametrize("family", ["rnn", "transformer"])
    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_frozen_stay_and_others_learn(self, tmp_path, data, begun, capsys, family, checkpointing, monkeypatch):
        optimizers, original = [], learner.make_optimizer
        monkeypatch.setattr(
            learner, "make_optimizer", lambda *words: optimizers.append(original(*words)) or optimizers[0]
        )
        options = {"freeze": ["model.encoder.*", "*.bias*"], "weight_decay": 0.1, "max_grad_norm": 0.5,
                   "gradient_checkpointing": checkpointing}  # fmt: skip
        run(tmp_path, data, family, training=options, tokenizer={"shared": False})
        before, after = begun[0], weights(tmp_path / "run")
        assert before.keys() == after.keys()
        frozen = {name for name in before if name.startswith("model.encoder.") or ".bias" in name}
        assert any(name.startswith("model.decoder.") for name in frozen)
        assert {name for name in before if torch.equal(before[name], after[name])} == frozen
        trained = sum(tensor.numel() for name, tensor in before.items() if name not in frozen)
        assert f"parameters, {trained:,} of them to train" in capsys.readouterr().out
        assert sum(p.numel() for group in optimizers[0][0].param_groups for p in group["params"]) == trained

    def test_without_it_all_learns(self, tmp_path, data, begun, capsys):
        run(tmp_path, data)
        assert not any(torch.equal(begun[0][name], tensor) for name, tensor in weights(tmp_path / "run").items())
        assert "to train" not in capsys.readouterr().out

    def test_a_tied_matrix_under_any_name(self, tmp_path, data, begun):
        run(tmp_path, data, training={"freeze": ["lm_head.*"]})
        after = weights(tmp_path / "run")
        assert [name for name, value in begun[0].items() if torch.equal(value, after[name])] == ["model.shared.weight"]

    def test_refusals(self, tmp_path, data):
        near = r"has 'model.encodr.\*', which no parameter's name matches; near it are model\.encoder"
        refused(tmp_path, data, near, training={"freeze": ["*bias", "model.encodr.*"]})
        refused(tmp_path, data, "leaves nothing to train", training={"freeze": ["*"]})
        run(tmp_path, data, training={"freeze": ["model.encoder.*"]})
        with pytest.raises(ValueError, match=r"freeze is .* was started with"):
            run(tmp_path, data, resume=True, training={"freeze": ["model.decoder.*"], "max_steps": 9})


class TestInitialising:
    """training.init_from"""

    @pytest.fixture
    def start(self, tmp_path, data, monkeypatch):
        """The weights that a run's first update starts from, and its tokenizer."""

        def _start(name: str, other, family="transformer", /, *, resume=False, **changes):
            found = []

            def stop(run, position):
                model = run.accelerator.unwrap_model(run.model)
                found.append({key: value.detach().clone() for key, value in model.named_parameters()})
                found.append(run.tokenizer)
                raise Killed

            changes["training"] = {"init_from": str(other) if other else None, **changes.get("training", {})}
            AcceleratorState._reset_state(reset_partial_state=True)
            with monkeypatch.context() as patch:
                patch.setattr(loop, "make_update", stop)
                with pytest.raises(Killed):
                    run(tmp_path / name, data, family, resume=resume, **changes)
            return found

        return _start

    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory, data):
        """A run of each family, whose tokenizer has other ids than those of the runs that follow."""
        folders = {}
        for family in ("rnn", "transformer"):
            folders[family] = tmp_path_factory.mktemp(family)
            run(folders[family], data, family)
            AcceleratorState._reset_state(reset_partial_state=True)
        return folders

    @pytest.mark.parametrize("family", ["rnn", "transformer"])
    def test_ours_with_another_vocabulary(self, start, trained, capsys, family):
        theirs = weights(trained[family] / "run")
        tokens = load_tokenizer(trained[family] / "run").get_vocab()
        ours, tokenizer = start("begun", trained[family] / "run", family, tokenizer={"kind": "bpe", "vocab_size": 22})
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("taken over"))
        fresh, _ = start("fresh", None, family, tokenizer={"kind": "bpe", "vocab_size": 22})
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"model.shared.weight"}:
            assert torch.equal(ours[name], theirs[name])
        common = 0
        for token, index in tokenizer.get_vocab().items():
            row = ours["model.shared.weight"][index]
            if token in tokens:
                common += 1
                assert torch.equal(row, theirs["model.shared.weight"][tokens[token]])
            else:
                assert torch.equal(row, fresh["model.shared.weight"][index])
        assert common == 12  # the letters and the special tokens
        assert any(tokens[token] != index for token, index in tokenizer.get_vocab().items() if token in tokens)
        assert f"{len(ours) - 1} tensors by name" in line
        assert f"model.shared.weight ({common} of 22 rows)" in line

    def test_the_sides_of_a_pair(self, start, trained):
        """Its two tables come from the one of a shared vocabulary; its output row by the target's tokens."""
        theirs = weights(trained["transformer"] / "run")["model.shared.weight"]
        tokens = load_tokenizer(trained["transformer"] / "run").get_vocab()
        sizes = {"kind": "char", "vocab_size": 12, "target_kind": "bpe", "target_vocab_size": 20, "shared": False}
        ours, tokenizer = start("pair", trained["transformer"] / "run", tokenizer=sizes)
        for side, vocabulary in (("encoder", tokenizer), ("decoder", tokenizer.target_tokenizer)):
            table, shared = ours[f"model.{side}.embed_tokens.weight"], 0
            for token, index in vocabulary.get_vocab().items():
                if token in tokens:
                    shared += 1
                    assert torch.equal(table[index], theirs[tokens[token]])
            assert shared >= 10

    def test_parts(self, start, trained, capsys):
        theirs = weights(trained["transformer"] / "run")
        patterns = {"init_parameters": ["model.encoder.layers.*.self_attn.*", "model.decoder.layers.0.fc1.weight"]}
        ours, _ = start("parts", trained["transformer"] / "run", training=patterns)
        fresh, _ = start("fresh", None)
        for name in ours:
            is_theirs = ".encoder.layers.0.self_attn." in name or name.endswith("decoder.layers.0.fc1.weight")
            assert torch.equal(ours[name], (theirs if is_theirs else fresh)[name]), name
        assert "not asked for: model.shared.weight" in capsys.readouterr().out

    def test_other_shapes_stay_fresh(self, start, trained, capsys):
        theirs = weights(trained["transformer"] / "run")
        wider = {"model": {"encoder_ffn_dim": 48, "decoder_layers": 2}}
        ours, _ = start("wider", trained["transformer"] / "run", **wider)
        fresh, _ = start("fresh", None, **wider)
        not_theirs = [name for name in ours if name not in theirs or ours[name].shape != theirs[name].shape]
        assert {name.rpartition(".layers.")[2].split(".")[0] for name in not_theirs if "decoder" in name} == {"1"}
        assert any(name.endswith("fc1.weight") for name in not_theirs)
        for name in not_theirs[1:]:
            assert torch.equal(ours[name], fresh[name])
        assert "model.encoder.layers.0.fc1.weight (there 64×8)" in capsys.readouterr().out

    def test_marian(self, start, tmp_path, trained):
        """Another library's architecture, with our names for layers and its own for embeddings."""
        from transformers import MarianConfig, MarianMTModel

        tokenizer = load_tokenizer(trained["transformer"] / "run")
        torch.manual_seed(0)
        config = MarianConfig(
            vocab_size=len(tokenizer), d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0, eos_token_id=2,
            decoder_start_token_id=0, max_position_embeddings=32, forced_eos_token_id=None,
        )  # fmt: skip
        marian = MarianMTModel(config)
        marian.save_pretrained(tmp_path / "marian")
        tokenizer.save_pretrained(tmp_path / "marian")
        ours, vocabulary = start("run", tmp_path / "marian")
        theirs, tokens = dict(marian.named_parameters()), tokenizer.get_vocab()
        layers = [name for name in ours if ".layers." in name]
        assert len(layers) > 30
        assert all(torch.equal(ours[name], theirs[name]) for name in layers)
        for token, index in vocabulary.get_vocab().items():
            if token in tokens:
                assert torch.equal(ours["model.shared.weight"][index], marian.model.shared.weight[tokens[token]])

    def test_not_again_when_resumed(self, tmp_path, data, start, trained, monkeypatch, capsys):
        options = {"init_from": str(trained["transformer"] / "run"), "max_steps": 8}
        run(tmp_path / "whole", data, training=options)
        AcceleratorState._reset_state(reset_partial_state=True)
        capsys.readouterr()
        kill_and_resume(monkeypatch, tmp_path / "killed", data, 5, training=options)
        assert capsys.readouterr().out.count("taken over") == 1
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        # A run that was killed before its first checkpoint begins anew, from the other model.
        first = start("early", options["init_from"])[0]
        assert same(start("early", options["init_from"], resume=True)[0], first)

    def test_refusals(self, tmp_path, data, trained):
        folder = str(trained["transformer"] / "run")
        refused(tmp_path, data, "no model that AutoModelForSeq2SeqLM loads", training={"init_from": "./nowhere"})
        refused(
            tmp_path, data, r"has 'encoder.\*', which no parameter",
            training={"init_from": folder, "init_parameters": ["encoder.*"]},
        )  # fmt: skip
        refused(tmp_path, data, "nothing of training.init_from .* fits", training={"init_from": folder},
                model={"d_model": 16, "encoder_ffn_dim": 6, "decoder_ffn_dim": 6})  # fmt: skip
        refused(tmp_path, data, "but that is null: give both", training={"init_parameters": ["lm_head.*"]})


class TestMixing:
    """data.mix"""

    @pytest.fixture(scope="class")
    def sets(self, tmp_path_factory):
        """Three sets whose pairs tell where they come from: text files, a table with other columns, a local folder."""
        folder = tmp_path_factory.mktemp("sets")
        for side in ("source", "target"):
            (folder / f"a.{side}").write_text("".join(f"a{number}\n" for number in range(300)))
        rows = [{"question": f"b{number}", "answer": {"text": f"b{number}"}} for number in range(40)]
        (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pairs = {side: [f"c{number}" for number in range(90)] for side in ("source", "target")}
        datasets.DatasetDict({"all": datasets.Dataset.from_dict(pairs)}).save_to_disk(folder / "c")
        return {
            "a": {"train_files": [str(folder / f"a.{side}") for side in ("source", "target")]},
            "b": {"train_files": [str(folder / "b.jsonl")], "source": "question", "target": "answer.text"},
            "c": {"dataset": str(folder / "c"), "train_split": "all"},
        }

    @pytest.fixture
    def texts(self, sets, data):
        """What is drawn with weights 5, 3 and 2."""

        def _texts(seed: int = 1, **changes):
            mix = [{**sets["b"], "weight": 3}, {**sets["c"], "weight": 2}]
            fields = {**sets["a"], "weight": 5.0, "mix": mix, "validation_files": data["validation"], **changes}
            pairs = load_pairs(build(DataSettings, fields, "data"), seed, splits=["train"])
            columns = [
                list(column)
                for column in zip(*([r["source"], r["target"]] for r in pairs.splits["train"]), strict=True)
            ]
            assert columns[0] == columns[1]
            return columns[0], pairs.provenance

        return _texts

    def test_shares(self, texts):
        """5 : 3 : 2, each set in its own order, again from its start where it is used up."""
        found, provenance = texts()
        counts = {name: sum(text[0] == name for text in found) for name in "abc"}
        for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
            spread = math.sqrt(len(found) * share * (1 - share))
            assert abs(counts[name] - share * len(found)) < 3 * spread
        sizes = {"a": 300, "b": 40, "c": 90}
        for name, size in sizes.items():
            assert [text for text in found if text[0] == name] == [
                f"{name}{number % size}" for number in range(counts[name])
            ]
            assert counts[name] >= size  # all are exhausted
        assert [entry["drawn"] for entry in provenance["mix"]] == list(counts.values())
        assert [entry["pairs"] for entry in provenance["mix"]] == list(sizes.values())
        assert [entry["weight"] for entry in provenance["mix"]] == [5, 3, 2]
        assert provenance["pairs"] == {"train": len(found)}
        assert provenance == json.loads(json.dumps(provenance))

    def test_the_first_to_end(self, texts):
        found, _ = texts(stopping_strategy="first_exhausted")
        counts = {name: sum(text[0] == name for text in found) for name in "abc"}
        assert counts["b"] == 40
        assert len({*found}) == len(found) < 200

    def test_a_function_of_the_seed(self, texts):
        assert texts()[0] == texts()[0] != texts(seed=2)[0]
        assert texts(weight=1.0)[0] != texts()[0]

    @pytest.mark.parametrize("strategy", ["all_exhausted", "first_exhausted"])
    def test_streamed_pairs_are_the_same(self, texts, strategy):
        streamed, provenance = texts(stopping_strategy=strategy, streaming=True)
        assert streamed == texts(stopping_strategy=strategy)[0]
        assert [entry["drawn"] for entry in provenance["mix"]] == ["streamed"] * 3

    def test_validation_and_test_are_of_data_alone(self, sets, data):
        fields = {**sets["a"], "mix": [{**sets["b"], "weight": 1}], "test_files": data["test"], "validation_size": 20}
        settings = build(DataSettings, fields, "data")
        pairs = load_pairs(settings, 1)
        alone = load_pairs(dataclasses.replace(settings, mix=[]), 1)
        for split in ("validation", "test"):
            assert pairs.splits[split][:] == alone.splits[split][:]
        held_out = {*pairs.splits["validation"]["source"]}
        assert len(held_out) == 20
        assert not held_out & {*pairs.splits["train"]["source"]}
        assert "mix" not in load_pairs(settings, 1, splits=["validation", "test"]).provenance

    @pytest.mark.parametrize("streaming", [False, True])
    def test_goes_on_after_a_kill(self, tmp_path, data, sets, monkeypatch, streaming):
        mix = [{**sets["b"], "weight": 1}, {"train_files": data["few"], "weight": 2}]
        changes = {"data": {"mix": mix, "streaming": streaming, "shuffle_buffer": 37},
                   "training": {"max_steps": 8, "batch_tokens": 150}}  # fmt: skip
        record = run(tmp_path / "whole", data, **changes)
        AcceleratorState._reset_state(reset_partial_state=True)
        kill_and_resume(monkeypatch, tmp_path / "killed", data, 5, **changes)
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        assert len(record["data"]["mix"]) == 3
        card = (tmp_path / "whole" / "run" / "README.md").read_text()
        for name in ("few.source, few.target", "b.jsonl"):
            assert f"| {name} | 1 |" in card
        if not streaming:
            assert f"| b.jsonl | 1 | 40 | {record['data']['mix'][1]['drawn']:,} |" in card
        assert str(Path(sets["b"]["train_files"][0]).parent) not in card

    def test_refusals(self, tmp_path, data, sets):
        for message, entry in (
            (r"data.mix\[0\].wieght is unknown; did you mean data.mix\[0\].weight", {**sets["b"], "wieght": 1}),
            (r"data.mix\[0\].test_files is unknown", {**sets["b"], "weight": 1, "test_files": data["test"]}),
            (r"data.mix\[0\] has no weight", sets["b"]),
            (r"data.mix\[0\].weight is 0.0; it must be more than 0", {**sets["b"], "weight": 0}),
            (r"data.mix\[0\].weight is 'much'", {**sets["b"], "weight": "much"}),
            (r"give either data.mix\[0\].dataset or", {"weight": 1}),
            (r"data.mix\[0\].split is 'simple'", {**sets["b"], "weight": 1, "split": "simple"}),
            (r"data.mix\[0\]: data.target is 'reply', but the columns of data.mix\[0\]|data.target is 'reply'",
             {**sets["b"], "weight": 1, "target": "reply"}),
            (r"data.mix\[0\]: data.train_split is 'dev', but", {**sets["c"], "weight": 1, "train_split": "dev"}),
            (r"data.mix\[0\]: there is no split 'train' to train on; there is all",
             {"dataset": sets["c"]["dataset"], "weight": 1}),
            (r"data.mix\[0\]: there is no file nowhere", {"train_files": ["nowhere"], "weight": 1}),
        ):  # fmt: skip
            refused(tmp_path, data, message, data={"mix": [entry]})
        refused(tmp_path, data, "data.weight is -1.0; it must be more than 0", data={"weight": -1})
        refused(tmp_path, data, "data.mix is 'scan'", data={"mix": "scan"})
        run(tmp_path, data, data={"mix": [{**sets["b"], "weight": 1}]})
        with pytest.raises(ValueError, match="another data section"):
            run(tmp_path, data, resume=True, data={"mix": [{**sets["b"], "weight": 2}]})


def random_texts(count: int, seed: int = 3) -> list[str]:
    """Words of few letters, so that merges abound, with signs, digits, blanks and what is rare."""
    words = random.Random(seed)
    rare = ["日本語", "é", "e\u0301", "  ", "\n", "12.5", "...", "don't", "\u3000", "🙂", "aaaaaaa"]
    vocabulary = ["".join(words.choices("etaoins", k=words.randint(1, 9))) for _ in range(150)]
    return ["", " ", "a", " a ", *(
        " ".join(words.choices([*vocabulary, *rare], weights=[*[1] * 150, *[2] * len(rare)], k=words.randint(1, 9)))
        for _ in range(count)
    )]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers():
    """One of each kind, trained on texts without some of the rare characters."""
    texts = [text for text in random_texts(400) if not set(text) & set("日🙂")]
    sizes = {"byte_bpe": 400, "bpe": 200, "unigram": 90}
    return {
        kind: train_tokenizer(texts, [], TokenizerSettings(kind=kind, vocab_size=size)) for kind, size in sizes.items()
    }


def numbers(*seed: int):
    return subwords._uniform(seed)


class TestSegmentation:
    """seqloom.subwords over the tokenizers' own merges and scores"""

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram"])
    def test_without_chance_it_is_the_tokenizers(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        ours = subwords.Subwords(tokenizer.backend_tokenizer, dropout=0.0, alpha=1e4)
        texts = [*random_texts(1500, seed=4), "a </s> b", "<pad>", "x<unk>"]
        found, expected = [ours.encode(text, numbers(0)) for text in texts], tokenizer(texts).input_ids
        if kind == "unigram":  # equals in likelihood may fall either way: the same tokens, in another order
            differ = [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]
            assert len(differ) < 0.1 * len(texts)
            assert all(sorted(one) == sorted(other) for one, other in differ)
        else:
            assert found == expected

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe"])
    def test_all_dropped_leaves_characters(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        ours = subwords.Subwords(tokenizer.backend_tokenizer, dropout=1.0)
        for text in ("seat on it", "a  s", "tete"):
            tokens = tokenizer.convert_ids_to_tokens(ours.encode(text, numbers(0)))
            blank = {"byte_bpe": "Ġ", "bpe": "▁"}[kind]
            assert tokens == [*(blank + text.replace(" ", blank)), "</s>"]
        if kind == "byte_bpe":
            assert len(ours.encode("日é🙂", numbers(0))) == 1 + len("日é🙂".encode()) + 1

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram"])
    def test_the_text_comes_back(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        ours = subwords.Subwords(tokenizer.backend_tokenizer, dropout=0.3, alpha=0.3)
        texts = [text for text in random_texts(300, seed=5) if kind == "byte_bpe" or not set(text) & set("日本語🙂")]
        segmented = [ours.encode(text, numbers(row)) for row, text in enumerate(texts)]
        expected = tokenizer(texts).input_ids
        assert tokenizer.batch_decode(segmented, skip_special_tokens=True) == tokenizer.batch_decode(
            expected, skip_special_tokens=True
        )
        assert sum(a != b for a, b in zip(segmented, expected, strict=True)) > len(texts) / 2

    def test_share_of_merges(self):
        """A piece of two characters and one merge, and one of three: by the paper's algorithm, counted by hand."""
        model = models.BPE({"</s>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "abc": 6},
                           [("a", "b"), ("b", "c"), ("ab", "c")])  # fmt: skip
        p, count = 0.3, 20_000
        ours = subwords.Subwords(Tokenizer(model), dropout=p)
        uniform = numbers(1)
        pairs = [len(ours.encode("ab", uniform)) for _ in range(count)]
        assert abs(pairs.count(2) / count - p) < 4 * math.sqrt(p * (1 - p) / count)
        found = [tuple(ours.encode("abc", uniform)) for _ in range(count)]
        q = 1 - p
        expected = {(6,): q * q, (4, 3): q * p, (1, 5): p * q, (1, 2, 3): p * p}
        assert {*found} == {*expected}
        for tokens, share in expected.items():
            assert abs(found.count(tokens) / count - share) < 4 * math.sqrt(share * (1 - share) / count)

    @pytest.mark.parametrize("alpha", [0.2, 1.0])
    def test_unigram_shares_are_the_probabilities(self, alpha):
        """Against all segmentations of a short word, one with an unknown character among them."""
        scores = {"<unk>": 0.0, "a": -2.0, "b": -2.5, "ab": -3.0, "ba": -3.5, "aba": -5.0, "bab": -6.0, "abab": -7.0}
        tokenizer = Tokenizer(models.Unigram([*scores.items()], unk_id=0))
        ours, word = subwords.Subwords(tokenizer, alpha=alpha), "ababab"

        def segmentations(rest: str):
            if not rest:
                yield ()
            for end in range(1, len(rest) + 1):
                if rest[:end] in scores:
                    yield from ((rest[:end], *others) for others in segmentations(rest[end:]))

        chances = {tokens: math.exp(alpha * sum(map(scores.get, tokens))) for tokens in segmentations(word)}
        assert len(chances) > 12
        count, total, uniform, ids = 20_000, sum(chances.values()), numbers(2), {t: i for i, t in enumerate(scores)}
        found = collections.Counter(tuple(ours.encode(word, uniform)) for _ in range(count))
        expected = {tuple(map(ids.get, tokens)): count * chance / total for tokens, chance in chances.items()}
        assert found.keys() <= expected.keys()
        chi_square = sum((found[tokens] - share) ** 2 / share for tokens, share in expected.items())
        freedom = len(expected) - 1
        assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
        assert (
            ours.encode("axxb", uniform).count(0) == 1
        )  # unknown characters in a row are one token, as in the library

    def test_the_same_of_a_seed_epoch_and_row(self, tokenizers):
        settings = TokenizerSettings(bpe_dropout=0.5)
        text, drawn = "toast sat neat on tea", set()
        for seed, epoch, row in itertools.product((1, 2), (0, 1), (0, 1)):
            first, again = (
                subwords.Sampler(tokenizers["byte_bpe"], settings, seed, epoch)(text, text, row) for _ in range(2)
            )
            assert first == again
            drawn |= {tuple(side) for side in first}
        assert len(drawn) == 16  # of the sides too

    def test_refusals(self, tokenizers):
        for model, message in (
            (models.BPE({"a": 0, "##b": 1}, [], continuing_subword_prefix="##"), "continuing_subword_prefix '##'"),
            (models.BPE({"a": 0}, [], byte_fallback=True), "byte_fallback True"),
            (models.BPE({"a": 0}, [], dropout=0.1), "dropout 0.1"),
            (models.WordLevel({"a": 0}, unk_token="a"), "not from WordLevel"),
        ):
            with pytest.raises(ValueError, match=message):
                subwords.Subwords(Tokenizer(model))
        with pytest.raises(ValueError, match="which the run's tokenizer is not"):
            _ = subwords.Sampler(tokenizers["bpe"], TokenizerSettings(sampling_alpha=0.1), 1, 0).sides


class TestSubwordRegularisation:
    """tokenizer.bpe_dropout and tokenizer.sampling_alpha in a run"""

    KINDS = {
        "byte_bpe": {"kind": "byte_bpe", "vocab_size": 290, "bpe_dropout": 0.3},
        "unigram": {"kind": "unigram", "vocab_size": 30, "sampling_alpha": 0.3},
        "a pair": {"kind": "bpe", "vocab_size": 30, "shared": False, "target_kind": "char", "target_vocab_size": 20,
                   "bpe_dropout": 0.3},
    }  # fmt: skip

    @pytest.fixture
    def read(self, monkeypatch):
        """Every update's pairs, and those of the validations, by (epoch, index)."""
        trained, validated = {}, []
        original, validate = loop.make_update, loop.validate

        def spy(run, position):
            trained[position.epoch, position.index] = [
                (tuple(x), tuple(y))
                for batch in position.micro_batches
                for x, y in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
            ]
            return original(run, position)

        def see(run):
            positions = run.validation_stream.epoch(0)
            validated.append([batch["input_ids"].tolist() for p in positions for batch in p.micro_batches])
            return validate(run)

        monkeypatch.setattr(loop, "make_update", spy)
        for module in (loop, ending):
            monkeypatch.setattr(module, "validate", see)
        return trained, validated

    @pytest.mark.parametrize("kind", list(KINDS))
    def test_anew_in_every_epoch(self, tmp_path, data, read, kind):
        trained, validated = read
        record = run(tmp_path, data, tokenizer=self.KINDS[kind], training={"max_steps": None, "num_train_epochs": 3})
        tokenizer = load_tokenizer(tmp_path / "run")
        pairs = list(zip(*(Path(path).read_text().splitlines() for path in data["few"]), strict=True))
        expected = sorted(pairs)
        epochs = collections.defaultdict(list)
        for (epoch, _), rows in sorted(trained.items()):
            epochs[epoch] += rows
        whole = {epoch: rows for epoch, rows in epochs.items() if len(rows) == len(pairs)}
        assert {0, 1} <= {*whole}
        ids = {}
        for epoch, rows in whole.items():
            sources = tokenizer.batch_decode(
                [x for x, _ in rows], skip_special_tokens=True,
                **({"use_source_tokenizer": True} if kind == "a pair" else {}),
            )  # fmt: skip
            targets = tokenizer.batch_decode([[max(i, 0) for i in y] for _, y in rows], skip_special_tokens=True)
            assert sorted(zip(sources, targets, strict=True)) == expected
            ids[epoch] = {source: [i for i in x if i] for source, (x, _) in zip(sources, rows, strict=True)}
        assert sum(ids[0][source] != ids[1][source] for source in ids[0]) > 4
        own = {source: tokenizer(source).input_ids for source in ids[0]}
        assert sum(ids[0][source] != own[source] for source in own) > 4
        if kind == "a pair":  # its target is made of characters, which nothing is for
            labels = [[i for i in y if i >= 0] for _, y in whole[0]]
            assert sorted(labels) == sorted(tokenizer(text_target=[target for _, target in pairs]).input_ids)
        # Validation pairs keep the tokenizer's own segmentation.
        sources = Path(data["validation"][0]).read_text().splitlines()
        for seen in validated:
            rows = [[i for i in row if i] for batch in seen for row in batch]
            assert sorted(rows) == sorted(tokenizer(sources).input_ids)
        assert record["data"]["train"].startswith("60 of 60 pairs kept")

    @pytest.mark.parametrize(("kind", "streaming"), [("byte_bpe", False), ("unigram", True)])
    def test_goes_on_after_a_kill(self, tmp_path, data, monkeypatch, kind, streaming):
        changes = {"tokenizer": self.KINDS[kind], "data": {"streaming": streaming, "shuffle_buffer": 37},
                   "training": {"max_steps": 12, "batch_tokens": 120}}  # fmt: skip
        if kind == "unigram":  # its trainer does not give the same twice
            words = [text for path in data["few"] for text in Path(path).read_text().splitlines()]
            train_tokenizer(words, words, TokenizerSettings(kind=kind, vocab_size=30)).save_pretrained(tmp_path / "t")
            changes["tokenizer"] = {"path": str(tmp_path / "t"), "sampling_alpha": 0.3}
        record = run(tmp_path / "whole", data, **changes)
        AcceleratorState._reset_state(reset_partial_state=True)
        kill_and_resume(monkeypatch, tmp_path / "killed", data, 8, **changes)
        assert record["progress"]["epoch"] >= 1
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        changes["tokenizer"] = {**changes["tokenizer"], "bpe_dropout": 0.2}
        with pytest.raises(ValueError, match="another tokenizer section"):
            run(tmp_path / "whole", data, resume=True, **changes)

    def test_the_cache_and_other_processes(self, data, tokenizers):
        """An epoch's encoding is found again, after use too; and is the same from several processes."""
        fields = {"train_files": data["few"], "validation_files": data["validation"]}
        pairs = load_pairs(DataSettings(**fields), 1).splits["train"]
        files, rows = [], []
        for epoch, num_proc in ((0, None), (1, None), (0, None), (0, 2)):
            sampler = subwords.Sampler(tokenizers["bpe"], TokenizerSettings(bpe_dropout=0.5), 1, epoch)
            settings = DataSettings(**fields, num_proc=num_proc)
            encoded, _ = encode(pairs, tokenizers["bpe"], settings, sampler=sampler)
            files.append([file["filename"] for file in encoded.cache_files])
            rows.append(encoded[:])
        assert files[0] == files[2] != files[1]
        assert rows[0] == rows[2] == rows[3] != rows[1]

    def test_pairs_too_long_when_drawn_keep_their_own(self, tmp_path, data, read):
        """Every epoch has the same pairs, and each fits the limits and the batch."""
        trained, _ = read
        options = {"data": {"max_source_length": 3, "max_target_length": None},
                   "tokenizer": {"kind": "byte_bpe", "vocab_size": 270, "bpe_dropout": 0.9},
                   "training": {"batch_tokens": 6, "max_steps": None, "num_train_epochs": 1,
                                "eval_steps": None}}  # fmt: skip
        plain = {**options, "tokenizer": {**options["tokenizer"], "bpe_dropout": 0.0}}
        lengths, kept = {}, {}
        for name, changes in (("plain", plain), ("drawn", options)):
            trained.clear()
            AcceleratorState._reset_state(reset_partial_state=True)
            kept[name] = run(tmp_path / name, data, **changes)["data"]["train"]
            lengths[name] = sorted(sum(i != 0 for i in x) for rows in trained.values() for x, _ in rows)
        assert kept["plain"] == kept["drawn"]
        assert "and 0 that are too long" not in kept["plain"]
        assert max(lengths["drawn"]) == 3
        assert len(lengths["drawn"]) == len(lengths["plain"]) > 30
        assert sum(lengths["drawn"]) > sum(lengths["plain"])

    def test_refusals(self, tmp_path, data):
        refused(tmp_path, data, "bpe_dropout is 1.5; it must be between", tokenizer={"bpe_dropout": 1.5})
        refused(tmp_path, data, "sampling_alpha is 0.0; it must be more", tokenizer={"sampling_alpha": 0})
        refused(tmp_path, data, "bpe_dropout is 0.1, but tokenizer.kind is char", tokenizer={"bpe_dropout": 0.1})
        refused(tmp_path, data, "sampling_alpha is 0.1, but tokenizer.kind is bpe",
                tokenizer={"kind": "bpe", "sampling_alpha": 0.1})  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_the_same(tmp_path, data):
    """All options together; frozen parameters need nothing of DistributedDataParallel."""
    changes = {
        "data": {"mix": [{"train_files": data["train"], "train_split": "train[:50]", "weight": 0.5}]},
        "tokenizer": {"kind": "byte_bpe", "vocab_size": 290, "bpe_dropout": 0.3},
        "training": {"ema_decay": 0.7, "freeze": ["model.encoder.layers.*"], "average_checkpoints": 2, "max_steps": 12,
                     "average_kind": "best", "batch_tokens": 150, "eval_steps": 3},
    }  # fmt: skip
    config = configure(tmp_path / "two", data, **changes)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "train.py"), config]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    alone = run(tmp_path / "one", data, **changes)
    together = json.loads((tmp_path / "two" / "run" / "record.json").read_text())
    one, two = (read_log(tmp_path / count) for count in ("one", "two"))
    assert len(one) == len(two) > 12
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert together["environment"]["processes"] == 2
    assert alone["model"] == together["model"]
    assert alone["data"] == together["data"]
    for name, tensor in weights(tmp_path / "one" / "run").items():
        if "k_proj.bias" in name:  # softmax ignores it, so Adam blows up what rounding leaves of its gradient
            continue
        torch.testing.assert_close(weights(tmp_path / "two" / "run")[name], tensor, rtol=1e-4, atol=1e-5)
