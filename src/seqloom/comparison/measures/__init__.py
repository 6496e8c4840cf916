"""What a comparison measures: a module each."""

import typing

Measure = typing.Literal[
    "quality", "learning_curves", "attention", "data_handling", "weight", "generation", "memory_tasks", "gradients",
    "generalisation",
]  # fmt: skip
MEASURES: tuple[Measure, ...] = typing.get_args(Measure)
"""The measures in the order of the report; each is a module beside this."""
