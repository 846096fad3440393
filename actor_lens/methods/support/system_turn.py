"""A text before every prompt: in the system turn, or before the user's message without one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import LaterMessage, takes_system_prompt


@dataclass(frozen=True, eq=False)
class PrefacedChatModel(ChatModel):
    """A model whose template has no system turn: the text stands before the user's message.

    Attributes:
        preface: The text.
    """

    preface: str = ""

    def render(self, prompt: str) -> str:
        """The prompt as the model sees it, after the text and an empty line."""
        if isinstance(prompt, LaterMessage):
            first, *others = prompt.earlier
            return super().render(LaterMessage(prompt, (f"{self.preface}\n\n{first}", *others)))
        return super().render(f"{self.preface}\n\n{prompt}")


def with_system_text(model: ChatModel, text: str) -> ChatModel:
    """A model that shares all tensors with this one and reads a text before every prompt.

    Its own system prompt, if it has one, comes first.
    """
    if isinstance(model, PrefacedChatModel):
        return replace(model, preface=f"{model.preface}\n\n{text}")
    if has_system_role(model):
        before = "" if model.system_prompt is None else f"{model.system_prompt}\n\n"
        return replace(model, system_prompt=before + text)
    shared = {field.name: getattr(model, field.name) for field in fields(model)}
    return PrefacedChatModel(**shared, preface=text)


def has_system_role(model: ChatModel) -> bool:
    """Whether the chat template shows the model what a system turn says."""
    return takes_system_prompt(model.name, model.tokenizer)
