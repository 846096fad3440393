"""One self-contained HTML page of a comparison of methods."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from actor_lens import figures
from actor_lens.experiments.comparison.leaderboard import Leaderboard
from actor_lens.report.findings import findings, provenance
from actor_lens.report.pages import plot_in_page, render_page, write_page

_PROMPT_LENGTH, _REPLY_LENGTH = 300, 240
_SPLIT_NAMES = {"test": "Test prompts", "ood": "Out-of-distribution prompts"}
_SCORES = ("compliance_rate", "safety_score", "tradeoff_score", "benign_refused")
_SCORE_NAMES = {
    "tradeoff_score": "T.S.",
    "compliance_rate": "C.R.",
    "safety_score": "S.S.",
    "benign_refused": "benign refused",
}


def write_comparison(
    board: Leaderboard, path: str | os.PathLike[str], *, command: str | None = None
) -> Path:
    """Write a comparison of methods as one HTML file that works offline.

    Args:
        board: Outcomes of every method, from ``compare``.
        path: Path of the file; one that is there is replaced whole.
        command: Command line that made it, shown for repeating it.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    return write_page(render_comparison(board, command=command), path)


def render_comparison(board: Leaderboard, *, command: str | None = None) -> str:
    """The text of the page that ``write_comparison`` writes."""
    table, pairs, kinds = board.frame(), board.pairs(), board.by_kind()
    table = table.sort_values("tradeoff_score", ascending=False, kind="stable")
    splits = [split for split in _SPLIT_NAMES if split in set(table["split"])]
    twins = bool(table["n_twins"].any())
    plots = {}
    if (table["status"] == "completed").any():
        plots["tradeoff"] = plot_in_page("tradeoff", figures.tradeoff_scores(board))
        plots["pareto"] = plot_in_page("pareto", figures.compliance_against_safety(board))
    return render_page(
        "comparison.html.j2",
        board=board,
        about=board.about,
        findings=findings(board),
        provenance=provenance(board),
        tables={split: _rows(table, "split", split) for split in splits},
        published=board.published().to_dict("records"),
        costs=_rows(table, "split", "test"),
        pairs={split: _rows(pairs, "split", split) for split in splits},
        kinds={split: _kinds(kinds[kinds["split"] == split]) for split in splits},
        settings=_by(board.settings(), "method"),
        examples=_by(board.examples(), "prompt"),
        split_names=_SPLIT_NAMES,
        score_names={**_SCORE_NAMES, "safety_score": f"S.S. ({board.safety_means})"},
        shown_scores=[*_SCORES, *(["twins"] if twins else []), "degenerate"],
        twins=twins,
        plots=plots,
        command=command,
        prompt_length=_PROMPT_LENGTH,
        reply_length=_REPLY_LENGTH,
    )


def _rows(table: pd.DataFrame, column: str, value: str) -> list[dict[Any, Any]]:
    return table[table[column] == value].to_dict("records")


def _by(table: pd.DataFrame, column: str) -> dict[str, list[dict[Any, Any]]]:
    """The rows of a table by the values of a column, in order."""
    return {value: _rows(table, column, value) for value in dict.fromkeys(table[column])}


def _kinds(table: pd.DataFrame) -> dict[str, Any]:
    """Share of pseudo-harmful prompts answered, by kind (columns) and method (rows)."""
    counts = dict(zip(table["kind"], table["n"], strict=True))
    if len(counts) < 2:
        return {}
    rows: dict[str, dict[str, float]] = {}
    for row in table.to_dict("records"):
        rows.setdefault(row["method"], {})[row["kind"]] = row["answered"]
    return {"counts": counts, "rows": rows}
