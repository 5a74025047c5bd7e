"""Distributions in buckets: differences and quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Distribution:
    """Durations in seconds: how many lie in each bucket, by the bucket's upper bound."""

    counts: dict[float, int] = field(default_factory=dict)
    total: float = 0.0

    @classmethod
    def of_offer(cls, offer: dict[str, Any]) -> Self:
        """What `_native.Offer` says: from the time at which a frame was due."""
        return cls(
            {bound / 1e9: count for bound, count in offer["latency_buckets"]},
            offer["latency_sum_ns"] / 1e9,
        )

    @classmethod
    def of_metric(cls, metrics: list[dict[str, Any]], name: str) -> Self:
        """A histogram of `Probe.metrics()`, over all its labels."""
        sum_of = cls()
        for family in metrics:
            if family["name"] != name:
                continue
            for _, (buckets, seconds) in family["samples"]:
                below = 0
                for bound, cumulative in buckets:
                    sum_of.counts[bound] = sum_of.counts.get(bound, 0) + cumulative - below
                    below = cumulative
                sum_of.total += seconds
        return sum_of

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls({float(bound): count for bound, count in data["counts"]}, data["total"])

    def to_json(self) -> dict[str, Any]:
        """As JSON: the bound of the last bucket is a text, because JSON has no infinity."""
        return {
            "counts": [[str(bound) if math.isinf(bound) else bound, n] for bound, n in sorted(self.counts.items())],
            "total": self.total,
        }

    def since(self, before: Distribution) -> Distribution:
        """What was added after `before`."""
        added = {bound: count - before.counts.get(bound, 0) for bound, count in self.counts.items()}
        return Distribution({bound: count for bound, count in added.items() if count}, self.total - before.total)

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float | None:
        """The mean; None where there is nothing."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """An upper bound of the quantile: the bound of the bucket in which it lies; None where there is nothing."""
        wanted = share * self.count
        seen = 0
        for bound, count in sorted(self.counts.items()):
            seen += count
            if count and seen >= wanted:
                return bound
        return None
