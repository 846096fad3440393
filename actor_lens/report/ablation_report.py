"""One self-contained HTML page of ablations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from actor_lens import figures
from actor_lens.experiments.ablations.results import Ablations
from actor_lens.report.pages import plot_in_page, render_page, write_page

if TYPE_CHECKING:
    from markupsafe import Markup


def write_ablations(
    ablations: Ablations, path: str | os.PathLike[str], *, command: str | None = None
) -> Path:
    """Write ablations as one HTML file that works offline.

    Args:
        ablations: Outcomes of every factor and seed, from ``ablate``.
        path: Path of the file; one that is there is replaced whole.
        command: Command line that made them, shown for repeating them.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    means = ablations.means()
    plots: dict[str, Markup] = {}
    curves: list[Markup] = []
    series = dict.fromkeys(means["series"]) if len(means) else {}
    for number, name in enumerate(series):
        figure = figures.ablation_scores(ablations, name)
        plots[name] = plot_in_page(f"series-{number}", figure)
    for score in ("moved", "tradeoff_score") if "small-alpha" in ablations.factors else ():
        figure = figures.ablation_series(ablations, "small-alpha", score=score)
        curves.append(plot_in_page(f"curves-{score}", figure))
    matrix = None
    if "transfer" in ablations.factors:
        matrix = plot_in_page("matrix", figures.transfer_matrix(ablations))
    page = render_page(
        "ablations.html.j2",
        ablations=ablations,
        about=ablations.about,
        plots=plots,
        curves=curves,
        matrix=matrix,
        tables={name: means[means["series"] == name].to_dict("records") for name in series},
        published=ablations.published().to_dict("records"),
        failed=[one for one in ablations.outcomes if one.status != "completed"],
        command=command,
    )
    return write_page(page, path)
