"""The pictures of docs/how-they-work.md, drawn from its numbers, with labels that both languages read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqloom.attention.maps import draw_map
from seqloom.figures.style import BLUE, GREEN, VERMILLION, look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = dict[str, Any]
PALE, GREY = "#E8F1F8", "0.55"
KINDS = {"gru": "GRU, no attention", "attention": "GRU, Luong attention", "transformer": "Transformer"}


def strip(panel: Axes, rows: Any, labels: Sequence[str], title: str, limit: float = 1.0) -> Any:
    """Vectors, one a row: blue below zero, white at zero, red above."""
    image = panel.imshow(np.asarray(rows), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    panel.set_yticks(range(len(labels)), labels)
    panel.set_title(title, fontsize=10)
    bare(panel)
    return image


def bare(panel: Axes) -> None:
    """Without what belongs to curves."""
    panel.grid(visible=False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def canvas(panel: Axes, width: float, height: float) -> None:
    """A panel to draw boxes on."""
    panel.set_xlim(0, width)
    panel.set_ylim(0, height)
    panel.set_axis_off()


def box(
    panel: Axes, x: float, y: float, wide: float, high: float, text: str, colour: str = PALE, size: float = 9
) -> None:
    """A box with its text, by its middle."""
    from matplotlib.patches import FancyBboxPatch

    corner, shape = (x - wide / 2, y - high / 2), "round,pad=0,rounding_size=0.08"
    panel.add_patch(FancyBboxPatch(corner, wide, high, boxstyle=shape, facecolor=colour, edgecolor="0.35", lw=0.8))
    panel.text(x, y, text, ha="center", va="center", fontsize=size)


def arrow(panel: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "0.3", **how: Any) -> None:
    """From here to there."""
    panel.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.2, **how})


def in_cells(panel: Axes, rows: Any, form: str = "{:.2f}", dark: float = 0.6) -> None:
    """The numbers of a picture's cells, white where the cell is dark."""
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            colour = "white" if abs(value) > dark else "black"
            panel.text(column, row, form.format(value), ha="center", va="center", fontsize=7, color=colour)


def words(values: Values) -> Figure:
    """The embedding matrix, and the rows that the sentence takes from it."""
    ids, gru = values["ids"], values["gru"]
    figure, (whole, taken) = new_figure(2, height=3.9)
    labels = [f"{word}  {index}" for index, word in enumerate(ids["english"])]
    strip(whole, gru["matrix"], labels, f"embedding matrix: {len(labels)} × {gru['width']}", 1.5)
    for tick, index in zip(whole.get_yticklabels(), range(len(labels)), strict=True):
        tick.set_color(VERMILLION if index in ids["ids"] else "0.45")
    picked = [f"{word}  {index}" for word, index in zip(ids["words"], ids["ids"], strict=True)]
    image = strip(taken, gru["embeddings"], picked, f"the sentence: {len(picked)} × {gru['width']}", 1.5)
    for panel in (whole, taken):
        panel.set_xlabel("place in the vector")
    figure.colorbar(image, ax=taken, shrink=0.7)
    return figure


def unrolled(values: Values) -> Figure:
    """Encoder and decoder step by step, with nothing but one state between them."""
    figure, (panel,) = new_figure(height=2.5)
    source, written = values["ids"]["words"], values["gru"]["written"]
    read = ["<s>", *written[:-1]]
    canvas(panel, len(source) + len(written) + 1.2, 3.3)
    places = [index + 0.5 for index in range(len(source))]
    later = [index + len(source) + 1.4 for index in range(len(written))]
    for index, (x, word) in enumerate(zip(places, source, strict=True)):
        box(panel, x, 1.6, 0.62, 0.62, f"h{index + 1}")
        panel.text(x, 0.55, word, ha="center", fontsize=9)
        arrow(panel, (x, 0.85), (x, 1.27))
        arrow(panel, (x + 0.31, 1.6), (x + (0.69 if index + 1 < len(source) else 1.59), 1.6))
    for index, (x, word, output) in enumerate(zip(later, read, written, strict=True)):
        box(panel, x, 1.6, 0.62, 0.62, f"s{index + 1}", "#FCE9DF")
        panel.text(x, 0.55, word, ha="center", fontsize=8)
        panel.text(x, 2.55, output, ha="center", fontsize=8, color=VERMILLION)
        arrow(panel, (x, 0.85), (x, 1.27))
        arrow(panel, (x, 1.93), (x, 2.45))
        if index + 1 < len(written):
            arrow(panel, (x + 0.31, 1.6), (x + 0.69, 1.6))
    gap = len(source) + 0.45
    panel.text(gap, 2.0, f"{values['gru']['width']} numbers", ha="center", fontsize=8, color=BLUE)
    panel.text(places[0] - 0.3, 3.0, "encoder", fontsize=10, color=BLUE)
    panel.text(later[0] - 0.3, 3.0, "decoder", fontsize=10, color=VERMILLION)
    return figure


def gates(values: Values) -> Figure:
    """Update gate, reset gate and state of every unit after every word."""
    gru, labels = values["gru"], values["ids"]["words"]
    figure, panels = new_figure(3, height=4.0)
    names = {"keep": "update gate z: kept of the old state", "reset": "reset gate r", "states": "state h"}
    for panel, (name, title) in zip(panels, names.items(), strict=True):
        rows = np.asarray(gru[name]).T
        image = strip(panel, rows, [], title) if name == "states" else panel.imshow(
            rows, cmap="Blues", vmin=0, vmax=1, aspect="auto"
        )  # fmt: skip
        panel.set_title(title, fontsize=10)
        bare(panel)
        panel.set_xticks(range(len(labels)), labels, rotation=45)
        panel.set_yticks([0, 8, gru["unit"], 24, 31])
        panel.get_yticklabels()[2].set_color(VERMILLION)
        panel.axhline(gru["unit"] - 0.5, color=VERMILLION, lw=0.9)
        panel.axhline(gru["unit"] + 0.5, color=VERMILLION, lw=0.9)
        figure.colorbar(image, ax=panel, shrink=0.6)
    panels[0].set_ylabel("unit")
    return figure


def gradient(values: Values) -> Figure:
    """tanh and its slope, where this model's units stand on it, and what is left of a change."""
    found = values["gradient"]
    figure, (curve, slopes, left) = new_figure(3, height=3.2)
    x = np.linspace(-4, 4, 161)
    curve.plot(x, np.tanh(x), color=BLUE, label="tanh a")
    curve.plot(x, 1 - np.tanh(x) ** 2, color=VERMILLION, ls="--", label="its slope, 1 − tanh² a")
    curve.set_xlabel("a")
    curve.set_ylim(-1.1, 1.75)
    curve.legend(loc="upper left", frameon=False, fontsize="small")
    slopes.hist(found["slopes"], bins=20, range=(0, 1), color=VERMILLION)
    slopes.set_xlabel("slope, of every unit at every word")
    slopes.set_ylabel("how many")
    back = range(len(found["rnn"]))
    for index, (name, label) in enumerate({"gru": "GRU", "rnn": "tanh-RNN", "tanh": "slopes alone"}.items()):
        left.plot(back, found[name], label=label, **look(index))
    left.set_yscale("log")
    left.set_xlabel("steps back")
    left.set_ylabel("left of a small change (log scale)")
    left.legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def bottleneck(values: Values) -> Figure:
    """Sentences without a fault against their clauses."""
    found = values["bottleneck"]
    figure, (panel,) = new_figure(height=2.9)
    for index, (name, label) in enumerate(KINDS.items()):
        style, width = look(index), values[name if name != "transformer" else "positions"]["width"]
        places = [clauses + 0.26 * (index - 1) for clauses in found["clauses"]]
        panel.bar(places, found[name], width=0.24, color=style["color"], label=f"{label}, {width} wide")
        for place, share in zip(places, found[name], strict=True):
            panel.text(place, share + 2, f"{share}", ha="center", fontsize=8)
    panel.set_xticks(found["clauses"])
    panel.set_ylim(0, 112)
    panel.set_xlabel("clauses of the sentence (the training had one, two and three)")
    panel.set_ylabel("without a fault, %")
    panel.legend(frameon=False, loc="upper right", fontsize="small")
    panel.grid(visible=False, axis="x")
    return figure


def attention(values: Values) -> Figure:
    """The map of Luong's attention, and one of its rows on the way from scores to weights."""
    found, labels = values["attention"], values["ids"]["words"]
    figure, (whole, scores, weights) = new_figure(3, height=3.5)
    draw_map(whole, labels, found["written"], found["weights"], mark=False)
    bare(whole)
    in_cells(whole, found["weights"])
    for panel, name, title, colour in (
        (scores, "scores", "scores s·h", BLUE), (weights, "of_step", "softmax of them", VERMILLION),
    ):  # fmt: skip
        panel.barh(range(len(labels)), found[name], color=colour)
        panel.set_yticks(range(len(labels)), labels)
        panel.invert_yaxis()
        panel.axvline(0, color="0.3", lw=0.8)
        panel.set_title(f"{title}, for “{found['writes']}”", fontsize=10)
        panel.grid(visible=False, axis="y")
    weights.set_xlim(0, 1)
    return figure


def positions(values: Values) -> Figure:
    """Sines and cosines of fifty places, and those of the sentence added to its embeddings."""
    from matplotlib.figure import Figure

    found, labels = values["positions"], values["ids"]["words"]
    width = 64
    angles = np.arange(50)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    parts = figure.subplot_mosaic([["whole", "scaled"], ["whole", "encoding"], ["whole", "sum"]], width_ratios=[1.2, 1])
    whole = np.concatenate((np.sin(angles), np.cos(angles)), axis=1)
    strip(parts["whole"], whole, [], f"50 places, {width} numbers each: sines | cosines")
    parts["whole"].set_yticks(range(0, 50, 10))
    parts["whole"].set_ylabel("place")
    parts["whole"].set_xlabel("place in the vector")
    titles = {"scaled": "√d · embedding", "encoding": "+ place", "sum": "= what the encoder reads"}
    for name, title in titles.items():
        image = strip(parts[name], found[name], labels, title, 2.0)
        parts[name].set_xticks([])
    figure.colorbar(image, ax=[parts[name] for name in titles], shrink=0.6)
    return figure


def head(values: Values) -> Figure:
    """Queries, keys, scores and weights of one head."""
    found, labels = values["head"], values["ids"]["words"]
    figure, panels = new_figure(4, height=2.9)
    strip(panels[0], found["query"], labels, f"Q: {len(labels)} × {found['size']}", 4)
    strip(panels[1], found["key"], [], f"K: {len(labels)} × {found['size']}", 4)
    strip(panels[2], found["all_scores"], [], f"Q·Kᵀ / √{found['size']}", 4)
    in_cells(panels[2], found["all_scores"], "{:.1f}", dark=2.4)
    panels[3].imshow(np.asarray(found["every"][0][found["head"] - 1]), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    panels[3].set_title("softmax of each row", fontsize=10)
    bare(panels[3])
    in_cells(panels[3], found["every"][0][found["head"] - 1])
    for panel in panels[:2]:
        panel.set_xticks([])
    for panel in panels[1:]:
        panel.set_yticks([])
    for panel in panels[2:]:
        panel.set_xticks(range(len(labels)), labels, rotation=60)
    panels[0].get_yticklabels()[labels.index(found["word"])].set_color(VERMILLION)
    return figure


def heads(values: Values) -> Figure:
    """The weights of every head of the encoder."""
    found, labels = values["head"], values["ids"]["words"]
    figure, panels = new_figure(found["layers"] * found["heads"], height=2.9)
    for number, panel in enumerate(panels):
        layer, one = divmod(number, found["heads"])
        draw_map(panel, labels, labels if number == 0 else [""] * len(labels), found["every"][layer][one], size=8)
        bare(panel)
        panel.set_xlabel(f"layer {layer + 1}, head {one + 1}", fontsize=9)
    return figure


def encoder(values: Values) -> Figure:
    """The base model's encoder with the shapes of everything that passes."""
    base = values["base"]
    n, d, heads, inner = "n", base["width"], base["heads"], base["inner"]
    figure, (panel,) = new_figure(height=6.4)
    canvas(panel, 12, 10)
    box(panel, 2.2, 0.6, 3.2, 0.7, "ids")
    box(panel, 2.2, 2.0, 3.2, 0.8, f"embedding × √{d}\n{base['vocabulary']:,} × {d}")
    box(panel, 2.2, 3.4, 3.2, 0.7, "+ sine and cosine places")
    arrow(panel, (2.2, 0.95), (2.2, 1.6))
    arrow(panel, (2.2, 2.4), (2.2, 3.05))
    panel.text(2.35, 1.2, n, fontsize=8.5, color=BLUE)
    panel.text(2.35, 2.65, f"{n} × {d}", fontsize=8.5, color=BLUE)
    arrow(panel, (2.2, 3.75), (2.2, 4.35))
    panel.text(2.35, 3.95, f"{n} × {d}", fontsize=8.5, color=BLUE)
    for layer in range(base["layers"]):
        box(panel, 2.2, 4.65 + 0.72 * layer, 3.2, 0.55, f"layer {layer + 1}", PALE if layer else "#FCE9DF")
        if layer + 1 < base["layers"]:
            arrow(panel, (2.2, 4.93 + 0.72 * layer), (2.2, 5.09 + 0.72 * layer))
    top = 4.93 + 0.72 * (base["layers"] - 1)
    arrow(panel, (2.2, top), (2.2, 9.55))
    panel.text(2.35, 9.1, f"{n} × {d}, to the decoder", fontsize=8.5, color=BLUE)

    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle((4.6, 0.35), 7.2, 9.2, fill=False, edgecolor=VERMILLION, lw=1, ls="--"))
    panel.plot([3.8, 4.6], [4.4, 0.35], color=VERMILLION, lw=0.8, ls="--")
    panel.plot([3.8, 4.6], [4.9, 9.55], color=VERMILLION, lw=0.8, ls="--")
    panel.text(4.75, 9.2, f"one layer: {base['layer']:,} numbers", fontsize=9, color=VERMILLION)
    for place, name in zip((6.2, 8.2, 10.2), ("Q", "K", "V"), strict=True):
        box(panel, place, 1.9, 1.5, 0.6, f"{name}: {d} × {d}", size=8.5)
        arrow(panel, (8.2, 0.75), (place, 1.58))
        arrow(panel, (place, 2.2), (place, 2.78))
    panel.text(8.05, 0.5, f"x: {n} × {d}", fontsize=8.5, color=BLUE, ha="right")
    panel.text(8.35, 2.4, f"{heads} heads of {n} × {base['head_size']}", fontsize=8.5, color=BLUE)
    box(panel, 8.2, 3.1, 5.6, 0.6, f"softmax( Q·Kᵀ / √{base['head_size']} ) · V, in each head")
    arrow(panel, (8.2, 3.4), (8.2, 3.88))
    panel.text(8.35, 3.55, f"heads side by side: {n} × {d}", fontsize=8.5, color=BLUE)
    box(panel, 8.2, 4.2, 3.4, 0.6, f"output: {d} × {d}")
    box(panel, 8.2, 5.2, 3.4, 0.6, "add & norm", "#E5F3EC")
    box(panel, 8.2, 6.4, 3.4, 0.6, f"{d} × {inner}, ReLU")
    box(panel, 8.2, 7.4, 3.4, 0.6, f"{inner} × {d}")
    box(panel, 8.2, 8.4, 3.4, 0.6, "add & norm", "#E5F3EC")
    for low, high in ((4.5, 4.88), (5.5, 6.08), (6.7, 7.08), (7.7, 8.08), (8.7, 9.1)):
        arrow(panel, (8.2, low), (8.2, high))
    panel.text(8.35, 6.84, f"{n} × {inner}", fontsize=8.5, color=BLUE)
    panel.text(8.05, 5.65, f"{n} × {d}", fontsize=8.5, color=BLUE, ha="right")
    for low, high in ((0.9, 5.2), (5.75, 8.4)):  # past the sublayer
        panel.plot([8.2, 11.4, 11.4], [low, low, high], color=GREEN, lw=1.2)
        arrow(panel, (11.4, high), (9.9, high), GREEN)
    return figure


def layer(values: Values) -> Figure:
    """What a layer makes of six vectors, sublayer by sublayer."""
    found, labels = values["layer"], values["ids"]["words"]
    figure, panels = new_figure(3, 2, height=2.0)
    titles = {
        "before": "1. x", "attended": "2. attention(x)", "normed": "3. norm(x + attention(x))",
        "inner": "4. ReLU, inside the feed-forward", "out": "5. feed-forward", "after": "6. norm(3. + 5.)",
    }  # fmt: skip
    for number, (panel, (name, title)) in enumerate(zip(panels, titles.items(), strict=True)):
        image = strip(panel, found[name], labels if number % 3 == 0 else [], title, 2.5)
        panel.set_xticks([])
        if number % 3:
            panel.set_yticks([])
    figure.colorbar(image, ax=panels, shrink=0.6)
    return figure


def causal(values: Values) -> Figure:
    """The mask, and the weights that it leaves."""
    found = values["decoder"]
    labels, layer = found["read"], found["mask"][0]
    figure, panels = new_figure(1 + len(layer), height=3.4)
    n = len(labels)
    panels[0].imshow(np.tri(n), cmap="Blues", vmin=0, vmax=2)
    for row in range(n):
        for column in range(n):
            panels[0].text(column, row, "0" if column <= row else "−∞", ha="center", va="center", fontsize=8)
    panels[0].set_xticks(range(n), labels, rotation=50, ha="left", rotation_mode="anchor")
    panels[0].set_yticks(range(n), labels)
    panels[0].xaxis.tick_top()
    bare(panels[0])
    panels[0].set_xlabel("added to the scores", fontsize=9)
    for number, (panel, weights) in enumerate(zip(panels[1:], layer, strict=True)):
        draw_map(panel, labels, [""] * n, weights, mark=False)
        bare(panel)
        in_cells(panel, weights)
        panel.set_xlabel(f"weights of layer 1, head {number + 1}", fontsize=9)
    return figure


def next_word(values: Values) -> Figure:
    """The likeliest words at every step."""
    found = values["decoder"]
    figure, panels = new_figure(3, 2, height=1.7)
    for panel, read, best in zip(panels, found["read"], found["steps"], strict=True):
        names, chances = [word for word, _ in best], [chance for _, chance in best]
        panel.barh(range(len(best)), chances, color=[VERMILLION, *[BLUE] * (len(best) - 1)])
        for place, chance in enumerate(chances):
            panel.text(chance + 0.02, place, f"{chance:.2f}", va="center", fontsize=8)
        panel.set_yticks(range(len(best)), names)
        panel.invert_yaxis()
        panel.set_xlim(0, 1.2)
        panel.set_xticks([0, 0.5, 1])
        panel.set_title(f"after “{read}”", fontsize=9)
        panel.grid(visible=False, axis="y")
    return figure


def beams(values: Values) -> Figure:
    """The tree of beam search: what was kept, and what was cut."""
    found = values["decoder"]
    figure, (panel,) = new_figure(height=3.9)
    tree = found["tree"]
    canvas(panel, 1.45 * len(tree) + 1.1, 7)
    heights: dict[str, float] = {"": 3.5}
    places = {"": (0.5, 3.5)}
    box(panel, 0.5, 3.5, 0.75, 0.6, "<s>", size=8)
    for depth, step in enumerate(tree):
        x = 1.45 * (depth + 1) + 0.45
        rank = {node["text"] + node["word"]: index for index, node in enumerate(step)}
        order = sorted(step, key=lambda node: (-heights[node["from"]], rank[node["text"] + node["word"]]))
        total = len(order)
        for index, node in enumerate(order):
            y = 3.5 + 1.55 * ((total - 1) / 2 - index)
            if not node["kept"]:
                colour, edge = "0.95", "0.7"
            else:
                colour, edge = ("#FCE9DF" if found["best"].startswith(node["text"]) else PALE), "0.3"
            start = places[node["from"]]
            arrow(panel, (start[0] + 0.42, start[1]), (x - 0.53, y), edge)
            box(panel, x, y, 1.06, 0.6, node["word"], colour, size=7.5)
            panel.text(x, y - 0.55, f"{node['probability']:.3f}", ha="center", fontsize=7.5, color=edge)
            if node["kept"] and node["word"] != "</s>":
                places[node["text"]], heights[node["text"]] = (x + 0.1, y), y
    return figure


DRAWINGS: dict[str, Callable[[Values], Any]] = {
    drawing.__name__: drawing
    for drawing in (
        words, unrolled, gates, gradient, bottleneck, attention, positions, head, heads, encoder, layer, causal,
        next_word, beams,
    )
}  # fmt: skip
