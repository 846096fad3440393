"""A model before and with a run: its replies, judged by one judge or by several.

How far judges agree says how much of a rate, and of a change of it, is the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from actor_lens.errors import UserError
from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.evaluation.panel import JudgePanel, judge_panel
from actor_lens.evaluation.summary import before_after
from actor_lens.experiments.clock import Clock, round_seconds
from actor_lens.judges.base import Judge
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.first_token import FirstTokenJudge, with_tokens
from actor_lens.judges.openings import refusal_openings
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage, warn
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain, records, versions
from actor_lens.text import percent, plural
from actor_lens.training.run import TrainingRun


@dataclass(frozen=True, eq=False, repr=False)
class RunEvaluation(Result):
    """A model on the test and out-of-distribution prompts, with and without a run.

    Attributes:
        model_name: The model.
        run: The run, or None where only the model was evaluated.
        before: The untouched model.
        after: The model with the run applied.
        seconds: Time of each part.
    """

    model_name: str
    run: TrainingRun | None
    before: Evaluation
    after: Evaluation | None
    seconds: Mapping[str, float]

    _hint = "figure: al.figures.refusal_rates(before=one.before, after=one.after)"

    def frame(self) -> pd.DataFrame:
        """One row a prompt, of one evaluation or of both (``EvaluationChange.examples``)."""
        if self.after is None:
            return self.before.frame()
        return compare_evaluations(self.before, self.after).examples()

    def summary(self) -> dict[str, Any]:
        """The record that ``summary.json`` holds."""
        return {
            "model": self.model_name,
            "prompts": self.before.prompts.name,
            "layer": self.run.layer if self.run is not None else None,
            **before_after(self.before, self.after),
            "score_agreement": plain(self.before.score_agreement.summary()),
            "fingerprints": {"prompts": self.before.prompts.fingerprint},
            "seconds": round_seconds(self.seconds),
            "versions": versions(),
        }

    def _headline(self) -> str:
        rates = [percent(self.before.where("test").tradeoff_score)]
        if self.after is not None:
            rates.append(percent(self.after.where("test").tradeoff_score))
        run = "no run" if self.run is None else f"a run of layer {self.run.layer}"
        return (
            f"RunEvaluation of {self.model_name} and {run}: "
            f"{plural(len(self.before.prompts), 'prompt')}; trade-off score {' to '.join(rates)}"
        )


def evaluate_run(
    model: ChatModel,
    prompts: PromptSet,
    run: TrainingRun | None = None,
    *,
    judge: Judge | str | None = None,
    new_tokens: int = 64,
) -> RunEvaluation:
    """Evaluate a model on the test and out-of-distribution prompts, and again with a run applied.

    Args:
        model: Left as it is.
        prompts: Prompts with a test split; with a validation split on which the model refuses
            harmful prompts, first-token refusal scores are given too.
        run: A fine-tune of this model.
        judge: Judge of the replies; the keyword judge unless given.
        new_tokens: Longest reply, in tokens.

    Raises:
        UserError: If there are no test prompts, or the run belongs to another model.
    """
    if run is not None:
        run.check_belongs_to(model)
    judge = as_judge(judge)
    tested, clock, after, tokens = prompts.for_testing(), Clock(), None, None
    # Nothing where the model refuses nothing there.
    with suppress(UserError), stage("how refusals begin"):
        tokens = refusal_openings(model, prompts["validation"]).simplest
    ask = partial(evaluate, model, tested, judge=judge, tokens=tokens, new_tokens=new_tokens)
    with clock("evaluate"):
        with stage("replies (before)"):
            before = ask()
        if not isinstance(judge, FirstTokenJudge):
            for warning in before.score_agreement.warnings:
                warn(warning)
        if run is not None:
            with run.applied_to(model), stage("replies (after)"):
                after = ask()
    return RunEvaluation(model.name, run, before, after, clock.seconds)


@dataclass(frozen=True, eq=False, repr=False)
class PanelEvaluation(Result):
    """A model before and with a run, and what each judge says of its replies.

    Attributes:
        evaluated: The evaluation by the first judge.
        before: All judges on the replies of the untouched model.
        after: All judges on those with the run applied, or None where there is no run.
    """

    evaluated: RunEvaluation
    before: JudgePanel
    after: JudgePanel | None

    _hint = "how far the judges agree: .agreement()"

    @property
    def panels(self) -> dict[str, JudgePanel]:
        """The panels by when the replies were given: ``"before"``, and ``"after"`` with a run."""
        both = {"before": self.before, "after": self.after}
        return {when: panel for when, panel in both.items() if panel is not None}

    def frame(self) -> pd.DataFrame:
        """One row a prompt: the columns of ``RunEvaluation.frame``, by the first judge.

        Of replies to harmful prompts it holds less: see ``JudgePanel.shown_replies``.
        """
        suffixed = self.after is not None
        replies = {
            f"reply_{when}" if suffixed else "reply": list(panel.shown_replies())
            for when, panel in self.panels.items()
        }
        return self.evaluated.frame().assign(**replies)

    def by_reply(self) -> pd.DataFrame:
        """One row a reply: ``when`` (before, after), and the columns of ``JudgePanel.by_reply``."""
        return _by_time({when: panel.by_reply() for when, panel in self.panels.items()})

    def agreement(self) -> pd.DataFrame:
        """``when`` (before, after), and the columns of ``JudgePanel.agreement``."""
        return _by_time({when: panel.agreement() for when, panel in self.panels.items()})

    def summary(self) -> dict[str, Any]:
        """The record of ``RunEvaluation``, with the rates by each judge and how far they agree."""
        judged = {
            name: before_after(
                self.before.judged_by(name), self.after.judged_by(name) if self.after else None
            )
            for name in self.before.judges
        }
        return {
            **self.evaluated.summary(),
            "judges": judged,
            "agreement": records(self.agreement()),
        }

    def _headline(self) -> str:
        return f"{len(self.before.judges)} judges on {self.evaluated._headline()}"


def _by_time(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables below one another, the name of each in the first column ``when``."""
    return pd.concat(tables, names=["when"]).reset_index("when").reset_index(drop=True)


def evaluate_by_panel(
    model: ChatModel,
    prompts: PromptSet,
    run: TrainingRun | None = None,
    *,
    judges: Sequence[Judge | str],
    new_tokens: int = 64,
) -> PanelEvaluation:
    """Evaluate as ``evaluate_run`` does, and let further judges judge the same replies.

    Args:
        model: Left as it is.
        prompts: Prompts with a test split; with a validation split if a judge reads first tokens.
        run: A fine-tune of this model.
        judges: At least two, all different, or their names; the first one's rates are those of
            the evaluation.
        new_tokens: Longest reply, in tokens.

    Raises:
        UserError: As ``evaluate_run`` and ``judge_panel``, or if there are not two judges.
    """
    chosen = [as_judge(judge) for judge in judges]
    check_judges(chosen)
    if any(isinstance(judge, FirstTokenJudge) and judge.tokens is None for judge in chosen):
        with stage("how refusals begin"):
            tokens = refusal_openings(model, prompts["validation"]).simplest
        chosen = [with_tokens(judge, tokens) for judge in chosen]
    evaluated = evaluate_run(model, prompts, run, judge=chosen[0], new_tokens=new_tokens)
    before = judge_panel(evaluated.before, chosen)
    after = None if evaluated.after is None else judge_panel(evaluated.after, chosen)
    return PanelEvaluation(evaluated, before, after)


def check_judges(judges: Sequence[Judge]) -> None:
    """Check that there are judges to compare, before replies are given.

    Raises:
        UserError: If there are fewer than two, or one is given twice.
    """
    if len(judges) < 2:
        given = "1 judge was" if judges else "0 judges were"
        raise UserError(f"{given} given; give at least two, to be compared")
    seen: set[str] = set()
    for judge in judges:
        if judge.identity in seen:
            raise UserError(f"the judge '{judge.name}' is given twice; give each of them once")
        seen.add(judge.identity)
