"""What if: where the settings would move each class, and what the model would then begin to say.

Nothing here trains anything, so it is the place to find settings that make sense.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as ipw

from actor_lens.directions.options import FIXED_ORIGINS
from actor_lens.directions.predicted_refusals import PredictedRefusals
from actor_lens.figures import Panel
from actor_lens.figures.evaluation import rate_parts
from actor_lens.figures.targets import target_parts
from actor_lens.figures.theme import ORIGIN_NAMES
from actor_lens.widgets.exploration import TargetSettings, target_settings
from actor_lens.widgets.jobs import Control
from actor_lens.widgets.parts import button, paragraph, row, safe, setting_widget
from actor_lens.widgets.sections.base import LOWER, ROOM_FOR_RATES, Desk, Section

_ANCHOR_NAMES = {"initial": "fixed at the start", "current": "moving (the paper's)"}
_SHIFT_NAMES = {"projected": "just enough", "uniform": "uniform (ablation)"}
_SETTINGS = ("alpha", "origin", "anchor", "shift")


class WhatIfSection(Section):
    """Settings of the targets, with what they would do before a single gradient step.

    The left panel shows for each label where its training prompts are and where they should go, as
    an arrow; the right one the refusal rates of the validation prompts now. *Predict refusals* adds
    those with every prompt at its target, and is remembered for each layer and setting; from then
    on they follow every move of the controls and of the layer by themselves. A change of
    a control sets ``settings``, which training uses too; the menu *Origin* also sets ``origin``,
    from which all panels count.

    Attributes:
        alpha: How much of the way to the origin a target goes.
        origin: Menu of the origins.
        anchor: Menu of fixed and moving targets.
        shift: Menu of just-enough and uniform targets.
        predict: Button that adds to ``predictions``.
    """

    title = "What if"

    def __init__(self, desk: Desk) -> None:
        """Begin with the settings of the exploration; see ``Section``."""
        super().__init__(desk)
        settings = self.exploration.settings
        self.alpha = setting_widget(
            "alpha",
            settings,
            ipw.FloatSlider,
            min=0.1,
            max=3.0,
            step=0.1,
            description="alpha",
            continuous_update=False,
        )
        fixed = {origin: ORIGIN_NAMES[origin] for origin in FIXED_ORIGINS}  # known everywhere
        self.origin = setting_widget("origin", settings, choices=fixed, description="Origin")
        self.anchor = setting_widget(
            "anchor", settings, choices=_ANCHOR_NAMES, description="Targets"
        )
        self.shift = setting_widget("shift", settings, choices=_SHIFT_NAMES, description="Shift")
        self.predict = button(
            "Predict refusals",
            self._predict,
            tip="Move every validation prompt to its target by a hook and ask; nothing is trained",
            style="info",
        )
        self._followed: TargetSettings | None = None
        self.controls = row(self.alpha, self.origin, self.shift, self.anchor, self.predict)
        for name in _SETTINGS:
            getattr(self, name).observe(self._take_settings, "value")

    def panels(self) -> list[Panel]:
        """Arrows on the left, predicted refusals on the right."""
        state = self.exploration
        key = target_settings(state.config())
        prediction = state.predictions.get(key)
        return [
            self.cached("targets", key, self._targets_panel),
            self.cached("predicted", prediction, lambda: self._refusals_panel(prediction)),
        ]

    def refresh(self) -> None:
        """Write a warning for each class that would move the wrong way; predict what is quick."""
        self.predict.disabled = self.desk.worker.busy
        self._follow()
        warnings = self.exploration.targets().preview().warnings
        parts = [paragraph(f"⚠ {safe(text)}", warn=True) for text in warnings]
        parts = parts or [paragraph("No class would move the wrong way.")]
        if self.exploration.settings.anchor == "current":
            parts.append(
                paragraph(
                    "Moving targets recede as fast as activations follow: epochs and learning rate "
                    "decide how far they go, and the arrows show only the first step."
                )
            )
        self.text.value = "".join(parts)

    def _follow(self) -> None:
        """Predict refusals for settings that were not asked before, where that takes a moment."""
        state, settings = self.exploration, target_settings(self.exploration.config())
        if not state.predicts_at_once or settings in state.predictions:
            return
        if settings != self._followed and not self.desk.worker.busy:  # once: it may fail
            self._followed = settings
            self._predict()

    def _targets_panel(self) -> Panel:
        parts, levels = target_parts(self.exploration.targets())
        return Panel(
            "targets",
            parts,
            x=(0.1, 0.5),
            y=LOWER,
            title=f"Where each class would move, layer {self.exploration.layer}",
            names_above=levels,
        )

    def _refusals_panel(self, prediction: PredictedRefusals | None) -> Panel:
        rates = {"now": self.exploration.baseline}
        if prediction is not None:
            rates["predicted"] = prediction
        note = "First token." if prediction else "First token. Press “Predict refusals”."
        parts = rate_parts(**rates)
        parts["layout"].setdefault("xaxis", {})["range"] = ROOM_FOR_RATES
        return Panel(
            "predicted",
            parts,
            x=(0.62, 1.0),
            y=LOWER,
            title="Refused, validation",
            note=note,
        )

    def _take_settings(self, change: dict[str, Any]) -> None:
        state = self.exploration
        values = {name: getattr(self, name).value for name in _SETTINGS}
        with state.hold_trait_notifications():  # the figure is drawn once, with the prediction
            state.settings = replace(state.settings, **values)
            if change["owner"] is self.origin:
                state.origin = self.origin.value
            config = state.config()
            new = target_settings(config) not in state.predictions
            if state.predicts_at_once and new:
                if self.desk.worker.run_now(lambda: state.predict(config)):
                    self._followed = target_settings(config)

    def _predict(self) -> None:
        config = self.exploration.config()  # of this moment: the job may have to wait

        def work(_control: Control) -> None:
            self.exploration.predict(config)

        self.desk.start("predicting", work)
