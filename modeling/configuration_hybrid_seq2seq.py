"""Configuration of the hybrid: a Transformer encoder and a recurrent decoder that attends to it."""

from huggingface_hub.dataclasses import strict

from .cells_rnn_seq2seq import CELLS
from .configuration_transformer_seq2seq import TransformerSeq2SeqConfig


@strict
class HybridSeq2SeqConfig(TransformerSeq2SeqConfig):
    """All fields of `TransformerSeq2SeqConfig`, with the same meanings, and the decoder's cell.

    Positions are the encoder's alone: the decoder reads its tokens one after the other, and knows their order by that.

    Args:
        cell_type: Stands where the Transformer's decoder attends to itself: ``ssru`` (Kim et al. 2019),
            ``lstm`` or ``gru`` (Chen et al. 2018), or any other cell of `RnnSeq2SeqConfig`. ``ssru``, ``min_gru`` and
            ``min_lstm`` are trained on all tokens at once.

    Raises:
        ValueError: Fields that contradict each other; the message says which and what to do.
    """

    model_type = "hybrid_seq2seq"

    decoder_layers: int = 2
    cell_type: str = "ssru"

    def validate_fields(self) -> None:
        """Refuses fields that contradict each other."""
        super().validate_fields()
        self.check_choices(cell_type=CELLS)

    @property
    def name_in_words(self) -> str:
        """``Transformer encoder, SSRU decoder``."""
        return f"Transformer encoder, {CELLS[self.cell_type].name} decoder"

    def describe(self) -> str:
        """As of the Transformer, with the decoder's cell."""
        details = super().describe().partition(":")[2]
        source = "Kim et al. 2019" if self.cell_type == "ssru" else "Chen et al. 2018"
        return f"{self.name_in_words} ({source}):{details} in the encoder"

    @property
    def has_recurrent_decoder(self) -> bool:
        """Always."""
        return True

    @property
    def has_decoder_self_attention(self) -> bool:
        """Never: a step knows the earlier ones through the state."""
        return False

    @property
    def has_parallel_training(self) -> bool:
        """With a parallel cell."""
        return CELLS[self.cell_type].is_parallel


__all__ = ["HybridSeq2SeqConfig"]
