"""The features of a record (profile `full`), by the names and definitions of `Features`.

A packet's time is the latest time stamp of the record up to and including it. What is not whole is made of whole
numbers and rounded once; the two dispersions are sums of quotients that are rounded each.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tests.oracle.decode import TCP
from tests.oracle.statistics import SQUARES_LIMIT, mean, root, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.oracle.record import Observation

_MILLISECOND, _SECOND = 1_000_000, 1_000_000_000
_SPLT_PACKETS, _BURSTS_LISTED = 20, 15
_FLAGS = {"fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10, "urg": 0x20, "ece": 0x40, "cwr": 0x80}
_KURTOSIS_LIMIT = 1 << 20
_BINS = (16, 32, 64, 128, 256, 512, 1024)

Timed = tuple[int, "Observation"]
"""A packet with its time."""


def features(seen: Sequence[Observation], protocol: int) -> dict[str, Any]:
    """The members; those that are null are left out."""
    timed = list(zip(itertools.accumulate((one.time_ns for one in seen), max), seen, strict=True))
    members = _payload(seen) | _times([time for time, _ in timed])
    for suffix, forward in (("fwd", True), ("rev", False)):
        some = [(time, one) for time, one in timed if one.forward == forward]
        members |= {f"{name}_{suffix}{unit}": value for (name, unit), value in _side(some, timed[0][0]).items()}
        if protocol == TCP:
            members |= {f"tcp_{name}_packets_{suffix}": _flagged(some, flag) for name, flag in _FLAGS.items()}
    for suffix, forward in (("fwd", True), ("rev", False)):
        bulks = [run for run in _bulks(timed) if run[0][1].forward == forward]
        members[f"bulks_{suffix}"] = len(bulks)
        members[f"bulk_packets_{suffix}"] = sum(map(len, bulks))
        members[f"bulk_bytes_{suffix}"] = sum(_bytes(bulk) for bulk in bulks)
        members[f"bulk_duration_{suffix}_ns"] = sum(bulk[-1][0] - bulk[0][0] for bulk in bulks)
    first = seen[:_SPLT_PACKETS]
    members["splt_payload_lengths"] = [one.packet.payload_length for one in first]
    if protocol == TCP:
        members["splt_tcp_flags"] = [0 if one.packet.tcp is None else one.packet.tcp.flags for one in first]
    return {name: value for name, value in members.items() if value is not None}


def _payload(seen: Sequence[Observation]) -> dict[str, Any]:
    """The payload lengths as a series."""
    lengths = [one.packet.payload_length for one in seen]
    members: dict[str, Any] = {}
    forward, reverse = ([one.packet.payload_length for one in seen if one.forward == way] for way in (True, False))
    for suffix, some in (("", lengths), ("_fwd", forward), ("_rev", reverse)):
        names = ("min", "mean", "max", "stddev")
        members |= {
            f"payload_length_{name}{suffix}": value
            for name, value in zip(names, summary(some) or (None,) * 4, strict=True)
        }
    squares = sum(length**2 for length in lengths)
    if squares < SQUARES_LIMIT:
        members["payload_length_rms"] = root(Fraction(squares, len(lengths)))
    members["payload_length_dispersion"] = _dispersion(lengths)
    if len(lengths) > 1:
        changes = sum(one != other for one, other in itertools.pairwise(lengths))
        members["payload_length_switching_ratio"] = changes / (len(lengths) - 1)
    # Distances from the mean, times the number of packets, which cancels out.
    count, total = len(lengths), sum(lengths)
    second, fourth = (sum((count * length - total) ** power for length in lengths) for power in (2, 4))
    if second and max(lengths) < _KURTOSIS_LIMIT:
        members["payload_length_kurtosis"] = count * fourth / second**2
    return members


def _dispersion(values: Sequence[int]) -> float | None:
    """The mean distance of each value but the first from the mean of those before it."""
    if len(values) < 2:
        return None
    before = enumerate(zip(itertools.accumulate(values), values[1:], strict=False), 1)
    distances = (abs(value * count - total) / count for count, (total, value) in before)
    return math.fsum(distances) / (len(values) - 1)


def _times(times: Sequence[int]) -> dict[str, Any]:
    """Subflows, active and idle periods, and the times between packets as a series."""
    intervals = [later - earlier for earlier, later in itertools.pairwise(times)]
    members: dict[str, Any] = {
        "relative_time_mean_ns": mean([time - times[0] for time in times]),
        "inter_arrival_dispersion_ns": _dispersion(intervals),
        "subflows": 1 + sum(interval > _SECOND for interval in intervals),
    }
    if len(intervals) > 1 and max(intervals) > min(intervals):
        spread = max(intervals) - min(intervals)
        members["inter_arrival_distribution"] = members["inter_arrival_dispersion_ns"] / spread
    idle = [interval for interval in intervals if interval > 5 * _SECOND]
    members["idle_periods"] = len(idle)
    active = [[times[0]]]
    for time, interval in zip(times[1:], intervals, strict=True):
        if interval > 5 * _SECOND:
            active.append([])
        active[-1].append(time)
    for kind, durations in (("idle", idle), ("active", [period[-1] - period[0] for period in active])):
        for name, value in zip(("min", "mean", "max", "stddev"), summary(durations) or (None,) * 4, strict=True):
            members[f"{kind}_{name}_ns"] = value
    return members


def _side(some: Sequence[Timed], start: int) -> dict[tuple[str, str], Any]:
    """What is of one direction, by name and unit, but bulks and flags."""
    payload = [(time, one) for time, one in some if one.packet.payload_length]
    intervals = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(payload)]
    bursts = [run for run in _runs(payload, lambda interval: interval < _SECOND) if len(run) >= 3]
    listed = bursts[:_BURSTS_LISTED]
    return {
        ("payload_packets", ""): len(payload),
        ("header_length_min", ""): min(
            (one.packet.ip_length - one.packet.payload_length for _, one in some), default=None
        ),
        ("payload_length_histogram", ""): _histogram(one.packet.payload_length for _, one in payload),
        ("payload_interval_histogram", ""): _histogram(interval // _MILLISECOND for interval in intervals),
        ("bursts", ""): len(bursts),
        ("burst_packets", ""): [len(burst) for burst in listed],
        ("burst_bytes", ""): [_bytes(burst) for burst in listed],
        ("burst_starts", "_ns"): [burst[0][0] - start for burst in listed],
        ("burst_ends", "_ns"): [burst[-1][0] - start for burst in listed],
    }


def _flagged(some: Sequence[Timed], flag: int) -> int:
    return sum(bool(one.packet.tcp.flags & flag) for _, one in some if one.packet.tcp is not None)


def _bytes(run: Sequence[Timed]) -> int:
    return sum(one.packet.payload_length for _, one in run)


def _runs(packets: Sequence[Timed], together: Any) -> Iterator[list[Timed]]:
    """Packets, cut where the time between two of them is not one for which they stay together."""
    run = list(packets[:1])
    for before, packet in itertools.pairwise(packets):
        if not together(packet[0] - before[0]):
            yield run
            run = []
        run.append(packet)
    if run:
        yield run


def _bulks(timed: Sequence[Timed]) -> list[list[Timed]]:
    payload = [(time, one) for time, one in timed if one.packet.payload_length]
    ways = (list(some) for _, some in itertools.groupby(payload, lambda packet: packet[1].forward))
    runs = (run for way in ways for run in _runs(way, lambda interval: interval <= _SECOND))
    return [run for run in runs if len(run) >= 4]


def _histogram(values: Iterable[int]) -> list[int]:
    bins = [0] * (len(_BINS) + 1)
    for value in values:
        bins[sum(value >= limit for limit in _BINS)] += 1
    return bins
