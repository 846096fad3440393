"""The curves are the recorded numbers, painted a few times a second and once more at the end."""

import numpy as np

from actor_lens.training.config import FinetuneConfig
from actor_lens.widgets import TrainingMonitor, parts
from tests.support.clicks import place_of
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import quick_run


def curve(monitor, kind):
    return monitor.figure.data[place_of(monitor.figure, "training", kind)]


def test_it_follows_a_run_to_its_end():
    monitor = TrainingMonitor(FinetuneConfig(layer=1))
    run = quick_run(tiny_chat_model(), on_step=monitor.update)
    frame = run.frame()
    assert monitor.history == run.history
    assert list(curve(monitor, "loss").y) == frame["loss"].tolist()
    for label in ("harmful", "pseudo_harmful", "benign"):
        shown = curve(monitor, f"projection_{label}").y
        assert list(shown) == frame[f"projection_{label}"].tolist()
    last = run.history[-1]
    assert f"step {last.step} of {last.total_steps}" in monitor._words.value
    monitor.finish(run)
    assert any(shape.name == "best step" for shape in monitor.figure.layout.shapes)
    names = [trace.meta["kind"] for trace in monitor.static().data]
    assert "loss" in names


def test_it_paints_a_few_times_a_second_and_always_the_last(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(parts.time, "monotonic", lambda: now[0])
    monitor, painted = TrainingMonitor(), []
    real = monitor._draw
    monkeypatch.setattr(monitor, "_draw", lambda: (painted.append(now[0]), real()))

    def update(step):
        now[0] += 0.01
        monitor.update(step)

    run = quick_run(tiny_chat_model(), epochs=20, on_step=update)
    assert len(run.history) == 60
    gaps = np.diff(painted[:-1])
    assert (gaps >= 0.2 - 1e-9).all()
    assert painted[-1] == now[0]


def test_a_new_run_begins_anew():
    monitor, model = TrainingMonitor(), tiny_chat_model()
    quick_run(model, epochs=2, on_step=monitor.update)
    run = quick_run(model, epochs=1, on_step=monitor.update)
    assert monitor.history == run.history


def test_nothing_is_left_of_a_run_that_was_stopped():
    monitor = TrainingMonitor()
    seen = []

    def stop():
        seen.append(monitor._words.value)
        return len(monitor.history) >= 2

    run = quick_run(tiny_chat_model(), epochs=20, on_step=monitor.update, should_stop=stop)
    assert any(" left<" in words for words in seen)
    monitor.finish(run)
    assert f"step {run.history[-1].step} of 60" in monitor._words.value
    assert " left<" not in monitor._words.value


def test_stop_ends_a_run_and_keeps_its_weights():
    monitor = TrainingMonitor()

    def press(step):
        monitor.update(step)
        if step.step == 2:
            monitor._stop_button.click()

    run = quick_run(tiny_chat_model(), on_step=press, should_stop=monitor.should_stop)
    assert run.status == "stopped"
    assert len(run.history) == 2
    again = quick_run(tiny_chat_model(), on_step=monitor.update, should_stop=monitor.should_stop)
    assert again.status == "completed"
