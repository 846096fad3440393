"""MeZO: training by forward passes alone, along random directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from actor_lens.activations.residuals import collect_block_inputs
from actor_lens.methods.actor import Actor
from actor_lens.methods.sft import LayerSFT, changed_tensors
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_training import Step, Trainee, Trial, best_trial
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.target_layer import target_layer
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.training.block_trainer import BlockTrainer

_EPS = 1e-3


@dataclass(frozen=True)
class MezoLayer(LayerSFT):
    """``LayerSFT`` without gradients: ``t <- t - lr g z``, ``z ~ N(0, I)`` anew in each step.

    ``g = (L(t + eps z) - L(t - eps z)) / (2 eps)`` on one batch estimates the slope along ``z``;
    on average ``g z`` is the gradient, and ``n + 2`` times as long when squared, so that rates are
    far below those of AdamW. Two forward passes a step, and the memory of inference; the authors
    take 20,000 steps. Block, replies and loss are those of ``LayerSFT``; eps is 1e-3.

    Chosen on validation prompts: the learning rate, and the number of epochs in tens.

    Source: Malladi et al. 2023 (arXiv 2305.17333); a single layer and the rates are ours.
    """

    name: str = "mezo-layer"
    lrs: tuple[float, ...] = (1e-4, 1e-3)
    epochs: int = 20

    _every: ClassVar[int] = 10

    def stepper(self, trainee: Trainee, lr: float) -> Step:
        """Steps along random directions."""
        return zeroth_order(trainee.parameters, lr, seed=self.seed)


@dataclass(frozen=True)
class MezoActor(Actor):
    """ACTOR's loss and block, trained without gradients as in ``MezoLayer``; it needs no replies.

    The settings of ``Actor`` but for ``lrs``, of which validation prompts choose one, and the
    number of epochs, which they choose in twenty-fives. The layer is the first that ``Actor``
    would try. Moving targets keep the direction of the start: ``refresh`` changes nothing.

    Attributes:
        lrs: Learning rates to try.

    Source: the optimiser of Malladi et al. 2023 (arXiv 2305.17333), the loss of Dabas et al. 2025
        (arXiv 2507.04250); together they are ours.
    """

    name: str = "mezo-actor"
    epochs: int = 50
    lrs: tuple[float, ...] = (1e-3, 1e-2)

    _own: ClassVar[tuple[str, ...]] = (*Actor._own, "lrs")

    def fit(  # type: ignore[override]  # no run: it was not trained by ``finetune_layer``
        self, model: ChatModel, train: PromptSet, validation: PromptSet
    ) -> FittedIntervention:
        """Train at every learning rate; validation prompts choose the rate and the epoch.

        Raises:
            UserError: If a label has too few prompts, a setting is not allowed, or training
                diverges.
        """
        require_labels(train, 2)
        selection = Selection.of(model, validation)
        layer = target_layer(model, train, selection, self.layer)
        choice = best_trial(
            self._trials(model, train, layer),
            selection,
            lambda state: selection.effect_of(model, overwritten(model.hf, state)),
        )
        best = choice.candidate
        own = {name: value for name, value in vars(self).items() if name not in self._own}
        return FittedIntervention(
            settings={
                **{**own, "layer": layer, "most_epochs": self.epochs, "lr": best.lr},
                **{"epochs": best.epochs, **choice.settings},
            },
            chosen=("lr", "epochs") if self.layer is not None else ("layer", "lr", "epochs"),
            enter=lambda asked: overwritten(asked.hf, best.state),
            fingerprint=model.fingerprint,
            trained_parameters=best.n_parameters,
        )

    def _trials(self, model: ChatModel, train: PromptSet, layer: int) -> Iterator[Trial]:
        inputs = collect_block_inputs(model, train, layer, store=False)
        anchors = None
        if self.anchors is not None:
            anchors = collect_block_inputs(model, self.anchors, layer, store=False)
        prefix = model.block_prefix(layer)
        for lr in self.lrs:
            trainer = BlockTrainer(model, self._config(layer), inputs, anchors=anchors)
            parameters = list(trainer.block.parameters())
            step = zeroth_order(parameters, lr, seed=self.seed)
            count = sum(map(Tensor.numel, parameters))
            for number in range(trainer.total_steps):
                rows = trainer.batch_of(number)
                step(partial(_mean_loss, trainer, rows))
                epoch, left = divmod(number + 1, trainer.steps_per_epoch)
                if left == 0 and (epoch % 25 == 0 or epoch == self.epochs):
                    named = {prefix + n: t for n, t in trainer.block.state_dict().items()}
                    yield Trial(lr, epoch, count, changed_tensors(model, named))


def _mean_loss(trainer: BlockTrainer, rows: list[int]) -> Tensor:
    return trainer.losses_of(rows).mean()


def zeroth_order(
    parameters: Sequence[nn.Parameter], lr: float, *, eps: float = _EPS, seed: int = 0
) -> Step:
    """Steps of MeZO: each is two losses and a move along a random direction.

    Every step starts from kept values. Adding and taking away in place would let the weights drift,
    in bfloat16 by a tenth in a thousand steps.

    Args:
        parameters: Parameters to change, in a fixed order.
        lr: Learning rate.
        eps: How far from the parameters the losses are taken.
        seed: Seed of the directions, which have a generator of their own.
    """
    generator = torch.Generator("cpu").manual_seed(seed)

    def step(loss: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            kept = [parameter.clone() for parameter in parameters]
            directions = [
                torch.randn(p.shape, generator=generator, dtype=torch.float32, device="cpu").to(p)
                for p in parameters
            ]

            def move(by: float) -> None:
                for parameter, value, direction in zip(parameters, kept, directions, strict=True):
                    parameter.copy_(value + by * direction)

            move(eps)
            above = float(loss())
            move(-eps)
            move(-lr * (above - float(loss())) / (2 * eps))

    return step
