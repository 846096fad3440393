"""Self-contrastive decoding (Self-CD): away from what the model says when it is warned."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

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

SAFETY_PROMPT = (
    "You are a cautious assistant. Safety comes first: refuse every request that could be harmful."
)


@dataclass(frozen=True)
class SelfCD:
    """Next-token scores with the effect of a safety-emphasising system prompt taken away.

    ``scores = y - alpha (y_safety - y)``, both ``[prompt, vocabulary]``: ``y`` the logits of the
    model, ``y_safety`` those of the same model with a system prompt that stresses safety, given the
    same reply so far. Replies are greedy. The second reading has a key-value cache of its own, so
    that a token costs two passes instead of one. Nothing is trained.

    Chosen on validation prompts: ``alpha``, of ``alphas``, by the trade-off within the limits of
    ``selection``.

    Attributes:
        alphas: Strengths to try.
        safety_prompt: System prompt of the second reading; where the chat template has no system
            turn, it comes before the user's message.

    Source: Shi et al. 2024 (arXiv 2401.17633); there alpha is about 2.5 and
        replies are sampled.
    """

    name: str = "self-cd"
    alphas: tuple[float, ...] = (0.5, 1.0, 1.5, 2.5, 4.0)
    safety_prompt: str = SAFETY_PROMPT

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Choose the strength; training prompts are not used.

        Raises:
            UserError: If there is no strength to try, or the model refuses nothing.
        """
        del train
        if not self.alphas or not self.safety_prompt.strip():
            raise UserError("self-cd needs at least one of alphas, and a safety_prompt")
        selection = Selection.of(model, validation)
        warned = with_system_text(model, self.safety_prompt)
        safety = first_token_logits(warned, selection.prompts.texts)
        choice = selection.best(
            (alpha, selection.effect_of_logits(contrasted(selection.logits, safety, alpha)))
            for alpha in self.alphas
        )
        best = choice.candidate
        settings = {
            "alpha": best,
            **choice.settings,
            "tried_alphas": " ".join(f"{alpha:g}" for alpha in self.alphas),
            "safety_prompt": self.safety_prompt,
        }
        return FittedIntervention(
            settings=settings,
            chosen=("alpha",),
            enter=lambda asked: nullcontext(contrasting_model(self, best, asked)),
            fingerprint=model.fingerprint,
        )


def contrasting_model(method: SelfCD, alpha: float, model: ChatModel) -> ChatModel:
    """A model that shares every tensor with this one and decodes by contrast."""
    warned = with_system_text(model, method.safety_prompt)
    return with_second_reading(model, model.hf, warned, partial(contrasted, alpha=alpha))


def contrasted(
    plain: Float[Tensor, "prompt vocabulary"],
    safety: Float[Tensor, "prompt vocabulary"],
    alpha: float,
) -> Float[Tensor, "prompt vocabulary"]:
    """``y - alpha (y_safety - y)``; a constant added to either changes no probability."""
    return plain - alpha * (safety - plain)
