"""A widget around one figure, and the manners that it needs on a notebook's page.

Under the widget stands a picture of it, which the page hides as long as the widget lives. It is
what remains where no kernel runs: in a notebook that is opened again, trusted or not, in copies of
it, and in front ends without widgets.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any

import anywidget
import ipywidgets as ipw
import plotly.graph_objects as go
import traitlets
from IPython.display import display

from actor_lens.figures.picture import picture
from actor_lens.widgets.linked_figure import LinkedFigure

# Pages of JupyterLab and Notebook, of VS Code and of Colab that are dark.
_DARK = ':is([data-jp-theme-light="false"], .vscode-dark, html[theme="dark"])'
_TURNED = "{ filter: invert(0.93) hue-rotate(180deg); }"
# What JupyterLab shows in place of a widget that is gone: words and nothing else.
_STYLE = (
    "<style>.jp-OutputArea-output.lm-Panel:not(:has(*)) { display: none; }"
    f"@media screen {{ {_DARK} .actor-lens-picture img {_TURNED} }}</style>"
)
_HOW_TO_GO_ON = "A picture of the last state: no widget runs here. Run the cells to go on."


class PageHelper(anywidget.AnyWidget):
    """An invisible part of a widget that sees to its figure's width, its arrow keys and its comms.

    A figure that is drawn before its place has a width stays 700 pixels wide, and one whose height
    Python sets, as with another section, keeps the width of that moment: plotly fits no figure of
    which it holds both. So the width is taken off, and the page told, wherever the figure is not as
    wide as its place. Notebook 7 takes arrow keys for moves between cells unless the very
    element with the focus says that it wants them. JupyterLab sends clicks to a subshell of the
    kernel, and goes on doing so when a crash, or a restart by someone else, has ended it: then the
    kernel answers that it knows no such subshell, and JupyterLab is made to ask for a new one. Once
    for each that has gone, for messages to it may still be under way.

    While the widget lives, the picture of it is hidden. On dark pages the figure is turned dark by
    the browser, with its hues kept. Screen readers are told the names of sliders and which of the
    buttons in a row is down, and the place with the focus has a frame on any page.

    Attributes:
        picture: Class of the element with the picture.
    """

    picture = traitlets.Unicode().tag(sync=True)
    _css = f"""
    @media screen {{ {_DARK} .actor-lens .js-plotly-plot {_TURNED} }}
    @media print {{ .actor-lens :is(button, .modebar) {{ display: none; }} }}
    .actor-lens .widget-checkbox input {{ vertical-align: middle; }}
    .actor-lens :focus-visible {{ outline: 2px solid #3b82c4 !important; outline-offset: 1px; }}
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
    function render({ el, model }) {
      el.style.display = "none";
      const hides = document.createElement("style"), picture = "." + model.get("picture");
      hides.textContent = `${picture}, .jp-OutputArea-child:has(${picture}) { display: none; }`;
      document.head.append(hides);
      const fit = () => {
        const plot = el.closest(".actor-lens")?.querySelector(".js-plotly-plot");
        if (Math.abs(plot?._fullLayout?.width - plot?.clientWidth) <= 1) return;
        if (plot?.layout) delete plot.layout.width; // else it is never fitted again
        window.dispatchEvent(new Event("resize"));
      };
      const every = (what) => el.closest(".actor-lens")?.querySelectorAll(what) ?? [];
      const describe = () => {
        for (const part of every(".widget-inline-hbox :is(.noUi-handle, .widget-readout)")) {
          const name = part.closest(".widget-inline-hbox").querySelector(".widget-label");
          if (name) part.setAttribute("aria-label", name.textContent);
          if (part.isContentEditable) part.role = "textbox";
        }
        for (const part of every(".widget-toggle-button"))
          part.setAttribute("aria-pressed", part.classList.contains("mod-active"));
      };
      const watcher = new ResizeObserver(() => (fit(), describe()));
      const timers = [300, 1000, 2500].map((wait) => setTimeout(fit, wait));
      const watch = () => {
        const root = el.closest(".actor-lens");
        if (root) watcher.observe(root);
        else if (!el.dataset.removed) requestAnimationFrame(watch);
      };
      watch();
      const keep = ({ target }) => {
        if (!target.closest?.(".actor-lens")) return;
        target.setAttribute("data-lm-suppress-shortcuts", "true");
        setTimeout(describe); // once a press has taken effect
      };
      const heard = ["focusin", "click"];
      heard.forEach((name) => document.addEventListener(name, keep));
      return () => {
        el.dataset.removed = "true";
        hides.remove();
        timers.forEach(clearTimeout);
        watcher.disconnect();
        heard.forEach((name) => document.removeEventListener(name, keep));
      };
    }
    export default { initialize, render };
    """


class FigureBox(ipw.VBox):
    """Widgets under one another, one of them a figure; the last line of a cell shows them."""

    _linked: LinkedFigure
    _hint = ""

    def __init__(self, children: Sequence[ipw.Widget], **traits: Any) -> None:
        """Add what the page needs.

        Args:
            children: Widgets from top to bottom, those of ``LinkedFigure.parts`` among them.
            traits: Values of traits to begin with.
        """
        self._helper, self._drawn = PageHelper(), ""
        super().__init__([*children, self._helper], **traits)
        self._helper.picture = f"picture-{self.model_id}"
        self.add_class("actor-lens")
        answer_where_asked(self)

    @property
    def figure(self) -> go.FigureWidget:
        """The one figure widget, with its traces as the page shows them."""
        return self._linked.widget

    def _ipython_display_(self) -> None:
        """Show the widget, and under it the picture, which is brought up to date later."""
        # Where the widget cannot be shown, nothing is: else it would be named in one line of code.
        display({**self._repr_mimebundle_(), "text/html": ""}, raw=True)
        self._drawn = self._picture()
        self._show_picture()
        self._linked.on_checkpoint = self._renew_picture

    def _mime_(self) -> tuple[str, str]:
        """What marimo shows, which has no boxes of widgets."""
        return "text/html", self._picture()

    def _renew_picture(self) -> None:
        """Put the picture of now in place of the last one."""
        before, self._drawn = self._drawn, self._picture()
        if self._drawn != before:
            self._show_picture(update=True)

    def _show_picture(self, **how: bool) -> None:
        words = {"text/html": self._drawn, "text/plain": _HOW_TO_GO_ON}
        display(words, raw=True, display_id=self._helper.picture, **how)

    def _picture(self) -> str:
        """The picture as HTML of which nothing is lost where it is not trusted."""
        shown, above = self._linked.shown, self.children[0]
        try:
            drawn = picture(shown)
        except Exception:  # a missing picture must not take the widget with it
            return ""
        words = above.value if isinstance(above, ipw.HTML) else ""
        titles = ", ".join(
            re.sub("</?b>", "", note["text"])
            for note in shown.layout["annotations"]
            if note.get("name", "").startswith("title ")
        )
        image = base64.b64encode(drawn.encode()).decode()
        return (
            f'{_STYLE}<div class="actor-lens-picture {self._helper.picture}">{words}'
            f'<img alt="{type(self).__name__}: {titles}" style="width:100%;max-width:1200px" '
            f'src="data:image/svg+xml;base64,{image}">'
            f"<p><i>{_HOW_TO_GO_ON}{self._hint}</i></p></div>"
        )


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
