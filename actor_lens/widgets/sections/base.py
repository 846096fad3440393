"""What a section of a dashboard is, and what it may ask of the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import ipywidgets as ipw
from torch import Tensor

from actor_lens.figures import Panel
from actor_lens.widgets.exploration import Exploration
from actor_lens.widgets.jobs import Control, Worker
from actor_lens.widgets.shared_panels import PanelCache

# Where the panels of a section lie: below those that every section shares.
LOWER = (0.0, 0.44)
# Bars of 100 % and the numbers to their right, in a narrow panel.
ROOM_FOR_RATES = (0.0, 1.4)
LEFT, RIGHT, WHOLE = (0.0, 0.56), (0.64, 1.0), (0.0, 1.0)


@runtime_checkable
class Desk(Protocol):
    """What sections work on: the dashboard, or less of one in a test.

    Attributes:
        exploration: Traits that all sections read and write.
        worker: Runs one job at a time.
    """

    exploration: Exploration
    worker: Worker

    def page_is_behind(self) -> bool:
        """Whether the page has still to draw what it was shown last."""

    def redraw(self) -> None:
        """Bring the open section and the figure up to date."""

    def start(self, job: str, work: Callable[[Control], None]) -> bool:
        """Run a job in a thread and show its errors; False where another one runs.

        Args:
            job: Name of the job, as the user reads it and as ``worker.job`` says it.
            work: The job itself. It asks the control between two steps whether to go on.
        """

    def tell(self, text: str) -> None:
        """Show one line above the figure about what happens; it takes the place of the last."""

    def warn(self, text: str) -> None:
        """Show below the figure what went wrong, while the work goes on."""


class Section:
    """One page of the dashboard: controls, panels of the figure, and text below it.

    A section reads the exploration and sets its traits. It hears of a change by ``refresh`` and
    ``panels``, which the dashboard calls for the open section whenever a trait changes.

    Attributes:
        title: Text of the button that opens the section.
        height: Height of the figure in pixels while the section has panels of its own.
        desk: The dashboard.
        exploration: What all sections share.
        controls: Widgets above the figure.
        text: HTML under the figure.
        cached: Keeps the section's panels until what they show has changed.
    """

    title = ""
    height = 800

    def __init__(self, desk: Desk) -> None:
        """Make the controls.

        Args:
            desk: The dashboard that the section belongs to.
        """
        self.desk = desk
        self.exploration = desk.exploration
        self.controls: ipw.Widget = ipw.VBox()
        self.text = ipw.HTML()
        self.cached = PanelCache()

    def panels(self) -> list[Panel]:
        """The section's own panels of the figure, below the shared ones."""
        return []

    def lines(self) -> dict[str, Tensor]:
        """Prompts to be drawn as single lines over all layers: raw projections by name."""
        return {}

    def refresh(self) -> None:
        """Bring texts and buttons up to date."""


def disable(condition: bool, *controls: ipw.Widget) -> None:
    """Disable controls while a condition holds, and enable them otherwise.

    Args:
        condition: When the controls cannot be used.
        controls: Buttons and other controls.
    """
    for control in controls:
        control.disabled = condition
