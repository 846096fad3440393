"""Progress bars for the command line: one bar a stage, on the error stream.

The library reports stages and training steps to whoever listens (``actor_lens.progress``); this is
the listener of the commands. Warnings that should make the user think again come here too, before
the work that they are about.
"""

from __future__ import annotations

from types import TracebackType
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
    pipe) each stage is one line when it is done.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """Prepare the bars, which are drawn once the context is entered.

        Args:
            quiet: Whether to show nothing at all.
        """
        console = Console(stderr=True, quiet=quiet)
        self._bars = console.is_terminal and not quiet
        self._console = console
        self._tasks: dict[str, TaskID] = {}
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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing and leave the bars as they are."""
        self._progress.stop()
        self._listening.__exit__(kind, error, traceback)

    def stage(self, name: str, done: int, total: int) -> None:
        """Draw how much of a stage is done.

        Args:
            name: Name of the stage; a new name begins a new bar.
            done: Number of steps that are done.
            total: Number of all steps.
        """
        self._update(name, done, total, note="")

    def step(self, step: TrainingStep) -> None:
        """Draw a training step with its loss, in the one bar of the training."""
        self._update("training", step.step, step.total_steps, note=f"loss {step.loss:.4f}")

    def warn(self, warning: str) -> None:
        """Say what should make the user think again, before the work goes on."""
        self._console.print(f"Warning: {warning}.", style="bold yellow", markup=False)

    def _update(self, name: str, done: int, total: int, note: str) -> None:
        """Move the bar of a stage; without a terminal, print a line once the stage is done."""
        if not self._bars:
            if done >= total:
                self._console.print(f"{name}: {done}/{total} {note}".rstrip(), highlight=False)
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)
