"""What a method costs: seconds and memory of fitting it, and time for each token of its replies."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import generate_replies

# Seconds between two looks at the memory.
_INTERVAL = 0.005
_ROUNDS = 3


@dataclass
class FitCost:
    """Filled in by ``cost_of``.

    Attributes:
        seconds: Duration of the work.
        peak_bytes: Most memory during the work, less what was in use before: allocated by torch
            on a GPU, resident in the process elsewhere.
    """

    seconds: float = float("nan")
    peak_bytes: int = 0


@contextmanager
def cost_of(model: ChatModel) -> Iterator[FitCost]:
    """Measure what is done inside, also where it fails.

    Resident memory is looked at every few milliseconds. What earlier work has freed is given back
    to the system first (where the C library can), so that the order of the work plays little part;
    a difference of some megabytes says nothing.
    """
    cost = FitCost()
    on_gpu = model.device.type == "cuda"
    gc.collect()
    started = time.perf_counter()
    try:
        with _gpu_peak(model.device, cost) if on_gpu else _resident_peak(cost):
            started = time.perf_counter()
            yield cost
    finally:
        cost.seconds = time.perf_counter() - started


def seconds_per_token(model: ChatModel, prompts: Sequence[str], new_tokens: int) -> float:
    """Fewest seconds for one token of a greedy reply, of three rounds; NaN without prompts.

    All prompts are answered in one batch, which takes as long as its longest reply: the time is
    divided by the steps of that one and by the number of prompts, so that methods with replies of
    other lengths can be compared.
    """
    if not prompts:
        return float("nan")
    model = model.with_batch_size(len(prompts))
    rounds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        replies = generate_replies(model, prompts, new_tokens=new_tokens)
        seconds = time.perf_counter() - started
        ids = model.tokenizer(replies, add_special_tokens=False)["input_ids"]
        # The longest reply has one token more, the one that ended it, unless it was cut off.
        steps = min(new_tokens, 1 + max(len(tokens) for tokens in ids))
        rounds.append(seconds / (steps * len(prompts)))
    return min(rounds)


@contextmanager
def _gpu_peak(device: torch.device, cost: FitCost) -> Iterator[None]:
    """Measure the memory that torch allocates on one GPU."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        yield
    finally:
        torch.cuda.synchronize(device)
        cost.peak_bytes = torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _resident_peak(cost: FitCost) -> Iterator[None]:
    """Measure the memory of this process, as far as a thread that watches it can see."""
    import psutil

    process, done = psutil.Process(), threading.Event()

    def look() -> None:
        cost.peak_bytes = max(cost.peak_bytes, process.memory_info().rss - before)

    def watch() -> None:
        while not done.wait(_INTERVAL):
            look()

    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    before = process.memory_info().rss
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()
