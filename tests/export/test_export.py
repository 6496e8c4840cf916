"""An export is there whole or not at all, over nothing but an export; and what its folder is good for, and not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.exports import exported, save, tokenizer_of
from helpers.runs import contents
from helpers.scored import scored_folder
from helpers.tiny import tiny

import seqloom
from seqloom import run_folder
from seqloom.__main__ import main
from seqloom.decoding import exported as exported_models
from seqloom.decoding.loading import load_exported, open_model, whole_model
from seqloom.decoding.loading import tokenizer_of as loaded_tokenizer
from seqloom.export import export as exporting
from seqloom.export import to_ctranslate2
from seqloom.export.export import Request, export
from seqloom.support.locks import Lock

pytest.importorskip("ctranslate2")


def said(capsys, *words: object) -> str:
    """The one sentence that a command ends with."""
    capsys.readouterr()
    assert main([*map(str, words)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's folder and its export, which no test changes."""
    folder = tmp_path_factory.mktemp("made")
    model = scored_folder(folder)
    place = folder / "exported"
    export(Request(model=str(model), to="ctranslate2", folder=place), say=lambda line: None)
    return model, place


@pytest.fixture
def both(made, tmp_path):
    """The same, to be changed."""
    return tuple(shutil.copytree(path, tmp_path / path.name) for path in made)


def ask(model: Path, place: Path, **fields) -> Request:
    return Request(model=str(model), to=fields.pop("to", "ctranslate2"), folder=place, **fields)


DYING = """
import os, sys
from pathlib import Path
from seqloom.export import export as exporting

model, place, moment = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
replace, renames = os.replace, []

def dying(source, target):
    if Path(source).parent == place.parent:
        renames.append(source)
        if len(renames) == moment:
            os._exit(9)
    replace(source, target)

os.replace = dying
if not moment:
    exporting.disk.replace_folder = lambda new, place: os._exit(9)
exporting.export(exporting.Request(model=model, to="ctranslate2", folder=place, overwrite=True), say=lambda line: None)
"""
"""An export that is killed."""


class TestFolder:
    def test_what_it_holds(self, made):
        model, place = made
        about = json.loads((place / "export.json").read_text())
        assert (about["engine"], about["dtype"], about["model"], about["model_type"]) == (
            "ctranslate2", "float32", "model", "transformer_seq2seq",
        )  # fmt: skip
        assert about["seqloom"] == seqloom.__version__
        assert "6 sources of the validation split" in about["checked"]["sources"]
        assert set(about["checked"]["searches"]) == {"greedy search", "5 beams"}
        assert run_folder.marked(place) == ["export"]
        assert (place / "settings.yaml").read_bytes() == (model / "settings.yaml").read_bytes()
        assert not (place / run_folder.LOCK).exists()
        assert not list(place.parent.glob("saving-*"))
        assert str(place.parent) not in (place / "export.json").read_text() + (place / "README.md").read_text()

    def test_card(self, tmp_path):
        model = tmp_path / "model"
        save(model, tiny("post-norm"))
        (model / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage:\n- en\n- de\n---\n\nA model.\n")
        exported(tmp_path, tiny("post-norm"), "ctranslate2", dtype="int8")
        text = (tmp_path / "exported" / "README.md").read_text()
        header = text.split("---")[1]
        assert "license: cc-by-4.0" in header
        assert "- en\n- de" in header
        assert "Licence of the weights: cc-by-4.0." in text
        for part in ("seqloom translate DIR", "ctranslate2.Translator", "25 lines of sources.txt", "rounded to int8",
                     "4,096 tokens at most", "greedy search: 2"):  # fmt: skip
            assert part in text, part

    def test_random_tokens_where_there_are_no_data(self, tmp_path):
        about = exported(tmp_path, tiny("post-norm"), "ctranslate2", sources=None)
        assert about["checked"]["sources"] == "200 sources of random tokens, since the model's folder tells of no data"
        assert about["checked"]["searches"]["greedy search"]["outputs"] == 200

    def test_data_that_are_gone(self, both, tmp_path):
        model, _ = both
        text = (model / "settings.yaml").read_text()
        (model / "settings.yaml").write_text(text.replace("train.source", "gone.source"))
        about = export(ask(model, tmp_path / "new"), say=lambda line: None)
        assert "random tokens, since the data of the model's run are not here" in about["checked"]["sources"]


class TestUse:
    """As a model's own folder."""

    def test_translate(self, made):
        model, place = made
        one, other = open_model(str(model)).to("cpu"), load_exported(place)
        tokenizer = loaded_tokenizer(other, str(place))
        texts = ["abc", "", "hgfedcba", "a" * 40]
        for given in ({}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 2}):
            assert seqloom.translate(other, tokenizer, texts, **given) == seqloom.translate(
                one, tokenizer, texts, **given
            )
        assert seqloom.translate(other, tokenizer, "abc") == seqloom.translate(one, tokenizer, "abc")
        found = seqloom.translate(other, tokenizer, texts, return_hypotheses=True, num_beams=3)
        expected = seqloom.translate(one, tokenizer, texts, return_hypotheses=True, num_beams=3)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours.text, ours.target_tokens, ours.source_tokens) == (
                theirs.text, theirs.target_tokens, theirs.source_tokens,
            )  # fmt: skip
            assert ours.token_scores == pytest.approx(theirs.token_scores, abs=1e-4)

    def test_pairs_of_tokenizers(self, tmp_path):
        model = tiny("gelu-separate")
        exported(tmp_path, model, "ctranslate2")
        other = load_exported(tmp_path / "exported")
        tokenizer = loaded_tokenizer(other, str(tmp_path / "exported"))
        assert tokenizer.target_vocab_size == 23
        texts = ["abc", "hgfe"]
        assert seqloom.translate(other, tokenizer, texts) == seqloom.translate(model, tokenizer_of(model), texts)

    def test_evaluate_finds_the_runs_data(self, both, capsys):
        model, place = both
        assert main(["evaluate", str(model), "--num_beams", "2"]) == 0
        expected = capsys.readouterr().out.splitlines()[:2]
        assert main(["evaluate", str(place), "--num_beams", "2"]) == 0
        assert capsys.readouterr().out.splitlines()[:2] == expected
        assert (place / "evaluation" / "test" / "scores.json").is_file()

    def test_against_the_model(self, both, capsys):
        model, place = both
        assert main(["evaluate", str(place), "--against", str(model)]) == 0
        assert "chrf" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["--dtype", "int8"], "dtype"),
            (["--coverage_penalty", "0.3", "--num_beams", "2"], "coverage_penalty is 0.3, and needs attentions"),
            (["--generation.generate_kwargs", "{repetition_penalty: 1.5}"], "repetition_penalty is 1.5"),
            (["--decode_dtype", "bfloat16"], "compute in bfloat16, another dtype than it was exported in"),
        ],
    )
    def test_what_it_cannot_is_refused(self, made, capsys, words, named):
        assert named in said(capsys, "evaluate", made[1], "--output_dir", made[1].parent / "scores", *words)

    def test_no_attentions_and_no_stream(self, made):
        other = load_exported(made[1])
        tokenizer = loaded_tokenizer(other, str(made[1]))
        with pytest.raises(ValueError, match="cannot give attentions: for that, take the model that it was made from"):
            seqloom.translate(other, tokenizer, "abc", output_attentions=True)
        with pytest.raises(ValueError, match="cannot stream what it writes"):
            next(seqloom.stream(other, tokenizer, "abc"))
        for call in (other, other.get_encoder, other.get_decoder):
            with pytest.raises(ValueError, match="cannot give logits"):
                call()

    def test_other_commands(self, made, tmp_path, capsys):
        _, place = made
        sentence = "is an exported model, which seqloom translate"
        assert sentence in said(capsys, "attend", place, "abc", "--output", tmp_path / "x.png")
        assert sentence in said(capsys, "export", place, "--to", "marian", "--output_dir", tmp_path / "x")
        assert "hf upload me/model" in said(capsys, "push", place, "me/model")
        with pytest.raises(ValueError, match=sentence):
            whole_model(str(place))  # as training.init_from does

    def test_no_export_is_no_export(self, made):
        with pytest.raises(ValueError, match="holds no model that was exported"):
            load_exported(made[0])
        with pytest.raises(ValueError, match="there is no folder"):
            load_exported(made[0].parent / "nothing" / "here")


class TestRefused:
    """Before anything is written."""

    def test_words(self, made, tmp_path, capsys):
        model, _ = made
        place = tmp_path / "new"
        assert "--to is missing" in said(capsys, "export", model, "--output_dir", place)
        assert "--output_dir is missing" in said(capsys, "export", model, "--to", "marian")
        assert "it can be marian, ctranslate2, onnx, torch" in said(
            capsys, "export", model, "--to", "x", "--output_dir", place
        )
        assert "--dtype is 'int4'; --to ctranslate2 has float32, float16" in said(
            capsys, "export", model, "--to", "ctranslate2", "--dtype", "int4", "--output_dir", place
        )
        assert "there is no file" in said(
            capsys, "export", model, "--to", "ctranslate2", "--sources", tmp_path / "x", "--output_dir", place
        )
        (tmp_path / "empty").touch()
        assert "has no lines" in said(
            capsys, "export", model, "--to", "ctranslate2", "--sources", tmp_path / "empty", "--output_dir", place
        )
        assert {path.name for path in tmp_path.iterdir()} == {"empty"}

    def test_own_folder(self, both, capsys):
        model, _ = both
        before = contents(model)
        for words in ([], ["--overwrite"]):
            said(capsys, "export", model, "--to", "ctranslate2", "--output_dir", model, *words)
        assert contents(model) == before

    def test_a_search_that_nobody_else_has(self, tmp_path):
        model = tiny("post-norm")
        model.generation_config.repetition_penalty = 1.3
        with pytest.raises(ValueError, match=r"a search that the model alone has .repetition_penalty is 1.3"):
            exported(tmp_path, model, "ctranslate2")
        assert not (tmp_path / "exported").exists()

    def test_a_missing_engine(self, made, tmp_path, monkeypatch):
        engine = exported_models.Engine("no_such_package", "ctranslate2", "run_ctranslate2")
        monkeypatch.setitem(exported_models.ENGINES, "ctranslate2", engine)
        needs = r"needs no_such_package: pip install 'seqloom\[ctranslate2\]'"
        with pytest.raises(ValueError, match=f"--to ctranslate2 {needs}"):
            export(ask(made[0], tmp_path / "new"))
        with pytest.raises(ValueError, match=f"exported to ctranslate2, {needs}"):
            load_exported(made[1])

    def test_a_damaged_model(self, both, tmp_path):
        model, _ = both
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(ValueError, match="is damaged"):
            export(ask(model, tmp_path / "new"))
        assert not (tmp_path / "new").exists()


class TestOverwrite:
    def test_only_when_told(self, both):
        model, place = both
        before = contents(place)
        with pytest.raises(ValueError, match="give --overwrite to replace what was exported"):
            export(ask(model, place))
        assert contents(place) == before

    def test_replaces_all_of_it(self, both):
        model, place = both
        assert main(["evaluate", str(place)]) == 0
        export(ask(model, place, to="marian", overwrite=True), say=lambda line: None)
        assert not (place / "ctranslate2").exists()
        assert not (place / "evaluation").exists()
        assert json.loads((place / "export.json").read_text())["engine"] == "transformers"
        assert {path.name for path in place.parent.iterdir()} == {"model", "exported"}

    @pytest.mark.parametrize("name", ["notes.txt", "ctranslate2/mine.bin", "evaluation/mine.txt", "README.md"])
    def test_nothing_of_others(self, both, name):
        model, place = both
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("mine")
        before = contents(place)
        with pytest.raises(ValueError, match=f"holds more than what was exported .{name}"):
            export(ask(model, place, overwrite=True))
        assert contents(place) == before

    def test_no_other_folder(self, both, tmp_path):
        model, _ = both
        other = tmp_path / "other"
        other.mkdir()
        (other / "export.json").write_text("{}")
        with pytest.raises(ValueError, match="holds no exported model"):
            export(ask(model, other, overwrite=True))
        (tmp_path / "file").write_text("x")
        with pytest.raises(ValueError, match="holds no exported model"):
            export(ask(model, tmp_path / "file", overwrite=True))

    def test_what_stands_where_it_is_written_first(self, both, tmp_path):
        model, _ = both
        (tmp_path / "saving-new").mkdir()
        (tmp_path / "saving-new" / "mine").touch()
        with pytest.raises(ValueError, match="saving-new, where the export would be written first, is something else"):
            export(ask(model, tmp_path / "new"))
        assert (tmp_path / "saving-new" / "mine").exists()


class TestWholeOrNot:
    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("place_of_death", ["write_about", "check", "card_of", "keep_settings", "sizes"])
    def test_ended_anywhere(self, both, tmp_path, monkeypatch, overwrite, place_of_death):
        model, place = both
        place = place if overwrite else tmp_path / "new"
        before = contents(tmp_path)

        def dies(*words, **fields):
            raise KeyboardInterrupt

        monkeypatch.setattr(exporting, place_of_death, dies)
        with pytest.raises(KeyboardInterrupt):
            export(ask(model, place, overwrite=overwrite), say=lambda line: None)
        assert contents(tmp_path) == before
        assert not list(tmp_path.glob("saving-*"))

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", [0, 1, 2])
    def test_killed(self, both, tmp_path, moment):
        """At the first rename of a folder or the second, or before (0). What a kill leaves beside the folder goes, or
        comes back, with the next export."""
        model, place = both
        before = contents(place)
        code = [sys.executable, "-c", DYING, str(model), str(place), str(moment)]
        assert subprocess.run(code, check=False).returncode == 9
        left = {path.name for path in tmp_path.iterdir()}
        assert "saving-exported" in left
        if moment == 2:
            assert "exported" not in left
        else:
            assert contents(place) == before
        with pytest.raises(ValueError, match="give --overwrite"):  # which sees the old one again
            export(ask(model, place))
        assert contents(place) == before
        export(ask(model, place, overwrite=True), say=lambda line: None)
        assert {path.name for path in tmp_path.iterdir()} == {"model", "exported"}
        load_exported(place)

    def test_two_at_once(self, both, tmp_path):
        model, _ = both
        aside = tmp_path / "saving-new"
        aside.mkdir()
        with Lock(aside / run_folder.LOCK) as lock:
            lock.acquire()
            with pytest.raises(ValueError, match="is in use"):
                export(ask(model, tmp_path / "new"))
        assert not (tmp_path / "new").exists()

    @pytest.mark.slow
    def test_full_disk(self, both, small_disk, capsys):
        model, _ = both
        (small_disk / "ballast").write_bytes(bytes(1_900_000))
        line = said(capsys, "export", model, "--to", "ctranslate2", "--output_dir", small_disk / "new")
        assert "the disk is full: new was not saved" in line
        assert {path.name for path in small_disk.iterdir()} == {"ballast"}


class TestDamaged:
    """A folder that is no longer what was exported, or whose engine is another one."""

    @pytest.mark.parametrize("name", ["ctranslate2/model.bin", "config.json", "ctranslate2/shared_vocabulary.json"])
    @pytest.mark.parametrize("how", ["gone", "cut"])
    def test_files(self, both, name, how):
        _, place = both
        content = (place / name).read_bytes()
        (place / name).unlink() if how == "gone" else (place / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"is not as it was exported: {name} (is missing|has)"):
            load_exported(place)

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"engine": "ctranslate2", "format": 1}'])
    def test_export_json(self, both, text):
        _, place = both
        (place / "export.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            load_exported(place)

    def change(self, place: Path, **fields) -> None:
        about = json.loads((place / "export.json").read_text())
        (place / "export.json").write_text(json.dumps(about | fields))

    def test_of_a_later_seqloom(self, both):
        _, place = both
        self.change(place, format=2, seqloom="9.0")
        with pytest.raises(ValueError, match=r"written by seqloom 9.0, which has a later form .*\(2, 1\)"):
            load_exported(place)

    def test_of_another_engine(self, both):
        _, place = both
        self.change(place, engine="abacus")
        with pytest.raises(ValueError, match="was exported to 'abacus'; this version of seqloom runs ctranslate2"):
            load_exported(place)

    def test_of_a_later_ctranslate2(self, both):
        """Whose files this one cannot read."""
        _, place = both
        path = place / "ctranslate2" / "model.bin"
        path.write_bytes((99).to_bytes(4, "little") + path.read_bytes()[4:])
        self.change(place, engine_version="99.0")
        with pytest.raises(
            ValueError, match=r"ctranslate2 cannot read .*it was written for ctranslate2 99.0, and .* is installed"
        ):
            load_exported(place)

    def test_search_and_data_may_be_changed(self, both):
        _, place = both
        config = json.loads((place / "generation_config.json").read_text())
        (place / "generation_config.json").write_text(json.dumps(config | {"num_beams": 3}, indent=8))
        (place / "settings.yaml").unlink()
        assert load_exported(place).generation_config.num_beams == 3


class TestCheck:
    """An export that says something else is found out."""

    @pytest.mark.parametrize("fault", ["weight", "positions", "activation"])
    def test_wrong(self, tmp_path, monkeypatch, fault):
        model = tiny("gelu-separate", share_encoder_decoder_embeddings=True, decoder_vocab_size=20)
        original = to_ctranslate2.stack_spec

        def wrong(stack, config):
            spec = original(stack, config)
            if fault == "weight":
                spec.layer[0].ffn.linear_0.bias = spec.layer[0].ffn.linear_0.bias + 0.05
            elif fault == "positions":
                spec.position_encodings.encodings = spec.position_encodings.encodings[1:]
            else:
                from ctranslate2.specs import Activation

                spec.activation = type(spec.activation)(Activation.GELUSigmoid)
            return spec

        monkeypatch.setattr(to_ctranslate2, "stack_spec", wrong)
        with pytest.raises(ValueError, match=r"not exported: log p of a token differs by .* which is no rounding"):
            exported(tmp_path, model, "ctranslate2")
        assert not (tmp_path / "exported").exists()
        assert not (tmp_path / "saving-exported").exists()

    def test_another_search(self, tmp_path, monkeypatch):
        """Where scores are right and outputs are not."""
        from seqloom.decoding.run_ctranslate2 import CTranslate2Searcher

        original = CTranslate2Searcher.run

        def wrong(self, sources, batch, options, most, **told):
            return [[(tokens[:1] + tokens[:-1], score) for tokens, score in one]
                    for one in original(self, sources, batch, options, most, **told)]  # fmt: skip

        monkeypatch.setattr(CTranslate2Searcher, "run", wrong)
        with pytest.raises(ValueError, match=r"with greedy search, output \d+ of 25 differs, and no rounding"):
            exported(tmp_path, tiny("post-norm"), "ctranslate2")
        assert not (tmp_path / "exported").exists()

    def test_a_tie_is_told(self, tmp_path):
        """Two tokens that are as likely as each other: either is right."""
        from seqloom.export.checking import is_tie, written

        model = tiny("untied-unscaled")
        with torch.no_grad():
            model.lm_head.weight[5] = model.lm_head.weight[6] = model.lm_head.weight.sum(0)
        sources = [[5, 9, 2], [7, 8, 2], [4, 4, 4, 2]]
        given = {"num_beams": 1, "max_new_tokens": 4}
        with_five = [index for index, output in enumerate(written(model, sources, given)) if output[0] in (5, 6)]
        assert with_five
        index = with_five[0]
        [output] = written(model, [sources[index]], {**given, "max_new_tokens": 1})
        other = [11 - output[0]]
        assert is_tie(model, sources[index], {**given, "max_new_tokens": 1}, other, 1e-6)
        assert not is_tie(model, sources[index], {**given, "max_new_tokens": 1}, [9], 1e-6)
