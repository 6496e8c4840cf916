"""The Hub: commits, and what its errors mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from seqloom.settings.schema import HubSettings
from seqloom.sharing.files import WEIGHTS
from seqloom.support.xet import is_of_xet, with_cure


def check_header(card: ModelCard) -> None:
    """Asks the Hub whether it knows the licence, the languages and the task.

    Raises:
        ValueError: It does not.
    """
    try:
        card.validate()
    except ValueError as error:
        try:
            errors = [entry["message"] for entry in json.loads(str(error))["errors"]]
        except (json.JSONDecodeError, KeyError, TypeError):
            errors = [str(error)]
        short = "; ".join(text if len(text) <= 120 else f"{text[:120]}…" for text in errors)
        raise ValueError(
            f"the card would be refused; look at hub.license, hub.language and hub.tags ({short})"
        ) from None


def repository_of(hub: HubSettings) -> str:
    """The name of the repository, which is given wherever anything is pushed."""
    assert hub.push_to_hub is not None
    return hub.push_to_hub


def commit(hub: HubSettings, files: dict[str, Path | bytes], message: str, delete: Sequence[str] = ()) -> CommitInfo:
    """One commit of all files; those that the repository has already are not sent again.

    Weights of an earlier push that have no successor are deleted where new ones come, and so is ``delete``.
    """
    api, repository, revision = HfApi(), repository_of(hub), hub.hub_revision
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()
    ]
    if any(name.endswith(WEIGHTS) for name in files):
        there = api.list_repo_files(repository, revision=revision)
        stale = [name for name in there if (name.endswith(WEIGHTS) or name in delete) and name not in files]
        operations += [CommitOperationDelete(path_in_repo=name) for name in stale]
    return api.create_commit(repository, operations, commit_message=message, revision=revision)


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
    if is_of_xet(error):
        return with_cure(error)
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
