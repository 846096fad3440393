"""PoFT: training on replies until the model likes them better than others do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from actor_lens.methods.sft import FullSFT, full_trainee
from actor_lens.methods.support.reply_training import ReplyBatch, Trainee, reply_scores
from actor_lens.models.chat_model import ChatModel


@dataclass(frozen=True)
class PoFT(FullSFT):
    """SFT whose loss is a preference over the untouched model: ``-log sigmoid(s - s_0)``.

    ``s`` is the mean log-probability of a reply's tokens, its end token among them, and ``s_0`` the
    same under the untouched model; the loss is averaged over examples. Its gradient is that of an
    example's cross-entropy times ``sigmoid(s_0 - s)``, a half at the start, and less for replies
    that the model has come to like: training that limits itself. The authors take the mean of three
    other aligned models for ``s_0``; a comparison has one model, so here it is that.

    All else is as in ``FullSFT``.

    Source: arXiv 2412.12865; the one reference model and the learning rates are ours.
    """

    name: str = "poft"

    def trainee(self, model: ChatModel, layer: None) -> Trainee:
        """A copy of the model, with the preference loss."""
        del layer
        return full_trainee(model, partial(preference_loss, untouched=model.hf))


def preference_loss(hf: nn.Module, batch: ReplyBatch, *, untouched: nn.Module) -> Float[Tensor, ""]:
    """The loss of ``PoFT``, in nats.

    Args:
        hf: Model in training.
        batch: Prompts with replies.
        untouched: Model that it is to surpass.
    """
    with torch.no_grad():
        reference = reply_scores(untouched, batch)
    return -functional.logsigmoid(reply_scores(hf, batch) - reference).mean()
