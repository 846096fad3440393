"""One browser and one Jupyter server for the tests of this folder, and a fresh tab for each.

Both end with the last test here and not with the session: while Playwright is in use, an event
loop runs in this thread, in which later tests could not start their own.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.chromium import MISSING, chromium, find_browser
from tests.support.jupyter_server import JupyterServer, jupyter_server
from tests.support.notebook_page import FRONTENDS, NotebookPage

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        if "jupyter" in getattr(item, "funcargs", {}):
            report.sections.append(("Jupyter server", item.funcargs["jupyter"].last_lines()))
    return report


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None and os.environ.get("ACTOR_LENS_REQUIRE_BROWSER"):
        pytest.fail(MISSING, pytrace=False)
    if program is None:
        pytest.skip(MISSING)
    with chromium(program) as started:
        yield started


@pytest.fixture(scope="package")
def jupyter(browser, tmp_path_factory) -> Iterator[JupyterServer]:
    assert browser.is_connected()  # without a browser there is nothing to serve
    with jupyter_server(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture(params=FRONTENDS)
def frontend(request):
    return request.param


@pytest.fixture
def open_notebook(browser, jupyter, tmp_path, request):
    """Open notebooks; at the end close them, and fail where a page had an error."""
    pictures = Path(os.environ.get("ACTOR_LENS_SCREENSHOTS") or tmp_path)
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    opened: list[NotebookPage] = []

    def open_one(cells, frontend="lab", width=1440, height=900):
        notebook = NotebookPage(
            browser,
            jupyter,
            f"{name}-{len(opened)}",
            frontend=frontend,
            size=(width, height),
            pictures=pictures,
        )
        opened.append(notebook)
        notebook.open(cells)
        return notebook

    yield open_one
    for notebook in opened:
        if request.node.stash.get(FAILED, False):
            notebook.screenshot(f"failed-{name}")
        notebook.close()
    faults = [fault for notebook in opened for fault in notebook.faults]
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)
