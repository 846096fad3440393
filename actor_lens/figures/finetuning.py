"""How a fine-tune went: loss, projections, drift of the direction, and validation refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from actor_lens.errors import UserError
from actor_lens.figures.frames import Framed, evenly
from actor_lens.figures.theme import INK, LABEL_STYLES, RULE, finish
from actor_lens.text import percent

# More points than this a trace make a live figure slow and look no different.
STEPS_SHOWN = 500
PANEL_HEIGHT = 150
# An axis of shares, with room for the marks at both ends.
_SHARES: dict[str, object] = {"tickformat": ".0%", "range": [-0.06, 1.06]}


def training_curves(
    run: Framed | pd.DataFrame, *, smoothing: float = 0.9, columns: int = 1
) -> go.Figure:
    """Draw a fine-tune over its steps, in panels; a panel without numbers is left out.

    1. Loss (one minus a cosine, from 0 to 2): faint as recorded, bold as a debiased exponential
       average, and the average per label.
    2. Mean projection per label on the direction from before training, in units of the residual
       stream; bold those of held-out prompts where there are some.
    3. Cosine between the refusal direction now and at the start.
    4. Share of the validation prompts of each label whose reply begins as a refusal, at the checks,
       with the safety floor.

    The step whose weights were kept is marked, and zoom survives updates. The safety floor counts
    from the shares before training; where neither refused_before nor a row of step 0 holds them, it
    is named in words and not drawn.

    Reads columns step, loss, loss_LABEL, projection_LABEL, held_out_projection_LABEL,
    direction_cosine, refused_LABEL, and of a run layer, best_step, message, config.safety_floor
    and refused_before (shares by label before training).

    What to look for: a loss that falls and settles, means of pseudo-harmful prompts that leave
    those of harmful ones, a cosine near 1, and harmful refusals above the safety floor.

    How it is misread: a falling loss means that activations approach their targets, not that
    replies change; the validation panel speaks of that, by the first token only, and has few
    points. The average lags behind the loss. A falling cosine means that the direction itself has
    moved, so that early and late projections are not on one scale.

    Args:
        run: A training run, or its table.
        smoothing: Weight of the past in the average, in [0, 1).
        columns: Number of panels side by side.

    Returns:
        Panels one below the other with a shared axis of steps, or in `columns`; the `kind` in the
        `meta` of a trace is the column that it draws.

    Raises:
        UserError: If `smoothing` is not in [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing is {smoothing}: it must be at least 0 and less than 1")
    frame = _prepare(run, smoothing)
    panels = [panel for panel in _PANELS if _known(frame, panel.columns)]
    figure, places = _grid(len(panels), columns)
    for panel, (row, column) in zip(panels, places, strict=False):
        for trace in panel.draw(frame):
            figure.add_trace(trace, row=row, col=column)
        figure.update_yaxes(title_text=panel.title, nticks=5, row=row, col=column)
        figure.update_yaxes(panel.axis(frame), row=row, col=column)
        if "refused_harmful" in panel.columns:
            _draw_floor(figure, _floor(run, frame), row, column)
    if panels:
        for row, column in places[-columns:]:
            figure.update_xaxes(title_text="step", row=row, col=column)
        _legend_once(figure)
        _mark_best(figure, run, places)
    figure.update_layout(uirevision="training curves", hovermode="x unified")
    layer = getattr(run, "layer", None)
    return finish(
        figure,
        title="Training" if layer is None else f"Training layer {layer}",
        notes=_notes(run, frame),
        height=150 + PANEL_HEIGHT * max(1, math.ceil(len(panels) / columns)),
        empty="no steps yet",
    )


def training_lines(
    run: Framed | pd.DataFrame, *, smoothing: float = 0.9
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the points of every line of `training_curves`, by the `kind` in its `meta`.

    For a figure that is on the page already: exchanging the points costs a fraction of drawing.

    Args:
        run: A training run, or its table.
        smoothing: Weight of the past in the average, in [0, 1).

    Returns:
        Steps and values of each line; at most 500 points.
    """
    frame = _prepare(run, smoothing)
    groups = ("averaged_loss", "projection", "held_out_projection", "refused")
    columns = ["loss", "averaged_loss", "direction_cosine"]
    columns += [name for group in groups for name in _per_label(group)]
    return {name: _points(frame, name) for name in _known(frame, tuple(columns))}


def _prepare(run: Framed | pd.DataFrame, smoothing: float) -> pd.DataFrame:
    """Return a run's table with averaged losses and the check before training."""
    frame = _with_averages(run if isinstance(run, pd.DataFrame) else run.frame(), smoothing)
    return _with_start(frame, getattr(run, "refused_before", None))


def _grid(count: int, columns: int) -> tuple[go.Figure, list[tuple[int, int]]]:
    """Return an empty figure with room for so many panels, and where each of them goes."""
    rows = max(1, math.ceil(count / columns))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes=columns == 1,
        vertical_spacing=0.05 if columns == 1 else 0.2 / rows,
        horizontal_spacing=0.13 if columns > 1 else None,
    )
    return figure, [(1 + place // columns, 1 + place % columns) for place in range(count)]


def _known(frame: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """Return those of `columns` that the table has and that hold a number."""
    return [name for name in columns if name in frame and frame[name].notna().any()]


def _with_averages(frame: pd.DataFrame, smoothing: float) -> pd.DataFrame:
    """Add the exponential average of each loss; `adjust` takes out the pull of the first value."""
    losses = [name for name in ("loss", *_per_label("loss")) if name in frame]
    averages = frame[losses].astype(float).ewm(alpha=1 - smoothing, adjust=True).mean()
    return frame.join(averages.add_prefix("averaged_"))


def _with_start(frame: pd.DataFrame, refused: Mapping[str, float] | None) -> pd.DataFrame:
    """Add the check before training as a row of step 0, unless there is one."""
    if not refused or "step" not in frame or (frame["step"] == 0).any():
        return frame
    start = {"step": 0, **{f"refused_{label}": share for label, share in refused.items()}}
    return pd.concat([pd.DataFrame([start]), frame], ignore_index=True)


def _losses(frame: pd.DataFrame) -> list[go.Scatter]:
    """The loss of every step, its average, and the averages of the labels between them."""
    faint, bold = {"color": RULE, "width": 1}, {"color": INK, "width": 3}
    return [
        _line(frame, "loss", "loss", faint, opacity=0.7),
        *_label_lines(frame, "averaged_loss", "lines"),
        _line(frame, "averaged_loss", "loss, averaged", bold),
    ]


def _means(frame: pd.DataFrame) -> list[go.Scatter]:
    """Mean projections of the prompts that are trained on, and of held-out ones."""
    trained = _label_lines(frame, "projection", "lines")
    held_out = _label_lines(frame, "held_out_projection", "lines+markers")
    if held_out:  # they answer the question; the prompts that are trained on step back
        for trace in trained:
            trace.update(line={"width": 1}, opacity=0.6)
    return [*trained, *held_out]


def _drift(frame: pd.DataFrame) -> list[go.Scatter]:
    """The cosine between the refusal direction now and at the start."""
    line = {"color": INK, "width": 2, "dash": "solid"}
    return [_line(frame, "direction_cosine", "cosine", line, showlegend=False)]


def _label_lines(frame: pd.DataFrame, prefix: str, mode: str) -> list[go.Scatter]:
    """One line for each label whose column, `prefix` and the label, holds a number."""
    traces = []
    for name in _known(frame, _per_label(prefix)):
        style = LABEL_STYLES[name.removeprefix(f"{prefix}_")]
        line = {"color": style.color, "dash": style.dash, "width": 2}
        trace = _line(frame, name, style.name, line, mode=mode)
        traces.append(trace.update(marker={"symbol": style.symbol, "size": 8}))
    return traces


def _line(
    frame: pd.DataFrame,
    column: str,
    name: str,
    line: dict[str, object],
    *,
    mode: str = "lines",
    opacity: float = 1.0,
    showlegend: bool = True,
) -> go.Scatter:
    """One column over the steps; `kind` in the `meta` of the trace is its name."""
    x, y = _points(frame, column)
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode=mode,
        line=line,
        opacity=opacity,
        showlegend=showlegend,
        legendgroup=name,
        hovertemplate="%{y:.3g}",
        meta={"kind": column},
    )


def _points(frame: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of a column, thinned to what a screen can show."""
    values = frame[column].to_numpy(dtype=float)
    finite = np.flatnonzero(np.isfinite(values))
    rows = finite[evenly(len(finite), STEPS_SHOWN)]
    return frame["step"].to_numpy()[rows], values[rows]


def _legend_once(figure: go.Figure) -> None:
    """Show each name in the legend once, though it occurs in several panels."""
    shown: set[str] = set()
    for trace in figure.data:
        trace.showlegend = bool(trace.showlegend is not False and trace.name not in shown)
        shown.add(trace.name)


def _floor(run: Framed | pd.DataFrame, frame: pd.DataFrame) -> float | None:
    """Return the least share of harmful prompts to be refused, where it can be known."""
    allowed = getattr(getattr(run, "config", None), "safety_floor", None)
    if allowed is None or not _known(frame, ("refused_harmful",)):
        return None
    start = frame.loc[frame["step"] == 0, "refused_harmful"].dropna()
    return None if start.empty else float(start.iloc[0]) - float(allowed)


def _draw_floor(figure: go.Figure, least: float | None, row: int, column: int) -> None:
    """Draw the safety floor as a line with its name, where it is known."""
    if least is None:
        return
    figure.add_hline(
        y=least,
        line={"color": LABEL_STYLES["harmful"].color, "width": 1.2, "dash": "longdashdot"},
        name="safety floor",
        row=row,
        col=column,
    )
    figure.add_annotation(
        text=f"safety floor {percent(least, 0)}",
        x=0.5,
        xref="x domain",
        y=least,
        yanchor="top",
        row=row,
        col=column,
    )


def _mark_best(
    figure: go.Figure, run: Framed | pd.DataFrame, places: Sequence[tuple[int, int]]
) -> None:
    """Mark the step whose weights were kept: a line through all panels, named once."""
    best = getattr(run, "best_step", None)
    if best is None:
        return
    line = {"color": INK, "width": 1.5, "dash": "dot"}
    mark = {"type": "line", "x0": best, "x1": best, "y0": 0, "y1": 1, "line": line}
    stacked = all(column == 1 for _, column in places)
    if stacked:  # one line through all panels
        figure.add_shape(**mark, xref="x", yref="paper", name="best step")
    else:
        for number in range(1, len(places) + 1):
            axis = "" if number == 1 else str(number)
            figure.add_shape(**mark, xref=f"x{axis}", yref=f"y{axis} domain", name="best step")
    figure.add_annotation(
        text=f"kept: step {best}",
        x=best,
        xref="x",
        y=1,
        yref="paper",
        # Beside the line where a title may stand above the panel.
        yanchor="bottom" if stacked else "top",
        xanchor="auto" if stacked else "right",
    )


def _notes(run: Framed | pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """How training ended, and the safety floor where it cannot be drawn."""
    allowed = getattr(getattr(run, "config", None), "safety_floor", None)
    notes = [str(getattr(run, "message", "") or "")]
    if allowed is not None and _floor(run, frame) is None:
        most = percent(float(allowed))
        notes.append(f"Safety floor: harmful refusals may fall by at most {most}.")
    return notes


def _per_label(prefix: str) -> tuple[str, ...]:
    """Names of the columns that hold a number for each label."""
    return tuple(f"{prefix}_{label}" for label in LABEL_STYLES)


def _cosine_axis(frame: pd.DataFrame) -> dict[str, object]:
    """Keep at least 0.9 to 1 in view: rounding noise must not look like drift."""
    low = float(frame["direction_cosine"].min())
    return {"range": [min(0.9, low - 0.05 * (1 - low)), 1 + 0.06 * (1 - min(0.9, low))]}


@dataclass(frozen=True)
class _Panel:
    """One panel of the training curves.

    Attributes:
        title: Title of its y axis.
        columns: Columns that it can draw; one with numbers is enough.
        draw: Makes its traces from the table.
        axis: Makes the settings of its y axis from the table.
    """

    title: str
    columns: tuple[str, ...]
    draw: Callable[[pd.DataFrame], list[go.Scatter]]
    axis: Callable[[pd.DataFrame], dict[str, object]] = lambda _frame: {}


_PANELS = (
    _Panel("loss", ("loss",), _losses),
    _Panel(
        "mean<br>projection",
        (*_per_label("projection"), *_per_label("held_out_projection")),
        _means,
    ),
    _Panel("direction now<br>vs start (cos)", ("direction_cosine",), _drift, _cosine_axis),
    _Panel(
        "refused<br>(validation)",
        _per_label("refused"),
        lambda frame: _label_lines(frame, "refused", "lines+markers"),
        lambda _frame: _SHARES,
    ),
)
