"""What ``--overwrite`` deletes: what a run wrote, and nothing else; and one folder, one run."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from helpers.patience import HANGS, wait_for_lines
from helpers.runs import configure, run, write_pairs

from seqloom import run_folder
from seqloom.commands.train import main
from seqloom.settings.reading import load_settings
from seqloom.support.locks import Lock
from seqloom.training import checkpoints
from seqloom.training.clearing import clear_run, inputs_of, is_ours
from seqloom.training.refusals import check_output_folder

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def begun(tmp_path, data):
    """A folder as a run has it, of which nothing was trained."""
    folder = tmp_path / "run"
    for name in ("checkpoints/step-00000003", "checkpoints/best", "checkpoints/saving-step-00000006",
                 "checkpoints/weights", "evaluation/test", "trackers/seqloom"):  # fmt: skip
        (folder / name).mkdir(parents=True)
    files = (
        "config.json", "generation_config.json", "model.safetensors", "model-00001-of-00002.safetensors", "data.json",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "training_log.jsonl", "record.json",
        "training_curve.png", "checkpoints/step-00000003/model.safetensors", "checkpoints/best/config.json",
        "checkpoints/weights/step-00000003.safetensors", "evaluation/test/predictions.jsonl",
        "evaluation/test/scores.json", "evaluation/test/against-other.json", "trackers/run_id", "trackers/seqloom/x",
        "saving-record.json", "modeling_rnn_seq2seq.py",
    )  # fmt: skip
    for name in files:
        (folder / name).write_text("{}")
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling_rnn_seq2seq.Model"}}))
    load_settings(configure(tmp_path, data, "rnn")).save(folder / "settings.yaml")
    return folder


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestClearing:
    def test_all_that_a_run_writes(self, begun):
        run_folder.mark(begun, run_folder.RUN)
        assert clear_run(begun) == []
        assert [path.name for path in begun.iterdir()] == [".seqloom.json"]

    def test_nothing_else(self, begun):
        run_folder.mark(begun, run_folder.RUN)
        others = {
            "thesis.tex", "mine.safetensors", "helper.py", "checkpoints/notes", "evaluation/notes", "saving-account",
            "evaluation/test/notes", "checkpoints/weights/notes", "data.json.bak", "README.md", "config.json.d/x",
        }  # fmt: skip
        for name in others:
            (begun / name).parent.mkdir(exist_ok=True)
            (begun / name).write_text("the only copy")
        left = clear_run(begun)
        assert files_in(begun) == others | {".seqloom.json"}
        assert left == sorted({name.partition("/")[0] for name in others})
        assert all((begun / name).read_text() == "the only copy" for name in others)

    def test_links_stay(self, begun, tmp_path):
        """The folder, its checkpoints and what a link in it names."""
        run_folder.mark(begun, run_folder.RUN)
        for path in (begun, begun / "checkpoints", begun / "model.safetensors"):
            real = tmp_path / f"real-{path.name}"
            shutil.move(path, real)
            path.symlink_to(real)
        outside = tmp_path / "outside.json"
        outside.write_text("x")
        (begun / "record.json").unlink()
        (begun / "record.json").symlink_to(outside)
        clear_run(begun)
        assert begun.is_symlink()
        assert (begun / "checkpoints").is_symlink()
        assert not list((begun / "checkpoints").iterdir())
        assert outside.read_text() == "x"
        assert not (begun / "record.json").is_symlink()

    def test_cleared_again_after_a_kill(self, begun, monkeypatch):
        """Wherever it comes between, the folder remains a run's and nothing of it is left in the end."""
        run_folder.mark(begun, run_folder.RUN)
        number = len(files_in(begun))
        for _ in range(number):
            done = []

            def unlink(path, missing_ok=False, done=done, original=Path.unlink):
                if done:
                    raise KeyboardInterrupt
                done += [path] if path.exists() else []
                original(path, missing_ok=missing_ok)

            with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                patch.setattr(Path, "unlink", unlink)
                clear_run(begun)
            assert is_ours(begun)
        assert files_in(begun) == {".seqloom.json"}


class TestWhoseItIs:
    def test_somebody_elses_settings(self, tmp_path):
        (tmp_path / "settings.yaml").write_text("theme: dark")
        assert not is_ours(tmp_path)

    def test_of_an_earlier_version(self, begun):
        assert is_ours(begun)
        (begun / "thesis.tex").write_text("the only copy")
        assert not is_ours(begun)
        run_folder.mark(begun, run_folder.RUN)
        assert is_ours(begun)

    def test_marks(self, tmp_path):
        run_folder.mark(tmp_path, run_folder.RUN)
        run_folder.mark(tmp_path, run_folder.SCORED)
        run_folder.mark(tmp_path, run_folder.RUN)
        assert run_folder.marked(tmp_path) == [run_folder.RUN, run_folder.SCORED]
        (tmp_path / ".seqloom.json").write_text("mine")
        with pytest.raises(ValueError, match="is no marker of seqloom's"):
            run_folder.mark(tmp_path, run_folder.RUN)

    def test_a_start_that_was_killed(self, tmp_path, data):
        settings = load_settings(configure(tmp_path, data, "rnn"))
        folder = tmp_path / "run"
        folder.mkdir()
        run_folder.mark(folder, run_folder.RUN)
        (folder / ".seqloom.lock").touch()
        (folder / "saving-settings.yaml").touch()
        check_output_folder(folder, settings, resume=False, overwrite=False)
        (folder / "thesis.tex").touch()
        with pytest.raises(ValueError, match="is not empty"):
            check_output_folder(folder, settings, resume=False, overwrite=False)

    def test_inputs(self, begun, tmp_path, data):
        """Training files, a tokenizer, another run's weights: refused before anything is deleted."""
        before = files_in(begun)
        pairs = write_pairs(begun, "x", 5)
        run_folder.mark(begun, run_folder.RUN)
        for changes in (
            {"data": {"train_files": pairs}},
            {"tokenizer": {"path": str(begun)}},
            {"training": {"init_from": str(begun / "checkpoints" / "best")}},
            {"data": {"mix": [{"weight": 1.0, "train_files": pairs}]}},
        ):
            settings = load_settings(configure(tmp_path, data, "rnn", **changes))
            with pytest.raises(ValueError, match=r"is read, and it lies in .*--overwrite would delete"):
                check_output_folder(begun, settings, resume=False, overwrite=True)
        assert before < files_in(begun)
        assert inputs_of(settings)


class TestOverwrite:
    @pytest.mark.slow
    def test_through_a_link(self, tmp_path, data, capsys):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
        run(tmp_path, data, "rnn", training={"max_steps": 2})
        (tmp_path / "run" / "thesis.tex").write_text("the only copy")
        AcceleratorState._reset_state(reset_partial_state=True)
        assert main([configure(tmp_path, data, "rnn", training={"max_steps": 3}), "--overwrite"]) == 0
        assert "left in" in capsys.readouterr().out
        assert (tmp_path / "run").is_symlink()
        assert (tmp_path / "elsewhere" / "thesis.tex").read_text() == "the only copy"
        assert [path.name for path in checkpoints.step_folders(tmp_path / "run")] == ["step-00000003"]
        assert not (tmp_path / "run" / ".seqloom.lock").exists()

    @pytest.mark.slow
    def test_of_a_run_that_goes_on(self, tmp_path, data):
        run(tmp_path, data, "rnn", training={"max_steps": 2})
        before = files_in(tmp_path / "run")
        AcceleratorState._reset_state(reset_partial_state=True)
        settings = configure(tmp_path, data, "rnn", training={"max_steps": 2})
        with Lock(tmp_path / "run" / ".seqloom.lock") as lock:
            lock.acquire()
            for words in (["--overwrite"], ["--resume"], ["--resume", "auto"]):
                assert main([settings, *words]) == 1
        assert files_in(tmp_path / "run") == before


@pytest.mark.slow
def test_two_processes_in_one_folder(tmp_path, data):
    """A scheduler's command, started twice at once: one trains, for longer than the other needs to be told of it."""
    options = {"max_steps": 1_000_000, "eval_steps": 5, "save_steps": 1}
    config = configure(tmp_path, data, "rnn", training=options)
    command = [sys.executable, "train.py", config, "--resume", "auto"]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})
        for _ in range(2)
    ]  # fmt: skip
    with ThreadPoolExecutor() as pool:
        outputs = {pool.submit(process.communicate, timeout=HANGS): process for process in both}
        ended, (going,) = wait(outputs, return_when=FIRST_COMPLETED)
        (told,) = ended
        wait_for_lines(tmp_path, outputs[going], 1)  # it reacts to signals by then
        outputs[going].terminate()
        output = going.result()[0]
    assert outputs[told].returncode == 1, told.result()
    assert f"is in use: process {outputs[going].pid} on" in told.result()[0]
    assert outputs[going].returncode == 143, output
    log = [json.loads(line) for line in (tmp_path / "run" / "training_log.jsonl").read_text().splitlines()]
    validations = [line["step"] for line in log if "eval_loss" in line]
    assert validations == sorted(set(validations))
