"""A Hub that has no Xet storage: what went wrong is said with what helps, and that helps."""

import pytest
from helpers.tiny import tiny
from huggingface_hub import constants

from seqloom.decoding.loading import load_model
from seqloom.settings.schema import HubSettings
from seqloom.sharing.hub import commit, explained

pytest.importorskip("hf_xet")
TO = HubSettings(push_to_hub="me/model")
FILES = {"model.safetensors": b"0" * 1000}
CURE = "which a Hub of one's own .HF_ENDPOINT. may not have: set HF_HUB_DISABLE_XET=1 and try again"


@pytest.mark.slow  # the client waits between its attempts where it does so in its own threads
def test_pushing(hub, monkeypatch):
    hub.fail("GET", "/xet-write-token/", 404, times=99)  # as a server answers that knows no such address
    with hub.client(hub.WRITE):
        repository = hub.create("me/model")
        before = repository.head
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
            with pytest.raises(ValueError, match=f"not pushed: .*404 Not Found.*xet-write-token.*{CURE}"), \
                    explained("not pushed"):  # fmt: skip
                commit(TO, FILES, "Weights")
        assert hub.seen("GET", "/xet-write-token/")
        assert repository.head == before
        commit(TO, FILES, "Weights")  # as the sentence says
    assert repository.files()["model.safetensors"] == FILES["model.safetensors"]


@pytest.mark.slow
def test_loading(hub, monkeypatch):
    """A mirror that passes on the headers of the Hub, but not what these lead to."""
    with hub.client(hub.WRITE):
        tiny("lstm-bahdanau").push_to_hub("me/model")
    hub.says_xet = True
    hub.fail("GET", "/xet-read-token/", 404, times=99)
    with hub.client():
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
            with pytest.raises(ValueError, match=f"no seq2seq model can be loaded from 'me/model': .*{CURE}"):
                load_model("me/model")
        assert load_model("me/model").config.model_type == "rnn_seq2seq"


@pytest.mark.slow
def test_other_errors_stay_as_they_are(hub):
    with hub.client(), pytest.raises(ValueError, match="no seq2seq model can be loaded from 'me/model'") as error:
        load_model("me/model")
    assert "XET" not in str(error.value)
