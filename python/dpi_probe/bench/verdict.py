"""An observation judged: figures, success criteria, books, and the stage that limited what failed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from dpi_probe.bench import books
from dpi_probe.bench.quantiles import Distribution
from dpi_probe.bench.stages_of_threads import busiest, share_of_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpi_probe.bench.run import Moment, Observation
    from dpi_probe.bench.scenarios import Plan

FORMAT = 1
MEBIBYTE = 1 << 20
# The rate is kept where so much of it was processed; the rest is the rounding of a window's edges.
SUSTAINED = 0.995
SUSTAINED_AT_PEAK = 0.99
# As of new flows: the seed's cycle has a whole number of them, and a window's edges cut some.
SUSTAINED_FLOWS = 0.98
# In the kernel's statistics a machine with less than this share of idle time has none.
SATURATED = 0.95
# Level of the capture queue's degradation from which statistics, then layer 7, are left out.
SHEDDING = 2
# Where other programs took this share of the machine, and the thread in question was on a CPU for less than this share
# of the time, they are what limited it.
OTHERS, BUSY = 0.25, 0.6

Result = dict[str, Any]


def judge(observation: Observation, command: str) -> Result:
    """The result of a run, as JSON has it."""
    series = _series(observation)
    figures = _figures(observation, series)
    wrong = _books(observation)
    criteria = _criteria(observation.plan, figures, wrong, observation.machine["cpus"])
    limits = _limits(criteria, observation, figures, wrong)
    return {
        "format": FORMAT,
        "kind": "run",
        "command": command,
        "machine": observation.machine,
        "plan": observation.plan.to_json(),
        "traffic": observation.shape,
        "criteria": criteria,
        "passed": passed(criteria),
        "limits": limits,
        "figures": figures,
        "books": {
            "balanced": not wrong,
            "wrong": wrong,
            "totals": books.totals(observation.final["books"]),
            "events_dropped": books.by_reason(observation.final["books"], "events_dropped"),
            "flows_exported": books.by_reason(observation.final["books"], "flows_exported"),
            "archived_batches": observation.archived_batches,
            "frames_out_of_the_veth_pair": observation.received_frames,
        },
        "series": series,
    }


def passed(criteria: list[dict[str, Any]]) -> bool | None:
    """Whether every criterion that applies was met; None if none failed but not all were measured."""
    verdicts = [criterion["passed"] for criterion in criteria if criterion["applies"]]
    return False if False in verdicts else None if None in verdicts else True


def _nearest(samples: list[dict[str, Any]], time: float) -> dict[str, Any]:
    return min(samples, key=lambda sample: abs(sample["time"] - time))


def _moment(moments: list[Moment], time: float) -> Moment:
    return min(moments, key=lambda moment: abs(moment.time - time))


def _offered(observation: Observation) -> list[dict[str, Any]]:
    """The samples of whoever offers."""
    return observation.sender_samples if observation.plan.source == "veth" else observation.samples


def _packet_latency(observation: Observation, begin: float, end: float) -> tuple[Distribution, Distribution | None]:
    """From the due time of a frame to the end of its processing.

    Over veth in two parts, of which the second is how late frames were sent.
    """
    first, last = _nearest(observation.samples, begin), _nearest(observation.samples, end)
    if observation.plan.source == "memory":
        return Distribution.of_offer(last["offer"]).since(Distribution.of_offer(first["offer"])), None
    early, late = _nearest(observation.sender_samples, begin), _nearest(observation.sender_samples, end)
    sent = Distribution.of_offer(late["offer"]).since(Distribution.of_offer(early["offer"]))
    captured = _histogram(observation, "packet_latency", begin, end)
    # Half of the way is no latency.
    return captured, (sent if captured.count else None)


def _histogram(observation: Observation, name: str, begin: float, end: float) -> Distribution:
    first, last = _nearest(observation.samples, begin), _nearest(observation.samples, end)
    return Distribution.of_json(last["histograms"][name]).since(Distribution.of_json(first["histograms"][name]))


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _packet_latency_p99(captured: Distribution, sent: Distribution | None) -> float | None:
    """An upper bound of the p99 of the whole way.

    Of the sum of two parts, the sum of their p99 bounds the p98 only: another hundredth may be late in each. At most a
    hundredth is above the sum of both p99.5, whichever frames are late in which part.
    """
    if sent is None:
        return captured.quantile(0.99)
    return _sum(captured.quantile(0.995), sent.quantile(0.995))


def _figures(observation: Observation, series: dict[str, list[Any]]) -> dict[str, Any]:
    begin, end = observation.begin, observation.end
    first, last = _nearest(observation.samples, begin), _nearest(observation.samples, end)
    seconds = last["time"] - first["time"]

    def rate(name: str) -> float:
        return float((last["totals"].get(name, 0) - first["totals"].get(name, 0)) / seconds)

    offers = _offered(observation)
    offered_first, offered_last = _nearest(offers, begin), _nearest(offers, end)
    offered_seconds = offered_last["time"] - offered_first["time"]
    offer = {
        name: offered_last["offer"][name] - offered_first["offer"][name]
        for name in ("frames_offered", "bytes_offered", "frames_taken", "bytes_taken", "frames_dropped")
    }
    # Over veth the probe counts frames; their bytes are those that were sent.
    mean_bytes = offer["bytes_taken"] / offer["frames_taken"] if offer["frames_taken"] else 0.0
    frame_rate = rate("frames_delivered")
    dropped = rate("source_frames_dropped") * seconds
    if observation.plan.source == "veth":
        lost = dropped
        offered_frames = frame_rate * seconds + dropped
        unsent = 1 - offer["frames_taken"] / max(offer["frames_offered"], 1)
    else:
        lost, offered_frames, unsent = offer["frames_dropped"], offer["frames_offered"], None
    one, other = _moment(observation.moments, begin), _moment(observation.moments, end)
    span = other.time - one.time
    threads = share_of_threads(one.probe, other.probe, span)
    source = (
        (last["offer"]["source_cpu_ns"] - first["offer"]["source_cpu_ns"]) / 1e9 / seconds if last["offer"] else 0.0
    )
    whole = (other.probe.cpu_seconds - one.probe.cpu_seconds) / span
    latency, sent = _packet_latency(observation, begin, end)
    export = _histogram(observation, "export_latency", begin, end)
    wire = _histogram(observation, "wire_latency", begin, end)
    return {
        "bits_per_second": frame_rate * mean_bytes * 8,
        "frames_per_second": frame_rate,
        "mean_frame_bytes": mean_bytes,
        "offered_bits_per_second": offer["bytes_offered"] * 8 / offered_seconds,
        "flows_per_second": rate("flows_opened"),
        "records_per_second": rate("flows_exported"),
        "records_sealed_per_second": rate("events_sealed"),
        "batches_acknowledged_per_second": rate("batches_acknowledged"),
        "drop_ratio": lost / offered_frames if offered_frames else 0.0,
        "unsent_ratio": unsent,
        "shed_ratio": shed_ratio(observation.samples, (begin, end)),
        "degraded": _degraded(observation.samples, (begin, end)),
        "packet_latency_mean": _sum(latency.mean, sent.mean if sent else None),
        "packet_latency_p99": _packet_latency_p99(latency, sent),
        "packet_latency_parts": None
        if sent is None
        else {
            "sending_mean": sent.mean,
            "sending_p99": sent.quantile(0.99),
            "sending_p99_5": sent.quantile(0.995),
            "capture_mean": latency.mean,
            "capture_p99": latency.quantile(0.99),
            "capture_p99_5": latency.quantile(0.995),
        },
        "export_latency_p99": export.quantile(0.99),
        "wire_latency_p99": wire.quantile(0.99),
        "receipt_latency_p99": _histogram(observation, "receipt_latency", begin, end).quantile(0.99),
        "seal_duration_mean": _histogram(observation, "seal_duration", begin, end).mean,
        "sign_duration_mean": _histogram(observation, "sign_duration", begin, end).mean,
        "resident_bytes_max": max((moment.probe.resident_bytes for moment in observation.moments), default=0),
        "flows_active_max": max(series["flows_active"], default=0),
        # The main thread of the probe's process only takes the bench's samples, and the source is not the probe.
        "probe_cores": whole - threads.get("main", 0.0) - source,
        "source_cores": source if observation.plan.source == "memory" else (other.sender_cpu - one.sender_cpu) / span,
        "sampling_cores": threads.get("main", 0.0),
        "core_cores": (other.core_cpu - one.core_cpu) / span,
        "machine_cores": (other.busy_cpu - one.busy_cpu) / span,
        "probe_threads": threads,
    }


def _share(
    samples: list[dict[str, Any]], window: tuple[float, float], is_so: Callable[[dict[str, float]], bool]
) -> float:
    """For which part of a window something held of the levels of degradation."""
    levels = [sample.get("degradations", {}) for sample in samples if window[0] <= sample["time"] <= window[1]]
    return sum(map(is_so, levels)) / len(levels) if levels else 0.0


def shed_ratio(samples: list[dict[str, Any]], window: tuple[float, float]) -> float:
    """For which part of a window statistics or layer 7 were left out."""
    return _share(samples, window, lambda levels: levels.get("capture_queue", 0) >= SHEDDING)


def _degraded(samples: list[dict[str, Any]], window: tuple[float, float]) -> dict[str, dict[str, float]]:
    """What was degraded: its deepest level, and for which part of the window it was degraded at all."""
    deepest: dict[str, float] = {}
    for sample in samples:
        if window[0] <= sample["time"] <= window[1]:
            for name, level in sample["degradations"].items():
                deepest[name] = max(level, deepest.get(name, 0))
    return {
        name: {
            "deepest_level": level,
            "share_of_time": _share(samples, window, lambda levels, name=name: levels.get(name, 0) > 0),  # type: ignore[misc]
        }
        for name, level in sorted(deepest.items())
        if level > 0
    }


def _series(observation: Observation) -> dict[str, list[Any]]:
    """How rate, drops and latency went, in the middle of each interval between two samples."""
    keys = ("time", "gbps", "offered_gbps", "drops_percent", "latency_p99_ms", "latency_mean_ms", "resident_mb",
            "probe_cores", "flows_active", "records_per_second")  # fmt: skip
    series: dict[str, list[Any]] = {key: [] for key in keys}
    offers = _offered(observation)
    samples = [sample for sample in observation.samples if sample["time"] <= observation.end]
    if not offers:
        return series
    for before, after in itertools.pairwise(samples):
        seconds = after["time"] - before["time"]
        if seconds <= 0:
            continue
        one, other = _nearest(offers, before["time"]), _nearest(offers, after["time"])
        span = max(other["time"] - one["time"], 1e-9)
        taken = other["offer"]["frames_taken"] - one["offer"]["frames_taken"]
        mean = (other["offer"]["bytes_taken"] - one["offer"]["bytes_taken"]) / taken if taken else 0.0

        def grown(name: str, before: dict[str, Any] = before, after: dict[str, Any] = after) -> int:
            return int(after["totals"].get(name, 0) - before["totals"].get(name, 0))

        frames, dropped = grown("frames_delivered"), grown("source_frames_dropped")
        if observation.plan.source == "memory":
            dropped = other["offer"]["frames_dropped"] - one["offer"]["frames_dropped"]
        latency, sent = _packet_latency(observation, before["time"], after["time"])
        first, last = _moment(observation.moments, before["time"]), _moment(observation.moments, after["time"])
        cpu_seconds = max(last.time - first.time, 1e-9)
        series["time"].append((before["time"] + after["time"]) / 2 - observation.begin)
        series["gbps"].append(frames * mean * 8 / seconds / 1e9)
        series["offered_gbps"].append(
            (other["offer"]["bytes_offered"] - one["offer"]["bytes_offered"]) * 8 / span / 1e9
        )
        series["drops_percent"].append(100 * dropped / max(frames + dropped, 1))
        p99 = _packet_latency_p99(latency, sent)
        mean_latency = _sum(latency.mean, sent.mean if sent else None)
        series["latency_p99_ms"].append(None if p99 is None else p99 * 1e3)
        series["latency_mean_ms"].append(None if mean_latency is None else mean_latency * 1e3)
        series["resident_mb"].append(last.probe.resident_bytes / MEBIBYTE)
        series["probe_cores"].append((last.probe.cpu_seconds - first.probe.cpu_seconds) / cpu_seconds)
        series["flows_active"].append(after["totals"].get("flows_active", 0))
        series["records_per_second"].append(grown("flows_exported") / seconds)
    return series


def _books(observation: Observation) -> list[str]:
    """What does not balance, from the offer to the Core's archive."""
    accounts = observation.final["books"]
    wrong = books.imbalances(accounts)
    sums = books.totals(accounts)
    if observation.final["problem"]:
        wrong.append(observation.final["problem"])
    delivered, dropped = sums.get("source_frames_delivered", 0), sums.get("source_frames_dropped", 0)
    if observation.plan.source == "memory":
        offer = observation.final["offer"]
        if offer["frames_offered"] != delivered + dropped:
            wrong.append(
                f"{offer['frames_offered']:,} frames offered, but {delivered:,} delivered and {dropped:,} dropped"
            )
    else:
        sent = observation.sender_final["offer"]["frames_taken"] - observation.sender_final["refused"]
        if sent != observation.received_frames:
            wrong.append(f"{sent:,} frames sent, but {observation.received_frames:,} came out of the veth pair")
        if sent != delivered + dropped:
            wrong.append(f"{sent:,} frames sent, but {delivered:,} delivered and {dropped:,} dropped")
    acknowledged = sums.get("batches_acknowledged", 0)
    if observation.archived_batches not in (None, acknowledged):
        wrong.append(f"{acknowledged:,} batches acknowledged, but {observation.archived_batches:,} archived")
    return wrong


def _criteria(plan: Plan, figures: dict[str, Any], wrong: list[str], cpus: int) -> list[dict[str, Any]]:
    peak = plan.scenario.drops_allowed
    share = SUSTAINED_AT_PEAK if peak else SUSTAINED
    rate, flows = plan.scenario.bits_per_second, plan.scenario.flows_per_second

    def at_least(name: str, what: str, planned: float, value: float | None, unit: str, share: float) -> dict[str, Any]:
        target = planned * share
        return {
            "name": name, "what": what, "target": target, "relation": ">=", "value": value, "unit": unit,
            "planned": planned, "applies": True, "passed": None if value is None else value >= target,
        }  # fmt: skip

    def below(
        name: str, what: str, target: float, value: float | None, unit: str, *, applies: bool = True
    ) -> dict[str, Any]:
        return {
            "name": name, "what": what, "target": target, "relation": "<", "value": value, "unit": unit,
            "applies": applies, "passed": value < target if applies and value is not None else None,
        }  # fmt: skip

    def at_most(
        name: str, what: str, target: float, value: float | None, *, applies: bool = not peak
    ) -> dict[str, Any]:
        # A quantile is the bound of its bucket: what it bounds may be as long as that, and no longer.
        return {
            "name": name, "what": what, "target": target, "relation": "<=", "value": value, "unit": "s",
            "value_is_upper_bound": True,
            "applies": applies, "passed": value <= target if applies and value is not None else None,
        }  # fmt: skip

    return [
        at_least("throughput", "throughput sustained", rate, figures["bits_per_second"], "bit/s", share),
        at_least("new_flows", "new flows sustained", flows, figures["flows_per_second"], "1/s", SUSTAINED_FLOWS),
        at_most("latency_p99", "packet latency p99", 0.010, figures["packet_latency_p99"]),
        below("latency_mean", "packet latency mean", 0.001, figures["packet_latency_mean"], "s", applies=not peak),
        at_most("export", "flow complete to record p99", 0.100, figures["export_latency_p99"]),
        at_most(
            "transmission", "record to wire p99", 0.050, figures["wire_latency_p99"],
            applies=plan.with_core and not peak,
        ),
        below("drops", "frames dropped", 0.001, figures["drop_ratio"], "ratio", applies=not peak),
        # Work that is left out is lost too, though the frames are counted.
        below("shed", "time with work left out", 0.001, figures["shed_ratio"], "ratio", applies=not peak),
        below("memory", "resident memory", plan.memory_mb * MEBIBYTE, figures["resident_bytes_max"], "B"),
        below(
            "cpu", "probe's share of the machine's CPU", 0.5, figures["probe_cores"] / cpus, "ratio", applies=not peak
        ),
        {
            "name": "books", "what": "books balance", "target": 0, "relation": "=", "value": len(wrong),
            "unit": "faults", "applies": True, "passed": not wrong,
        },
    ]  # fmt: skip


def _limits(
    criteria: list[dict[str, Any]], observation: Observation, figures: dict[str, Any], wrong: list[str]
) -> list[dict[str, Any]]:
    """What limited the criteria that failed; those with the same reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for criterion in criteria:
        if criterion["passed"] is False:
            found.setdefault(_limit(criterion["name"], observation, figures, wrong), []).append(criterion["what"])
    return [
        {"criterion": ", ".join(names), "stage": stage, "because": because} for (stage, because), names in found.items()
    ]


def _limit(name: str, observation: Observation, figures: dict[str, Any], wrong: list[str]) -> tuple[str, str]:
    """Which stage kept a criterion from being met, and what says so."""
    if name == "memory":
        return _most_memory(observation)
    if name == "books":
        return "the books", wrong[0] + (f"; and {len(wrong) - 1} more" if len(wrong) > 1 else "")
    cpus = observation.machine["cpus"]
    dropped = books.by_reason(observation.final["books"], "events_dropped")
    to_record = name not in ("cpu", "transmission")
    source = observation.plan.source
    stage, share = busiest(figures["probe_threads"], figures["source_cores"], source, to_record=to_record)
    others = other_cores(figures)
    if name == "transmission" and figures["seal_duration_mean"] is not None:
        stage = "seal" if figures["seal_duration_mean"] > 0.02 else "deliver"
        said = (
            f"sealing takes {1e3 * figures['seal_duration_mean']:.1f} ms a batch, of which "
            f"{1e3 * (figures['sign_duration_mean'] or 0):.1f} ms are the signature"
        )
    elif source == "veth" and name in ("throughput", "new_flows") and figures["unsent_ratio"] > 0.001:
        stage = "source"
        said = f"{100 * figures['unsent_ratio']:.1f} % of what was due could not be sent in time"
    else:
        said = f"the probe's thread for it was on a CPU for {100 * share:.0f} % of the time"
    if dropped:
        said += f"; records dropped: {', '.join(f'{reason} {count:,}' for reason, count in sorted(dropped.items()))}"
    if others >= OTHERS * cpus and share < BUSY:
        stage = "other programs"
        said = f"they took {others:.2f} of {cpus} cores; {said}"
    else:
        said += saturation(figures, cpus)
    return stage, said


def _most_memory(observation: Observation) -> tuple[str, str]:
    """What held most of the memory when it was most, as far as the probe counts it in bytes."""
    highest = max(observation.moments, key=lambda moment: moment.probe.resident_bytes)
    sums = _nearest(observation.samples, highest.time)["totals"]
    resident = highest.probe.resident_bytes
    batches, streams = sums.get("batch_bytes_waiting", 0), sums.get("stream_bytes_buffered", 0)
    parts = {
        "seal": batches,
        "layer 7": streams,
        "flow table, capture queue and the process itself": resident - batches - streams,
    }
    said = (
        f"of {resident / MEBIBYTE:,.0f} MiB at {highest.time - observation.begin:.1f} s, batches that waited for their "
        f"signature held {batches / MEBIBYTE:,.0f} and TCP streams {streams / MEBIBYTE:,.0f}; "
        f"{sums.get('flows_active', 0):,} flows were active (--html draws memory and flows over time)"
    )
    return max(parts, key=lambda stage: parts[stage]), said


def saturation(figures: dict[str, Any], cpus: int) -> str:
    """Who took the machine's CPUs, if none was left."""
    if figures["machine_cores"] < SATURATED * cpus:
        return ""
    return (
        f"; the machine had no CPU left: of {cpus} cores the probe took {figures['probe_cores']:.2f}, the source "
        f"{figures['source_cores']:.2f}, the Core with its indexer {figures['core_cores']:.2f}, others "
        f"{other_cores(figures):.2f}"
    )


def other_cores(figures: dict[str, Any]) -> float:
    """Cores that programs beside the bench took."""
    taken: float = figures["probe_cores"] + figures["source_cores"] + figures["core_cores"]
    return float(figures["machine_cores"]) - taken
