"""`dpi-probe verify` and `prove`: what is wrong is named, wherever it lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dpi_probe import _native
from dpi_probe._verify import verify_paths
from dpi_probe.core.archive import Kind
from dpi_probe.errors import ConfigError
from harness.findings import faults, only

PKI = Path(__file__).parents[2] / "vectors" / "pki"
CHAIN, NEXT = "aa" * 16, "bb" * 16


def test_sound_evidence_holds_in_every_layout(evidence, chain, check, tmp_path):
    following = evidence.seal(2, NEXT, before=chain[-1])
    everything = [*chain, *following]
    entries = [evidence.entry(sealed, position) for position, sealed in enumerate(everything)]
    for path in (
        evidence.spool(tmp_path / "spool", everything, head=following[-1]),
        evidence.archive(tmp_path / "archive", entries),
        evidence.export(tmp_path / "export", everything, heads=[chain[-1], following[-1]]),
    ):
        report = check(path)
        assert faults(report) == []
        assert (report.batches, report.records, report.exit_status) == (12, 60, 0)
        assert [(c.first, c.last, c.batches) for c in report.chains] == [(0, 9, 10), (0, 1, 2)]
    assert report.receipts == 12
    assert report.heads == 2
    assert json.dumps(report.to_dict())


def test_evidence_brings_its_certificates_but_says_so(evidence, chain, tmp_path):
    path = evidence.export(tmp_path / "export", chain, heads=[chain[-1]])
    report = verify_paths([path])
    assert faults(report) == []
    assert "lie with the evidence itself" in report.trusted[0]
    one = next((path / "batches").rglob("*.arrows"))
    assert verify_paths([one]).exit_status == 0
    (path / "ca.pem").write_bytes((PKI / "other-ca.pem").read_bytes())
    assert {name for name, _ in faults(verify_paths([path]))} >= {"certificate", "receipt", "head"}


@pytest.mark.parametrize("layout", ["archive", "export"])
def test_certificates_beside_forged_evidence_do_not_count_when_one_was_given(evidence, tmp_path, layout):
    # Under a second authority, which has a probe of the same name.
    stated = {"iss": "probe-1/eth0", "kind": "flow", "chain": CHAIN, "seq": 0, "iat": 1_790_000_000}
    forged = evidence.one(_one_row(), "other-probe", **stated)
    path = tmp_path / "evidence"
    if layout == "archive":
        evidence.archive(path, [evidence.entry(forged, 0)])
    else:
        evidence.export(path, [forged])
    (path / "ca.pem").write_bytes((PKI / "other-ca.pem").read_bytes())
    (path / "certificates" / "probe.pem").write_bytes((PKI / "other-probe.pem").read_bytes())
    assert verify_paths([path], certificates=[PKI / "other-probe.pem"]).exit_status == 0
    report = verify_paths([path], certificates=[PKI / "probe.pem"])
    only(report, "certificate", "give the probe's certificate with --certificate, or the CA with --ca")
    only(verify_paths([path], ca=PKI / "ca.pem", certificates=[PKI / "probe.pem"]), "certificate", "not accepted")


def test_without_a_certificate_it_says_what_to_do(evidence, chain, tmp_path):
    report = verify_paths([evidence.spool(tmp_path / "spool", chain[:1])])
    only(report, "certificate", "give the probe's certificate with --certificate")


def test_another_ca_is_refused(evidence, chain, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain[:1])
    report = verify_paths([path], ca=PKI / "other-ca.pem", certificates=[PKI / "probe.pem"])
    only(report, "certificate", "CN=probe-1 is not accepted under the CA")


def test_every_kind_of_flipped_bit_in_a_spooled_batch_is_named(evidence, chain, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain)
    file = path / "pending" / f"{chain[4].name}.arrows"
    for bit in range(0, len(chain[4].data) * 8, 997):
        altered = bytearray(chain[4].data)
        altered[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(altered)
        found = faults(check(path))
        assert len(found) == 1, (bit, found)
        assert str(file) in found[0][1]
        assert f"batch 4 of chain {CHAIN}" in found[0][1]


def test_the_altered_record_is_named(evidence, chain, check, random, tmp_path):
    before = random("aaaa-4-2")
    assert chain[4].data.count(before) == 1
    altered = chain[4].data.replace(before, bytes([before[0] ^ 1]) + before[1:])
    entries = [
        evidence.entry(sealed, position, body=altered if position == 4 else None)
        for position, sealed in enumerate(chain)
    ]
    path = evidence.archive(tmp_path / "archive", entries)
    only(check(path), "body", f"batch 4 of chain {CHAIN}", "altered: record 2 of 5")
    # And where the archive's own digest does not fit either.
    segment = next(path.glob("segment-*"))
    data = segment.read_bytes()
    before = random("aaaa-7-3")
    segment.write_bytes(data.replace(before, bytes([before[0] ^ 1]) + before[1:]))
    found = faults(check(path))
    assert [name for name, _ in found] == ["body", "body"]
    assert "altered: record 3 of 5" in found[1][1]


def test_every_kind_of_flipped_bit_in_an_archive_is_found(evidence, chain, check, tmp_path):
    path = evidence.archive(tmp_path / "archive", [evidence.entry(s, position) for position, s in enumerate(chain[:3])])
    segment = next(path.glob("segment-*"))
    data = segment.read_bytes()
    third = data.rindex(b"DPIR")
    for bit in range(0, third * 8, 1999):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << (bit % 8)
        segment.write_bytes(altered)
        assert check(path).exit_status == 4, bit


def test_a_torn_tail_is_no_fault(evidence, chain, check, tmp_path):
    path = evidence.archive(tmp_path / "archive", [evidence.entry(s, position) for position, s in enumerate(chain[:3])])
    segment = next(path.glob("segment-*"))
    segment.write_bytes(segment.read_bytes()[:-100])
    report = check(path)
    assert faults(report) == []
    assert "unfinished record" in str(report.findings[0])


@pytest.mark.parametrize("layout", ["spool", "archive", "export", "plain"])
def test_a_batch_that_is_left_out_is_named(evidence, chain, check, tmp_path, layout):
    rest = [*chain[:6], *chain[7:]]
    if layout == "spool":
        path = evidence.spool(tmp_path / "x", rest)
    elif layout == "archive":
        path = evidence.archive(tmp_path / "x", [evidence.entry(s, position) for position, s in enumerate(rest)])
    elif layout == "export":
        path = evidence.export(tmp_path / "x", rest, heads=[chain[-1]])
    else:
        path = tmp_path / "x"
        path.mkdir()
        for sealed in rest:
            (path / f"{sealed.name}.arrows").write_bytes(sealed.data)
    only(check(path), "gap", f"gap: batch 6 of chain {CHAIN} (probe-1/eth0) is left out")


def test_records_cut_out_of_an_archive_show_by_their_positions(evidence, chain, check, tmp_path):
    entries = [evidence.entry(s, position) for position, s in enumerate(chain)]
    path = evidence.archive(tmp_path / "archive", entries)
    segment = next(path.glob("segment-*"))
    # Three whole records go, as if they never were.
    segment.write_bytes(segment.read_bytes().replace(b"".join(entry.encode() for entry in entries[4:7]), b""))
    found = faults(check(path))
    assert [name for name, _ in found] == ["damage", "gap"]
    assert "3 archived records before this one are left out" in found[0][1]
    assert "batch 4 to 6" in found[1][1]


def test_records_of_an_archive_in_another_order_are_named(evidence, chain, check, tmp_path):
    entries = [evidence.entry(s, position) for position, s in enumerate(chain[:4])]
    path = evidence.archive(tmp_path / "archive", entries)
    segment = next(path.glob("segment-*"))
    one, two = entries[1].encode(), entries[2].encode()
    segment.write_bytes(segment.read_bytes().replace(one + two, two + one))
    found = faults(check(path))
    assert any("reordered" in message for _, message in found), found


def test_what_a_spool_may_lack_is_only_noted(evidence, chain, check, tmp_path):
    # Four are in flight: 2 waits for its answer, 3 has its receipt; 0 and 1 are long gone.
    report = check(evidence.spool(tmp_path / "spool", [chain[2], *chain[4:]], head=chain[-1]))
    assert faults(report) == []
    (finding,) = report.findings
    assert finding.check == "gap"
    assert f"batch 0 to 1, 3 of chain {CHAIN} (probe-1/eth0) is not here: delivered already" in str(finding)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_what_a_probe_cannot_read_keeps_back_no_other(evidence, chain, check, tmp_path):
    spool = evidence.spool(tmp_path / "spool", [*chain[:5], chain[7]], head=chain[-1])
    assert [name for name, _ in faults(check(spool))] == ["gap", "tail"]
    for batch in chain[:5]:
        os.chown(spool / "pending" / f"{batch.name}.arrows", 65534, 65534)
    report = check(spool)
    assert faults(report) == []
    assert [finding.check for finding in report.findings] == ["gap", "tail"]
    assert "batch 5 to 6" in str(report.findings[0])


def test_a_missing_tail_is_named(evidence, chain, check, tmp_path):
    spool = evidence.spool(tmp_path / "spool", chain[:7], head=chain[-1])
    only(check(spool), "tail", "missing tail: batch 7 to 9")
    only(
        check(evidence.export(tmp_path / "export", chain[:7], heads=[chain[-1]])), "tail", "missing tail: batch 7 to 9"
    )
    following = evidence.seal(1, NEXT, before=chain[-1])
    entries = [evidence.entry(s, position) for position, s in enumerate([*chain[:7], *following])]
    only(check(evidence.archive(tmp_path / "archive", entries)), "tail", "the next chain names")


def test_a_chain_that_is_left_out_of_an_export_is_named(evidence, chain, check, tmp_path):
    other = evidence.seal(1, NEXT)
    path = evidence.export(tmp_path / "export", chain, heads=[chain[-1], other[0]])
    only(check(path), "tail", f"chain {NEXT} (probe-1/eth0) is left out")


def test_the_receipt_of_a_batch_that_is_left_out_is_named(evidence, chain, check, tmp_path):
    path = evidence.export(tmp_path / "export", chain, heads=[chain[-1]])
    (path / "batches" / "probe-1%2Feth0" / f"{chain[9].name}.arrows").unlink()
    found = faults(check(path))
    assert any("is the receipt of a batch that is left out" in message for _, message in found)


def test_a_repeated_batch_is_named(evidence, chain, check, tmp_path):
    entries = [evidence.entry(s, position) for position, s in enumerate([*chain[:3], chain[1]])]
    path = evidence.archive(tmp_path / "archive", entries)
    only(check(path), "repeated", f"repeated: batch 1 of chain {CHAIN}")


def test_a_batch_in_anothers_place_is_named(evidence, chain, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain) / "pending"
    one, two = path / f"{chain[5].name}.arrows", path / f"{chain[6].name}.arrows"
    one.write_bytes(chain[6].data)
    two.write_bytes(chain[5].data)
    found = faults(check(path.parent))
    assert [name for name, _ in found] == ["reordered", "reordered"]
    assert "stands as batch 5" in found[0][1]
    assert "was sealed as batch 6" in found[0][1]


def test_forks_are_named(evidence, chain, check, tmp_path):
    # The same place twice, with other contents.
    other = evidence.seal(4, CHAIN)[3]
    path = evidence.spool(tmp_path / "one", chain)
    (path / "other.arrows").write_bytes(other.data)
    found = faults(check(path, path / "other.arrows"))
    assert [name for name, _ in found] == ["fork"]
    assert f"batch 3 of chain {CHAIN} (probe-1/eth0) has another manifest" in found[0][1]

    # A batch that does not follow on the one before.
    entries = [evidence.entry(s, position) for position, s in enumerate([*chain[:3], other, *chain[4:]])]
    found = faults(check(evidence.archive(tmp_path / "two", entries)))
    assert [name for name, _ in found] == ["fork", "fork"]
    assert "batch 3 of chain" in found[0][1]

    # One that a Core has refused and kept.
    entries = [evidence.entry(s, position) for position, s in enumerate(chain)]
    entries.append(evidence.entry(other, len(entries), Kind.FORK_BATCH))
    only(check(evidence.archive(tmp_path / "three", entries)), "fork", "a second batch 3")

    # A head that names another manifest.
    only(check(evidence.export(tmp_path / "four", chain[:4], heads=[other])), "fork", "the head names another manifest")


def test_manifests_of_dropped_batches_keep_the_chain_whole(evidence, chain, check, tmp_path):
    entries = [
        evidence.entry(s, position, Kind.MANIFEST if position == 2 else Kind.BATCH) for position, s in enumerate(chain)
    ]
    # The batch may still come.
    report = check(evidence.archive(tmp_path / "archive", entries))
    assert faults(report) == []
    assert (report.manifests, report.chains[0].manifests) == (1, 1)
    entries.append(evidence.entry(chain[2], len(entries)))
    report = check(evidence.archive(tmp_path / "later", entries))
    assert faults(report) == []
    assert (report.chains[0].batches, report.chains[0].manifests) == (10, 0)


def test_a_false_receipt_is_named(evidence, chain, check, tmp_path):
    path = evidence.export(tmp_path / "export", chain[:2])
    receipt = path / "receipts" / "probe-1%2Feth0" / f"{chain[0].name}.jwt"
    receipt.write_text(evidence.receipt(chain[1]))
    assert ("receipt", f"{receipt}: its receipt is for batch 1 of chain {CHAIN}") in faults(check(path))
    receipt.write_text(evidence.receipt(chain[0])[:-4] + "AAAA")
    assert check(path).exit_status == 4


def test_what_a_probe_put_away_is_noted_with_its_reason(evidence, chain, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", [chain[0], *chain[2:]])
    file = path / "rejected" / f"{chain[1].name}.arrows"
    file.write_bytes(chain[1].data)
    file.with_name(f"{file.name}.reason").write_text("the Core answered 422\n")
    report = check(path)
    assert faults(report) == []
    assert str(report.findings[0]) == f"{file}: was refused: the Core answered 422"


def test_expired_certificates_are_judged_at_the_time_of_sealing(evidence, check, tmp_path):
    from_time = 1_767_225_600  # 2026-01-01
    made = evidence.one(_one_row(), "expired", iss="probe-1", kind="flow", chain=CHAIN, seq=0, iat=from_time + 60)
    path = evidence.spool(tmp_path / "spool", [made])
    report = check(path, certificates=["expired"])
    assert faults(report) == []


def test_what_was_sealed_outside_the_validity_is_vouched_for_by_its_receipt_alone(evidence, check, tmp_path):
    stated = {"iss": "probe-1", "kind": "flow", "chain": CHAIN, "seq": 0, "prev": None, "iat": 1_790_000_000}
    made = evidence.whenever(_one_row(), "expired", **stated)
    archive = evidence.archive(tmp_path / "archive", [evidence.entry(made, 0)])
    export = evidence.export(tmp_path / "export", [made])
    words = "sealed outside the validity of the certificate of"
    for path in (archive, export):
        report = check(path, certificates=["expired"])
        assert faults(report) == []
        assert [(finding.check, words in finding.message) for finding in report.findings] == [("certificate", True)]
        assert "its receipt shows that the Core accepted it" in str(report.findings[0])
        # Without the CA nobody can say whose the receipt is.
        only(verify_paths([path], certificates=[PKI / "expired.pem"]), "certificate", words)
    (receipt,) = (export / "receipts").rglob("*.jwt")
    text = receipt.read_text()
    receipt.unlink()
    only(check(export, certificates=["expired"]), "certificate", words)
    receipt.write_text(text[:-4] + ("AAAA" if text[-4:] != "AAAA" else "BBBB"))
    assert sorted(name for name, _ in faults(check(export, certificates=["expired"]))) == ["certificate", "receipt"]
    only(check(evidence.spool(tmp_path / "spool", [made]), certificates=["expired"]), "certificate", words)
    # A receipt makes no certificate that of the CA.
    report = verify_paths([archive], ca=PKI / "other-ca.pem", certificates=[PKI / "expired.pem"])
    assert any("not accepted under the CA" in message for _, message in faults(report))


@pytest.mark.parametrize("layout", ["archive", "export"])
def test_a_damaged_certificate_that_lies_with_the_evidence_ends_nothing(evidence, chain, tmp_path, layout):
    path = tmp_path / "evidence"
    if layout == "archive":
        evidence.archive(path, [evidence.entry(sealed, position) for position, sealed in enumerate(chain)])
    else:
        evidence.export(path, chain)
    damaged = path / "certificates" / "another.pem"
    damaged.write_bytes((PKI / "probe2.pem").read_bytes()[:300])
    one = next(path.glob("segment-*") if layout == "archive" else path.rglob("*.arrows"))
    report = verify_paths([path, one], ca=PKI / "ca.pem")
    unreadable = [finding for finding in report.faults if finding.check == "unreadable"]
    assert [finding.where for finding in unreadable] == [str(damaged)]
    report = verify_paths([path], ca=PKI / "ca.pem")
    assert (report.batches, len(report.faults), report.exit_status) == (10, 1, 3)


def _one_row():
    import pyarrow as pa

    return pa.record_batch({"n": pa.array([1], pa.uint64())})


def test_bad_certificate_files_are_one_line(tmp_path):
    (tmp_path / "text.pem").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "text.pem", tmp_path / "empty", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=path.name) as caught:
            verify_paths([tmp_path], certificates=[path])
        assert "\n" not in str(caught.value)


# --- the commands -----------------------------------------------------------------------------------------------------


def run(*arguments):
    program = Path(sys.executable).with_name("dpi-probe")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_verify_prints_findings_and_exits_with_4(evidence, chain, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain)
    trust = ["--ca", PKI / "ca.pem", "--certificate", PKI / "probe.pem"]
    done = run("verify", *trust, path)
    assert (done.returncode, done.stdout) == (0, "everything holds: 10 batches, 50 records, 1 chain checked\n")
    assert "trusting the CA of" in done.stderr
    (path / "pending" / f"{chain[6].name}.arrows").unlink()
    done = run("verify", *trust, path)
    assert done.returncode == 4
    assert f"gap: batch 6 of chain {CHAIN} (probe-1/eth0) is left out" in done.stdout
    assert done.stdout.endswith("1 fault: 9 batches, 45 records, 1 chain checked\n")
    done = run("verify", *trust, "--json", path)
    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert report["findings"][0]["check"] == "gap"


def test_that_nobody_reads_the_findings_changes_no_status(evidence, chain, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain)
    trust = ["--ca", PKI / "ca.pem", "--certificate", PKI / "probe.pem"]
    program = Path(sys.executable).with_name("dpi-probe")
    for status in (0, 4):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            done = subprocess.run([program, "verify", *trust, path], stdout=pipe, timeout=60, check=False)
        assert done.returncode == status
        (path / "pending" / f"{chain[6].name}.arrows").unlink(missing_ok=True)


def test_prove_and_verify_a_record(evidence, chain, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain) / "pending" / f"{chain[0].name}.arrows"
    proof = tmp_path / "proof.json"
    done = run("prove", path, "--row", 3)
    assert done.returncode == 0
    proof.write_text(done.stdout)
    done = run("verify", "--certificate", PKI / "probe.pem", proof)
    assert done.returncode == 0
    assert f"record 3 is in batch 0 of chain {CHAIN}" in done.stdout
    text = proof.read_text()
    proof.write_text(text.replace("aaaa-0-3", "aaaa-0-4"))
    done = run("verify", "--certificate", PKI / "probe.pem", proof)
    assert done.returncode == 4
    assert "the record is not in the batch" in done.stdout
    done = run("prove", path, "--row", 5)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}: there is no row 5: the batch has rows 0 to 4" in done.stderr
    altered = bytearray(path.read_bytes())
    altered[-200] ^= 1
    path.write_bytes(altered)
    done = run("prove", path, "--row", 3)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"dpi-probe: {path}: ")


@pytest.mark.parametrize("name", ["missing", "empty", "text", "directory", "capture"])
def test_what_is_no_evidence_is_one_clear_line(tmp_path, name):
    path = tmp_path / name
    if name == "directory":
        path.mkdir()
    elif name != "missing":
        path.write_bytes({"empty": b"", "text": b"hello\n", "capture": b"\xd4\xc3\xb2\xa1" + bytes(20)}[name])
    for done in (run("verify", path), run("prove", path, "--row", 0)):
        assert done.returncode == 3
        assert "Traceback" not in done.stderr
        assert str(path) in done.stdout + done.stderr
        assert len(done.stderr.splitlines()) <= 1
        is_told = f"{path}: cannot be read: No such file or directory; check the path" in done.stdout + done.stderr
        assert is_told == (name == "missing")


def test_one_path_that_is_missing_does_not_keep_the_others_from_being_checked(evidence, chain, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain)
    report = check(tmp_path / "nowhere", path)
    assert [(finding.check, finding.where) for finding in report.faults] == [("unreadable", f"{tmp_path}/nowhere")]
    assert (report.batches, report.exit_status) == (10, 3)


def as_other_user(*arguments):
    """A command for which permissions of files count, also where the tests run as root."""
    if os.geteuid() != 0:
        return run(*arguments)
    program = Path(sys.executable).with_name("dpi-probe")
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("layout", ["spool", "archive", "export", "plain"])
def test_what_may_not_be_read_is_never_said_to_hold(evidence, chain, tmp_path, layout):
    path = tmp_path / "x"
    if layout == "spool":
        closed = [evidence.spool(path, chain, head=chain[-1]) / "pending", path / "head.json"]
    elif layout == "archive":
        closed = [evidence.archive(path, [evidence.entry(s, position) for position, s in enumerate(chain)])]
    elif layout == "export":
        closed = [evidence.export(path, chain, heads=[chain[-1]]) / part for part in ("batches", "heads", "receipts")]
    else:
        path.mkdir()
        (path / f"{chain[0].name}.arrows").write_bytes(chain[0].data)
        closed = [path]
    for part in closed:
        part.chmod(0)
    trust = ["--ca", PKI / "ca.pem", "--certificate", PKI / "probe.pem"]
    try:
        for done in (as_other_user("verify", *trust, path), as_other_user("verify", *trust, path / "within")):
            assert done.returncode == 3, done.stdout + done.stderr
            assert "holds:" not in done.stdout
            assert "Traceback" not in done.stderr
        done = as_other_user("verify", *trust, path)
        for part in closed:
            assert f"fault: {part}: cannot be read: Permission denied" in done.stdout
    finally:
        for part in closed:
            part.chmod(0o700)


def test_a_spool_from_which_everything_was_delivered_holds(evidence, chain, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", [], head=chain[-1])
    report = check(path)
    assert (faults(report), report.exit_status) == ([], 0)
    (finding,) = report.findings
    assert str(finding) == (
        f"{path}/head.json: batch 9 of chain {CHAIN}, the last that was sealed, is not here: delivered already, or lost"
    )
    done = run("verify", "--ca", PKI / "ca.pem", "--certificate", PKI / "probe.pem", path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "nothing to check")
    assert "None" not in done.stdout
    # With the archive that took it there is nothing to say.
    archive = evidence.archive(tmp_path / "archive", [evidence.entry(s, position) for position, s in enumerate(chain)])
    report = check(path, archive)
    assert (report.findings, report.batches) == ([], 10)
    # Nor is it the fault of one spool that another one has much to deliver.
    other = evidence.spool(tmp_path / "other", evidence.seal(8, NEXT))
    assert faults(check(path, other)) == []


def test_a_chain_that_is_left_out_of_a_spool_shows_where_older_batches_still_wait(evidence, chain, check, tmp_path):
    following = evidence.seal(2, NEXT, before=chain[-1])
    spool = evidence.spool(tmp_path / "spool", chain[-4:], head=following[-1])
    only(check(spool), "tail", f"batch 1 of chain {NEXT}, the last that was sealed, is left out")
    # With fewer that wait it may have been in flight beside them.
    (spool / "pending" / f"{chain[-1].name}.arrows").unlink()
    assert faults(check(spool)) == []


def test_refused_batches_are_no_reason_to_miss_others(evidence, chain, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", [], head=chain[-1])
    for sealed in chain[:6]:
        (path / "rejected" / f"{sealed.name}.arrows").write_bytes(sealed.data)
    assert faults(check(path)) == []


def test_a_damaged_head_of_a_spool_is_noted(evidence, chain, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", chain)
    (path / "head.json").write_text("{")
    report = check(path)
    assert faults(report) == []
    assert [str(finding) for finding in report.findings] == [
        f"{path}/head.json: is damaged: whether the newest batches are here cannot be told"
    ]


def test_an_export_or_directory_with_a_pipe_in_it_ends(evidence, chain, check, tmp_path):
    path = tmp_path / "x"
    path.mkdir()
    (path / f"{chain[0].name}.arrows").write_bytes(chain[0].data)
    os.mkfifo(path / f"{chain[1].name}.arrows")
    assert (faults(check(path)), check(path).batches) == ([], 1)


def test_a_proof_of_the_native_module_is_json():
    with pytest.raises(Exception, match="malformed proof"):
        _native.check_proof("[]", [])
