"""A reconstruction of MOSR from its abstract: representations of harmful prompts are erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.errors import check_positive, check_whole
from actor_lens.judges.base import Judge
from actor_lens.methods.lora_sft import adapted_twin, merged_weights
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_data import ReplyExample, reply_data
from actor_lens.methods.support.reply_training import (
    Trial,
    best_trial,
    check_trainable,
    collate,
    reply_loss,
    train_step,
)
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.tails import opening_ids, tail_residuals
from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten
from actor_lens.prompts.sets import PromptSet, require_labels


@dataclass(frozen=True)
class MosrLike:
    """``L = a (1 - s) L_e + a s L_r + L_ce`` with adapters in every block, ``s = step / 2 T``.

    Not the published method, of which only the abstract could be read: a reconstruction on the loss
    of circuit breakers. ``L_e``: mean over tokens of harmful prompts of ``relu(cos(h, h0))`` after
    the blocks at one and two thirds of the depth, ``h0`` without adapters, each prompt by a weight
    ``w``; ``L_r``: mean of ``|h - h0|`` over blocks and tokens of the other prompts with their
    answers; ``L_ce``: cross-entropy of refusals of harmful prompts after the words ``prefix``,
    which are no target. ``w`` is 1 for the harmful prompt least like any pseudo-harmful one and 0
    for the one most like one, by the largest cosine of their centred last-token residuals at two
    thirds of the depth. Where the authors train refusals after the beginning of a harmful answer,
    the prefix stands alone: no harmful text is used here.

    A defence against jailbreaks with less over-refusal than others, not a repair. Chosen on
    validation prompts: ``a``. All settings are this project's.

    Attributes:
        strengths: Values of ``a`` to try.
        steps: ``T``, steps of AdamW.
        lr: Learning rate.
        batch_size: Harmful prompts in a step, and others.
        rank: Rank of the adapters, and LoRA's alpha.
        prefix: Words before a refusal; none for refusals alone.
        weighted: False sets every ``w`` to 1.
        new_tokens: Longest reply, where the model itself is asked for it.
        seed: Seed of the batches and of the adapters' random half.
        judge: Judge of which replies are trained on; see ``reply_data``.

    Source: after the abstract of arXiv 2511.19009; the loss after Zou et al. 2024 (arXiv
        2406.04313).
    """

    name: str = "mosr-like"
    strengths: tuple[float, ...] = (5.0, 10.0)
    steps: int = 100
    lr: float = 1e-3
    batch_size: int = 8
    rank: int = 16
    prefix: str = "Sure, here is"
    weighted: bool = True
    new_tokens: int = 64
    seed: int = 0
    judge: Judge | None = None

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Train at every strength; validation prompts choose.

        Raises:
            UserError: If there are too few usable replies, a setting is not allowed, PEFT is not
                installed, the weights cannot be trained, or training diverges.
        """
        require_labels(train, 1)
        check_whole("steps", self.steps, low=1)
        check_positive("rank", self.rank)
        check_trainable(model, (self.lr, *self.strengths), 1, self.batch_size)
        selection = Selection.of(model, validation)
        data = reply_data(model, train, new_tokens=self.new_tokens, judge=self.judge)
        selection = selection.with_tokens(data.opening_tokens(model, selection.tokens))
        weights = self._weights(model, train)
        harmful = [one for one in data.examples if one.label == "harmful"]
        others = [one for one in data.examples if one.label != "harmful"]
        trials = (
            self._train(model, strength, harmful, others, [weights[e.prompt_ids] for e in harmful])
            for strength in self.strengths
        )
        choice = best_trial(
            trials,
            selection,
            lambda state: selection.effect_of(model, overwritten(model.hf, state)),
        )
        best = choice.candidate
        own = {key: value for key, value in vars(self).items() if key not in ("name", "judge")}
        own["strengths"] = " ".join(f"{one:g}" for one in self.strengths)
        return FittedIntervention(
            settings={**own, "strength": best.strength, **choice.settings, **data.settings()},
            chosen=("strength",),
            enter=lambda asked: overwritten(asked.hf, best.state),
            fingerprint=model.fingerprint,
            trained_parameters=best.n_parameters,
        )

    def _weights(self, model: ChatModel, train: PromptSet) -> dict[tuple[int, ...], float]:
        """``w`` of each harmful training prompt, by its tokens."""
        prompts = [tuple(ids) for ids in model.tokenize(train.where(label="harmful").texts)]
        if not self.weighted:
            return dict.fromkeys(prompts, 1.0)
        layer = 2 * model.n_layers // 3
        ours, theirs = (
            tail_residuals(model, train.where(label=label).texts)[layer, -1].double()
            for label in ("harmful", "pseudo_harmful")
        )
        return dict(zip(prompts, unlikeness(ours, theirs).tolist(), strict=True))

    def _train(
        self,
        model: ChatModel,
        strength: float,
        harmful: Sequence[ReplyExample],
        others: Sequence[ReplyExample],
        weights: Sequence[float],
    ) -> StrengthTrial:
        hf = adapted_twin(model, rank=self.rank, scale=float(self.rank), seed=self.seed)
        parameters = [parameter for parameter in hf.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.0)
        draw = torch.Generator("cpu").manual_seed(self.seed)
        opening = tuple(opening_ids(model, self.prefix)) if self.prefix else ()
        for step in range(self.steps):
            rows, kept = (
                torch.randint(len(them), (self.batch_size,), generator=draw, device="cpu").tolist()
                for them in (harmful, others)
            )
            share = step / (2 * self.steps)
            loss = partial(
                mixed_loss,
                hf,
                model,
                [harmful[row] for row in rows],
                [others[row] for row in kept],
                [weights[row] for row in rows],
                opening=opening,
                erase=strength * (1 - share),
                retain=strength * share,
            )
            train_step(optimizer, parameters, loss)
        count = sum(parameter.numel() for parameter in parameters)
        return StrengthTrial(self.lr, 1, count, merged_weights(hf), strength)


@dataclass(frozen=True, eq=False)
class StrengthTrial(Trial):
    """What training at a strength gave.

    Attributes:
        strength: ``a``.
    """

    strength: float


def unlikeness(
    harmful: Float[Tensor, "harmful d_model"], pseudo: Float[Tensor, "pseudo d_model"]
) -> Float[Tensor, " harmful"]:
    """``w`` of ``MosrLike``, from 0 to 1, by the largest cosine with a pseudo-harmful prompt."""
    centre = torch.cat([harmful, pseudo]).mean(0)
    units = [nn.functional.normalize(rows - centre, dim=-1) for rows in (harmful, pseudo)]
    overlap = (units[0] @ units[1].T).amax(1)
    span = (overlap.max() - overlap.min()).clamp(min=1e-12)
    return 1 - (overlap - overlap.min()) / span


def mixed_loss(
    hf: nn.Module,
    model: ChatModel,
    harmful: Sequence[ReplyExample],
    others: Sequence[ReplyExample],
    weights: Sequence[float],
    *,
    opening: tuple[int, ...],
    erase: float,
    retain: float,
) -> Float[Tensor, ""]:
    """The loss of ``MosrLike``.

    Args:
        hf: Model with adapters.
        model: The untouched model.
        harmful: Harmful prompts with refusals.
        others: Other prompts with answers.
        weights: ``w`` of each harmful prompt.
        opening: Tokens before a refusal.
        erase: Weight of ``L_e``.
        retain: Weight of ``L_r``.
    """
    layers = [model.n_layers // 3, 2 * model.n_layers // 3]
    ids = [one.prompt_ids for one in harmful]
    prompts = pad_batch(ids, pad_token_id=model.pad_token_id, device=model.device)
    now, before = _both(hf, model, prompts)
    alike = nn.functional.cosine_similarity(now[layers], before[layers], dim=-1).relu().mean(0)
    w = alike.new_tensor(weights)
    erased = (_mean_over_tokens(alike, prompts) * w).sum() / w.sum().clamp(min=1e-12)
    answers = collate(model, others)
    now, before = _both(hf, model, answers)
    lengths = answers.attention_mask.sum(1)
    moved = _mean_over_tokens((now - before).norm(dim=-1).mean(0), answers)
    retained = (moved * lengths).sum() / lengths.sum()
    refusals = [replace(one, prompt_ids=(*one.prompt_ids, *opening)) for one in harmful]
    return erase * erased + retain * retained + reply_loss(hf, collate(model, refusals))


def _both(hf: nn.Module, model: ChatModel, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """The stream with adapters, and without."""
    now = _states(hf, batch)
    with torch.no_grad():
        return now, _states(model.hf, batch)


def _mean_over_tokens(
    values: Float[Tensor, "prompt token"], batch: TokenBatch
) -> Float[Tensor, " prompt"]:
    """Mean over the tokens of each prompt, padding left out."""
    real = batch.attention_mask.bool()
    return values.where(real, 0.0).sum(1) / real.sum(1)


def _states(hf: Any, batch: TokenBatch) -> Float[Tensor, "layer prompt token d_model"]:
    """The stream after every block but the last, whose states carry the final norm."""
    output = hf(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        output_hidden_states=True,
        logits_to_keep=1,
    )
    states = torch.stack(output.hidden_states[1:-1])
    return states.to(torch.promote_types(states.dtype, torch.float32))
