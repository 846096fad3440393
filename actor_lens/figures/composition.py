"""Several figures as panels of one: what a page with many plots in it needs, without a second copy.

A notebook page carries plotly.js once for every figure widget, and more than one of them may stay
blank after a reload. So panels that belong together are drawn by their own functions and then
placed side by side in a single figure.

What a panel draws is copied into plain dictionaries once; a page that moves points or a marked
layer then composes anew in a few milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import plotly.graph_objects as go

from actor_lens.figures.theme import FONT_SIZE, INK, MUTED, SMALL, escape, template, wrap
from actor_lens.text import plural

_AXIS = re.compile(r"([xy])axis(\d*)")
_REFERENCE = re.compile(r"([xy])(\d*)( domain)?")
# New letter and number of each axis of a panel by the old ones.
_Axes = Mapping[tuple[str, str], tuple[str, str]]
# Pixels: a panel's title stands this far above it, a line of its note below the title.
TITLE_SHIFT, NOTE_STEP = 26, 15
# Characters of a note in a line as long as the page, where that is 900 pixels wide.
NOTE_LENGTH = 110


@dataclass(frozen=True, repr=False)
class Panel:
    """A figure and the part of the page that it takes.

    Attributes:
        name: Name of the panel, `panel` in the `meta` of every trace.
        figure: What is drawn; its title block is replaced by `title` and `note`. Data and layout as
            plain dictionaries are drawn as they are: quick, for what moves with a control.
        x: Left and right end, as shares of the plot area.
        y: Lower and upper end, likewise.
        title: Title above the panel, plain text.
        note: Line below the title, plain text.
        layer: Layer to mark by a line, where the x axis of the figure is that of layers.
        names_above: Lines of names that the figure itself writes on top of its plot.
    """

    name: str
    figure: go.Figure | Mapping[str, Any]
    x: tuple[float, float]
    y: tuple[float, float]
    title: str = ""
    note: str = ""
    layer: int | None = None
    names_above: int = 1

    def marked(self, layer: int) -> Panel:
        """The same panel with a layer marked; what is drawn is not copied again."""
        marked = replace(self, layer=layer)
        marked.__dict__["content"] = self.content
        return marked

    def with_points(
        self, points: Mapping[str, Mapping[str, Any]], *, by: str = "kind", title: str | None = None
    ) -> Panel:
        """The same panel with other points: cheap, because nothing is drawn anew.

        Args:
            points: New `x`, `y` or both of a trace, by an entry of its `meta`.
            by: Name of that entry.
            title: New title; None for the panel's own.
        """
        moved = replace(self, title=self.title if title is None else title)
        moved.__dict__["content"] = {
            "layout": self.content["layout"],
            "data": [
                {**trace, **points.get(str((trace.get("meta") or {}).get(by)), {})}
                for trace in self.content["data"]
            ],
        }
        return moved

    @cached_property
    def content(self) -> dict[str, Any]:
        """The figure as plain dictionaries: copied once, however often it is composed."""
        if not isinstance(self.figure, go.Figure):
            return dict(self.figure)
        # Part by part: the whole figure's own dictionary would hold encoded arrays.
        return {
            "data": [trace.to_plotly_json() for trace in self.figure.data],
            "layout": self.figure.layout.to_plotly_json(),
        }

    def __repr__(self) -> str:
        """Name and place; never what is drawn, which holds prompts."""
        return (
            f"Panel {self.name!r} of {len(self.content['data'])} traces at x {self.x}, y {self.y}"
        )


@dataclass(frozen=True, repr=False)
class Composition:
    """The parts of a composed figure.

    Attributes:
        traces: Traces in drawing order, as plotly's plain dictionaries; `meta` holds `panel` and
            `key`, which no two traces share.
        layout: Layout of the whole, as a plain dictionary.
    """

    traces: tuple[dict[str, Any], ...]
    layout: dict[str, Any]

    def figure(self) -> go.Figure:
        """The whole as one figure."""
        return go.Figure({"data": list(self.traces), "layout": {**self.layout}})

    def __repr__(self) -> str:
        """Names of the panels; never what is drawn, which holds prompts."""
        panels = dict.fromkeys(trace["meta"]["panel"] for trace in self.traces)
        return f"Composition of {plural(len(self.traces), 'trace')}: {', '.join(panels)}"


def compose(panels: Sequence[Panel], *, height: int) -> Composition:
    """Place figures side by side.

    Axes are numbered anew in the order of the panels, traces and marks follow their axes, and each
    name is in the legend once. What stands in a figure's title block is left out.

    Args:
        panels: Figures and their places; they may not overlap, which is not checked.
        height: Height of the whole in pixels.
    """
    traces: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    count = {"x": 0, "y": 0}
    for panel in panels:
        content = panel.content
        layout = content["layout"]
        numbers = _number_axes(content, count)
        axes |= {
            f"{new}axis{digits}": _axis(layout, *old, numbers, panel)
            for old, (new, digits) in numbers.items()
        }
        traces += _traces(panel, content["data"], numbers)
        shapes += [_place(mark, numbers, panel) for mark in layout.get("shapes", ())]
        annotations += [_place(mark, numbers, panel) for mark in layout.get("annotations", ())]
        if panel.layer is not None:
            shapes += _layer_marks(panel.layer, numbers)
        annotations += _headings(panel)
    _legend_once(traces)
    layout = {
        **axes,
        "shapes": shapes,
        "annotations": annotations,
        "template": template().to_plotly_json(),
        "height": height,
        "autosize": True,
        "hovermode": "closest",
        "margin": {"l": 72, "r": 18, "t": 54, "b": 64},
        "uirevision": "dashboard",
        "bargap": 0,
    }
    return Composition(tuple(traces), layout)


def _number_axes(content: Mapping[str, Any], count: dict[str, int]) -> _Axes:
    """New numbers of a figure's axes, by letter and old number; `""` is the first."""
    axes = {("x", ""), ("y", "")}
    for name in content["layout"]:
        if match := _AXIS.fullmatch(name):
            axes.add((match[1], match[2]))
    for trace in content["data"]:
        for letter in "xy":
            if match := _REFERENCE.fullmatch(trace.get(f"{letter}axis", letter)):
                axes.add((letter, match[2]))
    numbers = {}
    for letter, number in sorted(axes, key=lambda axis: (axis[0], int(axis[1] or 1))):
        count[letter] += 1
        new = "" if count[letter] == 1 else str(count[letter])
        numbers[letter, number] = (letter, new)
    return numbers


def _reference(text: str, numbers: _Axes) -> str:
    """A reference to an axis ("x2", "y domain") by its new number; other words stay."""
    match = _REFERENCE.fullmatch(text)
    if match is None:  # "paper", "free"
        return text
    letter, number = numbers[match[1], match[2]]
    return f"{letter}{number}{match[3] or ''}"


def _axis(
    layout: Mapping[str, Any], letter: str, number: str, numbers: _Axes, panel: Panel
) -> dict[str, Any]:
    """An axis of a panel: its domain within the panel, its references to the new names."""
    axis = dict(layout.get(f"{letter}axis{number}", {}))
    low, high = getattr(panel, letter)
    start, end = axis.get("domain", (0.0, 1.0))
    axis.setdefault("visible", True)
    # Margins are fixed here: labels need not be measured at every redraw to find them.
    axis |= {"automargin": False, "ticklabeloverflow": "allow"}
    axis["domain"] = [low + start * (high - low), low + end * (high - low)]
    other = "y" if letter == "x" else "x"
    axis.setdefault("anchor", other + number)
    for key in ("anchor", "matches", "scaleanchor", "overlaying"):
        if key in axis:
            axis[key] = _reference(axis[key], numbers)
    return axis


def _traces(
    panel: Panel, traces: Sequence[Mapping[str, Any]], numbers: _Axes
) -> Iterator[dict[str, Any]]:
    """The traces of a panel on their new axes, each with a key of its own."""
    named = panel.content["layout"].get("showlegend") is not False
    for place, trace in enumerate(traces):
        placed = dict(trace)
        if not named:
            placed["showlegend"] = False
        if "colorbar" in trace:
            placed["colorbar"] = {**trace["colorbar"], **_beside(panel)}
        for letter in "xy":
            placed[f"{letter}axis"] = _reference(trace.get(f"{letter}axis", letter), numbers)
        meta = dict(trace.get("meta") or {})
        key = "/".join(map(str, (panel.name, *meta.values()))) if meta else f"{panel.name}/{place}"
        placed["meta"] = {**meta, "panel": panel.name, "key": f"{key}/{placed['type']}"}
        yield placed


def _beside(panel: Panel) -> dict[str, Any]:
    """Where the scale of a heatmap stands: on the right of its panel, as high as that."""
    low, high = panel.y
    return {
        "x": panel.x[1],
        "xanchor": "left",
        "xpad": 6,
        "thickness": 12,
        "y": (low + high) / 2,
        "yanchor": "middle",
        "len": high - low,
        "lenmode": "fraction",
    }


def _place(mark: Mapping[str, Any], numbers: _Axes, panel: Panel) -> dict[str, Any]:
    """A shape or annotation whose references and paper coordinates are those of the panel.

    Args:
        mark: Shape or annotation of the panel's own figure.
        numbers: New axes by the old ones.
        panel: What "paper" means for it.
    """
    placed = dict(mark)
    for letter in "xy":
        reference = str(mark.get(f"{letter}ref", letter))
        if reference == "paper":
            low, high = getattr(panel, letter)
            for key in (letter, f"{letter}0", f"{letter}1"):
                if key in mark:
                    placed[key] = low + float(mark[key]) * (high - low)
        else:
            placed[f"{letter}ref"] = _reference(reference, numbers)
    return placed


def _layer_marks(layer: int, numbers: _Axes) -> list[dict[str, Any]]:
    """A line at a layer through every plot of a panel."""
    plots = {number for letter, number in numbers if letter == "x"}
    line = {"color": INK, "width": 1.5, "dash": "dot"}
    return [
        {
            "type": "line",
            "x0": layer,
            "x1": layer,
            "xref": "".join(numbers["x", number]),
            "y0": 0,
            "y1": 1,
            "yref": f"{''.join(numbers['y', number])} domain",
            "line": line,
            "name": "layer",
        }
        for number in sorted(plots)
    ]


def _headings(panel: Panel) -> list[dict[str, Any]]:
    """Title and note of a panel, above it."""
    place = {
        "x": panel.x[0],
        "xref": "paper",
        "xanchor": "left",
        "align": "left",
        "y": panel.y[1],
        "yref": "paper",
        "yanchor": "bottom",
    }
    lines = wrap(panel.note, round(NOTE_LENGTH * (panel.x[1] - panel.x[0]))) if panel.note else []
    headings = []
    if panel.title:
        title = {
            **place,
            "text": f"<b>{escape(panel.title)}</b>",
            "font": {"size": FONT_SIZE + 1, "color": INK},
            "yshift": TITLE_SHIFT + NOTE_STEP * (max(1, len(lines), panel.names_above) - 1),
            "name": f"title {panel.name}",
        }
        headings.append(title)
    if lines:
        headings.append(
            {
                **place,
                "text": "<br>".join(map(escape, lines)),
                "font": {"size": SMALL, "color": MUTED},
                "yshift": 8,
                "name": f"note {panel.name}",
            }
        )
    return headings


def _legend_once(traces: Sequence[dict[str, Any]]) -> None:
    """The first panel explains colours and symbols; a name that it lacks is shown where it is."""
    shown: set[str] = set()
    for trace in traces:
        name = str(trace.get("name", ""))
        named = trace.get("showlegend") is not False and bool(name)
        trace["showlegend"] = named and name not in shown
        if named:
            shown.add(name)
