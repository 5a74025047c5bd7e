"""The same capture through other tools and through this one, alternating in one run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpi_probe.bench import machine, verdict
from dpi_probe.bench.processes import descendants, use_of
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    import resource
    from collections.abc import Callable

OURS = "dpi-probe"
# What a start costs is measured with a capture of a single UDP packet; over an empty one some tools wait for ever.
SHORTEST = bytes.fromhex(
    "d4c3b2a1020004000000000000000000ffff000001000000"  # pcap, Ethernet
    "00f15365000000003c0000003c000000"
    "02000000000b02000000000a0800"
    "4500001c0000400040116abd0a000001c6120001"
    "8000000900080000"
) + bytes(18)
START_TIMEOUT = 20.0
# Some tools need half a second to start; with fewer packets hardly more is left than that differs by.
LEAST_PACKETS = 100_000


@dataclass(frozen=True)
class Peer:
    """Another tool: how it is started over a capture, and how many flows it says it saw."""

    name: str
    does: str
    program: str
    arguments: Callable[[str, str], list[str]]
    """Of the capture's path and an empty folder."""
    install: str
    flows: Callable[[str, Path], int | None] | None
    """Of what it printed, and the folder that it wrote into; None where it makes no flow records."""
    timeout: float = 3600.0

    def path(self) -> str | None:
        """Where it is; None where it is not installed. `DPI_PROBE_PEER_NAME` names another place."""
        given = os.environ.get(f"DPI_PROBE_PEER_{self.name.upper()}")
        return given or shutil.which(self.program)


def _number(pattern: str) -> Callable[[str, Path], int | None]:
    """The last number that follows a pattern in what a tool printed."""

    def find(said: str, _folder: Path) -> int | None:
        numbers: list[str] = re.findall(pattern, said)
        return int(numbers[-1].replace(",", "")) if numbers else None

    return find


def _lines(said: str, _folder: Path) -> int | None:
    return sum(1 for line in said.splitlines() if " <-> " in line)


def _argus_flows(_said: str, folder: Path) -> int | None:
    """Of the file that argus wrote: each record begins with its type, its cause and its length in words of 4 bytes.

    A long flow has several records (argus_def.h, ARGUS_FAR), the first of them with the cause ARGUS_START.
    """
    written = folder / "out.argus"
    if not written.exists():
        return None
    flows = 0
    with written.open("rb") as file:
        while header := file.read(4):
            if len(header) < 4:
                return None
            kind, cause, words = struct.unpack(">BBH", header)
            if words == 0:
                return None
            flows += kind & 0xF0 == 0x10 and cause & 0xF0 == 0x10
            file.seek(4 * (words - 1), os.SEEK_CUR)
    return flows


NFSTREAM = """
import sys
from nfstream import NFStreamer
print("flows:", sum(1 for _ in NFStreamer(source=sys.argv[1], statistical_analysis=True, n_meters=1)))
"""

PEERS = (
    Peer(
        "nfstream", "flows, statistics, nDPI; Python", "python3",
        lambda capture, _folder: ["-c", NFSTREAM, capture],
        "a virtual environment with `pip install nfstream`; then DPI_PROBE_PEER_NFSTREAM=.../bin/python",
        _number(r"flows: (\d+)"),
    ),
    Peer(
        "ndpireader", "flows, nDPI", "ndpiReader",
        lambda capture, _folder: ["-i", capture],
        "apt-get install libndpi-bin",
        _number(r"Unique flows:\s+([\d,]+)"),
    ),
    Peer(
        "softflowd", "flows as NetFlow 9, no layer 7", "softflowd",
        # With a control socket, 1.1 may wait for somebody to connect to it before it looks at the file.
        lambda capture, folder: ["-r", capture, "-v", "9", "-n", "127.0.0.1:9", "-d", "-p", f"{folder}/pid",
                                 "-c", "none", "-m", "2000000"],
        "apt-get install softflowd",
        _number(r"Flows exported: (\d+)"),
    ),
    Peer(
        "argus", "two-way flow records, no layer 7", "argus",
        lambda capture, folder: ["-X", "-F", "/dev/null", "-r", capture, "-w", f"{folder}/out.argus"],
        "apt-get install argus-server",
        _argus_flows,
    ),
    Peer(
        "tshark", "conversations", "tshark",
        lambda capture, _folder: ["-n", "-q", "-r", capture, "-z", "conv,tcp", "-z", "conv,udp"],
        "apt-get install tshark",
        _lines,
    ),
    Peer(
        "mercury", "fingerprints, no flow records", "mercury",
        lambda capture, folder: ["-r", capture, "-f", f"{folder}/out.json"],
        "build https://github.com/cisco/mercury",
        None,
    ),
    Peer(
        "ipfixprobe", "flows, layer-7 plugins", "ipfixprobe",
        lambda capture, _folder: ["-i", f"pcap;file={capture}", "-s", "cache", "-p", "tls", "-p", "http", "-p", "dns",
                                  "-p", "quic", "-p", "pstats", "-o", "text;file=/dev/null"],
        "build https://github.com/CESNET/ipfixprobe (packages for RPM systems at copr CESNET/NEMEA)",
        # The table of its output plugins; the flows of the first, and only, are in the second column.
        _number(r"biflows[^\n]*\n\s*\d+\s+(\d+)"),
    ),
)  # fmt: skip


@dataclass
class Use:
    """What one run of a tool used."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    flows: int | None
    said: str


@dataclass
class Runs:
    """All runs of one tool."""

    name: str
    does: str
    makes_flows: bool = True
    start: float = 0.0
    """CPU seconds over a capture of a single packet."""
    uses: list[Use] = field(default_factory=list)
    failure: str | None = None

    def packets_per_cpu_second(self, packets: int) -> float | None:
        """By the median of the runs, the start taken off."""
        if self.failure or not self.uses:
            return None
        cpu = statistics.median(use.cpu_seconds for use in self.uses) - self.start
        return packets / cpu if cpu > 0 else None

    @property
    def within_noise(self) -> bool:
        """Whether the start, of which there is one measurement only, or chance may be most of what was measured."""
        if self.failure or not self.uses:
            return False
        cpu = [use.cpu_seconds for use in self.uses]
        left = statistics.median(cpu) - self.start
        return left < max(self.start / 2, 2 * (max(cpu) - min(cpu)))


def run_tool(command: list[str], folder: Path, timeout: float) -> Use:
    """Run one program to its end and measure it and its children.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was killed with all that it had started.
        subprocess.CalledProcessError: it ended with an error.
    """
    with (folder / "said").open("w+b") as output:
        begun = time.monotonic()
        # A session of its own, so that what it starts can be ended with it.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
        try:
            status, usage, peak = _wait_for(process, command, begun, timeout)
        except BaseException:
            # Also at Ctrl-C, of which another session does not hear.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    return Use(usage.ru_utime + usage.ru_stime, wall, peak, None, said)


def _wait_for(
    process: subprocess.Popen[bytes], command: list[str], begun: float, timeout: float
) -> tuple[int, resource.struct_rusage, int]:
    """Status, use and peak of memory of a program that ends in time."""
    # `wait4` tells what this one program used; `getrusage` would add up all that ended so far. But its peak of
    # memory begins with this process's own, from between fork and exec: memory is looked at meanwhile.
    peak = 0
    while True:
        peak = max(peak, sum(use_of(one).resident_bytes for one in descendants(process.pid)))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            return status, usage, peak
        if time.monotonic() - begun > timeout:
            raise subprocess.TimeoutExpired(command, timeout)
        time.sleep(0.02)


def ours() -> Peer:
    """This program, as a peer: every flow to records with statistics and layer 7, which are then counted."""
    return Peer(
        OURS, "flows, statistics, layer 7", sys.executable,
        lambda capture, folder: ["-m", "dpi_probe", "read", "--workers", "1", "--format", "arrow",
                                 "-o", f"{folder}/out.arrow", capture],
        "", lambda _said, folder: _arrow_rows(folder / "out.arrow"),
    )  # fmt: skip


def _arrow_rows(path: Path) -> int | None:
    import pyarrow as pa

    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as batches:
        return sum(int(batches.get_batch(number).num_rows) for number in range(batches.num_record_batches))


def compare(
    capture: Path, progress: Callable[[str, float], None], *, repeat: int, only: tuple[str, ...], command: str
) -> dict[str, Any]:
    """Run all that are installed and ourselves, in turn."""
    packets = count_packets(capture)
    if packets == 0:
        msg = f"{capture}: there is no packet in it"
        raise DpiProbeError(msg)
    before = machine.fingerprint()
    chosen = [peer for peer in PEERS if not only or peer.name in only]
    found = [(peer, path) for peer in chosen if (path := peer.path()) is not None and _works(peer, path)]
    names = {peer.name for peer, _ in found}
    missing = [{"name": peer.name, "install": peer.install} for peer in chosen if peer.name not in names]
    tools = [(ours(), sys.executable), *found]
    runs = {peer.name: Runs(peer.name, peer.does, makes_flows=peer.flows is not None) for peer, _ in tools}
    with tempfile.TemporaryDirectory(prefix="dpi-probe-peers-") as place:
        folder = Path(place)
        shortest = folder / "shortest.pcap"
        shortest.write_bytes(SHORTEST)
        for round_number in range(repeat + 1):
            for number, (peer, path) in enumerate(tools):
                progress(
                    f"{peer.name}, {'start' if round_number == 0 else f'run {round_number} of {repeat}'}",
                    (round_number * len(tools) + number) / (len(tools) * (repeat + 1)),
                )
                starting = round_number == 0
                _one(peer, path, runs[peer.name], shortest if starting else capture, folder, starting=starting)
    return {
        "format": verdict.FORMAT,
        "kind": "peers",
        "command": command,
        "machine": before,
        "capture": {"name": capture.name, "bytes": capture.stat().st_size, "packets": packets},
        "repeat": repeat,
        "tools": [_summary(one, packets, runs[OURS]) for one in runs.values()],
        "missing": missing,
    }


def _works(peer: Peer, path: str) -> bool:
    """Whether Python has the module, where a tool is one."""
    if peer.name != "nfstream":
        return True
    done = subprocess.run([path, "-c", "import nfstream"], capture_output=True, check=False)
    return done.returncode == 0


def _one(peer: Peer, path: str, runs: Runs, capture: Path, folder: Path, *, starting: bool) -> None:
    """Run a tool once; a failure is kept, and the tool left out from then on."""
    if runs.failure is not None:
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        own = Path(place)
        try:
            timeout = START_TIMEOUT if starting else peer.timeout
            use = run_tool([path, *peer.arguments(str(capture.resolve()), place)], own, timeout)
            use.flows = None if starting or peer.flows is None else peer.flows(use.said, own)
        except subprocess.CalledProcessError as error:
            # Where a tool cannot read a single packet, or waits for more, its start counts as nothing.
            if not starting:
                runs.failure = f"status {error.returncode}: {(error.output or '').strip()[-200:]}"
            return
        except subprocess.TimeoutExpired:
            if not starting:
                runs.failure = f"did not end within {timeout:.0f} s"
            return
    if starting:
        runs.start = use.cpu_seconds
    else:
        runs.uses.append(use)


def _summary(runs: Runs, packets: int, own: Runs) -> dict[str, Any]:
    rate, best = runs.packets_per_cpu_second(packets), own.packets_per_cpu_second(packets)
    return {
        "name": runs.name,
        "does": runs.does,
        "packets_per_cpu_second": rate,
        "ratio": best / rate if rate and best else None,
        "cpu_seconds": [use.cpu_seconds for use in runs.uses],
        "start_cpu_seconds": runs.start,
        "wall_seconds": [use.wall_seconds for use in runs.uses],
        "peak_bytes": max((use.peak_bytes for use in runs.uses), default=None),
        "flows": runs.uses[-1].flows if runs.uses else None,
        "makes_flows": runs.makes_flows,
        "within_noise": runs.within_noise,
        "failure": runs.failure,
    }


def count_packets(capture: Path) -> int:
    """Frames of a capture, as `dpi_probe.read` counts them."""
    from dpi_probe import read

    flows = read(capture)
    for _ in flows:
        pass
    delivered = flows.accounts["frames_delivered"]
    return delivered if isinstance(delivered, int) else 0
