"""MT-Bench: conversations of two turns whose replies a language model rates from 1 to 10.

The questions are the user's file, or fetched from the hub; none come with the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from actor_lens.errors import UserError
from actor_lens.evaluation.divergence import Applicable
from actor_lens.files.paths import user_path
from actor_lens.judges.base import Judge
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.language_model import LanguageModelJudge
from actor_lens.judges.rubrics import rating_question
from actor_lens.judges.thoughts import answer_in
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import LaterMessage
from actor_lens.models.replies import generate_replies
from actor_lens.progress import stage
from actor_lens.prompts.public.catalogue import BenchmarkSet
from actor_lens.prompts.public.files import rows_of
from actor_lens.prompts.public.hub import hub_rows
from actor_lens.prompts.public.rows import Reading, Row
from actor_lens.results import Result
from actor_lens.text import plural

HUB = "hub"
NEW_TOKENS = 1024
TURNS = 2
_FORM = (
    'MT-Bench has a row a question with "category", "turns" (or "prompt"), a list of two texts, '
    'and "reference", a list of two answers or none'
)


@dataclass(frozen=True)
class Question:
    """A question of MT-Bench and what is asked next.

    Attributes:
        category: Its kind, such as ``"writing"``.
        turns: The two messages of the user.
        references: A right answer to each, None where the set has none.
    """

    category: str
    turns: tuple[str, ...]
    references: tuple[str | None, ...] = (None,) * TURNS


@dataclass(frozen=True, repr=False)
class Ratings(Result):
    """What a judge says of the replies of a model to MT-Bench.

    Attributes:
        questions: The questions.
        ratings: Of each question the rating of both replies, 1 to 10; None where the judge could
            not be read.
        judge: Name of the judge.
    """

    questions: tuple[Question, ...]
    ratings: tuple[tuple[int | None, ...], ...]
    judge: str

    def frame(self) -> pd.DataFrame:
        """One row a question and turn: ``category``, ``question``, ``turn``, ``rating``.

        A rating that could not be read is NaN; no reply is in the table.
        """
        rows = [
            (question.category, number, turn, math.nan if rating is None else rating)
            for number, (question, both) in enumerate(
                zip(self.questions, self.ratings, strict=True), start=1
            )
            for turn, rating in enumerate(both, start=1)
        ]
        return pd.DataFrame(rows, columns=["category", "question", "turn", "rating"])

    def _headline(self) -> str:
        mean = self.frame()["rating"].mean()
        questions = plural(len(self.questions), "question")
        return f"Ratings: {questions}, {mean:.2f} of 10 by {self.judge}"


def read_mt_bench(source: str | Path) -> tuple[Question, ...]:
    """The questions of MT-Bench.

    Args:
        source: A file (``question.jsonl`` as FastChat has it, or any table with these columns), a
            folder with that file and perhaps ``reference_answer/*.jsonl``, or ``"hub"``.

    Raises:
        UserError: If it cannot be read or fetched, or is of another form; the message names the
            row.
    """
    if source == HUB:
        return tuple(_question(row, {}) for row in hub_rows(_SET)[0])
    path = user_path(source)
    own = path / "question.jsonl"
    answers = path / "reference_answer"
    rows = rows_of(own if own.is_file() else path, _SET)
    if not rows:
        raise UserError(f"{path}: has no rows; {_FORM}")
    apart = dict(map(_reference, rows_of(answers, _SET))) if answers.is_dir() else {}
    return tuple(_question(row, apart) for row in rows)


def rate_mt_bench(
    model: ChatModel,
    questions: Sequence[Question],
    judge: Judge | str,
    *,
    run: Applicable | None = None,
    new_tokens: int = NEW_TOKENS,
) -> Ratings:
    """Let a model answer both turns of each question, and a language model rate the replies.

    Replies are greedy, in every category. The second turn follows the model's own first reply,
    without its thoughts. A reply that ends inside a thought is rated as an empty one.

    Args:
        model: The model as it is now.
        questions: From ``read_mt_bench``.
        judge: A ``LanguageModelJudge``, or ``"llm:MODEL"``.
        run: A run or another fitted method that is put in place meanwhile.
        new_tokens: Longest reply, in tokens; 1,024 is MT-Bench's own.

    Raises:
        UserError: If the judge is none that rates or cannot be asked, or a conversation does not
            fit into the model.

    Source: Zheng et al. 2023 (arXiv 2306.05685).
    """
    rater = check_rater(judge)
    with nullcontext(model) if run is None else run.applied_to(model) as asked:
        first = _replies(asked, [question.turns[0] for question in questions], new_tokens)
        later = [
            LaterMessage(question.turns[1], (question.turns[0], reply))
            for question, reply in zip(questions, first, strict=True)
        ]
        second = _replies(asked, later, new_tokens)
    texts = [
        text
        for question, *replies in zip(questions, first, second, strict=True)
        for text in _to_rate(question, replies)
    ]
    ratings = rater.ratings(texts)
    by_question = tuple(zip(ratings[::2], ratings[1::2], strict=True))
    return Ratings(tuple(questions), by_question, rater.name)


def check_rater(judge: Judge | str | None) -> LanguageModelJudge:
    """The judge, if it is one that rates.

    Raises:
        UserError: If it is not, or cannot be made.
    """
    made = as_judge(judge)
    if not isinstance(made, LanguageModelJudge):
        raise UserError(
            f"the judge '{made.name}' gives no ratings, and MT-Bench is rated by a language model; "
            "give --judge llm:MODEL (judge='llm:MODEL')"
        )
    return made


def mean_rating(ratings: pd.DataFrame) -> tuple[float, float]:
    """The mean of some ratings, and its standard error over the questions.

    Both turns of a question are about one thing, so questions are what is counted.
    """
    by_question = ratings.groupby("question")["rating"].mean()
    spread = float(by_question.std() / np.sqrt(len(by_question)))  # NaN for one
    return float(ratings["rating"].mean()), spread


def _replies(model: ChatModel, prompts: Sequence[str], new_tokens: int) -> list[str]:
    with stage("MT-Bench replies"):
        replies = generate_replies(model, prompts, new_tokens=new_tokens)
    return [answer_in(reply) or "" for reply in replies]


def _to_rate(question: Question, replies: Sequence[str]) -> Iterator[str]:
    said: list[str] = []
    for asked, reply, reference in zip(question.turns, replies, question.references, strict=True):
        said += [asked, reply]
        yield rating_question(said, reference)


# ---- Rows of MT-Bench ----


def _question(row: Row, references: Mapping[str, tuple[str, ...]]) -> Question:
    category, turns = row.text("category"), _texts(row.get("turns", "prompt"))
    own = row.get("reference")
    told = references.get(row.text("question_id"), () if own is None else _texts(own))
    asked = len(turns or ()) == TURNS and all(map(str.strip, turns or ()))
    if not category or turns is None or not asked or told is None or len(told) > TURNS:
        raise UserError(f"{row.place}: is no question of MT-Bench; {_FORM}")
    filled = (*told, *[""] * TURNS)[:TURNS]
    return Question(category, turns, tuple(text.strip() or None for text in filled))


def _reference(row: Row) -> tuple[str, tuple[str, ...]]:
    """A row of FastChat's reference answers: the number of its question, and both answers."""
    choices: Any = row.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    texts = _texts(first.get("turns")) if isinstance(first, Mapping) else None
    if texts is None or len(texts) != TURNS:
        raise UserError(
            f'{row.place}: is no reference answer of MT-Bench; a row has "question_id" and '
            '"choices", of which the first has "turns", a list of two texts'
        )
    return row.text("question_id"), texts


def _texts(value: Any) -> tuple[str, ...] | None:
    """The texts of a list; None where it is no list, or holds anything else."""
    given = tuple(value) if isinstance(value, list | tuple | np.ndarray) else None
    known = given is not None and all(isinstance(text, str) for text in given)
    return given if known else None


def _no_prompt(_row: Row) -> Reading:
    raise NotImplementedError("questions of MT-Bench have no label")


_SET = BenchmarkSet(
    name="--mt-bench",  # how messages say that a file is to be given
    title="MT-Bench",
    labels=(),
    why="",
    licence="Apache-2.0",
    citation="Zheng et al.: Judging LLM-as-a-Judge with MT-Bench, arXiv 2306.05685",
    page="https://huggingface.co/datasets/HuggingFaceH4/mt_bench_prompts",
    read=_no_prompt,
    hub="HuggingFaceH4/mt_bench_prompts",
    splits=("train",),
)
