"""The dashboard: choose a layer by looking, preview, train live, compare, in one linked view.

One figure widget, with controls around it and one selection (layer and prompts) that every panel
follows. Computation is that of the stages, drawing that of ``actor_lens.figures``: here is only
what happens when something is clicked.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go
import traitlets

from actor_lens import figures
from actor_lens.directions.projections import layer_map
from actor_lens.experiments.look import Look, look_at_layers
from actor_lens.figures import Composition, Panel, compose
from actor_lens.figures.theme import ORIGIN_NAMES
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.text import clip, one_line
from actor_lens.training.run import TrainingRun
from actor_lens.widgets.exploration import Exploration
from actor_lens.widgets.figure_box import FigureBox, answer_where_asked
from actor_lens.widgets.jobs import Control, Worker, weights_held
from actor_lens.widgets.linked_figure import LinkedFigure
from actor_lens.widgets.parts import layer_slides, paragraph, row, safe
from actor_lens.widgets.sections.base import Section
from actor_lens.widgets.sections.comparison import CompareSection
from actor_lens.widgets.sections.layers import LayersSection
from actor_lens.widgets.sections.probe import ProbeSection
from actor_lens.widgets.sections.prompts import PromptsSection
from actor_lens.widgets.sections.training import TrainSection
from actor_lens.widgets.sections.what_if import WhatIfSection

_SECTIONS: tuple[type[Section], ...] = (
    LayersSection,
    PromptsSection,
    ProbeSection,
    WhatIfSection,
    TrainSection,
    CompareSection,
)
LINES_SHOWN, NAME_LENGTH = 4, 26
_LAYER_PANELS = ("layers", "scores", "outcomes")
_TOKEN_PANELS = ("tokens", "tokens after")
_numbers = iter(range(1, 10**9))


class Dashboard(FigureBox):
    """A model and its prompts, to be looked at, previewed, trained and compared.

    Traits for the next cell: ``layer``, ``selection`` (positions among the validation prompts),
    ``run`` (the last fine-tune or None), ``runs``, and ``status``.
    """

    layer = traitlets.Int(help="The chosen layer.")
    selection = traitlets.Tuple(help="Positions of chosen prompts among the validation prompts.")
    run = traitlets.Instance(TrainingRun, allow_none=True)
    runs = traitlets.Tuple(help="Fine-tunes of this session.")
    status = traitlets.Unicode("ready", help="ready, waiting, paused, or the job that runs.")

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
        """Look at every layer, then show what was seen.

        Args:
            model: Left as it is, whatever is trained.
            prompts: With train, validation and test splits.
            layer: Where to begin; the recommended one unless given.
            per_label: Most training prompts of each label.
            look: What ``look_at_layers`` saw already; its training prompts are then used.
            run: A fine-tune of an earlier session to show or to continue.
            seed: Of the sample of training prompts.
            **look_options: For ``look_at_layers``, for instance ``rounds`` or ``batch_size``.

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
        self._lock = threading.RLock()
        self._told = False
        self._panels: dict[str, tuple[Any, Panel]] = {}
        name = f"dashboard {next(_numbers)}"
        self.worker = Worker(model, name, on_change=self._job_changed, on_error=self._show_error)
        self._make_controls()
        self.sections = {section.title: section(self) for section in _SECTIONS}
        self._choose = ipw.ToggleButtons(
            options=list(self.sections),
            tooltips=list(self.sections),
            style={"button_width": "104px"},
        )
        self._linked = LinkedFigure(
            self._composition(), on_click=self._clicked, on_select=self._lassoed
        )
        self._controls, self._below = ipw.VBox(), ipw.VBox()
        super().__init__(
            [
                self._head,
                row(self._slider, self._menu, self._message),
                self._choose,
                self._controls,
                *self._linked.parts,
                self._below,
                self._error,
            ]
        )
        for section in self.sections.values():  # most are not on the page yet
            answer_where_asked(section.controls, section.below)
        self._link()
        self.redraw()
        self._linked.checkpoint()

    @traitlets.validate("layer")
    def _existing(self, proposal: dict[str, Any]) -> int:
        return self.exploration.model.check_layer(proposal["value"])

    @traitlets.validate("selection")
    def _drawn(self, proposal: dict[str, Any]) -> tuple[int, ...]:
        return self.exploration.checked_selection(proposal["value"])

    # ---- What the next cell reads ----

    @property
    def figure(self) -> go.FigureWidget:
        """The one figure widget."""
        return self._linked.widget

    @property
    def section(self) -> str:
        """The open section."""
        return str(self._choose.value)

    @section.setter
    def section(self, title: str) -> None:
        self._choose.value = title

    def static(self) -> go.Figure:
        """The two upper panels as a plain figure with a slider over the layers.

        For places where widgets do not run: GitHub, HTML copies, notebooks without a kernel.
        """
        seen = self.exploration
        return layer_slides(
            range(seen.look.scores.n_layers),
            seen.layer,
            lambda layer: compose(self._shared(layer, tall=True), height=440),
        )

    def projections(self) -> Any:
        """Table of the drawn prompts at the chosen layer, as the figure shows it."""
        frame = self.exploration.projections()
        return frame[frame["layer"] == self.layer].reset_index(drop=True)

    # ---- What sections ask ----

    def redraw(self) -> None:
        """Draw what changed. What goes wrong is shown and not raised: a job may be drawing."""
        with self._lock:
            try:
                self.sections[self._choose.value].refresh()
                self._linked.show(self._composition())
            except Exception as error:
                where = "".join(traceback.format_exception(error))
                self._show_error(f"drawing failed: {type(error).__name__}: {error}", where)

    def start(self, job: str, work: Callable[[Control], None]) -> bool:
        """Run a job in a thread; errors are shown."""
        if self.worker.busy:
            return False
        self._error.value, self._told = "", False
        return self.worker.start(job, work)

    def tell(self, text: str) -> None:
        """Show one line about what happens."""
        self._told = True
        self._message.value = paragraph(safe(text))

    def warn(self, text: str) -> None:
        """Show what went wrong while the work goes on."""
        self._show_error(text, "")

    # ---- Parts ----

    def _make_controls(self) -> None:
        seen = self.exploration
        self._slider = ipw.IntSlider(
            value=seen.layer,
            min=0,
            max=seen.look.scores.n_layers - 1,
            description="Layer",
            layout=ipw.Layout(width="340px"),
        )
        self._menu = ipw.Dropdown(
            options=list(self._layer_names()),
            value=seen.layer,
            layout=ipw.Layout(width="310px"),
            description="Jump to",
        )
        self._head = ipw.HTML(self._headline())
        self._message = ipw.HTML(paragraph("ready"))
        self._error = ipw.HTML()

    def _layer_names(self) -> Iterator[tuple[str, int]]:
        seen = self.exploration
        for layer in range(seen.look.scores.n_layers):
            note = ""
            if layer == seen.choice.layer:
                note = " ★ recommended"
            elif layer in seen.choice.ties:
                note = " (ties with it)"
            yield f"layer {layer}{note}", layer

    def _headline(self) -> str:
        seen = self.exploration
        counts = ", ".join(
            f"{count} {label.replace('_', '-')}" for label, count in seen.shown.counts().items()
        )
        choice = seen.choice
        text = (
            f"<b><bdi>{safe(seen.model.name, 80)}</bdi></b>: {seen.look.scores.n_layers} layers; "
            f"drawn are {counts} validation prompts. Recommended: <b>layer {choice.layer}</b>, as "
            f"{safe(choice.reason)}."
        )
        if seen.sweep is not None:
            text += f" Of all layers, trained: <b>layer {seen.sweep.best.layer}</b>."
        warnings = [paragraph(f"⚠ {safe(one)}", warn=True) for one in seen.look.scores.warnings]
        return paragraph(text) + "".join(warnings)

    def _show_headline(self, _change: object) -> None:
        self._head.value = self._headline()

    def _link(self) -> None:
        seen = self.exploration
        for name in ("layer", "selection", "run", "runs"):
            traitlets.link((seen, name), (self, name))
        traitlets.link((seen, "layer"), (self._slider, "value"))
        traitlets.link((seen, "layer"), (self._menu, "value"))
        seen.observe(self._show_headline, "sweep")
        seen.observe(lambda _change: self.redraw())
        self._choose.observe(self._open_section, "value")
        self._open_section()

    def _open_section(self, _change: object = None) -> None:
        section = self.sections[self._choose.value]
        self._controls.children, self._below.children = (section.controls,), (section.below,)
        self.redraw()

    # ---- Drawing ----

    def _composition(self) -> Composition:
        section = self.sections[self._choose.value]
        own = section.panels()
        height = section.height if own else 440
        shared = self._shared(self.exploration.layer, tall=not own, height=height)
        return compose([*shared, *own], height=height)

    def _shared(self, layer: int, *, tall: bool, height: int = 440) -> list[Panel]:
        """The panels that every section has: all layers, and the prompts at one of them."""
        seen = self.exploration
        # The upper panels keep their height in pixels, whatever lies below them.
        low = 0.0 if tall else 1 - 262 / (height - 118)
        lines = self._lines()
        key = (seen.origin, lines, low)
        layers = self._cached("layers", key, lambda: self._layers_panel(lines, low))
        if seen.view == "pca":
            pca_key = ("pca", layer, seen.selection, low)
            prompts = self._cached("prompts", pca_key, lambda: self._pca(layer, low))
        else:
            strip_key = (seen.origin, seen.selection, low)
            strip = self._cached("prompts", strip_key, lambda: self._strip(layer, low))
            # Between two layers only heights differ: what stands there is not written again.
            heights = seen.heights(layer)
            prompts = strip.with_points(
                {label: {"y": heights[label]} for label in heights},
                by="label",
                title=f"Prompts at layer {layer}",
            )
        return [layers.marked(layer), prompts]

    def _lines(self) -> dict[str, list[float]]:
        """Single prompts over the bands, where the open section is about them."""
        seen = self.exploration
        origins = seen.look.directions.origins(seen.origin)
        found: dict[str, Any] = {}
        if self.section == ProbeSection.title and seen.tokens_seen is not None:
            found["your prompt"] = seen.tokens_seen.before.last
            if seen.tokens_seen.after is not None:
                found["your prompt, with the run"] = seen.tokens_seen.after.last
        if self.section == PromptsSection.title and len(seen.selection) <= LINES_SHOWN:
            for place in seen.selection:
                name = clip(one_line(seen.shown[place].prompt[:200]), NAME_LENGTH)
                found[f"{place}: {name}"] = seen.look.projections.values[:, place]
        return {name: (values - origins).tolist() for name, values in found.items()}

    def _layers_panel(self, lines: dict[str, list[float]], low: float) -> Panel:
        seen = self.exploration
        figure = figures.projections_by_layer(
            seen.look.projections,
            origin=seen.origin,
            points=False,
            lines=lines,
            room_for_lines=LINES_SHOWN,
        )
        figure.update_yaxes(title_text=f"projection<br>(origin: {ORIGIN_NAMES[seen.origin]})")
        return Panel(
            "layers",
            figure,
            x=(0.0, 0.56),
            y=(low, 1.0),
            title="Projection on the refusal direction",
            note="Line: median. Band: middle half. Click a layer.",
        )

    def _strip(self, layer: int, low: float) -> Panel:
        seen = self.exploration
        frame = seen.projections()
        here = frame.iloc[layer * len(seen.shown) : (layer + 1) * len(seen.shown)]
        figure = figures.prompts_at_layer(here, layer, origin=seen.origin, selected=seen.selection)
        figure.update_yaxes(title_text="")
        return Panel(
            "prompts",
            figure,
            x=(0.64, 1.0),
            y=(low, 1.0),
            title=f"Prompts at layer {layer}",
            note="Hover to read, click or lasso to select.",
        )

    def _pca(self, layer: int, low: float) -> Panel:
        seen = self.exploration
        figure = figures.layer_map(layer_map(seen.look.projections.residuals, layer))
        figure.update_yaxes(scaleanchor=None)
        figure.update_traces(showlegend=False)
        for trace in figure.data if seen.selection else ():
            held = [row for row, one in enumerate(trace.customdata) if one in seen.selection]
            trace.update(selectedpoints=held, unselected={"marker": {"opacity": 0.16}})
        return Panel(
            "prompts",
            figure,
            x=(0.64, 1.0),
            y=(low, 1.0),
            title=f"Prompts at layer {layer}: principal components",
            note="Two directions of many.",
        )

    def _cached(self, name: str, key: Any, draw: Callable[[], Panel]) -> Panel:
        if name not in self._panels or self._panels[name][0] != key:
            self._panels[name] = (key, draw())
        return self._panels[name][1]

    # ---- What happens ----

    def _clicked(self, trace: Any, point: int) -> None:
        panel = trace.meta["panel"]
        seen = self.exploration
        if panel in _LAYER_PANELS:
            layer = round(float(trace.x[point]))
            if 0 <= layer < seen.look.scores.n_layers:
                self.layer = layer
        elif panel in _TOKEN_PANELS:
            self.layer = int(trace.y[point])
        elif panel == "prompts" and trace.customdata is not None:
            place = int(trace.customdata[point])
            chosen = seen.selection
            self.selection = (
                tuple(one for one in chosen if one != place)
                if place in chosen
                else (*chosen, place)
            )

    def _lassoed(self, held: list[tuple[Any, list[int]]]) -> None:
        of_prompts = [one for one in held if one[0].meta["panel"] == "prompts"]
        if of_prompts or not held:
            self.selection = tuple(
                sorted(
                    int(trace.customdata[point]) for trace, points in of_prompts for point in points
                )
            )

    def _job_changed(self) -> None:
        worker = self.worker
        with self._lock:
            words = ""
            if worker.waiting_for:
                self.status = "waiting"
                words = f"{worker.waiting_for} uses this model: waiting for it to end"
            elif worker.busy and worker.control.paused:
                self.status = words = "paused"
            elif worker.busy:
                self.status = worker.job
                words = f"{worker.job} …"
            else:
                self.status = "ready"
                if not self._told:  # else what the job said last stays
                    words = "ready"
            if words:
                self._message.value = paragraph(safe(words))
            self.redraw()
            if not worker.busy:
                self._linked.checkpoint()

    def _show_error(self, message: str, where: str) -> None:
        details = f"<details><summary>where</summary><pre>{safe(where, 20_000)}</pre></details>"
        text = f"⚠ {safe(message, 1000)}{details if where else ''}"
        self._error.value = f'<div role="alert">{paragraph(text, warn=True)}</div>'
        self.tell("something went wrong; see the message at the end")
