"""Greedy decoding written out: no cache, no batch, one forward pass of the whole text a token."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn


def greedy_ids(hf: nn.Module, ids: list[int], n: int, ends: Collection[int] = ()) -> list[int]:
    """The tokens that a model goes on with: ``n``, or up to and with the first end token."""
    reply: list[int] = []
    with torch.no_grad():
        while len(reply) < n and not (reply and reply[-1] in ends):
            logits = hf(input_ids=torch.tensor([[*ids, *reply]]), use_cache=False).logits
            reply.append(int(logits[0, -1].argmax()))
    return reply
