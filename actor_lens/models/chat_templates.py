"""The chat template of a tokenizer: set, tried and rendered, never made by hand.

A template is a Jinja program that comes with the model. It may raise, leave things out, or take
switches; what it does with a system prompt is found out by asking it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError
from actor_lens.files.lfs import check_no_pointer
from actor_lens.files.paths import user_path
from actor_lens.prompts.rows import shown
from actor_lens.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The variable by which Qwen3 and others switch their thinking on and off.
THINKING_SWITCH = "enable_thinking"
# By which a template asks for today's date, and what it is told: the default of Llama 3.2's own
# template. With the day it would be another prompt, so another result, tomorrow.
_DATE_FUNCTION = "strftime_now"
PINNED_DATE = datetime.datetime(2024, 7, 26)
_PROBE, _SYSTEM_PROBE = "Hello", "Zephyr-7 speaks."
# By which a template shows that the model thinks aloud.
_THOUGHTS = ("<think>", "<|channel|>analysis")
# What stands around turns: "<|user|>", "[INST]", and "system" where a line begins or as "USER:".
_ROLE = r"(system|user|human|assistant)\b"
_MARK = re.compile(
    rf"<[^<>]*>|\[[^\[\]]*\]|^\W*{_ROLE}:?|\b{_ROLE}\s*:", re.IGNORECASE | re.MULTILINE
)
_FEWEST_WORDS = 4
_REPLY_PROBE = "Zephyr-8 replies."
_EXCHANGE = (
    {"role": "user", "content": _PROBE},
    {"role": "assistant", "content": _REPLY_PROBE},
)


class LaterMessage(str):
    """A message of the user with the conversation before it.

    It may stand wherever a prompt may: what a model reads then begins with the earlier turns.

    Attributes:
        earlier: Message of the user and reply by turns.
    """

    earlier: tuple[str, ...]

    def __new__(cls, text: str, earlier: Sequence[str]) -> LaterMessage:
        """Put a message after others.

        Args:
            text: The message.
            earlier: Message of the user and reply by turns, the first one first.
        """
        message = super().__new__(cls, text)
        message.earlier = tuple(earlier)
        return message


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
    """One turn of the user, after what came before it, and the opening of the reply.

    Before it come the system prompt, if there is one, and the earlier turns of a ``LaterMessage``.

    Thinking is switched off where the template has the switch, and a template that asks for the
    date is told ``PINNED_DATE``.

    Raises:
        UserError: If the template fails.
    """
    said = (*getattr(prompt, "earlier", ()), str(prompt))
    roles = ("user", "assistant")
    turns = [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]
    if system_prompt is not None:
        turns.insert(0, {"role": "system", "content": system_prompt})
    try:
        return render_turns(tokenizer, turns)
    except Exception as error:  # a template is a program: it may fail in any way
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"the chat template of '{name}' fails on {shown(prompt)} ({reason}); fix it or pass "
            "another one"
        ) from error


def render_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, Any]], *, opening: bool = True
) -> str:
    """Any turns as the template writes them, with the same switches and date everywhere.

    Args:
        tokenizer: Holds the template, which may raise anything.
        turns: ``role`` and ``content`` of each turn.
        opening: Whether the opening of a reply follows.
    """
    switches: dict[str, Any] = {THINKING_SWITCH: False} if has_thinking_switch(tokenizer) else {}
    if asks_for_date(tokenizer):
        switches["chat_template"] = pin_template(tokenizer)
    conversation: Any = list(turns)
    rendered = tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=opening, **switches
    )
    return str(rendered)


def pin_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template, always told ``PINNED_DATE`` where it asks for today's date."""
    template = str(tokenizer.get_chat_template())
    return _pinned_date() + template if asks_for_date(tokenizer) else template


@cache
def _pinned_date() -> str:
    """A macro in the place of the function that tells a template the date."""
    text = "format"
    for letter in "aAbBcdDeFfGHIjmMpSTuUVwWxXyYzZ%":
        for code in (f"%-{letter}", f"%{letter}"):
            with suppress(ValueError):  # not every system knows every code
                text += f" | replace({code!r}, {PINNED_DATE.strftime(code)!r})"
    # The plus keeps a line break with which the template itself begins.
    return f"{{% macro {_DATE_FUNCTION}(format) %}}{{{{ {text} }}}}{{% endmacro +%}}"


def asks_for_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template reads today's date."""
    return _DATE_FUNCTION in str(tokenizer.chat_template)


def missing_opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands before a reply in a conversation, but not at the end of a templated prompt.

    Empty where the template writes the opening of a reply when it is asked to, needs none (that of
    Mistral does not), or does not tell.
    """
    with suppress(Exception):  # a template is a program: it may fail in any way
        prompt, without = (
            render_turns(tokenizer, _EXCHANGE[:1], opening=one) for one in (True, False)
        )
        whole = render_turns(tokenizer, _EXCHANGE, opening=False)
        if prompt == without and whole.startswith(prompt):
            return whole[len(prompt) :].partition(_REPLY_PROBE)[0].strip()
    return ""


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the template puts right after a reply; None where it puts no single one."""
    with suppress(Exception):  # a template is a program: it may fail in any way
        whole = render_turns(tokenizer, _EXCHANGE, opening=False)
        _, probe, after = whole.rpartition(_REPLY_PROBE)
        ids = tokenizer(after.lstrip() if probe else "", add_special_tokens=False)["input_ids"]
        named = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        if ids and ids[0] in named and ids[0] != tokenizer.bos_token_id:
            return int(ids[0])
    return None


def template_warnings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a template does that spoils or changes results without being an error."""
    warnings = []
    missing = missing_opening(tokenizer)
    if missing:
        warnings.append(
            "the chat template never opens the reply (add_generation_prompt has no effect, "
            f"{shown(missing)} is missing at the end of prompts): the model may go on with the "
            "user's turn, and its refusals are not those that users see; pass a template with "
            "--chat-template FILE that adds it where add_generation_prompt is set"
        )
    if asks_for_date(tokenizer):
        warnings.append(
            f"the chat template asks for today's date and is always told {PINNED_DATE:%d %b %Y}: "
            "the same prompt gives the same tokens on every day"
        )
    system = own_system_prompt(tokenizer)
    if system:
        warnings.append(
            f"the chat template has a system prompt of its own ({shown(system)}), which is there "
            "in every prompt unless you give one: refusals may differ from those under another"
        )
    if any(mark in str(tokenizer.chat_template) for mark in _THOUGHTS) and not has_thinking_switch(
        tokenizer
    ):
        warnings.append(
            "the model thinks before it answers and its chat template has no switch for that: give "
            "replies enough tokens to get past the thoughts (--new-tokens)"
        )
    return warnings


def own_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a template says before the first turn of the user by itself; empty for nothing.

    Marks of turns and names of roles are no words.
    """
    with suppress(Exception):  # a template is a program: it may fail in any way
        before, _, _ = render_turns(tokenizer, _EXCHANGE[:1]).partition(_PROBE)
        for token in tokenizer.all_special_tokens:
            before = before.replace(token, " ")
        words = _MARK.sub(" ", before).split()
        return " ".join(words) if len(words) >= _FEWEST_WORDS else ""
    return ""


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
    path = user_path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"chat template {shown(text)} is neither a Jinja template nor a readable UTF-8 file "
            f"({type(error).__name__})"
        ) from error
    check_no_pointer(path, content.encode())
    return content
