"""Label replies by hand, where the judges of a panel differ."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go
import traitlets

from actor_lens import figures
from actor_lens.errors import UserError
from actor_lens.evaluation.panel import JudgePanel
from actor_lens.judges.base import CLEAR_VERDICTS, Verdict
from actor_lens.widgets.parts import block, button, label_name, paragraph, row, safe, table

_COLUMNS = {"row": "row", "label": "label", "prompt": "prompt", "by hand": "by hand"}


class ReplyLabels(ipw.VBox):
    """One reply at a time with three buttons, and a table of what was labelled.

    The user sees the prompt, the reply and what each judge says; *answered*, *partly refused* or
    *refused* adds to ``labels`` and moves on, *Back* and *Skip* only move.

    The reply to a harmful prompt is shown only where every judge says "refused", as in the tables
    of the panel: notebooks may save what their widgets show. Skip the others.

    Attributes:
        labels: Verdicts by row of the evaluation, for ``panel.corrected_rates(widget.labels)``.
        position: Which of the rows to label is shown, from 0; set it to go to another.
        rows: Rows of the evaluation that are to be labelled.
    """

    labels: traitlets.Dict[Any, Any] = traitlets.Dict()
    position = traitlets.Int(0)

    def __init__(self, panel: JudgePanel, count: int = 40, *, seed: int = 0) -> None:
        """Draw replies to label.

        Args:
            panel: Judges and the replies that they judged.
            count: Number of replies to label, as ``panel.to_label`` draws them.
            seed: Seed of the draw.

        Raises:
            UserError: If there is nothing to label.
        """
        self._panel = panel
        self.rows = panel.to_label(count, seed=seed)
        if not self.rows:
            raise UserError("there is no reply to label; give a panel with replies and count > 0")
        self._replies = panel.shown_replies()
        self._shown, self._done = ipw.HTML(), ipw.HTML()
        self.choices = {verdict: self._choice(verdict) for verdict in CLEAR_VERDICTS}
        self.back = button("Back", lambda: self._move(-1), tip="The reply before")
        self.skip = button("Skip", lambda: self._move(1), tip="Leave this reply without a label")
        controls = row(*self.choices.values(), self.back, self.skip)
        super().__init__([self._shown, controls, self._done])
        self.observe(self._redraw, ["labels", "position"])
        self._redraw()

    @traitlets.validate("labels")
    def _check_labels(self, proposal: Any) -> dict[int, str]:
        self._panel.check_labels(proposal["value"])
        return dict(proposal["value"])

    @traitlets.validate("position")
    def _check_position(self, proposal: Any) -> int:
        return min(max(0, int(proposal["value"])), len(self.rows) - 1)

    def static(self) -> go.Figure:
        """How often the first two judges agree, verdict by verdict, as a plain figure."""
        return figures.judge_confusion(self._panel)

    def _choice(self, verdict: Verdict) -> ipw.Button:
        name = verdict.replace("_", " ")
        return button(name, lambda: self._choose(verdict), tip=f"Label this reply as {name}")

    def _choose(self, verdict: Verdict) -> None:
        # A new dict: a trait that is changed in place tells nobody.
        labels: dict[int, Verdict] = dict(self.labels)
        labels[self.rows[self.position]] = verdict
        self.labels = labels
        self._move(1)

    def _move(self, step: int) -> None:
        self.position = self.position + step

    def _redraw(self, _change: object = None) -> None:
        at = self.rows[self.position]
        prompt = self._panel.evaluation.prompts[at]
        verdicts_text = ", ".join(
            f"{safe(name)}: {safe(verdicts[at].replace('_', ' '))}"
            for name, verdicts in self._panel.verdicts.items()
        )
        self._shown.value = (
            paragraph(f"Reply {self.position + 1} of {len(self.rows)}, {label_name(prompt.label)}")
            + block(prompt.prompt)
            + paragraph("Reply:")
            + block(self._replies[at])
            + paragraph(f"Judges: {verdicts_text}.")
        )
        done: list[dict[str, Any]] = [
            {
                "row": place,
                "label": self._panel.evaluation.prompts.labels[place],
                "prompt": self._panel.evaluation.prompts.texts[place],
                "by hand": str(verdict).replace("_", " "),
            }
            for place, verdict in self.labels.items()
        ]
        self._done.value = table(done, _COLUMNS, caption=f"{len(done)} labelled by hand")
