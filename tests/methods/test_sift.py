"""SIFT is AdamW on the entries with the largest first gradients: all other entries keep their bits.

Truth is AdamW written out in NumPy, with the gradient set to 0 elsewhere.
"""

import math
from functools import partial

import numpy as np
import torch

from actor_lens.methods.sift import SIFT, largest_entries, sparse_adamw
from actor_lens.methods.support.reply_training import reply_trials
from tests.support.steering import random
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors


def test_the_mask_is_that_of_argpartition():
    gradient = random(6, 11)
    count = math.floor(0.1 * 66) + 1
    top = np.argpartition(-np.abs(gradient.numpy()).ravel(), count)[:count]
    truth = np.zeros(66)
    truth[top] = 1
    assert np.array_equal(largest_entries(gradient, 0.1).numpy().ravel(), truth)


def test_steps_are_adamw_on_the_chosen_entries():
    weight = torch.nn.Parameter(random(5, 4).double())
    goal, x = random(5, seed=1).double(), random(3, 4, 1, seed=2).double()
    step = sparse_adamw([weight], 1e-2, 0.3)
    w, m, v, mask = weight.detach().numpy().copy(), 0.0, 0.0, None
    start = w.copy()
    for number in range(1, 4):
        column = x[number - 1]
        step(lambda column=column: 1e-2 * ((weight @ column)[:, 0] - goal).square().sum())
        g = 2e-2 * np.outer(w @ column.numpy()[:, 0] - goal.numpy(), column.numpy()[:, 0])
        if mask is None:
            count = math.floor(0.3 * 20) + 1
            mask = np.abs(g) >= np.sort(np.abs(g).ravel())[-count]
        g = g * mask
        g = g * min(1.0, 1.0 / (np.linalg.norm(g) + 1e-6))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 1e-2 * (m / (1 - 0.9**number)) / (np.sqrt(v / (1 - 0.999**number)) + 1e-8)
    assert np.abs(weight.detach().numpy() - w).max() < 1e-10
    assert np.array_equal(weight.detach().numpy()[~mask], start[~mask])
    assert (weight.detach().numpy()[mask] != start[mask]).all()


def test_only_so_many_entries_of_the_blocks_matrices_change(examples_of):
    model = tiny_chat_model()
    method = SIFT(share=0.02)
    *_, trial = reply_trials(
        model,
        examples_of(model),
        partial(method.trainee, model, None),
        lrs=(1e-3,),
        epochs=2,
        batch_size=3,
        seed=0,
        stepper=method.stepper,
    )
    before, total = copied_tensors(model), 0
    for name, tensor in trial.state.items():
        assert any(name.startswith(model.block_prefix(layer)) for layer in range(model.n_layers))
        changed = int((tensor != before[name]).sum())
        assert changed <= math.floor(0.02 * tensor.numel()) + 1
        total += changed
    matrices = [t for p, t in model.hf.named_parameters() if ".layers." in p and t.ndim == 2]
    assert trial.n_parameters == sum(math.floor(0.02 * t.numel()) + 1 for t in matrices)
    assert 0.9 * trial.n_parameters < total <= trial.n_parameters


def test_a_matrix_without_a_gradient_stays_as_it_is():
    used, idle = (torch.nn.Parameter(random(4, 5, seed=seed)) for seed in (0, 1))
    before = idle.detach().clone()
    step = sparse_adamw([used, idle], lr=1e-2, share=0.3)
    for _ in range(2):
        step(lambda: used.square().sum())
    assert torch.equal(idle, before)
    assert not torch.equal(used, random(4, 5, seed=0))
