"""From the packets of a record to its columns, by the names and definitions of `FlowRecord`."""

from __future__ import annotations

import datetime as dt
import ipaddress
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.oracle.community_id import community_id
from tests.oracle.decode import TCP
from tests.oracle.features import features
from tests.oracle.statistics import summary

if TYPE_CHECKING:
    from tests.oracle.decode import Address, Packet
    from tests.oracle.meter import Flow

SPLT_PACKETS = 20


@dataclass
class Observation:
    """A packet as its flow sees it."""

    packet: Packet
    forward: bool
    retransmission: bool = False
    out_of_order: bool = False

    @property
    def time_ns(self) -> int:
        """When it was captured."""
        return self.packet.frame.time_ns


def gaps(seen: list[Observation]) -> list[int]:
    """By how much each packet but the first is later than all before it, in capture order; 0 where it is not."""
    times = [one.time_ns for one in seen]
    return [max(time - latest, 0) for latest, time in zip(itertools.accumulate(times, max), times[1:], strict=False)]


def time_text(time_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)  # noqa: DTZ001 - UTC throughout
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def address_text(address: Address) -> str:
    """RFC 5952, of which §5 has IPv4-mapped addresses end in the IPv4 address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(address) if mapped is None else f"::ffff:{mapped}"


def mac_text(mac: bytes | None) -> str | None:
    """A MAC address with colons."""
    return None if mac is None else ":".join(f"{byte:02x}" for byte in mac)


def make_record(flow: Flow, reason: str, *, full: bool = False) -> dict[str, Any]:
    """The columns of the flow's present record, with those of profile `full` if asked for; null ones are left out."""
    record = _identity(flow, reason)
    record.update(_counters(flow.seen))
    record["icmp_errors"] = flow.icmp_errors
    record.update(_statistics(flow.seen))
    for suffix, seen in _directions(flow.seen):
        if seen:
            record[f"ttl_min_{suffix}"] = min(one.packet.ttl for one in seen)
            record[f"ttl_max_{suffix}"] = max(one.packet.ttl for one in seen)
    if flow.key[1] == TCP:
        record.update(_tcp(flow))
        if full:
            record |= flow.segments.columns()
            record |= {"tcp_simultaneous_open": flow.simultaneous, "tcp_ports_reused": flow.reused}
    first = flow.seen[:SPLT_PACKETS]
    record["splt_lengths"] = [one.packet.ip_length for one in first]
    record["splt_directions"] = [1 if one.forward else -1 for one in first]
    record["splt_times_ns"] = [0, *gaps(first)]
    if full:
        record["features"] = features(flow.seen, flow.key[1])
    return {name: value for name, value in record.items() if value is not None}


def _directions(seen: list[Observation]) -> list[tuple[str, list[Observation]]]:
    return [("fwd", [one for one in seen if one.forward]), ("rev", [one for one in seen if not one.forward])]


def _identity(flow: Flow, reason: str) -> dict[str, Any]:
    seen, opening = flow.seen, flow.first
    first_forward = (opening.source.packed, opening.source_port) == flow.initiator
    source, destination = (
        (opening.source, opening.destination) if first_forward else (opening.destination, opening.source)
    )
    ports = (opening.source_port, opening.destination_port)
    source_port, destination_port = ports if first_forward else ports[::-1]
    macs = (mac_text(opening.source_mac), mac_text(opening.destination_mac))
    source_mac, destination_mac = macs if first_forward else macs[::-1]
    if flow.icmp is not None:
        identifier = community_id(opening.protocol, opening.source, opening.destination, *flow.icmp, icmp=True)
    else:
        identifier = community_id(opening.protocol, source, destination, source_port, destination_port)
    return {
        "community_id": identifier,
        "start_time": time_text(seen[0].time_ns),
        "end_time": time_text(max(one.time_ns for one in seen)),
        "ip_version": opening.version,
        "ip_protocol": opening.protocol,
        "src_ip": address_text(source),
        "src_port": source_port,
        "dst_ip": address_text(destination),
        "dst_port": destination_port,
        "direction_basis": flow.basis,
        "end_reason": reason,
        "interim_number": flow.interim,
        "src_mac": source_mac,
        "dst_mac": destination_mac,
        "vlan_ids": opening.vlans or None,
        "tunnels": opening.tunnels or None,
        "tunnel_id": opening.tunnel_id,
        "key_ambiguous": len(flow.scopes) > 1,
    }


def _counters(seen: list[Observation]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for suffix, part in _directions(seen):
        columns[f"packets_{suffix}"] = len(part)
        columns[f"bytes_{suffix}"] = sum(one.packet.ip_length for one in part)
        columns[f"wire_bytes_{suffix}"] = sum(one.packet.frame.wire_length for one in part)
        columns[f"payload_bytes_{suffix}"] = sum(one.packet.payload_length for one in part)
    columns["fragments"] = sum(one.packet.fragment is not None for one in seen)
    columns["checksum_errors"] = sum(one.packet.bad_checksum for one in seen)
    return columns


def _statistics(seen: list[Observation]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for suffix, part in [("", seen), *((f"_{name}", some) for name, some in _directions(seen))]:
        lengths = summary([one.packet.ip_length for one in part])
        if lengths:
            names = ("min", "mean", "max", "stddev")
            columns |= {f"packet_length_{name}{suffix}": value for name, value in zip(names, lengths, strict=True)}
        times = summary(gaps(part))
        if times:
            names = ("min", "mean", "max", "stddev")
            columns |= {f"inter_arrival_{name}{suffix}_ns": value for name, value in zip(names, times, strict=True)}
    return columns


def _tcp(flow: Flow) -> dict[str, Any]:
    """Counts of the record; what the opening segments said, which all records of the flow repeat."""
    columns: dict[str, Any] = {
        "tcp_handshake_rtt_server_ns": flow.handshake.server_round_trip,
        "tcp_handshake_rtt_client_ns": flow.handshake.client_round_trip,
    }
    for (suffix, part), side in zip(_directions(flow.seen), flow.sides, strict=True):
        columns[f"tcp_retransmissions_{suffix}"] = sum(one.retransmission for one in part)
        columns[f"tcp_out_of_order_{suffix}"] = sum(one.out_of_order for one in part)
        flags = 0
        for one in part:
            flags |= one.packet.tcp.flags if one.packet.tcp is not None else 0
        columns[f"tcp_flags_{suffix}"] = flags
        columns[f"tcp_initial_window_{suffix}"] = side.initial_window
        columns[f"tcp_mss_{suffix}"] = side.segment_size
    return columns
