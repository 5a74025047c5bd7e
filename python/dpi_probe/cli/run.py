"""`dpi-probe run`: the whole probe."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpi_probe.cli._output import OutputFile, writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from dpi_probe._probe import Probe
    from dpi_probe.config import ProbeSettings

_PATIENCE_SECONDS = 0.05
INTERRUPTED = 130


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-i", "--capture-iface", metavar="IFACE", help="Capture from this interface [CAPTURE_IFACE].")
@click.option("--capture", metavar="MODE", help="auto, af_packet, af_xdp or pcap; default auto [CAPTURE].")
@click.option(
    "--dedicated/--no-dedicated",
    default=None,
    help="Let af_xdp take all frames of an interface that the host uses; default no [DEDICATED].",
)
@click.option(
    "-r",
    "--file",
    "files",
    metavar="FILE",
    type=FilePath(readable=False),
    multiple=True,
    help="Read capture files instead; may be given several times.",
)
@click.option(
    "-f", "--capture-filter", metavar="BPF", help="Meter only what this tcpdump filter passes [CAPTURE_FILTER]."
)
@click.option("-c", "--count", metavar="N", type=click.IntRange(min=1), help="End after N packets (that match).")
@click.option(
    "-C",
    "--config",
    "config_file",
    metavar="TOML",
    type=FilePath(path_type=Path),
    help="Settings file; names as in the environment, in lower case.  [default: /etc/dpi-probe/config.toml, if it is "
    "there]",
)
@click.option("--core-api-url", metavar="URL", help="Deliver to this Core; else seal and spool only [CORE_API_URL].")
@click.option("--buffer-dir", metavar="DIR", help="Spool directory [BUFFER_DIR].")
@click.option("--probe-cert-path", metavar="PEM", help="The probe's certificate [PROBE_CERT_PATH].")
@click.option("--probe-key-path", metavar="PEM", help="The probe's private key [PROBE_KEY_PATH].")
@click.option("--ca-cert-path", metavar="PEM", help="The CA of the Core [CA_CERT_PATH].")
@click.option("--probe-id", metavar="ID", help="Name in the manifests; default: certificate name/IFACE [PROBE_ID].")
@click.option(
    "--promiscuous/--no-promiscuous",
    default=None,
    help="Whether frames for other stations are captured too; default yes [PROMISCUOUS].",
)
@click.option(
    "--timestamps", metavar="CLOCK", help="kernel, or hardware where the card has it; default kernel [TIMESTAMPS]."
)
@click.option("--workers", metavar="N", help="Workers, each with a ring and a flow table of its own [WORKERS].")
@click.option("--capture-cores", metavar="LIST", help="Pin the workers to these cores, as in 2-5,8 [CAPTURE_CORES].")
@click.option(
    "--interface-wait-seconds",
    metavar="S",
    help="How long a vanished interface is waited for; default 60 [INTERFACE_WAIT_SECONDS].",
)
@click.option("--flow-timeout-seconds", metavar="S", help="Idle timeout; default 300 [FLOW_TIMEOUT_SECONDS].")
@click.option(
    "--flow-active-timeout-seconds", metavar="S", help="Active timeout; default 1800 [FLOW_ACTIVE_TIMEOUT_SECONDS]."
)
@click.option("--profile", metavar="NAME", help="minimal, standard or full; default standard [PROFILE].")
@click.option("--flow-key", metavar="PARTS", help="What joins the 5-tuple: vlan, tunnel or vlan,tunnel [FLOW_KEY].")
@click.option("--max-buffer-size-mb", metavar="MB", help="Bound of resident memory; default 1024 [MAX_BUFFER_SIZE_MB].")
@click.option("--max-spool-size-mb", metavar="MB", help="Bound of the spool; default 4096 [MAX_SPOOL_SIZE_MB].")
@click.option(
    "--spool-when-full", metavar="WHAT", help="drop_oldest or drop_newest; default drop_oldest [SPOOL_WHEN_FULL]."
)
@click.option(
    "--spool-fsync", metavar="WHEN", help="Flush to the disk each batch, or never; default batch [SPOOL_FSYNC]."
)
@click.option(
    "--backpressure-threshold",
    metavar="N",
    help="Events without receipt that are back-pressure; default 250000 [BACKPRESSURE_THRESHOLD].",
)
@click.option("--seal-threads", metavar="N", help="Threads that seal batches; default 1 [SEAL_THREADS].")
@click.option(
    "--seal-linger-seconds",
    metavar="S",
    help="How long a record waits for its batch to fill; default 0.02 [SEAL_LINGER_SECONDS].",
)
@click.option(
    "--health-report-interval-seconds",
    metavar="S",
    help="Time between two signed ledgers; default 60 [HEALTH_REPORT_INTERVAL_SECONDS].",
)
@click.option(
    "--shutdown-timeout-seconds",
    metavar="S",
    help="How long receipts are waited for at the end; default 10 [SHUTDOWN_TIMEOUT_SECONDS].",
)
@click.option("--log-level", metavar="LEVEL", help="error, warning, info or debug; default info [LOG_LEVEL].")
@click.option(
    "--metrics-address",
    metavar="HOST:PORT",
    help="Serve /metrics and /v1/config here; default a port of the interface's own [METRICS_ADDRESS].",
)
@click.option("--report", type=OutputFile(), help="Write the final books to this file, as JSON.")
def command(
    files: tuple[str, ...], count: int | None, config_file: Path | None, report: Path | None, **flags: Any
) -> None:
    r"""Capture packets, seal their flow records and deliver them to a Core.

    Every setting can be given as a flag, as an environment variable (the name in brackets), or in a TOML file, in this
    order of precedence; docs/reference/config.md lists them all. SIGTERM and Ctrl-C end the probe cleanly: open flows
    are exported, sealed and delivered, and what no receipt has come for stays in the spool; of FILES that Ctrl-C breaks
    off, the status is 130. SIGHUP reads the file
    again: timeouts, profile and filter change at once, also back from what was PUT, without losing a packet (but for a
    new filter with --capture pcap: libpcap then misses for a moment what comes, uncounted).

    \b
    dpi-probe run -i eth0 --core-api-url https://core.example:8443
    dpi-probe run -r old.pcap --buffer-dir ./spool
    CAPTURE_IFACE=eth0 MAX_BUFFER_SIZE_MB=512 dpi-probe run -C probe.toml
    """
    from dpi_probe._probe import Probe  # imported late: `--help` must not load the data plane
    from dpi_probe.cli import _progress

    probe = Probe(files=files, count=count, settings=_settings(files, flags, config_file))
    _refuse_overwrite(report, probe, config_file)

    reading, interrupted = bool(files), threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        # A live probe has no end of its own, and SIGTERM is how whoever feeds a pipe ends it.
        if number == signal.SIGINT and reading:
            interrupted.set()
        probe.stop()

    hangup = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: hangup.set())
    failures: list[DpiProbeError] = []
    probe.start()
    try:
        with _progress.shown(probe if files else None) as bar:
            for capturing in _moments(probe):
                if hangup.is_set():
                    hangup.clear()
                    _reload(probe, files, flags, config_file)
                if not capturing:
                    # Everything is read; it may take a while until everything is delivered.
                    reading = False
                    if bar is not None:
                        bar.stop()
        probe.join()
    except DpiProbeError as error:
        failures.append(error)
    finally:
        failures += _interruption(interrupted, probe) + _write_report(report, probe)
        click.echo(probe.summary(), err=True)
    if failures:
        raise _FailedError(failures)


def _moments(probe: Probe) -> Iterator[bool]:
    """From time to time while the probe runs, whether it has not ended capturing."""
    began = False
    while probe.is_running():
        capturing = probe.is_capturing()
        yield capturing or not began
        began = began or capturing
        time.sleep(_PATIENCE_SECONDS)


class _InterruptedError(DpiProbeError):
    """Ctrl-C came before the files were read."""

    exit_status = INTERRUPTED

    def __init__(self, probe: Probe) -> None:
        read, total, _ = probe.progress()
        of = f" of {total:,}" if total is not None else ""
        super().__init__(f"interrupted: {read:,}{of} bytes read; the records so far are sealed and kept")


def _interruption(interrupted: threading.Event, probe: Probe) -> list[DpiProbeError]:
    return [_InterruptedError(probe)] if interrupted.is_set() else []


class _FailedError(DpiProbeError):
    """Several things went wrong: a line for each, and the status of the worst.

    A failure goes before the interruption, and that before what could not be read, as with `read`.
    """

    def __init__(self, failures: list[DpiProbeError]) -> None:
        super().__init__("\n".join(map(str, failures)))
        statuses = {failure.exit_status for failure in failures}
        self.exit_status = INTERRUPTED if INTERRUPTED in statuses and 1 not in statuses else min(statuses)


def _refuse_overwrite(report: Path | None, probe: Probe, config_file: Path | None) -> None:
    """ConfigError if the report would take the place of anything that is read."""
    from dpi_probe._flows import refuse_overwrite
    from dpi_probe.config import DEFAULT_CONFIG

    if report is not None:
        own = probe.settings
        pems = (own.probe_cert_path, own.probe_key_path, own.ca_cert_path)
        refuse_overwrite(report, [*probe.files, config_file or DEFAULT_CONFIG, *pems])


def _write_report(path: Path | None, probe: Probe) -> list[DpiProbeError]:
    """Write the final books where they are wanted; what went wrong."""
    try:
        if path is not None:
            with writing(path):
                path.write_text(json.dumps(probe.accounts(), indent=1) + "\n")
    except DpiProbeError as error:
        return [error]
    return []


def _settings(files: tuple[str, ...], flags: dict[str, Any], config_file: Path | None) -> ProbeSettings:
    """The settings; files that are named here go before an interface that is named in the environment or the file."""
    from dpi_probe.config import load

    settings = load(flags, config_file)
    return settings.without_interface() if files and flags["capture_iface"] is None else settings


def _reload(probe: Probe, files: tuple[str, ...], flags: dict[str, Any], config_file: Path | None) -> None:
    """Take over the file as it is now; what is wrong with it is one line of the log, and changes nothing."""
    from dpi_probe._log import log

    try:
        probe.reload(_settings(files, flags, config_file), "SIGHUP")
    except DpiProbeError as error:
        log("error", f"the configuration stays as it was: {error}")
