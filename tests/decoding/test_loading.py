"""A damaged model is not a model: one sentence that says what is wrong in which file, from every command."""

import itertools
import json
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.exports import exported, lively
from helpers.letters import texts
from helpers.others import OTHERS, save_other
from helpers.scored import make_tokenizer, scored_folder
from helpers.tiny import TRANSFORMERS, tiny
from huggingface_hub import create_repo, upload_folder
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel

from seqloom import run_folder
from seqloom.__main__ import main
from seqloom.decoding.loading import eager_attention, load_exported, load_model, open_pair, tokenizer_of, whole_model
from seqloom.decoding.run_torch import machine
from seqloom.decoding.translate import translate

WEIGHTS, GENERATION, INDEX = "model.safetensors", "generation_config.json", "model.safetensors.index.json"
ONE = "model.encoder.layers.0.fc1.weight"


def cut(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def change(folder, name, **values):
    found = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(found | values), encoding="utf-8")


def reweigh(folder, edit):
    state = load_file(folder / WEIGHTS)
    edited = edit(state)
    save_file(state if edited is None else edited, folder / WEIGHTS, metadata={"format": "pt"})


def index(folder, text):
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(text, encoding="utf-8")


DAMAGE = {
    "generation config cut": (lambda f: cut(f, GENERATION), r"generation_config\.json is damaged"),
    "generation config a list": (lambda f: (f / GENERATION).write_text("[1]"), r"generation_config\.json is damaged"),
    "generation config no text": (lambda f: (f / GENERATION).write_bytes(b"\xff"), r"generation_config\.json is damag"),
    "end outside": (lambda f: change(f, GENERATION, eos_token_id=[2, 999]), r"eos_token_id 999, but .* ids 0 to"),
    "padding outside": (lambda f: change(f, GENERATION, pad_token_id=-1), r"pad_token_id -1, but .* ids 0 to"),
    "start outside": (
        lambda f: change(f, GENERATION, decoder_start_token_id=999), "decoder_start_token_id 999, but .* ids 0 to",
    ),
    "ids of the config outside": (lambda f: change(f, "config.json", eos_token_id=999), r"config\.json .* 999, but"),
    "beams no number": (lambda f: change(f, GENERATION, num_beams="two"), r"num_beams is 'two'; it must be a whole"),
    "limit below": (lambda f: change(f, GENERATION, max_length=-1), r"max_length is -1; it must be a whole"),
    "beams a flag": (lambda f: change(f, GENERATION, num_beams=True), r"num_beams is True; it must be a whole"),
    "penalty no number": (lambda f: change(f, GENERATION, length_penalty="x"), "length_penalty is 'x'; it must be a n"),
    "cache no flag": (lambda f: change(f, GENERATION, use_cache="null"), "use_cache is 'null'; it must be true or"),
    "padding a flag": (lambda f: change(f, GENERATION, pad_token_id=True), r"pad_token_id True, but .* ids 0 to"),
    "forced outside": (lambda f: change(f, GENERATION, forced_eos_token_id=999), "forced_eos_token_id 999, but .* ids"),
    "weights cut": (lambda f: cut(f, WEIGHTS), r"model\.safetensors is damaged"),
    "weights empty": (lambda f: (f / WEIGHTS).write_bytes(b""), r"model\.safetensors is damaged"),
    "weights absent": (lambda f: (f / WEIGHTS).unlink(), r"no file named model\.safetensors"),
    "pickle damaged": (
        lambda f: ((f / WEIGHTS).unlink(), (f / "pytorch_model.bin").write_bytes(b"abc")), "no seq2seq model can be",
    ),
    "shard absent": (
        lambda f: index(f, json.dumps({"metadata": {}, "weight_map": {ONE: "absent.safetensors"}})),
        r"names absent\.safetensors, which is absent",
    ),
    "index cut": (lambda f: index(f, "{"), r"index\.json is damaged"),
    "index of nothing": (lambda f: index(f, "{}"), r"index\.json of .* has no weight_map"),
    "nothing fits": (lambda f: reweigh(f, lambda s: {"a": torch.ones(1)}), "missing: .* unknown to it: a"),
    "one missing": (lambda f: reweigh(f, lambda s: {key: s[key] for key in s if key != ONE}), f".missing: {ONE}."),
    "one too many": (lambda f: reweigh(f, lambda s: s.update(more=torch.ones(1))), ".unknown to it: more."),
    "another width": (lambda f: change(f, "config.json", encoder_ffn_dim=99), "of another shape: "),
    "not a number": (lambda f: reweigh(f, lambda s: s[ONE].view(-1)[3:4].fill_(math.nan) and None), f"finite.*{ONE}"),
    "infinite": (lambda f: reweigh(f, lambda s: s[ONE].view(-1)[3:4].fill_(-math.inf) and None), f"finite.*{ONE}"),
    "config empty": (lambda f: (f / "config.json").write_text(""), r"config\.json is damaged"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json is damaged"),
    "config of nothing": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "config no text": (lambda f: (f / "config.json").write_bytes(b"\xff"), r"config\.json is damaged"),
    "config with a text": (lambda f: change(f, "config.json", d_model="x"), "d_model"),
    "config absent": (lambda f: (f / "config.json").unlink(), r"it has no config\.json"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence(damage, tmp_path):
    harm, message = DAMAGE[damage]
    tiny("post-norm").save_pretrained(tmp_path)
    whole_model(str(tmp_path))
    harm(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        whole_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["lstm-luong", "lstm-bahdanau", "lstm-untied", *TRANSFORMERS])
def test_whole_models_are_loaded(name, tmp_path):
    """Tied matrices, of which one is saved, are not missing; nor are shards that an index names."""
    tiny(name).save_pretrained(tmp_path, max_shard_size="3KB")
    assert (tmp_path / INDEX).is_file()
    whole_model(str(tmp_path))


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_other_makes_are_loaded(name, tmp_path):
    """What they lack in one place, as an end in the tokenizer or ids for generation, is taken from another."""
    folder = save_other(name, tmp_path)
    (folder / GENERATION).write_text("{}")
    model = load_model(str(folder))
    tokenizer_of(model, str(folder))
    config, generation = model.config, model.generation_config
    for key in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(generation, key) == getattr(config, key) is not None
    if name == "bert2bert":  # the others' configs have one always
        change(folder, "config.json", decoder_start_token_id=None)
        with pytest.raises(ValueError, match=r"has no decoder_start_token_id.*set it to the id"):
            load_model(str(folder))


@pytest.mark.parametrize("name", ["own", *OTHERS])
def test_tokenizer_larger_than_the_model(name, tmp_path):
    if name == "own":
        folder = scored_folder(tmp_path)
        make_tokenizer(letters="abcdefghijklm").save_pretrained(folder)
    else:
        folder = save_other(name, tmp_path)
        tokenizer = OTHERS[name][1]()
        tokenizer.add_tokens(["one", "more"])
        tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="not made for each other"):
        tokenizer_of(load_model(str(folder)), str(folder))


SMALL = [
    "--max_steps", "1", "--eval_steps", "1", "--warmup_steps", "1", "--d_model", "16", "--encoder_layers", "1",
    "--decoder_layers", "1", "--tokenizer.kind", "char", "--num_threads", "1", "--metrics", "chrf",
    "--max_new_tokens", "9",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, tiny, and a file of sentences."""
    place = tmp_path_factory.mktemp("finished")
    folder = scored_folder(place)
    recipe = place / "recipe.yaml"
    shutil.move(folder / "settings.yaml", recipe)
    assert main(["train", str(recipe), *SMALL, "--output_dir", str(place / "run")]) == 0
    return place


def calls(place, run):
    """Every command that loads a model, told to take this one."""
    sound, recipe = str(place / "run"), str(place / "recipe.yaml")
    return {
        "evaluate": ["evaluate", run, "--overwrite"],
        "against": ["evaluate", sound, "--against", run, "--overwrite"],
        "translate": ["translate", run],
        "attend": ["attend", run, "a b", "--output", str(place / "map.png"), "--overwrite"],
        "compare": ["compare", sound, run, "--output", str(place / "compared"), "--overwrite"],
        "train": ["train", recipe, *SMALL, "--init_from", run, "--output_dir", str(place / "started"), "--overwrite"],
        "push": ["push", run, "me/mine"],
        "export": ["export", run, "--to", "ctranslate2", "--output_dir", str(place / "exported")],
    }


SOME = (
    "generation config cut", "end outside", "weights cut", "shard absent", "nothing fits", "one missing",
    "not a number", "config empty", "config a list",
)  # fmt: skip
"""Of every kind one."""
COMMANDS = [*calls(run_folder.Path(), "")]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "damage"), itertools.product(COMMANDS, SOME))
def test_every_command_says_it_in_one_sentence(command, damage, finished, capsys, monkeypatch, tmp_path):
    harm, _ = DAMAGE[damage]
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    harm(run)
    monkeypatch.chdir(tmp_path)
    assert main(calls(finished, str(run))[command]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "run" in last


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "translate", "attend", "compare", "push", "export"])
@pytest.mark.parametrize("text", ["python: 3.12\n", "- a\n", "", "training: {}\ndata: {}\nevaluation: {}\n"])
def test_settings_of_another_tool(command, text, finished, capsys, monkeypatch, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    (run / "settings.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(calls(finished, str(run))[command]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "settings.yaml" in last


@pytest.mark.slow
def test_exported_models_of_the_hub(hub, tmp_path):
    pytest.importorskip("ctranslate2")
    exported(tmp_path, lively(1), "ctranslate2")
    folder = tmp_path / "exported"
    expected = translate(load_exported(folder), AutoTokenizer.from_pretrained(folder), texts(5))
    with hub.client(hub.WRITE):
        for name in ("me/exported", "me/compiled"):
            create_repo(name)
            upload_folder(repo_id=name, folder_path=folder)
            change(folder, "export.json", engine="torch", made_for=machine() | {"torch": "9.0"})
        assert translate(*open_pair("me/exported"), texts(5)) == expected
        with pytest.raises(ValueError, match=r"me/compiled is compiled code that .*: .* give --trust_remote_code"):
            open_pair("me/compiled")
        with pytest.raises(ValueError, match=r"was compiled for torch 9\.0"):  # trusted, it is looked at
            open_pair("me/compiled", trust_remote_code=True)


def test_several_at_once(tmp_path):
    """Threads that load leave transformers as it was: what is made afterwards is tied."""
    tiny("post-norm").save_pretrained(tmp_path)
    before = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: load_model(str(tmp_path)), range(24)))
    assert PreTrainedModel.tie_weights is before
    for model in (*models, tiny("post-norm")):
        assert model.lm_head.weight is model.model.shared.weight


def test_attention_is_switched_in_one_thread_at_a_time():
    """The first to be done does not switch it back under the other."""
    model, entered, left = tiny("post-norm"), threading.Event(), threading.Event()
    assert model.config._attn_implementation == "sdpa"

    def other():
        with eager_attention(model):
            entered.set()
            left.wait()
            return model.config._attn_implementation

    with ThreadPoolExecutor() as pool:
        with eager_attention(model):
            found = pool.submit(other)
            entered.wait(timeout=0.2)  # which it should not
        left.set()
        assert found.result() == "eager"
    assert model.config._attn_implementation == "sdpa"
