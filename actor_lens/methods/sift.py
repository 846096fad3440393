"""SIFT: training on replies of the few weights whose first gradients are largest."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from actor_lens.errors import UserError
from actor_lens.methods.sft import FullSFT, changed_tensors
from actor_lens.methods.support.reply_training import Step, Trainee, reply_loss, train_step
from actor_lens.models.chat_model import ChatModel


@dataclass(frozen=True)
class SIFT(FullSFT):
    """``FullSFT`` of a share of the entries of every matrix inside the blocks, all else frozen.

    Of a matrix those ``floor(share * entries) + 1`` are trained whose gradient on the first batch
    has the largest absolute value. Steps are those of AdamW without decay on these entries alone.
    The authors keep moments for them only, which saves memory; here the others' are kept too, as 0,
    which trains the same weights.

    Chosen on validation prompts: as in ``FullSFT``.

    Attributes:
        share: Share of the entries that are trained.

    Source: Song et al. 2023 (arXiv 2312.11875), share 5 %; learning rates and epochs are ours.
    """

    name: str = "sift"
    share: float = 0.05

    def check(self, model: ChatModel) -> None:
        """As in ``ReplyMethod``; the share is checked too."""
        super().check(model)
        if not 0 < self.share < 1:
            raise UserError(f"share is {self.share}; give a number above 0 and below 1")

    def trainee(self, model: ChatModel, layer: None) -> Trainee:
        """The matrices of the blocks, in a float32 copy of the model."""
        del layer
        hf: nn.Module = copy.deepcopy(model.hf)
        hf.float()
        hf.requires_grad_(False)
        inside = tuple(model.block_prefix(layer) for layer in range(model.n_layers))
        matrices = {
            name: parameter
            for name, parameter in hf.named_parameters()
            if parameter.ndim == 2 and name.startswith(inside)
        }
        for matrix in matrices.values():
            matrix.requires_grad_(True)
        return SparseTrainee(
            parameters=list(matrices.values()),
            loss=partial(reply_loss, hf),
            state=lambda: changed_tensors(model, matrices),
            share=self.share,
        )

    def stepper(self, trainee: Trainee, lr: float) -> Step:
        """Steps on the entries that the first batch picks."""
        return sparse_adamw(trainee.parameters, lr, self.share)


@dataclass(frozen=True, eq=False)
class SparseTrainee(Trainee):
    """Parameters of which a share of the entries is trained.

    Attributes:
        share: Share of the entries of each.
    """

    share: float

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(_count(parameter, self.share) for parameter in self.parameters)


def sparse_adamw(parameters: Sequence[nn.Parameter], lr: float, share: float) -> Step:
    """Steps of AdamW on the entries with the largest gradients in the first of them."""
    optimizer = torch.optim.AdamW(list(parameters), lr=lr, weight_decay=0.0)
    masks: list[Tensor | None] = []  # None where no gradient comes, as of an expert not chosen

    def masked(gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        if not masks:
            masks.extend(None if one is None else largest_entries(one, share) for one in gradients)
        return [
            None if gradient is None or mask is None else gradient * mask
            for gradient, mask in zip(gradients, masks, strict=True)
        ]

    return partial(train_step, optimizer, parameters, edit=masked)


def largest_entries(gradient: Tensor, share: float) -> Tensor:
    """1 at the entries of largest absolute value, 0 elsewhere."""
    top = gradient.abs().flatten().topk(_count(gradient, share)).indices
    mask = torch.zeros_like(gradient).flatten()
    mask[top] = 1
    return mask.view_as(gradient)


def _count(tensor: Tensor, share: float) -> int:
    return math.floor(share * tensor.numel()) + 1
