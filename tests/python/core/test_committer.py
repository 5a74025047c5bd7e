"""What becomes of arrivals that are committed together."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native
from dpi_probe._pki import Authority, load_certificate
from dpi_probe.core.catalog import CatalogError
from dpi_probe.core.committer import Arrival, CommitError, Committer
from dpi_probe.core.jose import b64url, unb64url
from dpi_probe.core.manifest import manifest_of
from dpi_probe.core.metrics import Metrics
from dpi_probe.core.receipt import CoreSigner

if TYPE_CHECKING:
    from pathlib import Path

    from dpi_probe.core.archive import Durable
    from harness.sealing import Probe


def committer_of(
    directory: Path, pki: Path, told: list[Durable], *, delay_s: float = 0.0, metrics: Metrics | None = None
) -> Committer:
    """One on a data directory, which tells how far the archive is on disk."""
    signer = CoreSigner(pki / "core.pem", pki / "core.key")
    return Committer(
        directory, signer, metrics or Metrics(), certificates={}, segment_max_bytes=1 << 20, delay_s=delay_s,
        on_durable=told.append,
    )  # fmt: skip


def arrival(batch: bytes) -> Arrival:
    return Arrival(manifest_of(batch), batch, whole=True)


def test_a_copy_that_cannot_be_read_now_is_no_matter_of_the_others(
    tmp_path: Path, shared_pki: Path, probe: Probe
) -> None:
    # All that is handed over before the start is one group.
    committer = committer_of(tmp_path, shared_pki, [], delay_s=1.0)
    again, fresh = arrival(probe.seal()), arrival(probe.seal())
    first = committer.submit(again)
    committer.start()
    assert first.result(30).status == "archived"
    (segment,) = (tmp_path / "archive").glob("segment-*")
    aside = segment.rename(segment.with_suffix(".aside"))
    # Every open of it fails, as without descriptors; for writing it is open.
    segment.symlink_to(segment.name)
    outcomes = [committer.submit(one) for one in (again, fresh)]
    with pytest.raises(CommitError, match="segment"):
        outcomes[0].result(30)
    assert outcomes[1].result(30).status == "archived"
    assert committer.failed is None
    aside.rename(segment)
    assert committer.submit(again).result(30) == committer.submit(again).result(30)
    assert committer.submit(again).result(30).status == "duplicate"
    committer.stop()


def test_a_duplicate_gets_a_receipt_of_the_certificate_that_the_core_has_now(
    tmp_path: Path, own_pki: Path, probe: Probe
) -> None:
    dropped = manifest_of(probe.seal())
    batches = [arrival(probe.seal()), Arrival(dropped, dropped.token.encode(), whole=False)]
    committer = committer_of(tmp_path, own_pki, [])
    committer.start()
    first = [committer.submit(one).result(30).receipt for one in batches]
    committer.stop()
    Authority(own_pki).issue_core(renew=True)
    committer = committer_of(tmp_path, own_pki, [])
    committer.start()
    again = [committer.submit(one).result(30) for one in batches]
    committer.stop()
    assert [outcome.status for outcome in again] == ["duplicate", "duplicate"]
    ca = load_certificate(own_pki / "ca.pem", "CA").public_bytes(Encoding.DER)
    now = load_certificate(own_pki / "core.pem", "Core").public_bytes(Encoding.DER)
    for before, outcome in zip(first, again, strict=True):
        header = json.loads(unb64url(outcome.receipt.partition(".")[0]))
        assert [base64.b64decode(certificate) for certificate in header["x5c"]] == [now]
        read = [_native.verify_receipt(receipt, ca, int(time.time())) for receipt in (before, outcome.receipt)]
        assert read[0] == read[1], "it says the same"


def test_a_record_of_another_batch_in_its_place_is_no_copy(tmp_path: Path, shared_pki: Path, probe: Probe) -> None:
    committer = committer_of(tmp_path, shared_pki, [])
    committer.start()
    one, other = arrival(probe.seal()), arrival(probe.seal())
    assert committer.submit(one).result(30).status == "archived"
    committer.stop()
    # As if another archive had been put in the place of this one.
    (tmp_path / "archive").rename(tmp_path / "first")
    (tmp_path / "catalog.sqlite").rename(tmp_path / "kept")
    committer = committer_of(tmp_path, shared_pki, [])
    committer.start()
    assert committer.submit(other).result(30).status == "archived"
    committer.stop()
    (tmp_path / "kept").rename(tmp_path / "catalog.sqlite")
    committer = committer_of(tmp_path, shared_pki, [])
    committer.start()
    outcome = committer.submit(one).result(30)
    committer.stop()
    assert outcome.status == "archived"
    claims = json.loads(unb64url(outcome.receipt.split(".")[1]))
    assert claims["manifest"] == b64url(one.manifest.digest)


def test_what_the_catalog_did_not_take_is_counted_and_indexed_when_it_does(
    tmp_path: Path, shared_pki: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Durable] = []
    metrics = Metrics()
    committer = committer_of(tmp_path, shared_pki, told, metrics=metrics)
    committer.start()
    batch = arrival(probe.seal())

    def full(*_: object) -> None:
        raise CatalogError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(committer._catalog, "add", full)
        with pytest.raises(CommitError, match="disk full"):
            committer.submit(batch).result(30)
    assert told == []
    # It is on disk, and was never told to be: the probe sends it again.
    assert committer.submit(batch).result(30).status == "duplicate"
    committer.stop()
    assert [durable.position for durable in told] == [1]
    archived = metrics.archived.labels("flow", "batch")
    assert (archived._value.get(), metrics.archived_rows.labels("flow")._value.get()) == (1, batch.manifest.rows)
