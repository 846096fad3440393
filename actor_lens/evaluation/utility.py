"""What a fine-tune costs elsewhere: divergence, perplexity and benchmarks, before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from actor_lens.errors import UserError
from actor_lens.evaluation.divergence import Applicable, next_token_divergence, reply_divergence
from actor_lens.evaluation.harness import TaskScores, check_tasks, run_tasks
from actor_lens.evaluation.perplexity import check_text, perplexity
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, records
from actor_lens.text import plural
from actor_lens.training.run import TrainingRun

# The paper's headline: general performance changes by at most this many percent.
PAPER_CLAIM = 1.5
_NAN = float("nan")


@dataclass(frozen=True)
class Measure:
    """One figure before and after.

    Attributes:
        measure: What was measured, in words.
        unit: ``"nats"`` for a divergence, ``"perplexity"``, or the metric of a task.
        n: Number of prompts, tokens or questions.
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
            self.unit not in ("nats", "perplexity")
            and 0 <= min(self.before, self.after) <= max(self.before, self.after) <= 1
        )

    @property
    def within_claim(self) -> bool | None:
        """Whether it changed by at most 1.5 percent (points for shares); None without a change."""
        return None if math.isnan(self.change) else abs(self.change) <= PAPER_CLAIM

    @property
    def too_few(self) -> bool:
        """Whether chance alone moves it by more than the claim is about."""
        return self.is_share and 100 * self.stderr > PAPER_CLAIM


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
        (percentage points for shares, else percent; NaN for a divergence), ``within_claim``
        (of the paper's 1.5 percent, None without a change).
        """
        rows = [
            {**vars(each), "change": each.change, "within_claim": each.within_claim}
            for each in self.measures
        ]
        names = [field.name for field in fields(Measure)]
        return pd.DataFrame(rows, columns=[*names, "change", "within_claim"])

    @property
    def claim(self) -> str:
        """What became of the paper's claim that utility changes by at most 1.5 percent."""
        compared = [each for each in self.measures if each.within_claim is not None]
        if not compared:
            return f"Whether utility changed by at most {PAPER_CLAIM} % was not measured."
        most = max(compared, key=lambda each: abs(each.change))
        held = sum(bool(each.within_claim) for each in compared)
        few = [each.measure for each in compared if each.too_few]
        doubt = (
            f" Too few questions to tell in {', '.join(few)}: the standard error alone is more "
            f"than {PAPER_CLAIM} points."
        )
        return (
            f"Utility changed by at most {PAPER_CLAIM} % in {held} of {len(compared)} measures "
            f"(the paper's claim); the largest change is {most.change:+.2f} "
            f"{'points' if most.is_share else '%'}, in {most.measure}.{doubt if few else ''}"
        )

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
                f"this is no summary of utility ({type(error).__name__}: {error}); give the folder "
                "that actor-lens utility wrote"
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

    Raises:
        UserError: As the parts do, or if there is nothing to measure.
    """
    if prompts is None and text is None and not tasks:
        raise UserError("nothing to measure; give benign prompts, a text or tasks")
    if isinstance(run, TrainingRun):
        run.check_belongs_to(model)
    # Before minutes go into other measures.
    if text is not None:
        check_text(model, text, window=window, stride=stride)
    if tasks:
        check_tasks(tasks, include_path=include_path, limit=limit, num_fewshot=num_fewshot)
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
    if tasks:
        settings: dict[str, Any] = {
            "include_path": include_path,
            "limit": limit,
            "num_fewshot": num_fewshot,
            "chat": chat,
        }
        before = run_tasks(model, tasks, **settings)
        measures += _task_measures(before, run_tasks(model, tasks, run=run, **settings))
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


def _task_measures(before: TaskScores, after: TaskScores) -> list[Measure]:
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
    ]


def _measure(row: Mapping[str, Any]) -> Measure:
    """A measure from its plain values; None stands for NaN."""
    values = {field.name: row[field.name] for field in fields(Measure)}
    for name in ("before", "after", "stderr"):
        values[name] = _NAN if values[name] is None else float(values[name])
    return Measure(**values)
