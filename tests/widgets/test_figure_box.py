"""A message from the page is handled where the page sends it, whatever told the widget last."""

import ipywidgets as ipw
import pytest
from ipykernel.comm.comm import BaseComm

from actor_lens.widgets.figure_box import FigureBox, answer_where_asked

pytestmark = pytest.mark.skipif(
    not hasattr(BaseComm, "_reply_subshell_for"), reason="this ipykernel moves no messages"
)


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


@pytest.mark.usefixtures("comms")
def test_messages_go_where_the_page_sends_them():
    inner = ipw.Button()
    assert subshell_of(inner) == "gone"
    box = FigureBox([ipw.HBox([inner])])
    assert {subshell_of(widget) for widget in (inner, box, *box.children)} == {"the page's"}
    later = ipw.VBox([ipw.Text()])
    answer_where_asked(later)
    assert {subshell_of(widget) for widget in (later, *later.children)} == {"the page's"}
