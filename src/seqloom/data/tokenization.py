"""Tokenizers: trained on the run's own data, or loaded; and checked against the model they feed.

What ``decode(encode(text), skip_special_tokens=True)`` gives back, once the text is normalised as the settings say:

======== ==============================================================================================================
byte_bpe The text, always: its alphabet is the 256 bytes.
bpe      The text, but for characters that the training data lacked; ``▁`` (U+2581) comes back as a space.
unigram  Likewise.
char     The text, but for characters that the training data lacked or that were too rare.
word     The words, one space between two, but for words that the training data lacked or that were too rare.
======== ==============================================================================================================

What is lost has become ``<unk>``. A special token that a text itself spells out (``</s>``) is text like any other: only
the tokenizer's own end is the end. (Tokenizers of earlier development versions, and of others, take it for that token,
and still do.)

The same data gives the same tokenizer, except for unigram: its trainer in the library adds up scores in the order of a
randomly seeded hash map, so near ties may fall either way. Train once, save, and load it everywhere else.
"""

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from seqloom import run_folder
from seqloom.modeling.tokenization_seq2seq_pair import Seq2SeqPairTokenizer
from seqloom.settings.schema import TokenizerSettings
from seqloom.support.hub_files import is_only_here
from seqloom.support.wording import listing
from seqloom.support.xet import with_cure

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # ids 0 to 3
OPTIONS: dict[str, Any] = {
    **SPECIAL_TOKENS,
    "padding_side": "right",
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": True,  # travels in tokenizer_config.json
}
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "model")
"""Of a saved tokenizer; the library takes some that are lacking for null."""
SPELT = "\u2060"
"""Stands, in the vocabulary of words, before a special token that a text spells out; decoding takes it off."""
SUBWORD_KINDS = ("byte_bpe", "bpe", "unigram")
SMALLEST_BYTE_BPE = len(SPECIAL_TOKENS) + 256


# A subword stays within a word (apostrophes included), a number or a run of signs, each with the space before it.
# GPT-2's own pattern ends words at combining marks, of which those of Hindi or Thai are full.
PIECES = r" ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(
    texts_source: Iterable[str], texts_target: Iterable[str], settings: TokenizerSettings
) -> PreTrainedTokenizerFast:
    """Trains one tokenizer on both sides, or one on each, which then make a `Seq2SeqPairTokenizer`.

    The texts are read once, as a stream; only their distinct words (or characters) are held.

    Args:
        texts_source: Texts of the source side; the first ``settings.train_samples`` are used.
        texts_target: Texts of the target side; likewise.
        settings: Kind, size and normalisation.

    Raises:
        ValueError: There is no text, or it does not give a vocabulary of the size asked for.
    """
    source, target = (islice(texts, settings.train_samples) for texts in (texts_source, texts_target))
    if settings.shared:
        for name in ("target_kind", "target_vocab_size"):
            if getattr(settings, name) is not None:
                raise ValueError(
                    f"tokenizer.{name} is {getattr(settings, name)!r}, but tokenizer.shared is true, which makes one "
                    "tokenizer for both sides: set shared to false, or leave the other out."
                )
        shared = _train(chain(source, target), settings.kind, settings.vocab_size, "vocab_size", settings)
        return PreTrainedTokenizerFast(tokenizer_object=shared, **OPTIONS)
    target_kind = settings.target_kind or settings.kind
    target_size = settings.target_vocab_size or settings.vocab_size
    return Seq2SeqPairTokenizer(
        tokenizer_object=_train(source, settings.kind, settings.vocab_size, "vocab_size", settings),
        target_tokenizer_object=_train(target, target_kind, target_size, "target_vocab_size", settings),
        **OPTIONS,
    )


def load_tokenizer(
    path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, needs_end: bool = True
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer that a seq2seq model can use.

    Args:
        path: Folder, or name on the Hub.
        revision: Commit, branch or tag on the Hub.
        trust_remote_code: Run a tokenizer class that comes with the tokenizer; seqloom's own need no permission.
        needs_end: Whether it must end its texts itself, as what a model learns from must.

    Raises:
        ValueError: There is none, it cannot be read, or it lacks padding or an end to its texts.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code, local_files_only=is_only_here(path)
        )
        ids = tokenizer("a").input_ids
    except Exception as error:  # OSError, ValueError, KeyError, TypeError, and the Rust library's, a plain Exception
        kind = "a folder without" if Path(path).is_dir() else "neither a folder nor a Hub name with"
        raise ValueError(f"{str(path)!r} is {kind} a tokenizer that can be read: {with_cure(error)}") from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer {str(path)!r} has no padding token: set its pad_token and save it again.")
    if not tokenizer.model_max_length >= 1:
        raise ValueError(
            f"the tokenizer {str(path)!r} has the model_max_length {tokenizer.model_max_length!r}; it must be 1 or "
            "more: set it to the tokens that a model reads at most, and save it again."
        )
    _check_whole(Path(path), tokenizer)
    if not needs_end:
        return tokenizer
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id not in ids:
        raise ValueError(
            f"the tokenizer {str(path)!r} does not end a text with an end token, from which a model learns to stop: "
            "set its eos_token and add_eos_token = True, and save it again."
        )
    return tokenizer


def _check_whole(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses what the library passes over in silence, to cut texts otherwise than the model was trained with."""
    if not isinstance(value := getattr(tokenizer, "clean_up_tokenization_spaces", None), bool | None):
        raise ValueError(
            f"the tokenizer {str(folder)!r} has the clean_up_tokenization_spaces {value!r}; it must be true or false: "
            "take tokenizer_config.json as it was saved."
        )
    for file in (path for name in ("tokenizer.json", "target_tokenizer.json") if (path := folder / name).is_file()):
        if lacking := [part for part in PARTS if part not in run_folder.read_object(file)]:
            raise ValueError(
                f"{file} lacks {listing(lacking)}, which every saved tokenizer has, be it as null: take the file as it "
                "was saved."
            )


def target_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer that holds the target's vocabulary: a pair's target side, else the tokenizer itself."""
    return getattr(tokenizer, "target_tokenizer", tokenizer)


def check_matches(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Refuses a tokenizer and a model config that were not made for each other.

    Raises:
        ValueError: The size of a vocabulary or the id of a special token differs.
    """
    needed = {
        "vocab_size": len(tokenizer),
        "decoder_vocab_size": len(target_tokenizer(tokenizer)),
        **{name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
    }
    for name, ours in needed.items():
        theirs = getattr(config, name, None)
        if name == "decoder_vocab_size" and theirs is None:
            theirs = config.vocab_size
        if theirs not in (ours, [ours]):  # transformers' Trainer leaves eos_token_id as a list
            raise ValueError(
                f"{name} is {ours} in the tokenizer and {theirs} in the model, which were not made for each other: "
                "take the tokenizer from the model's folder, or train both anew."
            )


def _train(texts: Iterable[str], kind: str, size: int, size_name: str, settings: TokenizerSettings) -> Tokenizer:
    size_name = f"tokenizer.{size_name}"
    if kind == "byte_bpe" and size < SMALLEST_BYTE_BPE:
        raise ValueError(
            f"{size_name} is {size}, but byte_bpe needs {SMALLEST_BYTE_BPE} or more: "
            f"256 bytes and {len(SPECIAL_TOKENS)} special tokens."
        )
    texts = iter(texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise ValueError("there is no text to train a tokenizer on: the training data is empty or blank.")
    tokenizer, trainer = _pipeline(kind, size, settings)
    try:
        tokenizer.train_from_iterator(chain([first], texts), trainer)
    except Exception as error:  # the library has no exception of its own
        if "not large enough to contain all chars" not in str(error):
            raise
        entries = size + 1
    else:
        entries = tokenizer.get_vocab_size()
    if entries > size:
        raise ValueError(
            f"{size_name} is {size}, too few for the characters of the training data: raise it, or take kind: byte_bpe."
        )
    if entries < size and kind in SUBWORD_KINDS:
        raise ValueError(
            f"{size_name} is {size}, but the training data gives only {entries} entries: set it to {entries} or less "
            f"(--{size_name} {entries})."
        )
    return tokenizer


def _pipeline(kind: str, size: int, settings: TokenizerSettings) -> tuple[Tokenizer, trainers.Trainer]:
    """An untrained tokenizer, from text to ids and back, and its trainer."""
    unknown = SPECIAL_TOKENS["unk_token"]
    specials = list(SPECIAL_TOKENS.values())
    options: dict[str, Any] = {"vocab_size": size, "special_tokens": specials, "show_progress": False}
    if kind != "unigram":
        options["min_frequency"] = settings.min_frequency
    model: models.Model
    trainer: trainers.Trainer
    if kind == "byte_bpe":
        model = models.BPE()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    elif kind == "bpe":
        model, trainer = models.BPE(unk_token=unknown), trainers.BpeTrainer(**options)
    elif kind == "unigram":
        model, trainer = models.Unigram(), trainers.UnigramTrainer(unk_token=unknown, **options)
    else:
        model, trainer = models.WordLevel(unk_token=unknown), trainers.WordLevelTrainer(**options)
    tokenizer = Tokenizer(model)

    unicode_forms: dict[str, list[normalizers.Normalizer]]
    unicode_forms = {"nfc": [normalizers.NFC()], "nfkc": [normalizers.NFKC()], "none": []}
    steps = unicode_forms[settings.normalization]
    if settings.lowercase:
        steps.append(normalizers.Lowercase())
    if kind in SUBWORD_KINDS:
        # The first word is the same as any other, with a space before it; the last step of decoding takes that off.
        steps.append(normalizers.Prepend(" "))
        spell: pre_tokenizers.PreTokenizer
        unspell: list[decoders.Decoder]
        if kind == "byte_bpe":
            spell, unspell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), [decoders.ByteLevel()]
        else:
            spell = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)  # a space is written ▁
            unspell = [decoders.Metaspace(prepend_scheme="never"), decoders.Fuse()]
        split = pre_tokenizers.Split(Regex(PIECES), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, spell])
        tokenizer.decoder = decoders.Sequence([*unspell, decoders.Strip(" ", left=1, right=0)])
    elif kind == "char":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        steps += [normalizers.Replace(token, SPELT + token) for token in specials]
        # Words are joined by spaces, but for those that begin with the prefix, as no word can.
        join = decoders.WordPiece(prefix="\n", cleanup=False)
        tokenizer.decoder = decoders.Sequence([join, *(decoders.Replace(SPELT + token, token) for token in specials)])
    tokenizer.normalizer = normalizers.Sequence(steps)

    end = SPECIAL_TOKENS["eos_token"]
    special_ids = [(token, index) for index, token in enumerate(specials)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B:1 {end}:1", special_tokens=special_ids
    )
    return tokenizer, trainer
