"""Panels as a small SVG, made without a browser: what a saved notebook shows where nothing runs.

What the panels of widgets are made of is drawn: points, lines, filled areas, heatmaps, marks and
words on axes of numbers. Hover texts are left out, and so are the prompts in them. Text was escaped
when the panels were made; its tags are taken out here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from plotly.colors import sample_colorscale

from actor_lens.figures.composition import Composition
from actor_lens.figures.theme import FONT, FONT_SIZE, GRID, INK, MUTED, RULE, SMALL

_DASHES = {"dot": "2 3", "dash": "7 4", "dashdot": "7 3 2 3", "solid": "none"}
# Outlines of symbols, of radius 1.
_SYMBOLS = {
    "x": "M-1-.5-.5-1 0-.5.5-1 1-.5.5 0 1 .5.5 1 0 .5-.5 1-1 .5-.5 0Z",
    "diamond": "M0-1.3 1.3 0 0 1.3-1.3 0Z",
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0Z",
}
_ANCHORS = {"left": "start", "center": "middle", "right": "end", "auto": "middle"}


def picture(composition: Composition, *, width: int = 1000) -> str:
    """Draw panels.

    Args:
        composition: The panels.
        width: Width in pixels; the height is that of the panels.

    Returns:
        An SVG document that needs nothing else and runs nothing.
    """
    page, layout = _Page(composition, width), composition.layout
    traces = [trace for trace in composition.traces if trace.get("visible", True) is True]
    grounds = [shape for shape in layout["shapes"] if shape.get("layer") == "below"]
    parts = [page.shape(shape) for shape in grounds]
    parts += [part for name in page.axes for part in page.axis(name)]
    parts += [part for trace in traces for part in page.trace(trace)]
    parts += [page.shape(shape) for shape in layout["shapes"] if shape not in grounds]
    parts += [page.words(note) for note in layout["annotations"]]
    parts += page.legend([trace for trace in traces if trace.get("showlegend")])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {page.height}" '
        f'font-family="{FONT}" font-size="{SMALL}" fill="{MUTED}" stroke-linejoin="round">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


class _Page:
    """Turns values into pixels and marks into SVG.

    Attributes:
        height: Height in pixels.
        axes: First and last value and pixel of each axis, by the name that traces use (`x2`).
    """

    def __init__(self, composition: Composition, width: int) -> None:
        layout, self._symbols = composition.layout, 0
        margin, self.height = layout["margin"], layout["height"]
        self._left, self._top = margin["l"], margin["t"]
        self._wide = width - margin["l"] - margin["r"]
        self._high = self.height - margin["t"] - margin["b"]
        self._specs = {
            name.replace("axis", ""): spec
            for name, spec in layout.items()
            if re.fullmatch(r"[xy]axis\d*", name)
        }
        self.axes = {
            name: (*_range(name, spec, composition), *map(self._share(name), spec["domain"]))
            for name, spec in self._specs.items()
        }

    def _share(self, name: str) -> Any:
        """Turns shares of the plot area into pixels, along x or y."""
        if name[0] == "x":
            return lambda share: self._left + share * self._wide
        return lambda share: self._top + (1 - share) * self._high

    def at(self, name: str, values: Any) -> Any:
        """Pixels of values on an axis; of shares of it (`x domain`) or of the page (`paper`)."""
        if name in ("x paper", "y paper"):
            return self._share(name)(values)
        low, high, start, end = self.axes[name.removesuffix(" domain")]
        share = np.asarray(values, dtype=float)
        if not name.endswith(" domain"):
            share = (share - low) / (high - low)
        return np.round(start + share * (end - start), 1)

    def axis(self, name: str) -> Iterator[str]:
        """Grid, line, ticks and title of an axis."""
        spec = self._specs[name]
        if not spec.get("visible", True):
            return
        across = name[0] == "x"
        low, high = self.axes.get(spec["anchor"], (0, 1, self._top + self._high, self._top))[2:]
        place = {"x": "y", "y": "x"}[name[0]]
        line = "<line {0}1='{1}' {0}2='{2}' {3}1='{4}' {3}2='{5}' stroke='{6}'/>"
        first, last, start, end = self.axes[name]
        ticks = list(_ticks(spec, first, last, abs(end - start)))
        for value, word in ticks:
            pixel = self.at(name, value)
            if spec.get("showgrid", True):
                yield line.format(name[0], pixel, pixel, place, low, high, GRID)
            if not across:
                yield _text(word, low - 7, pixel + 4, anchor="end")
            elif len(ticks) > 12 and max(len(word) for _, word in ticks) > 3:
                yield _text(word, pixel + 3, low + 12, anchor="end", turn=-60)
            else:
                yield _text(word, pixel, low + 17)
        yield line.format(name[0], start, end, place, low, low, RULE)
        title = (spec.get("title") or {}).get("text") or ""
        if across:
            yield _text(title, (start + end) / 2, low + 36, color=INK, size=FONT_SIZE)
        else:
            yield _text(title, low - 55, (start + end) / 2, color=INK, size=FONT_SIZE, turn=-90)

    def trace(self, trace: Mapping[str, Any]) -> Iterator[str]:
        """Lines, filled areas and points of a trace, or the cells of a heatmap."""
        x, y = (np.asarray(trace.get(letter, ())) for letter in "xy")
        axes = trace.get("xaxis", "x"), trace.get("yaxis", "y")
        if trace["type"] == "heatmap":
            yield from self._cells(trace, axes)
        if (
            trace["type"] != "scatter"
            or not len(x)
            or not {x.dtype.kind, y.dtype.kind} <= set("fiu")
        ):
            return
        known = np.isfinite(y.astype(float))
        places = list(zip(self.at(axes[0], x[known]), self.at(axes[1], y[known]), strict=True))
        mode, line = trace.get("mode", "lines"), trace.get("line") or {}
        path = "M" + " ".join(f"{left:g} {top:g}" for left, top in places)
        if trace.get("fill") == "toself":
            yield f'<path d="{path}Z" fill="{trace.get("fillcolor", GRID)}"/>'
        elif "lines" in mode and line.get("width", 2) and len(places) > 1:
            yield (
                f'<path d="{path}" fill="none" stroke="{line.get("color", INK)}" '
                f'stroke-width="{line.get("width", 2)}" opacity="{trace.get("opacity", 1)}" '
                f'stroke-dasharray="{_DASHES.get(line.get("dash", "solid"), "none")}"/>'
            )
        yield from self._whiskers(trace, axes)
        if "markers" in mode and len(places) == 1:
            yield _symbol(trace, *places[0])
        elif "markers" in mode and places:  # once, however many there are
            self._symbols += 1
            name = f"m{self._symbols}"
            where = " ".join(f'marker-{end}="url(#{name})"' for end in ("start", "mid", "end"))
            yield (
                f'<marker id="{name}" markerUnits="userSpaceOnUse" overflow="visible">'
                f'{_symbol(trace, 0, 0)}</marker><path d="{path}" fill="none" {where}/>'
            )

    def _whiskers(self, trace: Mapping[str, Any], axes: tuple[str, str]) -> Iterator[str]:
        """Upright intervals around points."""
        bars = trace.get("error_y") or {}
        if bars.get("array") is None:
            return
        above, below = (np.asarray(bars[name], dtype=float) for name in ("array", "arrayminus"))
        y = np.asarray(trace["y"], dtype=float)
        for left, top, bottom in zip(
            self.at(axes[0], trace["x"]),
            self.at(axes[1], y + above),
            self.at(axes[1], y - below),
            strict=True,
        ):
            if math.isfinite(top) and math.isfinite(bottom):
                color = bars.get("color") or (trace.get("line") or {}).get("color", INK)
                yield f'<path d="M{left:g} {top:g}V{bottom:g}" stroke="{color}"/>'

    def _cells(self, trace: Mapping[str, Any], axes: tuple[str, str]) -> Iterator[str]:
        """Cells of a heatmap whose columns and rows are whole numbers."""
        z, low, high = np.asarray(trace["z"], dtype=float), trace["zmin"], trace["zmax"]
        shares = np.clip((z - low) / (high - low), 0, 1)
        for y, row in zip(trace["y"], shares, strict=True):
            top, bottom = self.at(axes[1], [y + 0.5, y - 0.5])
            for x, share in zip(trace["x"], row, strict=True):
                left, right = self.at(axes[0], [x - 0.5, x + 0.5])
                if math.isfinite(share):
                    [color] = sample_colorscale(trace["colorscale"], [share])
                    yield (
                        f'<path d="M{left:g} {top:g}H{right:g}V{bottom:g}H{left:g}Z" '
                        f'fill="{color}"/>'
                    )

    def shape(self, shape: Mapping[str, Any]) -> str:
        """A line or box that marks something."""
        ends = {
            letter: [
                float(self.at(_reference(shape, letter), shape[f"{letter}{end}"])) for end in "01"
            ]
            for letter in "xy"
        }
        (left, right), (bottom, top) = ends["x"], ends["y"]
        line = shape.get("line") or {}
        path = f"M{left} {bottom}L{right} {top}"
        if shape.get("type") != "line":
            path = f"M{left} {bottom}H{right}V{top}H{left}Z"
        return (
            f'<path d="{path}" fill="{shape.get("fillcolor", "none")}" '
            f'fill-opacity="{shape.get("opacity", 1)}" stroke="{line.get("color", INK)}" '
            f'stroke-width="{line.get("width", 1)}" '
            f'stroke-dasharray="{_DASHES.get(line.get("dash", "solid"), "none")}"/>'
        )

    def words(self, note: Mapping[str, Any]) -> str:
        """An annotation."""
        left, top = (float(self.at(_reference(note, letter), note[letter])) for letter in "xy")
        font, lines = note.get("font") or {}, str(note["text"]).count("<br>") + 1
        size = font.get("size", SMALL)
        anchors = {"bottom": -0.3 - 1.25 * (lines - 1), "top": 1.0}
        drop = size * anchors.get(note.get("yanchor", "middle"), 0.35)
        return _text(
            str(note["text"]),
            left + note.get("xshift", 0),
            top - note.get("yshift", 0) + drop,
            anchor=_ANCHORS[note.get("xanchor", "auto")],
            color=font.get("color", INK),
            size=size,
            turn=note.get("textangle", 0),
        )

    def legend(self, traces: list[dict[str, Any]]) -> Iterator[str]:
        """Names of traces in a row at the bottom."""
        left = self._left
        for trace in traces:
            line = (trace.get("line") or trace.get("marker") or {}).get("color", INK)
            yield f'<path d="M{left} {self.height - 12}h22" stroke="{line}" stroke-width="2"/>'
            if "markers" in trace.get("mode", ""):
                yield _symbol(trace, left + 11, self.height - 12)
            yield _text(str(trace["name"]), left + 28, self.height - 8, anchor="start")
            left += 48 + 6.5 * len(str(trace["name"]))


def _range(name: str, spec: Mapping[str, Any], composition: Composition) -> tuple[float, float]:
    """First and last value of an axis: what it asks for, else those of its traces with room."""
    if spec.get("range"):
        first, last = map(float, spec["range"])
        return (first, last) if first != last else (first - 0.5, last + 0.5)
    letter = name[0]
    held: list[float] = []
    room = 0.05
    for trace in composition.traces:
        values = np.asarray(trace.get(letter, ()))
        if trace.get(f"{letter}axis", letter) == name and values.dtype.kind in "fiu":
            bars = trace.get(f"error_{letter}") or {}
            ends = [np.asarray(bars.get(end, 0.0), dtype=float) for end in ("array", "arrayminus")]
            reached = np.concatenate([values, values + ends[0], values - ends[1]])
            held += reached[np.isfinite(reached)].tolist()
            room = 0.0 if trace["type"] == "heatmap" else room
    low, high = (min(held), max(held)) if held else (0.0, 1.0)
    pad = room * (high - low) or 0.5
    low, high = low - pad, high + pad
    return (high, low) if spec.get("autorange") == "reversed" else (low, high)


def _ticks(
    spec: Mapping[str, Any], low: float, high: float, pixels: float
) -> Iterator[tuple[float, str]]:
    """Values and words of ticks, as many as there is room for."""
    first, last = sorted((low, high))
    if spec.get("tickvals") is not None:
        pairs = list(zip(spec["tickvals"], spec["ticktext"], strict=True))
        for value, word in pairs[:: max(1, math.ceil(len(pairs) * 13 / pixels))]:
            if first <= value <= last:
                yield float(value), str(word)
        return
    step = spec.get("dtick")
    if not step:
        rough = (last - first) / max(2, pixels / 60)
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(one for one in (1, 2, 5, 10) if one * power >= rough)
    share = str(spec.get("tickformat", "")).endswith("%")
    for place in range(math.ceil(first / step), math.floor(last / step) + 1):
        yield place * step, f"{place * step:.0%}" if share else f"{place * step:.4g}"


def _reference(mark: Mapping[str, Any], letter: str) -> str:
    """The axis that a mark counts from."""
    axis = str(mark.get(f"{letter}ref", letter))
    return f"{letter} paper" if axis == "paper" else axis


def _symbol(trace: Mapping[str, Any], left: float, top: float) -> str:
    """One point."""
    marker = trace.get("marker") or {}
    color = marker.get("color") or (trace.get("line") or {}).get("color", INK)
    size, color = marker.get("size", 6), color if isinstance(color, str) else INK
    radius = float(size) / 2 if np.ndim(size) == 0 else 3.0
    outline = _SYMBOLS.get(str(marker.get("symbol", "")).split("-")[0], _SYMBOLS["circle"])
    return (
        f'<path transform="translate({left:g} {top:g})scale({radius})" '
        f'd="{outline}" fill="{color}" '
        f'opacity="{marker.get("opacity", 1)}"/>'
    )


def _text(
    text: str,
    left: float,
    top: float,
    *,
    anchor: str = "middle",
    color: str = MUTED,
    size: float = SMALL,
    turn: float = 0,
) -> str:
    """Words whose lines are parted by `<br>`; bold where they begin so."""
    lines = [re.sub(r"<[^>]*>", "", line) for line in re.split(r"<br\s*/?>", text)]
    spans = "".join(
        f'<tspan x="{left:.1f}" dy="{size * 1.25 if place else 0}">{line}</tspan>'
        for place, line in enumerate(lines)
    )
    bold = ' font-weight="bold"' if text.startswith("<b>") else ""
    turned = f' transform="rotate({turn} {left:.1f} {top:.1f})"' if turn else ""
    return (
        f'<text y="{top:.1f}" text-anchor="{anchor}" fill="{color}" font-size="{size}"'
        f"{bold}{turned}>{spans}</text>"
    )
