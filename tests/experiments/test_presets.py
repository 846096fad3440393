"""A preset says where every setting comes from; a guess is never presented as the paper's."""

import pytest

from actor_lens.errors import UserError
from actor_lens.experiments.presets import FROM_PAPER, FROM_SWEEP, PRESETS, preset_named

PAPER = PRESETS["paper"]


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-2-13b", "gemma-7b"])
def test_unknown_settings_are_marked_as_found_here(model):
    plan = PAPER.plan(model).set_index("setting")
    for setting in ("target layer", "alpha", "learning rate"):
        assert plan.loc[setting, "source"] == FROM_SWEEP
    assert plan.loc["model", "value"] == PAPER.models[model]
    assert plan.loc["epochs of ACTOR", "source"] == FROM_PAPER
    assert "SCOPE" in plan.loc["pseudo-harmful prompts", "value"]


def test_models_go_by_short_name_or_hub_id():
    assert PAPER.hub_id("google/gemma-7b-it") == PAPER.hub_id("Gemma-7B") == "google/gemma-7b-it"
    with pytest.raises(UserError, match="no model 'gpt-2'; use one of: llama-2-7b"):
        PAPER.hub_id("gpt-2")
    with pytest.raises(UserError, match="preset 'other' is not known"):
        preset_named("other")
