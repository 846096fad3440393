"""How much is enough: the least shift at the chosen layer that makes each refused prompt answered.

What other sections assume is measured here: that prompts further along R need a longer shift.
"""

from __future__ import annotations

import ipywidgets as ipw

from actor_lens import figures
from actor_lens.directions.just_enough_shift import JustEnoughShift, just_enough_shift
from actor_lens.directions.options import PAPER_GAMMAS
from actor_lens.figures import Panel
from actor_lens.figures.theme import NOTE_LINE
from actor_lens.text import percent
from actor_lens.widgets.jobs import Control
from actor_lens.widgets.parts import button, checkbox, paragraph, row, safe
from actor_lens.widgets.sections.base import LOWER, WHOLE, Desk, Section

_QUESTION = (
    "How much is enough for this prompt? Each drawn prompt that is refused although it is harmless "
    "is moved against R at the chosen layer, step by step, until its reply is an answer."
)


class EnoughSection(Section):
    """A mark for each over-refused validation prompt: its projection, and the shift it needs.

    *Measure* lets the model reply to shifted prompts at the layer of the moment, by the keyword
    judge, and adds to ``shifts``. The user then sees the marks with the fitted line, and below it
    Pearson's r and what the line says of alpha and the origin. A layer that was measured before is
    shown again at once.

    Attributes:
        fine: Box to tick for steps of 0.02, found by halving, instead of the paper's of 0.1.
        measure: Button that adds to ``shifts``.
    """

    title = "How much"

    def __init__(self, desk: Desk) -> None:
        """Make the controls; see ``Section``."""
        super().__init__(desk)
        self.fine = checkbox("fine steps (0.02)")
        self.measure = button(
            "Measure",
            self._measure,
            tip="Reply to every refused prompt with larger and larger shifts; nothing is trained",
            style="info",
        )
        self.controls: ipw.Widget = row(self.fine, self.measure)

    def panels(self) -> list[Panel]:
        """Shifts against projections at the chosen layer, once they were measured."""
        shift = self.exploration.shifts.get(self.exploration.layer)
        return [] if shift is None else [self.cached("enough", shift, lambda: _panel(shift))]

    def refresh(self) -> None:
        """Write what the line says, or the question where nothing was measured yet."""
        state = self.exploration
        self.measure.disabled = self.desk.worker.busy
        shift = state.shifts.get(state.layer)
        if shift is None:
            self.text.value = paragraph(
                f"{_QUESTION} Press Measure to see layer {state.layer}; nothing is trained."
            )
            return
        self.text.value = paragraph(_QUESTION) + paragraph(safe(_words(shift)))

    def _measure(self) -> None:
        state, layer = self.exploration, self.exploration.layer
        fine = self.fine.value
        gammas = [step / 50 for step in range(1, 51)] if fine else PAPER_GAMMAS

        def work(_control: Control) -> None:
            shift = just_enough_shift(
                state.model,
                state.shown,
                state.look.directions,
                layer,
                gammas=gammas,
                bisect=fine,
            )
            state.shifts = {**state.shifts, layer: shift}

        self.desk.start("measuring shifts", work)


def _panel(shift: JustEnoughShift) -> Panel:
    figure = figures.just_enough_shift(shift)
    raised = [int(mark.yshift or 0) for mark in figure.layout.annotations]
    return Panel(
        "enough",
        figure,
        x=WHOLE,
        y=LOWER,
        title=f"How much is enough, layer {shift.layer}",
        note="Open marks: nothing tried was enough." if shift.gammas.isnan().any() else "",
        names_above=1 + max([0, *raised]) // NOTE_LINE,
    )


def _words(shift: JustEnoughShift) -> str:
    """What the line says, in sentences."""
    r, origin = shift.line.correlation, shift.line.root
    count = f"{len(shift.prompts)} of {shift.n_harmless} harmless prompts are refused."
    if not r.n:
        return f"{count} Too few needed shifts are known, or they are too much alike, for a line."
    return (
        f"{count} r {r.value:.2f} ({r.low:.2f} to {r.high:.2f}) between projection and shift. On "
        f"average a prompt needs {percent(shift.alpha)} of the way to the fitted origin, "
        f"{origin.value:.3g} ({origin.low:.3g} to {origin.high:.3g}): "
        f"{percent(shift.origin_place)} of the way from the benign to the harmful mean."
    )
