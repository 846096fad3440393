"""Merged weights do what the adapters of PEFT do, and the model never holds a module of PEFT."""

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from actor_lens.errors import UserError
from actor_lens.methods import lora_sft
from actor_lens.methods.lora_sft import lora_trainee
from actor_lens.methods.support.reply_training import collate, reply_trials
from actor_lens.models.replies import first_token_logits
from actor_lens.models.weights import overwritten
from tests.support.tiny_models import N_LAYERS, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

each_architecture = pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "phi3"])
SETTINGS = {"rank": 2, "scale": 4.0, "seed": 0}


def trained(model, examples, **settings):
    """A trainee after some steps, and its last trial."""
    made = []

    def make():
        made.append(lora_trainee(model, **SETTINGS, **settings))
        return made[0]

    *_, last = reply_trials(model, examples, make, lrs=(1e-2,), epochs=2, batch_size=3, seed=0)
    return made[0], last


def adapted_tree(trainee):
    return trainee.loss.args[0]


@each_architecture
def test_merged_weights_are_the_formula_in_float64(architecture, examples_of):
    model = tiny_chat_model(architecture)
    trainee, trial = trained(model, examples_of(model))
    own = copied_tensors(model)
    layers = {
        name: module
        for name, module in adapted_tree(trainee).named_modules()
        if isinstance(module, LoraLayer)
    }
    assert trial.state.keys() == {f"{name}.weight" for name in layers}
    for name, module in layers.items():
        a, b = (
            part["default"].weight.detach().double().numpy()
            for part in (module.lora_A, module.lora_B)
        )
        delta = SETTINGS["scale"] / SETTINGS["rank"] * b @ a
        delta = delta.T if architecture == "gpt2" else delta
        truth = own[f"{name}.weight"].double().numpy() + delta
        np.testing.assert_allclose(trial.state[f"{name}.weight"].numpy(), truth, atol=1e-5)
        assert np.abs(delta).max() > 1e-4  # else nothing was trained


@each_architecture
def test_the_model_with_merged_weights_has_the_loss_of_the_adapters(architecture, examples_of):
    model = tiny_chat_model(architecture)
    examples = examples_of(model)
    trainee, trial = trained(model, examples)
    batch = collate(model, examples)
    with torch.no_grad():
        by_peft = float(trainee.loss(batch))
        with overwritten(model.hf, trial.state):
            ids = [[*one.prompt_ids, *one.reply_ids] for one in examples]
            merged = _plain_loss(model.hf, ids, [len(one.reply_ids) for one in examples])
    assert merged == pytest.approx(by_peft, rel=1e-4)


def _plain_loss(hf, rows, replies):
    total, count = 0.0, 0
    for ids, length in zip(rows, replies, strict=True):
        logits = hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(len(ids) - length, len(ids)):
            total -= float(logits[place - 1, ids[place]])
            count += 1
    return total / count


@each_architecture
def test_adapters_of_one_layer_change_that_block_alone(architecture, examples_of):
    model = tiny_chat_model(architecture)
    _, trial = trained(model, examples_of(model), layer=2)
    assert trial.state
    assert all(name.startswith(model.block_prefix(2)) for name in trial.state)
    _, everywhere = trained(model, examples_of(model))
    assert len(everywhere.state) == N_LAYERS * len(trial.state)


@each_architecture
def test_the_model_stays_as_it_is_and_without_modules_of_peft(architecture, examples_of):
    model = tiny_chat_model(architecture)
    texts = tiny_prompts(1).texts
    tensors, logits = copied_tensors(model), first_token_logits(model, texts)
    trained(model, examples_of(model))
    assert not any(isinstance(module, LoraLayer) for module in model.hf.modules())
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())
    assert same_bits(copied_tensors(model), tensors)
    assert torch.equal(first_token_logits(model, texts), logits)


def test_adapters_change_nothing_before_training_and_weights_of_the_model_are_shared():
    model = tiny_chat_model()
    trainee = lora_trainee(model, **SETTINGS)
    assert same_bits(dict(trainee.state()), {n: model.hf.state_dict()[n] for n in trainee.state()})
    addresses = {tensor.data_ptr() for tensor in adapted_tree(trainee).parameters()}
    assert {tensor.data_ptr() for tensor in model.hf.parameters()} <= addresses


def test_one_seed_gives_one_adapter_and_leaves_the_random_numbers_of_others_alone():
    model = tiny_chat_model()
    torch.manual_seed(7)
    truth = torch.rand(3)
    torch.manual_seed(7)
    one, other = lora_trainee(model, **SETTINGS), lora_trainee(model, **SETTINGS)
    assert torch.equal(torch.rand(3), truth)
    pairs = zip(one.parameters, other.parameters, strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'actor-lens\[lora\]'"):
        lora_sft.lora_trainee(tiny_chat_model(), **SETTINGS)
