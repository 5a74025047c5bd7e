"""The Core's settings: flag > environment (`CORE_…`) > table `[core]` of a TOML file > default."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from dpi_probe.config import PathSetting, allowed, meant
from dpi_probe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

DEFAULT_CONFIG = Path("/etc/dpi-probe/config.toml")


class CoreSettings(BaseSettings):
    """What `dpi-probe core` can be told."""

    model_config = SettingsConfigDict(env_prefix="CORE_", extra="forbid", frozen=True, env_ignore_empty=True)

    data_dir: PathSetting = Field(
        Path("/var/lib/dpi-probe/core"), description="Archive, catalog and embedded database."
    )
    listen: str = Field("127.0.0.1:8443", description="HOST:PORT for probes; `0.0.0.0:8443` or `[::]:8443` for all.")
    admin_port: int = Field(
        8444, ge=0, le=65535, description="Loopback port for queries, health and metrics; 0 picks one."
    )
    database: str = Field(
        "",
        description="DSN of the index: `chdb:///PATH` (default, below the data directory) or `clickhouse://HOST/DB`.",
    )
    pki: PathSetting = Field(
        Path("pki"), description="Directory of `dpi-probe pki init`: ca.pem, crl.pem, core.pem, core.key."
    )
    ca_cert_path: PathSetting | None = Field(
        None, examples=["/etc/dpi-probe/core/ca.pem"], description="The authority's certificate, if not PKI/ca.pem."
    )
    cert_path: PathSetting | None = Field(
        None, examples=["/etc/dpi-probe/core/core.pem"], description="The Core's certificate, if not PKI/core.pem."
    )
    key_path: PathSetting | None = Field(
        None, examples=["/etc/dpi-probe/core/core.key"], description="The Core's key, if not PKI/core.key."
    )
    crl_path: PathSetting | None = Field(
        None, examples=["/etc/dpi-probe/core/crl.pem"], description="The revocation list, if not PKI/crl.pem."
    )
    allowed_skew_seconds: int = Field(
        300, ge=0, le=86400, description="Seconds that a probe's clock may be ahead before its batches are refused."
    )
    max_requests_in_flight: int = Field(
        64,
        ge=1,
        le=4096,
        description="Requests handled at a time; more are answered 429, and so are those of one probe above a quarter "
        "of it, but for 4.",
    )
    max_in_flight_mb: int = Field(
        64, ge=1, le=65536, description="MiB that their bodies may have in all; more are answered 429."
    )
    body_timeout_seconds: float = Field(
        30,
        gt=0,
        le=600,
        description="Seconds that a body may stand still, from one part of it to the next; in all it may take as long, "
        "and a second more for every 4 KiB of it.",
    )
    commit_delay_ms: float = Field(
        5, ge=0, le=50, description="Milliseconds that a batch waits for others to share its fsync."
    )
    segment_size_mb: int = Field(256, ge=1, le=4096, description="MiB at which the archive begins a new segment.")
    verify_threads: int = Field(
        default_factory=lambda: max(1, (os.cpu_count() or 2) - 1),
        ge=1,
        le=256,
        examples=[3],
        description="Threads that verify batches. Default: one less than the machine has cores.",
    )
    database_memory_mb: int = Field(
        2048, ge=256, le=1 << 20, description="MiB that one insert or query may take in the database."
    )
    database_nice: int = Field(
        19,
        ge=0,
        le=19,
        description="Nice value of the database process once it is up; at 0 indexing competes with receiving.",
    )
    query_timeout_seconds: float = Field(30, gt=0, le=3600, description="Seconds that a query may take.")

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        split_listen(value)
        return value

    @field_validator("database")
    @classmethod
    def _check_database(cls, value: str) -> str:
        scheme = value.partition("://")[0]
        if value and scheme not in ("chdb", "clickhouse", "clickhouses", "http", "https"):
            raise ValueError("chdb:///PATH, clickhouse://HOST/DATABASE, http:// or https:// are allowed")
        if scheme == "chdb" and "#" in value:
            raise ValueError("a path without # is allowed")
        if not _is_utf8(value):
            raise ValueError("text in UTF-8 is allowed")
        # Raises where host or port are none.
        _ = urlsplit(value).port
        return value

    @property
    def database_dsn(self) -> str:
        """The DSN, with the default filled in.

        Raises:
            ConfigError: the data directory has a name that a DSN cannot hold.
        """
        if self.database:
            return self.database
        path = str(self.data_dir.absolute() / "database")
        # The engine would take them, percent-encoded too, for the end of the path, and put its files beside.
        if set(path) & {"?", "#"}:
            raise ConfigError(
                f"CORE_DATA_DIR = {str(self.data_dir)!r}: the embedded database cannot lie below a directory with ? or "
                "# in its name; give another --data-dir, or --database"
            )
        if not _is_utf8(path):
            raise ConfigError(
                f"CORE_DATA_DIR = {str(self.data_dir)!r}: the embedded database cannot lie below a directory whose "
                "name is not UTF-8; give another --data-dir, or --database"
            )
        return f"chdb://{path}"

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.ca_cert_path or self.pki / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The Core's certificate."""
        return self.cert_path or self.pki / "core.pem"

    @property
    def key(self) -> Path:
        """The Core's key."""
        return self.key_path or self.pki / "core.key"

    @property
    def crl(self) -> Path:
        """The revocation list."""
        return self.crl_path or self.pki / "crl.pem"


class _CoreTable(TomlConfigSettingsSource):
    """The table `[core]`; the rest of the file is the probe's."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        table = super()._read_file(file_path).get("core", {})
        if not isinstance(table, dict):
            raise ConfigError(f"{file_path}: [core] is not a table")
        return table


def _is_utf8(text: str) -> bool:
    """Whether a name from the command line or the environment was text in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def split_listen(value: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[ADDRESS]:PORT`.

    Raises:
        ValueError: it is neither.
    """
    host, _, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host or not host:
        raise ValueError("HOST:PORT or [IPV6]:PORT is expected")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError("the port is a number from 0 to 65535")
    return host, int(port)


def redact(dsn: str) -> str:
    """The DSN without user and password, for messages."""
    scheme, _, rest = dsn.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> CoreSettings:
    """The settings from all sources; flags that are None count as not given.

    Raises:
        ConfigError: a value is not allowed, or the file cannot be read.
    """
    if config is not None and not config.is_file():
        raise ConfigError(f"configuration {config}: no such file")
    path = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)

    class Sources(CoreSettings):
        """The settings with the sources of this call."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class calls by name
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, _CoreTable(settings_cls, path)

    try:
        return Sources(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        reason = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] != "value_error" and name in CoreSettings.model_fields:
            reason = allowed(name, CoreSettings) or reason
        if first["type"] == "extra_forbidden":
            hint = meant(name, CoreSettings) or "docs/reference/core-config.md lists the settings"
            raise ConfigError(f"{path}: [core] {name}: there is no such setting; {hint}") from error
        given = str(first["input"])
        if name == "database" and "@" in given:
            given = redact(given)
        raise ConfigError(f"CORE_{name.upper()} = {given!r}: {reason}") from error
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"configuration {path}: {error}") from error
