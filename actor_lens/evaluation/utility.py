"""What a fine-tune costs elsewhere: divergence, perplexity and benchmarks, before and after.

The paper makes two claims, each about one benchmark: that MT-Bench stays within 1.5 % and MMLU
within 1 %. A measure is held against the claim about it, or against none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from actor_lens.errors import UserError
from actor_lens.evaluation import mt_bench as mt
from actor_lens.evaluation.divergence import Applicable, next_token_divergence, reply_divergence
from actor_lens.evaluation.harness import TaskScores, check_tasks, run_tasks
from actor_lens.evaluation.perplexity import check_text, perplexity
from actor_lens.judges.base import Judge
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, records
from actor_lens.text import plural
from actor_lens.training.run import TrainingRun

MT_BENCH, MMLU, WIKITEXT = "MT-Bench", "MMLU", "WikiText-2"
CLAIMS = {MT_BENCH: 1.5, MMLU: 1.0}
"""By at most how many percent the paper says that a benchmark changes (points for a share)."""
RATING = "rating of 10"
_WIKITEXT = re.compile(r"perplexity of .*wiki(?:text|\.test).*", re.IGNORECASE)
# MMLU or a table of one's own under a name like that; below, what is in it but its four groups.
_MMLU = re.compile(r"(?:.+_)?mmlu(?: \(.*)?")
_SUBJECTS = re.compile(r"(?:.+_)?mmlu_(?!(?:stem|humanities|social_sciences|other)$).*")
_NAN = float("nan")


@dataclass(frozen=True)
class Measure:
    """One figure before and after.

    Attributes:
        measure: What was measured, in words.
        unit: ``"nats"`` for a divergence, ``"perplexity"``, ``"rating of 10"``, or the metric of a
            task.
        n: Number of prompts, tokens, questions or ratings.
        before: Figure of the untouched model; NaN for a divergence, which has no before.
        after: Figure with the run applied.
        stderr: Standard error of ``before`` over the questions; NaN where none is known.
    """

    measure: str
    unit: str
    n: int
    before: float
    after: float
    stderr: float = _NAN

    @property
    def change(self) -> float:
        """Percentage points for shares, else percent of ``before``; NaN without a before."""
        if math.isnan(self.before) or not self.before:
            return _NAN
        if self.is_share:
            return 100 * (self.after - self.before)
        return 100 * (self.after / self.before - 1)

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1, such as an accuracy."""
        return (
            self.unit not in ("nats", "perplexity", RATING)
            and 0 <= min(self.before, self.after) <= max(self.before, self.after) <= 1
        )

    @property
    def benchmark(self) -> str | None:
        """The benchmark of the paper that this measures as a whole; None for others."""
        if self.measure == MT_BENCH and self.unit == RATING:
            return MT_BENCH
        if self.unit == "perplexity" and _WIKITEXT.fullmatch(self.measure):
            return WIKITEXT
        return MMLU if self.unit == "acc" and _MMLU.fullmatch(self.measure) else None

    @property
    def claim(self) -> float:
        """By at most how many percent or points the paper says that it changes; NaN for none."""
        return CLAIMS.get(self.benchmark or "", _NAN)

    @property
    def within_claim(self) -> bool | None:
        """Whether it changed by no more than the paper says; None without a claim about it."""
        unknown = math.isnan(self.change) or math.isnan(self.claim)
        return None if unknown else abs(self.change) <= self.claim

    @property
    def too_few(self) -> bool:
        """Whether chance alone moves it by more than the claim is about."""
        scale = 1 if self.is_share else self.before
        return 100 * self.stderr > self.claim * scale  # NaN is above nothing


_DERIVED = ("change", "claim", "within_claim")


@dataclass(frozen=True, repr=False)
class Utility(Result):
    """What a run costs where it should change nothing.

    Attributes:
        model_name: Name that the model was loaded by.
        layer: The trained block; None for a method without one.
        measures: The figures in the order in which they were taken.
    """

    model_name: str
    layer: int | None
    measures: tuple[Measure, ...]

    _hint = "in words: .claim"

    def frame(self) -> pd.DataFrame:
        """One row a measure.

        Columns: ``measure``, ``unit``, ``n``, ``before``, ``after``, ``stderr``, ``change``
        (percentage points for shares, else percent; NaN for a divergence), ``claim`` (by at
        most how much the paper says that it changes; NaN where it says nothing), ``within_claim``
        (None without a claim).
        """
        rows = [
            {**vars(each), **{name: getattr(each, name) for name in _DERIVED}}
            for each in self.measures
        ]
        names = [field.name for field in fields(Measure)]
        return pd.DataFrame(rows, columns=[*names, *_DERIVED])

    @property
    def claim(self) -> str:
        """What became of the paper's two claims, each about its own benchmark."""
        told = [_describe(each) for each in self.measures if each.within_claim is not None]
        measured = {each.benchmark for each in self.measures}
        told += [
            f"{name}, which the paper says stays within {most:g} %, was not measured."
            for name, most in CLAIMS.items()
            if name not in measured
        ]
        return " ".join(told)

    def summary(self) -> dict[str, Any]:
        """Plain values for ``summary.json``; None stands for what was not measured."""
        return {
            "model": self.model_name,
            "layer": self.layer,
            "claim": self.claim,
            "utility": records(self.frame()),
        }

    def _headline(self) -> str:
        place = "" if self.layer is None else f", layer {self.layer}"
        return f"Utility: {self.model_name}{place}, {plural(len(self.measures), 'measure')}"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Utility:
        """Utility from what ``summary`` gave, as a summary file holds it.

        Raises:
            UserError: If the record is not one of those.
        """
        try:
            measures = tuple(_measure(row) for row in record["utility"])
            return cls(record["model"], record["layer"], measures)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                "this is no summary of utility; give the folder that actor-lens utility wrote"
            ) from error


def measure_utility(
    model: ChatModel,
    run: Applicable,
    *,
    prompts: PromptSet | None = None,
    text: str | Path | None = None,
    tasks: Sequence[str] = (),
    include_path: str | Path | Sequence[str | Path] | None = None,
    window: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    new_tokens: int = 32,
    mt_bench: str | Path | Sequence[mt.Question] | None = None,
    judge: Judge | str | None = None,
    mt_bench_tokens: int = mt.NEW_TOKENS,
) -> Utility:
    """Measure what a run or another method changes where nothing should change.

    Args:
        model: The untouched model; it is as before afterwards.
        run: A fine-tune of one of its blocks, or any other method that was fitted.
        prompts: Prompts that the run should leave alone, so benign ones, for the divergence.
        text: A UTF-8 file, or the text itself, for the perplexity.
        tasks: Names of tasks of the lm-eval harness.
        include_path: A folder of task files of your own, or several.
        window: Most tokens in one pass of the perplexity.
        stride: Tokens by which the window of the perplexity moves on.
        limit: Most questions of each task.
        num_fewshot: Number of worked examples before each question.
        chat: Put the questions into the model's chat template.
        new_tokens: Longest reply along which the divergence is taken, in tokens.
        mt_bench: File or folder of MT-Bench, or ``"hub"``; or questions from ``read_mt_bench``.
        judge: Language model that rates its replies, such as ``"llm:gpt-4o"``.
        mt_bench_tokens: Longest of these replies, in tokens.

    Raises:
        UserError: As the parts do, or if there is nothing to measure.
    """
    if prompts is None and text is None and mt_bench is None and not tasks:
        raise UserError("nothing to measure; give benign prompts, a text, MT-Bench or tasks")
    if isinstance(run, TrainingRun):
        run.check_belongs_to(model)
    # Before minutes go into other measures.
    if text is not None:
        check_text(model, text, window=window, stride=stride)
    if tasks:
        check_tasks(tasks, include_path=include_path, limit=limit, num_fewshot=num_fewshot)
    questions: Sequence[mt.Question] = ()
    if mt_bench is not None:
        judge = mt.check_rater(judge)
        if isinstance(mt_bench, str | Path):
            mt_bench = mt.read_mt_bench(mt_bench)
        questions = mt_bench
    measures: list[Measure] = []
    if prompts is not None:
        first = next_token_divergence(model, run, prompts)
        along = reply_divergence(model, run, prompts, new_tokens=new_tokens)
        measures += [
            Measure(f"KL divergence, {what}", "nats", len(prompts), _NAN, divergence.mean)
            for what, divergence in (("first reply token", first), ("mean along replies", along))
        ]
    if text is not None:
        measures.append(_perplexities(model, run, text, window, stride))
    if questions and judge is not None:
        rate = partial(mt.rate_mt_bench, model, questions, judge, new_tokens=mt_bench_tokens)
        measures += _ratings(rate().frame(), rate(run=run).frame())
    if tasks:
        settings: dict[str, Any] = {
            "include_path": include_path,
            "limit": limit,
            "num_fewshot": num_fewshot,
            "chat": chat,
        }
        with stage("tasks before"):
            before = run_tasks(model, tasks, **settings)
        with stage("tasks after"):
            after = run_tasks(model, tasks, run=run, **settings)
        measures += _task_measures(before, after, asked=tasks)
    layer = run.layer if isinstance(run, TrainingRun) else None
    return Utility(model.name, layer, tuple(measures))


def _perplexities(
    model: ChatModel,
    run: Applicable,
    text: str | Path,
    window: int | None,
    stride: int | None,
) -> Measure:
    with stage("perplexity before"):
        before = perplexity(model, text, window=window, stride=stride)
    with stage("perplexity after"):
        after = perplexity(model, text, run=run, window=window, stride=stride)
    name = Path(before.text).name if "\n" not in before.text else before.text
    return Measure(f"perplexity of {name}", "perplexity", before.tokens, before.value, after.value)


def _ratings(before: pd.DataFrame, after: pd.DataFrame) -> list[Measure]:
    """All of MT-Bench, each turn and each category, of replies that were rated both times."""
    both = before["rating"].notna() & after["rating"].notna()
    parts = {MT_BENCH: both}
    parts |= {f"{MT_BENCH}, turn {turn}": both & (before["turn"] == turn) for turn in (1, 2)}
    for category in dict.fromkeys(before["category"]):
        parts[f"{MT_BENCH}, {category}"] = both & (before["category"] == category)
    measures = []
    for name, rows in parts.items():
        (first, spread), (second, _) = (mt.mean_rating(table[rows]) for table in (before, after))
        measures.append(Measure(name, RATING, int(rows.sum()), first, second, spread))
    return measures


def _describe(measure: Measure) -> str:
    """A sentence on a measure that the paper makes a claim about."""
    unit = "points" if measure.is_share else "%"
    kept = "and it did" if measure.within_claim else "and it did not"
    asked = "ratings" if measure.unit == RATING else "questions"
    doubt = (
        f" Its {measure.n:,} {asked} are too few to tell: their standard error is more than that."
    )
    return (
        f"{measure.benchmark} changed by {measure.change:+.2f} {unit}; the paper says that it "
        f"stays within {measure.claim:g} %, {kept} here.{doubt if measure.too_few else ''}"
    )


def _task_measures(before: TaskScores, after: TaskScores, *, asked: Sequence[str]) -> list[Measure]:
    """One measure a score; subjects of MMLU are left out where the group they are in is there."""
    groups = tuple(f"{score.task}_" for score in before.scores)
    return [
        Measure(
            f"{first.task} ({first.few_shot}-shot)",
            first.metric,
            first.samples,
            first.value,
            second.value,
            first.stderr,
        )
        for first, second in zip(before.scores, after.scores, strict=True)
        if first.task in asked
        or not _SUBJECTS.fullmatch(first.task)
        or not first.task.startswith(groups)
    ]


def _measure(row: Mapping[str, Any]) -> Measure:
    """A measure from its plain values; None stands for NaN."""
    values = {field.name: row[field.name] for field in fields(Measure)}
    for name in ("before", "after", "stderr"):
        values[name] = _NAN if values[name] is None else float(values[name])
    return Measure(**values)
