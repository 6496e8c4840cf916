"""The command ``seqloom translate``: lines of text in, a line of output for each, as they come."""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from seqloom.commands.command import Command
from seqloom.commands.shell import reader_may_leave, run
from seqloom.settings.schema import ScoringSettings
from seqloom.support.wording import plural

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from seqloom.decoding.translate import Hypothesis


@dataclass(kw_only=True)
class Translate(Command):
    """Translates lines of text.

    Sources come from standard input, outputs go to standard output: a line each, as they come. Of several outputs, or
    with --tsv or --json, each has its score: log p of the output given the source, in nats, a sum over its tokens.
    """

    name = "translate"
    needs = "the model comes first"
    settings = ScoringSettings
    sections = ("revision", "trust_remote_code", "seed", "generation")
    streams = ("stdin", "stdout")
    examples = """
        seqloom translate runs/mine --num_beams 5 < sources.txt > outputs.txt
        seqloom translate runs/mine --decode_dtype int8 --num_jobs 8 < many.txt > outputs.txt
        seqloom translate runs/mine --num_beams 5 --num_return_sequences 3 --json < sources.txt > outputs.jsonl
    """

    model: str
    """A folder or a name on the Hub."""
    num_jobs: int = field(default=1, metadata={"least": 1})
    """Processes that translate side by side, each with the model in its memory; the threads are divided among them."""
    compile: bool = False
    """Compile the model for this machine, once, which takes a C++ compiler and a minute or more; it is kept among the
    assets of the Hugging Face libraries (HF_HOME). For sentences that come one at a time."""
    target_prefix: str = ""
    """A text that every output begins with."""
    num_return_sequences: int | None = field(default=None, metadata={"least": 1})
    """Outputs of each source, the best first (at most as many as beams, or as are drawn): below each source the lines
    of its outputs with their scores, and an empty line."""
    tsv: bool = False
    """A table instead: the source's number, the output's rank, its score, source and output, parted by tabs."""
    json: bool = False
    """Lines of JSON instead, one for each source, with its outputs, their scores and numbers of tokens."""

    def run(self) -> None:
        if self.tsv and self.json:
            raise ValueError("--tsv and --json are two forms of the same: give one of them.")
        import torch

        from seqloom.decoding.jobs import translate_by_jobs
        from seqloom.decoding.loading import is_of_ours, open_pair
        from seqloom.decoding.options import check_options, try_options
        from seqloom.export.compiled import compiled
        from seqloom.settings.reading import load_scoring_settings

        settings, generate_kwargs = load_scoring_settings(self.model, self.overrides, self.sections)
        name, revision = self.model, settings.revision
        if self.compile:
            say = partial(print, file=sys.stderr)
            name, revision = str(compiled(name, revision, settings.trust_remote_code, say)), None
        model, tokenizer = open_pair(name, revision, settings.trust_remote_code)
        number = self._number(model.generation_config, generate_kwargs)
        check_options(model.generation_config, generate_kwargs, several=True, is_own=is_of_ours(model))
        try_options(model, tokenizer, generate_kwargs)
        torch.manual_seed(settings.seed)
        sources = lines_of(sys.stdin)
        has_scores = number > 1 or self.tsv or self.json
        if has_scores:
            kept = deque[str]()  # sources whose outputs are still to come
            sources = noted(sources, kept)
        told = {"target_prefix": self.target_prefix, "return_hypotheses": has_scores, **generate_kwargs}
        # Someone who types wants an answer to each line.
        read_ahead = 1 if sys.stdin.isatty() else 10_000
        batch_tokens, dtype = settings.generation.decode_batch_tokens, settings.generation.decode_dtype
        if self.num_jobs > 1:
            del model
            opener = partial(open_pair, name, revision, settings.trust_remote_code)
            outputs = translate_by_jobs(
                opener, sources, self.num_jobs, seed=settings.seed, batch_tokens=batch_tokens, dtype=dtype, **told
            )
        else:
            outputs = translate(
                model, tokenizer, sources, batch_tokens=batch_tokens, read_ahead=read_ahead, dtype=dtype, **told
            )
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # whatever the locale says, as they are read
        form = as_tsv if self.tsv else as_json if self.json else as_group
        with reader_may_leave():
            if self.tsv:
                print("line\trank\tscore\tsource\toutput")
            for place, output in enumerate(outputs, start=1):
                found = output if isinstance(output, list) else [output]
                said = form(place, kept.popleft(), found) if has_scores else one_line(output)
                print(said, flush=read_ahead == 1)

    def _number(self, config: GenerationConfig, generate_kwargs: dict[str, Any]) -> int:
        """Outputs of each source, as they are asked for here or in the arguments of ``generate``, to which they go."""
        if self.num_return_sequences is not None:
            if "num_return_sequences" in generate_kwargs:
                raise ValueError("--num_return_sequences is in --generate_kwargs too: leave one of them out.")
            generate_kwargs["num_return_sequences"] = self.num_return_sequences
        number = generate_kwargs.get("num_return_sequences") or config.num_return_sequences or 1
        beams = generate_kwargs.get("num_beams") or config.num_beams or 1
        is_drawn = generate_kwargs.get("do_sample", config.do_sample) is True
        if isinstance(number, int) and isinstance(beams, int) and number > beams and not is_drawn:
            raise ValueError(
                f"num_return_sequences is {number}, but a search with {plural(beams, 'beam')} has no more outputs than "
                f"that: give --num_beams {number} or more."
            )
        return number


def main(argv: Sequence[str] | None = None) -> int:
    """The command, by the words after its name; returns its exit status."""
    return run(Translate, argv)


def translate(*args: Any, **options: Any) -> Any:
    """`seqloom.translate`; it and torch are loaded when there is something to translate."""
    from seqloom.decoding.translate import translate

    return translate(*args, **options)


def lines_of(stream: TextIO) -> Iterator[str]:
    """The lines of a stream, read as training reads a file's.

    Raises:
        ValueError: A line is not UTF-8, or too long.
    """
    from seqloom.data.lines import LONGEST_TEXT, bounded, placed, too_long

    # A stream that was put in the place of standard input may hold text alone.
    lines = bounded(stream.buffer) if hasattr(stream, "buffer") else (line.encode() for line in stream)
    for number, line in enumerate(placed(lines, "the input"), start=1):
        if len(line) > LONGEST_TEXT:
            raise too_long(line, f"the input, line {number:,},")
        yield line


def noted(sources: Iterator[str], kept: deque[str]) -> Iterator[str]:
    """The same sources, each kept as it is read."""
    for source in sources:
        kept.append(source)
        yield source


def as_group(place: int, source: str, found: Sequence[Hypothesis]) -> str:
    """A source, its outputs with their scores, an empty line."""
    return "\n".join([one_line(source), *(f"{one.score:9.3f}  {one_line(one.text)}" for one in found), ""])


def as_tsv(place: int, source: str, found: Sequence[Hypothesis]) -> str:
    """A row for each output; a tab in a text is a space."""
    source, *texts = (one_line(text).replace("\t", " ") for text in (source, *(one.text for one in found)))
    ranked = enumerate(zip(found, texts, strict=True), start=1)
    return "\n".join(f"{place}\t{rank}\t{one.score:.4f}\t{source}\t{text}" for rank, (one, text) in ranked)


def as_json(place: int, source: str, found: Sequence[Hypothesis]) -> str:
    """A source with its outputs; the tokens include the end, where it was reached."""
    outputs = [{"text": one.text, "score": round(one.score, 4), "tokens": len(one.token_scores)} for one in found]
    return json.dumps({"source": source, "outputs": outputs}, ensure_ascii=False)


def one_line(output: str) -> str:
    """An output without the line ends that it may hold, each now a space: what reads lines counts one."""
    return re.sub(r"\r\n|[\r\n]", " ", output)
