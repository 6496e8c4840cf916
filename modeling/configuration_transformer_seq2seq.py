"""Configuration of the Transformer encoder-decoder; the defaults are the base model of Vaswani et al. 2017."""

from huggingface_hub.dataclasses import strict

from .configuration_seq2seq import Seq2SeqConfig

ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "swiglu": "SwiGLU"}
POSITIONS = ("sinusoidal", "rotary", "relative")


@strict
class TransformerSeq2SeqConfig(Seq2SeqConfig):
    """Fields have Marian's names.

    Args:
        vocab_size: Entries of the source vocabulary, and of the target's where they are one (the paper: 37,000).
        decoder_vocab_size: Entries of the target vocabulary; default: ``vocab_size``.
        share_encoder_decoder_embeddings: One vocabulary and one embedding matrix for both sides.
        tie_word_embeddings: The output matrix is the target's embedding matrix. False unties all three matrices.
        d_model: Width of the model.
        encoder_layers, decoder_layers: Layers on each side.
        encoder_attention_heads, decoder_attention_heads: Heads on each side; they divide ``d_model``.
        encoder_ffn_dim, decoder_ffn_dim: Inner width of the position-wise feed-forward networks.
        activation_function: ``relu`` (the paper), ``gelu`` (Hendrycks & Gimpel 2016), or ``swiglu`` (Shazeer 2020: a
            third matrix gates the other two).
        normalize_before: Pre-norm (Xiong et al. 2020) instead of the paper's post-norm.
        position_embedding_type: ``sinusoidal`` (the paper, added to the embeddings), ``rotary`` (Su et al. 2021,
            turns queries and keys of the self-attention) or ``relative`` (Dai et al. 2019, as Csordás et al. 2021 use
            them: adds to each score of the self-attention what the query makes of the distance; with the attention
            implementations eager and sdpa, and memory for every pair of tokens). All reach any length.
        rope_theta: Base of the rotary wavelengths.
        scale_embedding: Multiply embeddings by √d_model, as in the paper. (Csordás et al. 2021 do not, where positions
            are relative: there is nothing that embeddings must be as large as.)
        dropout: On every sublayer's output and on the sums of embeddings and positions.
        attention_dropout, activation_dropout: On attention weights and inside the feed-forward networks.
        label_smoothing: ε of the loss (the paper: 0.1 in training).
        use_cache: Keep keys and values while generating.

    Raises:
        ValueError: Fields that contradict each other; the message says which and what to do.
    """

    model_type = "transformer_seq2seq"
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 37000
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    activation_function: str = "relu"
    normalize_before: bool = False
    position_embedding_type: str = "sinusoidal"
    rope_theta: float | int = 10000.0
    scale_embedding: bool = True
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0

    def validate_fields(self) -> None:
        """Refuses fields that contradict each other."""
        super().validate_fields()
        self.check_counts("encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim")
        self.check_shares("attention_dropout", "activation_dropout")
        if not 0 < self.rope_theta < float("inf"):
            raise ValueError(f"rope_theta={self.rope_theta}: it must be a number more than 0.")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if self.d_model % heads:
                near = heads * max(1, round(self.d_model / heads))
                raise ValueError(
                    f"d_model={self.d_model} is not divisible by {name}={heads}: every head gets d_model / heads "
                    f"dimensions; take d_model={near} or another number of heads."
                )
            if self.position_embedding_type == "rotary" and (self.d_model // heads) % 2:
                raise ValueError(
                    f"position_embedding_type='rotary' turns pairs of dimensions, but d_model={self.d_model} over "
                    f"{name}={heads} gives heads of odd size {self.d_model // heads}; make it even."
                )
        if self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} is odd: positions are pairs of sine and cosine; make it even.")
        self.check_choices(activation_function=ACTIVATIONS, position_embedding_type=POSITIONS)

    @property
    def name_in_words(self) -> str:
        """``Transformer``."""
        return "Transformer"

    def describe(self) -> str:
        """Layers, widths, heads, activation, norm, positions; what differs between the sides is said of both."""
        heads = sorted({self.encoder_attention_heads, self.decoder_attention_heads})
        widths = sorted({self.encoder_ffn_dim, self.decoder_ffn_dim})
        return (
            f"Transformer encoder-decoder (Vaswani et al. 2017): {self.encoder_layers}+{self.decoder_layers} layers, "
            f"{self.d_model} wide, {' and '.join(map(str, heads))} heads, feed-forward networks "
            f"{' and '.join(map(str, widths))} wide with {ACTIVATIONS[self.activation_function]}, "
            f"{'pre' if self.normalize_before else 'post'}-norm, {self.position_embedding_type} positions"
        )

    @property
    def has_recurrent_encoder(self) -> bool:
        """Never: all steps are computed at once."""
        return False

    @property
    def has_recurrent_decoder(self) -> bool:
        """Never: a step looks at the earlier ones."""
        return False

    @property
    def has_encoder_self_attention(self) -> bool:
        """Always."""
        return True

    @property
    def has_decoder_self_attention(self) -> bool:
        """Always."""
        return True

    @property
    def has_cross_attention(self) -> bool:
        """Always."""
        return True


__all__ = ["TransformerSeq2SeqConfig"]
