"""The scores by which a layer is chosen, one panel per score over the same layers.

Ties are asked of the scores themselves, so that figure, text and program agree on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from actor_lens.errors import UserError
from actor_lens.figures.frames import Framed, finite_rows, require_layer
from actor_lens.figures.theme import Style, chance_band, finish, layer_axis, mark_layer, whiskers
from actor_lens.text import runs

SCORE_NAMES = {
    "silhouette": "silhouette",
    "auroc": "AUROC",
    "gap": "gap<br>(std. dev.)",
    "probe": "probe<br>accuracy",
    "causal": "causal<br>(trade-off)",
}
# Pairs are not labels, so they take none of the labels' colours.
PAIR_STYLES = {
    "harmful_vs_benign": Style("harmful vs benign", "#1f2933", "square", "solid"),
    "harmful_vs_pseudo_harmful": Style(
        "harmful vs pseudo-harmful", "#AA3377", "triangle-up", "dash"
    ),
    "all": Style("every prompt at its target", "#6B4E16", "star", "dashdot"),
}
PANEL_HEIGHT = 135
TIE_SHADE = "rgba(240, 190, 60, 0.28)"


def layer_scores(
    scores: Framed, *, layer: int | None = None, only: Sequence[str] | None = None
) -> go.Figure:
    """Draw each layer's scores with intervals, one panel per score over a shared layer axis.

    Silhouette, AUROC, gap (standard deviations) and probe accuracy tell how well the labels of a
    pair separate; the causal score is the trade-off score with every prompt moved to its target,
    without training. Whiskers are 95 % intervals; the grey band is where scores of shuffled labels
    fall; the layers that tie for the best, by `scores.best(by=...)`, have a yellow ground. A score
    that the table lacks has no panel.

    Reads columns layer, score, pair, value, low, high, null_low, null_high, and the attribute
    warnings where there is one.

    What to look for: layers whose whiskers reach above the grey band in every panel, and among
    these the yellow ground of the causal score.

    How it is misread: the highest point is not "the" layer when it lies on a yellow ground with
    others. The upper panels show that a layer tells the labels apart, not that the model uses it;
    only the causal score, with every prompt moved to its target, speaks of effect, and it is what
    perfect training would reach. Scores inside the grey band are what chance gives.

    Args:
        scores: Scores of every layer, from `score_layers`.
        layer: Layer to mark; None for none.
        only: Names of the scores to draw; None for all.

    Returns:
        `meta` of a trace holds its `kind` (`score` or `null`), `score` and `pair`.

    Raises:
        UserError: If `layer` is not in the table.
    """
    frame = finite_rows(scores.frame(), ["value"])
    wanted = SCORE_NAMES if only is None else only
    names = [name for name in SCORE_NAMES if name in wanted and (frame["score"] == name).any()]
    figure = make_subplots(rows=max(1, len(names)), shared_xaxes=True, vertical_spacing=0.045)
    if names:
        require_layer(frame["layer"], layer)
        _label_axes(figure, frame, names)
    for row, name in enumerate(names, start=1):
        _draw_score(figure, frame[frame["score"] == name], row)
        _shade_ties(figure, _tied_layers(scores, name), row)
    if layer is not None:
        mark_layer(figure, layer)
    return finish(
        figure,
        title="How well each layer separates the labels",
        notes=[_key(frame, names), *(f"⚠ {text}" for text in getattr(scores, "warnings", ()))],
        height=150 + PANEL_HEIGHT * max(1, len(names)),
        empty="no scores to show",
    )


def _key(frame: pd.DataFrame, names: list[str]) -> str:
    """What whiskers and grounds mean; of the grey band only where one is drawn."""
    if not names:
        return ""
    text = "Whiskers: 95 % intervals. Yellow: layers that tie for the best."
    return text + (" Grey: shuffled labels." if frame["null_low"].notna().any() else "")


def _label_axes(figure: go.Figure, frame: pd.DataFrame, names: list[str]) -> None:
    """Name the scores on the left, and the layers below the last panel only."""
    axis = layer_axis(frame["layer"].tolist())
    figure.update_xaxes({**axis, "title": None})
    figure.update_xaxes(axis, row=len(names), col=1)
    for row, name in enumerate(names, start=1):
        figure.update_yaxes(title_text=SCORE_NAMES[name], nticks=5, row=row, col=1)


def _draw_score(figure: go.Figure, rows: pd.DataFrame, row: int) -> None:
    """Draw a panel: for each pair of labels the band of shuffled labels and the line of scores."""
    pairs = [pair for pair in PAIR_STYLES if (rows["pair"] == pair).any()]
    for position, pair in enumerate(pairs):
        part = rows[rows["pair"] == pair].sort_values("layer")
        null = finite_rows(part, ["null_low", "null_high"])
        if len(null):
            # One legend entry for all panels and pairs: the first band drawn.
            first = not any(trace.name == _NULL_NAME for trace in figure.data)
            figure.add_trace(_null_band(null, first), row=row, col=1)
        known = any(trace.legendgroup == pair for trace in figure.data)
        offset = 0.08 * (position - (len(pairs) - 1) / 2)
        figure.add_trace(_score_line(part, pair, offset, showlegend=not known), row=row, col=1)


_NULL_NAME = "shuffled labels"


def _null_band(rows: pd.DataFrame, showlegend: bool) -> go.Scatter:
    """Where scores of shuffled labels fall."""
    return chance_band(
        rows["layer"],
        rows["null_low"],
        rows["null_high"],
        group="null",
        name=_NULL_NAME,
        showlegend=showlegend,
        meta={"kind": "null", "score": rows["score"].iloc[0], "pair": rows["pair"].iloc[0]},
    )


def _score_line(rows: pd.DataFrame, pair: str, offset: float, *, showlegend: bool) -> go.Scatter:
    """The scores of one pair with their intervals, moved sideways by `offset` layers."""
    style = PAIR_STYLES[pair]
    return go.Scatter(
        x=rows["layer"].to_numpy(dtype=float) + offset,
        y=rows["value"].to_numpy(dtype=float),
        customdata=rows[["layer", "low", "high"]].to_numpy(dtype=float),
        error_y=whiskers(rows["value"], rows["low"], rows["high"], thickness=1.2, width=2),
        name=style.name,
        mode="lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 1.8},
        marker={"symbol": style.symbol, "size": 8, "line": {"color": "#ffffff", "width": 0.8}},
        hovertemplate="layer %{customdata[0]:d}: %{y:.3f}<br>interval %{customdata[1]:.3f} to "
        f"%{{customdata[2]:.3f}}<extra>{style.name}</extra>",
        legendgroup=pair,
        showlegend=showlegend,
        meta={"kind": "score", "score": rows["score"].iloc[0], "pair": pair},
    )


def _tied_layers(scores: Framed, name: str) -> tuple[int, ...]:
    """Ask the scores themselves, so that figure, text and program agree on what a tie is."""
    best = getattr(scores, "best", None)
    if best is None:
        return ()
    try:
        choice = best(by=name)
    except UserError:  # not measured for the pair that decides
        return ()
    return tuple(sorted({int(choice.layer), *map(int, choice.ties)}))


def _shade_ties(figure: go.Figure, layers: tuple[int, ...], row: int) -> None:
    """One rectangle for neighbours: fewer shapes are redrawn sooner."""
    for first, last in runs(layers):
        figure.add_vrect(
            x0=first - 0.4,
            x1=last + 0.4,
            fillcolor=TIE_SHADE,
            line_width=0,
            layer="below",
            name="tie",
            row=row,
            col=1,
        )
