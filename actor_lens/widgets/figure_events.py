"""Clicks and lassos in a figure, each reported to Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget

OnEvent = Callable[[str, dict[str, list[Any]]], None]
"""Hears ``click``, ``select`` or ``deselect``, and the positions of points by their trace's key.

In a heatmap a position is a row and a column.
"""


class FigureEvents(anywidget.AnyWidget):
    """An invisible widget beside a figure widget that reports what is clicked and selected in it.

    A figure widget has one trait for clicks, selections and hovers together. While a change of it
    is on its way to Python only the last of those that follow is kept, so a hover, or the next
    click, takes a click's place. Here each click and selection is a message of its own, and hovers
    are not reported at all, for Python has no use for them.

    Traces go by the key in their ``meta``: their numbers change when panels are exchanged.
    """

    _esm = """
    const OWN = ["click", "selected", "deselect", "hover", "unhover"];
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
    export default { render };
    """

    def __init__(self, on_event: OnEvent) -> None:
        """Listen to the figure widget on the same page.

        Args:
            on_event: Called for each click and selection.
        """
        super().__init__()
        self._on_event = on_event
        self.on_msg(self._receive)

    def _receive(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        self._on_event(content["event"], content["points"])
