"""What questions about a model cost in whole passes: ``python -m tests.benchmarks.questions``.

``--model FOLDER`` asks a real model; ``--shape 7B --device cuda`` one of random weights. Each
question stands beside its limit; further the largest difference of a logit from whole passes with a
hook, what a trained layer costs at several depths, and with ``--memory`` what scoring all layers
takes over the model's own for 200 and for 2,000 prompts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import torch

import actor_lens as al
from actor_lens.activations.residuals import collect_block_inputs
from actor_lens.diagnostics.bench import machine_facts
from actor_lens.judges.first_token import RefusalTokens, refusal_scores_after_shifts
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.interventions import shift_last_token
from actor_lens.models.prefix_cache import TokenShift, take_logits_after_shifts
from actor_lens.models.replies import first_token_logits
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.safety_floor import ValidationChecks
from tests.benchmarks.job import BenchSettings
from tests.benchmarks.looks import looks
from tests.benchmarks.process import peak_bytes, reset_peak, resident_bytes
from tests.benchmarks.random_models import SHAPES, random_model, random_prompts
from tests.benchmarks.tasks import timed

_TOKENS = RefusalTokens((1, 2, 3), ("", "", ""))


def costs(model: al.ChatModel, prompts: PromptSet, settings: BenchSettings) -> dict[str, Any]:
    """Medians of the questions' ratios, each beside its limit."""
    measured = looks(model, prompts, settings)
    rounds = measured["rounds"]
    return {
        "seconds": {name: statistics.median(times) for name, times in rounds.items()},
        "ratios": {
            name: {"to": other, "limit": limit, "median": _ratio(rounds[name], rounds[other])}
            for name, (other, limit) in measured["limits"].items()
        },
        "tokens_a_prompt": measured["tokens"] / len(prompts),
        "kept": measured["kept"],
    }


def trained_layers(model: al.ChatModel, prompts: PromptSet, rounds: int) -> list[dict[str, Any]]:
    """Passes that the refusals with one trained layer in place take, at several depths."""
    n_layers = model.n_layers
    found = []
    for layer in sorted({n_layers // 4, n_layers // 2, 3 * n_layers // 4, n_layers - 1}):
        inputs = collect_block_inputs(model, prompts, layer, store=False)
        checks = ValidationChecks(model, inputs, _TOKENS)
        ours, whole = [], []
        for _ in range(rounds):
            ours.append(timed(lambda: checks.refused(model.blocks[layer]), model)[0])  # noqa: B023
            whole.append(timed(lambda: first_token_logits(model, prompts.texts), model)[0])
        limit = (n_layers - layer) / n_layers + 0.1
        found.append({"layer": layer, "passes": _ratio(ours, whole), "limit": limit})
    return found


def largest_difference(model: al.ChatModel, prompts: PromptSet) -> dict[str, Any]:
    """Greatest difference of a logit from passes in which a hook made the same change."""
    texts = prompts.texts
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(model.d_model, generator=generator), dim=0)
    shift: TokenShift = (
        torch.randn(len(texts), generator=generator).to(model.device),
        unit.to(model.device),
    )
    found: dict[str, Any] = {"largest": 0.0, "first_tokens_that_differ": 0}

    def run(batch: TokenBatch) -> None:
        def take(layer: int, _batch: TokenBatch, logits: torch.Tensor) -> None:
            moves = shift[0][list(batch.indices), None] * shift[1]
            with shift_last_token(model, layer, moves), torch.no_grad():
                whole = model.hf(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    position_ids=batch.position_ids,
                    use_cache=False,
                    logits_to_keep=1,
                ).logits[:, -1]
            difference = float((logits - whole).abs().max())
            found["largest"] = max(found["largest"], difference)
            found["first_tokens_that_differ"] += int((logits.argmax(-1) != whole.argmax(-1)).sum())

        shifts = dict.fromkeys(range(model.n_layers), shift)
        take_logits_after_shifts(model, texts, batch, shifts, take)

    run_in_batches(model, model.tokenize(texts), run)
    return found


def memory(model: al.ChatModel, prompts: PromptSet) -> dict[str, int]:
    """Most memory that scoring all layers took over what was in use before, in bytes."""
    peaks = {}
    on_gpu = model.device.type == "cuda"
    for count in (200, 2000):
        many = (prompts.texts * count)[:count]
        shift: TokenShift = (
            torch.ones(count, device=model.device),
            torch.ones(model.d_model, device=model.device),
        )
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        reset_peak()
        before = torch.cuda.memory_allocated() if on_gpu else resident_bytes()
        shifts = dict.fromkeys(range(model.n_layers), shift)
        refusal_scores_after_shifts(model, many, _TOKENS, shifts)
        peak = torch.cuda.max_memory_allocated() if on_gpu else peak_bytes()
        peaks[f"{count} prompts"] = peak - before
    return peaks


def main() -> None:
    """Measure and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", default="toy")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--reply-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="takes 2,200 prompts through")
    words = parser.parse_args()
    if words.shape:
        dtype = getattr(torch, words.dtype)
        model = random_model(words.shape, device=words.device, dtype=dtype)
        prompts = random_prompts(model, [30 + number % 21 for number in range(words.limit)])
    else:
        model = al.load_model(words.model, device=words.device, dtype=words.dtype)
        prompts = al.load_prompts(words.prompts)[: words.limit]
    settings = BenchSettings(
        layer=model.n_layers // 2, reply_tokens=words.reply_tokens, repeats=words.rounds
    )
    record = {
        "machine": machine_facts(model.device),
        "model": model.name,
        "dtype": words.dtype,
        "layers": model.n_layers,
        "prompts": len(prompts),
        **costs(model, prompts, settings),
        "trained_layers": trained_layers(model, prompts, words.rounds),
        "difference": largest_difference(model, prompts[:16]),
    }
    if words.memory:
        record["memory"] = memory(model, prompts)
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


def _ratio(times: list[float], others: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(times, others, strict=True)), 3)


if __name__ == "__main__":
    main()
