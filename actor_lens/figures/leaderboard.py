"""Methods side by side: the table, compliance against safety, and the trade-off scores.

Methods stand in the order of their trade-off score on the split that is drawn. What was not
measured is a dash in the table and is left out of the other figures.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.figures.frames import Framed, safety_meaning_in
from actor_lens.figures.theme import GRID, INK, QUARTERS, SMALL, finish, short, whiskers
from actor_lens.text import NOT_MEASURED, percent, plural

BEST, PLAIN, CONTROL, FADED = "#0072B2", "#52606d", "#D55E00", 0.45
ROW_HEIGHT = 26
_NAME_LENGTH = 28
_EMPTY = "no methods to show"


def leaderboard_table(board: Framed, split: str = "test") -> go.Figure:
    """Draw the scores and costs of every method as a table, the best trade-off score first.

    C.R. (compliance rate: pseudo-harmful prompts answered), S.S. (safety score: harmful prompts
    refused, or replies to them that are not harmful, as its head says), T.S. (trade-off score: the
    mean of the two) and benign prompts refused, in % with 95 % intervals; likewise pairs of twins
    with the safe one answered and the unsafe one refused, where prompts are twins, and replies to
    harmless prompts that are degenerate; AUROC of harmful against pseudo-harmful prompts where the
    user's text ends; KL divergence from the untouched model at the first reply token of benign
    prompts, in nats; trained numbers; seconds and MB of the fit; time for a token of a reply, as a
    multiple of the untouched model's.

    Reads columns method, split, safety_means, the four scores, twins and degenerate (shares) with
    _low and _high, harm_known, kl, trained_parameters, fit_seconds, fit_bytes, token_cost of
    `.frame()`.

    What to look for: whether the best scores come with benign prompts refused or at a high cost.

    How it is misread: neighbours in the order may be no different at all; the paired tests decide.
    Rates are those of one judge and one set of prompts. Seconds and memory are of one machine.

    Args:
        board: Outcomes of every method, from `compare`.
        split: `test`, or `ood` for out-of-distribution prompts.

    Returns:
        One table, as high as it has rows; names are cut after 28 characters.
    """
    rows = _sort(board.frame(), split)
    figure = go.Figure()
    if rows.empty:
        return finish(figure, title="Methods side by side", height=260, legend=False, empty=_EMPTY)
    columns = _table(rows)
    align = ["left", *["right"] * (len(columns) - 1)]
    figure.add_trace(
        go.Table(
            columnwidth=[2.4, *[1.4] * (len(columns) - 6), 0.8, 1.1, 0.8, 0.9, 0.8],
            header={
                "values": list(columns),
                "align": align,
                "fill": {"color": GRID},
                "font": {"size": SMALL, "color": INK},
            },
            cells={
                "values": list(columns.values()),
                "align": align,
                "fill": {"color": "#ffffff"},
                "line": {"color": GRID},
                "font": {"size": SMALL, "color": INK},
                "height": ROW_HEIGHT,
            },
        )
    )
    figure = finish(
        figure,
        title="Methods side by side",
        notes=[
            "Share in % with its 95 % interval. KL: nats, first reply token, benign prompts. "
            "Token cost: multiple of the untouched model's."
        ],
        height=170 + ROW_HEIGHT * len(rows),
        legend=False,
    )
    figure.update_layout(margin={"l": 14, "r": 14, "b": 14})
    return figure


def compliance_against_safety(board: Framed, split: str = "test") -> go.Figure:
    """Draw each method's compliance rate against its safety score, with 95 % intervals.

    To the right the share of pseudo-harmful prompts answered, upward the share of harmful prompts
    refused, or of replies to them that are not harmful, in %: the upper right corner is best. A
    method is faded where another is at least as good in both and better in one. Numbers are the
    places by trade-off score, as in the legend; controls, which must fail, have a colour of their
    own.

    Reads columns method, split, safety_means, compliance_rate, safety_score (shares) with _low and
    _high, tradeoff_score of `.frame()`.

    What to look for: methods that are not faded; between these there is a choice to make.

    How it is misread: faded does not mean measurably worse, for intervals may overlap; the paired
    tests decide. The corner does not show benign prompts that are refused.

    Args:
        board: Outcomes of every method, from `compare`.
        split: `test`, or `ood` for out-of-distribution prompts.

    Returns:
        One trace for each method; `meta` says whether it is `dominated`.
    """
    rows = _sort(board.frame(), split)
    rows = rows[rows["tradeoff_score"].notna()]
    figure = go.Figure()
    for place, row in enumerate(rows.to_dict("records"), start=1):
        figure.add_trace(_point(place, row, dominated=_is_dominated(row, rows)))
    figure.update_xaxes(
        title_text="compliance rate (pseudo-harmful prompts answered)",
        tickformat=".0%",
        range=[_begin(rows["compliance_rate_low"]), 1.04],
    )
    figure.update_yaxes(
        title_text=f"safety score (harmful prompts: {safety_meaning_in(rows)})",
        tickformat=".0%",
        range=[_begin(rows["safety_score_low"]), 1.04],
    )
    figure = finish(
        figure,
        title="Compliance against safety",
        notes=[
            "Up and right is better; axes need not begin at 0. Bars: 95 % interval. Faded: another "
            "method is at least as good in both."
        ],
        height=max(520, 190 + 20 * len(rows)),
        empty=_EMPTY,
    )
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    figure.update_layout(legend={**legend, "yref": "paper"})
    return figure


def tradeoff_scores(board: Framed) -> go.Figure:
    """Draw the trade-off score of every method with its 95 % interval, the best on top.

    The score is the mean of compliance rate and safety score, in %. Bars are the test prompts,
    diamonds those out of distribution, where there are some.

    Reads columns method, split, seeds, tradeoff_score (share) with _low, _high and _sd of
    `.frame()`.

    What to look for: methods whose whiskers end below those of others, and diamonds that fall
    behind their bars: there a method has learnt these prompts and not the distinction.

    How it is misread: two methods have answered the same prompts, so they can differ though their
    intervals overlap; the paired tests decide. Intervals do not speak of other seeds.

    Args:
        board: Outcomes of every method, from `compare`.

    Returns:
        Bars named `test` and, where there are some, diamonds named `out of distribution`.
    """
    frame = board.frame()
    rows = _sort(frame, "test")
    rows = rows[rows["tradeoff_score"].notna()]
    figure = go.Figure()
    if len(rows):
        figure.add_trace(_bars(rows))
        others = frame[(frame["split"] == "ood") & frame["tradeoff_score"].notna()]
        others = others.set_index("method").reindex(rows["method"]).dropna(subset="tradeoff_score")
        if len(others):
            figure.add_trace(_diamonds(others))
        figure.update_yaxes(
            autorange="reversed", showgrid=False, ticks="", tickfont={"color": INK, "size": SMALL}
        )
        figure.update_xaxes(title_text="trade-off score", range=[0, 1.1], **QUARTERS)
    return finish(
        figure,
        title="Trade-off score of every method",
        notes=["Mean of compliance rate and safety score. Whiskers: 95 % interval."],
        height=max(300, 190 + ROW_HEIGHT * len(rows)),
        empty=_EMPTY,
    )


def _sort(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """Rows of a split, the best trade-off score first and those without one last."""
    rows = frame[frame["split"] == split]
    return rows.sort_values("tradeoff_score", ascending=False, kind="stable", na_position="last")


def _table(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Cells of every column of the table, by its title."""

    def scores(name: str) -> list[str]:
        parts = (rows[name], rows[f"{name}_low"], rows[f"{name}_high"])
        return [_rate(*values) for values in zip(*parts, strict=True)]

    def numbers(name: str, form: str, unit: int = 1) -> list[str]:
        return [_number(float(value) / unit, form) for value in rows[name]]

    # Most sets have no twins.
    measured = "twins" in rows and rows["twins"].notna().any()
    twins = {"twins": scores("twins")} if measured else {}
    if "degenerate" in rows:
        twins["degenerate"] = scores("degenerate")
    return {
        "method": [short(name, _NAME_LENGTH) for name in rows["method"]],
        "C.R.": scores("compliance_rate"),
        f"S.S.<br>({safety_meaning_in(rows)})": scores("safety_score"),
        "T.S.": scores("tradeoff_score"),
        "benign<br>refused": scores("benign_refused"),
        **twins,
        **({"harm<br>known": numbers("harm_known", "{:.2f}")} if "harm_known" in rows else {}),
        "KL": numbers("kl", "{:.3f}"),
        "trained": numbers("trained_parameters", "{:,.0f}"),
        "fit, s": numbers("fit_seconds", "{:.1f}"),
        "fit, MB": numbers("fit_bytes", "{:.0f}", unit=2**20),
        "token<br>cost": numbers("token_cost", "{:.2f}"),
    }


def _begin(lows: pd.Series) -> float:
    """Where an axis begins: a step of ten below the lowest interval, so that no point is cut."""
    return float(np.floor(10 * lows.min()) / 10 - 0.04) if len(lows) else 0.0


def _is_dominated(row: Mapping[Hashable, Any], rows: pd.DataFrame) -> bool:
    """Whether another method is at least as good in both rates and better in one."""
    answered, safe = row["compliance_rate"], row["safety_score"]
    both = (rows["compliance_rate"] >= answered) & (rows["safety_score"] >= safe)
    one = (rows["compliance_rate"] > answered) | (rows["safety_score"] > safe)
    return bool((both & one).any())


def _color(method: object, *, dominated: bool) -> str:
    """The colour of a control, of a method that another one dominates, or of any other."""
    if str(method).startswith("control-"):
        return CONTROL
    return PLAIN if dominated else BEST


def _point(place: int, row: Mapping[Hashable, Any], *, dominated: bool) -> go.Scatter:
    """One method: its place in a circle, with whiskers both ways."""
    color = _color(row["method"], dominated=dominated)
    name = short(row["method"], _NAME_LENGTH)
    bars = {
        f"error_{axis}": whiskers(
            *([row[f"{score}{end}"]] for end in ("", "_low", "_high")),
            color=color,
            thickness=1,
            width=0,
        )
        for axis, score in (("x", "compliance_rate"), ("y", "safety_score"))
    }
    return go.Scatter(
        x=[row["compliance_rate"]],
        y=[row["safety_score"]],
        mode="markers+text",
        marker={"size": 19, "color": "#ffffff", "line": {"color": color, "width": 1.6}},
        text=[str(place)],
        textfont={"size": 10, "color": color},
        opacity=FADED if dominated else 1.0,
        name=f"{place} {name}",
        hovertemplate=f"{name}<br>compliance %{{x:.1%}}, safety %{{y:.1%}}<extra></extra>",
        meta={"dominated": dominated},
        **bars,
    )


def _bars(rows: pd.DataFrame) -> go.Bar:
    """The scores on the test prompts; seeds and their spread on hover."""
    value, low, high = (
        rows[f"tradeoff_score{end}"].to_numpy(float) for end in ("", "_low", "_high")
    )
    spread = ["" if math.isnan(sd) else f", sd {percent(sd)}" for sd in rows["tradeoff_score_sd"]]
    return go.Bar(
        x=value,
        y=[short(name, _NAME_LENGTH) for name in rows["method"]],
        orientation="h",
        marker={
            "color": [_color(name, dominated=False) for name in rows["method"]],
            "opacity": 0.75,
        },
        error_x=whiskers(value, low, high, color=INK, thickness=1.2, width=3),
        text=[percent(float(one)) for one in value],
        textposition="inside",
        insidetextanchor="start",
        textangle=0,
        textfont={"color": "#ffffff", "size": SMALL},
        customdata=[
            f"{plural(int(n), 'seed')}{sd}" for n, sd in zip(rows["seeds"], spread, strict=True)
        ],
        hovertemplate="%{y}: %{x:.1%}<br>%{customdata}<extra></extra>",
        name="test",
    )


def _diamonds(rows: pd.DataFrame) -> go.Scatter:
    """The scores on the out-of-distribution prompts."""
    return go.Scatter(
        x=rows["tradeoff_score"].to_numpy(float),
        y=[short(name, _NAME_LENGTH) for name in rows.index],
        mode="markers",
        marker={"symbol": "diamond-open", "size": 9, "color": INK, "line": {"width": 1.6}},
        hovertemplate="%{y}, out of distribution: %{x:.1%}<extra></extra>",
        name="out of distribution",
    )


def _rate(value: float, low: float, high: float) -> str:
    """A share with its interval, in % without the sign: "**90.0**  83-95"."""
    if math.isnan(value):
        return NOT_MEASURED
    span = f"{100 * low:.0f}\u2013{100 * high:.0f}"
    return f"<b>{100 * value:.1f}</b>\u00a0\u00a0{span}"  # a table's cell breaks at spaces


def _number(value: float, form: str) -> str:
    """A number in a form, a dash where it was not measured, or the sign of infinity."""
    if math.isnan(value):
        return NOT_MEASURED
    return "∞" if math.isinf(value) else form.format(value)
