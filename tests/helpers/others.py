"""Tiny models of transformers' own families, saved as folders with a tokenizer each."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
)

WORDS = [*"abcdefgh", *"ABCDEFGH"]
POSITIONS = 24
SIZES = {
    "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": POSITIONS,
}  # fmt: skip


def of_words() -> PreTrainedTokenizerFast:
    """``</s>`` behind every text."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*specials, *WORDS])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def of_pieces() -> PreTrainedTokenizerFast:
    """BERT's: ``[CLS]`` and ``[SEP]`` around every text, and no end token."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*specials, *WORDS, *(f"##{word}" for word in WORDS)]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def marian() -> MarianMTModel:
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None}
    return MarianMTModel(MarianConfig(vocab_size=len(of_words()), **SIZES, **ids))


def bart() -> BartForConditionalGeneration:
    ids = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    }
    return BartForConditionalGeneration(BartConfig(vocab_size=len(of_words()), **SIZES, **ids))


def bert2bert() -> EncoderDecoderModel:
    """Whose ids are its config's alone, as nothing is said of generation."""
    bert = BertConfig(
        vocab_size=len(of_pieces()), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=POSITIONS,
    )  # fmt: skip
    config = EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    return EncoderDecoderModel(config)


OTHERS = {"marian": (marian, of_words), "bart": (bart, of_words), "bert2bert": (bert2bert, of_pieces)}


def save_other(name: str, folder: Path) -> Path:
    """One of `OTHERS`, of random weights far from zero, that writes until it must stop."""
    torch.manual_seed(2)
    make, tokenizer = OTHERS[name]
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3 if parameter.dim() > 1 else 0)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
