"""One sentence through every model of a demo page: what each says, in what time, where it looked, what it weighed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from seqloom.attention.attend import attend
from seqloom.attention.maps import AttentionMaps
from seqloom.attention.words import read_tokens, word_labels
from seqloom.data.tokenization import target_tokenizer
from seqloom.decoding.asked import NotOurs, options_for
from seqloom.decoding.limits import source_positions, within_positions
from seqloom.decoding.options import limited
from seqloom.decoding.translate import GREEDY, Hypothesis, translate
from seqloom.demo_page.beams import Tree, of_outputs, watched
from seqloom.demo_page.models import Shown
from seqloom.support.language import later

MOST_BEAMS = 8


@dataclass(eq=False)
class Problem(Exception):
    """Why there is no answer, as `say` takes it."""

    template: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaf:
    """A finished output of the search."""

    text: str
    score: float
    """log p, in nats."""


@dataclass(frozen=True)
class Answer:
    """What one model has to say."""

    model: Shown
    text: str = ""
    milliseconds: float = 0.0
    """From the sentence to the output, as `translate` gives it."""
    threads: int = 0
    device: str = "cpu"
    num_beams: int = 1
    is_cut: bool = False
    """Whether it ends because no more tokens are allowed."""
    unknown: Sequence[str] = ()
    """What the tokenizer has no tokens for."""
    maps: AttentionMaps | None = None
    """None: it has no attention."""
    tree: Tree = field(default_factory=Tree)
    labels: Sequence[str] = ()
    """What each node of the tree says."""
    leaves: Sequence[Leaf] = ()
    """The best first."""
    problem: Problem | None = None
    """Then there is nothing else."""


def check_sentence(sentence: str, most: int) -> str:
    """The sentence without the spaces around it.

    Raises:
        Problem: It is empty, or has more characters than the page takes.
    """
    sentence = " ".join(sentence.split())
    if not sentence:
        raise Problem(later("There is no sentence yet. Type one, or take an example."))
    if len(sentence) > most:
        text = later("The sentence has {given} characters; this page takes {most}. Shorten it, or give one at a time.")
        raise Problem(text, {"given": len(sentence), "most": most})
    return sentence


def answer_all(models: Sequence[Shown], sentence: str, num_beams: int) -> list[Answer]:
    """The answers of all models, one after the other.

    Args:
        models: Those of the page.
        sentence: As `check_sentence` gives it.
        num_beams: 1 is greedy search.
    """
    return [answer(model, sentence, num_beams) for model in models]


def answer(shown: Shown, sentence: str, num_beams: int) -> Answer:
    """What one model has to say; the time is that of the output alone, maps and tree come after it."""
    model, tokenizer = shown.model, shown.tokenizer
    source, most = tokenizer(sentence)["input_ids"], source_positions(model)
    if most is not None and len(source) > most:
        text = later("The sentence has {given} tokens; this model reads {most} at most. Shorten it.")
        return Answer(shown, problem=Problem(text, {"given": len(source), "most": most}))
    given = GREEDY if num_beams == 1 else {"num_beams": num_beams, "do_sample": False}
    begun = time.perf_counter()
    text, ids = translate(model, tokenizer, sentence, decoder=shown.decoder, return_tokens=True, **given)
    milliseconds = 1000 * (time.perf_counter() - begun)
    tree = tree_of(shown, sentence, source, given)
    outputs = sorted((node for node in tree.nodes if node.rank is not None), key=lambda node: node.rank or 0)
    ends = model.generation_config.eos_token_id
    return Answer(
        shown,
        text=text,
        milliseconds=milliseconds,
        threads=torch.get_num_threads(),
        device=model.device.type,
        num_beams=num_beams,
        is_cut=bool(ids) and ids[-1] not in (ends if isinstance(ends, list) else [ends]),
        unknown=unknown_parts(shown, sentence),
        maps=maps_of(shown, sentence, ids),
        tree=tree,
        labels=labels_of(shown, tree),
        leaves=[Leaf(shown.say(node.tokens), node.score) for node in outputs],
    )


def tree_of(shown: Shown, sentence: str, source: list[int], given: dict[str, Any]) -> Tree:
    """The search's tree: of seqloom's own with what was dropped on the way, of another with the finished outputs."""
    num_beams = given["num_beams"]
    if shown.decoder is not None and num_beams > 1:
        asked = limited(shown.model.generation_config, given | {"num_return_sequences": num_beams})
        try:
            options = options_for(shown.model, within_positions(shown.model, asked))
        except NotOurs:  # a part of the model's own generation config
            pass
        else:
            return watched(shown.decoder, source, options)
    found: Any = translate(
        shown.model, shown.tokenizer, sentence, return_hypotheses=True, num_return_sequences=num_beams, **given
    )
    hypotheses: list[Hypothesis] = found if isinstance(found, list) else [found]
    spelt: Any = target_tokenizer(shown.tokenizer)
    return of_outputs(
        ([spelt.convert_tokens_to_ids(token) for token in one.target_tokens], one.token_scores) for one in hypotheses
    )


def labels_of(shown: Shown, tree: Tree) -> list[str]:
    """What each node says, read from the longest outputs: a token may be a part of a character."""
    labels = [""] * len(tree.nodes)
    has_child = {node.parent for node in tree.nodes}
    for place, node in enumerate(tree.nodes):
        if place in has_child:
            continue
        text, tokens = read_tokens(shown.tokenizer, node.tokens, is_target=True)
        said = word_labels(text, tokens, [[index] for index in range(len(tokens))])
        above: int | None = place
        while above is not None and not labels[above]:
            labels[above] = said[tree.nodes[above].step]
            above = tree.nodes[above].parent
    return labels


def maps_of(shown: Shown, sentence: str, ids: list[int]) -> AttentionMaps | None:
    """Where the model looked while it wrote these tokens; None where it has no attention, or wrote nothing."""
    if not ids or getattr(shown.model.config, "has_cross_attention", True) is False:
        return None
    return attend(shown.model, shown.tokenizer, sentence, target=ids)


def unknown_parts(shown: Shown, sentence: str) -> list[str]:
    """What of the sentence is read as the unknown token, each once, where the tokenizer can tell."""
    tokenizer = shown.tokenizer
    if not tokenizer.is_fast or tokenizer.unk_token_id is None:
        return []
    encoded = tokenizer(sentence, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    parts = [sentence[start:end].strip() for token, (start, end) in pairs if token == tokenizer.unk_token_id]
    return list(dict.fromkeys(filter(None, parts)))
