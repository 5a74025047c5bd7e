#!/usr/bin/env python3
"""Fuzz every target until it has had its CPU minutes, and write down what came of it.

    tools/fuzz.py [--minutes 30] [--corpus DIRECTORY] [--jobs 1] [TARGET ...]

A campaign goes on where the last one stopped: what each target has had is kept in `fuzz/campaign.json`, and
`docs/reference/fuzzing.md` shows it. It begins with seeds from captures: files as they are, their frames, and the
payload of their flows in the forms that `fuzz/fuzz_targets/l7_support.rs` and `streams.rs` read. A finding stays in
`fuzz/artifacts` and stops its target; run with `--again TARGET` once it is mended.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime as dt
import hashlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.oracle import capture  # noqa: E402
from tests.oracle.decode import TCP, UDP, NoFlowError, Packet, decode  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

FUZZ = ROOT / "fuzz"
STATE = FUZZ / "campaign.json"
PAGE = ROOT / "docs" / "reference" / "fuzzing.md"
SUFFIXES = (".pcap", ".pcapng", ".cap", ".gz")
MOST_SEEDS = 400
MOST_FILE_BYTES, MOST_FLOW_BYTES, MOST_PIECES = 1 << 16, 8192, 40
# More for one input is a finding.
TIMEOUT_SECONDS = 20
_DISCARD_PORT = 9
# `PORTS` of fuzz_targets/streams.rs.
_STREAM_PORTS = (80, 443, 22, 25, 53, 3306, 1080, _DISCARD_PORT)
_FINDINGS = ("crash-", "leak-", "timeout-", "oom-")
# The status of libFuzzer after SIGINT.
_INTERRUPTED = 72
_CALL = re.compile(r"check\(data, (\d+), (true|false)\)")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Standing:
    """What a target has had so far."""

    cpu_seconds: float = 0.0
    executions: int = 0
    coverage: int = 0
    findings: int = 0
    date: str = ""


class Campaign:
    """The standing of all targets; survives in a file."""

    def __init__(self) -> None:
        """Read what is known."""
        known = json.loads(STATE.read_text()) if STATE.exists() else {}
        self._standings = {name: Standing(**values) for name, values in known.items()}
        self._lock = threading.Lock()

    def of(self, target: str) -> Standing:
        """What `target` has had."""
        return self._standings.get(target, Standing())

    def note(self, target: str, standing: Standing) -> None:
        """Keep what `target` has had now."""
        with self._lock:
            self._standings[target] = standing
            STATE.write_text(json.dumps({name: asdict(value) for name, value in self._standings.items()}, indent=1))


def targets() -> dict[str, tuple[int, bool] | None]:
    """Every target, and for layer 7 the port and whether it is a stream."""
    found: dict[str, tuple[int, bool] | None] = {}
    for path in sorted((FUZZ / "fuzz_targets").glob("*.rs")):
        text = path.read_text()
        if "fuzz_target!" in text:
            call = _CALL.search(text)
            found[path.stem] = (int(call[1]), call[2] == "true") if call else None
    return found


def _captures(places: list[pathlib.Path]) -> Iterator[pathlib.Path]:
    for place in places:
        for path in sorted(place.rglob("*")):
            if path.suffix in SUFFIXES and path.stat().st_size <= MOST_FILE_BYTES:
                yield path


def _link_types() -> list[int]:
    """The numbers of `LinkType::SUPPORTED`, in order: a frame's first byte chooses one."""
    table = (ROOT / "crates/wire/src/link/types.rs").read_text()
    return [int(number) for number in re.findall(r"^    [A-Z0-9_]+ = (\d+), \"", table, re.MULTILINE)]


def _of_flow(pieces: list[tuple[bool, Packet]], layer7: dict[str, tuple[int, bool]]) -> Iterator[tuple[str, bytes]]:
    """Seeds of a flow, each with its target."""
    first = pieces[0][1]
    is_stream = first.protocol == TCP
    if is_stream:
        yield "streams", _segments(pieces)
    data = b"".join(
        bytes([not forward]) + len(packet.payload).to_bytes(2, "big") + packet.payload
        for forward, packet in pieces[:MOST_PIECES]
    )[:MOST_FLOW_BYTES]
    for name, (port, stream) in layer7.items():
        if stream == is_stream and port in (first.source_port, first.destination_port, _DISCARD_PORT):
            yield name, data


def seeds(places: list[pathlib.Path]) -> dict[str, set[bytes]]:
    """Seeds by target."""
    layer7 = {name: what for name, what in targets().items() if what is not None}
    supported = _link_types()
    made: dict[str, set[bytes]] = defaultdict(set)
    for path in _captures(places):
        made["capture_file"].add(path.read_bytes())
        flows: dict[object, list[tuple[bool, Packet]]] = defaultdict(list)
        try:
            for frame in capture.read(path):
                if frame.link_type in supported:
                    made["decode"].add(bytes([supported.index(frame.link_type), 0, 0]) + frame.data[:2048])
                try:
                    packet = decode(frame)
                except NoFlowError:
                    continue
                if packet.payload and packet.protocol in (TCP, UDP) and packet.fragment is None:
                    ends = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
                    key = (packet.protocol, frozenset(ends))
                    first = flows[key][0][1] if flows[key] else packet
                    forward = (first.source, first.source_port) == ends[0]
                    flows[key].append((forward, packet))
        except (ValueError, OSError, EOFError, IndexError) as error:
            # Damaged captures are seeds for reading files all the same.
            print(f"{path.name}: {error}", file=sys.stderr)
        for pieces in flows.values():
            for name, data in _of_flow(pieces, layer7):
                made[name].add(data)
    return made


def _segments(pieces: list[tuple[bool, Packet]]) -> bytes:
    """A connection in the form that `fuzz_targets/streams.rs` reads: between a handshake and its end."""
    first = pieces[0][1]
    known = [port for port in (first.source_port, first.destination_port) if port in _STREAM_PORTS]
    port = _STREAM_PORTS.index(known[0] if known else _DISCARD_PORT) << 2
    client, server = port, port | 2

    def segment(kind: int, flags: int, payload: bytes = b"") -> bytes:
        return bytes([kind, flags, 0, 64, 1]) + len(payload).to_bytes(2, "big") + payload

    data = b"".join(
        segment(client if forward else server, 0x18, packet.payload[:1460]) for forward, packet in pieces[:MOST_PIECES]
    )
    begin = segment(client, 0x02) + segment(server, 0x12) + segment(client, 0x10)
    return begin + data[:MOST_FLOW_BYTES] + segment(client, 0x11) + segment(server, 0x11)


def sow(places: list[pathlib.Path]) -> None:
    """Write the seeds where the fuzzer looks for them; the shortest ones where there are many."""
    for name, data in seeds(places).items():
        place = FUZZ / "corpus" / name
        place.mkdir(parents=True, exist_ok=True)
        for seed in sorted(data, key=lambda seed: (len(seed), seed))[:MOST_SEEDS]:
            (place / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)


def _cpu_seconds(process: int) -> float:
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _ends_in_time(binary: pathlib.Path, data: pathlib.Path) -> bool:
    """Whether an input takes less than `TIMEOUT_SECONDS` of CPU time; libFuzzer measures by the wall clock."""
    process = subprocess.Popen([binary, data, "-timeout=0"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    resource.prlimit(process.pid, resource.RLIMIT_CPU, (TIMEOUT_SECONDS, TIMEOUT_SECONDS))
    return process.wait() == 0


def _findings(binary: pathlib.Path, artifacts: pathlib.Path) -> int:
    """How many findings there are, without those that a busy machine made."""
    for path in artifacts.glob("timeout-*"):
        if _ends_in_time(binary, path):
            path.unlink()
    return sum(path.name.startswith(_FINDINGS) for path in artifacts.iterdir())


def run(target: str, minutes: float, campaign: Campaign) -> Standing:
    """Fuzz a target until it has had `minutes` of CPU time, or finds something."""
    binary = next((FUZZ / "target").glob(f"*/release/{target}"))
    corpus, artifacts = FUZZ / "corpus" / target, FUZZ / "artifacts" / target
    for place in (corpus, artifacts):
        place.mkdir(parents=True, exist_ok=True)
    while campaign.of(target).cpu_seconds < minutes * 60 and not campaign.of(target).findings:
        status = _run_once(target, binary, minutes, campaign)
        log = artifacts / "log"
        if status != _INTERRUPTED and not campaign.of(target).findings and "libFuzzer: timeout" not in log.read_text():
            msg = f"{target} ended by itself with status {status}; see {log}"
            raise RuntimeError(msg)
    return campaign.of(target)


def _run_once(target: str, binary: pathlib.Path, minutes: float, campaign: Campaign) -> int:
    """Fuzz until the target has had its time or the fuzzer ends; returns its status."""
    before = campaign.of(target)
    corpus, artifacts = FUZZ / "corpus" / target, FUZZ / "artifacts" / target
    log = artifacts / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, corpus, f"-artifact_prefix={artifacts}/", f"-timeout={TIMEOUT_SECONDS}", "-print_final_stats=1"],
            stderr=output,
            stdout=output,
        )
        spent = 0.0
        try:
            while process.poll() is None:
                spent = _cpu_seconds(process.pid)
                if before.cpu_seconds + spent >= minutes * 60:
                    process.send_signal(signal.SIGINT)
                    process.wait()
                    break
                time.sleep(1)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
            text = log.read_text(errors="replace")
            # Each line of progress begins with the number of executions; one that is killed has no final statistics.
            executions = re.findall(r"^#(\d+)|stat::number_of_executed_units: (\d+)", text, re.MULTILINE)
            coverage = re.findall(r"cov: (\d+)", text)
            standing = Standing(
                cpu_seconds=before.cpu_seconds + spent,
                executions=before.executions + max((int(one or other) for one, other in executions), default=0),
                coverage=max(before.coverage, int(coverage[-1] if coverage else 0)),
                findings=_findings(binary, artifacts),
                date=dt.datetime.now(dt.UTC).date().isoformat(),
            )
            campaign.note(target, standing)
    return process.returncode


def page(campaign: Campaign) -> str:
    """The standing of all targets as a page of the reference."""
    lines = [
        "# Fuzzing",
        "",
        "What each target of `fuzz/fuzz_targets` has had, with AddressSanitizer, overflow checks and debug",
        "assertions. Each run begins with the inputs that were found so far. `make fuzz-campaign` goes on with it and",
        "rewrites this page; what it finds gets a test beside the code when it is mended.",
        "",
        "| target | CPU minutes | executions | code edges | open findings | last |",
        "|---|---|---|---|---|---|",
    ]
    for name in targets():
        had = campaign.of(name)
        lines.append(
            f"| {name} | {had.cpu_seconds / 60:.1f} | {had.executions:,} | {had.coverage:,} "
            f"| {had.findings} | {had.date or 'never'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the campaign; 1 with open findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="only these (default: all)")
    parser.add_argument("--minutes", type=float, default=30, help="CPU minutes that each target is to have in all")
    parser.add_argument("--corpus", type=pathlib.Path, help="captures to make seeds of, beside those of tests/corpus")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--again", action="append", default=[], metavar="TARGET", help="forget what TARGET has had")
    arguments = parser.parse_args()
    known = targets()
    chosen = arguments.targets or list(known)
    if unknown := sorted({*chosen, *arguments.again} - known.keys()):
        parser.error(f"{unknown[0]} is no target; there are {', '.join(known)}")
    campaign = Campaign()
    for name in arguments.again:
        campaign.note(name, Standing())
        for path in (FUZZ / "artifacts" / name).glob("*-*"):
            path.unlink()
    environment = {**os.environ, "RUSTC_BOOTSTRAP": "1"}
    subprocess.run(["cargo", "fuzz", "build"], cwd=ROOT, env=environment, check=True)
    sow([ROOT / "tests" / "corpus", *([arguments.corpus] if arguments.corpus else [])])
    due = [
        name
        for name in chosen
        if not campaign.of(name).findings and campaign.of(name).cpu_seconds < arguments.minutes * 60
    ]
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(run, name, arguments.minutes, campaign): name for name in due}
        for done in concurrent.futures.as_completed(running):
            had = done.result()
            print(
                f"{running[done]}: {had.cpu_seconds / 60:.1f} CPU minutes, {had.executions:,} executions, "
                f"{had.coverage:,} edges, {had.findings} findings",
                flush=True,
            )
            PAGE.write_text(page(campaign))
    PAGE.write_text(page(campaign))
    return int(any(campaign.of(name).findings for name in chosen))


if __name__ == "__main__":
    sys.exit(main())
