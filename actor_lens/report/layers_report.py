"""HTML pages on the layers: the look before any training, and the sweep over all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from actor_lens import figures
from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.directions.options import Origin, fixed_origin
from actor_lens.directions.projections import Projections, layer_map
from actor_lens.directions.subspaces import RefusalSubspace
from actor_lens.errors import UserError
from actor_lens.experiments.look import Look
from actor_lens.experiments.sweep.layer_sweep import LayerSweep
from actor_lens.figures.theme import LABEL_STYLES, ORIGIN_NAMES
from actor_lens.prompts.rows import LABELS
from actor_lens.report.pages import plot_in_page, render_page, write_page

_SCORE_COLUMNS = {
    ("causal", "all"): "causal score",
    ("silhouette", "harmful_vs_benign"): "silhouette, harmful against benign",
    ("auroc", "harmful_vs_benign"): "AUROC, harmful against benign",
    ("gap", "harmful_vs_benign"): "gap, harmful against benign",
    ("probe", "harmful_vs_pseudo_harmful"): "probe, harmful against pseudo-harmful",
    ("auroc", "harmful_vs_pseudo_harmful"): "AUROC, harmful against pseudo-harmful",
}


def write_look(
    look: Look,
    choice: LayerChoice,
    path: str | os.PathLike[str],
    subspaces: Sequence[RefusalSubspace] = (),
) -> Path:
    """Write the look at the layers, before any training, as one HTML file that works offline.

    Args:
        look: Scores and projections of every layer, from ``look_at_layers``.
        choice: The layer to mark, from ``look.scores.best``.
        path: Path of the file; one that is there is replaced whole.
        subspaces: Results of ``refusal_subspace`` to show below.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    return write_page(render_look(look, choice, subspaces), path)


def render_look(look: Look, choice: LayerChoice, subspaces: Sequence[RefusalSubspace] = ()) -> str:
    """The text of the page that ``write_look`` writes."""
    content = layers_content(look, choice.layer, choice, look.origin)
    if subspaces:
        figure = figures.subspace_steps(subspaces)
        content["plots"]["subspaces"] = plot_in_page("subspaces", figure)
    content["subspaces"] = subspaces
    return render_page("look.html.j2", look=look, **content)


def write_sweep(sweep: LayerSweep, path: str | os.PathLike[str]) -> Path:
    """Write the outcomes of a sweep as one HTML file that works offline.

    Args:
        sweep: Outcomes of every layer, from ``sweep_layers``.
        path: Path of the file; one that is there is replaced whole.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    plots = {}
    labels = [label for label in LABEL_STYLES if label in sweep.validation]
    if labels:
        plots["outcomes"] = plot_in_page("outcomes", figures.layer_outcomes(sweep))
    rows, best = sweep.frame().to_dict("records"), sweep.best_outcome
    for row, outcome in zip(rows, sweep.outcomes, strict=True):
        row["best"] = outcome is best
    page = render_page(
        "sweep.html.j2",
        sweep=sweep,
        rows=rows,
        labels=labels,
        judged=any(one.reply_refused for one in sweep.outcomes),
        plots=plots,
    )
    return write_page(page, path)


def layers_content(
    look: Look, layer: int, choice: LayerChoice | None, origin: Origin
) -> dict[str, Any]:
    """What the template ``layers.html.j2`` shows, in the report of a study too.

    Args:
        look: Scores and projections of every layer.
        layer: The layer to mark.
        choice: Choice of this layer; None where the user named it.
        origin: Origin that projections are counted from; the benign mean for a fitted one.
    """
    scores, projections, origin = look.scores, look.projections, fixed_origin(origin)
    plots = {
        "projections": plot_in_page(
            "projections", figures.projections_by_layer(projections, layer=layer, origin=origin)
        ),
        "scores": plot_in_page("scores", figures.layer_scores(scores, layer=layer)),
    }
    axes: tuple[str, ...] = ()
    if len(projections.prompts) >= 3:
        plane = layer_map(projections.residuals, layer)
        axes = plane.axes
        plots["map"] = plot_in_page("map", figures.layer_map(plane))
    cells = {(row.layer, row.score, row.pair): row.measurement for row in scores.rows}
    recommended = choice
    with suppress(UserError):  # nothing was measured
        recommended = choice or scores.best()
    measured = {(row.score, row.pair) for row in scores.rows}
    columns = [key for key in _SCORE_COLUMNS if key in measured]
    probe = cells.get((layer, "probe", "harmful_vs_pseudo_harmful"))
    return {
        "layer": layer,
        "n_layers": scores.n_layers,
        "choice": choice,
        "recommended": recommended,
        "score_warnings": scores.warnings,
        "spread": _spread(projections, layer, origin),
        "origin": origin,
        "origin_names": ORIGIN_NAMES,
        "axes": axes,
        "score_columns": [_SCORE_COLUMNS[key] for key in columns],
        "score_rows": [
            {"layer": row, "cells": [cells.get((row, *key)) for key in columns]}
            for row in range(scores.n_layers)
        ],
        "probe": probe.value if probe else float("nan"),
        "causal": cells.get((layer, "causal", "all")),
        "plots": plots,
    }


def _spread(projections: Projections, layer: int, origin: Origin) -> list[dict[str, Any]]:
    """Quartiles of the projections of each label at a layer."""
    frame = projections.frame(origin=origin)
    values = frame[frame["layer"] == layer].groupby("label")["projection"]
    rows: list[dict[str, Any]] = []
    for label in (label for label in LABELS if label in values.groups):
        own = values.get_group(label)
        low, median, high = own.quantile([0.25, 0.5, 0.75])
        rows.append({"label": label, "n": len(own), "low": low, "median": median, "high": high})
    return rows
