"""Law: on a log, work is never silent for long; a stage that is done has one line."""

import io
import re
import threading

from actor_lens.cli.progress import ProgressBars
from actor_lens.progress import note, report, stage


class _Log(io.StringIO):
    """A log file; each line that matches a pattern releases those who wait for it."""

    def __init__(self, awaited: str) -> None:
        super().__init__()
        self._awaited = re.compile(awaited)
        self.seen = threading.Event()

    def write(self, text: str) -> int:
        if self._awaited.search(text):
            self.seen.set()
        return super().write(text)


def heard(monkeypatch, awaited: str, *, every: float = 0.01) -> tuple[_Log, ProgressBars]:
    log = _Log(awaited)
    monkeypatch.setattr("sys.stderr", log)
    return log, ProgressBars(every=every)


def test_before_the_first_stage_the_command_says_that_it_starts(monkeypatch):
    log, bars = heard(monkeypatch, r"^starting: \d+ s")
    with bars:
        assert log.seen.wait(60)


def test_a_stage_of_which_nothing_is_done_is_named(monkeypatch):
    log, bars = heard(monkeypatch, r"^residuals: \d+ s")
    with bars, stage("residuals"):
        assert log.seen.wait(60)


def test_a_stage_says_how_far_it_is_and_what_is_left(monkeypatch):
    log, bars = heard(monkeypatch, r"^layer scores: 3/30, \d+ s, about \d+ s left")
    with bars, stage("layer scores", 30) as done:
        done(3)
        assert log.seen.wait(60)


def test_a_stage_that_is_done_has_one_line_and_ends_the_silence(monkeypatch):
    log, bars = heard(monkeypatch, "never", every=3600)
    with bars, stage("layer scores", 2) as done:
        done(1)
        done(2)
    assert log.getvalue().splitlines() == ["layer scores: 2/2"]


def test_work_after_a_stage_is_not_said_to_be_about_to_end(monkeypatch):
    log, bars = heard(monkeypatch, r"^layer scores: done, work goes on, \d+ s")
    with bars:
        with stage("layer scores", 2) as done:
            done(2)
        assert log.seen.wait(60)


def test_a_note_is_printed_with_the_stage_that_it_is_about(monkeypatch):
    log, bars = heard(monkeypatch, "never", every=3600)
    with bars:
        with stage("replies"):
            note("12 tokens a second")
            report(2, 2)
        with stage("replies"):
            report(2, 2)
    assert log.getvalue().splitlines() == ["replies: 2/2 12 tokens a second", "replies: 2/2"]


def test_nothing_is_printed_when_the_work_has_ended(monkeypatch):
    log, bars = heard(monkeypatch, r"^residuals: \d+ s")
    with bars, stage("residuals"):
        assert log.seen.wait(60)
        writers = [thread for thread in threading.enumerate() if thread.name == "progress"]
    assert len(writers) == 1
    assert not writers[0].is_alive()


def test_quiet_is_silent(monkeypatch):
    log = _Log("never")
    monkeypatch.setattr("sys.stderr", log)
    with ProgressBars(quiet=True, every=0.0), stage("layer scores", 1) as done:
        done(1)
    assert log.getvalue() == ""
