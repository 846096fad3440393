"""What a figure's page tells Python: clicks and lassos, and when it has drawn what it was sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anywidget

OnEvent = Callable[[str, dict[str, list[Any]]], None]
"""Hears ``click``, ``select`` or ``deselect``, and the positions of points by their trace's key.

In a heatmap a position is a row and a column.
"""
# A page that does not answer for so many seconds has been closed, or is far too slow to wait for.
_LONGEST_SILENCE = 3.0


class FigureEvents(anywidget.AnyWidget):
    """An invisible widget beside a figure widget that reports what happens on its page.

    A figure widget has one trait for clicks, selections and hovers together. While a change of it
    is on its way to Python only the last of those that follow is kept, so a hover, or the next
    click, takes a click's place. Here each click and selection is a message of its own, and hovers
    are not reported at all, for Python has no use for them.

    Traces go by the key in their ``meta``: their numbers change when panels are exchanged.

    A page draws more slowly than a layer is trained where the machine is slow or busy. What it is
    sent then piles up, and buttons answer seconds late. So it is asked after each drawing whether
    it has come so far; messages are handled in the order in which they are sent.
    """

    _esm = """
    const OWN = ["click", "selected", "deselect", "hover", "unhover"];
    function initialize({ model }) {
      const answer = ({ asked }) => setTimeout(() => model.send({ event: "drawn", asked }), 0);
      model.on("msg:custom", answer);
      return () => model.off("msg:custom", answer);
    }
    function render({ model, el }) {
      el.style.display = "none";
      const tell = (event, points) => {
        const found = {};
        for (const { data, pointNumber } of points) {
          const key = data?.meta?.key;
          if (key !== undefined && pointNumber !== undefined) (found[key] ??= []).push(pointNumber);
        }
        if (event === "deselect" || Object.keys(found).length) model.send({ event, points: found });
      };
      const heard = {
        click: (event) => tell("click", event.points.slice(0, 1)),
        selected: (event) => event && tell("select", event.points),
        deselect: () => tell("deselect", []),
      };
      // With every move, because a figure that is drawn anew listens to all of its events again.
      const take = ({ target }) => {
        const root = el.closest(".actor-lens");
        const plot = root?.contains(target) && root.querySelector(".js-plotly-plot");
        if (!plot?.removeAllListeners) return;
        OWN.forEach((name) => plot.removeAllListeners(`plotly_${name}`));
        Object.entries(heard).forEach(([name, listener]) => plot.on(`plotly_${name}`, listener));
      };
      const moments = ["pointermove", "pointerdown"];
      moments.forEach((name) => document.addEventListener(name, take, true));
      return () => moments.forEach((name) => document.removeEventListener(name, take, true));
    }
    export default { initialize, render };
    """

    def __init__(self, on_event: OnEvent) -> None:
        """Listen to the figure widget on the same page.

        Args:
            on_event: Called for each click and selection.
        """
        super().__init__()
        self._on_event = on_event
        self._asked, self._answered, self._asked_at = 0, 0, 0.0
        self.on_msg(self._receive)

    @property
    def behind(self) -> bool:
        """Whether the page has still to draw what was sent; False after a silence of seconds."""
        waits = self._answered < self._asked
        return waits and time.monotonic() - self._asked_at < _LONGEST_SILENCE

    def ask_drawn(self) -> None:
        """Let the page answer once it has handled everything that it was sent before."""
        self._asked, self._asked_at = self._asked + 1, time.monotonic()
        self.send({"asked": self._asked})

    def _receive(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content["event"] == "drawn":
            self._answered = max(self._answered, content["asked"])
        else:
            self._on_event(content["event"], content["points"])
