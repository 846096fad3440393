"""What a section of a dashboard is, and what it may ask of the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import ipywidgets as ipw

from actor_lens.figures import Panel
from actor_lens.widgets.exploration import Exploration
from actor_lens.widgets.jobs import Control, Worker

# Where the panels of a section lie: below those that every section shares.
LOWER = (0.0, 0.44)
# Bars of 100 % and the numbers to their right, in a narrow panel.
ROOM_FOR_RATES = (0.0, 1.4)
LEFT, RIGHT, WHOLE = (0.0, 0.56), (0.64, 1.0), (0.0, 1.0)


@runtime_checkable
class Desk(Protocol):
    """What sections work on."""

    exploration: Exploration
    worker: Worker

    def redraw(self) -> None:
        """Draw what changed."""

    def start(self, job: str, work: Callable[[Control], None]) -> bool:
        """Run a job in a thread; errors are shown."""

    def tell(self, text: str) -> None:
        """Show one line about what happens."""

    def warn(self, text: str) -> None:
        """Show what went wrong while the work goes on."""


class Section:
    """Controls, panels of the figure, and text below it.

    Attributes:
        title: On the button that opens the section.
        controls: Above the figure.
        below: Under the figure.
    """

    title = ""
    height = 800

    def __init__(self, desk: Desk) -> None:
        """Nothing to control yet."""
        self.desk = desk
        self.exploration = desk.exploration
        self.controls: ipw.Widget = ipw.VBox()
        self.below: ipw.Widget = ipw.VBox()
        self._panels: dict[str, tuple[object, Panel]] = {}

    def panels(self) -> list[Panel]:
        """The section's own panels of the figure, below the shared ones."""
        return []

    def refresh(self) -> None:
        """Bring texts and buttons up to date; called when the section is open."""

    def cached(self, name: str, key: object, draw: Callable[[], Panel]) -> Panel:
        """A panel that is drawn again only when ``key`` changes."""
        if name not in self._panels or self._panels[name][0] != key:
            self._panels[name] = (key, draw())
        return self._panels[name][1]
