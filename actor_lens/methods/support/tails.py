"""Residuals at the last tokens of a templated prompt, read by hooks.

A chat template closes the user's text with the same tokens for every prompt. Prompts are padded on
the left, so those closing tokens, and the last token of the user's text before them, stand at the
same places from the end in every row of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.passes import observe_residuals
from actor_lens.errors import UserError
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import edit_each_block
from actor_lens.models.reading import read_beginning
from actor_lens.prompts.rows import LABELS


def opening_ids(model: ChatModel, text: str) -> list[int]:
    """Token ids of words put into the model's mouth, to follow a templated prompt.

    Raises:
        UserError: If the text has no tokens.
    """
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"'{text}' has no tokens in '{model.name}'; give another word")
    return ids


def tail_residuals(
    model: ChatModel,
    prompts: Sequence[str],
    count: int = 1,
    *,
    behind: int = 0,
    opening: Sequence[int] = (),
) -> Float[Tensor, "layer position prompt d_model"]:
    """The output of every block at the last tokens of each prompt, float32 on the CPU.

    Args:
        model: Model as it is now. Its head is not run.
        prompts: User messages.
        count: Number of tokens, counted from the end; the last is at position ``-1``. At most
            ``closing_tokens`` plus 1, plus the tokens of the opening.
        behind: Number of tokens at the end that are not read.
        opening: Token ids that follow each templated prompt.
    """
    token_ids = [[*ids, *opening] for ids in model.tokenize(prompts, room=len(opening))]
    tails = torch.empty(
        model.n_layers, count, len(prompts), model.d_model, dtype=torch.float32, device="cpu"
    )

    beginning = cache(partial(read_beginning, model, token_ids, tail=count + behind))

    def run(batch: TokenBatch) -> None:
        def keep(layer: int, residual: Tensor) -> None:
            stop = residual.shape[1] - behind
            tail = residual[:, stop - count : stop].float().cpu()
            tails[layer][:, list(batch.indices)] = tail.transpose(0, 1)

        observe_residuals(model, batch, keep, start=beginning())

    run_in_batches(model, token_ids, run)
    return tails


def run_without_head(model: ChatModel, batch: TokenBatch) -> Any:
    """The output of one forward pass up to the final norm, without logits or a cache."""
    return model.hf.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    )


def read_blocks(
    model: ChatModel,
    batch: TokenBatch,
    layers: Iterable[int],
    take: Callable[[int, Float[Tensor, "prompt token d_model"]], None],
) -> None:
    """Run a batch and give each of some layers, with the output of its block, to a function."""

    def read(layer: int, residual: Tensor) -> Tensor:
        take(layer, residual)
        return residual

    with torch.no_grad(), edit_each_block(model, layers, read):
        run_without_head(model, batch)


def label_means(
    tails: Float[Tensor, "layer position prompt d_model"], labels: Sequence[str]
) -> Mapping[str, Float[Tensor, "layer position d_model"]]:
    """Mean over the prompts of each label that is present, summed in float64."""
    return {
        label: tails[:, :, [other == label for other in labels]].double().mean(dim=2).float()
        for label in LABELS
        if label in labels
    }


def refusal_vectors(
    tails: Float[Tensor, "layer position prompt d_model"], labels: Sequence[str]
) -> Float[Tensor, "layer position d_model"]:
    """Mean of harmful prompts minus mean of benign prompts."""
    means = label_means(tails, labels)
    return torch.sub(means["harmful"], means["benign"])
