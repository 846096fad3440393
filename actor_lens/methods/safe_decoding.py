"""SafeDecoding: the first tokens of a reply are drawn toward a model that was taught to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.judges.base import Judge
from actor_lens.methods.lora_sft import lora_trainee
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_data import reply_data
from actor_lens.methods.support.reply_training import reply_trials
from actor_lens.methods.support.second_pass import with_second_reading
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.module_trees import twin
from actor_lens.prompts.sets import PromptSet


@dataclass(frozen=True)
class SafeDecoding:
    """A LoRA expert, trained on the model's own refusals, weighs in on the first tokens.

    ``P = P_base + alpha (P_expert - P_base)`` over the tokens that are common to the two lists of
    likeliest tokens, each of the shortest length ``k`` at which at least ``common`` are common;
    probabilities are ``[prompt, vocabulary]``. What comes out negative is raised to 1e-8, what is
    not common gets 0, and ``P`` is normalised. After ``first_tokens`` tokens the base model goes on
    alone. Replies are greedy. A method against jailbreaks: it makes refusals likelier, never rarer,
    and stands in the table to show what that costs.

    Nothing is chosen on validation prompts. ``first_tokens`` is the paper's; ``alpha``, ``common``
    and the settings of the adapter are this project's.

    Attributes:
        alpha: Weight of the expert.
        first_tokens: Number of tokens of a reply that the expert weighs in on.
        common: Least number of tokens in the common list.
        lr: Learning rate of the adapter.
        epochs: Passes over the refusals.
        rank: Rank of the adapter.
        scale: LoRA's alpha.
        batch_size: Examples in a step.
        new_tokens: Longest refusal that is trained on.
        seed: Seed of the order of the examples and of the adapter's random half.
        judge: Judge of which of the model's replies are refusals; see ``ReplyMethod``.

    Source: Xu et al. 2024 (arXiv 2402.08983).
    """

    name: str = "safe-decoding"
    alpha: float = 3.0
    first_tokens: int = 5
    common: int = 5
    lr: float = 2e-3
    epochs: int = 2
    rank: int = 8
    scale: float = 16.0
    batch_size: int = 16
    new_tokens: int = 64
    seed: int = 0
    judge: Judge | None = None

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Train the expert on refusals of harmful training prompts; the model stays as it is.

        Raises:
            UserError: If the model refuses too few of them, PEFT is not installed, or the weights
                cannot be trained.
        """
        del validation
        if self.common < 1 or self.first_tokens < 1:
            raise UserError("safe-decoding needs common and first_tokens of at least 1")
        harmful = train.where(label="harmful")
        data = reply_data(
            model, harmful, source="model", new_tokens=self.new_tokens, judge=self.judge
        )
        trials = reply_trials(
            model,
            data.examples,
            partial(lora_trainee, model, rank=self.rank, scale=self.scale, seed=self.seed),
            lrs=(self.lr,),
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        *_, expert = trials
        if not expert.is_finite:
            raise UserError(f"training of the expert diverged at lr {self.lr:g}; give a lower one")
        own = {name: value for name, value in vars(self).items() if name not in ("name", "judge")}
        return FittedIntervention(
            settings={**own, **data.settings()},
            chosen=(),
            enter=lambda asked: nullcontext(guarded_model(self, expert.state, asked)),
            fingerprint=model.fingerprint,
            trained_parameters=expert.n_parameters,
        )


def guarded_model(method: SafeDecoding, state: Mapping[str, Tensor], model: ChatModel) -> ChatModel:
    """A model that shares every tensor with this one and mixes an expert in while it decodes.

    Args:
        method: How much the expert weighs.
        state: Weights of the expert where they differ from the model's. The expert is a second
            module tree with tensors of its own for these only.
        model: Model that replies.
    """
    expert = twin(model.hf, state)
    mix = partial(mixed, alpha=method.alpha, common=method.common)
    return with_second_reading(model, expert, model, mix, method.first_tokens)


def mixed(
    base: Float[Tensor, "prompt vocabulary"],
    expert: Float[Tensor, "prompt vocabulary"],
    *,
    alpha: float,
    common: int,
) -> Float[Tensor, "prompt vocabulary"]:
    """Log-probabilities ``log P`` of the mixture; minus infinity outside the common tokens."""
    # In float64: what is common may hold next to no probability.
    p_base, p_expert = base.double().softmax(-1), expert.double().softmax(-1)
    p = (p_base + alpha * (p_expert - p_base)).clamp(min=1e-8)
    p = torch.where(common_tokens(base, expert, common), p, 0.0)
    return (p / p.sum(-1, keepdim=True)).log().float()


def common_tokens(
    base: Float[Tensor, "prompt vocabulary"], expert: Float[Tensor, "prompt vocabulary"], least: int
) -> Bool[Tensor, "prompt vocabulary"]:
    """Tokens in both lists of the k likeliest, k the smallest with at least ``least`` of them.

    A token enters both lists at the larger of its two ranks, so k is the ``least``-th smallest of
    those.
    """
    enters = torch.maximum(_ranks(base), _ranks(expert))
    k = enters.sort(-1).values[:, min(least, enters.shape[1]) - 1]
    return enters <= k[:, None]


def _ranks(logits: Float[Tensor, "prompt vocabulary"]) -> Int[Tensor, "prompt vocabulary"]:
    """Rank of each token, 0 for the likeliest; ties go to the lower id."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)
