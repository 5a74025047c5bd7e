"""`dpi-probe doctor` and `tune` on real interfaces: a veth pair and loopback in a namespace of their own."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from harness.core import COMMAND

from tests.python.end_to_end.netns import Link

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

VIRTUAL = {"receive ring", "RSS", "LRO", "coalescing", "time stamps", "interrupts"}


@pytest.fixture
def link() -> Iterator[Link]:
    with Link() as made:
        yield made


@pytest.fixture
def environment(shared_pki: Path, tmp_path: Path) -> dict[str, str]:
    certificate = shared_pki / "probes" / "sensor.pem"
    return {
        "BUFFER_DIR": str(tmp_path / "spool"),
        "PROBE_CERT_PATH": str(certificate),
        "PROBE_KEY_PATH": str(certificate.with_suffix(".key")),
        "CA_CERT_PATH": str(shared_pki / "ca.pem"),
    }


def run(
    link: Link, environment: dict[str, str], *arguments: str | Path, without: str = ""
) -> subprocess.CompletedProcess[bytes]:
    command = [COMMAND, *map(str, arguments)]
    if without:
        # Root without capabilities: execve cannot regain what is not in the bounding set.
        command = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", *command]
    return link.host.run(command, check=False, env=environment)


def switch_gro(link: Link, *, on: bool) -> None:
    script = (
        "from dpi_probe.doctor.netlink import Network; n = Network(); "
        f"n.set_ethtool(n.link({link.interface!r}).index, 'features', 'rx-gro', {on})"
    )
    link.host.run([sys.executable, "-c", script])


def gro(link: Link, environment: dict[str, str]) -> str:
    done = run(link, environment, "doctor", "--json", link.interface)
    (finding,) = [finding for finding in json.loads(done.stdout)["findings"] if finding["check"] == "GRO"]
    return str(finding["found"]).split()[0]


def steps(done: subprocess.CompletedProcess[bytes]) -> dict[str, dict[str, Any]]:
    return {step["what"]: step for step in json.loads(done.stdout)["steps"]}


def test_doctor_says_what_does_not_apply_to_virtual_interfaces(link: Link, environment: dict[str, str]) -> None:
    done = run(link, environment, "doctor", "--json", link.interface, "lo")
    said = json.loads(done.stdout)
    found = {(finding["interface"], finding["check"]): finding for finding in said["findings"]}
    for interface, kind in ((link.interface, "veth"), ("lo", "loopback")):
        for name in VIRTUAL:
            assert found[interface, name]["status"] == "not-applicable", name
        assert found[interface, "link"]["status"] == "ok"
        assert found[interface, "link"]["found"].startswith(kind)
    assert found[link.interface, "TSO"]["command"].startswith("ethtool -K feed0 tso off")
    for name in ("certificate", "private key", "CA", "spool space", "capabilities"):
        assert found[None, name]["status"] == "ok", found[None, name]
    assert found[None, "spool speed"]["status"] in {"ok", "warning"}
    assert found[None, "backlog"]["status"] == "not-applicable"
    problems = [finding for finding in said["findings"] if finding["status"] == "problem"]
    assert said["count"]["problem"] == len(problems)
    assert done.returncode == (1 if problems else 0)


def test_the_table_shows_findings_reasons_and_commands(link: Link, environment: dict[str, str]) -> None:
    link.host.ip("link", "set", link.interface, "down")
    done = run(link, environment, "doctor", link.interface)
    assert done.returncode == 1
    text = done.stdout.decode()
    assert f"interface {link.interface}" in text
    assert "An interface that is down delivers nothing." in text
    assert f"$ ip link set dev {link.interface} up" in text
    assert "Traceback" not in text


def test_an_interface_that_does_not_exist(link: Link, environment: dict[str, str]) -> None:
    done = run(link, environment, "doctor", "nothere0")
    assert done.returncode == 3
    assert b"there is no such interface in this network namespace" in done.stdout
    assert run(link, environment, "tune", "nothere0").returncode == 3


def test_doctor_works_without_privileges(link: Link, environment: dict[str, str]) -> None:
    done = run(link, environment, "doctor", "--json", link.interface, without="-all")
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert findings["capabilities"]["status"] == "problem"
    assert "setcap cap_net_raw,cap_bpf=ep" in findings["capabilities"]["command"]
    assert findings["link"]["status"] == "ok"


def test_tune_sets_and_reverts(link: Link, environment: dict[str, str], tmp_path: Path) -> None:
    undo = tmp_path / "undo.json"
    option = f"--undo-file={undo}"
    name = f"{link.interface}: features rx-gro"
    switch_gro(link, on=True)
    assert steps(run(link, environment, "tune", "--json", option, link.interface))[name]["state"] == "planned"
    assert gro(link, environment) == "on"
    try:
        done = run(link, environment, "tune", "--apply", "--json", option, link.interface)
        assert done.returncode == 0, done.stdout
        assert steps(done)[name] | {"reason": None} == {
            "what": name,
            "kind": "features",
            "target": "rx-gro",
            "interface": link.interface,
            "interrupts": False,
            "state": "set",
            "before": "on",
            "after": "off",
            "reason": None,
        }
        assert gro(link, environment) == "off"
        assert b"nothing to set" in run(link, environment, "tune", "--apply", option, link.interface).stdout
    finally:
        reverted = run(link, environment, "tune", "--revert", "--json", option)
    assert steps(reverted)[name]["state"] == "undone"
    assert gro(link, environment) == "on"
    assert not undo.exists()
    again = run(link, environment, "tune", "--revert", option)
    assert (again.returncode, again.stdout) == (0, b"nothing to undo\n")


@pytest.mark.parametrize(
    ("tie", "loosen"),
    [
        ("link add link {} name upper0 type macvlan", "link del upper0"),
        ("route add 198.51.100.0/24 dev {}", "route del 198.51.100.0/24"),
    ],
)
def test_what_the_host_has_on_an_interface_keeps_its_gro(
    tie: str, loosen: str, link: Link, environment: dict[str, str], tmp_path: Path
) -> None:
    name = f"{link.interface}: features rx-gro"
    plan = ("tune", "--json", f"--undo-file={tmp_path / 'undo.json'}", link.interface)
    switch_gro(link, on=True)
    link.host.ip(*tie.format(link.interface).split())
    assert name not in steps(run(link, environment, *plan))
    link.host.ip(*loosen.split())
    assert steps(run(link, environment, *plan))[name]["state"] == "planned"


def test_revert_survives_an_interface_that_is_gone(link: Link, environment: dict[str, str], tmp_path: Path) -> None:
    option = f"--undo-file={tmp_path / 'undo.json'}"
    switch_gro(link, on=True)
    try:
        run(link, environment, "tune", "--apply", option, link.interface)
        link.host.ip("link", "del", link.interface)
        # Another that takes the name is none of ours.
        link.host.ip("link", "add", "feed0", "type", "veth", "peer", "name", link.interface)
        switch_gro(link, on=False)
    finally:
        reverted = run(link, environment, "tune", "--revert", "--json", option)
    assert reverted.returncode == 0, reverted.stdout
    assert steps(reverted)[f"{link.interface}: features rx-gro"]["state"] == "gone"
    assert gro(link, environment) == "off"
    assert not (tmp_path / "undo.json").exists()


def test_tune_without_permission_says_so(link: Link, environment: dict[str, str], tmp_path: Path) -> None:
    switch_gro(link, on=True)
    option = f"--undo-file={tmp_path / 'undo.json'}"
    done = run(link, environment, "tune", "--apply", option, link.interface, without="-all")
    run(link, environment, "tune", "--revert", option)
    assert done.returncode == 5
    assert b"Operation not permitted" in done.stdout
    assert gro(link, environment) == "on"
