"""Changes of the residual stream while a model runs, without training, as context managers.

They hook the blocks of the clean Hugging Face model, so that forward passes and generation both
feel them, and are gone after the ``with`` statement, however it is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel

Edit = Callable[[Float[Tensor, "prompt token d_model"]], Float[Tensor, "prompt token d_model"]]
LayerEdit = Callable[
    [int, Float[Tensor, "prompt token d_model"]], Float[Tensor, "prompt token d_model"]
]


@contextmanager
def shift_last_token(
    model: ChatModel, layer: int, shifts: Float[Tensor, "prompt d_model"]
) -> Iterator[None]:
    """Add a vector to each prompt's residual at the last token, after one block.

    With the shifts of ``Targets``, the layer does what a perfect fine-tune would make it do.
    Tokens that are generated later are left alone, as ACTOR trains on the last prompt token only.

    Args:
        model: The model whose ``hf`` is run inside the context.
        layer: Block after which it is added.
        shifts: One row a prompt of the batch that will be run, in the same order.
    """

    def edit(residual: Tensor) -> Tensor:
        if residual.shape[1] == 1:  # a generated token, fed back with the key-value cache
            return residual
        edited = residual.clone()
        edited[:, -1] += shifts.to(device=residual.device, dtype=residual.dtype)
        return edited

    with edit_blocks(model, [model.check_layer(layer)], edit):
        yield


@contextmanager
def add_direction(
    model: ChatModel, layer: int, vector: Float[Tensor, " d_model"]
) -> Iterator[None]:
    """Add one vector after a block, at every token (activation addition).

    Args:
        model: The model whose ``hf`` is run inside the context.
        layer: Block after which it is added.
        vector: Along the refusal direction it makes refusals more likely, against it less.
    """
    with edit_blocks(
        model,
        [model.check_layer(layer)],
        lambda residual: residual + vector.to(device=residual.device, dtype=residual.dtype),
    ):
        yield


@contextmanager
def ablate_everywhere(model: ChatModel, direction: Float[Tensor, " d_model"]) -> Iterator[None]:
    """Keep a direction out of the residual stream altogether: ``h <- h - u u.h`` with unit ``u``.

    Done to what every block receives and to what its attention and its MLP add to the stream, at
    every layer and token. So no part of the model can read the direction or write it.

    Args:
        model: The model whose ``hf`` is run inside the context.
        direction: Direction of any length but zero.

    Raises:
        UserError: If the direction has no length or is not finite, or a block is built in a way
            that hides what it adds to the stream.

    Source: Arditi et al. 2024 (arXiv 2406.11717), directional ablation.
    """
    edit = _ablation(direction)
    writers = [part for block in model.blocks for part in residual_writers(block)]
    with ExitStack() as stack, torch.no_grad():
        for block in model.blocks:
            hook = _input_hook(block, edit)
            handle = block.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        for writer in writers:
            stack.callback(writer.register_forward_hook(_edit_hook(writer, edit)).remove)
        yield


def residual_writers(block: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two modules of a block whose outputs are added to the residual stream.

    They are the attention and the MLP, or the norms after them where there are such (Gemma 2
    and 3).

    Raises:
        UserError: If the block has no two modules of the names that transformers gives them.
    """
    parts = dict(block.named_children())
    attention = parts.get("self_attn", parts.get("attn"))
    mlp = parts.get("mlp")
    if "post_feedforward_layernorm" in parts:
        attention = parts.get("post_attention_layernorm")
        mlp = parts["post_feedforward_layernorm"]
    if attention is None or mlp is None:
        raise UserError(
            f"{type(block).__name__} has no attention and MLP of a known name "
            f"({', '.join(parts)}): what it adds to the residual stream cannot be edited; "
            "use another model"
        )
    return attention, mlp


def _ablation(direction: Float[Tensor, " d_model"]) -> Edit:
    """Takes out the part along a direction.

    Raises:
        UserError: If the direction has no length or is not finite.
    """
    norm = float(direction.double().norm())
    if not 0 < norm < math.inf:
        raise UserError(f"direction has length {norm}; give a finite one that is not zero")

    def edit(residual: Tensor) -> Tensor:
        unit = (direction / norm).to(device=residual.device, dtype=residual.dtype)
        ablated: Tensor = residual - (residual @ unit)[..., None] * unit
        return ablated

    return edit


@contextmanager
def edit_each_block(model: ChatModel, layers: Iterable[int], edit: LayerEdit) -> Iterator[None]:
    """Put an edit of the residual stream after some blocks that depends on the layer.

    Gradients are left as they are: an edit may be trained.

    Args:
        model: The model whose ``hf`` is run inside the context.
        layers: Blocks after which the edit is made; they exist.
        edit: Function of the layer and of what its block hands on; see ``edit_blocks``.
    """
    with ExitStack() as stack:
        for layer in layers:
            block = model.blocks[layer]
            hook = _edit_hook(block, partial(edit, layer))
            stack.callback(block.register_forward_hook(hook).remove)
        yield


@contextmanager
def edit_blocks(model: ChatModel, layers: Iterable[int], edit: Edit) -> Iterator[None]:
    """Put an edit of the residual stream after some blocks.

    Args:
        model: The model whose ``hf`` is run inside the context.
        layers: Blocks after which the edit is made; they exist.
        edit: Function of what a block hands on ``[prompt, token, d_model]``, which is not to be
            written to; what it returns is handed on instead. A pass over one token is a
            generated token, fed back with the key-value cache.
    """
    with torch.no_grad(), edit_each_block(model, layers, lambda _layer, residual: edit(residual)):
        yield


def _input_hook(block: nn.Module, edit: Edit) -> Callable[..., Any]:
    def hook(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if called is not block:
            return None
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    return hook


def _edit_hook(block: nn.Module, edit: Edit) -> Callable[[nn.Module, object, object], object]:
    def hook(called: nn.Module, _inputs: object, output: object) -> object:
        if called is not block:  # a copy made meanwhile (twin, block in training) keeps its hooks
            return output
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        assert isinstance(output, Tensor)
        return edit(output)

    return hook
