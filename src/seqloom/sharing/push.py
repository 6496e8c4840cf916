"""Sharing a finished run on the Hub: the model in one commit, its scores in another once the pushed model gives them.

1. The record's scores must be those of the predictions that were kept.
2. Weights, configs, tokenizer, the models' code and settings go up in one commit, with a card that holds no scores: an
   interrupted upload leaves the repository as it was.
3. The commit is loaded from the Hub, by the code that went with it, and decodes a sample of the scored split.
4. If it says what was scored, card, record, log and curve come in a second commit; if not, pushing fails and says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from pathlib import Path

from huggingface_hub import HfApi

from seqloom import run_folder
from seqloom.decoding.loading import tokenizer_of, whole_model
from seqloom.settings.reading import load_run_settings
from seqloom.settings.schema import HubSettings
from seqloom.sharing.card import draft_card, is_as_made, make_card
from seqloom.sharing.code import check_code
from seqloom.sharing.files import TELLING, handler_files, model_files, shared_files
from seqloom.sharing.hub import check_header, commit, explained, repository_of
from seqloom.sharing.privacy import last_part
from seqloom.sharing.verify import check_record, load_pushed, reproduce


def prepare_repository(hub: HubSettings) -> None:
    """Makes the repository before anything is trained: whoever may not push learns it now.

    Raises:
        ValueError: The Hub cannot be reached or does not allow it.
    """
    name = repository_of(hub)
    what, then = f"nothing can be pushed to {name}", "leave push_to_hub out to train without pushing"
    with explained(what, then):
        api = HfApi()
        api.create_repo(name, private=hub.hub_private_repo, exist_ok=True)
        is_private = api.repo_info(name).private
        if hub.hub_private_repo not in (None, is_private):
            raise ValueError(
                f"it is there already and {'private' if is_private else 'public'}, while hub_private_repo is "
                f"{str(hub.hub_private_repo).lower()}: change its settings on the Hub, or take another name"
            )
        if hub.hub_revision:
            api.create_branch(name, branch=hub.hub_revision, exist_ok=True)
        check_header(draft_card(hub, ""))


def push_best(folder: Path, hub: HubSettings, step: int, say: Callable[[str], None] = print) -> None:
    """Pushes a checkpoint while its run goes on, with a card that says so. What goes wrong is told, no more."""
    try:
        with explained(f"the best checkpoint was not pushed to {hub.push_to_hub}"):
            text = (
                f"The best checkpoint of a training that goes on, after {step:,} updates. Its scores come with its end."
            )
            files: dict[str, Path | bytes] = {path.name: path for path in model_files(folder)}
            files[run_folder.CARD] = str(draft_card(hub, text)).encode()
            commit(hub, files, f"The best checkpoint after {step:,} updates", delete=TELLING)
    except ValueError as error:
        say(f"warning: {error}; the training goes on, and the next push takes it along.")


def push(
    folder: Path,
    hub: HubSettings,
    say: Callable[[str], None] = print,
    metrics: Container[str] = (),
    trust_remote_code: bool = False,
    with_handler: bool = False,
) -> str:
    """Pushes a finished run.

    Args:
        folder: Its output folder, which stays as it is.
        hub: Where to.
        say: Takes a line for the user.
        metrics: Those that the record may name besides seqloom's own, and whose code is run.
        trust_remote_code: Run code that the folder carries and that is not seqloom's own.
        with_handler: Push along what an Inference Endpoint runs the model by.

    Returns:
        The address of the last commit.

    Raises:
        ValueError: The Hub cannot be reached or does not allow it, or the pushed model does not give the scores of the
            record. The message has the command that pushes later. Or it asks for code that nobody allowed.
    """
    settings = load_run_settings(run_folder.finished(folder))
    record = run_folder.read_record(folder)
    name = repository_of(hub)
    own = own_card(folder, name, last_part(settings.output_dir))
    what = f"{folder} was not pushed to {name}"
    then = f"the model is whole in {folder}; push it later with: seqloom push {folder} {name}"
    is_scored = record["evaluation"] is not None
    check_code(folder, f"not pushed: {folder}", trust_remote_code)
    if is_scored:
        check_record(folder, record, settings, metrics, trust_remote_code)
    model = whole_model(str(folder), trust_remote_code=trust_remote_code)  # what is damaged shows now
    tokenizer_of(model, str(folder), trust_remote_code=trust_remote_code)
    with explained(what, then):
        prepare_repository(hub)
        files, left_out = shared_files(folder, settings, record)
        if with_handler:
            files |= handler_files(folder)
            left_out = [path for path in left_out if path not in files]
        card = make_card(folder, name, with_scores=not is_scored)
        files[run_folder.CARD] = card.encode() if is_scored or own is None else own.encode()
        telling = {path: files.pop(path) for path in TELLING if path in files} if is_scored else {}
        info = commit(hub, files, f"{settings.model['model_type']}, trained with seqloom", delete=TELLING)
    say(f"pushed {len(files)} files to {info.repo_url}")
    if left_out:
        say(f"left out, as no part of the model: {', '.join(left_out)}")
    if is_scored:
        with explained(f"the scores of {name} were not published, since it could not be loaded again", then):
            model, tokenizer = load_pushed(name, info.oid, trust_remote_code)
        same, total = reproduce(folder, record, settings, model, tokenizer)
        check = f"Downloaded at revision `{info.oid}`, the model gave {same} of {total} sampled outputs as scored."
        say(check)
        card = make_card(folder, name, check=check) if own is None else own
        with explained(f"the card of {name} was not pushed", then):
            info = commit(hub, telling | {run_folder.CARD: card.encode()}, "Scores, which the pushed model gives")
    say(f"the model is shared: {info.repo_url}")
    return info.commit_url


def own_card(folder: Path, name: str, old_name: str) -> str | None:
    """The folder's card with the model's new name, if somebody has written another than the one that was made."""
    path = folder / run_folder.CARD
    if not path.is_file() or is_as_made(text := path.read_text(encoding="utf-8")):
        return None
    return re.sub(rf'(from_pretrained\(|model=)"{re.escape(old_name)}"', rf'\1"{name}"', text)
