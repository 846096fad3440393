"""CAST: the condition of each prompt and what it switches on, replayed in float64 numpy."""

import itertools

import numpy as np
import pytest
import torch

from actor_lens.methods.cast import Condition, best_f1, condition_vector, similarity, steer_where
from actor_lens.models.chat_model import ChatModel
from tests.support.steering import (
    TEXTS,
    cosine,
    generated,
    hooks,
    logits,
    padded,
    random,
    received,
    replayed,
    stream,
)
from tests.support.tiny_models import (
    D_MODEL,
    SOME_ARCHITECTURES,
    shared_tiny_model,
    talkative_tiny_model,
)


def similarity_alone(model: ChatModel, text: str, vector: np.ndarray, layer: int) -> float:
    """The formula with the projection written as a matrix."""
    last = stream(model, model.tokenize([text])[0])[layer, -1]
    projection = np.outer(vector, vector) / (vector @ vector)
    return cosine(last, np.tanh(projection @ last))


def condition_that_splits(model: ChatModel, layer: int) -> tuple[Condition, list[bool]]:
    vector = random(D_MODEL, seed=6)
    values = [similarity_alone(model, text, vector.double().numpy(), layer) for text in TEXTS]
    threshold = float(np.mean(sorted(values)[1:3]))
    truth = [value < threshold for value in values]
    assert sum(truth) == 2
    return Condition(vector, layer, threshold, True, 1.0), truth


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@pytest.mark.parametrize("layer", [1, 2])
def test_only_prompts_on_the_harmless_side_are_steered(architecture, layer):
    model = shared_tiny_model(architecture)
    condition, truth = condition_that_splits(model, 1)
    vector, batch = random(D_MODEL), padded(model)
    with received(model) as plain:
        logits(model, batch)
    with steer_where(model, condition, layer, vector), received(model) as steered:
        logits(model, batch)
    expected = plain[layer] + np.array(truth)[:, None, None] * vector.double().numpy()
    real = batch.attention_mask.bool().numpy()
    assert np.abs(steered[layer] - expected)[real].max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_generation_with_cache_and_padding_equals_a_replay_without(architecture):
    model = talkative_tiny_model(architecture)
    condition, truth = condition_that_splits(model, 1)
    vector = 5.0 * random(D_MODEL)
    wanted = []
    for text, steered in zip(TEXTS, truth, strict=True):
        add = steered * vector.double().numpy()
        ids = model.tokenize([text])[0]
        wanted.append(replayed(model, ids, 6, [(2, lambda states, add=add: states + add)]))
    assert wanted != generated(model, TEXTS, 6)
    with steer_where(model, condition, 2, vector):
        assert generated(model, TEXTS, 6) == wanted
        assert generated(model, TEXTS[::-1], 6) == wanted[::-1]


def test_the_other_side_is_steered_where_harmful_prompts_lie_below():
    residuals = random(6, D_MODEL)
    above = Condition(random(D_MODEL, seed=1), 0, 0.3, True, 1.0)
    below = Condition(above.vector, 0, 0.3, False, 1.0)
    assert torch.equal(above.harmless(residuals), ~below.harmless(residuals))


def test_similarity_is_the_formula_in_float64():
    rows, vector = 3 * random(5, D_MODEL), random(D_MODEL, seed=1)
    c = vector.double().numpy()
    truth = [cosine(h, np.tanh(np.outer(c, c) / (c @ c) @ h)) for h in rows.double().numpy()]
    assert np.abs(similarity(rows, vector).numpy() - truth).max() < 1e-5


def test_the_condition_vector_is_the_first_principal_axis():
    rng = np.random.default_rng(0)
    labels = ["harmful", "pseudo_harmful", "benign"] * 20
    rows = rng.normal(size=(60, 8))
    axis = np.eye(8)[3]
    rows[::3] += 6 * axis
    rows[1::3] -= 6 * axis
    rows[2::3] += 100  # benign prompts play no part
    found = condition_vector(torch.tensor(rows).float(), labels).double().numpy()
    both = np.concatenate([rows[::3], rows[1::3]])
    both = both - (rows[::3].mean(0) + rows[1::3].mean(0)) / 2
    eigenvector = np.linalg.eigh(both.T @ both)[1][:, -1]
    assert abs(cosine(found, eigenvector)) > 1 - 1e-6
    assert found[3] > 0.9
    means = condition_vector(torch.tensor(rows).float(), labels, "means").double().numpy()
    assert cosine(means, rows[::3].mean(0) - rows[1::3].mean(0)) > 1 - 1e-6
    assert np.linalg.norm(means) == pytest.approx(1, abs=1e-6)


def test_best_f1_is_the_best_of_all_by_exhaustion():
    values = torch.tensor([0.2, 0.9, 0.4, 0.6, 0.1])
    for positive in itertools.product([False, True], repeat=5):
        truth = np.array(positive)

        def f1(found: np.ndarray, truth: np.ndarray = truth) -> float:
            return 2 * (found & truth).sum() / max(1, found.sum() + truth.sum())

        sides = [values.numpy() >= t for t in np.linspace(0, 1, 101)]
        best = max(f1(found) for side in sides[10:91] for found in (side, ~side))
        threshold, above, value = best_f1(values, positive)
        found = values.numpy() >= threshold
        assert f1(found if above else ~found) == pytest.approx(value)
        assert value == pytest.approx(best)


def test_nothing_is_left_after_it_nor_after_an_exception():
    model = shared_tiny_model("llama")
    condition, _ = condition_that_splits(model, 0)
    batch = padded(model)
    before, n_hooks = logits(model, batch), hooks(model)
    with steer_where(model, condition, 1, random(D_MODEL)):
        assert not torch.equal(logits(model, batch), before)
    with pytest.raises(ValueError, match="stop"), steer_where(model, condition, 1, random(D_MODEL)):
        raise ValueError("stop")
    assert torch.equal(logits(model, batch), before)
    assert hooks(model) == n_hooks
