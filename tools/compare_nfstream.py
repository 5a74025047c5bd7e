#!/usr/bin/env python3
"""NFStream and dpi-probe over the same foreign captures, scored alike: the table of docs/comparison.md.

    tools/compare_nfstream.py --corpus ../shared/corpus/visible --nfstream PYTHON [--probe .venv/bin/dpi-probe]

PYTHON is an interpreter that has NFStream, e.g. of `python3 -m venv nf && nf/bin/pip install nfstream==6.6.0`. The
corpus lies outside the repository and has `run.py` and `score.py` beside it, as for `tools/corpus.py`. NFStream runs
with one meter, opens tunnels, and is asked for what it offers without its statistics, which is its fastest setting.

Speed and memory are of one long capture, made of the corpus's largest Ethernet captures, both programs in turns in one
run, medians of the rounds; what a start costs is measured over a capture of one packet and taken off.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import importlib
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent

ADAPTER = """\
import json, os, re, signal, sys, time
from nfstream import NFStreamer

JA4 = re.compile("[tqd][0-9sd]{2}[di][0-9]{4}.._[0-9a-f]{12}_[0-9a-f]{12}$")

def read(capture, out):
    for flow in NFStreamer(source=capture, decode_tunnels=True, n_meters=1):
        record = {
            "ip_protocol": flow.protocol, "src_ip": flow.src_ip, "src_port": flow.src_port,
            "dst_ip": flow.dst_ip, "dst_port": flow.dst_port,
            "packets_fwd": flow.src2dst_packets, "packets_rev": flow.dst2src_packets,
            "bytes_fwd": flow.src2dst_bytes, "bytes_rev": flow.dst2src_bytes,
            "app": flow.application_name, "server_name": flow.requested_server_name or None,
        }
        if JA4.match(flow.client_fingerprint or ""):
            record["ja4"] = flow.client_fingerprint
        print(json.dumps(record), file=out)
    out.flush()

def fork(capture, path, timeout):
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            with open(path, "w") as out:
                read(capture, out)
        except ValueError as refused:
            print(refused, file=sys.stderr, flush=True)
            os._exit(3)
        except BaseException as fault:
            print(repr(fault), file=sys.stderr, flush=True)
            os._exit(4)
        os._exit(0)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "ok" if code == 0 else "refused" if code == 3 else "traceback" if code == 4 else "died"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"

if sys.argv[1] == "read":
    read(sys.argv[-1], sys.stdout)
else:
    for line in sys.stdin:
        capture, path = line.rstrip("\\n").split("\\t")
        print(json.dumps([path, fork(capture, path, float(sys.argv[2]))]), flush=True)
"""

# pcap, Ethernet, one UDP packet.
ONE_PACKET = bytes.fromhex(
    "d4c3b2a1020004000000000000000000ffff000001000000"
    "00f15365000000003c0000003c000000"
    "02000000000b02000000000a0800"
    "4500001c0000400040116abd0a000001c6120001"
    "8000000900080000"
) + bytes(18)

JOBS = 2

LINES = (
    ("flows matched", "flows matched"),
    ("packets equal, of those", "packets equal"),
    ("packets equal, without fragments", "packets equal, captures without IP fragments"),
    ("SNI", "SNI recall"),
    ("HTTP host", "HTTP host recall"),
    ("DNS names", "DNS name recall"),
    ("JA4", "JA4 (from tshark's fields)"),
)


@dataclass
class Program:
    """One of the two, and what was found of it."""

    name: str
    command: list[str]
    ran: str = ""
    sources: dict[str, Any] | None = None
    link_types: str = ""
    tunnels: str = ""
    rate: float = 0.0
    peak: float = 0.0


def usage(command: list[str], capture: pathlib.Path) -> tuple[float, float]:
    """CPU seconds and peak resident memory in MiB of `COMMAND read --format ndjson CAPTURE` with its children."""
    with tempfile.TemporaryFile() as nowhere:
        child = subprocess.Popen(
            [*command, "read", "--format", "ndjson", str(capture)], stdout=nowhere, stderr=subprocess.DEVNULL
        )
        _, status, spent = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024


def run_ours(program: Program, side: pathlib.Path, flows: pathlib.Path, timeout: float) -> None:
    """Every capture of the corpus, each in a process of its own."""
    command = [side.parent / "run.py", "--side", side, "--probe", " ".join(program.command), "--out", flows]
    ran = subprocess.run(
        [sys.executable, *command, "--timeout", str(timeout)], capture_output=True, text=True, check=False
    )
    program.ran = ran.stdout.splitlines()[0].partition(": ")[2] if ran.stdout else ran.stderr.strip()[-200:]
    print(f"[{program.name}]\n{ran.stdout}", flush=True)


def run_theirs(program: Program, side: pathlib.Path, flows: pathlib.Path, timeout: float) -> None:
    """The same, each in a process that is forked from one that has loaded NFStream, which takes a second."""
    sys.path.insert(0, str(side.parent))
    scored = importlib.import_module("run").scored
    with (side / "captures.ndjson").open() as lines:
        captures = [row["capture"] for row in map(json.loads, lines)]
    folder = flows.parent / "pieces"
    folder.mkdir()
    pieces = {str(folder / str(number)): capture for number, capture in enumerate(captures)}
    todo = [f"{side / 'captures' / capture}\t{path}\n" for path, capture in pieces.items()]
    command = [*program.command, "all", str(timeout)]
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:

        def part(number: int) -> str:
            given = "".join(todo[number::JOBS])
            return subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True).stdout

        verdicts = dict(json.loads(line) for said in pool.map(part, range(JOBS)) for line in said.splitlines())
    counts = collections.Counter(verdicts.values())
    program.ran = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
    print(f"[{program.name}]\n{program.ran}", flush=True)
    with flows.open("w") as out:
        for path, capture in pieces.items():
            piece = pathlib.Path(path)
            for line in piece.read_text().splitlines() if piece.exists() else []:
                # What was written until a process died or hung counts as far as it is whole.
                if line.endswith("}"):
                    out.write(json.dumps(scored(capture, json.loads(line))) + "\n")
            out.write(json.dumps({"capture": capture, "processed": True}) + "\n")
            if verdicts[path] not in ("ok", "refused"):
                print(f"  {capture}: {verdicts[path]}")


def score(program: Program, side: pathlib.Path, flows: pathlib.Path) -> None:
    """What the corpus's scorer says of the records."""
    report = flows.with_suffix(".json")
    command = [side.parent / "score.py", "--side", side, "--flows", flows, "--json", report]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    program.sources = json.loads(report.read_text())["sources"]


def reach(program: Program, side: pathlib.Path, flows: pathlib.Path) -> None:
    """Of which link types and of how many tunnelled captures a program has a flow that tshark has too."""

    def key(a_ip: object, a_port: object, b_ip: object, b_port: object) -> tuple[object, ...]:
        return tuple(sorted([(str(a_ip), a_port or 0), (str(b_ip), b_port or 0)]))

    seen: collections.defaultdict[str, set[tuple[object, ...]]] = collections.defaultdict(set)
    with flows.open() as lines:
        for row in map(json.loads, lines):
            if "src_ip" in row:
                seen[row["capture"]].add(key(row["src_ip"], row["src_port"], row["dst_ip"], row["dst_port"]))
    with (side / "captures.ndjson").open() as lines:
        types = {row["capture"]: row["linktypes"] for row in map(json.loads, lines)}
    offered, read = set(), set()
    tunnelled = opened = 0
    with (side / "tshark.ndjson").open() as lines:
        for row in map(json.loads, lines):
            ported = [f for f in row.get("flows") or [] if f["proto"] in ("tcp", "udp", "sctp")]
            keys = {key(f["a_ip"], f["a_port"], f["b_ip"], f["b_port"]) for f in ported}
            if not keys:
                continue
            found = bool(keys & seen[row["capture"]])
            offered |= set(types[row["capture"]])
            read |= set(types[row["capture"]]) if found else set()
            if row.get("outer_flows"):
                tunnelled += 1
                opened += found
    program.link_types = f"{len(read)} of {len(offered)}"
    program.tunnels = f"{opened} of {tunnelled}"


def join(side: pathlib.Path, joined: pathlib.Path, captures: int, copies: int) -> int:
    """The largest Ethernet captures one behind the other, several times, 2,000 packets a second; how many packets."""
    with (side / "captures.ndjson").open() as lines:
        rows = [row for row in map(json.loads, lines) if row["kind"] == "pcap-le" and row["linktypes"] == [1]]
    plain = [row for row in rows if not (row["stress"] or row["hostile"] or row["cut_packets"])]
    largest = sorted(plain, key=lambda row: row["size"], reverse=True)[:captures]
    packets = 0
    with joined.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for _ in range(copies):
            for row in largest:
                data, at = (side / "captures" / row["capture"]).read_bytes(), 24
                while at + 16 <= len(data):
                    end = at + 16 + int.from_bytes(data[at + 8 : at + 12], "little")
                    if end > len(data):
                        break
                    out.write(struct.pack("<II", 1_700_000_000 + packets // 2000, packets % 2000 * 500))
                    out.write(data[at + 8 : end])
                    packets, at = packets + 1, end
    return packets


def measure(programs: list[Program], side: pathlib.Path, scratch: pathlib.Path, rounds: int) -> None:
    """Packets a CPU second and peak memory over one long capture."""
    one, long = scratch / "one.pcap", scratch / "long.pcap"
    one.write_bytes(ONE_PACKET)
    packets = join(side, long, captures=150, copies=4)
    spent: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for _ in range(rounds):
        for path in (one, long):
            for program in programs:
                seconds, memory = usage(program.command, path)
                spent[program.name, path.name].append(seconds)
                program.peak = max(program.peak, memory)
    for program in programs:
        start, whole = (statistics.median(spent[program.name, path.name]) for path in (one, long))
        print(f"[{program.name}] {packets} packets: {whole:.2f} CPU seconds, of which its start {start:.2f}")
        program.rate = packets / (whole - start)


def table(ours: Program, theirs: Program) -> str:
    """The table of docs/comparison.md."""
    rows = [("captures run", ours.ran, theirs.ran)]

    def rate(program: Program, line: str) -> str:
        found = (program.sources or {}).get("tshark", {}).get(line)
        return f"{100 * found['rate']:.2f} %" if found and found["hit"] else "none"

    def right(program: Program) -> str:
        lines = (program.sources or {})["tshark"]
        return f"{100 * lines['packets equal']['hit'] / lines['flows matched']['of']:.2f} %"

    rows += [(name, rate(ours, line), rate(theirs, line)) for name, line in LINES]
    rows.insert(2, ("flows right: matched, with equal packets", right(ours), right(theirs)))
    rows += [
        ("link types with a matched flow", ours.link_types, theirs.link_types),
        ("tunnelled captures with a matched inner flow", ours.tunnels, theirs.tunnels),
        ("packets a CPU second", f"{ours.rate:,.0f}", f"{theirs.rate:,.0f}"),
        ("peak memory", f"{ours.peak:.0f} MiB", f"{theirs.peak:.0f} MiB"),
    ]
    lines = [f"| line | {ours.name} | {theirs.name} |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--nfstream", required=True, help="a Python interpreter that has NFStream")
    parser.add_argument("--probe", default=str(ROOT / ".venv/bin/dpi-probe"))
    parser.add_argument("--timeout", type=float, default=60, help="seconds that a capture may take")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program to measure its speed")
    args = parser.parse_args()
    side = args.corpus.resolve()
    asked = "import importlib.metadata; print(importlib.metadata.version('nfstream'))"
    version = subprocess.run([args.nfstream, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        adapter = scratch / "adapter.py"
        adapter.write_text(ADAPTER)
        ours = Program("dpi-probe", [args.probe])
        theirs = Program(f"NFStream-{version}", [args.nfstream, str(adapter)])
        for program, run in ((ours, run_ours), (theirs, run_theirs)):
            flows = scratch / f"{program.name}.ndjson"
            run(program, side, flows, args.timeout)
            score(program, side, flows)
            reach(program, side, flows)
        measure([ours, theirs], side, scratch, args.rounds)
    print(table(ours, theirs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
