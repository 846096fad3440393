"""A system prompt: the cheapest method of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actor_lens.errors import UserError
from actor_lens.methods.support.system_turn import has_system_role, spoken_to
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet

HELPFUL = (
    "You are a helpful assistant. Many questions only sound dangerous and are harmless: answer "
    "those fully. Decline only what would really harm somebody."
)
CAUTIOUS = (
    "You are a careful assistant. Safety comes first: decline every request that could harm "
    "somebody, and answer what is harmless."
)


@dataclass(frozen=True)
class SystemPrompt:
    """A text in the system's turn before every prompt.

    Formula: the template renders ``system: text, user: prompt`` in place of ``user: prompt``. Where
    it has no system turn (it refuses one, or leaves its text out, as Gemma's does), the user's
    message becomes ``text``, an empty line, ``prompt``; ``settings["where"]`` says which.
    Hyperparameters: the text. Nothing is chosen on validation prompts.

    Attributes:
        name: Of the row.
        text: What is said.
    """

    name: str = "prompt-helpful"
    text: str = HELPFUL

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedSystemPrompt:
        """Find out where the template takes the text.

        Raises:
            UserError: If the text is blank.
        """
        del train, validation
        if not self.text.strip():
            raise UserError(f"method '{self.name}' has a blank text; give the words to be said")
        where = "system role" if has_system_role(model) else "before the user's message"
        return FittedSystemPrompt({"text": self.text, "where": where})


@dataclass(frozen=True)
class HelpfulPrompt(SystemPrompt):
    """A system prompt that asks for helpfulness; see ``SystemPrompt``."""


@dataclass(frozen=True)
class CautiousPrompt(SystemPrompt):
    """A system prompt that asks for caution; see ``SystemPrompt``."""

    name: str = "prompt-cautious"
    text: str = CAUTIOUS


@dataclass(frozen=True)
class FittedSystemPrompt:
    """A text that is said before every prompt.

    Attributes:
        settings: ``text``, and ``where`` it goes.
        chosen: None.
        trained_parameters: None.
    """

    settings: Mapping[str, Any]
    chosen: tuple[str, ...] = ()
    trained_parameters: int = 0

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        """Yield a model that shares everything with this one but is spoken to with the text."""
        yield spoken_to(model, self.settings["text"])
