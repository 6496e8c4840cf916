"""Sharing a finished run on the Hub: the model in one commit, its scores in another once the pushed model gives them.

1. The record's scores must be those of the predictions that were kept.
2. Weights, configs, tokenizer, the models' code and settings go up in one commit, with a card that holds no scores: an
   interrupted upload leaves the repository as it was.
3. The commit is loaded from the Hub, by the code that went with it, and decodes a sample of the scored split.
4. If it says what was scored, card, record, log and curve come in a second commit; if not, pushing fails and says so.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from seqloom import cards, metrics
from seqloom.decoding import translate
from seqloom.predictions import Predictions, read_predictions
from seqloom.settings import HubSettings, Settings, last_part, load_settings, without_places
from seqloom.tracking import quieten_libraries

USAGE = "usage: seqloom push FOLDER USER/MODEL [--hub_private_repo true] [--hub_revision BRANCH]"
WEIGHTS = (".safetensors", ".safetensors.index.json")
TOKENIZER_FILES = {
    "tokenizer.json", "target_tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "source.spm", "target.spm",
}  # fmt: skip
PRIVATE = {"data.json"}
"""Files of a run that its resuming needs and nobody else."""
TELLING = ("record.json", "training_log.jsonl", cards.CURVE)
"""Files that tell of scores."""
SAMPLE_SIZE = 100
LEAST_SAME = 0.95
"""Share of the sample's outputs that must come out again letter for letter. Near ties may fall otherwise on another
machine, in another precision or batch."""


def main(argv: Sequence[str]) -> int:
    """The command ``seqloom push``; returns its exit status."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        about = "FOLDER is the output folder of a finished run. A token comes from HF_TOKEN or `hf auth login`."
        print(USAGE, "", about, sep="\n")
        return 0 if words else 2
    try:
        if len(words) < 2 or words[0].startswith("--") or words[1].startswith("--"):
            raise ValueError(f"the folder and the repository's name come first. {USAGE}")
        folder, name, *options = words
        for position, option in enumerate(options):
            is_key = position % 2 == 0
            if is_key and option not in ("--hub_private_repo", "--hub_revision"):
                raise ValueError(f"{option} is unknown. {USAGE}")
        quieten_libraries()
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
    what, then = f"nothing can be pushed to {hub.push_to_hub}", "leave push_to_hub out to train without pushing"
    with explained(what, then):
        api = HfApi()
        api.create_repo(hub.push_to_hub, private=hub.hub_private_repo, exist_ok=True)
        is_private = api.repo_info(hub.push_to_hub).private
        if hub.hub_private_repo not in (None, is_private):
            raise ValueError(
                f"it is there already and {'private' if is_private else 'public'}, while hub_private_repo is "
                f"{str(hub.hub_private_repo).lower()}: change its settings on the Hub, or take another name"
            )
        if hub.hub_revision:
            api.create_branch(hub.push_to_hub, branch=hub.hub_revision, exist_ok=True)
        check_header(cards.draft_card(hub, ""))


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


def push_best(folder: Path, hub: HubSettings, step: int, say: Callable[[str], None] = print) -> None:
    """Pushes a checkpoint while its run goes on, with a card that says so. What goes wrong is told, no more."""
    try:
        with explained(f"the best checkpoint was not pushed to {hub.push_to_hub}"):
            text = (
                f"The best checkpoint of a training that goes on, after {step:,} updates. Its scores come with its end."
            )
            files: dict[str, Path | bytes] = {path.name: path for path in model_files(folder)}
            files["README.md"] = str(cards.draft_card(hub, text)).encode()
            commit(hub, files, f"The best checkpoint after {step:,} updates", delete=TELLING)
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
    own = own_card(folder, name, last_part(settings.output_dir))
    what = f"{folder} was not pushed to {name}"
    then = f"the model is whole in {folder}; push it later with: seqloom push {folder} {name}"
    is_scored = record["evaluation"] is not None
    if is_scored:
        check_record(folder, record, settings)
    with explained(what, then):
        prepare(hub)
        files, left_out = shared_files(folder, settings, record)
        card = cards.make_card(folder, name, with_scores=not is_scored)
        files["README.md"] = card.encode() if is_scored or own is None else own.encode()
        telling = {path: files.pop(path) for path in TELLING if path in files} if is_scored else {}
        info = commit(hub, files, f"{settings.model['model_type']}, trained with seqloom", delete=TELLING)
    say(f"pushed {len(files)} files to {info.repo_url}")
    if left_out:
        say(f"left out, as no part of the model: {', '.join(left_out)}")
    if is_scored:
        with explained(f"the scores of {name} were not published, since it could not be loaded again", then):
            model, tokenizer = load_pushed(name, info.oid)
        same, total = reproduce(folder, record, settings, model, tokenizer)
        check = f"Downloaded at revision `{info.oid}`, the model gave {same} of {total} sampled outputs as scored."
        say(check)
        card = cards.make_card(folder, name, check=check) if own is None else own
        with explained(f"the card of {name} was not pushed", then):
            info = commit(hub, telling | {"README.md": card.encode()}, "Scores, which the pushed model gives")
    say(f"the model is shared: {info.repo_url}")
    return info.commit_url


def own_card(folder: Path, name: str, old_name: str) -> str | None:
    """The folder's card with the model's new name, if somebody has written another than the one that was made."""
    path = folder / "README.md"
    if not path.is_file() or cards.is_as_made(text := path.read_text(encoding="utf-8")):
        return None
    return re.sub(rf'(from_pretrained\(|model=)"{re.escape(old_name)}"', rf'\1"{name}"', text)


def model_files(folder: Path) -> list[Path]:
    """Weights, configs, tokenizer and the code that they name, in a folder that may hold other things as well."""
    code = {path.name for path in Path(str(files_of("seqloom.modeling"))).glob("*_seq2seq*.py")}
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            references = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map", {})
            flat = [part for value in references.values() for part in (value if isinstance(value, list) else [value])]
            code |= {f"{reference.partition('.')[0]}.py" for reference in flat if reference}
    names = {"config.json", "generation_config.json"} | TOKENIZER_FILES | code
    return [path for path in sorted(folder.iterdir()) if path.is_file() and
            (path.name in names or path.name.endswith(WEIGHTS))]  # fmt: skip


def shared_files(folder: Path, settings: Settings, record: dict[str, Any]) -> tuple[dict[str, Path | bytes], list[str]]:
    """What goes up, without a path of this machine; and the names of the folder's files that do not."""
    files: dict[str, Path | bytes] = {path.name: path for path in model_files(folder)}
    files |= {name: folder / name for name in TELLING if (folder / name).is_file()}
    files["settings.yaml"] = yaml.safe_dump(settings.shareable(), sort_keys=False, allow_unicode=True).encode()
    files["record.json"] = json.dumps(shareable_record(record), indent=2, ensure_ascii=False).encode()
    here = {path.name for path in folder.iterdir() if path.is_file()}
    return files, sorted(here - set(files) - {"README.md", *PRIVATE})


def shareable_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record without a path of this machine."""
    evaluation = {name: value for name, value in (record["evaluation"] or {}).items() if name != "folder"}
    return record | {"data": without_places(record["data"]), "evaluation": evaluation or None}


def commit(hub: HubSettings, files: dict[str, Path | bytes], message: str, delete: Sequence[str] = ()) -> CommitInfo:
    """One commit of all files; those that the repository has already are not sent again.

    Weights of an earlier push that have no successor are deleted where new ones come, and so is ``delete``.
    """
    api, repository = HfApi(), {"repo_id": hub.push_to_hub, "revision": hub.hub_revision}
    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()
    ]
    if any(name.endswith(WEIGHTS) for name in files):
        there = api.list_repo_files(**repository)
        stale = [name for name in there if (name.endswith(WEIGHTS) or name in delete) and name not in files]
        operations += [CommitOperationDelete(path_in_repo=name) for name in stale]
    return api.create_commit(operations=operations, commit_message=message, **repository)


def load_pushed(name: str, revision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as strangers get it: downloaded anew, and run by the code that was pushed with it."""
    with tempfile.TemporaryDirectory() as cache:
        options = {"revision": revision, "cache_dir": cache}

        def pushed_class(config: str, auto_class: str) -> Any:
            path = HfApi().hf_hub_download(name, config, **options)
            reference = json.loads(Path(path).read_text(encoding="utf-8")).get("auto_map", {}).get(auto_class)
            reference = next(filter(None, reference)) if isinstance(reference, list) else reference
            return None if reference is None else get_class_from_dynamic_module(reference, name, **options)

        model = pushed_class("config.json", "AutoModelForSeq2SeqLM").from_pretrained(name, **options)
        tokenizer_class = pushed_class("tokenizer_config.json", "AutoTokenizer") or AutoTokenizer
        return model, tokenizer_class.from_pretrained(name, **options)


def predictions(folder: Path, record: dict[str, Any]) -> Predictions:
    """Those of the scored split, as they were kept.

    Raises:
        ValueError: They were not.
    """
    split = record["evaluation"]["split"]
    path = folder / "evaluation" / split / "predictions.jsonl"
    if not path.is_file():
        raise ValueError(
            f"not pushed: {path} is gone, against which the scores are checked; {as_it_was(folder, split)}."
        )
    return read_predictions(path)


def as_it_was(folder: Path, split: str) -> str:
    """What mends predictions that are others than the record's."""
    return f"score the model again as it was: python evaluate.py {folder} --split {split} --overwrite"


def check_record(folder: Path, record: dict[str, Any], settings: Settings) -> None:
    """Holds the scores that a record claims against the predictions that were kept.

    Raises:
        ValueError: They give another score.
    """
    _, references, outputs = predictions(folder, record)
    for name, result in record["evaluation"]["metrics"].items():
        options = settings.evaluation.metric_kwargs.get(name, {})
        score = metrics.compute(name, outputs, references, **options)["score"]
        if abs(score - result["score"]) > 0.005:  # what a card shows: two decimals
            split = record["evaluation"]["split"]
            raise ValueError(
                f"not pushed: the record claims {name} {result['score']:.2f}, but the predictions in "
                f"{folder / 'evaluation' / split} give {score:.2f}; {as_it_was(folder, split)}."
            )


def reproduce(
    folder: Path,
    record: dict[str, Any],
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample_size: int = SAMPLE_SIZE,
) -> tuple[int, int]:
    """Lets a model decode a random sample of what was scored, as it was decoded then.

    Returns:
        How many of the sampled outputs came out again, and how many were sampled.

    Raises:
        ValueError: Too many are others.
    """
    sources, _, outputs = predictions(folder, record)
    chosen = sorted(random.Random(settings.training.seed).sample(range(len(sources)), min(sample_size, len(sources))))
    options = {"batch_tokens": settings.generation.decode_batch_tokens, **record["evaluation"]["generation"]}
    again = translate(model, tokenizer, [sources[index] for index in chosen], **options)
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
