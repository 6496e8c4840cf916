"""The coverage penalty of Wu et al. 2016 (arXiv:1609.08144, section 7), which transformers has not.

Beams that leave parts of the source unattended, or say one part twice and another never, lose to those that cover it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateBeamEncoderDecoderOutput

from seqloom.decoding.loading import GenerativeModel, eager_attention
from seqloom.modeling.modeling_seq2seq import CACHE

SMALLEST = 1e-9  # a token's coverage, where it has none: the penalty stays finite


class BeamSearchModel(GenerativeModel, Protocol):
    """A model with transformers' own beam search, and all that it takes."""

    @property
    def base_model(self) -> Any: ...

    def get_encoder(self) -> Any: ...

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any: ...

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...


def coverage_beam_search(
    model: BeamSearchModel,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    coverage_penalty: float = 0.2,
    **model_kwargs: Any,
) -> GenerateBeamEncoderDecoderOutput | torch.LongTensor:
    """Beam search whose finished hypotheses are ranked by equation 14 of the paper.

    A hypothesis Y of a source X scores log P(Y | X) / lp(Y) + cp(X, Y), where cp(X, Y) = β · Σᵢ log(min(Σⱼ pᵢⱼ, 1)),
    pᵢⱼ is the attention that the j-th token of Y pays to the i-th of X, and lp(Y) is transformers' own length penalty,
    |Y| to the power of ``length_penalty``. The search itself is the model's, unchanged: the penalty does not steer it
    but orders what it found, all ``num_beams`` hypotheses (OpenNMT's default too). So it chooses among more the more
    beams there are.

    pᵢⱼ is the mean over layers and heads. Source tokens are those that ``attention_mask`` shows, the end of the
    sentence among them; target tokens are those of the prefix and the generated ones but for the end. A token without
    any attention counts as one with 1e-9.

    Call it through `generate`, which passes the other arguments::

        model.generate(**inputs, num_beams=5, custom_generate=coverage_beam_search, coverage_penalty=0.2)

    Args:
        model: Any encoder-decoder of transformers that returns cross-attentions. One that runs on another attention
            than "eager" is switched to it for one pass over the hypotheses, and back.
        input_ids: (batch · num_beams, prefix), the decoder's.
        coverage_penalty: β, 0 or more; 0 is plain beam search. The paper uses 0.2.
        model_kwargs: ``encoder_outputs``, ``attention_mask``, …, of batch · num_beams rows.

    Returns:
        As beam search does: (batch · num_return_sequences, length) ids, best first, or the dictionary of
        ``return_dict_in_generate``, whose ``sequences_scores`` hold the penalty and come always.

    Raises:
        ValueError: There are no beams, the penalty is negative, or the model has no attention over the source.
    """
    num_beams = generation_config.num_beams or 1
    if num_beams < 2:
        raise ValueError(f"coverage_penalty re-ranks beams, but num_beams={num_beams}: set num_beams to 2 or more.")
    if not coverage_penalty >= 0:
        raise ValueError(
            f"coverage_penalty={coverage_penalty}: it must be 0 (plain beam search) or more (the paper: 0.2)."
        )
    every_beam = copy.copy(generation_config)
    every_beam.num_return_sequences = num_beams
    every_beam.return_dict_in_generate = every_beam.output_scores = True
    outputs: GenerateBeamEncoderDecoderOutput
    outputs = model._beam_search(input_ids, logits_processor, stopping_criteria, every_beam, **model_kwargs)

    assert outputs.sequences_scores is not None  # `output_scores` asks for them
    lengths, prefix_length = input_ids.shape[1] + generated_lengths(outputs), input_ids.shape[1]
    coverage = log_coverage(
        model, outputs.sequences, lengths, generation_config.eos_token_id, prefix_length, model_kwargs
    )
    scores = outputs.sequences_scores + coverage_penalty * coverage  # (batch · num_beams,)
    order = scores.view(-1, num_beams).argsort(dim=-1, descending=True, stable=True)  # (batch, num_beams)
    first_rows = torch.arange(0, len(scores), num_beams, device=order.device)[:, None]
    chosen = (order + first_rows)[:, : generation_config.num_return_sequences].flatten()

    generated = generated_lengths(outputs)[chosen].max()
    outputs["sequences"] = outputs.sequences[chosen, : input_ids.shape[1] + generated]
    outputs["sequences_scores"] = scores[chosen]
    outputs["beam_indices"] = outputs["beam_indices"][chosen, :generated]
    if not generation_config.output_scores:
        outputs.scores = None
    return outputs if generation_config.return_dict_in_generate else outputs.sequences


def generated_lengths(outputs: GenerateBeamEncoderDecoderOutput) -> torch.Tensor:
    """(rows,) tokens generated in every row, the end included; what comes after them is from no beam."""
    return (outputs["beam_indices"] >= 0).sum(-1)


def log_coverage(
    model: BeamSearchModel,
    sequences: torch.Tensor,
    lengths: torch.Tensor,
    eos_token_id: int | Sequence[int] | None,
    prefix_length: int,
    model_kwargs: dict[str, Any],
) -> torch.Tensor:
    """(rows,) sums over the source of log(min(coverage, 1)), from one teacher-forced pass over finished hypotheses.

    Args:
        sequences: (rows, length) ids, the prefix and the end included.
        lengths: (rows,) how many of them count.
        model_kwargs: ``encoder_outputs``, ``attention_mask``, …, of so many rows.
    """
    ends = torch.tensor([] if eos_token_id is None else eos_token_id, dtype=sequences.dtype, device=sequences.device)
    is_ended = torch.isin(sequences.gather(1, lengths[:, None] - 1).squeeze(1), ends)  # (rows,)
    columns = torch.arange(sequences.shape[1] - 1, device=sequences.device)  # column j reads token j, predicts j + 1
    is_counted = columns < (lengths - 1 - is_ended.int())[:, None]  # (rows, length - 1)

    model_kwargs = {**model_kwargs, CACHE: None, "use_cache": False, "output_attentions": True}
    prefix_mask = model_kwargs.get("decoder_attention_mask")
    if prefix_mask is not None:
        is_token = torch.ones_like(sequences[:, :-1])
        is_token[:, :prefix_length] = prefix_mask[:, :prefix_length]
        model_kwargs["decoder_attention_mask"] = is_token
        is_counted = is_counted & is_token.bool()
    attentions = cross_attentions(model, model.prepare_inputs_for_generation(sequences[:, :-1], **model_kwargs))
    weights = sum(layer.float().mean(1) for layer in attentions) / len(attentions)  # (rows, length - 1, source)
    coverage = (weights * is_counted[..., None]).sum(1)  # (rows, source)
    logs = coverage.clamp(min=SMALLEST, max=1.0).log()
    source_mask = model_kwargs.get("attention_mask")
    return (logs if source_mask is None else logs.masked_fill(source_mask == 0, 0.0)).sum(-1)


def coverage_order(
    model: BeamSearchModel,
    sequences: torch.Tensor,
    lengths: torch.Tensor,
    scores: torch.Tensor,
    inputs: dict[str, torch.Tensor],
    eos_token_id: Sequence[int],
    coverage_penalty: float,
) -> torch.Tensor:
    """Beams that a search has found, ranked as `coverage_beam_search` ranks them.

    Args:
        sequences: (sentences · beams, length) ids, the start token first.
        lengths: (sentences · beams,) how many of them count.
        scores: (sentences, beams), each divided by its length penalty.
        inputs: ``input_ids`` and ``attention_mask`` of the sentences.

    Returns:
        (sentences, beams) places of beams, the best first.
    """
    beams = scores.shape[1]
    read = model.get_encoder()(**inputs, return_dict=True)
    repeated = {name: part.repeat_interleave(beams, 0) for name, part in read.items() if torch.is_tensor(part)}
    rows = {
        "encoder_outputs": type(read)(**repeated),
        "attention_mask": inputs["attention_mask"].repeat_interleave(beams, 0),
    }
    coverage = log_coverage(model, sequences, lengths, eos_token_id, 1, rows).view_as(scores)
    return (scores + coverage_penalty * coverage).argsort(dim=-1, descending=True, stable=True)


def cross_attentions(model: BeamSearchModel, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """(rows, heads, target, source) weights of every layer."""
    with eager_attention(model):
        weights = model.base_model(**inputs, return_dict=True).cross_attentions  # without the logits
    if not weights or weights[0] is None:
        raise ValueError(
            f"coverage_penalty needs attention over the source, but {type(model).__name__} returned none: "
            "choose a model with attention (attention='luong' of a recurrent one), or leave custom_generate out."
        )
    return tuple(weights)
