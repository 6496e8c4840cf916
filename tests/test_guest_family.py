"""A family that is defined in tests/ alone goes all the way that ours go: nothing asks for a family by its name."""

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from helpers import guest
from helpers.hub_cards import check_card
from helpers.runs import configure, write_pairs
from transformers import AutoConfig

from seqloom.__main__ import main
from seqloom.attention.attend import attend
from seqloom.comparison.candidates import Candidate, Options
from seqloom.comparison.compare import kept_in
from seqloom.comparison.measures import attention, data_handling, generalisation, generation, gradients, memory_tasks
from seqloom.comparison.report import MEASURES
from seqloom.comparison.traits import recorded
from seqloom.data.tokenization import load_tokenizer
from seqloom.decoding.loading import load_model
from seqloom.decoding.translate import translate
from seqloom.settings.reading import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]

MODEL = {
    "model_type": "guest_conv_seq2seq", "channels": 16, "encoder_layers": 2, "decoder_layers": 1, "dropout": 0.0,
}  # fmt: skip
DESCRIPTION = "Convolutional encoder-decoder (Gehring et al. 2017): 2+1 layers, 16 wide, kernels of 3"
SHORT = {"max_steps": 60, "eval_steps": 20, "learning_rate": 0.01, "eval_metric": "exact_match"}


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The family, known here and in every process that is started from here; its files' names."""
    folder = tmp_path_factory.mktemp("guest")
    names = guest.lay(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        importlib.import_module("guest_family")
        yield SimpleNamespace(folder=folder, names=names)
        guest.forget()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {name: write_pairs(folder, name, size) for name, size in {"few": 60, "validation": 21, "test": 31}.items()}


def recipe(folder: Path, data: dict, name: str) -> Path:
    """A configuration of that name: ``guest`` or ``rnn``."""
    path = Path(configure(folder, data, "rnn", training=SHORT, hub={"language": ["en"], "license": "apache-2.0"}))
    values = yaml.safe_load(path.read_text())
    if name == "guest":
        values["model"] = MODEL
    path.unlink()
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / f"{name}.yaml"


@pytest.fixture(scope="module")
def run(code, data, tmp_path_factory):
    """Trained, scored and described, as by the command line."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", str(recipe(folder, data, "guest"))]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "run"


class TestAlone:
    def test_no_word_of_it_in_seqloom(self):
        root = Path(__file__).parents[1]
        for path in (*root.glob("src/**/*.py"), *root.glob("modeling/*.py")):
            assert "guest" not in path.read_text(encoding="utf-8").lower(), path

    def test_its_model_is_sound(self, code):
        """Padding changes nothing, and what is cached is what would be computed."""
        config = AutoConfig.for_model(**MODEL, vocab_size=20)
        model = sys.modules["guest_family"].GuestSeq2SeqForConditionalGeneration(config).eval()
        ids, target = torch.tensor([[5, 9, 3, 17, 2]]), torch.tensor([[1, 4, 18, 6, 7]])
        padded = torch.tensor([[14, 14, 5, 9, 3, 17, 2, 14]])
        whole = model(ids, decoder_input_ids=target).logits
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0]])
        torch.testing.assert_close(model(padded, attention_mask=mask, decoder_input_ids=target).logits, whole)
        first = model(ids, decoder_input_ids=target[:, :3], use_cache=True)
        rest = model(ids, decoder_input_ids=target[:, 3:], past_key_values=first.past_key_values, use_cache=True)
        torch.testing.assert_close(torch.cat((first.logits, rest.logits), 1), whole)

    def test_trained_and_scored(self, run):
        record = json.loads((run / "record.json").read_text())
        assert record["progress"]["step"] == 60
        assert record["evaluation"]["sentences"] == 31
        assert type(load_model(str(run))).__name__ == "GuestSeq2SeqForConditionalGeneration"
        log = [json.loads(line) for line in (run / "training_log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in log if "loss" in line]
        assert losses[-1] < losses[0]

    def test_card(self, run):
        text = (run / "README.md").read_text(encoding="utf-8")
        assert check_card(text) == ([], [])
        assert f"\n{DESCRIPTION}. " in text
        assert "- guest_conv_seq2seq\n" in text

    def test_evaluated_again(self, run, tmp_path):
        assert main(["evaluate", str(run), "--split", "validation", "--output_dir", str(tmp_path / "scores")]) == 0
        assert json.loads((tmp_path / "scores" / "scores.json").read_text())["metrics"]["exact_match"]["score"] >= 0

    def test_translated(self, run):
        model, tokenizer = load_model(str(run)), load_tokenizer(str(run))
        sources = ["abc", "h", "ga"]
        together = translate(model, tokenizer, sources, num_beams=3, max_new_tokens=5)
        assert together == [translate(model, tokenizer, source, num_beams=3, max_new_tokens=5) for source in sources]
        found = translate(model, tokenizer, "abc", output_attentions=True, max_new_tokens=5)
        torch.testing.assert_close(found.cross_attentions.sum(-1), torch.ones(found.cross_attentions.shape[:-1]))

    def test_attended(self, run):
        maps = attend(load_model(str(run)), load_tokenizer(str(run)), "abc", target="cba")
        assert maps.cross.shape[:2] == (1, 1)
        assert maps.encoder_self is None


class TestOnTheHub:
    def test_pushed_and_loaded(self, hub, code, run, tmp_path):
        """Where seqloom is not installed as well: all that its code imports has travelled along."""
        folder = Path(shutil.copytree(run, tmp_path / "run"))
        (folder / "notes_seq2seq.py").write_text("password = 'hush'\n")
        with hub.client(hub.WRITE):
            assert main(["push", str(folder), "me/guest"]) == 0
        files = hub["me/guest"].files()
        assert {name for name in files if name.endswith(".py")} == code.names
        assert "31 of 31 sampled outputs" in files["README.md"].decode()
        program = (
            "import sys; sys.modules['seqloom'] = None\n"
            "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline\n"
            "known = {'trust_remote_code': True}\n"
            "tokenizer = AutoTokenizer.from_pretrained('me/guest', **known)\n"
            "model = AutoModelForSeq2SeqLM.from_pretrained('me/guest', **known)\n"
            "print(model.config.describe())\n"
            "outputs = model.generate(**tokenizer(['abc'], return_tensors='pt'), min_new_tokens=2, max_new_tokens=5)\n"
            "print(tokenizer.batch_decode(outputs, skip_special_tokens=True)[0])\n"
            "pipe = pipeline('seq2seq-generation', model='me/guest', **known)\n"
            "print(pipe('abc', min_new_tokens=2, max_new_tokens=5))\n"
        )
        environment = hub.env(hub.READ, PYTHONPATH="")
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        described, output, piped = done.stdout.splitlines()
        assert described == DESCRIPTION
        here = translate(load_model(str(run)), load_tokenizer(str(run)), "abc", min_new_tokens=2, max_new_tokens=5)
        assert output == here
        assert piped == str([{"generated_text": here}])
        assert here


def on_scan(candidate: Candidate, words: list[str]) -> Candidate:
    """With its own model in a recipe of SCAN."""
    settings = load_settings(Path(__file__).parents[1] / "configs" / "scan-rnn.yaml", words)
    return dataclasses.replace(candidate, settings=dataclasses.replace(settings, model=candidate.settings.model))


class TestCompared:
    @pytest.fixture(scope="class")
    def report(self, code, data, tmp_path_factory):
        """With one of ours, by all measures: trained by the comparison, and the long measures kept small."""
        folder = tmp_path_factory.mktemp("comparison")
        recipes = [str(recipe(folder, data, name)) for name in ("guest", "rnn")]
        words = ["compare", *recipes, "--output", str(folder / "report"), "--num_jobs", "2", "--measures"]
        assert main([*words, "quality", "learning_curves", "weight"]) == 0
        candidates = []
        for name in ("guest", "rnn"):
            place = folder / "report" / "models" / f"{name}-seed-42"
            settings = load_settings(place / "settings.yaml")
            predictions = place / "evaluation" / "test" / "predictions.jsonl"
            candidates.append(Candidate(name, (place,), settings, (42,), (predictions,)))
        options = Options(folder / "report", num_jobs=1, bootstrap_samples=20)
        tasks = {"updates": 3, "hidden_size": 8, "batch_size": 4, "lengths": {"adding": (4, 6), "copy": (2,)}}
        quick = ["--max_steps", "2", "--eval_steps", "2", "--max_new_tokens", "2", "--eval_metric", "null",
                 "--warmup_steps", "0"]  # fmt: skip
        small = {
            attention: {"num_buckets": 2, "longest": 8, "updates": 2, "num_pairs": 100, "overrides": quick[4:]},
            data_handling: {"lengths": (4, 8), "width": 8, "batch_size": 1, "repeats": 1, "speedup_length": 4},
            generation: {"batch_sizes": (1, 3), "batch_length": 4, "lengths": (4, 8), "length_batch": 2, "repeats": 1},
            memory_tasks: tasks,
            gradients: {"distance": 12, "num_sequences": 4, **tasks},
            generalisation: {"splits": ("addprim_turn_left",)},
        }
        for module, changes in small.items():
            asked = [on_scan(one, quick) for one in candidates] if module is generalisation else candidates
            result = module.measure(asked, options, **changes)
            kept = kept_in(folder / "report", module.__name__.rpartition(".")[2])
            kept.write_text(json.dumps({"seconds": 1.0, "result": result}))
        assert main([*words, *MEASURES, "--resume"]) == 0
        return folder / "report"

    def test_every_measure(self, report):
        record = json.loads((report / "report.json").read_text())
        assert list(record["measures"]) == list(MEASURES)
        told = {one["name"]: (one["kind"], one["description"]) for one in record["candidates"]}
        assert told["guest"] == ("gated convolutions", "gated convolutions, 2+1 layers of 16")
        assert (report / "report.html").is_file()
        for name in ("learning_curves", "gradients", "generation", "weight"):
            parts = [part for part in record["measures"][name].values() if isinstance(part, dict)]
            found = recorded(next(part["guest"] for part in parts if "guest" in part))
            assert (found.is_recurrent, found.is_transformer, found.has_cross_attention) == (False, False, True)
        assert record["measures"]["weight"]["models"]["guest"]["error"] is None
        assert record["measures"]["weight"]["models"]["guest"]["training_flops"] > 0
        assert "guest" in record["measures"]["attention"]["maps"]
        assert list(record["measures"]["generalisation"]["scores"]) == ["guest", "rnn"]

    def test_nothing_is_claimed_of_it(self, report):
        """It is neither recurrent nor a Transformer, so what is expected of those two is not held against it."""
        text = (report / "report.md").read_text(encoding="utf-8")
        assert "Transformers score better than" not in text
        assert "the Transformer is heavier" not in text
        assert "at equal FLOPs a Transformer is ahead" not in text
        (kept,) = [line for line in text.splitlines() if line.startswith("- Kept of a sentence, gated convolutions")]
        assert "grow with the source (the attention's keys and values) and not with the output. SEEN: guest" in kept
