"""What `--help` says is laid out as it was written."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from dpi_probe.cli import VERBS, cli


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS), ["core", "export"], ["pki", "issue"]], ids=" ".join)
def test_examples_stand_on_lines_of_their_own(words):
    done = CliRunner().invoke(cli, [*words, "--help"], prog_name="dpi-probe")
    assert done.exit_code == 0, done.output
    assert "\\b" not in done.output
    assert "\b" not in done.output
    examples = [line for line in done.output.splitlines() if "dpi-probe " in line and not line.startswith("Usage")]
    for line in examples:
        assert line.count("dpi-probe ") == 1, line


def test_the_first_example_is_whole():
    done = CliRunner().invoke(cli, ["pki", "--help"], prog_name="dpi-probe")
    assert "\n  dpi-probe pki init pki --dns core.example.net --probe sensor1\n" in done.output


def all_words(command, words=()):
    """The words of every verb and of what is below it."""
    yield list(words)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from all_words(command.get_command(context, name), (*words, name))


@pytest.mark.parametrize("words", list(all_words(cli)), ids=" ".join)
def test_help_fits_a_terminal_of_80_columns(words):
    done = CliRunner().invoke(cli, [*words, "--help"], prog_name="dpi-probe", terminal_width=80)
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if len(line) > 80] == []


def test_no_short_help_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cut = []
    for words in ([], *([verb] for verb in VERBS)):
        done = CliRunner().invoke(cli, [*words, "--help"], prog_name="dpi-probe", terminal_width=80)
        _, _, commands = done.output.partition("\nCommands:\n")
        cut += [line for line in commands.splitlines() if line.endswith("...")]
    assert cut == []
