"""Self-contained HTML pages: what the reports share.

One file holds everything, plotly.js included once; it asks nothing of the network and says so to
the browser in a content security policy. The prose is in ``templates/``. All text from prompts,
replies and names is escaped by the template engine.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from actor_lens import figures
from actor_lens.figures.theme import FONT, LABEL_STYLES
from actor_lens.files.saving import replacing

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Control characters have no place in HTML; tabs and line ends do.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def write_page(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a page; one that is there is replaced whole.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return Path(path)


def render_page(template: str, **content: Any) -> str:
    """The text of a page, plotly.js included.

    Args:
        template: Name of a file in ``templates/``.
        content: What it speaks of; text is escaped.
    """
    from plotly.offline import get_plotlyjs

    return _environment().get_template(template).render(plotly_js=Markup(get_plotlyjs()), **content)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    environment.filters.update(
        share=_share, number=_number, p_value=_p_value, clip=clip, plural=_plural, spell=_spell
    )
    environment.globals.update(
        styles=LABEL_STYLES,
        font=Markup(FONT),
    )
    return environment


def _seen(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSEEN.sub("", value)
    return value


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


def _share(value: float) -> str:
    """A share as a percentage with one decimal; none at the ends, where it would say nothing."""
    if math.isnan(value):
        return "not measured"
    return f"{value:.0%}" if value in (0.0, 1.0) else f"{value:.1%}"


def _number(value: float, digits: int = 2) -> str:
    if math.isnan(value):
        return "\u2013"
    # A minus sign as long as a plus sign, so that columns of numbers are read right.
    return f"{value:.{digits}f}".replace("inf", "∞").replace("-", "\u2212")


def _p_value(value: float) -> str:
    if math.isnan(value):  # nothing to test
        return "\u2013"
    return "< 0.0001" if value < 0.0001 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def clip(text: str, length: int) -> str:
    """The beginning of a long text, with its whole length."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters in all)"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _spell(names: Sequence[object]) -> str:
    """Names in a sentence: "2", "2 and 3", "2, 3 and 4"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
