"""What training each layer does to refusals of held-out prompts.

Colour, symbol and dash say the label; cells of one layer differ by alpha, seed and
learning rate, on hover.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from actor_lens.figures.frames import Framed
from actor_lens.figures.theme import LABEL_STYLES, escape, finish, layer_axis, mark_layer, whiskers


def layer_outcomes(sweep: Framed | pd.DataFrame) -> go.Figure:
    """Draw the share refused of each label after training each layer, with what it was before.

    A point is one cell (a layer with an alpha and a seed): the share of validation prompts whose
    reply begins as a refusal, with its Wilson 95 % interval. Lines join the means of the layers,
    horizontal lines are the untrained model, and the recommended layer is marked.

    Reads columns layer, alpha, seed, refused_LABEL, refused_LABEL_low, refused_LABEL_high (shares),
    and of a sweep refused_before (shares by label) and best.layer.

    What to look for: layers where pseudo-harmful prompts fall and harmful ones stay where they
    were before.

    How it is misread: the shares are of first tokens, and whole replies can slide back into a
    refusal. Intervals are those of the prompts and do not speak of other seeds. The best of many
    layers looks better than it is, so its rates must come from other prompts.

    Args:
        sweep: A sweep, from `sweep_layers`, or its table.

    Returns:
        For each label a line of means, the cells, and a horizontal line at the share before.
    """
    frame = sweep if isinstance(sweep, pd.DataFrame) else sweep.frame()
    figure = go.Figure()
    before = getattr(sweep, "refused_before", {})
    labels = [label for label in LABEL_STYLES if _known(frame, label)]
    for label in labels:
        _draw(figure, frame, label, before.get(label))
    if labels:
        figure.update_xaxes(layer_axis(frame["layer"].tolist()))
        figure.update_yaxes(title_text="refused", range=[-0.04, 1.04], tickformat=".0%")
    best = getattr(getattr(sweep, "best", None), "layer", None)
    if best is not None and labels:
        mark_layer(figure, best)
    return finish(
        figure,
        title="What training each layer does",
        notes=[
            "Share of validation prompts that begin a refusal once the layer is trained; "
            "bars: 95 % interval; horizontal lines: before."
        ],
        height=420,
        empty="no outcomes on validation prompts",
    )


def _known(frame: pd.DataFrame, label: str) -> bool:
    """Whether the table holds a share of this label."""
    name = f"refused_{label}"
    return name in frame and bool(frame[name].notna().any())


def _draw(figure: go.Figure, frame: pd.DataFrame, label: str, before: float | None) -> None:
    """Draw one label: the line of the means, a point for each cell, and the share before."""
    style, name = LABEL_STYLES[label], f"refused_{label}"
    rows = frame[frame[name].notna()]
    means = rows.groupby("layer")[name].mean().sort_index()
    line = {"color": style.color, "width": 2, "dash": style.dash}
    shared = {"legendgroup": label, "name": escape(style.name)}
    figure.add_trace(
        go.Scatter(
            x=means.index,
            y=means,
            mode="lines",
            line=line,
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    )
    cells = [
        f"layer {row.layer}, alpha {row.alpha:g}, seed {row.seed}"
        + (f", learning rate {row.lr:g}" if "lr" in rows else "")
        for row in rows.itertuples(index=False)
    ]
    figure.add_trace(
        go.Scatter(
            x=rows["layer"],
            y=rows[name],
            error_y=whiskers(
                rows[name],
                rows[f"{name}_low"],
                rows[f"{name}_high"],
                thickness=1,
                width=3,
                color=style.fill(0.6),
            ),
            mode="markers",
            marker={"color": style.color, "symbol": style.symbol, "size": 9},
            text=cells,
            hovertemplate=f"%{{text}}<br>{escape(style.name)}: %{{y:.1%}} refused<extra></extra>",
            **shared,
        )
    )
    if before is not None:
        figure.add_hline(
            y=before, line={"color": style.color, "width": 1, "dash": "dot"}, opacity=0.7
        )
