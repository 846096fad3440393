"""What a method is, for the comparison of methods: something fitted, then applied to a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet


@runtime_checkable
class FittedMethod(Protocol):
    """A method that is ready to be tried on test prompts; ``FittedIntervention`` is one.

    Attributes:
        settings: Every setting that it was fitted with, as plain values.
        chosen: Names of the settings that were chosen on validation prompts.
        trained_parameters: How many numbers gradient descent has changed; 0 for most methods.
    """

    settings: Mapping[str, Any]
    chosen: tuple[str, ...]
    trained_parameters: int

    def applied_to(self, model: ChatModel) -> AbstractContextManager[ChatModel]:
        """Change a model for the time of a ``with`` statement.

        The model to ask inside is yielded: the given one with hooks or other weights in place, or
        one that shares its tensors and is prompted or decoded in another way. On any exit the
        given model has the same logits as before, bit for bit.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """One way to change how a model answers, to be compared with others on the same prompts.

    Attributes:
        name: Name in tables and on the command line: short, lower case, with hyphens.
    """

    name: str

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedMethod:
        """Learn from the training prompts; choose settings on the validation prompts.

        The model is as before afterwards, bit for bit.

        Raises:
            UserError: If the method cannot be used on this model or these prompts; the message
                says why.
        """
        ...
