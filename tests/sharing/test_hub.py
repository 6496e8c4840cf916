"""Uploads meet what uploads meet: connections cut in the middle, servers out of order, tokens that may not."""

import hashlib

import huggingface_hub
import pytest
import torch
from helpers.hub_loader import TEXTS
from helpers.hub_server import Hub
from helpers.pushed import make_tokenizer, state
from helpers.tiny import tiny
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

WEIGHTS = "model.safetensors"


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


@pytest.mark.slow
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


@pytest.mark.slow
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
