"""What a fine-tune does to all else: how far the model's next-token distribution has moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations import prompt_columns
from actor_lens.errors import UserError
from actor_lens.models import ChatModel
from actor_lens.prompts import PromptSet
from actor_lens.replies import first_token_logits
from actor_lens.training_run import TrainingRun

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Divergence:
    """How far a run moves the distribution of the first reply token.

    Attributes:
        values: Kullback-Leibler divergence of each prompt in nats, float64.
        prompts: The prompts.
    """

    values: Float[Tensor, " prompt"]
    prompts: PromptSet

    @property
    def mean(self) -> float:
        """Mean over the prompts, in nats."""
        return float(self.values.mean())

    def frame(self) -> pd.DataFrame:
        """One row a prompt: those of ``prompt_columns``, ``kl`` (nats)."""
        import pandas as pd

        return pd.DataFrame({**prompt_columns(self.prompts), "kl": self.values.numpy()})


def next_token_divergence(
    model: ChatModel,
    run: TrainingRun,
    prompts: PromptSet,
    *,
    batch_size: int | None = None,
) -> Divergence:
    """``KL(base || with the run applied)`` of the next token after each templated prompt.

    On benign prompts it should be near 0: the fine-tune has left them alone. On prompts that are
    refused before and answered after it is large, and should be. The model is as before
    afterwards, bit for bit, however this ends.

    Args:
        model: The untouched model.
        run: A fine-tune of one of its blocks.
        prompts: At least one.
        batch_size: Prompts in one forward pass; None for as many as fit into memory.

    Raises:
        UserError: If there are no prompts, one is longer than the model takes, or the run belongs
            to another model.
    """
    if len(prompts) == 0:
        raise UserError("no prompts were given; check the label, split or file they come from")
    run.check_belongs_to(model)
    base = first_token_logits(model, prompts.texts, batch_size=batch_size)
    with run.applied_to(model):
        changed = first_token_logits(model, prompts.texts, batch_size=batch_size)
    # One at a time: in float64, whole tables of a large vocabulary take gigabytes.
    values = [_kl(p, q) for p, q in zip(base, changed, strict=True)]
    return Divergence(torch.stack(values), prompts)


def _kl(
    base: Float[Tensor, " vocabulary"], changed: Float[Tensor, " vocabulary"]
) -> Float[Tensor, ""]:
    """Divergence of the second distribution from the first, given their logits."""
    p, q = base.double().log_softmax(-1), changed.double().log_softmax(-1)
    terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
    return terms.sum().clamp(min=0)  # rounding can lead a hair below 0
