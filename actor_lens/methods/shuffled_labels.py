"""A control that must fail: ACTOR on prompts whose labels were shuffled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from actor_lens.methods.actor import Actor
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.run import TrainingRun


@dataclass(frozen=True)
class ShuffledLabels(Actor):
    """ACTOR with the labels of the training prompts permuted: same prompts, block, loss and steps.

    ``R``, the origin and the sign of every shift follow the wrong labels. If this does as well as
    ACTOR, the labels are not what makes ACTOR work. The layer is chosen as in ``Actor``, with the
    true labels; the permutation depends on ``seed``.
    """

    name: str = "control-shuffled-labels"

    def trained(self, model: ChatModel, train: PromptSet, layer: int) -> TrainingRun:
        """The fine-tune of one block with shuffled labels."""
        anchors = None if self.anchors is None else shuffled(self.anchors, self.seed)
        one = replace(self, anchors=anchors)
        return Actor.trained(one, model, shuffled(train, self.seed), layer)


def shuffled(prompts: PromptSet, seed: int) -> PromptSet:
    """The same prompts in the same order, their labels permuted."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(prompts), generator=generator, device="cpu").tolist()
    labels = [prompts.labels[index] for index in order]
    return replace(
        prompts,
        prompts=tuple(
            replace(prompt, label=label) for prompt, label in zip(prompts, labels, strict=True)
        ),
    )
