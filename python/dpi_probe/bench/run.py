"""One run: authority, Core, probe and traffic, and what they did."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpi_probe._throwaway import RunningCore, make_authority, running_core, wait
from dpi_probe.bench import machine, processes, veth
from dpi_probe.bench.children import child_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dpi_probe.bench.children import Child
    from dpi_probe.bench.processes import Use
    from dpi_probe.bench.scenarios import Plan

SAMPLE_SECONDS = 0.25
PROBE_NAME = "bench"
# How long a probe may take to export, seal and deliver what is open at the end, and the Core to archive it.
DRAIN_SECONDS = 300.0


@dataclass
class Moment:
    """What was seen of all processes at one time."""

    time: float
    probe: Use
    core_cpu: float
    sender_cpu: float
    busy_cpu: float


@dataclass
class Observation:
    """Everything that a run has left, not judged yet."""

    plan: Plan
    machine: dict[str, Any]
    shape: dict[str, Any]
    begin: float
    end: float
    moments: list[Moment] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of the probe, in the order of time."""
    final: dict[str, Any] = field(default_factory=dict)
    sender_samples: list[dict[str, Any]] = field(default_factory=list)
    sender_final: dict[str, Any] = field(default_factory=dict)
    received_frames: int | None = None
    """What came out of the veth pair."""
    archived_batches: int | None = None
    log: str = ""


def observe(
    plan: Plan, folder: Path, progress: Callable[[str, float], None], *, pki: Path | None = None
) -> Observation:
    """Run the plan. With the source `veth` this process must be in the bench's namespace already.

    `progress` is told what happens and which share of it is done. Several runs may share the authority in `pki`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    observation = Observation(plan, machine.fingerprint(), dict(plan.traffic().shape()), 0.0, 0.0)
    with ExitStack() as stack:
        progress("making keys and certificates", 0.0)
        pki = pki or folder / "pki"
        if not pki.exists():
            make_authority(pki, PROBE_NAME)
        core = None
        if plan.with_core:
            progress("starting the Core", 0.0)
            core = stack.enter_context(running_core(folder, pki))
            # It has the lowest priority only once it is up.
            core.wait_until_open()
        spec = {"plan": plan.to_json(), "settings": probe_settings(plan, folder, pki, core)}
        progress("starting the probe", 0.0)
        probe = stack.enter_context(child_of("dpi_probe.bench.probe_process", spec, folder))
        probe.wait_for_start()
        sender = None
        received = veth.received_frames() if plan.source == "veth" else 0
        if plan.source == "veth":
            sender = stack.enter_context(
                child_of("dpi_probe.bench.sender_process", {"plan": plan.to_json(), "interface": veth.FEED}, folder)
            )
            sender.wait_for_start()
        watch = _Watch(observation, probe, sender, core)
        watch.until(plan.warm_up_seconds, "warming up", progress)
        observation.begin = time.monotonic()
        watch.until(plan.duration, "measuring", progress)
        observation.end = time.monotonic()
        progress("ending: what is open is exported, sealed and delivered", 0.0)
        if sender is not None:
            observation.sender_final = sender.finish()
            observation.sender_samples = sender.samples
            _wait_for_the_last_frame(probe)
            # Several runs may share a pair.
            observation.received_frames = veth.received_frames() - received
        observation.final = probe.finish(DRAIN_SECONDS)
        observation.samples = probe.samples
        observation.log = probe.log()
        if core is not None:
            progress("asking the Core what it has archived", 0.0)
            _ask_core(observation, core)
    return observation


def probe_settings(plan: Plan, folder: Path, pki: Path, core: RunningCore | None) -> dict[str, Any]:
    """What the probe of a plan is set to; keys and spool are below the folders."""
    settings: dict[str, Any] = {
        "buffer_dir": str(folder / "spool"),
        "probe_cert_path": str(pki / f"probes/{PROBE_NAME}.pem"),
        "probe_key_path": str(pki / f"probes/{PROBE_NAME}.key"),
        "ca_cert_path": str(pki / "ca.pem"),
        "probe_id": f"{PROBE_NAME}/{plan.source}",
        "flow_timeout_seconds": plan.flow_timeout,
        "max_buffer_size_mb": plan.memory_mb,
        "shutdown_timeout_seconds": DRAIN_SECONDS,
        "log_level": "info",
        "workers": plan.workers,
    }
    if core is not None:
        settings["core_api_url"] = core.url
    else:
        settings["max_spool_size_mb"] = 64
    if plan.source == "veth":
        settings["capture_iface"] = veth.PROBE
        settings["capture"] = plan.capture
    return settings


@dataclass
class _Watch:
    observation: Observation
    probe: Child
    sender: Child | None
    core: RunningCore | None

    def until(self, seconds: float, what: str, progress: Callable[[str, float], None]) -> None:
        """Look at all processes until so many seconds are over."""
        begin = due = time.monotonic()
        while True:
            now = time.monotonic()
            self.observation.moments.append(self._moment(now))
            self.probe.check()
            if self.sender is not None:
                self.sender.check()
            if now - begin >= seconds:
                return
            progress(what, (now - begin) / seconds)
            due += SAMPLE_SECONDS
            time.sleep(max(0.0, min(due, begin + seconds) - time.monotonic()))

    def _moment(self, now: float) -> Moment:
        return Moment(
            time=now,
            probe=processes.use_of(self.probe.process.pid),
            core_cpu=processes.tree_cpu_seconds(self.core.process.pid) if self.core else 0.0,
            sender_cpu=processes.use_of(self.sender.process.pid).cpu_seconds if self.sender else 0.0,
            busy_cpu=processes.machine_busy_seconds(),
        )


def _wait_for_the_last_frame(probe: Child) -> None:
    """Return when the probe has taken what was sent: when two samples in a row show the same."""

    def quiet() -> bool:
        taken = [sample["totals"].get("frames_delivered") for sample in probe.samples[-3:]]
        return len(taken) == 3 and len(set(taken)) == 1

    wait(quiet, "the probe to take the last frames")


def _ask_core(observation: Observation, core: RunningCore) -> None:
    # Not /v1/probes, which waits for the database: that has the lowest priority and may lag far behind.
    observation.archived_batches = core.get("/v1/health")["archive"]["entries"]
