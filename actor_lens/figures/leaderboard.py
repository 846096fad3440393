"""Methods side by side: the table, compliance against safety, and the trade-off scores."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.figures.frames import Framed
from actor_lens.figures.theme import GRID, INK, SMALL, escape, finish, nothing_yet

BEST, PLAIN, CONTROL, FADED = "#0072B2", "#52606d", "#D55E00", 0.3
ROW_HEIGHT = 26
NONE = "\u2013"
_NAME_LENGTH = 28
_SCORES = ("compliance_rate", "safety_score", "tradeoff_score", "benign_refused")


def leaderboard_table(board: Framed, split: str = "test") -> go.Figure:
    """Draw the scores and costs of every method as a table, the best trade-off score first.

    Reads method, split, status, seeds, the four scores with _low and _high, kl, trained_parameters,
    fit_seconds, fit_bytes, token_cost of `.frame()`.

    How it is misread: neighbours in the order may be no different at all; the paired tests decide.
    Rates are those of one judge and one set of prompts. Seconds and memory are of one machine.
    """
    rows = _sorted(board.frame(), split)
    figure = go.Figure()
    if rows.empty:
        nothing_yet(figure, "no methods to show")
        return finish(figure, title="Methods side by side", height=260, legend=False)
    header = ["method", "C.R.", "S.S.", "T.S.", "benign<br>refused", "KL", "trained"]
    header += ["fit, s", "fit, MB", "token<br>cost"]
    columns: list[list[str]] = [[escape(str(name)[:_NAME_LENGTH]) for name in rows["method"]]]
    for score in _SCORES:
        parts = (rows[score], rows[f"{score}_low"], rows[f"{score}_high"])
        columns.append([_rate(*values) for values in zip(*parts, strict=True)])
    columns.append([_number(value, "{:.3f}") for value in rows["kl"]])
    columns.append([_number(float(value), "{:,.0f}") for value in rows["trained_parameters"]])
    columns.append([_number(value, "{:.1f}") for value in rows["fit_seconds"]])
    columns.append([_number(value / 2**20, "{:.0f}") for value in rows["fit_bytes"]])
    columns.append([_number(value, "{:.2f}") for value in rows["token_cost"]])
    figure.add_trace(
        go.Table(
            columnwidth=[2.4, 1.4, 1.4, 1.4, 1.4, 0.8, 1.1, 0.8, 0.9, 0.8],
            header={
                "values": header,
                "align": ["left", *["right"] * (len(header) - 1)],
                "fill": {"color": GRID},
                "font": {"size": SMALL, "color": INK},
            },
            cells={
                "values": columns,
                "align": ["left", *["right"] * (len(header) - 1)],
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

    A method is faded where another is at least as good in both and better in one. Numbers are the
    places by trade-off score. Reads method, split, status, compliance_rate, safety_score with _low
    and _high, tradeoff_score of `.frame()`.

    How it is misread: faded does not mean measurably worse, for intervals may overlap; the paired
    tests decide. The corner does not show benign prompts that are refused.
    """
    rows = _sorted(board.frame(), split)
    rows = rows[rows["tradeoff_score"].notna()]
    figure = go.Figure()
    if rows.empty:
        nothing_yet(figure, "no methods to show")
    for place, row in enumerate(rows.to_dict("records"), start=1):
        figure.add_trace(_point(place, row, dominated=_dominated(row, rows)))
    figure.update_xaxes(
        title_text="compliance rate (pseudo-harmful prompts answered)",
        tickformat=".0%",
        range=[_begin(rows["compliance_rate_low"]), 1.04],
    )
    figure.update_yaxes(
        title_text="safety score (harmful prompts refused)",
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
    )
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    figure.update_layout(legend={**legend, "yref": "paper"})
    return figure


def tradeoff_scores(board: Framed) -> go.Figure:
    """Draw the trade-off score of every method with its 95 % interval, the best on top.

    Bars are the test prompts, diamonds those out of distribution, where there are some. Reads
    method, split, status, seeds, tradeoff_score with _low, _high and _sd of `.frame()`.

    How it is misread: two methods have answered the same prompts, so they can differ though their
    intervals overlap; the paired tests decide. Intervals do not speak of other seeds.
    """
    frame = board.frame()
    rows = _sorted(frame, "test")
    rows = rows[rows["tradeoff_score"].notna()]
    figure = go.Figure()
    if rows.empty:
        nothing_yet(figure, "no methods to show")
    else:
        names = [escape(str(name)[:_NAME_LENGTH]) for name in rows["method"]]
        figure.add_trace(_bars(rows, names))
        others = frame[(frame["split"] == "ood") & frame["tradeoff_score"].notna()]
        others = others.set_index("method").reindex(rows["method"]).dropna(subset="tradeoff_score")
        if len(others):
            figure.add_trace(_diamonds(others))
        figure.update_yaxes(
            autorange="reversed", showgrid=False, ticks="", tickfont={"color": INK, "size": SMALL}
        )
        figure.update_xaxes(
            title_text="trade-off score",
            range=[0, 1.1],
            tickformat=".0%",
            tickvals=[0, 0.25, 0.5, 0.75, 1],
        )
    return finish(
        figure,
        title="Trade-off score of every method",
        notes=["Mean of compliance rate and safety score. Whiskers: 95 % interval."],
        height=max(300, 190 + ROW_HEIGHT * len(rows)),
    )


def _sorted(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """Rows of a split, the best trade-off score first and those without one last."""
    rows = frame[frame["split"] == split]
    return rows.sort_values("tradeoff_score", ascending=False, kind="stable", na_position="last")


def _begin(lows: pd.Series) -> float:
    """Where an axis begins: a step of ten below the lowest interval, so that no point is cut."""
    return float(np.floor(10 * lows.min()) / 10 - 0.04) if len(lows) else 0.0


def _dominated(row: Mapping[Hashable, object], rows: pd.DataFrame) -> bool:
    answered, safe = float(str(row["compliance_rate"])), float(str(row["safety_score"]))
    both = (rows["compliance_rate"] >= answered) & (rows["safety_score"] >= safe)
    one = (rows["compliance_rate"] > answered) | (rows["safety_score"] > safe)
    return bool((both & one).any())


def _color(method: object, *, dominated: bool) -> str:
    if str(method).startswith("control-"):
        return CONTROL
    return PLAIN if dominated else BEST


def _point(place: int, row: Mapping[Hashable, object], *, dominated: bool) -> go.Scatter:
    color = _color(row["method"], dominated=dominated)
    name = escape(str(row["method"])[:_NAME_LENGTH])
    x, y = (float(str(row[score])) for score in ("compliance_rate", "safety_score"))
    bars = {}
    for axis, score, value in (("x", "compliance_rate", x), ("y", "safety_score", y)):
        low, high = float(str(row[f"{score}_low"])), float(str(row[f"{score}_high"]))
        bars[f"error_{axis}"] = {
            **{"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": color},
            **{"array": [max(0.0, high - value)], "arrayminus": [max(0.0, value - low)]},
        }
    return go.Scatter(
        x=[x],
        y=[y],
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


def _bars(rows: pd.DataFrame, names: list[str]) -> go.Bar:
    value, low, high = (
        rows[f"tradeoff_score{end}"].to_numpy(float) for end in ("", "_low", "_high")
    )
    spread = ["" if math.isnan(sd) else f", sd {sd:.1%}" for sd in rows["tradeoff_score_sd"]]
    return go.Bar(
        x=value,
        y=names,
        orientation="h",
        marker={
            "color": [_color(name, dominated=False) for name in rows["method"]],
            "opacity": 0.75,
        },
        error_x={
            **{"type": "data", "symmetric": False, "color": INK, "thickness": 1.2, "width": 3},
            "array": np.clip(high - value, 0, None),
            "arrayminus": np.clip(value - low, 0, None),
        },
        text=[f"{one:.1%}" for one in value],
        textposition="inside",
        insidetextanchor="start",
        textangle=0,
        textfont={"color": "#ffffff", "size": SMALL},
        customdata=[f"{n} seeds{sd}" for n, sd in zip(rows["seeds"], spread, strict=True)],
        hovertemplate="%{y}: %{x:.1%}<br>%{customdata}<extra></extra>",
        name="test",
    )


def _diamonds(rows: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=rows["tradeoff_score"].to_numpy(float),
        y=[escape(str(name)[:_NAME_LENGTH]) for name in rows.index],
        mode="markers",
        marker={"symbol": "diamond-open", "size": 9, "color": INK, "line": {"width": 1.6}},
        hovertemplate="%{y}, out of distribution: %{x:.1%}<extra></extra>",
        name="out of distribution",
    )


def _rate(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return NONE
    span = f"{100 * low:.0f}{NONE}{100 * high:.0f}"
    return f"<b>{100 * value:.1f}</b>\u00a0\u00a0{span}"  # a table's cell breaks at spaces


def _number(value: float, text: str) -> str:
    if math.isnan(value):
        return NONE
    return "∞" if math.isinf(value) else text.format(value)
