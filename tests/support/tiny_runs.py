"""Prompts of every label for tiny models, and quick fine-tunes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.run import TrainingRun

# Openings that share no words: a random model tells prompts apart by their bytes.
OPENINGS = {
    "harmful": "QUASH THE",
    "pseudo_harmful": "kill process",
    "benign": "say 42, dear",
}


def tiny_prompts(
    per_label: int = 3,
    split: str | None = None,
    offset: int = 0,
    openings: Mapping[str, str] = OPENINGS,
) -> PromptSet:
    """Prompts of differing lengths, so that batches have padding."""
    return PromptSet(
        tuple(
            Prompt(f"{openings[label]} {'xyz'[i % 3] * (i % 5)}{i}", label, split)
            for i in range(offset, offset + per_label)
            for label in LABELS
        ),
        name="tiny",
    )


def quick_run(model: ChatModel, prompts: PromptSet | None = None, **settings: Any) -> TrainingRun:
    """Three epochs of three steps unless told otherwise."""
    return finetune_layer(
        model,
        prompts if prompts is not None else tiny_prompts(),
        **{"layer": 1, "epochs": 3, "batch_size": 4, **settings},
    )


def copied_tensors(model: ChatModel) -> dict[str, torch.Tensor]:
    """Every tensor of a model as it is now."""
    return {name: tensor.detach().clone() for name, tensor in model.hf.state_dict().items()}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""

    def bits(tensor: torch.Tensor) -> bytes:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and bits(one[name]) == bits(other[name])
        for name in one
    )
