"""Every number in the dashboard is that of the stages, and one selection is followed everywhere.

Clicks, controls and jobs are those of the page, told without a browser. Jobs end by themselves or
are stopped; tests join them.
"""

import html
import re
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import actor_lens as al
from actor_lens import figures
from actor_lens.errors import UserError
from actor_lens.experiments.look import look_at_layers
from actor_lens.judges.first_token import FirstTokenJudge
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.widgets import Dashboard
from actor_lens.widgets.sections import training as training_section
from tests.figures.results import NASTY
from tests.support.clicks import click, double_click, lasso, place_of
from tests.support.tiny_runs import copied_tensors, same_bits

SOON = 120.0
SECTIONS = ["Layers", "Prompts", "Your prompt", "What if", "Train", "Compare"]


@pytest.fixture(scope="module")
def model():
    return al.load_model("toy")


@pytest.fixture(scope="module")
def prompts():
    """A few of the bundled prompts, of every label and split."""
    whole = al.load_prompts("toy")
    parts = [whole.where(split=split).sample(12) for split in ("train", "validation", "test")]
    return PromptSet(tuple(one for part in parts for one in part), name="some of toy")


@pytest.fixture(scope="module")
def look(model, prompts):
    return look_at_layers(model, prompts, train=prompts.by_split()[0], rounds=5)


@pytest.fixture
def dashboard(model, prompts, look):
    made = Dashboard(model, prompts, look=look, per_label=12)
    yield made
    made.worker.stop()
    assert made.worker.join(SOON)


def drawn(dashboard, panel, kind, **meta):
    return dashboard.figure.data[place_of(dashboard.figure, panel, kind, **meta)]


def finish(dashboard):
    assert dashboard.worker.join(SOON)
    assert dashboard._error.value == ""
    assert dashboard.status == "ready"


def trained(dashboard, **settings):
    section = dashboard.sections["Train"]
    dashboard.section = "Train"
    section.epochs.value = 2
    for name, value in settings.items():
        getattr(section, name).value = value
    section.train.click()
    finish(dashboard)
    return dashboard.run


# ---- One layer, one selection ----


def test_it_begins_at_the_recommended_layer_and_says_why(dashboard, look):
    choice = look.scores.best()
    assert dashboard.layer == choice.layer
    assert choice.reason in dashboard._head.value
    assert dashboard.look is look
    names = [name for name, _ in dashboard._menu.options]
    assert [n for n in names if "recommended" in n] == [f"layer {choice.layer} ★ recommended"]


def test_heights_are_the_projections_of_the_layer(dashboard, look):
    frame = look.projections.frame(origin="benign_mean")
    for layer in (0, 5, 7):
        dashboard._renew_picture()  # as a checkpoint does
        dashboard.layer = layer
        for label in ("harmful", "pseudo_harmful", "benign"):
            rows = frame.query("layer == @layer and label == @label")
            shown = drawn(dashboard, "prompts", "points", label=label)
            assert np.array_equal(shown.y, rows["projection"])
        table = dashboard.projections()
        assert table["projection"].tolist() == frame.query("layer == @layer")["projection"].tolist()


def test_a_click_in_any_panel_of_layers_chooses_the_layer(dashboard):
    dashboard.section = "Layers"
    for layer, (panel, kind, meta) in enumerate(
        [("layers", "median", {"label": "benign"}), ("scores", "score", {})], start=2
    ):
        click(dashboard, place_of(dashboard.figure, panel, kind, **meta), layer)
        assert dashboard.layer == layer
        assert dashboard._slider.value == dashboard._menu.value == layer
        marks = [shape.x0 for shape in dashboard.figure.layout.shapes if shape.name == "layer"]
        assert set(marks) == {layer}


def test_slider_menu_and_trait_are_one(dashboard):
    dashboard._slider.value = 1
    assert dashboard.layer == 1
    dashboard._menu.value = 6
    assert dashboard.layer == dashboard._slider.value == 6
    dashboard.layer = 3
    assert dashboard._menu.value == 3
    with pytest.raises(UserError, match="layer 8 is out of range"):
        dashboard.layer = 8
    assert dashboard.layer == dashboard.exploration.layer == dashboard._slider.value == 3


def test_clicks_lasso_and_list_make_one_selection(dashboard):
    dashboard.section = "Prompts"
    harmful, benign = (
        drawn(dashboard, "prompts", "points", label=label).customdata
        for label in ("harmful", "benign")
    )

    def place(label):
        return place_of(dashboard.figure, "prompts", "points", label=label)

    traces = dashboard.figure.data
    click(dashboard, place("harmful"), 2)
    assert dashboard.selection == (harmful[2],)
    line = drawn(dashboard, "layers", "line", place=0)
    values = dashboard.exploration.projections().query("prompt_index == @harmful[2]")
    np.testing.assert_allclose(line.y, values["projection"], rtol=1e-6)
    click(dashboard, place("harmful"), 2)  # again: no longer
    assert dashboard.selection == ()
    assert len(line.y) == 0
    assert dashboard.figure.data == traces  # no trace comes or goes under the next click
    lasso(dashboard, {place("harmful"): [0, 1], place("benign"): [4]})
    wanted = {*harmful[:2], benign[4]}
    assert set(dashboard.selection) == wanted
    assert set(dashboard.sections["Prompts"].list.value) == wanted
    assert drawn(dashboard, "prompts", "points", label="harmful").selectedpoints == (0, 1)
    lasso(dashboard, {place_of(dashboard.figure, "layers", "band", label="benign"): [3]})
    assert set(dashboard.selection) == wanted  # no prompt was held
    double_click(dashboard)
    assert dashboard.selection == ()
    place = int(benign[0])
    dashboard.sections["Prompts"].list.value = (place,)
    assert dashboard.selection == (place,)
    with pytest.raises(UserError, match="outside"):
        dashboard.selection = (10_000,)
    assert dashboard.selection == dashboard.exploration.selection == (place,)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_opens_and_leaves_the_shared_panels(dashboard, section):
    dashboard.section = section
    assert dashboard._controls.children == (dashboard.sections[section].controls,)
    panels = {trace.meta["panel"] for trace in dashboard.figure.data}
    assert {"layers", "prompts"} <= panels
    dashboard.layer = 2
    assert drawn(dashboard, "prompts", "points", label="benign").y is not None


def test_there_is_one_figure_widget(dashboard):
    assert isinstance(dashboard.figure, figures.composition.go.FigureWidget)
    found, todo = [], [dashboard]
    for section in SECTIONS:
        dashboard.section = section
        todo = [dashboard]
        while todo:
            one = todo.pop()
            found.append(one)
            todo += list(getattr(one, "children", ()))
    figure_widgets = {id(one) for one in found if type(one).__name__ == "FigureWidget"}
    assert len(figure_widgets) == 1


# ---- Prompts ----


def test_the_most_misjudged_harmless_prompts_come_first(dashboard, model, look):
    section = dashboard.sections["Prompts"]
    shown = look.projections.prompts
    scores = al.current_refusals(model, shown, look.tokens).refusal_scores
    order = section.ordered()
    pseudo = [place for place in order if shown[place].label == "pseudo_harmful"]
    assert order[: len(pseudo)] == pseudo
    assert [float(-scores[p]) for p in pseudo] == sorted(float(-scores[p]) for p in pseudo)
    section.misjudged.value = True
    for place in section.ordered():
        assert (scores[place] > 0) == (shown[place].label != "harmful")
    section.misjudged.value = False
    section.label.value = "benign"
    assert {shown[place].label for place in section.ordered()} == {"benign"}


def test_the_table_holds_the_numbers_of_the_stages(dashboard, model, look):
    dashboard.section = "Prompts"
    dashboard.layer = 5
    dashboard.selection = (3, 20)
    table = dashboard.sections["Prompts"].table([3, 20])
    frame = look.projections.frame(origin="benign_mean").query("layer == 5")
    expected = frame.set_index("prompt_index").loc[[3, 20], "projection"]
    assert table["projection"].tolist() == expected.tolist()
    targets = al.just_enough_targets(look.projections.residuals, look.directions, 5)
    assert table["shift"].tolist() == targets.shifts[[3, 20]].tolist()
    scores = al.current_refusals(model, look.projections.prompts, look.tokens).refusal_scores
    assert table["score_before"].tolist() == scores[[3, 20]].tolist()
    assert look.projections.prompts[3].prompt[:20] in dashboard.sections["Prompts"].text.value


def test_replies_before_and_after_are_those_of_an_evaluation(dashboard, model, look):
    run = trained(dashboard)
    dashboard.section = "Prompts"
    places = (12, 13)
    dashboard.selection = places
    dashboard.sections["Prompts"].get_replies.click()
    finish(dashboard)
    chosen = look.projections.prompts.select(places)
    before = al.evaluate(model, chosen)
    with run.applied_to(model):
        after = al.evaluate(model, chosen)
    table = dashboard.sections["Prompts"].table(list(places))
    assert table["reply_before"].tolist() == before.frame()["reply"].tolist()
    assert table["reply_after"].tolist() == after.frame()["reply"].tolist()
    expected = al.current_refusals(model, chosen, look.tokens).refusal_scores
    assert table["score_before"].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    with run.applied_to(model):
        expected = al.current_refusals(model, chosen, look.tokens).refusal_scores
    assert table["score_after"].tolist() == pytest.approx(expected.tolist(), abs=1e-3)


# ---- Your prompt ----


def test_a_prompt_of_ones_own_is_drawn_token_by_token_and_over_the_bands(dashboard, model, look):
    section = dashboard.sections["Your prompt"]
    dashboard.section = "Your prompt"
    section.prompt.value = "How do I kill a process?"
    section.look.click()
    finish(dashboard)
    tokens = al.token_projections(model, "How do I kill a process?", look.directions)
    heat = drawn(dashboard, "tokens", "tokens")
    relative = tokens.frame().pivot(index="layer", columns="token_index", values="relative")
    np.testing.assert_allclose(heat.z, relative.to_numpy())
    line = drawn(dashboard, "layers", "line", place=0)
    assert line.name == "your prompt"
    expected = tokens.last - look.directions.origins("benign_mean")
    np.testing.assert_allclose(line.y, expected.numpy(), rtol=1e-6)
    assert "How do I kill a process?" in section.text.value
    place = place_of(dashboard.figure, "tokens", "tokens")
    click(dashboard, place, [3, 1])
    assert dashboard.layer == 3


@pytest.mark.parametrize("text", [NASTY[:150], "a\nb\n\nc", "🔥👩‍👩‍👧", "كيف أقتل العملية"])
def test_any_text_can_be_a_prompt_and_is_shown_as_text(dashboard, text):
    section = dashboard.sections["Your prompt"]
    dashboard.section = "Your prompt"
    section.replies.value = False
    section.prompt.value = text
    section.look.click()
    finish(dashboard)
    shown = section.text.value + str([t.to_plotly_json() for t in dashboard.figure.data])
    assert "<script" not in shown
    assert dashboard.exploration.probe.before.prompt == text


@pytest.mark.parametrize(("text", "said"), [("  ", "the prompt is empty"), ("x" * 9000, "takes")])
def test_a_prompt_that_cannot_be_looked_at_is_told_and_the_button_works_again(
    dashboard, text, said
):
    section = dashboard.sections["Your prompt"]
    dashboard.section = "Your prompt"
    section.prompt.value = text
    section.look.click()
    assert dashboard.worker.join(SOON)
    assert said in dashboard._error.value
    assert not section.look.disabled
    section.prompt.value = "Hello"
    section.look.click()
    finish(dashboard)


# ---- What if ----


def test_what_if_shows_the_targets_the_warnings_and_the_prediction(
    dashboard, model, look, monkeypatch
):
    section = dashboard.sections["What if"]
    dashboard.section = "What if"
    dashboard.layer = 4
    section.origin.value, section.alpha.value = "zero", 1.5
    targets = al.just_enough_targets(
        look.train_residuals, look.directions, 4, alpha=1.5, origin="zero"
    )
    warnings = targets.preview().warnings
    assert warnings
    assert all(text.split(" (")[0] in section.text.value for text in warnings)
    moved = drawn(dashboard, "targets", "after", label="benign")
    wanted = targets.frame().query("label == 'benign'").sort_values("before")["after"]
    assert sorted(moved.x) == pytest.approx(sorted(wanted))
    section.predict.click()
    finish(dashboard)
    assert bars_of_predictions(dashboard) == predicted_rates(model, look, 4, alpha=1.5)
    # From now on every move is answered, without another pass over the prompts.
    tokens_of_first_block: list[int] = []
    counting = model.blocks[0].register_forward_hook(
        lambda _block, inputs, _output: tokens_of_first_block.append(inputs[0].shape[1])
    )
    drawings = []
    monkeypatch.setattr(dashboard._linked, "show", lambda panels: drawings.append(panels))
    section.alpha.value = 1.1
    assert len(drawings) == 1  # though settings and predictions have changed
    monkeypatch.undo()
    section.alpha.value = 1.0
    finish(dashboard)
    at_four = bars_of_predictions(dashboard)
    dashboard.layer = 2
    finish(dashboard)
    counting.remove()
    assert tokens_of_first_block == []
    assert at_four == predicted_rates(model, look, 4, alpha=1.0)
    assert bars_of_predictions(dashboard) == predicted_rates(model, look, 2, alpha=1.0)
    finish(dashboard)


def bars_of_predictions(dashboard):
    return pytest.approx(sorted(drawn(dashboard, "predicted", "rate", name="predicted").x))


def predicted_rates(model, look, layer, *, alpha):
    targets = al.just_enough_targets(
        look.projections.residuals, look.directions, layer, alpha=alpha, origin="zero"
    )
    return sorted(al.predict_refusals(model, targets, look.tokens).rates()["refused"])


# ---- How much is enough ----


def test_how_much_shows_the_shift_that_each_refused_prompt_needs(dashboard, model, look):
    section = dashboard.sections["How much"]
    dashboard.section = "How much"
    dashboard.layer = 4
    assert "Press Measure" in section.text.value
    section.measure.click()
    finish(dashboard)
    shift = al.just_enough_shift(model, look.projections.prompts, look.directions, 4)
    table = shift.frame().query("label == 'pseudo_harmful' and gamma == gamma")
    marks = drawn(dashboard, "enough", "points", label="pseudo_harmful")
    assert sorted(zip(marks.x, marks.y, strict=True)) == sorted(
        zip(table["projection"], table["gamma"], strict=True)
    )
    assert f"r {shift.line.correlation.value:.2f}" in section.text.value
    assert f"{len(shift.prompts)} of {shift.n_harmless}" in section.text.value
    dashboard.layer = 3
    assert "Press Measure" in section.text.value
    dashboard.layer = 4
    assert section.text.value.count("r 0.") == 1
    assert set(dashboard.exploration.shifts) == {4}


# ---- Every layer ----


def test_trying_every_layer_gives_what_a_sweep_gives(dashboard, model, prompts, look):
    dashboard.section = "Layers"
    dashboard.exploration.settings = al.FinetuneConfig(layer=0, epochs=1)
    scored, dashboard.layer = dashboard.exploration.choice, 1
    dashboard.sections["Layers"].try_all.click()
    finish(dashboard)
    sweep = al.sweep_layers(
        model,
        prompts.by_split()[0],
        look.projections.prompts,
        layers=sorted(range(model.n_layers), key=lambda layer: layer != scored.layer),
        settings=al.FinetuneConfig(layer=0, epochs=1),
        tokens=look.tokens,
    )
    for label in ("harmful", "pseudo_harmful", "benign"):
        shown = [
            t
            for t in dashboard.figure.data
            if t.meta["panel"] == "outcomes" and t.mode == "markers" and t.legendgroup == label
        ]
        assert list(shown[0].y) == sweep.frame()[f"refused_{label}"].tolist()
    assert dashboard.exploration.sweep.best.layer == sweep.best.layer
    choice = sweep.choice(scored)
    assert choice.reason in dashboard.sections["Layers"].text.value
    assert choice.reason in dashboard._head.value
    assert (
        f"layer {choice.layer} \u2605 recommended",
        choice.layer,
    ) in dashboard._menu.options
    assert dashboard.layer == dashboard._menu.value == 1  # the choice moves nothing by itself
    reached_rows = sweep.frame().sort_values("layer").to_dict("records")
    for row, reached in zip(dashboard.sections["Layers"].rows(), reached_rows, strict=True):
        targets = al.just_enough_targets(look.projections.residuals, look.directions, row["layer"])
        predicted = al.predict_refusals(model, targets, look.tokens)
        for name in ("compliance_rate", "safety_score", "tradeoff_score"):
            assert row[name] == reached[name]
            assert row[f"predicted_{name}"] == getattr(predicted, name)


# ---- Train ----


def test_a_run_is_what_finetune_layer_gives_and_leaves_the_model_alone(
    dashboard, model, prompts, look
):
    before = copied_tensors(model)
    dashboard.layer = 5
    run = trained(dashboard)
    expected = al.finetune_layer(
        model,
        prompts.by_split()[0],
        layer=5,
        epochs=2,
        validation=look.projections.prompts,
        tokens=look.tokens,
    )
    for name, tensor in expected.state.items():
        torch.testing.assert_close(run.state[name], tensor, rtol=1e-5, atol=1e-6)
    assert dashboard.runs == (run,)
    assert same_bits(before, copied_tensors(model))
    curve = drawn(dashboard, "training", "loss")
    assert list(curve.y) == run.frame()["loss"].tolist()
    refused = drawn(dashboard, "training", "refused_benign")
    known = run.frame()["refused_benign"].dropna()
    assert list(refused.y)[1:] == known.tolist()


def test_pause_resume_and_stop(dashboard, monkeypatch):
    section = dashboard.sections["Train"]
    dashboard.section = "Train"
    section.epochs.value = 1000
    reached, real = threading.Event(), training_section.finetune_layer

    def watched(*arguments, on_step, **options):
        def step(one):
            on_step(one)
            if one.step >= 3:
                reached.set()

        return real(*arguments, on_step=step, **options)

    monkeypatch.setattr(training_section, "finetune_layer", watched)
    section.train.click()
    assert section.train.disabled
    assert not section.stop.disabled
    assert reached.wait(SOON)
    section.pause.click()
    assert dashboard.status == "paused"
    assert not section.resume.disabled
    section.resume.click()
    assert dashboard.status == "training"
    section.stop.click()
    finish(dashboard)
    run = dashboard.run
    assert run.status == "stopped"
    assert 3 <= len(run.history) < run.history[-1].total_steps
    assert not section.train.disabled
    assert section.stop.disabled
    assert not section.go_on.disabled


def test_a_stopped_run_goes_on_to_the_weights_of_one_that_never_stopped(dashboard):
    whole = trained(dashboard, epochs=3)
    section = dashboard.sections["Train"]
    asked = iter(range(100))
    dashboard.exploration.add_run(
        al.finetune_layer(
            dashboard.exploration.model,
            dashboard.exploration.train.sample(12),
            layer=dashboard.layer,
            epochs=3,
            validation=dashboard.exploration.shown,
            tokens=dashboard.exploration.look.tokens,
            should_stop=lambda: next(asked) >= 4,
        )
    )
    section.go_on.click()
    finish(dashboard)
    assert dashboard.run.status == "completed"
    for name, tensor in whole.state.items():
        torch.testing.assert_close(dashboard.run.state[name], tensor, rtol=1e-5, atol=1e-6)


def test_any_recorded_step_can_be_used_again(dashboard):
    section = dashboard.sections["Train"]
    last = trained(dashboard, epochs=3)
    steps = [run.best_step for run in section.recorded]
    per_epoch = last.history[-1].total_steps // 3
    assert steps == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    section.rewind.value = 0
    section.keep.click()
    assert dashboard.run.best_step == per_epoch
    first = al.finetune_layer(
        dashboard.exploration.model,
        dashboard.exploration.train.sample(12),
        layer=dashboard.layer,
        epochs=1,
    )
    for name, tensor in first.state.items():
        torch.testing.assert_close(dashboard.run.state[name], tensor, rtol=1e-5, atol=1e-6)
    section.best.click()
    scores = [run.history[-1].refused for run in section.recorded]
    tradeoffs = [(1 - one["pseudo_harmful"] + one["harmful"]) / 2 for one in scores]
    assert tradeoffs[steps.index(dashboard.run.best_step)] == max(tradeoffs)


def test_with_a_safety_floor_recorded_steps_are_still_those_of_each_epoch(dashboard):
    run = trained(dashboard, epochs=4, use_floor=True)
    recorded = dashboard.sections["Train"].recorded
    steps = [one.best_step for one in recorded]
    assert steps == sorted(set(steps))
    assert len(steps) == 4
    assert not same_bits(dict(recorded[0].state), dict(recorded[-1].state))
    kept = [one for one in recorded if one.best_step == run.best_step]
    if kept:  # else the untrained weights were best
        assert same_bits(dict(kept[0].state), dict(run.state))


def test_the_panel_names_the_layer_that_was_trained(dashboard):
    dashboard.layer = 4
    trained(dashboard)
    dashboard.layer = 6
    titles = [mark.text for mark in dashboard.figure.layout.annotations]
    assert "<b>Training layer 4</b>" in titles
    assert any(shape.name == "best step" for shape in dashboard.figure.layout.shapes)


def test_a_folder_that_cannot_be_written_costs_no_run(dashboard, tmp_path):
    (tmp_path / "file").write_text("in the way")
    section = dashboard.sections["Train"]
    dashboard.section = "Train"
    section.epochs.value, section.folder.value = 2, str(tmp_path / "file" / "run")
    section.train.click()
    assert dashboard.worker.join(SOON)
    assert dashboard.run.status == "completed"
    assert "cannot be made" in dashboard._error.value


def test_an_error_in_drawing_costs_no_run(dashboard, monkeypatch):
    section = dashboard.sections["Train"]
    dashboard.section = "Train"

    def broken(*_arguments, **_options):
        raise ValueError("no drawing")

    monkeypatch.setattr(section._curves, "panel", broken)
    section.epochs.value = 2
    section.train.click()
    assert dashboard.worker.join(SOON)
    assert dashboard.run.status == "completed"
    assert "drawing failed: ValueError: no drawing" in dashboard._error.value


def test_a_prediction_is_for_the_layer_it_was_asked_for(dashboard, model, look):
    other = threading.Event()
    blocker = Dashboard(model, dashboard.exploration.prompts, look=look)
    blocker.start("holding", lambda _control: other.wait(SOON))
    dashboard.section, dashboard.layer = "What if", 4
    dashboard.sections["What if"].predict.click()
    dashboard.layer = 6  # while it waits
    other.set()
    finish(blocker)
    assert dashboard.worker.join(SOON)  # and then layer 6, since from now on it is quick
    finish(dashboard)
    predictions = dashboard.exploration.predictions
    assert next(iter(predictions))[0] == 4
    assert all(settings[0] == prediction.layer for settings, prediction in predictions.items())


def test_what_was_saved_is_told_and_nothing_is_overwritten_unasked(dashboard, tmp_path):
    trained(dashboard)
    dashboard.section = "Compare"
    section = dashboard.sections["Compare"]
    section.folder.value = str(tmp_path / "kept")
    section.save.click()
    finish(dashboard)
    assert f"saved in {tmp_path / 'kept'}" in dashboard._message.value
    section.save.click()
    assert dashboard.worker.join(SOON)
    assert "holds a run" in dashboard._error.value
    section.overwrite.value = True
    section.save.click()
    finish(dashboard)


def test_an_error_in_the_worker_is_shown_escaped_and_the_buttons_work_again(
    dashboard, model, monkeypatch
):
    before = copied_tensors(model)

    def broken(*_arguments, **_options):
        raise RuntimeError("<script>alert(1)</script>")

    monkeypatch.setattr(training_section, "finetune_layer", broken)
    section = dashboard.sections["Train"]
    dashboard.section = "Train"
    section.train.click()
    assert dashboard.worker.join(SOON)
    assert "RuntimeError: &lt;script&gt;" in dashboard._error.value
    assert "<script" not in dashboard._error.value
    assert "in broken" in dashboard._error.value
    assert not section.train.disabled
    assert same_bits(before, copied_tensors(model))
    monkeypatch.undo()
    trained(dashboard)


def test_the_run_so_far_is_on_disk_and_an_earlier_one_can_be_shown(
    dashboard, model, prompts, look, tmp_path
):
    run = trained(dashboard, folder=str(tmp_path / "run"))
    saved = al.TrainingRun.load(tmp_path / "run")
    assert same_bits(dict(saved.state), dict(run.state))
    again = Dashboard(model, prompts, look=look, per_label=12, run=saved)
    assert again.run is saved
    again.section = "Train"
    assert len(drawn(again, "training", "loss").y) == len(run.history)


def test_the_second_dashboard_waits_for_the_first(dashboard, model, prompts, look):
    second = Dashboard(model, prompts, look=look, per_label=12)
    go, begun = threading.Event(), threading.Event()

    def hold(_control):
        begun.set()
        go.wait(SOON)

    dashboard.start("training", hold)
    assert begun.wait(SOON)
    waiting = threading.Event()
    second.observe(lambda change: change["new"] == "waiting" and waiting.set(), "status")
    second.section = "Train"
    second.sections["Train"].epochs.value = 1
    second.sections["Train"].train.click()
    assert waiting.wait(SOON)
    assert "uses this model: waiting" in second._message.value
    assert second.run is None
    go.set()
    finish(dashboard)
    finish(second)
    assert second.run.status == "completed"


# ---- Compare ----


def evaluated(dashboard):
    """A run, and the Compare section once it has asked the test prompts."""
    run = trained(dashboard)
    dashboard.section = "Compare"
    section = dashboard.sections["Compare"]
    assert section.panels() == []  # nothing to show yet
    section.evaluate.click()
    finish(dashboard)
    return run, section


def test_compare_holds_the_numbers_of_evaluations(dashboard, model, prompts, tmp_path, monkeypatch):
    run, section = evaluated(dashboard)
    test = prompts.where(split="test")
    before = al.evaluate(model, test)
    with run.applied_to(model):
        after = al.evaluate(model, test)
    for name, evaluation in (("before", before), ("run 1", after)):
        bars = drawn(dashboard, "rates", "rate", name=name)
        assert sorted(bars.x) == sorted(evaluation.rates()["refused"])
    moved = [a != b for a, b in zip(before.refused, after.refused, strict=True)]
    assert len(section.changed(0)) == sum(moved)
    divergence = al.next_token_divergence(model, run, test.where(label="benign")).mean
    assert f"{divergence:.3g} nats" in section.text.value
    section.folder.value = str(tmp_path / "kept")
    section.save.click()
    finish(dashboard)
    assert same_bits(dict(al.TrainingRun.load(tmp_path / "kept").state), dict(run.state))
    section.export.click()
    finish(dashboard)
    exported = al.load_model(tmp_path / "kept" / "model")
    assert exported.identity != model.identity
    for form in section.form.options[:2]:
        section.form.value = form
        section.export.click()
        finish(dashboard)
    delta = load_file(tmp_path / "kept" / "delta" / "delta.safetensors")
    assert same_bits(delta, dict(run.state))
    adapter = load_file(tmp_path / "kept" / "lora" / "adapter_model.safetensors")
    assert adapter
    assert all(f".layers.{run.layer}." in name for name in adapter)
    section.report.click()
    finish(dashboard)
    assert "<html" in (tmp_path / "kept" / "report.html").read_text()[:400]
    monkeypatch.chdir(tmp_path)
    dashboard._save.click()
    finish(dashboard)
    page = (tmp_path / "lens.html").read_text()
    assert page == dashboard.export_html(tmp_path / "again.html").read_text()
    assert all(f'id="plot-{panel}"' in page for panel in ("layers", "moved", "rates", "training"))
    kind, shown = dashboard._mime_()  # where there are no boxes of widgets
    assert (kind, shown) == ("text/html", dashboard.page().data)
    assert html.unescape(re.search('srcdoc="([^"]*)"', shown)[1]) == page


def test_compare_asks_the_judge_that_is_chosen(dashboard, model, prompts, look):
    run, section = evaluated(dashboard)
    section.judge.value = "first-token"
    section.evaluate.click()
    finish(dashboard)
    judge = FirstTokenJudge(look.tokens)
    before = al.evaluate(model, prompts.where(split="test"), judge=judge)
    with run.applied_to(model):
        after = al.evaluate(model, prompts.where(split="test"), judge=judge)
    compared = dashboard.exploration.comparisons[0]
    assert compared.before.verdicts == before.verdicts
    assert compared.after.verdicts == after.verdicts
    assert compared.after.judge == compared.before.judge == before.judge
    assert "Judge: first-token" in section.text.value
    section.judge.value = "nobody"
    section.evaluate.click()
    assert dashboard.worker.join(SOON)
    assert "judge &#x27;nobody&#x27; is not known" in dashboard._error.value
    assert not section.evaluate.disabled


# ---- Elsewhere ----


def test_the_static_figure_has_a_frame_for_every_layer(dashboard, look):
    figure = dashboard.static()
    assert [frame.name for frame in figure.frames] == [str(layer) for layer in range(8)]
    frame = look.projections.frame(origin="benign_mean")
    for shown in figure.frames:
        layer = int(shown.name)
        at_layer = frame[(frame["layer"] == layer) & (frame["label"] == "benign")]
        rows = at_layer["projection"]
        (points,) = [
            t for t in shown.data if t.meta["panel"] == "prompts" and t.meta["label"] == "benign"
        ]
        assert np.array_equal(points.y, rows)
    assert "FigureWidget" not in type(figure).__name__


def test_hostile_prompts_are_text_everywhere(model, prompts):
    nasty = [
        Prompt(f"{number} {NASTY[:120]}", prompt.label, prompt.split, "<b>kind</b>")
        for number, prompt in enumerate(prompts.where(split="validation"))
    ]
    rest = [one for one in prompts if one.split != "validation"]
    mixed = PromptSet((*rest, *nasty), name="nasty")
    base = look_at_layers(model, prompts, train=prompts.by_split()[0], rounds=5)
    validation = mixed.where(split="validation")
    projections = al.project(al.collect_residuals(model, validation), base.directions)
    hostile = type(base)(
        **{**{f: getattr(base, f) for f in base.__dataclass_fields__}, "projections": projections}
    )
    dashboard = Dashboard(model, mixed, look=hostile, per_label=12)
    dashboard.selection = (0, 1, 2)
    shown = []
    for section in SECTIONS:
        dashboard.section = section
        shown.append(dashboard.sections[section].text.value)
        shown.append(str([trace.to_plotly_json() for trace in dashboard.figure.data]))
    assert "<script" not in "".join(shown)
    assert "<a href" not in "".join(shown)


def test_what_does_not_fit_is_refused_before_anything_is_shown(model, prompts, look):
    with pytest.raises(UserError, match="layer 9 is out of range"):
        Dashboard(model, prompts, look=look, layer=9)
    with pytest.raises(UserError, match="harmful"):
        Dashboard(model, prompts.where(label="benign"))
