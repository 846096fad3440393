"""Work beside the notebook: one job at a time in a thread, to be paused, stopped and reported on.

A thread's errors and prints are invisible in a notebook, so a job catches everything and hands it
to whoever shows it. Jobs on the same model wait for one another, also those of two dashboards.
"""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from IPython.core.getipython import get_ipython

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.threads import give_back_threads
from actor_lens.progress import Reporter
from actor_lens.training.run import TrainingRun

_WAIT = 0.2


class JobStopped(Exception):
    """The job was asked to stop before it had anything to keep."""


class Control:
    """What lets a running job pause or stop: others set it, the job asks between two steps.

    A job is never interrupted in the middle of a step, so what it writes stays whole.
    """

    def __init__(self) -> None:
        """Neither paused nor stopped."""
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()

    @property
    def paused(self) -> bool:
        """Whether the job holds still."""
        return not self._go.is_set()

    def pause(self) -> None:
        """Hold still at the next step."""
        self._go.clear()

    def resume(self) -> None:
        """Go on."""
        self._go.set()

    def stop(self) -> None:
        """End at the next step, also a job that is paused."""
        self._stop.set()
        self._go.set()

    def should_stop(self) -> bool:
        """Whether to end. While paused it waits; fits ``should_stop`` of ``finetune_layer``."""
        self._go.wait()
        return self._stop.is_set()

    def check(self) -> None:
        """End a job that has nothing to keep.

        Raises:
            JobStopped: If it was asked to stop.
        """
        if self.should_stop():
            raise JobStopped


class Stages(Reporter):
    """Shows the stages of a job that has nothing to keep yet, and ends it at one if it should stop.

    For instance what is measured before a block is trained.
    """

    def __init__(self, control: Control, show: Callable[[str, int, int], None]) -> None:
        """Show nothing yet.

        Args:
            control: Control of the job.
            show: Called with the name of the stage, how much of it is done, and the number of all.
        """
        self._control, self._show = control, show

    def begin(self, name: str) -> None:
        """Show the stage with nothing done."""
        self.stage(name, 0, 1)

    def stage(self, name: str, done: int, total: int) -> None:
        """Show how far the stage is.

        Raises:
            JobStopped: If the job was asked to stop.
        """
        self._control.check()
        self._show(name, done, total)


class Worker:
    """Runs one job at a time in a thread.

    Attributes:
        control: Control of the job that runs, or of the last one.
        job: Name of the job that runs; empty between jobs.
        waiting_for: Who holds the model while the job waits for it; empty otherwise.
    """

    def __init__(
        self,
        model: ChatModel,
        name: str,
        *,
        on_change: Callable[[], None],
        on_error: Callable[[str, str], None],
    ) -> None:
        """Run nothing yet.

        Args:
            model: Model that the jobs use; jobs on one model wait for one another.
            name: Name of the worker in the messages of those that wait for it.
            on_change: Called when a job starts, waits, pauses, goes on or ends.
            on_error: Called with what went wrong in one line, and with the traceback, which is
                empty for errors that the user can fix.
        """
        self._model, self._name = model, name
        self._on_change, self._on_error = on_change, on_error
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self.control = Control()
        self.job = ""
        self.waiting_for = ""
        if (shell := get_ipython()) is not None:  # cells, too, should leave the cores to jobs
            shell.events.register("post_run_cell", _give_back_after_cell)

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return bool(self.job)

    def start(self, job: str, work: Callable[[Control], None]) -> bool:
        """Start a job; False where one runs already.

        Args:
            job: Name of the job, as the user reads it.
            work: Called in the thread. Its errors go to ``on_error``; ``JobStopped`` is none.
        """
        with self._lock:
            if self.busy:
                return False
            self.job, self.control = job, Control()
            self._thread = threading.Thread(
                target=self._run,
                args=(work, self.control, torch.get_num_threads()),
                name=f"actor-lens {job}",
                daemon=True,
            )
        self._on_change()  # before the job, which may end at once
        self.leave_cores()
        self._thread.start()
        return True

    def run_now(self, work: Callable[[], None]) -> bool:
        """Do something quick in the calling thread; False where a job runs or the model is taken.

        Args:
            work: Its errors go to ``on_error``.
        """
        claim = _claim_of(self._model)
        if self.busy or not claim.lock.acquire(blocking=False):
            return False
        claim.owner = self._name
        try:
            work()
        except UserError as error:
            self._on_error(str(error), "")
        finally:
            claim.owner = ""
            claim.lock.release()
        return True

    def leave_cores(self) -> None:
        """Give back the threads that helped the calling one, unless that is the job's own."""
        if threading.current_thread() is not self._thread:
            give_back_threads()

    def pause(self) -> None:
        """Let the job hold still at its next step."""
        self.control.pause()
        self._on_change()

    def resume(self) -> None:
        """Let the job go on."""
        self.control.resume()
        self._on_change()

    def stop(self) -> None:
        """Let the job end at its next step."""
        self.control.stop()
        self._on_change()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended.

        Args:
            timeout: Most seconds to wait; without it, as long as it takes.

        Returns:
            Whether the job has ended.
        """
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _run(self, work: Callable[[Control], None], control: Control, threads: int) -> None:
        # A thread that is born while another works on something small would keep that one's number.
        torch.set_num_threads(threads)
        try:
            with _exclusive(self._model, f"{self._name} ({self.job})", self._wait_for, control):
                work(control)
        except JobStopped:
            pass
        except UserError as error:
            self._on_error(str(error), "")
        except BaseException as error:  # also what a library takes for an interrupt
            where = "".join(traceback.format_exception(error))
            self._on_error(f"{type(error).__name__}: {error}", where)
        finally:
            with self._lock:
                self.job, self.waiting_for = "", ""
            self._on_change()

    def _wait_for(self, owner: str) -> None:
        self.waiting_for = owner
        self._on_change()


def _give_back_after_cell(_result: object) -> None:
    give_back_threads()


class _Claim:
    """Who works on a model, and who needs its weights as they are."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.weights = threading.RLock()
        self.owner = ""


_claims: weakref.WeakKeyDictionary[Any, _Claim] = weakref.WeakKeyDictionary()
_claims_lock = threading.Lock()


@contextmanager
def weights_held(model: ChatModel) -> Iterator[None]:
    """Keep others from putting trained weights into a model, or from reading it meanwhile.

    Training needs none of this: it never touches the model.

    Args:
        model: Model whose weights should stay as they are during the ``with`` statement.
    """
    with _claim_of(model).weights:
        yield


@contextmanager
def applied(run: TrainingRun, model: ChatModel) -> Iterator[None]:
    """``run.applied_to(model)`` while nobody else reads the model's weights."""
    with weights_held(model), run.applied_to(model):
        yield


def _claim_of(model: ChatModel) -> _Claim:
    """The one claim on a model, also where several ``ChatModel`` hold the same network."""
    with _claims_lock:
        return _claims.setdefault(model.hf, _Claim())


@contextmanager
def _exclusive(
    model: ChatModel, owner: str, tell: Callable[[str], None], control: Control
) -> Iterator[None]:
    """Hold a model for the ``with`` statement, after whoever holds it now.

    Raises:
        JobStopped: If the job was stopped while it waited.
    """
    claim = _claim_of(model)
    if not claim.lock.acquire(blocking=False):
        tell(claim.owner)
        while not claim.lock.acquire(timeout=_WAIT):
            control.check()
        tell("")
    claim.owner = owner
    try:
        yield
    finally:
        claim.owner = ""
        claim.lock.release()
