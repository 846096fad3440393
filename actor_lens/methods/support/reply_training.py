"""Training on replies: next-token loss on the reply alone, and the choice among trials.

What is trained is up to the method (all weights, one block, an adapter): it hands over a
``Trainee``. A trial is one learning rate at the end of one epoch; validation prompts choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actor_lens.errors import UserError, check_whole
from actor_lens.methods.support.reply_data import ReplyExample
from actor_lens.methods.support.selection import Choice, Effect, Selection
from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import NotFiniteError

IGNORED = -100
"""Label of a token that is no target: template, prompt, padding."""
Step = Callable[[Callable[[], Tensor]], None]
"""Takes a step on a loss."""
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, eq=False)
class ReplyBatch(TokenBatch):
    """Prompts with replies: of each row padding, templated prompt, reply and end token.

    Attributes:
        labels: The reply's tokens and its end token in their places, ``IGNORED`` elsewhere.
        reply_lengths: Length of each reply, the end token included.
    """

    labels: Int[Tensor, "prompt token"]
    reply_lengths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Trainee:
    """Parameters that a method trains, and their loss.

    Attributes:
        parameters: Parameters that the optimiser changes.
        loss: Loss of a batch, with gradients for the parameters.
        state: Copies the parameters as they are now, in the form that the method applies.
    """

    parameters: Sequence[nn.Parameter]
    loss: Callable[[ReplyBatch], Tensor]
    state: Callable[[], Mapping[str, Tensor]]

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters)


@dataclass(frozen=True, eq=False)
class Trial:
    """The state after some epochs at a learning rate.

    Attributes:
        lr: Learning rate.
        epochs: Passes over the examples so far.
        n_parameters: How many numbers are trained.
        state: Trained tensors as the method applies them.
    """

    lr: float
    epochs: int
    n_parameters: int
    state: Mapping[str, Tensor] = field(repr=False)

    @property
    def is_finite(self) -> bool:
        """Whether the state holds nothing but numbers."""
        return all(bool(tensor.isfinite().all()) for tensor in self.state.values())


AnyTrial = TypeVar("AnyTrial", bound=Trial)


def collate(model: ChatModel, examples: Sequence[ReplyExample]) -> ReplyBatch:
    """Examples as one batch on the device of the model."""
    padded = pad_batch(
        [(*example.prompt_ids, *example.reply_ids) for example in examples],
        pad_token_id=model.pad_token_id,
        device=model.device,
    )
    labels = torch.full_like(padded.input_ids, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.reply_ids)
        labels[row, -length:] = padded.input_ids[row, -length:]
    lengths = tuple(len(example.reply_ids) for example in examples)
    return ReplyBatch(**vars(padded), labels=labels, reply_lengths=lengths)


def reply_loss(hf: nn.Module, batch: ReplyBatch) -> Float[Tensor, ""]:
    """Mean cross-entropy of the reply tokens of a batch, in nats."""
    predicted, wanted = _predict(hf, batch)
    return functional.cross_entropy(predicted.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)


def reply_scores(hf: nn.Module, batch: ReplyBatch) -> Float[Tensor, " prompt"]:
    """Mean log-probability of each reply's tokens, its end token among them, in nats."""
    predicted, wanted = _predict(hf, batch)
    losses = functional.cross_entropy(
        predicted.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none"
    )
    return -losses.sum(1) / losses.new_tensor(batch.reply_lengths)


def _predict(hf: nn.Module, batch: ReplyBatch) -> tuple[Tensor, Tensor]:
    """Logits of the last positions, those that predict a token of a reply, and what they should."""
    longest = max(batch.reply_lengths)
    with _half_precision(hf):
        output: Any = hf(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=longest + 1,
        )
    logits = output.logits[:, -longest - 1 : -1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), batch.labels[:, -longest:]


def reply_trials(
    model: ChatModel,
    examples: Sequence[ReplyExample],
    make_trainee: Callable[[], Trainee],
    *,
    lrs: Sequence[float],
    epochs: int,
    batch_size: int,
    seed: int,
    stepper: Callable[[Trainee, float], Step] | None = None,
    every: int = 1,
) -> Iterator[Trial]:
    """Train from the start at each learning rate, with a trial after every epoch.

    Args:
        model: The untouched model.
        examples: Prompts with replies.
        make_trainee: Gives what is trained, untrained.
        lrs: Learning rates.
        epochs: Passes over the examples at each.
        batch_size: Examples in a step.
        seed: Seed of the order of the examples.
        stepper: Gives, for a trainee and a learning rate, what takes a step; ``adamw_stepper``
            unless given.
        every: Epochs between two trials.

    Raises:
        UserError: If the weights of the model cannot be trained.
    """
    check_trainable(model, lrs, epochs, batch_size)
    for lr in lrs:
        trainee = make_trainee()
        step = (stepper or adamw_stepper)(trainee, lr)
        order = torch.Generator().manual_seed(seed)
        for epoch in range(1, epochs + 1):
            rows = torch.randperm(len(examples), generator=order, device="cpu").tolist()
            for start in range(0, len(rows), batch_size):
                batch = collate(model, [examples[row] for row in rows[start : start + batch_size]])
                step(partial(trainee.loss, batch))
            if epoch % every == 0 or epoch == epochs:
                yield Trial(lr, epoch, trainee.n_parameters, trainee.state())


def adamw_stepper(trainee: Trainee, lr: float) -> Step:
    """Steps of AdamW without decay, the gradient clipped to length 1."""
    optimizer = torch.optim.AdamW(list(trainee.parameters), lr=lr, weight_decay=0.0)
    return partial(train_step, optimizer, trainee.parameters)


def train_step(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    edit: Callable[[Sequence[Any]], Sequence[Any]] | None = None,
) -> None:
    """One step of an optimiser, the gradient clipped to length 1; ``edit`` changes it before."""
    gradients: Sequence[Any]
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(), list(parameters), allow_unused=True)
    if edit is not None:
        gradients = edit(gradients)
    # Not ``backward``: it would also fill in gradients of tensors that the model shares.
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(list(parameters), _LARGEST_GRADIENT)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def best_trial(
    trials: Iterable[AnyTrial],
    selection: Selection,
    effect_of: Callable[[Mapping[str, Tensor]], Effect],
) -> Choice[AnyTrial]:
    """The trial with the best effect on validation prompts; ties go to the earlier one.

    Args:
        trials: Trials to choose from; those that hold or give NaN or infinity are left out.
        selection: Validation prompts, which decide without a limit to the divergence.
        effect_of: Measures a state.

    Raises:
        UserError: If training diverged in every trial.
    """

    def measured() -> Iterator[tuple[AnyTrial, Effect]]:
        for trial in trials:
            if trial.is_finite:
                with suppress(NotFiniteError):
                    effect = effect_of(trial.state)
                    if math.isfinite(effect.score["benign"]):
                        yield trial, effect

    tried = measured()
    for first in tried:
        return selection.best(chain([first], tried), max_kl=None)
    raise UserError("training diverged at every learning rate; give lower ones (lrs)")


def check_trainable(model: ChatModel, lrs: Sequence[float], epochs: int, batch_size: int) -> None:
    """Check settings and weights before any work is done.

    Raises:
        UserError: If weights are quantised, a learning rate is not positive, there is none, or
            ``epochs`` or ``batch_size`` is below 1.
    """
    if not all(parameter.is_floating_point() for parameter in model.hf.parameters()):
        raise UserError(
            f"the weights of '{model.name}' are quantised and cannot be trained; load the model "
            "without quantisation"
        )
    if not lrs or not all(0 < lr < math.inf for lr in lrs):
        raise UserError(f"lrs is {tuple(lrs)}; give at least one positive learning rate")
    check_whole("epochs", epochs, low=1)
    check_whole("batch_size", batch_size, low=1)


def _half_precision(hf: nn.Module) -> AbstractContextManager[Any]:
    """Trained float32 copies among half-precision weights: products are taken in bfloat16."""
    parameters = list(hf.parameters())
    if all(parameter.dtype == torch.float32 for parameter in parameters):
        return nullcontext()
    return torch.autocast(parameters[0].device.type, dtype=torch.bfloat16)
