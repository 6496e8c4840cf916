"""Configuration of the recurrent encoder-decoder: cells, depth, bridge, attention."""

from huggingface_hub.dataclasses import strict

from .cells_rnn_seq2seq import CELLS
from .configuration_seq2seq import DERIVED, DerivedInt, Seq2SeqConfig

BRIDGES = ("dense", "copy", "zeros")
ATTENTIONS = {"none": "no attention", "bahdanau": "Bahdanau attention", "luong": "Luong attention"}
ATTENTION_SCORES = ("general", "dot")


@strict
class RnnSeq2SeqConfig(Seq2SeqConfig):
    """A recurrent encoder-decoder.

    Args:
        vocab_size: Entries of the source vocabulary, and of the target's where they are one.
        decoder_vocab_size: Entries of the target vocabulary; default: ``vocab_size``.
        share_encoder_decoder_embeddings: One vocabulary and one embedding matrix for both sides.
        tie_word_embeddings: The output matrix is the target's embedding matrix. False unties all three matrices.
        hidden_size: Width of the state. A bidirectional encoder gives half of it to each direction.
        embedding_size: Width of the embeddings; default: ``hidden_size``.
        encoder_layers, decoder_layers: Recurrent layers on each side.
        cell_type: ``rnn`` (tanh; Elman 1990), ``lstm`` (Hochreiter & Schmidhuber 1997) or ``gru`` (Cho et al. 2014); or
            one whose gates read the inputs alone, so that sequences that are known are computed at once: ``min_gru``,
            ``min_lstm`` (Feng et al. 2024) or ``ssru`` (Kim et al. 2019).
        bidirectional: Read the source from both ends (Schuster & Paliwal 1997).
        bridge: How the decoder's first state comes from the encoder's last: ``dense`` (tanh of a matrix; Bahdanau et
            al. 2015), ``copy`` (Sutskever et al. 2014) or ``zeros``.
        attention: ``none`` (Sutskever et al. 2014: the state is all that the decoder knows of the source), ``bahdanau``
            (additive; the context enters the recurrence) or ``luong`` (multiplicative, after the recurrence).
        attention_score: Of Luong's: ``general`` (a matrix between) or ``dot``.
        input_feeding: Feed Luong's attentional vector into the next step. The decoder then runs step by step.
        dropout: On embeddings, between layers and before the output matrix.
        label_smoothing: ε of the loss.
        init_range: Matrices and embeddings start uniform in ± this (Luong et al. 2015, with 1,000 units: 0.1). None,
            the default, goes by the width: matrices as Glorot & Bengio 2010, each gate's by itself, embeddings
            N(0, 4 / ``embedding_size``). Recurrent matrices are orthogonal either way.
        use_cache: Keep the state while generating.

    Raises:
        ValueError: Fields that contradict each other; the message says which and what to do.
    """

    model_type = "rnn_seq2seq"
    attribute_map = {"num_hidden_layers": "encoder_layers"}

    hidden_size: int = 512
    embedding_size: DerivedInt = DERIVED
    cell_type: str = "lstm"
    bidirectional: bool = True
    bridge: str = "dense"
    attention: str = "luong"
    attention_score: str = "general"
    input_feeding: bool = False
    init_range: float | int | None = None

    def __post_init__(self, **kwargs):
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        super().__post_init__(**kwargs)

    def validate_fields(self) -> None:
        """Refuses fields that contradict each other."""
        super().validate_fields()
        self.check_counts("embedding_size")
        if self.init_range is not None and not 0 < self.init_range <= 100:
            raise ValueError(
                f"init_range={self.init_range}: it must be a number more than 0 and at most 100, or None, by which "
                "weights follow the width."
            )
        self.check_choices(cell_type=CELLS, bridge=BRIDGES, attention=ATTENTIONS, attention_score=ATTENTION_SCORES)
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

    @property
    def name_in_words(self) -> str:
        """``GRU, Luong attention``, ``LSTM, no attention``."""
        return f"{CELLS[self.cell_type].name}, {ATTENTIONS[self.attention]}"

    def describe(self) -> str:
        """Cell, layers, widths, directions, attention."""
        details = {
            "none": " (Sutskever et al. 2014)",
            "bahdanau": "",
            "luong": f" ({self.attention_score}{', input feeding' * self.input_feeding})",
        }
        return (
            f"{CELLS[self.cell_type].name} encoder-decoder: {self.encoder_layers}+{self.decoder_layers} layers, "
            f"{self.hidden_size} wide, embeddings {self.embedding_size} wide, "
            f"{'bidirectional' if self.bidirectional else 'unidirectional'} encoder, "
            f"{ATTENTIONS[self.attention]}{details[self.attention]}"
        )

    @property
    def has_recurrent_encoder(self) -> bool:
        """Always."""
        return True

    @property
    def has_recurrent_decoder(self) -> bool:
        """Always."""
        return True

    @property
    def has_encoder_self_attention(self) -> bool:
        """Never: a step knows the others through the state."""
        return False

    @property
    def has_decoder_self_attention(self) -> bool:
        """Never: a step knows the earlier ones through the state."""
        return False

    @property
    def has_cross_attention(self) -> bool:
        """With either attention."""
        return self.attention != "none"

    @property
    def has_parallel_training(self) -> bool:
        """With a parallel cell, where no step of the decoder waits for what the step before looked up."""
        return CELLS[self.cell_type].is_parallel and self.attention != "bahdanau" and not self.input_feeding


__all__ = ["RnnSeq2SeqConfig"]
