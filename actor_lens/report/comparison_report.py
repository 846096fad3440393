"""One self-contained HTML page of a comparison of methods, and one of ablations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens import figures
from actor_lens.experiments.ablations.ablate import Ablations
from actor_lens.experiments.comparison.leaderboard import Leaderboard
from actor_lens.report.findings import findings, provenance
from actor_lens.report.pages import plot_in_page, render_page, write_page

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

# Pseudo-harmful prompts whose replies are shown, and how many of a page's longest words.
_EXAMPLES = 4
_PROMPT_LENGTH, _REPLY_LENGTH = 300, 240
_SPLIT_NAMES = {"test": "Test prompts", "ood": "Out-of-distribution prompts"}
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
        board: From ``compare``.
        path: Of the file; one that is there is replaced whole.
        command: The command line that made it, shown for repeating it.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    return write_page(render_comparison(board, command=command), path)


def render_comparison(board: Leaderboard, *, command: str | None = None) -> str:
    """The text of the page that ``write_comparison`` writes."""
    table, pairs = board.frame(), board.pairs()
    splits = [split for split in _SPLIT_NAMES if split in set(table["split"])]
    done = bool((table["status"] == "completed").any())
    plots = {}
    if done:
        plots["tradeoff"] = plot_in_page("tradeoff", figures.tradeoff_scores(board))
        plots["pareto"] = plot_in_page("pareto", figures.compliance_against_safety(board))
    return render_page(
        "comparison.html.j2",
        board=board,
        about=board.about,
        said=findings(board),
        provenance=provenance(board),
        tables={split: _table(table, split) for split in splits},
        costs=_table(table, "test"),
        pairs={split: _records(pairs[pairs["split"] == split]) for split in splits},
        kinds={split: _kinds(board, split) for split in splits},
        settings=_settings(board),
        examples=_examples(board),
        split_names=_SPLIT_NAMES,
        score_names=_SCORE_NAMES,
        plots=plots,
        command=command,
        prompt_length=_PROMPT_LENGTH,
        reply_length=_REPLY_LENGTH,
    )


def write_ablations(
    ablations: Ablations, path: str | os.PathLike[str], *, command: str | None = None
) -> Path:
    """Write ablations as one HTML file that works offline.

    Args:
        ablations: From ``ablate``.
        path: Of the file; one that is there is replaced whole.
        command: The command line that made them, shown for repeating them.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    means = ablations.means()
    plots: dict[str, Markup] = {}
    series = dict.fromkeys(means["series"]) if len(means) else {}
    for number, name in enumerate(series):
        figure = figures.ablation_scores(ablations, name)
        plots[name] = plot_in_page(f"series-{number}", figure)
    matrix = None
    if "transfer" in ablations.studies:
        matrix = plot_in_page("matrix", figures.transfer_matrix(ablations))
    failed = [one for one in ablations.outcomes if one.status != "completed"]
    page = render_page(
        "ablations.html.j2",
        ablations=ablations,
        about=ablations.about,
        plots=plots,
        matrix=matrix,
        tables={name: _records(means[means["series"] == name]) for name in series},
        failed=failed,
        split_names=_SPLIT_NAMES,
        command=command,
    )
    return write_page(page, path)


def _table(table: pd.DataFrame, split: str) -> list[dict[str, Any]]:
    rows = table[table["split"] == split]
    return _records(rows.sort_values("tradeoff_score", ascending=False, kind="stable"))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _kinds(board: Leaderboard, split: str) -> dict[str, Any]:
    """Share of pseudo-harmful prompts answered, by kind (columns) and method (rows)."""
    sets = board.by_set()
    chosen = sets[(sets["split"] == split) & (sets["label"] == "pseudo_harmful")]
    chosen = chosen[chosen["set"].notna() & chosen["refused"].notna()]
    names = list(dict.fromkeys(chosen["set"]))
    if len(names) < 2:
        return {}
    counts = {row["set"]: row["n"] for row in _records(chosen)}
    rows: dict[str, dict[str, float]] = {}
    for row in _records(chosen):
        rows.setdefault(str(row["method"]), {})[row["set"]] = 1 - row["refused"]
    return {"names": names, "counts": counts, "rows": rows}


def _settings(board: Leaderboard) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in _records(board.settings()):
        found.setdefault(str(row["method"]), []).append(row)
    return found


def _examples(board: Leaderboard) -> list[dict[str, Any]]:
    """The first pseudo-harmful test prompt of each of some kinds, and what each method said.

    Taken by their order and not by the outcome, so that they flatter no method.
    """
    replies = board.replies()
    chosen = replies[(replies["label"] == "pseudo_harmful") & (replies["split"] == "test")]
    chosen = chosen.groupby(["method", "prompt"], sort=False).head(1)  # the first seed
    prompts = chosen.drop_duplicates("prompt")
    first = prompts[~prompts["category"].duplicated() | prompts["category"].isna()].head(_EXAMPLES)
    return [
        {
            "prompt": prompt,
            "category": category,
            "replies": _records(chosen[chosen["prompt"] == prompt]),
        }
        for prompt, category in zip(first["prompt"], first["category"], strict=True)
    ]
