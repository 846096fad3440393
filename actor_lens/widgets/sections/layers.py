"""Which layer: the scores of every layer, and what training each of them came to."""

from __future__ import annotations

from dataclasses import replace

import ipywidgets as ipw
import pandas as pd

from actor_lens import figures
from actor_lens.directions.predicted_refusals import predict_refusals
from actor_lens.errors import UserError
from actor_lens.experiments.sweep.cells import CellOutcome
from actor_lens.experiments.sweep.layer_sweep import outcome_table, sweep_layers
from actor_lens.figures import Panel
from actor_lens.figures.theme import ORIGIN_NAMES
from actor_lens.widgets.jobs import Control
from actor_lens.widgets.parts import button, paragraph, row, safe, table
from actor_lens.widgets.sections.base import LEFT, LOWER, RIGHT, Desk, Section

SCORES = {
    "causal score": "causal",
    "silhouette (the paper's)": "silhouette",
    "AUROC": "auroc",
    "gap": "gap",
    "linear probe": "probe",
}
TRYING = "trying every layer"
_COLUMNS = {
    "layer": "layer",
    "predicted_compliance_rate": "C.R. predicted",
    "compliance_rate": "C.R. reached",
    "predicted_safety_score": "S.S. predicted",
    "safety_score": "S.S. reached",
    "predicted_tradeoff_score": "T.S. predicted",
    "tradeoff_score": "T.S. reached",
    "refused_benign": "benign refused",
    "status": "status",
}


class LayersSection(Section):
    """Scores, and the button that tries every layer."""

    title = "Layers"

    def __init__(self, desk: Desk) -> None:
        """With the causal score first, where it was measured."""
        super().__init__(desk)
        measured = set(self.exploration.look.scores.frame()["score"])
        options = [(name, score) for name, score in SCORES.items() if score in measured]
        self.score = ipw.Dropdown(options=options, description="Score")
        self.try_all = button(
            "Try every layer",
            self._try_all,
            tip="Train every layer for a moment on cached inputs and ask the validation prompts",
            style="info",
        )
        self.stop = button("Stop", desk.worker.stop, tip="End the trial; outcomes so far stay")
        self.controls = row(self.score, self.try_all, self.stop)
        self.text = ipw.HTML()
        self.below = self.text
        self.score.observe(lambda _change: desk.redraw(), "value")

    def panels(self) -> list[Panel]:
        """Scores on the left, outcomes on the right."""
        seen = self.exploration
        scores = self.cached("scores", self.score.value, self._scores_panel)
        outcomes = self.cached("outcomes", seen.outcomes, self._outcomes_panel)
        return [scores.marked(seen.layer), outcomes.marked(seen.layer)]

    def refresh(self) -> None:
        """The reason for the recommendation, ties and outcomes in words."""
        seen, busy = self.exploration, self.desk.worker.busy
        self.try_all.disabled = busy
        self.stop.disabled = self.desk.worker.job != TRYING
        parts = [paragraph(safe(text), warn=True) for text in seen.look.scores.warnings]
        parts.append(paragraph(f"Recommended: {safe(self._reason())}."))
        if seen.outcomes:
            parts.append(table(self.rows(), _COLUMNS, caption=_CAPTION + self._settings()))
        self.text.value = "".join(parts)

    def _reason(self) -> str:
        seen = self.exploration
        if seen.sweep is not None:
            return f"layer {seen.sweep.best.layer}: {seen.sweep.reason}"
        try:
            choice = seen.look.scores.best(by=self.score.value)
        except UserError as error:
            return str(error)
        ties = [str(layer) for layer in choice.ties]
        tied = f" (layers {', '.join(ties)} tie)" if len(ties) > 1 else ""
        return f"layer {choice.layer}{tied}: {choice.reason}"

    def _settings(self) -> str:
        swept = self.exploration.swept
        if swept is None:
            return ""
        return (
            f" With alpha {swept.alpha:g}, origin {ORIGIN_NAMES[swept.origin]}, "
            f"{swept.shift} shift, {swept.epochs} epochs, rate {swept.lr:g}."
        )

    def rows(self) -> list[dict[str, object]]:
        """What was predicted for each layer and what training it reached."""
        seen = self.exploration
        rows = outcome_table(seen.outcomes, seen.shown.counts()).to_dict("records")
        return [
            {
                **{str(key): value for key, value in one.items()},
                **{
                    f"predicted_{name}": getattr(seen.predictions.get(one["layer"]), name, None)
                    for name in ("compliance_rate", "safety_score", "tradeoff_score")
                },
            }
            for one in rows
        ]

    def _scores_panel(self) -> Panel:
        scores, name = self.exploration.look.scores, self.score.value
        figure = figures.layer_scores(scores, only=[name])
        return Panel(
            "scores",
            figure,
            x=LEFT,
            y=LOWER,
            title=f"How well each layer separates the labels: {self.score.label}",
            note="Whiskers: 95 % interval. Yellow: layers that tie.",
        )

    def _outcomes_panel(self) -> Panel:
        seen = self.exploration
        frame = outcome_table(seen.outcomes, seen.shown.counts())
        figure = figures.layer_outcomes(_Outcomes(frame, seen.refused_before))
        note = "First token, validation. Dotted: before."
        return Panel(
            "outcomes",
            figure,
            x=RIGHT,
            y=LOWER,
            title="Refused after training the layer",
            note=note if seen.outcomes else "Press “Try every layer” to fill this.",
        )

    def _try_all(self) -> None:
        seen = self.exploration
        if self.desk.worker.busy:
            return
        config = seen.config()
        seen.outcomes, seen.sweep, seen.predictions, seen.swept = (), None, {}, config

        def work(control: Control) -> None:
            def keep(outcome: CellOutcome) -> None:
                cell = outcome.cell
                targets = seen.targets(config=cell.settings(config), of_shown=True)
                predicted = predict_refusals(seen.model, targets, seen.look.tokens)
                seen.predictions = {**seen.predictions, cell.layer: predicted}
                seen.outcomes = (*seen.outcomes, outcome)
                self.desk.tell(f"layer {cell.layer} tried")

            try:
                seen.sweep = sweep_layers(
                    seen.model,
                    seen.train,
                    seen.shown,
                    alphas=[config.alpha],
                    seeds=[config.seed],
                    settings=replace(config, safety_floor=None),
                    tokens=seen.look.tokens,
                    on_outcome=keep,
                    should_stop=control.should_stop,
                )
            except KeyboardInterrupt:  # so the sweep says that it was stopped
                control.check()
                raise
            self.desk.tell("every layer was tried")

        self.desk.start(TRYING, work)


class _Outcomes:
    """Outcomes of a sweep in progress, as the figure reads them."""

    def __init__(self, frame: pd.DataFrame, refused_before: dict[str, float]) -> None:
        self._frame, self.refused_before = frame, refused_before

    def frame(self) -> pd.DataFrame:
        return self._frame


_CAPTION = (
    "C.R.: pseudo-harmful prompts answered. S.S.: harmful prompts refused. T.S.: their mean. "
    "Predicted: every prompt moved to its target by a hook. Reached: after training the layer. "
    "Shares of validation prompts, by the first token of the reply."
)
