"""A result as the last line of a notebook cell says in a few lines what it is.

No text of a harmful prompt is in it, nothing in it can act on the page, and its table and figure
are there when asked for. A room adds its results with a function marked by ``@shown``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import actor_lens
from actor_lens.activations.residuals import collect_activations
from actor_lens.activations.store import Store
from actor_lens.directions.just_enough_shift import JustEnoughShift
from actor_lens.directions.layer_scores import score_layers
from actor_lens.directions.predicted_refusals import current_refusals, predict_refusals
from actor_lens.directions.projections import layer_map, project, token_projections
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.directions.targets import just_enough_targets
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, versions
from tests.support.tiny_models import tiny_chat_model

SECRET = "vitriol"  # in every harmful prompt, and nowhere else
NOT_SAFE = "<script>window.harmed = 1</script> \u202e"  # in every prompt
PROMPTS = PromptSet(
    tuple(
        Prompt(f"{text} {number} {NOT_SAFE}", label)
        for number in range(4)
        for label, text in (
            ("harmful", f"Brew {SECRET}"),
            ("pseudo_harmful", "Kill the process"),
            ("benign", "Bake a cake"),
        )
    ),
    name="secret prompts",
)
MAKERS: dict[str, Callable[[Path], Any]] = {}


def shown(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Mark a function that makes a result, given an empty folder."""
    MAKERS[make.__name__] = make
    return make


class Made:
    """The stages of one look at a tiny model, made once."""

    model: ChatModel = tiny_chat_model()
    activations = collect_activations(model, PROMPTS, block_inputs=[1, 2], store=False)
    residuals = activations.residuals
    assert residuals is not None
    directions = refusal_directions(residuals)
    projections = project(residuals, directions)
    targets = just_enough_targets(residuals, directions, 1)
    tokens = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
    scores = score_layers(projections, model=model, tokens=tokens, rounds=3)


@shown
def model(_folder: Path) -> Any:
    return Made.model


@shown
def just_enough(_folder: Path) -> Any:
    along = Made.projections.values[1]
    gammas = 0.1 * along
    gammas[1] = torch.nan
    return JustEnoughShift(gammas, along, PROMPTS, 1, 2.0, -1.0, 1.0, (0.5, 1.0), 8, "none", 4)


@shown
def residuals(_folder: Path) -> Any:
    return Made.residuals


@shown
def block_inputs(_folder: Path) -> Any:
    return Made.activations.block_inputs[1]


@shown
def activations(_folder: Path) -> Any:
    return Made.activations


@shown
def store(folder: Path) -> Any:
    filled = Store(folder / "store", limit=10**6)
    collect_activations(Made.model, PROMPTS, store=filled)
    return filled


@shown
def empty_store(folder: Path) -> Any:
    return Store(folder / "store")


@shown
def directions(_folder: Path) -> Any:
    return Made.directions


@shown
def projections(_folder: Path) -> Any:
    return Made.projections


@shown
def tokens_of_a_harmful_prompt(_folder: Path) -> Any:
    return token_projections(Made.model, PROMPTS[0].prompt, Made.directions)


@shown
def map_of_a_layer(_folder: Path) -> Any:
    return layer_map(Made.residuals, 1)


@shown
def targets(_folder: Path) -> Any:
    return Made.targets


@shown
def preview(_folder: Path) -> Any:
    return Made.targets.preview()


@shown
def scores(_folder: Path) -> Any:
    return Made.scores


@shown
def choice(_folder: Path) -> Any:
    return Made.scores.best()


@shown
def refusals(_folder: Path) -> Any:
    return current_refusals(Made.model, PROMPTS, Made.tokens)


@shown
def predictions(_folder: Path) -> Any:
    return predict_refusals(Made.model, Made.targets, Made.tokens)


@pytest.fixture(params=MAKERS)
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MAKERS[request.param](tmp_path)


def test_a_result_is_a_few_lines_without_harmful_prompts(result: Any):
    text, page = repr(result), result._repr_html_()
    assert 1 <= len(text.splitlines()) <= 3
    assert len(text) < 1000
    assert type(result).__name__ in text
    for form in (text, page):
        assert SECRET not in form
        assert "\u202e" not in form
        assert "tensor(" not in form
    assert "<script" not in page
    assert len(page) < 20_000
    assert page.count("<tr>") <= 7


def test_a_result_has_a_table_and_a_plain_summary(result: Any):
    if not isinstance(result, Result):
        return
    assert isinstance(result.frame(), pd.DataFrame)
    summary = result.summary()
    assert SECRET not in json.dumps(summary)
    assert not any(isinstance(value, torch.Tensor) for value in summary.values())


def test_the_figure_that_a_result_names_draws_it(result: Any):
    if not isinstance(result, Result):
        return
    if result._figure:
        assert isinstance(result.plot(), go.Figure)
        assert f"al.figures.{result._figure}" in repr(result)
    else:
        with pytest.raises(NotImplementedError):
            result.plot()


def test_versions_need_no_installed_package(monkeypatch):
    import importlib.metadata

    known = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("actor-lens", "actor_lens"):
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions()["actor_lens"] == actor_lens.__version__
