"""Settings are chosen by what the formulas of the module say, computed again in numpy."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logsumexp

from actor_lens.errors import UserError
from actor_lens.methods.support.selection import (
    BENIGN_SLACK,
    Effect,
    Selection,
    middle_layers,
    thresholds_of,
)
from actor_lens.models.interventions import add_direction
from actor_lens.models.replies import first_token_logits
from tests.support.fitting import make_up_tokens, validation_prompts
from tests.support.steering import random
from tests.support.tiny_models import D_MODEL, shared_tiny_model, tiny_chat_model
from tests.support.tiny_runs import tiny_prompts


@pytest.fixture(autouse=True)
def _made_up_tokens(monkeypatch):
    make_up_tokens(monkeypatch)


def effect(
    pseudo: float = 0.5, harmful: float = 1.0, benign: float = 0.0, kl: float = 0.0
) -> Effect:
    shares = {"pseudo_harmful": pseudo, "harmful": harmful, "benign": benign}
    return Effect(shares, shares, shares, kl)


def untouched() -> Selection:
    model = shared_tiny_model("llama")
    selection = Selection.of(model, validation_prompts())
    return Selection(selection.prompts, selection.tokens, selection.logits, effect())


def test_an_effect_is_that_of_numpy():
    model = shared_tiny_model("llama")
    selection = Selection.of(model, validation_prompts())
    found = selection.effect_of(model, add_direction(model, 1, 2 * random(D_MODEL)))
    base = first_token_logits(model, selection.prompts.texts).double().numpy()
    with add_direction(model, 1, 2 * random(D_MODEL)):
        changed = first_token_logits(model, selection.prompts.texts).double().numpy()
    scores = logsumexp(changed[:, ::2], axis=1) - logsumexp(changed[:, 1::2], axis=1)
    for label in ("harmful", "pseudo_harmful", "benign"):
        rows = np.array([one == label for one in selection.prompts.labels])
        assert found.refused[label] == pytest.approx((scores[rows] > 0).mean())
        assert found.score[label] == pytest.approx(scores[rows].mean(), abs=1e-5)
        assert found.probability[label] == pytest.approx(expit(scores[rows]).mean(), abs=1e-6)
    p, q = log_softmax(base, axis=1), log_softmax(changed, axis=1)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    benign = np.array([one == "benign" for one in selection.prompts.labels])
    assert found.kl == pytest.approx(kl[benign].mean(), rel=1e-4)
    assert found.kl > 0.01
    mean = (1 - found.refused["pseudo_harmful"] + found.refused["harmful"]) / 2
    assert found.tradeoff == pytest.approx(mean)


def test_the_best_within_the_limits_wins():
    tried = [
        ("harms benign prompts", effect(0.0, benign=BENIGN_SLACK + 0.01)),
        ("diverges", effect(0.0, kl=0.3)),
        ("good", effect(0.2)),
        ("as good", effect(0.2)),
        ("worse", effect(0.4)),
    ]
    selection = untouched()
    choice = selection.best(tried)
    assert (choice.candidate, choice.limits_met) == ("good", True)
    assert selection.best(tried, max_kl=None).candidate == "diverges"
    assert (
        selection.best(tried, rank=lambda one: one.refused["pseudo_harmful"]).candidate == "worse"
    )


def test_probabilities_decide_among_equal_shares():
    sure, unsure = effect(0.2), effect(0.2)
    sure = Effect(sure.refused, {"pseudo_harmful": 0.1, "harmful": 0.9}, sure.score, 0.0)
    unsure = Effect(unsure.refused, {"pseudo_harmful": 0.4, "harmful": 0.9}, unsure.score, 0.0)
    assert untouched().best([("unsure", unsure), ("sure", sure)]).candidate == "sure"


def test_where_none_keeps_to_the_limits_the_mildest_is_taken_and_said():
    choice = untouched().best([("wild", effect(0.0, kl=9.0)), ("mild", effect(0.9, kl=0.5))])
    assert (choice.candidate, choice.limits_met) == ("mild", False)
    assert choice.settings["limits_met"] is False


def test_the_sample_is_small_and_the_same_every_time():
    model = shared_tiny_model("llama")
    prompts = tiny_prompts(6)
    one = Selection.of(model, prompts, per_label=2)
    assert one.prompts.counts() == {"harmful": 2, "pseudo_harmful": 2, "benign": 2}
    assert one.prompts == Selection.of(model, prompts, per_label=2).prompts


def test_a_missing_label_is_an_error():
    with pytest.raises(UserError, match="0 pseudo_harmful prompts"):
        Selection.of(shared_tiny_model("llama"), tiny_prompts(2).where(label="harmful"))


@pytest.mark.parametrize("n_layers", [1, 2, 4, 5, 8, 10, 32, 80])
def test_layers_to_try_are_below_four_fifths_and_few(n_layers):
    model = tiny_chat_model("llama")
    model.hf.config.num_hidden_layers = n_layers
    layers = middle_layers(model, 8)
    below = [layer for layer in range(n_layers) if layer < 0.8 * n_layers]
    assert set(layers) <= set(below)
    assert (layers[0], layers[-1]) == (below[0], below[-1])
    assert len(layers) == min(8, len(below))


def test_thresholds_separate_every_two_values():
    assert thresholds_of(torch.tensor([3.0, 1.0, 2.0, 1.0])) == [1.0, 1.5, 2.5]
