"""Find a figure's traces by what they draw."""

from typing import Any

import plotly.graph_objects as go


def traces(figure: go.Figure, kind: str, **meta: str) -> list[Any]:
    """All traces of a kind, in the order in which they are drawn."""
    wanted = {"kind": kind, **meta}
    return [t for t in figure.data if t.meta and wanted.items() <= dict(t.meta).items()]


def trace(figure: go.Figure, kind: str, **meta: str) -> Any:
    """The only trace of a kind."""
    (found,) = traces(figure, kind, **meta)
    return found
