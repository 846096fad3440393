"""Pick a layer by looking: projections at every layer, prompts at one, a score under them."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go
import traitlets

from actor_lens import figures
from actor_lens.directions.layer_scores import LayerScores
from actor_lens.directions.options import Origin, Score
from actor_lens.directions.projections import Projections
from actor_lens.errors import UserError
from actor_lens.figures import Composition, Panel, compose
from actor_lens.widgets.figure_box import FigureBox
from actor_lens.widgets.linked_figure import LinkedFigure
from actor_lens.widgets.parts import layer_slides


class LayerPicker(FigureBox):
    """A figure and a slider that agree on one layer.

    The trait ``layer`` is the chosen one: read it in the next cell, set it, or watch it.
    """

    layer = traitlets.Int(help="The chosen layer.")

    def __init__(
        self,
        projections: Projections,
        scores: LayerScores | None = None,
        *,
        origin: Origin = "benign_mean",
        score: Score | None = None,
    ) -> None:
        """Begin at the layer that the scores recommend, else in the middle.

        Args:
            projections: Of prompts that the directions were not fitted to.
            scores: Of the same layers, drawn below.
            origin: What is taken off the projections.
            score: Which score to draw; the one that the recommendation goes by unless given.
        """
        self._projections, self._scores, self._origin = projections, scores, origin
        self._n_layers = projections.residuals.n_layers
        start = self._n_layers // 2
        self._score: str | None = score
        if scores is not None:
            choice = scores.best(by=score)
            start, self._score = choice.layer, choice.by
        self._table = projections.frame(origin=origin)
        self._fixed = self._fixed_panels()
        self._slider = ipw.IntSlider(
            value=start, min=0, max=self._n_layers - 1, description="Layer"
        )
        self.set_trait("layer", start)
        self._linked = LinkedFigure(self._composition(), on_click=self._clicked)
        super().__init__([self._slider, *self._linked.parts], layer=start)
        traitlets.link((self, "layer"), (self._slider, "value"))
        self.observe(lambda _change: self._linked.show(self._composition()), "layer")

    @property
    def figure(self) -> go.FigureWidget:
        """The figure widget."""
        return self._linked.widget

    def static(self) -> go.Figure:
        """A plain figure with a slider over the layers."""
        return layer_slides(
            range(self._n_layers),
            self.layer,
            lambda layer: compose(self._panels(layer), height=520),
        )

    @traitlets.validate("layer")
    def _existing(self, proposal: dict[str, Any]) -> int:
        layer = int(proposal["value"])
        if not 0 <= layer < self._n_layers:
            raise UserError(f"layer {layer} is out of range: layers 0 to {self._n_layers - 1}")
        return layer

    def _composition(self) -> Composition:
        return compose(self._panels(self.layer), height=440 if self._scores is None else 700)

    def _fixed_panels(self) -> list[Panel]:
        upper = (0.0 if self._scores is None else 0.52, 1.0)
        layers = figures.projections_by_layer(self._projections, origin=self._origin, points=False)
        layers.update_yaxes(title_text="projection")
        panels = [
            Panel(
                "layers",
                layers,
                x=(0.0, 0.56),
                y=upper,
                title="Projection on the refusal direction",
                note="Line: median. Band: middle half. Click a layer.",
            )
        ]
        if self._scores is not None and self._score is not None:
            panels.append(
                Panel(
                    "scores",
                    figures.layer_scores(self._scores, only=[self._score]),
                    x=(0.0, 1.0),
                    y=(0.0, 0.34),
                    title="How well each layer separates the labels",
                    note="Whiskers: 95 % intervals. Yellow: layers that tie for the best.",
                )
            )
        return panels

    def _panels(self, layer: int) -> list[Panel]:
        n_prompts = len(self._projections.prompts)
        here = self._table.iloc[layer * n_prompts : (layer + 1) * n_prompts]
        strip = figures.prompts_at_layer(here, layer, origin=self._origin)
        strip.update_yaxes(title_text="")
        prompts = Panel(
            "prompts",
            strip,
            x=(0.64, 1.0),
            y=self._fixed[0].y,
            title=f"Prompts at layer {layer}",
            note="Hover to read a prompt.",
        )
        first, *rest = [panel.marked(layer) for panel in self._fixed]
        return [first, prompts, *rest]

    def _clicked(self, trace: Any, point: int) -> None:
        if trace.meta["panel"] != "prompts":
            layer = round(float(trace.x[point]))
            if 0 <= layer < self._n_layers:
                self.layer = layer
