"""SCANS: each prompt is judged by its own activations, then steered to refusal or away from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.activations.positions import check_closes
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import MAX_KL, Selection, thresholds_of
from actor_lens.methods.support.tails import (
    opening_ids,
    read_blocks,
    refusal_vectors,
    tail_residuals,
)
from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import edit_each_block
from actor_lens.prompts.sets import PromptSet, replace_labels, require_labels

# Whether a judging pass runs: no such pass is judged or steered, not by a context around it either.
_JUDGING: ContextVar[bool] = ContextVar("judging", default=False)


@dataclass(frozen=True)
class Scans:
    """``h_l <- h_l + alpha v_l`` if ``sigma(q) >= T``, else ``h_l <- h_l - alpha v_l``.

    ``v_l = mean(harmful) - mean(benign)`` at the last token, ``[d_model]``. It is added after the
    middle third of the blocks, from the last token of the user's text on: at the template's closing
    tokens and at every generated one. The sign is the prompt's own: with the word ``opening`` put
    after the templated prompt, and ``d_l(q) = h_l[end of the user's text] - h_l[last]``,

        sigma(q) = mean over the upper third of the layers of cos(d_l(q), u_l)

    where ``u_l`` is the mean of ``d_l`` over harmful training prompts. ``sigma`` takes a pass of
    its own over the prompt, without steering, before the prompt's real pass; the sign is kept for
    the tokens that are generated after it, and found anew at the next prompt pass. Within a pass
    each row of the batch has its own. Replies must be generated with a key-value cache, as is
    usual: a pass over one token is a generated token, every other pass is one over prompts.

    Chosen on validation prompts: ``T``, where harmful prompts are best separated from all others
    (mean of the two shares that are right); then ``alpha``, by the trade-off within the limits of
    ``selection``; 0 is among the candidates.

    Attributes:
        threshold: ``T``; None chooses it.
        alphas: Strengths to try; one alone is taken as it is. Of the order of 1, as ``v_l`` is
            not normalised and the shifts of several layers add up.
        opening: Word with which the reply is made to begin.
        max_kl: Largest mean divergence on benign prompts, in nats.
        anchors: Prompts that ``v_l`` and ``u_l`` are made of; None for the training prompts.

    Source: Cao et al., AAAI 2025, SCANS.
    """

    name: str = "scans"
    threshold: float | None = None
    alphas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.5)
    opening: str = "Sure"
    max_kl: float = MAX_KL
    anchors: PromptSet | None = None

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Vectors from the training prompts; threshold and strength on the validation prompts.

        Raises:
            UserError: If a label is missing, the model refuses no harmful prompt, or the chat
                template closes the user's text with no token.
        """
        train = replace_labels(train, self.anchors)
        require_labels(train, 1, ("harmful", "benign"))
        selection = Selection.of(model, validation)
        signs = fit_signs(model, train, selection.prompts, self.opening)
        if self.threshold is not None:
            signs = replace(signs, threshold=self.threshold)
        vectors = refusal_vectors(tail_residuals(model, train.texts), train.labels)[:, -1]
        layers = middle_third(model.n_layers)
        tried = [(0.0, selection.untouched)] if len(self.alphas) > 1 else []
        for alpha in self.alphas:
            change = steer_by_sign(model, signs, alpha * vectors, layers)
            tried.append((alpha, selection.effect_of(model, change)))
        choice = selection.best(tried, max_kl=self.max_kl)
        return FittedIntervention(
            settings={
                "alpha": choice.candidate,
                "threshold": signs.threshold,
                "steered_layers": list(layers),
                "judging_layers": list(signs.layers),
                "opening": self.opening,
                "max_kl": self.max_kl,
                **choice.settings,
            },
            chosen=("alpha",) * (len(self.alphas) > 1) + ("threshold",) * (self.threshold is None),
            enter=partial(
                steer_by_sign, signs=signs, vectors=choice.candidate * vectors, layers=layers
            ),
            fingerprint=model.fingerprint,
        )


@dataclass(frozen=True, eq=False)
class Signs:
    """Rule that says of a prompt whether it is harmful, by its own activations.

    Attributes:
        reference: ``u_l`` of the judging layers.
        layers: Judging layers.
        threshold: ``T``.
        opening: Token ids that are put after the prompt.
        closing: Number of tokens of the template after the user's text.
    """

    reference: Float[Tensor, "judging d_model"]
    layers: tuple[int, ...]
    threshold: float
    opening: tuple[int, ...]
    closing: int

    @property
    def tail(self) -> int:
        """Tokens from the end of the user's text to the last of the opening, both included."""
        return 1 + self.closing + len(self.opening)


def middle_third(n_layers: int) -> tuple[int, ...]:
    """The layers that are steered; at least one."""
    start = n_layers // 3
    return tuple(range(start, max(start + 1, 2 * n_layers // 3)))


def upper_third(n_layers: int) -> tuple[int, ...]:
    """The layers that judge; at least one."""
    return tuple(range(min(2 * n_layers // 3, n_layers - 1), n_layers))


def fit_signs(model: ChatModel, train: PromptSet, held_out: PromptSet, opening: str) -> Signs:
    """Reference from the training prompts, threshold from held-out prompts.

    Raises:
        UserError: If the chat template closes the user's text with no token.
    """
    closing = check_closes(model, "SCANS compares the two: use another method")
    ids, layers = tuple(opening_ids(model, opening)), upper_third(model.n_layers)
    start = Signs(
        torch.empty(0, model.d_model, dtype=torch.float32, device="cpu"), layers, 0.0, ids, closing
    )
    harmful = train.where(label="harmful")
    reference = _steps(model, harmful, start).double().mean(dim=1).float()
    values = sigma(_steps(model, held_out, start), reference)
    threshold = best_threshold(values, [label == "harmful" for label in held_out.labels])
    return Signs(reference, layers, threshold, ids, closing)


def _steps(
    model: ChatModel, prompts: PromptSet, signs: Signs
) -> Float[Tensor, "judging prompt d_model"]:
    tails = tail_residuals(model, prompts.texts, signs.tail, opening=signs.opening)
    chosen = tails[list(signs.layers)]
    return torch.sub(chosen[:, 0], chosen[:, -1])


def sigma(
    steps: Float[Tensor, "judging prompt d_model"], reference: Float[Tensor, "judging d_model"]
) -> Float[Tensor, " prompt"]:
    """Mean over layers of the cosine between each prompt's step and the reference."""
    cosines = nn.functional.cosine_similarity(steps, reference[:, None], dim=-1)
    return torch.mean(cosines, dim=0)


def best_threshold(values: Float[Tensor, " prompt"], positive: Sequence[bool]) -> float:
    """Midpoint of two values at which ``value >= threshold`` has the best balanced accuracy.

    Ties go to the lowest threshold.
    """
    truth = torch.tensor(list(positive), device="cpu")

    def balanced_accuracy(threshold: float) -> float:
        above = values.double() >= threshold
        return float(above[truth].double().mean() + (~above[~truth]).double().mean())

    return max(thresholds_of(values), key=balanced_accuracy)


@contextmanager
def steer_by_sign(
    model: ChatModel,
    signs: Signs,
    vectors: Float[Tensor, "layer d_model"],
    layers: Sequence[int],
) -> Iterator[None]:
    """Add vectors to prompts that are judged harmful, and take them from the others.

    Args:
        model: The model whose ``hf`` is run inside the context.
        signs: Rule that judges each prompt.
        vectors: Vectors of every layer of the model, strength included.
        layers: Blocks after which they are added.
    """
    judge = _SignJudge(model, signs)
    base = model.hf.base_model

    def edit(layer: int, residual: Tensor) -> Tensor:
        if _JUDGING.get():
            return residual
        steered = residual.clone()
        start = -min(1 + signs.closing, residual.shape[1])  # a generated token: that one
        vector = vectors[layer].to(device=residual.device, dtype=residual.dtype)
        rows = judge.signs.to(device=residual.device, dtype=residual.dtype)
        steered[:, start:] += rows[:, None, None] * vector
        return steered

    handle = base.register_forward_pre_hook(judge.before_pass, with_kwargs=True)
    try:
        with torch.no_grad(), edit_each_block(model, layers, edit):
            yield
    finally:
        handle.remove()


@dataclass
class _SignJudge:
    """The sign of every row of the batch that is being answered."""

    model: ChatModel
    criterion: Signs
    signs: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32, device="cpu"))

    def before_pass(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Judge the prompts of a pass before it begins, one by a graft of the model included."""
        own: Any = self.model.hf.base_model
        other: Any = base
        ids: Any = kwargs.get("input_ids", args[0] if args else None)
        if other is not own:
            # A copy has other embeddings, and other blocks; a graft may start at a block instead.
            if ids is None or other.get_input_embeddings() is not own.get_input_embeddings():
                return
        # A generated token: the sign of its prompt is known.
        if _JUDGING.get() or ids.shape[1] == 1:
            return
        token = _JUDGING.set(True)
        try:
            self.signs = self._judge(ids, kwargs.get("attention_mask"))
        finally:
            _JUDGING.reset(token)

    def _judge(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        mask = torch.ones_like(ids) if mask is None else mask
        opening = torch.tensor(self.criterion.opening, device=ids.device).expand(len(ids), -1)
        ids = torch.cat([ids, opening], dim=1)
        mask = torch.cat([mask, torch.ones_like(opening)], dim=1)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        batch = TokenBatch(tuple(range(len(ids))), ids, mask, positions)
        steps: list[Tensor] = []

        def take(_layer: int, residual: Tensor) -> None:
            tail = residual[:, -self.criterion.tail :].float().cpu()
            steps.append(tail[:, 0] - tail[:, -1])

        read_blocks(self.model, batch, self.criterion.layers, take)
        harmful = sigma(torch.stack(steps), self.criterion.reference) >= self.criterion.threshold
        return torch.where(harmful, 1.0, -1.0)
