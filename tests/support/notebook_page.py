"""A notebook open in JupyterLab or in Notebook 7, with a kernel of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import Browser, Error, Locator, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.support.chromium import LOCAL
from tests.support.jupyter_server import JupyterServer, wait_until
from tests.support.plotly_figure import PlotlyFigure

Frontend = Literal["lab", "notebook"]
FRONTENDS: tuple[Frontend, ...] = ("lab", "notebook")
# Of one document: JupyterLab without its side bars, and Notebook 7.
_PATHS = {"lab": "doc/tree", "notebook": "notebooks"}
_SCRIPT = Path(__file__).with_suffix(".js")
_SECONDS = 60
# What Notebook 7.6 throws when it starts: always, because its shortcuts listen for settings before
# theirs are there; and once JupyterLab has opened a document on the same server, which hands its
# path to Notebook as well.
_NOTEBOOKS_OWN = (
    "Cannot read properties of undefined (reading 'schema')",
    "Command 'filebrowser:open-path' not registered.",
)


class NotebookPage:
    """A tab of the browser with one notebook.

    Attributes:
        page: Playwright's page.
        figure: The plotly figure on it.
        faults: Uncaught errors of the page, and what it asked of other machines.
        outputs: The notebook's outputs, widgets included.
    """

    def __init__(
        self,
        browser: Browser,
        jupyter: JupyterServer,
        name: str,
        *,
        frontend: Frontend,
        size: tuple[int, int],
        pictures: Path,
    ) -> None:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        context.add_init_script(path=_SCRIPT)
        context.set_default_timeout(_SECONDS * 1000)
        self.page = context.new_page()
        self.path = jupyter.root / f"{name}.ipynb"
        self.frontend = frontend
        self.width = size[0]
        self.figure = PlotlyFigure(self.page)
        self.outputs = self.page.locator(".jp-OutputArea-output")
        self.faults: list[str] = []
        self._jupyter = jupyter
        self._pictures = pictures
        self._listen()

    def open(self, cells: Sequence[str]) -> None:
        """Write a notebook of these code cells, open it, and wait for its idle kernel."""
        nbformat.write(_notebook(cells), self.path)
        place = f"{_PATHS[self.frontend]}/{self.path.name}"
        self.page.goto(f"{self._jupyter.url}/{place}?token={self._jupyter.token}")
        self._wait_ready(len(cells))

    def run_all(self) -> None:
        """Start all cells; do not wait for them."""
        self.page.evaluate("harness.runAll()")

    def wait_ran(self, seconds: float = 60) -> None:
        """Wait until all cells have run, and fail where one of them did."""
        self.page.wait_for_function("harness.done.all", timeout=1000 * seconds)
        self._no_errors()

    def run_cell(self, code: str) -> str:
        """Add a cell at the end, run it, and give the text that it put out."""
        self.page.evaluate("code => harness.runNewCell(code)", code)
        self.page.wait_for_function("harness.done.cell")
        self._no_errors()
        return self.page.evaluate("harness.lastOutput()").strip()

    def wait_text(self, text: str | re.Pattern[str]) -> None:
        """Wait until an output of the notebook shows a text."""
        expect(self.outputs.get_by_text(text).first).to_be_visible(timeout=_SECONDS * 1000)

    def kernel_value(self, expression: str) -> Any:
        """What an expression is in the kernel: a plain value, such as ``dashboard.layer``."""
        return self._jupyter.kernel_value(self.path.name, expression)

    def wait_value(self, expression: str, value: Any, seconds: float = _SECONDS) -> None:
        """Wait until an expression has a value in the kernel."""
        found = []

        def equal() -> bool:
            found.append(self.kernel_value(expression))
            return found[-1] == value

        try:
            self.wait_until(equal, seconds, f"{expression} == {value!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {found[-1]!r}") from None

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition, and let the page's events come in meanwhile."""
        wait_until(lambda: self.page.evaluate("true") and condition(), seconds, what)

    def button(self, text: str) -> Locator:
        """The button widgets with this text."""
        return self.outputs.locator("button.widget-button").filter(has_text=_exactly(text))

    def toggle(self, text: str) -> Locator:
        """The buttons with this text in a row of which one is down."""
        return self.outputs.locator("button.widget-toggle-button").filter(has_text=_exactly(text))

    def slider(self, label: str) -> Locator:
        """The handle of the slider with this label, which arrow keys move once it has the focus."""
        name = self.page.locator(".widget-label").filter(has_text=_exactly(label))
        return self.outputs.locator(".widget-slider").filter(has=name).locator(".noUi-handle")

    def field(self, label: str) -> Locator:
        """The box with this label that takes text or a number."""
        name = self.page.locator(".widget-label").filter(has_text=_exactly(label))
        return (
            self.outputs.locator(".widget-inline-hbox").filter(has=name).locator("input, textarea")
        )

    def tab_to(self, place: Locator, presses: int = 100) -> None:
        """Press Tab until a place has the focus."""
        for _ in range(presses):
            self.page.keyboard.press("Tab")
            if place.evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"{presses} presses of Tab do not reach {place}")

    def last_click(self) -> float:
        """When the page was last clicked: seconds of `time.time()`."""
        return self.page.evaluate("harness.lastClick()")

    def save(self) -> Path:
        """Save the notebook; its file."""
        self.page.evaluate("harness.save()")
        return self.path

    def reload(self) -> None:
        """Save and load the page anew; the kernel goes on."""
        cells = len(nbformat.read(self.save(), as_version=4).cells)
        self.page.reload()
        self._wait_ready(cells)

    def reopen(self, *, trusted: bool = True) -> None:
        """Save, end the kernel and open the notebook anew, with a kernel that has run nothing.

        One that is not trusted has a cell of which the server did not see that it was run here.
        """
        notebook = nbformat.read(self.save(), as_version=4)
        self._jupyter.end_kernel(self.path.name)
        if not trusted:
            notebook.cells[0].source += "\n# from someone else"
            nbformat.write(notebook, self.path)
        self.page.reload()
        self._wait_ready(len(notebook.cells))

    def interrupt_kernel(self) -> None:
        """Interrupt the kernel, as the stop button of the toolbar does."""
        self._jupyter.tell_kernel(self.path.name, "interrupt")

    def restart_kernel(self, *, by_server: bool = False) -> None:
        """Restart the kernel, as the toolbar does or behind the page's back; wait until it is back.

        The server says nothing beforehand, so the page goes on as if it were the same kernel.
        """
        if by_server:
            self._jupyter.tell_kernel(self.path.name, "restart")
        else:
            self.page.evaluate("harness.restartKernel()")
        self._wait_ready(1)

    def screenshot(self, name: str, top: Locator | None = None) -> Path:
        """Write what the window shows as a PNG, named with frontend and width.

        With `top`, the page is scrolled so that it begins there.
        """
        if top is not None:
            top.evaluate("element => element.scrollIntoView({ block: 'start' })")
        self._pictures.mkdir(parents=True, exist_ok=True)
        picture = self._pictures / f"{name}-{self.frontend}-{self.width}.png"
        self.page.screenshot(path=picture)
        return picture

    def close(self) -> None:
        """Close the tab and end the kernel."""
        self.page.context.close()
        self._jupyter.end_kernel(self.path.name)

    def _wait_ready(self, cells: int) -> None:
        try:
            self.page.wait_for_function("cells => harness.ready(cells)", arg=cells)
        except PlaywrightTimeout as error:
            picture = self.screenshot("not-ready")
            raise AssertionError(f"no notebook with an idle kernel; see {picture}") from error

    def _no_errors(self) -> None:
        errors = self.page.evaluate("harness.errors()")
        assert errors == [], f"cells failed: {errors}"

    def _listen(self) -> None:
        """Note uncaught errors, and every address of another machine."""

        def address(url: str) -> None:
            host = urlsplit(url).hostname  # data: and blob: have none
            if host and host not in LOCAL:
                self.faults.append(f"asked of another machine: {url}")

        def mistake(error: Error) -> None:
            own = "notebook_core" in (error.stack or "") and str(error) in _NOTEBOOKS_OWN
            if not own:
                self.faults.append(f"page error: {error}")

        self.page.on("pageerror", mistake)
        self.page.context.on("request", lambda request: address(request.url))
        self.page.on("websocket", lambda socket: address(socket.url))


def _notebook(cells: Sequence[str]) -> nbformat.NotebookNode:
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code.strip("\n")) for code in cells],
        metadata={"kernelspec": kernel},
    )


def _exactly(text: str) -> re.Pattern[str]:
    return re.compile(rf"^\s*{re.escape(text)}\s*$")
