"""Threads from the size of the work: where each would wait longer than it computes, one is used.

Of two threads, each parallel region costs a wake-up and a wait, and beside another program whatever
that program keeps the slower of them from doing. Large matrix products are worth it, those of a
small model or of a few tokens are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import psutil
import torch
from threadpoolctl import ThreadpoolController

from actor_lens.models.chat_model import ChatModel

# What a core computes and reads in a second, by the order of magnitude: weights of a few tokens
# are read more slowly than they are multiplied.
_OPERATIONS, _BYTES = 1e11, 5e9
# Seconds that one matrix product should take before a second thread helps with it. Measured on the
# bundled model: training steps (0.2 ms) and generated tokens (0.05 ms) are slower with two threads
# even on an idle machine, passes over whole batches (3 ms) take three quarters of the time.
_WORTH = 3e-4
_own = torch.get_num_threads()
# What torch takes by itself: a core each, of those that this process may use.
_usual = {os.cpu_count(), psutil.cpu_count(logical=False)}
if hasattr(os, "sched_getaffinity"):
    _usual.add(len(os.sched_getaffinity(0)))
_named = _own not in _usual or any(
    os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
)


@dataclass(frozen=True)
class Threads:
    """How many threads torch may use, and who says so.

    Attributes:
        number: Number of threads.
        fixed: Whether the user has named the number, so that all work uses as many.
    """

    number: int
    fixed: bool

    @classmethod
    def now(cls) -> Threads:
        """Those of this process."""
        number = torch.get_num_threads()
        return cls(number, fixed=_named or number != _own)

    def adopt(self) -> None:
        """Do all work in this process as one with these threads does it, to the bit."""
        global _own, _named
        torch.set_num_threads(self.number)
        _own, _named = self.number, self.fixed


@contextmanager
def suitable_threads(model: ChatModel, tokens: int) -> Iterator[None]:
    """One thread within a ``with`` statement where more would not pay, else torch's number.

    A number that the user has named stays: by ``OMP_NUM_THREADS``, or another than torch's own by
    ``torch.set_num_threads``. The number follows from sizes alone, so results do not depend on how
    busy the machine is.

    Args:
        model: The model that works; on a GPU nothing is changed.
        tokens: Tokens that go through a block at once.
    """
    threads = Threads.now()
    if threads.fixed or model.device.type != "cpu" or _seconds(model, tokens) >= _WORTH:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads.number)


def give_back_threads() -> None:
    """Let go of the threads that helped the calling one; they are had again when it needs them.

    libgomp keeps them for each thread that ever had some. Once there are more than cores in all,
    it puts a helper to sleep at each of the thousands of waits in a pass, in place of letting it
    spin, and a pass in one thread takes a third longer after one in another.
    """
    for library in _libgomp():
        library.omp_pause_resource_all(1)  # soft: settings stay


if hasattr(os, "register_at_fork"):
    # A fork has none of its parent's helpers, and would wait for them for ever.
    os.register_at_fork(before=give_back_threads)


@cache
def _libgomp() -> list[Any]:
    try:
        found = ThreadpoolController().select(prefix="libgomp").lib_controllers
    except (OSError, RuntimeError):  # it only makes things faster
        return []
    libraries = [one.dynlib for one in found]
    return [one for one in libraries if hasattr(one, "omp_pause_resource_all")]  # since GCC 9


def _seconds(model: ChatModel, tokens: int) -> float:
    """What a matrix product of a block takes one thread."""
    matrices = [parameter for parameter in model.blocks[0].parameters() if parameter.ndim == 2]
    numbers = sum(matrix.numel() for matrix in matrices) / max(1, len(matrices))
    return max(2 * tokens * numbers / _OPERATIONS, numbers * model.hf.dtype.itemsize / _BYTES)
