"""Text in, text out, as a transformers pipeline: transformers 5 has none for sequence to sequence any more.

The file travels with the weights: ``pipeline("seq2seq-generation", model=NAME, trust_remote_code=True)`` needs no
seqloom. With ``import seqloom`` the task is known, and no ``trust_remote_code`` is needed.
"""

from typing import Any

import torch
from transformers import Pipeline
from transformers.modeling_outputs import ModelOutput

TASK = "seq2seq-generation"


class Seq2SeqPipeline(Pipeline):
    """A text → a list of ``{"generated_text": ...}``, one for each returned sequence, the best first.

    A list of texts gives a list of such lists; a generator or a data set gives an iterator of them. Options of the call
    are those of `generate` (``num_beams=5``), and:

    Args:
        return_scores: Adds ``score``: log p of the output given the source, in nats, the end token included.
        truncation: As for the tokenizer.
        skip_special_tokens, clean_up_tokenization_spaces: As for the tokenizer's ``decode``.
    """

    model: Any  # a ``…ForConditionalGeneration`` of any family
    tokenizer: Any

    # What the base class declares is wrong, here and below: these four can only be None, every keyword is a dictionary.
    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    def _sanitize_parameters(
        self,
        return_scores: bool | None = None,
        truncation: bool | str | None = None,
        skip_special_tokens: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        **generate_kwargs,
    ) -> tuple[dict, dict, dict]:
        def given(**options) -> dict:
            return {name: value for name, value in options.items() if value is not None}

        decode_kwargs = given(
            skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        return given(truncation=truncation), given(return_scores=return_scores) | generate_kwargs, decode_kwargs

    def preprocess(self, text: str, **tokenizer_kwargs) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """A text → ``input_ids`` and ``attention_mask``, (1, source) each."""
        if not isinstance(text, str):
            raise ValueError(f"the pipeline takes a text, a list or a generator of texts, not {text!r}.")
        inputs = self.tokenizer(text, return_tensors="pt", **tokenizer_kwargs)
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def _forward(  # type: ignore[override]
        self, inputs: dict[str, torch.Tensor], return_scores: bool = False, **generate_kwargs
    ) -> ModelOutput:
        batch = inputs["input_ids"].shape[0]
        sequences = self.model.generate(**inputs, **generate_kwargs)
        if not torch.is_tensor(sequences):
            sequences = sequences.sequences
        is_generated = generated_mask(sequences, ends_of(self.model, generate_kwargs))  # (batch · returned, target)
        pad = self.model.generation_config.pad_token_id
        if pad is not None:  # `generate` may fill with an end, a word to the tokenizer
            sequences = torch.cat([sequences[:, :1], sequences[:, 1:].masked_fill(~is_generated, pad)], 1)
        outputs = {"sequences": sequences.unflatten(0, (batch, -1))}  # (batch, returned, 1 + target)
        if return_scores:
            log_probabilities, _ = teacher_forced(self.model, sequences, **inputs, is_generated=is_generated)
            outputs["scores"] = log_probabilities.sum(-1).unflatten(0, (batch, -1))
        return ModelOutput(outputs)

    def postprocess(  # type: ignore[override]
        self, outputs: ModelOutput, skip_special_tokens: bool = True, **decode_kwargs
    ) -> list[dict]:
        """Ids of one text, (1, returned, target) → a dictionary for each returned sequence."""
        decode_kwargs["skip_special_tokens"] = skip_special_tokens
        sequences = outputs["sequences"].flatten(0, 1)
        results = [{"generated_text": text} for text in self.tokenizer.batch_decode(sequences, **decode_kwargs)]
        if "scores" in outputs:
            for result, score in zip(results, outputs["scores"].flatten().tolist(), strict=True):
                result["score"] = score
        return results


def at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    """What probabilities of it are computed in: a half-precision sum loses too much, and float64 stays what it is."""
    return torch.promote_types(tensor.dtype, torch.float32)


@torch.no_grad()
def teacher_forced(
    model,
    sequences: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    is_generated: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, ModelOutput]:
    """What the model thinks of what `generate` returned.

    Args:
        sequences: (batch · returned, 1 + target) ids: the decoder's start, the tokens, padding after the first end.
        input_ids, attention_mask: (batch, source).
        is_generated: (batch · returned, target) what the sequences' tokens are; without it, all up to the first of the
            model's own ends.
        kwargs: For the model's ``forward``: ``output_attentions=True``.

    Returns:
        log p of every token, (batch · returned, target), 0 after the end; and all that the model returned.
    """
    returned = sequences.shape[0] // input_ids.shape[0]
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    inputs = {name: ids.repeat_interleave(returned, 0) for name, ids in inputs.items() if ids is not None}
    outputs = model(**inputs, decoder_input_ids=sequences[:, :-1], use_cache=False, **kwargs)
    logits = outputs.logits
    log_probabilities = (
        logits.log_softmax(-1, dtype=at_least_float32(logits)).gather(2, sequences[:, 1:, None]).squeeze(2)
    )
    if is_generated is None:
        is_generated = generated_mask(sequences, model.generation_config.eos_token_id)
    return log_probabilities.masked_fill(~is_generated, 0.0), outputs


def ends_of(model: Any, generate_kwargs: dict[str, Any]) -> list[int]:
    """The tokens that end an output, as `generate` takes them: from its arguments, a config among these, the model."""
    configs = (generate_kwargs.get("generation_config"), model.generation_config)
    for ends in (generate_kwargs.get("eos_token_id"), *(getattr(config, "eos_token_id", None) for config in configs)):
        if ends is not None:
            return torch.as_tensor(ends).flatten().tolist()
    return []


def generated_mask(sequences: torch.Tensor, eos_token_id: int | list[int] | None) -> torch.Tensor:
    """(rows, 1 + target) → (rows, target): true for the generated tokens, the first end token included."""
    targets = sequences[:, 1:]
    if eos_token_id is None:
        return torch.ones_like(targets, dtype=torch.bool)
    is_end = torch.isin(targets, torch.tensor(eos_token_id, device=targets.device))
    return is_end.cumsum(-1) - is_end.long() == 0


__all__ = ["TASK", "Seq2SeqPipeline"]
