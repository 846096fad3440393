"""A widget around one figure, and the manners that it needs on a notebook's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anywidget
import ipywidgets as ipw


class PageHelper(anywidget.AnyWidget):
    """An invisible part of a widget that keeps its figure as wide as the page, and its arrow keys.

    A figure that is drawn before its place has a width stays 700 pixels wide, so the page is told
    of every change of width. Notebook 7 takes arrow keys for moves between cells unless the very
    element with the focus says that it wants them.
    """

    _esm = """
    function render({ el }) {
      el.style.display = "none";
      const fit = () => window.dispatchEvent(new Event("resize"));
      const watcher = new ResizeObserver(fit);
      const timers = [300, 1000, 2500].map((wait) => setTimeout(fit, wait));
      const watch = () => {
        const root = el.closest(".actor-lens");
        if (root) watcher.observe(root);
        else if (!el.dataset.removed) requestAnimationFrame(watch);
      };
      watch();
      const keep = (event) => {
        if (event.target.closest?.(".actor-lens"))
          event.target.setAttribute("data-lm-suppress-shortcuts", "true");
      };
      document.addEventListener("focusin", keep);
      return () => {
        el.dataset.removed = "true";
        timers.forEach(clearTimeout);
        watcher.disconnect();
        document.removeEventListener("focusin", keep);
      };
    }
    export default { render };
    """


class FigureBox(ipw.VBox):
    """Widgets under one another, one of them a figure."""

    def __init__(self, children: Sequence[ipw.Widget], **traits: Any) -> None:
        """Add what the page needs."""
        super().__init__([*children, PageHelper()], **traits)
        self.add_class("actor-lens")
