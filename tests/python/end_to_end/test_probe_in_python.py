"""`dpi_probe.Probe` in a program of Python's: whatever ends the program, the records are kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from harness.core import WAIT_SECONDS
from harness.programs import dpi_probe

CAPTURE = Path(__file__).parents[2] / "corpus/http1-keep-alive/input.pcap"
PROGRAM = """
import json, os, signal, sys, time
from dpi_probe import Probe
# Whoever runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
probe = Probe(**json.loads(sys.argv[1]))

def metered():
    while probe.progress()[2] == 0:
        time.sleep(0.01)

def tell():
    print("ready", flush=True)

def join(really=probe.join):
    tell()
    really()

"""
WAYS = {
    "interrupted": "probe.join = join\nwith probe: metered()",
    "interrupted in the block": "with probe: metered(); tell(); time.sleep(600)",
    "left running": "probe.start(); metered(); tell()",
    "forked": "probe.start(); metered(); tell(); os.fork() or sys.exit(); os.wait()",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_metered_is_kept(way: str, shared_pki: Path, tmp_path: Path) -> None:
    spool, pipe = tmp_path / "spool", tmp_path / "pipe"
    os.mkfifo(pipe)
    settings = {
        "files": [str(pipe)],
        "buffer_dir": str(spool),
        "metrics_address": "127.0.0.1:0",
        "ca_cert_path": str(shared_pki / "ca.pem"),
        "probe_cert_path": str(shared_pki / "probes/sensor.pem"),
        "probe_key_path": str(shared_pki / "probes/sensor.key"),
    }
    command = [sys.executable, "-c", PROGRAM + WAYS[way], json.dumps(settings)]
    # Written to as well as read, so that opening it waits for nobody, and it never ends.
    with pipe.open("r+b", buffering=0) as writer:
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            writer.write(CAPTURE.read_bytes())
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            if "interrupted" in way:
                program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=WAIT_SECONDS)
        finally:
            program.kill()
            program.wait()
    assert program.returncode == (-signal.SIGINT if "interrupted" in way else 0), said
    assert ("KeyboardInterrupt" in said) == ("interrupted" in way)
    assert not (spool / "metrics.json").exists()
    schemas = [pa.ipc.open_stream(path.read_bytes()).schema for path in (spool / "pending").glob("*.arrows")]
    assert any("flow_id" in schema.names for schema in schemas)
    assert dpi_probe("verify", spool, "--certificate", settings["probe_cert_path"]).returncode == 0
