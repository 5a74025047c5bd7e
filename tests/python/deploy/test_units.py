"""The systemd units, against what the programs do."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

from dpi_probe.errors import ConfigError, DpiProbeError

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"


def test_a_core_whose_address_is_not_there_yet_starts_when_it_is() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / "dpi-core.service", encoding="utf-8")
    assert unit["Unit"]["After"] == unit["Unit"]["Wants"] == "network-online.target"
    assert unit["Service"]["Restart"] == "on-failure"
    # A setting stays wrong; an address that cannot be listened on now is no such error (`test_cli`).
    assert int(unit["Service"]["RestartPreventExitStatus"]) == ConfigError.exit_status != DpiProbeError.exit_status
