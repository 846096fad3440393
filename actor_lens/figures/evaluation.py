"""How many prompts of each label are refused, by one or more evaluations."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.figures.theme import (
    FONT_SIZE,
    INK,
    LABEL_STYLES,
    SMALL,
    escape,
    finish,
    nothing_yet,
)

# The first evaluation is drawn light, as the state before; each later one has a pattern.
PATTERNS = ("", "/", ".", "x", "-", "|", "+", "\\")
WANTED = {
    "harmful": "should be refused",
    "pseudo_harmful": "should be answered",
    "benign": "should be answered",
}
ROW_HEIGHT, GAP_ROWS = 30, 0.7


@runtime_checkable
class Rated(Protocol):
    """An evaluation: a refusal rate with its interval for each label."""

    def rates(self) -> pd.DataFrame:
        """Return columns label, refused (share), n, low, high."""
        ...


def refusal_rates(**evaluations: Rated) -> go.Figure:
    """Draw the refused share of each label, one row per evaluation, with 95 % Wilson intervals.

    The names of the arguments are the names of the rows: `refusal_rates(before=..., after=...)`,
    or `refusal_rates(**{"raw formula": ...})`. Reads label, refused, n, low, high of `.rates()`.

    How it is misread: the intervals are for each rate alone. Two evaluations of the same prompts
    can differ beyond doubt though their intervals overlap; the paired test of
    `compare_evaluations` decides. A rate is that of one judge, one prompt set and short replies.
    """
    rows = _rows(evaluations)
    figure = go.Figure()
    if rows.empty:
        nothing_yet(figure, "no evaluations to show")
    else:
        for name, part in rows.groupby("name", sort=False):
            order = list(evaluations).index(str(name))
            figure.add_traces([_bars(part, order), _percents(part)])
        _name_rows(figure, rows)
    figure.update_layout(showlegend=False, bargap=0)
    return finish(
        figure,
        title="Refused prompts by label",
        notes=["Bars: share refused. Whiskers: 95 % Wilson interval."],
        height=160 + ROW_HEIGHT * int(np.ceil(rows["place"].max() + 1 if len(rows) else 4)),
        legend=False,
    )


def _rows(evaluations: dict[str, Rated]) -> pd.DataFrame:
    """Return one row a bar, with its place from the top; a heading takes the place above."""
    tables = {name: evaluation.rates() for name, evaluation in evaluations.items()}
    rows, place = [], 0.0
    for label in LABEL_STYLES:
        found = [
            {"name": name, **record}
            for name, table in tables.items()
            for record in table[table["label"] == label].to_dict("records")
            if np.isfinite(record["refused"])
        ]
        for record in found:
            place += 1
            rows.append({**record, "place": place})
        place += 1 + GAP_ROWS if found else 0
    return pd.DataFrame(rows)


def _bars(part: pd.DataFrame, order: int) -> go.Bar:
    refused, low, high = (part[name].to_numpy(dtype=float) for name in ("refused", "low", "high"))
    styles = [LABEL_STYLES[label] for label in part["label"]]
    name = escape(part["name"].iloc[0])
    return go.Bar(
        x=refused,
        y=part["place"].to_numpy(dtype=float),
        orientation="h",
        width=0.74,
        name=name,
        marker={
            "color": [style.color if order else style.fill(0.45) for style in styles],
            "line": {"color": [style.color for style in styles], "width": 1.2},
            "pattern": {
                "shape": PATTERNS[order % len(PATTERNS)],
                **{"fgcolor": "#ffffff", "fgopacity": 0.75, "fillmode": "overlay"},
                **{"size": 7, "solidity": 0.25},
            },
        },
        error_x={
            **{"type": "data", "symmetric": False, "color": INK, "thickness": 1.4, "width": 4},
            # Rounding may put the rate a hair outside its interval.
            "array": np.clip(np.nan_to_num(high - refused), 0, None),
            "arrayminus": np.clip(np.nan_to_num(refused - low), 0, None),
        },
        customdata=np.column_stack([part["n"], low, high, refused * part["n"]]),
        text=[style.name for style in styles],
        textposition="none",
        hovertemplate="%{text}: %{x:.1%} refused<br>%{customdata[3]:.0f} of %{customdata[0]:.0f} "
        "prompts<br>interval %{customdata[1]:.1%} to %{customdata[2]:.1%}"
        f"<extra>{name}</extra>",
        meta={"kind": "rate", "name": name},
    )


def _percents(part: pd.DataFrame) -> go.Scatter:
    """Write each rate and its number of prompts to the right of the whisker."""
    ends = part[["refused", "high"]].max(axis=1)
    return go.Scatter(
        x=ends.to_numpy(dtype=float) + 0.008,
        y=part["place"].to_numpy(dtype=float),
        mode="text",
        text=[
            _percent(float(rate), int(n))
            for rate, n in zip(part["refused"], part["n"], strict=True)
        ],
        textposition="middle right",
        textfont={"size": SMALL, "color": INK},
        hoverinfo="skip",
        cliponaxis=False,
        meta={"kind": "percent", "name": escape(part["name"].iloc[0])},
    )


def _percent(rate: float, n: int) -> str:
    # 99.6 % must not be written as 100 %, nor 0.4 % as 0 %: that would hide the exceptions.
    rounded = f"{rate:.0%}"
    exact = rounded not in ("0%", "100%") or rate in (0.0, 1.0)
    return f"<b>{rounded if exact else f'{rate:.1%}'}</b> of {n}"


def _name_rows(figure: go.Figure, rows: pd.DataFrame) -> None:
    figure.update_yaxes(
        tickmode="array",
        tickvals=rows["place"].tolist(),
        ticktext=[escape(str(name)[:40]) for name in rows["name"]],
        range=[rows["place"].max() + 0.6, -0.5],
        tickfont={"color": INK, "size": SMALL},
        **{"showgrid": False, "ticks": "", "showline": False, "ticklabelstandoff": 8},
    )
    # Room on the right for the text beside a bar of 100 %.
    figure.update_xaxes(
        title_text="refused",
        tickformat=".0%",
        tickvals=[0, 0.25, 0.5, 0.75, 1],
        range=[0, 1.17],
    )
    for label, part in rows.groupby("label", sort=False):
        figure.add_annotation(
            text=f"<b>{LABEL_STYLES[str(label)].name}</b>, {WANTED[str(label)]}",
            **{"x": 0, "xanchor": "left", "y": part["place"].min() - 0.8, "yanchor": "middle"},
            showarrow=False,
            font={"size": FONT_SIZE, "color": INK},
        )
