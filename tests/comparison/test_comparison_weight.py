"""Light or heavy, and learning curves: FLOPs by the closed forms, memory of a fresh process, counters, arithmetic."""

import dataclasses
import json
import math
import stat
import statistics
from pathlib import Path

import pytest
import torch
from helpers.tiny import RNNS, TRANSFORMERS, VOCAB, tiny
from torch.utils.flop_counter import FlopCounterMode
from transformers import MarianConfig, MarianMTModel, T5Config, T5ForConditionalGeneration

from seqloom import run_folder
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.instruments import budgets, flops, footprint
from seqloom.comparison.measures import heavier, learning_curves, weight
from seqloom.data.tokenization import train_tokenizer
from seqloom.figures.style import look
from seqloom.scoring import metrics
from seqloom.settings.schema import DataSettings, Settings, TokenizerSettings, TrainingSettings

SOURCE, TARGET = 5, 7
GATES = {"rnn": 1, "gru": 3, "lstm": 4, "ssru": 2, "min_gru": 2, "min_lstm": 3}
PARALLEL = ("ssru", "min_gru", "min_lstm")  # whose matrices read the input alone


def products(rows: int, *sizes: tuple[int, int]) -> int:
    """FLOPs of matrices (in, out) applied to so many rows."""
    return sum(2 * rows * a * b for a, b in sizes)


def rnn_forward(model, targets: int, steps: int) -> int:
    """A pair: the encoder over the source, the decoder over so many tokens in so many calls (attention keys once)."""
    c, gates = model.config, GATES[model.config.cell_type]
    h, e = c.hidden_size, c.embedding_size
    directions, size = (2, h // 2) if c.bidirectional else (1, h)
    inputs = [e] + [h] * (c.encoder_layers - 1)
    is_parallel = c.cell_type in PARALLEL
    total = sum(directions * products(SOURCE, (i, gates * size)) for i in inputs)
    total += 0 if is_parallel else len(inputs) * directions * products(SOURCE, (size, gates * size))
    if c.bridge == "dense":
        total += products(1, (h, h)) * c.decoder_layers * (2 if c.cell_type == "lstm" else 1)
    feed = h if c.attention == "bahdanau" else e if c.input_feeding else 0
    inputs = [e + feed] + [h] * (c.decoder_layers - 1)
    total += sum(products(targets, (i, gates * h)) for i in inputs)
    total += 0 if is_parallel else len(inputs) * products(targets, (h, gates * h))
    if c.attention != "none":
        if c.attention == "bahdanau" or c.attention_score == "general":
            total += products(SOURCE, (h, h))
        additive = products(targets, (h, h)) + products(targets * SOURCE, (h, 1))
        total += additive if c.attention == "bahdanau" else products(targets, (h, SOURCE))
        total += products(targets, (SOURCE, h))  # the weighted sum
    read = {"none": h, "luong": 2 * h, "bahdanau": 2 * h + e}[c.attention]
    if c.attention != "none" or h != e:
        total += products(targets, (read, e))
    return total + products(targets, (e, c.decoder_vocab_size))


def first_steps(model) -> int:
    """The gradients for first states that are zeros, which nobody computes."""
    c, gates = model.config, GATES[model.config.cell_type]
    directions, size = (2, c.hidden_size // 2) if c.bidirectional else (1, c.hidden_size)
    is_parallel = c.cell_type in PARALLEL
    total = 0 if is_parallel else c.encoder_layers * directions * products(1, (size, gates * size))
    if c.bridge == "zeros":
        total += 0 if is_parallel else c.decoder_layers * products(1, (c.hidden_size, gates * c.hidden_size))
        if c.attention == "bahdanau":  # whose first question is the last layer's zeros
            total += products(1, (c.hidden_size, c.hidden_size))
    return total


def transformer_forward(model, targets: int, is_cached: bool = False) -> int:
    c = model.config
    d, wide = c.d_model, 3 if c.activation_function == "swiglu" else 2
    seen = sum(range(1, targets + 1)) if is_cached else targets * targets  # the masked half is computed too
    encoder = products(SOURCE, *[(d, d)] * 4, *[(d, c.encoder_ffn_dim)] * wide) + 2 * products(SOURCE, (d, SOURCE))
    decoder = (
        products(targets, *[(d, d)] * 4, *[(d, c.decoder_ffn_dim)] * wide)
        + 2 * products(seen, (d, 1))
        + products(targets, *[(d, d)] * 2)
        + products(SOURCE, *[(d, d)] * 2)
        + 2 * products(targets, (d, SOURCE))
    )
    return encoder * c.encoder_layers + decoder * c.decoder_layers + products(targets, (d, c.decoder_vocab_size))


def relative_forward(model, targets: int, is_cached: bool = False) -> tuple[int, int]:
    """What relative positions add to `transformer_forward`, and how much of it are the encodings' products, which have
    no gradient of their own."""
    c, d, source = model.config, model.config.d_model, 2 * SOURCE - 1  # distances before and behind
    if is_cached:  # a single query, projected, looks at every encoding with every head
        steps = sum(products(1, (d, d)) + products(c.decoder_attention_heads, (d, t)) for t in range(1, targets + 1))
        encoder = products(source, (d, d)) + products(SOURCE, (d, source))
        return c.encoder_layers * encoder + c.decoder_layers * steps, 0
    encodings = c.encoder_layers * products(source, (d, d)) + c.decoder_layers * products(targets, (d, d))
    scores = c.encoder_layers * products(SOURCE, (d, source)) + c.decoder_layers * products(targets, (d, targets))
    return encodings + scores, encodings


class TestFlops:
    @pytest.mark.parametrize("name", RNNS)
    def test_rnn(self, name):
        """Every matrix is used three times: forward, and for the gradients of its input and of itself."""
        model = tiny(name)
        forward = rnn_forward(model, TARGET, TARGET)
        assert flops.generation_flops(model, SOURCE, TARGET) == forward
        assert flops.training_flops(model, SOURCE, TARGET) == 3 * forward - first_steps(model)

    @pytest.mark.parametrize("name", TRANSFORMERS)
    def test_transformer(self, name):
        model = tiny(name)
        (more, constant), (more_cached, _) = (0, 0), (0, 0)
        if model.config.position_embedding_type == "relative":
            (more, constant), (more_cached, _) = relative_forward(model, TARGET), relative_forward(model, TARGET, True)
        forward, cached = transformer_forward(model, TARGET), transformer_forward(model, TARGET, is_cached=True)
        assert flops.training_flops(model, SOURCE, TARGET) == 3 * (forward + more) - constant
        assert flops.generation_flops(model, SOURCE, TARGET) == cached + more_cached

    @pytest.mark.parametrize("name", ["lstm-untied", "post-norm"])
    def test_what_the_counter_alone_overlooks(self, name):
        """The fused kernels: were they counted one day, `visible_products` could go."""
        model, batch = tiny(name), flops.typical_batch(tiny(name), 1, SOURCE, TARGET)
        with FlopCounterMode(display=False) as counter:
            model(**batch, use_cache=False)
        with flops.visible_products(), FlopCounterMode(display=False) as visible:
            model(**batch, use_cache=False)
        assert counter.get_total_flops() < visible.get_total_flops()

    def test_rows_and_gradients(self):
        model = tiny("post-norm")
        assert flops.training_flops(model, SOURCE, TARGET, rows=3) == 3 * flops.training_flops(model, SOURCE, TARGET)
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_models_of_others(self):
        """Marian is our post-norm Transformer; T5 has no token for the beginning."""
        ours = tiny("post-norm", encoder_layers=1, decoder_layers=1)
        sizes = {"vocab_size": VOCAB, "d_model": 16, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
        marian = MarianMTModel(MarianConfig(
            **sizes, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=4,
            encoder_ffn_dim=24, decoder_ffn_dim=20, forced_eos_token_id=None,
        ))  # fmt: skip
        t5 = T5ForConditionalGeneration(T5Config(
            vocab_size=VOCAB, d_model=16, d_kv=8, num_heads=2, d_ff=20, num_layers=1, decoder_start_token_id=0,
        ))  # fmt: skip
        for count in (flops.training_flops, flops.generation_flops):
            assert count(marian, SOURCE, TARGET) == count(ours, SOURCE, TARGET)
            assert count(t5, SOURCE, TARGET) > 0

    @pytest.mark.parametrize("name", ["lstm-untied", "gru", "post-norm", "gelu-separate", "untied-unscaled"])
    def test_parameters(self, name):
        model = tiny(name)
        c = model.config
        width = getattr(c, "embedding_size", c.hidden_size)
        tables = 1 if c.share_encoder_decoder_embeddings and c.tie_word_embeddings else 2
        expected = tables * VOCAB * width
        if c.decoder_vocab_size != VOCAB:
            expected = (VOCAB + c.decoder_vocab_size) * width
        elif not c.tie_word_embeddings:
            expected = 3 * VOCAB * width
        assert flops.parameters(model) == {
            "parameters": model.num_parameters(),
            "embedding_parameters": expected,
        }


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Finished models with their logs, an RNN of two seeds and a Transformer; and one without settings or log."""
    root = tmp_path_factory.mktemp("models")
    texts = ["a b c", "b c", "c a b a", "a"]
    words = [*texts, "d e f g h i j k l m n o p"]  # with the special tokens, as many entries as the models have
    tokenizer = train_tokenizer(iter(words), iter(words), TokenizerSettings(kind="word", vocab_size=VOCAB))
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    for name, kind in {"rnn-1": "lstm-luong", "rnn-2": "lstm-luong", "tf": "post-norm", "other": "pre-norm"}.items():
        folder = root / name
        tiny(kind, **ids).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        scored = folder / "evaluation" / "test"
        scored.mkdir(parents=True)
        lines = [json.dumps({"source": text, "reference": text, "hypothesis": text}) for text in texts]
        (scored / "predictions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name, rate, scores in (("rnn-1", 10, (20, 60, 60)), ("rnn-2", 20, (30, 50, 70)), ("tf", 5, (10, 40, 80))):
        write_run(root / name, rate, scores)
    return {path.name: path for path in root.iterdir()}


def write_run(folder: Path, rate: float, scores: tuple[float, ...]) -> None:
    """A log whose lines of training come every 100 tokens, and validations every 150; a validation takes 1000 s."""
    log = []
    for tokens in range(50, 50 + 150 * len(scores), 50):
        line = {"step": tokens // 10, "target_tokens": tokens}
        wait = 1000 * (tokens // 150)
        if tokens % 100 == 0:
            log.append({**line, "loss": 1.0, "tokens_per_second": rate, "seconds": tokens / rate + wait})
        if tokens % 150 == 0:
            score = scores[tokens // 150 - 1]
            values = {"eval_loss": 100 - score, "eval_chrf": score}
            log.append({**line, **values, "best": True, "seconds": tokens / rate + wait})
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    plan = {"updates": 12, "target_tokens_per_update": 10.0}
    record = {name: {} for name in run_folder.RECORDED}
    record |= {"data": {"plan": plan}, "environment": {"hardware": f"machine {folder.name[:2]}"}}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


def candidate(name: str, *paths: Path, has_settings: bool = True) -> Candidate:
    training = TrainingSettings(batch_tokens=64, max_steps=45)
    data = DataSettings(dataset="scan", split="simple")
    settings = Settings(output_dir="x", model={"model_type": "rnn_seq2seq"}, data=data, training=training)
    predictions = tuple(path / "evaluation" / "test" / "predictions.jsonl" for path in paths)
    return Candidate(name, paths, settings if has_settings else None, tuple(range(len(paths))), predictions)


@pytest.fixture(scope="module")
def candidates(folders) -> list[Candidate]:
    return [
        candidate("rnn", folders["rnn-1"], folders["rnn-2"]),
        candidate("tf", folders["tf"]),
        candidate("other", folders["other"], has_settings=False),
    ]


def work(folder: Path, **changes) -> footprint.Work:
    training = dataclasses.asdict(TrainingSettings())
    return dataclasses.replace(footprint.Work(str(folder), SOURCE, TARGET, 4, 4, training), **changes)


def fake_zone(powercap: Path, zone: str, name: str, microjoules: int, most: int = 1000) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{value}\n")
    return folder


class TestMemory:
    def test_grows_with_the_model(self, tmp_path, result):
        """Weights, gradients and both of Adam's moments: four times the weights; generation has the weights alone."""
        model = tiny("gru-luong-dot", hidden_size=1024, embedding_size=16)
        weights = 4 * model.num_parameters() / 2**20
        assert weights > 40
        model.save_pretrained(tmp_path)
        found = footprint.watch(work(tmp_path))
        assert found["error"] is None
        assert 3.5 * weights < found["training_memory_mib"] < 7 * weights
        assert 0.8 * weights < found["generation_memory_mib"] < 2.5 * weights
        for little in result["models"].values():  # of some thousand weights
            assert 0 <= little["generation_memory_mib"] < 30
            assert 0 <= little["training_memory_mib"] < 60

    def test_an_error_is_told(self, tmp_path, monkeypatch):
        """And what was measured before it stays."""
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\necho '{\"generation_memory_mib\": 5.0}'\necho no memory >&2\nexit 3\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr("sys.executable", str(program))
        found = footprint.watch(work(tmp_path))
        assert found == {
            "generation_memory_mib": 5.0, "training_memory_mib": None, "energy": None, "error": "no memory",
        }  # fmt: skip


class TestEnergy:
    def test_zones(self, tmp_path):
        """Packages and memory; not the cores within a package, nor the same package by another driver."""
        for zone, name in (
            ("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0"),
        ):  # fmt: skip
            fake_zone(tmp_path, zone, name, 0)
        (tmp_path / "intel-rapl:1" / "energy_uj").unlink()  # as one that may not be read
        assert [zone.name for zone in footprint.rapl_zones(tmp_path)] == ["intel-rapl:0", "intel-rapl:0:1"]
        assert footprint.has_meter(torch.device("cpu"), tmp_path)
        assert not footprint.has_meter(torch.device("cpu"), tmp_path / "nothing")

    def test_counters_that_begin_again(self, tmp_path):
        zones = [
            fake_zone(tmp_path, "intel-rapl:0", "package-0", 0),
            fake_zone(tmp_path, "intel-rapl:1", "package-1", 0),
        ]
        assert footprint.joules(zones, [900, 100], [50, 400]) == pytest.approx((150 + 300) / 1e6)

    def test_steps(self, tmp_path):
        """Each step takes 30 µJ; the counter ends at 1000."""
        zone = fake_zone(tmp_path, "intel-rapl:0", "package-0", 990)

        def step():
            value = int((zone / "energy_uj").read_text()) + 30
            (zone / "energy_uj").write_text(str(value - 1000 if value >= 1000 else value))

        found = footprint.count_energy(step, 0.0, torch.device("cpu"), tmp_path)
        assert found["steps"] == 1
        assert found["joules"] == {"cpu": pytest.approx(30e-6), "gpu": None}
        assert footprint.count_energy(step, 0.0, torch.device("cpu"), tmp_path / "nothing") is None

    def test_watts(self):
        assert footprint.mean_watts("100.5\n 99.5 \n[N/A]\n") == 100
        assert footprint.mean_watts("[N/A]\n") is None

    def test_sampler(self, tmp_path, monkeypatch):
        """What nvidia-smi prints until it is ended."""
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\necho $@ >&2\necho 50\necho 70\nexec sleep 60\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert footprint.has_meter(torch.device("cuda"), tmp_path)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Card", (), {"uuid": "1"}))
        sampler = footprint.start_sampler(torch.device("cuda"))
        assert sampler.stdout.readline() == "50\n"
        assert sampler.stdout.readline() == "70\n"
        assert footprint.stop_sampler(sampler) == ""

    def test_per_token(self):
        energy = {"joules": {"cpu": 30.0, "gpu": 10.0}, "tokens": 20_000, "seconds": 5.0}
        assert weight.joules_per_1000(energy) == 2.0
        assert weight.joules_per_1000({**energy, "joules": {"cpu": None, "gpu": 10.0}}) == 0.5
        assert weight.joules_per_1000(None) is None


class TestLogs:
    def test_progress(self, folders):
        """Seconds without validations; between the log's lines they grow with the tokens."""
        run = budgets.read_validations(folders["rnn-1"])
        assert run.tokens == [150, 300, 450]
        assert run.steps == [15, 30, 45]
        assert run.seconds == pytest.approx([15, 30, 45])
        assert run.scores == {"chrf": [20, 60, 60], "loss": [80, 40, 40]}
        assert run.tokens_per_second == pytest.approx(10)
        assert run.speed_spread == pytest.approx(0.0)

    def test_changing_speed(self, tmp_path):
        lines = [
            {"step": 1, "target_tokens": 100, "tokens_per_second": 10},
            {"step": 2, "target_tokens": 300, "tokens_per_second": 40},
            {"step": 2, "target_tokens": 200, "eval_loss": 1.0},
            {"step": 3, "target_tokens": 400, "eval_loss": 1.0},
        ]
        path = tmp_path / "training_log.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = budgets.read_validations(tmp_path)  # 100 tokens in 10 s, 200 in 5 s, and on at 20 tokens/s
        assert run.seconds == pytest.approx([12.5, 20])
        assert run.speed_spread is None
        lines += [{"step": 4, "target_tokens": 500, "tokens_per_second": rate} for rate in (40,)]
        lines += [{"step": 5, "target_tokens": 600, "tokens_per_second": 40 * math.e}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))  # the first one warms up
        assert budgets.read_validations(tmp_path).speed_spread == pytest.approx(statistics.stdev([0, 0, 1]))

    def test_no_log(self, folders, tmp_path):
        assert budgets.read_validations(folders["other"]) is None
        (tmp_path / "training_log.jsonl").write_text('{"step": 1, "eval_loss": 1.0}\n')  # as an older version wrote it
        assert budgets.read_validations(tmp_path) is None

    def test_metric(self, candidates):
        runs = budgets.read_all(candidates)
        assert list(runs) == ["rnn", "tf"]
        assert budgets.common_metric(runs) == "chrf"
        without = dataclasses.replace(runs["tf"][0], scores={"loss": [1.0]})
        assert budgets.common_metric({**runs, "tf": [without]}) == "loss"
        assert budgets.common_metric({}) == "loss"
        assert metrics.higher_is_better("chrf")
        assert not metrics.higher_is_better("loss")
        assert not metrics.higher_is_better("ter")

    def test_quality(self, candidates):
        runs = budgets.read_all(candidates)
        assert budgets.worth_reaching(runs, "chrf") == 0.9 * 80  # of the Transformer's, which gained most
        assert budgets.worth_reaching(runs, "loss") == pytest.approx(80 - 0.9 * (80 - 20))
        for metric, quality in (("chrf", 55), ("loss", 45)):
            spent = budgets.to_quality(runs["rnn"], metric, quality, training_flops=2.0)
            # On the line from 20 at 150 tokens to 60 at 300; and from 50 at 300 to 70 at 450.
            tokens = [150 + 150 * 35 / 40, 300 + 150 * 5 / 20]
            assert spent["tokens"]["runs"] == pytest.approx(tokens)
            assert spent["tokens"]["between"] == [[150, 300], [300, 450]]
            assert spent["tokens"]["mean"] == pytest.approx(sum(tokens) / 2)
            assert spent["flops"]["runs"] == pytest.approx([2 * number for number in tokens])
            assert spent["updates"]["low"] == pytest.approx(tokens[0] / 10)
            assert spent["seconds"]["runs"] == pytest.approx([tokens[0] / 10, tokens[1] / 20])
        spent = budgets.to_quality(runs["rnn"], "chrf", 61, 2.0)["tokens"]  # which one seed does not reach
        assert spent == {
            "mean": None, "low": None, "high": None, "runs": [None, pytest.approx(300 + 150 * 11 / 20)],
            "between": [[450, None], [300, 450]],
        }  # fmt: skip
        early = budgets.to_quality(runs["rnn"], "chrf", 10, 2.0)["tokens"]  # before the first validation
        assert (early["runs"], early["between"]) == ([150, 150], [[0, 150], [0, 150]])
        assert budgets.to_quality([], "chrf", 60, 2.0) is None

    def test_a_broken_model_makes_no_mark(self, candidates):
        """The worst model's best would be 0, and everybody there at once."""
        runs = budgets.read_all(candidates)
        broken = dataclasses.replace(
            runs["tf"][0], scores={"chrf": [0.0, 0.0, 0.0], "loss": [99.0, math.nan, math.inf]}
        )
        runs["broken"] = [broken]
        assert budgets.worth_reaching(runs, "chrf") == 0.9 * 80
        assert budgets.worth_reaching(runs, "loss") < 40
        assert budgets.worth_reaching({"broken": [broken]}, "chrf") is None  # all are there before they begin
        assert budgets.to_quality([broken], "chrf", 72, 1.0)["seconds"]["runs"] == [None]
        assert budgets.to_quality([broken], "loss", 30, 1.0)["seconds"]["runs"] == [None]


@pytest.fixture(scope="module")
def result(candidates, tmp_path_factory) -> dict:
    """On a machine that tells its energy, by a counter that stands still."""
    powercap = tmp_path_factory.mktemp("powercap")
    fake_zone(powercap, "intel-rapl:0", "package-0", 5)
    options = Options(powercap)
    return json.loads(
        json.dumps(weight.measure(candidates, options, energy_seconds=0.01, powercap=powercap), allow_nan=False)
    )


class TestWeight:
    def test_file_size(self, tmp_path):
        assert weight.file_size(tmp_path) is None
        (tmp_path / "pytorch_model.bin").write_bytes(b"12345")
        (tmp_path / "training_args.bin").write_bytes(b"12345")
        assert weight.file_size(tmp_path) == 5
        for number in (1, 2):
            (tmp_path / f"model-0000{number}.safetensors").write_bytes(b"1234567")
        assert weight.file_size(tmp_path) == 14

    def test_measured(self, result, folders):
        rnn, other = result["models"]["rnn"], result["models"]["other"]
        assert (result["quality"], result["share"]) == (72, 0.9)
        assert rnn["traits"]["has_recurrent_decoder"]
        assert not other["traits"]["has_recurrent_decoder"]
        assert (rnn["source_length"], rnn["target_length"]) == (3, 3)  # of 4, 3, 5, 2 with the end: the lower median
        assert rnn["training_flops"] * 3 == flops.training_flops(tiny("lstm-luong"), 3, 3)
        assert rnn["model_bytes"] == (folders["rnn-1"] / "model.safetensors").stat().st_size
        assert rnn["tokens_per_second"] == pytest.approx({"mean": 15, "low": 10, "high": 20})
        assert rnn["epoch_seconds"] == pytest.approx({"mean": 9, "low": 6, "high": 12})
        assert rnn["to_quality"]["tokens"]["runs"] == [None, None]
        assert result["models"]["tf"]["to_quality"]["tokens"]["runs"] == [300 + 150 * 32 / 40]
        rows = {model["update_rows"] for model in result["models"].values()}
        assert rows == {64 // 3} == {other["own_update_rows"]}  # a model without settings: as large as the recipe's
        assert all(set(model["again"]) == set(weight.MEMORY) for model in result["models"].values())
        assert rnn["joules_per_1000_tokens"] == 0
        for unknown in ("tokens_per_second", "epoch_seconds", "to_quality"):
            assert other[unknown] is None
        for model in result["models"].values():
            assert model["error"] is None
            assert model["training_memory_mib"] >= 0

    def test_section(self, result):
        section = weight.section(result)
        plot, table = section.parts
        assert table.header == ["", "rnn", "tf", "other"]
        assert all(len(row) == 4 for row in table.rows)
        rows = {row[0]: row[1:] for row in table.rows}
        assert rows["parameters"][0] == f"{result['models']['rnn']['parameters']:,}"
        assert rows["updates to chrF 72"] == ["never reached", "42", "—"]
        told = section.headline["training time to validation chrF 72"]
        assert (told["rnn"], told["other"]) == ("never reached", "—")
        assert told["tf"] == "84 s"
        assert "90% of what the best model gained" in plot.caption
        assert len(section.headline) == 4
        assert "Energy for 1,000 target tokens" in " ".join(section.findings)
        assert "machine rn; machine tf" in " ".join(section.findings)
        assert len(plot.figure.axes) == 6

    def test_findings_follow_the_numbers(self, result):
        def told(factor: float, again: float = 1.02) -> str:
            changed = json.loads(json.dumps(result))
            for model in changed["models"].values():
                model |= {"trained_on": ["here"], **dict.fromkeys(heavier.MEASURED, 1000.0)}
            for name in ("tf", "other"):
                for key in heavier.HEAVINESS:
                    changed["models"][name][key] = factor * changed["models"]["rnn"][key]
            for model in changed["models"].values():
                model["again"] = {key: again * model[key] for key in heavier.MEASURED}
            for key in changed["models"]["tf"]["to_quality"]:
                for name, place in (("rnn", 20.0), ("tf", factor * 20)):
                    bounds = [[place - 2, place + 2]]
                    changed["models"][name]["to_quality"][key] = {
                        "mean": place, "low": place, "high": place, "runs": [place], "between": bounds,
                    }  # fmt: skip
            return "\n".join(weight.section(changed).findings)

        heavy, light = told(2.0), told(0.25)
        assert "SEEN in: parameters (tf 2 times rnn)" in heavy.replace("NOT SEEN", "NO")
        assert "peak memory of training" in heavy.split("NOT CLEAR in")[0]
        assert "NOT SEEN in" not in heavy
        assert "NOT SEEN in: parameters" in light
        assert heavy.count("NOT SEEN: tf 2 times rnn") == 2  # FLOPs and seconds to the quality
        assert light.count(" SEEN: tf 0.25 times rnn") == 2
        assert "NOT SEEN: " not in light
        assert "Said of these trained models, of one run each" in light
        assert "NOT CLEAR in: peak memory of training (tf 2 times rnn)" in told(2.0, again=2.0)
        assert told(1.1).count("NOT CLEAR: tf 1.1 times rnn") == 2  # between the same validations
        for spreads, number in (([0.0], 2), ([0.5], 1), ([None], 1), ([], 1)):  # a speed that changed, or is not known
            for model in result["models"].values():
                model["speed_spreads"] = spreads
            assert told(2.0).count("NOT SEEN: tf 2 times rnn") == number
        mixed = json.loads(json.dumps(result))
        for name, value in (("rnn", 50), ("tf", 40), ("other", 60)):
            mixed["models"][name]["parameters"] = value
        assert "NOT CLEAR in: parameters" in weight.section(mixed).findings[0]

    @pytest.mark.parametrize("names", [("rnn", "tf", "other"), ("other", "tf", "rnn")])
    def test_a_tie_is_a_tie(self, result, names):
        """In whichever order the models are named, and so is a gap of a thousandth."""
        changed = json.loads(json.dumps(result))
        for name, factor in (("rnn", 1.0), ("tf", 1.0), ("other", 1.001)):
            for key in heavier.HEAVINESS:
                changed["models"][name][key] = 1000 * factor
            changed["models"][name]["again"] = dict.fromkeys(heavier.MEASURED, 1000)
        changed["models"] = {name: changed["models"][name] for name in names}
        (finding, *_) = weight.section(changed).findings
        assert "NOT CLEAR in: parameters" in finding
        assert "SEEN" not in finding

    def test_what_was_never_reached(self, result):
        """It took more than all that was spent: that is known, and no number is."""
        changed = json.loads(json.dumps(result))
        for key in ("seconds", "flops"):
            reached = {"mean": 5.0, "low": 5.0, "high": 5.0, "runs": [5.0], "between": [[4.0, 6.0]]}
            never = {"mean": None, "low": None, "high": None, "runs": [None], "between": [[9.0, None]]}
            changed["models"]["rnn"]["to_quality"][key] = reached
            changed["models"]["tf"]["to_quality"][key] = never
        for model in changed["models"].values():
            model["trained_on"] = ["here"]
        flops = next(text for text in weight.section(changed).findings if text.startswith("FLOPs of training"))
        assert "rnn 5, tf never" in flops
        assert "NOT SEEN: tf against rnn." in flops

    def test_batches_of_different_size_are_not_compared(self, result):
        changed = json.loads(json.dumps(result))
        changed["models"]["rnn"]["update_rows"] += 1
        findings = weight.section(changed).findings
        assert "peak memory of training (of batches of different size)" in findings[0]
        assert "so they cannot be compared" in findings[1]

    def test_a_busy_machine_is_told(self, result):
        changed = json.loads(json.dumps(result))
        changed["models"]["rnn"]["cpu_shares"] = [0.99, 0.4]
        section = weight.section(changed)
        (caution,) = section.cautions
        assert "rnn 40% had only that share" in caution
        assert caution in section.findings
        seconds = next(text for text in section.findings if text.startswith("Seconds of training"))
        assert "SEEN" not in seconds

    def test_memory_too_little_to_be_seen(self, result):
        changed = json.loads(json.dumps(result))
        for name, mebibytes in (("rnn", 0.0), ("tf", 1.25), ("other", 2.0)):
            changed["models"][name]["generation_memory_mib"] = mebibytes
        finding = weight.section(changed).findings[0]
        assert "peak memory of generation (tf 1.25, rnn 0)" in finding.split("NOT CLEAR in")[1]

    def test_updates_of_models_without_settings(self, candidates):
        assert weight.batch_of_others(candidates).batch_tokens == 64
        assert weight.batch_of_others(candidates[2:]).batch_tokens == weight.BATCH_TOKENS

    def test_a_machine_that_does_not_tell(self, result):
        changed = json.loads(json.dumps(result))
        changed["has_meter"] = False
        for model in changed["models"].values():
            model["joules_per_1000_tokens"] = None
            model["training_memory_mib"] = None
            model["error"] = "it broke."
        section = weight.section(changed)
        assert "this machine does not tell" in " ".join(section.findings)
        assert "it broke." in " ".join(section.findings)
        assert set(section.headline["peak memory of training"].values()) == {"—"}

    @pytest.mark.parametrize(
        ("value", "text"),
        [(None, "—"), (0, "0"), (999, "999"), (1234, "1.23 k"), (999_900, "1 M"), (2.5e12, "2.5 T"), (999.6, "1 k")],
    )
    def test_numbers(self, value, text):
        assert weight.number(value) == text


class TestLearningCurves:
    @pytest.fixture(scope="class")
    def measured(self, candidates, tmp_path_factory) -> dict:
        found = learning_curves.measure(candidates, Options(tmp_path_factory.mktemp("report")))
        return json.loads(json.dumps(found, allow_nan=False))

    def test_measured(self, measured):
        assert measured["metric"] == "chrf"
        assert measured["without_log"] == ["other"]
        equal = measured["equal"]
        assert equal["tokens"] == {"at": 450, "scores": {"rnn": [60, 70], "tf": [80]}}
        assert equal["seconds"]["at"] == pytest.approx(22.5)  # the second seed's training, at 20 tokens/s
        first, second = equal["seconds"]["scores"]["rnn"]
        assert (first, second) == pytest.approx((40, 70))  # half way between 15 s and 30 s; and at the end
        assert equal["seconds"]["scores"]["tf"] == []  # its first validation came after 30 s
        runs = [*measured["curves"]["rnn"]["runs"], *measured["curves"]["tf"]["runs"]]
        assert equal["flops"]["at"] == min(run["flops"][-1] for run in runs)
        ratios = {run["flops"][1] / run["tokens"][1] for run in measured["curves"]["rnn"]["runs"]}
        assert ratios == {run["flops"][2] / run["tokens"][2] for run in measured["curves"]["rnn"]["runs"]}

    def test_section(self, measured):
        section = learning_curves.section(measured)
        plot, table = section.parts
        assert table.rows[0][1] == "65 (60 to 70)"
        assert table.rows[1][3] == "—"
        lines = [len(panel.get_lines()) for panel in plot.figure.axes]
        assert lines == [4, 4, 4, 4]  # three runs and the budget
        reordered = {name: {**curve, "number": 3} for name, curve in measured["curves"].items()}
        figure = learning_curves.section({**measured, "curves": reordered}).parts[0].figure
        assert figure.axes[0].get_lines()[0].get_color() == look(3)["color"]  # as in the other plots
        assert "other" in section.how
        assert "tf had not been validated by then" in section.findings[2]

    def test_a_schedule_that_is_cut_off_is_told(self, measured):
        """Beside the claim that it weakens, not at the end of the page alone."""
        section = learning_curves.section(measured)
        at_equal_seconds = next(text for text in section.findings if text.startswith("At equal seconds"))
        assert (
            "Cut off before their schedules ended, and so worse than if trained for this: rnn and tf."
            in at_equal_seconds
        )
        at_equal_updates = next(text for text in section.findings if text.startswith("At equal updates"))
        assert "Cut off" not in at_equal_updates

    def test_earlier_results_have_no_updates(self, measured):
        changed = json.loads(json.dumps(measured))
        del changed["equal"]["updates"]
        for curve in changed["curves"].values():
            del curve["validated"], curve["cpu_shares"]
            for run in curve["runs"]:
                del run["updates"]
        section = learning_curves.section(changed)
        assert len(section.parts[0].figure.axes) == 3
        assert not any("equal updates" in text for text in section.findings)

    def test_no_logs(self, candidates, tmp_path):
        found = learning_curves.measure([candidates[2]], Options(tmp_path))
        section = learning_curves.section(json.loads(json.dumps(found)))
        assert section.parts == []
        assert "Fewer than two" in section.findings[0]
