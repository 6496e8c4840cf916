"""The comparison as a whole: its command, its report, and the sections on attention and generalisation."""

import html.parser
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.patience import HANGS
from helpers.runs import configure, run, write_pairs

from seqloom.commands.command import parse
from seqloom.commands.compare import Compare, main
from seqloom.comparison import report
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.compare import Request, commit, compare, overrides_for, recipes, scoring_overrides
from seqloom.comparison.measures import attention as attention_module
from seqloom.comparison.measures import generalisation
from seqloom.comparison.sections import Passage, Plot, Section, Table
from seqloom.comparison.trainings import train_all
from seqloom.scoring.predictions import Predictions, measure_sentences
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
        for word in ("--nonsense", "--max_steps", "--training.seed=3"):
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

    VOID = {"meta", "img", "br", "link"}

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

    def test_failure_is_told(self, data, tmp_path):
        path = configure(tmp_path, data, "rnn", data={"train_files": ["nowhere.a", "nowhere.b"]})
        with pytest.raises(ValueError, match=r"the training of .*run ended with status 1: error: .*nowhere.a"):
            train_all([load_settings(path)], num_jobs=2)


def attention_result() -> dict:
    """As `attention_or_none.measure` gives it."""

    def entries(scores):
        return [{"score": score, "interval": [score - 1, score + 1]} for score in scores]

    return {
        "data": {
            "metric": "sacrebleu",
            "unit": "words",
            "buckets": [[1, 5], [6, 30]],
            "counts": [20, 11],
            "scores": {"plain": entries([40.0, 20.0]), "looking": entries([41.0, 39.0])},
            "kinds": {"plain": "GRU, no attention, 1+1 layers of 8", "looking": "Transformer, 1+1 layers of 8"},
        },
        "maps": {},
        "recall": {
            "buckets": [[1, 5], [6, 10]],
            "updates": 10,
            "pairs": 100,
            "systems": {
                name: {"description": name, "parameters": 1000, "scores": scores}
                for name, scores in (("GRU, no attention", [99.0, 12.0]), ("Transformer", [99.0, 98.0]))
            },
        },
    }


class TestAttentionOrNone:
    @pytest.mark.parametrize("num_buckets", [1, 2, 5, 6, 100])
    def test_buckets_hold_every_sentence_once(self, num_buckets):
        lengths = np.random.default_rng(0).poisson(9, size=400)
        buckets = attention_module.cut(lengths, num_buckets)
        assert len(buckets) <= num_buckets
        held = sum(((lengths >= low) & (lengths <= high)).astype(int) for low, high in buckets)
        assert (held == 1).all()
        if num_buckets <= 5:
            counts = [((lengths >= low) & (lengths <= high)).sum() for low, high in buckets]
            assert min(counts) > 400 / num_buckets / 2

    def test_one_length(self):
        assert attention_module.cut(np.full(9, 4), 6) == [(4, 4)]

    def test_scores_of_buckets(self):
        outputs, references = ["a b", "a x", "c d e"], ["a b", "a b", "c d f"]
        statistics = measure_sentences("exact_match", Predictions([], references, outputs))[1]
        found = attention_module.in_buckets(statistics, np.array([2, 2, 3]), [(1, 2), (3, 3)], 50)
        assert [entry["score"] for entry in found] == [50.0, 0.0]
        assert found[1]["interval"] == [0.0, 0.0]
        assert found[0]["interval"][0] <= 50 <= found[0]["interval"][1]

    def test_seen_and_not_seen(self):
        result = attention_result()
        first, second = attention_module.section(result).findings
        assert " SEEN: plain is 1.0 points behind looking on the shortest and 19.0 on the longest." in first
        assert " SEEN: token" in second
        assert "NOT SEEN" not in first + second
        result["data"]["scores"]["plain"][-1] = {"score": 38.5, "interval": [37.5, 39.5]}  # not beyond doubt
        result["recall"]["systems"]["GRU, no attention"]["scores"] = [99.0, 98.0]
        assert all("NOT SEEN" in finding for finding in attention_module.section(result).findings)

    def test_behind_everywhere(self):
        """Worse on long sources, but no more so than on short ones: that is not the state's size."""
        result = attention_result()
        result["data"]["scores"]["plain"][0] = {"score": 10.0, "interval": [9.0, 11.0]}
        assert "NOT SEEN: plain is 31.0" in attention_module.section(result).findings[0]

    def test_lower_is_better(self):
        result = attention_result()
        result["data"]["metric"] = "ter"
        assert "NOT SEEN" in attention_module.section(result).findings[0]  # the model without has the lower error
        result["data"]["scores"]["plain"] = [{"score": s, "interval": [s - 1, s + 1]} for s in (42.0, 60.0)]
        first = attention_module.section(result).findings[0]
        assert " SEEN: plain is 1.0 points behind looking on the shortest and 21.0 on the longest." in first
        assert "NOT SEEN" not in first

    def test_not_beyond_doubt(self):
        """Farther behind on long sources than on short ones, but within the intervals."""
        result = attention_result()
        result["data"]["scores"]["plain"][-1] = {"score": 37.5, "interval": [36.5, 38.5]}
        assert (
            "NOT SEEN: plain is 1.0 points behind looking on the shortest and 1.5 on"
            in (attention_module.section(result).findings[0])
        )
        for entries in result["data"]["scores"].values():
            for entry in entries:
                entry["interval"] = None  # not bootstrapped: the scores alone decide
        assert "NOT SEEN" not in attention_module.section(result).findings[0]

    def test_held_against_the_best(self):
        """On long sources, of those that have attention."""
        result = attention_result()
        for name, last in (("poor", 15.0), ("best", 45.0)):
            result["data"]["scores"][name] = [{"score": s, "interval": [s - 1, s + 1]} for s in (40.0, last)]
            result["data"]["kinds"][name] = "Transformer"
        first = attention_module.section(result).findings[0]
        assert " SEEN: plain is 0.0 points behind best on the shortest and 25.0 on the longest." in first

    @pytest.mark.parametrize("name", ["plain", "looking"])
    def test_of_one_kind_there_is_nothing_to_see(self, name):
        result = attention_result()
        for key in ("scores", "kinds"):
            result["data"][key].pop(name)
        finding = attention_module.section(result).findings[0]
        assert "Not to be seen here, for want of a model with attention and one without" in finding
        assert "SEEN:" not in finding

    def test_maps(self, data, tmp_path):
        run(tmp_path, data, "rnn", model={"attention": "luong"})
        folder = tmp_path / "run"
        candidate = Candidate("mine", (folder,), None, (42,), (folder / "evaluation" / "test" / "predictions.jsonl",))
        maps = attention_module.example_maps([candidate])
        lines = [json.loads(line) for line in candidate.predictions[0].read_text().splitlines()]
        assert maps["mine"]["source"] in [line["source"] for line in lines]
        assert np.allclose(np.sum(maps["mine"]["weights"], axis=1), 1, atol=1e-4)
        shorter = [len(line["source"]) < len(maps["mine"]["source"]) for line in lines]
        longer = [len(line["source"]) > len(maps["mine"]["source"]) for line in lines]
        assert max(sum(shorter), sum(longer)) <= len(lines) / 2  # of middle length
        section = attention_module.section(json.loads(json.dumps({**attention_result(), "maps": maps})))
        assert [part.name for part in section.parts if isinstance(part, Plot)] == [
            "attention_or_none",
            "attention_maps",
        ]

    def test_measured(self, data, tmp_path):
        run(tmp_path, data, "rnn", model={"attention": "none"})
        folder = tmp_path / "run"
        candidate = Candidate("mine", (folder,), None, (42,), (folder / "evaluation" / "test" / "predictions.jsonl",))
        result = attention_module.measure(
            [candidate], Options(tmp_path, num_jobs=2), num_buckets=2, longest=8, updates=2, num_pairs=100,
            overrides=["--max_new_tokens", "3", "--warmup_steps", "0"],
        )  # fmt: skip
        assert sum(result["data"]["counts"]) == 31
        assert result["maps"] == {}  # no attention, nothing to see
        assert list(result["recall"]["systems"]) == ["GRU, no attention", "GRU, Luong attention", "Transformer"]
        assert result["recall"]["buckets"] == [[length, length] for length in range(1, 9)]
        for system in result["recall"]["systems"].values():
            assert len(system["scores"]) == 8
        section = attention_module.section(json.loads(json.dumps(result)))
        assert isinstance(section, Section)


class TestGeneralisation:
    def test_own_recipes(self, tmp_path):
        """A finished candidate is taken on its own split and trained anew on the others."""
        root = Path(__file__).parents[2]
        words = ["--max_steps", "2", "--eval_steps", "2", "--max_new_tokens", "2", "--hidden_size", "8",
                 "--eval_metric", "null", "--warmup_steps", "0", "--output_dir", str(tmp_path / "own")]  # fmt: skip
        settings = load_settings(root / "configs" / "scan-rnn.yaml", words)
        train_all([settings], num_jobs=2)
        folder = tmp_path / "own"
        trained = (folder / "model.safetensors").stat().st_mtime_ns
        candidate = Candidate("mine", (folder,), settings, (42,), (folder / "evaluation/test/predictions.jsonl",))
        result = generalisation.measure([candidate], Options(tmp_path), splits=("simple", "addprim_turn_left"))
        assert (folder / "model.safetensors").stat().st_mtime_ns == trained
        assert [path.name for path in (tmp_path / "generalisation").iterdir() if path.is_dir()] == [
            "mine-addprim_turn_left-42"
        ]
        own = json.loads((folder / "record.json").read_text())["evaluation"]["metrics"]["exact_match"]["score"]
        assert result["scores"]["mine"]["simple"] == [own]
        assert len(result["scores"]["mine"]["addprim_turn_left"]) == 1
        assert result["is_own"]

    @pytest.mark.parametrize(("jump", "told"), [(2.0, " SEEN: "), (99.0, "NOT SEEN in all: ")])
    def test_findings(self, jump, told):
        scores = {
            "a": {"simple": [99.0, 97.0], "addprim_jump": [1.0, 3.0]},
            "b": {"simple": [100.0, 94.0], "addprim_jump": [jump, jump]},
        }
        section = generalisation.section({"scores": scores, "updates": {"a": 5, "b": 5}, "is_own": True})
        verdict = "failed by a, b" if jump == 2 else "solved by b; failed by a"
        assert section.findings[:2] == [
            "Split simple: a 98.0 %, b 97.0 % (solved by a, b).",
            f"Split addprim_jump: a 2.0 %, b {jump:.1f} % ({verdict}).",
        ]
        assert told in section.findings[-1]
        assert section.findings[-1].endswith(f"worse than on simple by: a 96.0 points; b {97 - jump:.1f} points.")
        assert section.headline["SCAN simple, exact match"] == {"a": "98.0 %", "b": "97.0 %"}


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
        record["measures"] = {"quality": float("nan")}
        with pytest.raises(ValueError, match="JSON"):
            report.write(tmp_path, record)
        assert not (tmp_path / "report.json").exists()

    def test_numbers_stand_right(self):
        table = Table(["a", "b", "c"], [["x", "1.5", "2 ms"], ["y", "–", "fast"]])
        assert report._numeric(table) == [False, True, False]

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


def test_no_network_needed(tmp_path):
    """It can be imported without what it measures being there."""
    code = "import sys, seqloom.comparison.compare; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
