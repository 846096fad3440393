"""Which prompts: a list to choose from without a mouse, and what is known of the chosen ones."""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pandas as pd

from actor_lens.directions.predicted_refusals import current_refusals
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.figures.theme import LABEL_STYLES
from actor_lens.text import clip, one_line
from actor_lens.widgets.jobs import Control, applied
from actor_lens.widgets.parts import button, checkbox, paragraph, row, table
from actor_lens.widgets.sections.base import Desk, Section

# A list in the browser stays quick with this many; the filters reach the rest.
LISTED, TABLED, REPLIED = 300, 40, 24
OPTION_LENGTH = 110
_ALL = "all"
_COLUMNS = {
    "prompt": "prompt",
    "label": "label",
    "category": "category",
    "projection": "projection",
    "shift": "shift",
    "score_before": "refusal score",
    "score_after": "after",
    "reply_before": "reply before",
    "reply_after": "reply after",
}


class PromptsSection(Section):
    """A filtered list, the most misjudged harmless prompts first, and a table of the selection."""

    title = "Prompts"
    height = 440

    def __init__(self, desk: Desk) -> None:
        """Nothing is selected."""
        super().__init__(desk)
        shown = self.exploration.shown
        labels = [label for label in LABEL_STYLES if label in shown.labels]
        names = [(LABEL_STYLES[label].name, label) for label in labels]
        self.label = ipw.Dropdown(options=[("all labels", _ALL), *names], description="Label")
        kinds = sorted({prompt.category for prompt in shown if prompt.category})
        self.category = ipw.Dropdown(
            options=[("all categories", _ALL), *((kind[:40], kind) for kind in kinds)],
            description="Category",
        )
        self.misjudged = checkbox("only misjudged")
        self.view = ipw.ToggleButtons(
            options=[("projection", "projection"), ("PCA", "pca")],
            tooltips=["height: projection on the refusal direction", "two principal components"],
            style={"button_width": "90px"},
        )
        self.list = ipw.SelectMultiple(
            rows=8, layout=ipw.Layout(width="99%"), style={"description_width": "96px"}
        )
        self.get_replies = button(
            "Get replies",
            self._get_replies,
            tip=f"Ask the model the first {REPLIED} selected prompts, before and after training",
            style="info",
        )
        self.clear = button("Clear selection", self._clear, tip="Select nothing")
        self.controls = ipw.VBox(
            [
                row(self.label, self.category, self.misjudged, self.view),
                self.list,
                row(self.get_replies, self.clear),
            ]
        )
        self.text = ipw.HTML()
        self.below = self.text
        for control in (self.label, self.category, self.misjudged):
            control.observe(self._fill, "value")
        self.list.observe(self._chosen, "value")
        self.view.observe(self._view_chosen, "value")
        self._following = False
        self._fill()

    def ordered(self) -> list[int]:
        """Prompts that pass the filters; harmless ones by how surely they are refused first."""
        seen = self.exploration
        scores = seen.baseline.refusal_scores.numpy()
        order = {"pseudo_harmful": 0, "benign": 1, "harmful": 2}
        places = []
        for place, prompt in enumerate(seen.shown):
            wrong = (scores[place] > 0) == (prompt.label != "harmful")
            if self.label.value not in (_ALL, prompt.label):
                continue
            if self.category.value not in (_ALL, prompt.category):
                continue
            if self.misjudged.value and not wrong:
                continue
            sign = 1.0 if prompt.label == "harmful" else -1.0
            places.append((order[prompt.label], sign * float(scores[place]), place))
        return [place for *_, place in sorted(places)]

    def refresh(self) -> None:
        """The selection, in the list and in the table."""
        seen = self.exploration
        self.get_replies.disabled = self.desk.worker.busy or not seen.selection
        self._show_selection()
        places = list(seen.selection)
        if not places:
            self.text.value = paragraph(
                "Select prompts in the list (Shift or Ctrl for several), click a point, or draw a "
                "lasso around some."
            )
            return
        rows = self.table(places).to_dict("records")
        more = f", {TABLED} shown" if len(places) > TABLED else ""
        caption = (
            f"{len(places)} selected{more}; layer {seen.layer}. Shift: where training would move "
            "the prompt. Refusal score: above 0 the reply begins a refusal."
        )
        self.text.value = table([_plain(one) for one in rows], _COLUMNS, caption=caption)

    def table(self, places: list[int]) -> pd.DataFrame:
        """What is known of some prompts; its columns are those of the table on the page."""
        seen = self.exploration
        places = places[:TABLED]
        frame = seen.projections()
        here = frame[frame["layer"] == seen.layer].set_index("prompt_index").loc[places]
        shifts = seen.targets(of_shown=True).shifts.numpy()
        found = here[["prompt", "label", "category", "projection"]].reset_index(names="place")
        found["shift"] = shifts[places]
        found["score_before"] = seen.baseline.refusal_scores.numpy()[places]
        after = seen.scores_after
        found["score_after"] = np.nan if after is None else after.numpy()[places]
        for time in ("before", "after"):
            replies = seen.replies.get(time, {})
            found[f"reply_{time}"] = [replies.get(place) for place in places]
        return found

    def _fill(self, _change: object = None) -> None:
        shown = self.exploration.shown
        places = self.ordered()
        signs = {"harmful": "✕", "pseudo_harmful": "◆", "benign": "●"}
        options = [
            (f"{signs[shown[place].label]} {_line(shown[place].prompt)}", place)
            for place in places[:LISTED]
        ]
        self._following = True
        self.list.options = options
        self._following = False
        self._show_selection()
        count = f"{len(places)} prompts" if len(places) <= LISTED else f"{LISTED} of {len(places)}"
        self.list.description = count

    def _show_selection(self) -> None:
        listed = {value for _, value in self.list.options}
        self._following = True
        self.list.value = tuple(one for one in self.exploration.selection if one in listed)
        self._following = False

    def _chosen(self, change: dict[str, object]) -> None:
        if not self._following:
            self.exploration.selection = tuple(change["new"])  # type: ignore[arg-type]

    def _view_chosen(self, change: dict[str, object]) -> None:
        self.exploration.view = str(change["new"])

    def _clear(self) -> None:
        self.exploration.selection = ()

    def _get_replies(self) -> None:
        seen = self.exploration
        places, run = seen.selection[:REPLIED], seen.run
        prompts = seen.shown.select(places)

        def replies() -> dict[int, str]:
            # An evaluation's table leaves out what a model should not have said.
            told = evaluate(seen.model, prompts).frame()["reply"]
            return dict(zip(places, told, strict=True))

        def work(control: Control) -> None:
            found = {"before": replies()}
            control.check()
            if run is not None:
                with applied(run, seen.model):
                    found["after"] = replies()
                    after = current_refusals(seen.model, seen.shown, seen.look.tokens)
                seen.scores_after = after.refusal_scores
            seen.replies = found

        self.desk.start("asking the model", work)


def _line(text: str) -> str:
    # A very long prompt is cut before it is looked at, so that the cost stays bounded.
    return clip(one_line(text[: 4 * OPTION_LENGTH], 4 * OPTION_LENGTH), OPTION_LENGTH)


def _plain(record: dict[object, object]) -> dict[str, object]:
    return {str(key): value for key, value in record.items()}
