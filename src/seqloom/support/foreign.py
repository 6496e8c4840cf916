"""JSON that somebody else may have written or spoilt: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def from_json(text: str | bytes) -> Any:
    """Its value.

    Raises:
        ValueError: It is no JSON or no UTF-8, or nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None
