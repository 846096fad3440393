"""The loss is that of transformers with masked labels; only what is meant to be trained changes."""

import copy
from dataclasses import replace

import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.methods import make_method
from actor_lens.methods.sft import full_trainee, layer_trainee
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_data import ReplyExample
from actor_lens.methods.support.reply_training import (
    IGNORED,
    Trial,
    best_trial,
    check_trainable,
    collate,
    reply_loss,
    reply_trials,
)
from actor_lens.methods.support.selection import Effect, Selection
from actor_lens.models.replies import first_token_logits
from actor_lens.models.weights import overwritten
from actor_lens.prompts.sets import PromptSet
from tests.support.tiny_models import SOME_ARCHITECTURES, shared_tiny_model, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

each_architecture = pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
four_architectures = pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "phi3"])


def true_loss(hf, examples):
    """Each row alone, without padding, by the loss of transformers; weighted by its targets."""
    total, count = 0.0, 0
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.reply_ids]])
        labels = ids.clone()
        labels[:, : len(example.prompt_ids)] = -100
        total += hf(input_ids=ids, labels=labels).loss * len(example.reply_ids)
        count += len(example.reply_ids)
    return total / count


def trained(model, make_trainee, examples, lr=1e-2, epochs=1):
    *_, last = reply_trials(
        model, examples, make_trainee, lrs=(lr,), epochs=epochs, batch_size=3, seed=0
    )
    return last


def fitted(model, trial):
    def enter(changed):
        return overwritten(changed.hf, trial.state)

    return FittedIntervention({}, (), enter, model.fingerprint, trial.n_parameters)


@each_architecture
def test_the_loss_of_a_padded_batch_is_that_of_transformers_row_by_row(architecture, examples_of):
    model = shared_tiny_model(architecture)
    examples = examples_of(model)
    lengths = {len(one.prompt_ids) + len(one.reply_ids) for one in examples}
    assert len(lengths) > 1  # else there is no padding
    with torch.no_grad():
        loss, truth = reply_loss(model.hf, collate(model, examples)), true_loss(model.hf, examples)
    assert float(loss) == pytest.approx(float(truth), rel=1e-5)


@four_architectures
def test_so_are_its_gradients(architecture, examples_of):
    model = shared_tiny_model(architecture)
    examples = examples_of(model)
    hf = copy.deepcopy(model.hf).requires_grad_(True)
    parameters = list(hf.parameters())
    ours = torch.autograd.grad(reply_loss(hf, collate(model, examples)), parameters)
    theirs = torch.autograd.grad(true_loss(hf, examples), parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_only_reply_and_end_token_are_targets():
    model = shared_tiny_model()
    examples = [
        ReplyExample("benign", (0, 7, 8, 9), (5, 1)),
        ReplyExample("harmful", (0, 7), (6, 6, 1)),
    ]
    batch = collate(model, examples)
    none = IGNORED
    assert batch.labels.tolist() == [[none] * 4 + [5, 1], [none] * 3 + [6, 6, 1]]
    assert batch.input_ids.tolist() == [[0, 7, 8, 9, 5, 1], [2, 0, 7, 6, 6, 1]]
    assert batch.attention_mask.tolist() == [[1] * 6, [0] + [1] * 5]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4]]


@four_architectures
def test_training_one_layer_changes_that_block_alone(architecture, examples_of):
    model = tiny_chat_model(architecture)
    before = copied_tensors(model)
    trial = trained(model, lambda: layer_trainee(model, 2), examples_of(model))
    block = dict(model.blocks[2].named_parameters())
    assert trial.state.keys() == {f"{model.block_prefix(2)}{name}" for name in block}
    assert trial.n_parameters == sum(tensor.numel() for tensor in block.values())
    assert same_bits(copied_tensors(model), before)


@four_architectures
def test_training_all_changes_all_and_loses_no_tie(architecture, examples_of):
    model = tiny_chat_model(architecture)
    before = copied_tensors(model)
    trial = trained(model, lambda: full_trainee(model), examples_of(model))
    assert trial.state.keys() == dict(model.hf.state_dict()).keys()
    assert trial.n_parameters == sum(tensor.numel() for tensor in model.hf.parameters())
    assert same_bits(copied_tensors(model), before)
    assert not any(
        tensor.requires_grad or tensor.grad is not None for tensor in model.hf.parameters()
    )


def test_steps_are_those_of_plain_adamw(examples_of):
    model = tiny_chat_model()
    examples = examples_of(model)[:3]
    hf = copy.deepcopy(model.hf).requires_grad_(True)
    optimizer = torch.optim.AdamW(hf.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(2):
        true_loss(hf, examples).backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trial = trained(model, lambda: full_trainee(model), examples, lr=1e-3, epochs=2)
    for name, tensor in hf.state_dict().items():
        torch.testing.assert_close(trial.state[name], tensor, rtol=1e-3, atol=2e-4)


def test_training_lowers_the_loss(examples_of):
    model = tiny_chat_model()
    examples = examples_of(model)
    with torch.no_grad():
        before = float(true_loss(model.hf, examples))
        trial = trained(model, lambda: full_trainee(model), examples, lr=2e-3, epochs=8)
        with fitted(model, trial).applied_to(model):
            after = float(true_loss(model.hf, examples))
    assert after < 0.7 * before


@four_architectures
def test_weights_are_in_place_inside_and_gone_after_an_exception(architecture, examples_of):
    model = tiny_chat_model(architecture)
    texts = tiny_prompts(1).texts
    tensors, logits = copied_tensors(model), first_token_logits(model, texts)
    trial = trained(model, lambda: layer_trainee(model, 1), examples_of(model))
    result = fitted(model, trial)

    def fail_inside():
        with result.applied_to(model) as inside:
            now = inside.hf.state_dict()
            assert all(torch.equal(now[name], value) for name, value in trial.state.items())
            assert not torch.equal(first_token_logits(inside, texts), logits)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert same_bits(copied_tensors(model), tensors)
    assert torch.equal(first_token_logits(model, texts), logits)


def test_weights_of_another_model_are_refused(examples_of):
    model, other = tiny_chat_model(), tiny_chat_model(seed=1)
    result = fitted(model, trained(model, lambda: layer_trainee(model, 1), examples_of(model)))
    with pytest.raises(UserError, match="fitted to other weights"), result.applied_to(other):
        pass


def test_half_precision_weights_are_trained_in_float32_and_kept_in_half(examples_of):
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    trial = trained(model, lambda: layer_trainee(model, 2), examples_of(model))
    assert {tensor.dtype for tensor in trial.state.values()} == {torch.bfloat16}
    assert len(trial.state) == len(list(model.blocks[2].parameters()))


def trial_of(score, tensor=0.0):
    return Trial(1e-3, 1, 1, {"score": torch.tensor(score), "tensor": torch.tensor(tensor)})


def effect_of(state):
    """So many pseudo-harmful prompts are answered; the divergence plays no part."""
    share = float(state["score"])
    shares = {"harmful": 1.0, "pseudo_harmful": 1 - share, "benign": 0.0}
    return Effect(shares, shares, dict.fromkeys(shares, share), 9.0)


def selection():
    """One that knows no prompts, and so can only choose."""
    untouched = effect_of({"score": 0.0})
    return Selection(PromptSet(()), RefusalTokens((1,), ("no",)), torch.zeros(0, 300), untouched)


def test_the_best_trial_wins_the_earlier_of_two_equal_ones_and_no_diverged_one():
    trials = [trial_of(0.5), trial_of(0.9), trial_of(0.9), trial_of(1.0, float("nan"))]
    choice = best_trial(iter(trials), selection(), effect_of)
    assert choice.candidate is trials[1]
    assert choice.settings["validation_tradeoff"] == 0.95


def test_a_trial_whose_scores_are_no_numbers_is_left_out():
    def broken(state):
        effect = effect_of(state)
        if float(state["score"]) > 0.6:
            return replace(effect, score=dict.fromkeys(effect.score, float("nan")))
        return effect

    trials = [trial_of(0.9), trial_of(0.5)]
    assert best_trial(iter(trials), selection(), broken).candidate is trials[1]


def test_divergence_everywhere_is_an_error():
    with pytest.raises(UserError, match="diverged at every learning rate"):
        best_trial(iter([trial_of(1.0, float("inf"))]), selection(), effect_of)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lrs": ()}, "lrs is"),
        ({"lrs": (0.0,)}, "lrs is"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_impossible_settings_are_errors(settings, message):
    given = {"lrs": (1e-3,), "epochs": 1, "batch_size": 1, **settings}
    with pytest.raises(UserError, match=message):
        check_trainable(shared_tiny_model(), **given)


def test_a_setting_that_a_method_has_not_is_an_error():
    with pytest.raises(UserError, match="no such setting"):
        make_method("sft-full", layer=3)
