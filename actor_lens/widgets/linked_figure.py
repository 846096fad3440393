"""A figure widget whose panels are updated in place, from any thread.

There is one on a page, whatever the number of plots: each figure widget brings plotly.js with it,
and with two of them one may stay blank after the page is reloaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from actor_lens.figures import Composition, config

_SECONDS_TO_CHECKPOINT, _LONGEST_WAIT = 1.5, 6.0
_UPLOAD = "sendChartToCloud"
OnClick = Callable[[Any, int], None]
"""Told the trace that was clicked and the position of the point in it."""
OnSelect = Callable[[list[tuple[Any, list[int]]]], None]
"""Told, for each trace, the positions of its points that a lasso or box holds."""


class LinkedFigure:
    """Shows compositions one after the other; only what differs is sent to the browser."""

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
        self._clicks: list[tuple[Any, int]] = []
        self._held: list[tuple[Any, list[int]]] = []
        self._listen()
        # plotly tells every trace of an event in turn. Reacting at once may exchange traces under
        # its hands, so that waits until it is through, which it says by clearing the event.
        self.widget.observe(self._event_told, "_js2py_pointsCallback")

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
        self._listen(staying)
        self.checkpoint()

    def _update_layout(self, composition: Composition) -> None:
        changed = _changed(self._shown.layout, composition.layout)
        for name in self._shown.layout:
            if name not in composition.layout:  # an axis of a panel that has gone
                changed[name] = {"visible": False}
        changed.pop("template", None)
        if changed:
            self.widget.layout.update(changed, overwrite=True)

    def _listen(self, first: int = 0) -> None:
        for trace in self.widget.data[first:]:
            if self._on_click is not None:
                trace.on_click(self._clicked)
            if self._on_select is not None and trace.meta.get("kind") == "points":
                trace.on_selection(self._selected)

    def _clicked(self, trace: Any, points: Any, _state: Any) -> None:
        if points.point_inds:
            self._clicks.append((trace, _first(points.point_inds)))

    def _selected(self, trace: Any, points: Any, _selector: Any) -> None:
        self._held.append((trace, [int(index) for index in points.point_inds]))

    def _event_told(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            return
        clicks, self._clicks = self._clicks, []
        held, self._held = self._held, []
        for trace, point in clicks:
            if self._on_click is not None:
                self._on_click(trace, point)
        if held and self._on_select is not None:
            self._on_select(held)


def _first(indices: Any) -> int:
    """The position of a point; a heatmap gives rows and columns, and the row is wanted."""
    index = indices[0]
    return int(index[0] if isinstance(index, (list, tuple)) else index)


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
