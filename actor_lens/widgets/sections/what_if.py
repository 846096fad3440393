"""What if: where the settings would move each class, and what the model would then begin to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as ipw

from actor_lens import figures
from actor_lens.directions.options import SHIFTS
from actor_lens.directions.predicted_refusals import predict_refusals
from actor_lens.figures import Panel
from actor_lens.figures.theme import NOTE_LINE, ORIGIN_NAMES
from actor_lens.training.config import ANCHORS
from actor_lens.widgets.jobs import Control
from actor_lens.widgets.parts import button, paragraph, row, safe
from actor_lens.widgets.sections.base import LEFT, LOWER, RIGHT, ROOM_FOR_RATES, Desk, Section

_ANCHOR_NAMES = {"initial": "fixed at the start", "current": "moving (the paper's)"}
_SHIFT_NAMES = {"projected": "just enough", "uniform": "uniform (ablation)"}


class WhatIfSection(Section):
    """Settings of the targets, with what they would do before a single gradient step."""

    title = "What if"

    def __init__(self, desk: Desk) -> None:
        """With the settings of the exploration."""
        super().__init__(desk)
        settings = self.exploration.settings
        self.alpha = ipw.FloatSlider(
            value=settings.alpha,
            min=0.1,
            max=3.0,
            step=0.1,
            description="alpha",
            continuous_update=False,
        )
        origins = [(name, origin) for origin, name in ORIGIN_NAMES.items()]
        self.origin = ipw.Dropdown(options=origins, value=settings.origin, description="Origin")
        self.anchor = ipw.Dropdown(
            options=[(_ANCHOR_NAMES[name], name) for name in ANCHORS],
            value=settings.anchor,
            description="Targets",
        )
        self.shift = ipw.Dropdown(
            options=[(_SHIFT_NAMES[name], name) for name in SHIFTS],
            value=settings.shift,
            description="Shift",
        )
        self.predict = button(
            "Predict refusals",
            self._predict,
            tip="Move every validation prompt to its target by a hook and ask; nothing is trained",
            style="info",
        )
        self.controls = row(self.alpha, self.origin, self.shift, self.anchor, self.predict)
        self.text = ipw.HTML()
        self.below = self.text
        for name in ("alpha", "origin", "anchor", "shift"):
            getattr(self, name).observe(self._changed, "value")

    def panels(self) -> list[Panel]:
        """Arrows on the left, predicted refusals on the right."""
        seen = self.exploration
        config = seen.config()
        key = (config.layer, config.alpha, config.origin, config.shift)
        return [
            self.cached("targets", key, self._targets_panel),
            self.cached("predicted", (key, seen.predicted), self._predicted_panel),
        ]

    def refresh(self) -> None:
        """Warnings where a class would move the wrong way."""
        self.predict.disabled = self.desk.worker.busy
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

    def _targets_panel(self) -> Panel:
        figure = figures.target_preview(self.exploration.targets())
        raised = [int(mark.yshift or 0) for mark in figure.layout.annotations]
        return Panel(
            "targets",
            figure,
            x=(0.1, LEFT[1]),
            y=LOWER,
            title=f"Where each class would move, layer {self.exploration.layer}",
            names_above=1 + max([0, *raised]) // NOTE_LINE,
        )

    def _predicted_panel(self) -> Panel:
        seen, now = self.exploration, self.exploration.baseline
        rates: dict[str, Any] = {"now": now}
        if seen.predicted is not None and seen.predicted_for == seen.target_settings:
            rates["predicted"] = seen.predicted
        note = "" if "predicted" in rates else "Press “Predict refusals” to see the effect."
        figure = figures.refusal_rates(**rates)
        figure.update_xaxes(range=ROOM_FOR_RATES)
        return Panel(
            "predicted",
            figure,
            x=RIGHT,
            y=LOWER,
            title="Refused (first token, validation)",
            note=note,
        )

    def _changed(self, change: dict[str, Any]) -> None:
        seen = self.exploration
        values = {
            name: getattr(self, name).value for name in ("alpha", "origin", "anchor", "shift")
        }
        seen.settings = replace(seen.settings, **values)
        if change["owner"] is self.origin:
            seen.origin = self.origin.value

    def _predict(self) -> None:
        seen = self.exploration
        asked, targets = seen.target_settings, seen.targets(of_shown=True)

        def work(_control: Control) -> None:
            found = predict_refusals(seen.model, targets, seen.look.tokens)
            seen.predicted_for = asked
            seen.predicted = found

        self.desk.start("predicting", work)
