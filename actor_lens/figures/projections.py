"""How far each label projects on the refusal direction, layer by layer.

Large sets of prompts are thinned, evenly and the same way at every call: hover texts are what
makes a page large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.figures.frames import finite_rows, labels_in, prompt_hovers, require_layer, thinned
from actor_lens.figures.theme import (
    INK,
    LABEL_STYLES,
    ORIGIN_NAMES,
    escape,
    finish,
    layer_axis,
    mark_layer,
    outline,
)

if TYPE_CHECKING:
    from actor_lens.directions.options import Origin
    from actor_lens.directions.projections import Projections

# Hover targets cost page size: per label, at most this many at one layer, and in all.
POINTS_PER_LAYER, POINTS_PER_LABEL = 60, 960


def projections_by_layer(
    projections: Projections,
    *,
    layer: int | None = None,
    origin: Origin = "zero",
    points: bool = True,
    lines: Mapping[str, Sequence[float]] | None = None,
    room_for_lines: int = 0,
) -> go.Figure:
    """Draw how far each label projects on the refusal direction, layer by layer.

    A line joins the medians, a band holds the middle half of the prompts, faint points are single
    prompts (hover to read them; thinned evenly by rank, so that the extremes stay). Projections are
    in units of the residual stream, counted from `origin`.

    Reads columns layer, prompt_index, prompt, label, category, projection.

    What to look for: layers where the harmful band lies apart from the benign one, and on which
    side of the gap the pseudo-harmful prompts are.

    How it is misread: heights of different layers cannot be compared, because the residual stream
    grows with depth; what separates labels is the distance between bands relative to their width.
    Prompts that the direction was fitted to look better separated than new ones. A projection near
    zero says nothing by itself: the residual stream has a large mean, so zero is a natural
    reference only after an origin has been taken off.

    Args:
        projections: Projections of every layer, from `project`.
        layer: Layer to mark; None for none.
        origin: What is subtracted at each layer: `zero`, `benign_mean` or `midpoint`.
        points: Whether single prompts are drawn.
        lines: Further lines on top: a projection for each layer from the same origin, by name.
        room_for_lines: Number of traces for lines, some of them empty: a figure on a page can then
            change its lines without being rebuilt.

    Returns:
        `meta` of a trace holds its `kind` (`band`, `points`, `median` or `line`) and its `label`,
        of a line its `place`.

    Raises:
        UserError: If `layer` is not in the table.
    """
    frame = finite_rows(projections.frame(origin=origin), ["projection"])
    figure = go.Figure()
    if len(frame):
        require_layer(frame["layer"], layer)
        _draw_layers(figure, frame, layer, points)
        figure.add_traces(list(_extra_lines(lines or {}, room_for_lines)))
    name = ORIGIN_NAMES.get(origin, origin)
    figure.update_yaxes(title_text=f"projection on the refusal direction<br>(origin: {name})")
    return finish(
        figure,
        title="Projection on the refusal direction, by layer",
        notes=[
            "Line: median. Band: middle half of the prompts."
            + (" Points: single prompts." if points else "")
        ],
        empty="no projections to show",
    )


def _extra_lines(lines: Mapping[str, Sequence[float]], room: int) -> Iterator[go.Scatter]:
    """Lines by name, then empty ones up to `room`."""
    dashes = ("solid", "dash", "dot", "dashdot")
    empty = [("", ())] * (room - len(lines))
    for place, (name, values) in enumerate([*lines.items(), *empty]):
        yield go.Scatter(
            x=np.arange(len(values)),
            y=np.asarray(values, dtype=float),
            name=escape(name),
            showlegend=len(values) > 0,
            mode="lines+markers",
            line={"color": INK, "width": 2, "dash": dashes[place % len(dashes)]},
            marker={"symbol": "square-open", "size": 6},
            hovertemplate=f"layer %{{x}}: %{{y:.3g}}<extra>{escape(name)}</extra>",
            meta={"kind": "line", "place": place},
        )


def _draw_layers(figure: go.Figure, frame: pd.DataFrame, layer: int | None, points: bool) -> None:
    """Draw bands behind points behind medians, so that nothing that matters is hidden."""
    labels = labels_in(frame)
    rows = {label: frame[frame["label"] == label] for label in labels}
    quartiles = {label: _quartiles(rows[label]) for label in labels}
    figure.add_traces([_band(label, quartiles[label]) for label in labels])
    if points:
        figure.add_traces([_points(label, rows[label], layer) for label in labels])
    figure.add_traces([_medians(label, quartiles[label]) for label in labels])
    figure.update_xaxes(layer_axis(frame["layer"].tolist()))
    if layer is not None:
        mark_layer(figure, layer)


def _quartiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns low, median, high and n of every layer."""
    by_layer = rows.groupby("layer")["projection"]
    table = by_layer.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    table.columns = ["low", "median", "high"]
    return table.assign(n=by_layer.size())


def _band(label: str, quartiles: pd.DataFrame) -> go.Scatter:
    """The middle half of the prompts of a label."""
    style = LABEL_STYLES[label]
    return go.Scatter(
        **outline(quartiles.index, quartiles["low"], quartiles["high"], least=0.4),
        mode="lines",
        line={"width": 0.6, "color": style.fill(0.5), "dash": style.dash},
        fill="toself",
        fillcolor=style.fill(0.16),
        hoverinfo="skip",
        showlegend=False,
        legendgroup=label,
        meta={"kind": "band", "label": label},
    )


def _points(label: str, rows: pd.DataFrame, layer: int | None) -> go.Scatter:
    """Single prompts of a label, the same ones at every layer."""
    style = LABEL_STYLES[label]
    shown = _same_prompts(rows, layer)
    # Labels stand side by side within a layer, so that their points do not hide one another.
    offset = 0.2 * (list(LABEL_STYLES).index(label) - 1)
    return go.Scatter(
        x=shown["layer"].to_numpy(dtype=float) + offset,
        y=shown["projection"].to_numpy(dtype=float),
        text=_hovers_once(shown),
        customdata=shown[["prompt_index", "layer"]].to_numpy(),
        mode="markers",
        marker={"symbol": style.symbol, "color": style.color, "size": 4, "opacity": 0.3},
        hovertemplate="%{text}<br>layer %{customdata[1]}, projection %{y:.3g}"
        f"<extra>{style.name}</extra>",
        showlegend=False,
        legendgroup=label,
        meta={"kind": "points", "label": label},
    )


def _same_prompts(rows: pd.DataFrame, layer: int | None) -> pd.DataFrame:
    """Keep the same prompts at every layer, evenly by their rank at `layer` or the last one."""
    n_layers = rows["layer"].nunique()
    limit = min(POINTS_PER_LAYER, max(8, POINTS_PER_LABEL // n_layers))
    at = rows["layer"] == layer
    ranked = rows[at] if at.any() else rows[rows["layer"] == rows["layer"].max()]
    kept = set(thinned(ranked, "projection", limit)["prompt_index"])
    return rows[rows["prompt_index"].isin(kept)]


def _hovers_once(rows: pd.DataFrame) -> list[str]:
    """Make each prompt's text once; a prompt comes back at every layer."""
    first = rows.drop_duplicates("prompt_index")
    texts = dict(zip(first["prompt_index"], prompt_hovers(first), strict=True))
    return [texts[index] for index in rows["prompt_index"]]


def _medians(label: str, quartiles: pd.DataFrame) -> go.Scatter:
    """The line that explains a label in the legend."""
    style = LABEL_STYLES[label]
    return go.Scatter(
        x=quartiles.index.to_numpy(),
        y=quartiles["median"].to_numpy(dtype=float),
        customdata=quartiles[["low", "high", "n"]].to_numpy(dtype=float),
        name=style.name,
        mode="lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 2.5},
        marker={"symbol": style.symbol, "size": 9, "line": {"color": "#ffffff", "width": 1}},
        hovertemplate="layer %{x}<br>median %{y:.3g}<br>middle half %{customdata[0]:.3g} to "
        f"%{{customdata[1]:.3g}}<br>%{{customdata[2]:d}} prompts<extra>{style.name}</extra>",
        legendgroup=label,
        meta={"kind": "median", "label": label},
    )
