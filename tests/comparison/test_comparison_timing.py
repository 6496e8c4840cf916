"""The comparison's timed measures: arithmetic, what they run, what their findings follow from. Nothing is timed."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
from helpers.tiny import ONE_LAYER, SEPARATE, tiny
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration, MarianConfig, T5Config

from seqloom import HybridSeq2SeqConfig, RnnSeq2SeqConfig
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments import generate_calls, training_steps
from seqloom.comparison.measures import data_handling, generation
from seqloom.comparison.sections import Plot, Section, Table
from seqloom.comparison.traits import recorded
from seqloom.data.tokenization import train_tokenizer
from seqloom.scoring.estimates import student_quantile
from seqloom.settings.schema import TokenizerSettings

LENGTHS = [16, 32, 64, 128, 256, 512, 1024, 2048]
NO_ATTENTION, LUONG, TRANSFORMER = "GRU, no attention", "GRU, Luong attention", "Transformer"
SSRU = {"model_type": "hybrid_seq2seq", "cell_type": "ssru"}
OPTIONS = Options(folder=Path("nowhere"))
CPU = torch.device("cpu")


def powers(factor: float, power: float) -> dict[int, float]:
    return {length: factor * length**power for length in LENGTHS}


def round_trip(result: dict) -> dict:
    return json.loads(json.dumps(result, allow_nan=False))


def texts(section: Section) -> dict:
    """All of a section that can be compared; figures by what they draw."""
    parts = []
    for part in section.parts:
        if isinstance(part, Plot):
            lines = [line.get_xydata().tolist() for axes in part.figure.axes for line in axes.lines]
            parts.append((part.name, part.caption, lines))
        else:
            parts.append(part)
    return {**vars(section), "parts": parts}


def finding(section: Section, start: str) -> str:
    (found,) = [text for text in section.findings if start in text]
    return found


@pytest.fixture(scope="module")
def steps_result():
    """A tiny run with a step loop in it, of which nothing is skipped."""
    config = tiny("gru-bahdanau", encoder_layers=1).config
    candidate = type("Bahdanau", (), {"config": config})()
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    result = data_handling.measure(
        [candidate],
        OPTIONS,
        lengths=[8, 4, 16],
        width=16,
        batch_size=1,
        vocab_size=8,
        repeats=1,
        longest_step=60,
        speedup_length=5,
    )
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
    return result


def steps_of(encoder: dict, transformer: dict, decoder: dict | None = None, noise: float = 0.01) -> dict:
    """A result with the given series of milliseconds, whose control is as far from itself as the noise."""
    rows = {NO_ATTENTION: encoder, LUONG: encoder, TRANSFORMER: transformer}
    text = {name: {str(length): value for length, value in series.items()} for name, series in rows.items()}
    parts = {part: copy.deepcopy(text) for part in training_steps.PARTS}
    if decoder:
        parts["decoder"][LUONG] = {str(length): value for length, value in decoder.items()}
    skipped = {part: {name: {} for name in rows} for part in parts}
    signs = {part: 1 if part == "encoder" else -1 for part in parts}
    control = {
        part: {n: value * math.exp(signs[part] * noise) for n, value in parts[part][NO_ATTENTION].items()}
        for part in parts
    }
    device = {
        "name": "CPU", "type": "cpu", "threads": 1, "cpu_share": 1.0, "milliseconds": parts, "skipped": skipped,
        "control": control,
    }  # fmt: skip
    return {
        "lengths": LENGTHS, "width": 16, "layers": 1, "batch_size": 4, "vocab_size": 64, "heads": 4, "repeats": 3,
        "longest_step": 4.0, "parameters": dict.fromkeys(rows, 1000), "devices": [device],
        "speedup": {"length": 512, "cores": 4, "milliseconds": {NO_ATTENTION: [8, 4], TRANSFORMER: [9, 3]},
                    "again": {NO_ATTENTION: [8.1, 4.1], TRANSFORMER: [8.9, 2.95]}},
    }  # fmt: skip


class TestDataHandling:
    def test_systems(self):
        configs = [tiny(name).config for name in ("gru-bahdanau", "rnn", "post-norm", "lstm-luong-fed", "lstm-luong")]
        assert list(training_steps.systems(configs)) == [
            NO_ATTENTION, LUONG, "GRU, Bahdanau attention", "tanh-RNN, no attention",
            "LSTM, Luong attention, input feeding", "LSTM, Luong attention", TRANSFORMER,
        ]  # fmt: skip
        assert list(training_steps.systems([BartConfig()])) == [NO_ATTENTION, LUONG, TRANSFORMER]
        hybrids = [HybridSeq2SeqConfig(cell_type=cell) for cell in ("ssru", "lstm", "ssru")]
        recipes = training_steps.systems(config for config in [*hybrids, RnnSeq2SeqConfig(cell_type="min_gru")])
        ssru, lstm = (f"Transformer encoder, {cell} decoder" for cell in ("SSRU", "LSTM"))
        assert list(recipes) == [NO_ATTENTION, LUONG, "minGRU, Luong attention", TRANSFORMER, ssru, lstm]
        assert data_handling.parallel(recipes) == {
            "parallel_cells": ["minGRU, Luong attention", ssru],
            "parallel_training": ["minGRU, Luong attention", ssru],
            "hybrids": [ssru, lstm],
        }

    def test_width(self):
        assert training_steps.common_width([]) == 128
        assert training_steps.common_width([tiny("rnn").config, BartConfig(d_model=100)]) == 104
        assert training_steps.common_width([BartConfig()]) == 256

    @pytest.mark.parametrize("recipe", [{"cell_type": "lstm", "attention": "luong"}, {}, SSRU], ids=str)
    def test_equal_width_and_depth(self, recipe):
        config = training_steps.build(recipe, width=24, layers=2, vocab_size=10).config
        assert (config.hidden_size, config.encoder_layers, config.decoder_layers) == (24, 2, 2)

    @pytest.mark.parametrize(
        "recipe",
        [{"cell_type": "gru", "attention": "none"}, {"cell_type": "lstm", "attention": "luong"}, {}, SSRU],
        ids=str,
    )
    def test_parts_run_backward(self, recipe):
        """Of the encoder only the encoder has gradients, of the decoder only the decoder, of the model both."""
        model = training_steps.build(recipe, width=16, layers=1, vocab_size=10)
        sides = {"encoder": model.get_encoder().layers, "decoder": model.base_model.decoder.layers}
        for part, expected in {"encoder": {"encoder"}, "decoder": {"decoder"}, "model": {"encoder", "decoder"}}.items():
            step = training_steps.training_step(model, part, length=5, batch_size=2)
            step()
            step()  # gradients are of one step, not of both
            found = {side: [parameter.grad for parameter in layers.parameters()] for side, layers in sides.items()}
            for side, values in found.items():
                if side in expected:
                    assert all(value is not None for value in values)
                    assert sum(value.abs().sum() for value in values) > 0
                else:
                    assert all(value is None for value in values)
            before = [parameter.grad.clone() for layers in sides.values() for parameter in layers.parameters()
                      if parameter.grad is not None]  # fmt: skip
            step()
            after = [parameter.grad for layers in sides.values() for parameter in layers.parameters()
                     if parameter.grad is not None]  # fmt: skip
            torch.testing.assert_close(before, after)

    def test_decoders_gradient_goes_on_to_the_encoder(self, monkeypatch):
        """The encoder's output is fixed, but what a decoder sends back to it is work of the decoder."""
        model = training_steps.build({}, width=16, layers=1, vocab_size=10)
        given, forward = [], model.forward
        monkeypatch.setattr(model, "forward", lambda **inputs: given.append(inputs) or forward(**inputs))
        training_steps.training_step(model, "decoder", length=7, batch_size=2)()
        memory = given[0]["encoder_outputs"].last_hidden_state
        assert memory.shape == (2, 7, 16)
        assert given[0]["labels"].shape == (2, 7)
        assert memory.is_leaf
        assert memory.grad.abs().sum() > 0

    def test_measures_every_system_part_and_length(self, steps_result):
        (device,) = steps_result["devices"] if not torch.accelerator.is_available() else steps_result["devices"][:1]
        systems = [NO_ATTENTION, LUONG, "GRU, Bahdanau attention", TRANSFORMER]
        for part in training_steps.PARTS:
            assert list(device["milliseconds"][part]) == systems
            for series in device["milliseconds"][part].values():
                assert list(series) == ["4", "8", "16"]
                assert min(series.values()) > 0
        assert steps_result["speedup"]["length"] == 4
        assert list(steps_result["parameters"]) == systems

    def test_section_from_json(self, steps_result):
        section = data_handling.section(steps_result)
        again = data_handling.section(round_trip(steps_result))
        assert texts(again) == texts(section)
        assert any(isinstance(part, Table) for part in section.parts)
        (values,) = list(section.headline.values())[:1]
        assert list(values) == list(steps_result["parameters"])

    def test_lengths_beyond_the_budget_are_left_out_and_named(self, monkeypatch):
        """Steps of a system that takes a second a token: 16 is the first length that is not run."""
        monkeypatch.setattr(training_steps, "seconds_of", lambda step, device: 10.0)
        result = data_handling.measure(
            [], OPTIONS, lengths=[4, 8, 16], width=8, batch_size=1, vocab_size=8, repeats=1, longest_step=15
        )
        device = result["devices"][0]
        assert all(list(series) == ["4"] for series in device["milliseconds"]["model"].values())
        assert device["skipped"]["encoder"][TRANSFORMER] == {"8": {"seconds": 20.0}, "16": {"seconds": 40.0}}
        said = finding(data_handling.section(round_trip(result)), "Not measured: encoder")
        assert "whole model of Transformer from 8 tokens on (a step would take about 20.0 s)" in said

    def test_bahdanaus_memory_is_limited(self, monkeypatch):
        """4 bytes × batch × target × source × width, for the decoder; the encoder has none of it."""
        recipe = {"cell_type": "gru", "attention": "bahdanau"}
        monkeypatch.setattr(training_steps, "LARGEST_GIB", 4 * 2 * 8 * 8 * 16 / 2**30)
        models = {"it": training_steps.build(recipe, width=16, layers=1, vocab_size=8)}
        result = training_steps.time_lengths(models, {"it": recipe}, [4, 8, 9], 2, 1, 60)
        assert {part: list(result["milliseconds"][part]["it"]) for part in training_steps.PARTS} == {
            "encoder": ["4", "8", "9"], "decoder": ["4", "8"], "model": ["4", "8"],
        }  # fmt: skip
        assert result["skipped"]["decoder"]["it"]["9"]["gib"] == 4 * 2 * 81 * 16 / 2**30

    def test_seen(self):
        transformer = {length: length + length**2 / 500 for length in LENGTHS}
        section = data_handling.section(steps_of(powers(3, 1.05), transformer, powers(3, 1.3)))
        recurrent = finding(section, "A recurrent encoder")
        assert f"SEEN: {NO_ATTENTION}, exponent 1.05 (256 to 2,048 tokens)" in recurrent
        assert "NOT SEEN" not in recurrent
        assert "NOT SEEN" not in finding(section, "Self-attention compares")
        assert "exponent 1.30, against 1.05 without" in finding(section, "a recurrent decoder with attention")
        assert "NOT SEEN" not in finding(section, "a recurrent decoder with attention")

    def test_not_seen(self):
        section = data_handling.section(steps_of(powers(3, 1.6), powers(2, 1.0)))
        recurrent = finding(section, "A recurrent encoder")
        assert f"NOT SEEN: {NO_ATTENTION}, exponent 1.60" in recurrent
        assert ". SEEN" not in recurrent
        assert ". SEEN" not in finding(section, "Self-attention compares")
        assert ". SEEN" not in finding(section, "a recurrent decoder with attention")

    def test_crossings(self):
        section = data_handling.section(steps_of(powers(300, 1), powers(1, 2)))
        said = finding(section, "The Transformer's encoder")
        between = re.search(rf"slower than {NO_ATTENTION} from about 300 tokens on \((\d+) to (\d+)\)", said)
        low, high = (math.log(int(bound) / 300) for bound in between.groups())
        # Each is as far from the crossing as the control's noise, in Student's measure for two names and 24 controls.
        assert low == pytest.approx(-high, abs=0.01) == pytest.approx(-0.01 * student_quantile(0.025, 24), abs=0.01)
        section = data_handling.section(steps_of(powers(2, 1), powers(1, 1)))
        assert "up to 2,048 tokens (2.0 times as fast there)" in finding(section, "The Transformer's encoder")
        section = data_handling.section(steps_of(powers(1, 1), powers(2, 1)))
        assert "at all lengths measured (16 to 2,048)" in finding(section, "The Transformer's decoder")

    def test_what_the_control_leaves_open(self):
        """The same result, of a control that is far from itself: nothing is seen, and nothing is not."""
        transformer = {length: length + length**2 / 500 for length in LENGTHS}
        for noise in (0.5, None):
            result = steps_of(powers(3, 1.05), transformer, powers(3, 1.3), noise or 0.0)
            if noise is None:  # as an earlier version kept it
                del result["devices"][0]["control"], result["speedup"]["again"]
            section = data_handling.section(result)
            for start in ("A recurrent encoder", "Self-attention compares", "a recurrent decoder with attention"):
                said = finding(section, start)
                assert "NOT CLEAR: " in said
                assert "SEEN" not in said
            assert "not clearly slower than" in finding(section, "The Transformer's encoder")
        assert "NOT CLEAR: " in finding(section, "sequential operations")

    def test_two_that_are_the_same(self):
        """The first system under three names: none is slower, none grows faster."""
        section = data_handling.section(steps_of(powers(1, 1.0), powers(1, 1.0), noise=0.02))
        assert "not clearly slower" in finding(section, "The Transformer's encoder")
        assert ". SEEN" not in finding(section, "Self-attention compares")

    def test_speedup(self):
        result = steps_of(powers(1, 1), powers(1, 1))
        said = finding(data_handling.section(result), "sequential operations")
        assert "4 threads instead of one, 512 tokens, whole model. SEEN: " in said
        assert f" SEEN: Transformer 3.00 times as fast, {NO_ATTENTION} 2.00" in said
        result["speedup"]["milliseconds"][TRANSFORMER] = [9, 9]
        result["speedup"]["again"] = {NO_ATTENTION: [8.1, 4.1], TRANSFORMER: [8.9, 9.1]}
        assert "NOT SEEN: Transformer 1.00" in finding(data_handling.section(result), "sequential operations")
        result["speedup"]["milliseconds"] = {NO_ATTENTION: [4, 8], TRANSFORMER: [9, 10]}  # slower, but by less
        result["speedup"]["again"] = {NO_ATTENTION: [4.04, 8.08], TRANSFORMER: [9.05, 9.95]}
        assert "NOT SEEN: Transformer 0.90" in finding(data_handling.section(result), "sequential operations")
        result["speedup"] = {"length": 512, "cores": 1, "milliseconds": {NO_ATTENTION: [], TRANSFORMER: []}}
        assert "may use 1 core." in finding(data_handling.section(result), "sequential operations")

    def test_parallel_recurrence_is_told_apart(self):
        recipes = {
            "minLSTM, Bahdanau attention": {"cell_type": "min_lstm", "attention": "bahdanau"},
            NO_ATTENTION: {"cell_type": "ssru", "attention": "none"},
            LUONG: {"cell_type": "gru", "attention": "luong"},
            TRANSFORMER: {},
        }
        told = data_handling.parallel(recipes)
        assert told == {
            "parallel_cells": ["minLSTM, Bahdanau attention", NO_ATTENTION], "parallel_training": [NO_ATTENTION],
            "hybrids": [],
        }  # fmt: skip
        section = data_handling.section(steps_of(powers(3, 1.05), powers(1, 1), powers(3, 1.3)) | told)
        assert f"SEEN: {NO_ATTENTION}, exponent 1.05" in finding(section, "whose gates ask nothing of the state")
        assert NO_ATTENTION not in finding(section, "one after the other")
        assert not any("sequential operations" in text for text in section.findings)  # no other to hold it against
        assert f"SEEN: {NO_ATTENTION} 2.00 times as fast" in finding(section, "gain by more cores as well")

    def test_busy_machine_is_told(self):
        result = steps_of(powers(1, 1), powers(1, 1))
        assert not [text for text in data_handling.section(result).findings if "other work" in text]
        result["devices"][0]["cpu_share"] = 0.4
        assert "40%" in finding(data_handling.section(result), "other work")

    def test_two_devices(self):
        result = steps_of(powers(10, 1), powers(8, 1))
        second = copy.deepcopy(result["devices"][0]) | {"name": "GPU X", "type": "cuda"}
        second["milliseconds"]["model"][TRANSFORMER] = {"1024": 1024.0}
        result["devices"].append(second)
        section = data_handling.section(round_trip(result))
        assert "Transformer 8.0 times (1,024 tokens)" in finding(section, "How much faster")
        assert [part.name for part in section.parts if isinstance(part, Plot)] == [
            "data_handling",
            "data_handling_cuda",
        ]
        assert any(text.startswith("GPU X: A recurrent encoder") for text in section.findings)


SOURCES = ["a b c d e f g h", "i j k l m n o p"]


def saved(name: str, folder: Path, **changes) -> Candidate:
    """A tiny model with a tokenizer that fits it, as a finished one lies there."""
    tokenizer = train_tokenizer(SOURCES, SOURCES, TokenizerSettings(kind="word"))
    if name == "bart":
        sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        special = {key: getattr(tokenizer, key) for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
        special |= {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": tokenizer.eos_token_id}
        config = BartConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes, **special, **changes
        )
        torch.manual_seed(1)
        model = BartForConditionalGeneration(config)
    else:
        model = tiny(name, **changes)
        model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return Candidate(name, (folder / name,), None, (1,), ())


@pytest.fixture(scope="module")
def calls_result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    candidates = [
        saved("gru", folder), saved("gru-bahdanau", folder), saved("rotary", folder),
        saved("bart", folder, max_position_embeddings=12),
    ]  # fmt: skip
    return generation.measure(
        candidates,
        OPTIONS,
        batch_sizes=(1, 3),
        batch_length=4,
        lengths=(4, 12),
        length_batch=2,
        beams=(1, 2),
        repeats=1,
    )


def calls_of(short: float, long: float, kind: str, growth: tuple[float, float] = (1, 1)) -> dict:
    """A result of one candidate with given milliseconds a token at 16 and 128 tokens, and bytes that grow so."""
    seconds = {"1": {"16": short * 16 / 1000, "128": long * 128 / 1000}}
    kept = {"cache": {"16": 100, "128": 100}, "encoder": {"16": 1, "128": 1}}
    candidate = {
        "description": "", "kind": kind, "parameters": 1, "limit": None, "seconds": {"1": seconds},
        "bytes": kept | {"longer_source": 100 * growth[0], "longer_output": 100 * growth[1]},
    }  # fmt: skip
    control = {"1": {"16": 1.01 * seconds["1"]["16"], "128": seconds["1"]["128"] / 1.01}}
    return {
        "device": "CPU", "threads": 1, "repeats": 1, "batch_sizes": [1], "batch_length": 16, "lengths": [16, 128],
        "length_batch": 1, "beams": [1], "candidates": {"it": candidate}, "cpu_share": 1.0,
        "control": {"seconds": {"1": control}},
    }  # fmt: skip


class TestGenerating:
    @pytest.mark.parametrize("num_beams", [1, 3])
    @pytest.mark.parametrize("name", ["lstm-luong-fed", "post-norm"])
    def test_lengths_are_exact(self, name, num_beams):
        """Also where the end would come at once, and where the model's own settings end earlier."""
        model = tiny(name)
        model.generation_config.max_new_tokens = 3
        model.generation_config.length_penalty = 0.5
        hook = model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.index_fill(
            -1, torch.tensor([2]), 50.0))  # fmt: skip
        sources = torch.randint(3, 20, (2, 5))
        assert model.generate(input_ids=sources).shape[1] == 2
        outputs = generate_calls.writing(model, sources, 9, num_beams)()
        assert outputs.sequences.shape == (2, 10)
        assert not (outputs.sequences[:, 1:] == 2).any()
        hook.remove()

    @pytest.mark.parametrize("num_beams", [1, 3])
    @pytest.mark.parametrize("name", ["lstm-luong-fed", "post-norm"])
    def test_our_search_writes_what_generate_writes(self, name, num_beams):
        model, sources = tiny(name), torch.randint(3, 20, (5, 6))
        expected = generate_calls.writing(model, sources, 9, num_beams)()
        assert generate_calls.searching(model, sources, 9, num_beams)() == expected.sequences.tolist()
        model.lm_head.register_forward_hook(lambda *_: None)  # no plain model of ours any more
        assert torch.equal(generate_calls.searching(model, sources, 9, num_beams)().sequences, expected.sequences)

    def test_other_lengths_are_refused(self):
        model = tiny("gru")
        generate_calls.check_length(model, torch.tensor([[1, 5, 5, 2]]), 3)  # a forced end is no early end
        for sequences in ([[1, 5, 5]], [[1, 2, 5, 5]]):
            with pytest.raises(ValueError, match="told to write 3 tokens"):
                generate_calls.check_length(model, torch.tensor(sequences), 3)

    @pytest.mark.parametrize("name", ["rnn", "lstm-untied", "gru-bahdanau", "lstm-luong", "rnn-luong-fed"])
    def test_bytes_of_a_recurrent_model(self, name):
        """State of every layer, fed vector, attention keys; float32."""
        model = tiny(name)
        config = model.config
        states = 2 if config.cell_type == "lstm" else 1
        state = 4 * states * config.decoder_layers * config.hidden_size
        fed = 4 * config.embedding_size if config.input_feeding else 0

        def cache(source):
            return state + fed + (4 * source * config.hidden_size if config.attention != "none" else 0)

        def encoder(source):
            return 4 * config.hidden_size * (source + states * config.encoder_layers)

        def kept(source):
            """Values too: attention weighs the encoder's outputs, which is what they are, at every step."""
            return cache(source) + (4 * source * config.hidden_size if config.attention != "none" else 0)

        assert generate_calls.weigh(model, torch.arange(3, 20), [4, 9])["bytes"] == {
            "kept": {"4": kept(4), "9": kept(9)},
            "cache": {"4": cache(4), "9": cache(9)},
            "encoder": {"4": encoder(4), "9": encoder(9)},
            "longer_source": kept(9),
            "longer_output": kept(4),
        }

    def test_keys_that_are_the_values(self):
        """A dot product asks the encoder's outputs themselves: one matrix, kept once."""
        model = tiny("gru-luong-dot")
        config = model.config
        kept = 4 * (config.decoder_layers * config.hidden_size + 9 * config.hidden_size)
        found = generate_calls.weigh(model, torch.arange(3, 20), [4, 9])["bytes"]
        assert found["kept"]["9"] == found["cache"]["9"] == kept

    @pytest.mark.parametrize("make", [BartConfig, T5Config, MarianConfig], ids=lambda make: make.__name__)
    def test_models_of_others_read_their_cache_alone(self, make):
        sizes = {"num_layers": 1, "d_kv": 8, "num_heads": 2, "d_ff": 16} if make is T5Config else {
            "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "forced_eos_token_id": None,
        }  # fmt: skip
        ids = {"vocab_size": 20, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
        model = AutoModelForSeq2SeqLM.from_config(make(d_model=16, **sizes, **ids)).eval()
        bytes_ = generate_calls.weigh(model, torch.arange(3, 20), [4, 9])["bytes"]
        assert bytes_["kept"] == bytes_["cache"]
        assert bytes_["longer_source"] > bytes_["kept"]["4"]

    @pytest.mark.parametrize("name", ["post-norm", "rotary"])
    def test_bytes_of_a_transformer(self, name):
        """Keys and values of every decoder layer, of the source and of what the decoder has read."""
        model = tiny(name)
        config = model.config

        def cache(source, target):
            return 4 * 2 * config.decoder_layers * config.d_model * (source + target)

        assert generate_calls.weigh(model, torch.arange(3, 20), [4, 9])["bytes"] == {
            "kept": {"4": cache(4, 4), "9": cache(9, 9)},
            "cache": {"4": cache(4, 4), "9": cache(9, 9)},
            "encoder": {"4": 4 * 4 * config.d_model, "9": 4 * 9 * config.d_model},
            "longer_source": cache(9, 4),
            "longer_output": cache(4, 9),
        }

    def test_one_tensor_found_twice_counts_once(self):
        tensor = torch.zeros(3)
        assert generate_calls.num_bytes({"a": (tensor, [tensor]), "b": None}) == 12

    def test_ordinary_ids(self):
        tokenizer = train_tokenizer(SOURCES, SOURCES, TokenizerSettings(kind="word"))
        ids = generate_calls.ordinary_ids(tokenizer, 10_000).tolist()
        assert sorted(ids + list(set(tokenizer.all_special_ids))) == list(range(len(tokenizer)))
        assert max(generate_calls.ordinary_ids(tokenizer, 8)) == 7

    def test_position_limit(self):
        assert generate_calls.position_limit(BartConfig(max_position_embeddings=12)) == 12
        assert generate_calls.position_limit(tiny("post-norm").config) is None

    def test_measures_every_candidate(self, calls_result):
        for name, candidate in calls_result["candidates"].items():
            long = {} if name == "bart" else {"12"}  # 12 tokens and the start are too many for 12 positions
            for beams in ("1", "2"):
                places = {size: set(times) for size, times in candidate["seconds"][beams].items()}
                assert places == {"1": {"4"}, "3": {"4"}, "2": {"4", *long}}
        assert {name: recorded(candidate).kind for name, candidate in calls_result["candidates"].items()} == {
            "gru": "recurrent without attention", "gru-bahdanau": "recurrent with attention", "rotary": "Transformer",
            "bart": "Transformer",
        }  # fmt: skip

    def test_section_from_json(self, calls_result):
        section = generation.section(calls_result)
        assert texts(generation.section(round_trip(calls_result))) == texts(section)
        assert "bart at 12 tokens (it has 12 positions)" in finding(section, "Not measured")
        for values in section.headline.values():
            assert set(values) <= set(calls_result["candidates"])

    def test_what_really_is_kept_is_as_expected(self, calls_result):
        """The models themselves, not numbers made up: constant, with the source, with both."""
        section = generation.section(calls_result)
        for start in ("recurrent without attention", "recurrent with attention", "Transformer"):
            said = finding(section, f"Kept of a sentence, {start}")
            assert ". SEEN: " in said
            assert "NOT SEEN" not in said

    @pytest.mark.parametrize(
        ("kind", "growth", "seen"),
        [
            ("rnn", (1, 1), True), ("rnn", (2, 1), False), ("rnn", (1, 2), False),
            ("rnn with attention", (2, 1), True), ("rnn with attention", (2, 2), False),
            ("transformer", (2, 2), True), ("transformer", (2, 1), False),
        ],
    )  # fmt: skip
    def test_what_is_kept_can_be_otherwise(self, kind, growth, seen):
        said = finding(generation.section(calls_of(1, 1, kind, growth)), "Kept of a sentence")
        assert ("NOT SEEN: it" in said) is not seen

    @pytest.mark.parametrize(
        ("kind", "long", "seen"),
        [("rnn", 1.05, True), ("rnn", 1.5, False), ("transformer", 1.5, True), ("transformer", 1.0, False)],
    )
    def test_time_of_a_token(self, kind, long, seen):
        section = generation.section(calls_of(1, long, kind))
        said = finding(section, "token should cost" if kind == "rnn" else "so it should cost more")
        assert f"it × {long:.2f} with 1 beam (16 → 128 tokens)" in said
        assert ("NOT SEEN: it" in said) is not seen

    def test_fastest_and_beams(self):
        result = calls_of(2, 2, "rnn")
        result["beams"] = [1, 5]
        result["candidates"]["it"]["seconds"]["5"] = {"1": {"16": 3 * 2 * 16 / 1000}}
        result["candidates"]["other"] = copy.deepcopy(result["candidates"]["it"])
        result["candidates"]["other"]["seconds"]["1"]["1"]["16"] /= 4
        section = generation.section(result)
        said = finding(section, "Fastest with 1 sentence a call")
        assert "other with 1 beam (0.5 ms a token; it takes 4.00 times as long)" in said
        assert "it 3.00 times as long with 1 sentence a call; other 12.00 times" in finding(section, "5 beams instead")
        (row,) = [values for name, values in section.headline.items() if "time a token" in name]
        assert row == {"it": "2 ms", "other": "0.5 ms"}

    def test_of_two_that_are_the_same_none_is_the_fastest(self):
        result = calls_of(2, 2, "rnn")
        result["candidates"]["twin"] = copy.deepcopy(result["candidates"]["it"])
        result["candidates"]["slow"] = copy.deepcopy(result["candidates"]["it"])
        result["candidates"]["twin"]["seconds"]["1"]["1"]["16"] *= 1.01
        result["candidates"]["slow"]["seconds"]["1"]["1"]["16"] *= 3
        said = finding(generation.section(result), "Fastest with 1 sentence a call")
        assert "not clear with 1 beam (not told apart: it 2 ms a token, twin 2.02 ms a token; slow takes 3.00" in said
        del result["control"]
        said = finding(generation.section(result), "Fastest with 1 sentence a call")
        assert "takes" not in said

    def test_a_call_counts_all_its_tokens(self):
        candidate = {"seconds": {"1": {"8": {"32": 0.512}}}}
        assert generation.token_milliseconds(candidate, 1, 8, 32) == 2.0
        assert generation.token_milliseconds(candidate, 5, 8, 32) is None


def test_shapes_differ_where_vocabularies_do():
    """Sources are drawn from the source's vocabulary: a larger target's ids would be out of range."""
    model = tiny("lstm-bahdanau", **ONE_LAYER, **SEPARATE)
    weighed = generate_calls.weigh(model, torch.arange(3, 20), [4])
    assert set(weighed["bytes"]["cache"]) == {"4"}
