"""A Hub that is out of reach is asked once a while: what is in the cache is taken, of the rest the message says why."""

import socket
import threading

import pytest
from helpers.hub_server import File
from huggingface_hub import constants

from seqloom.decoding.loading import open_pair
from seqloom.serving.languages import of_card
from seqloom.support import hub_files

NAME = "seqloom-user/shared"


@pytest.fixture
def nobody(hub, monkeypatch):
    """What was asked of a Hub that takes every connection and says nothing; the cache is that of the tests' Hub."""
    with hub.client(), socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def hang_up():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                asked.append(connection)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        hub.create(NAME).add("card", {"README.md": File(b"---\nlanguage: [en, de]\n---\n", False)})
        assert of_card(NAME) == ["en", "de"]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_what_is_there(hub):
    with hub.client():
        hub.create(NAME).add("card", {"README.md": File(b"# shared\n", False)})
        assert hub_files.out_of_reach() is None
        assert hub_files.file_of(NAME, "README.md").read_bytes() == b"# shared\n"
        assert hub_files.file_of(NAME, "config.json") is None
        assert hub_files.file_of("seqloom-user/nothing", "README.md") is None


def test_a_folder_asks_nobody(nobody, tmp_path):
    (tmp_path / "config.json").touch()
    assert hub_files.file_of(str(tmp_path), "config.json") == tmp_path / "config.json"
    assert hub_files.file_of(str(tmp_path), "README.md") is None
    assert not hub_files.is_only_here(tmp_path)
    assert not nobody


def test_out_of_reach(nobody):
    """A mistyped name is six requests for files."""
    assert of_card(NAME) == ["en", "de"]  # from the cache
    assert of_card("seqloom-user/nothing") == []
    with pytest.raises(ValueError, match=r"no folder a/model here, and the Hub, .* is out of reach \(.+\)"):
        open_pair("a/model")
    assert len(nobody) == 1


def test_a_network_that_comes_back(nobody, hub, monkeypatch):
    monkeypatch.setattr(hub_files, "REMEMBERED", 0.0)
    assert hub_files.out_of_reach()
    assert hub_files.out_of_reach()
    assert len(nobody) == 2
    monkeypatch.setitem(hub_files._answers, hub.url, hub_files._answers[constants.ENDPOINT])
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    assert hub_files.out_of_reach() is None


def test_switched_off(nobody, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"is out of reach \(HF_HUB_OFFLINE is set\)"):
        open_pair("a/model")
    assert not nobody
