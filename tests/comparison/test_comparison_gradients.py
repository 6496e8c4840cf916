"""Gradients over a distance and the tasks of memory: the numbers are right, and the words follow the numbers."""

import copy
import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers.tiny import close
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from seqloom import (
    RnnSeq2SeqConfig,
    RnnSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqConfig,
    TransformerSeq2SeqForConditionalGeneration,
)
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments import memory_networks
from seqloom.comparison.instruments.gradient_norms import (
    factor_per_step,
    fallen_at,
    input_norms,
    source_norms,
    state_norms,
)
from seqloom.comparison.instruments.memory_networks import (
    NUM_RECALLED,
    NUM_SYMBOLS,
    STANDARD,
    SYSTEMS,
    Training,
    baseline,
    build,
    train,
)
from seqloom.comparison.measures import gradient_findings, gradients, memory_tasks
from seqloom.comparison.sections import Plot, Table
from seqloom.data.tokenization import train_tokenizer
from seqloom.settings.schema import TokenizerSettings

CELLS = ("rnn", "lstm", "gru")
TINY = {"updates": 6, "hidden_size": 8, "batch_size": 4, "lengths": {"adding": (4, 6), "copy": (2,)}}
SOURCES = ["a b c", "b", "c c a b", "a c b b a", "b a", "c b a"]
TARGETS = ["x y", "y", "z z x", "x", "y z", "z"]


def training(**changes) -> Training:
    return replace(Training("adding", 4, "gru", 1.0, 5, 0.01, 8, 4, seed=3), **changes)


def cell(kind: str, size: int):
    return build(kind, "adding", size, seed=1).double().layer.requires_grad_(False)


class TestStates:
    @pytest.mark.parametrize("kind", CELLS)
    def test_against_the_whole_jacobian(self, kind):
        size, length = 3, 4
        layer = cell(kind, size)
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        n = 2 * size if kind == "lstm" else size
        row = torch.rand(1, length, 2, dtype=torch.float64)
        norms = state_norms(layer, row.expand(n, -1, -1), torch.eye(n, dtype=torch.float64))  # (n, length + 1)
        states = [torch.zeros(1, n, dtype=torch.float64)]
        for step in range(length):
            states.append(torch.cat(layer(row[:, step : step + 1], None, *states[-1].split(size, -1))[1:], -1))
        for distance in range(length + 1):

            def rest(state, distance=distance):
                if not distance:
                    return state
                return torch.cat(layer(row[:, length - distance :], None, *state.split(size, -1))[1:], -1)

            whole = torch.autograd.functional.jacobian(rest, states[length - distance])[0, :, 0]  # (n, n)
            close(norms[:, distance], whole.norm(dim=1), 1e-10)
            close(norms[:, distance].square().mean().sqrt(), whole.norm() / math.sqrt(n), 1e-10)

    @pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
    def test_a_linear_recurrence_has_a_closed_form(self, gain):
        """At inputs of zero the state is zero, tanh has the slope 1 and an orthogonal matrix keeps every length."""
        network = gradients.scale_(build("rnn", "adding", 8, seed=1).double(), gain).requires_grad_(False)
        directions = nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64), dim=-1)
        norms = state_norms(network.layer, torch.zeros(5, 30, 2, dtype=torch.float64), directions)
        expected = gain ** torch.arange(31, dtype=torch.float64)
        torch.testing.assert_close(norms, expected.expand(5, -1), rtol=1e-5, atol=0)  # orthogonal in float32
        assert factor_per_step(norms[0].tolist()) == pytest.approx(gain, rel=1e-6)

    def test_uniform_is_torchs_own(self):
        network = build("rnn", "adding", 16, seed=1)
        gradients.uniform_(network, seed=5)
        torch.manual_seed(5)
        for mine, torchs in zip(network.layer.rnn.parameters(), nn.RNN(2, 16).parameters(), strict=True):
            close(mine, torchs, 0)


class TestInputs:
    @pytest.mark.parametrize("system", SYSTEMS)
    def test_against_one_sequence_at_a_time(self, system):
        network = build(system, "adding", 8, seed=1).double().requires_grad_(False)
        inputs, wanted = memory_networks.adding(5, 3, torch.Generator().manual_seed(1))
        norms = input_norms(network, inputs.double(), wanted.double())
        for row, answer, found in zip(inputs.double(), wanted.double(), norms, strict=True):
            alone = row.clone().requires_grad_()
            ((network(alone[None])[0, -1] - answer) ** 2).sum().backward()
            close(found, alone.grad.norm(dim=-1).flip(0), 1e-10)
            assert found[0] > 0


class TestRates:
    def test_of_a_geometric_series(self):
        for factor in (0.7, 1.0, 1.3):
            assert factor_per_step([3 * factor**distance for distance in range(40)]) == pytest.approx(factor)

    def test_what_is_too_small_for_a_float_is_left_out(self):
        norms = [1e-5**distance for distance in range(100)]
        assert norms[-1] == 0
        assert factor_per_step(norms) == pytest.approx(1e-5)
        assert factor_per_step([1.0, 0.1, 0.01, 0.001, 1e-300]) == pytest.approx(0.1)
        assert factor_per_step([1.0, 0.5, 0.25, 0.0]) is None  # two distances are too few

    def test_the_first_distance_counts(self):
        """Distance 0 has a way of its own past all layers in a Transformer."""
        assert factor_per_step([1e9, *(0.9**distance for distance in range(1, 9))]) == pytest.approx(0.9)

    def test_what_is_too_large_ends_the_list(self):
        assert gradients._plain(torch.tensor([1.0, 2.0, math.inf, 3.0, math.nan])) == [1.0, 2.0]

    def test_fallen(self):
        assert fallen_at([100.0, 1.0, 0.5, 0.01, 0.009, 0.5]) == 4
        assert fallen_at([1.0, 1.0, 0.9]) is None
        assert fallen_at([0.001, 1.0, 0.9]) is None
        assert fallen_at([1.0, 1.0, 0.4], share=0.5) == 2


class TestTasks:
    def test_adding(self):
        inputs, wanted = memory_networks.adding(7, 500, torch.Generator().manual_seed(1))
        numbers, markers = inputs.unbind(-1)
        assert numbers.min() >= 0
        assert numbers.max() < 1
        for part in (markers[:, :3], markers[:, 3:]):
            assert part.sum(1).tolist() == [1.0] * 500
            assert (part.sum(0) > 0).all()  # every place is drawn
        expected = [sum(n for n, m in zip(*row, strict=True) if m) for row in zip(numbers, markers, strict=True)]
        close(wanted[:, 0], torch.stack(expected))

    def test_adding_baseline(self):
        _, wanted = memory_networks.adding(10, 200_000, torch.Generator().manual_seed(1))
        assert (wanted - 1).square().mean().item() == pytest.approx(baseline("adding", 10), rel=0.01)

    def test_copy(self):
        gap = 5
        inputs, wanted = memory_networks.copy(gap, 300, torch.Generator().manual_seed(1))
        assert inputs.shape == (300, gap + 2 * NUM_RECALLED, NUM_SYMBOLS + 2)
        given = inputs.argmax(-1)
        symbols = given[:, :NUM_RECALLED]
        assert sorted(symbols.unique().tolist()) == list(range(NUM_SYMBOLS))
        assert (wanted[:, -NUM_RECALLED:] == symbols).all()
        assert (wanted[:, :-NUM_RECALLED] == memory_networks.BLANK).all()
        rest = (
            [memory_networks.BLANK] * (gap - 1) + [memory_networks.DELIMITER] + [memory_networks.BLANK] * NUM_RECALLED
        )
        assert (given[:, NUM_RECALLED:] == torch.tensor(rest)).all()

    def test_copy_baseline(self):
        """Who knows when to answer, but not what."""
        gap, never = 5, -1e9
        _, wanted = memory_networks.copy(gap, 10, torch.Generator().manual_seed(1))

        def network(inputs):
            scores = torch.full((10, gap + 2 * NUM_RECALLED, NUM_SYMBOLS + 2), never)
            scores[:, :-NUM_RECALLED, memory_networks.BLANK] = 0
            scores[:, -NUM_RECALLED:, :NUM_SYMBOLS] = 0
            return scores

        loss = memory_networks.loss_of("copy", network, torch.empty(0), wanted)
        assert loss.item() == pytest.approx(baseline("copy", gap))


class TestNetworks:
    @pytest.mark.parametrize("system", SYSTEMS)
    def test_no_position_sees_what_follows(self, system):
        network = build(system, "copy", 8, seed=1)
        inputs = torch.randn(2, 6, NUM_SYMBOLS + 2)
        changed = inputs.clone()
        changed[:, 3] += 1
        before, after = network(inputs), network(changed)
        close(before[:, :3], after[:, :3], 1e-6)
        assert ((before - after)[:, 3:].abs().amax(-1) > 1e-6).all()  # and every later one sees it

    def test_the_transformer_knows_positions(self):
        network = build("transformer", "adding", 8, seed=1)
        inputs = torch.randn(1, 5, 2)
        swapped = inputs[:, [1, 0, 2, 3, 4]]
        assert (network(inputs) - network(swapped))[0, -1].abs() > 1e-4

    def test_initialised_as_the_package_does(self):
        matrix = build("rnn", "adding", 16, seed=1).layer.rnn.weight_hh_l0
        close(matrix @ matrix.T, torch.eye(16))
        biases = build("lstm", "adding", 16, seed=1).layer.rnn.bias_ih_l0
        assert biases.tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32


class TestTraining:
    @pytest.mark.parametrize("system", SYSTEMS)
    def test_the_same_values_give_the_same_weights(self, system):
        results, networks = zip(*(train(training(system=system)) for _ in range(2)), strict=True)
        assert results[0] == results[1]
        for first, second in zip(*(network.state_dict().values() for network in networks), strict=True):
            close(first, second, 0)
        other = train(training(system=system, seed=4))[0]
        assert other["error"] != results[0]["error"]

    def test_a_solved_task_ends_the_training(self):
        result, network = train(training(updates=1000, hidden_size=16, batch_size=32))
        assert result["solved_after"] is not None
        assert result["solved_after"] < 1000
        assert result["curve"][-1][0] == result["solved_after"]
        assert all(loss >= memory_networks.SOLVED for _, loss in result["curve"][:-1])
        assert result["curve"][-1][1] < memory_networks.SOLVED
        inputs, wanted = memory_networks.adding(4, 2000, torch.Generator().manual_seed(99))
        error = (network(inputs)[:, -1] - wanted).square().mean().item() / baseline("adding", 4)
        assert result["error"] == pytest.approx(error, rel=0.25)

    def test_too_few_updates_solve_nothing(self):
        result, _ = train(training(task="copy", length=5))
        assert result["solved_after"] is None
        assert 0 <= result["accuracy"] < 0.5

    def test_clipping(self):
        free, high, low = (train(training(clipping=norm))[0] for norm in (None, 1e9, 1e-3))
        assert free["largest_norm"] == high["largest_norm"] > 1e-3
        assert free["error"] == high["error"] != low["error"]
        assert low["largest_norm"] > 1e-3  # as it was before

    def test_largest_norm_of_all_updates(self):
        norms = [train(training(updates=updates))[0]["largest_norm"] for updates in range(1, 9)]
        assert norms == sorted(norms)

    def test_tested_on_sequences_of_their_own(self, monkeypatch):
        seeds = []

        def make(length, batch_size, generator):
            seeds.append(generator.initial_seed())
            return memory_networks.adding(length, batch_size, generator)

        monkeypatch.setitem(memory_networks.TASKS, "adding", make)
        train(training())
        assert len(seeds) == 5 + 1
        assert seeds[-1] not in seeds[:-1]

    def test_a_divergence_is_told_without_a_nan(self):
        result, _ = train(training(system="rnn", learning_rate=1e30, clipping=None, updates=2 * memory_networks.WINDOW))
        assert result["error"] is None
        json.dumps(result, allow_nan=False)

    def test_kept_weights_are_used_again(self, tmp_path):
        ours = training()
        memory_networks.train_and_keep(ours, tmp_path)
        path = memory_networks.weights_file(ours, tmp_path)
        expected = train(ours)[1].state_dict()
        kept = memory_networks.load_or_train(ours, tmp_path).state_dict()
        for name, value in expected.items():
            close(kept[name], value, 0)
        zeros = {name: torch.zeros_like(value) for name, value in load_file(path).items()}
        save_file(zeros, path, metadata={"training": json.dumps(asdict(ours))})
        assert all(not value.any() for value in memory_networks.load_or_train(ours, tmp_path).state_dict().values())
        other = training(updates=4)  # the same file, but not the same training
        for name, value in train(other)[1].state_dict().items():
            close(memory_networks.load_or_train(other, tmp_path).state_dict()[name], value, 0)

    @pytest.mark.slow
    def test_side_by_side_is_one_after_another(self, tmp_path):
        results = [
            memory_tasks.measure([], Options(tmp_path / str(jobs), num_jobs=jobs), **TINY, systems=("rnn", "gru"))
            for jobs in (1, 2)
        ]
        assert results[0] == results[1]
        files = [sorted(path.name for path in (tmp_path / jobs / "memory_tasks").iterdir()) for jobs in "12"]
        assert files[0] == files[1]
        assert len(files[0]) == len(results[0]["runs"]) == 12


def candidate(folder: Path, family: str, **fields) -> Candidate:
    """A tiny model with random weights, its tokenizer of words and its predictions."""
    tokenizer = train_tokenizer(SOURCES, TARGETS, TokenizerSettings(kind="word", shared=True))
    ids = {"vocab_size": len(tokenizer), "dropout": 0.3}
    torch.manual_seed(1)
    if family == "rnn":
        sizes = {
            "hidden_size": 8,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "attention": "none",
            "bidirectional": False,
        }
        model = RnnSeq2SeqForConditionalGeneration(RnnSeq2SeqConfig(**{**ids, **sizes, **fields}))
    else:
        sizes = {
            "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
        }  # fmt: skip
        model = TransformerSeq2SeqForConditionalGeneration(TransformerSeq2SeqConfig(**{**ids, **sizes, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lines = [
        json.dumps({"source": source, "reference": target, "hypothesis": ""})
        for source, target in zip(SOURCES, TARGETS, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Candidate(folder.name, (folder,), None, (42,), (folder / "predictions.jsonl",))


class TestSources:
    @pytest.mark.parametrize("family", ["rnn", "transformer"])
    def test_against_one_sentence_at_a_time(self, family, tmp_path):
        """Through ``inputs_embeds``, and without padding."""
        model, tokenizer = candidate(tmp_path, family).load()
        found = source_norms(model, tokenizer, SOURCES, TARGETS)
        assert not model.get_encoder().embed_tokens._forward_hooks
        for source, target, norms in zip(SOURCES, TARGETS, found, strict=True):
            ids = tokenizer(source, return_tensors="pt").input_ids.to(model.device)
            embeds = model.get_encoder().embed_tokens(ids).detach().requires_grad_()
            labels = torch.tensor([tokenizer(text_target=target).input_ids], device=model.device)
            scores = model(inputs_embeds=embeds, labels=labels).logits[0, 0].log_softmax(-1)
            (-scores[labels[0, 0]]).backward()
            close(norms, embeds.grad[0].norm(dim=-1).cpu())
            assert len(norms) == len(source.split()) + 1
            assert (norms > 0).all()

    def test_a_model_of_another_family(self, tmp_path):
        tokenizer = candidate(tmp_path, "rnn").load()[1]
        config = T5Config(
            vocab_size=len(tokenizer), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=0,
            decoder_start_token_id=1,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config).eval()
        model.decoder.set_input_embeddings(model.encoder.get_input_embeddings())  # one module: the source's are meant
        found = source_norms(model, tokenizer, SOURCES, TARGETS)
        for source, target, norms in zip(SOURCES, TARGETS, found, strict=True):
            embeds = model.shared(tokenizer(source, return_tensors="pt").input_ids).detach().requires_grad_()
            labels = torch.tensor([tokenizer(text_target=target).input_ids])
            scores = model(inputs_embeds=embeds, labels=labels).logits[0, 0].log_softmax(-1)
            (-scores[labels[0, 0]]).backward()
            close(norms, embeds.grad[0].norm(dim=-1))

    def test_from_the_end(self):
        rows = [torch.tensor([5.0, 1.0, 2.0]), torch.tensor([9.0, 9.0, 3.0, 4.0])]
        assert gradients._from_the_end(rows) == [3.0, 2.0, 7.0]

    def test_no_sentences(self, tmp_path):
        empty = candidate(tmp_path, "rnn")
        empty.predictions[0].write_text("", encoding="utf-8")
        with pytest.raises(ValueError, match=r"predictions.jsonl has no predictions: it is empty"):
            gradients.measure([empty], Options(tmp_path), distance=3, num_sequences=2, **TINY)


@pytest.fixture(scope="module")
def flow(tmp_path_factory) -> dict:
    """What gradient_flow finds of tiny things."""
    folder = tmp_path_factory.mktemp("flow")
    models = [candidate(folder / "GRU", "rnn", cell_type="gru"), candidate(folder / "Transformer", "transformer")]
    result = gradients.measure(models, Options(folder), distance=12, num_sequences=4, **TINY)
    return json.loads(json.dumps(result, allow_nan=False))


@pytest.fixture(scope="module")
def memory(tmp_path_factory) -> dict:
    """What memory_tasks finds in few updates."""
    result = memory_tasks.measure([], Options(tmp_path_factory.mktemp("memory")), **TINY)
    return json.loads(json.dumps(result, allow_nan=False))


class TestGradientFlow:
    def test_measured(self, flow):
        assert set(flow["systems"]) == {*STANDARD, "uniform"}
        for name, kinds in flow["systems"].items():
            assert set(kinds) == ({"initial"} if name == "uniform" else {"initial", "trained"})
            assert kinds.get("trained") != kinds["initial"]
            for norms in kinds.values():
                assert len(norms["inputs"]) == 13
                assert ("states" in norms) == (name != "transformer")
                if "states" in norms:
                    assert len(norms["states"]) == 13
                    assert norms["states"][0] == pytest.approx(1)
        assert list(flow["gains"]) == ["1", "1.5", "2"]
        assert flow["gains"]["1"] == flow["systems"]["rnn"]["initial"]["states"]
        assert flow["trained_on"] == 6  # the middle one of two is the upper
        assert [model["traits"]["has_cross_attention"] for model in flow["candidates"].values()] == [False, True]
        for model in flow["candidates"].values():
            sizes = [(bucket["sentences"], bucket["shortest"], bucket["longest"]) for bucket in model["buckets"]]
            assert sizes == [(2, 4, 4), (2, 5, 6)]
            for bucket in model["buckets"]:
                assert len(bucket["trained"]) == len(bucket["initial_from_start"]) == bucket["shortest"]
            assert model["buckets"][0]["trained"] == pytest.approx(model["buckets"][0]["trained_from_start"][::-1])
            assert model["buckets"][0]["trained"] != model["buckets"][0]["initial"]

    def test_section(self, flow):
        section = gradients.section(flow)
        plots = {part.name: part.figure for part in section.parts if isinstance(part, Plot)}
        assert list(plots) == ["gradient_states", "gradient_inputs", "gradient_candidates"]
        first = plots["gradient_states"].axes[0].lines[0]
        assert list(first.get_ydata()) == flow["systems"]["rnn"]["initial"]["states"]
        for table in (part for part in section.parts if isinstance(part, Table)):
            assert {len(row) for row in table.rows} == {len(table.header)}
        assert section.findings
        alone = gradients.section({**flow, "candidates": {}})
        assert len(alone.parts) == len(section.parts) - 2

    def test_findings_follow_the_numbers(self, flow):
        def series(factor):
            return [factor**distance for distance in range(14)]

        def falls(ours, lstm, gru):
            result = copy.deepcopy(flow)
            for name, factor in (("rnn", ours), ("lstm", lstm), ("gru", gru)):
                result["systems"][name]["trained"]["states"] = series(factor)
                result["systems"][name]["trained"]["factors"] = around(factor)
            return gradient_findings.findings(result)[2]

        def around(factor, spread=0.01):
            return [math.log(factor) + spread * step for step in (-1, -0.5, 0, 0.2, 0.3, 1)]

        assert "SEEN against LSTM and GRU; factor per step tanh-RNN 0.500 (below 1 % after 8" in falls(0.5, 0.99, 0.9)
        assert "NOT" not in falls(0.5, 0.99, 0.9)
        assert "NOT SEEN against LSTM and GRU" in falls(0.99, 0.5, 0.9)
        assert "NOT CLEAR against LSTM and GRU" in falls(0.9, 0.9, 0.9)
        assert "NOT CLEAR against LSTM and GRU" in falls(0.9, 0.905, 0.9)
        assert "SEEN against GRU and NOT SEEN against LSTM" in falls(0.8, 0.5, 0.9)
        without = copy.deepcopy(flow)
        for kinds in without["systems"].values():
            for norms in kinds.values():
                norms.pop("factors", None)
                norms.pop("lowest", None)
        assert "NOT CLEAR against LSTM and GRU" in gradient_findings.findings(without)[2]  # of an earlier version
        assert "NOT CLEAR" in gradient_findings.findings(without)[3]

        result = copy.deepcopy(flow)
        result["systems"]["transformer"]["trained"]["inputs"] = series(0.99)
        result["systems"]["transformer"]["trained"]["lowest"] = around(0.99**13)
        result["gains"] = {"1": series(1.0), "1.5": series(1.2), "2": series(1.4)}
        result["gain_factors"] = {"1": around(1.0), "1.5": around(1.2), "2": around(1.4)}
        attends, explodes = gradient_findings.findings(result)[3:5]
        assert ("NOT SEEN" in attends, "NOT SEEN" in explodes) == (False, False)
        result["systems"]["transformer"]["trained"]["inputs"] = series(0.5)
        result["systems"]["transformer"]["trained"]["lowest"] = around(0.5**13)
        result["gains"]["2"], result["gain_factors"]["2"] = series(0.9), around(0.9)
        attends, explodes = gradient_findings.findings(result)[3:5]
        assert ("NOT SEEN" in attends, "NOT SEEN" in explodes) == (True, True)

        for kind, place in (("initial", -2), ("trained", -1)):
            names = list(result["candidates"])
            for low, high, verdict in ((names[0], names[1], " SEEN: "), (names[1], names[0], "NOT SEEN: ")):
                for name, share in ((low, 0.1), (high, 0.5)):
                    result["candidates"][name]["buckets"][-1][kind] = [1.0, 0.7, share]
                    result["candidates"][name]["evenness"][kind] = around(share)
                found = gradient_findings.findings(result)[place]
                assert verdict in found
                assert f"{low} 10%" in found
                assert f"{high} 50%" in found

    def test_evenness_of_all_with_against_all_without(self):
        def verdict(without, with_it):
            models = {
                f"{attention} {share}": {
                    "attention": attention,
                    "buckets": [{k: [share, 1.0] for k in kinds}],
                    "evenness": {k: [math.log(share) + 0.01 * step for step in range(-2, 3)] for k in kinds},
                }
                for attention, shares in ((False, without), (True, with_it))
                for share in shares
            }
            return gradient_findings.candidates_findings(models)[0]

        kinds = ("initial", "trained")
        assert " SEEN: False 0.1 against True 0.3; False 0.1 against True 0.4; False 0.2 ag" in verdict(
            [0.1, 0.2], [0.3, 0.4]
        )
        assert "NOT SEEN: False 0.35 against True 0.3." in verdict([0.1, 0.35], [0.3, 0.4])
        assert "NOT CLEAR: False 0.1 against True 0.1." in verdict([0.1], [0.1, 0.9])
        assert verdict([0.1], []).startswith("With fresh weights, models without attention alone")
        assert verdict([], [0.1]).startswith("With fresh weights, models with attention alone")

    def test_root_mean_square_over_sequences(self):
        network = build("rnn", "adding", 8, seed=1)
        inputs, wanted = memory_networks.adding(7, 5, torch.Generator().manual_seed(1))
        found = gradients._flow(network, inputs, wanted, seed=5)["states"]
        torch.manual_seed(5)
        directions = nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64), dim=-1)
        norms = state_norms(network.layer, inputs[:, 1:].double(), directions)
        assert found == pytest.approx([(row.square().sum() / 5).sqrt().item() for row in norms.T])

    def test_fresh_weights_have_no_dropout(self, tmp_path):
        both = [
            gradients._measure_candidate(candidate(tmp_path / str(p), "transformer", dropout=p), Options(tmp_path), 6)
            for p in (0.0, 0.5)
        ]
        assert both[0]["buckets"] == both[1]["buckets"]

    def test_clipped_networks_of_the_middle_length_are_measured(self):
        chosen = gradients.measured_trainings(memory_tasks.plan(1))
        assert list(chosen) == list(STANDARD)
        assert {(one.task, one.length, one.clipping) for one in chosen.values()} == {("adding", 30, 1.0)}

    def test_tables_are_relative_where_they_say_so(self):
        norms = [8.0, 4.0, *[2.0] * 9]
        table = gradients._systems_table({"rnn": {"trained": {"inputs": norms, "states": norms}}}, "inputs", "")
        assert table.rows[0][4] == "0.5"  # at 10, of that at 1
        table = gradients._systems_table({"rnn": {"trained": {"inputs": norms, "states": norms}}}, "states", "")
        assert table.rows[0][4] == "2"
        bucket = {"shortest": 11, "longest": 11, "initial": norms, "trained": norms}
        table = gradients._candidates_table({"it": {"buckets": [bucket]}})
        assert table.rows[0][table.header.index("at 10")] == "0.5"


class TestMemoryTasks:
    def test_measured(self, memory):
        plans = itertools.product((("adding", 4), ("adding", 6), ("copy", 2)), STANDARD, (1.0, None))
        keys = [((run["task"], run["length"]), run["system"], run["clipping"]) for run in memory["runs"]]
        assert keys == list(plans)
        assert {run["updates"] for run in memory["runs"]} == {6}

    def test_section(self, memory):
        section = memory_tasks.section(memory)
        plots = {part.name: part.figure for part in section.parts if isinstance(part, Plot)}
        assert list(plots) == ["memory_tasks", "memory_curves"]
        tables = [part for part in section.parts if isinstance(part, Table)]
        assert [len(table.rows) for table in tables] == [8, 4]
        for table in tables:
            assert {len(row) for row in table.rows} == {len(table.header)}
        line = plots["memory_tasks"].axes[0].lines[0]
        errors = [run["error"] for run in memory["runs"] if run["system"] == "rnn" and run["clipping"]]
        assert list(line.get_ydata()) == errors[:2]
        assert set(section.headline["longest adding problem solved"].values()) == {"none"}

    def test_findings_follow_the_numbers(self, memory):
        def changed(**values) -> dict:
            """All at the baseline, but for the clipped (``rnn``) or not clipped (``rnn_free``) ones that are named."""
            result = copy.deepcopy(memory)
            for run in result["runs"]:
                key = run["system"] + ("" if run["clipping"] else "_free")
                run.update({"error": 1.0, "solved_after": None, "largest_norm": 1.0, **values.get(key, {})})
            return result

        solves = {"error": 0.02, "solved_after": 3}
        section = memory_tasks.section(changed(lstm=solves, gru=solves, gru_free=solves))
        *solved, gates, clipping, norms = section.findings
        assert solved[0] == (
            "Adding problem, 4 numbers: solved by LSTM (3 updates), GRU (3 updates); not in 6 updates by tanh-RNN "
            "(100% of the baseline), Transformer (100% of the baseline)."
        )
        assert len(solved) == 3
        assert " SEEN: LSTM, an error lower by 98% [98%, 98%] of the baseline in the mean" in gates
        assert "; GRU, an error lower by 98%" in gates
        assert "NOT" not in gates
        assert "adding problem 6 (2% against 100%)" in gates
        assert "helped 3 and harmed 0" in clipping
        assert "NOT CLEAR: in 12 trainings the error is lower by 24%" in clipping  # of the LSTM alone: 3 of 12
        assert "NOT SEEN" in norms
        assert section.headline["longest adding problem solved"]["LSTM"] == "6 numbers"

        findings = memory_tasks.section(
            changed(rnn=solves, gru={"error": None}, rnn_free={"largest_norm": 50.0})
        ).findings
        *_, gates, clipping, norms = findings
        assert "NOT SEEN: LSTM" in gates
        assert "; GRU, an error lower by -98%" in gates
        assert "(diverged against 2%)" in gates
        assert "GRU (diverged)" in findings[0]
        assert "helped 3 and harmed 0" in clipping  # who diverges remembers as much as who remembers nothing
        assert "NOT SEEN" not in norms
        assert "tanh-RNN 50" in norms

        between = changed(lstm_free={"largest_norm": 90.0}, rnn_free={"largest_norm": 50.0}, gru_free=solves)
        norms = memory_tasks.findings(between)[-1]
        assert " SEEN: 50 times those of the GRU in the mean. NOT SEEN: 0.556 times those of the LSTM" in norms
        longest = memory_tasks.section(between).headline["longest adding problem solved"]
        assert longest["GRU"] == "none"  # not with clipping

        nothing = memory_tasks.findings(changed())[-2]
        assert "NOT SEEN: in 12 trainings the error is lower by 0% [0%, 0%]" in nothing
        assert "helped 0 and harmed 0" in nothing

        mixed = changed()
        for run in mixed["runs"]:
            if run["system"] == "gru" and run["task"] == "adding":
                run["error"] = {4: 0.5, 6: 1.5}[run["length"]]
        gates = memory_tasks.findings(mixed)[-3]
        assert "NOT CLEAR: GRU, an error lower by 17%" in gates  # at one of three
        assert "much lower at adding problem 4 (50% against 100%)" in gates
