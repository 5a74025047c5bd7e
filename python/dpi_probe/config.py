"""The probe's settings: one model, from which the reference page, the example TOML and the errors are made.

Precedence: flag > environment > TOML file > default.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from dpi_probe._cpulist import parse_list
from dpi_probe._key import key_parts
from dpi_probe.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

DEFAULT_CONFIG = Path("/etc/dpi-probe/config.toml")


def path_of(value: Any) -> Any:
    """A path of whatever bytes; an empty text is none, which would mean the current directory."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise PydanticCustomError("empty_path", "an empty path is not allowed")
    # Not left to the library: it would refuse text that is not UTF-8.
    return Path(value.strip())


# The type of a setting that names a file or a directory.
PathSetting = Annotated[Path, BeforeValidator(path_of)]


class ProbeSettings(BaseSettings):
    """Settings of `dpi-probe run`. Each name is also an environment variable, in upper case."""

    # An empty variable is what `X=${Y:-}` makes of one that is not set.
    model_config = SettingsConfigDict(
        extra="forbid", validate_default=True, str_strip_whitespace=True, env_ignore_empty=True
    )

    capture_iface: Annotated[
        str | None,
        Field(description="Interface to capture from. One probe runs per interface.", examples=["eth0"]),
    ] = None
    capture: Annotated[
        Literal["auto", "af_packet", "af_xdp", "pcap"],
        Field(
            description="How frames are taken from the interface: `af_packet` (kernel rings), `af_xdp` (in front of "
            "the network stack, which gets no frame of the interface any more), `pcap` (libpcap, for devices that are "
            "no network interfaces). `auto` is `af_packet` wherever that can open the interface, and never `af_xdp`.",
        ),
    ] = "auto"
    dedicated: Annotated[
        bool,
        Field(
            description="Whether `af_xdp` may take the frames of an interface that has an address, a master, a route, "
            "or an interface on top of it."
        ),
    ] = False
    capture_filter: Annotated[
        str | None,
        Field(
            # The time that libpcap takes grows with the third power of the length.
            max_length=4096,
            description="BPF filter in tcpdump's language; what it passes over is not metered.",
            examples=["not port 22"],
        ),
    ] = None
    promiscuous: Annotated[bool, Field(description="Whether to put the interface into promiscuous mode.")] = True
    timestamps: Annotated[
        Literal["kernel", "hardware"],
        Field(
            description="Which clock stamps frames: the kernel's, or the network card's where it has one that stamps "
            "every frame, else the kernel's. The card's must follow UTC (phc2sys). AF_PACKET only."
        ),
    ] = "kernel"
    workers: Annotated[
        int | None,
        Field(
            ge=1,
            le=256,
            description="Workers, each with a capture ring and a flow table of its own. Default: live as many as "
            "CAPTURE_CORES names, else one for each physical core of the interface's NUMA node but one; of a file 1.",
            examples=[5],
        ),
    ] = None
    capture_cores: Annotated[
        str | None,
        Field(
            description="Cores that the workers are pinned to, in this order. Default: several workers are pinned to "
            "cores of the interface's NUMA node, a single one to all of that node.",
            examples=["2-5,8"],
        ),
    ] = None
    interface_wait_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="Longest time in seconds that a vanished interface is waited for before the probe ends.",
        ),
    ] = 60.0
    flow_timeout_seconds: Annotated[
        float,
        Field(ge=0.001, le=86_400, description="Idle timeout in seconds: a flow ends when no packet came for so long."),
    ] = 300.0
    flow_active_timeout_seconds: Annotated[
        float,
        Field(
            ge=0.001,
            le=86_400,
            description="Active timeout in seconds: a longer flow is cut into interim records. Not below the "
            "idle timeout.",
        ),
    ] = 1800.0
    profile: Annotated[
        Literal["minimal", "standard", "full"],
        Field(
            description="How much is computed: `minimal` identity and counters, `standard` also statistics and layer 7,"
            " `full` also the struct `features` and the analysis of TCP. What is not computed is null; the columns'"
            " page says which profile has which."
        ),
    ] = "standard"
    flow_key: Annotated[
        str,
        Field(
            description="What joins addresses, ports and protocol in the flow key, with a comma between: `vlan` (VLAN "
            "ids), `tunnel` (tunnels and their identifiers, unless each direction has its own: GTP-U, L2TP, PPTP, "
            "MPLS). Without it, flows of tenants that overlap are marked by `key_ambiguous`.",
            examples=["vlan,tunnel"],
        ),
    ] = ""
    max_buffer_size_mb: Annotated[
        int,
        Field(
            ge=128,
            le=1_048_576,
            description="Bound of the probe's resident memory in MiB: rings, flow table, queues, everything.",
        ),
    ] = 1024
    max_spool_size_mb: Annotated[
        int, Field(ge=1, le=1_073_741_824, description="Bound of the spool on disk in MiB.")
    ] = 4096
    spool_when_full: Annotated[
        Literal["drop_oldest", "drop_newest"],
        Field(description="Which batch gives way when the spool is full; its manifest is kept, so the hole is signed."),
    ] = "drop_oldest"
    backpressure_threshold: Annotated[
        int,
        Field(
            ge=1,
            le=2**63 - 1,
            description="Events not yet acknowledged above which the probe counts itself under back-pressure.",
        ),
    ] = 250_000
    core_api_url: Annotated[
        str | None,
        Field(
            description="Where the Core listens; without it batches are sealed and spooled only.",
            examples=["https://core.example:8443"],
        ),
    ] = None
    buffer_dir: Annotated[
        PathSetting | None,
        Field(
            description="Directory of the spool. Default: /var/lib/dpi-probe/IFACE.",
            examples=["/var/lib/dpi-probe/eth0"],
        ),
    ] = None
    probe_cert_path: Annotated[
        PathSetting | None,
        Field(description="The probe's certificate (PEM, RSA-4096). Default: /etc/dpi-probe/probe.pem."),
    ] = Path("/etc/dpi-probe/probe.pem")
    probe_key_path: Annotated[
        PathSetting | None, Field(description="The probe's private key (PEM), readable by its owner only.")
    ] = Path("/etc/dpi-probe/probe.key")
    ca_cert_path: Annotated[
        PathSetting | None, Field(description="Certificate of the CA that issued the Core's certificate (PEM).")
    ] = Path("/etc/dpi-probe/ca.pem")
    probe_id: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._@:-]+)*$",
            max_length=128,
            description="Name in the manifests: the name in the certificate, or it and `/…`. Default: NAME/IFACE.",
            examples=["probe-1.example/eth0"],
        ),
    ] = None
    health_report_interval_seconds: Annotated[
        float, Field(ge=0.1, le=86_400, description="Seconds between two signed ledgers.")
    ] = 60.0
    seal_threads: Annotated[
        int,
        Field(
            ge=1,
            le=16,
            description="Threads that hash, compress and sign batches. "
            "At most one for each 256 MiB of max_buffer_size_mb.",
        ),
    ] = 1
    seal_linger_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=60,
            description="Longest time in seconds that a record waits for its batch to fill before the batch is sealed; "
            "up to four times as long, within 0.1 s, while batches wait for a sealing thread. "
            "The batches of a capture file are full, or hold the rest; those of a pipe are sealed after this time too.",
        ),
    ] = 0.02
    shutdown_timeout_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="Longest time in seconds that a stopping probe waits for receipts; the rest stays spooled.",
        ),
    ] = 10.0
    spool_fsync: Annotated[
        Literal["batch", "never"],
        Field(description="Whether every sealed batch is flushed to the disk before it counts as spooled."),
    ] = "batch"
    metrics_address: Annotated[
        str | None,
        Field(
            description=(
                "HOST:PORT where /metrics, /healthz, /readyz and /v1/config are served, or `off`. Default: for an "
                "interface 127.0.0.1 and a port of its own from 20000 to 20999, made of its name; for files off."
            ),
            examples=["127.0.0.1:20123"],
        ),
    ] = None
    log_level: Annotated[
        Literal["error", "warning", "info", "debug"], Field(description="Least severe messages that are logged.")
    ] = "info"

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise PydanticCustomError("truth", "true and false are no value for it")
        return value

    @field_validator("flow_active_timeout_seconds")
    @classmethod
    def _not_below_the_idle_timeout(cls, value: float, info: ValidationInfo) -> float:
        idle = info.data.get("flow_timeout_seconds")
        if idle is not None and value < idle:
            msg = f"allowed: not below flow_timeout_seconds, which is {idle:.15g}"
            raise ValueError(msg)
        return value

    @field_validator("seal_threads")
    @classmethod
    def _within_the_memory(cls, value: int, info: ValidationInfo) -> int:
        # What a thread has in work is in no queue: an eighth of the memory is for it, 32 MiB each.
        most = max(1, info.data.get("max_buffer_size_mb", 1024) // 256)
        if value > most:
            msg = f"allowed: at most {most}, one for each 256 MiB of max_buffer_size_mb"
            raise ValueError(msg)
        return value

    @field_validator("capture_iface")
    @classmethod
    def _interface_name(cls, value: str | None) -> str | None:
        # IFNAMSIZ is 16 with the final NUL; the kernel forbids "/" and white space.
        if value is not None and not re.fullmatch(r"[^\s/]{1,15}", value):
            msg = "an interface name has 1 to 15 characters, none of them white space or '/'"
            raise ValueError(msg)
        return value

    @field_validator("capture_cores")
    @classmethod
    def _core_list(cls, value: str | None) -> str | None:
        if value is not None:
            _cores(value)
        return value

    @field_validator("flow_key")
    @classmethod
    def _parts_of_the_key(cls, value: str) -> str:
        return ",".join(key_parts(value))

    @field_validator("metrics_address")
    @classmethod
    def _listen(cls, value: str | None) -> str | None:
        if value is None or value == "off":
            return value
        from dpi_probe._control import Address

        try:
            return str(Address.parse(value))
        except ValueError:
            msg = "ADDRESS:PORT of this machine is expected, as in 127.0.0.1:20123, or off"
            raise ValueError(msg) from None

    @field_validator("core_api_url")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https://[^\s/?#]+/?", value):
            msg = "https://HOST[:PORT] is expected"
            raise ValueError(msg)
        return value.rstrip("/") if value else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag > environment > TOML > default."""
        return init_settings, env_settings, _ProbeTable(settings_cls)

    @property
    def cores(self) -> list[int]:
        """The cores that are named, in this order."""
        return _cores(self.capture_cores) if self.capture_cores else []

    @property
    def interface_label(self) -> str:
        """What stands for the interface in default paths and the probe id."""
        return self.capture_iface or "file"

    def without_interface(self) -> ProbeSettings:
        """The settings for capture files: an interface that they name is not captured from."""
        return self.model_copy(update={"capture_iface": None})

    @property
    def spool_directory(self) -> Path:
        """The spool's directory, of this interface alone unless set."""
        return self.buffer_dir or Path("/var/lib/dpi-probe") / self.interface_label


def _cores(text: str) -> list[int]:
    """The cores in a list such as `2-5,8`: at least one, and none twice."""
    cores = parse_list(text)
    if not cores:
        msg = "at least one core is expected, as in 2-5,8"
        raise ValueError(msg)
    if len(set(cores)) < len(cores):
        msg = "every core may be named once"
        raise ValueError(msg)
    return cores


class _ProbeTable(TomlConfigSettingsSource):
    """The file without its table `[core]`, which is the Core's."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return {name: value for name, value in super()._read_file(file_path).items() if name != "core"}


def load(
    flags: dict[str, Any] | None = None, toml_file: Path | None = None, *, are_arguments: bool = False
) -> ProbeSettings:
    """Read the settings from `flags`, the environment and `toml_file`, in this order of precedence.

    Without `toml_file`, /etc/dpi-probe/config.toml is read if it exists. Flags that are None count as not
    given. Raises ConfigError with one line that names the setting, its value, where it came from and what is allowed;
    `are_arguments` says that `flags` holds arguments of a function, not of the command line.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    if toml_file is None and DEFAULT_CONFIG.is_file():
        toml_file = DEFAULT_CONFIG
    from_file = _read_toml(toml_file) if toml_file is not None else {}

    class FileSettings(ProbeSettings):
        model_config = SettingsConfigDict(toml_file=toml_file)

    try:
        return FileSettings(**given)
    except ValidationError as error:
        if are_arguments and _name(error) in given:
            raise ConfigError(_fault(error, "argument")) from None
        raise ConfigError(_one_line(error, given, from_file, toml_file)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None


# What can be changed while a probe runs.
CHANGEABLE = ("flow_timeout_seconds", "flow_active_timeout_seconds", "profile", "capture_filter")


def changed(settings: ProbeSettings, changes: dict[str, Any], origin: str) -> ProbeSettings:
    """The settings with `changes`, checked as if they had been given at the start.

    Raises ConfigError with one line that names the setting, its value, `origin` and what is allowed.
    """

    class Given(ProbeSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
            init_settings: PydanticBaseSettingsSource,
            *_: PydanticBaseSettingsSource,
            **__: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)

    for name in changes:
        if name in CHANGEABLE:
            continue
        # Not left to the library: it takes names in any case, and of two spellings one in silence.
        if name not in ProbeSettings.model_fields:
            raise ConfigError(_no_such_setting(name, origin))
        msg = f"{name} ({origin}): it cannot be changed while the probe runs; what can is {', '.join(CHANGEABLE)}"
        raise ConfigError(msg)
    try:
        return Given(**{**settings.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(_fault(error, origin)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    """The file's content, or a ConfigError that names the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"configuration file {path}: {error.strerror}"
        raise ConfigError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"configuration file {path} is not TOML: {error}"
        raise ConfigError(msg) from None


def _one_line(error: ValidationError, flags: dict[str, Any], from_file: dict[str, Any], path: Path | None) -> str:
    """One line for the first fault: setting, value, origin, what is allowed."""
    name = _name(error)
    # The library takes names of variables in any case, and none that is empty.
    variables = [variable for variable, value in os.environ.items() if variable.lower() == name and value]
    if name in flags:
        setting, origin = f"--{name.replace('_', '-')}", "command line"
    elif variables:
        setting, origin = variables[0], "environment"
    else:
        # The library takes names of the file in any case.
        setting, origin = name, str(path) if name in map(str.lower, from_file) else "default"
    return _fault(error, origin, setting)


def _name(error: ValidationError) -> str:
    """The setting of the first fault."""
    place = error.errors(include_url=False)[0]["loc"]
    return str(place[0]) if place else "configuration"


def _fault(error: ValidationError, origin: str, setting: str | None = None) -> str:
    """The first fault: setting, value, origin, what is allowed."""
    fault, name = error.errors(include_url=False)[0], _name(error)
    setting = setting or name
    if fault["type"] == "extra_forbidden":
        return _no_such_setting(name, origin, setting)
    said = fault["msg"].removeprefix("Value error, ")
    # What a check of ours says goes before what the type allows.
    wanted = said if fault["type"] == "value_error" else allowed(name) or said
    return f"{setting}={fault['input']!r} ({origin}): {wanted}"


def _no_such_setting(name: str, origin: str, setting: str | None = None) -> str:
    """One line with the setting that was meant, if one is near."""
    hint = meant(name, ProbeSettings) or "the settings are listed in docs/reference/config.md"
    return f"{setting or name} ({origin}): there is no such setting; {hint}"


def meant(name: str, model: type[BaseSettings]) -> str:
    """The question whether the setting was meant that is nearest to `name`; empty where none is near."""
    near = difflib.get_close_matches(name.lower(), model.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else ""


def allowed(name: str, model: type[BaseSettings] = ProbeSettings) -> str:
    """What the setting takes, in words; empty where its description says all."""
    field = model.model_fields[name]
    schema = model.model_json_schema()["properties"][name]
    choices = [schema, *schema.get("anyOf", [])]
    for choice in choices:
        if "enum" in choice:
            return "allowed: " + ", ".join(choice["enum"])
        if "pattern" in choice:
            return f"allowed: a name such as {schema['examples'][0]}, of at most {choice['maxLength']} characters"
        if "maxLength" in choice:
            return f"allowed: at most {choice['maxLength']} characters"
    kind = next((c["type"] for c in choices if c.get("type") in ("integer", "number", "boolean")), None)
    if kind == "boolean":
        return "allowed: true, false"
    if kind is not None:
        limits = {type(item).__name__: item for item in field.metadata}
        low = f"more than {_limit(limits['Gt'].gt)}" if "Gt" in limits else f"at least {_limit(limits['Ge'].ge)}"
        high = f", at most {_limit(limits['Le'].le)}" if "Le" in limits else ""
        return f"allowed: {'a whole number' if kind == 'integer' else 'a number'}, {low}{high}"
    return ""


def _limit(number: float) -> str:
    """A bound as it was declared."""
    return str(number) if isinstance(number, int) else f"{number:.15g}"
