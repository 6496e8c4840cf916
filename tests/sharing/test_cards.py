"""A card says what the run's record says, in a form that the Hub takes, and its code runs."""

import hashlib
import json
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState
from helpers.hub_cards import check_card
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from seqloom.figures import curves, style
from seqloom.settings.reading import load_settings
from seqloom.sharing.card import make_card, write_card
from seqloom.training.run import run_training

ROOT = Path(__file__).parents[2]
CARDS = [path for path in sorted((ROOT / "model_cards").glob("*.md")) if path.stem != "template"]
METRICS = ["exact_match", "chrf", "cer"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run: words spelled backwards in capitals, a vocabulary for each side."""
    folder = tmp_path_factory.mktemp("cards")
    files = {}
    for name, pairs in (("train", 700), ("validation", 60), ("test", 45)):
        words = random.Random(name)
        sources = ["".join(words.choices("abcdefgh|", k=words.randint(1, 4))) for _ in range(pairs)]
        if name == "train":
            sources[7] = ""
        files[f"{name}_files"] = [str(folder / f"{name}.{side}") for side in ("source", "target")]
        for path, texts in zip(
            files[f"{name}_files"], (sources, [text[::-1].upper() for text in sources]), strict=True
        ):
            Path(path).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    raw = {
        "output_dir": str(folder / "speller"),
        "model": {"model_type": "rnn_seq2seq", "cell_type": "gru", "hidden_size": 32, "encoder_layers": 1,
                  "decoder_layers": 1, "dropout": 0.0},
        "data": files,
        "tokenizer": {"kind": "char", "vocab_size": 20, "shared": False, "lowercase": False},
        "training": {"batch_tokens": 300, "max_steps": 120, "learning_rate": 0.01, "warmup_steps": 5, "seed": 3,
                     "lr_scheduler_type": "linear", "logging_steps": 10, "eval_steps": 40, "eval_samples": 30,
                     "eval_metric": "chrf", "label_smoothing_factor": 0.05, "num_threads": 1},
        "generation": {"num_beams": 2, "max_new_tokens": 9},
        "evaluation": {"metrics": METRICS, "metric_kwargs": {"chrf": {"word_order": 2}}, "bootstrap_samples": 200},
        "hub": {"language": ["en", "de"], "license": "cc-by-4.0", "tags": ["spelling", "seqloom"]},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    datasets.disable_progress_bars()
    run_training(load_settings(folder / "config.yaml"))
    datasets.enable_progress_bars()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return folder / "speller"


@pytest.fixture
def record(run) -> dict:
    return json.loads((run / "record.json").read_text(encoding="utf-8"))


@pytest.fixture
def log(run) -> list[dict]:
    return [json.loads(line) for line in (run / "training_log.jsonl").read_text(encoding="utf-8").splitlines()]


def merge(old: dict, new: dict) -> dict:
    """Sections are merged, but for values that are given as whole: ``{"=": value}``."""
    merged = dict(old)
    for key, value in new.items():
        whole = isinstance(value, dict) and "=" in value
        merged[key] = value["="] if whole else merge(old[key], value) if isinstance(value, dict) else value
    return merged


@pytest.fixture
def variant(run, tmp_path):
    """Another run's folder: the same with other settings and another record."""

    def make(settings: dict | None = None, record: dict | None = None) -> Path:
        folder = tmp_path / "variant"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("settings.yaml", "record.json", "training_log.jsonl", "config.json", "training_curve.png"):
            shutil.copy(run / name, folder)
        raw = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        (folder / "settings.yaml").write_text(yaml.safe_dump(merge(raw, settings or {})), encoding="utf-8")
        written = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        (folder / "record.json").write_text(json.dumps(merge(written, record or {})), encoding="utf-8")
        return folder

    return make


HUB_DATA = {
    "settings": {"data": {
        "dataset": "somebody/pairs", "train_files": None, "validation_files": None, "test_files": None,
    }},
    "record": {"data": {
        "dataset": "somebody/pairs", "config_name": "en-de", "revision": "5503434ddd753f42",
        "splits": {"=": {"train": "train", "validation": "70 pairs drawn from the training split", "test": "test"}},
    }},
}  # fmt: skip
UNSCORED = {"settings": {"evaluation": {"split": None}}, "record": {"evaluation": None}}


def rows(card: str, heading: str) -> dict[str, list[str]]:
    """The cells of the tables under a heading, by the first of each row."""
    part = re.split(r"\n#+ ", card.split(f"# {heading}\n", 1)[1])[0]
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip().replace(r"\|", "|") for cell in cells[1:]] for cells in lines}


@pytest.mark.slow
class TestHeader:
    def test_is_what_the_hub_takes(self, run, variant):
        texts = [make_card(run), make_card(run, "me/speller", with_scores=False)]
        for changes in (HUB_DATA, UNSCORED, {"settings": {"hub": {"license": None, "language": [], "tags": []}}}):
            texts.append(make_card(variant(**changes)))
        for text in texts:
            assert check_card(text) == ([], [])

    def test_what_it_says(self, run, record):
        data = ModelCard.load(run / "README.md").data
        assert (run / "README.md").read_text(encoding="utf-8") == make_card(run)
        assert (data.library_name, data.license, data.language) == ("transformers", "cc-by-4.0", ["en", "de"])
        assert data.pipeline_tag == "translation"
        assert data.tags == ["seqloom", "seq2seq", "rnn_seq2seq", "trained-from-scratch", "custom_code", "spelling"]
        assert data.metrics == METRICS
        assert data.get("datasets") is None
        assert [result.metric_type for result in data.eval_results] == METRICS
        for result in data.eval_results:
            found = record["evaluation"]["metrics"][result.metric_type]
            assert (result.metric_value, result.metric_config) == (round(found["score"], 2), found["signature"])
            assert (result.task_type, result.task_name) == ("translation", "Translation")
            assert (result.dataset_type, result.dataset_name) == ("local", "test.source, test.target")
            assert result.dataset_split == "test"
        assert [result.metric_name for result in data.eval_results] == ["Exact match", "chrF", "CER"]

    def test_model_index(self, run):
        """One data set with all its metrics; the Hub's own reading of it gives it back."""
        header = yaml.safe_load(make_card(run).split("---\n")[1])
        (model,) = header["model-index"]
        (result,) = model["results"]
        assert [metric["type"] for metric in result["metrics"]] == METRICS
        name, results = model_index_to_eval_results(header["model-index"])
        assert name == "speller"
        assert eval_results_to_model_index(name, results) == header["model-index"]

    def test_data_of_the_hub(self, variant):
        data = ModelCard(make_card(variant(**HUB_DATA))).data
        assert data.datasets == ["somebody/pairs"]
        for result in data.eval_results:
            assert (result.dataset_type, result.dataset_config) == ("somebody/pairs", "en-de")
            assert (result.dataset_revision, result.dataset_split) == ("5503434ddd753f42", "test")

    @pytest.mark.parametrize(
        ("split", "kind", "named"),
        [
            ("length", "scan", "SCAN, split length"),
            ("simple", "local", "SCAN, split simple (seqloom's own draw, of the published sizes)"),
            ("length_26", "local", "SCAN, split length_26 (cut at 26 actions, after Newman et al. 2020)"),
        ],
    )
    def test_data_of_scan(self, variant, split, kind, named):
        """A split that the Hub has, or has otherwise, or has not."""
        files = dict.fromkeys(("train_files", "validation_files", "test_files"))
        splits = {"=": {"train": "train", "validation": "70 pairs drawn from the training split", "test": "test"}}
        data = ModelCard(
            make_card(
                variant(
                    settings={"data": {"dataset": "scan", "split": split, **files}},
                    record={"data": {"dataset": "scan", "split": split, "splits": splits}},
                )
            )
        ).data
        for result in data.eval_results:
            assert (result.dataset_type, result.dataset_config) == (kind, None)
            assert result.dataset_name.startswith(named)

    @pytest.mark.parametrize(
        ("hub", "tag"),
        [
            ({"language": []}, "text-generation"),
            ({"language": ["en"]}, "text-generation"),
            ({"language": ["en", "en"]}, "text-generation"),
            ({"language": ["ko", "en"]}, "translation"),
            ({"language": ["ko", "en"], "pipeline_tag": "summarization"}, "summarization"),
        ],
    )
    def test_task(self, variant, hub, tag):
        assert ModelCard(make_card(variant({"hub": hub}))).data.pipeline_tag == tag

    def test_licence(self, run, variant):
        unknown = variant({"hub": {"license": None}})
        assert ModelCard(make_card(unknown)).data.license == "unknown"
        assert "No licence was stated for the weights" in make_card(unknown)
        assert "No licence" not in make_card(run)
        assert "Licence of the weights: cc-by-4.0." in make_card(run)


@pytest.mark.slow
class TestBody:
    def test_scores(self, run, record):
        card = make_card(run)
        table = rows(card, "Scores")
        for name, label in (("exact_match", "Exact match ↑"), ("chrf", "chrF ↑"), ("cer", "CER ↓")):
            found = record["evaluation"]["metrics"][name]
            low, high = found["interval"]
            expected = [f"{found['score']:.2f}", f"{low:.2f} to {high:.2f}", f"`{found['signature']}`"]
            assert table[label] == expected
        evaluation = record["evaluation"]
        assert "On the 45 pairs of the test split of test.source, test.target; num_beams 2" in card
        assert (
            f"decoded in {evaluation['seconds']:,.1f} s ({evaluation['sentences_per_second']:,.1f} sentences/s)" in card
        )
        assert "200 bootstrap resamples" in card

    def test_training(self, run, record, log):
        card, progress = make_card(run), record["progress"]
        assert f"{record['model']['parameters']:,} parameters" in card
        assert "GRU encoder-decoder: 1+1 layers, 32 wide, embeddings 32 wide, bidirectional encoder, Luong" in card
        hashes = [hashlib.sha256((run.parent / f"{split}.{side}").read_bytes()).hexdigest()
                  for split in ("train", "validation", "test") for side in ("source", "target")]  # fmt: skip
        assert re.findall(r"`([0-9a-f]{64})`", card) == hashes
        assert re.search(r"\| train \| 700 \|.*\n\| validation \| 60 \|.*\n\| test \| 45 \|", card)
        assert "699 of 700 pairs kept; dropped 1 with an empty side and 0 that are too long" in card
        table = rows(card, "Hyper-parameters")
        assert table["tokenizer"][0].startswith("characters, 13 entries for the source and 13 for the target")
        assert table["optimizer"] == ["AdamW, β 0.9 and 0.98, ε 1e-09"]
        assert table["learning rate"] == ["0.01 at its peak, linear after 5 updates of warm-up"]
        assert table["batch"][0].startswith("300 tokens, padding included; 1 batch an update; ")
        assert f"{record['data']['plan']['target_tokens_per_update']:,.0f} target tokens" in table["batch"][0]
        assert (table["dropout"], table["label smoothing"]) == (["0"], ["0.05"])
        assert (table["precision"], table["seed"]) == (["float32"], ["3"])
        table = rows(card, "Run")
        assert table["length"] == [
            f"120 updates, {progress['epoch']} whole epochs, {progress['target_tokens']:,} target tokens"
        ]
        assert table["time"] == [f"{progress['seconds']:,.0f} s, validations included"]
        assert table["weights"] == [record["model"]["weights"]]
        assert table["best validation"] == [f"chrF {progress['best_score']:.4f}, after update {progress['best_step']}"]
        assert table["hardware"] == [f"{record['environment']['hardware']}; 1 process"]
        for name in ("python", "torch", "transformers", "seqloom"):
            assert f"{name} {record['environment'][name]}" in table["software"][0]
        assert "chrF is of greedy outputs for 30 validation pairs." in card

    def test_limits(self, run, variant):
        card = make_card(run)
        assert "learnt from 699 pairs of train.source, train.target" in card
        assert "no pair of more than 256 source tokens or 256 target tokens" in card
        assert "Outputs end after 9 tokens" in card
        assert "Characters that the training data lack become `<unk>`" in card
        assert "capitals" not in card
        other = make_card(variant({"tokenizer": {"kind": "byte_bpe", "lowercase": True}}))
        assert "<unk>" not in other
        assert "neither reads nor writes capitals" in other

    def test_tables_are_whole(self, run):
        """As many cells in each row as there are headers, whatever bars the texts hold."""
        for block in make_card(run).split("\n\n"):
            if block.startswith("|"):
                assert len({len(row.replace(r"\|", "").split("|")) for row in block.splitlines()}) == 1, block

    def test_settings(self, run):
        written = yaml.safe_load(make_card(run).split("```yaml\n")[1].split("```")[0])
        expected = load_settings(run / "settings.yaml").to_dict()
        expected["output_dir"] = "speller"
        for name in ("train_files", "validation_files", "test_files"):
            expected["data"][name] = [Path(path).name for path in expected["data"][name]]
        assert written == expected

    def test_no_place_of_the_machine(self, run, variant, record):
        """Wherever the run stood, and wherever the card is made again."""
        for text in (make_card(run), make_card(run, with_scores=False)):
            for place in {str(run), str(run.parent), str(Path.home()), str(ROOT), *map(str, run.parents)} - {"/"}:
                assert f"{place}/" not in text
        metric = {"score": 5.0, "interval": None, "signature": "evaluate:0.4.6|metric:/home/me/metrics/mine.py"}
        folder = variant(
            {"output_dir": r"C:\Users\me\speller", "tokenizer": {"path": "/home/me/tokenizer"},
             "data": {"dataset": "/home/me/pairs", "train_files": None, "validation_files": None, "test_files": None},
             "evaluation": {"metrics": ["/home/me/metrics/mine.py"], "metric_kwargs": {"=": {}}},
             "generation": {"generate_kwargs": {"=": {"some_file": "~/some/file"}}}},
            {"data": {"dataset": "/home/me/pairs", "splits": {"=": {"train": "train", "test": "test"}}},
             "evaluation": {"metrics": {"=": {"/home/me/metrics/mine.py": metric}}}},
        )  # fmt: skip
        card = make_card(folder)
        for place in ("/home", "Users", "me/", "~"):
            assert place not in card
        assert "trained from scratch with seqloom on pairs (en → de)." in card
        assert rows(card, "Scores")["mine.py ↑"] == ["5.00", "`evaluate:0.4.6|metric:mine.py`"]
        assert rows(card, "Hyper-parameters")["tokenizer"][0].startswith("tokenizer, ")
        assert ModelCard(card).data.get("datasets") is None

    def test_without_scores(self, run, record, log):
        """They are nowhere: neither the test's nor the validations', nor the picture that shows these."""
        card = make_card(run, with_scores=False)
        header = yaml.safe_load(card.split("---\n")[1])
        assert "model-index" not in header
        assert "metrics" not in header
        values = [number for result in record["evaluation"]["metrics"].values()
                  for number in (result["score"], *result["interval"])]  # fmt: skip
        values += [value for line in log for name, value in line.items() if name.startswith("eval_")]
        for value in (*values, record["progress"]["best_score"]):
            assert not re.search(rf"(?<![\d.]){re.escape(f'{value:.2f}')}", card)
        assert "training_curve.png" not in card
        assert card.count("await") == 2
        assert "Scores" in card
        assert f"{record['model']['parameters']:,} parameters" in card

    def test_nothing_measured(self, variant):
        for with_scores in (True, False):
            card = make_card(variant(**UNSCORED), with_scores=with_scores)
            assert "None were measured." in card
            assert "await verification; they" not in card
            assert "model-index" not in card

    def test_without_intervals(self, variant, record):
        plain = {name: {key: value for key, value in result.items() if key != "interval"}
                 for name, result in record["evaluation"]["metrics"].items()}  # fmt: skip
        card = make_card(variant(record={"evaluation": {"metrics": {"=": plain}, "bootstrap_samples": 0}}))
        assert "interval" not in card.split("### Data")[0]
        plain["chrf"]["interval"] = [1.0, 2.0]
        card = make_card(variant(record={"evaluation": {"metrics": {"=": plain}}}))
        assert [cells[1] for name, cells in rows(card, "Scores").items() if name[-1] in "↑↓"] == [
            "none",
            "1.00 to 2.00",
            "none",
        ]


@pytest.mark.slow
def test_the_code_runs(run, tmp_path):
    """In an interpreter that never hears of seqloom, from another folder, and gives what the scoring gave."""
    card = make_card(run, str(run))
    snippet, pipeline = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) == 5
    code = f"{snippet}\n{pipeline}\nimport sys\nassert 'seqloom' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    predictions = (run / "evaluation" / "test" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(predictions[0])
    assert json.dumps(first["source"]) in snippet
    generated, piped = done.stdout.splitlines()
    assert generated == str([first["hypothesis"]])
    assert str({"generated_text": first["hypothesis"]}) in piped


@pytest.mark.slow
def test_names(run, monkeypatch):
    assert make_card(run).count('"speller"') == 3
    card = make_card(run, "me/speller")
    assert card.count('"me/speller"') == 3
    assert "\n# me/speller\n" in card
    monkeypatch.chdir(run)
    assert make_card(Path()) == make_card(run)


@pytest.mark.slow
class TestCurve:
    def test_picture(self, run, tmp_path, variant):
        """A PNG of the width of a page, the same every time."""
        data = (run / "training_curve.png").read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert data.rstrip().endswith(b"IEND\xaeB`\x82")
        width, height = struct.unpack(">II", data[16:24])
        assert width == 1260
        assert 400 < height < 600
        folder = variant()
        write_card(folder)
        assert (folder / "training_curve.png").read_bytes() == data

    def test_shows_the_log(self, log):
        figure = curves.training_curve(log, "chrf", metric_label="chrF (%)", label_smoothing=0.05, best_step=80)
        losses, metric = figure.axes
        drawn = {line.get_label(): line.get_xydata().tolist() for part in figure.axes for line in part.get_lines()}
        for label, name, count in (
            ("training, label smoothing 0.05", "loss", 12), ("validation", "eval_loss", 3),
            ("validation, greedy", "eval_chrf", 3),
        ):  # fmt: skip
            assert drawn[label] == [[line["step"], line[name]] for line in log if name in line]
            assert len(drawn[label]) == count
        assert {x for x, _ in drawn["best validation"]} == {80}
        assert (losses.get_xlabel(), metric.get_xlabel(), metric.get_ylabel()) == ("updates", "updates", "chrF (%)")
        assert "nats per target token" in losses.get_ylabel()

    def test_logs_of_other_runs(self, log, tmp_path):
        """Without a metric, without a line of training, with losses that fall a hundredfold."""
        validations = [
            {name: value for name, value in line.items() if name != "eval_chrf"} for line in log if "best" in line
        ]
        (part,) = curves.training_curve(validations).axes
        assert [len(line.get_xydata()) for line in part.get_lines()] == [0, 3]
        assert part.get_yscale() == "linear"
        steep = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 0.01}, {"step": 2, "eval_loss": 0.02}]
        assert curves.training_curve(steep).axes[0].get_yscale() == "log"
        style.save(curves.training_curve(steep, best_step=2), tmp_path / "steep.png")

    def test_table_in_its_place(self, run, variant, log):
        """Where the picture does not lie beside the card."""
        assert make_card(run).count("](training_curve.png)") == 1
        folder = variant()
        (folder / "training_curve.png").unlink()
        card = make_card(folder)
        assert "training_curve.png" not in card
        table, best = rows(card, "Run"), 0
        for line in log:
            if "eval_loss" in line:
                (cells,) = [cells for key, cells in table.items() if key.split(" ")[0] == str(line["step"])]
                (loss,) = [other["loss"] for other in log if other["step"] == line["step"] and "loss" in other]
                assert cells == [f"{loss:.3g}", f"{line['eval_loss']:.3g}", f"{line['eval_chrf']:.2f}"]
        best = json.loads((folder / "record.json").read_text())["progress"]["best_step"]
        assert f"{best} (best)" in table
        many = [{"step": 10 * i, "eval_loss": 1 / i, "eval_chrf": float(i)} for i in range(1, 58)]
        (folder / "training_log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in many))
        steps = [key for key in rows(make_card(folder), "Run") if re.match(r"\d", key)]
        assert (len(steps), steps[0], steps[-1]) == (10, "30", "570")


class TestRefusals:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["settings.yaml", "record.json", "training_log.jsonl", "config.json"])
    def test_unfinished(self, variant, name):
        folder = variant()
        (folder / name).unlink()
        for function in (make_card, write_card):
            with pytest.raises(ValueError, match=f"holds no finished run of seqloom's: it lacks {name}; give"):
                function(folder)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match="holds no finished run"):
            make_card(tmp_path / "nowhere")

    @pytest.mark.slow
    def test_damaged(self, variant):
        for name in ("record.json", "training_log.jsonl", "config.json"):
            folder = variant()
            (folder / name).write_text((folder / name).read_text()[:-20])
            with pytest.raises(ValueError, match=f"{name} is damaged"):
                make_card(folder)

    @pytest.mark.slow
    def test_of_another_version(self, variant):
        folder = variant()
        record = json.loads((folder / "record.json").read_text())
        del record["example"], record["precision"]
        for written, lacking in ((record, "example, precision"), ({}, "data, .*, progress")):
            (folder / "record.json").write_text(json.dumps(written))
            with pytest.raises(ValueError, match=f"lacks {lacking}: another version of seqloom wrote it"):
                make_card(folder)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_cards_of_the_recipes(path):
    """What is in model_cards/ is as runs' cards are: a valid header, a name, intervals, no dead link, no place."""
    text, card = path.read_text(encoding="utf-8"), ModelCard.load(path)
    assert check_card(text) == ([], [])
    settings = load_settings(ROOT / "configs" / f"{path.stem}.yaml")
    assert card.data.model_name == path.stem
    assert card.data.language == settings.hub.language
    assert card.data.license == (settings.hub.license or "unknown")
    assert {result.metric_type for result in card.data.eval_results} == set(settings.evaluation.metrics)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link
    for cells in [cells for name, cells in rows(text, "Scores").items() if name[-1] in "↑↓"]:
        low, high = map(float, cells[1].split(" to "))
        assert low <= float(cells[0]) <= high
        assert low < high
    assert not re.search(r"(?<![\w.])/(tmp|home|work|root)/", text)
