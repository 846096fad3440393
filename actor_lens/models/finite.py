"""Numbers that are not numbers (NaN, infinity) are found where they arise, and end the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.progress import stage_name

if TYPE_CHECKING:
    from actor_lens.models.chat_model import ChatModel


class NotFiniteError(UserError):
    """What a model computes holds NaN or infinity: nothing can be concluded from it."""


def check_finite(model: ChatModel, values: Tensor, what: str) -> None:
    """Refuse values of a model that are not all finite numbers.

    Args:
        model: The model that they come from; only after a failure its weights are looked through.
        values: What it computed, before anything is masked on purpose.
        what: Name of the values, in the plural: ``"logits"``.

    Raises:
        NotFiniteError: If one is NaN or infinite. The message names the stage, the cause where it
            is known, and what to do.
    """
    # Of one NaN or infinity the sum is none, too; only where it is none, each value is looked at.
    total = values.sum(dtype=torch.float32) if values.dtype.itemsize < 4 else values.sum()
    if bool(torch.isfinite(total)) or bool(torch.isfinite(values).all()):
        return
    stage = stage_name()
    raise NotFiniteError(
        f"{what} of '{model.name}'{stage and f' ({stage})'} are not finite: {_cause(model)}"
    )


def not_finite_weights(model: ChatModel) -> list[str]:
    """Names of a model's tensors that hold NaN or infinity."""
    tensors = model.hf.state_dict().items()
    return [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


def _cause(model: ChatModel) -> str:
    names = not_finite_weights(model)
    if names:
        return (
            f"{len(names)} of its tensors hold NaN or infinity, the first is {names[0]}; copy or "
            "download the model again, or train again with a lower learning rate"
        )
    if model.hf.dtype == torch.float16:
        return "numbers overflow in float16; load the model with dtype bfloat16 or float32"
    return (
        "numbers overflow on the way through its layers; check its weights, load it with dtype "
        "float32, or use smaller changes"
    )
