"""Watch a fine-tune that a cell starts: ``finetune_layer(..., on_step=monitor.update)``."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import ipywidgets as ipw
import plotly.graph_objects as go
import traitlets

from actor_lens import figures
from actor_lens.figures import Composition, compose
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun, TrainingStep
from actor_lens.widgets.figure_box import FigureBox
from actor_lens.widgets.linked_figure import LinkedFigure
from actor_lens.widgets.live import LiveCurves, LiveRun, progress_text
from actor_lens.widgets.parts import Throttle, button, paragraph, row, safe


class TrainingMonitor(FigureBox):
    """Live curves of a fine-tune, painted a few times a second, from any thread.

    Pass ``monitor.update`` as ``on_step`` and ``monitor.should_stop`` as ``should_stop``; show the
    monitor before training starts, and call ``finish(run)`` for the last state. The user sees a
    stop button, a bar, step, loss, speed and time left in words, and the curves below.

    Attributes:
        history: The steps that are painted, each a ``TrainingStep``. Only read it.
    """

    history = traitlets.Tuple()

    def __init__(
        self,
        config: FinetuneConfig | None = None,
        refused_before: Mapping[str, float] | None = None,
        *,
        smoothing: float = 0.9,
    ) -> None:
        """Wait for the first step.

        Args:
            config: Settings with the layer to name and the safety floor to draw.
            refused_before: Shares of validation prompts refused before training, by label; the
                floor counts from them.
            smoothing: Weight of the past in the averaged loss, from 0 to below 1.
        """
        self._steps: list[TrainingStep] = []
        self._live = LiveRun((), config, refused_before or {})
        self._curves = LiveCurves()
        self._smoothing, self._paint = smoothing, Throttle()
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self._progress = ipw.IntProgress(min=0, max=1, layout=ipw.Layout(width="180px"))
        self._words = ipw.HTML(paragraph("waiting for the first step"))
        self._stop_button = button(
            "Stop", self._stop.set, tip="End at the next step and keep the weights", style="warning"
        )
        self._linked = LinkedFigure(self._composition())
        super().__init__([row(self._stop_button, self._progress, self._words), *self._linked.parts])

    def update(self, step: TrainingStep) -> None:
        """Add a step and paint, though only a few times a second; fits ``on_step``.

        Args:
            step: The step. A step 1 begins a new run, and the last one is always painted.
        """
        with self._lock:
            if step.step == 1:
                self._steps, self._paint = [], Throttle()
                self._live = replace(self._live, best_step=None, message="")
            self._steps.append(step)
            if self._paint.due() or step.step == step.total_steps:
                self._draw()
            if step.step == step.total_steps:
                self._linked.checkpoint()

    def should_stop(self) -> bool:
        """Whether *Stop* was pressed since the last question; fits ``should_stop``.

        JupyterLab lets clicks through while a cell runs. Where a frontend does not, they wait for
        the end of the cell; training in a thread, as the dashboard does, stops at once everywhere.
        """
        pressed = self._stop.is_set()
        self._stop.clear()  # one press ends one run
        return pressed

    def finish(self, run: TrainingRun) -> None:
        """Show how a run ended, with the step whose weights are kept.

        Args:
            run: The run that was watched, or one that was loaded.
        """
        with self._lock:
            self._steps = list(run.history)
            self._live = LiveRun((), run.config, run.refused_before, run.best_step, run.message)
            self._draw()
            self._linked.checkpoint()

    def static(self) -> go.Figure:
        """The curves so far as a plain figure, for places where widgets do not run."""
        return figures.training_curves(self._so_far(), smoothing=self._smoothing)

    def _so_far(self) -> LiveRun:
        return replace(self._live, history=tuple(self._steps))

    def _draw(self) -> None:
        self.history = tuple(self._steps)
        if self._steps:
            last = self._steps[-1]
            self._progress.max, self._progress.value = last.total_steps, last.step
        ended = self._live.best_step is not None
        self._words.value = paragraph(safe(progress_text(self._steps, ended=ended)))
        self._linked.show(self._composition())

    def _composition(self) -> Composition:
        live = self._so_far()
        ended = not live.history or live.history[-1].step == live.history[-1].total_steps
        panel = self._curves.panel(
            live,
            smoothing=self._smoothing,
            y=(0.0, 1.0),
            note=live.message,
            anew=ended or live.best_step is not None,
        )
        return compose([panel], height=560)
