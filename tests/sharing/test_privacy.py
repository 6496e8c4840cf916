"""No place of this machine is in what is shared, and no name is markup."""

import json
import re
import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from helpers.runs import configure, write_pairs

from seqloom.commands import train
from seqloom.run_folder import read_record
from seqloom.settings.reading import load_settings
from seqloom.sharing.card import make_card
from seqloom.sharing.files import shared_files
from seqloom.sharing.privacy import places_in, without_places
from seqloom.support.wording import as_code, fenced, in_markdown

METRIC = """import datasets
import evaluate


class Own(evaluate.Metric):
    def _info(self):
        string = datasets.Value("string")
        features = datasets.Features({"predictions": string, "references": string})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"score": 50.0}
"""


class TestPlaces:
    def test_known_elsewhere(self, tmp_path, monkeypatch):
        """What was a path where the run was made stays one where it is not there."""
        (tmp_path / "data" / "mine").mkdir(parents=True)
        values = {"path": "data/mine", "name": "user/model", "list": [{"data/mine": 1}], "home": "~/x/y"}
        monkeypatch.chdir(tmp_path)
        known = places_in(values)
        assert known == ["data/mine", "~/x/y"]
        monkeypatch.chdir("/")
        cut = {"path": "mine", "name": "user/model", "list": [{"mine": 1}], "home": "y"}
        assert without_places(values, known) == cut

    @pytest.mark.slow
    @pytest.mark.usefixtures("fresh_accelerator")
    def test_a_metric_and_relative_places(self, tmp_path, monkeypatch):
        """Trained with relative paths, and pushed from another folder."""
        secret = tmp_path / "secret"
        (secret / "whispered").mkdir(parents=True)
        (secret / "whispered" / "own_metric.py").write_text(METRIC)
        sizes = {"few": 60, "validation": 21, "test": 31}
        pairs = {name: write_pairs(secret / "whispered", f"<b>{name}", size) for name, size in sizes.items()}
        pairs = {name: [str(Path(path).relative_to(secret)) for path in paths] for name, paths in pairs.items()}
        monkeypatch.chdir(secret)
        name = "whispered/own_metric.py"
        training = {"eval_metric": name, "greater_is_better": True}
        metrics = {"metrics": ["chrf", name]}
        config = configure(
            secret, pairs, "rnn", evaluation=metrics, training=training, output_dir="whispered/run"
        )  # fmt: skip
        assert train.main([config]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        folder = Path(shutil.copytree(secret / "whispered" / "run", tmp_path / "elsewhere"))
        monkeypatch.chdir("/")
        record = read_record(folder)
        files, _ = shared_files(folder, load_settings(folder / "settings.yaml"), record)
        files["README.md"] = make_card(folder).encode()
        for path, data in files.items():
            content = data if isinstance(data, bytes) else data.read_bytes()
            assert b"whispered" not in content, path
            assert b"secret" not in content, path
        card = files["README.md"].decode()
        assert "| train | `<b>few.source` |" in card
        assert "<b>" not in re.sub(r"```yaml.*?\n```|`<b>\w+\.(source|target)`", "", card, flags=re.DOTALL)
        shared = json.loads(files["record.json"])
        assert set(shared["evaluation"]["metrics"]) == {"chrf", "own_metric.py"}
        assert shared["evaluation"]["metrics"]["own_metric.py"]["score"] == 50
        assert b'"eval_own_metric.py"' in files["training_log.jsonl"]
        assert set(record["evaluation"]["metrics"]) == {"chrf", name}  # here nothing has changed


class TestMarkup:
    @pytest.mark.parametrize("text", ["few.source", "train-2.en.gz", "SCAN, split simple", "user/model", "말뭉치.ko"])
    def test_plain_names_stay(self, text):
        assert in_markdown(text) == text

    @pytest.mark.parametrize(
        "text",
        ["<img src=x onerror=alert(1)>.csv", "[a](http://b).txt", "a*b*.txt", "__a__", "_a_.txt", "a`b.txt", "`a`",
         "https://a.example/b", "www.a.example", "a\n# b", "&lt;b&gt;", "a\\*b", "~~a~~"],
    )  # fmt: skip
    def test_others_are_code(self, text):
        shown = in_markdown(text)
        fence = shown[: len(shown) - len(shown.lstrip("`"))]
        assert shown.startswith(fence)
        assert shown.endswith(fence)
        assert fence
        inner = shown[len(fence) : -len(fence)]
        assert fence not in inner.strip("`") or len(fence) > inner.count("`")
        assert inner.strip() == " ".join(text.split())
        assert "\n" not in shown

    def test_fences(self):
        assert as_code("a``b") == "```a``b```"
        assert fenced("a\n```\n<b>", "yaml").splitlines()[0] == "````yaml"
        assert fenced("a: 1", "yaml") == "```yaml\na: 1\n```"
