"""What the notebooks say to an answer of a learner."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real


def verdict(answer: object, right: object, *, hint: str, tolerance: float = 0.01) -> str:
    """Say whether an answer is right, and what to look at where it is not.

    Args:
        answer: What the learner wrote; None where nothing was written yet.
        right: The right answer. Numbers may differ by ``tolerance``, in lists and sets the order
            plays no part.
        hint: Advice that follows a wrong answer.
        tolerance: Largest difference between numbers.
    """
    if answer is None:
        return "No answer yet."
    return "Right." if _alike(answer, right, tolerance) else f"Not yet. {hint}"


def _alike(answer: object, right: object, tolerance: float) -> bool:
    if isinstance(right, str) or isinstance(answer, str):
        return str(answer).strip().lower() == str(right).strip().lower()
    if isinstance(right, Collection):
        if not isinstance(answer, Collection) or len(answer) != len(right):
            return False
        pairs = zip(sorted(answer, key=_order), sorted(right, key=_order), strict=True)
        return all(_alike(one, other, tolerance) for one, other in pairs)
    if isinstance(right, Real) and isinstance(answer, Real):
        return math.isclose(float(answer), float(right), rel_tol=0, abs_tol=tolerance)
    return answer == right


def _order(value: object) -> tuple[float, str]:
    """Numbers by size, all else by its text."""
    return (float(value), "") if isinstance(value, Real) else (math.inf, str(value))
