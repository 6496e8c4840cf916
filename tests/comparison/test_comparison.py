"""The comparison as a whole: its command, its report, and the sections on attention and generalisation."""

import html.parser
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import comparison_chapter
import pytest
from helpers.patience import HANGS
from helpers.reports import attention_result
from helpers.runs import configure, run, write_pairs

from seqloom.commands.command import parse
from seqloom.commands.compare import Compare, main
from seqloom.comparison import report
from seqloom.comparison.compare import Request, commit, compare, overrides_for, recipes, scoring_overrides
from seqloom.comparison.measures import generalisation
from seqloom.comparison.sections import MEASURES, Passage, Section, Table
from seqloom.comparison.trainings import disturbed, train_all, watched_share
from seqloom.settings.reading import load_scoring_settings, load_settings

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {name: write_pairs(folder, name, size) for name, size in {"few": 60, "validation": 51, "test": 31}.items()}


def wait_for(condition, seconds: float = HANGS) -> None:
    """Until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def status_of(pid: int) -> list[str]:
    """State, parent's number, … of a process; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def children_of(pid: int) -> list[int]:
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [number for number in numbers if status_of(number)[1:2] == [str(pid)]]


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    return status_of(pid)[:1] not in ([], ["Z"])


class TestWords:
    def test_everything(self):
        words = [
            "a.yaml", "runs/b", "c.yml", "--output", "out", "--seeds", "1", "2", "--max_steps", "5", "--measures",
            "weight", "quality", "--split", "validation", "--num_threads", "2", "--num_jobs=3", "--test_files",
            "x", "y",
        ]  # fmt: skip
        assert parse(Compare, words).request() == Request(
            configs=("a.yaml", "c.yml"),
            models=("runs/b",),
            output=Path("out"),
            overrides=("--max_steps", "5", "--test_files", "x", "y"),
            seeds=(1, 2),
            measures=("quality", "weight"),  # in the report's order
            split="validation",
            num_threads=2,
            num_jobs=3,
        )

    def test_defaults(self):
        request = parse(Compare, ["a.yaml"]).request()
        assert request.measures == tuple(report.MEASURES)
        assert (request.output, request.seeds, request.split, request.num_threads) == (Path("report"), (), "test", 1)
        assert request.num_jobs >= 1

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ("--seeds 1", "nothing to compare"),
            ("a.yaml --measures speed", "'speed'; it can be quality"),
            ("a.yaml --seeds one", "'one'; it must be a whole number"),
            ("a.yaml --seeds 1 1", "twice"),
            ("a.yaml --output", "--output needs a value"),
            ("a.yaml --output a b", "--output has 2 values"),
            ("a.yaml --output a --output b", "given twice"),
            ("a.yaml --num_jobs 0", "1 or more"),
            ("missing.yaml", "no configuration file missing.yaml"),
            ("./missing --output {folder}", "no folder ./missing"),
            ("a/same.yaml b/same.yaml", "called same"),
            ("a.yaml --resume --overwrite", "give one of them"),
        ],
    )
    def test_refused(self, words, told, capsys, tmp_path):
        assert main(words.format(folder=tmp_path / "out").split()) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert told in error
        assert error.count("\n") == 1

    def test_what_says_nothing_of_a_finished_model(self, tmp_path, capsys):
        """Where no configuration is there to refuse it, a misspelt word is not passed over."""
        for word in ("--zzz", "--max_steps", "--training.seed=3"):
            assert main([str(tmp_path), "--num_beams", "2", word, "5", "--output", str(tmp_path / "out")]) == 1
            assert f"error: {word} says nothing about models" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_several_processes(self, monkeypatch, capsys):
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(["a.yaml"]) == 1
        assert "one process" in capsys.readouterr().err

    def test_help(self, capsys):
        assert main(["--help"]) == 0
        told = capsys.readouterr().out
        assert all(name in told for name in report.MEASURES)
        assert main([]) == 2

    def test_what_a_trained_model_is_told(self):
        words = (
            "--max_steps 5 --dataset null --test_files x y --evaluation.metrics chrf --training.seed 3 --num_beams 2"
        )
        assert scoring_overrides(words.split()) == (
            ["--dataset", "null", "--test_files", "x", "y", "--evaluation.metrics", "chrf", "--num_beams", "2"]
        )

    def test_commit(self):
        root = Path(__file__).parents[2]
        if (root / ".git").exists():
            head = subprocess.run(
                ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
            )
            assert head.stdout.startswith(commit().removesuffix("-dirty"))
        else:
            assert commit() is None


class Page(html.parser.HTMLParser):
    """Collects what a page refers to and checks that what is opened is closed."""

    VOID = {"meta", "img", "br", "link", "source", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.addresses, self.texts, self.tags = [], [], [], set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


class TestComparison:
    """Two recipes, two seeds each, and a model that was trained before."""

    @pytest.fixture(scope="class")
    def compared(self, data, tmp_path_factory):
        folder = tmp_path_factory.mktemp("comparison")
        run(folder / "earlier", data, "rnn", training={"eval_metric": "exact_match"})
        for name, attention in (("without", "none"), ("with", "luong")):
            path = configure(
                folder, data, "rnn", model={"attention": attention}, training={"eval_metric": "exact_match"}
            )
            Path(path).rename(folder / f"{name}.yaml")
        words = [
            *(str(folder / name) for name in ("without.yaml", "with.yaml", "earlier/run")), "--seeds", "1", "2",
            "--measures", "quality", "learning_curves", "--max_steps", "4", "--eval_steps", "2", "--output",
            str(folder / "report"), "--num_jobs", "1",
        ]  # fmt: skip
        assert main(words) == 0
        return folder / "report", words

    def test_record(self, compared):
        folder, words = compared
        record = json.loads((folder / "report.json").read_text())
        assert [(one["name"], one["seeds"]) for one in record["candidates"]] == [
            ("without", [1, 2]),
            ("with", [1, 2]),
            ("run", [42]),
        ]
        assert list(record["measures"]) == ["quality", "learning_curves"]
        assert record["command"].startswith("seqloom compare ")
        assert all(word in record["command"] for word in words)
        for name, attention in (("without", "none"), ("with", "luong")):
            for seed in (1, 2):
                if hasattr(os, "wait4"):
                    assert 0 < watched_share(folder / "models" / f"{name}-seed-{seed}") <= 1.5
                settings = load_settings(folder / "models" / f"{name}-seed-{seed}" / "settings.yaml")
                assert (settings.training.seed, settings.training.max_steps) == (seed, 4)
                assert settings.model["attention"] == attention

    def test_page_needs_no_other_file(self, compared):
        folder, _ = compared
        text = (folder / "report.html").read_text(encoding="utf-8")
        page = Page(text)
        assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page.addresses)
        assert any(address.startswith("data:") for address in page.addresses)
        assert "script" not in page.tags
        ids = set(re.findall(r'id="([^"]+)"', text))
        assert {address[1:] for address in page.addresses if address.startswith("#")} <= ids
        assert "Quality" in page.texts

    def test_markdown_shows_its_pictures(self, compared):
        folder, _ = compared
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (folder / "report.md").read_text(encoding="utf-8"))
        assert pictures
        assert {folder / picture for picture in pictures} == set((folder / "figures").iterdir())

    def test_made_again_from_the_record(self, compared, tmp_path):
        folder, _ = compared
        report.write(tmp_path, json.loads((folder / "report.json").read_text()))
        for name in ("report.md", "report.json"):
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()

    def test_resumed(self, compared):
        folder, words = compared
        models = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
        kept = (folder / "measures" / "quality.json").read_bytes()
        words = ["attention" if word == "learning_curves" else word for word in words]
        (folder / "measures" / "attention.json").write_text(
            json.dumps({"seconds": 1.0, "result": attention_result()}), encoding="utf-8"
        )
        assert main([*words, "--resume"]) == 0
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")} == models
        assert (folder / "measures" / "quality.json").read_bytes() == kept
        assert list(json.loads((folder / "report.json").read_text())["measures"]) == [
            "quality",
            "learning_curves",
            "attention",
        ]

    def test_nothing_is_overwritten(self, compared, capsys):
        folder, words = compared
        before = (folder / "report.html").read_bytes()
        assert main(words) == 1
        assert "not empty; give --resume" in capsys.readouterr().err
        assert main([*words[:-1], "2", "--split", "validation", "--resume"]) == 1
        assert "begun with another split" in capsys.readouterr().err
        assert (folder / "report.html").read_bytes() == before

    def test_not_ours(self, compared, tmp_path, capsys):
        _, words = compared
        (tmp_path / "precious.txt").write_text("mine")
        words = [*words, "--overwrite"]
        words[words.index("--output") + 1] = str(tmp_path)
        assert main(words) == 1
        assert "holds no comparison" in capsys.readouterr().err
        words[-1] = "--resume"
        assert main(words) == 1
        assert "no comparison to resume" in capsys.readouterr().err
        assert (tmp_path / "precious.txt").read_text() == "mine"


class TestScoring:
    """What models are scored on, and with which words."""

    def test_models_of_other_data(self, data, tmp_path):
        for name, pairs in (("one", data), ("two", {**data, "test": write_pairs(tmp_path, "more", 31)})):
            run(tmp_path / name, pairs, "rnn")
        models = tuple(str(tmp_path / name / "run") for name in ("one", "two"))
        with pytest.raises(ValueError, match=r"one/run and two/run would be scored on different sentences"):
            compare(Request((), models, tmp_path / "out"), command="")
        assert not (tmp_path / "out").exists()

    def test_a_model_without_settings_gets_the_recipes(self, data, tmp_path):
        config = configure(tmp_path, data, "rnn", evaluation={"metrics": ["cer"]}, data={"validation_size": 7})
        settings = load_settings(config)
        request = Request((config,), (str(tmp_path),), tmp_path / "out", overrides=("--num_beams", "2"))
        words = overrides_for(str(tmp_path), request, {"config": [settings]})
        scoring, generation = load_scoring_settings(tmp_path, words)
        assert scoring.data.test_files == settings.data.test_files
        assert scoring.data.train_files is None  # for training alone
        assert scoring.evaluation.metrics == ["cer"]
        assert scoring.seed == settings.training.seed
        assert generation == {"num_beams": 2}

    def test_a_model_with_settings_or_told_data_keeps_its_own(self, data, tmp_path):
        settings = load_settings(configure(tmp_path, data, "rnn"))
        told = Request((), ("elsewhere",), tmp_path / "out", overrides=("--dataset", "scan"))
        assert overrides_for("elsewhere", told, {"config": [settings]}) == ["--dataset", "scan", "--split", "test"]
        settings.save(tmp_path / "settings.yaml")
        recipe = {"config": [settings]}
        assert overrides_for(str(tmp_path), Request((), (), tmp_path / "out"), recipe) == ["--split", "test"]


class TestTrainings:
    def test_nothing_is_pushed(self, tmp_path):
        """Whatever a recipe says: what is trained for a comparison stays here."""
        config = str(Path(__file__).parents[2] / "configs" / "scan-rnn.yaml")
        words = ("--push_to_hub", "me/mine", "--hub_private_repo", "true", "--hub_revision", "main")
        request = Request((config,), (), tmp_path / "out", overrides=words, seeds=(5, 6), split="validation")
        runs = recipes(request, ["one"])["one"]
        assert [one.training.seed for one in runs] == [5, 6]
        assert {one.evaluation.split for one in runs} == {"validation"}
        of_split = generalisation._on_split(load_settings(config, words), "length", 7, tmp_path / "other")
        assert (of_split.data.split, of_split.training.seed) == ("length", 7)
        for one in (*runs, of_split):
            assert (one.hub.push_to_hub, one.hub.hub_private_repo, one.hub.hub_revision) == (None, None, None)

    def test_other_test_data(self, data, tmp_path):
        """Found before anything is trained."""
        other = {**data, "test": write_pairs(tmp_path, "another", 31)}
        paths = []
        for name, pairs in (("one", data), ("two", other)):
            path = configure(tmp_path, pairs, "rnn")
            paths.append(str(Path(path).rename(tmp_path / f"{name}.yaml")))
        with pytest.raises(ValueError, match=r"one and two would be scored on different sentences"):
            compare(Request(tuple(paths), (), tmp_path / "out"), command="")
        source, target = map(Path, data["test"])
        same_sources = tmp_path / f"other-{target.name}"
        same_sources.write_text(target.read_text().replace("a", "b"))
        path = configure(tmp_path, {**data, "test": (str(source), str(same_sources))}, "rnn")
        Path(path).rename(paths[1])
        with pytest.raises(ValueError, match=r"one and two would be scored on different sentences"):
            compare(Request(tuple(paths), (), tmp_path / "out"), command="")
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="the parent's end is told by Linux alone")
    def test_killed_with_its_comparison(self, data, tmp_path):
        """Or two trainings would write into one folder once the comparison is resumed."""
        changes = {"training": {"max_steps": 10**6, "eval_steps": 10**6, "save_steps": 20}}
        path = configure(tmp_path, data, "rnn", **changes)
        code = f"import sys; from seqloom.commands.compare import main; sys.exit(main([{path!r}, '--output', 'out']))"
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.DEVNULL)
        folder = tmp_path / "out" / "models" / "config-seed-42" / "checkpoints"
        try:
            wait_for(lambda: any(folder.glob("step-*")))
            (child,) = children_of(parent.pid)
        finally:
            parent.kill()
            parent.wait()
        wait_for(lambda: not is_running(child))
        assert any(folder.glob("step-*"))

    def test_the_threads_that_the_report_states(self, tmp_path):
        config = str(Path(__file__).parents[2] / "configs" / "scan-rnn.yaml")
        request = Request((config,), (), tmp_path / "out", num_threads=2)
        assert [one.training.num_threads for one in recipes(request, ["one"])["one"]] == [2]
        told = Request((config,), (), tmp_path / "out", overrides=("--training.num_threads", "4"))
        with pytest.raises(ValueError, match=r"training.num_threads is not for a comparison.* give --num_threads"):
            recipes(told, ["one"])

    def test_the_processor_is_watched(self, tmp_path):
        folder = tmp_path / "one"
        assert watched_share(folder) is None
        watch = tmp_path / "one.watched.json"
        watch.write_text('{"cpu_seconds": 30.0, "seconds": 50.0, "threads": 1}')
        assert watched_share(folder) == 0.6
        watch.write_text('{"cpu_seconds": 30.0, "seconds": 50.0, "threads": 2}')
        assert watched_share(folder) is None
        assert disturbed({"a": [0.95, 0.97], "b": []}) == []
        (said,) = disturbed({"a": [0.95, 0.6], "b": [0.99]})
        assert "a 60% had only that share" in said

    def test_failure_is_told(self, data, tmp_path):
        path = configure(tmp_path, data, "rnn", data={"train_files": ["nowhere.a", "nowhere.b"]})
        with pytest.raises(ValueError, match=r"the training of .*run ended with status 1: error: .*nowhere.a"):
            train_all([load_settings(path)], num_jobs=2)


class TestReport:
    """What stands in a test set is shown, and never run."""

    NASTY = "<script>alert('x')</script> | *bold* `code`"

    @pytest.fixture
    def record(self, monkeypatch):
        nasty = self.NASTY
        section = Section(
            title="Quality", question="Which?", findings=[nasty], how="So.", limits="All.",
            headline={"BLEU": {nasty: "3 %"}},
            parts=[Table(["model", "score"], [[nasty, "1.5"], ["b", "–"]], "Scores."), Passage(nasty, [nasty])],
        )  # fmt: skip
        monkeypatch.setattr(report, "sections_of", lambda measures: {"quality": section})
        candidate = {"name": nasty, "kind": "GRU", "description": "GRU", "folders": [], "seeds": []}
        return {
            "command": f"seqloom compare '{nasty}'", "commit": None, "date": "2026-01-01", "candidates": [candidate],
            "environment": {"hardware": "1 thread", "python": "3"}, "seconds": {"quality": 3.0}, "measures": {},
        }  # fmt: skip

    def test_escaped(self, record, tmp_path):
        report.write(tmp_path, record)
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert "script" not in page.tags
        assert page.texts.count(self.NASTY) == 5
        rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        lines = (tmp_path / "report.md").read_text().splitlines()
        assert not any(re.search(r"(?<!\\)<script", line) for line in lines if not line.startswith("    "))

    def test_cautions_stand_in_short(self, record, tmp_path, monkeypatch):
        """And name the sections that tell more, once."""
        sections = {
            name: Section(name.title(), "Which?", ["All.", self.NASTY], [], "So.", "All.", cautions=[self.NASTY])
            for name in ("weight", "generation")
        }
        monkeypatch.setattr(report, "sections_of", lambda measures: sections)
        report.write(tmp_path, record)
        short = (tmp_path / "report.md").read_text().partition("## In short")[2].partition("## Weight")[0]
        assert sum(line.startswith("- ") for line in short.splitlines()) == 1
        assert "(“Weight”, “Generation”)" in short
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert any(text == f"{self.NASTY} (“Weight”, “Generation”)" for text in page.texts)

    def test_provenance(self, record):
        record["seconds"] = {"training": 1500.0, "quality": 3.0}
        record["environment"] |= {"torch": "2.9", "seqloom": "1.0"}
        assert report.provenance(record) == (
            "Measured on 2026-01-01 outside of a git checkout: 1 thread, Python 3, seqloom 1.0, torch 2.9; "
            "1,503 s in all."
        )
        record["commit"] = "abc123"
        assert "2026-01-01 at commit abc123: 1 thread, Python 3, seqloom 1.0, torch 2.9;" in report.provenance(record)

    def test_what_is_no_json_is_refused(self, record, tmp_path):
        record["measures"] = {"memory_tasks": float("nan")}
        with pytest.raises(ValueError, match="JSON"):
            report.write(tmp_path, record)
        assert not (tmp_path / "report.json").exists()

    def test_numbers_stand_right(self):
        table = Table(["a", "b", "c"], [["x", "1.5", "2 ms"], ["y", "–", "fast"]])
        assert report._numeric(table) == [False, True, False]

    def test_a_table_without_rows(self):
        assert report.markdown_table(Table(["a", "b"], [])) == ["| a | b |", "| --- | --- |"]

    def test_systems_have_a_table_of_their_own(self):
        def section(**headline):
            return Section("t", "q", [], [], "h", "l", headline)

        candidates = [{"name": name, "description": name.upper()} for name in ("a", "b")]
        own, others = report.summary_tables(
            candidates,
            {"x": section(BLEU={"a": "1", "b": "2"}), "y": section(time={"GRU": "3"}), "z": section(size={"b": "4"})},
        )
        assert own.rows == [["kind", "A", "B"], ["BLEU", "1", "2"], ["size", "–", "4"]]
        assert (others.header, others.rows) == (["", "GRU"], [["time", "3"]])
        own, mixed = report.summary_tables(candidates, {"x": section(BLEU={"a": "1", "GRU": "2"})})
        assert own.rows == [["kind", "A", "B"]]
        assert (mixed.header, mixed.rows) == (["", "a", "GRU"], [["BLEU", "1", "2"]])


class TestShipped:
    """The report in docs/comparison and the chapter about it are what its values give."""

    @pytest.fixture(scope="class")
    def record(self):
        return json.loads(comparison_chapter.RECORD.read_text(encoding="utf-8"))

    def test_report(self, tmp_path, record):
        report.write(tmp_path, record)
        shipped = comparison_chapter.HERE
        assert (tmp_path / "report.md").read_text(encoding="utf-8") == (shipped / "report.md").read_text(
            encoding="utf-8"
        )
        figures = {path.name for path in (tmp_path / "figures").iterdir()}
        assert figures == {path.name for path in (shipped / "figures").iterdir()} - {"multi30k_attention_or_none.png"}

    @pytest.mark.parametrize("language", list(comparison_chapter.PAGES))
    def test_chapter(self, record, language):
        """Written by ``python docs/comparison/comparison_chapter.py``."""
        shipped = comparison_chapter.PAGES[language].read_text(encoding="utf-8")
        assert comparison_chapter.page(record, language) == shipped

    def test_of_these_sources(self, record):
        """An interval or a control stands behind what it says: it is of no version that kept none."""
        assert record["measures"].keys() == set(MEASURES)
        assert record["commit"]


def test_no_network_needed(tmp_path):
    """It can be imported without what it measures being there."""
    code = "import sys, seqloom.comparison.compare; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
