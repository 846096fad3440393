"""How many prompts of each label are refused, by one or more evaluations.

Bars lie on their side, so that long names of fine-tunes stay readable, and are grouped by label:
what has to be compared stands next to each other.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from actor_lens.figures.theme import (
    FONT_SIZE,
    INK,
    LABEL_STYLES,
    QUARTERS,
    SMALL,
    escape,
    finish,
    short,
    whiskers,
)
from actor_lens.text import percent

if TYPE_CHECKING:
    from actor_lens.statistics.rates import RefusalRates

# The first evaluation is drawn light, as the state before; each later one has a pattern.
PATTERNS = ("", "/", ".", "x", "-", "|", "+", "\\")
WANTED = {
    "harmful": "should be refused",
    "pseudo_harmful": "should be answered",
    "benign": "should be answered",
}
ROW_HEIGHT, GAP_ROWS = 30, 0.7
_Row = dict[Hashable, Any]


def refusal_rates(**evaluations: RefusalRates) -> go.Figure:
    """Draw the refused share of each label, one row per evaluation, with 95 % Wilson intervals.

    Bars are the share of prompts refused, whiskers its interval, and beside each stands the share
    in % and the number of prompts. The first evaluation is pale, as the state before; later ones
    are told apart by patterns. Harmful prompts should be refused, pseudo-harmful and benign ones
    should be answered.

    Reads columns label, refused (share), n (prompts with a readable verdict), low, high of
    `.rates()`.

    What to look for: bars of pseudo-harmful prompts that drop, while those of harmful prompts stay
    full and those of benign ones stay empty.

    How it is misread: the intervals are for each rate alone. Two evaluations of the same prompts
    can differ beyond doubt though their intervals overlap; the paired test of
    `compare_evaluations` decides. A rate is that of one judge, one prompt set and short replies.

    Args:
        evaluations: Evaluations by the name of their row: `refusal_rates(before=..., after=...)`,
            or `refusal_rates(**{"raw formula": ...})`.

    Returns:
        Two traces for each evaluation, bars and texts; `meta` holds their `kind` (`rate` or
        `percent`) and `name`. Labels without a readable verdict have no bar.
    """
    parts = rate_parts(**evaluations)
    places = [place for trace in parts["data"] for place in trace["y"]]
    return finish(
        go.Figure(parts),
        title="Refused prompts by label",
        notes=["Bars: share refused. Whiskers: 95 % Wilson interval."],
        height=160 + ROW_HEIGHT * int(np.ceil(max(places, default=3) + 1)),
        legend=False,
        empty="no evaluations to show",
    )


def rate_parts(**evaluations: RefusalRates) -> dict[str, Any]:
    """Return data and layout of `refusal_rates` as plain dictionaries."""
    rows = _rows(evaluations)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"showlegend": False, "bargap": 0}
    for order, name in enumerate(evaluations):
        if own := [row for row in rows if row["name"] == name]:
            traces += [_bars(own, order), _rates_in_words(own)]
    if rows:
        layout |= _named_rows(rows)
    return {"data": traces, "layout": layout}


def _rows(evaluations: dict[str, RefusalRates]) -> list[_Row]:
    """Return one row a bar, with its place from the top; a heading takes the place above."""
    rates: list[_Row] = [
        {"name": name, **rate}
        for name, evaluation in evaluations.items()
        for rate in evaluation.rates().to_dict("records")
        if np.isfinite(rate["refused"])
    ]
    rows: list[_Row] = []
    place = 0.0
    for label in LABEL_STYLES:
        bars = [rate for rate in rates if rate["label"] == label]
        for bar in bars:
            place += 1
            rows.append({**bar, "place": place})
        place += 1 + GAP_ROWS if bars else 0
    return rows


def _column(rows: list[_Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def _bars(rows: list[_Row], order: int) -> dict[str, Any]:
    """The bars of one evaluation, which is the `order`-th."""
    refused, low, high, n = (_column(rows, name) for name in ("refused", "low", "high", "n"))
    styles = [LABEL_STYLES[row["label"]] for row in rows]
    name = escape(rows[0]["name"])
    return {
        "type": "bar",
        "x": refused,
        "y": _column(rows, "place"),
        "orientation": "h",
        "width": 0.74,
        "name": name,
        "marker": {
            "color": [style.color if order else style.fill(0.45) for style in styles],
            "line": {"color": [style.color for style in styles], "width": 1.2},
            "pattern": {
                "shape": PATTERNS[order % len(PATTERNS)],
                "fgcolor": "#ffffff",
                "fgopacity": 0.75,
                "fillmode": "overlay",
                "size": 7,
                "solidity": 0.25,
            },
        },
        "error_x": whiskers(refused, low, high, color=INK, thickness=1.4, width=4),
        "customdata": np.column_stack([n, low, high, refused * n]),
        "text": [style.name for style in styles],
        "textposition": "none",
        "hovertemplate": "%{text}: %{x:.1%} refused<br>%{customdata[3]:.0f} of "
        "%{customdata[0]:.0f} prompts<br>interval %{customdata[1]:.1%} to %{customdata[2]:.1%}"
        f"<extra>{name}</extra>",
        "meta": {"kind": "rate", "name": name},
    }


def _rates_in_words(rows: list[_Row]) -> dict[str, Any]:
    """Write each rate and its number of prompts to the right of the whisker."""
    return {
        "type": "scatter",
        "x": np.fmax(_column(rows, "refused"), _column(rows, "high")) + 0.008,
        "y": _column(rows, "place"),
        "mode": "text",
        "text": [f"<b>{_exact_percent(row['refused'])}</b> of {int(row['n'])}" for row in rows],
        "textposition": "middle right",
        "textfont": {"size": SMALL, "color": INK},
        "hoverinfo": "skip",
        "cliponaxis": False,
        "meta": {"kind": "percent", "name": escape(rows[0]["name"])},
    }


def _exact_percent(rate: float) -> str:
    """A share in whole percent, with a decimal where 99.6 % would be 100 % or 0.4 % would be 0 %.

    Rounding to the ends would hide the exceptions.
    """
    at_an_end = round(100 * rate) in (0, 100)
    return percent(rate, 1 if at_an_end and rate not in (0.0, 1.0) else 0)


def _named_rows(rows: list[_Row]) -> dict[str, Any]:
    """Axes whose rows are named by their evaluation, and a heading above each label's rows."""
    places = [row["place"] for row in rows]
    first = {row["label"]: row["place"] for row in reversed(rows)}
    return {
        "yaxis": {
            "tickmode": "array",
            "tickvals": places,
            "ticktext": [short(row["name"], 40) for row in rows],
            "range": [places[-1] + 0.6, -0.5],
            "tickfont": {"color": INK, "size": SMALL},
            "showgrid": False,
            "ticks": "",
            "showline": False,
            "ticklabelstandoff": 8,
        },
        # Room on the right for the text beside a bar of 100 %.
        "xaxis": {"title": {"text": "refused"}, "range": [0, 1.17], **QUARTERS},
        "annotations": [
            {
                "text": f"<b>{LABEL_STYLES[label].name}</b>, {WANTED[label]}",
                "x": 0,
                "xanchor": "left",
                "y": first[label] - 0.8,
                "yanchor": "middle",
                "font": {"size": FONT_SIZE, "color": INK},
            }
            for label in LABEL_STYLES
            if label in first
        ],
    }
