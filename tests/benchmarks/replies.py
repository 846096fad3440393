"""How much sooner replies come: ``python -m tests.benchmarks.replies --model smollm2-cautious``.

The same prompts are replied to, and scored by openings of several tokens, in three ways by turns:
as the package does it, with every prompt read whole, and with eager attention for reply tokens as
well. Ratios of the medians are what counts: all ways ran in the same minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch

import actor_lens as al
from actor_lens.diagnostics.bench import machine_facts
from actor_lens.models import decoding, reading
from actor_lens.models.chat_model import ChatModel


@contextmanager
def whole_prompts() -> Iterator[None]:
    """Read what prompts have in common once for each."""
    with patch.object(reading, "_WORTH_TOKENS", sys.maxsize):
        yield


@contextmanager
def eager_and_whole() -> Iterator[None]:
    """Leave the attention of reply tokens as that of prompts, too."""
    with patch.object(decoding, "with_fused_attention", lambda model: model.hf), whole_prompts():
        yield


WAYS = {"ours": nullcontext, "whole_prompts": whole_prompts, "eager_and_whole": eager_and_whole}


def seconds_of_evaluations(
    model: ChatModel, prompts: al.PromptSet, new_tokens: int, rounds: int
) -> dict[str, float]:
    """Median seconds of an evaluation, each way by turns; the first round warms up."""
    openings = al.judges.refusal_openings(model, prompts, limit=16, store=False)
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    said = set()
    for _ in range(rounds + 1):
        for name, way in WAYS.items():
            with way():
                begun = time.perf_counter()
                one = al.evaluate(
                    model, prompts, tokens=openings, new_tokens=new_tokens, store=False
                )
                took[name].append(time.perf_counter() - begun)
                said.add(one.replies)
    medians = {name: statistics.median(one[1:]) for name, one in took.items()}
    return {**medians, "different_replies": len(said) - 1}


def main() -> None:
    """Measure and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-cautious")
    parser.add_argument("--prompts", type=int, default=60, help="how many, of every label")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    words = parser.parse_args()
    model = al.load_model(words.model)
    prompts = al.load_prompts("starter").sample(words.prompts // 3)
    seconds = seconds_of_evaluations(model, prompts, words.new_tokens, words.rounds)
    ratios = {name: seconds[name] / seconds["ours"] for name in WAYS}
    record = {"machine": machine_facts(torch.device("cpu")), "seconds": seconds, "ratios": ratios}
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
