"""Models and tokenizers by name: pushed with the real client, they say the same where there is no seqloom."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from helpers.hub_cards import check_card
from helpers.hub_loader import PARTS, TASK, describe
from helpers.hub_server import Hub
from helpers.pushed import KINDS, make_tokenizer
from helpers.tiny import EVERY, HYBRIDS, RNNS, tiny
from safetensors.torch import load as read_safetensors
from transformers import pipeline

from seqloom.data.tokenization import target_tokenizer

pytestmark = pytest.mark.slow

CODE = {
    "rnn": {
        "cache_rnn_seq2seq.py", "cells_rnn_seq2seq.py", "configuration_rnn_seq2seq.py", "export_rnn_seq2seq.py",
        "modeling_rnn_seq2seq.py", "scan_rnn_seq2seq.py",
    },
    "transformer": {
        "configuration_transformer_seq2seq.py", "modeling_transformer_seq2seq.py", "positions_transformer_seq2seq.py",
    },
}  # fmt: skip
CODE["hybrid"] = {
    *(CODE["rnn"] | CODE["transformer"]) - {"configuration_rnn_seq2seq.py", "modeling_rnn_seq2seq.py"},
    "configuration_hybrid_seq2seq.py", "modeling_hybrid_seq2seq.py",
}  # fmt: skip


SHARED_CODE = {"configuration_seq2seq.py", "modeling_seq2seq.py", "pipeline_seq2seq.py"}


WEIGHTS = "model.safetensors"


def family(name: str) -> str:
    return "rnn" if name in RNNS else "hybrid" if name in HYBRIDS else "transformer"


def make_model(name: str, tokenizer, seed: int = 1):
    """A tiny model of that name, whose vocabularies are the tokenizer's, with a length of its own to generate."""
    model = tiny(name)
    config, target = model.config, target_tokenizer(tokenizer)
    config.vocab_size, config.decoder_vocab_size = len(tokenizer), len(target)
    if target is not tokenizer:
        config.share_encoder_decoder_embeddings = False
    torch.manual_seed(seed)
    model = type(model)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    model.generation_config.max_new_tokens = 11
    return model


def run(hub, loads: list[dict], home: Path, without_seqloom: bool = True, token=None, **environment) -> list[dict]:
    """What a fresh process elsewhere says of what it loads."""
    done = subprocess.run(
        [sys.executable, "-c", LOADER], input=json.dumps({"without_seqloom": without_seqloom, "loads": loads}),
        env=hub.env(token, home, OMP_NUM_THREADS="1", **environment), cwd=home,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LOADER = Path(__file__).parents[1].joinpath("helpers", "hub_loader.py").read_text(encoding="utf-8")


NAMES = list(EVERY)


COMBINATIONS = [(kind, shared) for kind in KINDS for shared in (True, False)]


TOKENIZER_OF = {name: COMBINATIONS[i % len(COMBINATIONS)] for i, name in enumerate(NAMES)}


REPRESENTATIVES = ("lstm-luong-fed", "rotary")  # one of each family, with a pair and with a shared tokenizer


@pytest.fixture(scope="module")
def house():
    """A Hub with every tiny model, each with one of the tokenizers, and what they do wherever they are loaded."""
    with Hub() as hub:
        house = SimpleNamespace(hub=hub, expected={}, models={}, home=hub.home())
        with hub.client(hub.WRITE):
            for name in NAMES:
                tokenizer = make_tokenizer(*TOKENIZER_OF[name])
                model = house.models[name] = make_model(name, tokenizer)
                model.push_to_hub(f"me/{name}")
                tokenizer.push_to_hub(f"me/{name}")
                parts = {"config": model.config, "tokenizer": tokenizer, "model": model, "base": model.base_model}
                parts["pipeline"] = pipeline(TASK, model=model, tokenizer=tokenizer)
                told = {part: describe(part, loaded) for part, loaded in parts.items()}
                house.expected[name] = json.loads(json.dumps(told))  # as a process would tell it
            model = make_model("gru", tokenizer)
            house.first = model.push_to_hub("me/revised").oid
            house.expected["revised"] = {"model": describe("model", model)}
            huggingface_hub.create_tag("me/revised", tag="v1")
            place = "modeling_rnn_seq2seq.py"
            code = hub["me/revised"].files()[place] + b"\nRnnSeq2SeqForConditionalGeneration.__qualname__ = 'Second'\n"
            huggingface_hub.upload_file(repo_id="me/revised", path_or_fileobj=code, path_in_repo=place)
        yield house


@pytest.fixture(scope="module")
def strangers(house):
    """What a process without seqloom says of all of them; and of two of them again, once it pushed what it loaded."""
    trust = {"trust_remote_code": True}
    loads = [{"name": f"me/{name}", **trust} for name in NAMES]
    loads += [{"name": f"me/{name}", "again": f"me/{name}-again", **trust} for name in REPRESENTATIVES]
    loads += [{"name": f"me/{name}-again", **trust} for name in REPRESENTATIVES]
    loads += [{"name": f"me/{name}", "say": False} for name in REPRESENTATIVES]
    revised = {"name": "me/revised", "parts": ["model"], **trust}
    loads += [{**revised, "revision": house.first}, {**revised, "revision": "v1"}, revised]
    told = run(house.hub, loads, house.home, token=house.hub.WRITE)
    names = [*NAMES, *("before", "before"), *(f"{name}-again" for name in REPRESENTATIVES)]
    names += [f"{name}-distrusted" for name in REPRESENTATIVES]
    names += ["revised-first", "revised-v1", "revised"]
    return dict(zip(names, told, strict=True))


def check(told: dict, expected: dict, parts=PARTS) -> None:
    for part in parts:
        assert "error" not in told[part], f"{part}: {told[part]['error']}"
        got, wanted = ({**side[part]} for side in (told, expected))
        got.pop("class")
        if part in ("model", "base"):
            outputs = torch.tensor(got.pop("outputs")), torch.tensor(wanted.pop("outputs"))
            torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
        assert got == wanted, part


class TestPushed:
    @pytest.mark.parametrize("name", NAMES)
    def test_files(self, house, name):
        """All that loading needs lies in the repository: weights, configs, tokenizer, and the code of these alone."""
        repository, (_, shared) = house.hub[f"me/{name}"], TOKENIZER_OF[name]
        files = set(repository.files())
        wanted = {"config.json", "generation_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"}
        wanted |= {"README.md", ".gitattributes"} | CODE[family(name)] | SHARED_CODE
        if not shared:
            wanted |= {"target_tokenizer.json", "tokenization_seq2seq_pair.py"}
        assert wanted <= files
        assert {file for file in files - wanted if not file.endswith(".py")} == set()
        assert not files & (set().union(*CODE.values()) - CODE[family(name)])
        assert ("tokenization_seq2seq_pair.py" in files) is not shared
        tree = repository.commits[repository.head].tree
        assert [path for path, file in tree.items() if file.lfs] == [WEIGHTS]

    @pytest.mark.parametrize("name", REPRESENTATIVES)
    def test_code_is_ours(self, house, name):
        """Byte for byte, and every import between the files finds its file."""
        files = house.hub[f"me/{name}"].files()
        code = {path: data for path, data in files.items() if path.endswith(".py")}
        for path, data in code.items():
            assert data == Path(__file__).parents[2].joinpath("modeling", path).read_bytes()
            for module in re.findall(r"from \.(\w+) import", data.decode()):
                assert f"{module}.py" in code
        config = json.loads(files["config.json"])
        named = [*config["auto_map"].values(), *(pipe["impl"] for pipe in config["custom_pipelines"].values())]
        assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"}
        assert [f"{place.split('.')[0]}.py" in code for place in named] == [True] * 4
        told = json.loads(files["tokenizer_config.json"])
        assert ("auto_map" in told) is ("target_tokenizer.json" in files)

    @pytest.mark.parametrize("name", REPRESENTATIVES)
    def test_weights(self, house, name):
        stored = read_safetensors(house.hub[f"me/{name}"].files()[WEIGHTS])
        state = house.models[name].state_dict()
        assert stored.keys() <= state.keys()
        assert all(torch.equal(stored[key], state[key]) for key in stored)

    def test_card(self, house):
        for name in NAMES:
            errors, warnings = check_card(house.hub[f"me/{name}"].files()["README.md"].decode())
            assert (errors, warnings) == ([], [])


class TestWithoutSeqloom:
    """Where `import seqloom` fails, all is loaded by name from the code beside the weights."""

    def test_every_tokenizer_is_here(self):
        assert set(TOKENIZER_OF.values()) == set(COMBINATIONS)

    @pytest.mark.parametrize("name", NAMES)
    def test_same(self, house, strangers, name):
        check(strangers[name], house.expected[name])

    @pytest.mark.parametrize("name", NAMES)
    def test_classes(self, strangers, name):
        """None but the repository's own."""
        told = strangers[name]
        start = f"transformers_modules.me.{name.replace('-', '_hyphen_')}."
        for part in ("config", "model", "base", "pipeline"):
            assert told[part]["class"].startswith(start)
        plain = TOKENIZER_OF[name][1]
        assert told["tokenizer"]["class"].startswith("transformers.tokenization_utils" if plain else start)
        title = f"{family(name).title()}Seq2Seq"
        ends = ("Config", "ForConditionalGeneration", "Model")
        for part, end in zip(("config", "model", "base"), ends, strict=True):
            assert told[part]["class"].endswith(f".{title}{end}")

    @pytest.mark.parametrize("name", REPRESENTATIVES)
    def test_saved_again(self, house, strangers, name):
        """What was loaded by its own code keeps it, under another name too."""
        check(strangers[f"{name}-again"], house.expected[name])
        first, second = (house.hub[f"me/{n}"].files() for n in (name, f"{name}-again"))
        assert first.keys() == second.keys()
        assert [path for path in first if path.endswith((".py", ".safetensors")) and first[path] != second[path]] == []
        first, second = (json.loads(files["config.json"]) for files in (first, second))
        for key in ("auto_map", "custom_pipelines"):
            assert first[key] == second[key]
        assert strangers[f"{name}-again"]["model"]["class"].startswith("transformers_modules.me.")

    @pytest.mark.parametrize("name", REPRESENTATIVES)
    def test_not_without_trust(self, strangers, name):
        told = strangers[f"{name}-distrusted"]
        for part in ("config", "model", "base", "pipeline"):
            assert "trust_remote_code" in told[part]["error"]
        if TOKENIZER_OF[name][1]:
            assert "error" not in told["tokenizer"]  # no code of ours is in it
        else:
            assert "trust_remote_code" in told["tokenizer"]["error"]

    def test_code_of_a_revision(self, house, strangers):
        """A revision's weights are loaded with that revision's code."""
        told = [strangers[name] for name in ("revised-first", "revised-v1", "revised")]
        for one in told:
            check(one, house.expected["revised"], ["model"])
        names = [one["model"]["class"].rpartition(".")[2] for one in told]
        assert names == ["RnnSeq2SeqForConditionalGeneration"] * 2 + ["Second"]

    def test_offline(self, house, strangers):
        """What was loaded once loads again without a network."""
        before = len(house.hub.requests)
        loads = [{"name": f"me/{name}", "trust_remote_code": True} for name in REPRESENTATIVES]
        loads += [{"name": "me/never", "trust_remote_code": True, "parts": ["model"]}]
        *told, never = run(house.hub, loads, house.home, HF_HUB_OFFLINE="1")
        for name, one in zip(REPRESENTATIVES, told, strict=True):
            check(one, house.expected[name])
        assert "connect" in never["model"]["error"]
        assert len(house.hub.requests) == before


def test_with_seqloom(house):
    """One import, and no trust is asked: our classes are taken, with or without it."""
    few = [part for part in PARTS if part != "pipeline"]
    parts = {name: PARTS if name in REPRESENTATIVES else few for name in NAMES}
    loads = [{"name": f"me/{name}", "parts": parts[name]} for name in NAMES]
    loads += [{"name": f"me/{name}", "say": False, "trust_remote_code": True} for name in REPRESENTATIVES]
    told = run(house.hub, loads, house.hub.home(), without_seqloom=False)
    for name, one in zip([*NAMES, *REPRESENTATIVES], told, strict=True):
        for part in parts[name]:
            plain = part == "tokenizer" and TOKENIZER_OF[name][1]
            assert "error" not in one[part], one[part]["error"]
            assert one[part]["class"].startswith("transformers." if plain else "seqloom."), one[part]["class"]
    for name, one in zip(NAMES, told[: len(NAMES)], strict=True):
        check(one, house.expected[name], parts[name])
