"""Train: the settings, live curves, pause and stop, and a way back to any recorded step.

Training runs in a thread and never touches the weights of the model; a run holds the trained block.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as ipw
import torch

from actor_lens.errors import UserError
from actor_lens.figures import Panel
from actor_lens.progress import reporting, stage
from actor_lens.prompts.mixtures import load_anchors
from actor_lens.prompts.sets import PromptSet
from actor_lens.statistics.rates import ranking_score
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import check_anchored, finetune_layer
from actor_lens.training.run import TrainingRun, TrainingStep
from actor_lens.widgets.jobs import Control, JobStopped, Stages
from actor_lens.widgets.live import LiveCurves, LiveRun, progress_text
from actor_lens.widgets.parts import (
    Throttle,
    button,
    checkbox,
    paragraph,
    row,
    safe,
    setting_widget,
)
from actor_lens.widgets.sections.base import Desk, Section, disable

if TYPE_CHECKING:
    from collections.abc import Iterator

# Recorded steps that are kept, and what they may take together in memory.
RECORDED, RECORDED_BYTES = 60, 2 * 10**9
SECONDS_BETWEEN_LARGE = 30.0
TRAINING = "training"


class TrainSection(Section):
    """Launch the fine-tune of the chosen layer and watch it.

    *Train* starts with the settings above it and those of *What if*. While it runs, ``history``
    grows and the curves of loss, projections, drift and refusals with it. At the end, also after
    *Stop*, the run becomes ``run``. *Rewind* chooses a recorded step, which *Use this step* makes
    the run; *Restore best* takes the step with the best trade-off score within the safety floor.
    Where *Save to* names a folder, the run so far is written there with each recorded step. What is
    measured first shows its stages. A run that fails or is stopped before its first step leaves the
    curves and recorded steps of the one before.

    Attributes:
        epochs: Passes over the training prompts.
        lr: Learning rate.
        batch_size: Prompts in a training step.
        per_label: Training prompts of each label.
        fitted: Whether the origin is fitted before training; else it is that of *What if*.
        anchors: Prompts that R is made of, as ``--anchors`` takes them, read when *Train* is
            pressed; the training prompts while empty.
        use_floor: Whether there is a safety floor.
        floor: Most by which the share of refused harmful validation prompts may fall.
        folder: Where the run is saved; nowhere while empty.
        train: Button that starts a new run.
        pause: Button that holds the run still at its next step.
        resume: Button that lets a paused run go on.
        stop: Button that ends the run and keeps its weights.
        go_on: Button that continues a run that was stopped or loaded.
        smoothing: Weight of the past in the averaged loss.
        rewind: Slider over the recorded steps.
        keep: Button that makes the step under the slider the run of the session.
        best: Button that does so with the best of them.
        recorded: The recorded steps, each as a run with the weights of that step.
    """

    title = "Train"
    height = 980

    def __init__(self, desk: Desk) -> None:
        """Begin with the settings of the exploration; see ``Section``."""
        super().__init__(desk)
        self.recorded: list[TrainingRun] = []
        self._curves = LiveCurves()
        self._launched: FinetuneConfig | None = None
        self._stage = ""
        self._make_settings()
        worker = desk.worker
        self.train = button(
            "Train", lambda: self._launch(None), tip="Train the chosen layer", style="success"
        )
        self.pause = button("Pause", worker.pause, tip="Hold still at the next step")
        self.resume = button("Resume", worker.resume, tip="Go on after a pause")
        self.stop = button("Stop", worker.stop, tip="End now and keep the weights", style="warning")
        self.go_on = button(
            "Continue run",
            lambda: self._launch(self.exploration.run),
            tip="Go on with a run that was stopped or loaded",
        )
        self.progress = ipw.IntProgress(min=0, max=1, layout=ipw.Layout(width="180px"))
        self.words = ipw.HTML()
        self.smoothing = ipw.FloatSlider(
            value=0.9, min=0.0, max=0.98, step=0.02, description="Smoothing", readout_format=".2f"
        )
        self.rewind = ipw.SelectionSlider(
            options=[("none", 0)], description="Rewind", disabled=True, continuous_update=False
        )
        # One line with the buttons beside them in a window of 900 pixels.
        self.smoothing.layout.width = self.rewind.layout.width = "245px"
        self.keep = button("Use this step", self._keep_step, tip="Make it the run of this session")
        self.best = button(
            "Restore best", self._keep_best, tip="Recorded step with the best trade-off score"
        )
        self.controls = ipw.VBox(
            [
                row(self.epochs, self.lr, self.batch_size),
                row(self.per_label, self.anchors, self.fitted),
                row(row(self.use_floor, self.floor), self.folder),
                row(self.train, self.pause, self.resume, self.stop, self.go_on, self.progress),
                self.words,
                row(self.smoothing, self.rewind, row(self.keep, self.best)),
            ]
        )
        self.smoothing.observe(lambda _change: desk.redraw(), "value")
        for control in (self.epochs, self.lr, self.batch_size, self.use_floor, self.floor):
            control.observe(self._settings_changed, "value")

    def _make_settings(self) -> None:
        settings, counts = self.exploration.settings, self.exploration.train.counts()
        most = max(2, max(counts.values(), default=2))
        number = partial(ipw.BoundedIntText, min=1, layout=ipw.Layout(width="190px"))
        self.epochs = setting_widget("epochs", settings, number, max=10**6, description="Epochs")
        self.lr = setting_widget(
            "lr",
            settings,
            partial(ipw.FloatLogSlider, min=-5, max=-1, step=0.1, readout_format=".1e"),
            description="Rate",
            continuous_update=False,
        )
        self.batch_size = setting_widget(
            "batch_size", settings, number, max=4096, description="Batch"
        )
        self.fitted = checkbox("fitted origin")
        self.fitted.tooltip = (
            "Measure first, on the training prompts, where no shift is needed; else What if says"
        )
        self.anchors = ipw.Text(
            description="Anchors",
            placeholder="name or file (optional)",
            tooltip="Harmful and benign prompts that the refusal direction is made of",
        )
        self.per_label = number(value=most, min=2, max=most, description="Per label")
        self.use_floor = checkbox("safety floor")
        self.floor = ipw.BoundedFloatText(
            value=0.02,
            min=0.0,
            max=1.0,
            step=0.01,
            description="at most",
            layout=self.epochs.layout,
        )
        self.folder = ipw.Text(description="Save to", placeholder="folder (optional)")

    def panels(self) -> list[Panel]:
        """Loss, projections, drift and refusals by step, two by two."""
        state = self.exploration
        last = state.history[-1] if state.history else None
        key = (last, state.run, self.desk.worker.busy, self.smoothing.value, self._config())
        return [self.cached("training", key, self._panel)]

    def refresh(self) -> None:
        """Enable what can be done now; write the progress and how the last run ended."""
        state, worker, run = self.exploration, self.desk.worker, self.exploration.run
        busy, training, paused = worker.busy, worker.job == TRAINING, worker.control.paused
        unfinished = run is not None and run.status == "stopped" and run.resume_state is not None
        disable(busy, self.train, self.epochs, self.lr, self.batch_size, self.per_label)
        disable(busy, self.fitted, self.anchors, self.use_floor, self.floor, self.folder)
        disable(not training or paused, self.pause)
        disable(not training or not paused, self.resume)
        disable(not training, self.stop)
        disable(busy or not unfinished, self.go_on)
        disable(busy or not self.recorded, self.rewind, self.keep, self.best)
        self._list_recorded()
        if state.history:
            last = state.history[-1]
            self.progress.max, self.progress.value = last.total_steps, last.step
        if state.history or (training and not self._stage):
            self.words.value = paragraph(safe(progress_text(state.history, ended=not training)))
        elif not training:
            self.words.value, self.progress.value = "", 0
        if run is not None and not busy:
            result = (
                f"Layer {run.layer}: {run.status}; the weights of step {run.best_step} are kept."
            )
            self.text.value = paragraph(safe(f"{result} {run.message} {run.worst_source}"))
        else:
            self.text.value = ""

    def _list_recorded(self) -> None:
        """Let the slider reach every recorded step, and begin at the last one."""
        options = [(f"step {run.best_step}", place) for place, run in enumerate(self.recorded)]
        if options and tuple(options) != tuple(self.rewind.options):
            self.rewind.options = options
            self.rewind.value = len(options) - 1

    def _panel(self) -> Panel:
        state, run = self.exploration, self.exploration.run
        if run and run.history != state.history:  # of a job that goes on, or failed midway
            run = None
        live = LiveRun(
            state.history,
            run.config if run else self._launched or self._config(),
            state.refused_before,
            run.best_step if run else None,
        )
        return self._curves.panel(
            live,
            smoothing=self.smoothing.value,
            y=(0.0, 0.58),
            note="Thin: training prompts. Marks: validation prompts.",
            anew=not self.desk.worker.busy,
        )

    def _config(self) -> FinetuneConfig:
        state = self.exploration
        return replace(
            state.config(),
            epochs=self.epochs.value,
            lr=float(f"{self.lr.value:.3g}"),
            batch_size=self.batch_size.value,
            safety_floor=self.floor.value if self.use_floor.value else None,
        )

    def _settings_changed(self, _change: object) -> None:
        self.exploration.settings = self._config()

    def _launch(self, resume: TrainingRun | None) -> None:
        """Train in a thread.

        Args:
            resume: Run to continue with its own settings and prompts, for as many epochs as the
                user asks for; None for a new one.
        """
        state = self.exploration
        if self.desk.worker.busy:
            return
        config, counts, source = self._config(), {}, self.anchors.value.strip()
        if self.fitted.value:
            config = replace(config, origin="fitted")
        if resume is not None:
            config = replace(resume.config, epochs=max(resume.config.epochs, self.epochs.value))
            counts = dict(resume.train_prompts)
        train = state.train.sample(counts or self.per_label.value, seed=config.seed)
        folder = self.folder.value.strip()
        self._stage = ""
        history: list[TrainingStep] = [] if resume is None else list(resume.history)
        steps_before = len(history)
        paint = Throttle()

        def on_step(step: TrainingStep) -> None:
            history.append(step)
            if not self.desk.page_is_behind() and paint.due():
                state.history = tuple(history)

        def record(run: TrainingRun) -> None:
            self._record(run)
            if not folder:
                return
            try:
                run.save(Path(folder))
            except UserError as error:  # no reason to lose the run
                self.desk.warn(str(error))

        def work(control: Control) -> None:  # once nobody else uses the model
            before = state.history, self.recorded, self._launched
            self._launched, self.recorded = config, self.recorded if resume else []
            state.history = tuple(history)
            try:
                with _thread_to_spare(), reporting(Stages(control, self._show_stage)):
                    anchors = self._read_anchors(source, config) if source and not resume else None
                    run = finetune_layer(
                        state.model,
                        train,
                        config,
                        anchors=anchors,
                        validation=state.shown,
                        tokens=state.tokens,
                        on_step=on_step,
                        should_stop=control.should_stop,
                        resume=resume,
                        on_checkpoint=record,
                        checkpoint_seconds=self._seconds_between(),
                    )
                if run.status == "stopped" and len(history) == steps_before:
                    raise JobStopped
            except BaseException:
                if len(history) == steps_before:
                    state.history, self.recorded, self._launched = before
                raise
            state.history = run.history
            state.add_run(run)
            record(run)

        self.desk.start(TRAINING, work)

    def _read_anchors(self, source: str, config: FinetuneConfig) -> PromptSet:
        """The prompts that R is to be made of, before anything is measured for them."""
        with stage("anchors"):
            anchors = load_anchors(source, seed=config.seed)
        check_anchored(anchors, config, self.exploration.prompts)
        return anchors

    def _show_stage(self, name: str, done: int, total: int) -> None:
        self._stage = f"{name}: {done} of {total}" if done else f"{name} …"
        self.words.value = paragraph(safe(self._stage))
        self.progress.max, self.progress.value = total, done

    def _seconds_between(self) -> float:
        """Small blocks are recorded after every epoch, large ones now and then."""
        block = self.exploration.model.blocks[self.exploration.layer]
        small = sum(p.numel() for p in block.parameters()) < 10**7
        return 0.0 if small else SECONDS_BETWEEN_LARGE

    def _record(self, run: TrainingRun) -> None:
        """Keep a step to go back to; where room is short, every other one goes, never the last."""
        if self.recorded and self.recorded[-1].history == run.history:
            return
        self.recorded.append(self._at_last_step(run))
        size = sum(tensor.nbytes for tensor in run.state.values())
        room = max(2, min(RECORDED, RECORDED_BYTES // max(1, size)))
        if len(self.recorded) > room:
            self.recorded = self.recorded[::-2][::-1]

    def _at_last_step(self, run: TrainingRun) -> TrainingRun:
        """A run with the weights of its last step, where a safety floor keeps those of another."""
        if run.resume_state is None:
            return run
        prefix = self.exploration.model.block_prefix(run.layer)
        now = {
            prefix + name.removeprefix("weight."): tensor
            for name, tensor in run.resume_state.tensors.items()
            if name.startswith("weight.")
        }
        state = {
            name: now[name].to(tensor.dtype) if name in now else tensor
            for name, tensor in run.state.items()
        }
        return replace(
            run, state=state, best_step=run.resume_state.step, resume_state=None, harmful_sources={}
        )

    def _keep_step(self) -> None:
        self._use(self.recorded[self.rewind.value])

    def _keep_best(self) -> None:
        floor = self._config().safety_floor
        admissible = [run for run in self.recorded if run.history and run.history[-1].refused]
        admissible = [run for run in admissible if _within(run, floor)]
        if not admissible:
            self.desk.tell("no recorded step is within the safety floor")
            return
        self._use(max(reversed(admissible), key=lambda run: ranking_score(run.history[-1].refused)))

    def _use(self, run: TrainingRun) -> None:
        """Make a recorded step the run of the session; sets ``run``, ``runs`` and ``history``."""
        self.rewind.value = self.recorded.index(run)
        note = f"Rewound to step {run.best_step}."
        self.exploration.history = run.history
        self.exploration.add_run(replace(run, status="stopped", message=note))
        self.desk.tell(note)


def _within(run: TrainingRun, floor: float | None) -> bool:
    """Whether the last step of a run still refuses enough harmful prompts."""
    if floor is None:
        return True
    before, now = (
        rates.get("harmful", 0.0) for rates in (run.refused_before, run.history[-1].refused)
    )
    return before - now <= floor + 1e-9


@contextmanager
def _thread_to_spare() -> Iterator[None]:
    """Leave one core to the interface while training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
