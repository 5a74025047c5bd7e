"""`dpi-probe pki`: make, issue and revoke certificates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpi_probe.cli import _extras
from dpi_probe.cli._output import writing
from dpi_probe.cli._path import FilePath

if TYPE_CHECKING:
    from dpi_probe._pki import Authority

DIRECTORY = click.option(
    "--dir",
    "directory",
    type=FilePath(path_type=Path, file_okay=False),
    default=Path("pki"),
    show_default=True,
    envvar="PKI_DIR",
    show_envvar=True,
    help="The authority's directory.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    r"""Make, issue and revoke the certificates of probes and the Core.

    \b
    dpi-probe pki init pki --dns core.example.net --probe sensor1
    dpi-probe pki issue sensor2 --dir pki
    dpi-probe pki revoke sensor2 --dir pki
        a running Core refuses it from the next request on
    dpi-probe pki list --dir pki

    The directory holds ca.pem, ca.key, crl.pem, core.pem, core.key and probes/NAME.pem, probes/NAME.key.
    Give a probe its own NAME.pem and NAME.key and ca.pem; never give away ca.key.
    """


@command.command()
@click.argument("directory", type=FilePath(path_type=Path, file_okay=False))
@click.option("--core-name", default="core", show_default=True, help="The Core's name.")
@click.option("--dns", multiple=True, help="A host name under which probes reach the Core (repeatable).")
@click.option("--ip", multiple=True, help="An address under which probes reach the Core (repeatable).")
@click.option("--probe", "probes", multiple=True, help="Also issue a certificate for this probe (repeatable).")
def init(directory: Path, core_name: str, dns: tuple[str, ...], ip: tuple[str, ...], probes: tuple[str, ...]) -> None:
    """Make an authority with certificates for Core and probes.

    All of it is written to DIRECTORY.
    """
    _authority().init(directory, core=core_name, dns=dns, ip=ip, probes=probes)
    click.echo(f"{directory}/ca.pem")
    click.echo(f"{directory}/core.pem")
    for probe in probes:
        click.echo(f"{directory}/probes/{probe}.pem")
    click.echo(f"next: dpi-probe core --pki {directory}", err=True)


@command.command()
@click.argument("name")
@DIRECTORY
@click.option("--renew", is_flag=True, help="Replace a certificate that still holds; what it signed stays valid.")
@click.option("--core", "is_core", is_flag=True, help="Issue the Core's certificate instead of a probe's.")
@click.option("--dns", multiple=True, help="With --core: a host name under which probes reach it (repeatable).")
@click.option("--ip", multiple=True, help="With --core: an address under which probes reach it (repeatable).")
@click.option("--days", type=click.IntRange(1, 3650), default=825, show_default=True, help="Days until it expires.")
def issue(
    name: str, directory: Path, renew: bool, is_core: bool, dns: tuple[str, ...], ip: tuple[str, ...], days: int
) -> None:
    """Make a key and certificate for the probe NAME.

    RSA-4096, for client authentication.
    """
    if (dns or ip) and not is_core:
        raise click.UsageError("--dns and --ip belong to --core; a probe's certificate names no host")
    authority = _authority()(directory)
    if is_core:
        click.echo(authority.issue_core(name, dns=dns, ip=ip, renew=renew, days=days))
    else:
        click.echo(authority.issue_probe(name, renew=renew, days=days))


@command.command()
@click.argument("name")
@DIRECTORY
@click.option("--earlier-only", is_flag=True, help="Keep the present certificate; revoke those that it replaced.")
def revoke(name: str, directory: Path, earlier_only: bool) -> None:
    """Revoke the certificates of the probe NAME.

    What the Core archived before stays valid.
    """

    def passed_over(error: Exception) -> None:
        click.echo(f"dpi-probe: {error}; it is passed over, and not revoked if it is {name}'s", err=True)

    for serial in _authority()(directory).revoke(name, earlier_only=earlier_only, unreadable=passed_over):
        click.echo(f"revoked {name} {serial:x}")


@command.command("list")
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(directory: Path, as_json: bool) -> None:
    """List the certificates and their state."""
    for entry in _authority()(directory).list():
        row = {
            "name": entry.name,
            "role": entry.role,
            "state": entry.state,
            "not_after": entry.not_after.isoformat().replace("+00:00", "Z"),
            "serial": f"{entry.serial:x}",
            "path": str(entry.path),
        }
        with writing():
            click.echo(json.dumps(row) if as_json else "  ".join(f"{value:<8}" for value in row.values()))


def _authority() -> type[Authority]:
    """The class, imported when it is needed."""
    _extras.need("making certificates", "core", "cryptography")
    from dpi_probe._pki import Authority

    return Authority
