"""Configuration of the recurrent encoder-decoder: cells, depth, bridge, attention."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

CELLS = ("rnn", "lstm", "gru")
BRIDGES = ("dense", "copy", "zeros")
ATTENTIONS = ("none", "bahdanau", "luong")
ATTENTION_SCORES = ("general", "dot")


@strict
class RnnSeq2SeqConfig(PreTrainedConfig):
    """A recurrent encoder-decoder.

    Args:
        vocab_size: Entries of the source vocabulary, and of the target's where they are one.
        decoder_vocab_size: Entries of the target vocabulary; default: ``vocab_size``.
        share_encoder_decoder_embeddings: One vocabulary and one embedding matrix for both sides.
        tie_word_embeddings: The output matrix is the target's embedding matrix. False unties all three matrices.
        hidden_size: Width of the state. A bidirectional encoder gives half of it to each direction.
        embedding_size: Width of the embeddings; default: ``hidden_size``.
        encoder_layers, decoder_layers: Recurrent layers on each side.
        cell_type: ``rnn`` (tanh; Elman 1990), ``lstm`` (Hochreiter & Schmidhuber 1997) or ``gru`` (Cho et al. 2014).
        bidirectional: Read the source from both ends (Schuster & Paliwal 1997).
        bridge: How the decoder's first state comes from the encoder's last: ``dense`` (tanh of a matrix; Bahdanau et
            al. 2015), ``copy`` (Sutskever et al. 2014) or ``zeros``.
        attention: ``none`` (Sutskever et al. 2014: the state is all that the decoder knows of the source), ``bahdanau``
            (additive; the context enters the recurrence) or ``luong`` (multiplicative, after the recurrence).
        attention_score: Of Luong's: ``general`` (a matrix between) or ``dot``.
        input_feeding: Feed Luong's attentional vector into the next step. The decoder then runs step by step.
        dropout: On embeddings, between layers and before the output matrix.
        label_smoothing: ε of the loss.
        init_range: Matrices start uniform in ± this (Luong et al. 2015: 0.1), recurrent ones orthogonal.
        use_cache: Keep the state while generating.

    Raises:
        ValueError: Fields that contradict each other; the message says which and what to do.
    """

    model_type = "rnn_seq2seq"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_hidden_layers": "encoder_layers"}

    vocab_size: int = 32000
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    hidden_size: int = 512
    embedding_size: int | None = None
    encoder_layers: int = 2
    decoder_layers: int = 2
    cell_type: str = "lstm"
    bidirectional: bool = True
    bridge: str = "dense"
    attention: str = "luong"
    attention_score: str = "general"
    input_feeding: bool = False
    dropout: float | int = 0.1
    label_smoothing: float | int = 0.0
    init_range: float | int = 0.1
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs):
        if self.decoder_vocab_size is None:
            self.decoder_vocab_size = self.vocab_size
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        self.validate_fields()
        if not __name__.startswith("transformers_modules."):  # whoever has seqloom has its pipeline
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def validate_fields(self):
        """Refuses fields that contradict each other."""
        for name in (
            "vocab_size", "decoder_vocab_size", "hidden_size", "embedding_size", "encoder_layers", "decoder_layers",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be 1 or more.")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 0 and less than 1.")
        if self.init_range <= 0:
            raise ValueError(f"init_range={self.init_range}: it must be more than 0.")
        for name, allowed in (
            ("cell_type", CELLS), ("bridge", BRIDGES), ("attention", ATTENTIONS), ("attention_score", ATTENTION_SCORES),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: use one of {', '.join(allowed)}.")
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} is odd, but bidirectional=True gives half of it to each direction: "
                "make it even or set bidirectional=False."
            )
        if self.input_feeding and self.attention != "luong":
            raise ValueError(
                f"input_feeding=True belongs to attention='luong', not to attention={self.attention!r}: "
                "Bahdanau's context enters the recurrence as it is, and without attention there is nothing to feed."
            )
        if self.attention == "none" and self.bridge == "zeros":
            raise ValueError(
                "bridge='zeros' with attention='none' leaves the decoder without the source: "
                "use bridge='dense' or 'copy', or an attention."
            )
        if self.share_encoder_decoder_embeddings and self.decoder_vocab_size != self.vocab_size:
            raise ValueError(
                f"vocab_size={self.vocab_size} and decoder_vocab_size={self.decoder_vocab_size} differ, but "
                "share_encoder_decoder_embeddings=True makes them one: set it to False or leave decoder_vocab_size out."
            )


__all__ = ["RnnSeq2SeqConfig"]
