"""Models that are pushed, changed and compared."""

from helpers.hub_loader import TARGETS, TEXTS
from seqloom.data.tokenization import train_tokenizer
from seqloom.settings.schema import TokenizerSettings

KINDS = ("byte_bpe", "bpe", "unigram", "word", "char")


SOURCES = [
    *TEXTS,
    "나는 오늘 친구를 만나지 않았습니다 .",
    "der Apfel fällt nicht weit vom Stamm , sagen die Bären in München",
    "die Bären in München mögen die Äpfel vom Stamm",
    "die Bären mögen nicht die Äpfel in München",
]


DESTINATIONS = [*TARGETS, "an apple does not fall far from the tree , said the bears", "I did not go to school today ."]


# Entries of a shared one, of the sources' and of the targets', where those are two.
SIZES = {
    "byte_bpe": (290, 285, 280),
    "bpe": (90, 80, 60),
    "unigram": (70, 54, 38),
    "word": (40,) * 3,
    "char": (70,) * 3,
}


def make_tokenizer(kind: str, shared: bool):
    """A pair is of two kinds: the second is the next of the list."""
    settings = {"kind": kind, "shared": shared, "vocab_size": SIZES[kind][0 if shared else 1]}
    if not shared:
        target_kind = KINDS[(KINDS.index(kind) + 1) % len(KINDS)]
        settings |= {"target_kind": target_kind, "target_vocab_size": SIZES[target_kind][2]}
    return train_tokenizer(SOURCES * 3, DESTINATIONS * 3, TokenizerSettings(**settings))


def state(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
