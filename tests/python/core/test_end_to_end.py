"""Real TLS, real batches, a Core in processes of its own."""

from __future__ import annotations

import time
from pathlib import Path

from conftest import Core, Probe
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native


def ca_of(pki: Path) -> bytes:
    return x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes()).public_bytes(Encoding.DER)


def test_batch_is_archived_receipted_and_indexed(core: Core, probe: Probe, shared_pki: Path) -> None:
    batch = probe.seal()
    with core.client() as client:
        answer = client.post("/v1/batches", batch)
    assert (answer.code, answer.body["status"]) == (201, "ARCHIVED")
    receipt = _native.verify_receipt(answer.body["receipt"], ca_of(shared_pki), int(time.time()))
    assert receipt["manifest"] == _native.read_claims(batch)["manifest_digest"]
    assert (receipt["iss"], receipt["probe"], receipt["chain"], receipt["seq"], receipt["status"]) == (
        "core", "sensor", probe.chain, 0, "archived",
    )  # fmt: skip
    core.indexed()
    code, page = core.get("/v1/flows")
    assert code == 200
    assert page["next"] is None
    assert [flow["row"] for flow in page["flows"]] == [2, 1, 0]
    flow = page["flows"][1]
    assert flow["src_ip"] == "192.0.2.1"
    assert flow["dst_ip"] == "2001:db8::1"
    assert flow["start_time"] == "2025-10-09T08:53:20.000000001Z"
    assert flow["src_mac"] == "02:00:5e:00:53:ff"
    assert flow["flow_id"] == 2**63 + 1
    assert flow["vlan_ids"] == [1, 7]
