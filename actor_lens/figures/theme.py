"""How the figures look: one colour, symbol and dash per label, one template, safe text.

Colour is never the only sign: every label also has a symbol and a dash, because the three colours
are hard to tell apart for some readers. The figures hold prompts, so the button that uploads a
figure to a server is off in the template and in `config`, and all text from outside is escaped.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from actor_lens.text import clean, clip, percent

if TYPE_CHECKING:
    import numpy.typing as npt

INK = "#1f2933"
MUTED = "#52606d"
GRID = "#e4e9ef"
RULE = "#9aa5b1"
SHADE = "rgba(82, 96, 109, 0.14)"
FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
FONT_SIZE = 13
SMALL = 12
# A line of the notes must fit a figure 700 px wide.
NOTE_WIDTH = 100
# Pixels; the title block is laid out by hand, because a title does not push the plot down.
TITLE_HEIGHT, NOTE_LINE, TOP_GAP = 46, 16, 28
UNWANTED_BUTTONS = ("sendChartToCloud", "select2d", "lasso2d")
# Ticks of an axis of shares that has to leave room for text on its right.
QUARTERS = {
    "tickvals": [0, 0.25, 0.5, 0.75, 1],
    "ticktext": [percent(one, 0) for one in (0.0, 0.25, 0.5, 0.75, 1.0)],
}
_NUMERIC = {ord(c): f"&#{ord(c)};" for c in "\"'$%"}


@dataclass(frozen=True)
class Style:
    """How a label, or anything else that has a legend entry, is drawn.

    Attributes:
        name: Name as shown.
        color: Colour, as `#rrggbb`.
        symbol: Marker symbol of plotly.
        dash: Line dash of plotly.
    """

    name: str
    color: str
    symbol: str
    dash: str

    def fill(self, opacity: float) -> str:
        """Return the colour as `rgba(...)`, for areas that lie behind other marks.

        Args:
            opacity: From 0, invisible, to 1, solid.
        """
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red}, {green}, {blue}, {opacity:g})"


LABEL_STYLES = {
    "harmful": Style("harmful", "#D55E00", "x", "solid"),
    "pseudo_harmful": Style("pseudo-harmful", "#0072B2", "diamond", "dash"),
    "benign": Style("benign", "#009E73", "circle", "dot"),
}
ORIGIN_NAMES = {
    "zero": "zero",
    "benign_mean": "benign mean",
    "midpoint": "midpoint of the means",
    "fitted": "fitted origin",
}


def config() -> dict[str, Any]:
    """Return the plotly configuration for `figure.show`, `figure.to_html` and notebooks.

    No logo and no upload: "Share chart..." would send the figure, prompts included, to a server.
    Formulas are off, so that a prompt with two dollar signs stays text.
    """
    return {
        "displaylogo": False,
        "showSendToCloud": False,
        "plotlyServerURL": "",
        "modeBarButtonsToRemove": list(UNWANTED_BUTTONS),
        "typesetMath": False,
        "responsive": True,
        "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "actor-lens"},
    }


def use_in_notebook() -> None:
    """Make figures show in notebooks with `config()`, and in HTML copies of notebooks, offline.

    plotly.js is written into the notebook once, so that an exported page needs no network.
    """
    import plotly.io as pio

    for name in ("plotly_mimetype", "notebook"):
        pio.renderers[name].config = config()
    pio.renderers.default = "plotly_mimetype+notebook"


@cache
def template() -> go.layout.Template:
    """Return the shared template: light, left-aligned titles, quiet grid, readable type.

    Figures take a copy of it.
    """
    axis = {
        "automargin": True,
        "gridcolor": GRID,
        "linecolor": RULE,
        "showline": True,
        "ticks": "outside",
        "tickcolor": RULE,
        "ticklen": 4,
        "tickfont": {"size": SMALL, "color": MUTED},
        "title": {"font": {"size": FONT_SIZE, "color": INK}, "standoff": 8},
        "zeroline": False,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": FONT_SIZE, "color": INK},
            "paper_bgcolor": "#ffffff",
            "plot_bgcolor": "#ffffff",
            "title": {
                "font": {"size": 17, "color": INK},
                "subtitle": {"font": {"size": SMALL, "color": MUTED}},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"l": 14, "t": 14},
            },
            "xaxis": axis,
            "yaxis": axis,
            "annotationdefaults": {"font": {"size": SMALL, "color": INK}, "showarrow": False},
            "hoverlabel": {
                "align": "left",
                "bgcolor": "#ffffff",
                "font": {"family": FONT, "size": FONT_SIZE, "color": INK},
                "namelength": -1,
            },
            "hovermode": "closest",
            "legend": {
                "orientation": "h",
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "font": {"size": SMALL},
                "itemsizing": "trace",
            },
            "modebar": {"remove": list(UNWANTED_BUTTONS), "orientation": "h"},
        }
    )


def finish(
    figure: go.Figure,
    *,
    title: str,
    notes: Sequence[str] = (),
    height: int = 440,
    legend: bool = True,
    names_above: int = 1,
    empty: str = "nothing to show",
) -> go.Figure:
    """Give a figure its template, title block, margins and height; return it.

    The width is left to the page. The height grows with the notes, so that the plot keeps its size.

    Args:
        figure: Changed in place.
        title: Plain text; escaped here.
        notes: Plain text below the title; each starts a line, is wrapped and escaped here.
        height: Height in pixels with no notes.
        legend: Whether room is left for a legend below the plot.
        names_above: Levels of line names that stand on top of the plot.
        empty: Plain text in the middle of a figure without traces: why it is empty.
    """
    if not figure.data:
        place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "xanchor": "center"}
        figure.add_annotation(text=escape(empty), font={"size": FONT_SIZE, "color": MUTED}, **place)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
    lines = [line for note in notes for line in wrap(note, NOTE_WIDTH)]
    extra = NOTE_LINE * (len(lines) + names_above - 1)
    figure.update_layout(
        template=template(),
        title={"text": escape(title), "subtitle": {"text": "<br>".join(map(escape, lines))}},
        margin={"l": 64, "r": 24, "t": TITLE_HEIGHT + TOP_GAP + extra, "b": 74 if legend else 54},
        height=height + extra,
        autosize=True,
    )
    return figure


def escape(text: object) -> str:
    """Escape text from outside for plotly, whose labels understand a part of HTML.

    Quotes, dollar and percent signs become numeric entities: plotly does not know `&quot;`, a pair
    of dollar signs would be read as a formula, and `%{y}` as a place for a number. What nobody sees
    is taken out by `actor_lens.text.clean`.
    """
    return html.escape(clean(text), quote=False).translate(_NUMERIC)


def short(text: object, length: int) -> str:
    """Escaped text for an axis, a table or a legend.

    Args:
        text: Any value.
        length: Greatest number of characters shown; an ellipsis says that there were more.
    """
    return escape(clip(clean(text), length))


def wrap(text: str, width: int) -> list[str]:
    """Split text into lines, breaking words that are longer than one.

    Args:
        text: Plain text; escape the lines, not the whole.
        width: Greatest number of characters in a line.
    """
    return textwrap.wrap(text, width, break_on_hyphens=False)


@lru_cache(maxsize=10_000)  # figures are drawn again and again of the same prompts
def hover_text(prompt: object, *, limit: int = 160, width: int = 56) -> str:
    """Return a prompt as it is shown on hover: one paragraph, shortened, wrapped and escaped.

    Line breaks are shown as ⏎.

    Args:
        prompt: Any text.
        limit: Number of characters that are kept; an ellipsis says that there were more.
        width: Characters in a line; lines are joined by `<br>`.
    """
    whole = str(prompt).strip()
    # A very long prompt is cut before it is looked at, so that the cost stays bounded.
    text = re.sub(r"\s*[\r\n]\s*", " ⏎ ", clean(whole[: 4 * limit]))
    text = re.sub(r"\s+", " ", text)
    if len(whole) > 4 * limit:
        text += "…"  # the rest is missing, even where what was cut hides much
    text = clip(text, limit)
    return "<br>".join(escape(line) for line in wrap(text, width))


def layer_axis(layers: Sequence[int]) -> dict[str, Any]:
    """Return an x axis for layers: whole numbers only, at most about sixteen of them.

    Args:
        layers: Block indices that are drawn, in any order; at least one.
    """
    first, last = min(layers), max(layers)
    return {
        "title": {"text": "layer"},
        "range": [first - 0.5, last + 0.5],
        "tick0": 0,
        "dtick": max(1, math.ceil((last - first + 1) / 16)),
        "zeroline": False,
    }


def whiskers(
    value: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, **look: Any
) -> dict[str, Any]:
    """Return error bars from `low` to `high` around `value`, none where an end is unknown.

    Args:
        value: Where the marks are.
        low: Lower ends, in the units of `value`.
        high: Upper ends.
        look: Further settings of plotly's error bars: `color`, `thickness` and `width` in pixels.
    """
    middle, below, above = (np.asarray(each, dtype=float) for each in (value, low, high))
    return {
        "type": "data",
        "symmetric": False,
        # Rounding may put the value a hair outside its interval.
        "array": np.clip(np.nan_to_num(above - middle), 0, None),
        "arrayminus": np.clip(np.nan_to_num(middle - below), 0, None),
        **look,
    }


def outline(
    x: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, *, least: float = 0.0
) -> dict[str, np.ndarray]:
    """Return `x` and `y` of the closed line around a band, for a trace that is filled.

    Args:
        x: Places from left to right.
        low: Lower edge at each place.
        high: Upper edge.
        least: Width of the band where there is one place, which has no width of its own.
    """
    places, below, above = (np.asarray(each, dtype=float) for each in (x, low, high))
    if len(places) == 1 and least:
        places = np.array([places[0] - least / 2, places[0] + least / 2])
        below, above = below.repeat(2), above.repeat(2)
    return {
        "x": np.concatenate([places, places[::-1]]),
        "y": np.concatenate([below, above[::-1]]),
    }


def chance_band(
    x: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, *, group: str, **trace: Any
) -> go.Scatter:
    """Return the shaded band of what chance gives, without a line around it.

    Args:
        x: Places from left to right.
        low: Lower edge at each place.
        high: Upper edge.
        group: Group in the legend.
        trace: What else the trace has, such as ``name`` and ``meta``.
    """
    return go.Scatter(
        **outline(x, low, high, least=0.6),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=SHADE,
        hoverinfo="skip",
        legendgroup=group,
        **trace,
    )


def mark_layer(figure: go.Figure, layer: int) -> None:
    """Draw a dotted vertical line through every panel at a layer, named above the plot."""
    line = {"color": INK, "width": 1.5, "dash": "dot"}
    figure.add_shape(type="line", x0=layer, x1=layer, xref="x", y0=0, y1=1, yref="paper", line=line)
    figure.add_annotation(
        text=f"layer {layer}",
        x=layer,
        xref="x",
        y=1,
        yref="paper",
        yanchor="bottom",
    )
