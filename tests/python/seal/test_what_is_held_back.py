"""What a holder of evidence takes away or replaces shows; what a probe and a Core leave behind is no fault."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dpi_probe._verify import verify_paths
from dpi_probe._verify.chains import Chains
from dpi_probe._verify.findings import Report
from dpi_probe.core.archive import Kind, Located, iter_entries
from dpi_probe.core.committer import Arrival, Committer
from dpi_probe.core.export import export
from dpi_probe.core.manifest import manifest_of
from dpi_probe.core.metrics import Metrics
from dpi_probe.core.receipt import CoreSigner
from harness.findings import faults, only

PKI = Path(__file__).parents[2] / "vectors" / "pki"
CHAIN, NEXT = "aa" * 16, "bb" * 16
PROBE = "probe-1%2Feth0"
ARCHIVED_WHOLE = "was archived whole (its receipt says so), and only its manifest is here"


def run(*arguments):
    program = Path(sys.executable).with_name("dpi-probe")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def dropped(path, sealed):
    """Put a manifest in the place of its batch in an export."""
    file = path / "batches" / PROBE / f"{sealed.name}.arrows"
    file.unlink()
    file.with_suffix(".manifest").write_text(sealed.manifest)
    return path / "receipts" / PROBE / f"{sealed.name}.jwt"


# --- a manifest in the place of its batch -----------------------------------------------------------------------------


def test_a_manifest_in_the_place_of_a_batch_that_was_archived_is_named(evidence, chain, check, tmp_path):
    path = evidence.export(tmp_path / "export", chain)
    receipt = dropped(path, chain[4])
    only(check(path), "receipt", f"{chain[4].name}.manifest: batch 4 of chain {CHAIN} (probe-1/eth0) {ARCHIVED_WHOLE}")
    # One that a Core archived as such may stand there.
    receipt.write_text(evidence.receipt(chain[4], status="manifest_only"))
    assert faults(check(path)) == []

    entries = [evidence.entry(sealed, position) for position, sealed in enumerate(chain)]
    entries[9] = replace(entries[9], kind=Kind.MANIFEST, body=chain[9].manifest.encode())
    only(check(evidence.archive(tmp_path / "archive", entries)), "receipt", f"batch 9 of chain {CHAIN}", ARCHIVED_WHOLE)


@pytest.mark.parametrize("instead", [None, "manifest"])
def test_a_manifest_whose_receipt_is_left_out_is_named(evidence, chain, check, tmp_path, instead):
    path = evidence.export(tmp_path / "export", chain)
    receipt = dropped(path, chain[4])
    receipt.unlink()
    if instead:
        # What lies in the place of a receipt has to be one.
        receipt.write_text(chain[4].manifest)
        only(check(path), "damage", f"{receipt}: batch 4 of chain {CHAIN}: is no receipt")
    else:
        only(check(path), "receipt", f"batch 4 of chain {CHAIN}: its receipt is left out")
    entries = [evidence.entry(sealed, position) for position, sealed in enumerate(chain)]
    entries[4] = replace(entries[4], kind=Kind.MANIFEST, body=chain[4].manifest.encode(), receipt="")
    archive = evidence.archive(tmp_path / "archive", entries)
    only(check(archive), "receipt", f"batch 4 of chain {CHAIN}: its receipt is left out")


@pytest.fixture
def commit(evidence, tmp_path):
    """Hands arrivals one by one to a Core's committer, and returns the receipts."""
    for name in ("core.pem", "core.key"):
        shutil.copy(PKI / name, tmp_path / name)
    (tmp_path / "core.key").chmod(0o600)
    (tmp_path / "data").mkdir()
    signer = CoreSigner(tmp_path / "core.pem", tmp_path / "core.key")

    def run(*arrivals, segment_max_bytes=1 << 28):
        committer = Committer(
            tmp_path / "data", signer, Metrics(), certificates={}, segment_max_bytes=segment_max_bytes, delay_s=0.0,
            on_durable=lambda _: None,
        )  # fmt: skip
        committer.start()
        receipts = []
        for sealed, is_whole in arrivals:
            body = sealed.data if is_whole else sealed.manifest.encode()
            outcome = committer.submit(Arrival(manifest_of(sealed.data), body, whole=is_whole)).result(30)
            receipts.append(outcome.receipt)
        committer.stop()
        evidence.certificates(tmp_path / "data" / "archive")
        return receipts

    def exported(name):
        export(tmp_path / "data" / "archive", tmp_path / name, signer)
        return tmp_path / name

    run.archive, run.exported = tmp_path / "data" / "archive", exported
    return run


def test_what_an_honest_core_archives_of_dropped_batches_holds(evidence, chain, check, commit, tmp_path):
    receipts = commit(
        (chain[0], True),
        # The receipt is lost on the way; the probe drops the batch, sends its manifest, and is told of the batch.
        (chain[1], True), (chain[1], False),
        # A manifest came first, as from a copy of the spool.
        (chain[2], False), (chain[2], True), (chain[2], False),
        (chain[3], False), (chain[3], False),
        (chain[4], True),
    )  # fmt: skip
    out = commit.exported("export")
    for path in (commit.archive, out):
        report = check(path)
        assert (faults(report), report.exit_status) == ([], 0)
        assert (report.chains[0].batches, report.chains[0].manifests) == (4, 1)
    # The spool of that probe, to which no receipt has come yet: with one that is on the way, and without it.
    spool = evidence.spool(tmp_path / "spool", [], head=chain[4])
    for sealed in (chain[1], chain[3]):
        (spool / "pending" / f"{sealed.name}.manifest").write_text(sealed.manifest)
    (spool / "pending" / f"{chain[4].name}.arrows").write_bytes(chain[4].data)
    lone = tmp_path / f"{chain[1].name}.jwt"
    lone.write_text(receipts[2])
    for paths in ([spool], [spool, lone], [lone, spool], [spool, commit.archive], [out, spool], [spool, out, lone]):
        assert faults(check(*paths)) == [], paths


def test_the_manifest_of_a_batch_whose_archived_copy_decayed_is_no_second_fault(chain, check, commit):
    commit((chain[0], True), (chain[1], True), (chain[2], True))
    (segment,) = commit.archive.glob("segment-*")
    data = bytearray(segment.read_bytes())
    places = [item.place for item in iter_entries(segment) if isinstance(item, Located)]
    data[places[1].offset + places[1].length // 2] ^= 1
    segment.write_bytes(data)
    commit((chain[1], False))
    report = check(commit.archive)
    assert {name for name, _ in faults(report)} <= {"body", "damage"}, faults(report)
    assert report.exit_status == 4
    # What can be exported is a manifest, which the Core archived as one.
    assert faults(check(commit.exported("export"))) == []


def test_a_damaged_batch_beside_its_own_manifest_is_one_fault(chain, check, commit):
    commit((chain[0], True), (chain[1], False), (chain[1], True))
    out = commit.exported("export")
    assert faults(check(out)) == []
    (file,) = out.rglob(f"{chain[1].name}.arrows")
    data = bytearray(file.read_bytes())
    data[-200] ^= 1
    file.write_bytes(data)
    only(check(out), "body", f"batch 1 of chain {CHAIN}")


def test_the_manifests_of_batches_whose_segment_is_gone_are_no_further_fault(chain, check, commit):
    commit(*((sealed, True) for sealed in chain[:6]), segment_max_bytes=1 << 13)
    newest = max(commit.archive.glob("segment-*"))
    for segment in commit.archive.glob("segment-*"):
        if segment != newest:
            segment.unlink()
    commit(*((sealed, False) for sealed in chain[:5]), segment_max_bytes=1 << 13)
    report = check(commit.archive)
    assert {name for name, _ in faults(report)} == {"damage"}
    assert all("left out" in message for _, message in faults(report))
    assert faults(check(commit.exported("export"))) == []


# --- chain heads ------------------------------------------------------------------------------------------------------


def cut(path, batches):
    """Take the last batches of an export, and their receipts, away."""
    for sealed in batches:
        (path / "batches" / PROBE / f"{sealed.name}.arrows").unlink()
        (path / "receipts" / PROBE / f"{sealed.name}.jwt").unlink()


@pytest.mark.parametrize("instead", [None, "another chain's", "a receipt"])
@pytest.mark.parametrize("ca", [PKI / "ca.pem", None])
def test_a_chain_head_that_is_left_out_of_an_export_is_named(evidence, chain, tmp_path, instead, ca):
    other = evidence.seal(2, NEXT)
    path = evidence.export(tmp_path / "export", [*chain, *other])
    cut(path, chain[8:])
    head = path / "heads" / PROBE / f"{CHAIN}.jwt"
    head.unlink()
    if instead == "another chain's":
        shutil.copy(head.with_stem(NEXT), head)
    elif instead == "a receipt":
        head.write_text(evidence.receipt(chain[7]))
    report = verify_paths([path], ca=ca, certificates=[PKI / "probe.pem"])
    if ca is None and instead == "another chain's":
        # Nobody can say what it is.
        assert faults(report) == []
        assert (report.unchecked_receipts, report.unchecked_heads) == (10, 2)
        return
    found = faults(report)
    message = f"{path}: the chain head of chain {CHAIN} (probe-1/eth0) is left out, so that missing last batches"
    assert [message in text for name, text in found if name == "head"] == [True], found
    assert [text for name, text in found if name != "head"] == (
        [f"{head}: is no chain head"] if instead == "a receipt" else []
    )


@pytest.mark.parametrize("layout", ["archive", "export"])
def test_an_empty_spool_within_hides_nothing(evidence, chain, check, tmp_path, layout):
    rest = [*chain[:4], *chain[5:]]
    path = tmp_path / "evidence"
    if layout == "archive":
        evidence.archive(path, [evidence.entry(sealed, position) for position, sealed in enumerate(rest)])
    else:
        evidence.export(path, rest)
    (path / "pending").mkdir()
    only(check(path), "gap", "batch 4 of chain")


def test_receipts_and_heads_that_nobody_could_check_are_told(evidence, chain, tmp_path):
    path = evidence.export(tmp_path / "export", chain, heads=[chain[-1]])
    cut(path, chain[8:])
    report = verify_paths([path], ca=PKI / "ca.pem")
    only(report, "tail", "missing tail: batch 8 to 9")
    assert (report.unchecked_receipts, report.unchecked_heads) == (0, 0)
    told = "8 receipts and 1 chain head were not checked, so that missing last batches"

    def is_told(report):
        assert faults(report) == []
        assert [(finding.check, finding.where) for finding in report.findings] == [("unchecked", str(path))]
        assert told in report.findings[0].message
        assert report.findings[0].message.endswith("; give --ca")
        assert (report.receipts, report.heads) == (0, 0)

    is_told(verify_paths([path], certificates=[PKI / "probe.pem"]))
    for arguments in (["--certificate", PKI / "probe.pem"], []):
        done = run("verify", *arguments, path)
        if arguments:
            assert done.returncode == 0
            assert f"note: {path}: {told}" in done.stdout
            assert done.stdout.splitlines()[-1] == "what could be checked holds: 8 batches, 40 records, 1 chain checked"
        else:
            # The CA that lies there does to check them.
            assert done.returncode == 4
        assert "everything holds" not in done.stdout
    done = run("verify", "--json", "--certificate", PKI / "probe.pem", path)
    parsed = json.loads(done.stdout)
    assert (parsed["unchecked_receipts"], parsed["unchecked_heads"]) == (8, 1)
    # Nor does it help to take the CA away.
    (path / "ca.pem").unlink()
    is_told(verify_paths([path]))


def test_the_receipts_of_an_archive_that_nobody_could_check_are_told(evidence, chain, tmp_path):
    path = evidence.archive(tmp_path / "archive", [evidence.entry(s, position) for position, s in enumerate(chain[:1])])
    report = verify_paths([path], certificates=[PKI / "probe.pem"])
    assert (faults(report), report.unchecked_receipts) == ([], 1)
    assert "1 receipt was not checked" in report.findings[0].message


# --- a spool beside what a Core has -----------------------------------------------------------------------------------


def test_a_batch_whose_receipt_was_lost_is_in_spool_and_archive(evidence, chain, check, tmp_path):
    spool = evidence.spool(tmp_path / "spool", chain[8:], head=chain[-1])
    archive = evidence.archive(tmp_path / "archive", [evidence.entry(s, position) for position, s in enumerate(chain)])
    for paths in ([spool, archive], [archive, spool]):
        report = check(*paths)
        assert (faults(report), report.exit_status) == ([], 0)


def test_what_a_core_should_have_is_not_excused_by_a_spool(evidence, chain, check, tmp_path):
    spool = evidence.spool(tmp_path / "spool", chain[9:], head=chain[-1])
    export = evidence.export(tmp_path / "export", chain[:9])
    cut(export, chain[7:9])
    for paths in ([spool, export], [export, spool]):
        only(check(*paths), "gap", f"gap: batch 7 to 8 of chain {CHAIN} (probe-1/eth0) is left out")
    # Nor if the spool has nothing newer.
    (spool / "pending" / f"{chain[9].name}.arrows").rename(spool / "pending" / f"{chain[6].name}.arrows")
    (spool / "pending" / f"{chain[6].name}.arrows").write_bytes(chain[6].data)
    (spool / "head.json").unlink()
    for paths in ([spool, export], [export, spool]):
        only(check(*paths), "tail", "missing tail: batch 7 to 8")


def test_what_was_delivered_since_an_archive_was_copied_is_noted(evidence, chain, check, tmp_path):
    spool = evidence.spool(tmp_path / "spool", chain[8:], head=chain[-1])
    entries = [evidence.entry(sealed, position) for position, sealed in enumerate(chain[:6])]
    archive = evidence.archive(tmp_path / "archive", entries)
    for paths in ([spool, archive], [archive, spool]):
        report = check(*paths)
        assert faults(report) == []
        (finding,) = report.findings
        assert f"batch 6 to 7 of chain {CHAIN} (probe-1/eth0) is not here: delivered already" in str(finding)


def test_what_waits_in_a_spool_waits_though_an_archive_has_it(evidence, chain, check, tmp_path):
    spool = evidence.spool(tmp_path / "spool", [*chain[1:5], chain[6]], head=chain[6])
    entries = [evidence.entry(sealed, position) for position, sealed in enumerate(chain[:5])]
    archive = evidence.archive(tmp_path / "archive", entries)
    for paths in ([spool, archive], [archive, spool]):
        only(check(*paths), "gap", "gap: batch 5 of chain")


def test_the_manifest_of_a_spool_stands_for_no_batch_that_a_core_had(evidence, chain, check, tmp_path):
    export = evidence.export(tmp_path / "export", chain)
    spool = evidence.spool(tmp_path / "spool", [])
    (spool / "pending" / f"{chain[4].name}.manifest").write_text(chain[4].manifest)
    for paths in ([spool, export], [export, spool]):
        assert faults(check(*paths)) == []
    dropped(export, chain[4])
    for paths in ([spool, export], [export, spool]):
        only(check(*paths), "receipt", f"{export}/batches", ARCHIVED_WHOLE)


def test_a_single_batch_that_is_named_first_excuses_no_gap(evidence, chain, check, tmp_path):
    single = tmp_path / "one.arrows"
    single.write_bytes(chain[2].data)
    archive = evidence.archive(
        tmp_path / "archive", [evidence.entry(sealed, position) for position, sealed in enumerate(chain[3:])]
    )
    for paths in ([single, archive], [archive, single]):
        only(check(*paths), "gap", f"{archive}: gap: batch 0 to 1 of chain {CHAIN}")


def test_a_probe_that_seals_while_its_spool_is_verified_is_no_fault(evidence, chain, tmp_path):
    spool = evidence.spool(tmp_path / "spool", chain[:6], head=chain[5])
    newer = evidence.spool(tmp_path / "newer", [], head=chain[8]) / "head.json"

    checked = []

    def seal(size):
        checked.append(size)
        # So late that the new ones are not seen any more.
        if len(checked) == 4:
            newer.rename(spool / "head.json")
            for sealed in chain[6:9]:
                (spool / "pending" / f"{sealed.name}.arrows").write_bytes(sealed.data)

    report = verify_paths([spool], ca=PKI / "ca.pem", certificates=[PKI / "probe.pem"], progress=seal)
    assert not newer.exists()
    assert (faults(report), report.batches) == ([], 6)


def test_a_batch_that_cannot_be_read_is_not_left_out(evidence, chain, check, tmp_path):
    spool = evidence.spool(tmp_path / "spool", chain, head=chain[-1])
    export = evidence.export(tmp_path / "export", chain)
    for path in (spool, export):
        for sealed in (chain[5], chain[9]):
            (file,) = path.rglob(f"{sealed.name}.arrows")
            file.unlink()
            file.symlink_to(tmp_path / "nowhere")
        report = check(path)
        assert [(finding.check, Path(finding.where).name) for finding in report.faults] == [
            ("unreadable", f"{chain[5].name}.arrows"),
            ("unreadable", f"{chain[9].name}.arrows"),
        ]
        assert report.exit_status == 3


def test_what_an_export_signs_and_cannot_be_read_is_not_left_out(evidence, chain, check, tmp_path):
    path = evidence.export(tmp_path / "export", chain)
    dropped(path, chain[4])
    for file in (path / "heads" / PROBE / f"{CHAIN}.jwt", path / "receipts" / PROBE / f"{chain[4].name}.jwt"):
        file.unlink()
        file.symlink_to(tmp_path / "nowhere")
    assert [name for name, _ in faults(check(path))] == ["unreadable", "unreadable"]
    # Or cannot even be listed.
    for part in ("heads", "receipts"):
        shutil.rmtree(path / part)
        (path / part).write_bytes(b"")
    assert [(name, text.partition(": ")[2]) for name, text in faults(check(path))] == [
        ("unreadable", "cannot be read: Not a directory"),
        ("unreadable", "cannot be read: Not a directory"),
    ]


def test_many_receipts_of_one_chain_take_a_time_that_grows_with_their_number():
    report = Report()
    chains = Chains(report)
    count = 30_000
    claims = {"iss": "probe-1", "chain": CHAIN, "rows": 1, "prev_chain": None, "prev_seq": None}
    for seq in range(count):
        stated = {**claims, "seq": seq, "prev": str(seq - 1)}
        chains.add(stated, str(seq), "where", "path", "export", is_batch=True, waits=False)
        chains.head(CHAIN, seq, str(seq), "probe-1", "where", layout="export")
    began = time.process_time()
    chains.check()
    assert time.process_time() - began < 4
    assert report.findings == []


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_damaged_ca_that_lies_with_the_evidence_ends_nothing(evidence, chain, tmp_path):
    path = evidence.export(tmp_path / "export", chain)
    (path / "ca.pem").write_bytes((PKI / "ca.pem").read_bytes()[:200])
    spool = evidence.spool(tmp_path / "spool", [])
    report = verify_paths([path, tmp_path / "nowhere", spool])
    assert [(finding.check, finding.where) for finding in report.faults] == [
        ("unreadable", str(path / "ca.pem")),
        ("unreadable", str(tmp_path / "nowhere")),
    ]
    assert (report.batches, report.exit_status) == (10, 3)
    assert os.fspath(path / "ca.pem") not in report.faults[0].message
