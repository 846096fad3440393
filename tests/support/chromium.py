"""The Chromium or Chrome of this machine, driven by Playwright; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
MISSING = (
    "The browser tests need Chromium or Chrome: install it (Debian: apt install chromium) "
    "or set CHROME to its program."
)
LOCAL = ("127.0.0.1", "localhost")
# No address but this machine's resolves, and no proxy may resolve it instead.
_OFFLINE = (
    "--host-resolver-rules=MAP * ~NOTFOUND," + ",".join(f"EXCLUDE {host}" for host in LOCAL),
    "--no-proxy-server",
)
# The sandbox is off by Playwright's default: it is not to be had as root or in most containers,
# and the only pages are our own.
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *_OFFLINE,
)


def find_browser() -> str | None:
    """The program to start, or None."""
    asked = os.environ.get("CHROME")
    names = (asked,) if asked else NAMES
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
