"""The loss of the reconstruction is its formula, prompt by prompt without padding."""

from dataclasses import replace

import numpy as np
import torch

from actor_lens.methods.mosr import mixed_loss, unlikeness
from actor_lens.methods.support.reply_training import collate, reply_loss
from tests.support.steering import random
from tests.support.tiny_models import exact_tiny_model

OPENING = (7, 8)


def states(hf, ids):
    with torch.no_grad():
        output = hf(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
    return torch.stack(output.hidden_states[1:-1])[:, 0].numpy()


def cosines(one, other):
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one * other).sum(-1) / lengths


def test_the_loss_is_the_formula_for_each_prompt_alone(examples_of):
    model, other = exact_tiny_model(), exact_tiny_model(seed=1)
    examples = examples_of(model)
    harmful = [one for one in examples if one.label == "harmful"]
    others = [one for one in examples if one.label != "harmful"]
    weights = [0.25, 1.0]
    erased = retained = tokens = 0.0
    for example, weight in zip(harmful, weights, strict=True):
        now, before = (states(one.hf, example.prompt_ids) for one in (other, model))
        alike = np.maximum(cosines(now[1:3], before[1:3]), 0)  # blocks 1 and 2 of four
        erased += weight * alike.mean() / sum(weights)
    for example in others:
        ids = (*example.prompt_ids, *example.reply_ids)
        moved = np.linalg.norm(states(other.hf, ids) - states(model.hf, ids), axis=-1)
        retained, tokens = retained + moved.mean(0).sum(), tokens + len(ids)
    refusals = [replace(one, prompt_ids=(*one.prompt_ids, *OPENING)) for one in harmful]
    with torch.no_grad():
        found = mixed_loss(
            other.hf, model, harmful, others, weights, opening=OPENING, erase=3.0, retain=0.5
        )
        words = float(reply_loss(other.hf, collate(model, refusals)))
    assert abs(float(found) - (3.0 * erased + 0.5 * retained / tokens + words)) < 1e-10


def test_weights_are_those_of_a_loop():
    harmful, pseudo = random(5, 8).double(), random(4, 8, seed=1).double()
    centre = np.concatenate([harmful.numpy(), pseudo.numpy()]).mean(0)
    largest = np.array(
        [max(cosines(h - centre, p - centre) for p in pseudo.numpy()) for h in harmful.numpy()]
    )
    truth = 1 - (largest - largest.min()) / (largest.max() - largest.min())
    assert np.abs(unlikeness(harmful, pseudo).numpy() - truth).max() < 1e-10
