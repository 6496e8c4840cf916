"""Texts of letters, a tokenizer for them, and what a model says to one alone."""

import random

from seqloom.data.tokenization import train_tokenizer
from seqloom.settings.schema import TokenizerSettings

LETTERS = "abcdefghijklmnop"  # with the four special tokens the 20 entries of the tiny models


OPTIONS = {"max_new_tokens": 8}


# Outputs of all lengths: by themselves, untrained models end at once or never.
SAMPLING = {
    **OPTIONS,
    "do_sample": True,
    "top_k": 0,
    "temperature": 3.0,
    "sequence_bias": [[[2], 2.0]],
    "suppress_tokens": [0, 1, 3],
}


def make_tokenizer(shared: bool = True):
    settings = TokenizerSettings(kind="char", vocab_size=23, shared=shared)
    return train_tokenizer([LETTERS], [LETTERS if shared else LETTERS.upper() + "QRS"], settings)


def texts(count: int, longest: int = 9) -> list[str]:
    words = random.Random(count)
    return ["".join(words.choices(LETTERS, k=words.randint(1, longest))) for _ in range(count)]


def alone(model, tokenizer, source: str, **options) -> list[str]:
    inputs = tokenizer([source], return_tensors="pt")
    outputs = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], **OPTIONS | options)
    return tokenizer.batch_decode(outputs, skip_special_tokens=True)
