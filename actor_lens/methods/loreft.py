"""Low-rank representation fine-tuning (LoReFT): a trained edit of one layer's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actor_lens.errors import check_whole
from actor_lens.methods.support.reply_method import ReplyMethod
from actor_lens.methods.support.reply_training import ReplyBatch, Trainee, reply_loss
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import edit_each_block


@dataclass(frozen=True)
class LoReFT(ReplyMethod):
    """An edit of the residual after one block, at the last prompt token, trained on replies.

    ``h <- h + R^T (W h + b - R h)``: ``h`` ``[d_model]``, ``R`` ``[rank, d_model]`` with
    orthonormal rows, ``W`` ``[rank, d_model]``, ``b`` ``[rank]``. The part of ``h`` in the row
    space of ``R`` is replaced by ``W h + b``. At the start ``W = R`` and ``b = 0``: no edit. The
    edit depends on ``h``, so it cannot be merged into the weights. Tokens of the reply are not
    edited. The loss is that of ``FullSFT``.

    Chosen on validation prompts: learning rate, number of epochs and, unless it is named, the
    layer. Fixed: the rank, and what ``FullSFT`` fixes.

    Attributes:
        rank: Number of rows of ``R``.
        layer: Block after which to edit; None for the one that ``target_layer`` chooses.

    Source: Wu et al. 2024 (arXiv 2404.03592). The start, rank and settings are ours.
    """

    name: str = "loreft"
    lrs: tuple[float, ...] = (3e-3, 1e-2)
    epochs: int = 5
    rank: int = 4
    layer: int | None = None

    def check(self, model: ChatModel) -> None:
        """As for every method that trains on replies, and that the rank fits ``d_model``."""
        check_whole("rank", self.rank, 1, model.d_model)
        super().check(model)

    def trainee(self, model: ChatModel, layer: int) -> Trainee:
        """An edit of one layer's output."""
        return edit_trainee(model, layer, rank=self.rank, seed=self.seed)

    def change(
        self, model: ChatModel, layer: int, state: Mapping[str, Tensor]
    ) -> AbstractContextManager[None]:
        """The context in which the last prompt token is edited after the block."""
        return edited_last_token(model, layer, partial(edited, **state))


class Edit(nn.Module):
    """The trained form of the edit: ``R`` is kept orthonormal by a parametrisation."""

    def __init__(self, d_model: int, rank: int) -> None:
        """Random ``R``; ``W = R`` and ``b = 0``."""
        super().__init__()
        self.projection = nn.Linear(d_model, rank, bias=False, dtype=torch.float32, device="cpu")
        nn.init.orthogonal_(self.projection.weight)
        # Other maps would take the exponential or inverse of d_model x d_model at every step.
        nn.utils.parametrizations.orthogonal(self.projection, orthogonal_map="householder")
        self.weight = nn.Parameter(self.projection.weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(rank, dtype=torch.float32, device="cpu"))

    def forward(self, residual: Tensor) -> Tensor:
        """The edit of each row."""
        rotation = self.projection.weight
        return edited(residual, rotation=rotation, weight=self.weight, bias=self.bias)

    def state(self) -> dict[str, Tensor]:
        """``R``, ``W`` and ``b`` as they are now, on the CPU."""
        named = {"rotation": self.projection.weight, "weight": self.weight, "bias": self.bias}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}


def edited(
    residual: Float[Tensor, "prompt d_model"],
    *,
    rotation: Float[Tensor, "rank d_model"],
    weight: Float[Tensor, "rank d_model"],
    bias: Float[Tensor, " rank"],
) -> Float[Tensor, "prompt d_model"]:
    """``h + R^T (W h + b - R h)`` of each row, in float32, in the dtype of ``h``."""
    h = residual.float()
    rotation, weight, bias = (x.to(h.device) for x in (rotation, weight, bias))
    moved = h @ (weight - rotation).T + bias
    return (h + moved @ rotation).to(residual.dtype)


@contextmanager
def edited_last_token(
    model: ChatModel,
    layer: int,
    edit: Callable[[Float[Tensor, "prompt d_model"]], Float[Tensor, "prompt d_model"]],
    columns: Int[Tensor, " prompt"] | None = None,
) -> Iterator[None]:
    """Edit the residual after a block at the last prompt token, in every forward pass inside.

    Args:
        model: The model whose ``hf`` is run inside the context.
        layer: Block after which to edit.
        edit: Function of the residuals ``[prompt, d_model]`` that gives new ones.
        columns: Column of each row's last prompt token; None for the last column, and for no edit
            in passes over one token, which is a generated one.
    """

    def edit_rows(_layer: int, residual: Tensor) -> Tensor:
        if columns is None and residual.shape[1] == 1:
            return residual
        rows = torch.arange(len(residual), device=residual.device)
        at = residual.shape[1] - 1 if columns is None else columns.to(residual.device)
        result = residual.clone()
        result[rows, at] = edit(residual[rows, at])
        return result

    with edit_each_block(model, [model.check_layer(layer)], edit_rows):
        yield


def edit_trainee(model: ChatModel, layer: int, *, rank: int, seed: int) -> Trainee:
    """A random edit that changes nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        edit = Edit(model.d_model, rank)
    edit.to(model.device)

    def loss(batch: ReplyBatch) -> Tensor:
        width = batch.input_ids.shape[1]
        columns = torch.tensor([width - 1 - length for length in batch.reply_lengths], device="cpu")
        with edited_last_token(model, layer, edit, columns):
            return reply_loss(model.hf, batch)

    return Trainee(list(edit.parameters()), loss, edit.state)
