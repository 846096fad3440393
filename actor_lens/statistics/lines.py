"""A straight line through points, with 95 % intervals of all that is read off it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from actor_lens.statistics.intervals import UNKNOWN, Estimate, bootstrap_interval

_FEWEST = 3


class Line:
    """Least squares of y on x.

    Attributes:
        correlation: Pearson's r.
        slope: Change of y with x.
        intercept: y where x is 0.
        root: x where the line is 0.
    """

    def __init__(
        self,
        x: Float[np.ndarray, " point"],
        y: Float[np.ndarray, " point"],
        *,
        rounds: int,
        rng: np.random.Generator,
    ) -> None:
        """Fit the line, and again to resamples of the points.

        With 60 points the intervals hold the truth in some 92 of 100 cases, not 95. With fewer than
        three points, or where x or y is the same for all, nothing is known.

        Args:
            x: One number a point.
            y: The other.
            rounds: Number of resamples.
            rng: Draws them.
        """
        n = len(x)
        self.correlation = self.slope = self.intercept = self.root = UNKNOWN
        if n < _FEWEST or not np.ptp(x) or not np.ptp(y):
            return
        drawn = rng.integers(n, size=(rounds, n))
        values, resampled = _moments(x[None], y[None]), _moments(x[drawn], y[drawn])
        self.correlation, self.slope, self.intercept, self.root = (
            Estimate(float(one), *bootstrap_interval(float(one), many[np.isfinite(many)]), n)
            for [one], many in zip(values, resampled, strict=True)
        )


def _moments(
    x: Float[np.ndarray, "round point"], y: Float[np.ndarray, "round point"]
) -> list[Float[np.ndarray, " round"]]:
    """Correlation, slope, intercept and root; not finite where all points have one x or y."""
    mean_x, mean_y = x.mean(-1), y.mean(-1)
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    xx, yy, xy = (dx * dx).sum(-1), (dy * dy).sum(-1), (dx * dy).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = xy / xx
        intercept = mean_y - slope * mean_x
        return [xy / np.sqrt(xx * yy), slope, intercept, -intercept / slope]
