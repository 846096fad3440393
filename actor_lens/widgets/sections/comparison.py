"""Compare: what runs changed on the test prompts; save, export and report them.

Test prompts played no part in choosing a layer or in training, so these are the rates to quote.
"""

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
from actor_lens.files.paths import user_path
from actor_lens.judges.base import Judge
from actor_lens.judges.by_name import JUDGES, make_judge
from actor_lens.prompts.sets import PromptSet
from actor_lens.text import percent
from actor_lens.training.run import TrainingRun, parameters_changed_outside, tensor_digests
from actor_lens.training.run_files import RUN_FILE
from actor_lens.widgets.exploration import RunComparison
from actor_lens.widgets.jobs import Control, applied, weights_held
from actor_lens.widgets.parts import button, checkbox, paragraph, row, safe, short_line, table
from actor_lens.widgets.sections.base import LOWER, ROOM_FOR_RATES, Desk, Section, disable

_COLUMNS = {
    "label": "label",
    "prompt": "prompt",
    "side": "now",
    "reply_before": "reply before",
    "reply_after": "reply after",
    "faults_after": "fault",
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
    """Runs of the session side by side.

    *Evaluate* asks the test prompts, before training and with each selected run, and sets
    ``comparisons`` and ``projections_after``. The user then sees refusal rates as bars, where the
    validation prompts moved, and a table of the test prompts that changed sides. *Save run*,
    *Export* and *Write report* write the run selected last into the folder; *Save run* and
    *Export* leave what is there alone unless *overwrite* is ticked.

    Attributes:
        runs: List of the session's runs; several can be selected.
        evaluate: Button that asks the test prompts.
        judge: What calls a reply a refusal. Another judge drops the comparisons of the last one.
        stop: Button that ends the evaluation after the run of the moment.
        folder: Where the run is written.
        overwrite: Whether files there may be replaced.
        save: Button that saves the run, to be loaded by ``TrainingRun.load``.
        form: Menu of the forms of an export.
        export: Button that exports the run.
        report: Button that writes ``report.html``.
    """

    title = "Compare"
    height = 860

    def __init__(self, desk: Desk) -> None:
        """Make the controls; see ``Section``."""
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
        self.runs.observe(self._name_folder, "value")

    def panels(self) -> list[Panel]:
        """Where validation prompts moved on the left, rates on the right; none without results."""
        state, places = self.exploration, tuple(self.runs.value)
        if not any(number in state.comparisons for number in places):
            return []
        panels = [self.cached("rates", (places, state.comparisons), self._rates_panel)]
        after = state.projections_after.get(places[-1])
        if after is not None:
            run = state.runs[places[-1]]
            panels.append(self.cached("shifts", after, lambda: self._shifts_panel(run, after)))
        return panels

    def refresh(self) -> None:
        """List the runs, and write what changed under the selected ones."""
        state, worker = self.exploration, self.desk.worker
        options = [(_name(number, run), number) for number, run in enumerate(state.runs)]
        if tuple(options) != tuple(self.runs.options):
            self.runs.options = options
            self.runs.value = (len(options) - 1,) if options else ()
        idle = bool(self.runs.value) and not worker.busy
        disable(not idle, self.evaluate, self.save, self.export, self.report)
        disable(worker.job != EVALUATING, self.stop)
        self.text.value = self._words()

    def changed(self, number: int) -> list[dict[Any, Any]]:
        """Test prompts that changed sides under a run, the costs before the gains.

        Args:
            number: Position of the run among the runs.

        Returns:
            The rows of the table on the page: those of ``EvaluationChange.sides``, with the side
            of now as ``side``. Replies that a model should not have given are left out.
        """
        compared: RunComparison = self.exploration.comparisons[number]
        sides = compare_evaluations(compared.before, compared.after).sides()
        moved = sides[sides["refused_before"] != sides["refused_after"]]
        now = moved["refused_after"].map({True: "refused", False: "answered"})
        return moved.assign(side=now).to_dict("records")

    def _words(self) -> str:
        state = self.exploration
        if not state.runs:
            return paragraph("Train a layer first; its run appears here.")
        numbers = [number for number in self.runs.value if number in state.comparisons]
        if not numbers:
            return paragraph("Press Evaluate to ask the test prompts before and after.")
        parts = []
        for number in numbers:
            compared = state.comparisons[number]
            parts.append(paragraph(_summary(state.runs[number], number, compared)))
            rows = self.changed(number)
            caption = f"{len(rows)} test prompts changed sides; what got worse comes first."
            parts.append(table(rows[:ROWS], _COLUMNS, caption=caption))
        return "".join(parts)

    def _rates_panel(self) -> Panel:
        state = self.exploration
        rates: dict[str, Any] = {}
        for number in self.runs.value:
            if number in state.comparisons:
                rates.setdefault("before", state.comparisons[number].before)
                rates[f"run {number + 1}"] = state.comparisons[number].after
        figure = figures.refusal_rates(**rates)
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

    def _name_folder(self, _change: object) -> None:
        if self.runs.value:
            number = self.runs.value[-1]
            self.folder.value = f"runs/layer-{self.exploration.runs[number].layer}-run-{number + 1}"
        self.desk.redraw()

    def _selected_last(self) -> TrainingRun:
        run: TrainingRun = self.exploration.runs[self.runs.value[-1]]
        return run

    def _evaluate(self) -> None:
        numbers, name = tuple(self.runs.value), self.judge.value

        def work(control: Control) -> None:
            judge = make_judge(name)
            before = self._before(judge)
            for number in numbers:
                control.check()
                self._after(number, before, judge)

        self.desk.start(EVALUATING, work)

    def _after(self, number: int, before: Evaluation, judge: Judge) -> None:
        """Ask the test prompts with a run, and see where the drawn prompts moved."""
        state, run, test = self.exploration, self.exploration.runs[number], before.prompts
        self.desk.tell(f"asking the test prompts with run {number + 1}")
        with applied(run, state.model):
            after = self._ask(test, judge)
            residuals = collect_residuals(state.model, state.shown, store=False)
        benign, away = test.where(label="benign"), None
        if len(benign):
            with weights_held(state.model):
                away = next_token_divergence(state.model, run, benign).mean
        moved = project(residuals, state.look.directions)
        state.projections_after = {**state.projections_after, number: moved}
        # Rates of two judges are not compared: what another one said is asked again if wanted.
        same = {key: one for key, one in state.comparisons.items() if one.before is before}
        state.comparisons = {**same, number: RunComparison(before, after, away)}

    def _before(self, judge: Judge) -> Evaluation:
        """The untouched model on the test prompts, asked once a judge and session."""
        state, test = self.exploration, self.exploration.prompts["test"]
        if not len(test):
            raise UserError("there are no test prompts; load prompts that have a test split")
        if judge.identity not in state.before_by_judge:
            self.desk.tell("asking the test prompts before training")
            state.before_by_judge[judge.identity] = self._ask(test, judge)
        return state.before_by_judge[judge.identity]

    def _ask(self, prompts: PromptSet, judge: Judge) -> Evaluation:
        """What the model says to prompts as it is now."""
        state = self.exploration
        return evaluate(state.model, prompts, judge=judge, tokens=state.tokens)

    def _save(self) -> None:
        run, folder, overwrite = self._selected_last(), self._path(), self.overwrite.value

        def work(_control: Control) -> None:
            if (folder / RUN_FILE).exists() and not overwrite:
                raise UserError(f"{folder}: holds a run; give another folder, or tick overwrite")
            run.save(folder)
            self.desk.tell(f"saved in {folder}")

        self.desk.start("saving", work)

    def _export(self) -> None:
        state, run, overwrite = self.exploration, self._selected_last(), self.overwrite.value
        write, name = _FORMS[self.form.value]
        folder = self._path() / name

        def work(_control: Control) -> None:
            with weights_held(state.model):
                write(state.model, run, folder, overwrite=overwrite)
            self.desk.tell(f"exported to {folder}")

        self.desk.start("exporting", work)

    def _report(self) -> None:
        state, folder, name = self.exploration, self._path(), self.judge.value
        number = self.runs.value[-1]

        def work(_control: Control) -> None:
            from actor_lens.report.study_report import write_report

            judge = make_judge(name)
            before = self._before(judge)
            if number not in state.comparisons or state.comparisons[number].before is not before:
                self._after(number, before, judge)
            model, run, after = state.model, state.runs[number], state.comparisons[number].after
            ood, digests = state.prompts.where(split="ood"), tensor_digests(model)
            with applied(run, model):
                changed = parameters_changed_outside(model, run.layer, digests)
                if len(ood):
                    after = after.join(self._ask(ood, judge))
            study = Study(
                state.look,
                run,
                before=before.join(self._ask(ood, judge)) if len(ood) else before,
                after=after,
                before_projections=state.look.projections,
                after_projections=state.projections_after[number],
                parameters_changed_outside_layer=changed,
                model_parameters=sum(tensor.numel() for tensor in model.hf.parameters()),
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_report(study, folder / "report.html")
            self.desk.tell(f"report written to {folder / 'report.html'}")

        self.desk.start("writing the report", work)

    def _path(self) -> Path:
        return user_path(self.folder.value.strip() or "runs/layer")


def _name(number: int, run: TrainingRun) -> str:
    config = run.config
    anchors = "" if run.anchors is None else f", anchors {short_line(run.anchors.name, 24)}"
    return (
        f"run {number + 1}: layer {config.layer}, alpha {config.alpha:g}, {config.origin}{anchors}"
        f", {config.epochs} epochs, step {run.best_step}"
    )


def _summary(run: TrainingRun, number: int, compared: RunComparison) -> str:
    """What a run did to the three scores, how far replies drifted, and who judged."""
    before, after = compared.before, compared.after
    scores = [
        f"{name} {percent(getattr(before, key))} → {percent(getattr(after, key))}"
        for name, key in (
            ("compliance rate", "compliance_rate"),
            (f"safety score ({before.safety_means})", "safety_score"),
            ("trade-off score", "tradeoff_score"),
        )
    ]
    broken = [percent(one.fault_rates()["degenerate"].value) for one in (before, after)]
    scores.append(f"degenerate replies to harmless prompts {' → '.join(broken)}")
    if compared.divergence is not None:
        scores.append(
            f"KL divergence at benign prompts {compared.divergence:.3g} nats (first reply token, "
            "mean)"
        )
    judge = before.judge.rsplit(":", 2)[0]
    return safe(f"Run {number + 1}, layer {run.layer}: {'; '.join(scores)}. Judge: {judge}.")
