"""What most methods hand back: settings, and an intervention that is put in place by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel


@dataclass(frozen=True, eq=False)
class FittedIntervention:
    """A method that changes a model by hooks, gone after the ``with`` statement.

    Attributes:
        settings: Every setting that it was fitted with.
        chosen: Names of the settings that were chosen on validation prompts.
        enter: Makes the context in which the model is changed.
        fingerprint: Of the model that it was fitted on.
        trained_parameters: None: nothing is trained by gradient descent.
    """

    settings: Mapping[str, Any]
    chosen: tuple[str, ...]
    enter: Callable[[ChatModel], AbstractContextManager[Any]]
    fingerprint: str
    trained_parameters: int = 0

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        """Put the hooks in place for the time of a ``with`` statement.

        Raises:
            UserError: If the method was fitted on another model.
        """
        check_fitted_to(model, self.fingerprint)
        with self.enter(model):
            yield model


def check_fitted_to(model: ChatModel, fingerprint: str) -> None:
    """Check that a method is used on the model that it was fitted to.

    Raises:
        UserError: If the fingerprints differ.
    """
    if model.fingerprint != fingerprint:
        raise UserError(
            f"this method was fitted to other weights than those of '{model.name}' (fingerprint "
            f"{fingerprint[:12]} against {model.fingerprint[:12]}); fit it to this model"
        )
