"""What every result has in common: a tidy table, a plain summary, and a few lines in a notebook.

A result never shows harmful prompts on its own: its table in a notebook leaves their rows out.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from actor_lens.text import clip, escape, one_line, percent

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_PACKAGES = ("torch", "transformers", "transformer_lens", "scikit-learn", "numpy", "pandas")
# What fits a notebook cell.
_ROWS, _COLUMNS, _LENGTH = 5, 9, 60
_TEXTS = ("prompt", "reply", "before", "after", "text")


class Result:
    """Base of every public result.

    A subclass gives ``_headline`` and, where it has parts, ``frame``. Where a figure is the natural
    view of it, ``_figure`` names the function of ``al.figures`` that draws it; ``_hint`` says what
    to do next, and ``_values`` names the attributes of the summary (by default all plain ones).
    """

    _figure: ClassVar[str] = ""
    _hint: ClassVar[str] = ""
    _values: ClassVar[tuple[str, ...]] = ()

    def frame(self) -> pd.DataFrame:
        """The result as a tidy table; of one without parts, one row with the summary."""
        import pandas as pd

        return pd.DataFrame([self.summary()])

    def summary(self) -> dict[str, Any]:
        """Plain values of the result, as a summary file holds them: no tables, texts or tensors."""
        if self._values:
            return {name: plain(getattr(self, name)) for name in self._values}
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names if not name.startswith("_")}
        scalars = (str, int, float, bool, type(None))
        return {
            name: plain(one)
            for name, one in values.items()
            if isinstance(one, scalars) or getattr(one, "shape", None) == ()  # NumPy's or torch's
        }

    def plot(self, **options: Any) -> go.Figure:
        """The figure that shows this result best.

        Args:
            options: Further arguments of that function of ``al.figures``.

        Raises:
            NotImplementedError: If there is none.
        """
        if not self._figure:
            raise NotImplementedError(f"{type(self).__name__} has no figure of its own")
        # By name: a result knows no figures, and drawing loads plotly only when asked for.
        figures = importlib.import_module("actor_lens.figures")
        draw: Callable[..., go.Figure] = getattr(figures, self._figure)
        rows = self._figure_rows()
        return draw(**{**rows, **options}) if rows else draw(self, **options)

    def _figure_rows(self) -> Mapping[str, Result]:
        """What the figure draws, by the names of its rows, where it takes several results."""
        return {}

    def _headline(self) -> str:
        """What this is, how much of it there is, and where it comes from, on one line."""
        raise NotImplementedError

    def _table(self) -> pd.DataFrame:
        """The rows that a notebook cell shows; never those of harmful prompts."""
        return harmless_head(self.frame())

    def _next(self) -> str:
        drawn = f"figure: al.figures.{self._figure}" if self._figure else ""
        return "; ".join(part for part in ("table: .frame()", drawn, self._hint) if part)

    def __repr__(self) -> str:
        """Two lines: the headline, and how to see more."""
        return f"{one_line(self._headline())}\n  {self._next()}"

    def _repr_html_(self) -> str:
        table = html_table(self._table())
        return f"<p><b>{escape(self._headline())}</b></p>{table}<p>{escape(self._next())}</p>"


def harmless_head(frame: pd.DataFrame, rows: int = _ROWS) -> pd.DataFrame:
    """The first rows of a table that do not belong to harmful prompts.

    Where the table does not say whose prompt a text is, texts are left out.

    Args:
        frame: Any table; ``label`` names the kind of each row's prompt.
        rows: Number of rows to keep at most.
    """
    if "label" in frame:
        frame = frame[frame["label"] != "harmful"]
    else:
        frame = frame.drop(columns=[name for name in _TEXTS if name in frame])
    return frame.head(rows)


def html_table(frame: pd.DataFrame) -> str:
    """A small table for a notebook cell; all text in it is cleaned, clipped and escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in list(frame)[:_COLUMNS])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(one))}</td>" for one in row[:_COLUMNS]) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else clip(value, _LENGTH)


def rate_text(share: float, low: float, high: float) -> str:
    """A share with its interval: "12.3 % (8-18)"."""
    if math.isnan(share):
        return percent(share)
    return f"{percent(share)} ({100 * low:.0f}-{100 * high:.0f})"


def plain(value: Any) -> Any:
    """A value as JSON can hold it.

    Numbers of NumPy and torch become Python's own, NaN becomes None ("not measured") and infinity
    the word, a dataclass or mapping a dict, a path its text, and anything else its ``repr``.
    """
    if isinstance(value, (str, bool, int, type(None))):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return repr(value)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values."""
    return [plain(row) for row in frame.to_dict("records")]


def versions() -> dict[str, str]:
    """Versions of everything that can change a figure."""
    from importlib.metadata import version  # a fifth of the time in which the commands start

    from actor_lens import __version__  # a checkout that is not installed has no metadata

    packages = {package: version(package) for package in _PACKAGES}
    return {"actor_lens": __version__, "python": platform.python_version(), **packages}
