"""A preset says where every setting comes from; a guess is never presented as the paper's."""

import pytest

from actor_lens.errors import UserError
from actor_lens.presets import (
    FROM_PAPER,
    FROM_SWEEP,
    PRESETS,
    FoundSettings,
    find_settings,
    preset_named,
)
from actor_lens.training_run import FinetuneConfig

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


def test_the_best_of_every_learning_rate_is_taken(monkeypatch):
    from types import SimpleNamespace

    from actor_lens import layer_sweep

    asked = []

    def sweep(_model, _train, _validation, *, alphas, settings):
        asked.append((alphas, settings))
        rank = {1e-4: 0.7, 3e-4: 0.9, 1e-3: 0.9}[settings.lr]
        cell = SimpleNamespace(layer=len(asked), alpha=1.5)
        return SimpleNamespace(best_outcome=SimpleNamespace(cell=cell, rank=rank))

    monkeypatch.setattr(layer_sweep, "sweep_layers", sweep)
    from tests.support.studies import planted_prompts
    from tests.support.tiny_models import tiny_chat_model

    prompts = planted_prompts(2)
    found = find_settings(PAPER, tiny_chat_model(), prompts, prompts)
    assert found == FoundSettings(layer=2, alpha=1.5, lr=3e-4, rank=0.9)
    assert [settings for _, settings in asked] == [
        FinetuneConfig(layer=0, epochs=3, lr=lr) for lr in PAPER.lrs
    ]
