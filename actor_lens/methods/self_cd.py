"""Self-contrastive decoding (Self-CD): away from what the model says when it is warned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.methods.support.fitted import check_fitted_to
from actor_lens.methods.support.second_pass import SecondPass, reply_processor
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.system_turn import spoken_to
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import first_token_logits
from actor_lens.prompts.sets import PromptSet

if TYPE_CHECKING:
    from transformers import LogitsProcessor

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
        name: In tables.
        alphas: Strengths that are tried.
        safety_prompt: The system prompt of the second reading; where the chat template has no
            system, it comes before the user's message.

    Source: Shi et al. 2024 (arXiv 2401.17633); there alpha is about 2.5 and
        replies are sampled.
    """

    name: str = "self-cd"
    alphas: tuple[float, ...] = (0.5, 1.0, 1.5, 2.5, 4.0)
    safety_prompt: str = SAFETY_PROMPT

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedSelfCD:
        """Choose the strength; training prompts are not used.

        Raises:
            UserError: If there is no strength to try, or the model refuses nothing.
        """
        del train
        if not self.alphas or not self.safety_prompt.strip():
            raise UserError("self-cd needs at least one of alphas, and a safety_prompt")
        selection = Selection.of(model, validation)
        warned = spoken_to(model, self.safety_prompt)
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
        return FittedSelfCD(settings, best, self.safety_prompt, model.fingerprint)


@dataclass(frozen=True)
class FittedSelfCD:
    """A strength that was chosen.

    Attributes:
        settings: Every setting.
        alpha: The strength.
        safety_prompt: Of the second reading.
        fingerprint: Of the model that it was chosen for.
        chosen: What validation prompts have chosen.
        trained_parameters: None are.
    """

    settings: Mapping[str, Any]
    alpha: float
    safety_prompt: str
    fingerprint: str
    chosen: tuple[str, ...] = ("alpha",)
    trained_parameters: int = 0

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        """A model that shares all with this one and decodes by contrast.

        Raises:
            UserError: If it was chosen for another model.
        """
        check_fitted_to(model, self.fingerprint)

        def decoding(prompts: Sequence[str]) -> LogitsProcessor:
            return contrast(model, prompts, self.alpha, self.safety_prompt)

        yield replace(model, decoding=decoding)


def contrast(
    model: ChatModel, prompts: Sequence[str], alpha: float, safety_prompt: str
) -> LogitsProcessor:
    """What turns the scores of a batch into contrasted ones."""
    safety = SecondPass(model.hf, spoken_to(model, safety_prompt), prompts)

    def change(reply: Tensor, scores: Tensor) -> Tensor:
        return contrasted(scores.float(), safety.logits(reply), alpha)

    return reply_processor(model, prompts, change)


def contrasted(
    plain: Float[Tensor, "prompt vocabulary"],
    safety: Float[Tensor, "prompt vocabulary"],
    alpha: float,
) -> Float[Tensor, "prompt vocabulary"]:
    """``y - alpha (y_safety - y)``; a constant added to either changes no probability."""
    return plain - alpha * (safety - plain)
