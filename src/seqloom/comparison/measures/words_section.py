"""What the counts of the measure `words` say: its section of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqloom.comparison.measures.word_counts import LEAST_TURNS, LONGEST_LOOP, LONGEST_NGRAM, ratio
from seqloom.comparison.measures.words_examples import examples
from seqloom.comparison.sections import Examples, Passage, Plot, Section, Table
from seqloom.figures.style import as_label, look, new_figure, share_legend
from seqloom.scoring import metrics
from seqloom.support.language import later, say
from seqloom.support.wording import together, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = 3
"""Whose n-grams are shown: the first in the order of the candidates; the table has all."""


def section(result: dict[str, Any]) -> Section:
    """What the numbers say."""
    names = [candidate["name"] for candidate in result["candidates"]]
    disturbed = outputs_in_words(result)
    figure_caption = say(
        "F1 of the words by their frequency, and the length of the outputs over that of the references by "
        "the length of the reference, of {models}, with 95 % intervals.",
        models=together(names),
    )
    parts: list[Table | Plot | Passage | Examples] = [
        _outputs_table(result),
        _f1_table(result, names),
        _sides_table(result, names),
        Plot("words", words_figure(result), figure_caption),
        *(_ngrams_table(pair) for pair in result["ngrams"][:PAIRS]),
        *_length_tables(result, names),
        examples(result),
    ]
    return Section(
        title=say("Word by word"),
        question=say("Which words does each model get right, and where do its outputs go wrong?"),
        findings=[*_rare_and_frequent(result, names), *disturbed],
        parts=parts,
        how=_how(result),
        limits=say(
            "Nothing here is a test: the intervals are each model's own, and whether two models differ, the section "
            "on quality says. The n-grams are the farthest of many thousands, some of which are far apart by chance. "
            "A word that is right need not stand in its right place, and one that is wrong may be a good translation."
        ),
        cautions=disturbed,
        headline={
            say("outputs that are empty / repeat themselves / are cut"): {
                name: " / ".join("–" if one is None else f"{one:,}" for one in _flaws(found))
                for name, found in result["outputs"].items()
            }
        },
    )


def _flaws(found: dict[str, Any]) -> list[int | None]:
    return [found["empty"], found["loops"], found.get("cut")]


def _how(result: dict[str, Any]) -> str:
    frequency, said = result["frequency"], []
    said.append(
        say("Words are what stands between spaces.")
        if result["tokenizer"] == "none"
        else say("Words are what sacrebleu's tokenizer {name} makes of the texts.", name=result["tokenizer"])
    )
    if frequency["of"] is None:
        said.append(say("No model's training data were to be had, so a word's frequency is that in the references."))
        said += [say("What stood in the way: {error}", error=frequency["why"])] if frequency["why"] else []
    else:
        said.append(
            say("A word's frequency is that in the {number:,} targets of the training data.", number=frequency["texts"])
            if frequency["is_shared"]
            else say(
                "A word's frequency is that in the {number:,} targets that {model} was trained on; others were "
                "trained on other data.",
                number=frequency["texts"],
                model=frequency["of"],
            )
        )
        if not frequency["is_whole"]:
            said.append(say("These are the first of the data, and not all."))
    said.append(
        say(
            "A word of an output is right where the reference has it too, as often as the reference has it; precision "
            "is the share of the output's words that are right, recall that of the reference's words, F1 their "
            "harmonic mean, in percent (as compare-mt has them, Neubig et al. 2019). Intervals of F1 are Wilson's, of "
            "as many independent words as would scatter over sentences like these; of lengths and scores they are the "
            "percentiles 2.5 and 97.5 of {samples:,} bootstrap resamples.",
            samples=result["samples"],
        )
    )
    said.append(
        say(
            "An n-gram has one to {longest} words. Its ratio is the first model's share of the times that either has "
            "it right, one more added to each, so that 0.5 is no difference.",
            longest=LONGEST_NGRAM,
        )
    )
    said.append(
        say(
            "An output repeats itself where one to {longest} words stand in it {turns} times in a row or oftener, "
            "and oftener than in its reference. It is cut where it has as many tokens as decoding stops after, "
            "counted by the model's tokenizer from the text; a few may be missed where text and tokens do not match.",
            longest=LONGEST_LOOP,
            turns=LEAST_TURNS,
        )
    )
    if any(candidate["runs"] > 1 for candidate in result["candidates"]):
        said.append(
            say("Of several seeds: means of their values, and sums of their outputs; examples are the first's.")
        )
    said.append(
        say(
            "Every number and sentence is in the report's folder, in tables: sentences.csv, words.csv, lengths.csv, "
            "outputs.csv and ngrams.csv."
        )
    )
    return " ".join(said)


def outputs_in_words(result: dict[str, Any]) -> list[str]:
    """Which models have outputs that repeat themselves or are cut; what is empty, `quality` says."""
    kinds = {
        "loops": later("Outputs that repeat themselves: {models}."),
        "cut": later("Outputs that were cut at the limit of tokens: {models}."),
    }
    said = []
    for kind, template in kinds.items():
        of_each = [
            say("{model} {number:,} of {outputs:,}", model=name, number=found[kind], outputs=found["outputs"])
            for name, found in result["outputs"].items()
            if found.get(kind)
        ]
        if of_each:
            said.append(say(template, models="; ".join(of_each)))
    return said


def _rare_and_frequent(result: dict[str, Any], names: list[str]) -> list[str]:
    """F1 at both ends of the frequencies, with intervals; no claim."""
    filled = _used(result)
    said = []
    for place in dict.fromkeys((filled[0], filled[-1])) if filled else ():
        values = [
            f"{name} {with_interval(found['f1'], found['interval'])}"
            for name in names
            if (found := result["accuracy"][name][place])["f1"] is not None
        ]
        bucket = result["buckets"][place]
        said.append(
            say(
                "Words of frequency {range} ({number:,} in the references), F1 in percent: {values}.",
                range=_range(bucket), number=bucket["words"], values="; ".join(values),
            )
        )  # fmt: skip
    return said


def _used(result: dict[str, Any]) -> list[int]:
    """Buckets that a word of the references is in."""
    return [place for place, bucket in enumerate(result["buckets"]) if bucket["words"]]


def _f1_table(result: dict[str, Any], names: list[str]) -> Table:
    rows = []
    for place in _used(result):
        found = [result["accuracy"][name][place] for name in names]
        cells = ["" if one["f1"] is None else with_interval(one["f1"], one["interval"]) for one in found]
        rows.append([_range(result["buckets"][place]), f"{result['buckets'][place]['words']:,}", *cells])
    return Table(
        [say("frequency"), say("in the references"), *names],
        rows,
        say("F1 of the words in percent, by how often the word is in the training data, with 95 % intervals.")
        if result["frequency"]["of"]
        else say("F1 of the words in percent, by how often the word is in the references, with 95 % intervals."),
    )


def _sides_table(result: dict[str, Any], names: list[str]) -> Table:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    rows = []
    for place in _used(result):
        found = [result["accuracy"][name][place] for name in names]
        cells = [f"{percent(one['recall'])} / {percent(one['precision'])}" for one in found]
        rows.append([_range(result["buckets"][place]), *cells])
    return Table(
        [say("frequency"), *names],
        rows,
        say("Recall / precision of the words in percent, likewise; –: the outputs have no such word."),
    )


def _outputs_table(result: dict[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{found['outputs']:,}",
            *("–" if one is None else f"{one:,}" for one in _flaws(found)),
            "–" if found["limit"] is None else f"{found['limit']:,}",
        ]
        for name, found in result["outputs"].items()
    ]
    header = [say("model"), say("outputs"), say("empty"), say("repeating"), say("cut"), say("limit, tokens")]
    return Table(header, rows, say("Outputs that are empty, repeat themselves, or were cut where decoding stops."))


def _ngrams_table(pair: dict[str, Any]) -> Table:
    def number(value: float) -> str:
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"

    rows = [
        [entry["ngram"], number(entry["a"]), number(entry["b"]), f"{ratio(entry['a'], entry['b']):.2f}"]
        for entry in (*pair["better_a"], *reversed(pair["better_b"]))
    ]
    return Table(
        [say("n-gram"), pair["a"], pair["b"], say("ratio")],
        rows,
        say(
            "N-grams that {a} has right more often than {b} (ratio above 0.5), and the other way (below): how often "
            "each is right.",
            a=pair["a"], b=pair["b"],
        ),
    )  # fmt: skip


def _length_tables(result: dict[str, Any], names: list[str]) -> list[Table]:
    lengths = result["lengths"]
    label = metrics.label(result["metric"])
    captions = {
        "ratios": say(
            "Words of the outputs over words of the references, by the reference's length, with 95 % intervals."
        ),
        "scores": say("{metric} by the reference's length, with 95 % intervals.", metric=label),
    }
    tables = []
    for key, caption in captions.items():
        rows = []
        for place, ((low, high), number) in enumerate(zip(lengths["buckets"], lengths["counts"], strict=True)):
            found = [lengths[key][name][place] for name in names]
            cells = [with_interval(one["value"], one["interval"]) for one in found]
            rows.append([f"{low:,}" if low == high else f"{low:,}–{high:,}", f"{number:,}", *cells])
        tables.append(Table([say("words in the reference"), say("sentences"), *names], rows, caption))
    return tables


def words_figure(result: dict[str, Any]) -> Figure:
    """F1 by frequency and the ratio of lengths by length, a line a model."""
    figure, panels = new_figure(2, height=3.4)
    used = _used(result)
    lengths = result["lengths"]
    names = [candidate["name"] for candidate in result["candidates"]]
    for number, name in enumerate(names):
        found = [result["accuracy"][name][place] for place in used]
        _line(panels[0], number, len(names), name, [(one["f1"], one["interval"]) for one in found])
        of_lengths = lengths["ratios"][name]
        _line(panels[1], number, len(names), name, [(one["value"], one["interval"]) for one in of_lengths])
    buckets = [result["buckets"][place] for place in used]
    panels[0].set_xticks(range(len(used)), [_range(bucket, "–\n" if bucket["low"] > 9 else "–") for bucket in buckets])
    panels[0].set_xlabel(say("times that the word is in the training data")
                         if result["frequency"]["of"] else say("times that the word is in the references"))  # fmt: skip
    panels[0].set_ylabel(say("F1 of the words (%)"))
    ticks = [f"{low}" if low == high else f"{low}–{high}" for low, high in lengths["buckets"]]
    panels[1].set_xticks(range(len(ticks)), ticks)
    panels[1].axhline(1, color="0.45", lw=1, ls=":")
    panels[1].set_xlabel(say("words in the reference"))
    panels[1].set_ylabel(say("length of output over reference"))
    share_legend(figure, panels[0])
    return figure


def _line(
    panel: Axes, number: int, count: int, name: str, points: list[tuple[float | None, list[float] | None]]
) -> None:
    style = look(number)
    shift = 0.06 * (number - (count - 1) / 2)  # so that intervals do not hide each other
    places = [place + shift for place, (value, _) in enumerate(points) if value is not None]
    values = [value for value, _ in points if value is not None]
    panel.plot(places, values, label=as_label(name), **style)
    for place, bounds in zip(places, [bounds for value, bounds in points if value is not None], strict=True):
        if bounds is not None:
            panel.plot([place, place], bounds, color=style["color"], lw=1)


def _range(bucket: dict[str, Any], dash: str = "–") -> str:
    """``0``, ``2–4``, ``1,000+``."""
    low, high = bucket["low"], bucket["high"]
    return f"{low:,}+" if high is None else f"{low}" if low == high else f"{low}{dash}{high}"
