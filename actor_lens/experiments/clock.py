"""Seconds of the parts of an experiment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Clock:
    """Adds up the time of named parts.

    Attributes:
        seconds: Seconds by part.
    """

    def __init__(self) -> None:
        """Begin without parts."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what is done in a ``with`` statement.

        Args:
            name: Name of the part.
        """
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def round_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds to the millisecond."""
    return {name: round(value, 3) for name, value in seconds.items()}
