"""A notebook that is opened again shows a picture of the last state in place of its widgets.

It does so trusted or not, and shows no error; while the widget lives there is no picture.
"""

from playwright.sync_api import expect

MADE = """
import ipywidgets
import plotly.graph_objects as go
from actor_lens.figures import Panel, compose
from actor_lens.widgets.figure_box import FigureBox
from actor_lens.widgets.linked_figure import LinkedFigure

def page(title):
    figure = go.Figure(go.Scatter(x=[0, 1, 2], y=[3, 1, 2], meta={"kind": "median"}))
    return compose([Panel("one", figure, x=(0, 1), y=(0, 1), title=title)], height=420)

class Box(FigureBox):
    _linked = LinkedFigure(page("first state"))

box = Box([ipywidgets.IntSlider(), *Box._linked.parts])
"""


def test_a_picture_of_the_last_state_stands_in(open_notebook, frontend):
    notebook = open_notebook([MADE, "box"], frontend=frontend)
    picture = notebook.outputs.locator("img[alt]")
    notebook.run_all()
    notebook.wait_ran()
    notebook.figure.wait_drawn()
    expect(picture).to_be_hidden()
    notebook.run_cell("Box._linked.show(page('last state')); Box._linked.checkpoint()")

    for trusted in (True, False):
        notebook.reopen(trusted=trusted)
        expect(picture).to_be_visible()
        assert picture.get_attribute("alt") == "Box: last state"
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
        for words in ("Error displaying widget", "Loading widget"):
            for place in notebook.outputs.get_by_text(words).all():
                expect(place).to_be_hidden()
        assert notebook.path.stat().st_size < 20_000
