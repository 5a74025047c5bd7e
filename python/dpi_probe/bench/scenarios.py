"""What is run: the scenarios of the performance model, and how they are varied."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dpi_probe import _native

FRAME_SIZES = ("64", "imix", "1000", "9000", "super")
# Frames that are prepared and offered again and again with other clients; see crates/probe/src/traffic.
CYCLE_BYTES = 32 << 20
# Bytes are what super-frames cost their sender: they are read from the cache.
SUPER_FRAMES_CYCLE_BYTES = 4 << 20
# The MTU of the pair over which frames of a size are sent. Super-frames are left to be cut to it.
MTU = {"64": 1500, "imix": 1500, "1000": 1500, "9000": 9000, "super": 1500}


@dataclass(frozen=True)
class Scenario:
    """A load: bits and new flows a second."""

    name: str
    bits_per_second: int
    flows_per_second: int
    drops_allowed: bool = False
    """At the peak, drops and any use of the CPU are allowed."""


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("low", 100_000_000, 1_000),
        Scenario("medium", 1_000_000_000, 10_000),
        Scenario("high", 10_000_000_000, 100_000),
        Scenario("peak", 40_000_000_000, 400_000, drops_allowed=True),
    )
}


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run does."""

    scenario: Scenario
    source: str = "memory"
    """`memory` or `veth`."""
    capture: str = "auto"
    """How frames are taken from the veth pair, as the setting CAPTURE has it."""
    frame_size: str = "1000"
    duration: float = 10.0
    """Seconds that are measured."""
    warm_up: float | None = None
    """Seconds before that; by default the idle timeout and three more, so that as many flows end as begin."""
    seed: int = 1
    with_core: bool = True
    """Without, batches are sealed and spooled, and the oldest dropped when the spool is full."""
    flow_timeout: float = 5.0
    """The idle timeout. With the product's 300 s as many flows would end as begin only after five minutes."""
    memory_mb: int = 1024
    workers: int = 1
    ipv6_share: float = 0.3
    vlan_share: float = 0.1

    @property
    def warm_up_seconds(self) -> float:
        """Seconds before anything is measured."""
        return self.flow_timeout + 3 if self.warm_up is None else self.warm_up

    def traffic(self) -> _native.Traffic:
        """The traffic of this plan."""
        return make_traffic(
            bits_per_second=self.scenario.bits_per_second,
            flows_per_second=self.scenario.flows_per_second,
            frame_size=self.frame_size,
            seed=self.seed,
            ipv6_share=self.ipv6_share,
            vlan_share=self.vlan_share,
        )

    def to_json(self) -> dict[str, Any]:
        """As a result carries it."""
        return {**asdict(self), "warm_up": self.warm_up_seconds}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """What `to_json` gave."""
        return cls(**{**data, "scenario": Scenario(**data["scenario"])})


def make_traffic(
    *,
    bits_per_second: int,
    flows_per_second: int,
    frame_size: str,
    seed: int = 1,
    ipv6_share: float = 0.3,
    vlan_share: float = 0.1,
    cycle_bytes: int | None = None,
) -> _native.Traffic:
    """Traffic with the bench's defaults.

    Raises:
        ConfigError: there can be no such traffic.
    """
    if cycle_bytes is None:
        cycle_bytes = SUPER_FRAMES_CYCLE_BYTES if frame_size == "super" else CYCLE_BYTES
    return _native.Traffic(
        seed=seed,
        bits_per_second=bits_per_second,
        flows_per_second=flows_per_second,
        frame_size=frame_size,
        ipv6_share=ipv6_share,
        vlan_share=vlan_share,
        cycle_bytes=cycle_bytes,
    )
