"""Configuration of the Transformer encoder-decoder; the defaults are the base model of Vaswani et al. 2017."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

ACTIVATIONS = ("relu", "gelu", "swiglu")
POSITIONS = ("sinusoidal", "rotary")


@strict
class TransformerSeq2SeqConfig(PreTrainedConfig):
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
        position_embedding_type: ``sinusoidal`` (the paper, added to the embeddings) or ``rotary`` (Su et al. 2021,
            turns queries and keys of the self-attention). Both reach any length.
        rope_theta: Base of the rotary wavelengths.
        scale_embedding: Multiply embeddings by √d_model, as in the paper.
        dropout: On every sublayer's output and on the sums of embeddings and positions.
        attention_dropout, activation_dropout: On attention weights and inside the feed-forward networks.
        label_smoothing: ε of the loss (the paper: 0.1 in training).
        use_cache: Keep keys and values while generating.

    Raises:
        ValueError: Fields that contradict each other; the message says which and what to do.
    """

    model_type = "transformer_seq2seq"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 37000
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
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
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
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

    def validate_fields(self):
        """Refuses fields that contradict each other."""
        for name in (
            "vocab_size", "decoder_vocab_size", "d_model", "encoder_layers", "decoder_layers",
            "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be 1 or more.")
        for name in ("dropout", "attention_dropout", "activation_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 0 and less than 1.")
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
        for name, allowed in (("activation_function", ACTIVATIONS), ("position_embedding_type", POSITIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: use one of {', '.join(allowed)}.")
        if self.share_encoder_decoder_embeddings and self.decoder_vocab_size != self.vocab_size:
            raise ValueError(
                f"vocab_size={self.vocab_size} and decoder_vocab_size={self.decoder_vocab_size} differ, but "
                "share_encoder_decoder_embeddings=True makes them one: set it to False or leave decoder_vocab_size out."
            )


__all__ = ["TransformerSeq2SeqConfig"]
