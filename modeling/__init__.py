"""The models. Importing this registers them with transformers' Auto classes, for loading and for saving their code.

A family is its files, ``configuration_x.py`` and ``modeling_x.py``, and here its imports, its line with
`register_family` and its public names.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_hybrid_seq2seq import HybridSeq2SeqConfig
from .configuration_rnn_seq2seq import RnnSeq2SeqConfig
from .configuration_seq2seq import QUESTIONS, Seq2SeqConfig
from .configuration_transformer_seq2seq import TransformerSeq2SeqConfig
from .modeling_hybrid_seq2seq import (
    HybridSeq2SeqForConditionalGeneration,
    HybridSeq2SeqModel,
    HybridSeq2SeqPreTrainedModel,
)
from .modeling_rnn_seq2seq import RnnSeq2SeqForConditionalGeneration, RnnSeq2SeqModel, RnnSeq2SeqPreTrainedModel
from .modeling_transformer_seq2seq import (
    TransformerSeq2SeqForConditionalGeneration,
    TransformerSeq2SeqModel,
    TransformerSeq2SeqPreTrainedModel,
)
from .pipeline_seq2seq import TASK, Seq2SeqPipeline
from .tokenization_seq2seq_pair import Seq2SeqPairTokenizer

CONFIG_CLASSES: dict[str, type[Seq2SeqConfig]] = {}  # of every registered family, by model_type


def register_family(
    config_class: type[Seq2SeqConfig],
    model_class: type[PreTrainedModel],
    generation_class: type[PreTrainedModel],
) -> None:
    """Makes a family of models known to transformers' Auto classes and to all of seqloom, by its ``model_type``.

    Saved folders carry the files that define these classes, for those who have no seqloom. A family may be defined
    anywhere; those who load it must have installed what its files import otherwise than from a file beside them.

    Args:
        config_class: Answers all that `Seq2SeqConfig` asks.
        model_class: The base model, for ``AutoModel``.
        generation_class: With the output matrix, for ``AutoModelForSeq2SeqLM``.

    Raises:
        NotImplementedError: The config leaves a question open; the message says which.
        ValueError: Another family has this ``model_type``.
    """
    known = CONFIG_CLASSES.get(config_class.model_type)
    if not config_class.model_type or known not in (None, config_class):
        raise ValueError(
            f"{config_class.__name__} has model_type={config_class.model_type!r}, "
            + (f"which is {known.__name__}'s" if known else "which names nothing")
            + ": give it one of its own."
        )
    config = config_class()
    for question in QUESTIONS:
        getattr(config, question)
    config.describe()

    CONFIG_CLASSES[config_class.model_type] = config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    AutoModelForSeq2SeqLM.register(config_class, generation_class, exist_ok=True)
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")
    generation_class.register_for_auto_class("AutoModelForSeq2SeqLM")


register_family(RnnSeq2SeqConfig, RnnSeq2SeqModel, RnnSeq2SeqForConditionalGeneration)
register_family(TransformerSeq2SeqConfig, TransformerSeq2SeqModel, TransformerSeq2SeqForConditionalGeneration)
register_family(HybridSeq2SeqConfig, HybridSeq2SeqModel, HybridSeq2SeqForConditionalGeneration)

# By its name alone, which a saved folder states: transformers maps no config class of its own here, so folders with a
# plain tokenizer are untouched.
AutoTokenizer.register(PreTrainedConfig, tokenizer_class=Seq2SeqPairTokenizer)
Seq2SeqPairTokenizer.register_for_auto_class("AutoTokenizer")

PIPELINE_REGISTRY.register_pipeline(TASK, Seq2SeqPipeline, pt_model=AutoModelForSeq2SeqLM, type="text")

__all__ = [
    "HybridSeq2SeqConfig",
    "HybridSeq2SeqForConditionalGeneration",
    "HybridSeq2SeqModel",
    "HybridSeq2SeqPreTrainedModel",
    "RnnSeq2SeqConfig",
    "RnnSeq2SeqForConditionalGeneration",
    "RnnSeq2SeqModel",
    "RnnSeq2SeqPreTrainedModel",
    "Seq2SeqConfig",
    "Seq2SeqPairTokenizer",
    "Seq2SeqPipeline",
    "TransformerSeq2SeqConfig",
    "TransformerSeq2SeqForConditionalGeneration",
    "TransformerSeq2SeqModel",
    "TransformerSeq2SeqPreTrainedModel",
    "register_family",
]
