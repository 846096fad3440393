"""Progress bars for the command line: one bar a stage, on the error stream.

The library reports stages and training steps to whoever listens (``actor_lens.progress``); this is
the listener of the commands. Warnings that should make the user think again come here too, before
the work that they are about.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from actor_lens.progress import Reporter, reporting

if TYPE_CHECKING:
    from actor_lens.training.run import TrainingStep


class ProgressBars(Reporter):
    """Shows stages as they come; as a context manager it hears of all work inside.

    On a terminal each stage has a bar with the time it took or has left. Elsewhere (a log file, a
    pipe) each stage is one line when it is done, and a line every two seconds before, so that
    nobody takes slow work for work that hangs.
    """

    def __init__(self, *, quiet: bool = False, every: float = 2.0) -> None:
        """Prepare the bars, which are drawn once the context is entered.

        Args:
            quiet: Whether to show nothing at all.
            every: Longest silence in seconds where there are no bars.
        """
        console = Console(stderr=True, quiet=quiet)
        self._bars = console.is_terminal and not quiet
        self._console = console
        self._every = float("inf") if quiet or self._bars else every
        self._ended = threading.Event()
        self._teller = threading.Thread(target=self._repeat, name="progress", daemon=True)
        self._now = _Now("starting")
        self._tasks: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not self._bars,
        )

    def __enter__(self) -> ProgressBars:
        """Start drawing and listening."""
        self._listening = reporting(self)
        self._listening.__enter__()
        self._progress.start()
        if self._bars:
            self._tasks[""] = self._progress.add_task("starting", total=None, note="")
        elif self._every < float("inf"):
            self._teller.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop drawing and leave the bars as they are."""
        self._ended.set()
        if self._teller.is_alive():
            self._teller.join()
        self._progress.stop()
        self._listening.__exit__(None, None, None)

    def begin(self, name: str) -> None:
        """Draw a stage of which nothing is done."""
        self._now = _Now(name)
        self._notes.pop(name, None)
        if self._bars:
            self._task(name)

    def stage(self, name: str, done: int, total: int) -> None:
        """Draw how much of a stage is done; a new name begins a new bar."""
        self._update(name, done, total, note=self._notes.get(name, ""))

    def note(self, name: str, text: str) -> None:
        """Remember what is written beside the stage."""
        self._notes[name] = text

    def step(self, step: TrainingStep) -> None:
        """Draw a training step with its loss, in the one bar of the training."""
        self._update("training", step.step, step.total_steps, note=f"loss {step.loss:.4f}")

    def warn(self, warning: str) -> None:
        """Say what should make the user think again, before the work goes on."""
        self._console.print(f"Warning: {warning}.", style="bold yellow", markup=False)

    def _update(self, name: str, done: int, total: int, note: str) -> None:
        """Move the bar of a stage; without a terminal, print a line once the stage is done."""
        if self._bars:
            self._progress.update(self._task(name), completed=done, total=total, note=note)
            return
        if name != self._now.name:
            self._now = _Now(name)
        self._now.done, self._now.total = done, total
        if done >= total:
            self._print(f"{name}: {done}/{total} {note}".rstrip())

    def _task(self, name: str) -> TaskID:
        """The bar of a stage, made when it is first heard of."""
        if "" in self._tasks:
            self._progress.remove_task(self._tasks.pop(""))
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, note="")
        return self._tasks[name]

    def _print(self, line: str) -> None:
        self._now.told = time.monotonic()
        self._console.print(line, highlight=False, markup=False)

    def _repeat(self) -> None:
        """Print where the work is whenever it has been silent for a while; in its own thread."""
        while not self._ended.wait(max(0.0, self._now.told + self._every - time.monotonic())):
            if time.monotonic() - self._now.told >= self._every:
                self._print(self._now.line())


class _Now:
    """The stage that runs, how far it is, and when a line of it was last printed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done, self.total = 0, 0
        self.begun = self.told = time.monotonic()

    def line(self) -> str:
        """Name, parts, seconds so far and seconds left; once it is done, that work goes on."""
        seconds = time.monotonic() - self.begun
        if 0 < self.total <= self.done:
            return f"{self.name}: done, work goes on, {seconds:.0f} s"
        if not self.done:
            return f"{self.name}: {seconds:.0f} s"
        left = seconds / self.done * (self.total - self.done)
        return f"{self.name}: {self.done}/{self.total}, {seconds:.0f} s, about {left:.0f} s left"
