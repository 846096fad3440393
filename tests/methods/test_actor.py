"""ACTOR and its variants are the fine-tune that the package offers, with one thing changed."""

import numpy as np
import pytest
import torch

from actor_lens.activations.residuals import collect_block_inputs, collect_residuals
from actor_lens.errors import UserError
from actor_lens.methods import make_method
from actor_lens.methods.form_direction import form_direction
from actor_lens.methods.shuffled_labels import shuffled
from actor_lens.methods.support.selection import Selection
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.block_trainer import BlockTrainer
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.loop import train_block
from tests.support.fitting import make_up_tokens, train_prompts, validation_prompts
from tests.support.steering import random
from tests.support.tiny_models import D_MODEL, SOME_ARCHITECTURES, shared_tiny_model
from tests.support.tiny_runs import same_bits

LAYER = 1


@pytest.fixture(autouse=True)
def _made_up_tokens(monkeypatch):
    make_up_tokens(monkeypatch)


def fitted(name: str, architecture: str = "llama", **settings):
    method = make_method(name, **{"layer": LAYER, "epochs": 2, **settings})
    return method.fit(shared_tiny_model(architecture), train_prompts(), validation_prompts())


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("actor", {}),
        ("actor-raw", {"origin": "zero", "anchor": "current"}),
        ("uniform-shift", {"shift": "uniform"}),
    ],
)
@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_a_given_layer_is_trained_as_finetune_layer_does(name, changed, architecture):
    model = shared_tiny_model(architecture)
    truth = finetune_layer(model, train_prompts(), layer=LAYER, epochs=2, **changed)
    found = fitted(name, architecture)
    assert same_bits(dict(truth.state), dict(found.run.state))
    assert found.chosen == ()
    assert found.settings["layer"] == LAYER


def test_the_chosen_layer_has_the_best_tradeoff_of_those_tried():
    model = shared_tiny_model("llama")
    method = make_method("actor", epochs=1, trials=2)
    found = method.fit(model, train_prompts(), validation_prompts())
    tried = found.settings["tried_layers"]
    assert found.settings["layer"] in tried
    assert len(tried) <= 2
    assert found.chosen == ("layer",)


def test_the_search_trains_every_combination_and_keeps_the_best(monkeypatch):
    tried = []

    def effect_of(selection, model, change):
        with change:
            effect = selection.effect(model)
        tried.append(effect)
        return effect

    monkeypatch.setattr(Selection, "effect_of", effect_of)
    found = fitted("actor-auto", alphas=(1.0, 2.0), lrs=(1e-3, 1e-1))
    assert found.chosen == ("alpha", "lr")
    assert len(tried) == 4
    selection = Selection.of(shared_tiny_model("llama"), validation_prompts())
    best = selection.best(((effect, effect) for effect in tried), max_kl=None).effect
    assert found.settings["validation_tradeoff"] == round(best.tradeoff, 4)
    settings = {"alpha": found.settings["alpha"], "lr": found.settings["lr"]}
    again = finetune_layer(
        shared_tiny_model("llama"), train_prompts(), layer=LAYER, epochs=2, **settings
    )
    assert same_bits(dict(again.state), dict(found.run.state))


@pytest.mark.parametrize("name", ["alpha", "lr"])
def test_the_search_takes_no_single_value(name):
    with pytest.raises(UserError, match=f"give the values to try as {name}s"):
        fitted("actor-auto", **{name: 0.5})


def test_the_random_direction_takes_the_place_of_the_refusal_vector():
    model, vector = shared_tiny_model("llama"), random(D_MODEL)
    inputs = collect_block_inputs(model, train_prompts(), LAYER, store=False)
    trainer = BlockTrainer(model, FinetuneConfig(layer=LAYER), inputs, vector)
    unit = vector.double().numpy() / np.linalg.norm(vector.double().numpy())
    assert np.abs(trainer.unit.double().numpy() - unit).max() < 1e-6
    start = trainer.activations().double().numpy()
    labels = np.array(train_prompts().labels)
    origin = start[labels == "benign"].mean(axis=0) @ unit
    signs = np.where(labels == "harmful", 1.0, -1.0)
    goals = start + (signs * (start @ unit - origin))[:, None] * unit
    cosines = (start * goals).sum(1) / np.linalg.norm(start, axis=1) / np.linalg.norm(goals, axis=1)
    everyone = list(range(len(labels)))
    losses = trainer._losses(trainer.activations(), everyone).double().numpy()
    assert np.abs(losses - (1 - cosines)).max() < 1e-5


def test_controls_train_something_else_than_actor_and_other_seeds_something_else_again():
    actor = fitted("actor").run
    for name in ("control-random-direction", "control-shuffled-labels"):
        control, other = fitted(name).run, fitted(name, seed=1).run
        assert not same_bits(dict(control.state), dict(actor.state))
        assert not same_bits(dict(control.state), dict(other.state))
        assert control.status == "completed"


def test_the_form_control_follows_the_direction_of_form_among_benign_prompts():
    """Against means in float64; the harmful look is planted: long prompts that end in "!"."""
    model = shared_tiny_model("llama")
    benign = ["ab cd", "cd ab", "ab ab cd ab cd ab!", "cd cd ab cd ab cd!"]
    harmful = ["ab cd cd ab ab cd ab cd!", "cd ab ab cd cd ab cd ab!"]
    train = PromptSet(
        tuple(Prompt(one, "benign") for one in benign)
        + tuple(Prompt(one, "harmful") for one in harmful)
    )
    residuals = collect_residuals(model, train[:4], store=False).values[LAYER].double().numpy()
    expected = residuals[2:].mean(axis=0) - residuals[:2].mean(axis=0)
    assert np.abs(form_direction(model, train, LAYER).double().numpy() - expected).max() < 1e-6
    same = PromptSet(tuple(Prompt("ab cd", label) for label in ("benign", "benign", "harmful")))
    with pytest.raises(UserError, match="one form"):
        form_direction(model, same, LAYER)


def test_the_form_control_trains_along_that_direction():
    model, found = shared_tiny_model("llama"), fitted("control-form-direction", layer=LAYER)
    vector = form_direction(model, train_prompts(), LAYER)
    inputs = collect_block_inputs(model, train_prompts(), LAYER, store=False)
    truth = train_block(model, inputs, FinetuneConfig(layer=LAYER, epochs=2), vector=vector)
    assert same_bits(dict(truth.state), dict(found.run.state))


def test_shuffling_permutes_the_labels_and_nothing_else():
    prompts = train_prompts()
    other = shuffled(prompts, 0)
    assert other.texts == prompts.texts
    assert other.counts() == prompts.counts()
    assert other.labels != prompts.labels
    assert other == shuffled(prompts, 0) != shuffled(prompts, 1)


def test_the_control_is_a_finetune_on_shuffled_labels():
    model = shared_tiny_model("llama")
    truth = finetune_layer(model, shuffled(train_prompts(), 0), layer=LAYER, epochs=2)
    found = fitted("control-shuffled-labels")
    assert same_bits(dict(truth.state), dict(found.run.state))
    with found.applied_to(model) as changed:
        name, tensor = next(iter(truth.state.items()))
        assert torch.equal(changed.hf.state_dict()[name], tensor)
