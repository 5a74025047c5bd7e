"""The books of a probe (design: docs/reference/counters.md), and whether they balance."""

from __future__ import annotations

from typing import Any

# The first account is the sum of the others, at the end of a probe's run.
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
    wrong = []
    for left, right in EQUATIONS:
        one, other = (sum(sums.get(name, 0) for name in names) for names in (left, right))
        if one != other:
            wrong.append(f"{' + '.join(left)} = {one:,}, but {' + '.join(right)} = {other:,}")
    wrong += [f"{name} = {sums[name]:,}, a bug" for name in BUGS if sums.get(name)]
    return wrong
