"""Every method fits the bundled model, says what it did, works inside, and leaves no trace."""

import math
from functools import cache

import pytest
import torch

from actor_lens.methods import METHODS, FittedMethod, Method, make_method
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.target_layer import target_layer
from actor_lens.models.chat_model import load_model
from actor_lens.models.replies import first_token_logits, generate_replies
from actor_lens.prompts.loading import load_prompts
from tests.support.tiny_runs import copied_tensors, same_bits

# Quick rather than good: a few prompts and one pass.
QUICK = {
    "self-cd": {"alphas": (0.5, 2.5)},
    "adacd": {"strengths": (2.5,)},
    "safe-decoding": {"epochs": 1},
    "dro": {"lrs": (1e-2,), "epochs": 1},
    "sft-full": {"lrs": (1e-3,), "epochs": 1},
    "sft-layer": {"lrs": (3e-3,), "epochs": 1, "layer": 4},
    "poft": {"lrs": (1e-3,), "epochs": 1},
    "sift": {"lrs": (1e-3,), "epochs": 1},
    "mezo-layer": {"lrs": (1e-3,), "epochs": 1, "layer": 4},
    "lora": {"lrs": (1e-2,), "epochs": 1},
    "lora-layer": {"lrs": (1e-2,), "epochs": 1, "layer": 4},
    "mosr-like": {"strengths": (5.0,), "steps": 3},
    "loreft": {"lrs": (3e-2,), "epochs": 1, "layer": 4},
    "mezo-actor": {"lrs": (1e-2,), "epochs": 1, "layer": 4},
}
each_method = pytest.mark.parametrize("name", QUICK)


@cache
def toy():
    return load_model("toy")


@cache
def prompts():
    train, validation, test = load_prompts("toy").by_split()
    return train.sample(8), validation.sample(8), test.sample(2)


@cache
def fitted(name):
    train, validation, _ = prompts()
    return make_method(name, **QUICK[name]).fit(toy(), train, validation)


def test_the_names_are_registered_in_the_order_of_the_tables():
    assert [name for name in METHODS if name in QUICK] == list(QUICK)


@each_method
def test_it_is_a_method_with_its_name(name):
    method = make_method(name)
    assert isinstance(method, Method)
    assert method.name == name


@each_method
def test_fitting_leaves_the_model_as_it_was_and_is_told_in_plain_values(name):
    before = copied_tensors(toy())
    result = fitted(name)
    assert same_bits(copied_tensors(toy()), before)
    assert not toy().is_hooked
    assert isinstance(result, FittedMethod)
    plain = (str, int, float, bool, type(None))
    assert all(isinstance(value, plain) for value in result.settings.values())
    assert set(result.chosen) <= set(result.settings)
    assert (result.trained_parameters == 0) == (name in ("self-cd", "adacd"))


@each_method
def test_it_works_inside_and_is_gone_afterwards_also_after_an_exception(name):
    model, texts = toy(), prompts()[2].texts
    result = fitted(name)
    before, logits = copied_tensors(model), first_token_logits(model, texts)

    def fail_inside():
        with result.applied_to(model) as inside:
            changed = first_token_logits(inside, texts)
            assert not torch.equal(changed, logits)
            replies = generate_replies(inside, texts, new_tokens=6)
            assert len(replies) == len(texts)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert same_bits(copied_tensors(model), before)
    assert not model.is_hooked
    assert torch.equal(first_token_logits(model, texts), logits)
    with result.applied_to(model) as inside:  # it can be applied again
        assert not torch.equal(first_token_logits(inside, texts), logits)


def test_one_layer_costs_fewer_numbers_than_all():
    counts = {name: fitted(name).trained_parameters for name in QUICK}
    assert counts["sft-full"] == sum(p.numel() for p in toy().hf.parameters())
    assert counts["sft-layer"] == sum(p.numel() for p in toy().blocks[4].parameters())
    assert counts["lora"] == toy().n_layers * counts["lora-layer"]
    assert counts["mezo-layer"] == counts["mezo-actor"] == counts["sft-layer"]
    assert counts["sift"] < counts["sft-full"] / 19
    assert counts["loreft"] < counts["lora-layer"] < counts["sft-layer"]


def test_a_named_layer_is_kept_and_another_is_chosen_within_the_model():
    model, (train, validation, _) = toy(), prompts()
    selection = Selection.of(model, validation)
    assert target_layer(model, train, selection, 3) == 3
    assert "layer" not in fitted("sft-layer").chosen
    assert 0 < target_layer(model, train, selection) < model.n_layers - 1


def test_learning_rates_are_numbers_that_were_tried():
    assert fitted("sft-full").settings["lr"] == 1e-3
    assert fitted("sft-full").settings["epochs"] == 1
    assert math.isclose(fitted("dro").settings["lr"], 1e-2)
    assert fitted("self-cd").settings["alpha"] in (0.5, 2.5)
