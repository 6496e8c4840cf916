"""A finished run on the Hub: what goes up, that its scores are checked, and that nothing is lost when it goes wrong."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import configure, write_pairs
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from seqloom.__main__ import main
from seqloom.commands import train
from seqloom.settings.reading import load_settings
from seqloom.settings.schema import HubSettings
from seqloom.sharing import card as card_module
from seqloom.sharing import push as push_module
from seqloom.sharing import verify

ROOT = Path(__file__).parents[2]
TO = HubSettings(push_to_hub="me/model")
WEIGHTS = "model.safetensors"


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of some updates; its outputs are nonsense, but always the same nonsense."""
    folder = tmp_path_factory.mktemp("trained")
    pairs = {name: write_pairs(folder, name, size) for name, size in {"few": 60, "validation": 21, "test": 31}.items()}
    config = configure(
        folder, pairs, "rnn",
        evaluation={"metrics": ["exact_match", "chrf"]}, generation={"num_beams": 2, "max_new_tokens": 9},
        hub={"language": ["en"], "license": "apache-2.0"},
        training={"max_steps": 30, "eval_steps": 15, "learning_rate": 0.03},
    )  # fmt: skip
    assert train.main([config]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it, to do with as one likes."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scores(card: str) -> dict[str, float]:
    """Metric and value of a card's header."""
    return {result.metric_type: result.metric_value for result in ModelCard(card).data.eval_results or []}


class TestPush:
    @pytest.mark.slow
    def test_everything_goes_up(self, hub, folder):
        before, said = contents(folder), []
        with hub.client(hub.WRITE):
            address = push_module.push(folder, TO, say=said.append)
        files, (last, first, *_) = hub["me/model"].files(), hub["me/model"].history()
        assert address.endswith(last.oid)
        expected = {path.name for path in folder.iterdir() if path.is_file()} - {"data.json", ".seqloom.json"} | {
            ".gitattributes"
        }
        assert set(files) == expected
        assert {"README.md", WEIGHTS, "tokenizer.json", "generation_config.json", "settings.yaml", "record.json",
                "training_log.jsonl", "modeling_rnn_seq2seq.py", "pipeline_seq2seq.py"} <= expected  # fmt: skip
        for name in (WEIGHTS, "tokenizer.json", "config.json", "modeling_rnn_seq2seq.py"):
            assert files[name] == (folder / name).read_bytes()
        # Scores come with the second commit, when the first was found to give them.
        record = json.loads((folder / "record.json").read_text())
        measured = {name: round(result["score"], 2) for name, result in record["evaluation"]["metrics"].items()}
        assert scores(first.tree["README.md"].data.decode()) == {}
        assert scores(files["README.md"].decode()) == measured
        changed = {name for name in files if name not in first.tree or first.tree[name].data != files[name]}
        assert changed == {"README.md", "record.json", "training_curve.png", "training_log.jsonl"}
        assert set(files) - changed == set(first.tree) - {"README.md"}
        for name, result in json.loads(files["record.json"])["evaluation"]["metrics"].items():
            assert result == record["evaluation"]["metrics"][name]
        assert '"me/model"' in files["README.md"].decode()
        assert f"Downloaded at revision `{first.oid}`, the model gave 31 of 31 sampled outputs as scored." in said
        assert said[1] in files["README.md"].decode()
        assert contents(folder) == before  # nothing here has changed

    @pytest.mark.slow
    def test_no_path_of_this_machine(self, hub, folder, trained):
        with hub.client(hub.WRITE):
            push_module.push(folder, TO)
        for name, data in hub["me/model"].files().items():
            assert str(trained).encode() not in data, name
            assert str(ROOT).encode() not in data, name
        assert b"few.source" in hub["me/model"].files()["settings.yaml"]

    @pytest.mark.slow
    def test_again_sends_nothing_twice(self, hub, folder):
        with hub.client(hub.WRITE):
            push_module.push(folder, TO)
            once = hub["me/model"].files()
            hub.requests.clear()
            push_module.push(folder, TO)
        again = hub["me/model"].files()
        assert scores(again["README.md"].decode()) == scores(once["README.md"].decode()) != {}
        assert {name for name in again if again[name] != once[name]} == {
            "README.md"
        }  # it was checked at a new revision
        assert not hub.seen("PUT", "/lfs/")

    @pytest.mark.slow
    def test_private_and_branch(self, hub, folder):
        with hub.client(hub.WRITE):
            push_module.push(folder, HubSettings(push_to_hub="me/hidden", hub_private_repo=True, hub_revision="trial"))
        assert hub["me/hidden"].private
        assert WEIGHTS in hub["me/hidden"].files("trial")
        assert WEIGHTS not in hub["me/hidden"].files("main")

    @pytest.mark.slow
    def test_own_card_is_kept(self, hub, folder):
        text = (folder / "README.md").read_text() + '\n## Thanks\n\nTo everybody who can "run".\n'
        (folder / "README.md").write_text(text)
        with hub.client(hub.WRITE):
            push_module.push(folder, TO)
        pushed = hub["me/model"].files()["README.md"].decode()
        assert pushed == text.replace('pretrained("run"', 'pretrained("me/model"').replace('l="run"', 'l="me/model"')
        assert pushed.count("me/model") == 3
        assert (folder / "README.md").read_text() == text

    @pytest.mark.slow
    def test_moved_folder(self, hub, folder, tmp_path):
        """A card that was made is made again, for the new name, wherever the folder went and whatever made it."""
        moved = folder.rename(tmp_path / "elsewhere")
        text = (moved / "README.md").read_text()
        body = text.rpartition("\n<!--")[0].replace("It needs torch", "As another version said, it needs torch")
        (moved / "README.md").write_text(
            f"{body}\n<!-- made by seqloom from the run's record: {hashlib.sha256(body.encode()).hexdigest()} -->\n"
        )
        with hub.client(hub.WRITE):
            push_module.push(moved, TO)
        pushed = hub["me/model"].files()["README.md"].decode()
        assert "# me/model\n" in pushed
        assert "another version" not in pushed
        assert "Downloaded at revision" in pushed

    @pytest.mark.slow
    def test_nothing_else_goes_up(self, hub, folder, capsys):
        for name in ("nohup.out", "old_pytorch.bin", "notes.py", ".netrc"):
            (folder / name).write_text("password=secret")
        with hub.client(hub.WRITE):
            push_module.push(folder, TO)
        assert not any(b"password" in data for data in hub["me/model"].files().values())
        assert (
            "left out, as no part of the model: .netrc, nohup.out, notes.py, old_pytorch.bin" in capsys.readouterr().out
        )

    @pytest.mark.slow
    def test_public_repository_does_not_pass_for_private(self, hub, folder):
        hub.create("me/model")
        with (
            hub.client(hub.WRITE),
            pytest.raises(ValueError, match="it is there already and public, while hub_private"),
        ):
            push_module.push(folder, HubSettings(push_to_hub="me/model", hub_private_repo=True))
        assert set(hub["me/model"].files()) == {".gitattributes"}

    def test_header_is_checked_before_anything_is_trained(self, hub):
        with (
            hub.client(hub.WRITE),
            pytest.raises(ValueError, match=r'nothing can be pushed .*refused; .*\("license" must be one of'),
        ):
            push_module.prepare_repository(HubSettings(push_to_hub="me/model", license="foo"))

    @pytest.mark.slow
    def test_old_weights_do_not_stay(self, hub, folder):
        """A repository with both would load the old ones."""
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        (folder / WEIGHTS).unlink()
        model.save_pretrained(folder, max_shard_size="2KB")
        with hub.client(hub.WRITE):
            push_module.push(folder, TO)
            assert "model.safetensors.index.json" in hub["me/model"].files()
            for path in folder.glob("model*"):
                path.unlink()
            model.save_pretrained(folder)
            push_module.push(folder, TO)
        assert [name for name in hub["me/model"].files() if name.startswith("model") and "py" not in name] == [WEIGHTS]

    @pytest.mark.slow
    def test_without_evaluation(self, hub, folder):
        record = json.loads((folder / "record.json").read_text()) | {"evaluation": None}
        (folder / "record.json").write_text(json.dumps(record))
        card_module.write_card(folder)
        with hub.client(hub.WRITE):
            push_module.push(folder, TO)
        assert scores(hub["me/model"].files()["README.md"].decode()) == {}


@pytest.mark.slow
class TestScores:
    """A score that the pushed model does not give is not published."""

    def push(self, hub, folder) -> str:
        with hub.client(hub.WRITE), pytest.raises(ValueError, match="pushed, but without scores") as error:
            push_module.push(folder, TO)
        assert scores(hub["me/model"].files()["README.md"].decode()) == {}
        return str(error.value)

    def test_of_other_weights(self, hub, folder):
        tensors = load_file(folder / WEIGHTS)
        save_file({name: torch.randn_like(tensor) for name, tensor in tensors.items()}, folder / WEIGHTS)
        assert re.search(r"gives only \d+ of 31 sampled outputs", self.push(hub, folder))

    def test_of_another_generation(self, hub, folder):
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"suppress_tokens": list(range(4, 12))}))
        assert "sampled outputs" in self.push(hub, folder)

    def test_of_a_polished_record(self, hub, folder):
        record = json.loads((folder / "record.json").read_text())
        record["evaluation"]["metrics"]["chrf"]["score"] += 1
        (folder / "record.json").write_text(json.dumps(record))
        card_module.write_card(folder)
        score = record["evaluation"]["metrics"]["chrf"]["score"]
        with hub.client(hub.WRITE), pytest.raises(ValueError, match=f"not pushed: the record claims chrf {score:.2f}"):
            push_module.push(folder, TO)
        assert not hub.repositories

    def test_of_polished_outputs(self, hub, folder):
        """Outputs that give the score but are not the model's."""
        path = folder / "evaluation" / "test" / "predictions.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line | {"hypothesis": line["reference"]}) + "\n" for line in lines))
        record = json.loads((folder / "record.json").read_text())
        for result in record["evaluation"]["metrics"].values():
            result["score"] = 100.0
        (folder / "record.json").write_text(json.dumps(record))
        card_module.write_card(folder)
        assert "sampled outputs" in self.push(hub, folder)

    def test_without_outputs(self, hub, folder):
        path = folder / "evaluation" / "test" / "predictions.jsonl"
        path.unlink()
        with (
            hub.client(hub.WRITE),
            pytest.raises(ValueError, match=r"predictions.jsonl is gone.* seqloom evaluate .*overwrite"),
        ):
            push_module.push(folder, TO)
        assert not hub.repositories

    def test_of_a_pair_of_tokenizers_by_its_own_code(self, hub, trained, tmp_path):
        """The check runs the pushed tokenizer's code, not ours."""
        pairs = {name: [str(trained / f"{name}.{side}") for side in ("source", "target")]
                 for name in ("few", "validation", "test")}  # fmt: skip
        config = configure(tmp_path / "pair", pairs, "rnn", tokenizer={"shared": False})
        assert train.main([config]) == 0
        with hub.client(hub.WRITE):
            push_module.push(tmp_path / "pair" / "run", TO)
            _, tokenizer = verify.load_pushed("me/model", hub["me/model"].head)
        assert type(tokenizer).__module__.startswith("transformers_modules.")
        assert type(tokenizer).__name__ == "Seq2SeqPairTokenizer"


@pytest.mark.slow
class TestFailures:
    """One sentence says what happened and how to push later; what was trained stays as it is."""

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (401, "does not know the token"),
            (403, "may not write there"),
            (404, "no such user, organisation or repository"),
            (409, "changed in the meantime"),
            (429, "asks to wait"),
            (500, "out of order at the moment (500)"),
            (503, "out of order at the moment (503)"),
            ("drop connection", "cannot be reached"),
        ],
    )
    @pytest.mark.parametrize("request_", [("POST", "/preupload/"), ("POST", "/commit/"), ("PUT", "/lfs/")])
    def test_answers(self, hub, folder, capsys, request_, status, words):
        before = contents(folder)
        hub.fail(*request_, status, times=99)
        with hub.client(hub.WRITE):
            assert main(["push", str(folder), "me/model"]) == 1
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert line.startswith(f"error: {folder} was not pushed to me/model: ")
            assert words in line
            assert line.endswith(f"push it later with: seqloom push {folder} me/model")
            assert set(hub["me/model"].files()) == {".gitattributes"}  # all or nothing
            assert contents(folder) == before
            hub.heal()
            assert main(["push", str(folder), "me/model"]) == 0
        assert scores(hub["me/model"].files()["README.md"].decode())

    def test_interrupted_upload(self, hub, folder):
        hub.fail("PUT", "/lfs/", hub.DROP, times=99, after_bytes=100)
        with hub.client(hub.WRITE):
            with pytest.raises(ValueError, match="cannot be reached"):
                push_module.push(folder, TO)
            hub.heal()
            hub.fail("POST", "/commit/", 503, times=99)  # now the weights arrive, but the commit does not
            with pytest.raises(ValueError, match="out of order"):
                push_module.push(folder, TO)
            hub.heal()
            hub.requests.clear()
            push_module.push(folder, TO)
        weights = (folder / WEIGHTS).read_bytes()
        assert not hub.seen("PUT", hashlib.sha256(weights).hexdigest())  # they were there already
        assert hub["me/model"].files()[WEIGHTS] == weights

    def test_scores_cannot_be_checked(self, hub, folder):
        hub.fail("GET", f"/resolve/.*{WEIGHTS}", 503, times=99)
        with hub.client(hub.WRITE), pytest.raises(ValueError, match=r"could not be loaded again: .*push it later with"):
            push_module.push(folder, TO)
        assert scores(hub["me/model"].files()["README.md"].decode()) == {}

    def test_nobody_there(self, hub, folder):
        with hub.client(hub.WRITE):
            hub.stop()
            with pytest.raises(ValueError, match=r"the Hub cannot be reached .*push it later with"):
                push_module.push(folder, TO)
            hub.start()

    def test_no_token(self, hub, folder):
        with hub.client(), pytest.raises(ValueError, match=r"run `hf auth login`, or set HF_TOKEN"):
            push_module.push(folder, TO)

    def test_offline(self, folder):
        with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
            push_module.push(folder, TO)

    def test_refusals(self, folder, tmp_path, capsys):
        def refused(*words: str) -> str:
            assert main(["push", *words]) == 1
            (line,) = capsys.readouterr().err.strip().splitlines()
            return line

        assert "it lacks settings.yaml" in refused(str(tmp_path), "me/model")
        assert "push_to_hub is 'model'" in refused(str(folder), "model")
        assert "--learning_rate is unknown" in refused(str(folder), "me/model", "--learning_rate", "1")
        assert "'yes' stands where an --option was expected" in refused(str(folder), "me/model", "yes")
        assert "come first" in refused(str(folder), "--hub_private_repo", "true")
        assert "come first" in refused(str(folder))
        (folder / "record.json").unlink()
        assert "it lacks record.json" in refused(str(folder), "me/model")
        assert main(["push"]) == 2


@pytest.mark.slow
class TestTraining:
    """``train.py --push_to_hub NAME``."""

    @pytest.fixture
    def config(self, trained, tmp_path):
        pairs = {name: [str(trained / f"{name}.{side}") for side in ("source", "target")]
                 for name in ("few", "validation", "test")}  # fmt: skip
        return configure(tmp_path / "new", pairs, "transformer")

    def test_pushes_when_it_is_over(self, hub, config, capsys):
        with hub.client(hub.WRITE):
            assert train.main([config, "--push_to_hub", "team/reverse", "--hub_private_repo", "true"]) == 0
        assert hub["team/reverse"].private
        titles = [commit.title for commit in hub["team/reverse"].history()]
        assert len(titles) == 3
        assert WEIGHTS in hub["team/reverse"].files()
        assert "the model is shared: " in capsys.readouterr().out

    def test_every_best_checkpoint(self, hub, config, capsys):
        """Pushes that fail on the way do not end the training."""
        hub.fail("POST", "/commit/", 503, times=1)
        with hub.client(hub.WRITE):
            assert train.main([config, "--push_to_hub", "me/model", "--hub_strategy", "best"]) == 0
        log = Path(load_settings(config).output_dir, "training_log.jsonl").read_text().splitlines()
        best = [line["step"] for line in map(json.loads, log) if line.get("best")]
        titles = [commit.title for commit in reversed(hub["me/model"].history())]
        assert len(best) > 1
        said = capsys.readouterr().out
        assert said.count("warning: the best checkpoint was not pushed to me/model: the Hub is out of order") == 1
        assert [re.search(r"after (\d+) updates", title)[1] for title in titles[1:-2]] == [
            str(step) for step in best[1:]
        ]

    def test_the_best_alone(self, hub, config):
        """Two validations, both without a single match and with the same loss: the second is no better."""
        options = ["--push_to_hub", "me/model", "--hub_strategy", "best", "--eval_metric", "exact_match"]
        options += ["--learning_rate", "1e-30"]
        with hub.client(hub.WRITE):
            assert train.main([config, *options]) == 0
        titles = [commit.title for commit in reversed(hub["me/model"].history())]
        assert titles[1:-2] == ["The best checkpoint after 3 updates"]

    def test_nothing_old_beside_new_weights(self, hub, config, folder):
        """While another model trains into a repository, no score of the one before stays there."""
        with hub.client(hub.WRITE):
            push_module.push(folder, TO)
            assert scores(hub["me/model"].files()["README.md"].decode())
            settings = load_settings(config)
            assert train.main([config, "--push_to_hub", "me/model", "--hub_strategy", "best"]) == 0
        best = next(c for c in hub["me/model"].history() if c.title.startswith("The best checkpoint"))
        assert not {"record.json", "training_log.jsonl", "training_curve.png"} & set(best.tree)
        card = best.tree["README.md"].data.decode()
        assert scores(card) == {}
        assert "a training that goes on" in card
        assert json.loads(best.tree["config.json"].data)["model_type"] == settings.model["model_type"]

    @pytest.mark.parametrize(
        ("token", "words"), [("READ", "may not write there"), (None, "does not know the token, or none was given")]
    )
    def test_who_may_not_push_learns_it_at_once(self, hub, config, capsys, token, words):
        with hub.client(token and getattr(hub, token)):
            assert train.main([config, "--push_to_hub", "me/model"]) == 1
        assert words in capsys.readouterr().err
        assert not Path(load_settings(config).output_dir).exists()

    def test_hub_goes_away_meanwhile(self, hub, config, capsys):
        """The model is there, and the command that pushes it works."""
        hub.fail("POST", "/preupload/", 503, times=99)
        with hub.client(hub.WRITE):
            assert train.main([config, "--push_to_hub", "me/model"]) == 1
            folder = load_settings(config).output_dir
            error = capsys.readouterr().err
            assert f"the model is whole in {folder}; push it later with: seqloom push {folder} me/model" in error
            AutoModelForSeq2SeqLM.from_pretrained(folder)
            hub.heal()
            command = error.strip().rpartition("with: seqloom ")[2].split()
            assert main(command) == 0
        assert scores(hub["me/model"].files()["README.md"].decode())

    def test_names_are_checked_first(self, config, capsys):
        assert train.main([config, "--push_to_hub", "a/b/c"]) == 1
        assert "hub.push_to_hub is 'a/b/c', not the name of a repository" in capsys.readouterr().err
        assert train.main([config, "--hub_revision", "trial"]) == 1
        assert "hub.push_to_hub names no repository" in capsys.readouterr().err
        assert train.main([config, "--language", "english"]) == 1
        assert "ISO 639" in capsys.readouterr().err


@pytest.mark.slow
def test_snippet_of_a_pushed_card_runs_without_seqloom(hub, folder, tmp_path):
    """As a stranger copies it, in a process that cannot import seqloom."""
    with hub.client(hub.WRITE):
        push_module.push(folder, TO)
    card = hub["me/model"].files()["README.md"].decode()
    snippets = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "me/model" in snippets[0]
    nobody = (
        "import sys\n"
        "class Nobody:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'seqloom':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Nobody())\n"
    )
    (tmp_path / "snippet.py").write_text(nobody + "\n".join(snippets))
    done = subprocess.run(
        [sys.executable, "snippet.py"], cwd=tmp_path, env=hub.env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "evaluation" / "test" / "predictions.jsonl").read_text().splitlines()
    (first,) = [json.loads(line)["hypothesis"] for line in lines[:1]]
    assert first in done.stdout
