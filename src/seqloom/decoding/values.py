"""What each option of ``generate`` can be, wherever it is written: on a command's line, or in a model's own file."""

from __future__ import annotations

import math
from typing import Any

SAMPLING = {
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip
"""What changes nothing unless outputs are drawn, and the value with which it changes nothing then."""
COUNTS = {
    "num_beams": (1, 10_000), "num_return_sequences": (1, 10_000), "max_new_tokens": (1, 1_000_000),
    "max_length": (1, 1_000_000), "min_new_tokens": (0, 1_000_000), "min_length": (0, 1_000_000),
    "top_k": (0, 2**31 - 1), "no_repeat_ngram_size": (0, 1_000_000), "encoder_no_repeat_ngram_size": (0, 1_000_000),
}  # fmt: skip
"""Whole numbers: the least and the most."""
SHARES = ("top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
NUMBERS = ("length_penalty", "repetition_penalty", "encoder_repetition_penalty", "max_time", "coverage_penalty")
ABOVE_ZERO = ("temperature", "repetition_penalty", "encoder_repetition_penalty", "top_h", "typical_p")
"""Numbers with which, were they 0, there would be nothing to choose from."""
BELOW_ONE = ("epsilon_cutoff", "eta_cutoff")
FLAGS = ("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values", "output_attentions",
         "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate")  # fmt: skip


def check_value(name: str, value: Any, where: str = "generation.") -> None:
    """Refuses what an option cannot be; None is none.

    Args:
        where: It is written, to stand before its name.

    Raises:
        ValueError: It is something else than such a number, or than true or false.
    """
    if value is None:
        return
    if name in COUNTS:
        least, most = COUNTS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{where}{name} is {value!r}; it must be a whole number from {least} to {most:,}.")
    elif name in FLAGS and not isinstance(value, bool):
        raise ValueError(f"{where}{name} is {value!r}; it must be true or false.")
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name in (*SAMPLING, *NUMBERS) and not is_number:
        raise ValueError(f"{where}{name} is {value!r}; it must be a number.")
    if name in SHARES and not 0 <= value <= 1:
        raise ValueError(f"{where}{name} is {value!r}; it must be between 0 and 1.")


def check_given(name: str, value: Any) -> None:
    """`check_value` of an option that is given: no number either with which nothing could be chosen. (In a model's own
    file it may stand unused.)

    Raises:
        ValueError: It is one.
    """
    check_value(name, value)
    if value is not None and name in ABOVE_ZERO and value <= 0:
        raise ValueError(f"generation.{name} is {value!r}; it must be more than 0.")
    if value is not None and name in BELOW_ONE and value >= 1:
        raise ValueError(f"generation.{name} is {value!r}; it must be less than 1, or 0 for none.")
