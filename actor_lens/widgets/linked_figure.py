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
"""Told the trace that was clicked and the position of the point in it."""
OnSelect = Callable[[list[tuple[Any, list[int]]]], None]
"""Told, for each trace, the positions of its points that a lasso or box holds: none at the end."""


class LinkedFigure:
    """Shows compositions one after the other; only what differs is sent to the browser.

    Attributes:
        widget: The figure widget.
        parts: What belongs on the page: the figure widget and what tells its events.
    """

    def __init__(
        self,
        composition: Composition,
        *,
        on_click: OnClick | None = None,
        on_select: OnSelect | None = None,
    ) -> None:
        """Make the widget, complete: what is added later would be lost when a page is reloaded."""
        # Callbacks may come on any thread, and two writers at once tear a figure widget.
        self.lock = threading.RLock()
        self._on_click, self._on_select = on_click, on_select
        self._timer: threading.Timer | None = None
        self._waiting_since = 0.0
        self._shown = composition
        self.widget = go.FigureWidget(composition.figure())
        # A lasso selects here, so its button stays; the one that uploads does not.
        self.widget._config = {**config(), "modeBarButtonsToRemove": [_UPLOAD]}
        self.widget.layout.modebar = {"remove": [_UPLOAD]}
        self.parts: tuple[ipw.Widget, ...] = (self.widget, FigureEvents(self._told))

    def show(self, composition: Composition) -> None:
        """Show something else, with as little work for the browser as it takes."""
        with self.lock:
            keys = [trace["meta"]["key"] for trace in composition.traces]
            shown = [trace["meta"]["key"] for trace in self._shown.traces]
            if keys == shown:
                self._update(composition)
            else:
                self._exchange(composition, keys)
            self._shown = composition
        self._checkpoint_soon()

    def checkpoint(self) -> None:
        """Bring the stored state up to date: it is what a reloaded page draws."""
        with self.lock:
            self.widget._repr_mimebundle_()

    def _checkpoint_soon(self) -> None:
        """A checkpoint sends everything, so many changes in a row share one, after the last."""
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
        with self.widget.batch_update():
            pairs = zip(self.widget.data, self._shown.traces, composition.traces, strict=True)
            for trace, before, now in pairs:
                changed = _changed(before, now)
                if changed:
                    trace.update(changed, overwrite=True)
            self._update_layout(composition)

    def _exchange(self, composition: Composition, keys: list[str]) -> None:
        """Other panels than before: traces that stay keep their place, the rest come anew."""
        shown = [trace["meta"]["key"] for trace in self._shown.traces]
        staying = 0
        while staying < min(len(keys), len(shown)) and keys[staying] == shown[staying]:
            staying += 1
        self.widget.data = self.widget.data[:staying]
        kept = zip(self.widget.data, self._shown.traces, composition.traces, strict=False)
        with self.widget.batch_update():
            for trace, before, now in kept:
                changed = _changed(before, now)
                if changed:
                    trace.update(changed, overwrite=True)
            self._update_layout(composition)
        fresh = [dict(trace) for trace in composition.traces[staying:]]
        if fresh:
            self.widget.add_traces(fresh)
        self.checkpoint()

    def _update_layout(self, composition: Composition) -> None:
        changed = _changed(self._shown.layout, composition.layout)
        for name in self._shown.layout:
            if name not in composition.layout:  # an axis of a panel that has gone
                changed[name] = {"visible": False}
        changed.pop("template", None)
        if changed:
            self.widget.layout.update(changed, overwrite=True)

    def _told(self, event: str, places: Mapping[str, list[Any]]) -> None:
        """Pass an event on, less the traces that have gone since."""
        traces = {trace.meta["key"]: trace for trace in self.widget.data}
        hit = [
            (traces[key], list(map(_row, here))) for key, here in places.items() if key in traces
        ]
        if event == "click" and hit and self._on_click is not None:
            trace, points = hit[0]
            self._on_click(trace, points[0])
        elif event == "deselect" and self._on_select is not None:
            self._on_select([])
        elif event == "select" and self._on_select is not None:
            held = [one for one in hit if one[0].meta.get("kind") == "points"]
            if held:
                self._on_select(held)


def _row(place: Any) -> int:
    """The position of a point; a heatmap gives row and column, and the row is wanted."""
    return int(place[0] if isinstance(place, (list, tuple)) else place)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level entries that differ; those that are gone are None."""
    changed = {key: value for key, value in now.items() if not _same(before.get(key), value)}
    return changed | {key: None for key in before if key not in now and before[key] is not None}


def _same(one: Any, other: Any) -> bool:
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
