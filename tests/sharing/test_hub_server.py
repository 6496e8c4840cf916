"""The Hub of the tests does what the Hub does: histories, objects, cards, and faults in their order."""

import hashlib
import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from transformers import AutoModelForSeq2SeqLM


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
