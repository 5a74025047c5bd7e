"""Every answer of the table in docs/formats/transport.md, over real TLS."""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native
from dpi_probe._pki import Authority
from harness.core import COMMAND, Core, wait_for
from harness.sealing import Client, Probe, flow_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def ca_of(pki: Path) -> bytes:
    return x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes()).public_bytes(Encoding.DER)


def manifest_of(batch: bytes) -> bytes:
    return _native.read_claims(batch)["manifest"].encode()


def chain_state(core: Core, chain: str) -> dict:
    answer = core.get("/v1/probes", limit=1000)
    chains = [entry for probe in answer["probes"] for entry in probe["chains"] if entry["chain"] == chain]
    assert len(chains) == 1
    return chains[0]


def test_new_batch_201_with_a_receipt_that_its_probe_accepts(
    lasting_core: Core, probe: Probe, shared_pki: Path
) -> None:
    batch = probe.seal()
    with lasting_core.client() as client:
        answer = client.post("/v1/batches", batch)
    assert (answer.code, answer.body["status"]) == (201, "ARCHIVED")
    receipt = _native.verify_receipt(answer.body["receipt"], ca_of(shared_pki), int(time.time()))
    assert receipt["manifest"] == _native.read_claims(batch)["manifest_digest"]
    named = (receipt["iss"], receipt["probe"], receipt["chain"], receipt["seq"], receipt["status"])
    assert named == ("core", "sensor", probe.chain, 0, "archived")


def test_replay_200_with_the_same_receipt(lasting_core: Core, probe: Probe) -> None:
    batch = probe.seal()
    with lasting_core.client() as client:
        first = client.post("/v1/batches", batch)
        again = client.post("/v1/batches", batch)
    assert (first.code, again.code) == (201, 200)
    assert again.body["receipt"] == first.body["receipt"]
    assert chain_state(lasting_core, probe.chain)["archived"] == 1


def test_suffixed_probe_id_is_its_own(lasting_core: Core, shared_pki: Path) -> None:
    probe = Probe("sensor", shared_pki, suffix="/eth0")
    with lasting_core.client() as client:
        assert client.post("/v1/batches", probe.seal()).claims["probe"] == "sensor/eth0"


def test_fork_409_is_kept_as_evidence_once(lasting_core: Core, probe: Probe) -> None:
    batch = probe.seal()
    other = Probe("sensor", probe.pki, chain=probe.chain).seal(flow_table(2))
    forks = lasting_core.metric("dpi_core_forks_total")
    with lasting_core.client() as client:
        assert client.post("/v1/batches", batch).code == 201
        for _ in range(2):
            answer = client.post("/v1/batches", other)
            assert (answer.code, answer.body["status"], answer.body["error"]) == (409, "FORK", "fork")
        assert client.post("/v1/batches", batch).code == 200
    assert lasting_core.metric("dpi_core_forks_total") == forks + 2
    state = chain_state(lasting_core, probe.chain)
    assert (state["archived"], state["forks"]) == (1, 1)


def test_gap_is_accepted_and_shown_until_it_is_filled(lasting_core: Core, probe: Probe) -> None:
    batches = [probe.seal() for _ in range(5)]
    with lasting_core.client() as client:
        for at in (4, 0, 2):
            assert client.post("/v1/batches", batches[at]).code == 201
        state = chain_state(lasting_core, probe.chain)
        assert (state["missing"], state["gaps"], state["head"]["seq"]) == (2, [[1, 1], [3, 3]], 4)
        for at in (1, 3):
            assert client.post("/v1/batches", batches[at]).code == 201
    state = chain_state(lasting_core, probe.chain)
    assert (state["missing"], state["broken_links"], state.get("gaps")) == (0, 0, None)
    assert state["head"]["manifest"] == probe.prev


def test_link_that_does_not_hold_is_shown(lasting_core: Core, probe: Probe) -> None:
    first = probe.seal()
    elsewhere = _native.read_claims(Probe("sensor", probe.pki).seal(flow_table(1)))["manifest_digest"]
    second = probe.seal(prev=elsewhere)
    with lasting_core.client() as client:
        assert [client.post("/v1/batches", batch).code for batch in (second, first)] == [201, 201]
    assert chain_state(lasting_core, probe.chain)["broken_links"] == 1


def test_new_chain_names_the_head_of_the_one_before(lasting_core: Core, shared_pki: Path) -> None:
    before = Probe("sensor", shared_pki)
    batches = [before.seal() for _ in range(2)]
    unsent = before.seal()
    names = {}
    with lasting_core.client() as client:
        for batch in batches:
            client.post("/v1/batches", batch)
        for state, of, seq in (("whole", batches[1], 1), ("rolled_back", batches[0], 0), ("tail_missing", unsent, 2)):
            after = Probe("sensor", shared_pki, prev=_native.read_claims(of)["manifest_digest"])
            assert client.post("/v1/batches", after.seal(prev_chain=before.chain, prev_seq=seq)).code == 201
            names[after.chain] = state
    for chain, state in names.items():
        assert chain_state(lasting_core, chain)["previous"]["state"] == state


def test_manifest_of_a_dropped_batch_then_the_batch_after_all(lasting_core: Core, probe: Probe) -> None:
    batch = probe.seal()
    headers = {"Content-Type": "application/jose"}
    with lasting_core.client() as client:
        first = client.post("/v1/manifests", manifest_of(batch), headers=headers)
        assert (first.code, first.claims["status"]) == (201, "manifest_only")
        assert client.post("/v1/manifests", manifest_of(batch)).body["receipt"] == first.body["receipt"]
        assert chain_state(lasting_core, probe.chain)["manifest_only"] == 1
        whole = client.post("/v1/batches", batch)
        assert (whole.code, whole.claims["status"]) == (201, "archived")
        late = client.post("/v1/manifests", manifest_of(batch))
        assert (late.code, late.claims["status"]) == (200, "archived")
    state = chain_state(lasting_core, probe.chain)
    assert (state["manifest_only"], state["archived"], state["missing"]) == (0, 1, 0)


def test_fork_by_manifest_409(lasting_core: Core, probe: Probe) -> None:
    other = Probe("sensor", probe.pki, chain=probe.chain).seal(flow_table(2))
    with lasting_core.client() as client:
        assert client.post("/v1/batches", probe.seal()).code == 201
        assert client.post("/v1/manifests", manifest_of(other)).code == 409


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/manifests"])
@pytest.mark.parametrize("body", [b"{}", b"\x00" * 64, b"\xff\xff\xff\xff" + b"A" * 200, b"eyJ.eyJ.AAAA", "ä".encode()])
def test_malformed_400(lasting_core: Core, path: str, body: bytes) -> None:
    with lasting_core.client() as client:
        answer = client.post(path, body)
    assert (answer.code, answer.body["status"], answer.body["error"]) == (400, "REJECTED", "malformed")
    assert answer.body["detail"]


def test_a_batch_whose_copy_cannot_be_opened_is_not_archived_twice(
    make_core: Callable[..., Core], probe: Probe
) -> None:
    core = make_core()
    batch = probe.seal()
    with core.client() as client:
        first = client.post("/v1/batches", batch)
        assert first.code == 201
        core.indexed()
        (segment,) = (core.data / "archive").glob("segment-*")
        aside = segment.rename(segment.with_suffix(".aside"))
        # Every open of it fails, as without descriptors; the Core has it open for writing.
        segment.symlink_to(segment.name)
        answer = client.post("/v1/batches", batch)
        assert (answer.code, answer.body["error"]) == (503, "archive"), answer
        aside.rename(segment)
        again = client.post("/v1/batches", batch)
    assert (again.code, again.body["receipt"]) == (200, first.body["receipt"])
    assert core.get("/v1/health")["archive"]["entries"] == 1


@pytest.mark.parametrize("seq", [1 << 53, (1 << 63) - 1, (1 << 64) - 1])
def test_a_position_that_nobody_counts_to_400_and_holds_up_nothing(lasting_core: Core, probe: Probe, seq: int) -> None:
    batch = probe.seal(seq=seq, prev="A" * 43)
    with lasting_core.client() as client:
        for path, body in (("/v1/batches", batch), ("/v1/manifests", manifest_of(batch))):
            answer = client.post(path, body)
            assert (answer.code, answer.body["error"]) == (400, "malformed")
        assert client.post("/v1/batches", Probe("sensor", probe.pki).seal()).code == 201


def test_empty_400(lasting_core: Core) -> None:
    with lasting_core.client() as client:
        assert client.post("/v1/batches", b"").body["error"] == "empty"


def test_length_missing_400(lasting_core: Core) -> None:
    with lasting_core.client() as client:
        headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
        answer = client.post("/v1/batches", b"3\r\nabc\r\n0\r\n\r\n", headers=headers)
    assert (answer.code, answer.body["error"]) == (400, "no_length")


def test_too_large_413_before_it_is_read(lasting_core: Core) -> None:
    with lasting_core.client() as client:
        # Nothing of the body is sent: the answer comes on the header alone.
        answer = client.post("/v1/batches", b"", headers={"Content-Length": str((900 << 10) + 1)})
    assert (answer.code, answer.body["status"], answer.body["error"]) == (413, "REJECTED", "too_large")
    with lasting_core.client() as client:
        assert client.post("/v1/manifests", b"", headers={"Content-Length": "4097"}).code == 413


def test_flipped_bit_422(lasting_core: Core, probe: Probe) -> None:
    batch = bytearray(probe.seal())
    batch[-100] ^= 1
    with lasting_core.client() as client:
        answer = client.post("/v1/batches", bytes(batch))
    assert (answer.code, answer.body["status"], answer.body["error"]) == (422, "REJECTED", "body")


def test_forged_signature_422(lasting_core: Core, probe: Probe) -> None:
    batch = probe.seal()
    manifest = manifest_of(batch)
    head, claims, signature = manifest.split(b".")
    forged = b".".join((head, claims, signature[:10] + (b"A" if signature[10:11] != b"A" else b"B") + signature[11:]))
    with lasting_core.client() as client:
        assert client.post("/v1/batches", batch.replace(manifest, forged)).body["error"] == "signature"
        answer = client.post("/v1/manifests", forged)
    assert (answer.code, answer.body["error"]) == (422, "signature")


def test_clock_ahead_422(lasting_core: Core, probe: Probe) -> None:
    with lasting_core.client() as client:
        assert client.post("/v1/batches", probe.seal(iat=int(time.time()) + 200)).code == 201
        answer = client.post("/v1/batches", probe.seal(iat=int(time.time()) + 3600))
    assert (answer.code, answer.body["error"]) == (422, "future")


def test_age_never_rejects(lasting_core: Core, probe: Probe) -> None:
    # As far back as the certificate's validity lets a probe seal.
    with lasting_core.client() as client:
        assert client.post("/v1/batches", probe.seal(iat=int(time.time()) - 3000)).code == 201


def test_issuer_of_another_probe_403(lasting_core: Core, shared_pki: Path) -> None:
    other = Probe("other", shared_pki)
    with lasting_core.client("sensor") as client:
        answer = client.post("/v1/batches", other.seal())
    assert (answer.code, answer.body["status"], answer.body["error"]) == (403, "REFUSED", "not_yours")


def test_server_certificate_ends_in_the_handshake(lasting_core: Core) -> None:
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        Client(lasting_core.port, lasting_core.pki, lasting_core.pki / "core.pem") as client,
    ):
        client.post("/v1/batches", b"x")


def test_no_certificate_ends_in_the_handshake(lasting_core: Core) -> None:
    failed = lasting_core.metric("dpi_core_tls_handshakes_failed_total")
    with pytest.raises((ssl.SSLError, ConnectionError)), Client(lasting_core.port, lasting_core.pki, None) as client:
        client.post("/v1/batches", b"x")
    wait_for(
        lambda: lasting_core.metric("dpi_core_tls_handshakes_failed_total") == failed + 1, "the failure to be counted"
    )


def test_certificate_of_another_authority_ends_in_the_handshake(lasting_core: Core, tmp_path: Path) -> None:
    Authority.init(tmp_path / "foreign", probes=["sensor"])
    failed = lasting_core.metric("dpi_core_tls_handshakes_failed_total")
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        Client(lasting_core.port, lasting_core.pki, tmp_path / "foreign" / "probes" / "sensor.pem") as client,
    ):
        client.post("/v1/batches", b"x")
    wait_for(
        lambda: lasting_core.metric("dpi_core_tls_handshakes_failed_total") == failed + 1, "the failure to be counted"
    )


def test_revocation_403_reaches_open_connections(make_core: Callable[..., Core], own_pki: Path) -> None:
    core = make_core(pki=own_pki)
    probe = Probe("sensor", own_pki)
    first = probe.seal()
    with core.client() as client:
        assert client.post("/v1/batches", first).code == 201
        Authority(own_pki).revoke("sensor")
        answer = client.post("/v1/batches", probe.seal())
        assert (answer.code, answer.body["status"], answer.body["error"]) == (403, "REFUSED", "revoked")
    # A new certificate of the same probe is trusted; what the revoked key signed is not, whatever its iat says.
    Authority(own_pki).issue_probe("sensor")
    with core.client() as client:
        answer = client.post("/v1/batches", probe.seal())
        assert (answer.code, answer.body["error"]) == (422, "revoked_certificate")
        probe.load()
        assert client.post("/v1/batches", probe.seal()).code == 201


def test_backlog_survives_a_key_rotation(make_core: Callable[..., Core], own_pki: Path) -> None:
    core = make_core(pki=own_pki)
    probe = Probe("sensor", own_pki)
    with core.client() as client:
        assert client.post("/v1/batches", probe.seal()).code == 201
    backlog = [probe.seal(), probe.seal()]
    Authority(own_pki).issue_probe("sensor", renew=True)
    with core.client() as client:
        assert client.post("/v1/batches", backlog[0]).code == 201
        Authority(own_pki).revoke("sensor", earlier_only=True)
        assert client.post("/v1/batches", backlog[1]).code == 422
        probe.load()
        assert client.post("/v1/batches", probe.seal()).code == 201


def verified(core: Core) -> subprocess.CompletedProcess[str]:
    """What `dpi-probe verify` says of the Core's archive, by the certificates that lie there."""
    command = [COMMAND, "verify", "--ca", core.pki / "ca.pem", core.data]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_certificate_that_signed_is_kept_where_it_is_not_that_of_the_connection(
    make_core: Callable[..., Core], own_pki: Path
) -> None:
    probe = Probe("sensor", own_pki)
    backlog = probe.seal()
    Authority(own_pki).issue_probe("sensor", renew=True)
    core = make_core(pki=own_pki)
    kept = core.data / "archive" / "certificates"
    with core.client() as client:
        aside = kept.rename(kept.with_name("aside"))
        answer = client.post("/v1/batches", backlog)
        assert (answer.code, answer.body["error"]) == (503, "archive"), answer
        assert "No such file" in answer.body["detail"]
        aside.rename(kept)
        assert client.post("/v1/batches", backlog).code == 201
    assert len(list(kept.glob("*.pem"))) == 2
    done = verified(core)
    assert done.returncode == 0, done.stdout
    assert core.stop() == 0
    # What is damaged there is written again.
    path = kept / f"{hashlib.sha256(probe.der).hexdigest()}.pem"
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    done = verified(core)
    assert (done.returncode, f"{path}: " in done.stdout) == (4, True), done.stdout
    core.start()
    with core.client() as client:
        assert client.post("/v1/batches", backlog).code == 200
    assert path.read_bytes() == whole


def test_certificates_that_are_made_while_the_core_runs_are_found(
    make_core: Callable[..., Core], own_pki: Path
) -> None:
    core = make_core(pki=own_pki)
    authority = Authority(own_pki)
    authority.issue_probe("third")
    probe = Probe("third", own_pki)
    batches = [probe.seal(), probe.seal()]
    authority.issue_probe("third", renew=True)
    (earlier,) = (own_pki / "earlier").glob("third.*.pem")
    aside = earlier.rename(own_pki / "aside")
    with core.client("third") as client:
        answer = client.post("/v1/batches", batches[0])
        # The probe keeps what it sealed and asks again.
        assert (answer.code, answer.body["status"], answer.body["error"]) == (403, "REFUSED", "unknown_certificate")
        aside.rename(earlier)
        # They are looked for once a second.
        wait_for(lambda: client.post("/v1/batches", batches[0]).code == 201, "the certificate to be found")
        assert client.post("/v1/batches", batches[1]).code == 201


def test_what_was_sealed_after_the_certificate_expired_is_archived_counted_and_noted(
    make_core: Callable[..., Core], own_pki: Path, tmp_path: Path
) -> None:
    now = int(time.time())
    authority = Authority(own_pki)
    # It became valid an hour ago, and expired half an hour ago.
    authority.issue_probe("third", days=-1 / 48)
    probe = Probe("third", own_pki)
    within, outside = probe.seal(iat=now - 2400), probe.restate(probe.seal(iat=now - 2400), now)
    authority.issue_probe("third")
    core = make_core(pki=own_pki)
    with core.client("third") as client:
        assert client.post("/v1/batches", within).code == 201
        assert core.metric("dpi_core_outside_validity_total") == 0
        assert [client.post("/v1/batches", outside).code for _ in range(2)] == [201, 200]
    assert core.metric("dpi_core_outside_validity_total") == 1
    assert core.log.count("outside the validity of its certificate") == 1
    done = verified(core)
    assert done.returncode == 0, done.stdout
    (note,) = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert "batch 1 of" in note
    assert "outside the validity" in note


def test_damaged_revocation_list_leaves_the_one_before_in_force(make_core: Callable[..., Core], own_pki: Path) -> None:
    core = make_core(pki=own_pki)
    probe = Probe("sensor", own_pki)
    Authority(own_pki).revoke("other")
    with core.client("other") as client:
        assert client.post("/v1/batches", b"x").code == 403
    (own_pki / "crl.pem").write_text("nonsense")
    with core.client("other") as client:
        assert client.post("/v1/batches", b"x").code == 403
    with core.client() as client:
        assert client.post("/v1/batches", probe.seal()).code == 201
    assert core.metric("dpi_core_revocation_list_stale") == 1


def test_overload_429_and_slow_body_503(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core(CORE_MAX_REQUESTS_IN_FLIGHT="1", CORE_BODY_TIMEOUT_SECONDS="2")
    batch = probe.seal()
    with core.client() as slow, core.client() as quick:
        slow.socket.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        wait_for(lambda: core.metric("dpi_core_requests_in_flight") == 1, "the slow request")
        answer = quick.post("/v1/batches", batch)
        assert (answer.code, answer.body["status"]) == (429, "BACKPRESSURE")
        assert answer.headers["x-backpressure"] == "true"
        assert int(answer.headers["retry-after"]) >= 1
        # The link is to blame, not the batch: the probe tries again.
        answer = slow.answer()
        assert (answer.code, answer.body["status"], answer.body["error"]) == (503, "ERROR", "slow")
        assert int(answer.headers["retry-after"]) >= 1
    with core.client() as client:
        assert client.post("/v1/batches", batch).code == 201


def test_a_slow_link_has_its_time_and_one_that_trickles_has_not(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core(CORE_BODY_TIMEOUT_SECONDS="3")
    batch = probe.seal(flow_table(2000))
    assert len(batch) > 20_000, "at 4 KiB a second it has 6 seconds"
    with core.client() as client:
        head = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: {len(batch)}\r\n\r\n"
        client.socket.sendall(head.encode())
        for at in range(0, len(batch), len(batch) // 4 + 1):
            # Longer in all than it may stand still.
            time.sleep(1.2)
            client.socket.sendall(batch[at : at + len(batch) // 4 + 1])
        assert client.answer().code == 201
    with core.client() as client:
        client.socket.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        sent = 0
        while not select.select([client.socket], [], [], 0.1)[0]:
            client.socket.sendall(b"x")
            sent += 1
            assert sent < 200, "it holds its place for ever"
        answer = client.answer()
    assert (answer.code, answer.body["error"]) == (503, "slow")
    came = re.search(r"(\d+) of its 1000 bytes", answer.body["detail"])
    assert came is not None
    assert 0 < int(came[1]) <= sent


def test_slow_bodies_of_one_probe_leave_places_to_others(make_core: Callable[..., Core], shared_pki: Path) -> None:
    core = make_core(CORE_MAX_REQUESTS_IN_FLIGHT="6")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            slow = stack.enter_context(core.client())
            slow.socket.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        wait_for(lambda: core.metric("dpi_core_requests_in_flight") == 4, "the slow requests")
        answer = stack.enter_context(core.client()).post("/v1/batches", Probe("sensor", shared_pki).seal())
        assert (answer.code, answer.body["status"], answer.body["error"]) == (429, "BACKPRESSURE", "share")
        other = stack.enter_context(core.client("other"))
        assert other.post("/v1/batches", Probe("other", shared_pki).seal()).code == 201
    # The places come back.
    wait_for(lambda: core.metric("dpi_core_requests_in_flight") == 0, "the slow requests to end")
    with core.client() as client:
        assert client.post("/v1/batches", Probe("sensor", shared_pki).seal()).code == 201


def test_body_that_breaks_off_is_no_bug_of_the_core(lasting_core: Core, probe: Probe) -> None:
    batch = probe.seal()
    before = lasting_core.metric("dpi_core_answers_total")
    with lasting_core.client() as client:
        head = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: {len(batch)}\r\n\r\n"
        client.socket.sendall(head.encode() + batch[:-1])
        wait_for(lambda: lasting_core.metric("dpi_core_requests_in_flight") == 1, "the request")
    wait_for(lambda: lasting_core.metric("dpi_core_answers_total") == before + 1, "the end of the request")
    assert lasting_core.metric('dpi_core_answers_total{code="503",error="cut",request="batches"}') == 1
    assert "Traceback" not in lasting_core.log
    with lasting_core.client() as client:
        assert client.post("/v1/batches", batch).code == 201


def test_connection_stays_usable_after_a_refusal(lasting_core: Core, probe: Probe) -> None:
    with lasting_core.client() as client:
        assert client.post("/v1/batches", b"{}").code == 400
        assert client.post("/v1/batches", probe.seal()).code == 201
