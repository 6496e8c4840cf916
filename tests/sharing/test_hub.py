"""Models and tokenizers by name: pushed with the real client to a Hub of the tests, loaded where there is no seqloom.

The uploads meet what uploads meet: connections cut in the middle, servers out of order, tokens that may not.
"""

import hashlib
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
from helpers.hub_loader import PARTS, TARGETS, TASK, TEXTS, describe
from helpers.hub_server import Hub
from helpers.tiny import RNNS, TRANSFORMERS, tiny
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load as read_safetensors
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from seqloom.data.tokenization import target_tokenizer, train_tokenizer
from seqloom.settings.schema import TokenizerSettings

KINDS = ("byte_bpe", "bpe", "unigram", "word", "char")
CODE = {
    "rnn": {
        "cache_rnn_seq2seq.py", "cells_rnn_seq2seq.py", "configuration_rnn_seq2seq.py", "export_rnn_seq2seq.py",
        "modeling_rnn_seq2seq.py",
    },
    "transformer": {"configuration_transformer_seq2seq.py", "modeling_transformer_seq2seq.py"},
}  # fmt: skip
SHARED_CODE = {"configuration_seq2seq.py", "modeling_seq2seq.py", "pipeline_seq2seq.py"}
OURS = ("configuration_", "modeling_", "tokenization_", "pipeline_")
WEIGHTS = "model.safetensors"


def family(name: str) -> str:
    return "rnn" if name in RNNS else "transformer"


SOURCES = [
    *TEXTS,
    "나는 오늘 친구를 만나지 않았습니다 .",
    "der Apfel fällt nicht weit vom Stamm , sagen die Bären in München",
    "die Bären in München mögen die Äpfel vom Stamm",
    "die Bären mögen nicht die Äpfel in München",
]
DESTINATIONS = [*TARGETS, "an apple does not fall far from the tree , said the bears", "I did not go to school today ."]
# Entries of a shared one, of the sources' and of the targets', where those are two.
SIZES = {
    "byte_bpe": (290, 285, 280),
    "bpe": (90, 80, 60),
    "unigram": (70, 54, 38),
    "word": (40,) * 3,
    "char": (70,) * 3,
}


def make_tokenizer(kind: str, shared: bool):
    """A pair is of two kinds: the second is the next of the list."""
    settings = {"kind": kind, "shared": shared, "vocab_size": SIZES[kind][0 if shared else 1]}
    if not shared:
        target_kind = KINDS[(KINDS.index(kind) + 1) % len(KINDS)]
        settings |= {"target_kind": target_kind, "target_vocab_size": SIZES[target_kind][2]}
    return train_tokenizer(SOURCES * 3, DESTINATIONS * 3, TokenizerSettings(**settings))


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


def state(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, by: float = 0.5):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return model


def same(model, other) -> bool:
    states = model if isinstance(model, dict) else model.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


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
NAMES = [*RNNS, *TRANSFORMERS]
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
        other = "transformer" if family(name) == "rnn" else "rnn"
        assert not [file for file in files if other in file]
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


@pytest.mark.slow
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
        title = "RnnSeq2Seq" if family(name) == "rnn" else "TransformerSeq2Seq"
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


@pytest.mark.slow
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


class TestRevisions:
    def test_commit_branch_and_tag(self, hub):
        with hub.client(hub.WRITE):
            model = tiny("rotary")
            first, old = model.push_to_hub("me/model").oid, state(model)
            huggingface_hub.create_tag("me/model", tag="v1")
            second, new = changed(model).push_to_hub("me/model").oid, state(model)
            third = changed(model).push_to_hub("me/model", revision="experiment").oid
            assert len({first, second, third}) == 3
            load = AutoModelForSeq2SeqLM.from_pretrained
            for revision, weights in {"v1": old, first: old, "main": new, second: new, None: new}.items():
                assert same(weights, load("me/model", revision=revision))
            for revision in ("experiment", third):
                loaded = load("me/model", revision=revision)
                assert same(model, loaded)
                assert not same(new, loaded)
            with pytest.raises(OSError, match="v2"):
                load("me/model", revision="v2")
        repository = hub["me/model"]
        assert (repository.head, repository.tags) == (second, {"v1": first})
        assert [commit.oid for commit in repository.history("experiment")][:3] == [third, second, first]

    def test_unchanged(self, hub):
        """Pushing what is there already makes no commit and sends no weights."""
        with hub.client(hub.WRITE):
            model, tokenizer = tiny("lstm-luong"), make_tokenizer("word", False)
            for _ in range(2):
                model.push_to_hub("me/model")
                tokenizer.push_to_hub("me/model")
            assert len(hub["me/model"].history()) == 3
            assert len(hub.seen("PUT", "/lfs/")) == 1
            assert len(hub.seen("POST", "/commit/")) == 2


class TestLargeFiles:
    @pytest.mark.parametrize(("size", "shards"), [("1GB", 1), ("4MB", 4)])
    def test_weights(self, hub, tmp_path, size, shards):
        """More than ten megabytes, as one file and as several: the bytes that were saved, and the model they were."""
        with hub.client(hub.WRITE):
            model = tiny("gru-bahdanau", hidden_size=512)
            model.push_to_hub("me/model", max_shard_size=size)
            model.save_pretrained(tmp_path, max_shard_size=size)
            repository = hub["me/model"]
            saved = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.safetensors")
            }
            tree = repository.commits[repository.head].tree
            assert {path: file.sha256 for path, file in tree.items() if file.lfs} == saved
            assert len(saved) == len(hub.seen("PUT", "/lfs/")) == shards
            assert sum(len(file.data) for file in tree.values()) > 10 * 2**20
            assert ("model.safetensors.index.json" in tree) is (shards > 1)
            assert same(model, AutoModelForSeq2SeqLM.from_pretrained("me/model"))

    def test_any_file_over_the_threshold(self, tmp_path):
        """A tokenizer of many megabytes goes the way of the weights."""
        with Hub(lfs_over=1000) as hub, hub.client(hub.WRITE):
            tokenizer = make_tokenizer("byte_bpe", True)
            tokenizer.push_to_hub("me/model")
            repository = hub["me/model"]
            assert repository.commits[repository.head].tree["tokenizer.json"].lfs
            tokenizer.push_to_hub("me/model")
            assert len(hub.seen("PUT", "/lfs/")) == 1 + repository.commits[repository.head].tree["README.md"].lfs
            assert AutoTokenizer.from_pretrained("me/model")(TEXTS).input_ids == tokenizer(TEXTS).input_ids


def load_as(hub, login, name="me/model", **keywords):
    """With a cache of its own, where nothing was loaded before."""
    with hub.client(login):
        return AutoModelForSeq2SeqLM.from_pretrained(name, **keywords)


class TestPrivate:
    @pytest.fixture
    def model(self, hub):
        model = tiny("pre-norm")
        with hub.client(hub.WRITE):
            model.push_to_hub("me/model", private=True)
        return model

    def test_with_the_right_token(self, hub, model):
        assert hub["me/model"].private
        for token in (hub.WRITE, hub.READ):
            assert same(model, load_as(hub, token))
        assert same(model, load_as(hub, None, token=hub.READ))
        assert same(model, load_as(hub, hub.STRANGER, token=hub.READ))

    @pytest.mark.parametrize("token", [None, Hub.STRANGER, "hf_nonsense"])
    def test_without(self, hub, model, token):
        """One clear error, as if it did not exist; and nothing of it comes."""
        hub.requests.clear()
        with pytest.raises(OSError, match="me/model"):
            load_as(hub, token)
        assert hub.requests
        assert {request.status for request in hub.requests} <= {401, 404}
        with hub.client(token), pytest.raises((RepositoryNotFoundError, HfHubHTTPError)):
            huggingface_hub.list_repo_files("me/model")

    def test_the_public_one_is_public(self, hub, model):
        with hub.client(hub.WRITE):
            model.push_to_hub("me/open", private=False)
        for token in (None, hub.STRANGER):
            assert same(model, load_as(hub, token, "me/open"))

    @pytest.mark.parametrize(("token", "status"), [(None, 401), (Hub.READ, 403), (Hub.STRANGER, 403)])
    def test_who_may_not_write(self, hub, token, status):
        model = tiny("pre-norm")
        with hub.client(hub.WRITE):
            model.push_to_hub("me/model")
        before = hub["me/model"].head
        with hub.client(token), pytest.raises(HfHubHTTPError, match=str(status)) as error:
            changed(model).push_to_hub("me/model")
        assert error.value.response.status_code == status
        with hub.client(token), pytest.raises(HfHubHTTPError, match=str(status)):
            model.push_to_hub("me/another")
        assert hub["me/model"].head == before
        assert list(hub.repositories) == ["me/model"]
        assert hub.seen("PUT", "/lfs/") == hub.seen("PUT", "/lfs/")[:1]


def pushed_then_changed(hub):
    """A model that is in the repository, and its new weights, which are not yet."""
    model = tiny("lstm-bahdanau")
    model.push_to_hub("me/model")
    old = state(model)
    changed(model)
    hub.requests.clear()
    return model, old, hub["me/model"].head


class TestInterrupted:
    def test_cut_in_the_middle_of_the_weights(self, hub):
        """Nothing has happened then; the next push does it all."""
        with hub.client(hub.WRITE):
            model, old, head = pushed_then_changed(hub)
            hub.fail("PUT", "/lfs/", hub.DROP, times=99, after_bytes=5000)
            with pytest.raises(Exception, match=r"(?i)broken|reset|disconnected|error"):
                model.push_to_hub("me/model")
            cut = hub.seen("PUT", "/lfs/")
            assert [request.status for request in cut] == [hub.DROP] * len(cut)
            assert 5000 <= len(cut[0].body) < int(cut[0].headers["Content-Length"])
            assert not hub.seen("POST", "/commit/")
            assert (hub["me/model"].head, len(hub["me/model"].lfs)) == (head, 1)
            assert same(old, load_as(hub, None))
            hub.heal()
            model.push_to_hub("me/model")
            assert [commit.oid for commit in hub["me/model"].history()][1] == head
        assert same(model, load_as(hub, None))

    def test_the_first_push(self, hub):
        """Of a repository that is only begun nothing loads."""
        model, tokenizer = tiny("rnn"), make_tokenizer("char", False)
        with hub.client(hub.WRITE):
            hub.fail("PUT", "/lfs/", hub.DROP, times=99, after_bytes=100)
            with pytest.raises(Exception, match=r"(?i)broken|reset|disconnected|error"):
                model.push_to_hub("me/model")
            assert set(hub["me/model"].files()) == {".gitattributes"}
            with pytest.raises((OSError, ValueError), match="me/model"):
                load_as(hub, None)
            hub.heal()
            model.push_to_hub("me/model")
            tokenizer.push_to_hub("me/model")
        assert same(model, load_as(hub, None))

    def test_what_arrived_is_not_sent_again(self, hub, tmp_path):
        """Of four shards one is cut off: the second push sends that one alone."""
        with hub.client(hub.WRITE):
            model = tiny("untied-unscaled")
            model.save_pretrained(tmp_path, max_shard_size="6KB")
            shards = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.safetensors")}
            assert len(shards) > 3
            unlucky = sorted(shards)[0]
            hub.fail("PUT", f"/lfs/.*{unlucky}", 503, times=99)
            with pytest.raises(RuntimeError, match=r"model-.*safetensors"):
                model.push_to_hub("me/model", max_shard_size="6KB")
            repository = hub["me/model"]
            arrived = set(repository.lfs)
            assert unlucky not in arrived
            assert arrived < shards
            assert len(repository.history()) == 1
            hub.heal()
            hub.requests.clear()
            model.push_to_hub("me/model", max_shard_size="6KB")
            sent = {request.path.split("/")[-2] for request in hub.seen("PUT", "/lfs/")}
            assert sent == shards - arrived
            assert len(hub.seen("PUT", "/lfs/")) == len(sent)
        assert same(model, load_as(hub, None))

    @pytest.mark.parametrize("status", [409, 412, 500, 503, Hub.DROP])
    def test_commit_refused(self, hub, status):
        """The weights have arrived, the commit has not: pushing again sends no weights."""
        with hub.client(hub.WRITE):
            model, old, head = pushed_then_changed(hub)
            hub.fail("POST", "/commit/", status)
            with pytest.raises(Exception, match=r"(?i)commit|disconnected|reset"):
                model.push_to_hub("me/model")
            assert hub["me/model"].head == head
            assert len(hub["me/model"].lfs) == 2
            assert same(old, load_as(hub, None))
            hub.requests.clear()
            model.push_to_hub("me/model")
            assert not hub.seen("PUT", "/lfs/")
        assert same(model, load_as(hub, None))

    def test_answer_lost(self, hub):
        """The commit is made, but nobody hears of it: pushing again changes nothing."""
        with hub.client(hub.WRITE):
            model, _, head = pushed_then_changed(hub)
            hub.fail("POST", "/commit/", hub.LOSE)
            with pytest.raises(Exception, match=r"(?i)disconnected|reset"):
                model.push_to_hub("me/model")
            made = hub["me/model"].head
            assert made != head
            assert model.push_to_hub("me/model").oid == made
        assert len(hub["me/model"].history()) == 3
        assert same(model, load_as(hub, None))

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("PUT", "/lfs/", Hub.DROP),
            ("PUT", "/lfs/", 503),
            ("PUT", "/lfs/", Hub.LOSE),
            ("POST", "/objects/batch", 500),
            ("POST", "/preupload/", 429),
        ],
    )
    def test_a_passing_fault(self, hub, method, path, status):
        """Tried again by the client, without a word."""
        with hub.client(hub.WRITE):
            model, _, head = pushed_then_changed(hub)
            hub.fail(method, path, status, after_bytes=1000, headers={"Retry-After": "0"})
            model.push_to_hub("me/model")
            assert [request.status for request in hub.seen(method, path)] == [status, 200]
        assert [commit.oid for commit in hub["me/model"].history()][1] == head
        assert same(model, load_as(hub, None))

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_refused(self, hub, status):
        with hub.client(hub.WRITE):
            model, _, head = pushed_then_changed(hub)
            hub.fail("POST", "/preupload/", status)
            with pytest.raises(HfHubHTTPError, match=str(status)):
                model.push_to_hub("me/model")
        assert hub["me/model"].head == head

    def test_download_cut_off(self, hub):
        """What stops in the middle is no model; the next try goes on, and is one."""
        with hub.client(hub.WRITE):
            model = tiny("lstm-bahdanau")
            model.push_to_hub("me/model")
        with hub.client():
            hub.fail("GET", WEIGHTS, hub.DROP, after_bytes=4000)
            assert same(model, AutoModelForSeq2SeqLM.from_pretrained("me/model"))
            assert [request.status for request in hub.seen("GET", WEIGHTS)] in ([hub.DROP, 200], [hub.DROP, 206])
        with hub.client():
            hub.fail("GET", WEIGHTS, hub.DROP, times=99, after_bytes=4000)
            with pytest.raises(Exception, match=r"(?i)reset|closed|incomplete|me/model"):
                AutoModelForSeq2SeqLM.from_pretrained("me/model")
            hub.heal()
            assert same(model, AutoModelForSeq2SeqLM.from_pretrained("me/model"))

    def test_nobody_there(self, hub):
        """A clear error; what is in the cache loads, and the Hub that is back has all it had."""
        with hub.client(hub.WRITE):
            model, _, head = pushed_then_changed(hub)
            loaded = AutoModelForSeq2SeqLM.from_pretrained("me/model")
            hub.stop()
            with pytest.raises(Exception, match=r"(?i)refused|connect"):
                model.push_to_hub("me/model")
            assert same(loaded, AutoModelForSeq2SeqLM.from_pretrained("me/model"))
            with pytest.raises(OSError, match="connect"):
                AutoModelForSeq2SeqLM.from_pretrained("me/other")
            hub.start()
            assert hub["me/model"].head == head
            model.push_to_hub("me/model")
        assert same(model, load_as(hub, None))


class TestServer:
    """The Hub of the tests does what the Hub does, else the tests above say little."""

    def test_this_process_is_a_client_only_inside(self, hub):
        from huggingface_hub import constants

        before = (
            constants.ENDPOINT,
            constants.HF_HUB_OFFLINE,
            constants.HF_HUB_CACHE,
            huggingface_hub.hf_api.api.endpoint,
        )
        with hub.client(hub.WRITE):
            assert huggingface_hub.whoami()["name"] == "me"
            assert huggingface_hub.get_token() == hub.WRITE
        after = (
            constants.ENDPOINT,
            constants.HF_HUB_OFFLINE,
            constants.HF_HUB_CACHE,
            huggingface_hub.hf_api.api.endpoint,
        )
        assert before == after
        assert huggingface_hub.get_token() is None
        seen = len(hub.requests)
        with pytest.raises(OSError, match="connect"):
            AutoModelForSeq2SeqLM.from_pretrained("me/model")
        assert len(hub.requests) == seen

    def test_files_and_history(self, hub, tmp_path):
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "한글 file.txt").write_text("x")
        (tmp_path / "a.txt").write_text("a")
        (tmp_path / "b.bin").write_bytes(bytes(2000))
        with hub.client(hub.WRITE):
            huggingface_hub.create_repo("team/r")
            with pytest.raises(HfHubHTTPError, match="409"):
                huggingface_hub.create_repo("team/r")
            huggingface_hub.upload_folder(repo_id="team/r", folder_path=tmp_path, commit_message="all")
            huggingface_hub.create_branch("team/r", branch="old")
            huggingface_hub.delete_file("a.txt", "team/r", commit_message="one less")
            with pytest.raises(HfHubHTTPError, match="404"):
                huggingface_hub.delete_file("a.txt", "team/r")
            huggingface_hub.delete_folder("deep", "team/r")
            assert set(huggingface_hub.list_repo_files("team/r")) == {".gitattributes", "b.bin"}
            assert "deep/er/한글 file.txt" in huggingface_hub.list_repo_files("team/r", revision="old")
            tree = {entry.path for entry in huggingface_hub.HfApi().list_repo_tree("team/r", revision="old")}
            assert tree == {".gitattributes", "a.txt", "b.bin", "deep"}
            folder = Path(huggingface_hub.snapshot_download("team/r", revision="old"))
            assert (folder / "deep" / "er" / "한글 file.txt").read_text() == "x"
            titles = [commit.title for commit in huggingface_hub.list_repo_commits("team/r")]
            assert titles[1:] == ["one less", "all", "initial commit"]
            with pytest.raises(RevisionNotFoundError):
                huggingface_hub.list_repo_files("team/r", revision="none")
            huggingface_hub.delete_repo("team/r")
            assert not huggingface_hub.repo_exists("team/r")

    def test_no_commit_without_its_objects(self, hub):
        """Neither an object that is missing, nor one cut short, nor a commit on top of another than was meant."""
        with hub.client(hub.WRITE):
            head = hub.create("me/r").head
            session, headers = huggingface_hub.utils.get_session(), {"Authorization": f"Bearer {hub.WRITE}"}
            data = b"weights"
            oid = hashlib.sha256(data).hexdigest()
            lines = [
                {"key": "header", "value": {"summary": "s"}},
                {"key": "file", "value": {"path": "a.txt", "content": "YQ==", "encoding": "base64"}},
                {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid, "size": 7}},
            ]

            def commit():
                content = "\n".join(map(json.dumps, lines))
                return session.post(
                    f"{hub.url}/api/models/me/r/commit/main", headers=headers, content=content
                ).status_code

            assert commit() == 400
            batch = {"operation": "upload", "objects": [{"oid": oid, "size": 7}]}
            batch = session.post(f"{hub.url}/me/r.git/info/lfs/objects/batch", headers=headers, json=batch).json()
            address = batch["objects"][0]["actions"]["upload"]["href"]
            for wrong in (b"weight", b"Weights"):
                assert session.put(address, content=wrong).status_code == 400
            assert commit() == 400
            assert hub["me/r"].head == head
            assert session.put(address, content=(data[i : i + 3] for i in (0, 3, 6))).status_code == 200  # in chunks
            lines[0]["value"]["parentCommit"] = "0" * 40
            assert commit() == 412
            lines[0]["value"]["parentCommit"] = head
            assert commit() == 200
            assert hub["me/r"].files()["w.bin"] == data

    @pytest.mark.parametrize(
        ("header", "error"),
        [
            ("license: apache-2.0\nlanguage: [en, kor]\npipeline_tag: translation\ntags: [a]", None),
            ("license: Apache 2.0", "license"),
            ("language: english", "ISO 639"),
            ("language: [de, jp]", "jp"),
            ("pipeline_tag: seq2seq", "pipeline tag"),
            ("datasets: [a/b, /home/data]", "/home/data"),
            ("a: [", "YAML"),
            ("model-index: [{results: []}]", r"model-index\[0\].name"),
            (
                "model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d}, metrics: [{type: bleu}]}]}]",
                r"dataset.name.*metrics\[0\].value",
            ),
            (
                "model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d, name: n}, "
                "metrics: [{type: bleu, value: 0}]}]}]",
                None,
            ),
        ],
    )
    def test_cards(self, hub, header, error):
        card = f"---\n{header}\n---\n# A model\n".encode()
        with hub.client(hub.WRITE):
            head = hub.create("me/r").head
            upload = {"repo_id": "me/r", "path_or_fileobj": card, "path_in_repo": "README.md"}
            if error is None:
                huggingface_hub.upload_file(**upload)
                assert hub["me/r"].files()["README.md"] == card
            else:
                with pytest.raises(ValueError, match=f"(?s){error}"):
                    huggingface_hub.upload_file(**upload)
                assert hub["me/r"].head == head

    def test_faults_in_their_order(self, hub):
        with hub.client(patient=False):
            session = huggingface_hub.utils.get_session()
            hub.fail("GET", "/whoami", 500)
            hub.fail("GET", "/whoami", 429, times=2, headers={"Retry-After": "3"})
            answers = [session.get(f"{hub.url}/api/whoami-v2") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [500, 429, 429, 401]
            assert answers[1].headers["Retry-After"] == "3"
            assert [request.status for request in hub.seen("GET")] == [500, 429, 429, 401]
            assert session.get(f"{hub.url}/api/new-thing").status_code == 501
