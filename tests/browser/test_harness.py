"""What the browser tests rest on is true of a small notebook, in JupyterLab and in Notebook 7.

A real click on a data point changes Python's state and redraws the panels that depend on it; a
reload keeps the figure drawn and alive; page errors and requests to other machines are noticed.
"""

import pytest

MADE = """
import time
import ipywidgets
import plotly.graph_objects as go
from plotly.subplots import make_subplots

base = make_subplots(rows=2, cols=1)
for row, panel in enumerate(("curve", "bars"), start=1):
    base.add_scatter(x=[0, 1, 2, 3], y=[0, 1, 4, 9], mode="lines+markers",
                     meta={"panel": panel, "label": "benign"}, row=row, col=1)
base.update_layout(height=420, dragmode="select")
figure = go.FigureWidget(base)
slider = ipywidgets.IntSlider(description="Layer", max=3)
button = ipywidgets.Button(description="Count")
count, chosen, stamps = 0, [], []
"""
WIRED = """
def pressed(_):
    global count
    count += 1

def moved(change):
    with figure.batch_update():
        figure.data[1].y = [change["new"] * x for x in range(4)]
        figure.layout.shapes = [dict(type="line", xref="x", yref="y domain", y0=0, y1=1,
                                     x0=change["new"], x1=change["new"])]

def clicked(_trace, points, _state):
    if points.point_inds:
        slider.value = points.point_inds[0]

def selected(_trace, points, _selector):
    chosen[:] = points.point_inds

button.on_click(pressed)
slider.observe(moved, "value")
figure.data[0].on_click(clicked)
figure.data[0].on_selection(selected)
figure.observe(lambda change: change["new"] and stamps.append(time.time()), "_py2js_update")
"""
SHOWN = "ipywidgets.VBox([slider, button, figure])"


@pytest.fixture
def drawn(open_notebook, frontend):
    notebook = open_notebook([MADE, WIRED, SHOWN], frontend, 1024)
    notebook.run_all()
    notebook.wait_ran()
    notebook.figure.wait_drawn()
    return notebook


def test_a_page_and_its_kernel_are_one(drawn):
    curve = drawn.figure.trace(panel="curve", label="benign")
    assert (curve.type, curve.visible, len(drawn.figure.traces())) == ("scatter", True, 2)
    assert drawn.figure.values(curve, "y") == [0, 1, 4, 9]
    assert drawn.figure.marks(curve) == 5  # four points and a line

    drawn.figure.click(curve, 1)
    drawn.wait_value("slider.value", 1)

    drawn.button("Count").click()
    drawn.wait_value("count", 1)

    drawn.figure.select(curve, 1, 2)
    drawn.wait_value("chosen", [1, 2])

    drawn.figure.record_updates()
    drawn.kernel_value("stamps.clear()")
    redraw = drawn.figure.timed_click(curve, 3, panels=["curve", "bars"])
    assert 0 < redraw.figure < redraw.painted < 2000
    assert redraw.widgets is not None
    assert drawn.figure.values(drawn.figure.trace(panel="bars"), "y") == [0, 3, 6, 9]
    [sent], [painted] = drawn.kernel_value("stamps"), drawn.figure.updates()
    assert 0 < painted - sent < 2

    assert drawn.run_cell("slider.value * 2") == "6"
    assert drawn.screenshot("harness").stat().st_size > 10_000

    drawn.reload()
    drawn.figure.wait_drawn()
    assert drawn.figure.marks(drawn.figure.trace(panel="curve")) == 5
    drawn.figure.click(drawn.figure.trace(panel="curve"), 2)
    drawn.wait_value("slider.value", 2)
    drawn.tab_to(drawn.button("Count"))
    drawn.page.keyboard.press("Space")
    drawn.wait_value("count", 2)
    assert drawn.save().stat().st_size < 50_000


def test_what_goes_wrong_is_noticed(open_notebook):
    notebook = open_notebook(["1 / 0"])
    notebook.page.evaluate("void setTimeout(() => { throw new Error('a mistake') })")
    notebook.page.evaluate("fetch('https://example.org/').catch(() => 0)")
    notebook.wait_until(lambda: len(notebook.faults) == 2, 10, "two faults")
    assert "page error: a mistake" in notebook.faults
    assert "asked of another machine: https://example.org/" in notebook.faults
    notebook.faults.clear()

    notebook.run_all()
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        notebook.wait_ran()
    with pytest.raises(AssertionError, match="NameError"):
        notebook.kernel_value("nothing")
    with pytest.raises(AssertionError, match=r"'a' == 1, but 'a'"):
        notebook.wait_value("'a'", 1, seconds=0)
