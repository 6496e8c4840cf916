"""Why a Hub of one's own fails where huggingface.co does not: it has no Xet storage, which the client expects."""

from __future__ import annotations

import re


def with_cure(error: BaseException) -> str:
    """An error's text in one line, and what helps if it is of a Hub without Xet.

    The client (huggingface_hub with hf_xet) sends large files through Xet and fetches those that the server says are in
    it. A server without that answers 404 where it asks for a token of it, which names neither cause nor cure.
    """
    text = " ".join(str(error).split())
    return f"{text}; {CURE}" if is_of_xet(error) else text


def is_of_xet(error: BaseException) -> bool:
    """Whether an error, or what it came of, is of Xet's addresses."""
    found: BaseException | None = error
    while found is not None:
        if re.search(r"/xet-(read|write)-token|\bCAS (service|client)", str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


CURE = (
    "files go through Xet storage, which a Hub of one's own (HF_ENDPOINT) may not have: set HF_HUB_DISABLE_XET=1 "
    "and try again"
)
