"""A control that must fail: ACTOR along a random direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from actor_lens.activations.residuals import collect_block_inputs
from actor_lens.methods.actor import Actor
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.finetuning import check_config
from actor_lens.training.loop import train_block
from actor_lens.training.run import TrainingRun


@dataclass(frozen=True)
class RandomDirection(Actor):
    """ACTOR with a random vector in the place of ``R``: same data, block, loss and steps.

    The vector, ``[d_model]``, is drawn from a normal distribution with ``seed``; its length plays
    no part, as targets depend on the unit direction and on projections. If this does as well as
    ACTOR, the refusal direction is not what makes ACTOR work. The layer is chosen as in ``Actor``,
    with the true direction.
    """

    name: str = "control-random-direction"

    def trained(self, model: ChatModel, train: PromptSet, layer: int) -> TrainingRun:
        """The fine-tune of one block along the random direction."""
        config = self._config(layer)
        check_config(model, config, None)
        generator = torch.Generator().manual_seed(self.seed)
        vector = torch.randn(model.d_model, generator=generator, dtype=torch.float32, device="cpu")
        inputs = collect_block_inputs(model, train, layer, store=False)
        return train_block(model, inputs, config, vector=vector)
