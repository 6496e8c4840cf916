"""One typed object from YAML and the command line; whatever is misspelt, of the wrong type or senseless says so."""

import ast
import dataclasses
import inspect
import json
import shlex
from pathlib import Path

import pytest
import yaml

from seqloom.settings import checks, schema
from seqloom.settings.reading import load_scoring_settings, load_settings
from seqloom.settings.schema import DataSettings, EvaluationSettings, MixSettings, Settings, TrainingSettings

SECTIONS = [node for node in ast.parse(inspect.getsource(schema)).body if isinstance(node, ast.ClassDef)]
CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
BASE = {
    "output_dir": "runs/x",
    "model": {"model_type": "rnn_seq2seq", "hidden_size": 32},
    "data": {"dataset": "scan"},
    "training": {"max_steps": 10},
}


@pytest.fixture
def load(tmp_path):
    """Loads ``BASE`` with some sections changed (``section={key: value}``) and the words of a command line."""

    def _load(*words: str, say=lambda text: None, **changes) -> Settings:
        raw = {**BASE, **{name: {**BASE.get(name, {}), **fields} for name, fields in changes.items()}}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return load_settings(path, words, say)

    return _load


def test_defaults_and_given_values(load):
    settings = load(training={"learning_rate": 0.5})
    assert settings.training == TrainingSettings(max_steps=10, learning_rate=0.5)
    assert settings.data == DataSettings(dataset="scan")
    assert settings.model == BASE["model"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.output_dir = "elsewhere"


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--learning_rate 1e-3", "training.learning_rate", 1e-3),  # text to YAML 1.1
        ("--learning_rate=1", "training.learning_rate", 1.0),
        ("--max_steps 1e3", "training.max_steps", 1000),
        ("--training.max_steps 7", "training.max_steps", 7),
        ("--max_grad_norm null", "training.max_grad_norm", None),
        ("--length_penalty -1", "generation.length_penalty", -1.0),
        ("--mixed_precision no", "training.mixed_precision", "no"),  # False to YAML 1.1
        ("--shared false", "tokenizer.shared", False),
        ("--report_to wandb", "training.report_to", ["wandb"]),
        ("--metrics chrf ter", "evaluation.metrics", ["chrf", "ter"]),
        ("--dataset null --train_files a.en b.de", "data.train_files", ["a.en", "b.de"]),
        ("--config_name 2016", "data.config_name", "2016"),
        ("--data.split length", "data.split", "length"),
        ("--evaluation.split null", "evaluation.split", None),
        ("--output_dir runs/y", "output_dir", "runs/y"),
        ("--dropout 0.3", "model.dropout", 0.3),
        ("--model.hidden_size 64", "model.hidden_size", 64),
        ("--learning_rate 1 --learning_rate 2", "training.learning_rate", 2.0),
        ("--evaluation.metric_kwargs.chrf.word_order 2", "evaluation.metric_kwargs", {"chrf": {"word_order": 2}}),
        ("--generate_kwargs '{forced_bos_token_id: 5}'", "generation.generate_kwargs", {"forced_bos_token_id": 5}),
        ("--output_dir 2024_01_02", "output_dir", "2024_01_02"),  # 20240102 to YAML
        ("--output_dir=2024-13-45", "output_dir", "2024-13-45"),  # no date
        ("--output_dir 1e5", "output_dir", "1e5"),
        ("--output_dir no", "output_dir", "no"),
        ("--output_dir null", "output_dir", "null"),  # which cannot be null
        ("--output_dir 'runs: a'", "output_dir", "runs: a"),
        ("--output_dir 'runs #1'", "output_dir", "runs #1"),
        ("--output_dir '{a'", "output_dir", "{a"),
        ("--output_dir '[a, b]'", "output_dir", "[a, b]"),
        ("--output_dir=--odd", "output_dir", "--odd"),
        ("--output_dir -odd", "output_dir", "-odd"),
        ("""--output_dir '"null"'""", "output_dir", "null"),  # quotes hold it together, as in the file
        ("--push_to_hub 01/02", "hub.push_to_hub", "01/02"),
        ("--source on --target 1_0", "data.target", "1_0"),
        ("--train_files 1_0 ~ --dataset null", "data.train_files", ["1_0", "~"]),
        ("--train_files 2024_01_02.tsv --dataset null", "data.train_files", ["2024_01_02.tsv"]),
        ("--train_files '[a.en, b.de]' --dataset null", "data.train_files", ["a.en", "b.de"]),
        ("--train_files '[a].tsv' --dataset null", "data.train_files", ["[a].tsv"]),
        ("""--freeze '["model.*"]'""", "training.freeze", ["model.*"]),
        ("--metrics '[]'", "evaluation.metrics", []),
        ("--path 0x10", "tokenizer.path", "0x10"),
        ("""--path '"null"'""", "tokenizer.path", "null"),
        ("--path null", "tokenizer.path", None),
        ("--path ''", "tokenizer.path", None),
        ("--metrics 1_0", "evaluation.metrics", ["1_0"]),
        ("--language no nn --push_to_hub a/b", "hub.language", ["no", "nn"]),
        ("--normalization none", "tokenizer.normalization", "none"),
        ("--mixed_precision false", "training.mixed_precision", "no"),
        ("--mixed_precision null", "training.mixed_precision", None),
        ("--model.attention none", "model.attention", "none"),
        (
            "--metric_kwargs '{sacrebleu: {tokenize: none}}'",
            "evaluation.metric_kwargs",
            {"sacrebleu": {"tokenize": "none"}},
        ),
    ],
)
def test_overrides(load, words, name, value):
    found = load(*shlex.split(words))
    for key in name.split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lerning_rate 1", r"--lerning_rate is unknown; did you mean --learning_rate\?"),
        ("--hiden_size 1", r"--hiden_size is unknown; did you mean --hidden_size\?"),
        ("--training.lerning_rate 1", r"training.lerning_rate is unknown; did you mean training.learning_rate\?"),
        ("--trainin.seed 1", r"trainin is unknown; did you mean training\?"),
        ("--zzz 1", "--zzz is unknown; known are --"),
        ("--split test", "--split could be --data.split or --evaluation.split"),
        ("--learning_rate", "--learning_rate has no value"),
        ("--output_dir ''", "output_dir is None; it must be str"),
        ("--output_dir a b", r"output_dir is \['a', 'b'\]; it must be str"),
        ("--optim 1e5", "training.optim is '1e5'; allowed are adamw, adam"),
        ("--mix scan", "data.mix is 'scan'; it must be list of sections"),
        (
            "--mix '{weight: 2, dataset: a, wieght: 1}'",
            r"data.mix\[0\].wieght is unknown; did you mean data.mix\[0\].weight",
        ),
        ("--learning_rate --seed 1", "--learning_rate has no value"),
        ("learning_rate 1", "'learning_rate' stands where a --key was expected"),
        ("--training.seed.x 1", "training.seed.x is unknown"),
        ("--output_dir.x 1", "--output_dir.x reaches into output_dir, which is no section"),
        ("--evaluation.metrics.x 1", "--evaluation.metrics.x reaches into evaluation.metrics, which is no section"),
    ],
)
def test_overrides_that_mean_nothing(load, words, message):
    with pytest.raises(ValueError, match=message):
        load(*shlex.split(words), evaluation={"metrics": ["chrf"]}, training={"max_steps": 1, "seed": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"traning": {}}, r"^traning is unknown; did you mean training\?"),
        ({"training": {"seeds": 1}}, r"^training.seeds is unknown; did you mean training.seed\?"),
        ({"model": {"hiden_size": 1}}, r"^model.hiden_size is unknown; did you mean model.hidden_size\?"),
        ({"model": {"d_model": 8}}, "^model.d_model is unknown"),  # the other family's
        ({"model": {"num_labels": 8}}, "^model.num_labels is unknown"),  # every config's, of no use here
        (
            {"model": {"model_type": "rnn"}},
            "model_type is 'rnn'; allowed are rnn_seq2seq, transformer_seq2seq, hybrid_seq2seq",
        ),
        ({"model": {"model_type": None}}, "model_type is None; allowed are"),
        ({"model": {"vocab_size": 8}}, "model.vocab_size follows from the tokenizer section"),
        ({"model": {"pad_token_id": 8}}, "model.pad_token_id follows from the tokenizer section"),
        ({"model": {"label_smoothing": 0.1}}, "follows from training.label_smoothing_factor"),
    ],
)
def test_unknown_keys(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load(**changes)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("training.learning_rate", "fast", "training.learning_rate is 'fast'; it must be float"),
        ("training.num_threads", 10**5, "training.num_threads is 100000; it must be 1,024 or less"),
        ("training.gradient_accumulation_steps", 10**9, "it must be 10,000 or less"),
        ("evaluation.bootstrap_samples", 10**9, "it must be 1,000,000 or less"),
        ("data.num_proc", 10**5, "it must be 1,024 or less"),
        ("generation.generate_kwargs", {1: 2}, "generation.generate_kwargs has the key 1; a key must be a name"),
        ("evaluation.metric_kwargs", {"chrf": 3}, "evaluation.metric_kwargs.chrf is 3; it must be dict"),
        ("data.mix", [{"dataset": "scan", "weight": 1e9}], "hardly a pair would be drawn"),
        ("training.learning_rate", None, "training.learning_rate is None; it must be float"),
        ("training.learning_rate", float("nan"), "training.learning_rate is nan"),
        ("training.learning_rate", float("inf"), "training.learning_rate is inf"),
        ("training.seed", True, "training.seed is True; it must be int"),
        ("training.max_steps", 1.5, "training.max_steps is 1.5; it must be int or null"),
        ("training.max_steps", float("inf"), "training.max_steps is inf; it must be int or null"),
        ("training.max_steps", float("nan"), "training.max_steps is nan; it must be int or null"),
        ("training.optim", "sgd", "training.optim is 'sgd'; allowed are adamw, adam"),
        ("training.mixed_precision", True, "training.mixed_precision is True; allowed are no, bf16, fp16, null"),
        ("tokenizer.shared", "maybe", "tokenizer.shared is 'maybe'; it must be bool"),
        ("tokenizer.shared", 1, "tokenizer.shared is 1; it must be bool"),
        ("data.source", None, "data.source is None; it must be str"),
        ("data.source", ["a"], r"data.source is \['a'\]; it must be str"),
        ("data.dataset", {"a": 1}, "data.dataset is {'a': 1}; it must be str or null"),
        ("evaluation.metrics", None, "evaluation.metrics is None"),
        ("evaluation.metrics", [None], "evaluation.metrics is None; it must be str"),
        ("evaluation.metric_kwargs", 3, "evaluation.metric_kwargs is 3; it must be dict"),
        ("evaluation.split", "tset", "evaluation.split is 'tset'; allowed are train, validation, test, null"),
    ],
)
def test_wrong_types(load, name, value, message):
    section, field = name.split(".")
    with pytest.raises(ValueError, match=message):
        load(**{section: {field: value}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"dataset": None}}, "give either data.dataset or data.train_files"),
        ({"data": {"train_files": ["a", "b"]}}, "give either data.dataset or data.train_files"),
        ({"data": {"dataset": "wmt14", "split": "simple"}}, "data.split is 'simple', which belongs to dataset: scan"),
        ({"training": {"batch_size": 8}}, "batch_tokens is 4096 and training.batch_size is 8: set the one"),
        ({"training": {"batch_tokens": None}}, "batch_tokens is None and training.batch_size is None: set the one"),
        ({"training": {"max_steps": None}}, "give training.max_steps or training.num_train_epochs"),
        ({"training": {"max_steps": 0}}, "training.max_steps is 0; it must be 1 or more"),
        ({"generation": {"coverage_penalty": 0.2}}, "re-ranks beams, but generation.num_beams is 1"),
        ({"generation": {"coverage_penalty": -1}}, "generation.coverage_penalty is -1.0; it must be 0 or more"),
        (
            {"generation": {"coverage_penalty": 0.2, "num_beams": 4}, "model": {"attention": "none"}},
            "model.attention is none: take one of them out",
        ),
        ({"hub": {"push_to_hub": "a/b/c"}}, "hub.push_to_hub is 'a/b/c', not the name of a repository"),
        ({"hub": {"push_to_hub": "model"}}, "the user or the organisation is missing"),
        ({"hub": {"hub_private_repo": True}}, "hub.push_to_hub names no repository: give both"),
        ({"hub": {"license": "/"}}, "hub.license is '/'; give it as the Hub spells it"),
        ({"hub": {"license": "Apache 2"}}, "hub.license is 'Apache 2'; give it as the Hub spells it"),
        ({"hub": {"license": "x" * 65}}, "hub.license is 'xxx"),
        ({"hub": {"language": ["English"]}}, "hub.language has 'English'; languages are ISO 639 codes"),
        ({"hub": {"language": ["de", "xx"]}}, "hub.language has 'xx'; languages are ISO 639 codes"),
        *(
            ({"hub": {"tags": ["speech", tag]}}, "hub.tags has .*; a tag is a word or some, of letters")
            for tag in ("", " ", "a\nb", "\x00", "<b>", "[a](b)", "`a`", " a", "a ", "x" * 101, "a: {b}", "- a", "#a")
        ),
        ({"hub": {"tags": [None]}}, "hub.tags is None; it must be str"),
        ({"hub": {"tags": [["a"]]}}, "hub.tags is .*; it must be str"),
        *(
            ({"hub": {"push_to_hub": "a/b", "hub_revision": name}}, "hub.hub_revision is .*; a branch has a name")
            for name in ("", "a b", "a..b", "-a", "a/", "/a", "a//b", "a\nb", "a.lock", "x~1", "a/.b")
        ),
        ({"training": {"seed": -1}}, "training.seed is -1; it must be 0 or more"),
        ({"training": {"eval_steps": 0}}, "training.eval_steps is 0; it must be 1 or more"),
        ({"training": {"logging_steps": 0}}, "training.logging_steps is 0; it must be 1 or more"),
        ({"training": {"gradient_accumulation_steps": 0}}, "gradient_accumulation_steps is 0; it must be 1 or more"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate is 0.0; it must be more than 0"),
        ({"training": {"max_grad_norm": 0}}, "training.max_grad_norm is 0.0; it must be more than 0"),
        ({"training": {"label_smoothing_factor": 1}}, "label_smoothing_factor is 1.0; it must be .* less than 1"),
        ({"training": {"adam_beta2": 1}}, "adam_beta2 is 1.0; it must be at least 0 and less than 1"),
        ({"training": {"weight_decay": -0.1}}, "weight_decay is -0.1; it must be 0 or more"),
        ({"training": {"metric_for_best_model": "chrf"}}, "metric_for_best_model is 'chrf'; allowed are 'loss'"),
        ({"tokenizer": {"vocab_size": 4}}, "tokenizer.vocab_size is 4; it must be 5 or more"),
        ({"data": {"shuffle_buffer": 0}}, "data.shuffle_buffer is 0; it must be 1 or more"),
        ({"generation": {"num_beams": 0}}, "generation.num_beams is 0; it must be 1 or more"),
        ({"generation": {"max_new_tokens": 0}}, "generation.max_new_tokens is 0; it must be 1 or more"),
        (
            {"data": {"streaming": True}, "evaluation": {"split": "train"}},
            "the split to score is train, which data.streaming reads",
        ),
    ],
)
def test_contradictions(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load(**changes)


def test_metric_for_best_model_may_be_the_metric_or_the_loss(load):
    for best in (None, "loss", "chrf"):
        settings = load(training={"eval_metric": "chrf", "metric_for_best_model": best})
        assert settings.training.metric_for_best_model == best


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"output_dir: [", "is not YAML"),
        (b"output_dir: \xff", "is not YAML"),
        (b"just text", "must hold sections such as model:"),
        (b"", "must hold sections such as model:"),
        (b"output_dir: x\nmodel: 3\n", "model is 3; it must be dict"),
        (b"output_dir: x\nmodel: {model_type: rnn_seq2seq}\ntraining: 3\n", "training must be a section"),
        (b"model: {model_type: rnn_seq2seq}\ndata: {dataset: scan}\n", "output_dir is missing"),
        (b"output_dir: x\ndata: {dataset: scan}\n", "model is missing"),
        (b"output_dir:\nmodel: {model_type: rnn_seq2seq}\n", "output_dir is None; it must be str"),
        (b"output_dir: x\noutput_dir: y\n", r"bad.yaml, line 2: output_dir stands there a second time, after line 1"),
        (b"data: {dataset: scan}\nmodel: {}\ndata:\n  split: length\n", r"line 3: data stands there a second time"),
        (b"training:\n  seed: 1\n  max_steps: 2\n  'seed': 1\n", r"line 4: training.seed stands .* after line 2"),
        (b"data: {mix: [{weight: 1, weight: 2}]}", r"line 1: data.mix.weight stands there a second time"),
        (b"generation: {generate_kwargs: {a: {b: 1, b: 2}}}", r"generation.generate_kwargs.a.b stands there a second"),
        (b"output_dir: [2024-13-45]", "bad.yaml is not YAML: month must be"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_settings(path)


@pytest.mark.parametrize(
    "written", ["2024_01_02", "007", "0x10", "1e5", "12:30:00", "2024-13-45", "2024-01-02", "1.50"]
)
def test_a_text_of_the_file_is_what_is_written(tmp_path, written):
    """Whatever number or date YAML would make of it."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"output_dir: {written}\nmodel: {{model_type: rnn_seq2seq, hidden_size: 0x10}}\n"
        f"data: {{train_files: [{written}, b], source: {written}, mix: [{{weight: 1_0, train_files: {written}}}]}}\n"
        "training: {max_steps: 1_000}\n"
    )
    settings = load_settings(path)
    (mixed,) = settings.data.mix
    assert [settings.output_dir, settings.data.source, *settings.data.train_files, *mixed.train_files] == [
        written, written, written, "b", written,
    ]  # fmt: skip
    assert (settings.training.max_steps, mixed.weight, settings.model["hidden_size"]) == (1000, 10, 16)


def test_one_anchor_may_be_used_twice(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "output_dir: x\nmodel: {model_type: rnn_seq2seq}\ntraining: {max_steps: 1}\n"
        "data:\n  train_files: [a]\n  mix:\n  - &first {weight: 1, train_files: [b]}\n"
        "  - <<: *first\n    weight: 2\n  - *first\n"
    )
    assert [entry.weight for entry in load_settings(path).data.mix] == [1, 2, 1]


def test_an_override_cannot_go_into_what_is_no_section(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("output_dir: x\nmodel: {model_type: rnn_seq2seq}\ntraining: [1]\n")
    with pytest.raises(ValueError, match="reaches into training, which is no section"):
        load_settings(path, ["--seed", "1"])


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no configuration file .*nowhere\.yaml.*; the recipes .* are bible"):
        load_settings(tmp_path / "nowhere.yaml")


def test_saved_and_loaded(load, tmp_path):
    settings = load(
        "--metrics", "chrf", "한", "--mixed_precision", "no", "--learning_rate", "3e-4",
        data={"train_split": "train[:10%]"},
        generation={"generate_kwargs": {"bad_words_ids": [[3]], "renormalize_logits": True}},
        evaluation={"metric_kwargs": {"chrf": {"word_order": 2}}, "split": None},
    )  # fmt: skip
    settings.save(tmp_path / "saved.yaml")
    assert load_settings(tmp_path / "saved.yaml") == settings
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text(encoding="utf-8")) == settings.to_dict()


class TestMix:
    """``data.mix``: further sets, each typed like ``data`` itself."""

    ENTRIES = (
        {"dataset": "scan", "split": "length", "weight": 2},
        {"train_files": "b.tsv", "source": "question", "target": "target", "weight": 1.5},
    )

    def test_typed(self, load):
        settings = load(data={"mix": [*self.ENTRIES]})
        assert settings.data.mix == [
            MixSettings(dataset="scan", split="length", weight=2.0),
            MixSettings(train_files=["b.tsv"], source="question", weight=1.5),
        ]
        words = ["--mix", *map(json.dumps, self.ENTRIES)]
        assert load(*words).data == load("--mix", json.dumps(self.ENTRIES)).data == settings.data

    def test_saved_and_loaded(self, load, tmp_path):
        """Only what was said is written, and what earlier versions wrote is read."""
        settings = load(data={"mix": [*self.ENTRIES]})
        settings.save(tmp_path / "saved.yaml")
        written = yaml.safe_load((tmp_path / "saved.yaml").read_text(encoding="utf-8"))
        assert written["data"]["mix"] == [
            {"weight": 2.0, "dataset": "scan", "split": "length"},
            {"weight": 1.5, "train_files": ["b.tsv"], "source": "question"},
        ]
        assert load_settings(tmp_path / "saved.yaml") == settings
        written["data"]["mix"] = [*self.ENTRIES]
        (tmp_path / "saved.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
        assert load_settings(tmp_path / "saved.yaml") == settings

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (
                {"dataset": "a"},
                r"data.mix\[1\] has no weight: give its share of the training pairs, as data.weight gives",
            ),
            ({"weight": 0, "dataset": "a"}, r"data.mix\[1\].weight is 0.0; it must be more than 0"),
            ({"weight": 1}, r"give either data.mix\[1\].dataset or data.mix\[1\].train_files"),
            ({"weight": 1, "dataset": "a", "split": "length"}, r"data.mix\[1\].split is 'length', which belongs to"),
            ({"weight": 1, "dataset": "a", "streaming": True}, r"data.mix\[1\].streaming is unknown"),
            ("scan", r"data.mix\[1\] must be a section of key: value lines, not 'scan'"),
        ],
    )
    def test_refused(self, load, entry, message):
        with pytest.raises(ValueError, match=message):
            load(data={"mix": [self.ENTRIES[0], entry]})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_that_come_with_seqloom(path, tmp_path):
    settings = load_settings(path)
    assert settings.output_dir == f"runs/{path.stem}"
    config = checks.model_config_class(settings.model["model_type"])
    fields = {name: value for name, value in settings.model.items() if name != "model_type"}
    assert config(**fields).to_dict().items() >= fields.items()
    settings.save(tmp_path / "saved.yaml")
    assert load_settings(tmp_path / "saved.yaml") == settings


def test_there_are_configurations():
    assert CONFIGS


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.name)
def test_every_field_is_explained(cls):
    assert ast.get_docstring(cls)
    fields = [index for index, node in enumerate(cls.body) if isinstance(node, ast.AnnAssign)]
    known = dataclasses.fields(getattr(schema, cls.name))
    assert [cls.body[index].target.id for index in fields] == [f.name for f in known]
    for index in fields:
        after = cls.body[index + 1]
        text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
        assert isinstance(text, str), f"{cls.body[index].target.id} has no docstring below it"


class TestScoring:
    """The settings of evaluate.py: what the model was trained with, unless told otherwise."""

    @pytest.fixture
    def folder(self, load, tmp_path):
        settings = load(
            data={"dataset": "wmt14", "source": "en", "target": "de", "validation_size": 50},
            evaluation={"metrics": ["chrf"], "split": "validation"},
            training={"seed": 7},
        )
        settings.save(tmp_path / "settings.yaml")
        return tmp_path

    def test_as_trained(self, folder):
        settings, generate_kwargs = load_scoring_settings(folder)
        written = load_settings(folder / "settings.yaml")
        assert (settings.data, settings.evaluation) == (written.data, written.evaluation)
        assert settings.seed == 7  # the same validation pairs are cut
        assert generate_kwargs == {}  # all else is the model's generation config's

    def test_without_settings(self, tmp_path):
        settings, generate_kwargs = load_scoring_settings(tmp_path)
        assert (settings.data, settings.evaluation) == (DataSettings(), EvaluationSettings())
        assert generate_kwargs == {}

    def test_only_what_is_given_goes_before_the_models_own(self, folder):
        words = "--num_beams 4 --decode_batch_tokens 9 --generate_kwargs '{do_sample: true}'"
        settings, generate_kwargs = load_scoring_settings(folder, shlex.split(words))
        assert generate_kwargs == {"num_beams": 4, "do_sample": True}
        assert settings.generation.decode_batch_tokens == 9

    def test_split_is_the_one_to_score(self, folder):
        settings, _ = load_scoring_settings(folder, ["--split", "test"])
        assert (settings.split, settings.evaluation.split, settings.data.split) == ("test", "validation", None)
        settings, _ = load_scoring_settings(folder, ["--dataset", "scan", "--data.split", "length"])
        assert (settings.split, settings.evaluation.split, settings.data.split) == (None, "validation", "length")

    def test_other_data_forgets_the_old_place(self, folder):
        settings, _ = load_scoring_settings(folder, ["--split", "test", "--test_files", "a.csv", "--target", "fr"])
        assert settings.data == DataSettings(test_files=["a.csv"], source="en", target="fr")
        settings, _ = load_scoring_settings(folder, ["--split", "test", "--test_split", "test[:5]"])
        assert settings.data.dataset == "wmt14"

    @pytest.mark.parametrize(
        "words",
        [
            "--dataset null --test_files a b --split test", "--train_files a.csv --validation_size 5",
            "--dataset x --streaming true", "--split train --train_files a b --validation_files a b",
            "--split train --data.weight 2 --data.mix '[{train_files: [a, b], weight: 1}]'",
        ],
    )  # fmt: skip
    def test_reads(self, folder, words):
        settings, _ = load_scoring_settings(folder, shlex.split(words))
        assert settings.data != load_scoring_settings(folder)[0].data

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--learning_rate 1", "--learning_rate is unknown"),  # nothing is trained here
            ("--num_beam 1", r"--num_beam is unknown; did you mean --num_beams\?"),
            ("--num_beams 0", "num_beams is 0"),
            ("--split tset", "split is 'tset'; allowed are"),
            ("--split train --streaming true", "the split to score is train, which data.streaming reads"),
            (
                "--shuffle_buffer 9",
                r"--data\.shuffle_buffer is of no use here: of data, scoring the validation split reads",
            ),
            (
                "--num_proc 2 --split train",
                r"--data\.num_proc is of no use .* scoring the train split reads config_name, ",
            ),
            ("--num_proc null", r"--data\.num_proc is of no use here"),
            ("--max_source_length null", r"--data\.max_source_length is of no use here"),
            ("--data.mix [] --split test", r"--data\.mix is of no use here"),
            (
                "--split test --validation_files a b",
                r"--data\.validation_files is .* that split with --split validation\.",
            ),
            (
                "--split test --train_files a b --test_files a b",
                r"scoring the test split reads source, target, test_files, "
                r"test_split alone; leave it out, or score that split with --split train\.",
            ),
            ("--dataset x --validation_files a.csv", r"--data\.dataset is of no use here"),
            ("--train_files a.csv --validation_files b.csv", r"--data\.train_files is of no use here"),
        ],
    )
    def test_refuses(self, folder, words, message):
        with pytest.raises(ValueError, match=message):
            load_scoring_settings(folder, words.split())


class TestLanguage:
    """What a recipe says of its own pairs does not hold for others."""

    HUB = {"language": ["en", "de"], "license": "mit"}

    @pytest.mark.parametrize(
        "words",
        [
            ("--dataset", "null", "--train_files", "a.ko", "a.en"), ("--dataset", "other/set"), ("--source", "de"),
            ("--data.target=fr",), ("--config_name", "en-fr"),
        ],
    )  # fmt: skip
    def test_of_other_pairs(self, load, words):
        told = []
        settings = load(*words, hub=self.HUB, data={"dataset": "some/set"}, say=told.append)
        assert settings.hub.language == []
        assert len(told) == 1
        assert "hub.language, ['en', 'de'] in" in told[0]
        assert settings.hub.license == "mit"
        assert load(*words, "--language", "ko", "en", hub=self.HUB, data={"dataset": "some/set"}).hub.language == [
            "ko",
            "en",
        ]

    @pytest.mark.parametrize(
        "words", [(), ("--dataset", "some/set"), ("--train_split", "train[:10]"), ("--test_files", "a.en", "a.de")]
    )
    def test_of_the_same(self, load, words):
        settings = load(*words, hub=self.HUB, data={"dataset": "some/set"}, say=pytest.fail)
        assert settings.hub.language == ["en", "de"]

    def test_files_in_the_place_of_a_dataset(self, load):
        """And the other way round: nothing of the old place stays but what is given along; it is said in one line."""
        told = []
        columns = {"source": "en", "target": "de"}
        old = {"dataset": "some/set", "config_name": "en-de", "train_split": "train[:10]", **columns}
        found = load("--train_files", "a.csv", data=old, say=told.append).data
        assert found == load("--dataset", "null", "--train_files", "a.csv", data=columns).data
        assert found == load("--dataset", "null", "--train_files", "a.csv", data=old).data
        assert told == [
            f"data.dataset, 'some/set' in {told[0].split(' in ')[1].split(',')[0]}, gives way to --train_files of the "
            "command; so do data.config_name and data.train_split."
        ]
        files = {"train_files": ["a.csv"], "validation_files": ["b.csv"], "max_source_length": 9}
        found = load("--dataset", "some/set", data={"dataset": None, **files}).data
        assert (found.dataset, found.train_files, found.validation_files) == ("some/set", None, None)
        assert found.max_source_length == 9
        told.clear()
        found = load("--dataset", "other/set", data={"dataset": "scan", "split": "simple"}, say=told.append).data
        assert (found.dataset, found.split) == ("other/set", None)
        assert [text.partition(" in ")[0] for text in told] == ["data.split, 'simple'"]
        for words in (("--dataset", "null"), ("--dataset", "a/b", "--train_files", "a.csv")):
            with pytest.raises(ValueError, match=r"give either data\.dataset or data\.train_files"):
                load(*words, data={"dataset": "some/set"})

    def test_columns(self, load):
        """Lines of text have none, so those of the recipe's own table go; a table's stay, and those that are given."""
        data, told = {"dataset": "some/set", "source": "en", "target": "de"}, []
        words = ("--dataset", "null", "--train_files")
        lines = load(*words, "a.en", "a.de", data=data, say=told.append).data
        assert (lines.source, lines.target) == ("source", "target")
        assert [text.partition(",")[0] for text in told] == ["data.source", "data.target"]
        for others in (("a.csv",), ("a.en", "a.de", "--source", "en", "--target", "de")):
            kept = load(*words, *others, data=data, say=pytest.fail).data
            assert (kept.source, kept.target) == ("en", "de")


@pytest.mark.parametrize(
    "tag", ["speech", "arxiv:1706.03762", "low resource", "한국어", "c++", "a", "base_model:x/y-1.0"]
)
def test_tags(load, tag):
    assert load(hub={"tags": [tag]}).hub.tags == [tag]
