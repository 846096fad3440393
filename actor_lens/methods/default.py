"""The untouched model: what every other method is measured against."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet


@dataclass(frozen=True)
class Default:
    """The model as it is.

    Formula: none. Hyperparameters: none. Nothing is chosen on validation prompts.
    """

    name: str = "default"

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Learn nothing."""
        del model, train, validation
        return FittedIntervention({}, (), enter=nullcontext, fingerprint=None)
