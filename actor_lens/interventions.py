"""Changes of the residual stream while a model runs, without training, as context managers.

They hook the blocks of the clean Hugging Face model, so that forward passes and generation both
feel them, and are gone after the ``with`` statement, however it is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.errors import UserError
from actor_lens.models import ChatModel

Edit = Callable[[Float[Tensor, "prompt token d_model"]], Float[Tensor, "prompt token d_model"]]


@contextmanager
def shift_last_token(
    model: ChatModel, layer: int, shifts: Float[Tensor, "prompt d_model"]
) -> Iterator[None]:
    """Add a vector to each prompt's residual at the last token, after one block.

    With the shifts of ``Targets``, the layer does what a perfect fine-tune would make it do.
    Tokens that are generated later are left alone, as ACTOR trains on the last prompt token only.

    Args:
        model: The model whose ``hf`` is run inside the context.
        layer: After which block.
        shifts: One row a prompt of the batch that will be run, in the same order.
    """

    def edit(residual: Tensor) -> Tensor:
        if residual.shape[1] == 1:  # a generated token, fed back with the key-value cache
            return residual
        edited = residual.clone()
        edited[:, -1] += shifts.to(device=residual.device, dtype=residual.dtype)
        return edited

    with _edit_blocks(model, [model.check_layer(layer)], edit):
        yield


@contextmanager
def add_direction(
    model: ChatModel, layer: int, vector: Float[Tensor, " d_model"]
) -> Iterator[None]:
    """Add one vector after a block, at every token (activation addition).

    Args:
        model: The model whose ``hf`` is run inside the context.
        layer: After which block.
        vector: Along the refusal direction it makes refusals more likely, against it less.
    """
    with _edit_blocks(
        model,
        [model.check_layer(layer)],
        lambda residual: residual + vector.to(device=residual.device, dtype=residual.dtype),
    ):
        yield


@contextmanager
def ablate_direction(
    model: ChatModel,
    direction: Float[Tensor, " d_model"],
    layers: Iterable[int] | None = None,
) -> Iterator[None]:
    """Remove the part of the residual stream along a direction, after blocks, at every token.

    Args:
        model: The model whose ``hf`` is run inside the context.
        direction: Of any length but zero.
        layers: After which blocks; all of them unless given.

    Raises:
        UserError: If the direction has no length or is not finite.

    Source: Arditi et al. 2024 (arXiv 2406.11717), here at block outputs only.
    """
    norm = float(direction.double().norm())
    if not 0 < norm < math.inf:
        raise UserError(f"direction has length {norm}; give a finite one that is not zero")

    def edit(residual: Tensor) -> Tensor:
        unit = (direction / norm).to(device=residual.device, dtype=residual.dtype)
        ablated: Tensor = residual - (residual @ unit)[..., None] * unit
        return ablated

    chosen = range(model.n_layers) if layers is None else [model.check_layer(x) for x in layers]
    with _edit_blocks(model, chosen, edit):
        yield


@contextmanager
def _edit_blocks(model: ChatModel, layers: Iterable[int], edit: Edit) -> Iterator[None]:
    with ExitStack() as stack, torch.no_grad():
        for layer in layers:
            block = model.blocks[layer]
            stack.callback(block.register_forward_hook(_edit_hook(block, edit)).remove)
        yield


def _edit_hook(block: nn.Module, edit: Edit) -> Callable[[nn.Module, object, object], object]:
    def hook(called: nn.Module, _inputs: object, output: object) -> object:
        if called is not block:  # a copy made meanwhile (twin, block in training) keeps its hooks
            return output
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        assert isinstance(output, Tensor)
        return edit(output)

    return hook
