"""SCAN, the built-in task: commands such as ``jump twice and turn left`` to the actions that carry them out.

Lake and Baroni 2018, "Generalization without systematicity: On the compositional skills of sequence-to-sequence
recurrent networks" (https://arxiv.org/abs/1711.00350). The task is its grammar, so nothing is downloaded: all 20,910
commands are generated, interpreted and split here.

    C → S | S and S | S after S
    S → V | V twice | V thrice
    V → U | D | (U or turn) opposite (left or right) | (U or turn) around (left or right)
    D → U left | U right | turn left | turn right
    U → walk | look | run | jump
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import DatasetDict


SPLITS = ("simple", "length", "addprim_jump", "addprim_turn_left")
"""Of the paper."""
UNPUBLISHED = {
    "simple": "seqloom's own draw, of the published sizes",
    "length_26": "cut at 26 actions, after Newman et al. 2020",
}
"""The splits whose lines are in none of the published files, and what they are."""
SEED = 2018
"""Fixes the order of the pairs, and with it the ``simple`` split."""
LONGEST_TRAINING_TARGETS = {"length": 22, "length_26": 26}
"""Actions; the split tests on the pairs that have more. 22 is Lake and Baroni's; Newman et al. 2020 (arXiv:2010.07174)
move it, and at 26 Csordás et al. 2021 (arXiv:2108.12284) report what relative positions do."""


# A bare "turn" means nothing, so it must be followed by where to.
_PHRASE = (
    r"(walk|look|run|jump|turn(?= (?:opposite|around|left|right)))"
    r"(?:(?: (opposite|around))? (left|right))?"
    r"(?: (twice|thrice))?"
)
_COMMAND = re.compile(f"{_PHRASE}(?: (and|after) {_PHRASE})?")


def commands() -> list[str]:
    """All 20,910 commands: the 102 single phrases, then all pairs joined by ``and``, then those joined by ``after``.

    A phrase's last choice changes fastest, the bare primitives come first: ``walk``, ``walk twice``, ``walk thrice``,
    ``look``, …, ``jump thrice``, ``walk left``, ``walk left twice``, …, ``turn around right thrice``.
    """
    primitives = ["walk", "look", "run", "jump"]
    directed = [
        f"{verb}{manner} {side}"
        for verb in [*primitives, "turn"]
        for manner in ["", " opposite", " around"]
        for side in ["left", "right"]
    ]
    phrases = [f"{phrase}{times}" for phrase in primitives + directed for times in ["", " twice", " thrice"]]
    return phrases + [f"{x} {joiner} {y}" for joiner in ["and", "after"] for x in phrases for y in phrases]


def interpret(command: str) -> str:
    """The actions of a command, separated by spaces: ``jump after turn left`` gives ``I_TURN_LEFT I_JUMP``.

    Raises:
        ValueError: The command is outside the grammar.
    """
    parsed = _COMMAND.fullmatch(command)
    if parsed is None:
        raise ValueError(
            f"{command!r} is not a SCAN command; one is a phrase such as 'walk', 'turn left twice' or "
            "'jump around right', or two such phrases joined by 'and' or 'after'."
        )
    *first, joiner = parsed.groups()[:5]
    second = parsed.groups()[5:]
    actions = _actions(*first)
    if joiner == "and":
        actions = actions + _actions(*second)
    elif joiner == "after":
        actions = _actions(*second) + actions
    return " ".join(actions)


def load_scan(split: str = "simple") -> DatasetDict:
    """The pairs as ``train`` and ``test``, with the columns ``source`` and ``target``; a validation set is not cut.

    The rows come in a random order that never changes. Line for line, but for that order, every split of the paper
    except ``simple`` is the published one.

    Args:
        split: Which pairs are for testing:
            ``simple``: a random fifth, of the published size but our own draw (16,728 train / 4,182 test);
            ``length``: those with more than 22 actions (16,990 / 3,920);
            ``length_26``: those with more than 26, which Lake and Baroni do not have (18,286 / 2,624);
            ``addprim_jump``: those with ``jump`` in company, while training knows it alone (14,670 / 7,706);
            ``addprim_turn_left``: likewise ``turn left`` (21,890 / 1,208).

    Raises:
        ValueError: The split is unknown.
    """
    from datasets import Dataset, DatasetDict

    known = list(dict.fromkeys((*SPLITS, *LONGEST_TRAINING_TARGETS)))
    if split not in known:
        raise ValueError(f"split={split!r} is unknown; SCAN's splits are {', '.join(known)}.")
    pairs = {command: interpret(command) for command in _shuffled(commands())}
    if split == "simple":
        four_fifths = len(pairs) * 4 // 5
        train, test = list(pairs)[:four_fifths], list(pairs)[four_fifths:]
    elif split in LONGEST_TRAINING_TARGETS:
        longest = LONGEST_TRAINING_TARGETS[split]
        train = [c for c, actions in pairs.items() if len(actions.split()) <= longest]
        test = [c for c, actions in pairs.items() if len(actions.split()) > longest]
    else:
        primitive = "jump" if split == "addprim_jump" else "turn left"
        train = [c for c in pairs if primitive not in c]
        test = [c for c in pairs if primitive in c and c != primitive]
        # As published, the lone primitive is repeated to be a tenth of the lines: one for every nine others, which
        # comes out even (13,203 + 1,467 and 19,701 + 2,189).
        train = _shuffled(train + [primitive] * (len(train) // 9))
    return DatasetDict(
        {
            name: Dataset.from_dict({"source": sources, "target": [pairs[source] for source in sources]})
            for name, sources in {"train": train, "test": test}.items()
        }
    )


def _actions(verb: str, manner: str | None, side: str | None, times: str | None) -> list[str]:
    act = [] if verb == "turn" else [f"I_{verb.upper()}"]
    turn = [] if side is None else [f"I_TURN_{side.upper()}"]
    if manner == "around":
        once = (turn + act) * 4
    elif manner == "opposite":
        once = turn * 2 + act
    else:
        once = turn + act
    return once * {None: 1, "twice": 2, "thrice": 3}[times]


def _shuffled(items: Sequence[str]) -> list[str]:
    # Python promises one sequence for random() in all its versions, but not for shuffle() or sample().
    generator = random.Random(SEED)
    return sorted(items, key=lambda _: generator.random())
