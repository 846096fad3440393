"""A widget around one figure, and the manners that it needs on a notebook's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anywidget
import ipywidgets as ipw


class PageHelper(anywidget.AnyWidget):
    """An invisible part of a widget that sees to its figure's width, its arrow keys and its comms.

    A figure that is drawn before its place has a width stays 700 pixels wide, so the page is told
    of every change of width. Notebook 7 takes arrow keys for moves between cells unless the very
    element with the focus says that it wants them. JupyterLab sends clicks to a subshell of the
    kernel, and goes on doing so when a crash, or a restart by someone else, has ended it: then the
    kernel answers that it knows no such subshell, and JupyterLab is made to ask for a new one.
    """

    _esm = """
    function initialize({ model }) {
      const kernel = model.widget_manager?.kernel; // in JupyterLab and Notebook 7 only
      if (!kernel?.anyMessage || !("commsOverSubshells" in kernel)) return;
      const heal = (_kernel, { msg, direction }) => {
        const usual = kernel.commsOverSubshells;
        const lost = direction === "recv" && msg.content?.ename === "UnknownSubshellError";
        if (!lost || usual === "disabled") return;
        kernel.commsOverSubshells = "disabled"; // forgets the subshell
        setTimeout(() => (kernel.commsOverSubshells = usual), 200);
      };
      kernel.anyMessage.connect(heal);
      return () => kernel.anyMessage.disconnect(heal);
    }
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
    export default { initialize, render };
    """


class FigureBox(ipw.VBox):
    """Widgets under one another, one of them a figure."""

    def __init__(self, children: Sequence[ipw.Widget], **traits: Any) -> None:
        """Add what the page needs."""
        super().__init__([*children, PageHelper()], **traits)
        self.add_class("actor-lens")
