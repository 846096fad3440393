"""A model that accelerate spreads over devices gives, to the bit, what it gives on one.

There is one device here, so what is tested is accelerate's machinery around every module: its
wrapped forward passes must reach copies of blocks, grafts and the TransformerLens twin. Weights
that would be fetched at every pass are refused.
"""

import pytest
import torch
from accelerate import dispatch_model
from torch import nn

from actor_lens.activations.residuals import collect_activations
from actor_lens.errors import UserError
from actor_lens.judges.first_token import RefusalTokens, refusal_scores
from actor_lens.models.chat_model import load_model
from actor_lens.training.safety_floor import ValidationChecks, trained_block
from tests.support.tiny_models import SOME_ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits, tiny_prompts

PROMPTS = tiny_prompts(4)
TOKENS = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)


def module_devices(hf: nn.Module, device: str) -> dict[str, str]:
    """Every block and every other part of a model by name."""
    places = {}
    for name, child in hf.named_children():
        if isinstance(child, nn.ModuleList):
            places |= {f"{name}.{number}": device for number in range(len(child))}
        elif any(isinstance(part, nn.ModuleList) for part in child.children()):
            inner = module_devices(child, device)
            places |= {f"{name}.{part}": device for part in inner}
        else:
            places[name] = device
    return places


@pytest.fixture(params=SOME_ARCHITECTURES)
def pair(request):
    """The same model on one device and spread."""
    alone, spread = tiny_chat_model(request.param), tiny_chat_model(request.param)
    dispatch_model(spread.hf, module_devices(spread.hf, "cpu"), force_hooks=True)
    hooked = [module for module in spread.hf.modules() if hasattr(module, "_hf_hook")]
    assert spread.hf in hooked
    assert all(block in hooked for block in spread.blocks)
    return alone, spread


def test_activations_are_the_same_by_both_ways(pair):
    for residuals in (True, False):
        one, other = (
            collect_activations(
                model, PROMPTS, residuals=residuals, block_inputs=[0, 2], store=False
            )
            for model in pair
        )
        if residuals:
            assert torch.equal(one.residuals.values, other.residuals.values)
        for layer in (0, 2):
            for states, theirs in zip(
                one.block_inputs[layer].hidden_states,
                other.block_inputs[layer].hidden_states,
                strict=True,
            ):
                assert torch.equal(states, theirs)


def test_training_and_its_checks_are_the_same_and_leave_the_model_alone(pair):
    before = copied_tensors(pair[1])
    runs, refused, scores = [], [], []
    for model in pair:
        run = quick_run(model, layer=2)
        checks = ValidationChecks.of(model, 2, PROMPTS, TOKENS, store=False)
        runs.append(dict(run.state))
        refused.append(checks.refusals(trained_block(model, run)).shares())
        with run.applied_to(model):
            scores.append(refusal_scores(model, PROMPTS.texts, TOKENS))
    assert same_bits(*runs)
    assert refused[0] == refused[1]
    assert torch.equal(torch.as_tensor(scores[0]), torch.as_tensor(scores[1]))
    assert same_bits(before, copied_tensors(pair[1]))


def test_a_spread_model_is_not_taken_for_a_hooked_one(pair):
    assert not pair[1].is_hooked


def test_a_map_of_one_device_is_the_model_on_it():
    alone = load_model("toy", device="cpu")
    for device_map in ("auto", {"": "cpu"}):
        spread = load_model("toy", device_map=device_map)
        assert spread.identity == alone.identity
        assert spread.source["device_map"] == device_map


def test_what_would_be_fetched_at_every_pass_is_refused():
    places = module_devices(load_model("toy").hf, "cpu") | {"model.layers.3": "disk"}
    with pytest.raises(UserError, match=r"does not fit on its devices: 9 tensors .*layers\.3\."):
        load_model("toy", device_map=places)


def test_a_device_and_a_map_are_one_too_many():
    with pytest.raises(UserError, match="leave one of them out"):
        load_model("toy", device="cpu", device_map="auto")
