"""The live probe for Python: `dpi_probe.Probe`."""

from __future__ import annotations

import atexit
import contextlib
import os
import ssl
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dpi_probe import _bpf, _native
from dpi_probe._counted import counted
from dpi_probe._flows import MAX_COUNT, check_whole, compile_filter
from dpi_probe._key import key_parts
from dpi_probe._log import log
from dpi_probe._memory import memory
from dpi_probe.config import CHANGEABLE, ProbeSettings, changed, load
from dpi_probe.errors import CaptureError, ConfigError, DpiProbeError, SpoolError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from dpi_probe._control import ControlServer, Listener
    from dpi_probe._flows import Programs

_NANOSECONDS = 1_000_000_000
_MEBIBYTE = 1 << 20
# How long `join` waits at a time, so that signal handlers get their turn.
_PATIENCE_SECONDS = 0.05
# What to do without a certificate.
_MAKE_CERTIFICATES = (
    "`dpi-probe pki init PKI --probe NAME` makes PKI/ca.pem and PKI/probes/NAME.pem and .key; "
    "name them by CA_CERT_PATH, PROBE_CERT_PATH and PROBE_KEY_PATH"
)


# Probes that were started and not waited for.
_started: weakref.WeakSet[Probe] = weakref.WeakSet()
# The threads stay with the parent.
os.register_at_fork(after_in_child=_started.clear)


@atexit.register
def _end_all() -> None:
    """Seal and keep what probes have that nobody ended: their threads end with Python."""
    probes = list(_started)
    for probe in probes:
        probe.stop()
    for probe in probes:
        try:
            probe.join()
        except DpiProbeError as error:
            for line in str(error).splitlines():
                log("error", line)


def _shown(value: object) -> str:
    """A setting's value in an event; a filter that is not set has none."""
    return "none" if value is None or value == "" else str(value)


def _check_memory(settings: ProbeSettings) -> None:
    there_is = memory()
    if there_is is not None and settings.max_buffer_size_mb > there_is.total:
        msg = (
            f"MAX_BUFFER_SIZE_MB={settings.max_buffer_size_mb} is more memory than this process can have: "
            f"{there_is.total} MiB, by the machine or its control group; lower it"
        )
        raise ConfigError(msg)


class Probe:
    """Captures packets, seals their flow records, spools them and delivers them to a Core.

    ```python
    from dpi_probe import Probe

    with Probe(interface="eth0", core_api_url="https://core.example:8443") as probe:
        time.sleep(60)
    ```

    Every setting of docs/reference/config.md can be given by its name in lower case; what is not given comes from the
    environment, from /etc/dpi-probe/config.toml if it is there, or has its default.

    A probe that was started and that nobody waits for is ended when Python ends, which waits until what it has is
    sealed, and delivered or kept in the spool.
    """

    def __init__(
        self,
        interface: str | None = None,
        *,
        files: str | Path | Sequence[str | Path] = (),
        count: int | None = None,
        settings: ProbeSettings | None = None,
        traffic: _native.Traffic | None = None,
        **named: Any,
    ) -> None:
        """Check the settings; nothing is opened yet.

        Args:
            interface: capture from here.
            files: read these captures (or this one) instead, also where the environment names an interface.
            count: end after so many packets that pass the filter.
            settings: all settings, instead of `named` and the environment.
            traffic: takes the place of an interface: for benches.
            named: settings by their names.

        Raises:
            ConfigError: a setting has a value that is not allowed, or there is nothing to capture from.
        """
        if settings is None:
            settings = load({"capture_iface": interface, **named}, are_arguments=True)
            if files and interface is None and "capture_iface" not in named:
                settings = settings.without_interface()
        self.settings = settings
        given = [files] if isinstance(files, (str, os.PathLike)) else list(files)
        if any(not os.fspath(file) for file in given):
            raise ConfigError("files: an empty path is not allowed")
        self.files = [Path(file) for file in given]
        self.count = count
        self.traffic = traffic
        if self.settings.capture_iface is None and not self.files and traffic is None:
            msg = "nothing to capture from: give an interface (-i, CAPTURE_IFACE) or capture files (-r)"
            raise ConfigError(msg)
        if self.settings.capture_iface is not None and self.files:
            msg = f"capture from interface {self.settings.capture_iface} or from files, not both"
            raise ConfigError(msg)
        if count is not None:
            check_whole("count", count, MAX_COUNT)
        self._pipeline: _native.Pipeline | None = None
        self._stop_asked = False
        self._control: ControlServer | None = None
        # Of the interface, once it is known: it may be gone or renamed when a filter is to be compiled for it again.
        self._link_type: int | None = None
        # The last live filter: expression and program.
        self._filter: tuple[str, Programs] | None = None
        self._configuring = threading.Lock()

    def start(self) -> None:
        """Open everything and start the threads. A probe starts once; for another run make another.

        Raises:
            CaptureError: the interface cannot be opened.
            CapturePermissionError: this process may not capture.
            ConfigError: key or certificate cannot be used, the filter is wrong, or the probe was started before.
            SpoolError: the buffer directory cannot be used.
        """
        if self._pipeline is not None:
            msg = "this probe was started before; make another Probe for another run"
            raise ConfigError(msg)
        settings = self.settings
        if settings.probe_cert_path is None or settings.probe_key_path is None or settings.ca_cert_path is None:
            msg = f"PROBE_CERT_PATH, PROBE_KEY_PATH and CA_CERT_PATH are needed; {_MAKE_CERTIFICATES}"
            raise ConfigError(msg)
        _check_memory(settings)
        _native.log_to_stderr(settings.log_level)
        # Before anything is captured and a chain begins: what fails here leaves nothing behind.
        listener = self._listen()
        try:
            self._pipeline = self._open(
                settings, settings.probe_cert_path, settings.probe_key_path, settings.ca_cert_path
            )
        except BaseException:
            if listener is not None:
                listener.server_close()
            raise
        if settings.capture_iface is not None and self._link_type is None:
            # It may be gone again; then it is asked for once a filter needs it.
            with contextlib.suppress(CaptureError):
                self._link_type = self._find_link_type(settings, settings.capture_iface)
        if settings.core_api_url is None:
            spool = settings.spool_directory
            log("info", f"no Core is set (CORE_API_URL): sealed batches stay in the spool, {spool}")
        _started.add(self)
        # A signal may have come while everything was opened.
        if self._stop_asked:
            self._pipeline.stop()
        try:
            if listener is not None:
                from dpi_probe._control import ControlServer

                self._control = ControlServer(self, listener, settings.interface_label, settings.spool_directory)
        except BaseException:
            self.stop()
            self._pipeline.join()
            raise

    @property
    def metrics_url(self) -> str | None:
        """Where `/metrics`, `/healthz`, `/readyz` and `/v1/config` are; None if they are not served."""
        return f"http://{self._control.address}" if self._control is not None else None

    def _listen(self) -> Listener | None:
        """Where metrics are to be served."""
        address = self.settings.metrics_address
        if address == "off" or (address is None and self.settings.capture_iface is None):
            return None
        from dpi_probe._control import Address, listen

        try:
            return listen(Address.parse(address) if address is not None else None, self.settings.interface_label)
        except ConfigError as error:
            if address is not None:
                raise
            # Nobody asked for it: capturing goes first.
            log("warning", f"metrics are not served: {error}")
            return None

    def _open(self, settings: ProbeSettings, certificate: Path, key: Path, authority: Path) -> _native.Pipeline:
        """The running data plane."""
        return _native.Pipeline(
            interface=settings.capture_iface,
            capture=settings.capture,
            dedicated=settings.dedicated,
            libpcap=_bpf.libraries(),
            files=[str(file) for file in self.files],
            count=self.count,
            filter=self._compiled_filter(settings),
            promiscuous=settings.promiscuous,
            timestamps=settings.timestamps,
            idle_timeout_ns=round(settings.flow_timeout_seconds * _NANOSECONDS),
            active_timeout_ns=round(settings.flow_active_timeout_seconds * _NANOSECONDS),
            profile=settings.profile,
            flow_key=key_parts(settings.flow_key),
            workers=settings.workers,
            cores=settings.cores,
            interface_wait_seconds=settings.interface_wait_seconds,
            memory_bytes=settings.max_buffer_size_mb * _MEBIBYTE,
            probe_id=settings.probe_id or self._default_probe_id(certificate),
            certificate=str(certificate),
            key=str(key),
            ca=str(authority),
            spool_directory=str(settings.spool_directory),
            spool_bytes=settings.max_spool_size_mb * _MEBIBYTE,
            spool_when_full=settings.spool_when_full,
            spool_fsync=settings.spool_fsync,
            core_url=settings.core_api_url,
            seal_threads=settings.seal_threads,
            linger_seconds=settings.seal_linger_seconds,
            health_interval_seconds=settings.health_report_interval_seconds,
            shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
            backpressure_threshold=settings.backpressure_threshold,
            traffic=self.traffic,
        )

    def stop(self) -> None:
        """Ask the probe to end, at once: open flows are exported, sealed, and delivered or left in the spool."""
        self._stop_asked = True
        if self._pipeline is not None:
            self._pipeline.stop()

    def join(self) -> None:
        """Wait until the probe has ended; signal handlers run meanwhile.

        Raises:
            CaptureError: an input could not be read, or not to its end, one a line. Everything else was delivered.
            SpoolError: files were read, and not every record of them could be kept, or the Core refused some for good;
                what could not be read is told too.
        """
        if self._pipeline is None:
            return
        while not self._pipeline.is_finished():
            time.sleep(_PATIENCE_SECONDS)
        if self._control is not None:
            self._control.stop()
            self._control = None
        problems = self._pipeline.join()
        _started.discard(self)
        # Of a file, nothing may be dropped; live, the books tell.
        if self.files and (losses := self._losses()):
            raise SpoolError("\n".join([*problems, *losses]))
        if problems:
            raise CaptureError("\n".join(problems))

    def _losses(self) -> list[str]:
        """What of the batches could not be kept, and what the Core will not have, in a line each."""
        totals, lines = self._totals(), []
        rejected = {
            entry["reason"]: entry["value"] or 0 for entry in self.accounts() if entry["account"] == "batches_rejected"
        }
        dropped, lost = totals.get("batches_dropped", 0), totals.get("batches_lost", 0)
        if dropped or lost:
            # Those of earlier runs may have had to go too.
            kept = max(0, dropped - totals.get("manifests_lost", 0))
            manifests = f", of {kept} of them the manifest is there" if kept else ""
            lines.append(
                f"{self.settings.spool_directory}: {counted(dropped + lost, 'batch', 'batches')} could not be kept"
                f"{manifests}; make space (MAX_SPOOL_SIZE_MB, the disk) and read again"
            )
        if unreadable := rejected.get("unreadable", 0):
            lines.append(
                f"{self.settings.spool_directory / 'rejected'}: {counted(unreadable, 'batch', 'batches')} could not be "
                "read and will not be delivered; the .reason beside each says why"
            )
        if refused := rejected.get("refused", 0):
            lines.append(
                f"{self.settings.spool_directory / 'rejected'}: the Core refused "
                f"{counted(refused, 'batch', 'batches')} for good; the .reason beside each says why"
            )
        return lines

    def offer(self) -> _native.Offer | None:
        """What the traffic of a bench has offered so far; nothing for other inputs."""
        return self._pipeline.offer() if self._pipeline is not None else None

    def accounts(self) -> list[dict[str, Any]]:
        """The books at this moment: `account`, `reason`, `worker` and `value` of each."""
        return self._pipeline.accounts() if self._pipeline is not None else []

    def metrics(self) -> list[dict[str, Any]]:
        """Every metric at this moment: `name`, `kind`, `help`, `labels` and `samples` of each."""
        return self._pipeline.metrics() if self._pipeline is not None else []

    def progress(self) -> tuple[int, int | None, int]:
        """How far the reading of files is: bytes as they are stored, of how many where that is known, and packets."""
        return self._pipeline.progress() if self._pipeline is not None else (0, None, 0)

    def is_running(self) -> bool:
        """Whether the probe was started and has not ended."""
        return self._pipeline is not None and not self._pipeline.is_finished()

    def is_capturing(self) -> bool:
        """Whether frames are being taken from the input: not before the start, and not while the probe ends."""
        return self._pipeline is not None and self._pipeline.is_capturing()

    def configure(self, changes: dict[str, Any], origin: str = "configure") -> None:
        """Change what can be changed while the probe runs (`dpi_probe.config.CHANGEABLE`), without losing a packet.

        But for a new filter where libpcap captures: it lets nothing through for a moment, and nobody counts what came
        then. When this returns, every worker has it; it is a signed event, which names `origin`.

        Raises:
            ConfigError: a value is not allowed, or the setting cannot be changed; nothing was changed.
            DpiProbeError: the probe did not take it; nothing was changed.
        """
        if self._pipeline is None:
            msg = "the probe is not running"
            raise ConfigError(msg)
        with self._configuring:
            settings = changed(self.settings, changes, origin)
            differences = [
                f"{name} {_shown(getattr(self.settings, name))} -> {_shown(getattr(settings, name))}"
                for name in CHANGEABLE
                if getattr(self.settings, name) != getattr(settings, name)
            ]
            if not differences:
                return
            self._pipeline.configure(
                idle_timeout_ns=round(settings.flow_timeout_seconds * _NANOSECONDS),
                active_timeout_ns=round(settings.flow_active_timeout_seconds * _NANOSECONDS),
                profile=settings.profile,
                filter=self._compiled_filter(settings),
                detail=f"{origin}: {', '.join(differences)}",
            )
            self.settings = settings

    def reload(self, settings: ProbeSettings, origin: str) -> None:
        """Take over what can be changed of `settings`, and say in the log what takes a restart.

        Raises:
            ConfigError: a value is not allowed; nothing was changed.
        """
        fixed = [
            name
            for name in ProbeSettings.model_fields
            if name not in CHANGEABLE and getattr(settings, name) != getattr(self.settings, name)
        ]
        self.configure({name: getattr(settings, name) for name in CHANGEABLE}, origin)
        if fixed:
            log("warning", f"{origin}: {', '.join(fixed)} changed too, which takes a restart of the probe")

    def summary(self) -> str:
        """The books in one line."""
        totals = self._totals()
        return (
            f"{counted(totals.get('frames_delivered', 0), 'frame')}, "
            f"{counted(totals.get('flows_exported', 0), 'flow record')}, "
            f"{counted(totals.get('batches_sealed', 0), 'batch', 'batches')} sealed, "
            f"{totals.get('batches_acknowledged', 0):,} acknowledged, "
            f"{totals.get('batches_spooled', 0):,} in the spool, "
            f"{counted(totals.get('source_frames_dropped', 0), 'frame')} dropped"
        )

    def _totals(self) -> dict[str, int]:
        """The books, each account summed up over reasons and workers."""
        totals: dict[str, int] = {}
        for entry in self.accounts():
            totals[entry["account"]] = totals.get(entry["account"], 0) + (entry["value"] or 0)
        return totals

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the end: files are read to theirs, unless the block failed; live capture is stopped.

        Ctrl-C breaks the files off: what was metered until then is sealed and kept before it is raised.
        """
        if not self.files or kind is not None:
            self.stop()
        try:
            self.join()
        except DpiProbeError:
            raise
        except BaseException as interruption:
            # The threads that have the records would end with Python.
            self.stop()
            try:
                self.join()
            except DpiProbeError as problem:
                interruption.add_note(str(problem))
            raise

    def _compiled_filter(self, settings: ProbeSettings) -> Programs | None:
        expression = settings.capture_filter
        if expression is None:
            return None
        if settings.capture_iface is None:
            return compile_filter(expression)
        # Once: while other settings change, the interface may be down, renamed or gone.
        if self._filter is None or self._filter[0] != expression:
            if self._link_type is None:
                self._link_type = self._find_link_type(settings, settings.capture_iface)
            # AF_XDP has the bytes alone, in front of the kernel's own look at them.
            interface = settings.capture_iface if settings.capture != "af_xdp" else None
            program = _bpf.compile_filter(expression, self._link_type, interface=interface)
            self._filter = (expression, [(self._link_type, program)])
        return self._filter[1]

    @staticmethod
    def _find_link_type(settings: ProbeSettings, interface: str) -> int:
        return _native.interface_link_type(interface, settings.capture, _bpf.libraries())

    def _default_probe_id(self, certificate: Path) -> str:
        """The name in the certificate, and the interface."""
        try:
            name = _native.read_certificate(ssl.PEM_cert_to_DER_cert(certificate.read_text()))["probe"]
        except OSError as error:
            msg = f"{certificate}: cannot read the certificate: {error.strerror}; {_MAKE_CERTIFICATES}"
            raise ConfigError(msg) from None
        except (ValueError, VerificationError):
            msg = f"{certificate}: this is not a certificate in PEM form; {_MAKE_CERTIFICATES}"
            raise ConfigError(msg) from None
        if name is None:
            msg = f"{certificate}: this is not a probe's certificate (no URI urn:dpi-probe:probe:NAME in it)"
            raise ConfigError(msg)
        return f"{name}/{self.settings.interface_label}"
