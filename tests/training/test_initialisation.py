"""Weights that stay as they are, and weights of another model to begin with."""

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.killed import Killed, assert_same_run, kill_and_resume, refused
from helpers.runs import (
    run,
    same,
    weights,
)

from seqloom.data.tokenization import load_tokenizer
from seqloom.training import learner, loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


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
        refused(tmp_path, data, "no model that can be taken over", training={"init_from": "./nowhere"})
        refused(
            tmp_path, data, r"has 'encoder.\*', which no parameter",
            training={"init_from": folder, "init_parameters": ["encoder.*"]},
        )  # fmt: skip
        refused(tmp_path, data, "nothing of training.init_from .* fits", training={"init_from": folder},
                model={"d_model": 16, "encoder_ffn_dim": 6, "decoder_ffn_dim": 6})  # fmt: skip
        refused(tmp_path, data, "but that is null: give both", training={"init_parameters": ["lm_head.*"]})
