"""Two panels that widgets share: projections at every layer, and the prompts at one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from actor_lens import figures
from actor_lens.directions.options import Origin
from actor_lens.directions.projections import Projections, TokenProjections, layer_map
from actor_lens.figures import Panel
from actor_lens.figures.prompts import BOXES, UNSELECTED, box_heights
from actor_lens.figures.theme import ORIGIN_NAMES
from actor_lens.widgets.exploration import Exploration

# Single prompts that are drawn over the bands: with more of them no line can be followed.
LINES_SHOWN = 4
# Pixels: a figure with nothing but these panels, their height in a taller one, and the margins
# that ``compose`` leaves above and below.
HEIGHT_ALONE, HEIGHT_ABOVE, MARGINS = 440, 262, 54 + 64


def bottom_above_others(height: int) -> float:
    """Where the shared panels end when others lie below them.

    They keep their height in pixels, so nothing that is clicked moves when another section opens.

    Args:
        height: Height of the whole figure in pixels.

    Returns:
        A share of the plot area, counted from its bottom.
    """
    return 1 - HEIGHT_ABOVE / (height - MARGINS)


def layers_panel(
    projections: Projections,
    origin: Origin,
    *,
    bottom: float = 0.0,
    lines: Mapping[str, list[float]] | None = None,
) -> Panel:
    """The panel on the left: median and middle half of each label at every layer.

    Args:
        projections: Projections of prompts that the directions were not fitted to.
        origin: What is taken off the projections.
        bottom: Lower end of the panel, as a share of the plot area.
        lines: Projections of single prompts at every layer, by the name in the legend. Their
            number may change later without a change of traces, up to ``LINES_SHOWN``.
    """
    figure = figures.projections_by_layer(
        projections,
        origin=origin,
        points=False,
        lines=lines,
        room_for_lines=0 if lines is None else LINES_SHOWN,
    )
    figure.update_yaxes(title_text=f"projection<br>(origin: {ORIGIN_NAMES[origin]})")
    return Panel(
        "layers",
        figure,
        x=(0.0, 0.56),
        y=(bottom, 1.0),
        title="Projection on the refusal direction",
        note="Line: median. Band: middle half. Click a layer.",
    )


def prompts_panel(figure: go.Figure, title: str, note: str, *, bottom: float = 0.0) -> Panel:
    """The panel on the right: every drawn prompt at one layer."""
    return Panel("prompts", figure, x=(0.64, 1.0), y=(bottom, 1.0), title=title, note=note)


def tokens_panel(
    tokens: TokenProjections,
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    name: str = "tokens",
    layer: int | None = None,
    when: str = "",
    scale: bool = True,
) -> Panel:
    """A heatmap of a prompt's tokens against the layers.

    Args:
        tokens: Projections of the tokens.
        x: Left and right end, as shares of the plot area.
        y: Lower and upper end, likewise.
        name: Name of the panel.
        layer: Layer to mark; none unless given.
        when: Time that the title names, such as "Before training".
        scale: Whether the colours are explained beside it.
    """
    title = f"{when}, token by token" if when else "Which words pull toward refusal"
    note = (
        "0: mean benign prompt. 1: mean harmful one. The last token decides. "
        "Rows of one colour: labels hardly apart."
    )
    figure = figures.token_heatmap(tokens, layer=layer)
    figure.update_traces(showscale=scale)
    return Panel(name, figure, x=x, y=y, title=title, note=note)


# Panels with the layers on their x axis, and on their y axis.
_LAYERS_ACROSS = dict.fromkeys(("layers", "scores", "outcomes"), True) | dict.fromkeys(
    ("tokens", "tokens after"), False
)


def layer_at(trace: Any, point: int, n_layers: int) -> int | None:
    """The layer of a point that was clicked.

    Args:
        trace: The trace that was clicked.
        point: Position of the point in it.
        n_layers: Number of layers of the model.

    Returns:
        The layer, or None where the point lies beside all of them, as parts of a band do, or in a
        panel without an axis of layers.
    """
    across = _LAYERS_ACROSS.get(trace.meta["panel"])
    if across is None:
        return None
    layer = round(float((trace.x if across else trace.y)[point]))
    return layer if 0 <= layer < n_layers else None


class PanelCache:
    """Panels by name, each drawn again only when what it was drawn from has changed."""

    def __init__(self) -> None:
        """Begin empty."""
        self._panels: dict[str, tuple[object, Panel]] = {}

    def __call__(self, name: str, key: object, draw: Callable[[], Panel]) -> Panel:
        """The panel of this name, from the cache where it is still right.

        Args:
            name: Name of the panel; one panel is kept for each.
            key: Everything that the panel depends on.
            draw: Draws the panel; called when the key differs from the last one.
        """
        if name not in self._panels or self._panels[name][0] != key:
            self._panels[name] = (key, draw())
        return self._panels[name][1]


class SharedPanels:
    """The panels that every section of a dashboard has above its own.

    Reads ``origin``, ``view`` and ``selection`` of the exploration and writes nothing.
    """

    def __init__(self, exploration: Exploration) -> None:
        """Draw nothing yet.

        Args:
            exploration: Model, prompts and selection that are drawn.
        """
        self._exploration, self._cached = exploration, PanelCache()

    def at(self, layer: int, lines: Mapping[str, Tensor], bottom: float) -> list[Panel]:
        """Both panels with one layer marked on the left and shown on the right.

        Args:
            layer: The layer.
            lines: Raw projections of single prompts at every layer, by name.
            bottom: Lower end of the panels, as a share of the plot area.
        """
        state = self._exploration
        origins = state.look.directions.origins(state.origin)
        heights = {name: (values - origins).tolist() for name, values in lines.items()}
        layers = self._cached(
            "layers",
            (state.origin, heights, bottom),
            lambda: layers_panel(
                state.look.projections, state.origin, bottom=bottom, lines=heights
            ),
        )
        draw = self._map if state.view == "pca" else self._strip
        return [layers.marked(layer), draw(layer, bottom)]

    def _strip(self, layer: int, bottom: float) -> Panel:
        """Prompts by their projection; the trait ``selection`` keeps its colour, others fade."""
        state = self._exploration
        title = f"Prompts at layer {layer}"

        def draw() -> Panel:
            figure = figures.prompts_at_layer(
                state.projections(), layer, origin=state.origin, selected=state.selection
            )
            figure.update_yaxes(title_text="")
            note = "Hover to read, click or lasso to select."
            if any("of" in trace.meta for trace in figure.data):
                note = f"{BOXES} some."
            return prompts_panel(figure, title, note, bottom=bottom)

        strip = self._cached("prompts", (state.origin, state.selection, bottom), draw)
        # Between two layers only heights differ: what stands there is not written again.
        heights, labels = state.heights(layer), np.array(state.shown.labels)
        points = {
            trace["meta"]["label"]: {"y": heights[trace["customdata"]]}
            for trace in strip.content["data"]
            if "label" in trace["meta"]
        }
        boxes = {label: {"y": box_heights(heights[labels == label])} for label in points}
        return strip.with_points(points, by="label", title=title).with_points(boxes, by="of")

    def _map(self, layer: int, bottom: float) -> Panel:
        """Prompts by two principal components, which say nothing about refusal by themselves."""
        state = self._exploration
        title = f"Prompts at layer {layer}, PCA"

        def draw() -> Panel:
            figure = figures.layer_map(layer_map(state.look.projections.residuals, layer))
            figure.update_yaxes(scaleanchor=None)
            figure.update_traces(showlegend=False)
            for trace in figure.data if state.selection else ():
                rows = [
                    row for row, place in enumerate(trace.customdata) if place in state.selection
                ]
                trace.update(selectedpoints=rows, unselected=UNSELECTED)
            return prompts_panel(figure, title, "Two directions of many.", bottom=bottom)

        return self._cached("prompts", ("pca", layer, state.selection, bottom), draw)
