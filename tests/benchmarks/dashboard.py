"""How quick the dashboard is in a real browser: ``python -m tests.benchmarks.dashboard``.

Milliseconds from the release of the mouse button until everything is on the screen, for clicks on a
layer with 1,002 prompts and 32 layers, or with 300 prompts of ``--model``; from a key that moves
alpha until the refusals of 102 prompts are predicted and drawn, with ``--model`` or the bundled
one; and, while a layer of the bundled model is trained, how late and how often the page is painted.
The load of the machine is noted; nothing else should run on it meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actor_lens.diagnostics.bench import machine_facts
from tests.support.chromium import chromium, find_browser
from tests.support.dashboard_cells import DASHBOARD, DEEP, TOY, UPDATES_NOTED
from tests.support.jupyter_server import jupyter_server
from tests.support.notebook_page import Frontend, NotebookPage

CLICKS, MOVES, PAINTS = 40, 12, 40
# A real model and so many of its prompts. Scores and refusals, which take minutes, are made up.
REAL = """
from dataclasses import replace
import actor_lens as al
from actor_lens import widgets
from actor_lens.directions.layer_scores import LayerScore, LayerScores
from actor_lens.experiments.look import Look
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.statistics.separation import Measurement

model = al.load_model({model!r})
whole = al.load_prompts("starter,twins")
own = [whole.where(label).prompts for label in whole.counts()]
train = [replace(one, split="train") for some in own for one in some[:20]]
drawn = [replace(one, split="validation") for some in own for one in some[-{each}:]]
train, drawn = al.PromptSet(tuple(train)), al.PromptSet(tuple(drawn))
prompts = al.PromptSet(train.prompts + drawn.prompts)
residuals = al.collect_residuals(model, train)
directions = al.refusal_directions(residuals)
projections = al.project(al.collect_residuals(model, drawn), directions)
measured = Measurement(0.9, 0.8, 0.95, 0.4, 0.6)
n = model.n_layers
rows = tuple(LayerScore(layer, "auroc", "harmful_vs_benign", measured) for layer in range(n))
tokens = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
look = Look(prompts, residuals, directions, projections, tokens, LayerScores(rows, n), {{}})
"""


@contextmanager
def dashboard(made: str, frontend: Frontend) -> Iterator[NotebookPage]:
    """A notebook with a dashboard in a browser of its own."""
    program = find_browser()
    if program is None:
        raise SystemExit("no Chromium or Chrome found")
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium(program) as browser,
        jupyter_server(Path(folder)) as jupyter,
    ):
        page = NotebookPage(
            browser,
            jupyter,
            "benchmark",
            frontend=frontend,
            size=(1440, 1100),
            pictures=Path(folder),
        )
        try:
            page.open([made, DASHBOARD])
            page.run_all()
            page.wait_ran(600)  # a real model reads hundreds of prompts
            page.figure.wait_drawn()
            yield page
        finally:
            page.close()


def clicks(frontend: Frontend, model: str) -> dict[str, Any]:
    """Clicks on a layer until all panels are redrawn."""
    made = DEEP if model == "toy" else REAL.format(model=model, each=100)
    with dashboard(made, frontend) as page:
        n_layers = page.kernel_value("model.n_layers")
        medians = page.figure.trace(panel="layers", kind="median", label="benign")
        took = []
        for _ in range(CLICKS + 2):
            layer = (page.kernel_value("dashboard.layer") + 7) % n_layers
            took.append(page.figure.timed_click(medians, layer, ("layers", "prompts")).painted)
    return _spread(took[2:])  # the first warm up


def what_if(frontend: Frontend, model: str) -> dict[str, Any]:
    """Moves of alpha until targets and predicted refusals are drawn, prefixes cached.

    Both are drawn at once. Only the targets are waited for: predicted rates may stay as they were.
    """
    made = TOY.replace("sample(20)", "sample(34)")
    if model != "toy":
        made = REAL.format(model=model, each=34)
    with dashboard(made, frontend) as page:
        page.toggle("What if").click()
        page.button("Predict refusals").click()
        page.wait_value("len(dashboard.exploration.predictions)", 1, 300)
        handle = page.slider("alpha")
        took = [
            page.figure.timed(lambda: handle.press("ArrowRight"), ("targets",)).painted
            for _ in range(MOVES)
        ]
        assert page.kernel_value("len(dashboard.exploration.predictions)") == MOVES + 1
    return _spread(took[2:])


def painting(frontend: Frontend) -> dict[str, Any]:
    """Updates while training: milliseconds from Python to the screen, and how many a second."""
    with dashboard(TOY, frontend) as page:
        page.figure.record_updates()
        page.run_cell(UPDATES_NOTED)
        page.toggle("Train").click()
        page.field("Epochs").fill("100000")
        page.field("Epochs").press("Tab")
        page.button("Train").click()
        page.wait_until(lambda: len(page.figure.updates()) >= PAINTS, 120, "updates")
        painted = page.figure.updates()
        page.button("Stop").click()
        page.wait_value("dashboard.status", "ready")
        sent = page.kernel_value("sent")[: len(painted)]
        ended = page.kernel_value("dashboard.run.history[-1].seconds")
    lags = [1000 * (shown - told) for told, shown in zip(sent, painted, strict=True)]
    live = sent[5:]  # the first ones set the panel up
    return {
        "lag": _spread(lags),
        "updates_per_second": (len(live) - 1) / (live[-1] - live[0]),
        "trained_seconds": ended,
    }


def _spread(milliseconds: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(milliseconds),
        "95th_percentile": statistics.quantiles(milliseconds, n=20)[-1],
        "n": len(milliseconds),
    }


def main() -> None:
    """Measure and print one JSON record."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frontend", choices=("lab", "notebook"), default="lab")
    parser.add_argument("--model", default="toy", help="whose prompts are drawn and asked")
    parser.add_argument("--only", choices=("click", "what_if", "painting"))
    words = parser.parse_args()
    parts = {
        "click": lambda: clicks(words.frontend, words.model),
        "what_if": lambda: what_if(words.frontend, words.model),
        "painting": lambda: painting(words.frontend),
    }
    record = {
        "machine": machine_facts(torch.device("cpu")),
        "load": os.getloadavg(),
        "frontend": words.frontend,
        **{name: part() for name, part in parts.items() if words.only in (None, name)},
    }
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
