"""The dashboard in a browser: what the page shows and what Python holds are the same at any time.

A layer and prompts are chosen by clicking, training is started, watched and stopped, and nothing
that happens on the way (a reload, an error, an interrupt, prompts full of HTML, a second
dashboard) leaves a page that does not draw or a button that does not work.
"""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from actor_lens.figures.prompts import box_heights
from tests.support.dashboard_cells import DASHBOARD, DEEP, STRANGE, TOY

# With the panels of its own that have something to draw before a sweep or an evaluation.
SECTIONS = {
    "Layers": {"scores"},
    "Prompts": set(),
    "Your prompt": set(),
    "What if": {"targets", "predicted"},
    "Train": {"training"},
    "Compare": set(),
}
# The panels that show the chosen layer, and those that grow while a block is trained.
OF_THE_LAYER = ("layers", "prompts")
TRAINING = "training"

STATUS_NOTED = """
import time

moments = []
dashboard.observe(lambda change: moments.append((change["new"], time.time())), "status")
"""
STEP_BROKEN = """
from actor_lens.training.block_trainer import BlockTrainer

def broken(*_):
    raise RuntimeError("<b>step broken</b>")

whole, BlockTrainer.take_step = BlockTrainer.take_step, broken
"""
# Marks the place with the focus; False outside of the dashboard.
REACHED = """() => {
    document.activeElement.dataset.reached = "";
    return document.activeElement.closest(".actor-lens") !== null;
}"""
UNREACHED = """shown => [...shown.querySelectorAll("button, select, input, textarea, .noUi-handle")]
    .filter((one) => !one.disabled && one.checkVisibility() && !("reached" in one.dataset))
    .map((one) => one.outerHTML)"""
# Words over a panel that touch others or are cut off.
CRAMPED = """() => {
    const edge = document.querySelector(".main-svg").getBoundingClientRect().right;
    const words = [...document.querySelectorAll(".annotation-text")]
        .map((one) => ({ text: one.textContent, at: one.getBoundingClientRect() }));
    const touch = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 2
        && b.top < a.bottom - 2;
    return words.filter(({ at }, place) => at.right > edge
        || words.slice(0, place).some((other) => touch(at, other.at))).map(({ text }) => text);
}"""
CONTROLS = "button|checkbox|combobox|listbox|slider|spinbutton|textbox"
WEIGHTS = "[float(one.double().abs().sum()) for one in model.hf.parameters()]"


@pytest.fixture
def dashboard_in(open_notebook):
    """Open a notebook whose cells make a model and prompts, and show their dashboard."""

    def shown(made=TOY, **settings):
        notebook = open_notebook([made, DASHBOARD], **settings)
        notebook.run_all()
        notebook.wait_ran()
        notebook.figure.wait_drawn()
        return notebook

    return shown


def choose(notebook, layer):
    notebook.wait_until(lambda: same_panels(notebook), 20, "the panels that Python has")
    medians = notebook.figure.trace(panel="layers", kind="median", label="benign")
    notebook.figure.click(medians, layer)
    notebook.wait_value("dashboard.layer", layer)


def another_layer(notebook):
    return (notebook.kernel_value("dashboard.layer") + 3) % notebook.kernel_value("model.n_layers")


def train(notebook, epochs=100_000):
    """Start a run that ends only when it is told to."""
    notebook.toggle("Train").click()
    notebook.field("Epochs").fill(str(epochs))
    notebook.field("Epochs").press("Tab")
    notebook.button("Train").click()
    notebook.wait_value("dashboard.status", "training")
    steps = training_values(notebook)
    notebook.wait_until(lambda: training_values(notebook) > steps, 60, "a curve that grows")


def stop(notebook):
    notebook.button("Stop").click()
    notebook.wait_value("dashboard.status in ('training', 'paused')", False)
    assert notebook.kernel_value("dashboard.run is not None and len(dashboard.run.history) > 0")
    buttons_at_rest(notebook)


def buttons_at_rest(notebook):
    expect(notebook.button("Train")).to_be_enabled()
    for text in ("Pause", "Resume", "Stop"):
        for button in notebook.button(text).all():
            expect(button).to_be_disabled()


def training_values(notebook):
    traces = notebook.figure.traces(panel=TRAINING)
    return sum(len(notebook.figure.values(trace, "y") or []) for trace in traces)


def wait_panels(notebook, panels):
    """Wait until something is drawn in these panels and in no others."""
    notebook.wait_until(lambda: notebook.figure.marked_panels() == panels, 20, f"panels {panels}")


def test_choosing_training_and_stopping(dashboard_in, frontend):
    notebook = dashboard_in(frontend=frontend)
    choose(notebook, another_layer(notebook))

    notebook.toggle("Prompts").click()
    points = notebook.figure.trace(panel="prompts", kind="points", label="pseudo_harmful")
    notebook.figure.click(points, 0)
    labels = "[dashboard.exploration.shown[i].label for i in dashboard.selection]"
    notebook.wait_value(labels, ["pseudo_harmful"])

    notebook.run_cell(STATUS_NOTED)
    train(notebook)
    assert notebook.run_cell("6 * 7") == "42"
    assert notebook.kernel_value("dashboard.status") == "training"
    notebook.button("Pause").click()
    notebook.wait_value("dashboard.status", "paused")
    notebook.button("Resume").click()
    notebook.wait_value("dashboard.status", "training")
    stop(notebook)
    ended = notebook.kernel_value("moments[-1][1]")
    assert ended - notebook.last_click() <= 0.5

    expect(notebook.page.locator(".js-plotly-plot")).to_have_count(1)
    assert notebook.save().stat().st_size <= 200_000


def test_a_reload_in_the_middle_and_after(dashboard_in):
    notebook = dashboard_in()
    train(notebook)
    for running in (True, False):
        wait_panels(notebook, {*OF_THE_LAYER, TRAINING})
        notebook.reload()
        notebook.figure.wait_drawn()
        wait_panels(notebook, {*OF_THE_LAYER, TRAINING})
        notebook.toggle("Layers").click()
        choose(notebook, another_layer(notebook))
        assert notebook.kernel_value("dashboard.status == 'training'") == running
        notebook.toggle("Train").click()
        if running:
            values = training_values(notebook)
            notebook.wait_until(lambda v=values: training_values(notebook) > v, 60, "growth")
            stop(notebook)
    train(notebook)
    stop(notebook)


def test_an_interrupt_and_two_restarts_in_the_middle(dashboard_in, tmp_path):
    notebook = dashboard_in(frontend="notebook")
    notebook.toggle("Train").click()
    notebook.field("Save to").fill(str(tmp_path / "run"))
    train(notebook)
    notebook.interrupt_kernel()
    stop(notebook)

    # By the server: a crashed kernel comes back in the same way, without word from the page.
    for by_server in (False, True):
        train(notebook)
        notebook.restart_kernel(by_server=by_server)
        notebook.run_all()
        notebook.wait_ran()
        notebook.figure.wait_drawn()
    saved = f"al.TrainingRun.load({str(tmp_path / 'run')!r})"
    steps = notebook.kernel_value(f"len({saved}.history)")
    assert steps > 0
    notebook.run_cell(f"dashboard.exploration.add_run({saved})")
    notebook.toggle("Train").click()
    notebook.button("Continue run").click()
    notebook.wait_value("dashboard.status", TRAINING)
    notebook.wait_until(
        lambda: notebook.kernel_value("len(dashboard.exploration.history)") > steps, 60, "steps"
    )
    stop(notebook)


def test_a_click_redraws_a_thousand_prompts(dashboard_in):
    notebook = dashboard_in(DEEP)
    assert notebook.kernel_value("(len(drawn), model.n_layers)") == (1002, 32)
    medians = notebook.figure.trace(panel="layers", kind="median", label="benign")
    for layer in (3, 31, 0):
        notebook.figure.timed_click(medians, layer, OF_THE_LAYER)  # waits for both panels
        assert notebook.kernel_value("dashboard.layer") == layer
        boxes = notebook.figure.trace(panel="prompts", kind="boxes", of="harmful")
        held = "dashboard.projections().query('label == \"harmful\"')['projection'].tolist()"
        heights = box_heights(np.array(notebook.kernel_value(held)))
        assert notebook.figure.values(boxes, "y") == pytest.approx(heights.tolist())


def test_an_error_in_the_worker_is_shown_and_undone(dashboard_in):
    notebook = dashboard_in()
    before = notebook.kernel_value(WEIGHTS)
    notebook.run_cell(STEP_BROKEN)
    notebook.toggle("Train").click()
    notebook.button("Train").click()
    notebook.wait_text("<b>step broken</b>")
    expect(notebook.outputs.locator("b", has_text="step broken")).to_have_count(0)
    notebook.wait_value("dashboard.status in ('training', 'paused')", False)
    assert notebook.kernel_value(WEIGHTS) == before
    buttons_at_rest(notebook)
    notebook.run_cell("BlockTrainer.take_step = whole")
    train(notebook)
    stop(notebook)


def test_everything_works_from_the_keyboard(dashboard_in):
    notebook = dashboard_in(frontend="notebook")  # which keeps more keys to itself than JupyterLab
    layer = notebook.kernel_value("dashboard.layer")
    key, moved = ("ArrowRight", layer + 1) if layer == 0 else ("ArrowLeft", layer - 1)
    notebook.tab_to(notebook.slider("Layer"))
    notebook.page.keyboard.press(key)
    notebook.wait_value("dashboard.layer", moved)
    notebook.tab_to(notebook.toggle("Train"))
    notebook.page.keyboard.press("Space")
    notebook.tab_to(notebook.field("Epochs"))
    notebook.page.keyboard.press("ControlOrMeta+a")
    notebook.page.keyboard.type("100000")
    notebook.tab_to(notebook.button("Train"))
    notebook.page.keyboard.press("Space")
    notebook.wait_value("dashboard.status", "training")
    notebook.tab_to(notebook.button("Stop"))
    notebook.page.keyboard.press("Space")
    notebook.wait_value("dashboard.status in ('training', 'paused')", False)
    buttons_at_rest(notebook)


def test_every_control_is_reached_by_tab_and_has_a_name(dashboard_in):
    notebook = dashboard_in(frontend="notebook")
    shown = notebook.page.locator(".actor-lens").first
    for section in (*SECTIONS, "How much"):
        notebook.toggle(section).press("Space")
        expect(notebook.toggle(section)).to_have_attribute("aria-pressed", "true")
        notebook.wait_value("dashboard.section", section)
        notebook.slider("Layer").focus()
        for _ in range(60):
            if not notebook.page.evaluate(REACHED):
                break
            notebook.page.keyboard.press("Tab")
        assert shown.evaluate(UNREACHED) == [], section
        snapshot = shown.aria_snapshot()
        assert 'slider "Layer"' in snapshot
        assert re.findall(rf"^ *- (?:{CONTROLS})(?! \").*", snapshot, re.MULTILINE) == [], section


def test_prompts_are_shown_as_text(dashboard_in):
    notebook = dashboard_in(STRANGE)
    notebook.toggle("Prompts").click()
    notebook.run_cell("dashboard.selection = tuple(range(21))")
    notebook.wait_text("<script>window.harmed = 1</script>")
    notebook.wait_text("onerror='window.harmed = 1'")
    points = notebook.figure.trace(panel="prompts", kind="points", label="benign")
    notebook.figure.click(points, 0)

    notebook.toggle("Your prompt").click()
    box = notebook.outputs.locator("textarea")
    for text in ("<img src=x onerror='window.harmed = 1'>", "z" * 10_000, "\U0001f600\n\u0645"):
        box.fill(text)
        box.press("Tab")
        notebook.kernel_value("dashboard.status")
    expect(notebook.outputs.locator("h1")).to_have_count(0)
    assert notebook.page.evaluate("window.harmed === undefined")
    notebook.toggle("Layers").click()
    choose(notebook, another_layer(notebook))


@pytest.mark.parametrize(("width", "frontend"), [(1440, "lab"), (900, "notebook")])
def test_every_section_fits_the_window(dashboard_in, frontend, width):
    notebook = dashboard_in(frontend=frontend, width=width, height=1300)
    train(notebook)
    stop(notebook)
    for section, own in SECTIONS.items():
        notebook.toggle(section).click()
        expect(notebook.toggle(section)).to_have_class(re.compile("mod-active"))
        notebook.wait_value("dashboard.section", section)
        wanted = {*OF_THE_LAYER, *own}
        notebook.wait_until(
            lambda wanted=wanted: drawn_panels(notebook) == wanted, 20, f"the panels of {section}"
        )
        name = section.lower().replace(" ", "-")
        notebook.screenshot(f"dashboard-{name}", top=notebook.outputs.first)
        shown = notebook.outputs.filter(has=notebook.page.locator(".actor-lens"))
        beyond = "element => element.scrollWidth - element.clientWidth"
        assert shown.evaluate(beyond) <= 1
        assert fits(notebook, width)
        assert notebook.page.evaluate(CRAMPED) == [], section
        if section == "Train":
            beside = [notebook.slider("Rewind"), notebook.button("Restore best")]
            across = [notebook.field(name) for name in ("Epochs", "Batch")]
            for first, last in (beside, across):  # on one line
                assert abs(first.bounding_box()["y"] - last.bounding_box()["y"]) < 16


def test_the_figure_is_as_wide_as_the_window_whenever_that_changes(dashboard_in):
    notebook = dashboard_in()
    train(notebook)
    for section, width in (("Train", 900), ("Prompts", 1440), ("Train", 900)):
        notebook.toggle(section).click()
        wait_panels(notebook, {*OF_THE_LAYER, TRAINING} if section == "Train" else {*OF_THE_LAYER})
        notebook.page.set_viewport_size({"width": width, "height": 900})
        notebook.wait_until(lambda w=width: fits(notebook, w), 10, f"a figure of {width} pixels")
    # Both at once: the height that the section brings may come before or after.
    notebook.toggle("Layers").click()
    notebook.page.set_viewport_size({"width": 1440, "height": 900})
    wait_panels(notebook, {*OF_THE_LAYER, *SECTIONS["Layers"]})
    notebook.wait_until(lambda: fits(notebook, 1440), 10, "a figure of 1440 pixels")
    notebook.toggle("Train").click()
    stop(notebook)


def same_panels(notebook):
    held = notebook.kernel_value("[trace.meta['panel'] for trace in dashboard.figure.data]")
    return drawn_panels(notebook) == set(held)


def fits(notebook, width):
    """Whether the dashboard fills a window of this width, and its figure the dashboard."""
    place, drawn = notebook.page.evaluate("""() => {
        const root = document.querySelector(".actor-lens");
        return [root.clientWidth, root.querySelector(".main-svg").getBoundingClientRect().width];
    }""")
    return 0.75 * width < place <= width and 0 <= place - drawn <= 30


def drawn_panels(notebook):
    return {one.meta.get("panel") for one in notebook.figure.traces()}
