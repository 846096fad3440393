"""Outcomes of a sweep as they come, in memory and in a folder, and the run of the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.experiments.ledger import Ledger
from actor_lens.experiments.sweep.cells import CellOutcome, SweepCell, SweepWork
from actor_lens.judges.base import Judge
from actor_lens.judges.first_token import with_tokens
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.progress import stage
from actor_lens.prompts.rows import LABELS
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun

OUTCOMES_FILE = "sweep.jsonl"
BEST_FOLDER = "best"


@dataclass(eq=False)
class Tally:
    """Outcomes so far, and the weights of the best one.

    Attributes:
        cells: All cells, in the order of the grid.
        work: Model, prompts and settings that they share.
        folder: Folder that keeps outcomes and the best run; None for none.
        on_outcome: Function called with every outcome.
        outcomes: Outcomes so far, by cell.
        run: The latest run that may be wanted again; None where there is none.
        saved: The run that the folder holds, as far as it is known.
    """

    cells: Sequence[SweepCell]
    work: SweepWork
    folder: Path | None
    on_outcome: Callable[[CellOutcome], None] | None
    outcomes: dict[SweepCell, CellOutcome] = field(init=False)
    run: TrainingRun | None = field(init=False, default=None)
    saved: TrainingRun | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Read the outcomes that the folder holds."""
        path = None if self.folder is None else self.folder / OUTCOMES_FILE
        self._ledger = Ledger(
            path, self.work.about(), CellOutcome, lambda outcome: outcome.cell, work="sweep"
        )
        known = self._ledger.entries
        self.outcomes = {cell: known[cell] for cell in self.cells if cell in known}

    def add(self, outcome: CellOutcome, run: TrainingRun | None) -> None:
        """Take in what came of a cell; the best run is saved before its outcome is kept."""
        self.outcomes[outcome.cell] = outcome
        if run is not None and best_of(self._in_order()).cell == outcome.cell:
            self.run = run
            self._save(run)
        self._keep(outcome)

    def judge(self, count: int, judge: Judge | None, new_tokens: int) -> None:
        """Judge whole replies for the best cells that were not judged yet."""
        assert self.work.validation is not None
        judge = with_tokens(judge or KeywordJudge(), self.work.tokens)
        for cell, outcome in self.outcomes.items():
            if outcome.reply_judge != judge.identity:  # of another judge: not comparable
                self.outcomes[cell] = replace(outcome, reply_refused={}, reply_judge="")
        ranked = sorted(self._in_order(), key=lambda outcome: outcome.rank, reverse=True)
        chosen = [outcome for outcome in ranked[:count] if outcome.status != "failed"]
        with stage("replies of the best", len(chosen)) as done:
            for number, outcome in enumerate(chosen):
                if not outcome.reply_refused:
                    with self._run_of(outcome.cell).applied_to(self.work.model):
                        evaluation = evaluate(
                            self.work.model,
                            self.work.validation,
                            judge=judge,
                            tokens=self.work.tokens,
                            new_tokens=new_tokens,
                        )
                    shares = _shares(evaluation)
                    outcome = replace(outcome, reply_refused=shares, reply_judge=evaluation.judge)
                    self.outcomes[outcome.cell] = outcome
                    self._keep(outcome)
                done(number + 1)

    def best_run(self) -> TrainingRun:
        """The run of the best cell, trained again where its weights were not kept."""
        run = self._run_of(best_of(self._in_order()).cell)
        self._save(run)
        return run

    def _in_order(self) -> list[CellOutcome]:
        return [self.outcomes[cell] for cell in self.cells if cell in self.outcomes]

    def _run_of(self, cell: SweepCell) -> TrainingRun:
        settings = cell.settings(self.work.shared)
        if self.run is None or self.run.config != settings:
            self.run = self._load(settings)
        if self.run is None:
            ((_, self.run),) = self.work.run([cell])
            assert self.run is not None
        return self.run

    def _load(self, settings: FinetuneConfig) -> TrainingRun | None:
        """The run in the folder, if it is whole and has these settings."""
        if self.folder is None or not (self.folder / BEST_FOLDER).is_dir():
            return None
        try:
            run = TrainingRun.load(self.folder / BEST_FOLDER)
            run.check_belongs_to(self.work.model)
        except UserError:  # cut short while it was saved
            return None
        of_these = run.prompts_fingerprint == self.work.prompts.fingerprint
        if run.config != settings or not of_these or not run.state:
            return None
        self.saved = run
        return run

    def _save(self, run: TrainingRun) -> None:
        if self.folder is not None and run is not self.saved:
            run.save(self.folder / BEST_FOLDER)
            self.saved = run

    def _keep(self, outcome: CellOutcome) -> None:
        self._ledger.add(outcome)
        if self.on_outcome is not None:
            self.on_outcome(outcome)


def best_of(outcomes: Sequence[CellOutcome]) -> CellOutcome:
    """The first of the best; cells whose replies were judged go before others."""
    judged = [outcome for outcome in outcomes if outcome.reply_refused]
    return max(judged or outcomes, key=lambda outcome: outcome.rank)


def _shares(evaluation: Evaluation) -> dict[str, float]:
    present = [label for label in LABELS if label in evaluation.prompts.labels]
    return {label: rate.refused for label in present if (rate := evaluation.rate(label)).n}
