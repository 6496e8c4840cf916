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
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from seqloom.decoding.translate import Hypothesis


@dataclass(kw_only=True)
class Translate(Command):
    """Translates lines of text.

    Sources come from standard input, outputs go to standard output: a line each, as they come; an empty line for an
    empty one. Of several outputs, or with --tsv or --json, each has its score: log p of the output given the source, in
    nats, a sum over its tokens. At the end it says where sources had words that the model does not know, and which
    outputs were cut at their greatest length.
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

    def check(self) -> None:
        from seqloom.settings.reading import load_scoring_settings

        load_scoring_settings(self.model, self.overrides, self.sections)

    def run(self) -> None:
        if self.tsv and self.json:
            raise ValueError("--tsv and --json are two forms of the same: give one of them.")
        import torch

        from seqloom.decoding.jobs import translate_by_jobs
        from seqloom.decoding.loading import is_of_ours, open_pair
        from seqloom.decoding.options import check_options, try_options
        from seqloom.export.compiled import compiled
        from seqloom.modeling.pipeline_seq2seq import ends_of
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
        kept = deque[str]()  # sources whose outputs are still to come
        sources = noted(lines_of(sys.stdin), kept)
        has_scores = number > 1 or self.tsv or self.json
        told = {"target_prefix": self.target_prefix, "return_hypotheses": has_scores, **generate_kwargs}
        told["return_tokens"] = not has_scores
        doubts = Doubts(tokenizer, ends_of(model, generate_kwargs))
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
        form = as_tsv if self.tsv else as_json if self.json else as_group if has_scores else as_line
        with reader_may_leave():
            if self.tsv:
                print("line\trank\tscore\tsource\toutput")
            for place, output in enumerate(outputs, start=1):
                source, found = kept.popleft(), output if isinstance(output, list) else [output]
                outs = [Output.of(one) for one in found] if source.strip() else [NOTHING]
                print(form(place, source, outs), flush=read_ahead == 1)
                doubts.note(source, outs[0])
        for doubt in doubts.in_words():
            print(f"warning: {doubt}", file=sys.stderr)

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


@dataclass(frozen=True)
class Output:
    """One output of a source."""

    text: str
    tokens: Sequence[int] | Sequence[str]
    """Its end included, where it was reached."""
    score: float = 0.0

    @classmethod
    def of(cls, found: Hypothesis | tuple[str, list[int]]) -> Output:
        """What `seqloom.translate` gave."""
        return cls(*found) if isinstance(found, tuple) else cls(found.text, found.target_tokens, found.score)


NOTHING = Output("", ())
"""Of a source without a word, whatever a model would make of it."""


class Doubts:
    """Outputs that are not to be relied on, counted as they come."""

    NAMED = 5
    """Lines that are named."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_token_id: int | list[int] | None) -> None:
        from seqloom.data.tokenization import target_tokenizer

        ends = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id or []
        self.tokenizer = tokenizer
        self.ends = {*ends, *target_tokenizer(tokenizer).convert_ids_to_tokens(ends)}
        self.lines = self.num_unknown = self.num_cut = 0
        self.unknown, self.cut = list[str](), list[str]()

    def note(self, source: str, output: Output) -> None:
        """One more line and its output."""
        self.lines += 1
        if words := unknown_words(self.tokenizer, source):
            self.num_unknown += 1
            self.unknown += [f"line {self.lines:,} {words[0]!r}"] if self.num_unknown <= self.NAMED else []
        if output.tokens and self.ends and output.tokens[-1] not in self.ends:
            self.num_cut += 1
            self.cut += [f"{self.lines:,}"] if self.num_cut <= self.NAMED else []

    def in_words(self) -> Iterator[str]:
        """A sentence for each kind that there was."""
        of = f"of {plural(self.lines, 'line')}"
        if self.unknown:
            more = ", …" if self.num_unknown > self.NAMED else ""
            yield (
                f"{self.num_unknown:,} {of} had words that the model does not know, so their outputs say nothing of "
                f"these: {', '.join(self.unknown)}{more}."
            )
        if self.cut:
            more = ", …" if self.num_cut > self.NAMED else ""
            yield (
                f"the outputs of {self.num_cut:,} {of} were cut at their greatest length "
                f"(line{'s' * (self.num_cut > 1)} {', '.join(self.cut)}{more}); --max_new_tokens allows more."
            )


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The pieces of a text that its tokens do not tell, in their order."""
    if tokenizer.unk_token_id is None or not tokenizer.is_fast:
        return []
    encoded = tokenizer(text, return_offsets_mapping=True)
    places = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [text[first:last].strip() for token, (first, last) in places if token == tokenizer.unk_token_id]


def as_line(place: int, source: str, found: Sequence[Output]) -> str:
    """The best output alone."""
    return one_line(found[0].text)


def as_group(place: int, source: str, found: Sequence[Output]) -> str:
    """A source, its outputs with their scores, an empty line."""
    return "\n".join([one_line(source), *(f"{one.score:9.3f}  {one_line(one.text)}" for one in found), ""])


def as_tsv(place: int, source: str, found: Sequence[Output]) -> str:
    """A row for each output; a tab in a text is a space."""
    source, *texts = (one_line(text).replace("\t", " ") for text in (source, *(one.text for one in found)))
    ranked = enumerate(zip(found, texts, strict=True), start=1)
    return "\n".join(f"{place}\t{rank}\t{one.score:.4f}\t{source}\t{text}" for rank, (one, text) in ranked)


def as_json(place: int, source: str, found: Sequence[Output]) -> str:
    """A source with its outputs; the tokens include the end, where it was reached."""
    outputs = [{"text": one.text, "score": round(one.score, 4), "tokens": len(one.tokens)} for one in found]
    return json.dumps({"source": source, "outputs": outputs}, ensure_ascii=False)


def one_line(output: str) -> str:
    """An output without the line ends that it may hold, each now a space: what reads lines counts one."""
    return re.sub(r"\r\n|[\r\n]", " ", output)
