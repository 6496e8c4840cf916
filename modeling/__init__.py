"""The models. Importing this registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedConfig

from .configuration_rnn_seq2seq import RnnSeq2SeqConfig
from .configuration_transformer_seq2seq import TransformerSeq2SeqConfig
from .modeling_rnn_seq2seq import RnnSeq2SeqForConditionalGeneration, RnnSeq2SeqModel, RnnSeq2SeqPreTrainedModel
from .modeling_transformer_seq2seq import (
    TransformerSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqModel,
    TransformerSeq2SeqPreTrainedModel,
)
from .tokenization_seq2seq_pair import Seq2SeqPairTokenizer

_FAMILIES = (
    (RnnSeq2SeqConfig, RnnSeq2SeqModel, RnnSeq2SeqForConditionalGeneration),
    (TransformerSeq2SeqConfig, TransformerSeq2SeqModel, TransformerSeq2SeqForConditionalGeneration),
)
CONFIG_CLASSES = {config.model_type: config for config, _, _ in _FAMILIES}

for _config, _model, _generator in _FAMILIES:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoModelForSeq2SeqLM.register(_config, _generator, exist_ok=True)

# By its name alone, which a saved folder states: transformers maps no config class of its own here, so folders with a
# plain tokenizer are untouched.
AutoTokenizer.register(PreTrainedConfig, tokenizer_class=Seq2SeqPairTokenizer)
Seq2SeqPairTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = [
    "RnnSeq2SeqConfig",
    "RnnSeq2SeqForConditionalGeneration",
    "RnnSeq2SeqModel",
    "RnnSeq2SeqPreTrainedModel",
    "Seq2SeqPairTokenizer",
    "TransformerSeq2SeqConfig",
    "TransformerSeq2SeqForConditionalGeneration",
    "TransformerSeq2SeqModel",
    "TransformerSeq2SeqPreTrainedModel",
]
