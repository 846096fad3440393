"""The untouched model: what every other method is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet


@dataclass(frozen=True)
class Default:
    """The model as it is.

    Formula: none. Hyperparameters: none. Nothing is chosen on validation prompts.

    Attributes:
        name: Of the row.
    """

    name: str = "default"

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> Untouched:
        """Learn nothing."""
        del model, train, validation
        return Untouched()


@dataclass(frozen=True)
class Untouched:
    """Leaves a model alone.

    Attributes:
        settings: None.
        chosen: None.
        trained_parameters: None.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    trained_parameters: int = 0

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        """Hand the model on."""
        yield model
