"""A tokenizer of letters and made-up maps, for whatever shows attention."""

from html.parser import HTMLParser

import torch

from seqloom.attention.maps import AttentionMaps
from seqloom.data.tokenization import train_tokenizer
from seqloom.settings.schema import TokenizerSettings

LETTERS = "abcdefghijklmno "  # with the four special tokens the 20 entries of the tiny models


SENTENCE = "abc de fgh"


OPTIONS = {"max_new_tokens": 7, "suppress_tokens": [0, 1, 3]}


def letters():
    return train_tokenizer([LETTERS], [LETTERS], TokenizerSettings(kind="char", vocab_size=20))


def made_maps(source=("one", "two", "⟨end⟩"), target=("eins", "⟨end⟩"), layers=1, heads=1, **changes) -> AttentionMaps:
    torch.manual_seed(0)
    fields = {
        "source": " ".join(source), "output": " ".join(target), "score": -1.5, "source_labels": list(source),
        "target_labels": list(target), "encoder_self": None,
        "cross": torch.randn(layers, heads, len(target), len(source)).mul(3).softmax(-1),
    }  # fmt: skip
    return AttentionMaps(**fields | changes)


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes, the data."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag != "script" else f"script {dict(attributes).get('type', '')}".strip()

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        self.texts[self.inside] = self.texts.get(self.inside, "") + data
