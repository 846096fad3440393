"""Projections on the refusal direction: over layers, one layer as a map, before against after.

Large sets of prompts are thinned, evenly and the same way at every call: hover texts are what
makes a page large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.errors import UserError
from actor_lens.figures.frames import (
    Framed,
    FramedFrom,
    evenly,
    finite_rows,
    labels_in,
    one_layer,
    prompt_hovers,
    require_layer,
    thinned,
)
from actor_lens.figures.theme import (
    INK,
    LABEL_STYLES,
    ORIGIN_NAMES,
    RULE,
    Style,
    escape,
    finish,
    layer_axis,
    mark_layer,
    nothing_yet,
    outline,
)

if TYPE_CHECKING:
    from actor_lens.directions.options import Origin

# Hover targets cost page size: per label, at most this many at one layer, and in all.
POINTS_PER_LAYER, POINTS_PER_LABEL = 60, 960
MAP_POINTS, TARGET_POINTS = 500, 60
_TSNE_NOTE = "Near points are alike; distances between groups and the groups' sizes mean nothing."
_PCA_NOTE = "Two directions of many: labels that overlap here can differ in the others."
_SHIFT_NOTE = "Grey line: unmoved. Below it: toward compliance. Above it: toward refusal."


@runtime_checkable
class Mapped(Framed, Protocol):
    """Prompts of one layer placed on a plane."""

    @property
    def layer(self) -> int:
        """Which layer."""
        ...

    @property
    def method(self) -> str:
        """`pca` or `tsne`."""
        ...

    @property
    def axes(self) -> tuple[str, str]:
        """Title of each axis."""
        ...


def projections_by_layer(
    projections: FramedFrom,
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
    if frame.empty:
        nothing_yet(figure, "no projections to show")
    else:
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


def layer_map(mapped: Mapped) -> go.Figure:
    """Draw the prompts of one layer on a plane, by principal components or t-SNE.

    Each mark is a prompt; hover to read it. Both axes have the same scale: units of the residual
    stream for principal components, none for t-SNE.

    Reads columns prompt_index, prompt, label, category, x, y and the attributes layer, method and
    axes.

    What to look for: whether the labels form groups of their own, and which group the
    pseudo-harmful prompts are part of.

    How it is misread: t-SNE keeps neighbours together and nothing else; the distance between two
    groups, their sizes and their densities mean nothing, and groups appear in noise too. Principal
    components keep distances, but only those of two directions: labels that overlap here can still
    be separable in the others.

    Args:
        mapped: Prompts of one layer on a plane, from `layer_map`.

    Returns:
        One trace for each label; at most 500 prompts of each are drawn.
    """
    frame = finite_rows(mapped.frame(), ["x", "y"])
    figure = go.Figure([_map_points(label, frame) for label in labels_in(frame)])
    if frame.empty:
        nothing_yet(figure, "no prompts to show")
    tsne = mapped.method == "tsne"
    x_title, y_title = (escape(name) for name in mapped.axes)
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(title_text=y_title, scaleanchor="x", scaleratio=1)
    if tsne:  # its units mean nothing
        figure.update_xaxes(showticklabels=False, ticks="")
        figure.update_yaxes(showticklabels=False, ticks="")
    return finish(
        figure,
        title=f"Prompts at layer {mapped.layer}: {'t-SNE' if tsne else 'principal components'}",
        notes=[_TSNE_NOTE if tsne else _PCA_NOTE],
        height=520,
    )


def _map_points(label: str, frame: pd.DataFrame) -> go.Scatter:
    """The prompts of one label on the plane."""
    style = LABEL_STYLES[label]
    rows = frame[frame["label"] == label]
    rows = rows.iloc[evenly(len(rows), MAP_POINTS)]
    return _prompt_scatter(
        style,
        rows,
        ("x", "y"),
        hovertemplate=f"%{{text}}<extra>{style.name}</extra>",
        meta={"kind": "points", "label": label},
    )


def _prompt_scatter(
    style: Style, rows: pd.DataFrame, columns: tuple[str, str], *, hovertemplate: str, meta: object
) -> go.Scatter:
    """One mark for each row, at the values of two columns, with the prompt on hover."""
    return go.Scatter(
        x=rows[columns[0]].to_numpy(dtype=float),
        y=rows[columns[1]].to_numpy(dtype=float),
        text=prompt_hovers(rows),
        customdata=rows["prompt_index"].to_numpy(),
        name=style.name,
        mode="markers",
        marker={
            "symbol": style.symbol,
            "color": style.color,
            "size": 7,
            "opacity": 0.75,
            "line": {"color": "#ffffff", "width": 0.8},
        },
        hovertemplate=hovertemplate,
        meta=meta,
    )


def prompt_shifts(
    before: FramedFrom, after: FramedFrom, layer: int, *, targets: Framed | None = None
) -> go.Figure:
    """Draw each prompt's projection at one layer, before against after.

    On the grey line nothing has moved; below it a prompt moved toward compliance, above it toward
    refusal. Both axes are in units of the residual stream, counted from zero.

    Reads columns layer, prompt_index, prompt, label, category, projection; of the targets label,
    before, after.

    What to look for: pseudo-harmful prompts below the grey line and near the open marks, harmful
    prompts on the line or above it.

    How it is misread: both projections must be on the same direction (the one from before);
    otherwise the difference mixes the prompts' movement with the direction's. A prompt on its
    target is not yet answered: later layers decide.

    Args:
        before: Projections of the untouched model, from `project`.
        after: Projections of the same prompts on the same directions, with the run applied.
        layer: Block index from 0.
        targets: Targets of the run; adds for each label the line on which its prompts were meant
            to land.

    Returns:
        `meta` of a trace holds its `kind` (`identity`, `target` or `points`) and its `label`.

    Raises:
        UserError: If the layer is missing, or the two do not hold the same prompts.
    """
    pairs = _paired(one_layer(before.frame(), layer), one_layer(after.frame(), layer))
    figure = go.Figure()
    if pairs.empty:
        nothing_yet(figure, "no projections to show")
    else:
        table = None if targets is None else finite_rows(targets.frame(), ["before", "after"])
        _draw_shifts(figure, pairs, table)
    figure.update_xaxes(title_text="projection before")
    figure.update_yaxes(title_text="projection after")
    return finish(
        figure,
        title=f"Where each prompt moved, layer {layer}",
        notes=[_SHIFT_NOTE if targets is None else f"{_SHIFT_NOTE} Open marks: targets."],
        height=520,
    )


def _paired(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """One row a prompt with its projections `before` and `after`."""
    pairs = before.merge(
        after[["prompt_index", "prompt", "projection"]], on=["prompt_index", "prompt"]
    )
    if not len(before) == len(after) == len(pairs):
        raise UserError(
            f"before holds {len(before)} prompts and after {len(after)}, of which {len(pairs)} are "
            "the same: project the same prompts before and after"
        )
    renamed = pairs.rename(columns={"projection_x": "before", "projection_y": "after"})
    return finite_rows(renamed, ["before", "after"])


def _draw_shifts(figure: go.Figure, pairs: pd.DataFrame, targets: pd.DataFrame | None) -> None:
    """Draw the line of prompts that have not moved, the targets, and the prompts on top."""
    low, high = float(pairs["before"].min()), float(pairs["before"].max())
    figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            name="unmoved",
            mode="lines",
            line={"color": RULE, "width": 1.5},
            hoverinfo="skip",
            meta={"kind": "identity"},
        )
    )
    if targets is not None:
        figure.add_traces([_target_line(label, targets) for label in labels_in(targets)])
        figure.data[1].showlegend = True
    figure.add_traces([_moved(label, pairs) for label in labels_in(pairs)])


def _target_line(label: str, targets: pd.DataFrame) -> go.Scatter:
    """Where the prompts of a label were meant to land."""
    style = LABEL_STYLES[label]
    rows = thinned(targets[targets["label"] == label], "before", TARGET_POINTS)
    return go.Scatter(
        x=rows["before"].to_numpy(dtype=float),
        y=rows["after"].to_numpy(dtype=float),
        mode="markers",
        marker={
            "symbol": f"{style.symbol}-open",
            "color": INK,
            "size": 6,
            "opacity": 0.55,
            "line": {"width": 1},
        },
        name="target",
        legendgroup="target",
        showlegend=False,
        hovertemplate="target %{y:.3g} for a prompt at %{x:.3g}"
        f"<extra>{style.name}: target</extra>",
        meta={"kind": "target", "label": label},
    )


def _moved(label: str, pairs: pd.DataFrame) -> go.Scatter:
    """The prompts of one label, where they were and where they are."""
    style = LABEL_STYLES[label]
    rows = pairs[pairs["label"] == label]
    return _prompt_scatter(
        style,
        rows.iloc[evenly(len(rows), MAP_POINTS)],
        ("before", "after"),
        hovertemplate="%{text}<br>before %{x:.3g}, after %{y:.3g}"
        f"<extra>{style.name}</extra>",
        meta={"kind": "points", "label": label},
    )
