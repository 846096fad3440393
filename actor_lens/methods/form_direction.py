"""A control that must fail: ACTOR along a direction that knows the form of prompts alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.residuals import collect_block_inputs, collect_residuals
from actor_lens.errors import UserError
from actor_lens.methods.actor import Actor
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.statistics.form_control import form_scores
from actor_lens.training.finetuning import check_config
from actor_lens.training.loop import train_block
from actor_lens.training.run import TrainingRun


@dataclass(frozen=True)
class FormDirection(Actor):
    """ACTOR with a direction made from form alone in the place of ``R``: same data, block and loss.

    A ridge on length, last mark, first word and counts of characters learns what harmful training
    prompts look like. The direction is the mean residual of those benign prompts that look most
    like them, less that of the other half: harm plays no part, as all of them are benign. If this
    does as well as ACTOR, form is what ACTOR follows. The layer is chosen as in ``Actor``, with the
    true direction.
    """

    name: str = "control-form-direction"

    def trained(self, model: ChatModel, train: PromptSet, layer: int) -> TrainingRun:
        """The fine-tune of one block along the direction of form.

        Raises:
            UserError: If all benign prompts have one form.
        """
        config = self._config(layer)
        check_config(model, config, None)
        vector = form_direction(model, train, layer)
        inputs = collect_block_inputs(model, train, layer, store=False)
        return train_block(model, inputs, config, vector=vector)


def form_direction(model: ChatModel, train: PromptSet, layer: int) -> Float[Tensor, " d_model"]:
    """From benign prompts of a benign look to those of a harmful look, after a block.

    Raises:
        UserError: If all benign prompts have one form.
    """
    benign = np.array(train.labels) == "benign"
    looks = form_scores(train)[benign]
    harmful_look = torch.from_numpy(looks > np.median(looks))
    if not harmful_look.any():
        raise UserError(
            f"{train.name}: all benign training prompts have one form, from which no direction can "
            "be made; this control is not needed"
        )
    prompts = train.select(np.flatnonzero(benign).tolist())
    residuals = collect_residuals(model, prompts, store=False).values[layer].double()
    vector = residuals[harmful_look].mean(dim=0) - residuals[~harmful_look].mean(dim=0)
    return vector.float()
