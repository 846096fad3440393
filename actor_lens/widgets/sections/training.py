"""Train: the settings, four buttons, live curves, and a way back to any recorded step."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as ipw
import torch

from actor_lens.errors import UserError
from actor_lens.figures import Panel
from actor_lens.statistics.rates import ranking_score
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.run import TrainingRun, TrainingStep
from actor_lens.widgets.jobs import Control
from actor_lens.widgets.live import LiveCurves, LiveRun, progress_text
from actor_lens.widgets.parts import Throttle, button, checkbox, paragraph, row, safe
from actor_lens.widgets.sections.base import Desk, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

# Recorded steps that are kept, and what they may take together in memory.
RECORDED, RECORDED_BYTES = 60, 2 * 10**9
SECONDS_BETWEEN_LARGE = 30.0
TRAINING = "training"


class TrainSection(Section):
    """Launch the fine-tune of the chosen layer and watch it."""

    title = "Train"
    height = 980

    def __init__(self, desk: Desk) -> None:
        """With the settings of the exploration."""
        super().__init__(desk)
        self.recorded: list[TrainingRun] = []
        self._curves = LiveCurves()
        self._launched: FinetuneConfig | None = None
        self._make_settings()
        worker = desk.worker
        self.train = button("Train", self._train, tip="Train the chosen layer", style="success")
        self.pause = button("Pause", worker.pause, tip="Hold still at the next step")
        self.resume = button("Resume", worker.resume, tip="Go on after a pause")
        self.stop = button("Stop", worker.stop, tip="End now and keep the weights", style="warning")
        self.go_on = button(
            "Continue run", self._continue, tip="Go on with a run that was stopped or loaded"
        )
        self.progress = ipw.IntProgress(min=0, max=1, layout=ipw.Layout(width="180px"))
        self.words = ipw.HTML()
        self.smoothing = ipw.FloatSlider(
            value=0.9, min=0.0, max=0.98, step=0.02, description="Smoothing", readout_format=".2f"
        )
        self.rewind = ipw.SelectionSlider(
            options=[("none", 0)], description="Rewind", disabled=True, continuous_update=False
        )
        self.keep = button("Use this step", self._keep_step, tip="Make it the run of this session")
        self.best = button(
            "Restore best", self._keep_best, tip="Recorded step with the best trade-off score"
        )
        self.controls = ipw.VBox(
            [
                row(self.epochs, self.lr, self.batch_size, self.per_label),
                row(self.use_floor, self.floor, self.folder),
                row(self.train, self.pause, self.resume, self.stop, self.go_on, self.progress),
                self.words,
                row(self.smoothing, self.rewind, self.keep, self.best),
            ]
        )
        self.text = ipw.HTML()
        self.below = self.text
        self.smoothing.observe(lambda _change: desk.redraw(), "value")
        for control in (self.epochs, self.lr, self.batch_size, self.use_floor, self.floor):
            control.observe(self._settings_changed, "value")

    def _make_settings(self) -> None:
        settings, counts = self.exploration.settings, self.exploration.train.counts()
        narrow = ipw.Layout(width="190px")
        most = max(2, max(counts.values(), default=2))
        self.epochs = ipw.BoundedIntText(
            value=settings.epochs, min=1, max=10**6, description="Epochs", layout=narrow
        )
        self.lr = ipw.FloatLogSlider(
            value=settings.lr,
            min=-5,
            max=-1,
            step=0.1,
            description="Rate",
            readout_format=".1e",
            continuous_update=False,
        )
        self.batch_size = ipw.BoundedIntText(
            value=settings.batch_size, min=1, max=4096, description="Batch", layout=narrow
        )
        self.per_label = ipw.BoundedIntText(
            value=most, min=2, max=most, description="Per label", layout=narrow
        )
        self.use_floor = checkbox("safety floor")
        self.floor = ipw.BoundedFloatText(
            value=0.02, min=0.0, max=1.0, step=0.01, description="at most", layout=narrow
        )
        self.folder = ipw.Text(
            description="Save to", placeholder="folder for the run so far (optional)"
        )

    def panels(self) -> list[Panel]:
        """Loss, projections, drift and refusals, two by two."""
        seen = self.exploration
        last = seen.history[-1] if seen.history else None
        key = (last, seen.run, self.desk.worker.busy, self.smoothing.value, self._config())
        return [self.cached("training", key, self._panel)]

    def refresh(self) -> None:
        """Buttons, progress and how the last run ended."""
        seen, worker = self.exploration, self.desk.worker
        busy = worker.busy
        for control in (self.train, self.epochs, self.lr, self.batch_size, self.per_label):
            control.disabled = busy
        for control in (self.use_floor, self.floor, self.folder):
            control.disabled = busy
        training = worker.job == TRAINING
        self.pause.disabled = not training or worker.control.paused
        self.resume.disabled = not training or not worker.control.paused
        self.stop.disabled = not training
        run = seen.run
        unfinished = run is not None and run.status == "stopped" and run.resume_state is not None
        self.go_on.disabled = busy or not unfinished
        self._refresh_rewind(busy)
        if seen.history:
            last = seen.history[-1]
            self.progress.max, self.progress.value = last.total_steps, last.step
        if seen.history or training:
            self.words.value = paragraph(safe(progress_text(seen.history, ended=not training)))
        if run is not None and not busy:
            kept = f"Layer {run.layer}: {run.status}; the weights of step {run.best_step} are kept."
            self.text.value = paragraph(safe(f"{kept} {run.message}"))
        else:
            self.text.value = ""

    def _refresh_rewind(self, busy: bool) -> None:
        options = [(f"step {run.best_step}", place) for place, run in enumerate(self.recorded)]
        if options and tuple(options) != tuple(self.rewind.options):
            self.rewind.options = options
            self.rewind.value = len(options) - 1
        for control in (self.rewind, self.keep, self.best):
            control.disabled = busy or not options

    def _panel(self) -> Panel:
        seen = self.exploration
        shares = {row["label"]: row["refused"] for row in seen.baseline.rates().to_dict("records")}
        ended = seen.run is not None and self.desk.worker.job != TRAINING
        shown = seen.run.config if ended and seen.run is not None else self._launched
        live = LiveRun(
            seen.history,
            shown or self._config(),
            shares,
            seen.run.best_step if ended and seen.run is not None else None,
        )
        return self._curves.panel(
            live,
            smoothing=self.smoothing.value,
            y=(0.0, 0.58),
            note="Thin: training prompts. Marks: validation prompts.",
            anew=not self.desk.worker.busy,
        )

    def _config(self) -> FinetuneConfig:
        seen = self.exploration
        return replace(
            seen.config(),
            epochs=self.epochs.value,
            lr=float(f"{self.lr.value:.3g}"),
            batch_size=self.batch_size.value,
            safety_floor=self.floor.value if self.use_floor.value else None,
        )

    def _settings_changed(self, _change: object) -> None:
        self.exploration.settings = self._config()

    def _train(self) -> None:
        self._launch(None)

    def _continue(self) -> None:
        self._launch(self.exploration.run)

    def _launch(self, resume: TrainingRun | None) -> None:
        seen = self.exploration
        if self.desk.worker.busy:
            return
        config, counts = self._config(), {}
        if resume is not None:
            config = replace(resume.config, epochs=max(resume.config.epochs, self.epochs.value))
            counts = dict(resume.train_prompts)
        train = seen.train.sample(counts or self.per_label.value, seed=config.seed)
        folder = self.folder.value.strip()
        self._launched = config
        seen.history = () if resume is None else resume.history
        self.recorded = [] if resume is None else self.recorded
        history: list[TrainingStep] = list(seen.history)
        paint = Throttle()

        def on_step(step: TrainingStep) -> None:
            history.append(step)
            if paint.due():
                seen.history = tuple(history)

        def record(run: TrainingRun) -> None:
            self._record(run)
            if not folder:
                return
            try:
                run.save(Path(folder))
            except UserError as error:  # no reason to lose the run
                self.desk.warn(str(error))

        def work(control: Control) -> None:
            with _thread_to_spare():
                run = finetune_layer(
                    seen.model,
                    train,
                    **asdict(config),
                    validation=seen.shown,
                    tokens=seen.look.tokens,
                    on_step=on_step,
                    should_stop=control.should_stop,
                    resume=resume,
                    on_checkpoint=record,
                    checkpoint_seconds=self._seconds_between(),
                )
            seen.history = run.history
            seen.add_run(run)
            record(run)

        self.desk.start(TRAINING, work)

    def _seconds_between(self) -> float:
        """Small blocks are recorded after every epoch, large ones now and then."""
        block = self.exploration.model.blocks[self.exploration.layer]
        small = sum(p.numel() for p in block.parameters()) < 10**7
        return 0.0 if small else SECONDS_BETWEEN_LARGE

    def _record(self, run: TrainingRun) -> None:
        """Keep a step to go back to; where room is short, every other one goes."""
        if self.recorded and self.recorded[-1].history == run.history:
            return
        self.recorded.append(self._as_it_is(run))
        taken = sum(tensor.nbytes for tensor in run.state.values())
        room = max(2, min(RECORDED, RECORDED_BYTES // max(1, taken)))
        if len(self.recorded) > room:
            self.recorded = self.recorded[::-2][::-1]

    def _as_it_is(self, run: TrainingRun) -> TrainingRun:
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
        return replace(run, state=state, best_step=run.resume_state.step, resume_state=None)

    def _keep_step(self) -> None:
        self._use(self.recorded[self.rewind.value])

    def _keep_best(self) -> None:
        scored = [run for run in self.recorded if run.history and run.history[-1].refused]
        floor = self.floor.value if self.use_floor.value else None
        admissible = [run for run in scored if _within(run, floor)]
        if not admissible:
            self.desk.tell("no recorded step is within the safety floor")
            return
        self._use(max(reversed(admissible), key=lambda run: ranking_score(run.history[-1].refused)))

    def _use(self, run: TrainingRun) -> None:
        self.rewind.value = self.recorded.index(run)
        note = f"Rewound to step {run.best_step}."
        self.exploration.history = run.history
        self.exploration.add_run(replace(run, status="stopped", message=note))
        self.desk.tell(note)


def _within(run: TrainingRun, floor: float | None) -> bool:
    if floor is None:
        return True
    harmful = "harmful"
    fallen = run.refused_before.get(harmful, 0.0) - run.history[-1].refused.get(harmful, 0.0)
    return fallen <= floor + 1e-9


@contextmanager
def _thread_to_spare() -> Iterator[None]:
    """Leave one core to the interface while training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
