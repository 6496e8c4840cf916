"""The state of a recurrent decoder as transformers' `generate` wants it: a layer of a `Cache`."""

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from .modeling_seq2seq import CACHE


class RecurrentStateLayer(CacheLayerMixin):
    """The decoder's state as a layer of a transformers `Cache`: a few vectors a sentence, however long it gets.

    ``tensors`` is what changes from step to step and ``keys`` the attention's keys, which do not; both have the batch
    first. While ``record_past`` is set, earlier states are kept, so that assisted decoding can take back tokens.
    """

    is_croppable = True
    supports_early_init = False

    def __init__(self):
        super().__init__()
        self.tensors: tuple[torch.Tensor | None, ...] = ()
        self.num_steps = 0
        self.record_past = False
        self.past: list[tuple[torch.Tensor | None, ...]] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to prepare: the first update brings the shapes."""

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The form that every layer has, of `store`: in the places of keys and values, the state and the keys."""
        return self.store(key_states, value_states, *args, **kwargs)

    def store(
        self, tensors: tuple[torch.Tensor | None, ...], keys: torch.Tensor | None, num_steps: int = 1
    ) -> tuple[tuple[torch.Tensor | None, ...], torch.Tensor | None]:
        """Takes the state after ``num_steps`` more tokens."""
        if self.record_past:
            assert num_steps == 1, "a recorded state advances token by token"
            self.past.append(self.tensors)  # before the first token: ()
        self.tensors, self.keys = tensors, keys
        self.num_steps += num_steps
        self.is_initialized = True
        return tensors, keys

    def get_seq_length(self) -> int:
        """Tokens read so far."""
        return self.num_steps

    def get_max_length(self) -> int:
        """There is none."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As for a cache that holds every token."""
        return self.num_steps + query_length, 0

    def activate_past_recording(self) -> None:
        """From now on keep earlier states."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back ``-tokens_to_remove`` tokens, and forgets the states before them."""
        steps = abs(tokens_to_remove)
        if steps > len(self.past):
            raise ValueError(
                f"cannot take back {steps} tokens: {len(self.past)} earlier states were recorded. "
                "Call activate_past_recording before the tokens that may be taken back."
            )
        if steps:
            self.tensors = self.past[-steps]
            self.num_steps -= steps
            self.is_initialized = bool(self.tensors)
        self.past = []

    def reset(self) -> None:
        """Forgets everything."""
        self.tensors, self.keys, self.num_steps, self.past, self.is_initialized = (), None, 0, [], False

    def _select(self, choose) -> None:
        """Of everything that has a row for each sentence."""

        def chosen(tensors):
            return tuple(None if tensor is None else choose(tensor) for tensor in tensors)

        self.tensors, self.past = chosen(self.tensors), [chosen(tensors) for tensors in self.past]
        (self.keys,) = chosen([self.keys])

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Every row takes the state, and the keys of the sentence, of the one it continues."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every sentence."""
        self._select(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some rows, in this order."""
        self._select(lambda tensor: tensor[indices.to(tensor.device)])

    def offload(self) -> None:
        """A few vectors are not worth moving."""

    def prefetch(self) -> None:
        """They are where they were."""


def state_layer(cache: Cache | None) -> RecurrentStateLayer | None:
    """Where a cache holds the state; None where there is no cache.

    Raises:
        ValueError: The cache is of another kind.
    """
    if cache is None:
        return None
    layer = next(iter(getattr(cache, "layers", ())), None)
    if not isinstance(layer, RecurrentStateLayer):
        raise ValueError(
            f"past_key_values is a {type(cache).__name__} that holds no recurrent state: pass what this model returned "
            "as past_key_values, or nothing."
        )
    return layer


def keep_where(chosen: torch.Tensor, new: tuple, old: tuple) -> tuple:
    """Row by row (batch,): the new tensors where chosen, else the old; None stays None."""
    return tuple(
        None if b is None else torch.where(chosen.view(-1, *[1] * (b.dim() - 1)), a, b)
        for a, b in zip(new, old, strict=True)
    )


def counted_tokens(attention_mask: torch.Tensor | None, target_length: int, is_kept: bool) -> torch.Tensor | None:
    """(batch, target), False at padding; None where there is none that a recurrent decoder could notice.

    Args:
        attention_mask: (batch, past + target), the decoder's.
        is_kept: The state after the last step will be used: then padding behind the tokens counts too.
    """
    if attention_mask is None:
        return None
    is_token = attention_mask[:, -target_length:].bool()
    harmless = torch.ones_like(is_token) if is_kept else is_token.int().cummin(-1).values.bool()
    return None if torch.equal(is_token, harmless) else is_token


def check_sizes(found: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    """Refuses a state of another model's, by its layers, the tensors of each, and their width.

    Raises:
        ValueError: They differ.
    """
    if found != expected:
        held, wanted = ("{} layers of {} × {}".format(*sizes) for sizes in (found, expected))
        raise ValueError(
            f"past_key_values holds the state of another model, {held} numbers, and this one has {wanted}: pass what "
            "this model returned as past_key_values, or nothing."
        )


class RecurrentGenerationMixin:
    """`generate` of a model whose decoder carries a state, before `GenerationMixin`."""

    def new_cache(self) -> Cache:
        """What the decoder keeps, before the first token."""
        raise NotImplementedError

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args: Any, **kwargs: Any) -> Any:
        """`generate` would make a cache of keys and values; a recurrent decoder's memory is its state."""
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r} is for keys and values that grow; a "
                "recurrent decoder keeps one state of constant size: leave cache_implementation out."
            )
        if generation_config.use_cache and model_kwargs.get(CACHE) is None:
            model_kwargs[CACHE] = self.new_cache()
            if generation_config.is_assistant:
                model_kwargs[CACHE].activate_past_recording()
