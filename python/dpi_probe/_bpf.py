"""Filter expressions in tcpdump's language, compiled by libpcap to classic BPF.

The system's libpcap is used where there is one, else the copy that the `libpcap` package carries. It is loaded when the
first filter is compiled, and here only compiles: the programs run in the kernel or in `probe::capture::bpf`. Where it
captures too (`--capture pcap`), the data plane loads the same library.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import platform
import threading
from pathlib import Path

from dpi_probe.errors import ConfigError

Instruction = tuple[int, int, int, int]

# PCAP_NETMASK_UNKNOWN: `ip broadcast` cannot be compiled without the network's mask.
_NETMASK_UNKNOWN = 0xFFFFFFFF
_OPTIMIZE = 1
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


def compile_filter(expression: str, link_type: int, snaplen: int = 262_144) -> list[Instruction]:
    """Compile `expression` for frames of `link_type` (a LINKTYPE number).

    Returns the program as (code, jump if true, jump if false, operand) tuples. Raises ConfigError with libpcap's own
    words where the expression is wrong or does not fit the link type, and where libpcap is missing.
    """
    if "\0" in expression:
        msg = "the filter contains a NUL character"
        raise ConfigError(msg)
    library = _library()
    with _LOCK:
        handle = library.pcap_open_dead(_DLT_OF_LINKTYPE.get(link_type, link_type), snaplen)
        if not handle:
            msg = f"libpcap gave no handle for link type {link_type}"
            raise ConfigError(msg)
        try:
            program = _Program()
            text = expression.encode("utf-8", "surrogateescape")
            if library.pcap_compile(handle, ctypes.byref(program), text, _OPTIMIZE, _NETMASK_UNKNOWN) != 0:
                reason = library.pcap_geterr(handle).decode("utf-8", "replace")
                msg = f"filter {expression!r} (link type {link_type}): {reason}; the language is that of pcap-filter(7)"
                raise ConfigError(msg)
            try:
                return [
                    (each.code, each.jt, each.jf, each.k)
                    for each in (program.instructions[index] for index in range(program.length))
                ]
            finally:
                library.pcap_freecode(ctypes.byref(program))
        finally:
            library.pcap_close(handle)
