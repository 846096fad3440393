"""What a benchmark compares does the same work: naive ACTOR ends with the weights of ACTOR.

SFT changes every tensor, and collecting is timed on the batches of the plain pass.
"""

import pytest
import torch

from actor_lens.diagnostics.bench_job import BenchSettings, Job
from actor_lens.diagnostics.bench_process import peak_bytes, resident_bytes
from actor_lens.diagnostics.bench_tasks import TASKS
from tests.support.tiny_models import SOME_ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

SETTINGS = BenchSettings(layer=2, epochs=3, reply_tokens=5, repeats=2)
PROMPTS = tiny_prompts(6)


def test_a_job_arrives_as_it_was_sent():
    job = Job("sft", {"name": "toy", "dtype": "float32"}, "prompts.jsonl", SETTINGS, 2, "state")
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_naive_actor_ends_with_the_weights_of_actor(architecture):
    model = tiny_chat_model(architecture)
    before = copied_tensors(model)
    ours = TASKS["actor"](model, PROMPTS, SETTINGS)["state"]
    naive = TASKS["naive_actor"](model, PROMPTS, SETTINGS)["state"]
    assert ours.keys() == naive.keys()
    for name, tensor in ours.items():
        change = (tensor - before[name]).norm()
        assert (tensor - naive[name]).norm() <= 1e-4 * tensor.norm()
        assert change > 0 or tensor.ndim < 2
    assert same_bits(before, copied_tensors(model))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_sft_trains_every_tensor_on_replies_alone(architecture):
    model = tiny_chat_model(architecture)
    before = copied_tensors(model)
    result = TASKS["sft"](model, PROMPTS, SETTINGS)
    assert result["seconds"] > 0
    after = copied_tensors(model)
    for name, parameter in model.hf.named_parameters():
        assert not torch.equal(before[name], after[name]), name
        assert torch.isfinite(parameter).all()


def test_collection_is_timed_round_by_round_and_leaves_eager_attention():
    model = tiny_chat_model()
    result = TASKS["collection"](model, PROMPTS, SETTINGS)
    assert {name: len(times) for name, times in result["rounds"].items()} == {
        "ours": 2,
        "plain": 2,
        "all_hooks": 2,
    }
    assert result["tokens"] == sum(map(len, model.tokenize(PROMPTS.texts)))
    assert model.hf.config._attn_implementation == "eager"


def test_a_sweep_tells_its_parts():
    model = tiny_chat_model()
    result = TASKS["sweep"](model, PROMPTS, SETTINGS)
    assert result["parts"]["train"] <= result["seconds"]


def test_the_peak_of_a_process_is_what_it_once_held():
    before = peak_bytes()
    held = torch.ones(80_000_000)
    del held
    assert peak_bytes() - before > 200_000_000
    assert resident_bytes() < peak_bytes()


def test_questions_are_timed_against_passes_and_leave_the_model_alone():
    model = tiny_chat_model()
    before = copied_tensors(model)
    measured = TASKS["looks"](model, PROMPTS, SETTINGS)
    rounds = measured["rounds"]
    assert {len(times) for times in rounds.values()} == {SETTINGS.repeats}
    for question, (other, limit) in measured["limits"].items():
        assert rounds[question] != rounds[other]
        assert limit > 0
    # Layer 2 of 4 starts half way up.
    assert measured["limits"]["trained_layer"] == ("pass", 0.6)
    assert same_bits(before, copied_tensors(model))
