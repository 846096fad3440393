"""A message from the page is handled where the page sends it, whatever told the widget last.

And a notebook keeps a picture of what the widget shows, not of what it showed first.
"""

import base64
import re

import ipywidgets as ipw
import plotly.graph_objects as go
import pytest
from ipykernel.comm.comm import BaseComm

from actor_lens.figures import Panel, compose
from actor_lens.widgets import figure_box
from actor_lens.widgets.figure_box import FigureBox, answer_where_asked
from actor_lens.widgets.linked_figure import LinkedFigure


@pytest.fixture
def comms(monkeypatch):
    """Widgets get the kernel's comms, all of which a subshell was the last to use."""

    class Comm(BaseComm):
        def publish_msg(self, *_, **__):
            self._reply_subshell_id = "gone"

    monkeypatch.setattr("comm.create_comm", Comm)


def subshell_of(widget, asked="the page's"):
    """Where the kernel handles a message, by its own rule."""
    route = widget.comm._reply_subshell_for
    return asked if route is None else route({}, asked)


@pytest.mark.skipif(
    not hasattr(BaseComm, "_reply_subshell_for"), reason="this ipykernel moves no messages"
)
@pytest.mark.usefixtures("comms")
def test_messages_go_where_the_page_sends_them():
    inner = ipw.Button()
    assert subshell_of(inner) == "gone"
    box = FigureBox([ipw.HBox([inner])])
    assert {subshell_of(widget) for widget in (inner, box, *box.children)} == {"the page's"}
    later = ipw.VBox([ipw.Text()])
    answer_where_asked(later)
    assert {subshell_of(widget) for widget in (later, *later.children)} == {"the page's"}


def page(title):
    figure = go.Figure(go.Scatter(x=[0, 1], y=[1, 2]))
    return compose([Panel("one", figure, x=(0, 1), y=(0, 1), title=title)], height=300)


def words_in(html):
    """What the picture says, and what is said instead of it."""
    image, instead = re.search(r"base64,([^\"]*)\"", html), re.search(r'alt="([^"]*)"', html)
    return base64.b64decode(image[1]).decode(), instead[1]


def test_the_picture_is_that_of_the_last_checkpoint(monkeypatch):
    displayed = []
    monkeypatch.setattr(
        figure_box, "display", lambda data, raw, **how: displayed.append((data, raw, how))
    )
    box = FigureBox([])
    box._linked = LinkedFigure(page("<i>first</i>"))
    box._ipython_display_()
    (widget, *_), (first, raw, how) = displayed
    assert widget["application/vnd.jupyter.widget-view+json"]["model_id"] == box.model_id
    assert widget["text/html"] == ""  # where it cannot be shown
    assert raw
    assert f'class="actor-lens-picture {how["display_id"]}"' in first["text/html"]
    assert box._helper.picture == how["display_id"]
    for words in words_in(first["text/html"]):
        assert "&lt;i&gt;first" in words

    box._linked.checkpoint()
    assert len(displayed) == 2  # nothing has changed
    box._linked.show(page("second"))
    box._linked.checkpoint()
    last, _, again = displayed[-1]
    assert len(displayed) == 3
    assert again == {"display_id": how["display_id"], "update": True}
    assert all("second" in words for words in words_in(last["text/html"]))
    assert box._mime_() == ("text/html", last["text/html"])
