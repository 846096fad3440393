"""PoFT's loss is the formula row by row, and its gradient a share of cross-entropy's."""

import copy

import numpy as np
import torch

from actor_lens.methods.poft import preference_loss
from actor_lens.methods.support.reply_training import collate, reply_loss, reply_scores
from tests.support.tiny_models import exact_tiny_model


def models():
    """A float64 model and another with other weights."""
    return exact_tiny_model(), exact_tiny_model(seed=1)


def score(hf, example):
    """Mean log-probability of a reply alone, in NumPy."""
    ids = [*example.prompt_ids, *example.reply_ids]
    with torch.no_grad():
        logits = hf(input_ids=torch.tensor([ids])).logits[0].numpy()
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    first = len(example.prompt_ids)
    return np.mean([logs[place - 1, ids[place]] for place in range(first, len(ids))])


def test_scores_and_loss_are_those_of_each_row_alone(examples_of):
    model, other = models()
    examples = examples_of(model)
    batch = collate(model, examples)
    ours, theirs = (
        np.array([score(one.hf, example) for example in examples]) for one in (model, other)
    )
    with torch.no_grad():
        assert np.abs(reply_scores(model.hf, batch).numpy() - ours).max() < 1e-10
        loss = float(preference_loss(model.hf, batch, untouched=other.hf))
    assert abs(loss - np.log1p(np.exp(theirs - ours)).mean()) < 1e-10


def test_the_gradient_is_that_of_cross_entropy_times_tau(examples_of):
    model, other = models()
    batch = collate(model, examples_of(model)[:1])
    hf = copy.deepcopy(model.hf).requires_grad_(True)
    parameters = list(hf.parameters())
    one = torch.autograd.grad(preference_loss(hf, batch, untouched=other.hf), parameters)
    plain = torch.autograd.grad(reply_loss(hf, batch), parameters)
    with torch.no_grad():
        tau = torch.sigmoid(reply_scores(other.hf, batch) - reply_scores(hf, batch))[0]
    for found, gradient in zip(one, plain, strict=True):
        assert float((found - tau * gradient).abs().max()) < 1e-10


def test_it_begins_with_half_the_gradient(examples_of):
    model, _ = models()
    loss = preference_loss(model.hf, collate(model, examples_of(model)), untouched=model.hf)
    assert abs(float(loss.detach()) - np.log(2)) < 1e-12
