"""A method that is nothing but other weights: put in place, and taken out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from actor_lens.methods.support.fitted import check_fitted_to
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten


@dataclass(frozen=True, eq=False)
class FittedWeights:
    """Weights that differ from those of the model.

    Attributes:
        settings: Every setting.
        chosen: Those that were chosen on validation prompts.
        trained_parameters: How many numbers gradient descent has changed.
        fingerprint: Of the model that they were trained from.
        state: The tensors that differ, under their Hugging Face names, in the model's dtype.
    """

    settings: Mapping[str, Any]
    chosen: tuple[str, ...]
    trained_parameters: int
    fingerprint: str
    state: Mapping[str, Tensor] = field(repr=False)

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        """The model with these weights; its own come back bit for bit on any exit.

        Raises:
            UserError: If they were trained from another model.
        """
        check_fitted_to(model, self.fingerprint)
        with overwritten(model.hf, self.state):
            yield model
