"""Self-contained HTML pages: what the reports share.

One file holds everything, plotly.js included once; it asks nothing of the network and says so to
the browser in a content security policy. The prose is in ``templates/``. All text from prompts,
replies and names is escaped by the template engine.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from actor_lens import figures
from actor_lens.figures.theme import FONT, LABEL_STYLES
from actor_lens.files.paths import user_path
from actor_lens.files.saving import replacing
from actor_lens.judges.replies import HARMFUL_REPLY_LENGTH
from actor_lens.text import NOT_MEASURED, clean, clip, percent, plural, spell

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PROMPT_LENGTH, REPLY_LENGTH = 300, 400


def write_page(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a page; one that is there is replaced whole.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    path = user_path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return path


def render_page(template: str, **content: Any) -> str:
    """The text of a page, plotly.js included.

    Args:
        template: Name of a file in ``templates/``.
        content: What it speaks of; text is escaped.
    """
    from plotly.offline import get_plotlyjs

    return environment().get_template(template).render(plotly_js=Markup(get_plotlyjs()), **content)


def environment() -> jinja2.Environment:
    """The template engine: everything is cleaned and escaped, numbers are written by filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_unseen,
    )
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    environment.filters.update(
        share=_share,
        number=number,
        p_value=_p_value,
        clip=clip_with_length,
        plural=plural,
        spell=spell,
    )
    environment.globals.update(
        styles=LABEL_STYLES,
        font=Markup(FONT),
        prompt_length=PROMPT_LENGTH,
    )
    return environment


def _without_unseen(value: Any) -> Any:
    """What every expression of a template goes through before it is escaped."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def plot_in_page(name: str, figure: go.Figure) -> Markup:
    """A figure without plotly.js; plotly itself escapes what its data holds of HTML."""
    return Markup(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config=figures.config(),
            div_id=f"plot-{name}",
        )
    )


def reply_rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Rows of a table of prompts with replies before and after, which are shortened.

    Args:
        table: Columns of ``EvaluationChange.examples``; harmful prompts have no harmful replies.
    """
    rows = table.to_dict("records")
    for row in rows:
        length = HARMFUL_REPLY_LENGTH if row["label"] == "harmful" else REPLY_LENGTH
        for name in ("reply_before", "reply_after"):
            row[name] = clip_with_length(str(row[name]), length)
    return rows


def clip_with_length(text: str, length: int) -> str:
    """The beginning of a long text, with its whole length."""
    if len(text) <= length:
        return text
    return f"{clip(text, length + 1)} ({len(text):,} characters in all)"


def _share(value: float) -> str:
    """A share with one decimal; none at the ends, where it would say nothing."""
    if math.isnan(value):
        return "not measured"
    return percent(value, 0 if value in (0.0, 1.0) else 1)


def number(value: float, digits: int = 2) -> str:
    """A number with so many digits behind the point, or a dash for NaN."""
    if math.isnan(value):
        return NOT_MEASURED
    # A minus sign as long as a plus sign, so that columns of numbers are read right.
    return f"{value:.{digits}f}".replace("inf", "∞").replace("-", "\u2212")


def _p_value(value: float) -> str:
    if math.isnan(value):  # nothing to test
        return NOT_MEASURED
    return "< 0.0001" if value < 0.0001 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
