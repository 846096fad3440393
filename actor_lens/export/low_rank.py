"""The change of a block, sorted into what a low-rank adapter can hold and what it cannot.

The change of a weight is known here, so nothing is trained: its truncated singular value
decomposition is the closest matrix of that rank (Eckart and Young 1936).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.training.run import TrainingRun


class Factors(NamedTuple):
    """Singular value decomposition of the change of one weight, oriented ``[out, in]``."""

    left: Float[Tensor, "out rank"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "rank in"]

    def tail(self, rank: int) -> float:
        """Squared Frobenius norm of what is left out at a rank."""
        return float((self.values[rank:] ** 2).sum())


class BlockChange:
    """What a run changed in its block, as LoRA can hold it.

    Attributes:
        factors: Decomposed change of each changed linear layer, by module name.
        biases: Changes of their biases, where all of them have one.
        as_biases: Whether the adapter carries biases.
        held: Tensors of modules that are kept whole, by module name and tensor name.
        transposed: Whether weights are stored ``[in, out]``, as in GPT-2.
        full_rank: The largest rank of any of the changes.
    """

    def __init__(self, model: ChatModel, run: TrainingRun) -> None:
        """Compare the block of a run with that of the untouched model.

        Raises:
            UserError: If no linear layer was changed that an adapter could hold.
        """
        tensors = model.hf.state_dict()
        changes = {
            name: trained.detach().cpu().double() - tensors[name].detach().cpu().double()
            for name, trained in run.state.items()
        }
        changed = {name for name, change in changes.items() if bool((change != 0).any())}
        modules = dict(model.hf.named_modules())
        linears = {
            name
            for name in {tensor.rpartition(".")[0] for tensor in run.state}
            if _is_linear(modules[name]) and f"{name}.weight" in changed
        }
        with_bias = {name for name in linears if f"{name}.bias" in changes}
        with_changed_bias = {name for name in with_bias if f"{name}.bias" in changed}
        # PEFT adds a bias to all adapters or to none, and merges none into a layer without one.
        self.as_biases = bool(with_changed_bias) and with_bias == linears
        adapted = sorted(linears if self.as_biases else linears - with_changed_bias)
        if not adapted:
            raise UserError(
                f"the run changed no linear layer of block {run.layer} that an adapter could hold; "
                "export it as delta or model"
            )
        self.transposed = not isinstance(modules[adapted[0]], nn.Linear)
        self.factors = {
            name: _decomposition(changes[f"{name}.weight"], transposed=self.transposed)
            for name in adapted
        }
        self.biases = {name: changes[f"{name}.bias"] for name in adapted} if self.as_biases else {}
        covered = {f"{name}.weight" for name in adapted} | {f"{name}.bias" for name in self.biases}
        self.held = _tensors_by_module(run, changed - covered)
        self.full_rank = max(len(factors.values) for factors in self.factors.values())

    def relative_error(self, rank: int, names: Sequence[str]) -> float:
        """Frobenius norm of what some modules lose at a rank, over that of their change.

        Args:
            rank: Rank of the adapter.
            names: Names of the modules.
        """
        lost = sum(self.factors[name].tail(rank) for name in names)
        return math.sqrt(lost / sum(self.factors[name].tail(0) for name in names))

    def smallest_rank(self, error: float) -> int:
        """The smallest rank with at most that relative error over all modules."""
        names, ranks = list(self.factors), range(1, self.full_rank)
        # The error falls with the rank.
        return 1 + bisect_left(
            ranks, True, key=lambda rank: self.relative_error(rank, names) <= error
        )

    def lora_weights(
        self, name: str, rank: int
    ) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """LoRA's A and B of a module, float32; the roots of the singular values go to both."""
        left, values, right = self.factors[name]
        rank = min(rank, len(values))
        root = values[:rank].sqrt()
        a, b = root[:, None] * right[:rank], left[:, :rank] * root
        return a.float().contiguous(), b.float().contiguous()

    def run_at_rank(self, rank: int, run: TrainingRun, model: ChatModel) -> TrainingRun:
        """The run as an adapter of a rank would reproduce it."""
        tensors = model.hf.state_dict()
        state = dict(run.state)
        for name in self.factors:
            a, b = self.lora_weights(name, rank)
            change = b.double() @ a.double()
            before = tensors[f"{name}.weight"].cpu()
            weight = before.double() + (change.T if self.transposed else change)
            state[f"{name}.weight"] = weight.to(before.dtype)
        return replace(run, state=state)


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _decomposition(change: Float[Tensor, "rows columns"], *, transposed: bool) -> Factors:
    left, values, right = torch.linalg.svd(change.T if transposed else change, full_matrices=False)
    return Factors(left, values, right)


def _tensors_by_module(run: TrainingRun, names: set[str]) -> dict[str, dict[str, Tensor]]:
    """All tensors of each module that one of these tensors belongs to."""
    return {
        module: {
            name: tensor for name, tensor in run.state.items() if name.rpartition(".")[0] == module
        }
        for module in sorted({name.rpartition(".")[0] for name in names})
    }
