"""A small Hub for tests: repositories with their whole history behind the HTTP interface that huggingface_hub speaks.

The fixture ``hub`` (in conftest.py) starts one on this machine for a test and stops it afterwards::

    def test_sharing(hub):
        with hub.client(hub.WRITE):                                   # this process talks to the hub …
            model.push_to_hub("me/model", commit_message="First")
        script(env=hub.env(hub.READ))                                 # … and so does a process with this environment
        assert "model.safetensors" in hub["me/model"].files()        # {path: bytes}; files("v1.0"), files(commit)
        assert [commit.title for commit in hub["me/model"].history()] == ["First", "initial commit"]

        hub.fail("POST", "/commit/", 503, times=2)                    # the next two requests that match
        hub.fail("POST", "/preupload/", 429, headers={"Retry-After": "1"})
        hub.fail("PUT", "/lfs/", hub.DROP, times=99, after_bytes=1000)  # reset 1000 bytes into the upload
        hub.fail("GET", "safetensors", hub.DROP, after_bytes=1000)    # ended 1000 bytes into the download
        hub.fail("POST", "/commit/", hub.LOSE)                        # done, but the answer never arrives
        hub.fail("POST", "/create", 403, headers={"X-Error-Message": "no"})  # X-Error-Code too: RepoNotFound, …
        hub.heal()                                                    # forget what has not happened yet
        hub.stop(), hub.start()                                       # connection refused; back with all it held
        assert len(hub.seen("PUT", "/lfs/")) == 1                     # requests so far: method, path, status, token, …
        hub.requests.clear()

Methods and paths are regular expressions; ``fail`` searches the unquoted path. The client waits up to 8 seconds between
its attempts, but not inside ``hub.client``, unless it is told ``patient=True``.

There are three tokens: ``hub.WRITE`` and ``hub.READ`` of the user "me", who belongs to the organisation "team", and
``hub.STRANGER`` of somebody else. What is private is invisible to strangers, and nobody but WRITE changes anything.
Data sets are the repositories ``datasets/USER/NAME``, made by ``hub.create`` and ``add``, Spaces ``spaces/USER/NAME``.
Cards are checked as the Hub checks them, a little more strictly. What this server does not know it answers with 501.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import struct
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.hub_cards import check_card, check_space

DROP, LOSE = "drop connection", "lose answer"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".model", ".npz", ".zip", ".gz", ".parquet", ".arrow", ".onnx")


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """What the client compares its own file with: git's hash of a blob, or for LFS that of the content."""
        return self.sha256 if self.lfs else hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit; its tree is never changed."""

    title: str
    parent: str | None
    tree: dict[str, File]

    @property
    def oid(self) -> str:
        tree = sorted((path, file.oid) for path, file in self.tree.items())
        return hashlib.sha1(repr((self.title, self.parent, tree)).encode()).hexdigest()


@dataclass
class Repository:
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)  # uploaded objects, committed or not

    @property
    def head(self) -> str:
        return self.branches["main"]

    def find(self, revision: str = "main") -> str | None:
        """The commit that a branch, a tag or a commit's id names."""
        revision = re.sub("^refs/(heads|tags)/", "", revision)
        named = self.branches.get(revision) or self.tags.get(revision)
        return named or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: file.data for path, file in self.commits[self.find(revision)].tree.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        oid, found = self.find(revision), []
        while oid:
            found.append(self.commits[oid])
            oid = found[-1].parent
        return found

    def add(self, title: str, tree: dict[str, File], branch: str = "main") -> str:
        commit = Commit(title, self.branches.get(branch), dict(tree))
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit.oid


@dataclass
class Request:
    method: str
    path: str  # unquoted, without the query
    query: dict[str, list[str]]
    token: str | None
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)
    status: int | str | None = None  # the answer's, or DROP or LOSE

    def json(self) -> dict:
        return json.loads(self.body or b"{}")


@dataclass
class Fault:
    method: str
    path: str
    status: int | str
    times: int
    after_bytes: int
    headers: dict[str, str]


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An answer that is an error, in the words of the Hub."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        headers = {"X-Error-Message": message, **headers, **({"X-Error-Code": code} if code else {})}
        self.answer = Answer(json.dumps({"error": message}).encode(), status, headers)


def reply(content: object, status: int = 200) -> Answer:
    return Answer(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


KINDS = re.compile("^(datasets|spaces)/")
REPO = r"(?P<name>(?:(?:datasets|spaces)/)?[^/]+/[^/]+)"
ROUTES = []


def route(method: str, path: str):
    """A method of `Hub` answers what matches; groups of the path are its arguments, unquoted."""

    def register(function):
        ROUTES.append((re.compile(f"{method} {path}"), function))
        return function

    return register


class Hub:
    DROP, LOSE = DROP, LOSE
    WRITE, READ, STRANGER = "hf_write", "hf_read", "hf_stranger"
    USERS = {  # name, role, namespaces
        WRITE: ("me", "write", ("me", "team")),
        READ: ("me", "read", ("me", "team")),
        STRANGER: ("stranger", "write", ("stranger",)),
    }

    def __init__(self, lfs_over: int = 10 * 2**20):
        self.lfs_over = lfs_over
        self.says_xet = False  # that large files are in Xet storage, which there is none of: as a mirror passes it on
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.uploads: dict[str, tuple[Repository, str, int]] = {}  # by the secret in the address to PUT to
        self.lock = threading.RLock()
        self.homes = tempfile.mkdtemp(prefix="seqloom-hub-")
        self.port = 0
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.homes, ignore_errors=True)

    def __getitem__(self, name: str) -> Repository:
        return self.repositories[name]

    def start(self) -> None:
        """Listens, after `stop` where it listened before."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads, self.server.hub = True, self
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """From now on connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    # How tests use it.

    def fail(self, method="", path="", status=500, *, times=1, after_bytes=0, headers: dict | None = None) -> None:
        """The next requests that match get this status, or are cut off; see this module's first lines."""
        self.faults.append(Fault(method, path, status, times, after_bytes, headers or {}))

    def heal(self) -> None:
        self.faults.clear()

    def seen(self, method="", path="") -> list[Request]:
        return [
            seen for seen in self.requests if re.fullmatch(method or ".*", seen.method) and re.search(path, seen.path)
        ]

    def create(self, name: str, private: bool = False) -> Repository:
        """A new repository as the Hub makes it, without a request."""
        repository = self.repositories[name] = Repository(name, private)
        patterns = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repository.add("initial commit", {".gitattributes": File(patterns.encode(), False)})
        return repository

    def home(self) -> Path:
        """A fresh folder for HF_HOME, gone with the hub."""
        return Path(tempfile.mkdtemp(dir=self.homes))

    def env(self, token: str | None = None, home: str | Path | None = None, **more: str) -> dict[str, str]:
        """The environment for a process of its own; give the same `home` again for the same cache."""
        ours = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(ours) and "proxy" not in key.lower()
        }
        named = {"HF_ENDPOINT": self.url, "HF_HOME": str(home or self.home()), "HF_HUB_OFFLINE": "0"}
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {**kept, **named, **switches, **({"HF_TOKEN": token} if token else {}), **more}

    @contextmanager
    def client(self, token: str | None = None, home: str | Path | None = None, patient: bool = False):
        """This very process is a client of the hub, with a cache of its own and, unless patient, without waiting.

        The libraries read their environment when they are imported; these are the places that keep what they read.
        """
        import datasets.config
        import huggingface_hub.file_download
        import huggingface_hub.hf_api
        import huggingface_hub.utils._http as http
        import transformers.utils.hub
        from huggingface_hub import HfFileSystem, constants

        environment = self.env(token, home)
        with ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, environment, clear=True))
            for name, value in {
                "ENDPOINT": self.url,
                "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
                "HF_HUB_OFFLINE": False,
                "HF_HUB_DISABLE_XET": True,
                "HF_HUB_DISABLE_TELEMETRY": True,
                "HF_HUB_CACHE": str(Path(environment["HF_HOME"], "hub")),
                "HF_TOKEN_PATH": str(Path(environment["HF_HOME"], "token")),
            }.items():
                stack.enter_context(mock.patch.object(constants, name, value))
            for name, value in {
                "HF_ENDPOINT": self.url,
                "HF_HUB_OFFLINE": False,
                "HF_DATASETS_CACHE": Path(environment["HF_HOME"], "datasets"),
            }.items():
                stack.enter_context(mock.patch.object(datasets.config, name, value))
            HfFileSystem.clear_instance_cache()  # each knows what a hub held
            stack.callback(HfFileSystem.clear_instance_cache)
            stack.enter_context(mock.patch.object(huggingface_hub.hf_api.api, "endpoint", self.url))
            stack.enter_context(mock.patch.object(transformers.utils.hub, "_hf_api", None))
            if not patient:
                clock = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
                for module in (http, huggingface_hub.file_download):
                    stack.enter_context(mock.patch.object(module, "time", clock))
            stack.callback(http.close_session)  # which knows the environment's proxies
            http.close_session()
            yield self

    # Who may do what.

    def user(self, request: Request) -> tuple | None:
        if request.token is None:
            return None
        if request.token not in self.USERS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.USERS[request.token]

    def find(self, request: Request, name: str, write: bool = False) -> Repository:
        user = self.user(request)
        owner = KINDS.sub("", name).partition("/")[0]
        repository, mine = self.repositories.get(name), user is not None and owner in user[2]
        if repository is None or (repository.private and not mine):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refusal(401, "Invalid username or password.")
        if write and not (mine and user[1] == "write"):
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository")
        return repository

    def commit_of(self, repository: Repository, revision: str) -> tuple[str, Commit]:
        oid = repository.find(revision)
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    # What it answers: accounts and repositories.

    @route("GET", "/api/whoami-v2")
    def whoami(self, request):
        user = self.user(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        name, role, namespaces = user
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return reply({"type": "user", "name": name, "orgs": [{"name": org} for org in namespaces[1:]], "auth": auth})

    @route("POST", "/api/validate-yaml")
    def validate(self, request):
        asked = request.json()
        errors, warnings = (check_space if asked.get("repoType") == "space" else check_card)(asked["content"])
        content = {
            "errors": [{"message": text} for text in errors],
            "warnings": [{"message": text} for text in warnings],
        }
        return reply(content, 400 if errors else 200)

    @route("POST", "/api/repos/create")
    def create_repo(self, request):
        user, asked = self.user(request), request.json()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        owner, kind = asked.get("organization") or user[0], asked.get("type") or "model"
        if kind not in ("model", "space"):
            raise Refusal(501, "nobody makes data sets on this hub of the tests")
        if user[1] != "write" or owner not in user[2]:
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if kind == "space" and not asked.get("sdk"):
            raise Refusal(400, "Invalid input: a Space needs an sdk")
        name = f"{'spaces/' if kind == 'space' else ''}{owner}/{asked['name']}"
        exists = name in self.repositories
        if not exists:
            self.create(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        content = {"url": f"{self.url}/{name}", "name": name, "id": name}
        if exists:
            content["error"] = f"You already created this {kind} repo"
        return reply(content, 409 if exists else 200)

    @route("DELETE", "/api/repos/delete")
    def delete_repo(self, request):
        asked = request.json()
        name = f"{asked.get('organization') or self.user(request)[0]}/{asked['name']}"
        self.find(request, name, write=True)
        del self.repositories[name]
        return Answer()

    @route("GET", f"/api/models/{REPO}(/revision/(?P<revision>[^/]+))?")
    def info(self, request, name, revision=None):
        repository = self.find(request, name)
        oid, commit = self.commit_of(repository, revision or "main")
        siblings = [{"rfilename": path, "size": len(file.data)} for path, file in sorted(commit.tree.items())]
        about = {
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        name = KINDS.sub("", name)
        return reply({"_id": name, "id": name, "modelId": name, "sha": oid, "siblings": siblings, **about})

    @route("GET", f"/api/models/{REPO}/refs")
    def refs(self, request, name):
        repository, answer = self.find(request, name), {"converts": [], "pullRequests": []}
        for kind, path in (("branches", "heads"), ("tags", "tags")):
            named = getattr(repository, kind).items()
            answer[kind] = [{"name": ref, "ref": f"refs/{path}/{ref}", "targetCommit": oid} for ref, oid in named]
        return reply(answer)

    @route("POST", f"/api/models/{REPO}/(?P<kind>branch|tag)/(?P<ref>[^/]+)")
    def create_ref(self, request, name, kind, ref):
        """A branch is made from a starting point, a tag is named in the body and set at the revision in the path."""
        repository, asked = self.find(request, name, write=True), request.json()
        named, ref, start = (
            (repository.branches, ref, asked.get("startingPoint", "main"))
            if kind == "branch"
            else (repository.tags, asked["tag"], ref)
        )
        oid, _ = self.commit_of(repository, start)
        if ref in named:
            raise Refusal(409, f"Reference already exists: {ref}")
        named[ref] = oid
        return Answer()

    @route("DELETE", f"/api/models/{REPO}/(?P<kind>branch|tag)/(?P<ref>[^/]+)")
    def delete_ref(self, request, name, kind, ref):
        repository = self.find(request, name, write=True)
        named = repository.branches if kind == "branch" else repository.tags
        if ref == "main" or named.pop(ref, None) is None:
            raise Refusal(404, f"Reference not found: {ref}", "RevisionNotFound")
        return Answer()

    @route("GET", f"/api/models/{REPO}/commits/(?P<revision>[^/]+)")
    def commits(self, request, name, revision):
        repository = self.find(request, name)
        oid, _ = self.commit_of(repository, revision)
        about = {"message": "", "date": "2025-01-01T00:00:00.000Z", "authors": [{"user": name.split("/")[0]}]}
        return reply([{"id": commit.oid, "title": commit.title, **about} for commit in repository.history(oid)])

    # Files come down …

    @route("GET", f"/api/models/{REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?")
    def tree(self, request, name, revision, folder=None):
        oid, commit = self.commit_of(self.find(request, name), revision)
        start = f"{folder.strip('/')}/" if folder else ""
        inside = {path: file for path, file in sorted(commit.tree.items()) if path.startswith(start)}
        if start and not inside:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound", **{"X-Repo-Commit": oid})
        recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = {}
        for path, file in inside.items():
            parts = path[len(start) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                parent = start + "/".join(parts[:depth])
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": "0" * 40}
            if recursive or len(parts) == 1:
                entries[path] = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid[:40]}
                if file.lfs:
                    entries[path]["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 130}
        return reply(list(entries.values()))

    @route("(GET|HEAD)", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, request, name, revision, path):
        oid, commit = self.commit_of(self.find(request, name), revision)
        file, headers = commit.tree.get(path), {"X-Repo-Commit": oid}
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
        headers |= {"ETag": f'"{file.oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if file.lfs and self.says_xet:
            route = f"{self.url}/api/models/{name}/xet-read-token/{oid}"
            headers |= {"X-Xet-Hash": file.sha256, "X-Xet-Refresh-Route": route}
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not part:
            return Answer(file.data, 200, headers)
        first, last = int(part[1]), min(int(part[2] or len(file.data)), len(file.data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(file.data)}"
        return Answer(file.data[first : last + 1], 206, headers)

    # … and go up: how, then the large ones, then all as one commit.

    @route("POST", f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)")
    def preupload(self, request, name, revision):
        repository = self.find(request, name, write=True)
        _, commit = self.commit_of(repository, revision)
        answers = []
        for file in request.json()["files"]:
            binary = b"\0" in base64.b64decode(file["sample"])
            large = binary or file["size"] > self.lfs_over or file["path"].endswith(LFS_SUFFIXES)
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if file["path"] in commit.tree:
                answer["oid"] = commit.tree[file["path"]].oid
            answers.append(answer)
        return reply({"files": answers})

    @route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
    def lfs_batch(self, request, name):
        repository, answers = self.find(request, name, write=True), []
        for asked in request.json()["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in repository.lfs:
                secret = secrets.token_hex(8)
                self.uploads[secret] = (repository, asked["oid"], asked["size"])
                answer["actions"] = {"upload": {"href": f"{self.url}/lfs/{name}/{asked['oid']}/{secret}"}}
            answers.append(answer)
        return reply({"transfer": "basic", "objects": answers})

    @route("PUT", f"/lfs/{REPO}/(?P<oid>[0-9a-f]+)/(?P<secret>[0-9a-f]+)")
    def lfs_put(self, request, name, oid, secret):
        repository, expected, size = self.uploads.get(secret, (None, None, None))
        if repository is None or (repository.name, expected) != (name, oid):
            raise Refusal(403, "this address was not given for this object")
        if len(request.body) != size or hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400, f"{len(request.body)} bytes came of an object of {size}, or others than were announced")
        repository.lfs[oid] = request.body
        return Answer()

    @route("POST", f"/api/models/{REPO}/commit/(?P<revision>[^/]+)")
    def commit(self, request, name, revision):
        """All or nothing: the branch moves once everything has been found in order."""
        repository = self.find(request, name, write=True)
        if revision not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if request.query.get("create_pr"):
            raise Refusal(501, "this hub of the tests has no pull requests")
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        old = repository.branches[revision]
        if header.get("parentCommit") not in (None, old):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        if not header.get("summary"):
            raise Refusal(400, "a commit needs a summary")
        tree = dict(repository.commits[old].tree)
        for key, value in ((line["key"], line["value"]) for line in lines):
            path = value.get("path", "")
            if path.startswith("/") or ({"", ".", "..", ".git"} & set(path.rstrip("/").split("/")) and key != "header"):
                raise Refusal(400, f"Invalid path: {path!r}")
            if key == "file":
                tree[path] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in repository.lfs:
                    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
                tree[path] = File(repository.lfs[value["oid"]], True)
            elif key in ("deletedFile", "deletedFolder"):
                inside = [
                    p for p in tree if p == path or (key == "deletedFolder" and p.startswith(path.rstrip("/") + "/"))
                ]
                if not inside:
                    raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for gone in inside:
                    del tree[gone]
            elif key != "header":
                raise Refusal(501, f"this hub of the tests does not know {key}")
        checked = check_space if name.startswith("spaces/") else check_card
        errors, _ = checked(tree["README.md"].data.decode()) if "README.md" in tree else ([], [])
        if errors:
            raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        oid = repository.add(header["summary"], tree, revision)
        return reply({"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"})

    @route("(GET|HEAD)", r"(/api/models)?/(?P<name>[^/]+)(/resolve/.*)?")
    def old_name(self, request, name):
        """Names without a namespace, of which there are none here."""
        return self.find(request, name)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # bodies may come in chunks; but one request to a connection, so that stop() is one

    def respond(self) -> None:
        hub, address = self.server.hub, urlsplit(self.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        headers = {name.title(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(address.path), parse_qs(address.query), token, headers)
        with hub.lock:
            hub.requests.append(request)
            fault = next((fault for fault in hub.faults if fault.times and self.matches(fault, request)), None)
            if fault:
                fault.times -= 1
        if fault and fault.status == DROP and self.has_body:
            request.status, request.body = DROP, self.receive(fault.after_bytes)
            return self.reset()
        request.body = self.receive()
        if fault and isinstance(fault.status, int):
            answer = Refusal(fault.status, "so the test wants it", **fault.headers).answer
        else:
            with hub.lock:
                answer = self.answer(request, address.path)
        if fault and fault.status in (DROP, LOSE):
            request.status = fault.status
            if fault.status == DROP:
                self.send(answer, answer.body[: fault.after_bytes])
            self.close_connection = True
            return
        request.status = answer.status
        self.send(answer, answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    def answer(self, request: Request, raw_path: str) -> Answer:
        raw_path = re.sub("^/api/(datasets|spaces)/", r"/api/models/\1/", raw_path)
        for pattern, function in ROUTES:
            found = pattern.fullmatch(f"{request.method} {raw_path}")
            if found:
                arguments = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
                try:
                    return function(self.server.hub, request, **arguments)
                except Refusal as refusal:
                    return refusal.answer
        return Refusal(501, f"this hub of the tests does not know {request.method} {request.path}").answer

    @staticmethod
    def matches(fault: Fault, request: Request) -> bool:
        return bool(re.fullmatch(fault.method or ".*", request.method) and re.search(fault.path, request.path))

    @property
    def has_body(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "") or int(self.headers.get("Content-Length", 0)) > 0

    def receive(self, most: int | None = None) -> bytes:
        """The body, or what comes of it before `most` bytes are exceeded."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length if most is None else min(most, length))
        body = b""
        while (most is None or len(body) < most) and (size := int(self.rfile.readline().split(b";")[0], 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body[:most]

    def send(self, answer: Answer, body: bytes) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close"}.items():
            self.send_header(name, str(value).replace("\n", " ").encode("ascii", "replace").decode())
        self.end_headers()  # which also ends the connection, once this request is done
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def reset(self) -> None:
        """The other side sees an error while it sends."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:  # cut off, by us or by the client
            self.rfile.close()

    def log_message(self, *_) -> None:
        """Tests look at `Hub.requests` instead."""
