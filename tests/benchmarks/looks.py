"""What questions about a model cost in whole passes over the prompts, each beside its limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from actor_lens.activations.residuals import collect_block_inputs, collect_residuals
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.judges.first_token import RefusalTokens, refusal_scores_after_shifts
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.prefix_cache import TokenShift, keep_prefixes
from actor_lens.models.replies import end_tokens, first_token_logits, generate_replies
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.safety_floor import ValidationChecks
from tests.benchmarks.job import BenchSettings
from tests.benchmarks.tasks import timed

_TOKENS = RefusalTokens((1, 2, 3), ("", "", ""))


def looks(model: ChatModel, prompts: PromptSet, settings: BenchSettings) -> dict[str, Any]:
    """Time questions in turns, ``repeats`` times; the store plays no part.

    Args:
        model: The model.
        prompts: The prompts that are asked about.
        settings: ``layer`` is the one that is moved and trained, ``reply_tokens`` the length of
            replies.

    Returns:
        ``rounds``: seconds of each question in each round, ``limits``: for each ratio its two
        questions and the most that it should be, ``tokens``, and ``kept``, whether prefix caches
        fit into their budget.
    """
    shift = _shift(model, len(prompts))
    shifts = dict.fromkeys(range(model.n_layers), shift)
    kept = keep_prefixes(model, prompts.texts)
    inputs = collect_block_inputs(model, prompts, settings.layer, store=False)
    checks = ValidationChecks(model, inputs, _TOKENS)
    texts, layer, length = prompts.texts, settings.layer, settings.reply_tokens
    scores = partial(refusal_scores_after_shifts, model, texts, _TOKENS)
    questions: dict[str, Callable[[], object]] = {
        "pass": lambda: first_token_logits(model, texts),
        "base_pass": lambda: _base_pass(model, texts),
        "residuals": lambda: collect_residuals(model, prompts, store=False),
        "layer_scores": lambda: scores(shifts),
        "what_if": lambda: scores({layer: shift}, prefixes=kept),
        "trained_layer": lambda: checks.refusals(model.blocks[layer]),
        "generate": lambda: _generate(model, texts, length),
        "replies": lambda: generate_replies(model, texts, new_tokens=length),
        "evaluation": lambda: evaluate(
            model, prompts, tokens=_TOKENS, new_tokens=length, store=False
        ),
    }
    rounds: dict[str, list[float]] = {name: [] for name in questions}
    for number in range(settings.repeats + 1):
        for name, ask in questions.items():
            seconds, _ = timed(ask, model)
            if number > 0:  # the first warms up
                rounds[name].append(seconds)
    above = (model.n_layers - layer) / model.n_layers
    return {
        "rounds": rounds,
        "limits": {
            "residuals": ("base_pass", 1.08),
            "layer_scores": ("pass", 2.0),
            "what_if": ("pass", 0.1),
            "trained_layer": ("pass", round(above + 0.1, 3)),
            "replies": ("generate", 1.0),
            "evaluation": ("generate", 1.1),
        },
        "tokens": sum(map(len, model.tokenize(texts))),
        "kept": kept is not None,
    }


def _shift(model: ChatModel, n_prompts: int) -> TokenShift:
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(
        torch.randn(model.d_model, generator=generator, dtype=torch.float32, device="cpu"), dim=0
    )
    distances = torch.randn(n_prompts, generator=generator, dtype=torch.float32, device="cpu")
    return distances.to(model.device), unit.to(model.device)


def _base_pass(model: ChatModel, texts: tuple[str, ...]) -> None:
    """The base model, without its head, on the batches that collecting residuals takes."""

    def run(batch: TokenBatch) -> None:
        with torch.no_grad():
            model.hf.base_model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            )

    run_in_batches(model, model.tokenize(texts), run)


def _generate(model: ChatModel, texts: tuple[str, ...], new_tokens: int) -> list[Tensor]:
    """Greedy replies by transformers' own ``generate``, in the same batches."""
    replies: list[Tensor] = []

    def run(batch: TokenBatch) -> None:
        with torch.no_grad():
            generated: Any = model.hf.generate(  # type: ignore[operator]
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=list(end_tokens(model)) or None,
                pad_token_id=model.pad_token_id,
            )
        replies.append(generated)

    run_in_batches(model, model.tokenize(texts), run, new_tokens=new_tokens)
    return replies
