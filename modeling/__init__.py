"""The models. Importing this registers them with transformers' Auto classes, for loading and for saving their code."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedConfig
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_rnn_seq2seq import RnnSeq2SeqConfig
from .configuration_transformer_seq2seq import TransformerSeq2SeqConfig
from .modeling_rnn_seq2seq import RnnSeq2SeqForConditionalGeneration, RnnSeq2SeqModel, RnnSeq2SeqPreTrainedModel
from .modeling_transformer_seq2seq import (
    TransformerSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqModel,
    TransformerSeq2SeqPreTrainedModel,
)
from .pipeline_seq2seq import TASK, Seq2SeqPipeline
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
    # Saved folders carry these classes' files, for those who have no seqloom.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    _generator.register_for_auto_class("AutoModelForSeq2SeqLM")

# By its name alone, which a saved folder states: transformers maps no config class of its own here, so folders with a
# plain tokenizer are untouched.
AutoTokenizer.register(PreTrainedConfig, tokenizer_class=Seq2SeqPairTokenizer)
Seq2SeqPairTokenizer.register_for_auto_class("AutoTokenizer")

PIPELINE_REGISTRY.register_pipeline(TASK, Seq2SeqPipeline, pt_model=AutoModelForSeq2SeqLM, type="text")

__all__ = [
    "RnnSeq2SeqConfig",
    "RnnSeq2SeqForConditionalGeneration",
    "RnnSeq2SeqModel",
    "RnnSeq2SeqPreTrainedModel",
    "Seq2SeqPairTokenizer",
    "Seq2SeqPipeline",
    "TransformerSeq2SeqConfig",
    "TransformerSeq2SeqForConditionalGeneration",
    "TransformerSeq2SeqModel",
    "TransformerSeq2SeqPreTrainedModel",
]
