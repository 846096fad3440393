"""Training a block on cached inputs is ACTOR: what a plain implementation on the whole model gives.

The plain implementation here runs the whole Hugging Face model on one prompt at a time, reads the
block's output by a forward hook, forms the targets in float64 by the paper's formula prompt by
prompt, and lets autograd and AdamW loose on that block. Final weights, losses and drift agree.
Every epoch is a permutation of the prompts.
"""

import copy
import math

import numpy as np
import pytest
import torch

from actor_lens.activations.residuals import collect_block_inputs
from actor_lens.errors import UserError
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.block_trainer import BlockTrainer, DivergedError
from actor_lens.training.config import FinetuneConfig
from tests.support.tiny_models import ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

LR = 1e-3


def trainer_of(model, prompts=None, **settings):
    prompts = prompts if prompts is not None else tiny_prompts()
    config = FinetuneConfig(**{"layer": 1, "lr": LR, "batch_size": 4, "epochs": 2, **settings})
    return BlockTrainer(model, config, collect_block_inputs(model, prompts, config.layer))


class PlainActor:
    """ACTOR written from the formulas, with the whole model in the loop."""

    def __init__(self, model, prompts, config):
        self.hf = copy.deepcopy(model.hf)
        stack = self.hf.transformer.h if hasattr(self.hf, "transformer") else self.hf.model.layers
        self.block = stack[config.layer]
        self.block.requires_grad_(True)
        self.before = copy.deepcopy(self.block).state_dict()
        self.block.register_forward_hook(self._keep)
        self.ids = [torch.tensor([ids]) for ids in model.tokenize(prompts.texts)]
        self.labels = np.array(prompts.labels)
        self.config = config
        self.optimizer = torch.optim.AdamW(
            self.block.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.start = self.activations()
        self.frame = self.direction_and_origin(self.start)
        self.losses, self.seen = [], self.start.copy()

    def _keep(self, _block, _inputs, output):
        self.output = output[0] if isinstance(output, tuple) else output

    def activation(self, row):
        self.hf(self.ids[row])
        return self.output[0, -1]

    def activations(self):
        with torch.no_grad():
            rows = [self.activation(row).double().numpy() for row in range(len(self.ids))]
        return np.stack(rows)

    def direction_and_origin(self, activations):
        harmful = activations[self.labels == "harmful"].mean(axis=0)
        benign = activations[self.labels == "benign"].mean(axis=0)
        r = harmful - benign
        along = {"zero": 0 * r, "benign_mean": benign, "midpoint": (harmful + benign) / 2}
        return r, float(along[self.config.origin] @ r / np.sqrt(r @ r))

    def target(self, row, a):
        """By the formula a -/+ alpha Proj_R(a), its projection counted from the origin."""
        r, origin = self.frame
        if self.config.shift == "uniform":
            step = r
        else:
            step = (a @ r / (r @ r)) * r - origin * r / np.sqrt(r @ r)
        sign = 1 if self.labels[row] == "harmful" else -1
        return a + sign * self.config.alpha * step

    def train(self, batches, steps_per_epoch):
        for step, rows in enumerate(batches):
            moving = self.config.anchor == "current"
            every = self.config.refresh
            every = {"step": 1, "epoch": steps_per_epoch, "never": math.inf}.get(every, every)
            if moving and step % every == 0:
                self.seen = self.activations()
                self.frame = self.direction_and_origin(self.seen)
            losses = []
            for row in rows:
                a = self.activation(row)
                now = a.detach().double().numpy()
                goal = torch.tensor(self.target(row, now if moving else self.start[row])).float()
                losses.append(1 - (a @ goal) / (a.norm() * goal.norm()))
                self.seen[row] = now
            self.optimizer.zero_grad()
            loss = sum(losses) / len(rows)
            loss.backward()
            self.optimizer.step()
            self.losses.append(float(loss.detach()))


def named(block):
    # Softmax ignores a constant added to all keys, so this bias has no gradient but rounding,
    # which AdamW blows up to full steps in either implementation.
    for name, parameter in block.named_parameters():
        value = parameter.detach()
        if name.endswith("k_proj.bias"):
            continue
        if name.endswith("attn.c_attn.bias"):  # query, key and value in one
            width = len(value) // 3
            value = torch.cat([value[:width], value[2 * width :]])
        yield name, value


def assert_same_training(architecture, **settings):
    """Train both and compare the block, the losses and the drift."""
    model, prompts = tiny_chat_model(architecture), tiny_prompts()
    trainer = trainer_of(model, prompts, **settings)
    plain = PlainActor(model, prompts, trainer.config)
    before = {name: value.clone() for name, value in named(plain.block)}
    losses = []
    for _ in range(trainer.total_steps):
        trainer.take_step()
        losses.append(trainer.last_losses()[0])
    plain.train([trainer.batch_of(s) for s in range(trainer.total_steps)], trainer.steps_per_epoch)

    ours, theirs = dict(named(trainer.block)), dict(named(plain.block))
    assert ours.keys() == theirs.keys()
    size, change, difference = (
        torch.cat([one.flatten() for one in group]).norm()
        for group in (
            theirs.values(),
            [theirs[name] - before[name] for name in theirs],
            [theirs[name] - ours[name] for name in theirs],
        )
    )
    assert change > 1e-2 * size
    assert difference < 5e-4 * change
    assert difference < 1e-4 * size
    assert losses == pytest.approx(plain.losses, abs=1e-5)

    projections, cosine = trainer.drift()
    r, seen = plain.direction_and_origin(plain.start)[0], plain.seen
    now = plain.direction_and_origin(seen)[0]
    assert cosine == pytest.approx(now @ r / math.sqrt((now @ now) * (r @ r)), abs=1e-4)
    for label, mean in projections.items():
        along = seen[plain.labels == label] @ r / math.sqrt(r @ r)
        assert mean == pytest.approx(along.mean(), abs=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_block_of_every_architecture_is_trained_as_in_the_whole_model(architecture):
    assert_same_training(architecture)


@pytest.mark.parametrize(
    "settings",
    [
        {"origin": "midpoint", "layer": 0},
        {"origin": "zero", "alpha": 0.5, "layer": 3},
        {"shift": "uniform", "weight_decay": 0.1},
        {"anchor": "current", "refresh": "epoch", "origin": "benign_mean"},
        {"anchor": "current", "refresh": "step", "origin": "midpoint"},
        {"anchor": "current", "refresh": "never", "origin": "zero"},
        {"anchor": "current", "refresh": 3, "origin": "zero", "batch_size": 1},
        {"anchor": "current", "refresh": "step", "shift": "uniform", "alpha": 0.7},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_every_target_is_trained_as_in_the_whole_model(settings):
    assert_same_training("llama", **settings)


def test_moving_targets_differ_by_how_often_they_are_refreshed():
    losses = set()
    for refresh in ("epoch", "step", "never", 5):
        trainer = trainer_of(tiny_chat_model(), anchor="current", refresh=refresh)
        for _ in range(trainer.total_steps):
            trainer.take_step()
        losses.add(trainer.last_losses()[0])
    assert len(losses) == 4


def test_fixed_targets_are_a_fixed_point():
    """Once reached, a fixed target holds the activation; a moving one recedes and pulls on."""
    start = trainer_of(tiny_chat_model()).drift()[0]
    gap = start["harmful"] - start["benign"]
    ends = {}
    for anchor in ("initial", "current"):
        trainer = trainer_of(tiny_chat_model(), anchor=anchor, epochs=60, batch_size=9)
        while trainer.step < 40:
            trainer.take_step()
        reached = trainer.drift()[0]
        while trainer.step < trainer.total_steps:
            trainer.take_step()
        ends[anchor] = trainer.drift()[0]
        if anchor == "initial":
            assert trainer.last_losses()[0] < 5e-4
            assert ends[anchor] == pytest.approx(reached, abs=0.05 * gap)
    assert ends["initial"]["pseudo_harmful"] == pytest.approx(start["benign"], abs=0.1 * gap)
    assert ends["current"]["pseudo_harmful"] < start["benign"] - 0.3 * gap


@pytest.mark.parametrize("batch_size", [1, 4, 9, 50])
def test_every_epoch_is_a_permutation_that_seed_and_epoch_decide(batch_size):
    model = tiny_chat_model()
    trainer = trainer_of(model, batch_size=batch_size, epochs=3)
    assert trainer.steps_per_epoch == -(-9 // batch_size)
    assert trainer.total_steps == 3 * trainer.steps_per_epoch
    steps = [trainer.batch_of(step) for step in range(trainer.total_steps)]
    epochs = [
        [row for rows in steps[start : start + trainer.steps_per_epoch] for row in rows]
        for start in range(0, len(steps), trainer.steps_per_epoch)
    ]
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = trainer_of(model, batch_size=batch_size, epochs=3)
    assert [again.batch_of(step) for step in range(len(steps))] == steps
    other = trainer_of(model, batch_size=batch_size, epochs=3, seed=1)
    assert [other.batch_of(step) for step in range(len(steps))] != steps


def test_losses_of_the_labels_average_to_the_loss():
    trainer = trainer_of(tiny_chat_model())
    for step in range(trainer.total_steps):
        trainer.take_step()
        loss, losses = trainer.last_losses()
        counts = [trainer.labels[row] for row in trainer.batch_of(step)]
        total = sum(losses[label] * counts.count(label) for label in losses)
        assert set(losses) == set(counts)
        assert loss == pytest.approx(total / len(counts), abs=1e-6)


def test_training_leaves_the_model_alone():
    model = tiny_chat_model()
    before = copied_tensors(model)
    trainer = trainer_of(model)
    for _ in range(trainer.total_steps):
        trainer.take_step()
        assert same_bits(before, copied_tensors(model))
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())


def test_a_half_precision_model_trains_in_float32():
    """Steps of 1e-6 vanish in bfloat16: they must be kept."""
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    trainer = trainer_of(model, lr=1e-6)
    before = {name: p.detach().clone() for name, p in trainer.block.named_parameters()}
    trainer.take_step()
    for name, parameter in trainer.block.named_parameters():
        assert parameter.dtype == torch.float32
        change = float((parameter.detach() - before[name]).abs().max())
        assert change == pytest.approx(1e-6, rel=0.1)


def test_state_of_a_trainer_continues_in_another():
    model = tiny_chat_model()
    settings = {"anchor": "current", "refresh": "epoch", "weight_decay": 0.1}
    one, other = trainer_of(model, **settings), trainer_of(model, **settings)
    for _ in range(4):  # in the midst of the second epoch
        one.take_step()
    other.load_state(one.resume_state())
    for trainer in (one, other):
        trainer.take_step()
    assert other.step == one.step == 5
    assert other.last_losses() == one.last_losses()
    assert other.drift() == one.drift()
    assert same_bits(dict(one.resume_state().tensors), dict(other.resume_state().tensors))


def test_an_unsound_loss_makes_no_step():
    trainer = trainer_of(tiny_chat_model())
    with torch.no_grad():
        next(trainer.block.parameters()).fill_(float("nan"))
    before = copy.deepcopy(trainer.block.state_dict())
    with pytest.raises(DivergedError, match=r"Step 1 diverged \(loss nan\)"):
        trainer.take_step()
    assert trainer.step == 0
    assert same_bits(before, trainer.block.state_dict())


def test_unsound_weights_are_found_at_once():
    trainer = trainer_of(tiny_chat_model(), lr=1e15)
    trainer.take_step()
    with pytest.raises(DivergedError, match="Step 1 diverged"):
        trainer.check_sound()


def test_the_check_of_the_weights_leaves_no_trace():
    checked, unchecked = (trainer_of(tiny_chat_model()) for _ in range(2))
    for trainer in (checked, unchecked):
        trainer.take_step()
    checked.check_sound()
    assert checked.drift() == unchecked.drift()
    assert checked.last_losses() == unchecked.last_losses()


def test_targets_that_start_far_away_are_no_divergence():
    """A loss above 1 may be where a run with huge shifts begins."""
    trainer = trainer_of(tiny_chat_model(), origin="zero", alpha=50.0)
    losses = []
    for _ in range(trainer.total_steps):
        trainer.take_step()
        losses.append(trainer.last_losses()[0])
    assert max(losses) > 1


def test_labels_with_one_mean_have_no_direction():
    texts = ("one", "two")
    labels = ("harmful", "benign", "pseudo_harmful")
    prompts = PromptSet(tuple(Prompt(text, label) for label in labels for text in texts))
    with pytest.raises(UserError, match="harmful and benign prompts have the same mean at layer 1"):
        trainer_of(tiny_chat_model(), prompts)


def test_activations_that_are_not_finite_are_told_before_training():
    model = tiny_chat_model()
    with torch.no_grad():
        model.blocks[0].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"'tiny-llama' are not finite.*layers.0.mlp"):
        trainer_of(model)


class TestWhatAlphaDoesToAStep:
    """The gradient of a small alpha is proportional to it; AdamW divides by its size, SGD not."""

    @staticmethod
    def moved(alpha, steps, **settings):
        model = tiny_chat_model()
        model.hf.to(torch.float64)
        trainer = trainer_of(model, anchor="current", alpha=alpha, **settings)
        before = torch.cat([p.detach().flatten().clone() for p in trainer.block.parameters()])
        for _ in range(steps):
            trainer.take_step()
        return torch.cat([p.detach().flatten() for p in trainer.block.parameters()]) - before

    def test_where_epsilon_is_negligible_alpha_does_not_matter_to_adamw(self):
        small, large = (self.moved(alpha, 4, eps=1e-30) for alpha in (1e-6, 1e-4))
        assert float(small.abs().max()) > LR / 2
        assert float((small - large).norm() / large.norm()) < 1e-2

    @pytest.mark.parametrize("settings", [{"eps": 1e3}, {"optimizer": "sgd"}])
    def test_with_sgd_or_a_huge_epsilon_a_step_is_proportional_to_alpha(self, settings):
        small, large = (self.moved(alpha, 1, lr=1e3, **settings) for alpha in (1e-6, 1e-4))
        assert float((100 * small - large).norm() / large.norm()) < 1e-3

    def test_bfloat16_rounds_a_small_shift_away(self):
        tiny, tinier = (
            self.moved(alpha, 1, precision="bfloat16", origin="zero") for alpha in (1e-6, 1e-9)
        )
        assert tiny.dtype == torch.bfloat16
        assert torch.equal(tiny, tinier)
        larger = self.moved(1.0, 1, precision="bfloat16", origin="zero")
        assert not torch.equal(tiny, larger)
