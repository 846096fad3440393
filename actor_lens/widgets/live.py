"""A fine-tune in progress, as the figures read it, and its progress in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from actor_lens import figures
from actor_lens.figures import Panel
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingStep, history_frame
from actor_lens.widgets.parts import Throttle

# How often axes, marks and all are drawn anew while training.
DRAWN_PER_SECOND = 0.5
RECENT_STEPS = 30


@dataclass(frozen=True)
class LiveRun:
    """The steps so far, with what ``figures.training_curves`` reads of a whole run.

    Attributes:
        history: One record for each step.
        config: Settings, where they are known.
        refused_before: Share of validation prompts of each label refused before training.
        best_step: Step whose weights are kept, where that is known.
        message: What a user should know, shown below the title.
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
        """One row for each step, as in ``TrainingRun.frame``."""
        return history_frame(self.history)


class LiveCurves:
    """The curves of a run in progress: drawn anew now and then, in between only their points.

    A whole drawing takes a browser longer than a training step of a small model takes.
    """

    def __init__(self) -> None:
        """Nothing is drawn yet."""
        self._drawn: tuple[object, Panel] | None = None
        self._redraw = Throttle(DRAWN_PER_SECOND)

    def panel(
        self,
        run: LiveRun,
        *,
        smoothing: float,
        y: tuple[float, float],
        note: str = "",
        anew: bool = False,
    ) -> Panel:
        """The curves as a panel as wide as the page.

        Args:
            run: The steps so far.
            smoothing: Weight of the past in the averaged loss, from 0 to below 1.
            y: Where the panel lies, from bottom to top, as shares of the plot area.
            note: Line below its title.
            anew: Whether to draw everything, as at the end of a run.
        """
        points = figures.training_lines(run, smoothing=smoothing)
        key = (sorted(points), run.config, run.best_step, smoothing, y, note)
        if anew or self._drawn is None or self._drawn[0] != key or self._redraw.due():
            title = "Training" if run.layer is None else f"Training layer {run.layer}"
            figure = figures.training_curves(run, smoothing=smoothing, columns=2)
            panel = Panel("training", figure, x=(0.0, 1.0), y=y, title=title, note=note)
            self._drawn = (key, panel)
            return panel
        return self._drawn[1].with_points(
            {kind: {"x": x, "y": y} for kind, (x, y) in points.items()}
        )


def progress_text(history: Sequence[TrainingStep], *, ended: bool = False) -> str:
    """Step, epoch, loss, speed and times in words.

    Args:
        history: The steps so far.
        ended: Whether no time is left, also where steps are, as after a stop.
    """
    if not history:
        return "starting"
    # Of the last steps: a pause long ago says nothing about the time that is left.
    last, first = history[-1], history[max(0, len(history) - RECENT_STEPS)]
    elapsed = last.seconds - first.seconds
    speed = (last.step - first.step) / elapsed if elapsed > 0 else 0.0
    text = f"step {last.step} of {last.total_steps}, epoch {last.epoch}, loss {last.loss:.4f}"
    if speed <= 0:
        return text
    remaining = (last.total_steps - last.step) / speed
    ending = "" if ended or last.step >= last.total_steps else f", {_duration(remaining)} left"
    return f"{text}, {speed:.3g} steps/s, {_duration(last.seconds)}{ending}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
