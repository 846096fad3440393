"""A widget around one figure, and the manners that it needs on a notebook's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import anywidget
import ipywidgets as ipw
import plotly.graph_objects as go

from actor_lens.widgets.linked_figure import LinkedFigure


class PageHelper(anywidget.AnyWidget):
    """An invisible part of a widget that sees to its figure's width, its arrow keys and its comms.

    A figure that is drawn before its place has a width stays 700 pixels wide, so the page is told
    of every change of width. Notebook 7 takes arrow keys for moves between cells unless the very
    element with the focus says that it wants them. JupyterLab sends clicks to a subshell of the
    kernel, and goes on doing so when a crash, or a restart by someone else, has ended it: then the
    kernel answers that it knows no such subshell, and JupyterLab is made to ask for a new one. Once
    for each that has gone, for messages to it may still be under way.
    """

    _esm = """
    function initialize({ model }) {
      const kernel = model.widget_manager?.kernel; // in JupyterLab and Notebook 7 only
      if (!kernel?.anyMessage || !("commsOverSubshells" in kernel)) return;
      const gone = new Set();
      const heal = (_kernel, { msg, direction }) => {
        const usual = kernel.commsOverSubshells;
        const lost = direction === "recv" && msg.content?.ename === "UnknownSubshellError";
        if (!lost || usual === "disabled" || gone.has(msg.content.evalue)) return;
        gone.add(msg.content.evalue); // which names it
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
    """Widgets under one another, one of them a figure; the last line of a cell shows them."""

    _linked: LinkedFigure

    def __init__(self, children: Sequence[ipw.Widget], **traits: Any) -> None:
        """Add what the page needs.

        Args:
            children: Widgets from top to bottom, those of ``LinkedFigure.parts`` among them.
            traits: Values of traits to begin with.
        """
        super().__init__([*children, PageHelper()], **traits)
        self.add_class("actor-lens")
        answer_where_asked(self)

    @property
    def figure(self) -> go.FigureWidget:
        """The one figure widget, with its traces as the page shows them."""
        return self._linked.widget


def answer_where_asked(*roots: ipw.Widget) -> None:
    """Let a message from the page be handled where the page sends it.

    ipykernel from 7.4 on moves it to the subshell from which the widget was last told something.
    That is wrong for widgets that are changed by a thread, as here while a block is trained: the
    kernel then notes any subshell that was in use, and once that one has gone (a page that is
    reloaded ends some) the clicks that are sent there are lost.

    Args:
        roots: Widgets that are changed together with all widgets in them.
    """
    for widget in _within(roots):
        if hasattr(widget.comm, "_reply_subshell_for"):
            widget.comm._reply_subshell_for = None


def _within(roots: Sequence[ipw.Widget]) -> Iterator[ipw.Widget]:
    for root in roots:
        yield root
        yield from _within(getattr(root, "children", ()))
