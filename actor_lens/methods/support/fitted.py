"""The result of fitting a method: its settings, and a change of the model for a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.results import Result, plain
from actor_lens.text import plural


@dataclass(frozen=True, eq=False, repr=False)
class FittedIntervention(Result):
    """A method that is ready: hooks, other weights or another way to ask or decode.

    Attributes:
        settings: Every setting that it was fitted with.
        chosen: Names of the settings that were chosen on validation prompts.
        enter: Makes the context in which a model is changed. The context yields the model to ask,
            or None for the model itself.
        fingerprint: Fingerprint of the model that it was fitted to; None if any model will do.
        trained_parameters: How many numbers gradient descent has changed.
    """

    _hint: ClassVar[str] = "use: with fitted.applied_to(model) as changed"
    _values: ClassVar[tuple[str, ...]] = ("settings", "chosen", "trained_parameters")

    settings: Mapping[str, Any]
    chosen: tuple[str, ...]
    enter: Callable[[ChatModel], AbstractContextManager[ChatModel | None]]
    fingerprint: str | None
    trained_parameters: int = 0

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        """Change the model for the time of a ``with`` statement; undone bit for bit on any exit.

        Raises:
            UserError: If the method was fitted to other weights.
        """
        if self.fingerprint is not None and self.fingerprint != model.fingerprint:
            raise UserError(
                f"this method was fitted to other weights than those of '{model.name}' "
                f"(fingerprint {self.fingerprint[:12]} against {model.fingerprint[:12]}); fit it "
                "to this model"
            )
        with self.enter(model) as changed:
            yield model if changed is None else changed

    def frame(self) -> pd.DataFrame:
        """One row a setting: ``setting``, ``value`` and whether validation prompts ``chose`` it."""
        rows = [(name, plain(value), name in self.chosen) for name, value in self.settings.items()]
        return pd.DataFrame(rows, columns=["setting", "value", "chosen"])

    def _headline(self) -> str:
        values = ", ".join(f"{name} {self.settings[name]}" for name in self.chosen)
        return (
            f"Fitted method: {plural(len(self.settings), 'setting')}, chosen on validation "
            f"prompts: {values or 'none'}; {self.trained_parameters:,} trained parameters"
        )
