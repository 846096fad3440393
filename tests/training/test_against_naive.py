"""The fine-tune on cached inputs ends with the weights of one that runs the model at every step."""

import pytest

from tests.benchmarks.job import BenchSettings
from tests.benchmarks.tasks import TASKS
from tests.support.tiny_models import SOME_ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

SETTINGS = BenchSettings(layer=2, epochs=3)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_naive_actor_ends_with_the_weights_of_actor(architecture):
    model, prompts = tiny_chat_model(architecture), tiny_prompts(6)
    before = copied_tensors(model)
    ours = TASKS["actor"](model, prompts, SETTINGS)["state"]
    naive = TASKS["naive_actor"](model, prompts, SETTINGS)["state"]
    assert ours.keys() == naive.keys()
    for name, tensor in ours.items():
        change = (tensor - before[name]).norm()
        assert (tensor - naive[name]).norm() <= 1e-4 * tensor.norm()
        assert change > 0 or tensor.ndim < 2
    assert same_bits(before, copied_tensors(model))
