"""What a look costs in whole passes: ``python -m tests.benchmarks.questions --model FOLDER``.

A pass is one plain forward over the prompts to the logits of the first reply token. Against it, in
turns on the same machine: the causal scores of all layers, and one question at one layer with the
prompts' keys and values kept. Also the largest difference from whole passes with a hook.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

import actor_lens as al
from actor_lens.diagnostics.bench import machine_facts
from actor_lens.judges.first_token import RefusalTokens, refusal_scores_after_shifts
from actor_lens.models.interventions import shift_last_token
from actor_lens.models.prefix_cache import TokenShift, keep_prefixes, logits_after_shifts
from actor_lens.models.replies import first_token_logits


def seconds(work: Callable[[], object]) -> float:
    """Seconds that work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def largest_difference(
    model: al.ChatModel, prompts: list[str], shifts: dict[int, TokenShift]
) -> float:
    """Greatest difference of a logit from a pass in which a hook made the same change."""
    asked: dict[int, torch.Tensor] = {}

    def take(layer: int, batch: object, logits: torch.Tensor) -> None:
        rows = list(batch.indices)  # type: ignore[attr-defined]
        asked.setdefault(layer, torch.empty(len(prompts), logits.shape[-1]))[rows] = logits

    logits_after_shifts(model, prompts, shifts, take)
    worst = 0.0
    for layer, (distances, unit) in shifts.items():
        moves = distances[:, None] * unit
        whole = first_token_logits(
            model,
            prompts,
            intervention=lambda batch, layer=layer, moves=moves: shift_last_token(
                model, layer, moves[list(batch.indices)]
            ),
        )
        worst = max(worst, float((asked[layer] - whole).abs().max()))
    return worst


def main() -> None:
    """Measure and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--prompts", default="toy")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    model = al.load_model(words.model)
    prompts = list(al.load_prompts(words.prompts).texts[: words.limit])
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(model.d_model, generator=generator), dim=0)
    distances = torch.randn(len(prompts), generator=generator)
    shifts: dict[int, TokenShift] = {layer: (distances, unit) for layer in range(model.n_layers)}
    middle = {model.n_layers // 2: (distances, unit)}
    tokens = RefusalTokens((1, 2, 3), ("", "", ""))
    kept = keep_prefixes(model, prompts)
    first_token_logits(model, prompts[:8])  # warm
    rounds = []
    for _ in range(words.rounds):
        whole = seconds(lambda: first_token_logits(model, prompts))
        every = seconds(lambda: refusal_scores_after_shifts(model, prompts, tokens, shifts))
        one = seconds(
            lambda: refusal_scores_after_shifts(model, prompts, tokens, middle, prefixes=kept)
        )
        rounds.append((whole, every / whole, one / whole))
    lengths = [len(ids) for ids in model.tokenize(prompts)]
    record = {
        "machine": machine_facts(torch.device("cpu")),
        "model": model.name,
        "layers": model.n_layers,
        "prompts": len(prompts),
        "tokens_a_prompt": sum(lengths) / len(lengths),
        "seconds_of_a_pass": statistics.median(one[0] for one in rounds),
        "all_layers_in_passes": statistics.median(one[1] for one in rounds),
        "one_layer_kept_in_passes": statistics.median(one[2] for one in rounds),
        "kept": kept is not None,
        "largest_difference": largest_difference(
            model, prompts[:16], {layer: (pair[0][:16], unit) for layer, pair in shifts.items()}
        ),
    }
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
