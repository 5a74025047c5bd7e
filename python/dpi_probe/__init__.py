"""dpi-probe: packets to signed flow records.

>>> import dpi_probe
>>> flows = dpi_probe.read("small.pcap")
>>> [flow.server_name for flow in flows]
['example.org']
"""

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

__all__ = [
    "CaptureError",
    "CapturePermissionError",
    "CaptureWarning",
    "ConfigError",
    "DpiProbeError",
    "Flow",
    "Flows",
    "SpoolError",
    "TransportError",
    "VerificationError",
    "__version__",
    "read",
]
