"""A folder that somebody else made runs nothing of its own: every command says so in a sentence, and ends with 1."""

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dist_cp
import yaml
from accelerate.state import AcceleratorState
from helpers.runs import configure, write_pairs
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, TensorProperties

from seqloom.__main__ import main
from seqloom.commands import train
from seqloom.sharing import code
from seqloom.support import disk
from seqloom.training import checkpoints, states

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of some updates."""
    folder = tmp_path_factory.mktemp("trained")
    pairs = {name: write_pairs(folder, name, size) for name, size in {"few": 60, "validation": 21, "test": 31}.items()}
    config = configure(folder, pairs, "rnn", evaluation={"metrics": ["exact_match", "chrf"]})
    assert train.main([config]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "run"


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it, to make malicious."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def marker(tmp_path):
    """A file that is there as soon as code of the folder has run."""
    return tmp_path / "it-ran"


@pytest.fixture
def metric(tmp_path, marker):
    """A metric's script that leaves the marker."""
    path = tmp_path / "evil" / "evil.py"
    path.parent.mkdir()
    path.write_text(
        f"import pathlib\n\nimport datasets\nimport evaluate\n\npathlib.Path({str(marker)!r}).touch()\n"
        "class Evil(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        string = datasets.Value('string')\n"
        "        features = datasets.Features({'predictions': string, 'references': string})\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'score': 1.0}\n"
    )
    return str(path)


def refused(capsys, *words: str) -> str:
    """The one sentence that a command ends with."""
    capsys.readouterr()
    assert main([*map(str, words)]) == 1
    (line,) = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("error: ")]
    return line


def change(path: Path, **fields) -> None:
    """Other values in a file of JSON or YAML; of sections, field by field."""
    read, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    values = read(path.read_text())
    for name, value in fields.items():
        values[name] = {**(values.get(name) or {}), **value} if isinstance(value, dict) else value
    path.write_text(write(values))


class TestMetrics:
    """Only seqloom's own may be named by a folder."""

    @pytest.mark.parametrize("section", ["evaluation", "training"])
    def test_settings(self, folder, trained, metric, marker, capsys, tmp_path, section):
        name = {"evaluation": {"metrics": [metric]}, "training": {"eval_metric": metric}}[section]
        change(folder / "settings.yaml", **{section: name})
        settings = folder / "settings.yaml"
        commands = [
            ("train", settings, "--resume"),
            ("train", settings, "--output_dir", tmp_path / "new", "--dry_run"),
            ("compare", settings, "--output", tmp_path / "report"),
            ("compare", folder, trained, "--output", tmp_path / "report"),
        ]
        if section == "evaluation":
            commands += [
                ("evaluate", folder, "--split", "validation"),
                ("evaluate", folder, "--against", trained),
            ]
        for words in commands:
            line = refused(capsys, *words)
            assert f"names the metric {metric!r}, which is none of seqloom's own" in line, words
            assert f"--metrics {metric}" in line or "--metrics exact_match" in line
        assert not marker.exists()

    def test_scores_beside_predictions(self, folder, trained, metric, marker, capsys, tmp_path):
        place = tmp_path / "elsewhere"
        shutil.copytree(folder / "evaluation" / "test", place)
        change(place / "scores.json", metrics={metric: {"score": 1.0, "signature": ""}})
        other = trained / "evaluation" / "test" / "predictions.jsonl"
        line = refused(capsys, "evaluate", place / "predictions.jsonl", "--against", other)
        assert f"names the metric {metric!r}" in line
        assert not marker.exists()

    def test_record(self, hub, folder, metric, marker, capsys):
        change(folder / "record.json", evaluation=json.loads((folder / "record.json").read_text())["evaluation"]
               | {"metrics": {metric: {"score": 1.0, "signature": ""}}})  # fmt: skip
        with hub.client(hub.WRITE):
            line = refused(capsys, "push", folder, "me/model")
        assert f"record.json names the metric {metric!r}" in line
        assert not marker.exists()
        assert not hub.repositories

    def test_on_the_line(self, folder, metric, marker, tmp_path):
        """Whoever writes it there wants it."""
        change(folder / "settings.yaml", evaluation={"metrics": [metric]})
        words = ["evaluate", str(folder), "--split", "validation", "--output_dir", str(tmp_path / "scores")]
        assert main([*words, "--metrics", metric]) == 0
        assert marker.exists()


class TestCode:
    """Pushing runs seqloom's own code, and any other with ``--trust_remote_code`` alone."""

    def push(self, hub, folder, capsys, marker) -> str:
        with hub.client(hub.WRITE):
            line = refused(capsys, "push", folder, "me/model")
        assert not marker.exists()
        return line

    def test_auto_map(self, hub, folder, marker, capsys):
        (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
        change(folder / "config.json", auto_map={"AutoModelForSeq2SeqLM": "evil.Model"})
        line = self.push(hub, folder, capsys, marker)
        assert "names code that is not seqloom's own (evil.py)" in line
        assert line.endswith("give --trust_remote_code.")
        assert not hub.repositories  # nothing has gone up

    def test_changed_by_a_byte(self, hub, folder, marker, capsys):
        for name in ("modeling_rnn_seq2seq.py", "configuration_seq2seq.py"):  # named, and imported by what is named
            kept = (folder / name).read_bytes()
            (folder / name).write_bytes(kept + b"\n")
            assert f"not seqloom's own ({name})" in self.push(hub, folder, capsys, marker)
            (folder / name).write_bytes(kept)
        assert code.foreign_code(folder) == []

    @pytest.mark.parametrize(
        "reference", ["me/other--evil.Model", "configuration_seq2seq.x/y--evil.Model", "/tmp/evil.Model", "sub/evil.A"]
    )
    def test_somewhere_else(self, folder, reference):
        for file, name in (("config.json", "AutoModel"), ("tokenizer_config.json", "AutoTokenizer")):
            kept = (folder / file).read_bytes()
            change(folder / file, auto_map={name: [None, reference]})
            assert code.foreign_code(folder) == [reference]
            (folder / file).write_bytes(kept)

    def test_custom_generate(self, hub, folder, marker, capsys):
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(
            f"import pathlib\npathlib.Path({str(marker)!r}).touch()\ndef generate(model, **options): ...\n"
        )
        assert "(custom_generate/generate.py)" in self.push(hub, folder, capsys, marker)

    def test_generation_of_the_record(self, hub, folder, marker, capsys):
        evil = folder.parent / "generating"
        (evil / "custom_generate").mkdir(parents=True)
        (evil / "custom_generate" / "generate.py").write_text(
            f"import pathlib\npathlib.Path({str(marker)!r}).touch()\ndef generate(model, **options): ...\n"
        )
        (evil / "config.json").write_text("{}")
        evaluation = json.loads((folder / "record.json").read_text())["evaluation"]
        evaluation["generation"] |= {"custom_generate": str(evil), "trust_remote_code": True}
        change(folder / "record.json", evaluation=evaluation)
        assert "decodes by custom_generate, trust_remote_code, which runs code" in self.push(
            hub, folder, capsys, marker
        )

    @pytest.mark.parametrize("place", ["evil.py", "custom_generate/generate.py"])
    def test_of_the_repository(self, hub, folder, marker, capsys, place):
        """What an earlier push of somebody's left there goes up with nothing, and runs with nothing."""
        from huggingface_hub import HfApi

        with hub.client(hub.WRITE):
            HfApi().create_repo("me/model")
            text = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\ndef generate(model, **options): ...\n"
            HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo=place, repo_id="me/model")
        if place == "evil.py":
            assert code.foreign_code(folder) == []
            with hub.client(hub.WRITE):
                assert main(["push", str(folder), "me/model"]) == 0  # nothing names it
        else:
            line = self.push(hub, folder, capsys, marker)
            assert "names code that is not seqloom's own (custom_generate/generate.py)" in line
        assert not marker.exists()

    def test_trusted(self, hub, folder, marker):
        path = folder / "modeling_rnn_seq2seq.py"
        path.write_text(f"{path.read_text()}\nimport pathlib\n\npathlib.Path({str(marker)!r}).touch()\n")
        with hub.client(hub.WRITE):
            assert main(["push", str(folder), "me/model", "--trust_remote_code"]) == 0
        assert marker.exists()

    def test_released(self, folder, monkeypatch):
        """What a version gave out stays seqloom's own."""
        path = folder / "modeling_rnn_seq2seq.py"
        path.write_bytes(path.read_bytes() + b"# as it was in 0.0.9\n")
        assert code.foreign_code(folder) == [path.name]
        released = frozenset({*code._installed_and_released(), code.sha256(path)})
        monkeypatch.setattr(code, "_installed_and_released", lambda: released)
        assert code.foreign_code(folder) == []


class Bomb:
    """Leaves the marker when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class TestCheckpoints:
    """A checkpoint is tensors and plain values, and what is more is refused before any of it is read."""

    @pytest.mark.parametrize(
        "name",
        ["optimizer.bin", "random_states_0.pkl", "schedule.pt", "custom_checkpoint_0.pkl", "more.pkl", "scaler.pt"],
    )
    @pytest.mark.parametrize("is_archive", [True, False])
    def test_pickles(self, folder, marker, capsys, name, is_archive):
        checkpoint = checkpoints.step_folders(folder)[-1]
        with (checkpoint / name).open("wb") as file:
            (torch.save if is_archive else pickle.dump)({"state": Bomb(marker)}, file)
        (checkpoint / disk.MANIFEST).unlink()
        disk.seal(checkpoint)  # as if it had been saved so
        line = refused(capsys, "train", folder / "settings.yaml", "--resume", "--output_dir", folder)
        assert str(checkpoint / name) in line
        assert "is a pickle, which an earlier" in line if "custom" in name else "reading it could run code" in line
        assert not marker.exists()
        pickle.loads(pickle.dumps(Bomb(marker)))
        assert marker.exists()  # it would have

    @pytest.mark.parametrize("place", ["metadata", "value"])
    def test_sharded(self, tmp_path, marker, place):
        """Of FSDP2, torch unpickles the metadata and every value that is no tensor."""
        folder = tmp_path / "checkpoint" / "optimizer_0"
        values = {"lr": 0.1, "betas": (0.9, 0.98), "foreach": None}
        state = {"optimizer": {"state": {"weight": {"step": torch.tensor(1.0), "exp_avg": torch.ones(3).bfloat16()}}}}
        state["optimizer"]["param_groups"] = values | ({"bomb": Bomb(marker)} if place == "value" else {})
        dist_cp.save(state, storage_writer=dist_cp.FileSystemWriter(folder), no_dist=True)
        if place == "metadata":
            states.check_states(tmp_path / "checkpoint")
            metadata = pickle.loads((folder / ".metadata").read_bytes())
            metadata.planner_data = Bomb(marker)
            (folder / ".metadata").write_bytes(pickle.dumps(metadata))
        with pytest.raises(ValueError, match="reading it could run code, so it is not read"):
            states.check_states(tmp_path / "checkpoint")
        assert not marker.exists()

    def test_members_of_enumerations(self, tmp_path):
        """Pythons pickle them in several ways, one of which asks for ``getattr``; it gets nothing else by that."""

        class Attribute:
            def __init__(self, *of):
                self.of = of

            def __reduce__(self):
                return getattr, self.of

        state = {"weight": torch.ones(3)}
        dist_cp.save(state, storage_writer=dist_cp.FileSystemWriter(tmp_path), no_dist=True)
        written = (tmp_path / ".metadata").read_bytes()
        for of, message in (
            ((_MEM_FORMAT_ENCODING, "TORCH_PRESERVE_FORMAT"), None),
            ((_MEM_FORMAT_ENCODING, "mro"), "attribute, 'mro'"),
            ((TensorProperties, "__init__"), "attribute, '__init__'"),
        ):
            metadata = pickle.loads(written)
            metadata.planner_data = Attribute(*of)
            (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
            with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
                states.check_states(tmp_path)
