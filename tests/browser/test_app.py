"""The app shows one dashboard and nothing else, and a page that is reloaded finds it again."""

import re
import signal
import subprocess
import sys

import pytest
from playwright.sync_api import expect

import actor_lens as al
from tests.support.jupyter_server import REPOSITORY


@pytest.fixture
def address(tmp_path):
    whole = al.load_prompts("toy")
    parts = [whole.where(split=split).sample(12) for split in ("train", "validation", "test")]
    prompts = al.PromptSet(tuple(one for part in parts for one in part))
    prompts.save(tmp_path / "few.jsonl")
    words = ["app", "--prompts", tmp_path / "few.jsonl", "--no-browser", "--layer", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "actor_lens", *map(str, words)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        yield re.search(r"http\S+", process.stdout.readline())[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_the_dashboard_stands_alone(browser, address):
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
