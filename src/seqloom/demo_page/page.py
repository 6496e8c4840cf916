"""The demo page: a sentence goes in, a card of every model comes out (gradio)."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from seqloom.demo_page.answers import MOST_BEAMS, Answer, Problem, answer_all, check_sentence
from seqloom.demo_page.cards import LANGUAGES, catalogue, result_html
from seqloom.demo_page.models import MOST_EXAMPLES, Shown

MOST_CHARACTERS = 500
NUM_BEAMS = 4
MOST_WAITING = 32
"""Sentences; who comes then is told so by gradio."""
MISSING = "the demo page needs gradio: pip install 'seqloom[demo]'"
FONTS = ("system-ui", "Noto Sans", "Noto Sans KR", "Malgun Gothic", "Apple SD Gothic Neo", "sans-serif")
"""Of the reader's own machine: none is fetched."""

Result = list[Answer] | Problem | None
"""What the page shows, kept so that it can be said in the other language."""


def build_page(
    models: Sequence[Shown],
    *,
    examples: Sequence[str] = (),
    language: str = "en",
    num_beams: int = NUM_BEAMS,
    most_characters: int = MOST_CHARACTERS,
) -> Any:
    """The page, a ``gradio.Blocks`` that `launch` serves.

    Args:
        models: From the left to the right.
        examples: Sentences to choose from; default: those that the models' cards show.
        language: ``en`` or ``ko``, which the page can change.
        num_beams: What the slider begins with.
        most_characters: Of a sentence.

    Raises:
        ValueError: Some of these are out of bounds, or gradio is not installed.
    """
    check_choices(language, num_beams)
    gr = gradio()
    shown = list(examples) or list(dict.fromkeys(text for model in models for text in model.examples))[:MOST_EXAMPLES]
    samples = [[text] for text in shown]

    def respond(sentence: str, beams: float, language: str) -> tuple[str, Result]:
        try:
            found: Result = answer_all(models, check_sentence(sentence or "", most_characters), int(beams))
        except Problem as problem:
            found = problem
        return result_html(found, language), found

    def respond_to_example(sample: list[str], beams: float, language: str) -> tuple[Any, ...]:
        return (sample[0], *respond(sample[0], beams, language))

    def translate_page(language: str, found: Result) -> list[Any]:
        words = catalogue()[language]
        return [
            introduction(language),
            gr.update(label=words["sentence"], placeholder=words["placeholder"]),
            gr.update(label=words["beams"]),
            gr.update(value=words["run"]),
            gr.update(label=words["examples"]),
            gr.update(label=words["language"]),
            result_html(found, language),
        ]

    words = catalogue()[language]
    with gr.Blocks(analytics_enabled=False, title=words["title"], fill_width=True) as page:
        found = gr.State(None)
        with gr.Row(elem_classes="sl-top"):
            head = gr.HTML(introduction(language), min_width=320)
            choice = gr.Radio(
                [(name, code) for code, name in LANGUAGES.items()],
                value=language, label=words["language"], elem_id="language", scale=0, min_width=200,
                show_label=False, container=False,
            )  # fmt: skip
        sentence = gr.Textbox(
            label=words["sentence"], placeholder=words["placeholder"], elem_id="sentence", lines=2, max_lines=6,
            autofocus=True,
        )  # fmt: skip
        with gr.Row(equal_height=True):
            beams = gr.Slider(1, MOST_BEAMS, value=num_beams, step=1, label=words["beams"], elem_id="beams", scale=3)
            button = gr.Button(words["run"], variant="primary", elem_id="run", scale=1)
        samples_shown = gr.Dataset(
            label=words["examples"], components=[sentence], samples=samples, visible=bool(samples), elem_id="examples"
        )
        result = gr.HTML(elem_id="result")
        # One after the other: a model serves one call at a time.
        alone = {"concurrency_limit": 1, "concurrency_id": "models", "api_visibility": "private"}
        for event in (button.click, sentence.submit):
            event(respond, [sentence, beams, choice], [result, found], show_progress_on=result, **alone)
        samples_shown.click(
            respond_to_example, [samples_shown, beams, choice], [sentence, result, found], show_progress_on=result,
            **alone,
        )  # fmt: skip
        parts = [head, sentence, beams, button, samples_shown, choice, result]
        choice.change(translate_page, [choice, found], parts, show_progress="hidden", api_visibility="private")
    return page.queue(max_size=MOST_WAITING)


def launch(
    page: Any, *, host: str | None = None, port: int | None = None, share: bool = False, wait: bool = True
) -> str:
    """Serves the page; returns its address, after it has ended if it waits.

    Args:
        page: What `build_page` gives.
        host: Where it listens; default: GRADIO_SERVER_NAME, else this machine alone.
        port: Default: GRADIO_SERVER_PORT, else the first free one from 7860 on.
        share: Let gradio's servers pass it on to the internet, for as long as it runs.
        wait: Until it is interrupted.

    Raises:
        ValueError: The port is taken, or it or the host cannot be listened on.
    """
    check_port(host, port)
    own = files("seqloom.demo_page")
    theme = gradio().themes.Default(font=list(FONTS), font_mono=["ui-monospace", "monospace"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradio's own parts
        _, address, shared = page.launch(
            server_name=host, server_port=port, share=share, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            theme=theme, css=own.joinpath("page.css").read_text(encoding="utf-8"),
            js=own.joinpath("page.js").read_text(encoding="utf-8"), footer_links=[],
        )  # fmt: skip
    print(f"the page is at {shared or address} (Ctrl-C ends it)", flush=True)
    if wait:
        page.block_thread()
    return shared or address


def gradio() -> Any:
    """The library, which is heavy, and told to report nothing to anyone.

    Raises:
        ValueError: It is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(MISSING) from None
    return gradio


def check_choices(language: str, num_beams: int) -> None:
    """Refuses what the page cannot begin with.

    Raises:
        ValueError: One of them.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; it can be {', '.join(LANGUAGES)}.")
    if not 1 <= num_beams <= MOST_BEAMS:
        raise ValueError(f"num_beams is {num_beams}; the page searches with 1 to {MOST_BEAMS}.")


def introduction(language: str) -> str:
    """The head of the page."""
    words = catalogue()[language]
    return f'<div class="sl-head" lang="{language}"><h1>{words["title"]}</h1><p>{words["intro"]}</p></div>'


def check_port(host: str | None, port: int | None) -> None:
    """Refuses what cannot be listened on; which port gradio finds by itself is its own matter.

    Raises:
        ValueError: It is taken, not allowed, or no address of this machine.
    """
    if port is None:
        return
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    try:
        with socket.create_server((host, port)):
            pass
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"port {port} of {host} cannot be listened on ({why}): give another with --port, or leave it out, and the "
            "first free one from 7860 on is taken."
        ) from None
