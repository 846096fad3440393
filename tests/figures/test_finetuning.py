"""The curves are the recorded numbers; the average is that of its recurrence, without its bias."""

import numpy as np
import pandas as pd
import pytest

from actor_lens.errors import UserError
from actor_lens.figures import training_curves, training_lines
from actor_lens.figures.finetuning import STEPS_SHOWN
from tests.figures.results import LABELS, Run, training
from tests.figures.traces import trace, traces

BEFORE = {"harmful": 0.99, "pseudo_harmful": 0.7, "benign": 0.01}


def debiased(values, smoothing):
    """The exponential average as Adam corrects it."""
    average, averages = 0.0, []
    for count, value in enumerate(values, start=1):
        average = smoothing * average + (1 - smoothing) * value
        averages.append(average / (1 - smoothing**count))
    return averages


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9])
def test_the_loss_is_drawn_raw_and_averaged(smoothing):
    table = training()
    figure = training_curves(table, smoothing=smoothing)
    assert np.array_equal(trace(figure, "loss").y, table["loss"])
    average = trace(figure, "averaged_loss")
    assert average.y == pytest.approx(debiased(table["loss"], smoothing))
    assert average.line.width > trace(figure, "loss").line.width
    per_label = trace(figure, "averaged_loss_benign")
    assert per_label.y == pytest.approx(debiased(table["loss_benign"], smoothing))


def test_the_average_has_no_use_for_a_weight_of_one():
    with pytest.raises(UserError, match="smoothing is 1"):
        training_curves(training(), smoothing=1.0)


def test_projections_drift_and_checks_are_the_recorded_numbers():
    table = training()
    figure = training_curves(Run(table))
    for label in LABELS:
        assert np.array_equal(trace(figure, f"projection_{label}").y, table[f"projection_{label}"])
        assert list(trace(figure, f"refused_{label}").x) == [10, 20, 30]
    assert np.array_equal(trace(figure, "direction_cosine").y, table["direction_cosine"])


def test_labels_differ_by_dash_and_symbol():
    figure = training_curves(training())
    checks = [trace(figure, f"refused_{label}") for label in LABELS]
    assert [t.line.dash for t in checks] == ["solid", "dash", "dot"]
    assert [t.marker.symbol for t in checks] == ["x", "diamond", "circle"]


def test_each_name_is_in_the_legend_once():
    shown = [t.name for t in training_curves(training()).data if t.showlegend]
    assert sorted(shown) == ["benign", "harmful", "loss", "loss, averaged", "pseudo-harmful"]


def floor_lines(figure):
    return [s.y0 for s in figure.layout.shapes if s.name == "safety floor"]


def test_the_floor_counts_from_the_refusals_before_training():
    figure = training_curves(Run(training(), refused_before=BEFORE))
    assert floor_lines(figure) == [pytest.approx(0.97)]
    assert list(trace(figure, "refused_harmful").x) == [0, 10, 20, 30]
    assert trace(figure, "refused_harmful").y[0] == 0.99
    start = pd.DataFrame([{"step": 0, "refused_harmful": 0.9}])
    recorded = pd.concat([start, training()], ignore_index=True)
    assert floor_lines(training_curves(Run(recorded))) == [pytest.approx(0.88)]


def test_a_floor_of_unknown_height_is_said_and_not_drawn():
    figure = training_curves(Run(training()))
    assert floor_lines(figure) == []
    assert "may fall by at most 2.0 &#37;" in figure.layout.title.subtitle.text


def test_the_kept_step_is_marked_and_zoom_survives():
    layout = training_curves(Run(training())).layout
    assert [s.x0 for s in layout.shapes if s.name == "best step"] == [20]
    assert "kept: step 20" in [a.text for a in layout.annotations]
    assert layout.title.text == "Training layer 4"
    assert layout.uirevision == training_curves(training(5)).layout.uirevision


def test_panels_without_numbers_are_left_out():
    table = training()
    table[[f"refused_{label}" for label in LABELS]] = np.nan
    titles = [a.title.text for a in training_curves(table).select_yaxes()]
    assert titles == ["loss", "mean<br>projection", "direction now<br>vs start (cos)"]
    assert len(list(training_curves(training()[["step", "loss"]]).select_yaxes())) == 1


def test_rounding_noise_does_not_look_like_drift():
    table = training().assign(direction_cosine=1 - 1e-9)
    low, high = list(training_curves(table).select_yaxes())[2].range
    assert low <= 0.9
    assert high >= 1


def test_nothing_recorded_yet_is_said():
    for table in (pd.DataFrame(), training().iloc[:0]):
        assert training_curves(table).layout.annotations[0].text == "no steps yet"


def test_a_loss_that_is_not_a_number_leaves_a_gap_only():
    table = training()
    table.loc[5, "loss"] = np.nan
    table.loc[6, "loss"] = np.inf
    assert len(trace(training_curves(table), "loss").y) == 28


def test_long_runs_are_thinned_and_end_at_the_last_step():
    figure = training_curves(training(20_000))
    assert max(len(t.x) for t in figure.data) <= STEPS_SHOWN
    assert trace(figure, "loss").x[-1] == 20_000


def test_the_message_is_escaped():
    figure = training_curves(Run(training(), message="<b>stopped</b>"))
    assert "&lt;b&gt;stopped" in figure.layout.title.subtitle.text
    assert traces(figure, "loss")


def test_panels_can_stand_side_by_side():
    stacked, beside = (training_curves(Run(training()), columns=columns) for columns in (1, 2))
    assert beside.layout.height < stacked.layout.height
    domains = [tuple(beside.layout[f"xaxis{n}"].domain) for n in ("", "2", "3", "4")]
    assert domains[0] == domains[2] != domains[1] == domains[3]
    for one, other in zip(stacked.data, beside.data, strict=True):
        assert one.meta == other.meta
        assert np.array_equal(one.y, other.y)
    best = [shape for shape in beside.layout.shapes if shape.name == "best step"]
    assert {shape.xref for shape in best} == {"x", "x2", "x3", "x4"}


def test_held_out_projections_stand_before_those_that_are_trained_on():
    table = training()
    for label in LABELS:
        table[f"held_out_projection_{label}"] = np.where(table["step"] % 10 == 0, 1.5, np.nan)
    figure = training_curves(table)
    for label in LABELS:
        held_out = trace(figure, f"held_out_projection_{label}")
        assert list(held_out.x) == [10, 20, 30]
        assert list(held_out.y) == [1.5, 1.5, 1.5]
        trained = trace(figure, f"projection_{label}")
        assert trained.line.width < held_out.line.width


def test_lines_are_the_points_that_are_drawn():
    run = Run(training(STEPS_SHOWN + 50), refused_before=BEFORE)
    points = training_lines(run, smoothing=0.5)
    drawn = {t.meta["kind"]: (t.x, t.y) for t in training_curves(run, smoothing=0.5).data}
    assert points.keys() == drawn.keys()
    for kind, (x, y) in points.items():
        assert np.array_equal(x, drawn[kind][0])
        assert np.array_equal(y, drawn[kind][1])
