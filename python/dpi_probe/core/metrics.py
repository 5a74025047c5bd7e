"""What the Core counts, as Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics


class Metrics:
    """All counters and gauges of one Core, in a registry of their own."""

    def __init__(self) -> None:
        """Make every metric, so that each shows from the start."""
        # The moment at which a counter was made, beside each counter, doubles the page and tells nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.answers = Counter(
            "dpi_core_answers", "Answers to probes.", ["request", "code", "error"], registry=registry
        )
        self.received_bytes = Counter(
            "dpi_core_received_bytes", "Bytes of batches and manifests that were read.", registry=registry
        )
        self.archived = Counter(
            "dpi_core_archived", "Batches archived since start.", ["kind", "record"], registry=registry
        )
        self.archived_rows = Counter("dpi_core_archived_rows", "Records in them.", ["kind"], registry=registry)
        self.duplicates = Counter("dpi_core_duplicates", "Batches that were archived before.", registry=registry)
        self.forks = Counter(
            "dpi_core_forks", "Refused: another manifest is archived under the key. An alarm.", registry=registry
        )
        self.outside_validity = Counter(
            "dpi_core_outside_validity", "Archived, but sealed when the probe's certificate was not valid.",
            registry=registry,
        )  # fmt: skip
        self.broken_links = Gauge(
            "dpi_core_broken_links", "Manifests that do not name the one before them. An alarm.", registry=registry
        )
        self.chains = Gauge("dpi_core_chains", "Chains that are archived.", registry=registry)
        self.missing_batches = Gauge(
            "dpi_core_missing_batches", "Positions below the heads of chains of which nothing is archived.",
            registry=registry,
        )  # fmt: skip
        self.dropped_batches = Gauge(
            "dpi_core_manifest_only_batches", "Batches that probes dropped, by their manifests.", registry=registry
        )
        self.handshakes_failed = Counter(
            "dpi_core_tls_handshakes_failed", "TLS handshakes that failed.", ["reason"], registry=registry
        )
        self.connections = Gauge("dpi_core_connections", "Open connections of probes.", registry=registry)
        self.connections_refused = Counter(
            "dpi_core_connections_refused",
            "Connections that were closed because their certificate (share) or all together (limit) have too many, or "
            "because too many are in their handshake (handshake); tries to accept one that failed (accept).",
            ["reason"], registry=registry,
        )  # fmt: skip
        self.commit_seconds = Histogram(
            "dpi_core_commit_seconds", "From the first arrival of a group to its fsync and catalog entry.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5), registry=registry,
        )  # fmt: skip
        self.commit_batches = Histogram(
            "dpi_core_commit_batches", "Batches in one group.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.verify_seconds = Histogram(
            "dpi_core_verify_seconds", "Time to verify a batch.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1), registry=registry,
        )  # fmt: skip
        self.commit_failures = Counter(
            "dpi_core_commit_failures", "Groups that could not be archived; probes were answered 503.",
            registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("dpi_core_requests_in_flight", "Requests being handled.", registry=registry)
        self.in_flight_bytes = Gauge("dpi_core_in_flight_bytes", "Bytes of their bodies.", registry=registry)
        self.archive_damage = Gauge(
            "dpi_core_archive_damage", "Damaged places found in the archive at start. An alarm.", registry=registry
        )
        self.archive_lost = Gauge(
            "dpi_core_archive_lost", "1 if the archive lacks what was acknowledged. An alarm.", registry=registry
        )
        self.revocations_stale = Gauge(
            "dpi_core_revocation_list_stale", "1 while the revocation list on disk cannot be used.", registry=registry
        )
        self.index_lag_batches = Gauge(
            "dpi_core_index_lag_batches", "Archived entries that are not in the database yet.", registry=registry
        )
        self.index_lag_seconds = Gauge("dpi_core_index_lag_seconds", "Age of the oldest of them.", registry=registry)
        self.unindexed = Gauge(
            "dpi_core_unindexed_batches",
            "Archived entries whose records could not become rows of the database. An alarm.", registry=registry,
        )  # fmt: skip
        self.index_rows = Counter("dpi_core_index_rows", "Rows put into the database.", registry=registry)
        self.index_failures = Counter(
            "dpi_core_index_failures", "Inserts that failed and were settled and tried again.", registry=registry
        )
        self.database_up = Gauge("dpi_core_database_up", "1 while the database is open.", registry=registry)
        self.database_restarts = Counter(
            "dpi_core_database_restarts", "Times the database process ended and was started again.", registry=registry
        )
