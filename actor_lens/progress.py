"""How long work reports what it does, without knowing who listens.

Work names its stages (``with stage("residuals"): ...``) and whoever wants to hear of them wraps the
call (``with reporting(bars): ...``). Nothing is handed through the functions in between. In a
notebook, where nobody has said otherwise, work that takes longer than a moment shows a bar.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actor_lens.training.run import TrainingStep


class Reporter:
    """Hears what work reports; this one lets it pass. Subclasses override what they care for.

    Methods are called in the thread of the work.
    """

    def begin(self, name: str) -> None:
        """Hear that a stage begins, before any part of it is done."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Hear how much of a stage is done.

        Args:
            name: Name of the stage, for instance ``"residuals (train)"``.
            done: Number of prompts, layers or windows that are done.
            total: Number of all of them.
        """

    def note(self, name: str, text: str) -> None:
        """Hear how a stage goes.

        Args:
            name: Name of the stage.
            text: A few words, such as its speed.
        """

    def step(self, step: TrainingStep) -> None:
        """Hear of a training step."""

    def warn(self, warning: str) -> None:
        """Hear of what should make the user think again before the work goes on."""


class CellBars(Reporter):
    """A bar below a notebook's cell for each stage that takes long; it goes when the stage ends.

    Training is not drawn here: a monitor or a dashboard does that.
    """

    def __init__(self, delay: float = 2.0) -> None:
        """Show nothing yet.

        Args:
            delay: Seconds that a stage takes before its bar is shown.
        """
        self._delay = delay
        self._bar: Any = None

    def begin(self, name: str) -> None:
        """Begin a bar in the place of the last."""
        from tqdm.auto import tqdm

        if self._bar is not None:
            self._bar.close()
        self._bar = tqdm(desc=name, delay=self._delay, leave=False)

    def stage(self, name: str, done: int, total: int) -> None:
        """Move the bar; the last part of a stage takes it away."""
        if self._bar is None or self._bar.desc.removesuffix(": ") != name:
            self.begin(name)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
            self._bar = None

    def note(self, name: str, text: str) -> None:
        """Write it after the bar."""
        if self._bar is not None and self._bar.desc.removesuffix(": ") == name:
            self._bar.set_postfix_str(text)

    def warn(self, warning: str) -> None:
        """Warn as Python does."""
        warnings.warn(warning, UserWarning, stacklevel=2)


def _default() -> Reporter:
    """Bars in a notebook's own thread; jobs in other threads are reported by who started them."""
    if (
        "ipykernel.zmqshell" in sys.modules
        and threading.current_thread() is threading.main_thread()
    ):
        return CellBars()
    return Reporter()


@dataclass(frozen=True)
class _Stage:
    """The innermost stage; one that counts its own parts does not pass on what they report."""

    name: str
    counts_itself: bool


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)
_warnings: ContextVar[set[str] | None] = ContextVar("warnings", default=None)
_stage: ContextVar[_Stage | None] = ContextVar("stage", default=None)


def _listener() -> Reporter:
    listener = _reporter.get()
    if listener is None:
        listener = _default()
        _reporter.set(listener)
    return listener


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Let a reporter hear of all work done in a ``with`` statement, in this thread.

    Args:
        reporter: Takes the place of the one that was listening.
    """
    before, given = _reporter.set(reporter), _warnings.set(set())
    try:
        yield
    finally:
        _reporter.reset(before)
        _warnings.reset(given)


@contextmanager
def stage(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Name the work done in a ``with`` statement.

    Yields:
        A function to be called with the number of parts that are done. Where ``total`` is not
        given, the batches of the work inside report on their own.

    Args:
        name: Name of the stage.
        total: Number of parts of a stage that counts them itself, such as layers. Batches inside
            it are not reported, stages inside it are.
    """
    _listener().begin(name)
    before = _stage.set(_Stage(name, total is not None))
    try:
        yield lambda done: _listener().stage(name, done, total if total is not None else done)
    finally:
        _stage.reset(before)


def stage_name() -> str:
    """Name of the innermost stage; empty outside of all."""
    around = _stage.get()
    return "" if around is None else around.name


def _listens_to_parts() -> bool:
    around = _stage.get()
    return around is None or not around.counts_itself


def step(step: TrainingStep) -> None:
    """Report a training step, unless the stage around this work counts itself."""
    if _listens_to_parts():
        _listener().step(step)


def warn(warning: str) -> None:
    """Report what should make the user think again before the work goes on, once a reporter."""
    given = _warnings.get()
    if given is None or warning not in given:
        _listener().warn(warning)
    if given is not None:
        given.add(warning)


def report(done: int, total: int) -> None:
    """Report the parts of the stage around this work, if it has a name and does not count itself.

    Args:
        done: Number of parts that are done.
        total: Number of all of them.
    """
    around = _stage.get()
    if around is not None and _listens_to_parts():
        _listener().stage(around.name, done, total)


def note(text: str) -> None:
    """Say in a few words how the stage around this work goes, as ``report`` says how far it is."""
    around = _stage.get()
    if around is not None and _listens_to_parts():
        _listener().note(around.name, text)
