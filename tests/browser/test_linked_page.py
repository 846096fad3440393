"""The linked page in a browser: every panel draws the numbers of the frames, whatever is chosen.

Prompts full of markup are text, with the page's policy and without it, and nothing is asked of a
network.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import expect

from actor_lens.figures.prompts import FEW, box_heights
from actor_lens.report.linked_page import GalleryRow, lens_of, render_lenses
from actor_lens.statistics.intervals import Estimate
from actor_lens.text import clean
from actor_lens.widgets.parts import page_inside
from tests.support.linked_pages import planted_page
from tests.support.studies import N_LAYERS

pytestmark = pytest.mark.filterwarnings("ignore:The 'lsuffix' and 'rsuffix' keywords")

# What plotly has drawn of a trace: x and y of its points.
DRAWN = """([name, kind, label]) => {
    const plot = document.getElementById("plot-" + name);
    const at = plot.data.findIndex((trace) => trace.meta?.kind === kind
        && (!label || trace.meta.label === label));
    return plot.calcdata[at].map((point) => [point.x, point.y]);
}"""
MARK = """(name) => {
    const [mark] = document.getElementById("plot-" + name).layout.shapes
        .filter((shape) => shape.name === "layer");
    return [mark.x0, mark.x1, mark.y0, mark.y1];
}"""
TITLE = "(name) => document.getElementById('plot-' + name).layout.title.text"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@pytest.fixture(scope="module")
def made():
    return planted_page()


@pytest.fixture
def open_page(browser, made, tmp_path):
    """Open the page; at the end fail where it had an error or asked for anything."""
    faults, opened = [], []

    def opened_page(policy=True, html=None, ready="#words tr"):
        study, content = made
        html = html or render_lenses([lens_of(study.look, **content)])
        if not policy:
            html, count = POLICY.subn("", html)
            assert count == 1
        path = tmp_path / "lens.html"
        path.write_text(html, encoding="utf-8")
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda word: faults.append(word.text) if word.type == "error" else None)
        page.on(
            "request",
            lambda asked: None if asked.url == path.as_uri() else faults.append(asked.url),
        )
        page.goto(path.as_uri())
        expect(page.locator(ready)).not_to_have_count(0)
        return page

    opened_page.faults = faults
    yield opened_page
    for page in opened:
        page.close()
    assert faults == []


def go_to(page, layer, way):
    """Choose a layer by the slider, by a click in a panel, or by the arrow keys."""
    if way == "slider":
        page.locator("#layer").fill(str(layer))
    elif way == "keys":
        page.evaluate("document.activeElement.blur()")
        while (now := int(page.locator("#layer").input_value())) != layer:
            page.keyboard.press("ArrowRight" if now < layer else "ArrowLeft")
    else:
        panel = page.locator("#plot-layers")
        panel.scroll_into_view_if_needed()
        place = panel.evaluate(
            """(plot, layer) => {
                const at = plot.data.findIndex((trace) => trace.meta.kind === "median");
                const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
                const point = plot.calcdata[at][layer];
                return [box.x + xaxis._offset + xaxis.d2p(point.x),
                        box.y + yaxis._offset + yaxis.d2p(point.y)];
            }""",
            layer,
        )
        page.mouse.move(place[0] - 2, place[1])
        page.mouse.move(*place)
        page.mouse.click(*place)
    page.wait_for_function("layer => document.getElementById('layer').value == layer", arg=layer)
    page.wait_for_function(
        "layer => document.getElementById('plot-moved').layout.title.text.endsWith(' ' + layer)",
        arg=layer,
    )


def test_every_panel_follows_with_the_numbers_of_the_frames(open_page, made):
    study, content = made
    page = open_page()
    projections = study.look.projections
    here = projections.frame(origin="midpoint").set_index(["layer", "label"])
    before = projections.frame().set_index(["layer", "label"])["projection"]
    after = content["after"].frame().set_index(["layer", "label"])["projection"]
    states = [(layer, prompt) for prompt in (0, 7, 17) for layer in (3, 1, 0, 2)]
    assert len(states) == 12
    ways = ("click", "slider", "keys")
    for number, (layer, prompt) in enumerate(states):
        go_to(page, layer, ways[number % 3])
        page.locator("#prompt").select_option(str(prompt))
        assert page.evaluate(TITLE, "prompts") == f"Prompts at layer {layer}"
        for label in ("harmful", "pseudo_harmful", "benign"):
            drawn = np.array(page.evaluate(DRAWN, ["prompts", "points", label]))
            assert np.array_equal(drawn[:, 1], here.loc[(layer, label), "projection"])
            drawn = np.array(page.evaluate(DRAWN, ["moved", "points", label]))
            assert np.array_equal(drawn[:, 0], before[layer, label])
            assert np.array_equal(drawn[:, 1], after[layer, label])
        ends = page.evaluate(DRAWN, ["moved", "identity", ""])
        assert ends == [[end, end] for end in (before[layer].min(), before[layer].max())]
        for panel in ("layers", "scores", "outcomes"):
            assert page.evaluate(MARK, panel)[:2] == [layer, layer]
        assert page.evaluate(MARK, "tokens")[2:] == [layer - 0.5, layer + 0.5]
        line = page.evaluate(DRAWN, ["layers", "line", ""])
        heights = here[here["prompt_index"] == prompt]["projection"]
        assert line == [[at, height] for at, height in enumerate(heights)]
        shown = page.locator("#text").inner_text()
        assert clean(projections.prompts[prompt].prompt).startswith(shown.rstrip("…"))
        where = page.locator("#where").inner_text()
        assert where.startswith(f"layer {layer}")
        assert ("recommended" in where) == (layer in study.choice.ties)
        assert f"projection at layer {layer}: " in page.locator("#about").inner_text()


def test_what_does_not_follow_is_what_the_frames_hold(open_page, made):
    study, content = made
    page = open_page()
    frame = study.look.projections.frame(origin="midpoint")
    medians = frame.groupby(["label", "layer"])["projection"].median()
    scores = study.look.scores.frame().query("score == 'causal'")
    for label in ("harmful", "pseudo_harmful", "benign"):
        drawn = page.evaluate(DRAWN, ["layers", "median", label])
        assert [y for _, y in drawn] == pytest.approx(medians[label].tolist(), abs=1e-6)
    of_score = """(pair) => {
        const plot = document.getElementById("plot-scores");
        const at = plot.data.findIndex((one) => one.meta.pair === pair && one.error_y);
        return plot.calcdata[at].map((point) => point.y);
    }"""
    assert page.evaluate(of_score, "all") == scores["value"].tolist()
    of_outcomes = """() => document.getElementById("plot-outcomes").calcdata
        .filter((points) => points[0].trace.mode === "markers")
        .map((points) => points.map((point) => point.y))"""
    table = content["outcomes"].frame()
    assert page.evaluate(of_outcomes) == [
        table[f"refused_{label}"].tolist() for label in ("harmful", "pseudo_harmful", "benign")
    ]
    heat = "() => document.getElementById('plot-tokens').calcdata[0][0].z.map((row) => [...row])"
    for number, tokens in enumerate(content["tokens"]):
        page.locator("#tokens").select_option(str(number))
        relative = tokens.frame()["relative"].to_numpy().reshape(N_LAYERS, -1)
        assert np.array_equal(np.array(page.evaluate(heat)), relative)


def test_training_is_replayed_step_by_step(open_page, made):
    run = made[0].run
    page = open_page()
    table = run.frame().set_index("step")
    for step in (1, 7, 12):
        page.locator("#step").fill(str(step))
        losses = page.evaluate(DRAWN, ["training", "loss", ""])
        assert losses == [[at, table["loss"][at]] for at in range(1, step + 1)]
        assert f"{step}; loss {table['loss'][step]:.3g}" in page.locator("#at-step").inner_text()
    page.locator("#play").click()
    expect(page.locator("#play")).to_have_text("Pause")
    expect(page.locator("#play")).to_have_text("Play")
    expect(page.locator("#step")).to_have_value("12")


@pytest.mark.parametrize("policy", [True, False])
def test_prompts_are_text_and_nothing_is_asked(open_page, made, policy):
    page = open_page(policy)
    for prompt in range(len(made[0].look.projections.prompts)):
        page.locator("#prompt").select_option(str(prompt))
    page.locator("#plot-prompts").hover()
    for width in (900, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.harmed") is None
    assert page.locator("main img, main a[href^=javascript], main svg[onload]").count() == 0
    if policy:  # what would get past the escapes is stopped by the page's policy
        page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "window.harmed = 1";
            document.body.append(script);
        }""")
        assert page.evaluate("window.harmed") is None
        assert "Content Security Policy" in open_page.faults.pop()


def test_a_gallery_shows_one_or_two_runs_side_by_side(open_page, made):
    study, content = made
    other = {**content, "after": None, "change": None, "layer": 1}
    lenses = [
        replace(lens_of(study.look, **one), name=f"<b>{name}</b>")
        for name, one in (("c", content), ("a", other), ("b", content))
    ]
    rates = lenses[0].rates
    lenses[2] = replace(lenses[2], rates={**rates, "after": rates["before"]})
    lenses.append(GalleryRow(name="d", model="another", run={"layer": 7}, rates=rates))
    page = open_page(html=render_lenses(lenses), ready="#run-0-words tr")
    names = page.locator("#runs tbody th")
    assert names.all_inner_texts() == ["<b>c</b>", "<b>a</b>", "<b>b</b>", "d"]
    shown = page.locator(".lens > h2")
    assert [text[:8] for text in shown.all_inner_texts()] == ["<b>c</b>", "<b>a</b>"]
    assert page.locator("#show-3").is_disabled()
    # Both follow, each with its own numbers.
    page.locator("#layer").fill("3")
    for number, origin in ((0, "midpoint"), (1, "midpoint")):
        frame = study.look.projections.frame(origin=origin).query("layer == 3")
        for label, rows in frame.groupby("label"):
            drawn = page.evaluate(
                DRAWN.replace('"plot-"', f'"run-{number}-plot-"'), ["prompts", "points", label]
            )
            assert [y for _, y in drawn] == rows["projection"].tolist()
        assert (
            page.locator(f"#run-{number}-numbers-title")
            .inner_text()
            .startswith("Numbers of layer 3")
        )
    # Rates are those of the evaluation, and sort with what is not known at the end.
    after = content["change"].where("test").after
    cell = page.locator("#runs tbody tr").first.locator("td").nth(4)
    assert float(cell.get_attribute("data-value")) == after.rate("harmful").refused
    page.get_by_role("button", name="run").click()
    assert names.all_inner_texts() == ["<b>a</b>", "<b>b</b>", "<b>c</b>", "d"]
    scores = page.get_by_role("button", name="T.S.")
    for way in ("ascending", "descending"):
        scores.click()
        values = page.locator("#runs tbody tr td:last-child").evaluate_all(
            "(cells) => cells.map((cell) => cell.dataset.value)"
        )
        assert values[-1] == ""
        known = list(map(float, values[:-1]))
        assert known == sorted(known, reverse=way == "descending")
        assert page.locator(f'#runs [aria-sort="{way}"]').inner_text().startswith("T.S.")
    # A third run takes the place of the first; one alone can be seen too.
    page.locator("#show-2").check()
    assert [text[:8] for text in shown.all_inner_texts()] == ["<b>a</b>", "<b>b</b>"]
    page.locator("#show-1").uncheck()
    assert shown.count() == 1
    expect(page.locator("#where")).to_contain_text("layer 3")
    page.locator("#show-2").uncheck()
    expect(page.locator("#layer")).to_be_hidden()
    page.locator("#show-1").check()
    expect(page.locator("#layer")).to_be_visible()
    for width in (900, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.harmed") is None


def test_where_no_run_has_panels_there_is_no_slider(open_page):
    rates = {"before": {"harmful": Estimate(0.5, 0.2, 0.8, 8)}}
    rows = [GalleryRow(name=name, model="m", run={"layer": 7}, rates=rates) for name in "ab"]
    page = open_page(html=render_lenses(rows), ready="#runs tbody tr")
    expect(page.locator("#layer, #where, #before, #next")).to_have_count(4)
    for control in page.locator("#layer, #where, #before, #next").all():
        expect(control).to_be_hidden()
    expect(page.locator("#show-0")).to_be_hidden()
    expect(page.locator("p.about")).not_to_contain_text("Tick")


def test_of_many_prompts_boxes_follow_and_any_prompt_can_be_chosen(open_page):
    study, content = planted_page(110)
    page = open_page(html=render_lenses([lens_of(study.look, **content)]))
    frame = study.look.projections.frame(origin="midpoint").set_index(["layer", "label"])
    for layer in (0, 3):
        page.locator("#layer").fill(str(layer))
        for number, label in enumerate(("harmful", "pseudo_harmful", "benign")):
            rows = frame.loc[(layer, label)].set_index("prompt_index")["projection"]
            boxes = page.evaluate(
                "(at) => document.getElementById('plot-prompts').data[at].y", number
            )
            assert boxes == box_heights(rows.to_numpy()).tolist()
            drawn = page.evaluate(DRAWN, ["prompts", "points", label])
            assert {y for _, y in drawn} <= set(rows)
            assert len(drawn) == FEW
        hidden = next(i for i, y in rows.items() if y not in {y for _, y in drawn})
        page.locator("#prompt").select_option(str(hidden))
        alone = "() => document.getElementById('plot-prompts').data.at(-1)"
        shown = page.evaluate(f"({alone})().y.concat(({alone})().x)")
        assert shown == [rows[hidden], 2]
    page.locator("#prompt").select_option("")
    assert page.evaluate(f"({alone})().y") == []


def test_the_page_within_another_is_linked_and_kept_apart(open_page, made):
    study, content = made
    text = page_inside(render_lenses([lens_of(study.look, **content)]))
    page = open_page(html=f"<!doctype html><title>a notebook</title>{text}", ready="iframe")
    assert page.locator("p").first.inner_text().startswith("Widgets do not run here")
    inside = page.frame_locator("iframe")
    expect(inside.locator("#words tr")).not_to_have_count(0)
    inside.locator("#layer").fill("2")
    expect(inside.get_by_text("Prompts at layer 2")).to_be_visible()
    reach = "() => { try { return parent.document.title; } catch { return 'kept apart'; } }"
    assert inside.locator("body").evaluate(reach) == "kept apart"
    assert inside.locator("body").evaluate("() => window.harmed ?? null") is None
    assert page.evaluate("window.harmed ?? null") is None
