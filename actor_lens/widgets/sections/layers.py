"""Which layer: the scores of every layer, and what training each of them led to.

Scores say how well a layer separates the labels; only training says what a layer can do. So the
section sets both beside each other, and the prediction between them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as ipw

from actor_lens import figures
from actor_lens.errors import UserError
from actor_lens.experiments.sweep.cells import CellOutcome
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.figures import Panel
from actor_lens.figures.theme import ORIGIN_NAMES
from actor_lens.widgets.exploration import target_settings
from actor_lens.widgets.jobs import Control
from actor_lens.widgets.parts import button, paragraph, row, safe, table
from actor_lens.widgets.sections.base import LEFT, LOWER, RIGHT, Desk, Section, disable

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
    """A score of every layer on the left, what training each layer led to on the right.

    *Try every layer* trains each for a moment and fills the right panel and the table one layer at
    a time; *Stop* keeps the outcomes so far. It sets ``outcomes``, ``predictions`` and, at the
    end, ``sweep``. The model is left as it is, and no run is added.

    Attributes:
        score: Menu of the scores that were measured, the causal one first.
        try_all: Button that starts the trial.
        stop: Button that ends it after the layer in training.
    """

    title = "Layers"

    def __init__(self, desk: Desk) -> None:
        """Make the controls; see ``Section``."""
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
        self.score.observe(lambda _change: desk.redraw(), "value")

    def panels(self) -> list[Panel]:
        """Scores on the left, outcomes on the right, both with the chosen layer marked."""
        state = self.exploration
        scores = self.cached("scores", self.score.value, self._scores_panel)
        outcomes = self.cached("outcomes", state.outcomes, self._outcomes_panel)
        marked = outcomes.marked(state.layer) if state.outcomes else outcomes
        return [scores.marked(state.layer), marked]

    def refresh(self) -> None:
        """Write the warnings, the recommendation with its reason, and the table of outcomes."""
        state, worker = self.exploration, self.desk.worker
        disable(worker.busy, self.try_all)
        disable(worker.job != TRYING, self.stop)
        parts = [paragraph(safe(text), warn=True) for text in state.look.scores.warnings]
        parts.append(paragraph(f"Recommended: {safe(self._reason())}."))
        if state.outcomes:
            parts.append(table(self.rows(), _COLUMNS, caption=_CAPTION + self._settings()))
        self.text.value = "".join(parts)

    def _reason(self) -> str:
        state = self.exploration
        if state.sweep is not None:
            return f"layer {state.choice.layer}: {state.choice.reason}"
        try:
            choice = state.look.scores.best(by=self.score.value)
        except UserError as error:
            return str(error)
        ties = [str(layer) for layer in choice.ties]
        tied = f" (layers {', '.join(ties)} tie)" if len(ties) > 1 else ""
        return f"layer {choice.layer}{tied}: {choice.reason}"

    def _settings(self) -> str:
        config = self.exploration.sweep_config
        if config is None:
            return ""
        return (
            f" With alpha {config.alpha:g}, origin {ORIGIN_NAMES[config.origin]}, "
            f"{config.shift} shift, {config.epochs} epochs, rate {config.lr:g}."
        )

    def rows(self) -> list[dict[Any, Any]]:
        """What was predicted for each layer that was tried and what training it reached.

        Returns:
            The rows of the table on the page: those of ``outcome_table``, with
            ``predicted_compliance_rate``, ``predicted_safety_score`` and
            ``predicted_tradeoff_score``; None where a layer has no prediction.
        """
        state = self.exploration
        frame = state.layer_outcomes.frame().sort_values("layer")
        if state.sweep_config is not None:
            settings = [replace(state.sweep_config, layer=layer) for layer in frame["layer"]]
            rates = [state.predictions.get(target_settings(config)) for config in settings]
            for name in ("compliance_rate", "safety_score", "tradeoff_score"):
                frame[f"predicted_{name}"] = [getattr(rate, name, None) for rate in rates]
        return frame.to_dict("records")

    def _scores_panel(self) -> Panel:
        scores, name = self.exploration.look.scores, self.score.value
        figure = figures.layer_scores(scores, only=[name])
        return Panel(
            "scores",
            figure,
            x=LEFT,
            y=LOWER,
            title=f"Layers by {self.score.label}",
            note="Whiskers: 95 % interval. Yellow: layers that tie.",
        )

    def _outcomes_panel(self) -> Panel:
        state = self.exploration
        figure = figures.layer_outcomes(state.layer_outcomes)
        figure.update_yaxes(title_text="")  # the panel's title says it
        if not state.outcomes:  # the note says why
            figure.layout.annotations = ()
        note = "First token, validation. Dotted: before."
        return Panel(
            "outcomes",
            figure,
            x=RIGHT,
            y=LOWER,
            title="Refused after training",
            note=note if state.outcomes else "Press “Try every layer” to fill this.",
        )

    def _try_all(self) -> None:
        state = self.exploration
        if self.desk.worker.busy:
            return
        config, first = state.config(), state.choice.layer
        state.outcomes, state.sweep, state.sweep_config = (), None, config

        def work(control: Control) -> None:
            def keep(outcome: CellOutcome) -> None:
                state.predict(outcome.cell.settings(config))
                state.outcomes = (*state.outcomes, outcome)
                self.desk.tell(f"layer {outcome.cell.layer} tried")

            try:
                state.sweep = sweep_layers(
                    state.model,
                    state.train,
                    state.shown,
                    # Of layers that do equally well, the one that the scores recommend stays.
                    layers=sorted(range(state.model.n_layers), key=lambda layer: layer != first),
                    alphas=[config.alpha],
                    seeds=[config.seed],
                    settings=replace(config, safety_floor=None),
                    tokens=state.tokens,
                    on_outcome=keep,
                    should_stop=control.should_stop,
                )
            except KeyboardInterrupt:  # so the sweep says that it was stopped
                control.check()
                raise
            self.desk.tell("every layer was tried")

        self.desk.start(TRYING, work)


_CAPTION = (
    "C.R.: pseudo-harmful prompts answered. S.S.: harmful prompts refused. T.S.: their mean. "
    "Predicted: every prompt moved to its target by a hook. Reached: after training the layer. "
    "Shares of validation prompts, by the first token of the reply."
)
