"""Where the targets would move each label, before any training.

A preview: it costs no training, and it is where an origin or a shift that pushes prompts the wrong
way is seen.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from actor_lens.figures.frames import finite_rows, labels_in, prompt_hovers, scattered, thinned
from actor_lens.figures.theme import (
    INK,
    LABEL_STYLES,
    MUTED,
    NOTE_LINE,
    RULE,
    SMALL,
    escape,
    finish,
)

if TYPE_CHECKING:
    from actor_lens.directions.targets import Targets

STRIP_POINTS = 150
# Vertical places within a label's row, which is one unit high.
BEFORE_AT, AFTER_AT, STRIP_WIDTH = 0.24, -0.24, 0.22


def target_preview(targets: Targets) -> go.Figure:
    """Draw where the targets would move each label along the refusal direction.

    One row per label: open marks are the prompts as they are, filled marks their targets, and the
    arrow goes from the mean before to the mean after. Lines mark the harmful mean, the benign mean
    and the origin. A label that would move the wrong way says so beside its name. The axis is in
    units of the residual stream.

    Reads columns prompt_index, prompt, label, category, before, after of the targets and label,
    before, after, origin, harmful_mean, benign_mean, toward, wrong_way of their preview, with its
    attribute warnings.

    What to look for: arrows of pseudo-harmful prompts that end near the benign mean, and none that
    brings harmful prompts nearer to it.

    How it is misread: it shows what is asked of the layer, not what training will reach. Only one
    direction is drawn; a long arrow is not a large change if the layer's activations are long.
    Whether a prompt on the benign side is answered is decided by later layers.

    Args:
        targets: Targets of the training prompts, from `just_enough_targets`.

    Returns:
        `meta` of a trace holds its `kind` (`before`, `after` or `mean`, the arrow) and its `label`.
        At most 150 prompts of each label are drawn.
    """
    parts, levels = target_parts(targets)
    rows = parts["layout"].get("yaxis", {}).get("tickvals", ())
    return finish(
        go.Figure(parts),
        title=f"Where the targets would move each label, layer {targets.layer}",
        notes=[
            "Open marks: before. Filled marks: targets. Arrow: mean.",
            *(f"⚠ {text}" for text in targets.preview().warnings),
        ],
        height=150 + 105 * max(1, len(rows)),
        legend=False,
        names_above=levels,
        empty="no targets to show",
    )


def target_parts(targets: Targets) -> tuple[dict[str, Any], int]:
    """Return data and layout of `target_preview`, and the levels of names above the plot."""
    means = targets.preview().frame()
    frame = finite_rows(targets.frame(), ["before", "after"])
    labels = labels_in(frame)
    traces: list[dict[str, Any]] = []
    layout, levels = references(means, frame[["before", "after"]], 0.4) if labels else ({}, 1)
    rows = {str(mean["label"]): mean for mean in means.to_dict("records")}
    # The first label is drawn at the top.
    for row, label in enumerate(reversed(labels)):
        traces += _strips(label, frame, row)
        mean = rows.get(label)
        if mean is not None and np.isfinite([mean["before"], mean["after"]]).all():
            traces.append(_arrow(mean, row))
    if labels:
        layout |= _named_rows(rows, labels)
    return {"data": traces, "layout": layout}, levels


def _strips(label: str, frame: pd.DataFrame, row: int) -> list[dict[str, Any]]:
    """The prompts of a label as they are, and below them their targets."""
    style = LABEL_STYLES[label]
    shown = thinned(frame[frame["label"] == label], "before", STRIP_POINTS)
    texts = prompt_hovers(shown)
    offsets = scattered(len(shown), STRIP_WIDTH)
    places = (("before", BEFORE_AT, "-open"), ("after", AFTER_AT, ""))
    return [
        {
            "type": "scatter",
            "x": shown[column].to_numpy(dtype=float),
            "y": row + at + offsets,
            "text": texts,
            "customdata": shown[["prompt_index", "before", "after"]].to_numpy(),
            "mode": "markers",
            "marker": {
                "symbol": style.symbol + shape,
                "color": style.color,
                "size": 6,
                "opacity": 0.5,
            },
            "hovertemplate": "%{text}<br>before %{customdata[1]:.3g}, target %{customdata[2]:.3g}"
            f"<extra>{style.name}, {'before' if column == 'before' else 'target'}</extra>",
            "showlegend": False,
            "meta": {"kind": column, "label": label},
        }
        for column, at, shape in places
    ]


def _arrow(mean: Mapping[Hashable, Any], row: int) -> dict[str, Any]:
    """From the mean before to the mean after; without a head where it stays.

    A trace and no annotation: those are drawn three times when something else in a figure changes.
    """
    before, after = float(mean["before"]), float(mean["after"])
    head = "line-ns" if mean["toward"] == "neither" else "arrow"
    return {
        "type": "scatter",
        "x": [before, after],
        "y": [row, row],
        "mode": "lines+markers",
        "line": {"color": INK, "width": 2.5},
        "marker": {
            "symbol": ["line-ns", head],
            "angle": [0, 0 if head == "line-ns" else 90 if after > before else -90],
            "size": [12, 12 if head == "line-ns" else 14],
            "color": INK,
            "opacity": 1,
            "line": {"color": INK, "width": [2.5, 0 if head == "arrow" else 2.5]},
        },
        "hovertemplate": f"mean {before:.3g}, target {after:.3g}<extra></extra>",
        "showlegend": False,
        "meta": {"kind": "mean", "label": mean["label"]},
    }


def _named_rows(means: Mapping[str, Mapping[Hashable, Any]], labels: list[str]) -> dict[str, Any]:
    """Axes whose rows have names, the first label at the top."""
    return {
        "yaxis": {
            "tickmode": "array",
            "tickvals": list(range(len(labels))),
            "ticktext": [_row_name(label, means.get(label)) for label in reversed(labels)],
            "range": [-0.55, len(labels) - 0.45],
            "showgrid": False,
            "tickfont": {"color": INK, "size": SMALL},
            "ticks": "",
            "ticklabelstandoff": 8,
        },
        "xaxis": {"title": {"text": "projection on the refusal direction"}, "showgrid": True},
    }


def _row_name(label: str, mean: Mapping[Hashable, Any] | None) -> str:
    """A label, where its mean would move, and a warning where that is the wrong way."""
    name = f"<b>{LABEL_STYLES[label].name}</b>"
    if mean is None:
        return name
    toward = str(mean["toward"])
    name += "<br>stays" if toward == "neither" else f"<br>toward {escape(toward)}"
    return name + ("<br><b>⚠ wrong way</b>" if mean["wrong_way"] else "")


def references(
    means: pd.DataFrame, places: pd.DataFrame, apart: float = 0.22
) -> tuple[dict[str, Any], int]:
    """Vertical lines for class means and origin, named above the plot.

    Names that would touch one another are written on separate levels.

    Args:
        means: Table whose columns origin, harmful_mean and benign_mean hold one projection each.
        places: Projections of everything else on the x axis.
        apart: Least distance of names on one level, as a share of that axis.

    Returns:
        Shapes and annotations of a layout, and the number of levels that the names need.
    """
    columns = ["origin", "harmful_mean", "benign_mean"]
    marks = [places.to_numpy(dtype=float), means[columns].to_numpy(dtype=float)]
    values = np.concatenate([mark[np.isfinite(mark)] for mark in marks])
    width = float(np.ptp(values)) or 1.0
    last_x, level, levels = -np.inf, 0, 1
    shapes: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for x, name, dash in _references(means, width):
        level = level + 1 if x - last_x < apart * width else 0
        last_x, levels = x, max(levels, level + 1)
        line = {"color": RULE, "width": 1.5, "dash": dash}
        ends = {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({"type": "line", **ends, "line": line, "layer": "below", "name": name})
        annotations.append(
            {
                "x": x,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "yshift": NOTE_LINE * level,
                "text": name,
                "showarrow": False,
                "font": {"size": SMALL, "color": MUTED},
            }
        )
    return {"shapes": shapes, "annotations": annotations}, levels


def _references(means: pd.DataFrame, width: float) -> list[tuple[float, str, str]]:
    """Return (position, name, dash) from left to right; lines that coincide share a name."""
    columns = (
        ("harmful_mean", "harmful mean", "solid"),
        ("benign_mean", "benign mean", "dash"),
        ("origin", "origin", "dot"),
    )
    lines: list[tuple[float, str, str]] = []
    for column, name, dash in columns:
        known = means[column].dropna()
        if known.empty:
            continue
        x = float(known.iloc[0])
        same = [i for i, (other, _, _) in enumerate(lines) if abs(other - x) < 0.002 * width]
        if same:
            other, names, style = lines[same[0]]
            lines[same[0]] = (other, f"{names} = {name}", style)
        else:
            lines.append((x, name, dash))
    return sorted(lines)
