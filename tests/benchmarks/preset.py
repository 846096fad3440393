"""What the paper's setting costs on a GPU: ``python -m tests.benchmarks.preset --device cuda``.

A random Llama of the shape of the paper's smallest model, prompts of random letters in the numbers
of its mixture. ACTOR is trained to its end; SFT of all weights for a few steps, from which the time
of three epochs follows. The paper: 4 and 15 minutes on one H100.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import actor_lens as al
from actor_lens.diagnostics.bench import machine_facts
from actor_lens.experiments.presets import PRESETS
from actor_lens.methods.support.reply_data import ReplyExample
from actor_lens.methods.support.reply_training import Trainee, adamw_stepper, collate, reply_loss
from actor_lens.prompts.sets import PromptSet
from tests.benchmarks.random_models import SHAPES, random_model, random_prompts

_PROMPTS, _ANCHORS = 640, 128  # 330 of HEx-PHI, 210 of UltraChat, 25 each of four sets
_REPLY_TOKENS = 128
_WARM_UP = 2


def measured(device: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What some work reports, with its seconds and the most memory that was in use."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    record = work()
    record["seconds"] = time.perf_counter() - started
    if on_gpu:
        record["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return record


def actor(model: al.ChatModel, prompts: PromptSet, anchors: PromptSet) -> dict[str, Any]:
    """The whole fine-tune of the preset; its layer is at most the middle one."""
    config = PRESETS["paper"].config("llama-2-7b")
    layer = min(config.layer, model.n_layers // 2)
    run = al.finetune_layer(model, prompts, config, anchors=anchors, layer=layer, store=False)
    return {"layer": layer, "steps": len(run.history), "parts": dict(run.seconds)}


def sft(model: al.ChatModel, prompts: PromptSet, *, steps: int, batch_size: int) -> dict[str, Any]:
    """Some steps of SFT of all weights in the model's number format, and what 3 epochs would take.

    In float32, as ``sft-full`` trains, weights, gradients and moments of 7 billion parameters are
    108 GB, more than one H100 has.
    """
    hf = copy.deepcopy(model.hf).requires_grad_(True)
    trainee = Trainee(list(hf.parameters()), partial(reply_loss, hf), dict)
    step = adamw_stepper(trainee, 1e-3)
    shuffled = random.Random(0)
    examples = [
        ReplyExample("benign", tuple(ids), tuple(shuffled.choices(range(6, 250), k=_REPLY_TOKENS)))
        for ids in model.tokenize(prompts.texts)
    ]
    times = []
    for number in range(_WARM_UP + steps):
        batch = collate(model, shuffled.sample(examples, batch_size))
        started = time.perf_counter()
        step(partial(trainee.loss, batch))
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        if number >= _WARM_UP:
            times.append(time.perf_counter() - started)
    mean = sum(times) / len(times)
    return {"seconds_a_step": mean, "three_epochs": 3 * len(examples) / batch_size * mean}


def main() -> int:
    """Measure both and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="7B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sft-steps", type=int, default=10, help="0 leaves SFT out")
    parser.add_argument("--sft-batch-size", type=int, default=8)
    arguments = parser.parse_args()
    model = random_model(
        arguments.shape, device=arguments.device, dtype=getattr(torch, arguments.dtype)
    )
    draw = random.Random(0)
    prompts = random_prompts(model, draw.choices(range(30, 70), k=_PROMPTS))
    held_out = random_prompts(model, draw.choices(range(30, 70), k=2 * _ANCHORS))
    anchors = PromptSet(
        tuple(one for one in held_out if one.label != "pseudo_harmful")[:_ANCHORS], "anchors"
    )
    run = partial(measured, arguments.device)
    record: dict[str, Any] = {"machine": machine_facts(model.device)}
    record["actor"] = run(partial(actor, model, prompts, anchors))
    if arguments.sft_steps:
        size, steps = arguments.sft_batch_size, arguments.sft_steps
        record["sft"] = run(partial(sft, model, prompts, steps=steps, batch_size=size))
    sys.stdout.write(json.dumps(record, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
