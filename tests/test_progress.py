"""Laws of reporting: who listens hears of each stage, and a notebook shows what takes long."""

import sys
import threading
from types import ModuleType

import pytest

from actor_lens import progress
from actor_lens.progress import CellBars, Reporter, note, report, reporting, stage, warn
from tests.support.reports import Recorder


class _Begins(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []

    def begin(self, name: str) -> None:
        self.begun.append(name)


def test_a_stage_is_announced_before_its_parts():
    heard = _Begins()
    with reporting(heard), stage("residuals"):
        assert heard.begun == ["residuals"]
        assert heard.stages == []
        report(1, 2)
    assert heard.stages == [("residuals", 1, 2)]


def test_notes_are_of_stages_whose_parts_are_heard():
    heard = Recorder()
    with reporting(heard):
        note("outside")
        with stage("replies"):
            note("12 tokens a second")
        with stage("layers", 2):
            note("inside a stage that counts itself")
    assert heard.notes == [("replies", "12 tokens a second")]


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("ipykernel.zmqshell"))
    token = progress._reporter.set(None)
    yield
    progress._reporter.reset(token)


def listener() -> Reporter:
    return progress._listener()


@pytest.mark.usefixtures("notebook")
def test_a_notebook_has_bars_where_nobody_listens():
    assert isinstance(listener(), CellBars)
    with reporting(Recorder()):
        assert isinstance(listener(), Recorder)


@pytest.mark.usefixtures("notebook")
def test_jobs_in_threads_of_a_notebook_draw_nothing():
    heard: list[Reporter] = []
    thread = threading.Thread(target=lambda: heard.append(listener()))
    thread.start()
    thread.join()
    assert type(heard[0]) is Reporter


def test_elsewhere_nothing_is_drawn(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel.zmqshell", raising=False)
    token = progress._reporter.set(None)
    try:
        assert type(listener()) is Reporter
    finally:
        progress._reporter.reset(token)


def test_a_bar_names_its_stage_and_goes_with_it(capsys):
    with reporting(CellBars(delay=0.0)), stage("layer scores", 2) as done:
        done(1)
        done(2)
    shown = capsys.readouterr().err
    assert "layer scores" in shown
    assert shown.rsplit("\r", 1)[-1].strip() == ""


def test_a_bar_shows_what_is_noted_of_its_stage(capsys):
    with reporting(CellBars(delay=0.0)), stage("replies"):
        report(1, 3)
        note("12 tokens a second")
        report(2, 3)
    assert "12 tokens a second" in capsys.readouterr().err


def test_a_quick_stage_shows_nothing(capsys):
    with reporting(CellBars(delay=3600.0)), stage("layer scores", 1) as done:
        done(1)
    assert capsys.readouterr().err.strip() == ""


def test_a_notebook_is_warned_as_python_warns():
    with reporting(CellBars()), pytest.warns(UserWarning, match="safety floor"):
        warn("no safety floor")
