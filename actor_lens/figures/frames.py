"""What the figures ask of a result: a tidy table, and how its rows are thinned for drawing.

Figures read tables and attributes alone, so that anything with the right ones can be drawn, and
drawing loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from actor_lens.errors import UserError
from actor_lens.figures.theme import LABEL_STYLES, hover_text, short


@runtime_checkable
class Framed(Protocol):
    """A result that hands over its numbers as a table."""

    def frame(self) -> pd.DataFrame:
        """Return the table; each figure names the columns that it reads."""
        ...


def safety_meaning_in(frame: pd.DataFrame) -> str:
    """Return what the safety score of a table counts: "refused" unless it says "not harmful"."""
    return (
        str(frame["safety_means"].iloc[0]) if "safety_means" in frame and len(frame) else "refused"
    )


def labels_in(frame: pd.DataFrame) -> list[str]:
    """Return the labels that occur, in the order used by every figure."""
    present = set(frame["label"])
    return [label for label in LABEL_STYLES if label in present]


def finite_rows(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the rows whose numbers in `columns` are all finite."""
    keep: np.ndarray = np.isfinite(frame[columns].to_numpy(dtype=float)).all(axis=1)
    return frame[keep]


def one_layer(frame: pd.DataFrame, layer: int) -> pd.DataFrame:
    """Return the rows of one layer.

    Args:
        frame: A table with a column layer.
        layer: Block index from 0.

    Raises:
        UserError: If the layer is not in the table.
    """
    require_layer(frame["layer"], layer)
    return frame[frame["layer"] == layer]


def require_layer(layers: Iterable[int], layer: int | None) -> None:
    """Refuse a layer that the table does not hold.

    Args:
        layers: Block indices of the table, each as often as it occurs.
        layer: Layer that is asked for; None is in every table.

    Raises:
        UserError: If `layer` is given and is not among `layers`.
    """
    known = sorted({int(value) for value in layers})
    if layer is None or layer in known:
        return
    shown = f"{known[0]} to {known[-1]}" if known else "none"
    raise UserError(f"layer {layer} is not among the layers to show ({shown}): choose one of them")


def evenly(count: int, limit: int) -> np.ndarray:
    """Return at most `limit` positions spread evenly over `count`, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def thinned(rows: pd.DataFrame, by: str, limit: int) -> pd.DataFrame:
    """Return at most `limit` rows at even ranks of a column: the spread and the extremes remain.

    Args:
        rows: A table.
        by: Name of the column.
        limit: Number of rows to keep at most.
    """
    if len(rows) <= limit:
        return rows
    return rows.sort_values(by, kind="stable").iloc[evenly(len(rows), limit)]


def prompt_hovers(rows: pd.DataFrame) -> list[str]:
    """Return one safe hover text for each row: the prompt and, where known, its category.

    Args:
        rows: A table with a column prompt; category may be missing.
    """
    categories = rows["category"] if "category" in rows else [None] * len(rows)
    texts = []
    for prompt, category in zip(rows["prompt"], categories, strict=True):
        kind = "" if pd.isna(category) else f"<br><i>{short(category, 60)}</i>"
        texts.append(hover_text(prompt) + kind)
    return texts


def scattered(count: int, width: float) -> np.ndarray:
    """Return `count` fixed offsets within +-width/2 that keep neighbours apart.

    The golden ratio sequence spreads evenly and is the same at every call, unlike random jitter.

    Args:
        count: Number of marks.
        width: Room for them, in units of the axis.
    """
    return ((np.arange(count) * 0.6180339887) % 1.0 - 0.5) * width
