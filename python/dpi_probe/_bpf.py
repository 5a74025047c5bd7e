"""Filter expressions in tcpdump's language, compiled by libpcap to classic BPF.

The system's libpcap is used where there is one, else the copy that the `libpcap` package carries. It is loaded when the
first filter is compiled, and here only compiles: the programs run in the kernel or in `probe::capture::bpf`. Where it
captures too (`--capture pcap`), the data plane loads the same library.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import importlib.util
import os
import platform
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator

Instruction = tuple[int, int, int, int]

# PCAP_NETMASK_UNKNOWN: `ip broadcast` cannot be compiled without the network's mask.
_NETMASK_UNKNOWN = 0xFFFFFFFF
# BPF_MAXINSNS: neither the kernel nor `probe::capture::bpf` takes a longer program.
_MOST_INSTRUCTIONS = 4096
_OPTIMIZE = 1
# PCAP_ERROR_IFACE_NOT_UP.
_NOT_UP = -9
# PCAP_ERRBUF_SIZE.
_ERROR_BYTES = 256
# The keyword of pcap-filter(7).
_VLAN = re.compile(r"\bvlan\b")
# BPF_LD | BPF_ABS of a word, a half-word and a byte, and the least of the offsets by which they load what the kernel
# knows of a frame beside its bytes: SKF_LL_OFF (linux/filter.h).
_ABSOLUTE_LOADS = frozenset((0x20, 0x28, 0x30))
_LEAST_KERNEL_OFFSET = 2**32 - 0x20_0000
# libpcap before 1.8 compiles with global state.
_LOCK = threading.Lock()


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


def _bundled() -> str | None:
    """Path of the libpcap that the PyPI package `libpcap` carries for this machine."""
    package = importlib.util.find_spec("libpcap")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "_platform/linux" / platform.machine() / "tcpdump/libpcap.so"
    return str(path) if path.is_file() else None


def libraries() -> list[str]:
    """Names and paths of libpcap, best first; there may be none behind any of them."""
    candidates = ("libpcap.so.1", "libpcap.so.0.8", ctypes.util.find_library("pcap"), _bundled())
    return [candidate for candidate in candidates if candidate is not None]


@functools.cache
def _library() -> ctypes.CDLL:
    for candidate in libraries():
        try:
            library = ctypes.CDLL(candidate)
        except OSError:
            continue
        library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_create.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        library.pcap_create.restype = ctypes.c_void_p
        for name in ("pcap_activate", "pcap_datalink"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_int
        library.pcap_set_snaplen.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.pcap_set_snaplen.restype = ctypes.c_int
        library.pcap_statustostr.argtypes = [ctypes.c_int]
        library.pcap_statustostr.restype = ctypes.c_char_p
        library.pcap_close.argtypes = [ctypes.c_void_p]
        library.pcap_close.restype = None
        library.pcap_geterr.argtypes = [ctypes.c_void_p]
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_compile.argtypes = [
            ctypes.c_void_p,
            ctypes.POINTER(_Program),
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_uint32,
        ]
        library.pcap_compile.restype = ctypes.c_int
        library.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
        library.pcap_freecode.restype = None
        return library
    msg = "filters are compiled by libpcap, which is not installed: `apt install libpcap0.8` or `pip install libpcap`"
    raise ConfigError(msg)


# libpcap names link types by DLT numbers of its own, which on Linux differ from LINKTYPE numbers for these
# (pcap/dlt.h): ATM_RFC1483, RAW, and OpenBSD's number for RAW.
_DLT_OF_LINKTYPE = {100: 11, 101: 12, 14: 12}


@contextlib.contextmanager
def _handle(library: ctypes.CDLL, link_type: int, snaplen: int) -> Iterator[int]:
    """A `pcap_t` that captures nothing; `link_type` is libpcap's own number."""
    handle = library.pcap_open_dead(link_type, snaplen)
    if not handle:
        msg = f"libpcap gave no handle for link type {link_type}"
        raise ConfigError(msg)
    try:
        yield handle
    finally:
        library.pcap_close(handle)


@contextlib.contextmanager
def _live_handle(library: ctypes.CDLL, interface: str, snaplen: int) -> Iterator[int]:
    """A `pcap_t` of an interface. It captures as long as it is open; nothing is taken from it."""

    def refused(reason: bytes, kind: type[DpiProbeError] = ConfigError) -> DpiProbeError:
        return kind(
            f"a live filter with `vlan` is compiled for its interface, which must be up, and libpcap cannot open "
            f"{interface}: {reason.decode('utf-8', 'replace')}"
        )

    message = ctypes.create_string_buffer(_ERROR_BYTES)
    handle = library.pcap_create(os.fsencode(interface), message)
    if not handle:
        raise refused(message.value)
    try:
        library.pcap_set_snaplen(handle, snaplen)
        # What is above 0 is a warning.
        status = library.pcap_activate(handle)
        if status < 0:
            reason = library.pcap_geterr(handle) or library.pcap_statustostr(status)
            # It may be up in a moment, and no setting is wrong.
            raise refused(reason, DpiProbeError if status == _NOT_UP else ConfigError)
        yield handle
    finally:
        library.pcap_close(handle)


def _compile(library: ctypes.CDLL, handle: int, expression: str, link_type: int) -> list[Instruction]:
    program = _Program()
    text = expression.encode("utf-8", "surrogateescape")
    if library.pcap_compile(handle, ctypes.byref(program), text, _OPTIMIZE, _NETMASK_UNKNOWN) != 0:
        reason = library.pcap_geterr(handle).decode("utf-8", "replace")
        msg = f"filter {expression!r} (link type {link_type}): {reason}; the language is that of pcap-filter(7)"
        raise ConfigError(msg)
    if program.length > _MOST_INSTRUCTIONS:
        length = program.length
        library.pcap_freecode(ctypes.byref(program))
        msg = (
            f"the filter for link type {link_type} is a program of {length:,} instructions, and {_MOST_INSTRUCTIONS:,} "
            "are allowed; say it shorter, for instance by networks (`net 192.0.2.0/24`) instead of hosts"
        )
        raise ConfigError(msg)
    try:
        return [
            (each.code, each.jt, each.jf, each.k)
            for each in (program.instructions[index] for index in range(program.length))
        ]
    finally:
        library.pcap_freecode(ctypes.byref(program))


def compile_filter(
    expression: str, link_type: int, snaplen: int = 262_144, *, interface: str | None = None
) -> list[Instruction]:
    """Compile `expression` for frames of `link_type` (a LINKTYPE number).

    With `interface` the program is for the kernel, which runs it on that interface's frames: it may ask for what the
    kernel knows beside their bytes (the VLAN tag that it has taken out, whether a frame is sent or received). Without,
    it is for the bytes alone.

    Returns the program as (code, jump if true, jump if false, operand) tuples. Raises ConfigError with libpcap's own
    words where the expression is wrong or does not fit the link type, and where libpcap is missing; DpiProbeError where
    the interface is needed and down.
    """
    if "\0" in expression:
        msg = "the filter contains a NUL character"
        raise ConfigError(msg)
    library = _library()
    own_link_type = _DLT_OF_LINKTYPE.get(link_type, link_type)
    with _LOCK:
        # Only with an interface that it has opened does libpcap look for the tag where the kernel puts it.
        if interface is not None and _VLAN.search(expression):
            with _live_handle(library, interface, snaplen) as handle:
                # AF_PACKET leaves out link layers that libpcap captures; there are no tags in those.
                if library.pcap_datalink(handle) == own_link_type:
                    return _compile(library, handle, expression, link_type)
        with _handle(library, own_link_type, snaplen) as handle:
            program = _compile(library, handle, expression, link_type)
    if interface is None and any(code in _ABSOLUTE_LOADS and k >= _LEAST_KERNEL_OFFSET for code, _, _, k in program):
        msg = (
            f"filter {expression!r} (link type {link_type}): `inbound`, `outbound` and `ifindex` ask the kernel, which "
            "knows them of frames that it captures for af_packet and pcap alone"
        )
        raise ConfigError(msg)
    return program
