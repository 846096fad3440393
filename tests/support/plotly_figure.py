"""The one plotly figure of a notebook's page: what it has drawn, and real clicks on its points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

# A point of a trace by its place; of a heatmap by its column and row.
Point = int | tuple[int, int]
_AROUND = 12  # pixels between a point and the box that is drawn around it
_QUIET = 400  # milliseconds without a change after which a redraw counts as ended


@dataclass(frozen=True)
class Trace:
    """One trace as the page has it; `meta` says to which panel it belongs."""

    index: int
    name: str
    type: str
    meta: dict[str, Any]
    visible: bool


@dataclass(frozen=True)
class Redraw:
    """What a click or key took, in milliseconds from the release of the mouse button, or the press.

    Attributes:
        figure: Until plotly reported its last redraw as finished.
        widgets: Until the last change of another widget on the page; None where none changed.
        painted: Until all of it was on the screen.
    """

    figure: float
    widgets: float | None
    painted: float


class PlotlyFigure:
    """The figure of a page; there must be no second one."""

    def __init__(self, page: Page) -> None:
        self._page = page
        # Plotly's own drawing area, from whose corner its pixels count.
        self.area = page.locator(".js-plotly-plot .svg-container")

    def wait_drawn(self) -> None:
        """Wait until it is drawn."""
        self._page.wait_for_function("harness.drawn()")

    def traces(self, **meta: Any) -> list[Trace]:
        """The traces whose `meta` has these entries, in the order of drawing."""
        every = [Trace(**one) for one in self._page.evaluate("harness.traces()")]
        return [one for one in every if meta.items() <= one.meta.items()]

    def trace(self, **meta: Any) -> Trace:
        """The only trace whose `meta` has these entries."""
        found = self.traces(**meta)
        assert len(found) == 1, f"{len(found)} traces have {meta}"
        return found[0]

    def values(self, trace: Trace, field: str) -> Any:
        """What a trace holds under a name such as ``y`` or ``marker.color``."""
        return self._page.evaluate("([i, field]) => harness.values(i, field)", [trace.index, field])

    def marks(self, trace: Trace) -> int:
        """How many markers and lines of a scatter, or images of a heatmap, are in the drawing."""
        return self._page.evaluate("i => harness.marks(i)", trace.index)

    def marked_panels(self) -> set[str]:
        """The panels in which something is drawn, seen at one moment."""
        return set(self._page.evaluate("harness.markedPanels()"))

    def pixel(self, trace: Trace, point: Point) -> dict[str, float]:
        """Where a point is, from the corner of the drawing area."""
        return self._page.evaluate("([i, at]) => harness.pixel(i, at)", [trace.index, point])

    def click(self, trace: Trace, point: Point) -> None:
        """Click a point with the mouse."""
        self._move_to(trace, point)
        self._page.mouse.down()
        self._page.mouse.up()

    def select(self, trace: Trace, first: Point, last: Point, *, lasso: bool = False) -> None:
        """Draw a box, or a lasso of that shape, around two points of a trace with the mouse."""
        one, other = self.pixel(trace, first), self.pixel(trace, last)
        left, right = sorted([one["x"], other["x"]])
        top, bottom = sorted([one["y"], other["y"]])
        left, right, top, bottom = left - _AROUND, right + _AROUND, top - _AROUND, bottom + _AROUND
        by = [(right, top), (right, bottom), (left, bottom)] if lasso else [(right, bottom)]
        self._hover({"x": left, "y": top})
        self._page.mouse.down()
        corner = self.area.bounding_box()
        assert corner is not None
        for x, y in by:
            self._page.mouse.move(corner["x"] + x, corner["y"] + y, steps=4)
        self._page.mouse.up()

    def timed_click(self, trace: Trace, point: Point, panels: Sequence[str]) -> Redraw:
        """Click a point and measure the redraw that follows; see ``timed``."""

        def click() -> None:
            self._page.mouse.down()
            self._page.mouse.up()

        self._move_to(trace, point)
        return self.timed(click, panels)

    def timed(self, act: Callable[[], None], panels: Sequence[str]) -> Redraw:
        """Measure the redraw that follows a click or the press of a key.

        It has ended when each of these panels looks other than before (its data, axes, shapes or
        annotations), and plotly and the widgets around it have then been still for a while, which
        is not counted. Not for a figure that something else redraws meanwhile.
        """
        self._page.evaluate("harness.watch()")
        act()
        try:
            found = self._page.wait_for_function(
                "([panels, quiet]) => harness.settled(panels, quiet)",
                arg=[list(panels), _QUIET],
                polling=50,
            )
        except PlaywrightTimeout as error:
            same = self._page.evaluate("panels => harness.unchanged(panels)", list(panels))
            raise AssertionError(f"after that these panels look as before: {same}") from error
        return Redraw(**found.json_value())

    def record_updates(self) -> None:
        """From now on note when each `batch_update` of Python is drawn; once a page."""
        self._page.evaluate("harness.recordUpdates()")

    def updates(self) -> list[float]:
        """When each was drawn so far: seconds of `time.time()`."""
        return self._page.evaluate("harness.painted()")

    def _move_to(self, trace: Trace, point: Point) -> None:
        """Bring the mouse to a point, and again if the figure has moved it meanwhile."""
        place = None
        while place != (place := self.pixel(trace, point)):
            self._hover(place)

    def _hover(self, place: dict[str, float]) -> None:
        """Bring a place into view and the mouse to it, and wait until a press counts."""
        self.area.hover(position=place)
        self._page.wait_for_function("harness.pressable()")
