"""Every prompt at one layer, and every token of one prompt at every layer.

These are the figures in which single prompts are looked for: one is meant for choosing some, the
other for reading one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.figures.frames import (
    finite_rows,
    labels_in,
    one_layer,
    prompt_hovers,
    scattered,
    thinned,
)
from actor_lens.figures.theme import INK, LABEL_STYLES, ORIGIN_NAMES, SMALL, escape, finish, short

if TYPE_CHECKING:
    from actor_lens.directions.options import Origin
    from actor_lens.directions.projections import Projections, TokenProjections

STRIP_WIDTH = 0.62
# Of more points of a label than these each is small and faint, so that the dense parts show.
MANY = 100
# What is not selected, seen on dark pages too.
UNSELECTED = {"marker": {"opacity": 0.3}}
# Of more prompts in all, quantiles are drawn, and of each label only so many single prompts.
MOST_POINTS, FEW = 300, 20
QUANTILES = (0, 0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975, 1)
BOXES = "Boxes: the middle 50, 80 and 95 %, and the median. Points:"
# Half of an outline that is as wide as its boxes: places of quantiles, and widths on the way up.
_HALF = ((0, 0.0), (1, 0.0), (1, 0.3), (2, 0.3), (2, 0.6), (3, 0.6), (3, 1.0), (4, 1.0))
_SIDE = (*_HALF, *((8 - place, width) for place, width in reversed(_HALF)))
_OUTLINE = (
    *((place, -width) for place, width in _HALF),
    (4, 1.0),  # the median: across and back
    *((place, -width) for place, width in _SIDE[len(_HALF) :]),
    *reversed(_SIDE),
)
# A token's text is cut for the axis; the hover text has more of it.
TOKEN_LENGTH, MOST_TOKENS = 12, 400
# Toward benign, neither, toward harmful: the colours of the labels, with white in between.
TOKEN_COLORS = ((0.0, "#009E73"), (0.5, "#ffffff"), (1.0, "#D55E00"))


def prompts_at_layer(
    projections: Projections | pd.DataFrame,
    layer: int,
    *,
    origin: Origin = "zero",
    selected: Collection[int] = (),
) -> go.Figure:
    """Draw every prompt at one layer: its projection upward, its label sideways.

    Of more than 300 prompts boxes hold the middle 50, 80 and 95 % of each label, with a line at the
    median and one to the extremes. Twenty prompts of each label, evenly by rank, and the selected
    ones stay points.

    Prompts stand in the order of their index, at places that are the same at every layer, so that
    only heights differ between two layers. Projections are in units of the residual stream.

    Reads columns layer, prompt_index, prompt, label, category, projection.

    What to look for: prompts that lie among those of another label; hover to read them.

    How it is misread: the place from left to right within a label means nothing. Overlapping labels
    say that this one direction does not tell them apart, not that nothing at this layer does.

    Args:
        projections: Projections, from `project`, or their table with `origin` taken off already.
        layer: Block index from 0.
        origin: What is subtracted: `zero`, `benign_mean` or `midpoint`.
        selected: Prompt indices to point out; the others are pale. Where it is empty, all are drawn
            alike.

    Returns:
        One trace of points for each label, its prompt indices in `customdata` and its name in
        `meta`. Before them, where there are many prompts, one of boxes for each label, the label
        being `of` in its `meta`.

    Raises:
        UserError: If `layer` is not in the table.
    """
    if isinstance(projections, pd.DataFrame):
        frame = projections
    else:
        frame = projections.frame(origin=origin)
    rows = one_layer(frame, layer)
    figure = go.Figure()
    labels, many = labels_in(rows), len(rows) > MOST_POINTS
    own = {label: rows[rows["label"] == label] for label in labels}
    if many:
        figure.add_traces([_boxes(own[label], label, at) for at, label in enumerate(labels)])
    for place, label in enumerate(labels):
        shown = thinned(own[label], "projection", FEW) if many else own[label]
        kept = own[label]["prompt_index"].isin({*shown["prompt_index"], *selected})
        figure.add_trace(_strip(own[label][kept], label, place, set(selected)))
    figure.update_xaxes(
        tickvals=list(range(len(labels))),
        ticktext=[LABEL_STYLES[label].name for label in labels],
        range=[-0.5, max(1, len(labels)) - 0.5],
        showgrid=False,
    )
    figure.update_yaxes(
        title_text=f"projection (origin: {ORIGIN_NAMES.get(origin, origin)})", nticks=7
    )
    return finish(
        figure,
        title=f"Prompts at layer {layer}",
        notes=[f"{BOXES} {FEW} prompts of each label." if many else "Hover to read a prompt."],
        legend=False,
        empty="no prompts to show",
    )


def box_heights(values: np.ndarray) -> np.ndarray:
    """The y of the trace that is drawn for many prompts of a label.

    Args:
        values: Their projections at a layer.
    """
    return np.asarray(np.quantile(values, QUANTILES))[[place for place, _ in _OUTLINE]]


def _boxes(rows: pd.DataFrame, label: str, place: int) -> go.Scatter:
    """The middle 50, 80 and 95 % of the prompts of a label, all in one outline."""
    style = LABEL_STYLES[label]
    return go.Scatter(
        x=place + STRIP_WIDTH / 2 * np.array([width for _, width in _OUTLINE]),
        y=box_heights(rows["projection"].to_numpy(dtype=float)),
        mode="lines",
        line={"color": style.fill(0.6), "width": 1.2},
        fill="toself",
        fillcolor=style.fill(0.18),
        hoverinfo="skip",
        showlegend=False,
        meta={"kind": "boxes", "of": label},
    )


def _strip(rows: pd.DataFrame, label: str, place: int, selected: set[int]) -> go.Scatter:
    """The prompts of one label, spread around `place`."""
    style = LABEL_STYLES[label]
    indices = rows["prompt_index"].to_numpy()
    chosen = [row for row, index in enumerate(indices) if int(index) in selected]
    return go.Scatter(
        x=place + scattered(len(rows), STRIP_WIDTH),
        y=rows["projection"].to_numpy(dtype=float),
        text=prompt_hovers(rows),
        customdata=indices,
        name=style.name,
        mode="markers",
        # No outline: of a thousand prompts it is half of what a browser draws.
        marker={
            "symbol": style.symbol,
            "color": style.color,
            "size": 7 if len(rows) <= MANY else 5,
            "opacity": 0.7 if len(rows) <= MANY else 0.4,
        },
        selectedpoints=chosen if selected else None,
        unselected=UNSELECTED,
        selected={"marker": {"opacity": 1, "size": 11}},
        hovertemplate=f"%{{text}}<br>projection %{{y:.3g}}<extra>{style.name}</extra>",
        showlegend=False,
        legendgroup=label,
        meta={"kind": "points", "label": label},
    )


def token_heatmap(tokens: TokenProjections, *, layer: int | None = None) -> go.Figure:
    """Draw how far each token of a prompt is on the way from benign to harmful, at every layer.

    0, white, is where the mean benign prompt is at the token that the directions were made at, 1
    where the mean harmful one is; that token, the last unless another position was named, has a
    frame. The scale is that of the layer, so rows can be compared. A token that is far on the way
    shows where the model begins to read harm. Of long prompts the last 400 tokens are drawn.

    Reads columns layer, token_index, token, projection, relative, and read where it is there.

    What to look for: the word at which a row turns from white, and whether it stays so up to the
    last token.

    How it is misread: the direction was fitted to the framed token; at the first tokens, which
    attend to little else, a projection can be large for reasons that have nothing to do with
    refusal. A token's own colour is not its influence: only the last token decides how the reply
    begins.

    Args:
        tokens: Projections of one prompt's tokens, from `token_projections`.
        layer: Layer to mark; None, or one that is not drawn, for none.

    Returns:
        One heatmap; the projection itself is on hover.
    """
    frame = finite_rows(tokens.frame(), ["relative"])
    figure = go.Figure()
    if len(frame):
        _draw_tokens(figure, frame, layer)
    return finish(
        figure,
        title="Which words pull toward refusal",
        notes=["0: mean benign prompt. 1: mean harmful prompt. Framed: the token R is made at."],
        legend=False,
        height=420,
        empty="no tokens to show",
    )


def _draw_tokens(figure: go.Figure, frame: pd.DataFrame, layer: int | None) -> None:
    """Draw the table of layers and tokens, and a frame around the row of `layer`."""
    first = int(frame["token_index"].max()) + 1 - MOST_TOKENS  # the last tokens say most
    frame = frame[frame["token_index"] >= first]
    table = frame.pivot(index="layer", columns="token_index", values="relative")
    raw = frame.pivot(index="layer", columns="token_index", values="projection")
    names = frame.drop_duplicates("token_index").set_index("token_index")["token"]
    texts = [escape(repr(str(text)[:60])[1:-1]) for text in names]
    figure.add_trace(
        go.Heatmap(
            x=table.columns.to_numpy(),
            y=table.index.to_numpy(),
            z=table.to_numpy(dtype=float),
            text=np.tile(np.array(texts, dtype=object), (len(table), 1)).tolist(),
            customdata=raw.to_numpy(dtype=float),
            colorscale=[list(stop) for stop in TOKEN_COLORS],
            zmin=-1.25,
            zmax=1.25,
            colorbar={"title": {"text": "0 benign<br>1 harmful", "font": {"size": SMALL}}},
            hovertemplate="%{text}<br>layer %{y}: %{z:.2f} (projection %{customdata:.3g})"
            "<extra></extra>",
            meta={"kind": "tokens"},
        )
    )
    figure.update_xaxes(
        tickvals=table.columns.tolist(),
        # Spaces and line breaks are seen.
        ticktext=[
            short(str(text).replace("\n", "⏎").replace(" ", "␣"), TOKEN_LENGTH) for text in names
        ],
        tickangle=-60 if len(names) > 12 else 0,
        showgrid=False,
    )
    figure.update_yaxes(title_text="layer", dtick=max(1, len(table) // 8), showgrid=False)
    line = {"color": INK, "width": 1.5, "dash": "dot"}
    if layer is not None and layer in table.index:
        ends = {"x0": 0, "x1": 1, "y0": layer - 0.5, "y1": layer + 0.5}
        figure.add_shape(type="rect", xref="x domain", yref="y", line=line, name="layer", **ends)
    for token in frame.loc[frame["read"], "token_index"].unique() if "read" in frame else ():
        ends = {"x0": token - 0.5, "x1": token + 0.5, "y0": 0, "y1": 1}
        figure.add_shape(type="rect", xref="x", yref="y domain", line=line, name="read", **ends)
