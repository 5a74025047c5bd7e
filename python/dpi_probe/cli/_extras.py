"""What a command needs that comes with an extra of the package only: said in one line, before the work begins."""

from __future__ import annotations

from importlib.util import find_spec

from dpi_probe.errors import ConfigError

CORE = ("aiohttp", "chdb", "clickhouse_connect", "cryptography", "pyarrow")


def need(what: str, extra: str, *modules: str) -> None:
    """Check that the modules are installed.

    Raises:
        ConfigError: some are not; the message says what installs them.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs more packages ({', '.join(missing)}): pip install 'dpi-probe[{extra}]'")
