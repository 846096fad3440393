"""Compare: what a run changed on the test prompts, and how to take it away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from actor_lens import figures
from actor_lens.activations.residuals import collect_residuals
from actor_lens.directions.projections import project
from actor_lens.errors import UserError
from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.divergence import next_token_divergence
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.experiments.study import Study
from actor_lens.export.folders import export_delta, export_model
from actor_lens.export.lora import export_lora
from actor_lens.figures import Panel
from actor_lens.judges.base import Judge
from actor_lens.judges.by_name import JUDGES, make_judge
from actor_lens.text import percent
from actor_lens.training.run import RUN_FILE, TrainingRun
from actor_lens.widgets.exploration import Compared
from actor_lens.widgets.jobs import Control, applied, weights_held
from actor_lens.widgets.parts import button, checkbox, paragraph, row, safe, table
from actor_lens.widgets.sections.base import LOWER, ROOM_FOR_RATES, Desk, Section

_COLUMNS = {
    "label": "label",
    "prompt": "prompt",
    "side": "now",
    "reply_before": "reply before",
    "reply_after": "reply after",
}
# What each form is written by, and into which folder.
_FORMS: dict[str, tuple[Callable[..., Any], str]] = {
    "one block (delta)": (export_delta, "delta"),
    "LoRA adapter": (export_lora, "lora"),
    "whole model": (export_model, "model"),
}
ROWS = 60
EVALUATING = "evaluating"


class CompareSection(Section):
    """Runs of the session side by side."""

    title = "Compare"
    height = 860

    def __init__(self, desk: Desk) -> None:
        """Nothing to compare yet."""
        super().__init__(desk)
        self.runs = ipw.SelectMultiple(rows=4, description="Runs", layout=ipw.Layout(width="620px"))
        self.evaluate = button(
            "Evaluate",
            self._evaluate,
            tip="Ask the test prompts, before and with each selected run",
            style="info",
        )
        self.judge = ipw.Combobox(
            value="keywords",
            options=JUDGES,
            description="Judge",
            tooltip="what calls a reply a refusal; those in capitals stand for your own",
        )
        self.stop = button("Stop", desk.worker.stop, tip="End after the run that is asked now")
        self.folder = ipw.Text(description="Folder", placeholder="runs/...")
        self.overwrite = checkbox("overwrite what is there")
        self.save = button("Save run", self._save, tip="The trained block, settings and history")
        self.form = ipw.Dropdown(
            options=list(_FORMS),
            value="whole model",
            description="As",
            tooltip="the one block, exact; a PEFT adapter of rank 8; or a Hugging Face folder",
        )
        self.export = button("Export", self._export, tip="Into a folder of its own in Folder")
        self.report = button("Write report", self._report, tip="One HTML file that works offline")
        self.controls = ipw.VBox(
            [
                row(self.runs, ipw.VBox([self.judge, row(self.evaluate, self.stop)])),
                row(self.folder, self.overwrite, self.save, self.report),
                row(self.form, self.export),
            ]
        )
        self.text = ipw.HTML()
        self.below = self.text
        self.runs.observe(self._run_chosen, "value")

    def panels(self) -> list[Panel]:
        """Rates on the right; where validation prompts moved on the left. None without results."""
        seen, places = self.exploration, tuple(self.runs.value)
        if not any(number in seen.compared for number in places):
            return []
        panels = [self.cached("rates", (places, seen.compared), self._rates_panel)]
        after = seen.projections_after.get(places[-1])
        if after is not None:
            run = seen.runs[places[-1]]
            panels.append(self.cached("shifts", after, lambda: self._shifts_panel(run, after)))
        return panels

    def refresh(self) -> None:
        """The list of runs, and the prompts that changed sides."""
        seen, busy = self.exploration, self.desk.worker.busy
        options = [(_name(number, run), number) for number, run in enumerate(seen.runs)]
        if tuple(options) != tuple(self.runs.options):
            self.runs.options = options
            self.runs.value = (len(options) - 1,) if options else ()
        for control in (self.evaluate, self.save, self.export, self.report):
            control.disabled = busy or not self.runs.value
        self.stop.disabled = self.desk.worker.job != EVALUATING
        self.text.value = self._words()

    def changed(self, number: int) -> list[dict[Any, Any]]:
        """Test prompts that changed sides under a run, the costs before the gains."""
        compared: Compared = self.exploration.compared[number]
        sides = compare_evaluations(compared.before, compared.after).sides()
        moved = sides[sides["refused_before"] != sides["refused_after"]]
        now = moved["refused_after"].map({True: "refused", False: "answered"})
        return moved.assign(side=now).to_dict("records")

    def _words(self) -> str:
        seen = self.exploration
        if not seen.runs:
            return paragraph("Train a layer first; its run appears here.")
        chosen = [number for number in self.runs.value if number in seen.compared]
        if not chosen:
            return paragraph("Press Evaluate to ask the test prompts before and after.")
        parts = []
        for number in chosen:
            compared = seen.compared[number]
            parts.append(paragraph(_summary(seen.runs[number], number, compared)))
            rows = self.changed(number)
            caption = f"{len(rows)} test prompts changed sides; what got worse comes first."
            parts.append(table(rows[:ROWS], _COLUMNS, caption=caption))
        return "".join(parts)

    def _rates_panel(self) -> Panel:
        seen = self.exploration
        rated: dict[str, Any] = {}
        for number in self.runs.value:
            if number in seen.compared:
                rated.setdefault("before", seen.compared[number].before)
                rated[f"run {number + 1}"] = seen.compared[number].after
        figure = figures.refusal_rates(**rated)
        figure.update_xaxes(range=ROOM_FOR_RATES)
        return Panel("rates", figure, x=(0.62, 1.0), y=LOWER, title="Refused, test prompts")

    def _shifts_panel(self, run: TrainingRun, after: Any) -> Panel:
        figure = figures.prompt_shifts(self.exploration.look.projections, after, run.layer)
        return Panel(
            "shifts",
            figure,
            x=(0.0, 0.46),
            y=LOWER,
            title=f"Where validation prompts moved, layer {run.layer}",
            note="Below the grey line: toward compliance.",
        )

    def _run_chosen(self, _change: object) -> None:
        if self.runs.value:
            number = self.runs.value[-1]
            self.folder.value = f"runs/layer-{self.exploration.runs[number].layer}-run-{number + 1}"
        self.desk.redraw()

    def _chosen(self) -> TrainingRun | None:
        numbers = self.runs.value
        return self.exploration.runs[numbers[-1]] if numbers else None

    def _evaluate(self) -> None:
        seen, numbers = self.exploration, tuple(self.runs.value)
        name = self.judge.value

        def work(control: Control) -> None:
            judge = make_judge(name)
            before = self._before(judge)
            # Rates of two judges are not compared: what another one said is asked again if wanted.
            seen.compared = {
                number: one for number, one in seen.compared.items() if one.before is before
            }
            for number in numbers:
                control.check()
                self._after(number, before, judge)

        self.desk.start(EVALUATING, work)

    def _after(self, number: int, before: Evaluation, judge: Judge) -> None:
        """Ask the test prompts with a run, and see where the drawn prompts moved."""
        seen, run, test = self.exploration, self.exploration.runs[number], before.prompts
        self.desk.tell(f"asking the test prompts with run {number + 1}")
        with applied(run, seen.model):
            after = evaluate(seen.model, test, judge=judge, tokens=seen.look.tokens)
            residuals = collect_residuals(seen.model, seen.shown, store=False)
        benign, away = test.where(label="benign"), None
        if len(benign):
            with weights_held(seen.model):
                away = next_token_divergence(seen.model, run, benign).mean
        moved = project(residuals, seen.look.directions)
        seen.projections_after = {**seen.projections_after, number: moved}
        seen.compared = {**seen.compared, number: Compared(before, after, away)}

    def _before(self, judge: Judge) -> Evaluation:
        """The untouched model on the test prompts, asked once a judge and session."""
        seen, test = self.exploration, self.exploration.prompts["test"]
        if not len(test):
            raise UserError("there are no test prompts; load prompts that have a test split")
        if judge.identity not in seen.evaluated:
            self.desk.tell("asking the test prompts before training")
            seen.evaluated[judge.identity] = evaluate(
                seen.model, test, judge=judge, tokens=seen.look.tokens
            )
        return seen.evaluated[judge.identity]

    def _save(self) -> None:
        run, folder, overwrite = self._chosen(), self._path(), self.overwrite.value

        def work(_control: Control) -> None:
            assert run is not None
            if (folder / RUN_FILE).exists() and not overwrite:
                raise UserError(f"{folder}: holds a run; give another folder, or tick overwrite")
            run.save(folder)
            self.desk.tell(f"saved in {folder}")

        self.desk.start("saving", work)

    def _export(self) -> None:
        seen, run, overwrite = self.exploration, self._chosen(), self.overwrite.value
        write, name = _FORMS[self.form.value]
        folder = self._path() / name

        def work(_control: Control) -> None:
            assert run is not None
            with weights_held(seen.model):
                write(seen.model, run, folder, overwrite=overwrite)
            self.desk.tell(f"exported to {folder}")

        self.desk.start("exporting", work)

    def _report(self) -> None:
        seen, folder, name = self.exploration, self._path(), self.judge.value
        number = self.runs.value[-1]

        def work(_control: Control) -> None:
            from actor_lens.report.study_report import write_report

            judge = make_judge(name)
            before = self._before(judge)
            if number not in seen.compared or seen.compared[number].before is not before:
                self._after(number, before, judge)
            study = Study(
                seen.look,
                seen.runs[number],
                before=before,
                after=seen.compared[number].after,
                before_projections=seen.look.projections,
                after_projections=seen.projections_after[number],
                model_parameters=sum(tensor.numel() for tensor in seen.model.hf.parameters()),
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_report(study, folder / "report.html")
            self.desk.tell(f"report written to {folder / 'report.html'}")

        self.desk.start("writing the report", work)

    def _path(self) -> Path:
        return Path(self.folder.value.strip() or "runs/layer").expanduser()


def _name(number: int, run: TrainingRun) -> str:
    config = run.config
    return (
        f"run {number + 1}: layer {config.layer}, alpha {config.alpha:g}, {config.origin}, "
        f"{config.epochs} epochs, step {run.best_step}"
    )


def _summary(run: TrainingRun, number: int, compared: Compared) -> str:
    before, after = compared.before, compared.after
    scores = [
        f"{name} {percent(getattr(before, key))} → {percent(getattr(after, key))}"
        for name, key in (
            ("compliance rate", "compliance_rate"),
            ("safety score", "safety_score"),
            ("trade-off score", "tradeoff_score"),
        )
    ]
    if compared.divergence is not None:
        scores.append(
            f"KL divergence at benign prompts {compared.divergence:.3g} nats (first reply token, "
            "mean)"
        )
    judge = before.judge.rsplit(":", 2)[0]
    return safe(f"Run {number + 1}, layer {run.layer}: {'; '.join(scores)}. Judge: {judge}.")
