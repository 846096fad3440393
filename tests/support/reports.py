"""A reporter that keeps what it hears."""

from __future__ import annotations

from actor_lens.progress import Reporter
from actor_lens.training.run import TrainingStep


class Recorder(Reporter):
    """Keeps everything that work reports, in order.

    Attributes:
        stages: Name, parts done and parts in all of each report of a stage.
        notes: Name of a stage and how it goes, in words.
        steps: Training steps.
        warnings: Warnings.
    """

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.notes: list[tuple[str, str]] = []
        self.steps: list[TrainingStep] = []
        self.warnings: list[str] = []

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))

    def note(self, name: str, text: str) -> None:
        self.notes.append((name, text))

    def step(self, step: TrainingStep) -> None:
        self.steps.append(step)

    def warn(self, warning: str) -> None:
        self.warnings.append(warning)

    def parts(self, name: str) -> list[tuple[int, int]]:
        """Parts done and parts in all, as reported for one stage."""
        return [(done, total) for stage, done, total in self.stages if stage == name]
