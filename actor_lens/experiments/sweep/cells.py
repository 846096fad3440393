"""One cell of a sweep: a layer, an alpha and a seed, trained on cached inputs and scored.

What a cell needs is small and its own, so cells can run anywhere and in any order with the same
result. Finished ones are noted in a file, one line each, and are not run again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from actor_lens.activations.residuals import BlockInputs
from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.statistics.rates import ranking_score
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.loop import train_block
from actor_lens.training.run import TrainingRun, TrainingStep
from actor_lens.training.safety_floor import ValidationChecks, trained_block


@dataclass(frozen=True)
class SweepCell:
    """What is tried: a layer with an alpha and a seed."""

    layer: int
    alpha: float
    seed: int

    def settings(self, shared: FinetuneConfig) -> FinetuneConfig:
        """The settings of this cell."""
        return replace(shared, layer=self.layer, alpha=self.alpha, seed=self.seed)


@dataclass(frozen=True)
class CellOutcome:
    """What came of a cell.

    Attributes:
        cell: What was tried.
        status: ``"completed"``, ``"diverged"``, or ``"failed"`` where it could not be trained.
        message: What a user should know about it.
        loss: Mean over the steps of the last epoch; NaN where there were none.
        refused: Share of validation prompts of each label that begins a refusal with the trained
            block in place; empty without validation prompts.
        reply_refused: The same by whole replies and the judge, where they were asked for.
        reply_judge: Identity of that judge.
        seconds: ``train`` and ``score``.
    """

    cell: SweepCell
    status: str
    message: str
    loss: float
    refused: Mapping[str, float]
    reply_refused: Mapping[str, float] = field(default_factory=dict)
    reply_judge: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> float:
        """Sorts outcomes, the best highest: trade-off score, by whole replies where judged.

        Without validation prompts the loss has to do, lower being better, although losses of
        different layers say little about each other.
        """
        if self.status == "failed":
            return float("-inf")
        refused = self.reply_refused or self.refused
        if refused:
            return ranking_score(refused)
        return float("-inf") if self.loss != self.loss else -self.loss


def run_cell(
    model: ChatModel,
    cell: SweepCell,
    shared: FinetuneConfig,
    inputs: BlockInputs,
    checks: ValidationChecks | None,
    *,
    on_step: Callable[[TrainingStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[CellOutcome, TrainingRun | None]:
    """Train a cell on cached inputs and score it on validation prompts; None where it failed.

    With a safety floor the validation prompts are looked at after every epoch, else once at the
    end.

    Raises:
        KeyboardInterrupt: If training was interrupted: half a cell is no outcome.
    """
    settings = cell.settings(shared)
    started = time.perf_counter()
    try:
        run = train_block(
            model,
            inputs,
            settings,
            checks=checks if settings.safety_floor is not None else None,
            on_step=on_step,
            should_stop=should_stop,
        )
    except UserError as error:
        return CellOutcome(cell, "failed", str(error), float("nan"), {}), None
    if run.status == "stopped":
        raise KeyboardInterrupt
    trained = time.perf_counter()
    refused = {} if checks is None else checks.refused(trained_block(model, run))
    seconds = {"train": trained - started, "score": time.perf_counter() - trained}
    outcome = CellOutcome(cell, run.status, run.message, _last_loss(run), refused, seconds=seconds)
    return outcome, replace(run, seconds=seconds)


class OutcomeFile:
    """Outcomes as they come, one JSON line each under a first line that says of what sweep.

    An outcome is a frozen dataclass with a ``cell``, a frozen dataclass too, that tells it from
    others.
    """

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Any] | None = None,
    ) -> None:
        """Read what is there.

        Args:
            path: Of the file.
            about: All that the outcomes depend on, beside their cells.
            read: Makes an outcome of its line; that of a sweep unless given.

        Raises:
            UserError: If the file is of another sweep, or cannot be read or written.
        """
        self._path = path
        self.outcomes: dict[Any, Any] = {}
        header = {"sweep": json.loads(json.dumps(about))}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = list(_whole_lines(path))
            if not lines:
                path.write_text(json.dumps(header) + "\n", encoding="utf-8")
            elif lines[0] != header:
                raise UserError(
                    f"{path}: belongs to a sweep with another model, prompts or settings "
                    f"({_differing(lines[0], header)}); give another folder, or overwrite it"
                )
            else:
                self._append(b"\n")  # ends a line that a crash cut short
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; give another folder") from error
        for line in lines[1:]:
            outcome = (read or _outcome)(line)
            self.outcomes[outcome.cell] = outcome

    def add(self, outcome: Any) -> None:
        """Note an outcome; it is on disk when this returns.

        Raises:
            UserError: If it cannot be written.
        """
        self.outcomes[outcome.cell] = outcome
        try:
            self._append(json.dumps(asdict(outcome)).encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"{self._path}: {error.strerror or error}; make room and give the same folder "
                "again: what was noted before is kept"
            ) from error

    def _append(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> Iterator[Any]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # cut short by a crash, or the empty line that ended such a one
            continue


def _outcome(line: Mapping[str, Any]) -> CellOutcome:
    return CellOutcome(**{**line, "cell": SweepCell(**line["cell"])})


def _differing(found: Any, wanted: Mapping[str, Any]) -> str:
    theirs = found.get("sweep", {}) if isinstance(found, dict) else {}
    ours: Mapping[str, Any] = wanted["sweep"]
    return ", ".join(sorted(_names(key for key in ours if theirs.get(key) != ours[key])))


def _names(keys: Iterable[str]) -> list[str]:
    return [key.replace("_", " ") for key in keys]


def _last_loss(run: TrainingRun) -> float:
    losses = [step.loss for step in run.history if step.epoch == run.history[-1].epoch]
    return sum(losses) / len(losses) if losses else float("nan")
