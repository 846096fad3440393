"""The chat template of a tokenizer: set, tried and rendered, never made by hand.

A template is a Jinja program that comes with the model. It may raise, leave things out, or take
switches; what it does with a system prompt is found out by asking it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError
from actor_lens.prompts.rows import shown
from actor_lens.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The variable by which Qwen3 and others switch their thinking on and off.
THINKING_SWITCH = "enable_thinking"
_PROBE, _SYSTEM_PROBE = "Hello", "Zephyr-7 speaks."


def set_chat_template(
    name: str, tokenizer: PreTrainedTokenizerBase, chat_template: str | Path | None
) -> None:
    """Put a template in place, if one is given, and try it.

    Raises:
        UserError: If there is none, or it cannot be read, fails, or leaves out what the user says.
    """
    if chat_template is not None:
        tokenizer.chat_template = _template_text(chat_template)
    if not tokenizer.chat_template:
        raise UserError(
            f"model '{name}' has no chat template; pass one with --chat-template FILE "
            "(load_model(..., chat_template=...)), or use the chat version of the model"
        )
    if _PROBE not in render(name, tokenizer, _PROBE):
        raise UserError(
            f"the chat template of '{name}' leaves out what the user says; pass another one with "
            "--chat-template FILE (load_model(..., chat_template=...))"
        )


def render(
    name: str, tokenizer: PreTrainedTokenizerBase, prompt: str, system_prompt: str | None = None
) -> str:
    """One turn of the user, after the system prompt if there is one, and the opening of the reply.

    Thinking is switched off where the template has the switch.

    Raises:
        UserError: If the template fails.
    """
    turns = [{"role": "user", "content": prompt}]
    if system_prompt is not None:
        turns.insert(0, {"role": "system", "content": system_prompt})
    switches: dict[str, Any] = {THINKING_SWITCH: False} if has_thinking_switch(tokenizer) else {}
    try:
        rendered = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **switches
        )
    except Exception as error:  # a template is a program: it may fail in any way
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"the chat template of '{name}' fails on {shown(prompt)} ({reason}); fix it or pass "
            "another one"
        ) from error
    return str(rendered)


def has_thinking_switch(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template reads ``enable_thinking``."""
    return THINKING_SWITCH in str(tokenizer.chat_template)


def takes_system_prompt(name: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system prompt gets into what the model reads.

    Some templates (Gemma's among them) raise on the system role, others leave it out.
    """
    try:
        return _SYSTEM_PROBE in render(name, tokenizer, _PROBE, _SYSTEM_PROBE)
    except UserError:
        return False


def check_system_prompt(
    name: str, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None
) -> None:
    """Refuse a system prompt that would not reach the model.

    Raises:
        UserError: If it is empty, or the template raises on the system role or leaves it out.
    """
    if system_prompt is None:
        return
    if not system_prompt.strip():
        raise UserError("the system prompt is empty; leave it out, or say something")
    if not takes_system_prompt(name, tokenizer):
        raise UserError(
            f"the chat template of '{name}' has no system role; leave the system prompt out, or "
            "pass a template with one (--chat-template FILE, load_model(..., chat_template=...))"
        )


def _template_text(chat_template: str | Path) -> str:
    text = str(chat_template)
    if isinstance(chat_template, str) and "{" in text:
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"chat template {shown(text)} is neither a Jinja template nor a readable UTF-8 file "
            f"({type(error).__name__})"
        ) from error
