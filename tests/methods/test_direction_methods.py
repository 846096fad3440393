"""The vectors of ablation, activation addition and Surgical, and their choice, by numpy."""

import numpy as np
import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.judges.first_token import refusal_scores
from actor_lens.methods import make_method
from actor_lens.methods.ablation import ablation_directions, candidate_places
from actor_lens.methods.support.selection import Selection, middle_layers
from actor_lens.methods.support.tails import tail_residuals
from actor_lens.methods.surgical import false_refusal_vectors
from actor_lens.models.interventions import ablate_everywhere, add_direction
from actor_lens.models.replies import first_token_logits
from tests.support.fitting import make_up_tokens, train_prompts, validation_prompts
from tests.support.steering import CLOSING, TEXTS, stream
from tests.support.tiny_models import SOME_ARCHITECTURES, shared_tiny_model


@pytest.fixture(autouse=True)
def _made_up_tokens(monkeypatch):
    make_up_tokens(monkeypatch)


def means_alone(model, prompts, count: int) -> dict[str, np.ndarray]:
    """Class means at the last tokens, each prompt run alone: ``[layer, position, d_model]``."""
    flows = {label: [] for label in prompts.labels}
    for prompt, ids in zip(prompts, model.tokenize(prompts.texts), strict=True):
        flows[prompt.label].append(stream(model, ids)[:, -count:])
    return {label: np.mean(each, axis=0) for label, each in flows.items()}


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_ablation_directions_are_differences_of_means(architecture):
    model, train = shared_tiny_model(architecture), train_prompts()
    directions = ablation_directions(model, train, 3).numpy()
    means = means_alone(model, train, CLOSING)
    truth = means["harmful"] - means["benign"]
    assert directions.shape == truth.shape
    assert np.abs(directions - truth).max() < 1e-4 * np.abs(means["benign"]).max()


def test_ablation_takes_the_lowest_bypass_score_that_passes_the_filters():
    model = shared_tiny_model("gemma2")
    selection = Selection.of(model, validation_prompts())
    directions = ablation_directions(model, train_prompts(), 3)
    passing = []
    for place in candidate_places(model, CLOSING, 8):
        added = selection.effect_of(model, add_direction(model, place[0], directions[place]))
        gone = selection.effect_of(model, ablate_everywhere(model, directions[place]))
        if added.score["benign"] >= 0 and selection.within_limits(gone, 1e3):
            passing.append((gone.score["harmful"], place))
    method = make_method("ablation", max_kl=1e3)
    if not passing:
        with pytest.raises(UserError, match="no direction"):
            method.fit(model, train_prompts(), validation_prompts())
        return
    fitted = method.fit(model, train_prompts(), validation_prompts())
    assert (fitted.settings["layer"], fitted.settings["position"]) == min(passing)[1]
    with fitted.applied_to(model):
        found = first_token_logits(model, TEXTS)
    with ablate_everywhere(model, directions[min(passing)[1]]):
        assert torch.equal(first_token_logits(model, TEXTS), found)


def test_activation_addition_adds_the_chosen_multiple_at_the_chosen_layer():
    model, train = shared_tiny_model("llama"), train_prompts()
    method = make_method("activation-addition", max_kl=1e3)
    fitted = method.fit(model, train, validation_prompts())
    means = means_alone(model, train, 1)
    vectors = torch.tensor(means["harmful"] - means["benign"])[:, -1].float()
    selection = Selection.of(model, validation_prompts())
    tried = {(middle_layers(model)[0], 0.0): selection.untouched}
    for layer in middle_layers(model):
        for strength in method.strengths:
            change = add_direction(model, layer, strength * vectors[layer])
            tried[layer, strength] = selection.effect_of(model, change)
    ranks = {
        place: one.rank[0] for place, one in tried.items() if selection.within_limits(one, 1e3)
    }
    layer, strength = fitted.settings["layer"], fitted.settings["strength"]
    assert ranks[layer, strength] == max(ranks.values())
    with add_direction(model, layer, strength * vectors[layer]):
        truth = first_token_logits(model, TEXTS)
    with fitted.applied_to(model):
        found = first_token_logits(model, TEXTS)
    assert (found - truth).abs().max() < 1e-3 * truth.abs().max()


def test_the_false_refusal_vector_is_the_formula_in_float64():
    tails, scores = torch.randn(2, 3, 9, 8), torch.tensor([1.0, -1.0, 2.0] * 3)
    labels = ("harmful", "pseudo_harmful", "benign") * 2 + ("pseudo_harmful",) * 3
    found = false_refusal_vectors(tails, labels, scores, 0.7).numpy()
    rows = tails.double().numpy()
    names, refused = np.array(labels), scores.numpy() > 0
    mean = {
        "false": rows[:, :, (names == "pseudo_harmful") & refused].mean(axis=2),
        "true": rows[:, :, names == "harmful"].mean(axis=2),
        "benign": rows[:, :, names == "benign"].mean(axis=2),
    }
    for layer in range(2):
        for position in range(3):
            v_f = mean["false"][layer, position] - mean["benign"][layer, position]
            v_t = mean["true"][layer, position] - mean["benign"][layer, position]
            truth = v_f - 0.7 * (v_f @ v_t) / np.linalg.norm(v_t) ** 2 * v_t
            assert np.abs(found[layer, position] - truth).max() < 1e-5
    whole = false_refusal_vectors(tails, labels, scores, 1.0).double().numpy()
    true = mean["true"] - mean["benign"]
    assert np.abs((whole * true).sum(-1)).max() < 1e-5


def test_no_refused_pseudo_harmful_prompt_is_an_error():
    labels = ("harmful", "pseudo_harmful", "benign")
    with pytest.raises(UserError, match="refuses none of the pseudo-harmful"):
        false_refusal_vectors(torch.randn(2, 1, 3, 4), labels, torch.tensor([1.0, -1.0, -1.0]), 1.0)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_surgical_ablates_the_place_with_the_lowest_pseudo_harmful_score(architecture):
    model, train = shared_tiny_model(architecture), train_prompts()
    logits = first_token_logits(model, train.where(label="pseudo_harmful").texts)
    odds = logits[:, ::2].logsumexp(-1) - logits[:, 1::2].logsumexp(-1)
    method = make_method("surgical", max_kl=1e3)
    if float(odds.max()) <= 0:
        with pytest.raises(UserError, match="refuses none of the pseudo-harmful"):
            method.fit(model, train, validation_prompts())
        return
    fitted = method.fit(model, train, validation_prompts())
    selection = Selection.of(model, validation_prompts())
    rows = refusal_scores(model, train.texts, selection.tokens)
    vectors = false_refusal_vectors(
        tail_residuals(model, train.texts, CLOSING), train.labels, rows, 1.0
    )
    scores = {}
    for place in candidate_places(model, CLOSING, 8):
        effect = selection.effect_of(model, ablate_everywhere(model, vectors[place]))
        if selection.within_limits(effect, 1e3):
            scores[place] = effect.score["pseudo_harmful"]
    assert fitted.settings["limits_met"] == bool(scores)
    if scores:
        best = min(scores, key=lambda place: scores[place])
        assert (fitted.settings["layer"], fitted.settings["position"]) == best
