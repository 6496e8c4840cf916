"""What comes in: bodies that are no larger than allowed, and values that are what they must be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request

from seqloom.support.foreign import from_json

MOST_FIELDS = 1000
"""Of a form."""


LONGEST_HEAD = 1000
"""Bytes, of a form's part."""
_BOUNDARY = re.compile(r'(?i)boundary=("[^"]{1,70}"|[^\s";,]{1,70})')
_NAME = re.compile(r'(?i)^content-disposition:[ \t]*form-data;[^\r\n]*?\bname=("[^"\r\n]*"|[^\s";]+)', re.MULTILINE)


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    chars: int = 5000
    """Of a text."""
    texts: int = 128
    """Of a request."""
    body: int = 1 << 20
    """Bytes of a request."""
    seconds: int = 30
    """Until an answer is there."""
    beams: int = 10
    """And outputs of a text."""


class Refusal(Exception):
    """A request that is not answered as it wants; the message is a sentence for who sent it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


async def read_values(request: Request, limits: Limits) -> dict[str, Any]:
    """The fields of a body: JSON, or a form.

    Raises:
        Refusal: It is too large (which is seen before it is read, where it says its length), or neither.
    """
    body = await read_body(request, limits.body)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        # What curl sends is called a form, whatever it is.
        if kind == "application/x-www-form-urlencoded" and not body.lstrip().startswith(b"{"):
            return of_form(body)
        if kind == "multipart/form-data":
            return of_parts(request.headers["content-type"], body)
        values = from_json(body)
    except ValueError as error:
        raise Refusal(400, f"the body cannot be read ({error}): send a JSON object, or a form.") from None
    if not isinstance(values, dict):
        raise Refusal(400, f'the body is {shown(values)}; send a JSON object: {{"q": …, …}}.')
    return values


async def read_body(request: Request, most: int) -> bytes:
    """All of it.

    Raises:
        Refusal: It has more bytes.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large(f"{int(length):,}", most)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_large("more", most)
    return bytes(body)


def too_large(size: str, most: int) -> Refusal:
    """The connection is closed with it: what is left of the body is not read."""
    message = f"the body has {size} bytes, and this server reads {most:,}: send less at a time."
    return Refusal(413, message, {"Connection": "close"})


def of_form(body: bytes) -> dict[str, Any]:
    """The fields of an urlencoded form; one that comes several times is a list.

    Raises:
        ValueError: It is none.
    """
    fields = parse_qs(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    return {name: values if len(values) > 1 else values[0] for name, values in fields.items()}


def of_parts(content_type: str, body: bytes) -> dict[str, Any]:
    """Likewise, of a form in parts.

    Raises:
        ValueError: It is none.
    """
    boundary = _BOUNDARY.search(content_type)
    parts = [] if boundary is None else (b"\r\n" + body).split(b"\r\n--" + boundary[1].strip('"').encode("latin-1"))
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        raise ValueError("it is no form in parts")
    if len(parts) - 2 > MOST_FIELDS:
        raise ValueError(f"it has {len(parts) - 2:,} parts, more than {MOST_FIELDS:,}")
    fields: dict[str, list[str]] = {}
    for part in parts[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if len(head) > LONGEST_HEAD:
            raise ValueError(f"a part's head has {len(head):,} bytes, more than {LONGEST_HEAD:,}")
        if name := _NAME.search(head.decode()):
            fields.setdefault(name[1].strip('"'), []).append(content.decode())
    return {name: values if len(values) > 1 else values[0] for name, values in fields.items()}


def texts_of(values: Mapping[str, Any], name: str, limits: Limits) -> list[str]:
    """A field's texts, one or several.

    Raises:
        Refusal: There are none, too many, or one is too long or no text.
    """
    given = values.get(name)
    if given is None or given == "":
        raise Refusal(400, f"{name} is missing: give a text, or a list of texts.")
    texts = given if isinstance(given, list) else [given]
    if not texts or len(texts) > limits.texts:
        raise Refusal(400, f"{name} has {len(texts):,} texts; send 1 to {limits.texts:,} at a time.")
    for text in texts:
        check_text(text, name, limits.chars)
    return texts


def check_text(text: Any, name: str, most: int) -> None:
    """Refuses what is no text, or too long.

    Raises:
        Refusal: It is.
    """
    if not isinstance(text, str):
        raise Refusal(400, f"{name} is {shown(text)}; give a text, or a list of texts.")
    if len(text) > most:
        raise Refusal(400, f"a text of {name} has {len(text):,} characters, and this server takes {most:,}: split it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(400, f"a text of {name} holds half of a surrogate pair, which is no character.") from None


def word_of(values: Mapping[str, Any], name: str) -> str | None:
    """A field that is a word; None where it is not given.

    Raises:
        Refusal: It is something else.
    """
    word = values.get(name)
    if word is not None and not isinstance(word, str):
        raise Refusal(400, f"{name} is {shown(word)}; give a text.")
    return word or None


def number_of(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """A field that is a whole number, in a form too; None where it is not given.

    Raises:
        Refusal: It is something else, or out of bounds.
    """
    number = values.get(name)
    if number is None or number == "":  # as forms send what was left empty
        return None
    if isinstance(number, str) and number.isdecimal() and len(number) < 10:
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise Refusal(400, f"{name} is {shown(number)}; give a whole number from {least} to {most}.")
    return number


def flag_of(values: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false; false where it is not given.

    Raises:
        Refusal: It is something else.
    """
    flag = values.get(name, False)
    if isinstance(flag, str):
        flag = {"true": True, "false": False}.get(flag, flag)
    if not isinstance(flag, bool):
        raise Refusal(400, f"{name} is {shown(flag)}; give true or false.")
    return flag


def shown(value: Any) -> str:
    """Somebody's value, as much of it as one reads."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
