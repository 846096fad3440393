"""A fine-tune in progress, as the figures read it, and its progress in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from actor_lens.training_run import FinetuneConfig, TrainingStep, history_frame


@dataclass(frozen=True)
class LiveRun:
    """The steps so far.

    Attributes:
        history: One record a step.
        config: Settings, where they are known.
        refused_before: Share of validation prompts of each label refused before training.
        best_step: The step whose weights are kept, where that is known.
        message: What a user should know.
    """

    history: Sequence[TrainingStep]
    config: FinetuneConfig | None = None
    refused_before: Mapping[str, float] = field(default_factory=dict)
    best_step: int | None = None
    message: str = ""

    @property
    def layer(self) -> int | None:
        """The block in training."""
        return None if self.config is None else self.config.layer

    def frame(self) -> pd.DataFrame:
        """One row a step, as in ``TrainingRun.frame``."""
        return history_frame(self.history)


def progress_text(history: Sequence[TrainingStep]) -> str:
    """Step, speed and time left in words."""
    if not history:
        return "starting"
    last = history[-1]
    speed = last.step / last.seconds if last.seconds > 0 else 0.0
    text = f"step {last.step} of {last.total_steps}, epoch {last.epoch}, loss {last.loss:.4f}"
    if speed <= 0:
        return text
    left = (last.total_steps - last.step) / speed
    ending = f", {_duration(left)} left" if last.step < last.total_steps else ""
    return f"{text}, {speed:.3g} steps/s, {_duration(last.seconds)}{ending}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
