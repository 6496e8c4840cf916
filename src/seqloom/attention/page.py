"""A page of attention maps: one file without anything from elsewhere, to point at words in.

Texts reach the page as JSON, in which ``<``, ``>`` and ``&`` are written as escapes, and its script puts them there as
text, never as markup.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import torch

from seqloom.attention.maps import AttentionMaps

SCALE = 10_000
"""Weights are whole numbers of ten-thousandths, which are short to write."""


def attention_page(
    sentences: Sequence[AttentionMaps],
    *,
    what: str = "all",
    layer: int | None = None,
    head: int | None = None,
    title: str = "",
) -> str:
    """HTML of sentences and their maps.

    Args:
        sentences: The maps of each.
        what: ``cross``, ``self`` or ``all``: which maps there are to choose from.
        layer, head: What is shown first, counted from 1; default: the last layer, the mean over its heads.
        title: The model's name.
    """
    data = {
        "scale": SCALE,
        "layer": layer,
        "head": head,
        "sentences": [
            {
                "source": maps.source,
                "output": maps.output,
                "score": round(maps.score, 4),
                "sourceLabels": maps.source_labels,
                "targetLabels": maps.target_labels,
                "cross": _whole(maps.cross) if what != "self" else None,
                "self": _whole(maps.encoder_self) if what != "cross" else None,
            }
            for maps in sentences
        ],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    name = html.escape(f"Attention of {title}" if title else "Attention")
    return PAGE.replace("{title}", name).replace("{data}", text)


def _whole(weights: torch.Tensor | None) -> list[Any] | None:
    return None if weights is None else (weights * SCALE).round().int().tolist()


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --page: #fff; --text: #1c2128; --soft: #59636e; --line: #d0d7de; --heat: 0, 114, 178;
  --mark: #b84a00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15191f; --text: #e6edf3; --soft: #9aa4af; --line: #3a424c; --heat: 35, 115, 185; --mark: #ff9d5c; }
}
* { box-sizing: border-box; }
body { margin: 1.2rem auto; padding: 0 1.2rem; max-width: 75rem; background: var(--page); color: var(--text);
  font: 1rem/1.45 system-ui, "Noto Sans", "Noto Sans KR", "Malgun Gothic", sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 .3rem; }
h2 { font-size: .85rem; font-weight: 600; color: var(--soft); margin: 1.1rem 0 .3rem; }
p { margin: .3rem 0; color: var(--soft); }
.choices { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; margin: .8rem 0; }
select { font: inherit; max-width: 32rem; padding: .1rem .3rem; }
.words { display: flex; flex-wrap: wrap; gap: .25rem; }
.words button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: .35rem;
  padding: .1rem .45rem; cursor: pointer; text-align: center; min-width: 2.2rem; }
.words button small { display: block; font-size: .68rem; color: var(--soft); min-height: 1em; line-height: 1; }
.words button.chosen { border-color: var(--mark); box-shadow: 0 0 0 1px var(--mark); }
button:focus-visible, select:focus-visible { outline: 2px solid var(--mark); outline-offset: 1px; }
.strong, .strong small { color: #fff !important; }
.map { overflow-x: auto; margin-top: .4rem; }
table { border-collapse: collapse; font-size: .82rem; }
th { font-weight: 400; padding: .1rem .4rem; white-space: nowrap; }
tbody th { text-align: right; }
thead th { vertical-align: bottom; }
thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 11rem; overflow: hidden; }
td { width: 2.3rem; min-width: 2.3rem; height: 1.6rem; border: 1px solid var(--line); text-align: center;
  font-size: .68rem; font-variant-numeric: tabular-nums; }
td.best { outline: 2px solid var(--mark); outline-offset: -2px; }
th.chosen { color: var(--mark); font-weight: 700; }
</style>
</head>
<body>
<h1>{title}</h1>
<p>Point at a word, move to it with Tab or the arrow keys, or tap it: the words of the other line are shaded by weight.
A word below shows where the model looked to write it; a word above shows which words looked at it. Escape lets go.</p>
<noscript><p>This page needs JavaScript, which is switched off.</p></noscript>
<div class="choices">
<label>sentence <select id="sentence"></select></label>
<label>attention <select id="kind"></select></label>
<label>layer <select id="layer"></select></label>
<label>head <select id="head"></select></label>
</div>
<p id="score"></p>
<h2 id="above"></h2>
<div class="words" id="sources" dir="auto" lang=""></div>
<h2 id="below"></h2>
<div class="words" id="targets" dir="auto" lang=""></div>
<h2>Map: a row for each word that looks, a column for each that is looked at; percent, the best of each row framed</h2>
<div class="map"><table id="map" lang=""></table></div>
<script type="application/json" id="data">{data}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const part = name => document.getElementById(name);
const make = (name, parent, text) => {
  const element = parent.appendChild(document.createElement(name));
  if (text !== undefined) element.textContent = text;
  return element;
};
const selects = ["sentence", "kind", "layer", "head"].map(part);
const [sentence, kind, layer, head] = selects;
const names = {cross: "target to source (cross-attention)", self: "source to source (encoder self-attention)"};
let weights = [], chosen = null;

function offer(select, options, value) {
  select.replaceChildren();
  for (const [key, text] of options) make("option", select, text).value = key;
  if (options.some(option => option[0] === String(value))) select.value = value;
  select.parentElement.hidden = options.length < 2;
}

function now() { return data.sentences[Number(sentence.value)]; }

function offerKinds() {
  offer(kind, Object.keys(names).filter(name => now()[name]).map(name => [name, names[name]]), kind.value);
}

function offerLayers(first) {
  const layers = now()[kind.value], heads = layers[0].length;
  const numbers = layers.map((_, index) => [String(index), `${index + 1} of ${layers.length}`]);
  const before = first ? (data.layer || layers.length) - 1 : layer.value;
  offer(layer, numbers, before);
  if (!numbers.some(number => number[0] === String(before))) layer.value = String(layers.length - 1);
  const each = layers[0].map((_, index) => [String(index), `${index + 1} of ${heads}`]);
  const start = first ? (data.head ? data.head - 1 : "mean") : head.value;
  offer(head, heads > 1 ? [["mean", `mean of ${heads}`], ...each] : each, start);
}

function shade(element, weight) {
  element.style.backgroundColor = weight === null ? "" : `rgba(var(--heat), ${Math.min(1, weight).toFixed(3)})`;
  element.classList.toggle("strong", weight !== null && weight > 0.85);
}

function draw() {
  const heads = now()[kind.value][Number(layer.value)];
  const some = head.value === "mean" ? heads : [heads[Number(head.value)]];
  weights = some[0].map((row, t) => row.map((_, s) =>
    some.reduce((sum, one) => sum + one[t][s], 0) / some.length / data.scale));
  const columns = now().sourceLabels, rows = kind.value === "cross" ? now().targetLabels : columns;
  part("above").textContent = kind.value === "cross" ? "Source: what was looked at" : "What was looked at";
  part("below").textContent = kind.value === "cross" ? "Output: what was written" : "What looks";
  part("score").textContent = `log p of the output: ${now().score.toFixed(2)}`;
  line(part("sources"), columns, "s");
  line(part("targets"), rows, "t");
  const table = part("map");
  table.replaceChildren();
  const top = make("tr", make("thead", table));
  make("td", top).style.border = "0";
  columns.forEach((label, s) => {
    const cell = make("th", top);
    cell.scope = "col"; cell.dataset.key = `s${s}`;
    make("span", cell, label);
  });
  const body = make("tbody", table);
  rows.forEach((label, t) => {
    const row = make("tr", body), name = make("th", row, label), best = Math.max(...weights[t]);
    name.scope = "row"; name.dataset.key = `t${t}`; name.dir = "auto";
    columns.forEach((column, s) => {
      const weight = weights[t][s], cell = make("td", row, weight >= 0.005 ? Math.round(100 * weight) : "");
      cell.title = `${label} → ${column}: ${weight.toFixed(3)}`;
      cell.classList.toggle("best", weight === best);
      cell.addEventListener("mouseenter", () => choose(`t${t}`));
      shade(cell, weight);
    });
  });
  show();
}

function line(place, labels, side) {
  place.replaceChildren();
  labels.forEach((label, index) => {
    const button = make("button", place, label), key = side + index;
    button.type = "button"; button.dataset.key = key;
    make("small", button);
    for (const event of ["mouseenter", "focus", "click"]) button.addEventListener(event, () => choose(key));
    button.addEventListener("keydown", event => {
      const step = {ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling"}[event.key];
      if (step && button[step]) button[step].focus();
      if (event.key === "Escape") choose(null);
    });
  });
}

function choose(key) {
  chosen = key;
  show();
}

function show() {
  const side = chosen && chosen[0], index = chosen ? Number(chosen.slice(1)) : -1;
  for (const button of document.querySelectorAll(".words button")) {
    const key = button.dataset.key, place = Number(key.slice(1));
    let weight = null;
    if (side === "t" && key[0] === "s" && weights[index]) weight = weights[index][place];
    if (side === "s" && key[0] === "t" && weights[place]) weight = weights[place][index];
    shade(button, weight === undefined ? null : weight);
    button.lastChild.textContent = weight === null || weight === undefined ? "" : weight.toFixed(2);
    button.setAttribute("aria-pressed", String(key === chosen));
  }
  for (const element of document.querySelectorAll("[data-key]"))
    element.classList.toggle("chosen", element.dataset.key === chosen);
}

function fromHash() {
  const found = location.hash.match(/^#([st])([0-9]+)$/);  // #t3: the third target, counted from 1
  if (found) choose(found[1] + (Number(found[2]) - 1));
}

offer(sentence, data.sentences.map((one, index) => [String(index), `${index + 1}: ${one.source}`]), "0");
offerKinds();
offerLayers(true);
draw();
fromHash();
sentence.addEventListener("change", () => { chosen = null; offerKinds(); offerLayers(false); draw(); });
kind.addEventListener("change", () => { chosen = null; offerLayers(false); draw(); });
for (const select of [layer, head]) select.addEventListener("change", draw);
window.addEventListener("hashchange", fromHash);
</script>
</body>
</html>
"""
