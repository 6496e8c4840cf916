"""Tables of the measure `quality`: scores, and tests of every pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqloom.comparison.sections import Table
from seqloom.scoring import metrics
from seqloom.support.language import say
from seqloom.support.wording import p_value, together, with_interval


def scores_table(result: dict[str, Any], several: bool, remarks: Sequence[str]) -> Table:
    """Every candidate's scores with their intervals, and what is to be known beside them."""
    rows = []
    for candidate in result["candidates"]:
        cells = []
        for entry in result["metrics"].values():
            score = entry["scores"][candidate["name"]]
            spread = f" ± {score['spread']:.2f}" if score["spread"] is not None else ""
            cells.append(f"{score['score']:.2f}{spread} [{score['interval'][0]:.2f}, {score['interval'][1]:.2f}]")
        hub = (scores[candidate["name"]] for scores in result["untested"].values())
        runs = [str(candidate["runs"])] if several else []
        rows.append([candidate["name"], *runs, *cells, *("" if score is None else f"{score:.2f}" for score in hub)])
    header = [
        say("candidate"),
        *([say("seeds")] if several else []),
        *map(metrics.label, result["metrics"]),
        *result["untested"],
    ]
    caption = say(
        "Scores in percent with 95 % intervals; behind ±, the standard deviation of the seeds' scores."
        if several
        else "Scores in percent with 95 % intervals."
    )
    if result["untested"]:
        caption += say(
            " {untested} of the Hub: in its own unit and untested, since such a metric does not tell what "
            "its score is made of.",
            untested=together(list(result["untested"])),
        )
    return Table(header, rows, " ".join([caption, *remarks]))


def tests_table(result: dict[str, Any]) -> Table:
    """Every pair's difference on every metric, what each test says of it, and sentences won and lost."""
    rows = [
        [
            metrics.label(name),
            f"{pair['a']} − {pair['b']}",
            with_interval(pair["difference"], pair["interval"], "+"),
            *(p_value(pair.get(f"p_{test}")) for test in ("bootstrap", "randomisation", "exact", "seeds", "holm")),
            f"{pair['wins']:,} / {pair['losses']:,} / {pair['ties']:,}",
            pair["better"] or (say("not tested") if pair["p"] is None else say("not found")),
        ]
        for name, entry in result["metrics"].items()
        for pair in entry["pairs"]
    ]
    header = [
        say("metric"),
        say("pair"),
        say("difference"),
        say("p bootstrap"),
        say("p randomisation"),
        say("p exact"),
        say("p seeds"),
    ]
    header += [say("p Holm")]
    header += [say("wins / losses / ties"), say("better")]
    caption = say(
        "Paired tests: differences in points with 95 % intervals; p Holm is the last p before it, "
        "adjusted for the number of pairs of the metric. Wins are sentences on which the first of the "
        "pair scores better by itself."
    )
    used = [number for number in range(len(header)) if number not in (5, 6) or any(row[number] for row in rows)]
    return Table([header[n] for n in used], [[row[n] for n in used] for row in rows], caption)
