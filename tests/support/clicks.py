"""Clicks and lassos on a figure widget, told as the browser tells them."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

_STATE = {"alt": False, "ctrl": False, "meta": False, "shift": False, "button": 0, "buttons": 1}


def place_of(widget: go.FigureWidget, panel: str, kind: str, **meta: str) -> int:
    """The position of the only trace with this meta."""
    wanted = {"panel": panel, "kind": kind, **meta}
    (place,) = [i for i, t in enumerate(widget.data) if wanted.items() <= dict(t.meta).items()]
    return place


def click(widget: go.FigureWidget, place: int, point: int | list[int]) -> None:
    """A click on a point of a trace, of a heatmap on a row and column."""
    _tell(widget, "plotly_click", {place: [point]})


def lasso(widget: go.FigureWidget, points: dict[int, list[int]]) -> None:
    """A lasso around some points; by trace."""
    _tell(
        widget,
        "plotly_selected",
        points,
        selector={"type": "lasso", "selector_state": {"xs": [], "ys": []}},
    )


def _tell(
    widget: go.FigureWidget,
    event: str,
    points: dict[int, list[Any]],
    selector: dict[str, Any] | None = None,
) -> None:
    flat = [(trace, point) for trace, found in points.items() for point in found]
    widget._js2py_pointsCallback = {
        "event_type": event,
        "points": {
            "trace_indexes": [trace for trace, _ in flat],
            "point_indexes": [point for _, point in flat],
            "xs": [_at(widget.data[trace].x, point) for trace, point in flat],
            "ys": [_at(widget.data[trace].y, point) for trace, point in flat],
        },
        "device_state": dict(_STATE),
        "selector": selector,
    }


def _at(values: Any, point: int) -> Any:
    column = point[-1] if isinstance(point, list) else point  # a heatmap: row and column
    return values[column] if column < len(values) else None
