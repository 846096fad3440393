"""Angular steering turns by the angle it says and keeps every length."""

import numpy as np
import pytest
import torch

from actor_lens.methods.angular import angles, steering_plane, turn
from tests.support.steering import (
    TEXTS,
    generated,
    hooks,
    logits,
    padded,
    random,
    received,
    replayed,
)
from tests.support.tiny_models import (
    D_MODEL,
    N_LAYERS,
    SOME_ARCHITECTURES,
    shared_tiny_model,
    talkative_tiny_model,
)


def plane() -> torch.Tensor:
    return torch.linalg.qr(random(D_MODEL, 2).double()).Q.T.float()


def turned(states: np.ndarray, axes: np.ndarray, degrees: float, adaptive: bool) -> np.ndarray:
    """By complex numbers: the part in the plane keeps its modulus and gets a new argument."""
    inside = states @ axes[0] + 1j * (states @ axes[1])
    goal = np.abs(inside) * np.exp(1j * np.deg2rad(degrees))
    change = goal - inside
    if adaptive:
        change = np.where(inside.real > 0, change, 0)
    return states + change.real[..., None] * axes[0] + change.imag[..., None] * axes[1]


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_stream_is_turned_and_keeps_its_length(architecture, adaptive):
    model, axes = shared_tiny_model(architecture), plane()
    batch = padded(model)
    with received(model) as plain:
        logits(model, batch)
    with turn(model, axes, 200.0, adaptive=adaptive), received(model) as after:
        logits(model, batch)
    expected = turned(plain[0], axes.double().numpy(), 200.0, adaptive)
    scale = np.abs(plain[0]).max()
    assert np.abs(after[0] - expected).max() < 1e-4 * scale
    lengths = np.linalg.norm(plain[0], axis=-1)
    assert np.abs(np.linalg.norm(after[0], axis=-1) - lengths).max() < 1e-4 * lengths.max()
    inside = after[-1] @ axes.double().numpy().T
    if not adaptive:  # after every block, the last one too
        goal = np.array([np.cos(np.deg2rad(200)), np.sin(np.deg2rad(200))])
        shares = inside @ goal / np.linalg.norm(inside, axis=-1)
        assert shares.min() > 0.999
    else:
        assert 0 < (np.abs(after[0] - plain[0]).max(axis=-1) > 1e-6).mean() < 1


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_generation_with_cache_and_padding_equals_a_replay_without(architecture):
    model, axes = talkative_tiny_model(architecture), plane()

    def change(states: np.ndarray) -> np.ndarray:
        return turned(states, axes.double().numpy(), 150.0, False)

    wanted = [
        replayed(model, ids, 6, [(layer, change) for layer in range(N_LAYERS)])
        for ids in model.tokenize(TEXTS)
    ]
    with turn(model, axes, 150.0, adaptive=False):
        assert generated(model, TEXTS, 6) == wanted


def test_the_plane_is_orthonormal_and_its_first_axis_is_a_layers_direction():
    vectors = random(6, D_MODEL) + 3 * random(D_MODEL, seed=5)
    layer, axes = steering_plane(vectors, [0, 1, 2, 3])
    units = vectors.double().numpy()
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    assert layer == max(range(4), key=lambda one: (units @ units.T).mean(axis=1)[one])
    found = axes.double().numpy()
    assert np.abs(found @ found.T - np.eye(2)).max() < 1e-6
    assert np.abs(found[0] - units[layer]).max() < 1e-6
    axis = np.linalg.eigh(np.cov(units.T))[1][:, -1]
    axis -= (axis @ units[layer]) * units[layer]
    assert abs(found[1] @ axis / np.linalg.norm(axis)) > 1 - 1e-6


def test_angles_go_once_round():
    assert angles(90.0) == [0.0, 90.0, 180.0, 270.0]


def test_nothing_is_left_after_it_nor_after_an_exception():
    model = shared_tiny_model("llama")
    batch = padded(model)
    before, n_hooks = logits(model, batch), hooks(model)
    with turn(model, plane(), None, adaptive=False):
        assert torch.equal(logits(model, batch), before)
    with turn(model, plane(), 90.0, adaptive=True):
        assert not torch.equal(logits(model, batch), before)
    with pytest.raises(KeyError), turn(model, plane(), 90.0, adaptive=True):
        raise KeyError
    assert torch.equal(logits(model, batch), before)
    assert hooks(model) == n_hooks
