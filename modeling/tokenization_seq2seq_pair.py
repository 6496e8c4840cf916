"""A tokenizer for each side, in one: one folder, one ``from_pretrained``, used as any other tokenizer."""

import os

from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import BatchEncoding

TARGET_FILE = "target_tokenizer.json"


class Seq2SeqPairTokenizer(PreTrainedTokenizerFast):
    """Two vocabularies: texts go in through the source's and come out through the target's.

    ``tokenizer(text)`` encodes with the source side; ``tokenizer(text_target=text)``, and the labels of
    ``tokenizer(text, text_target=text)``, with the target side. ``decode`` and ``batch_decode`` read the target's ids,
    which is what ``generate`` returns, unless ``use_source_tokenizer=True``. Everything else is the source's: ``len``,
    ``vocab_size``, ``get_vocab``, ``tokenize``, ``convert_ids_to_tokens``, ``add_tokens``, …; the target has its own in
    ``target_tokenizer``. ``pad`` serves both sides, since their special tokens have the same ids.

    Args:
        target_tokenizer_object: The target's ``tokenizers.Tokenizer``; the source's is ``tokenizer_object``.
        target_tokenizer_file: Or its file, ``target_tokenizer.json``; the source's is ``tokenizer_file``.
        kwargs: Those of every tokenizer (``pad_token``, ``padding_side``, …); they hold for both sides.

    Attributes:
        target_tokenizer: The target side, a plain tokenizer.

    Raises:
        ValueError: There is no target side, or its special tokens have other ids than the source's.
    """

    vocab_files_names = {**PreTrainedTokenizerFast.vocab_files_names, "target_tokenizer_file": TARGET_FILE}

    def __init__(self, *, target_tokenizer_object=None, target_tokenizer_file: str | None = None, **kwargs):
        super().__init__(**kwargs)
        if target_tokenizer_object is None and not os.path.isfile(target_tokenizer_file or ""):
            raise ValueError(
                f"a pair of tokenizers in {self.name_or_path or 'memory'} lacks its target side: "
                f"the folder must hold {TARGET_FILE} beside tokenizer.json."
            )
        self.target_tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=target_tokenizer_object,
            tokenizer_file=target_tokenizer_file,
            model_max_length=self.model_max_length,
            padding_side=self.padding_side,
            truncation_side=self.truncation_side,
            split_special_tokens=self.split_special_tokens,
            clean_up_tokenization_spaces=self.clean_up_tokenization_spaces,
            **self.special_tokens_map,
        )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id"):
            ours, theirs = getattr(self, name), getattr(self.target_tokenizer, name)
            if ours != theirs:
                raise ValueError(
                    f"{name} is {ours} on the source side and {theirs} on the target side; one model needs one: "
                    "train both tokenizers with the same special tokens first."
                )

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs) -> dict:
        """Both files are read as they are; the inherited method would take the source's apart for subclasses."""
        return kwargs

    @property
    def target_vocab_size(self) -> int:
        """Entries of the target's vocabulary, added tokens included; ``len(tokenizer)`` is the source's."""
        return len(self.target_tokenizer)

    def __call__(
        self, text=None, text_pair=None, text_target=None, text_pair_target=None, *, max_target_length=None, **kwargs
    ) -> BatchEncoding:
        """Encodes ``text`` as a source, ``text_target`` as a target; where both are given, the latter as ``labels``."""
        if text_target is None:
            return super().__call__(text, text_pair, **kwargs)
        target_kwargs = {"padding_side": self.padding_side, **kwargs}
        if max_target_length is not None:
            target_kwargs["max_length"] = max_target_length
        target = self.target_tokenizer(text_target, text_pair_target, **target_kwargs)
        if text is None:
            return target
        encoding = super().__call__(text, text_pair, **kwargs)
        encoding["labels"] = target["input_ids"]
        return encoding

    def _decode(self, token_ids, *args, use_source_tokenizer: bool = False, **kwargs) -> str:
        if use_source_tokenizer:
            return super()._decode(token_ids, *args, **kwargs)
        return self.target_tokenizer._decode(token_ids, *args, **kwargs)

    def _save_pretrained(self, save_directory, file_names, legacy_format=None, filename_prefix=None) -> tuple[str, ...]:
        saved = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target_file = os.path.join(save_directory, prefix + TARGET_FILE)
        self.target_tokenizer.backend_tokenizer.save(target_file)
        return (*saved, target_file)


__all__ = ["Seq2SeqPairTokenizer"]
