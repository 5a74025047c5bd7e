"""The books of a probe (design: docs/reference/counters.md), and whether they balance."""

from __future__ import annotations

from typing import Any

# Both sides are the same sum at the end of a probe's run: for the whole probe, and for each worker that keeps both.
EQUATIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("source_frames_delivered",), ("frames_delivered",)),
    (("frames_delivered",), ("frames_metered", "frames_undecodable", "frames_waiting", "frames_lost")),
    (("flows_opened",), ("flows_active", "flows_exported", "flows_lost")),
    (("flows_exported",), ("events_exported", "records_building", "records_unbuildable")),
    (("events_exported",), ("events_sealed", "events_waiting", "events_dropped")),
    (("batches_sealed",), ("spool_batches_offered",)),
    (
        ("spool_batches_found", "spool_batches_offered"),
        ("batches_acknowledged", "batches_spooled", "batches_dropped", "batches_rejected", "batches_lost"),
    ),
)
# Any value but zero is a bug.
BUGS = ("frames_lost", "flows_lost", "worker_panics", "records_unbuildable", "seal_failures")

Accounts = list[dict[str, Any]]


def total(accounts: Accounts, account: str, reason: str | None = None) -> int:
    """The sum of an account over workers and, unless one is named, reasons."""
    return sum(
        entry["value"] or 0 for entry in accounts if entry["account"] == account and reason in (None, entry["reason"])
    )


def _of_workers(accounts: Accounts) -> dict[int, dict[str, int]]:
    """The sums of each worker's own accounts."""
    workers = sorted({entry["worker"] for entry in accounts if entry["worker"] is not None})
    return {worker: totals([entry for entry in accounts if entry["worker"] == worker]) for worker in workers}


def totals(accounts: Accounts) -> dict[str, int]:
    """Every account, summed over workers and reasons."""
    sums: dict[str, int] = {}
    for entry in accounts:
        sums[entry["account"]] = sums.get(entry["account"], 0) + (entry["value"] or 0)
    return sums


def by_reason(accounts: Accounts, account: str) -> dict[str, int]:
    """An account by reason, without zeros."""
    sums: dict[str, int] = {}
    for entry in accounts:
        if entry["account"] == account and entry["value"]:
            sums[entry["reason"]] = sums.get(entry["reason"], 0) + entry["value"]
    return sums


def imbalances(accounts: Accounts) -> list[str]:
    """What does not balance, one line each; empty where everything does."""
    sums = totals(accounts)
    wrong = [line for left, right in EQUATIONS if (line := _difference(sums, left, right))]
    for worker, own in _of_workers(accounts).items():
        wrong += [
            f"worker {worker}: {line}"
            for left, right in EQUATIONS
            if not (own.keys().isdisjoint(left) or own.keys().isdisjoint(right))
            and (line := _difference(own, left, right))
        ]
    wrong += [f"{name} = {sums[name]:,}, a bug" for name in BUGS if sums.get(name)]
    return wrong


def _difference(sums: dict[str, int], left: tuple[str, ...], right: tuple[str, ...]) -> str | None:
    """How the two sides of an equation differ, if they do."""
    one, other = (sum(sums.get(name, 0) for name in names) for names in (left, right))
    return None if one == other else f"{' + '.join(left)} = {one:,}, but {' + '.join(right)} = {other:,}"
