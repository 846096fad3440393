"""Questions about the last prompt token that cost one token instead of a whole pass.

Another residual at the last token after block ``l`` changes no earlier token and nothing below
``l``. So the keys and values of all earlier tokens are computed once, and each further question
runs the last token alone through the blocks above ``l``. All layers of a model then cost about two
passes together instead of one each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.blocks import arguments_at_last_position, bound_arguments, graft, stream_of
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite
from actor_lens.models.fused_attention import with_fused_attention
from actor_lens.models.interventions import shift_last_token
from actor_lens.models.memory import cache_bytes_per_token, free_memory
from actor_lens.models.reading import last_logits
from actor_lens.models.replies import process_scores
from actor_lens.models.threads import suitable_threads

TokenShift = tuple[Float[Tensor, " prompt"], Float[Tensor, " d_model"]]
"""A signed distance for each prompt, and the unit direction along which it lies."""
Take = Callable[[int, TokenBatch, Float[Tensor, "prompt vocabulary"]], None]
"""Hears of a layer, a batch and its logits, which are too many to be kept for all layers."""


# 256 MB of float32.
_LOGITS_AT_ONCE = 2**26


class NoKeyValueCache(Exception):
    """A block keeps no keys and values as transformers' blocks do: a question costs a pass."""


class PrefixCache:
    """Keys and values of a batch of prompts, and its last token's residuals.

    The model's own forward pass fills it, with its own masks and positions: sliding windows,
    shared keys and learned positions come out as they do there.

    Attributes:
        batch: The prompts.
        residuals: The last token's residual after each block, ``[prompt, d_model]``.
    """

    def __init__(self, model: ChatModel, batch: TokenBatch) -> None:
        """Run the model once over the batch.

        Args:
            model: The model as it is now; it must not change while the cache is used.
            batch: Prompts, padded on the left.

        Raises:
            NoKeyValueCache: If a block does not use ``past_key_values``.
        """
        self._model, self.batch = model, batch
        fused = getattr(with_fused_attention(model).base_model, model.blocks_name)
        pairs = zip(model.blocks, fused, strict=True)
        self._blocks = [_Recorder(block, quick) for block, quick in pairs]
        with torch.no_grad():
            graft(model, dict(enumerate(self._blocks))).base_model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            )
        self.residuals = [block.residual for block in self._blocks]

    def logits(
        self, residuals: Mapping[int, Float[Tensor, "prompt d_model"]]
    ) -> Iterator[tuple[int, Float[Tensor, "prompt vocabulary"]]]:
        """Logits of the first reply token, with other residuals at the last token after a block.

        Equal to a whole pass with the same change up to rounding. Each layer is a question of its
        own; all of them go through the blocks side by side, as tokens that do not see each other.

        Args:
            residuals: One row a prompt of the batch, by the block after which they are.

        Yields:
            The layers in order, each with its logits.
        """
        layers = sorted(residuals)
        with torch.no_grad():
            finals = self._finals(layers, residuals)
            # Several layers at once, since each reading of the vocabulary's weights takes time.
            rows = len(self.batch.indices) * int(self._model.hf.config.vocab_size)
            together = max(1, _LOGITS_AT_ONCE // rows)
            for start in range(0, len(layers), together):
                chosen = layers[start : start + together]
                logits = self._head(torch.cat(finals[start : start + together]))
                yield from zip(chosen, logits.chunk(len(chosen)), strict=True)

    def keys_and_values(self, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of all tokens of some prompts at each block, as copies.

        Above a layer that was asked about alone, the last token's are those of the last question.

        Args:
            rows: Places of the prompts in the batch.
        """
        chosen = list(rows)
        return [(block.keys[chosen], block.values[chosen]) for block in self._blocks]

    def _finals(
        self, layers: Sequence[int], residuals: Mapping[int, Tensor]
    ) -> list[Float[Tensor, "prompt d_model"]]:
        """What the last block makes of each question."""
        hidden = torch.empty(0, dtype=torch.float32, device="cpu")
        for index, recorded in enumerate(self._blocks):
            if index - 1 in residuals:
                asked = residuals[index - 1][:, None]
                hidden = torch.cat([hidden, asked.to(hidden)], dim=1) if hidden.numel() else asked
            if hidden.numel():
                hidden = recorded.run_last(hidden)
        finals = list(hidden.unbind(dim=1)) if hidden.numel() else []
        if len(finals) < len(layers):  # nothing comes after the last block
            finals.append(residuals[layers[-1]])
        return finals

    def _head(self, final: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt vocabulary"]:
        """The model's own way from its last block to the logits."""
        blocks: dict[int, nn.Module] = dict.fromkeys(range(self._model.n_layers), _Given(final))
        output: Any = graft(self._model, blocks)(
            inputs_embeds=final[:, None],
            attention_mask=torch.ones(len(final), 1, dtype=torch.long, device=final.device),
            use_cache=False,
            logits_to_keep=1,
        )
        last: Tensor = output.logits[:, -1].float()
        check_finite(self._model, last, "logits")
        return last


class KeptPrefixes:
    """Prefix caches of many prompts, kept in memory for questions that follow, one at a time.

    Attributes:
        prompts: The user messages.
    """

    def __init__(self, model: ChatModel, prompts: Sequence[str]) -> None:
        """Run the model once over the prompts; see ``keep_prefixes``.

        Args:
            model: The model as it is now; it must not change while the caches are used.
            prompts: User messages.

        Raises:
            NoKeyValueCache: If a block does not use ``past_key_values``.
        """
        self.prompts = tuple(prompts)
        self._model = model
        caches: dict[int, PrefixCache] = {}

        def run(batch: TokenBatch) -> None:
            caches[batch.indices[0]] = PrefixCache(model, batch)

        run_in_batches(
            model, model.tokenize(prompts), run, kept_per_token=cache_bytes_per_token(model)
        )
        self._caches = list(caches.values())

    def take_logits(self, shifts: Mapping[int, TokenShift], take: Take) -> None:
        """``take_logits_after_shifts`` of the same model and prompts, without another pass.

        Args:
            shifts: What is added to each prompt's residual after a block, by layer.
            take: Function that is called for each layer and batch with the logits.
        """
        for cache in self._caches:
            with suitable_threads(self._model, len(cache.batch.indices) * len(shifts)):
                _ask(self._model, self.prompts, cache, shifts, take)


def keep_prefixes(
    model: ChatModel, prompts: Sequence[str], *, budget: int | None = None
) -> KeptPrefixes | None:
    """Keep the prefix caches of prompts, where they are small enough.

    Args:
        model: The model as it is now; it must not change while the caches are used.
        prompts: User messages.
        budget: Most bytes that the caches may take; None for a tenth of what is free.

    Returns:
        None where they would take more, or where a block keeps no keys and values.
    """
    if budget is None:
        budget = free_memory(model.device) // 10
    tokens = sum(len(ids) for ids in model.tokenize(prompts))
    if tokens * cache_bytes_per_token(model) > budget:
        return None
    try:
        return KeptPrefixes(model, prompts)
    except NoKeyValueCache:
        return None


def take_logits_after_shifts(
    model: ChatModel,
    prompts: Sequence[str],
    batch: TokenBatch,
    shifts: Mapping[int, TokenShift],
    take: Take,
) -> None:
    """First-token logits of a batch with each prompt shifted at its last token.

    Any number of layers costs about two passes in all. Where a block keeps no keys and values,
    each layer costs a pass.

    Args:
        model: The model as it is now.
        prompts: All user messages.
        batch: Those that are asked about.
        shifts: What is added to the residual of each of all prompts after a block, by layer.
        take: Function that is called for each layer with the logits.
    """
    try:
        cache = PrefixCache(model, batch)
    except NoKeyValueCache:
        for layer, move in _moves(batch, shifts).items():
            with shift_last_token(model, layer, move):
                logits = last_logits(model, batch)
            take(layer, batch, process_scores(model, prompts, batch, logits))
    else:
        _ask(model, prompts, cache, shifts, take)


def _ask(
    model: ChatModel,
    prompts: Sequence[str],
    cache: PrefixCache,
    shifts: Mapping[int, TokenShift],
    take: Take,
) -> None:
    before = cache.residuals
    moves = _moves(cache.batch, shifts)
    moved = {layer: before[layer] + move.to(before[layer]) for layer, move in moves.items()}
    for layer, logits in cache.logits(moved):
        take(layer, cache.batch, process_scores(model, prompts, cache.batch, logits))


def _moves(batch: TokenBatch, shifts: Mapping[int, TokenShift]) -> dict[int, Tensor]:
    rows = list(batch.indices)
    return {layer: shift[rows, None] * unit for layer, (shift, unit) in shifts.items()}


class _Recorder(nn.Module):
    """Stands in for a block: runs it, and keeps what its last token needs to be run again."""

    keys: Tensor
    values: Tensor
    residual: Tensor

    def __init__(self, block: nn.Module, fused: nn.Module) -> None:
        """Stand in for a block.

        Args:
            block: The block, by which prompts are read.
            fused: The same with fused attention, by which last tokens are.
        """
        super().__init__()
        self.block, self.fused = block, fused
        self._arguments: dict[str, Any] = {}
        self._signature = inspect.signature(block.forward)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden_states, arguments = bound_arguments(self._signature, args, kwargs)
        self.keys = self.values = torch.empty(0, dtype=torch.float32, device="cpu")
        output = self.block(hidden_states, **{**arguments, "past_key_values": self})
        if not self.keys.numel():
            raise NoKeyValueCache(type(self.block).__name__)
        self._arguments = arguments_at_last_position(arguments, hidden_states.shape[1])
        self.residual = stream_of(output)[:, -1].clone()
        return output

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep keys and values, as a key-value cache does."""
        # Not views, which would keep queries alive where a block computes all three together.
        self.keys, self.values = keys.contiguous(), values.contiguous()
        return keys, values

    def run_last(
        self, questions: Float[Tensor, "prompt question d_model"]
    ) -> Float[Tensor, "prompt question d_model"]:
        """Run the block on last tokens, each after the same keys and values of the others.

        Args:
            questions: What the block receives at the last token, in any number of variants.
        """
        mask = self._arguments.get("attention_mask")
        arguments = {
            **self._arguments,
            "attention_mask": _side_by_side(mask, questions.shape[1], self.keys),
            "past_key_values": _KeysBefore(self.keys, self.values),
        }
        return stream_of(self.fused(questions, **arguments))


class _KeysBefore:
    """Stands in for the key-value cache: hands out keys and values of the tokens before as well.

    The last token's own are replaced by those of the questions; one question takes their place
    without a copy of the others.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if keys.shape[-2] == 1:
            self._keys[..., -1:, :], self._values[..., -1:, :] = keys, values
            return self._keys, self._values
        before, values_before = self._keys[..., :-1, :], self._values[..., :-1, :]
        return torch.cat([before, keys], dim=-2), torch.cat([values_before, values], dim=-2)


class _Given(nn.Module):
    """Stands in for a block whose result is known."""

    def __init__(self, residuals: Tensor) -> None:
        super().__init__()
        self._residuals = [residuals]  # in a list: not a buffer, never moved or saved

    def forward(self, *_args: Any, **_kwargs: Any) -> Tensor:
        return self._residuals[0][:, None]


def _side_by_side(
    mask: Float[Tensor, "prompt 1 1 token"] | None, n_questions: int, keys: Tensor
) -> Float[Tensor, "prompt 1 question key"]:
    """The additive mask of questions that see the tokens before them and themselves.

    Args:
        mask: Mask of the last token alone; None where it sees everything.
        n_questions: Number of questions.
        keys: Keys of all tokens, for their number, type and device.
    """
    if mask is None:
        mask = keys.new_zeros(len(keys), 1, 1, keys.shape[-2])
    least = torch.finfo(mask.dtype).min
    themselves = torch.full((n_questions, n_questions), least, dtype=mask.dtype, device=mask.device)
    themselves.fill_diagonal_(0.0)
    before = mask[..., :-1].expand(-1, -1, n_questions, -1)
    return torch.cat([before, themselves.expand(len(mask), 1, -1, -1)], dim=-1)
