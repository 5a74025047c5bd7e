"""dpi-probe: packets to signed flow records.

>>> import dpi_probe
>>> flows = dpi_probe.read("small.pcap")
>>> [flow.server_name for flow in flows]
['example.org']
"""

from typing import TYPE_CHECKING, Any

from dpi_probe._columns import Flow
from dpi_probe._flows import Flows, read
from dpi_probe._native import __version__
from dpi_probe.errors import (
    CaptureError,
    CapturePermissionError,
    CaptureWarning,
    ConfigError,
    DpiProbeError,
    SpoolError,
    TransportError,
    VerificationError,
)

if TYPE_CHECKING:
    from dpi_probe._probe import Probe

__all__ = [
    "CaptureError",
    "CapturePermissionError",
    "CaptureWarning",
    "ConfigError",
    "DpiProbeError",
    "Flow",
    "Flows",
    "Probe",
    "SpoolError",
    "TransportError",
    "VerificationError",
    "__version__",
    "read",
]


def __getattr__(name: str) -> Any:
    """`Probe` is imported on first use: reading files needs none of its settings machinery."""
    if name == "Probe":
        from dpi_probe._probe import Probe

        return Probe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
