"""What changes about a fine-tune when one thing about it is changed, over several seeds."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.errors import UserError
from actor_lens.figures.theme import INK, LABEL_STYLES, SMALL, Style, escape, finish, nothing_yet

_SCORES = {
    "compliance_rate": Style(
        "compliance rate", LABEL_STYLES["pseudo_harmful"].color, "diamond", "dash"
    ),
    "safety_score": Style("safety score", LABEL_STYLES["harmful"].color, "x", "solid"),
    "tradeoff_score": Style("trade-off score", INK, "square", "solid"),
    "benign_refused": Style("benign refused", LABEL_STYLES["benign"].color, "circle", "dot"),
}
_LONGEST = 24


@runtime_checkable
class Ablated(Protocol):
    """Ablations: tables over the seeds."""

    def means(self) -> pd.DataFrame:
        """Return columns study, series, value, number, method, split, and score columns."""
        ...

    def matrix(self) -> pd.DataFrame:
        """Return columns trained_on, tested_on, split, compliance_rate, n, seeds."""
        ...


def ablation_scores(
    ablations: Ablated, series: str, *, split: str = "test", method: str = "actor"
) -> go.Figure:
    """Draw the scores for every value of what varies (a series), means over the seeds.

    Bands or bars reach from the lowest to the highest seed. Numbers are drawn as lines, anything
    else as points. Reads series, value, number, method, split, seeds and the scores with _min and
    _max of `.means()`.

    How it is misread: the spread is that of the seeds alone; the prompts are one sample, and
    their intervals are wider. A value that was the best here was not chosen on these prompts.

    Raises:
        UserError: If there are no outcomes of that series.
    """
    rows = ablations.means()
    known = sorted(set(rows["series"])) if len(rows) else []
    if series not in known:
        raise UserError(f"series '{series}' is not among the ablations: use one of {known}")
    rows = rows[(rows["series"] == series) & (rows["split"] == split) & (rows["method"] == method)]
    figure = go.Figure()
    numbers = bool(rows["number"].notna().all())
    if numbers:
        rows = rows.sort_values("number")
    for place, (score, style) in enumerate(_SCORES.items()):
        draw = _lines if numbers else _points
        figure.add_traces(draw(rows, score, style, place))
    if rows.empty:
        nothing_yet(figure, "nothing was tried with these prompts")
    _name_axes(figure, rows, series, numbers)
    shown = {"test": "test prompts", "ood": "prompts out of distribution"}[split]
    seeds = sorted(set(rows["seeds"])) or [0]
    return finish(
        figure,
        title=f"Ablation: {series[:40]}",
        notes=[f"Means over {seeds[-1]} seeds, {shown}; from the lowest to the highest seed."],
        height=420,
    )


def transfer_matrix(ablations: Ablated, *, split: str = "test") -> go.Figure:
    """Draw the compliance rate on every kind of pseudo-harmful prompt after training on one.

    Reads trained_on, tested_on, split, compliance_rate, n, seeds of `.matrix()`.

    How it is misread: a cell is a rate of few prompts of one kind, see `n` on hover; its interval
    is wide. Kinds are this prompt set's own, and prompts of two kinds may share words.
    """
    rows = ablations.matrix()
    rows = rows[rows["split"] == split]
    figure = go.Figure()
    if rows.empty:
        nothing_yet(figure, "the study 'transfer' was not run")
        return finish(figure, title="Trained on one kind, tested on all", height=300, legend=False)
    trained, tested = (list(dict.fromkeys(rows[name])) for name in ("trained_on", "tested_on"))
    places = (rows["trained_on"].map(trained.index), rows["tested_on"].map(tested.index))
    values = np.full((len(trained), len(tested)), np.nan)
    counts = np.zeros_like(values)
    values[places] = rows["compliance_rate"]
    counts[places] = rows["n"]
    figure.add_trace(
        go.Heatmap(
            z=values,
            x=[_short(name) for name in tested],
            y=[_short(name) for name in trained],
            zmin=0,
            zmax=1,
            colorscale=[[0, "#f7f9fb"], [1, "#2f7db5"]],
            colorbar={"title": {"text": "C.R."}, "tickformat": ".0%", "thickness": 12},
            text=[["" if np.isnan(one) else f"{100 * one:.0f}" for one in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": SMALL, "color": INK},
            customdata=counts,
            xgap=2,
            ygap=2,
            hovertemplate="trained on %{y}<br>tested on %{x}<br>%{z:.1%} answered of "
            "%{customdata:.0f}<extra></extra>",
        )
    )
    figure.update_yaxes(title_text="trained on", autorange="reversed", showgrid=False)
    figure.update_xaxes(title_text="tested on", tickangle=-40, showgrid=False)
    return finish(
        figure,
        title="Trained on one kind, tested on all",
        notes=["Share of pseudo-harmful prompts answered, in %, means over the seeds."],
        height=260 + 26 * len(trained),
        legend=False,
    )


def _short(name: object) -> str:
    return escape(str(name)[:_LONGEST])


def _lines(rows: pd.DataFrame, score: str, style: Style, _place: int) -> list[go.Scatter]:
    """The band from the lowest to the highest seed, and the line of the means on it."""
    x = rows["number"].to_numpy(float)
    low, high = rows[f"{score}_min"].to_numpy(float), rows[f"{score}_max"].to_numpy(float)
    band = go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=style.fill(0.12),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=score,
        mode="lines",
    )
    line = go.Scatter(
        x=x,
        y=rows[score].to_numpy(float),
        mode="lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 2},
        marker={"symbol": style.symbol, "size": 8},
        name=style.name,
        legendgroup=score,
        hovertemplate=f"%{{x:g}}: {style.name} %{{y:.1%}}<extra></extra>",
    )
    return [band, line]


def _points(rows: pd.DataFrame, score: str, style: Style, place: int) -> list[go.Scatter]:
    value = rows[score].to_numpy(float)
    low, high = rows[f"{score}_min"].to_numpy(float), rows[f"{score}_max"].to_numpy(float)
    offset = (place - (len(_SCORES) - 1) / 2) * 0.13
    points = go.Scatter(
        x=np.arange(len(rows)) + offset,
        y=value,
        mode="markers",
        marker={"color": style.color, "symbol": style.symbol, "size": 9},
        error_y={
            **{"type": "data", "symmetric": False, "color": style.color, "thickness": 1.2},
            **{"width": 3, "array": high - value, "arrayminus": value - low},
        },
        name=style.name,
        text=[escape(one) for one in rows["value"]],
        hovertemplate=f"%{{text}}: {style.name} %{{y:.1%}}<extra></extra>",
    )
    return [points]


def _name_axes(figure: go.Figure, rows: pd.DataFrame, series: str, numbers: bool) -> None:
    figure.update_yaxes(range=[-0.04, 1.04], tickformat=".0%")
    figure.update_xaxes(title_text=escape(series))
    if numbers:
        figure.update_xaxes(tickvals=rows["number"].tolist())
    else:
        figure.update_xaxes(
            tickvals=list(range(len(rows))),
            ticktext=[_short(value) for value in rows["value"]],
            range=[-0.6, len(rows) - 0.4],
        )
