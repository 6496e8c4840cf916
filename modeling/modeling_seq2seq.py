"""What is truly the same for every encoder-decoder family: the loss, the mask arithmetic, the embeddings, the head,
and what a saved folder says of its code.

The loss is cross-entropy with the label smoothing of Szegedy et al. 2016 (arXiv:1512.00567), as Vaswani et al. 2017 use
it: sum over the target tokens / their number.
"""

import inspect
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .pipeline_seq2seq import TASK, Seq2SeqPipeline, at_least_float32

if TYPE_CHECKING:
    from transformers import GenerationMixin, PreTrainedModel

    class Model(PreTrainedModel):
        """What the mixins are mixed into, with what they take from it."""

        config: Any  # a `Seq2SeqConfig`, each family's own
        base_model: Any

    class Generating(GenerationMixin):
        """What has ``generate``."""

    class GenerationModel(Model, GenerationMixin):
        """And the one with the output matrix."""

        model: nn.Module
        lm_head: nn.Linear
else:
    Model = Generating = GenerationModel = object

SIDES = ("encoder", "decoder")
IGNORED = -100  # the label of a position that carries no loss, as everywhere in transformers
# What transformers calls a decoder's memory: from 5.24 on ``cache``. These models take it by either name.
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


def memory(past_key_values: Cache | None) -> dict[str, Any]:
    """A decoder's memory under the name that this version of transformers has for it."""
    return {CACHE: past_key_values}


def memory_of(outputs: Any) -> dict[str, Any]:
    """What a model returned of it, under that name."""
    return memory(getattr(outputs, CACHE))


def shift_tokens_right(labels: torch.Tensor, pad_token_id: int, decoder_start_token_id: int) -> torch.Tensor:
    """The decoder's inputs under teacher forcing: the labels, one step late. Ignored labels become padding."""
    shifted = labels.new_full(labels.shape, decoder_start_token_id)  # (batch, target)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORED, pad_token_id)


def token_mask(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """(batch, length) of any numbers → of booleans: whatever is not 0 is a token, as in transformers' own masks.

    A mask of four dimensions, which `generate` makes for a static cache, stays what it is.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return attention_mask
    return attention_mask.bool()


class SmoothedCrossEntropy(torch.autograd.Function):
    """Sum over the tokens of (1 - ε)·(-log p(label)) + ε·mean over the vocabulary of (-log p).

    `F.cross_entropy` does the same with more passes over the (tokens, vocabulary) matrix, by far the largest tensor of
    a training step. The tests hold the two equal, gradients included.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        scores = logits.to(at_least_float32(logits))  # (tokens, vocab)
        counted = labels != IGNORED  # (tokens,)
        labels = labels.masked_fill(~counted, 0)[:, None]  # (tokens, 1)
        probabilities = scores.softmax(-1)  # (tokens, vocab)
        # log Σ exp(score), from the largest of both: cheaper than logsumexp, as the softmax is wanted for the gradient.
        normaliser = scores.amax(-1) - probabilities.amax(-1).log()  # (tokens,)
        loss = normaliser - (1 - label_smoothing) * scores.gather(1, labels).squeeze(1)
        if label_smoothing:
            loss = loss - label_smoothing * scores.mean(-1)
        ctx.save_for_backward(probabilities, labels, counted)
        ctx.label_smoothing, ctx.dtype = label_smoothing, logits.dtype
        return loss.masked_fill(~counted, 0.0).sum()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        probabilities, labels, counted = ctx.saved_tensors
        weight = (gradient * counted)[:, None]  # (tokens, 1)
        if ctx.label_smoothing:
            uniform = ctx.label_smoothing / probabilities.shape[-1]
            logits_gradient = torch.addcmul(-uniform * weight, probabilities, weight)  # (tokens, vocab)
        else:
            logits_gradient = probabilities * weight
        logits_gradient.scatter_add_(1, labels, weight * (ctx.label_smoothing - 1))
        return logits_gradient.to(ctx.dtype), None, None


def seq2seq_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    **_: object,
) -> torch.Tensor:
    """Label-smoothed cross-entropy of labels that stand at the logits' own positions (not shifted).

    Args:
        logits: (batch, target, vocab); computed in float32 or finer, whatever their type.
        labels: (batch, target), -100 where nothing is to be learnt.
        num_items_in_batch: Divides the sum. An update over several micro-batches or processes gives the number of
            tokens of all of them, and their losses add up to that of one large batch. Default: the labels' own number.
        label_smoothing: ε, the share of the probability spread evenly over the vocabulary.
    """
    labels = labels.reshape(-1).to(logits.device)
    total = SmoothedCrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), labels, float(label_smoothing))
    return per_token(total, labels, num_items_in_batch)


def per_token(total: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
    """A sum over the labels, divided by the number that is given or by their own."""
    if num_items_in_batch is None:
        num_items_in_batch = (labels != IGNORED).sum().clamp(min=1)
    elif torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch


class ChunkedCrossEntropy(torch.autograd.Function):
    """The output matrix and `SmoothedCrossEntropy` of what it gives, for some tokens at a time.

    A chunk's gradients are computed along with its loss, so that its scores (chunk, vocab) can go, and nothing is
    computed twice. Ignored labels are left out.
    """

    @staticmethod
    def forward(ctx, states, labels, head, label_smoothing: float, chunk_tokens: int, is_learning: bool, *parameters):
        learning = [tensor for tensor in (states, *parameters) if is_learning and tensor.requires_grad]
        gradients = [torch.zeros_like(tensor, dtype=at_least_float32(tensor)) for tensor in learning]
        total = torch.zeros((), dtype=at_least_float32(states), device=states.device)
        for rows in (labels != IGNORED).nonzero().squeeze(1).split(chunk_tokens):
            piece = states[rows].detach().requires_grad_(states.requires_grad)  # (chunk, width)
            with torch.set_grad_enabled(is_learning):
                loss = SmoothedCrossEntropy.apply(head(piece), labels[rows], label_smoothing)
            total += loss.detach()
            if learning:
                parts = torch.autograd.grad(loss, [piece if tensor is states else tensor for tensor in learning])
                for tensor, gradient, part in zip(learning, gradients, parts, strict=True):
                    gradient.index_add_(0, rows, part.to(gradient.dtype)) if tensor is states else gradient.add_(part)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        gradients = iter(ctx.saved_tensors)
        return tuple(next(gradients) * gradient if is_needed else None for is_needed in ctx.needs_input_grad)


def chunked_loss(
    head: nn.Module,
    hidden_states: torch.Tensor,
    labels: torch.Tensor,
    chunk_tokens: int,
    *,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`seq2seq_loss` of ``head(hidden_states)``, whose scores are never held for all tokens together.

    Args:
        head: (…, width) → (…, vocab), the output matrix.
        hidden_states: (batch, target, width).
        labels, num_items_in_batch, label_smoothing: As there.
        chunk_tokens: How many tokens' scores are held.
    """
    states, labels = hidden_states.flatten(0, 1), labels.reshape(-1).to(hidden_states.device)
    how = head, float(label_smoothing), chunk_tokens, torch.is_grad_enabled()
    total = ChunkedCrossEntropy.apply(states, labels, *how, *head.parameters())
    return per_token(total, labels, num_items_in_batch)


class Seq2SeqFolderMixin(Model):
    """What ``config.json`` says of the code that lies beside it, for those who load it without seqloom."""

    _auto_map: dict[str, str]

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in every model; and ``AutoModel`` and ``pipeline`` find their classes too, not this class alone."""
        config = self.config
        config.auto_map = self._auto_map | (getattr(config, "auto_map", None) or {})
        implementation = f"{Seq2SeqPipeline.__module__.rpartition('.')[2]}.{Seq2SeqPipeline.__name__}"
        # Not kept in the config: transformers would ask for trust_remote_code before it runs the pipeline at hand.
        config.custom_pipelines = {TASK: {"impl": implementation, "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}}
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            del config.custom_pipelines


class Seq2SeqEmbeddingsMixin(Seq2SeqFolderMixin):
    """The three vocabulary matrices of an encoder-decoder: source, target and output.

    They are one matrix with ``share_encoder_decoder_embeddings`` (the base model's ``shared``); otherwise the target's
    and the output's are one. ``tie_word_embeddings=False`` unties all three, as in Marian.
    """

    def get_input_embeddings(self) -> nn.Embedding:
        """The source embeddings."""
        model = self.base_model
        return model.shared if hasattr(model, "shared") else model.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the source embeddings, and the target's where they are the same."""
        model = self.base_model
        model.encoder.embed_tokens = value
        if hasattr(model, "shared"):
            model.shared = model.decoder.embed_tokens = value

    def get_decoder_input_embeddings(self) -> nn.Embedding:
        """The target embeddings."""
        return self.base_model.decoder.embed_tokens

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As in every model; and ``tie_word_embeddings`` says which of the three matrices are one by now.

        An adapter that was merged, or a matrix that was replaced, may have untied what the config calls tied, and peft
        calls vocabularies untied that are each their own. What is loaded again is what was saved.
        """
        config, said = self.config, self.config.tie_word_embeddings
        is_tied, is_apart = self._ties()
        if not (is_tied if said else is_apart):
            state_dict = self._with_matrices(self.state_dict() if state_dict is None else state_dict, is_tied)
            config.tie_word_embeddings = is_tied
        try:
            super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)
        finally:
            config.tie_word_embeddings = said

    def _vocabulary_matrices(self) -> dict[str, nn.Parameter]:
        """By their names in a folder: source, target, output (of a model that has it)."""
        model, head = self.base_model, self.get_output_embeddings()
        prefix = "" if model is self else f"{self.base_model_prefix}."
        found = {f"{prefix}{side}.embed_tokens.weight": getattr(model, side).embed_tokens.weight for side in SIDES}
        return found if head is None else found | {"lm_head.weight": head.weight}

    def _ties(self) -> tuple[bool, bool]:
        """Whether all matrices are one that ``tie_word_embeddings`` would tie, and whether each is its own."""
        every = [id(weight) for weight in self._vocabulary_matrices().values()]
        could = every if self.config.share_encoder_decoder_embeddings else every[1:]
        return len(set(could)) == 1, len(set(every)) == len(every)

    def _with_matrices(self, state_dict: dict[str, torch.Tensor], is_tied: bool) -> dict[str, torch.Tensor]:
        """The tensors of a folder, with every matrix under the names that its ``tie_word_embeddings`` calls for."""
        source, target, *output = (matrices := self._vocabulary_matrices())
        shared = source.replace("encoder.embed_tokens", "shared")
        kept = [source, target] if is_tied else [source, target, *output]
        state = {name: tensor for name, tensor in state_dict.items() if name not in (shared, *matrices)}
        values = {name: state_dict.get(name, weight.detach()) for name, weight in matrices.items()}
        if is_tied and self.config.share_encoder_decoder_embeddings:
            return state | {shared: values[source]}
        return state | {name: values[name].clone() for name in kept}

    def _resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of=None, mean_resizing=True):
        def resized(embeddings: nn.Embedding) -> nn.Embedding:
            new = self._get_resized_embeddings(embeddings, new_num_tokens, pad_to_multiple_of, mean_resizing)
            return new.requires_grad_(embeddings.weight.requires_grad)

        self.set_input_embeddings(resized(self.get_input_embeddings()))
        if self.config.share_encoder_decoder_embeddings:  # one vocabulary for both sides, whether tied or not
            if not hasattr(self.base_model, "shared"):
                self.base_model.decoder.embed_tokens = resized(self.get_decoder_input_embeddings())
            self._resize_output(self.get_input_embeddings().weight.shape[0], mean_resizing)
        return self.get_input_embeddings()

    def resize_decoder_token_embeddings(self, new_num_tokens: int, mean_resizing: bool = True) -> nn.Embedding:
        """Resizes the target vocabulary of a model whose sides have one each.

        Raises:
            ValueError: The model has one vocabulary for both sides.
        """
        if self.config.share_encoder_decoder_embeddings:
            raise ValueError(
                "this model has one vocabulary for source and target (share_encoder_decoder_embeddings=True): "
                "call resize_token_embeddings."
            )
        decoder = self.base_model.decoder
        decoder.embed_tokens = self._get_resized_embeddings(
            decoder.embed_tokens, new_num_tokens, mean_resizing=mean_resizing
        )
        self._resize_output(new_num_tokens, mean_resizing)
        self.tie_weights()
        return decoder.embed_tokens

    def _resize_output(self, new_num_tokens: int, mean_resizing: bool) -> None:
        if self.get_output_embeddings() is not None:
            head = self._get_resized_lm_head(self.lm_head, new_num_tokens, mean_resizing=mean_resizing)
            self.set_output_embeddings(head.requires_grad_(self.lm_head.weight.requires_grad))
        self.config.decoder_vocab_size = new_num_tokens


class GivenLengthsMixin(Generating):
    """``generate`` by limits of length as they are given."""

    def _prepare_generation_config(self, generation_config: Any, **kwargs: Any) -> Any:
        """A limit that the caller gives goes before the model's own, also where the two are counted differently.

        `generate` itself prefers the ``max_new_tokens`` that is saved with a model to the ``max_length`` of a call.
        """
        # Its stub wants a self with attributes that no `nn.Module` declares.
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)  # type: ignore[misc]
        for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            for given in (kwargs, {} if generation_config is None else vars(generation_config)):
                if given.get(new) is not None:
                    break
                if given.get(total) is not None:
                    setattr(prepared, new, None)
                    break
        return prepared, model_kwargs


class Seq2SeqHeadMixin(Seq2SeqEmbeddingsMixin, GivenLengthsMixin, GenerationModel):
    """``forward`` of a ``…ForConditionalGeneration``: base model, output matrix, loss. The model is ``self.model``."""

    def get_output_embeddings(self) -> nn.Linear:
        """The output matrix."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replaces the output matrix."""
        self.lm_head = new_embeddings

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """(batch, target) → (batch, target): the labels, one step late."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        """Drafts by prompt lookup are target tokens; `generate` would size their vocabulary by the source's."""
        # Its stub wants a self with attributes that no `nn.Module` declares.
        generator: Any = super()._get_candidate_generator(*args, **kwargs)  # type: ignore[misc]
        if getattr(generator, "vocab_size", None) is not None:
            generator.vocab_size = self.config.decoder_vocab_size
        return generator

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: tuple[torch.Tensor] | BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        label_smoothing: float | None = None,
        loss_chunk_tokens: int | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """Scores of every next target token, and the loss where labels are given.

        Args:
            input_ids: (batch, source) ids of the source; or ``inputs_embeds`` (batch, source, width).
            attention_mask: (batch, source), 0 for padding, on either side, 1 (or any other number) for tokens. Without
                it nothing is padding.
            decoder_input_ids: (batch, target) ids fed to the decoder; default: ``labels``, one step late.
            decoder_attention_mask: (batch, past + target), 1 for tokens, 0 for padding.
            encoder_outputs: What the encoder returned, in place of the source.
            past_key_values: State of the decoder after the tokens before ``decoder_input_ids``.
            labels: (batch, target) ids to predict, -100 where nothing is to be learnt.
            use_cache: Return ``past_key_values``; default: the config's, and never with labels.
            num_items_in_batch: Tokens by which the summed loss is divided; default: the labels' own number.
            label_smoothing: Default: the config's.
            loss_chunk_tokens: With labels, compute the scores of so many target tokens at a time, and return none: the
                same loss in less memory.
            cache: ``past_key_values`` as transformers calls them from 5.24 on.

        Returns:
            `Seq2SeqLMOutput` with ``logits`` (batch, target, vocab).
        """
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=cache if past_key_values is None else past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        options: dict[str, Any] = {
            "num_items_in_batch": num_items_in_batch,
            "label_smoothing": self.config.label_smoothing if label_smoothing is None else label_smoothing,
        }
        states, loss, logits = outputs.last_hidden_state, None, None
        if labels is None or loss_chunk_tokens is None:
            logits = self.lm_head(states)  # (batch, target, vocab)
            if labels is not None:
                loss = self.loss_function(logits, labels, **options)
        else:
            loss = chunked_loss(self.lm_head, states, labels, loss_chunk_tokens, **options)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **memory_of(outputs),
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )
