"""One job at a time, which can be paused and stopped; its errors are told and it always ends.

Jobs on one model wait for one another. Tests wait for events, never for a time.
"""

import threading

import pytest
from IPython.core.events import EventManager, available_events

from actor_lens.errors import UserError
from actor_lens.widgets import jobs
from actor_lens.widgets.jobs import Control, JobStopped, Worker
from tests.support.tiny_models import tiny_chat_model

SOON = 20.0  # seconds that no test takes


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


class Watched:
    """A worker that keeps what it tells."""

    def __init__(self, model, name="one"):
        self.errors, self.changes = [], []
        self.changed = threading.Condition()
        self.worker = Worker(
            model, name, on_change=self._change, on_error=lambda *error: self.errors.append(error)
        )

    def _change(self):
        with self.changed:
            worker = self.worker
            self.changes.append((worker.job, worker.waiting_for, worker.control.paused))
            self.changed.notify_all()

    def wait_for(self, wanted):
        with self.changed:
            assert self.changed.wait_for(lambda: any(map(wanted, self.changes)), SOON)


def test_a_job_runs_beside_the_caller_and_ends(model):
    watched, threads = Watched(model), []
    assert watched.worker.start("work", lambda _: threads.append(threading.current_thread()))
    assert watched.worker.join(SOON)
    assert threads[0] is not threading.current_thread()
    assert not watched.worker.busy
    assert watched.changes[-1][0] == ""
    assert watched.errors == []


def test_a_second_job_is_refused_while_one_runs(model):
    watched, go = Watched(model), threading.Event()
    assert watched.worker.start("first", lambda _: go.wait(SOON))
    assert not watched.worker.start("second", lambda _: None)
    go.set()
    assert watched.worker.join(SOON)
    assert watched.worker.start("third", lambda _: None)
    assert watched.worker.join(SOON)


@pytest.mark.parametrize("paused", [False, True])
def test_a_job_is_stopped_at_its_next_step_also_when_paused(model, paused):
    watched, begun, steps = Watched(model), threading.Event(), []

    def work(control):
        begun.set()
        while not control.should_stop():
            steps.append(1)

    watched.worker.start("work", work)
    assert begun.wait(SOON)
    if paused:
        watched.worker.pause()
        assert watched.worker.control.paused
    watched.worker.stop()
    assert watched.worker.join(SOON)
    assert watched.errors == []


def test_a_paused_job_holds_still_until_it_may_go_on(model):
    watched, held, steps = Watched(model), threading.Event(), []

    def work(control):
        control.pause()
        held.set()
        assert not control.should_stop()  # returns once it may go on
        steps.append("after")

    watched.worker.start("work", work)
    assert held.wait(SOON)
    assert steps == []
    assert not watched.worker.join(0.05)
    watched.worker.resume()
    assert watched.worker.join(SOON)
    assert steps == ["after"]


@pytest.mark.parametrize(
    ("error", "said", "where"),
    [
        (UserError("give more"), "give more", False),
        (RuntimeError("boom"), "RuntimeError: boom", True),
        (KeyboardInterrupt(), "KeyboardInterrupt: ", True),
    ],
)
def test_errors_are_told_and_the_worker_is_ready_again(model, error, said, where):
    watched = Watched(model)

    def fail(_control):
        raise error

    watched.worker.start("work", fail)
    assert watched.worker.join(SOON)
    ((message, traceback),) = watched.errors
    assert message == said
    assert ("in fail" in traceback) is where
    assert not watched.worker.busy
    assert watched.worker.start("again", lambda _: None)
    assert watched.worker.join(SOON)


def test_a_job_that_was_stopped_with_nothing_to_keep_is_no_error(model):
    watched = Watched(model)

    def work(control):
        control.stop()
        control.check()

    watched.worker.start("work", work)
    assert watched.worker.join(SOON)
    assert watched.errors == []
    stopped = Control()
    stopped.stop()
    with pytest.raises(JobStopped):
        stopped.check()


def test_jobs_on_one_model_wait_and_say_for_whom(model):
    first, second, go, order = Watched(model, "A"), Watched(model, "B"), threading.Event(), []

    def hold(_control):
        order.append("A")
        go.wait(SOON)

    first.worker.start("training", hold)
    first.wait_for(lambda change: change[0] == "training")
    second.worker.start("looking", lambda _: order.append("B"))
    second.wait_for(lambda change: change[1] == "A (training)")
    assert order == ["A"]
    go.set()
    assert first.worker.join(SOON)
    assert second.worker.join(SOON)
    assert order == ["A", "B"]
    assert second.worker.waiting_for == ""


def test_who_waits_can_be_stopped(model):
    first, second, go = Watched(model, "A"), Watched(model, "B"), threading.Event()
    first.worker.start("training", lambda _: go.wait(SOON))
    ran = []
    second.worker.start("looking", lambda _: ran.append(1))
    second.wait_for(lambda change: bool(change[1]))
    second.worker.stop()
    assert second.worker.join(SOON)
    go.set()
    assert first.worker.join(SOON)
    assert ran == []
    assert second.errors == []


def test_jobs_on_two_models_do_not_wait(model):
    first, second, go = Watched(model), Watched(tiny_chat_model()), threading.Event()
    first.worker.start("training", lambda _: go.wait(SOON))
    second.worker.start("looking", lambda _: None)
    assert second.worker.join(SOON)
    assert all(not waiting for _, waiting, _ in second.changes)
    go.set()
    assert first.worker.join(SOON)


def test_quick_work_runs_in_the_calling_thread_unless_the_model_is_taken(model):
    one, other = Watched(model), Watched(model, "other")
    done, begun, go_on = [], threading.Event(), threading.Event()
    assert one.worker.run_now(lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]

    def hold(_control):
        begun.set()
        assert go_on.wait(SOON)

    other.worker.start("long", hold)
    assert begun.wait(SOON)
    assert not one.worker.run_now(lambda: done.append(None))
    assert not other.worker.run_now(lambda: done.append(None))
    go_on.set()
    assert other.worker.join(SOON)
    assert len(done) == 1


def test_the_errors_of_quick_work_are_told_and_the_model_is_free_again(model):
    watched = Watched(model)

    def fail():
        raise UserError("no such thing")

    assert watched.worker.run_now(fail)
    assert watched.errors == [("no such thing", "")]
    assert watched.worker.run_now(lambda: None)


def test_jobs_and_cells_leave_their_helper_threads_to_the_next(model, monkeypatch):
    given_back = []
    monkeypatch.setattr(jobs, "give_back_threads", lambda: given_back.append(len(given_back)))

    class Shell:
        events = EventManager(None, available_events)

    monkeypatch.setattr(jobs, "get_ipython", Shell)
    watched = [Watched(model), Watched(model)]
    Shell.events.trigger("post_run_cell", None)
    assert len(given_back) == 1  # once a cell, however many dashboards there are
    before_the_job = []
    assert watched[0].worker.start("work", lambda _: before_the_job.append(len(given_back)))
    assert watched[0].worker.join(SOON)
    assert before_the_job == [2]
