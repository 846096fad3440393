"""A figure widget whose panels are updated in place, from any thread.

There is one on a page, whatever the number of plots: each figure widget brings plotly.js with it,
and with two of them one may stay blank after the page is reloaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw
import numpy as np
import plotly.graph_objects as go

from actor_lens.figures import Composition, config
from actor_lens.widgets.figure_events import FigureEvents

_SECONDS_TO_CHECKPOINT, _LONGEST_WAIT = 1.5, 6.0
_UPLOAD = "sendChartToCloud"
OnClick = Callable[[Any, int], None]
"""Hears of the trace that was clicked and of the position of the point in it."""
OnSelect = Callable[[list[tuple[Any, list[int]]]], None]
"""Hears, for each trace, of the positions of its points in a lasso or box; of none at its end."""


class LinkedFigure:
    """Shows compositions one after the other; only what differs is sent to the browser.

    Attributes:
        widget: The figure widget.
        parts: Widgets that belong on the page: the figure widget and the one that reports events.
        lock: Held while the figure widget is written to.
        shown: What it shows.
        on_checkpoint: Called when the stored state is up to date.
    """

    def __init__(
        self,
        composition: Composition,
        *,
        on_click: OnClick | None = None,
        on_select: OnSelect | None = None,
    ) -> None:
        """Make the widget, complete: what is added later would be lost when a page is reloaded.

        Args:
            composition: Panels to begin with.
            on_click: Called with each click on a point.
            on_select: Called with each lasso or box, and without points when one is given up.
        """
        # Callbacks may come on any thread, and two writers at once tear a figure widget.
        self.lock = threading.RLock()
        self._on_click, self._on_select = on_click, on_select
        self._timer: threading.Timer | None = None
        self._waiting_since = 0.0
        self.shown = composition
        self.widget = go.FigureWidget(composition.figure())
        # A lasso selects here, so its button stays; the one that uploads does not.
        self.widget._config = {**config(), "modeBarButtonsToRemove": [_UPLOAD]}
        self.widget.layout.modebar = {"remove": [_UPLOAD]}
        self._events = FigureEvents(self._pass_on)
        self.on_checkpoint: Callable[[], None] = lambda: None
        self.parts: tuple[ipw.Widget, ...] = (self.widget, self._events)

    @property
    def behind(self) -> bool:
        """Whether the page still draws what it was shown before; live painting waits for it."""
        return self._events.behind

    def show(self, composition: Composition) -> None:
        """Show something else, with as little work for the browser as it takes.

        Args:
            composition: The panels in place of those that are shown. Where the traces are the
                same, only values that differ are sent; else traces come and go.
        """
        with self.lock:
            keys = [trace["meta"]["key"] for trace in composition.traces]
            shown = [trace["meta"]["key"] for trace in self.shown.traces]
            if keys == shown:
                self._update(composition)
            else:
                self._exchange(composition, keys)
            self.shown = composition
            self._events.ask_drawn()
        self._checkpoint_soon()

    def checkpoint(self) -> None:
        """Bring the stored state up to date: it is what a reloaded page draws."""
        with self.lock:
            self.widget._repr_mimebundle_()
            self.on_checkpoint()

    def _checkpoint_soon(self) -> None:
        """Make a checkpoint after the last of several changes in a row: each sends everything."""
        with self.lock:
            now = time.monotonic()
            if self._timer is not None and self._timer.is_alive():
                if now - self._waiting_since > _LONGEST_WAIT:
                    return
                self._timer.cancel()
            else:
                self._waiting_since = now
            self._timer = threading.Timer(_SECONDS_TO_CHECKPOINT, self.checkpoint)
            self._timer.daemon = True
            self._timer.start()

    def _update(self, composition: Composition) -> None:
        """Send what differs in the layout and in the traces that the figure widget has."""
        with self.widget.batch_update():
            for trace, before, now in zip(
                self.widget.data, self.shown.traces, composition.traces, strict=False
            ):
                if changes := _changes(before, now):
                    trace.update(changes, overwrite=True)
            self._update_layout(composition)

    def _exchange(self, composition: Composition, keys: list[str]) -> None:
        """Show other panels than before: traces at the front that stay the same keep their place.

        Args:
            composition: The panels.
            keys: Keys of their traces.
        """
        shown = [trace["meta"]["key"] for trace in self.shown.traces]
        staying = 0
        while staying < min(len(keys), len(shown)) and keys[staying] == shown[staying]:
            staying += 1
        self.widget.data = self.widget.data[:staying]
        self._update(composition)
        fresh = [dict(trace) for trace in composition.traces[staying:]]
        if fresh:
            self.widget.add_traces(fresh)
        self.checkpoint()

    def _update_layout(self, composition: Composition) -> None:
        changes = _changes(self.shown.layout, composition.layout)
        for name in self.shown.layout:
            if name not in composition.layout:  # an axis of a panel that has gone
                changes[name] = {"visible": False}
        changes.pop("template", None)
        if changes:
            self.widget.layout.update(changes, overwrite=True)

    def _pass_on(self, event: str, places: Mapping[str, list[Any]]) -> None:
        """Pass an event on, without the traces that have gone since.

        Args:
            event: ``"click"``, ``"select"`` or ``"deselect"``.
            places: Positions of points by the key of their trace.
        """
        traces = {trace.meta["key"]: trace for trace in self.widget.data}
        points = [
            (traces[key], list(map(_row, here))) for key, here in places.items() if key in traces
        ]
        if event == "click" and points and self._on_click is not None:
            trace, rows = points[0]
            self._on_click(trace, rows[0])
        elif event == "deselect" and self._on_select is not None:
            self._on_select([])
        elif event == "select" and self._on_select is not None:
            prompts = [pair for pair in points if pair[0].meta.get("kind") == "points"]
            if prompts:
                self._on_select(prompts)


def _row(place: Any) -> int:
    """The position of a point; a heatmap gives row and column, of which the row counts."""
    return int(place[0] if isinstance(place, (list, tuple)) else place)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level entries that differ; those that are gone are None."""
    changes = {key: value for key, value in now.items() if not _same(before.get(key), value)}
    return changes | {key: None for key in before if key not in now and before[key] is not None}


def _same(one: Any, other: Any) -> bool:
    """Whether two values of a figure are alike; arrays also by kind, NaN equal to NaN."""
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        first, second = np.asarray(one), np.asarray(other)
        if first.shape != second.shape or first.dtype.kind != second.dtype.kind:
            return False
        return bool(np.array_equal(first, second, equal_nan=first.dtype.kind == "f"))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
