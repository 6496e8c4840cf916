"""A model exported to CTranslate2, which searches by itself, made to find what `generate` finds.

Its beam search (``src/decoding.cc``) expands, scores and ends beams as transformers' does, but for these:

- It stops when as many outputs are finished as there are beams, which is ``early_stopping=True``. With ``False`` and
  ``"never"`` transformers goes on for as long as the best that runs could better the worst that is finished. Where it
  stops is found here from searches of a fixed length, of which CTranslate2 hands out all that is finished and, at their
  last step, all that runs: where the search has ended by then, and the best are the same at each step that it can have
  ended at, these are its outputs. Else it is searched further, or step by step.
- What must not come next is taken out before the probabilities are normalised, not after, which changes the scores of
  beams: refused.
- A source that is nothing but its end has the empty output, whatever the model says: its names of ends are others here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from seqloom.decoding.asked import NotOurs
from seqloom.decoding.targets import Candidate, SearchOptions
from seqloom.support.foreign import from_json
from seqloom.support.int8 import let_ctranslate2_be_exact

FOLDER = "ctranslate2"
"""Where its files lie in an exported folder: it has a config.json of its own."""
NO_PENALTY = 1e-30
"""Instead of a length penalty of 0, with which CTranslate2 has another rule of when to stop."""
AHEAD = 8
"""Steps by which searches are made longer."""
Output: TypeAlias = tuple[list[int], float]
"""Tokens, with the end if it was reached, and their score."""
let_ctranslate2_be_exact()


def open_engine(folder: Path, about: dict[str, Any]) -> CTranslate2Searcher:
    """The engine of an exported folder.

    Raises:
        ValueError: There is no such folder in it.
        RuntimeError: CTranslate2's, of files that it cannot read.
    """
    place, dtype = folder / FOLDER, about["dtype"]
    return CTranslate2Searcher(
        partial(translator, place, dtype), vocabulary(place, "source"), vocabulary(place, "target")
    )


def translator(place: Path, dtype: str) -> Any:
    """A ``ctranslate2.Translator``, to which every end, start and source is told by whoever asks."""
    import ctranslate2

    files = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    # No source consists of padding, so none is taken for empty.
    own = {"eos_token": vocabulary(place, "source")[0], "bos_token": vocabulary(place, "source")[0]}
    config = from_json(files["config.json"]) | own | {"decoder_start_token": None}
    files["config.json"] = json.dumps(config).encode()
    threads = torch.get_num_threads()
    return ctranslate2.Translator(
        str(place), "cpu", compute_type=compute_type(dtype), intra_threads=threads, files=files
    )


def compute_type(dtype: str) -> str:
    """What weights of a dtype are computed in on this machine: their own, if it has that."""
    import ctranslate2

    if dtype in ctranslate2.get_supported_compute_types("cpu"):
        return dtype
    return "int8_float32" if dtype.startswith("int8") else "float32"


def vocabulary(place: Path, side: str) -> list[str]:
    """The tokens of a side by their ids."""
    own = place / f"{side}_vocabulary.json"
    return from_json((own if own.is_file() else place / "shared_vocabulary.json").read_bytes())


class CTranslate2Searcher:
    """Searches and scores with a translator.

    Args:
        opened: Opens a translator.
        source, target: The vocabularies, by ids.
    """

    def __init__(self, opened: Callable[[], Any], source: list[str], target: list[str]):
        self.opened, self.source, self.target = opened, source, target
        self.translator = opened()
        self.usual = 2 * AHEAD  # steps that most beam searches of the batch before needed
        self.drawn: torch.Tensor | None = None  # torch's random state when it was last opened to draw
        self.ids = {token: index for index, token in enumerate(target)}

    def check(self, options: SearchOptions) -> None:
        """Refuses what CTranslate2 has not, or has otherwise.

        Raises:
            NotOurs: There is something; the message has its name.
        """
        if options.num_beams > 1:
            for name in ("no_repeat_ngram_size", "min_new_tokens"):
                if value := getattr(options, name):
                    raise NotOurs(f"{name} is {value} with more than one beam")
            if len(options.eos_tokens) > 1:
                raise NotOurs("eos_token_id has several ids with more than one beam")
            if 2 * options.num_beams > len(self.target):
                raise NotOurs(f"num_beams is {options.num_beams}, more than half of the vocabulary")
        if options.do_sample and options.no_repeat_ngram_size > 1:
            raise NotOurs(f"no_repeat_ngram_size is {options.no_repeat_ngram_size} while outputs are drawn")
        if not options.eos_tokens:
            raise NotOurs("eos_token_id is null")
        if options.max_new_tokens < options.min_new_tokens:
            raise NotOurs(f"min_new_tokens is {options.min_new_tokens}, more than max_new_tokens")

    def search(
        self, sources: Sequence[list[int]], options: SearchOptions, *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Candidate]]]:
        """As `seqloom.decoding.search.search`."""
        order = sorted(range(len(sources)), key=lambda index: len(sources[index]), reverse=True)
        budget = max(1, batch_tokens // options.rows)
        while order:
            rows = max(1, budget // max(1, len(sources[order[0]])))
            batch, order = order[:rows], order[rows:]
            if options.num_beams > 1:
                yield from self.beams(sources, batch, options)
            else:
                yield from self.rows(sources, batch, options)

    def rows(
        self, sources: Sequence[list[int]], batch: list[int], options: SearchOptions
    ) -> Iterator[tuple[int, list[Candidate]]]:
        """Greedy search, or outputs that are drawn."""
        told: dict[str, Any] = {
            "beam_size": 1,
            "min_decoding_length": options.min_new_tokens,
            "no_repeat_ngram_size": options.no_repeat_ngram_size,
        }
        if options.no_repeat_ngram_size == 1:  # the start is one of the tokens that were
            told["suppress_sequences"] = [[self.target[options.start_token]]]
        if options.do_sample and options.top_k != 1 and options.top_p:  # with either, the likeliest alone is left
            self.seed()
            top_k = min(options.top_k, len(self.target))
            told |= {
                "sampling_topk": top_k,
                "sampling_temperature": options.temperature,
                "sampling_topp": options.top_p,
            }
            told["num_hypotheses"] = options.num_return_sequences
        most = options.max_new_tokens
        for index, found in zip(batch, self.run(sources, batch, options, most, **told), strict=True):
            if banned := self.repeats_start(found[0][0], options):
                [found[:]] = self.run(sources, [index], options, most, **told, suppress_sequences=[banned])
            candidates = [Candidate(0.0, tokens) for tokens, _ in found]
            yield index, candidates * (options.num_return_sequences if len(candidates) == 1 else 1)

    def seed(self) -> None:
        """Draws from now on as torch's random state has it. CTranslate2's threads are seeded when they begin."""
        if self.drawn is None or not torch.equal(self.drawn, torch.get_rng_state()):
            import ctranslate2

            ctranslate2.set_random_seed(int(torch.randint(2**31 - 1, ())))
            self.translator, self.drawn = self.opened(), torch.get_rng_state()

    def repeats_start(self, tokens: list[int], options: SearchOptions) -> list[str]:
        """The n-gram that an output begins with, its start included, if it is there again: CTranslate2 forgets that
        one."""
        size = options.no_repeat_ngram_size
        first = [options.start_token, *tokens[: size - 1]]
        if size < 2 or all(tokens[place : place + size] != first for place in range(len(tokens))):
            return []
        return [self.target[token] for token in first]

    def beams(
        self, sources: Sequence[list[int]], batch: list[int], options: SearchOptions
    ) -> Iterator[tuple[int, list[Candidate]]]:
        """Beam search, until nothing can better what is finished."""
        beams, most = options.num_beams, options.max_new_tokens
        if options.early_stopping is True:
            every = self.run(sources, batch, options, most, beam_size=beams, num_hypotheses=beams)
            yield from ((index, best(found, options)) for index, found in zip(batch, every, strict=True))
            return
        # With "never", nothing that could be better is left out.
        is_exhaustive = options.early_stopping == "never" and options.length_penalty > 0
        upto, ended = most if is_exhaustive else min(most, self.usual), []
        while batch:
            every, later = self.all_upto(sources, batch, options, upto), []
            for index, found in zip(batch, every, strict=True):
                full = upto if is_exhaustive else first_full(found, options, upto)
                if full is None or not self.ends(found, options, upto):
                    later.append(index)
                    continue
                ended.append(full)
                each = [best(finished(found, options, step), options) for step in range(full, upto + 1)]
                is_same = all([one.tokens for one in some] == [one.tokens for one in each[0]] for some in each)
                yield index, each[0] if is_same else self.first_end(sources, index, options, full)
            batch, upto = later, min(most, upto + AHEAD)
        if not is_exhaustive:
            usual = sorted(ended)[len(ended) * 9 // 10]
            self.usual = AHEAD * (usual // AHEAD + 1)

    def first_end(self, sources: Sequence[list[int]], index: int, options: SearchOptions, step: int) -> list[Candidate]:
        """What a sentence has where its search ends, step by step."""
        while True:
            [found] = self.all_upto(sources, [index], options, step)
            if self.ends(found, options, step):
                return best(finished(found, options, step), options)
            step += 1

    def ends(self, found: list[Output], options: SearchOptions, step: int) -> bool:
        """Whether a search ends at a step, given all that is finished or runs then."""
        if step >= options.max_new_tokens:
            return True
        done = finished(found, options, step)
        kept = sorted((score for _, score in done), reverse=True)[: options.num_beams]
        if len(kept) < options.num_beams:
            return False
        running = [score for tokens, score in found if len(tokens) == step and tokens[-1] not in options.eos_tokens]
        # Where none is among the best, all that run are worse than those that have just ended.
        return not running or max(running) <= kept[-1]

    def all_upto(
        self, sources: Sequence[list[int]], batch: list[int], options: SearchOptions, step: int
    ) -> list[list[Output]]:
        """All that is finished up to a step, and all beams that run then."""
        number = (step + 1) * options.num_beams
        return self.run(
            sources, batch, options, step, beam_size=options.num_beams, patience=step + 1, num_hypotheses=number
        )

    def run(
        self, sources: Sequence[list[int]], batch: list[int], options: SearchOptions, most: int, **told: Any
    ) -> list[list[Output]]:
        """Outputs of each source, with their ends, and their scores."""
        results = self.translator.translate_batch(
            [[self.source[token] for token in sources[index]] for index in batch],
            [[self.target[options.start_token]]] * len(batch),
            end_token=list(options.eos_tokens), return_end_token=True, return_scores=True, max_input_length=0,
            max_decoding_length=most, length_penalty=options.length_penalty or NO_PENALTY,
            **{"min_decoding_length": 0} | told,
        )  # fmt: skip
        return [
            [
                ([self.ids[token] for token in tokens], score)
                for tokens, score in zip(one.hypotheses, one.scores, strict=True)
            ]
            for one in results
        ]

    def score(self, sources: Sequence[list[int]], targets: Sequence[list[int]], start_token: int) -> list[list[float]]:
        """log p of every target token, given its source and the tokens before it."""
        names = [[self.source[token] for token in source] for source in sources]
        outputs = [[self.target[token] for token in (start_token, *target)] for target in targets]
        results = self.translator.score_batch(
            names, outputs, max_input_length=0, max_batch_size=4096, batch_type="tokens"
        )
        return [one.log_probs[: len(target)] for one, target in zip(results, targets, strict=True)]


def finished(found: list[Output], options: SearchOptions, step: int) -> list[Output]:
    """The outputs that have ended at a step or before, and do not just stop where the search was cut."""
    is_last = step >= options.max_new_tokens
    return [one for one in found if len(one[0]) <= step and (is_last or one[0][-1] in options.eos_tokens)]


def first_full(found: list[Output], options: SearchOptions, upto: int) -> int | None:
    """The first step by which as many outputs have ended as there are beams."""
    steps = sorted(len(tokens) for tokens, _ in finished(found, options, upto))
    return steps[options.num_beams - 1] if len(steps) >= options.num_beams else None


def best(found: list[Output], options: SearchOptions) -> list[Candidate]:
    """The best outputs, as many as are wanted."""
    candidates = sorted((Candidate(score, tokens) for tokens, score in found), reverse=True)
    return candidates[: options.num_return_sequences]
