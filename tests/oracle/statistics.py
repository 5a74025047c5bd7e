"""Exact statistics of integers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


SQUARES_LIMIT = (1 << 96) - 1
"""Sums of squares from here on are not known to the probe."""


def mean(values: Sequence[int]) -> float:
    """The arithmetic mean, rounded once."""
    return float(Fraction(sum(values), len(values)))


def standard_deviation(values: Sequence[int]) -> float:
    """The population standard deviation (divisor n), from the exact variance."""
    count = len(values)
    return root(Fraction(count * sum(value * value for value in values) - sum(values) ** 2, count * count))


def root(value: Fraction) -> float:
    """The square root, rounded once."""
    # Scaled so that the integer square root has more digits than a double.
    scale = 1 << 160
    return float(Fraction(math.isqrt(value.numerator * scale * scale // value.denominator), scale))


def summary(values: Sequence[int]) -> tuple[int, float, int, float | None] | None:
    """Minimum, mean, maximum and standard deviation; None of no values, and no deviation of huge ones."""
    if not values:
        return None
    known = sum(value * value for value in values) < SQUARES_LIMIT
    return min(values), mean(values), max(values), standard_deviation(values) if known else None
