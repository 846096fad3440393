"""The cost of a fit is the memory and the time of what is done inside, also where it fails."""

import math

import pytest
import torch

from actor_lens.experiments.comparison.method_costs import cost_of, seconds_per_token
from tests.support.tiny_models import shared_tiny_model

MEGABYTES = 64
NUMBERS = MEGABYTES * 2**20 // 4


def test_memory_that_is_held_and_given_back_inside_is_seen():
    with cost_of(shared_tiny_model()) as small:
        pass
    with cost_of(shared_tiny_model()) as large:
        held = torch.ones(NUMBERS)
        deadline_sum = sum(float(held.sum()) for _ in range(20))  # long enough to be looked at
        del held
    assert deadline_sum > 0
    assert large.peak_bytes >= 0.9 * MEGABYTES * 2**20
    assert small.peak_bytes < 0.5 * MEGABYTES * 2**20
    assert 0 <= small.seconds < large.seconds


def test_what_fails_has_its_cost_too():
    def fails():
        with cost_of(shared_tiny_model()) as cost:
            costs.append(cost)
            torch.ones(NUMBERS).sum()
            raise KeyError("inside")

    costs = []
    with pytest.raises(KeyError, match="inside"):
        fails()
    assert costs[0].seconds > 0


def test_a_token_takes_time_and_without_prompts_nothing_is_known():
    model = shared_tiny_model()
    assert seconds_per_token(model, ["Hello"], 2) > 0
    assert math.isnan(seconds_per_token(model, [], 2))
