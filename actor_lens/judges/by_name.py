"""A judge by its name, as the command line and notebooks give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from actor_lens.errors import UserError
from actor_lens.judges.base import Judge
from actor_lens.judges.first_token import FirstTokenJudge
from actor_lens.judges.keywords import (
    KEYWORD_LISTS,
    KeywordJudge,
    judge_from_file,
    judge_of_language,
    named_judge,
)
from actor_lens.text import clip

if TYPE_CHECKING:
    from actor_lens.judges.language_model import JudgingCost

JUDGES = (
    *KEYWORD_LISTS,
    "keywords:LANGUAGE",
    "keywords=FILE",
    "first-token",
    "llm:MODEL",
    "llm-binary:MODEL",
    "wildguard[=NAME|DIR]",
    "llama-guard[=NAME|DIR]",
)


def as_judge(judge: Judge | str | None) -> Judge:
    """A judge, given as one or by its name; the keyword judge where none is given.

    Args:
        judge: Any judge, or a name that ``make_judge`` takes.

    Raises:
        UserError: If it is neither, or ``make_judge`` refuses the name.
    """
    if judge is None:
        return KeywordJudge()
    if isinstance(judge, str):
        return make_judge(judge)
    if isinstance(judge, Judge) and not isinstance(judge, type):
        return judge
    raise UserError(
        f"judge is {clip(repr(judge), 60)}; give a judge, or the name of one: {', '.join(JUDGES)}"
    )


def make_judge(
    name: str = "keywords", *, on_estimate: Callable[[JudgingCost], None] | None = None
) -> Judge:
    """Make a judge.

    ``keywords``, ``openings``, ``strict-openings``, ``phrases-anywhere``: a keyword list.
    ``keywords:LANGUAGE``: the list of one of ten languages beside English, such as ``keywords:de``,
    or of all with English, ``keywords:any``. ``keywords=FILE``: phrases of a file, one a line.
    ``first-token``: the first-token refusal score. ``llm:MODEL``: a language model at
    ``OPENAI_BASE_URL``, with the key in ``OPENAI_API_KEY``. ``llm-binary:MODEL``: the same, asked
    two questions of yes or no, as the paper's judge is; its safety score counts replies that are
    not harmful. ``wildguard`` and ``llama-guard``: classifier checkpoints, the published ones
    unless a hub name or folder follows.

    Args:
        name: Name of the judge, one of these.
        on_estimate: Called with what judging will cost before a language model is asked.

    Raises:
        UserError: If there is no such judge, or it cannot be made: no key, no file, no checkpoint.
    """
    kind, equals, place = name.strip().partition("=")
    if not equals and kind in KEYWORD_LISTS:
        return named_judge(kind)
    if kind.startswith("keywords:") and not equals:
        return judge_of_language(kind.removeprefix("keywords:"))
    if kind == "keywords" and place:
        return judge_from_file(place)
    if not equals and kind == "first-token":
        return FirstTokenJudge()
    asked, colon, model = name.strip().partition(":")
    if colon and asked in ("llm", "llm-binary"):
        from actor_lens.judges.language_model import LanguageModelJudge
        from actor_lens.judges.rubrics import THREE_CLASSES, TWO_QUESTIONS

        rubrics = TWO_QUESTIONS if asked == TWO_QUESTIONS.judge else THREE_CLASSES
        return LanguageModelJudge(model, rubrics=rubrics, on_estimate=on_estimate)
    if kind in ("wildguard", "llama-guard") and bool(equals) == bool(place):
        from actor_lens.judges import classifiers

        if kind == "wildguard":
            template = classifiers.WILDGUARD_TEMPLATE
            checkpoint = classifiers.load_classifier(place or classifiers.WILDGUARD, template)
            return classifiers.WildGuardJudge(checkpoint)
        checkpoint = classifiers.load_classifier(place or classifiers.LLAMA_GUARD)
        return classifiers.LlamaGuardJudge(checkpoint)
    raise UserError(f"judge '{name}' is not known; give one of {', '.join(JUDGES)}")
