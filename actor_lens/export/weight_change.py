"""What a run changed: the trained block against the untouched one."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.training.run import TrainingRun


def difference(before: Tensor, trained: Tensor) -> Float[Tensor, ...]:
    """Trained minus untouched values, float64 on the CPU."""
    return trained.detach().cpu().double() - before.detach().cpu().double()


def check_float_block(model: ChatModel, run: TrainingRun) -> None:
    """Check that the block which a run replaces holds ordinary numbers, before it is exported.

    Raises:
        UserError: If the run belongs to another model, or the block is quantised: what would be
            written fits no other copy of the model.
    """
    tensors = model.hf.state_dict()
    prefix = model.block_prefix(run.layer)
    for name, tensor in tensors.items():
        if name.startswith(prefix) and not tensor.is_floating_point():
            raise UserError(
                f"layer {run.layer} of '{model.name}' is quantised ({name} holds {tensor.dtype}) "
                "and cannot be exported; load the model without quantization"
            )
    run.check_belongs_to(model)
