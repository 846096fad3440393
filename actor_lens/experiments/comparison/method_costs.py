"""What a method costs: seconds and memory of fitting it, and time for each token of its replies."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

import torch

from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import generate_replies

# Seconds between two looks at the memory.
_INTERVAL = 0.005
_ROUNDS = 3


@dataclass
class FitCost:
    """Filled in when the work is done.

    Attributes:
        seconds: Of the work.
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
    meter = _GpuPeak(model.device) if model.device.type == "cuda" else _ResidentPeak()
    gc.collect()
    started = time.perf_counter()
    try:
        with meter:
            started = time.perf_counter()
            yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        cost.peak_bytes = max(0, meter.peak - meter.before)


def seconds_per_token(model: ChatModel, prompts: Sequence[str], new_tokens: int) -> float:
    """Fewest seconds for one token of a greedy reply, of three rounds; NaN without prompts.

    All prompts are answered in one batch, which takes as long as its longest reply: the time is
    divided by the steps of that one and by the number of prompts, so that methods with replies of
    other lengths can be compared.
    """
    if not prompts:
        return float("nan")
    model, found = model.with_batch_size(len(prompts)), []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        replies = generate_replies(model, prompts, new_tokens=new_tokens)
        seconds = time.perf_counter() - started
        ids = model.tokenizer(replies, add_special_tokens=False)["input_ids"]
        # The longest reply has one token more, the one that ended it, unless it was cut off.
        steps = min(new_tokens, 1 + max(len(tokens) for tokens in ids))
        found.append(seconds / (steps * len(prompts)))
    return min(found)


class _GpuPeak:
    """Most memory that torch has allocated on one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.before = self.peak = 0

    def __enter__(self) -> _GpuPeak:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        torch.cuda.synchronize(self._device)
        self.peak = torch.cuda.max_memory_allocated(self._device)


class _ResidentPeak:
    """Most memory of this process that a thread has seen."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = 0

    def __enter__(self) -> _ResidentPeak:
        with suppress(OSError, AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)
        self.before = self.peak = self._now()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, self._now())

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        return int(self._process.memory_info().rss)
