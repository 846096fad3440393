"""MeZO's slope is the gradient along its direction, and its steps can be replayed to the bit."""

import math

import pytest
import torch

from actor_lens.methods.mezo import zeroth_order

POINT = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64)


def loss_of(t):
    return (t**3).sum() + torch.sin(t[0] * t[1]) + t[2] * t[3]


def stepped(lr, eps=1e-3, seed=0, steps=1):
    parameter = torch.nn.Parameter(POINT.clone())
    step = zeroth_order([parameter], lr, eps=eps, seed=seed)
    for _ in range(steps):
        step(lambda: loss_of(parameter))
    return parameter.detach()


def direction(seed):
    return torch.randn(4, generator=torch.Generator().manual_seed(seed)).double()


def gradient():
    point = POINT.clone().requires_grad_(True)
    return torch.autograd.grad(loss_of(point), point)[0]


def test_the_slope_is_the_gradient_along_z_with_an_error_of_eps_squared():
    z = direction(0)
    errors = [
        float((POINT - stepped(1.0, eps) - (gradient() @ z) * z).norm()) for eps in (1e-1, 1e-2)
    ]
    assert math.log10(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)
    assert float((POINT - stepped(1.0, 1e-5) - (gradient() @ z) * z).norm()) < 1e-8


def test_on_average_a_step_is_one_along_the_gradient_and_n_plus_2_times_as_long():
    steps = torch.stack([POINT - stepped(1.0, seed=seed) for seed in range(4000)])
    error = steps.std(0) / math.sqrt(len(steps))
    assert float(((steps.mean(0) - gradient()) / error).abs().max()) < 4
    ratio = float(steps.square().sum(1).mean() / gradient().square().sum())
    assert ratio == pytest.approx(4 + 2, rel=0.1)


def test_replaying_the_directions_gives_the_same_weights_and_no_step_leaves_the_same_bits():
    assert torch.equal(stepped(1e-2, steps=5), stepped(1e-2, steps=5))
    before = torch.random.get_rng_state()
    assert torch.equal(stepped(0.0, steps=50), POINT)
    assert torch.equal(torch.random.get_rng_state(), before)
