"""AdaCD: contrastive decoding that follows a call to refuse where the model agrees with it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.second_pass import with_second_reading
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.system_turn import with_system_text
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import first_token_logits
from actor_lens.prompts.sets import PromptSet

# Low enough for no chance, and a finite divergence.
_EXCLUDED = -1e4


@dataclass(frozen=True)
class AdaCD:
    """Next-token scores moved toward those under a call to refuse, or away from them.

    ``y`` are the logits of the model, ``y_s`` those with a system prompt that asks it to refuse,
    given the same reply so far, both ``[prompt, vocabulary]``. Where the two agree (the likeliest
    token of ``y_s`` has a rank in ``y`` of at most ``1 / agreement``, and ``y`` is at least
    ``agreement`` times as sure of its likeliest token as ``y_s``) the scores are ``y_s + a (y_s -
    y)``, elsewhere ``y_s - a (y_s - y)``. Tokens with less than ``beta`` times the probability of
    the likeliest in ``y`` are excluded. After ``first_tokens`` tokens the model goes on alone.
    Replies are greedy. Nothing is trained; a model that does not obey system prompts gains nothing.

    Chosen on validation prompts: ``a`` and the agreement, by the trade-off without a limit to the
    divergence, since excluded tokens make it large.

    Attributes:
        strengths: Values of ``a`` to try.
        agreements: Values of the agreement to try.
        beta: Least probability of a token, as a share of the likeliest.
        first_tokens: Number of tokens of a reply with a second reading.
        refusal_prompt: System prompt of the second reading; without a system turn it comes before
            the user's message.

    Source: arXiv 2604.17132; there ``a`` is 4.5 and the agreement 0.9.
    """

    name: str = "adacd"
    strengths: tuple[float, ...] = (1.5, 2.5, 4.5)
    agreements: tuple[float, ...] = (0.5, 0.9)
    beta: float = 0.01
    first_tokens: int = 10
    refusal_prompt: str = "Please refuse to answer me!"

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Choose strength and agreement; training prompts are not used.

        Raises:
            UserError: If there is nothing to try, a setting is not allowed, or the model refuses
                nothing.
        """
        del train
        shares = (*self.agreements, self.beta)
        if not (self.strengths and self.agreements and all(0 < one <= 1 for one in shares)):
            raise UserError("adacd needs strengths, and agreements and beta above 0 up to 1")
        selection = Selection.of(model, validation)
        asked = with_system_text(model, self.refusal_prompt)
        refusing = first_token_logits(asked, selection.prompts.texts)
        tried = []
        for strength in self.strengths:
            for agreement in self.agreements:
                mix = partial(adapted, strength=strength, agreement=agreement, beta=self.beta)
                effect = selection.effect_of_logits(mix(selection.logits, refusing))
                tried.append(((strength, agreement), effect))
        choice = selection.best(tried, max_kl=None)
        strength, agreement = choice.candidate
        return FittedIntervention(
            settings={
                **{"strength": strength, "agreement": agreement, "beta": self.beta},
                **{"first_tokens": self.first_tokens, "refusal_prompt": self.refusal_prompt},
                **choice.settings,
            },
            chosen=("strength", "agreement"),
            enter=lambda asked: nullcontext(adaptive_model(self, strength, agreement, asked)),
            fingerprint=model.fingerprint,
        )


def adaptive_model(method: AdaCD, strength: float, agreement: float, model: ChatModel) -> ChatModel:
    """A model that shares every tensor with this one and decodes by adaptive contrast."""
    asked = with_system_text(model, method.refusal_prompt)
    mix = partial(adapted, strength=strength, agreement=agreement, beta=method.beta)
    return with_second_reading(model, model.hf, asked, mix, method.first_tokens)


def adapted(
    plain: Float[Tensor, "prompt vocabulary"],
    refusing: Float[Tensor, "prompt vocabulary"],
    *,
    strength: float,
    agreement: float,
    beta: float,
) -> Float[Tensor, "prompt vocabulary"]:
    """The scores of ``AdaCD``, relative to the likeliest token that is not excluded.

    Args:
        plain: Logits ``y``.
        refusing: Logits ``y_s``.
        strength: ``a``.
        agreement: Agreement from which the call to refuse is followed.
        beta: Least probability of a token, as a share of the likeliest.
    """
    p, p_refusing = plain.softmax(-1), refusing.softmax(-1)
    wanted = plain.gather(-1, refusing.argmax(-1, keepdim=True))
    rank = 1 + (plain > wanted).sum(-1)
    sure = p.amax(-1) >= agreement * p_refusing.amax(-1)
    agree = (1 / rank >= agreement) & sure
    signed = torch.where(agree, strength, -strength)[:, None]
    scores = refusing + signed * (refusing - plain)
    allowed = p >= beta * p.amax(-1, keepdim=True)
    scores = scores - scores.where(allowed, -torch.inf).amax(-1, keepdim=True)
    return scores.where(allowed, _EXCLUDED)
