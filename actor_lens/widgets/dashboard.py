"""The dashboard: choose a layer by looking, preview, train live, compare, in one linked view.

One figure widget, with controls around it and one selection (layer and prompts) that every panel
follows. Computation is that of the stages, drawing that of ``actor_lens.figures``: here is only
what happens when something is clicked. Each button in the row under the layer slider opens a
section (``actor_lens.widgets.sections``) with controls and panels of its own.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import pandas as pd
import plotly.graph_objects as go
import traitlets
from IPython.display import HTML

from actor_lens.experiments.look import Look, look_at_layers
from actor_lens.figures import Composition, compose
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.report.pages import write_page
from actor_lens.training.run import TrainingRun
from actor_lens.widgets.exploration import Exploration
from actor_lens.widgets.figure_box import FigureBox, answer_where_asked
from actor_lens.widgets.jobs import Control, Worker, weights_held
from actor_lens.widgets.linked_figure import LinkedFigure
from actor_lens.widgets.parts import button, layer_slides, page_inside, paragraph, row, safe
from actor_lens.widgets.sections.base import Section
from actor_lens.widgets.sections.comparison import CompareSection
from actor_lens.widgets.sections.enough import EnoughSection
from actor_lens.widgets.sections.layers import LayersSection
from actor_lens.widgets.sections.probe import ProbeSection
from actor_lens.widgets.sections.prompts import PromptsSection
from actor_lens.widgets.sections.training import TrainSection
from actor_lens.widgets.sections.what_if import WhatIfSection
from actor_lens.widgets.shared_panels import (
    HEIGHT_ALONE,
    SharedPanels,
    bottom_above_others,
    layer_at,
)

_SECTIONS: tuple[type[Section], ...] = (
    LayersSection,
    PromptsSection,
    ProbeSection,
    WhatIfSection,
    EnoughSection,
    TrainSection,
    CompareSection,
)
PAGE = "lens.html"
_numbers = count(1)


class Dashboard(FigureBox):
    """A model and its prompts, to be looked at, previewed, trained and compared.

    The user sees a line about the model, a slider and a menu for the layer, seven buttons that open
    sections, one figure, and below it the section's text and any error. A click on a layer in any
    panel sets ``layer``; a click on a prompt or a lasso around some sets ``selection``. The next
    cell reads these traits, sets them or watches them.

    Attributes:
        layer: The chosen layer, from 0.
        selection: Positions of the chosen prompts among the validation prompts.
        run: The last fine-tune of this session, or the one given; None before the first.
        runs: All fine-tunes of this session, the latest last.
        status: ``"ready"``, ``"waiting"`` (for another dashboard on the same model), ``"paused"``,
            or the name of the job that runs, for instance ``"training"``. Only read it.
        exploration: What the sections share: model, prompts, settings and results.
        worker: Runs the jobs that buttons start.
        sections: The sections by the text of their buttons.
    """

    layer = traitlets.Int()
    selection = traitlets.Tuple()
    run = traitlets.Instance(TrainingRun, allow_none=True)
    runs = traitlets.Tuple()
    status = traitlets.Unicode("ready")
    _hint = " Where that shows no widgets, dashboard.page() shows a linked page."

    def __init__(
        self,
        model: ChatModel,
        prompts: PromptSet,
        *,
        layer: int | None = None,
        per_label: int = 60,
        look: Look | None = None,
        run: TrainingRun | None = None,
        seed: int = 0,
        **look_options: Any,
    ) -> None:
        """Look at every layer, then show the result.

        Args:
            model: The model. It is left as it is, whatever is trained.
            prompts: Prompts with train, validation and test splits.
            layer: Layer to begin with; the recommended one unless given.
            per_label: Greatest number of training prompts of each label.
            look: Result of an earlier ``look_at_layers``; its training prompts are then used.
            run: A fine-tune of an earlier session to show or to continue.
            seed: Seed of the sample of training prompts.
            **look_options: Options of ``look_at_layers``, for instance ``rounds``.

        Raises:
            UserError: If a split lacks a label, the model refuses nothing harmful, or the run
                belongs to another model.
        """
        if run is not None:
            run.check_belongs_to(model)
            layer = run.layer if layer is None else layer
        with weights_held(model):
            if look is None:
                train = prompts.by_split()[0].sample(per_label, seed=seed)
                look = look_at_layers(model, prompts, train=train, seed=seed, **look_options)
            train = look.train_residuals.prompts
            self.exploration = Exploration(model, prompts, train, look, layer=layer, seed=seed)
        if run is not None:
            self.exploration.add_run(run)
            self.exploration.history = run.history
        # Jobs draw from their thread while the user clicks.
        self._lock = threading.RLock()
        self._message_stays = False
        self._shared = SharedPanels(self.exploration)
        name = f"dashboard {next(_numbers)}"
        self.worker = Worker(model, name, on_change=self._show_job, on_error=self._show_error)
        self._make_controls()
        self.sections = {section.title: section(self) for section in _SECTIONS}
        titles = list(self.sections)
        style = {"button_width": "auto"}
        self._choose = ipw.ToggleButtons(options=titles, tooltips=titles, style=style)
        self._linked = LinkedFigure(
            self._composition(), on_click=self._choose_point, on_select=self._choose_points
        )
        first = row(self._slider, self._menu, self._save, self._message)
        above = (self._head, first, self._choose, self._controls)
        super().__init__([*above, *self._linked.parts, self._below, self._error])
        for section in self.sections.values():  # most are not on the page yet
            answer_where_asked(section.controls, section.text)
        self._link()
        self.redraw()
        self._linked.checkpoint()

    @traitlets.validate("layer")
    def _check_layer(self, proposal: dict[str, Any]) -> int:
        return self.exploration.model.check_layer(proposal["value"])

    @traitlets.validate("selection")
    def _check_selection(self, proposal: dict[str, Any]) -> tuple[int, ...]:
        return self.exploration.checked_selection(proposal["value"])

    # ---- What the next cell reads ----

    @property
    def look(self) -> Look:
        """What was measured before training: directions, projections, scores, refusal tokens."""
        return self.exploration.look

    @property
    def section(self) -> str:
        """The open section, by the text of its button; set it to open another."""
        return str(self._choose.value)

    @section.setter
    def section(self, title: str) -> None:
        self._choose.value = title

    def static(self) -> go.Figure:
        """The two upper panels as a plain figure with a slider over the layers.

        For GitHub, HTML copies, notebooks without a kernel. It follows no later change.
        """
        lines = self._open_section.lines()
        return layer_slides(
            range(self.exploration.model.n_layers),
            self.layer,
            lambda layer: compose(self._shared.at(layer, lines, 0.0), height=HEIGHT_ALONE),
        )

    def export_html(self, path: str | os.PathLike[str] = PAGE) -> Path:
        """Write one HTML file that opens offline and stays linked without Python; its path.

        The button *Save page* does the same. ``Exploration.page`` says what is shown.

        Args:
            path: Path of the file; one that is there is replaced whole.

        Raises:
            UserError: If the file cannot be written; an old one survives.
        """
        return write_page(self.exploration.page(), path)

    def page(self) -> HTML:
        """The same page inside the notebook, for front ends where widgets do not run."""
        return HTML(page_inside(self.exploration.page()))

    def _mime_(self) -> tuple[str, str]:
        return "text/html", self.page().data

    def projections(self) -> pd.DataFrame:
        """Table of the drawn prompts at the chosen layer, from the origin that the figure shows.

        Its columns are those of ``Projections.frame``.
        """
        frame = self.exploration.projections()
        return frame[frame["layer"] == self.layer].reset_index(drop=True)

    # ---- What sections ask ----

    def redraw(self) -> None:
        """Draw what changed. What goes wrong is shown and not raised: a job may be drawing."""
        with self._lock:
            self._drawn_values = list(self.exploration.trait_values().values())
            try:
                self._open_section.refresh()
                self._linked.show(self._composition())
            except Exception as error:
                where = "".join(traceback.format_exception(error))
                self._show_error(f"drawing failed: {type(error).__name__}: {error}", where)
            self.worker.leave_cores()  # clicks come on a thread of their own

    def start(self, job: str, work: Callable[[Control], None]) -> bool:
        """Run a job in a thread, and set ``status`` to its name; see ``Desk.start``."""
        if self.worker.busy:
            return False
        self._error.value, self._message_stays = "", False
        return self.worker.start(job, work)

    def tell(self, text: str) -> None:
        """Show one line beside the layer menu; it stays when the job has ended."""
        self._message_stays = True
        self._message.value = paragraph(safe(text))

    def page_is_behind(self) -> bool:
        """Whether the page still draws what it was shown last: live painting waits for it."""
        return hasattr(self, "_linked") and self._linked.behind  # sections come before the figure

    def warn(self, text: str) -> None:
        """Show below the figure what went wrong while the work goes on."""
        self._show_error(text, "")

    # ---- Parts ----

    def _make_controls(self) -> None:
        state, n_layers = self.exploration, self.exploration.model.n_layers
        self._slider = ipw.IntSlider(
            value=state.layer,
            min=0,
            max=n_layers - 1,
            description="Layer",
            layout=ipw.Layout(width="320px"),
        )
        self._menu = ipw.Dropdown(
            options=self._layer_names(),
            value=state.layer,
            layout=ipw.Layout(width="310px"),
            description="Jump to",
        )
        self._head = ipw.HTML(self._headline())
        self._save = button(
            "Save page", self._save_page, tip=f"{PAGE}: one file, linked without Python"
        )
        self._message = ipw.HTML(paragraph("ready"))
        self._error = ipw.HTML()
        self._controls, self._below = ipw.VBox(), ipw.VBox()

    def _layer_names(self) -> list[tuple[str, int]]:
        """Entries of the menu: each layer, and whether it is recommended or ties with that."""
        choice = self.exploration.choice
        notes = {layer: " (ties with it)" for layer in choice.ties}
        notes[choice.layer] = " ★ recommended"
        layers = range(self.exploration.model.n_layers)
        return [(f"layer {layer}{notes.get(layer, '')}", layer) for layer in layers]

    def _headline(self) -> str:
        """The model, the prompts that are drawn, the recommendation with its reason, warnings."""
        state = self.exploration
        counts = ", ".join(
            f"{number} {label.replace('_', '-')}" for label, number in state.shown.counts().items()
        )
        choice = state.choice
        text = (
            f"<b><bdi>{safe(state.model.name, 80)}</bdi></b>: {state.model.n_layers} layers; "
            f"drawn are {counts} validation prompts. Recommended: <b>layer {choice.layer}</b>, as "
            f"{safe(choice.reason)}."
        )
        warnings = [paragraph(f"⚠ {safe(text)}", warn=True) for text in state.look.scores.warnings]
        return paragraph(text) + "".join(warnings)

    def _show_headline(self, _change: object) -> None:
        self._head.value = self._headline()
        # New entries set a menu to the first of them, which the layer should not follow.
        self._menu_link.unlink()
        with self._menu.hold_sync():
            self._menu.options = self._layer_names()
            self._menu_link.link()

    def _link(self) -> None:
        """Join the traits of dashboard, exploration and controls; every change is drawn."""
        state = self.exploration
        for name in ("layer", "selection", "run", "runs"):
            traitlets.link((state, name), (self, name))
        traitlets.link((state, "layer"), (self._slider, "value"))
        self._menu_link = traitlets.link((state, "layer"), (self._menu, "value"))
        state.observe(self._show_headline, "sweep")
        state.observe(self._follow)
        self._choose.observe(self._show_section, "value")
        self._show_section()

    @property
    def _open_section(self) -> Section:
        return self.sections[self._choose.value]

    def _follow(self, _change: object) -> None:
        """Draw once what several traits that changed together say."""
        now = self.exploration.trait_values().values()
        if any(one is not drawn for one, drawn in zip(now, self._drawn_values, strict=True)):
            self.redraw()

    def _show_section(self, _change: object = None) -> None:
        section = self._open_section
        self._controls.children, self._below.children = (section.controls,), (section.text,)
        self.redraw()

    def _composition(self) -> Composition:
        """The shared panels, above those of the open section where it has any."""
        section = self._open_section
        own = section.panels()
        height = section.height if own else HEIGHT_ALONE
        bottom = bottom_above_others(height) if own else 0.0
        shared = self._shared.at(self.exploration.layer, section.lines(), bottom)
        return compose([*shared, *own], height=height)

    # ---- What happens ----

    def _choose_point(self, trace: Any, point: int) -> None:
        """Set ``layer`` by a click on a layer; add a clicked prompt to ``selection`` or drop it."""
        layer = layer_at(trace, point, self.exploration.model.n_layers)
        if layer is not None:
            self.layer = layer
        elif trace.meta["panel"] == "prompts" and trace.customdata is not None:
            place = int(trace.customdata[point])
            others = tuple(other for other in self.selection if other != place)
            self.selection = others if place in self.selection else (*others, place)

    def _choose_points(self, points: list[tuple[Any, list[int]]]) -> None:
        """Set ``selection`` to the prompts in a lasso; a double click has none and empties it."""
        prompts = [(trace, rows) for trace, rows in points if trace.meta["panel"] == "prompts"]
        if prompts or not points:
            places = [int(trace.customdata[row]) for trace, rows in prompts for row in rows]
            self.selection = tuple(sorted(places))

    def _save_page(self) -> None:
        self.start(
            "writing the page", lambda _: self.tell(f"written to {self.export_html().resolve()}")
        )

    def _show_job(self) -> None:
        """Set ``status`` and the message by what the worker does; called from its thread too."""
        worker = self.worker
        with self._lock:
            if worker.waiting_for:
                status = "waiting"
                words = f"{worker.waiting_for} uses this model: waiting for it to end"
            elif worker.busy and worker.control.paused:
                status = words = "paused"
            elif worker.busy:
                status, words = worker.job, f"{worker.job} …"
            else:
                status, words = "ready", "" if self._message_stays else "ready"
            self.status = status
            if words:
                self._message.value = paragraph(safe(words))
            self.redraw()
            if not worker.busy:
                self._linked.checkpoint()

    def _show_error(self, message: str, where: str) -> None:
        """Show an error below the figure; screen readers announce it.

        Args:
            message: What went wrong, in one line.
            where: The traceback, to be unfolded; empty for errors that the user can fix.
        """
        details = f"<details><summary>where</summary><pre>{safe(where, 20_000)}</pre></details>"
        text = f"⚠ {safe(message, 1000)}{details if where else ''}"
        self._error.value = f'<div role="alert">{paragraph(text, warn=True)}</div>'
        self.tell("something went wrong; see the message at the end")
