"""What family a model is of, and what follows from it: the one place of a comparison that asks.

Configs that answer the questions of `Seq2SeqConfig` are believed, whoever wrote them; the encoder-decoders of
transformers are Transformers, and of those that it puts together from two models each side is looked at. Of any other
model nothing is known, and nothing is said: what is unknown is None, and a measure leaves its sentence out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from seqloom.modeling import HybridSeq2SeqConfig, RnnSeq2SeqConfig
from seqloom.modeling.configuration_rnn_seq2seq import ATTENTIONS
from seqloom.modeling.configuration_seq2seq import QUESTIONS
from seqloom.support.language import say, term

RECURRENT = {"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"}
"""Models of transformers that carry a state from step to step and attend to nothing, by their ``model_type``."""
HYBRID = {
    "bailing_hybrid", "bamba", "falcon_h1", "glm5_next", "granitemoehybrid", "jamba", "kimi_linear", "minimax",
    "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_next", "qwen4_exp", "recurrent_gemma", "zamba",
    "zamba2",
}  # fmt: skip
"""Those that do both."""


ANSWERED = [question for question in QUESTIONS if question != "has_parallel_training"]
"""What every config answers that does; those that travel with older models know no more."""


@dataclass(frozen=True)
class Traits:
    """What a model is. Every answer may be None: not known."""

    name: str
    """Its kind in a few words: ``GRU, Luong attention``, ``Transformer``; else its ``model_type``."""
    description: str
    """Its kind and its size: ``GRU, Luong attention, 1+1 layers of 128``."""
    has_recurrent_encoder: bool | None = None
    has_recurrent_decoder: bool | None = None
    has_encoder_self_attention: bool | None = None
    has_decoder_self_attention: bool | None = None
    has_cross_attention: bool | None = None
    has_constant_state: bool | None = None
    """What is kept of a sentence does not grow with the output."""
    has_parallel_training: bool | None = None
    """No step waits for the one before where the target is known."""

    @property
    def is_recurrent(self) -> bool | None:
        """A state goes from step to step, on either side, and neither attends to itself: a hybrid is neither kind."""
        is_carried = _any(self.has_recurrent_encoder, self.has_recurrent_decoder)
        attends = _any(self.has_encoder_self_attention, self.has_decoder_self_attention)
        other = _any(None if is_carried is None else not is_carried, attends)
        return None if other is None else not other

    @property
    def is_transformer(self) -> bool | None:
        """Both sides attend to themselves, the decoder to the source too, and no state is carried."""
        attends = (self.has_encoder_self_attention, self.has_decoder_self_attention, self.has_cross_attention)
        is_carried = (self.has_recurrent_encoder, self.has_recurrent_decoder)
        others = _any(*is_carried, *(None if answer is None else not answer for answer in attends))
        return None if others is None else not others

    @property
    def is_hybrid(self) -> bool | None:
        """The encoder attends to itself, and the decoder carries a state in place of it."""
        if None in (self.has_encoder_self_attention, self.has_recurrent_decoder, self.has_decoder_self_attention):
            return None
        attends = self.has_encoder_self_attention and not self.has_decoder_self_attention
        return bool(attends and self.has_recurrent_decoder)

    @property
    def looks_back(self) -> bool | None:
        """A step of the decoder looks at as many others as there are, of the source or of its own."""
        return _any(self.has_cross_attention, self.has_decoder_self_attention)

    @property
    def kind(self) -> str:
        """Which kind of models its numbers stand for; of what is neither recurrent nor a Transformer, its name."""
        if self.is_transformer:
            return "Transformer"
        if self.is_recurrent and self.has_recurrent_decoder and self.has_cross_attention is not None:
            return f"recurrent with{'' if self.has_cross_attention else 'out'} attention"
        return self.name


def traits_of(config: PreTrainedConfig) -> Traits:
    """What a model of any make is, by its config."""
    if all(hasattr(type(config), question) for question in ANSWERED):
        return _of_answers(config)
    name = config.model_type or type(config).__name__
    if not type(config).__module__.startswith("transformers.models."):
        return Traits(name, name)
    parts = [getattr(config, side, None) for side in ("encoder", "decoder")]
    sides = [part if isinstance(part, PreTrainedConfig) else config for part in parts]
    (recurrent_encoder, encoder_attends), (recurrent_decoder, decoder_attends) = map(_of_side, sides)
    return Traits(
        name,
        name,
        has_recurrent_encoder=recurrent_encoder,
        has_recurrent_decoder=recurrent_decoder,
        has_encoder_self_attention=encoder_attends,
        has_decoder_self_attention=decoder_attends,
        has_cross_attention=True,
        has_constant_state=None if decoder_attends is None else not decoder_attends,
        has_parallel_training=None if _any(recurrent_encoder, recurrent_decoder) is not False else True,
    )


def in_words(name: str) -> str:
    """A kind of models, or its description, in the language that a report is written in: part by part."""
    cell, *others = name.split(", ")
    if others and others[0] in ATTENTIONS.values():
        others[0] = say(f"{{cell}}, {others[0]}", cell=term(cell))
        return ", ".join(map(_in_words, others))
    return ", ".join(map(_in_words, (cell, *others)))


def _in_words(part: str) -> str:
    if size := re.fullmatch(r"(\d+)\+(\d+) layers of (\d+)", part):
        encoder, decoder, width = size.groups()
        return say("{encoder}+{decoder} layers of {width}", encoder=encoder, decoder=decoder, width=width)
    if part.endswith(" decoder"):
        return say("{cell} decoder", cell=part.removesuffix(" decoder"))
    return term(part)


def recurrent_recipe(config: PreTrainedConfig) -> dict[str, Any] | None:
    """The fields that make the cell and the attention of a recurrent model of seqloom's; None for any other."""
    if not isinstance(config, RnnSeq2SeqConfig):
        return None
    fed = {"input_feeding": True} if config.input_feeding else {}
    return {"cell_type": config.cell_type, "attention": config.attention, **fed}


def hybrid_recipe(config: PreTrainedConfig) -> dict[str, Any] | None:
    """The family and the cell of a hybrid of seqloom's; None for any other model."""
    if not isinstance(config, HybridSeq2SeqConfig):
        return None
    return {"model_type": config.model_type, "cell_type": config.cell_type}


def recorded(entry: dict[str, Any] | str) -> Traits:
    """The traits that a measure's result holds of a model, as ``traits`` or as earlier versions told them."""
    if isinstance(entry, str):  # a description
        return Traits(entry, entry, has_cross_attention="no attention" not in entry)
    if "traits" in entry:
        return Traits(**entry["traits"])
    told = entry.get("family") or entry.get("kind") or ""
    recurrent = entry.get("is_recurrent", entry.get("recurrent", told.startswith("rnn")))
    attends = entry.get("attention", told != "rnn")
    return Traits(told, told, recurrent, recurrent, not recurrent, not recurrent, attends, recurrent)


def _any(*answers: bool | None) -> bool | None:
    """Whether one is true; None where that hangs on what is not known."""
    return True if True in answers else None if None in answers else False


def _of_answers(config: PreTrainedConfig) -> Traits:
    """What a config says itself; what it leaves open is not known."""
    answers: dict[str, Any] = {}
    for question in QUESTIONS:
        try:
            answers[question] = getattr(config, question, None)
        except NotImplementedError:
            answers[question] = None
    name = answers.pop("name_in_words") or config.model_type
    size = f"{config.encoder_layers}+{config.decoder_layers} layers of {config.hidden_size}"
    return Traits(name, f"{name}, {size}", **answers)


def _of_side(config: PreTrainedConfig) -> tuple[bool | None, bool | None]:
    """Whether the encoder or decoder of a config of transformers is recurrent, and whether it attends to itself."""
    if not type(config).__module__.startswith("transformers.models."):
        traits = traits_of(config)
        is_carried = _any(traits.has_recurrent_encoder, traits.has_recurrent_decoder)
        return is_carried, _any(traits.has_encoder_self_attention, traits.has_decoder_self_attention)
    kind = config.model_type
    return kind in RECURRENT | HYBRID, kind not in RECURRENT
