"""Which prompts: a list to choose from without a mouse, and what is known of the chosen ones."""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pandas as pd
import traitlets
from torch import Tensor

from actor_lens.directions.predicted_refusals import current_refusals
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.figures.theme import LABEL_STYLES
from actor_lens.widgets.jobs import Control, applied
from actor_lens.widgets.parts import button, checkbox, label_sign, paragraph, row, short_line, table
from actor_lens.widgets.sections.base import Desk, Section
from actor_lens.widgets.shared_panels import LINES_SHOWN

# A list in the browser stays quick with this many; the filters reach the rest.
LISTED, TABLED, REPLIED = 300, 40, 24
OPTION_LENGTH, NAME_LENGTH = 110, 26
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
    """A filtered list of the validation prompts, and a table of those that are selected.

    The list and the figure hold one selection, the trait ``selection``. Harmless prompts that are
    refused most surely come first, for they are what this is about. *Get replies* asks the model
    about the selected prompts, also with the last run, and sets ``replies`` and ``scores_after``;
    *Clear selection* selects nothing.

    Attributes:
        label: Menu that leaves prompts of one label in the list.
        category: Menu that leaves prompts of one category in it.
        misjudged: Box to tick for harmless prompts that are refused and harmful ones that are not.
        view: Buttons that set ``view``: heights by projection, or two principal components.
        list: The list; several can be selected.
        get_replies: Button that asks the model.
        clear: Button that empties the selection.
    """

    title = "Prompts"

    def __init__(self, desk: Desk) -> None:
        """Make the controls and fill the list; see ``Section``."""
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
        for control in (self.label, self.category, self.misjudged):
            control.observe(self._fill, "value")
        self.list.observe(self._follow_list, "value")
        traitlets.link((self.exploration, "view"), (self.view, "value"))
        self._following = False
        self._fill()

    def ordered(self) -> list[int]:
        """Positions of the prompts that pass the filters, in the order of the list.

        Pseudo-harmful prompts come first, then benign ones, by how surely they are refused; then
        harmful ones by how surely they are answered.
        """
        shown = self.exploration.shown
        scores = self.exploration.baseline.refusal_scores.tolist()
        order = {"pseudo_harmful": 0, "benign": 1, "harmful": 2}

        def rank(place: int) -> tuple[int, float, int]:
            label = shown[place].label
            return order[label], scores[place] * (1 if label == "harmful" else -1), place

        places = (
            place
            for place, prompt in enumerate(shown)
            if self.label.value in (_ALL, prompt.label)
            and self.category.value in (_ALL, prompt.category)
            and not (self.misjudged.value and (scores[place] > 0) == (prompt.label == "harmful"))
        )
        return sorted(places, key=rank)

    def lines(self) -> dict[str, Tensor]:
        """Each selected prompt at every layer, while there are few enough to tell apart."""
        state, values = self.exploration, self.exploration.look.projections.values
        if len(state.selection) > LINES_SHOWN:
            return {}
        return {
            f"{place}: {short_line(state.shown[place].prompt, NAME_LENGTH)}": values[:, place]
            for place in state.selection
        }

    def refresh(self) -> None:
        """Show the selection in the list and what is known of it in the table."""
        state = self.exploration
        self.get_replies.disabled = self.desk.worker.busy or not state.selection
        self._show_selection()
        places = list(state.selection)
        if not places:
            self.text.value = paragraph(
                "Select prompts in the list (Shift or Ctrl for several), click a point, or draw a "
                "lasso around some."
            )
            return
        rows = self.table(places).to_dict("records")
        more = f", {TABLED} shown" if len(places) > TABLED else ""
        caption = (
            f"{len(places)} selected{more}; layer {state.layer}. Shift: where training would move "
            "the prompt. Refusal score: above 0 the reply begins a refusal."
        )
        self.text.value = table(rows, _COLUMNS, caption=caption)

    def table(self, places: list[int]) -> pd.DataFrame:
        """What is known of some prompts, as the page shows it.

        Args:
            places: Positions among the drawn prompts; at most ``TABLED`` of them are shown.

        Returns:
            A row for each with ``place``, ``prompt``, ``label``, ``category``; at the chosen layer
            ``projection`` and the ``shift`` to its target; ``score_before`` and ``score_after``
            (log-odds that the reply begins a refusal) and ``reply_before`` and ``reply_after``,
            None or NaN where the model was not asked.
        """
        state = self.exploration
        places = places[:TABLED]
        frame = state.projections()
        here = frame[frame["layer"] == state.layer].set_index("prompt_index").loc[places]
        shifts = state.targets(of_shown=True).shifts.numpy()
        rows = here[["prompt", "label", "category", "projection"]].reset_index(names="place")
        rows["shift"] = shifts[places]
        rows["score_before"] = state.baseline.refusal_scores.numpy()[places]
        after = state.scores_after
        rows["score_after"] = np.nan if after is None else after.numpy()[places]
        for time in ("before", "after"):
            replies = state.replies.get(time, {})
            rows[f"reply_{time}"] = [replies.get(place) for place in places]
        return rows

    def _fill(self, _change: object = None) -> None:
        shown = self.exploration.shown
        places = self.ordered()
        listed = [(place, shown[place]) for place in places[:LISTED]]
        options = [
            (f"{label_sign(prompt.label)} {short_line(prompt.prompt, OPTION_LENGTH)}", place)
            for place, prompt in listed
        ]
        self._following = True
        self.list.options = options
        self._following = False
        self._show_selection()
        count = f"{len(places)} prompts" if len(places) <= LISTED else f"{LISTED} of {len(places)}"
        self.list.description = count

    def _show_selection(self) -> None:
        listed = {place for _, place in self.list.options}
        self._following = True
        self.list.value = tuple(place for place in self.exploration.selection if place in listed)
        self._following = False

    def _follow_list(self, change: dict[str, object]) -> None:
        if not self._following:
            self.exploration.selection = tuple(change["new"])  # type: ignore[arg-type]

    def _clear(self) -> None:
        self.exploration.selection = ()

    def _get_replies(self) -> None:
        state = self.exploration
        places, run = state.selection[:REPLIED], state.run
        prompts = state.shown.select(places)

        def replies() -> dict[int, str]:
            # An evaluation's table leaves out what a model should not have said.
            texts = evaluate(state.model, prompts).frame()["reply"]
            return dict(zip(places, texts, strict=True))

        def work(control: Control) -> None:
            replies_by_time = {"before": replies()}
            control.check()
            if run is not None:
                with applied(run, state.model):
                    replies_by_time["after"] = replies()
                    after = current_refusals(state.model, state.shown, state.tokens)
                state.scores_after = after.refusal_scores
            state.replies = replies_by_time

        self.desk.start("asking the model", work)
