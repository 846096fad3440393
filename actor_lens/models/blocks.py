"""One decoder block run apart from the network.

Everything below a trained block is frozen, so its input can be computed once and kept. This
module runs a block on such inputs with exactly the masks and positions that the model itself
would hand to it, and grafts a changed copy of a block into a model without touching the model.

Both rest on one device, a *graft*: shallow copies of the model and of the modules on the path to
its list of blocks, with some blocks replaced. All other modules and every tensor are shared, the
original is never altered, and so grafts may be used while other threads use the model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.reading import after_beginning

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

Tap = Callable[[Tensor], None]
"""Function that is called with a residual stream, ``[prompt, token, d_model]``."""


class _Reached(Exception):
    """Ends a forward pass once the block of interest was reached."""


class _PassThrough(nn.Module):
    """Stands in for a block whose result is not needed."""

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states


class _CallRecorder(nn.Module):
    """Stands in for a block: keeps what it was called with and ends the pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._signature = inspect.signature(block.forward)
        self.hidden_states: Tensor | None = None
        self.arguments: dict[str, Any] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.hidden_states, self.arguments = bound_arguments(self._signature, args, kwargs)
        raise _Reached


class _Tapped(nn.Module):
    """Stands in for a block: hands out what it receives and gives, and may end the pass."""

    def __init__(
        self, block: nn.Module, before: Tap | None, after: Tap | None, *, ends_pass: bool
    ) -> None:
        super().__init__()
        self.block = block
        self._before, self._after = before, after
        self._ends_pass = ends_pass

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._before is not None:
            self._before(hidden_states)
        if self._after is None and self._ends_pass:
            raise _Reached
        output = self.block(hidden_states, *args, **kwargs)
        if self._after is not None:
            self._after(stream_of(output))
        if self._ends_pass:
            raise _Reached
        return output


class _FromCache(nn.Module):
    """Runs a block on a cached input instead of what the blocks below hand up."""

    def __init__(self, block: nn.Module, hidden_states: Tensor) -> None:
        super().__init__()
        self.block = block
        self._cached = [hidden_states]  # in a list: not a buffer, never moved or saved

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.block(self._cached[0].to(hidden_states.dtype), *args, **kwargs)


class _KeyValueRecorder:
    """Stands in for the key-value cache: keeps keys and values with gradients, ends the pass."""

    def __init__(self) -> None:
        self.keys_values: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        self.keys_values = (keys, values)
        raise _Reached


class _KeyValueReplay:
    """Stands in for the key-value cache: hands out recorded keys and values of all positions."""

    def __init__(self, keys_values: tuple[Tensor, Tensor]) -> None:
        self._keys_values = keys_values

    def update(self, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        return self._keys_values


def graft(model: ChatModel, replacements: Mapping[int, nn.Module]) -> PreTrainedModel:
    """A Hugging Face model with some blocks replaced that shares all the rest with ``model.hf``.

    Args:
        model: The model, which stays as it is.
        replacements: Modules that take the places of blocks, by layer.
    """
    blocks = list(model.blocks)
    for layer, replacement in replacements.items():
        blocks[model.check_layer(layer)] = replacement
    base = _shallow(model.hf.base_model, model.blocks_name, nn.ModuleList(blocks))
    return _shallow(model.hf, model.hf.base_model_prefix, base)  # type: ignore[return-value]


def graft_from_cache(
    model: ChatModel, layer: int, hidden_states: Tensor, block: nn.Module | None = None
) -> PreTrainedModel:
    """A model that starts at ``layer`` from cached block inputs and runs to the logits.

    Call it with ``inputs_embeds=hidden_states`` and the mask and position ids of the batch.

    Args:
        model: The model, which stays as it is.
        layer: The first block that really runs.
        hidden_states: Input of that block, ``[prompt, token, d_model]``, padded on the left.
        block: Module in the place of the model's own block, for instance a trained copy.
    """
    start = _FromCache(model.blocks[layer] if block is None else block, hidden_states)
    below: dict[int, nn.Module] = {index: _PassThrough() for index in range(layer)}
    return graft(model, {**below, layer: start})


def tap_blocks(
    model: ChatModel,
    batch: TokenBatch,
    *,
    before: Mapping[int, Tap] | None = None,
    after: Mapping[int, Tap] | None = None,
    start: DynamicCache | None = None,
) -> None:
    """Hand out the residual stream around some blocks, in a pass that ends at the last of them.

    Args:
        model: The model, which stays as it is.
        batch: Prompts, padded on the left.
        before: Functions by layer that take what their block receives (``resid_pre``).
        after: Functions by layer that take what their block gives (``resid_post``).
        start: From ``read_beginning``: what the prompts begin with, which is then not handed out.
    """
    from actor_lens.models.key_cache import beginning_of_each

    before, after = before or {}, after or {}
    layers = {*before, *after}
    tapped: dict[int, nn.Module] = {
        layer: _Tapped(
            model.blocks[layer],
            before.get(layer),
            after.get(layer),
            ends_pass=layer == max(layers),
        )
        for layer in layers
    }
    with torch.no_grad():
        kept = {} if start is None else {"past_key_values": beginning_of_each(start)}
        ids, seen, positions = after_beginning(batch, start)
        _run_until_reached(
            graft(model, tapped).base_model,
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            use_cache=bool(kept),
            **kept,
        )


def block_arguments(
    model: ChatModel,
    layer: int,
    hidden_states: Float[Tensor, "prompt token d_model"],
    attention_mask: Int[Tensor, "prompt token"],
    position_ids: Int[Tensor, "prompt token"],
) -> dict[str, Any]:
    """Mask, rotary embeddings and the like that the model hands to block ``layer``.

    The model's own forward pass makes them, with stand-ins for its blocks: sliding windows,
    rotary tables per layer type and the rest come out right for every architecture.
    """
    recorder = _CallRecorder(model.blocks[layer])
    below: dict[int, nn.Module] = {index: _PassThrough() for index in range(layer)}
    skeleton = graft(model, {**below, layer: recorder})
    with torch.no_grad():
        _run_until_reached(
            skeleton.base_model,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
        )
    return recorder.arguments


def last_token_output(
    block: nn.Module,
    hidden_states: Float[Tensor, "prompt token d_model"],
    arguments: Mapping[str, Any],
) -> Float[Tensor, "prompt d_model"]:
    """A block's output at the last token, with gradients for the block's parameters.

    Keys and values are needed at every position, all else only at the last. So the block is run
    twice: first up to its keys and values, then as a whole on the last position with them. Both
    runs are the block's own code. Equal to ``block(hidden_states)[:, -1]`` up to rounding.

    Args:
        block: A decoder block that calls ``past_key_values.update`` as transformers' do.
        hidden_states: Its cached input, padded on the left.
        arguments: From ``block_arguments`` for the same batch.
    """
    recorder = _KeyValueRecorder()
    _run_until_reached(block, hidden_states, **{**arguments, "past_key_values": recorder})
    if recorder.keys_values is None:  # a block that ignores the cache has run in full
        raise NotImplementedError(f"{type(block).__name__} does not use past_key_values")
    last = arguments_at_last_position(arguments, n_tokens=hidden_states.shape[1])
    replay = _KeyValueReplay(recorder.keys_values)
    output = block(hidden_states[:, -1:], **{**last, "past_key_values": replay})
    return stream_of(output)[:, -1]


def stream_of(output: Any) -> Float[Tensor, "prompt token d_model"]:
    """The residual stream in what a block returns; some return more beside it."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def _run_until_reached(module: nn.Module, *args: Any, **kwargs: Any) -> None:
    try:
        module(*args, **kwargs)
    except _Reached:
        return


def bound_arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """What a block is called with: its ``hidden_states``, and all else by name.

    GPT-2 passes mask and cache by position.

    Args:
        signature: Signature of the block's ``forward``.
        args: Arguments by position.
        kwargs: Arguments by name.
    """
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return arguments.pop("hidden_states"), arguments


def arguments_at_last_position(arguments: Mapping[str, Any], n_tokens: int) -> dict[str, Any]:
    """Keep the query side of masks ``[.., query, key]`` and of positions at the last token.

    Args:
        arguments: Arguments of a block for whole prompts.
        n_tokens: Length of the prompts, padding included.
    """

    def last(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(last(name, part) for part in value)
        if not isinstance(value, Tensor):
            return value
        if value.ndim == 4:  # a mask: [prompt or 1, 1, query, key]
            return value[:, :, -1:, :]
        if name == "position_ids":  # [prompt, token]
            return value[..., -1:]
        if value.ndim == 3 and value.shape[1] == n_tokens:  # rotary cos and sin
            return value[:, -1:]
        return value

    return {name: last(name, value) for name, value in arguments.items()}


def _shallow(module: nn.Module, child: str, replacement: nn.Module) -> nn.Module:
    """A copy of a module with one child replaced; everything else is the same object."""
    shallow = copy.copy(module)
    shallow.__dict__["_modules"] = {**module._modules, child: replacement}
    if "_hf_hook" in vars(module):
        # accelerate, which spreads a model over devices, has tied forward to the original module.
        spread: Any = shallow
        spread._old_forward = MethodType(spread._old_forward.__func__, shallow)
        spread.forward = partial(spread.forward.func, shallow)
    return shallow
