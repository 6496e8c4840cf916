"""Sharing a finished run on the Hub: everything in one commit, and its scores only once the pushed model gives them.

1. Weights, configs, tokenizer, the models' code, settings, record and log go up in one commit, with a card that holds
   no scores: an interrupted upload leaves the repository as it was.
2. The commit is loaded from the Hub, by the code that went with it, and decodes a sample of the scored split.
3. If it says what the record says, the card gets its scores in a second commit; if not, pushing fails and says so.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from seqloom import cards, metrics
from seqloom.decoding import translate
from seqloom.settings import HubSettings, Settings, load_settings, without_places

USAGE = "usage: seqloom push FOLDER USER/MODEL [--hub_private_repo true] [--hub_revision BRANCH]"
WEIGHTS = (".safetensors", ".safetensors.index.json")
SAMPLE_SIZE = 100
LEAST_SAME = 0.95
"""Share of the sample's outputs that must come out again letter for letter. Near ties may fall otherwise on another
machine, in another precision or batch."""


def main(argv: Sequence[str]) -> int:
    """The command ``seqloom push``; returns its exit status."""
    words = list(argv)
    if len(words) < 2 or words[0] in ("-h", "--help"):
        about = "FOLDER is the output folder of a finished run. A token comes from HF_TOKEN or `hf auth login`."
        print(USAGE, "", about, sep="\n")
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    try:
        folder, name, *options = words
        for option in options:
            if option.startswith("--") and option.partition("=")[0] not in ("--hub_private_repo", "--hub_revision"):
                raise ValueError(f"{option} is unknown. {USAGE}")
        path = finished_run(Path(folder)) / "settings.yaml"
        push(Path(folder), load_settings(path, ["--push_to_hub", name, *options]).hub)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def finished_run(folder: Path) -> Path:
    """The folder, if it holds a finished run.

    Raises:
        ValueError: It does not.
    """
    for name in ("settings.yaml", "record.json", "config.json"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} has no {name}, so it is not the folder of a finished run; "
                "any other folder can be uploaded with `hf upload`."
            )
    return folder


def prepare(hub: HubSettings) -> None:
    """Makes the repository before anything is trained: whoever may not push learns it now.

    Raises:
        ValueError: The Hub cannot be reached or does not allow it.
    """
    with explained(f"nothing can be pushed to {hub.push_to_hub}"):
        api = HfApi()
        api.create_repo(hub.push_to_hub, private=hub.hub_private_repo, exist_ok=True)
        if hub.hub_revision:
            api.create_branch(hub.push_to_hub, branch=hub.hub_revision, exist_ok=True)


def push_best(folder: Path, hub: HubSettings, message: str, say: Callable[[str], None] = print) -> None:
    """Pushes a checkpoint while its run goes on. What goes wrong is told; it does not end the training."""
    try:
        with explained(f"the best checkpoint was not pushed to {hub.push_to_hub}"):
            commit(hub, {path.name: path for path in folder.iterdir() if path.is_file()}, message)
    except ValueError as error:
        say(f"warning: {error}; the training goes on, and the next push takes it along.")


def push(folder: Path, hub: HubSettings, say: Callable[[str], None] = print) -> str:
    """Pushes a finished run.

    Args:
        folder: Its output folder, which stays as it is.
        hub: Where to.
        say: Takes a line for the user.

    Returns:
        The address of the last commit.

    Raises:
        ValueError: The Hub cannot be reached or does not allow it, or the pushed model does not give the scores of the
            record. The message has the command that pushes later.
    """
    settings = load_settings(finished_run(folder) / "settings.yaml")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    name = hub.push_to_hub
    own = own_card(folder, name)
    what = f"{folder} was not pushed to {name}"
    then = f"the model is whole in {folder}; push it later with: seqloom push {folder} {name}"
    is_scored = record["evaluation"] is not None
    with explained(what, then):
        prepare(hub)
        files = shared_files(folder, settings, record)
        card = cards.make_card(folder, name, with_scores=not is_scored)
        first = {"README.md": card.encode() if is_scored or own is None else own.encode()}
        if is_scored:  # what tells of scores comes with the second commit
            first["record.json"] = as_json(shareable_record(record) | {"evaluation": None, "progress": None})
            curve = files.pop(cards.CURVE, None)
        info = commit(hub, files | first, f"{settings.model['model_type']}, trained with seqloom")
    say(f"pushed {len(files | first)} files to {info.repo_url}")
    if is_scored:
        with explained(f"the scores of {name} were not published, since it could not be loaded again", then):
            model, tokenizer = load_pushed(name, info.oid)
        same, total = reproduce(folder, record, settings, model, tokenizer)
        check = f"Downloaded at revision `{info.oid}`, the model gave {same} of {total} sampled outputs as scored."
        say(check)
        card = cards.make_card(folder, name, check=check) if own is None else own
        second = {"README.md": card.encode(), "record.json": files["record.json"]}
        with explained(f"the card of {name} was not pushed", then):
            second |= {} if curve is None else {cards.CURVE: curve}
            info = commit(hub, second, "Scores, which the pushed model gives")
    say(f"the model is shared: {info.repo_url}")
    return info.commit_url


def own_card(folder: Path, name: str) -> str | None:
    """The folder's card with the model's new name, if somebody wrote another than the one made of the record."""
    path = folder / "README.md"
    if not path.is_file() or (text := path.read_text(encoding="utf-8")) == cards.make_card(folder):
        return None
    return text.replace(f'"{folder.name}"', f'"{name}"')


def shared_files(folder: Path, settings: Settings, record: dict[str, Any]) -> dict[str, Path | bytes]:
    """What goes up: the folder's own files, none of its subfolders, and no path of this machine in them."""
    files: dict[str, Path | bytes] = {
        path.name: path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")
    }
    files["settings.yaml"] = yaml.safe_dump(settings.shareable(), sort_keys=False, allow_unicode=True).encode()
    files["record.json"] = as_json(shareable_record(record))
    return files


def shareable_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record without a path of this machine."""
    evaluation = {name: value for name, value in (record["evaluation"] or {}).items() if name != "folder"}
    return record | {"data": without_places(record["data"]), "evaluation": evaluation or None}


def as_json(value: Any) -> bytes:
    """A file's content."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode()


def commit(hub: HubSettings, files: dict[str, Path | bytes], message: str) -> Any:
    """One commit of all files; those that the repository has already are not sent again.

    Weights of an earlier push, of which there were more or other files, are deleted where new ones come.
    """
    api, repository = HfApi(), {"repo_id": hub.push_to_hub, "revision": hub.hub_revision}
    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()
    ]
    if any(name.endswith(WEIGHTS) for name in files):
        stale = [name for name in api.list_repo_files(**repository) if name.endswith(WEIGHTS) and name not in files]
        operations += [CommitOperationDelete(path_in_repo=name) for name in stale]
    return api.create_commit(operations=operations, commit_message=message, **repository)


def load_pushed(name: str, revision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as strangers get it: downloaded anew, and run by the code that was pushed with it."""
    with tempfile.TemporaryDirectory() as cache:
        options = {"revision": revision, "cache_dir": cache}
        config = HfApi().hf_hub_download(name, "config.json", **options)
        reference = json.loads(Path(config).read_text(encoding="utf-8"))["auto_map"]["AutoModelForSeq2SeqLM"]
        model = get_class_from_dynamic_module(reference, name, **options).from_pretrained(name, **options)
        return model, AutoTokenizer.from_pretrained(name, **options)


def reproduce(
    folder: Path,
    record: dict[str, Any],
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample_size: int = SAMPLE_SIZE,
) -> tuple[int, int]:
    """Holds a model against the scores that its record claims.

    The predictions that were kept must give the scores, and the model must give the predictions: a random sample of
    them, decoded as they were.

    Returns:
        How many of the sampled outputs came out again, and how many were sampled.

    Raises:
        ValueError: A score or the outputs are others.
    """
    claimed = record["evaluation"]
    path = folder / "evaluation" / claimed["split"] / "predictions.jsonl"
    if not path.is_file():
        raise ValueError(
            f"pushed, but without scores, since {path} is gone, against which they are checked: restore it."
        )
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    sources, references, outputs = ([line[name] for line in lines] for name in ("source", "reference", "hypothesis"))
    for name, result in claimed["metrics"].items():
        options = settings.evaluation.metric_kwargs.get(name, {})
        score = metrics.compute(name, outputs, references, **options)["score"]
        if abs(score - result["score"]) > 0.005:  # what a card shows: two decimals
            raise ValueError(
                f"pushed, but without scores: the record claims {name} {result['score']:.2f}, but the outputs in "
                f"{path} give {score:.2f}; restore the files, or train again."
            )
    chosen = sorted(random.Random(settings.training.seed).sample(range(len(lines)), min(sample_size, len(lines))))
    batch_tokens = settings.generation.decode_batch_tokens
    again = translate(model, tokenizer, [sources[index] for index in chosen], batch_tokens=batch_tokens,
                      **claimed["generation"])  # fmt: skip
    same = sum(outputs[index] == text for index, text in zip(chosen, again, strict=True))
    if same < LEAST_SAME * len(chosen):
        raise ValueError(
            f"pushed, but without scores: loaded again, the model gives only {same} of {len(chosen)} sampled outputs "
            f"as they were scored; is the model in {folder} the one that was scored?"
        )
    return same, len(chosen)


@contextmanager
def explained(what: str, then: str = "") -> Iterator[None]:
    """Turns what the Hub's client raises into one sentence.

    Raises:
        ValueError: ``what``, why, and ``then``.
    """
    try:
        yield
    except (HTTPError, LocalTokenNotFoundError, OSError, RuntimeError, ValueError) as error:
        reason = why(error)
        if reason is None:
            raise
        raise ValueError(f"{what}: {reason}{'; ' + then if then else ''}") from error


def why(error: BaseException) -> str | None:
    """The reason in plain words; None for a RuntimeError that has nothing to do with the Hub."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing is asked of the Hub: unset it"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token: run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HTTPError):
        response = getattr(error, "response", None)
        if response is None:
            return f"the Hub cannot be reached ({type(error).__name__}: {error})"
        status = response.status_code
        words = {
            401: "the Hub does not know the token, or none was given: run `hf auth login`, or set HF_TOKEN",
            403: "the token may not write there: make one that may, or choose a name of your own",
            404: "there is no such user, organisation or repository, or the token may not see it",
            409: "it was changed in the meantime, or the name is taken: push again, or choose another name",
            413: "the Hub finds a file too large",
            429: "the Hub asks to wait, as it got too many requests: push again later",
        }
        message = getattr(error, "server_message", None) or ""
        if status >= 500:
            return f"the Hub is out of order at the moment ({status}): push again later"
        return f"{words.get(status, 'the Hub refused')} ({status}{': ' + message if message else ''})"
    if error.__cause__ is not None and (reason := why(error.__cause__)) is not None:
        return reason  # of an upload's RuntimeError, or of an OSError of transformers'
    return None if isinstance(error, RuntimeError) else str(error)
