"""The heatmap is that of the tokens of the prompt in the box, which can be anything."""

import numpy as np
import pytest

import actor_lens as al
from actor_lens.widgets import PromptProbe
from tests.figures.results import NASTY
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import tiny_prompts


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture(scope="module")
def directions(model):
    return al.refusal_directions(al.collect_residuals(model, tiny_prompts(4)))


def shown(probe):
    (heat,) = probe.figure.data
    return heat


def test_the_heatmap_is_that_of_the_prompt(model, directions):
    probe = PromptProbe(model, directions, "kill time")
    for prompt in ("kill time", "kill", "kill a process, please"):
        probe.prompt = prompt
        tokens = al.token_projections(model, prompt, directions)
        table = tokens.frame().pivot(index="layer", columns="token_index", values="relative")
        np.testing.assert_allclose(shown(probe).z, table.to_numpy())
        assert probe._box.value == prompt
        assert probe.tokens.tokens == tokens.tokens
    assert np.array_equal(probe.static().data[0].z, shown(probe).z)


def test_the_button_looks_at_what_the_box_holds(model, directions):
    probe = PromptProbe(model, directions, "kill time")
    probe._box.value = "kill weeds"
    assert probe.prompt == "kill time"
    probe._look()
    assert probe.prompt == "kill weeds"


def test_a_prompt_that_cannot_be_looked_at_leaves_the_last_one(model, directions):
    probe = PromptProbe(model, directions, "kill time")
    before = shown(probe).z.copy()
    probe.prompt = "x" * 10_000
    assert "⚠" in probe._text.value
    assert np.array_equal(shown(probe).z, before)


def test_text_from_outside_is_text(model, directions):
    probe = PromptProbe(model, directions, "kill time")
    probe.prompt = NASTY[:120]
    assert "<script" not in probe._text.value
    assert "<script" not in str([trace.to_plotly_json() for trace in probe.figure.data])
