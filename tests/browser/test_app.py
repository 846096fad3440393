"""The app shows one dashboard and nothing else, and a page that is reloaded finds it again."""

import html
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from playwright.sync_api import expect

import actor_lens as al
from tests.support.jupyter_server import REPOSITORY, wait_until


@pytest.fixture
def address(tmp_path):
    whole = al.load_prompts("toy")
    parts = [whole.where(split=split).sample(12) for split in ("train", "validation", "test")]
    prompts = al.PromptSet(tuple(one for part in parts for one in part))
    prompts.save(tmp_path / "few.jsonl")
    words = ["app", "--prompts", tmp_path / "few.jsonl", "--layer", "2"]
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\ncd "${0%/*}" && printf %s "$*" > new && mv new told\n')
    browser.chmod(0o700)
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "actor_lens", *map(str, words)],
            cwd=REPOSITORY,
            env=os.environ | {"BROWSER": str(browser)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout:
        yield re.search(r"http\S+", process.stdout.readline())[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_the_dashboard_stands_alone(browser, address, tmp_path):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(address)
    layers = page.locator(".actor-lens select").first
    expect(layers).to_have_value(re.compile("layer 2"), timeout=60_000)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    for chrome in ("#jp-top-panel", ".jp-Toolbar", ".jp-InputArea"):
        for place in page.locator(chrome).all():
            inside = "e => e.contains(document.elementFromPoint(720, 40))"
            assert not place.evaluate(inside)
    assert page.locator(".actor-lens").first.bounding_box()["width"] > 1380

    layers.select_option(index=6)
    title = page.get_by_text("Prompts at layer 6")
    expect(title).to_be_visible()
    page.reload()
    expect(title).to_be_visible(timeout=60_000)
    page.close()

    # Others on this machine see neither the token, which leads in, nor what the kernel says.
    wait_until((tmp_path / "told").exists, 30, "the browser is told what to open")
    opened = Path(url2pathname(urlsplit((tmp_path / "told").read_text()).path))
    assert stat.S_IMODE(opened.parent.stat().st_mode) == 0o700
    assert address in html.unescape(opened.read_text())
    assert "encryption" not in (tmp_path / "errors").read_text()
