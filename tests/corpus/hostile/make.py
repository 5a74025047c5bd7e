"""Makes hostile inputs out of a sound capture: `python -m tests.corpus.hostile.make DIRECTORY`.

Everything is derived, nothing is stored. Each input has a name that says what is wrong with it, and says what may be
expected of a reader: how many of the sound frames it must still deliver, and whether it must report an error.
"""

from __future__ import annotations

import gzip
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.corpus.testbed import Interface, Record, read_frames, write_pcap, write_pcapng

if TYPE_CHECKING:
    from collections.abc import Iterator

SOUND = Path(__file__).parents[1] / "http1-keep-alive" / "input.pcap"
HEADER, RECORD_HEADER = 24, 16
GARBAGE = bytes((index * 197 + 31) % 256 for index in range(1000))


@dataclass(frozen=True)
class Hostile:
    """A hostile input."""

    name: str
    data: bytes
    frames: int | None
    """How many whole frames stand before (and around) the damage; None where that is a matter of taste."""
    error: bool
    """Whether a reader must end with an error: exit status 3 and one line."""


def make() -> Iterator[Hostile]:
    """Every hostile input."""
    link_type, records = read_frames(SOUND.read_bytes())
    yield from not_captures()
    yield from truncated(records)
    yield from damaged_headers(records)
    yield from damaged_records(records)
    yield from damaged_blocks(records)
    yield from damaged_packets(records, link_type)


def not_captures() -> Iterator[Hostile]:
    """Files that are something else."""
    yield Hostile("empty.pcap", b"", 0, error=True)
    yield Hostile("text.pcap", b"This is not a capture.\n" * 20, 0, error=True)
    yield Hostile("one-byte.pcap", b"\xd4", 0, error=True)
    yield Hostile("zeros.pcap", bytes(4096), 0, error=True)
    yield Hostile("noise.pcap", GARBAGE, 0, error=True)
    yield Hostile("json.pcap", b'{"flow_id":1,"community_id":"1:x"}\n', 0, error=True)
    yield Hostile("compressed-text.pcap.gz", gzip.compress(b"text\n" * 100, mtime=0), 0, error=True)
    yield Hostile("compressed-nothing.pcap.gz", gzip.compress(b"", mtime=0), 0, error=True)


def truncated(records: list[Record]) -> Iterator[Hostile]:
    """Sound captures that end too early, at every kind of place."""
    data = write_pcap(records)
    yield Hostile("no-records.pcap", data[:HEADER], 0, error=False)
    for length in (4, 12, HEADER - 1):
        yield Hostile(f"cut-in-file-header-{length}.pcap", data[:length], 0, error=True)
    ends = [HEADER]
    for record in records:
        ends.append(ends[-1] + RECORD_HEADER + len(record.data))
    for count in (0, 1, len(records) - 1):
        for extra, where in ((1, "record-header"), (RECORD_HEADER, "before-frame"), (RECORD_HEADER + 20, "frame")):
            yield Hostile(f"cut-in-{where}-after-{count}.pcap", data[: ends[count] + extra], count, error=True)
    packed = gzip.compress(data, mtime=0)
    yield Hostile("cut-in-gzip.pcap.gz", packed[: len(packed) // 2], None, error=True)
    blocks = write_pcapng([([Interface()], records)])
    for length in (11, 27, 30):
        yield Hostile(f"cut-in-section-header-{length}.pcapng", blocks[:length], 0, error=True)
    yield Hostile("cut-in-block.pcapng", blocks[:-7], len(records) - 1, error=True)


def damaged_headers(records: list[Record]) -> Iterator[Hostile]:
    """File headers that say something odd."""
    data = write_pcap(records)
    yield Hostile("unknown-link-type.pcap", data[:20] + struct.pack("<I", 9999) + data[24:], 0, error=True)
    yield Hostile(
        "link-type-with-fcs-bits.pcap", data[:20] + struct.pack("<I", 0x2400_0001) + data[24:], None, error=False
    )
    yield Hostile("version-99.pcap", data[:4] + struct.pack("<HH", 99, 0) + data[8:], 0, error=True)
    yield Hostile("snaplen-zero.pcap", data[:16] + struct.pack("<I", 0) + data[20:], len(records), error=False)
    yield Hostile("snaplen-huge.pcap", data[:16] + b"\xff\xff\xff\xff" + data[20:], len(records), error=False)


def damaged_records(records: list[Record]) -> Iterator[Hostile]:
    """Damage in the middle of a capture: what stands before it is always delivered."""
    half = len(records) // 2
    before, after = write_pcap(records[:half]), write_pcap(records[half:])[HEADER:]
    yield Hostile("garbage-in-the-middle.pcap", before + GARBAGE + after, None, error=True)
    for name, length in (("absurd", 0xFFFF_FFFF), ("large", 0x0100_0000)):
        head = struct.pack("<IIII", 1_700_000_000, 0, length, length)
        yield Hostile(f"{name}-captured-length.pcap", before + head + after, None, error=True)
    swapped = write_pcap(records[half:], order=">")
    yield Hostile("two-captures-concatenated.pcap", before + swapped, None, error=True)
    yield Hostile("zeros-at-the-end.pcap", write_pcap(records) + bytes(512), None, error=True)
    short = [Record(record.time_ns, record.data, 0) for record in records]
    yield Hostile("wire-length-zero.pcap", write_pcap(short), None, error=False)
    empty = [*records[:half], Record(records[half].time_ns, b"", 0), *records[half:]]
    yield Hostile("frame-without-bytes.pcap", write_pcap(empty), len(empty), error=False)


def damaged_blocks(records: list[Record]) -> Iterator[Hostile]:
    """pcapng blocks that do not hold what they say."""
    sound = write_pcapng([([Interface()], records)])
    yield Hostile("block-of-length-zero.pcapng", sound + struct.pack("<II", 6, 0) + bytes(4), len(records), error=True)
    yield Hostile(
        "block-of-absurd-length.pcapng", sound + struct.pack("<II", 6, 0xFFFF_FFF0) + bytes(64), None, error=True
    )
    yield Hostile("unknown-block.pcapng", sound + struct.pack("<III", 0x0BAD, 12, 12), len(records), error=False)
    stray = write_pcapng([([], []), ([Interface()], records)])
    yield Hostile("section-without-interface.pcapng", stray, len(records), error=False)
    odd = Record(records[0].time_ns, records[0].data, records[0].wire_length, 7)
    body = struct.pack("<IIIII", odd.interface, 0, 0, len(odd.data), odd.wire_length) + odd.data
    body += bytes(-len(body) % 4)
    packet = struct.pack("<II", 6, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
    yield Hostile("packet-of-unknown-interface.pcapng", sound + packet, None, error=True)
    lying = struct.pack("<IIIII", 0, 0, 0, 4000, 4000) + bytes(20)
    block = struct.pack("<II", 6, len(lying) + 12) + lying + struct.pack("<I", len(lying) + 12)
    yield Hostile("captured-length-beyond-block.pcapng", sound + block, None, error=True)
    resolution = write_pcapng([([Interface(resolution=0x7F)], [])])
    yield Hostile("absurd-clock-resolution.pcapng", resolution + sound, None, error=False)


def damaged_packets(records: list[Record], link_type: int) -> Iterator[Hostile]:
    """Sound files with packets that lie about themselves: all are read without an error."""
    frames = [record for record in records if record.data[12:14] in (b"\x08\x00", b"\x86\xdd")]

    def rewritten(name: str, position: int, value: bytes) -> Hostile:
        changed = [
            Record(
                frame.time_ns, frame.data[:position] + value + frame.data[position + len(value) :], frame.wire_length
            )
            for frame in frames
        ]
        return Hostile(name, write_pcap(changed, link_type=link_type), len(frames), error=False)

    yield rewritten("ip-version-15.pcap", 14, b"\xf5")
    yield rewritten("ip-header-length-0.pcap", 14, b"\x40")
    yield rewritten("ip-header-length-60.pcap", 14, b"\x4f")
    yield rewritten("ip-total-length-0.pcap", 16, b"\0\0")
    yield rewritten("ip-total-length-65535.pcap", 16, b"\xff\xff")
    yield rewritten("ip-total-length-below-header.pcap", 16, b"\0\x03")
    yield rewritten("tcp-data-offset-0.pcap", 14 + 20 + 12, b"\0")
    yield rewritten("tcp-data-offset-15.pcap", 14 + 20 + 12, b"\xf0")
    yield rewritten("tcp-option-length-0.pcap", 14 + 20 + 20, b"\x02\0")
    yield rewritten("ipv6-endless-extensions.pcap", 20, b"\0")
    nested = b"\x81\0\0\1" * 300
    tagged = [
        Record(frame.time_ns, frame.data[:12] + nested + frame.data[12:], len(frame.data) + 1200) for frame in frames
    ]
    yield Hostile("vlan-tags-300-deep.pcap", write_pcap(tagged), len(tagged), error=False)
    for length in (*range(0, 60, 3), 66, 80):
        cut = [record.cut(length) for record in records]
        yield Hostile(
            f"every-frame-cut-to-{length:02}.pcap", write_pcap(cut, snaplen=max(length, 1)), len(cut), error=False
        )
    backwards = [Record(2 * records[0].time_ns - record.time_ns, record.data, record.wire_length) for record in records]
    yield Hostile("time-runs-backwards.pcap", write_pcap(backwards), len(backwards), error=False)
    same = [Record(0, record.data, record.wire_length) for record in records]
    yield Hostile("no-time-at-all.pcap", write_pcap(same), len(same), error=False)
    last = [Record(0xFFFF_FFFF * 1_000_000_000, record.data, record.wire_length) for record in records]
    yield Hostile("time-of-2106.pcap", write_pcap(last), len(last), error=False)


def main(directory: str) -> None:
    """Write every input into a directory."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for hostile in make():
        (target / hostile.name).write_bytes(hostile.data)


if __name__ == "__main__":
    main(*sys.argv[1:])
