"""Prompts as points on a plane: one layer as a map, where they moved, and how much is enough.

Every mark is a prompt that can be read on hover; large sets are thinned evenly, the same way at
every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from actor_lens.errors import UserError
from actor_lens.figures.frames import (
    Framed,
    evenly,
    finite_rows,
    labels_in,
    one_layer,
    prompt_hovers,
    thinned,
)
from actor_lens.figures.targets import references
from actor_lens.figures.theme import INK, LABEL_STYLES, RULE, escape, finish

if TYPE_CHECKING:
    from actor_lens.directions.just_enough_shift import JustEnoughShift
    from actor_lens.directions.projections import LayerMap, Projections

# At most so many prompts of a label, and so many marks of targets.
MAP_POINTS, TARGET_POINTS = 500, 60
_TSNE_NOTE = "Near points are alike; distances between groups and the groups' sizes mean nothing."
_PCA_NOTE = "Two directions of many: labels that overlap here can differ in the others."
_SHIFT_NOTE = "Grey line: unmoved. Below it: toward compliance. Above it: toward refusal."


def layer_map(mapped: LayerMap) -> go.Figure:
    """Draw the prompts of one layer on a plane, by principal components or t-SNE.

    Each mark is a prompt; hover to read it. Both axes have the same scale: units of the residual
    stream for principal components, none for t-SNE.

    Reads columns prompt_index, prompt, label, category, x, y and the attributes layer, method and
    axes.

    What to look for: whether the labels form groups of their own, and which group the
    pseudo-harmful prompts are part of.

    How it is misread: t-SNE keeps neighbours together and nothing else; the distance between two
    groups, their sizes and their densities mean nothing, and groups appear in noise too. Principal
    components keep distances, but only those of two directions: labels that overlap here can still
    be separable in the others.

    Args:
        mapped: Prompts of one layer on a plane, from `layer_map`.

    Returns:
        One trace for each label; at most 500 prompts of each are drawn.
    """
    frame = finite_rows(mapped.frame(), ["x", "y"])
    figure = go.Figure([_prompt_marks(label, frame, "x", "y") for label in labels_in(frame)])
    tsne = mapped.method == "tsne"
    x_title, y_title = (escape(name) for name in mapped.axes)
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(title_text=y_title, scaleanchor="x", scaleratio=1)
    if tsne:  # its units mean nothing
        figure.update_xaxes(showticklabels=False, ticks="")
        figure.update_yaxes(showticklabels=False, ticks="")
    return finish(
        figure,
        title=f"Prompts at layer {mapped.layer}: {'t-SNE' if tsne else 'principal components'}",
        notes=[_TSNE_NOTE if tsne else _PCA_NOTE],
        height=520,
        empty="no prompts to show",
    )


def _prompt_marks(label: str, table: pd.DataFrame, x: str, y: str, words: str = "") -> go.Scatter:
    """A mark for each prompt of a label at the values of two columns; `words` end its hover."""
    style = LABEL_STYLES[label]
    rows = table[table["label"] == label]
    rows = rows.iloc[evenly(len(rows), MAP_POINTS)]
    return go.Scatter(
        x=rows[x].to_numpy(dtype=float),
        y=rows[y].to_numpy(dtype=float),
        text=prompt_hovers(rows),
        customdata=rows["prompt_index"].to_numpy(),
        name=style.name,
        mode="markers",
        marker={
            "symbol": style.symbol,
            "color": style.color,
            "size": 7,
            "opacity": 0.75,
            "line": {"color": "#ffffff", "width": 0.8},
        },
        hovertemplate=f"%{{text}}{words}<extra>{style.name}</extra>",
        meta={"kind": "points", "label": label},
    )


def prompt_shifts(
    before: Projections, after: Projections, layer: int, *, targets: Framed | None = None
) -> go.Figure:
    """Draw each prompt's projection at one layer, before against after.

    On the grey line nothing has moved; below it a prompt moved toward compliance, above it toward
    refusal. Both axes are in units of the residual stream, counted from zero.

    Reads columns layer, prompt_index, prompt, label, category, projection; of the targets label,
    before, after.

    What to look for: pseudo-harmful prompts below the grey line and near the open marks, harmful
    prompts on the line or above it.

    How it is misread: both projections must be on the same direction (the one from before);
    otherwise the difference mixes the prompts' movement with the direction's. A prompt on its
    target is not yet answered: later layers decide.

    Args:
        before: Projections of the untouched model, from `project`.
        after: Projections of the same prompts on the same directions, with the run applied.
        layer: Block index from 0.
        targets: Targets of the run; adds for each label the line on which its prompts were meant
            to land.

    Returns:
        `meta` of a trace holds its `kind` (`identity`, `target` or `points`) and its `label`.

    Raises:
        UserError: If the layer is missing, or the two do not hold the same prompts.
    """
    pairs = _pair(one_layer(before.frame(), layer), one_layer(after.frame(), layer))
    figure = go.Figure()
    if len(pairs):
        table = None if targets is None else finite_rows(targets.frame(), ["before", "after"])
        _draw_shifts(figure, pairs, table)
    figure.update_xaxes(title_text="projection before")
    figure.update_yaxes(title_text="projection after")
    return finish(
        figure,
        title=f"Where each prompt moved, layer {layer}",
        notes=[_SHIFT_NOTE if targets is None else f"{_SHIFT_NOTE} Open marks: targets."],
        height=520,
        empty="no projections to show",
    )


def _pair(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """One row a prompt with its projections `before` and `after`."""
    pairs = before.merge(
        after[["prompt_index", "prompt", "projection"]], on=["prompt_index", "prompt"]
    )
    if not len(before) == len(after) == len(pairs):
        raise UserError(
            f"before holds {len(before)} prompts and after {len(after)}, of which {len(pairs)} are "
            "the same: project the same prompts before and after"
        )
    renamed = pairs.rename(columns={"projection_x": "before", "projection_y": "after"})
    return finite_rows(renamed, ["before", "after"])


def _draw_shifts(figure: go.Figure, pairs: pd.DataFrame, targets: pd.DataFrame | None) -> None:
    """Draw the line of prompts that have not moved, the targets, and the prompts on top."""
    low, high = float(pairs["before"].min()), float(pairs["before"].max())
    figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            name="unmoved",
            mode="lines",
            line={"color": RULE, "width": 1.5},
            hoverinfo="skip",
            meta={"kind": "identity"},
        )
    )
    if targets is not None:
        figure.add_traces([_target_line(label, targets) for label in labels_in(targets)])
        figure.data[1].showlegend = True
    words = "<br>before %{x:.3g}, after %{y:.3g}"
    for label in labels_in(pairs):
        figure.add_trace(_prompt_marks(label, pairs, "before", "after", words))


def _target_line(label: str, targets: pd.DataFrame) -> go.Scatter:
    """Where the prompts of a label were meant to land."""
    style = LABEL_STYLES[label]
    rows = thinned(targets[targets["label"] == label], "before", TARGET_POINTS)
    return go.Scatter(
        x=rows["before"].to_numpy(dtype=float),
        y=rows["after"].to_numpy(dtype=float),
        mode="markers",
        marker={
            "symbol": f"{style.symbol}-open",
            "color": INK,
            "size": 6,
            "opacity": 0.55,
            "line": {"width": 1},
        },
        name="target",
        legendgroup="target",
        showlegend=False,
        hovertemplate="target %{y:.3g} for a prompt at %{x:.3g}"
        f"<extra>{style.name}: target</extra>",
        meta={"kind": "target", "label": label},
    )


def just_enough_shift(shift: JustEnoughShift) -> go.Figure:
    """Draw the least shift that each over-refused prompt needs against its projection.

    Each mark is a prompt: further right it lies further toward refusal, further up it needs more.
    The line is the least-squares fit; where it meets zero no shift is needed, the fitted origin.
    Open marks on the upper edge: prompts that no shift tried was enough for; the line leaves them
    out. The x axis is in units of the residual stream, the y axis in lengths of R.

    Reads columns prompt_index, prompt, label, category, projection, gamma, line and the summary.

    What to look for: marks that rise to the right. Then each prompt needs a shift of its own, and
    one shift for all is too much for some and too little for others.

    How it is misread: gammas are steps of a grid, so marks lie in rows. The line is an average:
    half of the prompts need more than it says. Where many marks are open, the others are a
    selection of easy prompts, and the line is theirs. Nothing is said of harmful prompts.

    Args:
        shift: Shifts at one layer, from `just_enough_shift`.

    Returns:
        `meta` of a trace holds its `kind` (`points`, `missed` or `line`) and of marks its `label`.
    """
    about, frame = shift.summary(), finite_rows(shift.frame(), ["projection"])
    edge = 1.08 * max(about["tried"])
    known = finite_rows(frame, ["gamma"])
    missed = frame[frame["gamma"].isna()].assign(gamma=edge)
    figure, levels = go.Figure(), 1
    notes = ["Too few prompts, or too much alike, for a line."]
    r, origin = about["correlation"], about["origin"]["value"]
    if origin is not None:
        _draw_line(figure, known, origin)
        means = pd.DataFrame([{**about, "origin": origin}])
        lines, levels = references(means, frame[["projection"]])
        figure.update_layout(lines)
        notes = [
            f"r {r['value']:.2f} ({r['low']:.2f} to {r['high']:.2f}) over {r['n']} prompts. "
            f"Line: alpha {about['alpha']:.2g}, origin {origin:.3g}."
        ]
    for label in labels_in(frame):
        words = "<br>projection %{x:.3g}, gamma %{y:.3g}"
        figure.add_trace(_prompt_marks(label, known, "projection", "gamma", words))
        if (missed["label"] == label).any():
            marks = _prompt_marks(label, missed, "projection", "gamma", "<br>nothing was enough")
            marks.update(showlegend=False, meta={"kind": "missed", "label": label})
            marks.marker.update(symbol=f"{LABEL_STYLES[label].symbol}-open", line_width=1.5)
            figure.add_trace(marks)
    if len(missed):
        notes.append(f"Open marks: {len(missed)} prompts for which nothing tried was enough.")
    figure.update_xaxes(title_text="projection on the refusal direction, from zero")
    figure.update_yaxes(title_text="least gamma that is enough", range=[0, 1.05 * edge])
    return finish(
        figure,
        title=f"How much is enough for each prompt, layer {about['layer']}",
        notes=notes,
        height=480,
        names_above=levels,
        empty="no over-refused prompts to show",
    )


def _draw_line(figure: go.Figure, known: pd.DataFrame, origin: float) -> None:
    """Draw the fitted line over the prompts, and down to zero where that is to their left."""
    ends = known.loc[[known["projection"].idxmin(), known["projection"].idxmax()]]
    x, y = ends["projection"].tolist(), ends["line"].tolist()
    if origin < x[0]:
        x, y = [origin, *x], [0.0, *y]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            name="fitted line",
            mode="lines",
            line={"color": INK, "width": 1.5},
            hoverinfo="skip",
            meta={"kind": "line"},
        )
    )
