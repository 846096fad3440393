"""What changes about a fine-tune when one thing about it is changed, over several seeds.

Colours are those of the label that a score is of; the trade-off score, which is of two, is dark.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.errors import UserError, check_choice
from actor_lens.figures.frames import safety_meaning_in
from actor_lens.figures.theme import (
    INK,
    LABEL_STYLES,
    SMALL,
    Style,
    escape,
    finish,
    outline,
    short,
    whiskers,
)
from actor_lens.text import clip

if TYPE_CHECKING:
    from actor_lens.experiments.ablations.results import Ablations

_SCORES = {
    "compliance_rate": Style(
        "compliance rate", LABEL_STYLES["pseudo_harmful"].color, "diamond", "dash"
    ),
    "safety_score": Style("safety score", LABEL_STYLES["harmful"].color, "x", "solid"),
    "tradeoff_score": Style("trade-off score", INK, "square", "solid"),
    "benign_refused": Style("benign refused", LABEL_STYLES["benign"].color, "circle", "dot"),
}
_LONGEST = 24
# Nine series or so on one plot: colours that differ in lightness too, and other dashes and symbols.
_COLORS = (INK, "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
_SIGNS = (("solid", "square"), ("dash", "diamond"), ("dot", "circle"))


def ablation_scores(ablations: Ablations, series: str, *, split: str = "test") -> go.Figure:
    """Draw the scores for every value of what varies (a series), means over the seeds.

    One line or group of points for each score: compliance rate, safety score, trade-off score, and
    the share of benign prompts refused, all in %. Bands or whiskers reach from the lowest to the
    highest seed. Values that are numbers are drawn as lines over their own scale, any others as
    points side by side.

    Reads columns series, safety_means, value, number (NaN where the value is none), split, seeds,
    and the four scores (shares) with _min and _max of `.means()`.

    What to look for: lines that stay high over a wide range of values; where they do not, the
    value matters and must be chosen on validation prompts.

    How it is misread: the spread is that of the seeds alone; the prompts are one sample, and
    their intervals are wider. A value that was the best here was not chosen on these prompts.

    Args:
        ablations: Outcomes, from `ablate`.
        series: What varies, for instance "alpha".
        split: `test`, or `ood` for out-of-distribution prompts.

    Returns:
        For numbers a band and a line of each score, else its points, in the order of the legend.

    Raises:
        UserError: If there are no outcomes of that series.
    """
    rows = ablations.means()
    known = sorted(set(rows["series"])) if len(rows) else []
    if series not in known:
        raise UserError(f"series '{series}' is not among the ablations: use one of {known}")
    rows = rows[(rows["series"] == series) & (rows["split"] == split)]
    figure = go.Figure()
    numbers = bool(rows["number"].notna().all())
    if numbers:
        rows = rows.sort_values("number")
    for place, (score, style) in enumerate(_SCORES.items() if len(rows) else ()):
        if score == "safety_score":
            style = replace(style, name=f"{style.name} ({safety_meaning_in(rows)})")
        if numbers:
            figure.add_traces(_lines(rows, score, style))
        else:
            figure.add_trace(_points(rows, score, style, place))
    _name_axes(figure, rows, series, numbers)
    shown = {"test": "test prompts", "ood": "prompts out of distribution"}[split]
    seeds = sorted(set(rows["seeds"])) or [0]
    return finish(
        figure,
        title=f"Ablation: {clip(series, 40)}",
        notes=[f"Means over {seeds[-1]} seeds, {shown}; from the lowest to the highest seed."],
        height=420,
        empty="nothing was tried with these prompts",
    )


def ablation_series(
    ablations: Ablations, factor: str, *, score: str = "tradeoff_score", split: str = "test"
) -> go.Figure:
    """Draw one score of every series of a factor whose values are numbers, on one scale of them.

    A line joins the means over the seeds of a series; whiskers reach from the lowest to the highest
    seed. Scores are in %; `moved`, how far training took the block's weights, is a share of their
    length on a logarithmic scale.

    Reads columns factor, series, safety_means, number, split, seeds, and the score with _min and
    _max of `.means()`.

    What to look for: where lines are flat, the value makes no difference; where two run in
    parallel, what tells them apart shifts the scale of the value.

    How it is misread: series differ in how many values were tried. Two fine-tunes whose weights
    moved equally far may have gone different ways.

    Args:
        ablations: Outcomes, from `ablate`.
        factor: What was varied, for instance "small-alpha".
        score: `tradeoff_score`, `compliance_rate`, `safety_score`, `benign_refused` or `moved`.
        split: `test`, or `ood` for out-of-distribution prompts.

    Returns:
        A line for each series, in the order of the table.

    Raises:
        UserError: If the factor was not varied, or there is no such score.
    """
    rows = ablations.means()
    known = sorted(set(rows["factor"])) if len(rows) else []
    check_choice("factor", factor, known)
    names = {**{name: style.name for name, style in _SCORES.items()}, "moved": "weights moved by"}
    check_choice("score", score, list(names))
    rows = rows[(rows["factor"] == factor) & (rows["split"] == split) & rows["number"].notna()]
    rows = rows.sort_values("number", kind="stable")
    if score == "safety_score":
        names[score] += f" ({safety_meaning_in(rows)})"
    figure = go.Figure()
    for place, series in enumerate(dict.fromkeys(ablations.means()["series"])):
        part = rows[rows["series"] == series]
        if part.empty:
            continue
        color, (dash, symbol) = _COLORS[place % len(_COLORS)], _SIGNS[place % len(_SIGNS)]
        value, low, high = (part[f"{score}{end}"].to_numpy(float) for end in ("", "_min", "_max"))
        figure.add_trace(
            go.Scatter(
                x=part["number"],
                y=value,
                mode="lines+markers",
                line={"color": color, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 8},
                error_y=whiskers(value, low, high, color=color, thickness=1, width=3),
                name=escape(series),
                hovertemplate=f"{escape(series)}, %{{x:g}}: %{{y:.3p}}<extra></extra>",
            )
        )
    if _spans_decades(rows):
        figure.update_xaxes(type="log", exponentformat="power", dtick=1)
    figure.update_xaxes(title_text=escape(factor.replace("-", " ")))
    figure.update_yaxes(title_text=names[score], tickformat=".3~p" if score == "moved" else ".0%")
    if score == "moved":
        figure.update_yaxes(type="log", dtick=1)
    return finish(
        figure,
        title=f"{factor.replace('-', ' ').capitalize()}: {names[score]}",
        notes=["Means over the seeds, from the lowest to the highest."],
        height=460,
        empty="no series of numbers was tried",
    )


def transfer_matrix(ablations: Ablations, *, split: str = "test") -> go.Figure:
    """Draw the compliance rate on every kind of pseudo-harmful prompt after training on one.

    A cell is the share of prompts of one kind (column) that are answered, in %, after training on
    another (row): the darker the more. The diagonal is the kind that was trained on. White cells
    without a number were not measured.

    Reads columns trained_on, tested_on, split, compliance_rate (share), n, seeds of `.matrix()`.

    What to look for: dark cells off the diagonal. Where they are as dark as on it, training on
    one kind carries over to the others.

    How it is misread: a cell is a rate of few prompts of one kind, see `n` on hover; its interval
    is wide. Kinds are this prompt set's own, and prompts of two kinds may share words.

    Args:
        ablations: Outcomes, from `ablate` with the study "transfer".
        split: `test`, or `ood` for out-of-distribution prompts.

    Returns:
        One heatmap, its rows and columns in the order of the table; higher the more rows it has.
    """
    rows = ablations.matrix()
    rows = rows[rows["split"] == split]
    figure = go.Figure()
    title = "Trained on one kind, tested on all"
    if rows.empty:
        reason = "the ablation 'transfer' was not run"
        return finish(figure, title=title, height=300, legend=False, empty=reason)
    trained, tested = (list(dict.fromkeys(rows[name])) for name in ("trained_on", "tested_on"))
    places = (rows["trained_on"].map(trained.index), rows["tested_on"].map(tested.index))
    values = np.full((len(trained), len(tested)), np.nan)
    counts = np.zeros_like(values)
    values[places] = rows["compliance_rate"]
    counts[places] = rows["n"]
    figure.add_trace(
        go.Heatmap(
            z=values,
            x=[short(name, _LONGEST) for name in tested],
            y=[short(name, _LONGEST) for name in trained],
            zmin=0,
            zmax=1,
            colorscale=[[0, "#f7f9fb"], [1, "#7ab3dc"]],
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
        title=title,
        notes=["Share of pseudo-harmful prompts answered, in %, means over the seeds."],
        height=260 + 26 * len(trained),
        legend=False,
    )


def _lines(rows: pd.DataFrame, score: str, style: Style) -> list[go.Scatter]:
    """The band from the lowest to the highest seed, and the line of the means on it."""
    x = rows["number"].to_numpy(float)
    band = go.Scatter(
        **outline(x, rows[f"{score}_min"], rows[f"{score}_max"]),
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


def _spans_decades(rows: pd.DataFrame) -> bool:
    """Whether a scale of powers shows the values better; it has no place for 0."""
    return len(rows) > 0 and 0 < float(rows["number"].min()) * 100 < float(rows["number"].max())


def _points(rows: pd.DataFrame, score: str, style: Style, place: int) -> go.Scatter:
    """The means as points; `place` puts the scores of a value side by side."""
    value, low, high = (rows[f"{score}{end}"].to_numpy(float) for end in ("", "_min", "_max"))
    offset = (place - (len(_SCORES) - 1) / 2) * 0.13
    return go.Scatter(
        x=np.arange(len(rows)) + offset,
        y=value,
        mode="markers",
        marker={"color": style.color, "symbol": style.symbol, "size": 9},
        error_y=whiskers(value, low, high, color=style.color, thickness=1.2, width=3),
        name=style.name,
        text=[escape(one) for one in rows["value"]],
        hovertemplate=f"%{{text}}: {style.name} %{{y:.1%}}<extra></extra>",
    )


def _name_axes(figure: go.Figure, rows: pd.DataFrame, series: str, numbers: bool) -> None:
    """Shares upward; to the right the values, as numbers or by name."""
    figure.update_yaxes(range=[-0.04, 1.04], tickformat=".0%")
    figure.update_xaxes(title_text=escape(series))
    if numbers and _spans_decades(rows):
        figure.update_xaxes(type="log", exponentformat="power", dtick=1)
    elif numbers:
        figure.update_xaxes(tickvals=rows["number"].tolist())
    else:
        figure.update_xaxes(
            tickvals=list(range(len(rows))),
            ticktext=[short(value, _LONGEST) for value in rows["value"]],
            range=[-0.6, len(rows) - 0.4],
        )
