"""What the hand-written pages name is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from itertools import product
from pathlib import Path

import click
import pytest
from dpi_probe import _native
from dpi_probe._control import default_port
from dpi_probe.cli import cli
from dpi_probe.config import ProbeSettings
from dpi_probe.core.settings import CoreSettings

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def expanded(path: str) -> list[str]:
    """`a/{b,c}.rs` as a shell takes it."""
    parts = [part.split(",") for part in re.split(r"[{}]", path)]
    return ["".join(choice) for choice in product(*parts)]


def test_the_architecture_names_files_that_are_there():
    text = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"`((?:crates|python|docs|tests|deploy)/[^`\s]*)`", text)
    assert len(named) > 20
    for path in (one for name in named for one in expanded(name) if "NAME" not in one):
        assert (ROOT / path).exists(), path


def test_unsafe_stands_only_where_the_safety_page_says():
    page = (ROOT / "crates/probe/SAFETY.md").read_text()
    for file in sorted((ROOT / "crates").rglob("*.rs")):
        if "target" not in file.parts and re.search(r"\bunsafe (?:\{|fn|impl|extern)", file.read_text()):
            parts = file.relative_to(ROOT / "crates/probe").parts
            # The page names some of them within their folder.
            ends = ["/".join(parts[start:]) for start in range(len(parts))]
            assert any(f"`{end}`" in page for end in ends), ends[0]


def commands(page: Path) -> list[list[str]]:
    """The words of every line of a code block that calls the program."""
    found = []
    text = page.read_text()
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```|^(    [^\n]*)$", text, re.MULTILINE | re.DOTALL)
    for block in (fenced or indented for fenced, indented in blocks):
        lines = block.replace("\\\n", " ").splitlines()
        for line in (line for line in lines if re.match(r"\s*(?:.*\| |sudo )?dpi-probe ", line)):
            # A pipe or a redirection ends the command.
            words = shlex.split(line.split(" | jq")[0].replace(" > ", " ; "), comments=True)
            if "dpi-probe" in words:
                words = words[words.index("dpi-probe") + 1 :]
                found.append(words[: words.index(";")] if ";" in words else words)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_on_the_pages_have_the_flags_that_are_shown(page):
    for line in commands(page):
        words = list(line)
        command, context = cli, click.Context(cli)
        while isinstance(command, click.Group) and words and (part := command.get_command(context, words[0])):
            command = part
            del words[0]
        flags = {flag for option in command.params for flag in [*option.opts, *option.secondary_opts]}
        for word in words:
            if re.match(r"--?[a-zA-Z]", word) and word not in {"--help", "-h"}:
                assert word.partition("=")[0] in flags, f"{page.name}: {command.name} {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_on_the_pages_are_those_of_the_reference(page):
    suffixes = {"counter": ("", "_total"), "gauge": ("",), "histogram": ("", "_bucket", "_sum", "_count")}
    shown = {metric["name"] + suffix for metric in _native.metric_table() for suffix in suffixes[metric["kind"]]}
    # The reference speaks of any of them as dpi_probe_NAME.
    assert set(re.findall(r"\bdpi_probe_[a-z]\w*", page.read_text())) <= shown


def test_the_core_of_the_readme_listens_where_its_probe_delivers():
    (core,) = [words for words in commands(ROOT / "README.md") if words[0] == "core"]
    (run,) = [words for words in commands(ROOT / "README.md") if words[0] == "run"]
    port = core[core.index("--listen") + 1].rpartition(":")[2]
    assert core[core.index("--listen") + 1] == f"0.0.0.0:{port}"
    assert run[run.index("--core-api-url") + 1].endswith(f":{port}")


def test_the_probe_starts_also_where_its_tuning_was_refused():
    (line,) = re.findall(r"^ExecStartPre=(.*)$", (ROOT / "docs/guides/tuning.md").read_text(), re.MULTILINE)
    assert line.startswith("-+/usr/bin/dpi-probe tune "), "tune's status is 1 if anything was refused"


@pytest.mark.parametrize("page", ["docs/guides/tuning.md", "deploy/systemd/dpi-probe@.service"])
def test_units_take_the_interface_as_it_is_named(page):
    specifiers = re.findall(r"^\w+=.*(%[iI])", (ROOT / page).read_text(), re.MULTILINE)
    assert specifiers, page
    assert set(specifiers) == {"%i"}, "systemd makes br/lan of br-lan in %I"


def test_the_installation_makes_what_the_units_and_the_settings_name():
    guide = (ROOT / "docs/guides/install.md").read_text()
    for unit in sorted((ROOT / "deploy/systemd").iterdir()):
        text = unit.read_text()
        assert f"deploy/systemd/{unit.name} /etc/systemd/system/" in guide
        ((program, config),) = re.findall(r"^ExecStart=(\S+) .*--config (\S+)", text, re.MULTILINE)
        assert f"sudo ln -s /opt/dpi-probe/bin/dpi-probe {program}\n" in guide
        assert f"`{config}`" in guide
        (user,) = re.findall(r"^User=(\S+)", text, re.MULTILINE)
        assert re.search(rf"^sudo useradd --system .* {user}$", guide, re.MULTILINE), user
    fields = ProbeSettings.model_fields
    for name, mode in (("ca_cert_path", "0644"), ("probe_cert_path", "0644"), ("probe_key_path", "0600")):
        assert re.search(rf"^sudo install -m {mode} .* {fields[name].default}$", guide, re.MULTILINE), name
    tables = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)]
    assert {name for table in tables for name in table if name != "core"} <= fields.keys()
    (core,) = (table["core"] for table in tables if "core" in table)
    assert core.keys() <= CoreSettings.model_fields.keys()
    for file in ("ca.pem", "crl.pem", "core.pem", "core.key"):
        assert re.search(rf"^sudo install .*pki/{file}.* {core['pki']}/", guide, re.MULTILINE), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert ":" in link or (page.parent / link).exists(), link


def test_the_readme_links_every_guide():
    linked = re.findall(r"\]\((docs/[^)#]*)", (ROOT / "README.md").read_text())
    for page in [*(ROOT / "docs/guides").glob("*.md"), ROOT / "docs/comparison.md"]:
        assert str(page.relative_to(ROOT)) in linked


@pytest.mark.parametrize(
    ("page", "interface"),
    [
        ("docs/guides/monitoring.md", "eth0"),
        ("docs/guides/install.md", "eth0"),
        ("docs/guides/install.md", "lo"),
        ("deploy/prometheus/prometheus.yml", "eth0"),
    ],
)
def test_ports_of_the_examples_are_those_of_their_interfaces(page, interface):
    shown = {int(port) for port in re.findall(r"127\.0\.0\.1:(2\d{4})", (ROOT / page).read_text())}
    assert default_port(interface) in shown
    assert shown <= {default_port("eth0"), default_port("lo")}
