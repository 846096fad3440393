"""Refusal scores: how likely a reply is to begin as the model's own refusals do.

No opening begins with another one, so that their probabilities add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.decoding import Ask
from actor_lens.models.memory import cache_bytes_per_token
from actor_lens.models.replies import read_batch

if TYPE_CHECKING:
    from actor_lens.judges.first_token import RefusalOpenings, RefusalTokens

Ids = tuple[int, ...]

# 4 MB. In a thread the memory of larger copies is given back to the system each time, and had again
# page by page.
_COPIED_AT_ONCE = 2**20


def opening_scores(
    model: ChatModel, prompts: Sequence[str], openings: RefusalOpenings | RefusalTokens
) -> Float[Tensor, " prompt"]:
    """Refusal score of each prompt: ``log P - log(1 - P)``.

    P is the probability that the reply begins with one of the openings, the sum of theirs. Prompts
    are read once, whatever the number of openings, where the model keeps keys and values of all
    tokens and no hook changes it; else once for each beginning that openings share. Where all
    openings are of one token this is ``refusal_scores``, up to rounding.

    Args:
        model: Scores come from ``model.hf`` as it is now.
        prompts: User messages.
        openings: How the untouched model begins refusals.
    """
    ids = ids_of(openings)
    room = max(map(len, ids)) - 1  # the last token is not read
    scores = torch.empty(len(prompts), dtype=torch.float32, device="cpu")

    def score(batch: TokenBatch) -> None:
        ask = read_batch(model, prompts, batch, room=room)
        scores[list(batch.indices)] = score_openings(ask, ids)

    kept = cache_bytes_per_token(model) if room else 0
    run_in_batches(model, model.tokenize(prompts, room=room), score, kept_per_token=kept)
    return scores


def ids_of(openings: RefusalOpenings | RefusalTokens) -> tuple[Ids, ...]:
    """Token ids of each opening."""
    return tuple(one if isinstance(one, tuple) else (one,) for one in openings.ids)


def score_openings(ask: Ask, openings: Sequence[Ids]) -> Float[Tensor, " prompt"]:
    """Refusal scores of the prompts of a batch, on the CPU.

    Args:
        ask: Gives the scores of next tokens behind a beginning of the replies.
        openings: Token ids of each opening; none begins with another one.
    """
    if all(len(ids) == 1 for ids in openings):
        first = torch.tensor([token for [token] in openings], device="cpu")
        return log_odds(ask(()), first).cpu()
    # Log-probabilities of each beginning that some opening has, the shorter ones first, and of each
    # way to leave them: nothing is taken as one less a number that is nearly one.
    begun: dict[Ids, Tensor] = {(): torch.zeros(1, dtype=torch.float64, device="cpu")}
    left: list[Tensor] = []
    inner = {ids[:length] for ids in openings for length in range(len(ids))}
    for beginning in sorted(inner, key=len):
        own = len(beginning)
        follow = sorted({ids[own] for ids in openings if ids[:own] == beginning != ids})
        scores = ask(beginning)
        if scores.device.type == "mps":  # which has no float64
            scores = scores.cpu()
        logs = scores.double().log_softmax(dim=-1)
        for token in follow:
            begun[(*beginning, token)] = begun[beginning] + logs[:, token].cpu()
        logs[:, follow] = -torch.inf
        left.append(begun[beginning] + logs.logsumexp(dim=-1).cpu())
    together = torch.stack([begun[ids] for ids in openings]).logsumexp(dim=0)
    return (together - torch.stack(left).logsumexp(dim=0)).float()


def log_odds(
    logits: Float[Tensor, "prompt vocabulary"], ids: Int[Tensor, " id"]
) -> Float[Tensor, " prompt"]:
    """Log-odds of the total probability of some tokens, without overflow."""
    together = max(1, _COPIED_AT_ONCE // logits.shape[-1])
    return torch.cat([_log_odds(rows, ids) for rows in torch.split(logits, together)])


def _log_odds(
    logits: Float[Tensor, "prompt vocabulary"], ids: Int[Tensor, " id"]
) -> Float[Tensor, " prompt"]:
    rest = logits.to(torch.float32, copy=True)
    inside = rest[:, ids].logsumexp(-1)
    rest[:, ids] = -torch.inf
    return inside - rest.logsumexp(-1)
