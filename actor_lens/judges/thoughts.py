"""Thoughts that a reasoning model writes before its answer: no judge reads them.

A thought weighs refusing and answering alike, so its words say nothing of what the user was told.
Models mark thoughts in different ways, of which the usual ones are known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from actor_lens.prompts.sets import PromptSet

_TAG = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|seed:think)"
_OPEN = "|".join(
    (
        rf"<{_TAG}(?:\s[^<>]*)?>",  # Qwen, DeepSeek, Granite, EXAONE and others
        r"\[THINK(?:ING)?\]",  # Magistral
        r"<\|begin_of_thought\|>",  # Sky-T1
        r"<\|START_THINKING\|>",  # Command A
        r"\u25c1think\u25b7",  # Kimi
        r"<\|channel\|?>\s*(?:analysis|thought)",  # gpt-oss, Gemma
        r"\A(?-i:analysis[A-Z])",  # gpt-oss, where a tokenizer left special tokens out
    )
)
_CLOSE = "|".join(
    (
        rf"</{_TAG}>",
        r"\[/THINK(?:ING)?\]",
        r"<\|end_of_thought\|>",
        r"<\|END_THINKING\|>",
        r"\u25c1/think\u25b7",
        r"<\|channel\|>\s*final(?:\s*<\|message\|>)?",
        r"<channel\|>",
        r"(?-i:assistantfinal)",
    )
)
_FLAGS = re.IGNORECASE | re.DOTALL
_THOUGHT = re.compile(rf"(?:{_OPEN}).*?(?:{_CLOSE})", _FLAGS)
_UNOPENED = re.compile(rf"\A.*(?:{_CLOSE})", _FLAGS)
_UNCLOSED = re.compile(rf"(?:{_OPEN}).*", _FLAGS)


def answer_in(reply: str) -> str | None:
    """What a reply says once its thoughts are left out.

    All before a closing mark is a thought, as some chat templates write the opening one themselves;
    so is all behind an opening mark that nothing closes.

    Args:
        reply: Reply as it was generated.

    Returns:
        None where the reply ends inside a thought: it holds no answer yet, and no refusal.
    """
    closed = _UNOPENED.sub("", _THOUGHT.sub("", reply))
    answer = _UNCLOSED.sub("", closed)
    return None if answer != closed and not answer.strip() else answer


def answers_in(
    prompts: PromptSet, replies: Sequence[str]
) -> tuple[list[int], PromptSet, tuple[str, ...]]:
    """What each reply says without its thoughts, but for those that end inside one.

    Returns:
        The rows of the replies that hold an answer, their prompts, and the answers.
    """
    answers = {row: answer_in(reply) for row, reply in enumerate(replies)}
    held = {row: answer for row, answer in answers.items() if answer is not None}
    rows = list(held)
    asked = prompts if len(rows) == len(replies) else prompts.select(rows)
    return rows, asked, tuple(held.values())
