"""Network interfaces as the kernel's netlink families tell them: rtnetlink, ethtool and netdev.

pyroute2 carries the sockets and the encoding. Of ethtool's messages it declares rings only; the others are declared
here after include/uapi/linux/ethtool_netlink.h and Documentation/netlink/specs/{ethtool,netdev}.yaml of Linux. Which
fields a card hashes is asked by ioctl: ethtool's netlink family tells it only since Linux 6.17.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket
from pyroute2.netlink.generic.ethtool import ethtool_rings_msg, ethtoolbitset, ethtoolheader

from dpi_probe.doctor.findings import Unseen

if TYPE_CHECKING:
    from collections.abc import Mapping

# IFF_UP and IFF_LOOPBACK of include/uapi/linux/if.h; ARPHRD_LOOPBACK of if_arp.h.
_IFF_UP = 0x1
_ARPHRD_LOOPBACK = 772
# RTN_UNICAST of include/uapi/linux/rtnetlink.h: not one of the routes that an address brings with it.
_RTN_UNICAST = 1
# Kinds of interfaces whose IFLA_LINK is the other end of a cable, and not what they stand on.
_CABLES = frozenset({"veth", "netkit"})
# What a driver answers that does not know the request, or a kernel that does not know the message.
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL})

# SIOCETHTOOL of include/uapi/linux/sockios.h; ETHTOOL_GRXFH, flow types and RXH_* of include/uapi/linux/ethtool.h.
_SIOCETHTOOL = 0x8946
_ETHTOOL_GRXFH = 0x29
_FLOW_TYPES = {"tcp4": 0x01, "udp4": 0x02, "tcp6": 0x05, "udp6": 0x06}
HASHED_PORTS = 1 << 6 | 1 << 7
# `struct ethtool_rxnfc`: command, flow type, fields; and room for the rest, which is neither read nor written here.
_RXNFC = struct.Struct("=IIQ 240x")

# Capabilities of a driver, `xdp-features` of the netdev family (Linux 6.3).
XDP_BASIC = 1 << 0
XDP_REDIRECT = 1 << 1
XDP_ZERO_COPY = 1 << 3


def _attributes(name: str, *members: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"ETHTOOL_A_{name}_{member}", kind) for member, kind in (("UNSPEC", "none"), *members))


class _Channels(genlmsg):  # type: ignore[misc]
    ethtoolheader = ethtoolheader
    nla_map = _attributes(
        "CHANNELS",
        ("HEADER", "ethtoolheader"),
        ("RX_MAX", "uint32"),
        ("TX_MAX", "uint32"),
        ("OTHER_MAX", "uint32"),
        ("COMBINED_MAX", "uint32"),
        ("RX_COUNT", "uint32"),
        ("TX_COUNT", "uint32"),
        ("OTHER_COUNT", "uint32"),
        ("COMBINED_COUNT", "uint32"),
    )


class _Coalesce(genlmsg):  # type: ignore[misc]
    ethtoolheader = ethtoolheader
    nla_map = _attributes(
        "COALESCE",
        ("HEADER", "ethtoolheader"),
        ("RX_USECS", "uint32"),
        ("RX_MAX_FRAMES", "uint32"),
        ("RX_USECS_IRQ", "uint32"),
        ("RX_MAX_FRAMES_IRQ", "uint32"),
        ("TX_USECS", "uint32"),
        ("TX_MAX_FRAMES", "uint32"),
        ("TX_USECS_IRQ", "uint32"),
        ("TX_MAX_FRAMES_IRQ", "uint32"),
        ("STATS_BLOCK_USECS", "uint32"),
        ("USE_ADAPTIVE_RX", "uint8"),
        ("USE_ADAPTIVE_TX", "uint8"),
    )


class _Features(genlmsg):  # type: ignore[misc]
    ethtoolheader = ethtoolheader
    ethtoolbitset = ethtoolbitset
    nla_map = _attributes(
        "FEATURES",
        ("HEADER", "ethtoolheader"),
        ("HW", "ethtoolbitset"),
        ("WANTED", "ethtoolbitset"),
        ("ACTIVE", "ethtoolbitset"),
        ("NOCHANGE", "ethtoolbitset"),
    )


class _ReceiveSideScaling(genlmsg):  # type: ignore[misc]
    ethtoolheader = ethtoolheader
    nla_map = _attributes(
        "RSS",
        ("HEADER", "ethtoolheader"),
        ("CONTEXT", "uint32"),
        ("HFUNC", "uint32"),
        ("INDIR", "cdata"),
        ("HKEY", "cdata"),
        ("INPUT_XFRM", "uint32"),
    )


class _Timestamping(genlmsg):  # type: ignore[misc]
    ethtoolheader = ethtoolheader
    ethtoolbitset = ethtoolbitset
    nla_map = _attributes(
        "TSINFO",
        ("HEADER", "ethtoolheader"),
        ("TIMESTAMPING", "ethtoolbitset"),
        ("TX_TYPES", "ethtoolbitset"),
        ("RX_FILTERS", "ethtoolbitset"),
        ("PHC_INDEX", "uint32"),
    )


class _Device(genlmsg):  # type: ignore[misc]
    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        ("NETDEV_A_DEV_XDP_ZC_MAX_SEGS", "uint32"),
    )


@dataclass(frozen=True)
class _Message:
    """One kind of ethtool message: how it is asked for and set."""

    layout: type
    prefix: str
    get: int
    set: int | None = None


_MESSAGES: dict[str, _Message] = {
    "rings": _Message(ethtool_rings_msg, "ETHTOOL_A_RINGS_", 15, 16),
    "channels": _Message(_Channels, "ETHTOOL_A_CHANNELS_", 17, 18),
    "coalesce": _Message(_Coalesce, "ETHTOOL_A_COALESCE_", 19, 20),
    "features": _Message(_Features, "ETHTOOL_A_FEATURES_", 11, 12),
    "rss": _Message(_ReceiveSideScaling, "ETHTOOL_A_RSS_", 38),
    "timestamping": _Message(_Timestamping, "ETHTOOL_A_TSINFO_", 25),
}


@dataclass(frozen=True)
class Link:
    """An interface as rtnetlink tells it."""

    name: str
    index: int
    kind: str
    """`veth`, `bridge`, `loopback`, …; empty for a device that no kind of virtual link made."""
    up: bool
    carrier: bool
    mtu: int
    addresses: int
    """How many addresses the interface has; link-local ones do not count."""
    master: int | None
    """Index of the bridge or bond that it is a port of."""
    xdp: str | None
    """How an XDP program is attached: `native`, `generic`, `offloaded`, `several`; None without one."""
    peer: int | None = None
    """Index of the other end of a veth, if it is in this network namespace."""
    uppers: tuple[str, ...] = ()
    """The interfaces of this network namespace that stand on it: VLANs, macvlans and the like."""


_XDP_MODES = {"xdp": "native", "xdpgeneric": "generic", "xdpoffload": "offloaded", "xdpmulti": "several"}


class Network:
    """Asks the kernel about the interfaces of this network namespace, and sets what ethtool can set."""

    def links(self) -> list[Link]:
        """All interfaces.

        Raises:
            Unseen: netlink cannot be used here.
        """
        try:
            with IPRoute() as route:
                addressed: dict[int, int] = {}
                for address in route.get_addr():
                    # RT_SCOPE_UNIVERSE and site; a link-local address alone makes no interface a host's own.
                    if address["scope"] < 253:
                        addressed[address["index"]] = addressed.get(address["index"], 0) + 1
                messages = list(route.get_links())
        except (NetlinkError, OSError) as error:
            raise Unseen(f"netlink: {_reason(error)}") from error
        uppers: dict[int, list[str]] = {}
        for message in messages:
            if (lower := _lower(message)) is not None:
                uppers.setdefault(lower, []).append(message.get_attr("IFLA_IFNAME"))
        return [_link(message, addressed, uppers) for message in messages]

    def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        return next((link for link in self.links() if link.name == name), None)

    def has_route(self, index: int) -> bool:
        """Whether the host sends by this interface, whichever table says so.

        The link-local and multicast routes that IPv6 gives to every interface do not count.

        Raises:
            Unseen: netlink cannot be used here.
        """
        try:
            with IPRoute() as route:
                return any(_leads_over(message, index) for message in route.get_routes())
        except (NetlinkError, OSError) as error:
            raise Unseen(f"routes: {_reason(error)}") from error

    def ethtool(self, index: int, what: str) -> dict[str, Any] | None:
        """The attributes of one ethtool message in lower case, or None where driver or kernel have no such thing.

        `features` and `timestamping` are sets of names: `active`, `hw` (those that can be changed), `timestamping`.

        Raises:
            Unseen: the kernel refuses to answer.
        """
        message = _MESSAGES[what]
        try:
            answers = _ask(
                "ethtool",
                message.layout,
                message.get,
                [f"{message.prefix}HEADER", {"attrs": [["ETHTOOL_A_HEADER_DEV_INDEX", index]]}],
            )
        except NetlinkError as error:
            if error.code in _UNSUPPORTED:
                return None
            raise Unseen(f"ethtool {what}: {os.strerror(error.code)}") from error
        except OSError as error:
            raise Unseen(f"ethtool {what}: {error.strerror or error}") from error
        result: dict[str, Any] = {}
        for answer in answers:
            for name, value, *_ in answer["attrs"]:
                if name.startswith(message.prefix) and not name.endswith("_HEADER"):
                    result[name.removeprefix(message.prefix).lower()] = _plain(value)
        return result

    def hash_fields(self, name: str) -> dict[str, int]:
        """Bits of the fields that receive-side scaling hashes, by ethtool's names of flow types (`tcp4`, `udp6`, …).

        Flow types of which the driver tells nothing are left out.

        Raises:
            Unseen: the kernel refuses to answer.
        """
        fields = {}
        for flow_type, number in _FLOW_TYPES.items():
            question = ctypes.create_string_buffer(_RXNFC.pack(_ETHTOOL_GRXFH, number, 0), _RXNFC.size)
            request = struct.pack("16sP16x", name.encode(), ctypes.addressof(question))
            try:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                    fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    continue
                raise Unseen(f"ethtool rx-flow-hash: {error.strerror or error}") from error
            # A driver without such a setting may answer that nothing is hashed.
            if told := _RXNFC.unpack(question.raw)[2]:
                fields[flow_type] = told
        return fields

    def set_ethtool(self, index: int, what: str, name: str, value: int | bool) -> None:
        """Set one attribute of `rings`, `channels` or `coalesce`, or switch one feature.

        Raises:
            OSError: the kernel or the driver refuses.
        """
        message = _MESSAGES[what]
        if message.set is None:
            raise ValueError(f"{what} cannot be set")
        if what == "features":
            bit: list[list[Any]] = [["ETHTOOL_A_BITSET_BIT_NAME", name]]
            if value:
                bit.append(["ETHTOOL_A_BITSET_BIT_VALUE", True])
            bits = {"attrs": [["ETHTOOL_A_BITSET_BITS_BIT", {"attrs": bit}]]}
            wanted: list[Any] = ["ETHTOOL_A_FEATURES_WANTED", {"attrs": [["ETHTOOL_A_BITSET_BITS", bits]]}]
        else:
            wanted = [f"{message.prefix}{name.upper()}", int(value)]
        header = [f"{message.prefix}HEADER", {"attrs": [["ETHTOOL_A_HEADER_DEV_INDEX", index]]}]
        try:
            _ask("ethtool", message.layout, message.set, header, wanted, flags=NLM_F_REQUEST | NLM_F_ACK)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error

    def xdp_features(self, index: int) -> int | None:
        """Bits of `xdp-features`, or None where the kernel (before 6.3) does not tell them.

        Raises:
            Unseen: the kernel refuses to answer.
        """
        try:
            answers = _ask("netdev", _Device, 1, ["NETDEV_A_DEV_IFINDEX", index])
        except NetlinkError as error:
            if error.code in _UNSUPPORTED:
                return None
            raise Unseen(f"netdev: {os.strerror(error.code)}") from error
        except OSError as error:
            raise Unseen(f"netdev: {error.strerror or error}") from error
        for answer in answers:
            features: int | None = answer.get_attr("NETDEV_A_DEV_XDP_FEATURES")
            return features
        return None


def _ask(family: str, layout: type, command: int, *attributes: list[Any], flags: int = NLM_F_REQUEST) -> list[Any]:
    kernel = GenericNetlinkSocket()
    # A family that the kernel lacks is an answer, not something to log.
    kernel.asyncore.module_err_level = "debug"
    try:
        kernel.bind(family, layout)
        message = layout()
        message["cmd"], message["version"] = command, 1
        message["attrs"] = list(attributes)
        return list(kernel.nlm_request(message, msg_type=kernel.prid, msg_flags=flags))
    finally:
        kernel.close()


def _plain(value: Any) -> Any:
    """A bitset as the set of its names, everything else as it is."""
    if not isinstance(value, dict) or "attrs" not in value:
        return value
    names: set[str] = set()
    listed = dict(entry[:2] for entry in value["attrs"])
    # Without a mask the bits that are listed are the set (ETHTOOL_A_BITSET_NOMASK); else each has a value.
    every = "ETHTOOL_A_BITSET_NOMASK" in listed
    for _, bit, *_ in listed.get("ETHTOOL_A_BITSET_BITS", {"attrs": []})["attrs"]:
        fields = dict(entry[:2] for entry in bit["attrs"])
        if every or fields.get("ETHTOOL_A_BITSET_BIT_VALUE"):
            names.add(fields["ETHTOOL_A_BITSET_BIT_NAME"])
    return names


def _reason(error: NetlinkError | OSError) -> str:
    """Why a list was not to be had; one that changed while the kernel made it may lack the one entry that matters."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error.args[1])


def _kind(message: Any) -> str | None:
    details = message.get_attr("IFLA_LINKINFO")
    kind: str | None = details.get_attr("IFLA_INFO_KIND") if details is not None else None
    return kind


def _other(message: Any) -> int | None:
    """What IFLA_LINK says, if it is an interface of this network namespace."""
    # Namespaces are numbered from 0.
    is_elsewhere = message.get_attr("IFLA_LINK_NETNSID") is not None
    index: int | None = message.get_attr("IFLA_LINK")
    return None if is_elsewhere else index


def _lower(message: Any) -> int | None:
    """Index of the interface that this one stands on, whatever its kind: a new kind takes frames as well."""
    index = _other(message)
    return None if _kind(message) in _CABLES or index == message["index"] else index


def _leads_over(message: Any, index: int) -> bool:
    """Whether a route is one by which the host sends over the interface."""
    if message["type"] != _RTN_UNICAST:
        return False
    hops = [hop["oif"] for hop in message.get_attr("RTA_MULTIPATH") or ()]
    if index not in (message.get_attr("RTA_OIF"), *hops):
        return False
    destination = message.get_attr("RTA_DST")
    if message["family"] != socket.AF_INET6 or destination is None:
        return True
    address = ipaddress.IPv6Address(destination)
    return not (address.is_link_local or address.is_multicast)


def _link(message: Any, addressed: Mapping[int, int], uppers: Mapping[int, list[str]]) -> Link:
    kind = _kind(message)
    if kind is None and message["ifi_type"] == _ARPHRD_LOOPBACK:
        kind = "loopback"
    xdp = message.get_attr("IFLA_XDP")
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        kind=kind or "",
        up=bool(message["flags"] & _IFF_UP),
        carrier=message.get_attr("IFLA_CARRIER") == 1,
        mtu=message.get_attr("IFLA_MTU"),
        addresses=addressed.get(message["index"], 0),
        master=message.get_attr("IFLA_MASTER"),
        xdp=_XDP_MODES.get(xdp.get_attr("IFLA_XDP_ATTACHED")) if xdp is not None else None,
        peer=_other(message) if kind == "veth" else None,
        uppers=tuple(uppers.get(message["index"], ())),
    )
