"""The books of a probe, and what the Core's database holds against them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.core import Core


def total(accounts: list[dict[str, Any]], account: str, reason: str | None = None) -> int:
    """The sum of an account over workers and, unless one is named, reasons."""
    return sum(
        entry["value"] or 0 for entry in accounts if entry["account"] == account and reason in (None, entry["reason"])
    )


def check_books(accounts: list[dict[str, Any]]) -> None:
    """The equations of the ledger at the end of a probe: of the whole, and of each worker where it has its own."""
    _check_workers(accounts)

    def of(*names: str) -> int:
        return sum(total(accounts, name) for name in names)

    metered = of("frames_metered", "frames_undecodable", "frames_waiting", "frames_lost")
    assert of("source_frames_delivered") == of("frames_delivered") == metered
    assert of("flows_opened") == of("flows_active", "flows_exported", "flows_lost")
    assert of("flows_exported") == of("events_exported", "records_building", "records_unbuildable")
    assert of("events_exported") == of("events_sealed", "events_waiting", "events_dropped")
    assert of("batches_sealed") == of("spool_batches_offered")
    assert of("spool_batches_found", "spool_batches_offered") == of(
        "batches_acknowledged", "batches_spooled", "batches_dropped", "batches_rejected", "batches_lost"
    )
    for bug in ("frames_lost", "flows_lost", "worker_panics", "records_unbuildable", "seal_failures"):
        assert of(bug) == 0, bug


def _check_workers(accounts: list[dict[str, Any]]) -> None:
    for worker in {entry["worker"] for entry in accounts if entry["worker"] is not None}:
        own = [entry for entry in accounts if entry["worker"] == worker]

        def of(*names: str, own: list[dict[str, Any]] = own) -> int:
            return sum(total(own, name) for name in names)

        metered = of("frames_metered", "frames_undecodable", "frames_waiting", "frames_lost")
        assert of("frames_delivered") == metered, worker
        assert of("flows_opened") == of("flows_active", "flows_exported", "flows_lost"), worker
        # Files have one source, which is no worker's.
        if any(entry["account"] == "source_frames_delivered" for entry in own):
            assert of("source_frames_delivered") == of("frames_delivered"), worker


def database_flows(core: Core) -> list[dict[str, Any]]:
    """Every flow of the database."""
    flows: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = core.get("/v1/flows", limit=1000, **cursor)
        flows += page["flows"]
        if page["next"] is None:
            return flows
        cursor = {"cursor": page["next"]}
