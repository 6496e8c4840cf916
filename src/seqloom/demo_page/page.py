"""The demo page: a sentence goes in, a card of every model comes out (gradio)."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from seqloom.demo_page.answers import MOST_BEAMS, Answer, Problem, answer_all, check_sentence
from seqloom.demo_page.cards import result_html
from seqloom.demo_page.models import MOST_EXAMPLES, Shown
from seqloom.support.language import LANGUAGES, Language, say, speaking, spoken

MOST_CHARACTERS = 500
NUM_BEAMS = 4
MOST_WAITING = 32
"""Sentences; who comes then is told so by gradio."""
MISSING = "the demo page needs gradio: pip install 'seqloom[demo]'"
FONTS = ("system-ui", "Noto Sans", "Noto Sans KR", "Malgun Gothic", "Apple SD Gothic Neo", "sans-serif")
"""Of the reader's own machine: none is fetched."""

NAMES: dict[Language, str] = {"en": "English", "ko": "한국어"}
Result = list[Answer] | Problem | None
"""What the page shows, kept so that it can be said in the other language."""


def build_page(
    models: Sequence[Shown],
    *,
    examples: Sequence[str] = (),
    language: Language = "en",
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

    def respond(sentence: str, beams: float, language: Language) -> tuple[str, Result]:
        try:
            found: Result = answer_all(models, check_sentence(sentence or "", most_characters), int(beams))
        except Problem as problem:
            found = problem
        with speaking(language):
            return result_html(found), found

    def respond_to_example(sample: list[str], beams: float, language: Language) -> tuple[Any, ...]:
        return (sample[0], *respond(sample[0], beams, language))

    def translate_page(language: Language, found: Result) -> list[Any]:
        with speaking(language):
            values = texts()
            sentence = gr.update(label=values["sentence"], placeholder=values["placeholder"])
            labels = [gr.update(label=values[name]) for name in ("beams", "examples", "language")]
            return [introduction(), sentence, *labels, gr.update(value=values["run"]), result_html(found)]

    with speaking(language):
        words, first = texts(), introduction()
    with gr.Blocks(analytics_enabled=False, title=words["title"], fill_width=True) as page:
        found = gr.State(None)
        with gr.Row(elem_classes="sl-top"):
            head = gr.HTML(first, min_width=320)
            choice = gr.Radio(
                [(NAMES[code], code) for code in LANGUAGES],
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
        parts = [head, sentence, beams, samples_shown, choice, button, result]
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


def texts() -> dict[str, str]:
    """What stands around the cards, in the language that is spoken."""
    return {
        "title": say("The same sentence, model by model"),
        "introduction": say(
            "Type a sentence and see what each model makes of it. Point at a word, or tap it, to see where the model "
            "looked; point at a box of the tree to see what the search weighed."
        ),
        "sentence": say("Sentence"),
        "placeholder": say("a sentence in the models' source language"),
        "beams": say("Beams (1 is greedy search)"),
        "run": say("Go"),
        "examples": say("Examples"),
        "language": say("Language"),
    }


def introduction() -> str:
    """The head of the page."""
    words = texts()
    return f'<div class="sl-head" lang="{spoken()}"><h1>{words["title"]}</h1><p>{words["introduction"]}</p></div>'


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
