"""What a fine-tune does to all else: how far the model's next-token distribution has moved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite
from actor_lens.models.replies import first_token_logits, generate_replies, kl_divergence
from actor_lens.prompts.columns import prompt_columns
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain
from actor_lens.text import plural
from actor_lens.training.run import TrainingRun


@runtime_checkable
class Applicable(Protocol):
    """What can change a model for a while: a ``TrainingRun``, or another method that was fitted."""

    def applied_to(self, model: ChatModel) -> AbstractContextManager[ChatModel]:
        """Put the change in place for a ``with`` statement, which yields the model to ask."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Divergence(Result):
    """How far a change moves what a model says next.

    Attributes:
        values: Kullback-Leibler divergence of each prompt in nats, float64: of the first reply
            token, or the mean over the tokens of a reply.
        prompts: The prompts, in the same order.
    """

    values: Float[Tensor, " prompt"]
    prompts: PromptSet

    @property
    def mean(self) -> float:
        """Mean over the prompts, in nats."""
        return float(self.values.mean())

    def frame(self) -> pd.DataFrame:
        """One row a prompt: those of ``prompt_columns``, ``kl`` (nats)."""
        return pd.DataFrame({**prompt_columns(self.prompts), "kl": self.values.numpy()})

    def summary(self) -> dict[str, Any]:
        """``n`` (prompts) and ``mean`` (nats)."""
        return {"n": len(self.prompts), "mean": plain(self.mean)}

    def _headline(self) -> str:
        return f"Divergence: mean KL {self.mean:.3g} nats on {plural(len(self.prompts), 'prompt')}"


def next_token_divergence(model: ChatModel, run: Applicable, prompts: PromptSet) -> Divergence:
    """``KL(base || changed)`` of the first reply token after each templated prompt.

    On benign prompts it should be near 0: the change has left them alone. On prompts that are
    refused before and answered after it is large, and should be. The model is as before
    afterwards, bit for bit, however this ends.

    Args:
        model: The untouched model.
        run: A fine-tune of one of its blocks, or any other method that was fitted.
        prompts: The prompts, at least one.

    Raises:
        UserError: If there are no prompts, one is longer than the model takes, or the run belongs
            to another model.
    """
    _check(model, run, prompts)
    base = first_token_logits(model, prompts.texts)
    with run.applied_to(model) as asked:
        changed = first_token_logits(asked, prompts.texts)
    # One at a time: in float64, whole tables of a large vocabulary take gigabytes.
    values = [kl_divergence(p, q) for p, q in zip(base, changed, strict=True)]
    return Divergence(torch.stack(values), prompts)


def reply_divergence(
    model: ChatModel,
    run: Applicable,
    prompts: PromptSet,
    *,
    new_tokens: int = 32,
) -> Divergence:
    """``KL(base || changed)``, mean over the tokens of the untouched model's greedy reply.

    Both models are led along the same reply, so that they are compared token by token after equal
    beginnings. The token after the last one counts as well: whether the reply ends there. With an
    empty reply it is ``next_token_divergence``.

    Args:
        model: The untouched model.
        run: A fine-tune of one of its blocks, or any other method that was fitted.
        prompts: The prompts, at least one.
        new_tokens: Longest reply, in tokens.

    Raises:
        UserError: If there are no prompts, one and its reply are longer than the model takes, or
            the run belongs to another model.
    """
    _check(model, run, prompts)
    texts = generate_replies(model, prompts.texts, new_tokens=new_tokens)
    # As text and back: a method may speak to the model in another way, but the words are the same.
    replies = [
        model.tokenizer(text, add_special_tokens=False)["input_ids"][:new_tokens] for text in texts
    ]
    base = [_along(model, *each) for each in zip(prompts.texts, replies, strict=True)]
    values = []
    with run.applied_to(model) as asked:
        for prompt, reply, before in zip(prompts.texts, replies, base, strict=True):
            after = _along(asked, prompt, reply)
            steps = [kl_divergence(p, q) for p, q in zip(before, after, strict=True)]
            values.append(torch.stack(steps).mean())
    return Divergence(torch.stack(values), prompts)


def _check(model: ChatModel, run: Applicable, prompts: PromptSet) -> None:
    """Check what would fail later, before any work."""
    if len(prompts) == 0:
        raise UserError("no prompts were given; check the label, split or file they come from")
    if isinstance(run, TrainingRun):
        run.check_belongs_to(model)


def _along(model: ChatModel, prompt: str, reply: Sequence[int]) -> Float[Tensor, "step vocabulary"]:
    """Logits of every token of a given reply and of the one after it, float32 on the CPU."""
    start = model.tokenize([prompt], room=len(reply))[0]
    ids = torch.tensor([[*start, *reply]], device=model.device)
    with torch.no_grad():
        output: Any = model.hf(input_ids=ids, use_cache=False, logits_to_keep=len(reply) + 1)
    logits: Tensor = output.logits.float()
    check_finite(model, logits, "logits")
    if model.decoding is not None:
        process = model.decoding([prompt])
        # In order and one by one, as in generation: what is done may depend on what came before.
        for step in range(len(reply) + 1):
            logits[:, step] = process(ids[:, : len(start) + step], logits[:, step])
    return logits[0].cpu()
