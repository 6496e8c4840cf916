"""What the configs of every family hold, and what each of them answers about its models.

Nothing outside a family asks for it by name: what follows from what a model is (whether its state can be drawn, how
much it keeps while generating, what its card says) is asked of its config, which travels with the weights. Whoever
writes a family derives its config from `Seq2SeqConfig`, decorated with ``@strict``, and

- has the fields ``encoder_layers`` and ``decoder_layers``, and a width that answers to ``hidden_size``: a field of that
  name, or another one that ``attribute_map`` gives it;
- answers `Seq2SeqConfig.name_in_words`, `Seq2SeqConfig.describe` and every property that begins with ``has_``, as
  properties, never as fields: ``config.json`` holds what a model is made from, not what follows from it. A question
  that is left out raises NotImplementedError, so that no family is taken for what it is not;
- refuses fields that contradict each other in ``validate_fields``, which calls its ``super()`` first.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, TypeAlias, cast

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

if TYPE_CHECKING:
    DerivedInt: TypeAlias = int  # None is only said to a constructor: every config that is made has a number
else:
    DerivedInt = int | None

MOST = {"vocab_size": 2**31 - 1, "layers": 1000, "": 2**20}
"""The largest count of what has this in its name; of all others the last. More is a slip, which would be allocated."""

DERIVED = cast(int, None)  # the default of a `DerivedInt`: ``__post_init__`` derives it from other fields

QUESTIONS = (
    "name_in_words",
    "has_recurrent_encoder",
    "has_recurrent_decoder",
    "has_encoder_self_attention",
    "has_decoder_self_attention",
    "has_cross_attention",
    "has_constant_state",
    "has_parallel_training",
)


@strict
class Seq2SeqConfig(PreTrainedConfig):
    """An encoder-decoder of any family.

    Args:
        vocab_size: Entries of the source vocabulary, and of the target's where they are one.
        decoder_vocab_size: Entries of the target vocabulary; default: ``vocab_size``.
        share_encoder_decoder_embeddings: One vocabulary and one embedding matrix for both sides.
        tie_word_embeddings: The output matrix is the target's embedding matrix. False unties all three matrices.
        encoder_layers, decoder_layers: Layers on each side.
        dropout: At least on the embeddings; the family says where else.
        label_smoothing: ε of the loss.
        use_cache: Keep what the next token needs of the earlier ones while generating.

    Raises:
        ValueError: Fields that contradict each other; the message says which and what to do.
    """

    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # by transformers' version

    vocab_size: int = 32000
    decoder_vocab_size: DerivedInt = DERIVED
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    encoder_layers: int = 2
    decoder_layers: int = 2
    dropout: float | int = 0.1
    label_smoothing: float | int = 0.0
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs):
        if self.decoder_vocab_size is None:
            self.decoder_vocab_size = self.vocab_size
        self.validate_fields()
        if not __name__.startswith("transformers_modules."):  # whoever has seqloom has its pipeline
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def validate_fields(self) -> None:
        """Refuses fields that contradict each other."""
        self.check_counts("vocab_size", "decoder_vocab_size", "hidden_size", "encoder_layers", "decoder_layers")
        self.check_shares("dropout", "label_smoothing")
        if self.share_encoder_decoder_embeddings and self.decoder_vocab_size != self.vocab_size:
            raise ValueError(
                f"vocab_size={self.vocab_size} and decoder_vocab_size={self.decoder_vocab_size} differ, but "
                "share_encoder_decoder_embeddings=True makes them one: set it to False or leave decoder_vocab_size out."
            )

    def check_counts(self, *names: str) -> None:
        """Refuses a field of these that is less than 1 or more than any model has, by the name that the family gives
        it."""
        for name in names:
            field, value = self.attribute_map.get(name, name), getattr(self, name)
            most = next((most for part, most in MOST.items() if part in field), MOST[""])
            if value < 1:
                raise ValueError(f"{field}={value}: it must be 1 or more.")
            if value > most:
                raise ValueError(f"{field}={value}: it must be {most:,} or less.")

    def check_shares(self, *names: str) -> None:
        """Refuses a field of these that is no share: from 0 on, less than 1."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 0 and less than 1.")

    def check_choices(self, **allowed: Collection[str]) -> None:
        """Refuses a field that is none of what is allowed: ``check_choices(bridge=("dense", "copy"))``."""
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: use one of {', '.join(choices)}.")

    @property
    def name_in_words(self) -> str:
        """The kind in a few words, as in a table's column: ``GRU, Luong attention``, ``Transformer``."""
        raise self._unanswered("name_in_words")

    def describe(self) -> str:
        """The architecture in a sentence without its full stop, as a model card begins: kind, layers, widths."""
        raise self._unanswered("describe")

    @property
    def has_recurrent_encoder(self) -> bool:
        """The encoder carries a state from one source step to the next."""
        raise self._unanswered("has_recurrent_encoder")

    @property
    def has_recurrent_decoder(self) -> bool:
        """The decoder carries a state from one target step to the next."""
        raise self._unanswered("has_recurrent_decoder")

    @property
    def has_encoder_self_attention(self) -> bool:
        """Every source step looks at every other; ``encoder_attentions`` are maps of it."""
        raise self._unanswered("has_encoder_self_attention")

    @property
    def has_decoder_self_attention(self) -> bool:
        """Every target step looks at the earlier ones; ``decoder_attentions`` are maps of it."""
        raise self._unanswered("has_decoder_self_attention")

    @property
    def has_cross_attention(self) -> bool:
        """Every target step looks at every source step; ``cross_attentions`` are maps of it."""
        raise self._unanswered("has_cross_attention")

    @property
    def has_constant_state(self) -> bool:
        """What is kept of a sentence while generating does not grow with the target.

        The encoder's outputs and what attention keeps of the source are not counted: they grow with the source alone.
        """
        return not self.has_decoder_self_attention

    @property
    def has_parallel_training(self) -> bool:
        """Where the target is known, all steps are computed together on either side: none waits for the one before."""
        return not (self.has_recurrent_encoder or self.has_recurrent_decoder)

    def _unanswered(self, name: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} does not answer `{name}`, as every family's config must: "
            "`Seq2SeqConfig` says what is asked."
        )


__all__ = ["Seq2SeqConfig"]
