"""Residuals at the last tokens equal those of each prompt run alone, whatever its batch."""

import numpy as np
import pytest
import torch

from actor_lens.activations.positions import closing_tokens
from actor_lens.methods.support.tails import (
    label_means,
    opening_ids,
    tail_residuals,
)
from actor_lens.models.chat_model import load_model
from tests.support.steering import CLOSING, TEXTS, stream
from tests.support.tiny_models import SOME_ARCHITECTURES, shared_tiny_model


def test_closing_tokens_are_those_of_the_template():
    assert closing_tokens(shared_tiny_model("llama")) == CLOSING
    assert closing_tokens(load_model("toy")) == 2  # </s><|assistant|>


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@pytest.mark.parametrize("opening", [(), (50, 51)])
def test_tails_equal_those_of_each_prompt_alone(architecture, opening):
    model = shared_tiny_model(architecture)
    tails = tail_residuals(model, TEXTS, 3, opening=opening)
    assert tails.shape == (model.n_layers, 3, len(TEXTS), model.d_model)
    for row, ids in enumerate(model.tokenize(TEXTS)):
        alone = stream(model, [*ids, *opening])
        scale = np.abs(alone).max()
        assert np.abs(tails[:, :, row].double().numpy() - alone[:, -3:]).max() < 1e-4 * scale


def test_means_are_those_of_numpy():
    tails = torch.randn(2, 3, 5, 4)
    labels = ("benign", "harmful", "benign", "harmful", "benign")
    means = label_means(tails, labels)
    assert set(means) == {"benign", "harmful"}
    truth = tails.double().numpy()[:, :, [1, 3]].mean(axis=2)
    assert np.abs(means["harmful"].numpy() - truth).max() < 1e-6


def test_an_opening_follows_the_prompt_as_it_is():
    model = shared_tiny_model("llama")
    assert model.tokenizer.decode(opening_ids(model, "Sure")) == "Sure"
