"""The figures of the paper, to be shown beside measured ones and never mixed with them.

Two things differ even on the same model: the paper's C.R. is the mean over five sets of prompts,
ours the share of all prompts; and its S.S. counts replies that GPT-4o found not harmful, ours those
that the judge calls refusals, or not harmful, as its name says.

Source: Dabas et al. 2025 (arXiv 2507.04250); the tables are in ``published.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

import pandas as pd

from actor_lens.evaluation.utility import CLAIMS

SCORES = ("compliance_rate", "safety_score", "tradeoff_score")
SETS = ("xstest", "scope", "or-bench-hard", "phtest", "oktest")
_MODEL = "Llama-2-7b-chat"  # that of its ablations


def published_methods() -> pd.DataFrame:
    """One row a model and method.

    Columns: ``model``, ``method``, the compliance on each of ``SETS``, ``compliance_rate`` (their
    mean), ``safety_score``, ``tradeoff_score``; shares.
    """
    rows = [
        (model, method, *_shares(values))
        for model, methods in _tables()["methods"].items()
        for method, values in methods.items()
    ]
    return pd.DataFrame(rows, columns=["model", "method", *SETS, *SCORES])


def published_ablations() -> pd.DataFrame:
    """One row a value of what was varied on Llama-2-7b-chat.

    Columns: ``model``, ``series``, ``value``, and the scores as shares, NaN where none is given.
    """
    rows = [
        (_MODEL, series, value, *_shares(values))
        for series, by_value in _tables()["ablations"].items()
        for value, values in by_value.items()
    ]
    return pd.DataFrame(rows, columns=["model", "series", "value", *SCORES])


def published_utility() -> pd.DataFrame:
    """One row a benchmark of general ability, on Llama-2-7b-chat before and after ACTOR.

    Columns: ``model``, ``benchmark``, ``before`` and ``after`` (MT-Bench: mean rating of 10; MMLU:
    share; WikiText-2: perplexity), ``claim`` (by at most how many percent the paper says that it
    changes; NaN where it says nothing).
    """
    rows = [
        (_MODEL, name, *figures, CLAIMS.get(name, float("nan")))
        for name, figures in _tables()["utility"].items()
    ]
    return pd.DataFrame(rows, columns=["model", "benchmark", "before", "after", "claim"])


def beside(
    measured: pd.DataFrame,
    published: pd.DataFrame,
    model: str,
    on: Sequence[str],
    how: Literal["inner", "left"] = "inner",
) -> pd.DataFrame:
    """Published figures and measured ones of the same rows, apart.

    Published rows of the model itself are taken where there are any, else those of Llama-2-7b-chat.

    Args:
        measured: A table with the columns ``on`` and the scores, one row a value.
        published: A table of this module.
        model: Name of the model that was measured.
        on: Columns that say which rows belong together.
        how: ``"inner"`` for the rows that both have, ``"left"`` for all published ones.

    Returns:
        Columns ``on``, ``model`` and the scores as measured, NaN where they were not;
        ``published_model`` and ``published_`` with each score.
    """
    own = [one for one in dict.fromkeys(published["model"]) if one.lower() in model.lower()]
    rows = published[published["model"] == (own or [_MODEL])[0]]
    rows = rows[[*on, "model", *SCORES]].rename(
        columns={name: f"published_{name}" for name in ("model", *SCORES)}
    )
    kept = measured.reindex(columns=[*on, *SCORES]).astype(dict.fromkeys(on, object))
    table = rows.merge(kept, on=list(on), how=how).assign(model=model)
    names = ("model", *SCORES)
    columns = [*on, *names, *(f"published_{name}" for name in names)]
    ordered: pd.DataFrame = table.reindex(columns=columns)
    return ordered


@cache
def _tables() -> dict[str, Any]:
    import yaml

    text = resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables


def _shares(percents: Sequence[float | None]) -> list[float]:
    return [float("nan") if one is None else one / 100 for one in percents]
