"""A bit flipped anywhere is found and named: every byte of a spooled batch, of a manifest, and of an archive."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from dpi_probe.core.archive import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES

CHAIN = "cc" * 16


@pytest.fixture(scope="module")
def small(evidence, make):
    """A chain of two small batches."""
    import pyarrow as pa

    made = []
    for seq in range(2):
        row = pa.record_batch({"n": pa.array([seq], pa.uint64()), "text": [f"row of {seq}"]})
        claims = {"iss": "probe-1/eth0", "kind": "flow", "chain": CHAIN, "seq": seq, "iat": 1_790_000_000}
        if made:
            claims["prev"] = evidence_digest(made[-1].manifest)
        made.append(evidence.one(row, **claims))
    return made


def evidence_digest(manifest: str) -> str:
    import base64
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(manifest.encode()).digest()).rstrip(b"=").decode()


def flips(data: bytes, start: int, end: int, *, every_bit: bool = False):
    """Offset and altered data, a bit in each byte; which one differs from byte to byte."""
    for offset in range(start, end):
        for bit in range(8) if every_bit else [(offset * 5 + 3) % 8]:
            altered = bytearray(data)
            altered[offset] ^= 1 << bit
            yield offset, bytes(altered)


def test_every_byte_of_a_batch_in_a_spool(evidence, small, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", small, head=small[-1])
    assert check(path).faults == []
    file = path / "pending" / f"{small[0].name}.arrows"
    kinds: Counter[str] = Counter()
    for offset, altered in flips(small[0].data, 0, len(small[0].data)):
        file.write_bytes(altered)
        report = check(path)
        assert report.exit_status == 4, offset
        first = report.faults[0]
        assert str(file) in str(first), (offset, str(first))
        assert f"batch 0 of chain {CHAIN}" in str(first), (offset, str(first))
        assert "\n" not in str(first)
        kinds[first.check] += 1
    # The body, the signature, and what frames them.
    assert {"body", "signature"} <= set(kinds), kinds
    file.write_bytes(small[0].data)
    assert check(path).faults == []


def test_every_byte_of_a_manifest_in_a_spool(evidence, small, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", small[1:], head=small[-1])
    file = path / "pending" / f"{small[0].name}.manifest"
    manifest = small[0].manifest.encode()
    file.write_bytes(manifest)
    assert check(path).faults == []
    for offset, altered in flips(manifest, 0, len(manifest)):
        file.write_bytes(altered)
        report = check(path)
        assert report.exit_status == 4, offset
        assert str(file) in str(report.faults[0])


@pytest.mark.parametrize("record", [0, 1])
def test_every_byte_of_an_archive(evidence, small, check, tmp_path, record):
    entries = [evidence.entry(sealed, position) for position, sealed in enumerate(small)]
    path = evidence.archive(tmp_path / "archive", entries)
    assert check(path).faults == []
    (segment,) = path.glob("segment-*")
    data = segment.read_bytes()
    # The second record is the last one: damage there must not pass for an append that a crash cut short.
    start = SEGMENT_HEADER_BYTES + sum(len(entry.encode()) for entry in entries[:record])
    end = start + len(entries[record].encode())
    places = [
        *(flips(data, 0, SEGMENT_HEADER_BYTES, every_bit=True) if record == 0 else ()),
        *flips(data, start, start + RECORD_HEADER_BYTES, every_bit=True),
        *flips(data, start + RECORD_HEADER_BYTES, end),
    ]
    parts: Counter[str] = Counter()
    for offset, altered in places:
        segment.write_bytes(altered)
        report = check(path)
        assert report.exit_status == 4, offset
        where = 0 if offset < SEGMENT_HEADER_BYTES else start
        named = [str(fault) for fault in report.faults if f"{segment} at {where}" in str(fault)]
        assert named, (offset, [str(fault) for fault in report.faults])
        header = offset < start + RECORD_HEADER_BYTES
        if not header:
            assert any(f"batch {record} of chain {CHAIN}" in text for text in named), (offset, named)
        parts["header" if header else "content"] += 1
    assert parts["content"] == end - start - RECORD_HEADER_BYTES


def test_every_byte_cut_off_a_spooled_batch(evidence, small, check, tmp_path):
    path = evidence.spool(tmp_path / "spool", small)
    file = path / "pending" / f"{small[0].name}.arrows"
    for length in range(len(small[0].data)):
        file.write_bytes(small[0].data[:length])
        report = check(path)
        assert report.exit_status in (3, 4), length
        assert str(file) in str([*report.faults, *report.findings][0])


# -- a batch left out, repeated, reordered or forked, in a spool as in an archive --------------------------------------


def lay_out(evidence, layout, path, batches):
    """Batches as they are, one after the other; in a spool under the names of the chain's places."""
    if layout == "archive":
        return evidence.archive(path, [evidence.entry(sealed, position) for position, sealed in enumerate(batches)])
    directory = evidence.spool(path, [])
    for position, sealed in enumerate(batches):
        (directory / "pending" / f"{'aa' * 16}-{position:016x}.arrows").write_bytes(sealed.data)
    return directory


@pytest.mark.parametrize("layout", ["spool", "archive"])
@pytest.mark.parametrize(
    ("case", "checks", "named"),
    [
        ("left out", {"gap", "reordered"}, r"batch 2 of chain a{32}"),
        ("repeated", {"repeated", "reordered", "fork"}, r"batch 2 of chain a{32}"),
        ("reordered", {"reordered", "damage"}, r"batch [23] of chain a{32}"),
        ("forked", {"fork"}, r"batch 3 of chain a{32}"),
    ],
)
def test_what_happened_to_a_batch_is_named(evidence, chain, check, tmp_path, layout, case, checks, named):
    sound = chain[:6]
    if (layout, case) == ("archive", "reordered"):
        # Batches may arrive in any order; what must not be is that the archive's own records change places.
        path = lay_out(evidence, layout, tmp_path / "x", sound)
        one, two = (evidence.entry(sound[at], at).encode()[:60] for at in (2, 3))
        (segment,) = path.glob("segment-*")
        data = segment.read_bytes()
        first, second = data.index(one), data.index(two)
        third = data.index(evidence.entry(sound[4], 4).encode()[:60])
        segment.write_bytes(data[:first] + data[second:third] + data[first:second] + data[third:])
        messages = [str(fault) for fault in check(path).faults]
        assert any("record 2 of the archive stands behind record 3" in message for message in messages), messages
        return
    if case == "left out":
        batches = [*sound[:2], *sound[3:]]
    elif case == "repeated":
        batches = [*sound[:3], *sound[2:]]
    elif case == "reordered":
        batches = [*sound[:2], sound[3], sound[2], *sound[4:]]
    else:
        batches = [*sound[:3], evidence.seal(4, "aa" * 16)[3], *sound[4:]]
    assert check(lay_out(evidence, layout, tmp_path / "sound", sound)).faults == []
    report = check(lay_out(evidence, layout, tmp_path / "x", batches))
    assert report.exit_status == 4
    found = {fault.check for fault in report.faults}
    assert found & checks, found
    assert any(re.search(named, str(fault)) for fault in report.faults), [str(fault) for fault in report.faults]
