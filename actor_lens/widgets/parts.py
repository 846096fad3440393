"""Small pieces that widgets are made of: escaped text, tables, buttons, controls of settings."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go

from actor_lens.figures import Composition
from actor_lens.figures.theme import LABEL_STYLES
from actor_lens.text import clean, clip, escape, one_line
from actor_lens.training.config import FinetuneConfig

# More often than this a browser that also redraws a figure falls behind.
PAINTS_PER_SECOND = 5.0
CELL_LENGTH, SHORT_CELL = 400, 14
_TABLE_STYLE = "border-collapse:collapse;width:100%;font-size:12px;line-height:1.35;color:inherit"
_SIGNS = {"x": "✕", "diamond": "◆", "circle": "●"}
_SETTINGS = {setting.name: setting for setting in fields(FinetuneConfig)}
_CELL_STYLE = "padding:4px 8px;border-bottom:1px solid rgba(128,140,150,.3);vertical-align:top"
_ALIGNED = {False: ";text-align:left", True: ";text-align:right;font-variant-numeric:tabular-nums"}


def safe(text: object, length: int | None = None) -> str:
    """Text from outside as HTML that shows it and does nothing else.

    Args:
        text: Any value.
        length: Greatest number of characters; an ellipsis says that there were more.
    """
    return escape(text if length is None else clip(clean(text), length))


def short_line(text: str, length: int) -> str:
    """The beginning of a text in one line, for places that take no HTML.

    Args:
        text: Text from outside.
        length: Greatest number of characters; an ellipsis says that there were more.
    """
    # A very long prompt is cut before it is cleaned, so that the cost stays bounded.
    return clip(one_line(text[: 4 * length], 4 * length), length)


def paragraph(text: str, *, warn: bool = False) -> str:
    """A paragraph of HTML.

    Args:
        text: HTML that is safe already.
        warn: Whether it stands on yellow ground, as warnings do.
    """
    ground = "background:#fff4e0;color:#1f2933"  # both, as the page may be dark
    look = f"{ground};border-left:4px solid #D55E00;padding:4px 8px;" if warn else ""
    return f'<p style="margin:2px 0;line-height:1.4;{look}">{text}</p>'


def block(text: object, *, length: int = 4000) -> str:
    """Text from outside with its line breaks, in a box that scrolls.

    Args:
        text: Any value.
        length: Greatest number of characters; an ellipsis says that there were more.
    """
    return (
        '<pre style="white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0;padding:6px 8px;'
        'background:rgba(128,140,150,.14);color:inherit;border-radius:4px;max-height:180px;overflow:auto">'
        f"<bdi>{safe(text, length)}</bdi></pre>"
    )


def label_sign(label: str) -> str:
    """The character that looks like the label's symbol in figures."""
    return _SIGNS[LABEL_STYLES[label].symbol]


def label_name(label: str) -> str:
    """A label as HTML in its colour, with its sign: colour is never the only difference.

    The colour is drawn toward that of the words around, lighter on dark pages.
    """
    style, sign = LABEL_STYLES[label], label_sign(label)
    color = f"color:{style.color};color:color-mix(in srgb, {style.color} 70%, currentColor)"
    return f'<span style="white-space:nowrap;{color}">{sign} {style.name}</span>'


def table(
    rows: Sequence[Mapping[Any, Any]], columns: Mapping[str, str], *, caption: str = ""
) -> str:
    """An HTML table; everything in it is escaped here.

    Args:
        rows: Cells by column; numbers get three digits, ``None`` and NaN stay empty. A ``label``
            is drawn in its colour.
        columns: Keys of the columns to show, with their titles; those of numbers end on one line.
        caption: Plain text above the table, also its name for screen readers.
    """
    aligned = {name: _ALIGNED[_are_numbers([row.get(name) for row in rows])] for name in columns}
    head = "".join(
        f'<th scope="col" style="{_CELL_STYLE}{aligned[name]}">{safe(title)}</th>'
        for name, title in columns.items()
    )
    body = "".join(
        "<tr>" + "".join(_cell(name, row.get(name), aligned[name]) for name in columns) + "</tr>"
        for row in rows
    )
    title = f'<caption style="text-align:left;padding:2px 0">{safe(caption)}</caption>'
    return (
        '<div style="max-height:420px;overflow:auto" tabindex="0" role="region" '
        f'aria-label="{safe(caption or "table")}"><table style="{_TABLE_STYLE}">'
        f"{title if caption else ''}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        "</div>"
    )


def _are_numbers(cells: Sequence[Any]) -> bool:
    """Whether what is known in a column is numbers."""
    known = [cell for cell in cells if cell is not None]
    return bool(known) and all(isinstance(cell, int | float) for cell in known)


def _cell(name: str, value: Any, aligned: str) -> str:
    if name == "label" and value in LABEL_STYLES:
        return f'<td style="{_CELL_STYLE}{aligned}">{label_name(value)}</td>'
    if value is None or value != value:
        text = ""
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.3g}"
    else:
        text = f"<bdi>{safe(value, CELL_LENGTH)}</bdi>"
    short = not isinstance(value, str) or len(value) <= SHORT_CELL
    wrapping = "white-space:nowrap" if short else "overflow-wrap:anywhere;min-width:9em"
    return f'<td style="{_CELL_STYLE}{aligned};{wrapping}">{text}</td>'


def page_inside(page: str) -> str:
    """A whole HTML page inside another, apart from it: its own policy holds, and no more.

    Args:
        page: Text of the page, with its scripts.
    """
    words = (
        "Widgets do not run here: this is a page of what is known so far, linked without Python. "
        "What is done from now on is not on it."
    )
    # ASCII: half the size where memory is counted, and right in pages of any encoding.
    held = html.escape(page).encode("ascii", "xmlcharrefreplace").decode()
    return (
        f'{paragraph(words)}<iframe srcdoc="{held}" title="Actor Lens" '
        'sandbox="allow-scripts allow-downloads" style="width:100%;height:900px;border:0"></iframe>'
    )


def button(text: str, act: Callable[[], None], *, tip: str, style: str = "") -> ipw.Button:
    """A button as wide as its text.

    Args:
        text: Text on the button.
        act: Called when it is pressed.
        tip: What it does, shown when the mouse rests on it.
        style: ``"info"``, ``"success"`` and so on; grey without.
    """
    pressed = ipw.Button(description=text, tooltip=tip, button_style=style)
    pressed.layout.width = "auto"
    pressed.on_click(lambda _button: act())
    return pressed


def setting_widget(
    name: str,
    config: FinetuneConfig,
    kind: Callable[..., ipw.Widget] = ipw.Dropdown,
    *,
    choices: Mapping[Any, str] | None = None,
    **options: Any,
) -> ipw.Widget:
    """A control of one setting of a fine-tune, with the help of the command line as its tooltip.

    Args:
        name: Field of ``FinetuneConfig``.
        config: Settings that hold the value to begin with.
        kind: Widget to make; a menu for settings with choices.
        choices: Values of the menu, each with its name.
        options: Options of the widget, such as its description and limits.
    """
    if choices is not None:
        allowed = _SETTINGS[name].metadata["choices"]
        options["options"] = [(choices[value], value) for value in allowed if value in choices]
    return kind(value=getattr(config, name), tooltip=_SETTINGS[name].metadata["help"], **options)


def row(*parts: ipw.Widget) -> ipw.HBox:
    """Widgets beside each other, in several lines where the page is narrow."""
    return ipw.HBox(list(parts), layout=ipw.Layout(flex_flow="row wrap", align_items="center"))


def layer_slides(
    layers: Iterable[int], active: int, draw: Callable[[int], Composition]
) -> go.Figure:
    """A plain figure with a slider over layers.

    Args:
        layers: All layers.
        active: Layer to begin with.
        draw: Draws the same panels at a layer.
    """
    frames, steps = [], []
    for layer in layers:
        page = draw(layer)
        layout = {key: page.layout[key] for key in ("shapes", "annotations")}
        frames.append(go.Frame(data=list(page.traces), layout=layout, name=str(layer)))
        action = [[str(layer)], {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}]
        steps.append({"label": str(layer), "method": "animate", "args": action})
    figure = draw(active).figure()
    figure.frames = frames
    slider = {
        "active": active,
        "steps": steps,
        "currentvalue": {"prefix": "layer "},
        "pad": {"t": 40},
    }
    figure.update_layout(sliders=[slider], margin={"b": 150}, height=figure.layout.height + 90)
    return figure


def checkbox(text: str, *, value: bool = False) -> ipw.Checkbox:
    """A box to tick, as wide as its text."""
    return ipw.Checkbox(
        value=value, description=text, indent=False, layout=ipw.Layout(width="max-content")
    )


class Throttle:
    """Lets something happen only so often.

    Each question that is answered with yes counts as the moment when it happened.
    """

    def __init__(self, per_second: float = PAINTS_PER_SECOND) -> None:
        """The first time is due at once.

        Args:
            per_second: Greatest number of times in a second.
        """
        self._least = 1.0 / per_second
        self._last = float("-inf")

    def due(self) -> bool:
        """Whether it may happen now; if so, it counts as done."""
        now = time.monotonic()
        if now - self._last < self._least:
            return False
        self._last = now
        return True
