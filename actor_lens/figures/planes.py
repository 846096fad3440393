"""Prompts as points on a plane: one layer as a map, and projections before against after.

Every mark is a prompt that can be read on hover; large sets are thinned evenly, the same way at
every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from actor_lens.errors import UserError
from actor_lens.figures.frames import (
    Framed,
    evenly,
    finite_rows,
    labels_in,
    one_layer,
    prompt_hovers,
    thinned,
)
from actor_lens.figures.theme import INK, LABEL_STYLES, RULE, escape, finish

if TYPE_CHECKING:
    from actor_lens.directions.projections import LayerMap, Projections

# At most so many prompts of a label, and so many marks of targets.
MAP_POINTS, TARGET_POINTS = 500, 60
_TSNE_NOTE = "Near points are alike; distances between groups and the groups' sizes mean nothing."
_PCA_NOTE = "Two directions of many: labels that overlap here can differ in the others."
_SHIFT_NOTE = "Grey line: unmoved. Below it: toward compliance. Above it: toward refusal."


def layer_map(mapped: LayerMap) -> go.Figure:
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
    figure = go.Figure([_prompt_marks(label, frame, "x", "y") for label in labels_in(frame)])
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
        empty="no prompts to show",
    )


def _prompt_marks(label: str, table: pd.DataFrame, x: str, y: str, words: str = "") -> go.Scatter:
    """A mark for each prompt of a label at the values of two columns; `words` end its hover."""
    style = LABEL_STYLES[label]
    rows = table[table["label"] == label]
    rows = rows.iloc[evenly(len(rows), MAP_POINTS)]
    return go.Scatter(
        x=rows[x].to_numpy(dtype=float),
        y=rows[y].to_numpy(dtype=float),
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
        hovertemplate=f"%{{text}}{words}<extra>{style.name}</extra>",
        meta={"kind": "points", "label": label},
    )


def prompt_shifts(
    before: Projections, after: Projections, layer: int, *, targets: Framed | None = None
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
    if len(pairs):
        table = None if targets is None else finite_rows(targets.frame(), ["before", "after"])
        _draw_shifts(figure, pairs, table)
    figure.update_xaxes(title_text="projection before")
    figure.update_yaxes(title_text="projection after")
    return finish(
        figure,
        title=f"Where each prompt moved, layer {layer}",
        notes=[_SHIFT_NOTE if targets is None else f"{_SHIFT_NOTE} Open marks: targets."],
        height=520,
        empty="no projections to show",
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
    words = "<br>before %{x:.3g}, after %{y:.3g}"
    for label in labels_in(pairs):
        figure.add_trace(_prompt_marks(label, pairs, "before", "after", words))


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
