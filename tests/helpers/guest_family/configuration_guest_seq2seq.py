"""Configuration of the convolutional encoder-decoder."""

from huggingface_hub.dataclasses import strict

from .configuration_seq2seq import Seq2SeqConfig


@strict
class GuestSeq2SeqConfig(Seq2SeqConfig):
    """A convolutional encoder-decoder, after Gehring et al. 2017 (arXiv:1705.03122).

    Args:
        channels: Width of all layers and embeddings.
        kernel_size: Steps that a convolution sees; the decoder's end with its own.
    """

    model_type = "guest_conv_seq2seq"
    attribute_map = {"hidden_size": "channels", "num_hidden_layers": "encoder_layers"}

    channels: int = 64
    kernel_size: int = 3

    def validate_fields(self) -> None:
        """Refuses fields that contradict each other."""
        super().validate_fields()
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size}: it must be odd, 3 or more.")

    @property
    def name_in_words(self) -> str:
        """Always the same."""
        return "gated convolutions"

    def describe(self) -> str:
        """Layers, widths, kernels."""
        return (
            f"Convolutional encoder-decoder (Gehring et al. 2017): {self.encoder_layers}+{self.decoder_layers} layers, "
            f"{self.channels} wide, kernels of {self.kernel_size}"
        )

    @property
    def has_recurrent_encoder(self) -> bool:
        """A step sees its neighbours."""
        return False

    @property
    def has_recurrent_decoder(self) -> bool:
        """A step sees the last ones' inputs, not a state."""
        return False

    @property
    def has_encoder_self_attention(self) -> bool:
        """Kernels are of fixed weights."""
        return False

    @property
    def has_decoder_self_attention(self) -> bool:
        """Likewise."""
        return False

    @property
    def has_cross_attention(self) -> bool:
        """One, above the decoder's layers."""
        return True


__all__ = ["GuestSeq2SeqConfig"]
