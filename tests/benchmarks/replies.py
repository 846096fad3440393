"""What replies cost beside transformers: ``python -m tests.benchmarks.replies --model FOLDER``.

The same batches of prompts go through this project's decoding and through ``model.generate``, in
turns on the same machine and in alternating order. Ratios are of seconds: below 1, ours is quicker.
Replies that differ do so after a tie between two tokens, up to rounding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import torch

import actor_lens as al
from actor_lens.diagnostics.bench import machine_facts
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.decoding import Decoding, greedy_replies
from actor_lens.models.replies import end_tokens


def batches_of(model: al.ChatModel, prompts: list[str], new_tokens: int) -> list[TokenBatch]:
    """The batches that replies are made in."""
    batches: list[TokenBatch] = []
    run_in_batches(model, model.tokenize(prompts), batches.append, new_tokens=new_tokens)
    return batches


def generated(model: al.ChatModel, batch: TokenBatch, decoding: Decoding) -> list[list[int]]:
    """Replies as a user of transformers has them."""
    with torch.no_grad():
        rows = model.hf.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=decoding.new_tokens,
            eos_token_id=list(decoding.ends),
            pad_token_id=model.pad_token_id,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
        )
    replies = rows[:, batch.input_ids.shape[1] :].tolist()
    ends = [[place for place, token in enumerate(r) if token in decoding.ends] for r in replies]
    return [r[: e[0] + 1] if e else r for r, e in zip(replies, ends, strict=True)]


def main() -> None:
    """Measure and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--prompts", default="toy")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    model = al.load_model(words.model)
    prompts = list(al.load_prompts(words.prompts).texts[: words.limit])
    decoding = Decoding(words.new_tokens, end_tokens(model))
    batches = batches_of(model, prompts, words.new_tokens)
    ways = {"ours": greedy_replies, "generate": generated}
    for way in ways.values():  # warm
        way(model, batches[-1], Decoding(2, decoding.ends))
    ratios: list[float] = []
    own_seconds: list[float] = []
    replies: dict[str, list[list[int]]] = {}
    for round_ in range(words.rounds):
        seconds = {}
        for name in sorted(ways, reverse=bool(round_ % 2)):
            start = time.perf_counter()
            replies[name] = [r for batch in batches for r in ways[name](model, batch, decoding)]
            seconds[name] = time.perf_counter() - start
        ratios.append(seconds["ours"] / seconds["generate"])
        own_seconds.append(seconds["ours"])
    pairs = list(zip(replies["ours"], replies["generate"], strict=True))
    n_tokens = sum(len(reply) for reply in replies["ours"])
    record = {
        "machine": machine_facts(torch.device("cpu")),
        "model": model.name,
        "prompts": len(prompts),
        "batches": [len(batch.indices) for batch in batches],
        "new_tokens": words.new_tokens,
        "ended_early": sum(len(reply) < words.new_tokens for reply, _ in pairs) / len(pairs),
        "same_replies": sum(ours == theirs for ours, theirs in pairs) / len(pairs),
        "tokens_a_second": n_tokens / statistics.median(own_seconds),
        "of_the_seconds_of_generate": statistics.median(ratios),
        "each_round": ratios,
    }
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
