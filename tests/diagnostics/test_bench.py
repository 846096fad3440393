"""A benchmark leaves the model alone, and what it predicts follows from what it measured."""

import pytest
import torch

from actor_lens.diagnostics.bench import PARTS, BenchResult, bench
from actor_lens.errors import UserError
from actor_lens.methods.support.reply_training import Trainee
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

PROMPTS = tiny_prompts(6)


def test_every_part_is_measured_in_every_round_and_the_model_stays_as_it_is():
    model = tiny_chat_model()
    before, attention = copied_tensors(model), model.hf.config._attn_implementation
    costs = bench(model, PROMPTS, epochs=1, rounds=2, reply_tokens=5)
    assert {part: len(measured) for part, measured in costs.rounds.items()} == dict.fromkeys(
        PARTS, 2
    )
    assert costs.setting["tokens"] == sum(map(len, model.tokenize(PROMPTS.texts)))
    assert (costs.frame()["seconds"] > 0).all()
    assert set(costs.collection) == {"tokens_per_second", "to_plain_pass"}
    assert same_bits(before, copied_tensors(model))
    assert model.hf.config._attn_implementation == attention
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())


def test_figures_are_medians_and_predictions_proportional():
    def rounds(*seconds: float, collect: float) -> list[dict[str, float]]:
        return [{"seconds": one, "peak_bytes": 7.0, "collect": collect * one} for one in seconds]

    actor, sft = rounds(2.0, 4.0, 9.0, collect=0.5), rounds(20.0, 8.0, 90.0, collect=0.0)
    costs = BenchResult({}, {"prompts": 10, "epochs": 2}, {"actor": actor, "sft": sft})
    assert costs.median("actor") == 4
    assert costs.ratio("sft") == 10  # of 10, 2 and 10
    # Half of the time is collecting, which does not grow with the epochs.
    assert costs.predicted(20, 4) == {"actor": 2 * (2 + 2 * 2), "sft": 2 * 2 * 20}
    assert costs.collection == {}


def test_memory_that_runs_out_is_one_line(monkeypatch):
    def too_large(*_: object) -> Trainee:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr("actor_lens.diagnostics.bench.full_trainee", too_large)
    with pytest.raises(UserError, match=r"'sft' needs more memory .* leave it out"):
        bench(tiny_chat_model(), PROMPTS, epochs=1, rounds=1, parts=["sft"])


def test_ctrl_c_in_a_training_is_no_measurement(monkeypatch):
    class Stopped:
        status = "stopped"

    monkeypatch.setattr("actor_lens.diagnostics.bench.finetune_layer", lambda *_, **__: Stopped())
    with pytest.raises(KeyboardInterrupt):
        bench(tiny_chat_model(), PROMPTS, epochs=1, rounds=1, parts=["actor"])
