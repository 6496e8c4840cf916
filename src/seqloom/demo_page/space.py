"""A demo page as a Space of the Hub: a folder of three files, which ``python app.py`` serves here too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, SpaceCard, SpaceCardData

from seqloom import run_folder
from seqloom.demo_page.page import MISSING, check_choices
from seqloom.sharing.hub import check_header, explained
from seqloom.support import disk
from seqloom.support.wording import as_code, together
from seqloom.version import __version__

APP = '''"""A sentence through {names}, side by side. `python app.py` serves the page, here or as a Space."""

from seqloom.demo_page.models import open_models
from seqloom.demo_page.page import build_page, launch

MODELS = {models}
EXAMPLES = {examples}

if __name__ == "__main__":
    models = open_models(MODELS, revision={revision}, trust_remote_code={trust})
    launch(build_page(models, examples=EXAMPLES, language={language}, num_beams={num_beams}))
'''
REQUIREMENTS = """# A Space without a GPU needs torch for a CPU alone, which is a tenth as large.
--extra-index-url https://download.pytorch.org/whl/cpu
{seqloom}
"""
CARD = """# Side by side: {names}

Type a sentence: every model's output, the words that it looked at, and the tree of its beam search.

Made with seqloom: `seqloom demo-page {words}`.
"""
FILES = ("app.py", "requirements.txt", run_folder.CARD)


def write_space(
    folder: Path,
    models: Sequence[str],
    *,
    examples: Sequence[str] = (),
    language: str = "en",
    num_beams: int,
    requirement: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes the folder of a Space.

    Args:
        folder: Where to; its other files are left as they are.
        models: Names on the Hub.
        examples, language, num_beams: As for `build_page`.
        requirement: What the Space's pip installs seqloom from; default: this version, from PyPI.
        revision, trust_remote_code: As for `open_models`.
        overwrite: Replace what was written before.

    Raises:
        ValueError: A model is a folder of this machine, or something else is in the folder.
    """
    for name in models:
        if Path(name).exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):  # some old ones have no user
            raise ValueError(
                f"{name} is not a name on the Hub (USER/MODEL), from where a Space takes its models: push it first "
                f"(seqloom push {name} USER/MODEL), and give that name."
            )
    check_choices(language, num_beams)
    check_folder(folder, overwrite)
    names = together([as_code(name) for name in models])
    data = SpaceCardData(
        title="Models side by side", sdk="gradio", sdk_version=gradio_version(), app_file="app.py",
        models=list(models), tags=["seqloom", "seq2seq"], emoji="🧵", colorFrom="blue", colorTo="green",
    )  # fmt: skip
    app = APP.format(
        names=" and ".join(models), models=_listed(models), examples=_listed(examples), language=json.dumps(language),
        num_beams=num_beams, revision=repr(revision), trust=trust_remote_code,
    )  # fmt: skip
    texts = {
        "app.py": app,
        "requirements.txt": REQUIREMENTS.format(seqloom=requirement or f"seqloom[demo]=={__version__}"),
        run_folder.CARD: f"---\n{data}\n---\n\n{CARD.format(names=names, words=' '.join(models))}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.mark(folder, run_folder.SPACE)
    disk.write_together({folder / name: disk.text(text) for name, text in texts.items()})


def gradio_version() -> str:
    """Of the gradio that is installed, by which the page was tried: the Space gets the same.

    Raises:
        ValueError: None is.
    """
    try:
        return metadata.version("gradio")
    except metadata.PackageNotFoundError:
        raise ValueError(MISSING) from None


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses to write over anything but an earlier Space.

    Raises:
        ValueError: There is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or run_folder.SPACE not in run_folder.marked(folder):
        raise ValueError(f"{folder} is there already and holds no Space of seqloom's: choose another folder.")
    if not overwrite:
        raise ValueError(f"{folder} holds a Space already; give --overwrite to write it anew, or another folder.")


def push_space(folder: Path, repository: str, private: bool | None = None, say: Callable[[str], None] = print) -> str:
    """Pushes what `write_space` wrote, in one commit.

    Args:
        folder: The Space's folder.
        repository: USER/SPACE, which is made if need be.
        private: Whether one that is made now is private; default: as the account has it.
        say: Takes a line for the user.

    Returns:
        The Space's address.

    Raises:
        ValueError: The folder holds none, a model of its is not on the Hub, or the Hub cannot be reached or does not
            allow it.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if run_folder.SPACE not in run_folder.marked(folder) or missing:
        raise ValueError(
            f"{folder} holds no Space of seqloom's: write one with seqloom demo-page USER/MODEL ... --space {folder}"
        )
    card = SpaceCard.load(folder / run_folder.CARD)
    api, what = HfApi(), f"{folder} was not pushed to {repository}"
    for name in card.data.get("models") or []:
        with explained(f"{what}, since its model {name} cannot be found"):
            about = api.model_info(name)
        if about.private:
            say(f"{name} is private: give the Space a secret HF_TOKEN that may read it, in its settings")
    with explained(what, f"push it later with: seqloom push {folder} {repository} --space"):
        check_header(card)
        address = api.create_repo(
            repository, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
        )  # fmt: skip
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in FILES]
        api.create_commit(repository, operations, commit_message="A demo page, by seqloom", repo_type="space")
    others = sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, run_folder.MARKER))
    if others:
        say(f"left out, as no part of the Space: {', '.join(others)}")
    say(f"the Space is at {address}; it takes some minutes to be built")
    return str(address)


def _listed(texts: Sequence[str]) -> str:
    """A list in Python, a line each."""
    return "[\n" + "".join(f"    {json.dumps(text, ensure_ascii=False)},\n" for text in texts) + "]" if texts else "[]"
