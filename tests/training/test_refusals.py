"""What a run refuses: one line that says what is wrong, and nothing is written."""

import shutil

import pytest
from helpers.runs import (
    configure,
    run,
)

from seqloom.commands.train import main
from seqloom.scoring import metrics
from seqloom.settings.schema import TrainingSettings
from seqloom.training.refusals import check_direction

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class TestRefusals:
    """One line that says what is wrong, and nothing is written."""

    @pytest.fixture
    def refused(self, tmp_path, data, capsys):
        def _refused(message: str, *words: str, **changes) -> None:
            config = configure(tmp_path, data, **changes)
            before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
            assert main([config, *words]) == 1
            captured = capsys.readouterr()
            errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, captured.err
            assert message in errors[0]
            assert "Traceback" not in captured.err + captured.out
            assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before

        return _refused

    @pytest.fixture
    def file(self, tmp_path):
        def _file(name: str, content: str | bytes) -> str:
            path = tmp_path / name
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            return str(path)

        return _file

    def test_columns_and_files(self, refused, file, data):
        table = file("t.csv", "source,target\n" + "a,b\n" * 20)
        refused("data.target is 'de', but the columns", data={"train_files": [table], "target": "de"})
        refused("data.source is 'en', a column of tables, but", data={"source": "en"})
        mixed = {"weight": 1, "train_files": data["few"], "target": "de"}
        refused("data.mix[0].target is 'de', a column of tables, but", data={"mix": [mixed]})
        refused("there is no file nowhere.csv", data={"train_files": ["nowhere.csv"]})
        refused("is empty", data={"train_files": [file("empty.csv", "")]})
        refused("there is no file nowhere.csv", data={"test_files": ["nowhere.csv"]})

    def test_lines(self, refused, file, data):
        source = data["few"][0]
        refused("has 3 lines and", data={"train_files": [source, file("short", "a\nb\nc\n")]})
        refused("line 2: byte 2 (0xff) is not UTF-8", data={"train_files": [source, file("latin", b"a\nb\xff\nc\n")]})
        blank = file("blank", "\n" * 60)
        refused("every target of the test split is empty", data={"test_files": [source, blank]})
        refused("0 of 60 pairs kept", data={"train_files": [source, blank]}, tokenizer={"kind": "char"})
        refused("0 of 60 pairs kept", data={"max_source_length": 1})

    def test_an_empty_stream(self, refused, file, data):
        blank = file("blank", "\n" * 60)
        refused("no pair", data={"train_files": [data["few"][0], blank], "streaming": True})

    def test_splits(self, refused):
        refused("data.train_split is 'tarin', but there is no tarin", data={"train_split": "tarin"})
        scan = {"dataset": "scan", "train_files": None, "validation_files": None, "test_files": None}
        refused("data.validation_split is 'valid', but there is no", data={**scan, "validation_split": "valid"})

    def test_tokenizers(self, refused, tmp_path):
        refused("tokenizer.vocab_size is 900", tokenizer={"kind": "bpe", "vocab_size": 900})
        refused("byte_bpe needs 260", tokenizer={"kind": "byte_bpe", "vocab_size": 200})
        refused("a tokenizer that can be read", tokenizer={"path": str(tmp_path)})

    def test_lengths(self, refused):
        refused("training.batch_tokens is 3: raise it", training={"batch_tokens": 3})

    def test_models(self, refused):
        refused("d_model=9", model={"d_model": 9})
        refused("dropout", model={"dropout": "much"})
        refused("model.hidden_layers is unknown", model={"hidden_layers": 1})

    def test_settings(self, refused):
        refused("--lerning_rate is unknown; did you mean --learning_rate?", "--lerning_rate", "1")
        refused("report_to has 'nonsense', which is not installed", training={"report_to": ["nonsense"]})
        refused("fp16, which needs a GPU", training={"mixed_precision": "fp16"})
        refused("must know its end", data={"streaming": True},
                training={"max_steps": None, "num_train_epochs": 1, "lr_scheduler_type": "cosine"})  # fmt: skip
        refused("num_beamz, which generate does not know", generation={"generate_kwargs": {"num_beamz": 3}})
        refused("temperature", generation={"generate_kwargs": {"temperature": 0.5}})
        refused("give one of them", "--resume", "--overwrite")

    @pytest.mark.slow
    def test_metrics_before_anything_is_trained(self, refused):
        refused("did you mean sacrebleu?", evaluation={"metrics": ["exact_match", "sacrebleau"]})
        refused("did you mean exact_match?", training={"eval_metric": "exact_mtach"})

    def test_which_scores_are_better(self, refused, monkeypatch):
        monkeypatch.setattr(metrics, "load_metric", lambda name: None)
        refused("theirs decides which model is the best", training={"eval_metric": "theirs"})
        refused("of wer, which decides, less is better",
                training={"eval_metric": "wer", "greater_is_better": True})  # fmt: skip
        refused("of loss, which decides, less is better", training={"greater_is_better": True})
        for told in ({"eval_metric": "theirs", "greater_is_better": False}, {"eval_metric": "chrf"}, {},
                     {"eval_metric": "theirs", "metric_for_best_model": "loss"},
                     {"eval_metric": "wer", "greater_is_better": False}):  # fmt: skip
            check_direction(TrainingSettings(**told))
        assert metrics.Goal.of(TrainingSettings(eval_metric="theirs", greater_is_better=False)).is_better(1.0, 2.0)

    def test_folders(self, refused, tmp_path, data):
        other = tmp_path / "run"
        other.mkdir()
        (other / "thesis.tex").write_text("the only copy")
        refused("is not empty; give --resume")
        refused("holds no run of seqloom's, so --overwrite will not delete it", "--overwrite")
        (other / "settings.yaml").write_text("theme: dark")  # of another program
        refused("holds no run of seqloom's, so --overwrite will not delete it", "--overwrite")
        (other / "settings.yaml").unlink()
        refused("there is no run to resume", "--resume")
        (tmp_path / "a file").write_text("x")
        refused("is not empty", "--output_dir", str(tmp_path / "a file"))
        refused("Not a directory", "--output_dir", str(tmp_path / "a file" / "run"))

    @pytest.mark.slow
    def test_runs(self, refused, tmp_path, data):
        run(tmp_path, data, training={"max_steps": 2})
        refused("is not empty; give --resume")
        refused("another model section", "--resume", model={"d_model": 16})
        refused("another data section", "--resume", "--max_source_length", "9")
        refused("another tokenizer section", "--resume", "--vocab_size", "19")
        # What can be found wrong with the new run is found before the old one is deleted.
        refused("there is no file nowhere", "--overwrite", "--test_files", "nowhere", "nowhere")
        refused("d_model=9", "--overwrite", model={"d_model": 9})

    @pytest.mark.slow
    def test_overwrite(self, tmp_path, data):
        run(tmp_path, data, training={"max_steps": 2, "average_checkpoints": 2})
        (tmp_path / "run" / "notes").write_text("mine")
        assert main([configure(tmp_path, data, training={"max_steps": 3}), "--overwrite"]) == 0
        assert (tmp_path / "run" / "notes").read_text() == "mine"
        assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000003"]
        shutil.rmtree(tmp_path / "run")
        assert main([configure(tmp_path, data, training={"max_steps": 1}), "--overwrite"]) == 0  # nothing to delete

    @pytest.mark.slow
    def test_a_loss_that_is_no_number(self, tmp_path, data, capsys):
        options = {"learning_rate": 1e30, "eval_steps": 50, "max_steps": 50}
        assert main([configure(tmp_path, data, training=options)]) == 1
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "the loss became" in error
        # The first one spoilt the weights; that no update works any more shows by the sixth in a row.
        assert "in update 7 (epoch 2, its update 3, with the pair of '" in error
        assert "the 6. such update in a row; lower training.learning_rate" in error
        assert not (tmp_path / "run" / "model.safetensors").exists()
