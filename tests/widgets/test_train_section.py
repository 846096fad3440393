"""Train in the dashboard does what ``actor-lens train`` does with the same anchors and origin.

What has to be read or measured first belongs to the job that trains: it shows its stages, it can be
stopped, and where it fails nothing is trained and nothing is lost.
"""

import pytest

import actor_lens as al
from actor_lens.directions.just_enough_shift import fitted_place
from actor_lens.experiments.look import look_at_layers
from actor_lens.prompts.mixtures import load_anchors
from actor_lens.prompts.sets import PromptSet
from actor_lens.training import finetuning
from actor_lens.widgets import Dashboard
from actor_lens.widgets.jobs import Worker
from tests.support.tiny_runs import same_bits

SOON = 120.0
LAYER = 4


@pytest.fixture(scope="module")
def model():
    return al.load_model("toy")


@pytest.fixture(scope="module")
def whole():
    return al.load_prompts("toy")


@pytest.fixture(scope="module")
def prompts(whole):
    parts = [whole.where(split=split).sample(12) for split in ("train", "validation", "test")]
    return PromptSet(tuple(one for part in parts for one in part), name="some of toy")


@pytest.fixture(scope="module")
def look(model, prompts):
    return look_at_layers(model, prompts, train=prompts.by_split()[0], rounds=2)


@pytest.fixture(scope="module")
def anchors(whole, prompts, tmp_path_factory):
    """A file of harmful and benign prompts that are not trained on."""
    path = tmp_path_factory.mktemp("anchors") / "anchors.jsonl"
    own = [one for one in whole.where(split="train").sample(20, seed=1) if one not in prompts]
    PromptSet(tuple(one for one in own if one.label != "pseudo_harmful")).save(path)
    return path


@pytest.fixture
def dashboard(model, prompts, look):
    made = Dashboard(model, prompts, look=look, per_label=12, layer=LAYER)
    made.section = "Train"
    made.sections["Train"].epochs.value = 2
    yield made
    made.worker.stop()
    assert made.worker.join(SOON)


@pytest.fixture
def section(dashboard):
    return dashboard.sections["Train"]


@pytest.fixture
def shown(section):
    """Every line of progress."""
    lines = []
    section.words.observe(lambda change: lines.append(change["new"]), "value")
    return lines


def press(dashboard, button):
    button.click()
    assert dashboard.worker.join(SOON)
    assert dashboard.status == "ready"
    return dashboard._error.value


def expected(model, prompts, look, **settings):
    return al.finetune_layer(
        model,
        prompts.by_split()[0],
        layer=LAYER,
        epochs=2,
        validation=look.projections.prompts,
        tokens=look.tokens,
        **settings,
    )


def test_anchors_make_the_direction_that_the_command_makes_of_them(
    dashboard, section, model, prompts, look, anchors
):
    section.anchors.value = f" {anchors} "
    assert press(dashboard, section.train) == ""
    run = expected(model, prompts, look, anchors=load_anchors(str(anchors)))
    assert dashboard.run.anchors == run.anchors
    assert same_bits(dict(dashboard.run.state), dict(run.state))
    dashboard.section = "Compare"
    assert "anchors anchors.jsonl" in dashboard.sections["Compare"].runs.options[0][0]
    section.anchors.value = ""
    assert press(dashboard, section.train) == ""
    assert dashboard.run.anchors is None
    assert not same_bits(dict(dashboard.run.state), dict(run.state))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, "no such prompt file"),
        ({"label": "harmful"}, "benign"),
        ({"split": "test"}, "of the test among them"),
    ],
)
def test_wrong_anchors_are_one_line_and_leave_the_last_run(
    dashboard, section, prompts, tmp_path, rows, said
):
    assert press(dashboard, section.train) == ""
    run, history, recorded = dashboard.run, dashboard.exploration.history, section.recorded
    path = tmp_path / "wrong.jsonl"
    if rows is not None:
        prompts.where(**rows).save(path)
    section.anchors.value = str(path)
    error = press(dashboard, section.train)
    assert said in error
    assert "<details" not in error  # no traceback
    assert section.anchors.value == str(path)
    assert dashboard.runs == (run,)
    assert (dashboard.exploration.history, section.recorded) == (history, recorded)
    assert not section.train.disabled
    assert not section.anchors.disabled


def test_a_run_that_goes_on_has_its_own_anchors(dashboard, section, model, prompts, look, anchors):
    asked = iter(range(100))
    own = load_anchors(str(anchors))
    stopped = expected(model, prompts, look, anchors=own, should_stop=lambda: next(asked) >= 2)
    dashboard.exploration.add_run(stopped)
    section.anchors.value, section.fitted.value = "no such file", True
    assert press(dashboard, section.go_on) == ""
    assert dashboard.run.status == "completed"
    assert dashboard.run.anchors == stopped.anchors


def test_a_fitted_origin_is_measured_when_training_starts_and_only_there(
    dashboard, section, shown, model, prompts, look, tmp_path
):
    passes = []
    counting = model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    section.fitted.value = True
    counting.remove()
    assert passes == []
    assert press(dashboard, section.train) == ""
    train = prompts.by_split()[0]
    assert dashboard.run.config.origin == "fitted"
    assert dashboard.run.origin_place == fitted_place("fitted", model, train, LAYER)
    run = expected(model, prompts, look, origin="fitted")
    assert same_bits(dict(dashboard.run.state), dict(run.state))
    for stage in ("fitted origin", "replies without a shift", "just-enough shifts"):
        assert any(stage in line for line in shown)
    assert "step " in shown[-1]
    # Everything else counts from an origin that is known at every layer.
    assert dashboard.exploration.settings.origin == dashboard.exploration.origin == "benign_mean"
    for title, opened in dashboard.sections.items():
        dashboard.section = title
        opened.refresh()
        dashboard.layer = LAYER - 1
        dashboard.layer = LAYER
    assert dashboard._error.value == ""
    compare = dashboard.sections["Compare"]
    compare.folder.value = str(tmp_path)
    assert press(dashboard, compare.report) == ""
    assert "fitted origin" in (tmp_path / "report.html").read_text()


def test_stop_ends_a_fit_and_nothing_is_trained(dashboard, section):
    def stop_at(change):
        if "replies without a shift" in change["new"]:
            section.stop.click()

    section.words.observe(stop_at, "value")
    section.fitted.value = True
    assert press(dashboard, section.train) == ""
    assert dashboard.runs == ()
    assert dashboard.exploration.history == ()
    assert (section.words.value, section.progress.value) == ("", 0)
    assert not section.train.disabled


def test_stop_before_the_first_step_leaves_the_last_run_and_what_is_saved(
    dashboard, section, tmp_path, monkeypatch
):
    section.folder.value = str(tmp_path / "run")
    assert press(dashboard, section.train) == ""
    run, history, recorded = dashboard.run, dashboard.exploration.history, section.recorded
    collect = finetuning.collect_block_inputs

    def stop_and_collect(*arguments, **settings):
        section.stop.click()
        return collect(*arguments, **settings)

    monkeypatch.setattr(finetuning, "collect_block_inputs", stop_and_collect)
    assert press(dashboard, section.train) == ""
    assert dashboard.runs == (run,)
    assert (dashboard.exploration.history, section.recorded) == (history, recorded)
    assert al.TrainingRun.load(tmp_path / "run").best_step == run.best_step > 0


def test_stop_before_the_model_is_free_leaves_the_last_run(dashboard, section, model):
    assert press(dashboard, section.train) == ""
    history, recorded = dashboard.exploration.history, section.recorded
    other = Worker(model, "other", on_change=lambda: None, on_error=lambda *_: None)

    def stop_in_vain():
        section.train.click()
        section.stop.click()
        assert press(dashboard, section.stop) == ""

    assert other.run_now(stop_in_vain)
    assert (dashboard.exploration.history, section.recorded) == (history, recorded)
    assert heading(dashboard) == f"<b>Training layer {LAYER}</b>"


def test_a_fit_that_cannot_be_made_says_so(dashboard, section, anchors):
    section.fitted.value, section.anchors.value = True, str(anchors)
    assert "leave the anchors out" in press(dashboard, section.train)
    section.anchors.value, dashboard.layer = "", 0
    assert "no origin can be fitted at layer 0" in press(dashboard, section.train)
    assert dashboard.runs == ()


def heading(dashboard):
    """The title of the curves."""
    titles = [mark.text for mark in dashboard.figure.layout.annotations]
    return next(title for title in titles if title.startswith("<b>Training"))


def test_the_panel_follows_the_settings_where_nothing_was_trained(dashboard, section):
    section.use_floor.value, section.anchors.value = True, "no such file"
    assert "no such file" in press(dashboard, section.train)
    assert heading(dashboard) == f"<b>Training layer {LAYER}</b>"
    assert "safety floor" in str(dashboard.figure.layout)
    dashboard.layer, section.use_floor.value = LAYER - 1, False
    assert heading(dashboard) == f"<b>Training layer {LAYER - 1}</b>"
    assert "safety floor" not in str(dashboard.figure.layout)


def test_curves_of_a_run_that_breaks_have_its_own_layer(dashboard, section, monkeypatch):
    assert press(dashboard, section.train) == ""
    assert heading(dashboard) == f"<b>Training layer {LAYER}</b>"
    run = dashboard.run

    def break_down(*_arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(section, "_record", break_down)  # after the first epoch
    dashboard.layer = LAYER - 1
    assert "no room" in press(dashboard, section.train)
    assert dashboard.run is run
    assert dashboard.exploration.history != run.history
    assert heading(dashboard) == f"<b>Training layer {LAYER - 1}</b>"
    assert not any(shape.name == "best step" for shape in dashboard.figure.layout.shapes)
