"""What a teacher says as a data set: as `translate` gives it, whatever ends the command in between and however many
processes there are; and a student that learns from it.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu
import yaml
from accelerate.state import AcceleratorState
from helpers.others import save_other
from helpers.patience import HANGS
from helpers.runs import MODELS, configure, contents, run
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from seqloom import translate
from seqloom.__main__ import main
from seqloom.commands.following import program
from seqloom.distillation import folder as set_folder
from seqloom.support.disk import sha256

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data):
    """A model that has learnt a little: its outputs are words, not always the right ones."""
    folder = tmp_path_factory.mktemp("teacher")
    options = {"batch_tokens": 500, "max_steps": 50, "eval_steps": 50, "learning_rate": 0.01}
    files = {"train_files": data["train"]}
    hub = {"license": "cc-by-4.0", "language": ["en", "de"]}
    beams = {"num_beams": 3, "max_new_tokens": 8}
    run(folder, data, "rnn", model=MODELS["rnn"], training=options, data=files, generation=beams, hub=hub)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "run"


@pytest.fixture
def config(tmp_path, data):
    """A student of four updates, with 1,500 training pairs."""
    changes = {"data": {"train_files": data["train"]}, "training": {"max_steps": 4, "eval_steps": 2}}
    return configure(tmp_path, data, **changes)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def said(folder: Path) -> dict:
    return json.loads((folder / "distillation.json").read_text(encoding="utf-8"))


def sources_of(data) -> list[str]:
    return Path(data["train"][0]).read_text().splitlines()


def made(teacher: Path, config: str, folder: Path, *words: str) -> Path:
    """Only the data."""
    assert main(["distill", str(teacher), config, "--only_data", "--data_dir", str(folder), *words]) == 0
    return folder


def refused(capsys, *words) -> str:
    capsys.readouterr()
    assert main(["distill", *map(str, words)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


class TestTheSet:
    def test_is_what_translate_gives(self, teacher, config, data, tmp_path):
        """By the teacher's own three beams; and what is known of it stands beside it."""
        folder = made(teacher, config, tmp_path / "set")
        model, tokenizer = (auto.from_pretrained(teacher) for auto in (AutoModelForSeq2SeqLM, AutoTokenizer))
        sources = sources_of(data)
        outputs = translate(model, tokenizer, sources)
        expected = [{"source": source, "target": output} for source, output in zip(sources, outputs, strict=True)]
        assert len({line["target"] for line in expected}) > 100
        assert lines(folder) == [line for line in expected if line["target"].strip()]
        about = said(folder)
        assert about["decoding"]["num_beams"] == 3
        assert about["teacher"]["files"]["model.safetensors"] == sha256(teacher / "model.safetensors")
        assert about["teacher"]["license"] == "cc-by-4.0"
        assert about["file"]["sha256"] == sha256(folder / "train.jsonl")
        assert about["pairs"]["sources"] == 1500
        assert about["pairs"]["kept"] == len(lines(folder))
        assert about["data"]["splits"]["train"][0]["sha256"] == sha256(Path(data["train"][0]))
        assert about["seconds"] > 0
        assert {path.name for path in folder.iterdir()} == {
            "train.jsonl", "distillation.json", "student.yaml", ".seqloom.json",
        }  # fmt: skip

    def test_two_processes_make_the_same(self, teacher, config, tmp_path):
        """Though it is drawn: every chunk has its own seed."""
        drawn = ("--teacher.num_beams", "1", "--teacher.generate_kwargs", "{do_sample: true, temperature: 2.0}")
        one, two = (made(teacher, config, tmp_path / jobs, "--num_jobs", jobs, *drawn) for jobs in ("1", "2"))
        assert (one / "train.jsonl").read_bytes() == (two / "train.jsonl").read_bytes()
        assert [line["source"] for line in lines(one)] != sorted(line["source"] for line in lines(one))

    def test_killed_and_resumed_as_unbroken(self, teacher, config, tmp_path, capsys):
        """In the middle of writing the second part, of which half a line is left."""
        whole = made(teacher, config, tmp_path / "whole")
        words = ["distill", str(teacher), config, "--only_data", "--data_dir", str(tmp_path / "killed")]
        done = subprocess.run(
            [sys.executable, "-c", DYING, *words], capture_output=True, text=True, check=False, timeout=HANGS,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        work = tmp_path / "killed" / "outputs.jsonl"
        assert len(work.read_bytes().splitlines()) == 2 * set_folder.CHUNK
        work.write_bytes(work.read_bytes()[:-10])
        capsys.readouterr()
        assert main(words) == 0
        assert f"going on after {set_folder.CHUNK} sources" in capsys.readouterr().out
        assert (whole / "train.jsonl").read_bytes() == (tmp_path / "killed" / "train.jsonl").read_bytes()
        one, other = said(whole), said(tmp_path / "killed")
        assert {name: one[name] for name in one if name != "seconds"} == {
            name: other[name] for name in other if name != "seconds"
        }

    def test_what_is_there_is_not_made_again(self, teacher, config, tmp_path, capsys):
        folder = made(teacher, config, tmp_path / "set")
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "student.yaml"}
        capsys.readouterr()
        made(teacher, config, folder)
        assert "train.jsonl is made already: " in capsys.readouterr().out
        assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "student.yaml"}

    def test_the_best_of_some_by_a_metric(self, teacher, config, data, tmp_path):
        folder = made(teacher, config, tmp_path / "set", "--best_of", "4", "--metric", "chrf")
        model, tokenizer = (auto.from_pretrained(teacher) for auto in (AutoModelForSeq2SeqLM, AutoTokenizer))
        sources, references = (Path(path).read_text().splitlines()[:200] for path in data["train"])
        found = translate(model, tokenizer, sources, num_beams=4, num_return_sequences=4)
        better = 0
        targets = {line["source"]: [] for line in lines(folder)}
        for line in lines(folder):
            targets[line["source"]].append(line["target"])
        for source, reference, candidates in zip(sources, references, found, strict=True):
            scores = [sacrebleu.sentence_chrf(text, [reference]).score for text in candidates if text.strip()]
            texts = [text for text in candidates if text.strip()]
            if scores:
                best = texts[scores.index(max(scores))]
                assert best in targets[source]
                better += best != texts[0]
        assert better > 5
        assert said(folder)["decoding"] | {"chunk": 0} == {
            "longest_source": 256,
            "num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.0, "early_stopping": False,
            "max_new_tokens": 8, "best_of": 4, "metric": "chrf", "metric_kwargs": {}, "chunk": 0,
        }  # fmt: skip

    def test_cut_and_empty_outputs(self, teacher, config, tmp_path, capsys):
        """An output that was cut has no end: it is dropped, or kept if told to, and counted."""
        two = ("--teacher.max_new_tokens", "2")
        dropped, kept = (
            made(teacher, config, tmp_path / name, *two, *words) for name, words in (("a", ()), ("b", ("--keep_cut",)))
        )
        counts, all_counts = said(dropped)["pairs"], said(kept)["pairs"]
        assert 100 < counts["cut"] < 1400
        assert counts["kept"] == 1500 - counts["empty"] - counts["cut"] == len(lines(dropped))
        assert all_counts == counts | {"kept": 1500 - counts["empty"]}
        assert {len(line["target"]) for line in lines(dropped)} == {1}
        assert {len(line["target"]) for line in lines(kept)} == {1, 2}
        assert f"{counts['cut']:,} that were cut at the limit of length" in capsys.readouterr().out
        words = ("--teacher.max_new_tokens", "1", "--only_data", "--data_dir", tmp_path / "c")
        assert "nothing is left of what the teacher said: 0 of 1,500" in refused(capsys, teacher, config, *words)

    def test_pairs_that_are_left_out(self, teacher, data, tmp_path):
        """Without a source, or longer than the student may read; without a target they are good enough."""
        pairs = (("abc", "cba"), (" ", "a"), ("abcdefgh", "a"), ("ab", None))
        rows = [{"source": source, "target": target} for source, target in pairs]
        (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = configure(tmp_path, data, data={"train_files": [str(tmp_path / "few.jsonl")], "max_source_length": 5})
        about = said(made(teacher, config, tmp_path / "set", "--keep_cut"))["pairs"]
        assert (about["sources"], about["too_long"], about["incomplete"]) == (2, 1, 1)
        about = said(made(teacher, config, tmp_path / "best", "--keep_cut", "--best_of", "2"))["pairs"]
        assert (about["sources"], about["too_long"], about["incomplete"]) == (1, 1, 2)

    def test_a_stream(self, teacher, config, tmp_path):
        """As what is held on disk."""
        one, two = (
            made(teacher, config, tmp_path / name, "--streaming", name, "--shuffle_buffer", "10000")
            for name in ("true", "false")
        )
        assert (one / "train.jsonl").read_bytes() == (two / "train.jsonl").read_bytes()

    def test_any_teacher(self, data, tmp_path):
        """Marian, of another vocabulary than the student's."""
        other = save_other("marian", tmp_path / "marian")
        words = [" ".join(text) for text in sources_of(data)[:50]]
        for side in ("source", "target"):
            (tmp_path / f"spaced.{side}").write_text("".join(f"{text}\n" for text in words))
        files = [str(tmp_path / f"spaced.{side}") for side in ("source", "target")]
        folder = made(other, configure(tmp_path, data, data={"train_files": files}), tmp_path / "set", "--keep_cut",
                      "--teacher.max_new_tokens", "6")  # fmt: skip
        model, tokenizer = (auto.from_pretrained(other) for auto in (AutoModelForSeq2SeqLM, AutoTokenizer))
        outputs = translate(model, tokenizer, words, max_new_tokens=6)
        assert [line["target"] for line in lines(folder)] == [text for text in outputs if text.strip()]
        assert said(folder)["teacher"]["model_type"] == "marian"


# Dies when the second part of the outputs is on the disk.
DYING = """
import os, signal, sys
from seqloom.__main__ import main
from seqloom.support import disk

sync, calls = disk.sync, []

def dying(path):
    sync(path)
    calls.append(path.name)
    if calls.count("outputs.jsonl") == 2:
        os.kill(os.getpid(), signal.SIGKILL)

disk.sync = dying
sys.exit(main(sys.argv[1:]))
"""


class TestRefused:
    @pytest.fixture
    def half(self, teacher, config, tmp_path):
        """A set that was begun, and its teacher and sources, to be changed."""
        mine = Path(shutil.copytree(teacher, tmp_path / "mine", ignore=shutil.ignore_patterns("checkpoints")))
        folder = made(mine, config, tmp_path / "set")
        about = said(folder)
        del about["file"]
        (folder / "distillation.json").write_text(json.dumps(about))
        (folder / "train.jsonl").unlink()
        return mine, folder

    def test_another_teacher(self, half, config, capsys):
        mine, folder = half
        words = (mine, config, "--only_data", "--data_dir", folder)
        path = mine / "generation_config.json"
        path.write_text(path.read_text() + "\n")
        error = refused(capsys, *words)
        assert "was begun with another teacher (generation_config.json): going on would mix two sets" in error

    def test_another_decoding(self, half, config, capsys):
        mine, folder = half
        words = (mine, config, "--only_data", "--data_dir", folder)
        error = refused(capsys, *words, "--teacher.num_beams", "2")
        assert "was begun with another decoding (num_beams 3, now 2)" in error
        error = refused(capsys, *words, "--max_source_length", "2")
        assert "was begun with another decoding (longest_source 256, now 2)" in error
        error = refused(capsys, *words, "--best_of", "2")
        assert "another decoding (best_of null, now 2; metric null, now chrf" in error

    def test_other_pairs(self, half, data, tmp_path, capsys):
        mine, folder = half
        config = configure(tmp_path / "other", data, data={"train_files": data["validation"]})
        error = refused(capsys, mine, config, "--only_data", "--data_dir", folder)
        assert "was begun with other training pairs" in error

    def test_somebody_elses_folder(self, teacher, config, tmp_path, capsys):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "train.jsonl").write_text("{}\n")
        before = contents(tmp_path / "mine")
        words = (teacher, config, "--data_dir", tmp_path / "mine")
        assert "mine holds something else than a distilled set: choose another" in refused(capsys, *words)
        assert "so --overwrite will not touch it" in refused(capsys, *words, "--overwrite")
        assert contents(tmp_path / "mine") == before

    def test_overwrite(self, teacher, config, tmp_path):
        folder = made(teacher, config, tmp_path / "set")
        (folder / "notes.txt").write_text("mine")
        made(teacher, config, folder, "--overwrite", "--teacher.num_beams", "1")
        assert said(folder)["decoding"]["num_beams"] == 1
        assert (folder / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--metric", "bleurt", "--best_of", "2"], "--metric is 'bleurt'; of seqloom's own, which tell of one"),
            (["--metric", "ter"], "--metric chooses among candidates, but --best_of is 1"),
            (["--best_of", "4", "--teacher.num_beams", "2"], "--best_of is 4, but --teacher.num_beams 2"),
            (["--teacher.beams", "2"], "generation.beams is unknown; did you mean generation.num_beams?"),
            (["--teacher.num_beams", "0"], "generation.num_beams is 0; it must be 1 or more"),
            (["--teacher.generate_kwargs", "{num_return_sequences: 2}"], "num_return_sequences is what --best_of says"),
            (["--best_off", "2"], "--best_off is unknown; did you mean --best_of?"),
            (["--level", "word", "--best_of", "2"], "--best_of is about the teacher's outputs, but --level is word"),
            (["--mix", "{train_files: [a, b], weight: 1}"], "data.mix has sets, and a teacher is asked for one at a"),
            (["--weight", "-1"], "data.weight is -1.0; it must be more than 0"),
            (["--split_stream", "true", "--streaming", "true"], "but data.mix or a slice"),
            (["--d_modell", "8"], "--d_modell is unknown"),
        ],
        ids=" ".join,
    )
    def test_words(self, teacher, config, tmp_path, capsys, words, message):
        assert message in refused(capsys, teacher, config, *words)
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "run-distilled").exists()

    def test_no_teacher(self, config, tmp_path, capsys):
        assert "there is no folder" in refused(capsys, tmp_path / "nowhere", config)
        assert not (tmp_path / "run-distilled").exists()

    def test_several_processes_of_a_launcher(self, teacher, config, capsys, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert "seqloom distill is one process" in refused(capsys, teacher, config)

    def test_foreign_code(self, teacher, config, tmp_path, capsys):
        """A teacher's folder runs nothing unless it is trusted."""
        mine = Path(shutil.copytree(teacher, tmp_path / "mine", ignore=shutil.ignore_patterns("checkpoints")))
        (mine / "evil.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w').close()\nclass Evil: pass\n")
        values = json.loads((mine / "config.json").read_text())
        values["model_type"], values["auto_map"] = "evil", dict.fromkeys(values["auto_map"], "evil.Evil")
        (mine / "config.json").write_text(json.dumps(values))
        refused(capsys, mine, config)
        refused(capsys, mine, config, "--level", "word")
        assert not (tmp_path / "it-ran").exists()


class TestStudent:
    def test_trains_and_names_its_teacher(self, teacher, config, tmp_path, capsys):
        assert main(["distill", str(teacher), config]) == 0
        record = json.loads((tmp_path / "run" / "record.json").read_text())
        (entry,) = record["data"]["mix"]
        (file,) = entry["train"]
        assert file["distilled"]["teacher"] == said(tmp_path / "run-distilled")["teacher"]
        assert (
            entry["drawn"]
            == entry["pairs"]
            == len(lines(tmp_path / "run-distilled"))
            == record["data"]["pairs"]["train"]
        )
        card = (tmp_path / "run" / "README.md").read_text()
        assert "distilled from run (sequence-level, beam 3)" in card
        assert "The licence of its teacher run is cc-by-4.0 by its own card" in card
        assert f"`{file['sha256']}`" in card
        assert "; languages en, de;" in card
        assert str(tmp_path) not in card
        settings = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())
        assert settings["data"]["mix"] == [
            {"weight": 1.0, "train_files": [str(tmp_path / "run-distilled/train.jsonl")]}
        ]
        assert settings["data"]["weight"] == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        capsys.readouterr()
        assert main(["distill", str(teacher), config, "--max_steps", "6"]) == 0  # the same, and the run goes on
        assert "after 4 updates" in capsys.readouterr().out

    def test_by_the_command_that_is_told(self, teacher, config, tmp_path, capsys):
        """Beside the pairs themselves, and best of two."""
        capsys.readouterr()
        words = ("--weight", "1", "--best_of", "2", "--metric", "sacrebleu", "--max_steps", "2")
        assert main(["distill", str(teacher), config, "--only_data", *words]) == 0
        told = capsys.readouterr().err.rpartition("next: ")[2]
        assert main(shlex.split(told.removeprefix(program()))) == 0
        data = json.loads((tmp_path / "run" / "record.json").read_text())["data"]
        assert [entry["weight"] for entry in data["mix"]] == [1.0, 1.0]
        card = (tmp_path / "run" / "README.md").read_text()
        assert "distilled from run (sequence-level, beam 3, best of 2 by BLEU)" in card

    def test_a_set_that_was_changed(self, teacher, config, tmp_path, capsys):
        """Still a teacher's, but the card says so."""
        folder = made(teacher, config, tmp_path / "run-distilled")
        text = (folder / "train.jsonl").read_text().splitlines(keepends=True)
        (folder / "train.jsonl").write_text("".join(text[:500]))
        assert main(["train", str(folder / "student.yaml")]) == 0
        card = (tmp_path / "run" / "README.md").read_text()
        assert "distilled from run (sequence-level, beam 3)" in card
        assert "The file was changed since." in card

    def test_word_level(self, teacher, config, tmp_path):
        """With the teacher's tokenizer, though the recipe has one of its own."""
        assert main(["distill", str(teacher), config, "--level", "word", "--alpha", "0.9", "--lowercase", "true"]) == 0
        record = json.loads((tmp_path / "run" / "record.json").read_text())
        assert (record["teacher"]["kind"], record["teacher"]["alpha"]) == ("word", 0.9)
        assert not (tmp_path / "run-distilled").exists()
        assert yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())["tokenizer"]["path"] == str(teacher)
