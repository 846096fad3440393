"""Clicks and lassos in a widget's figure, told as the page tells them."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from actor_lens.widgets.figure_box import FigureBox
from actor_lens.widgets.figure_events import FigureEvents
from actor_lens.widgets.linked_figure import LinkedFigure


def place_of(widget: go.FigureWidget, panel: str, kind: str, **meta: str | int) -> int:
    """The position of the only trace with this meta."""
    wanted = {"panel": panel, "kind": kind, **meta}
    (place,) = [i for i, t in enumerate(widget.data) if wanted.items() <= dict(t.meta).items()]
    return place


def click(owner: FigureBox | LinkedFigure, place: int, point: int | list[int]) -> None:
    """A click on a point of a trace, of a heatmap on a row and column."""
    _tell(owner, "click", {place: [point]})


def lasso(owner: FigureBox | LinkedFigure, points: dict[int, list[int]]) -> None:
    """A lasso around some points; by trace."""
    _tell(owner, "select", points)


def double_click(owner: FigureBox | LinkedFigure) -> None:
    """What ends a selection."""
    _tell(owner, "deselect", {})


def _tell(owner: FigureBox | LinkedFigure, event: str, points: dict[int, list[Any]]) -> None:
    parts = owner.parts if isinstance(owner, LinkedFigure) else owner.children
    (events,) = [part for part in parts if isinstance(part, FigureEvents)]
    (figure,) = [part for part in parts if isinstance(part, go.FigureWidget)]
    keys = {figure.data[place].meta["key"]: found for place, found in points.items()}
    events._handle_custom_msg({"event": event, "points": keys}, [])
