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
from actor_lens.widgets.shared_panels import layer_at, layers_panel, prompts_panel


class LayerPicker(FigureBox):
    """A figure and a slider that agree on one layer.

    The user sees projections at every layer on the left, the prompts at the chosen one on the
    right, and a score of every layer below where scores are given. The slider, its arrow keys and
    a click on a layer set the trait.

    Attributes:
        layer: The chosen layer, from 0: read it in the next cell, set it, or watch it.
    """

    layer = traitlets.Int()

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
            projections: Projections of prompts that the directions were not fitted to.
            scores: Scores of the same layers, drawn below.
            origin: What is taken off the projections.
            score: Score to draw; the one that the recommendation goes by unless given.

        Raises:
            UserError: If the score was not measured, or no score recommends a layer.
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
        self._linked = LinkedFigure(self._composition(), on_click=self._choose_point)
        super().__init__([self._slider, *self._linked.parts], layer=start)
        traitlets.link((self, "layer"), (self._slider, "value"))
        self.observe(lambda _change: self._linked.show(self._composition()), "layer")

    def static(self) -> go.Figure:
        """A plain figure with a slider over the layers, for places where widgets do not run."""
        return layer_slides(
            range(self._n_layers),
            self.layer,
            lambda layer: compose(self._panels(layer), height=520),
        )

    @traitlets.validate("layer")
    def _check_layer(self, proposal: dict[str, Any]) -> int:
        layer = int(proposal["value"])
        if not 0 <= layer < self._n_layers:
            raise UserError(f"layer {layer} is out of range: layers 0 to {self._n_layers - 1}")
        return layer

    def _composition(self) -> Composition:
        return compose(self._panels(self.layer), height=440 if self._scores is None else 700)

    def _fixed_panels(self) -> list[Panel]:
        """The panels that look alike at every layer but for the mark: layers, and scores if any."""
        layers = layers_panel(
            self._projections, self._origin, bottom=0.0 if self._scores is None else 0.52
        )
        if self._scores is None or self._score is None:
            return [layers]
        scores = Panel(
            "scores",
            figures.layer_scores(self._scores, only=[self._score]),
            x=(0.0, 1.0),
            y=(0.0, 0.34),
            title="How well each layer separates the labels",
            note="Whiskers: 95 % intervals. Yellow: layers that tie for the best.",
        )
        return [layers, scores]

    def _panels(self, layer: int) -> list[Panel]:
        strip = figures.prompts_at_layer(self._table, layer, origin=self._origin)
        strip.update_yaxes(title_text="")
        first, *rest = [panel.marked(layer) for panel in self._fixed]
        title, note = f"Prompts at layer {layer}", "Hover to read a prompt."
        return [first, prompts_panel(strip, title, note, bottom=first.y[0]), *rest]

    def _choose_point(self, trace: Any, point: int) -> None:
        """Set ``layer`` by a click on a layer; clicks on prompts do nothing."""
        layer = layer_at(trace, point, self._n_layers)
        self.layer = self.layer if layer is None else layer
