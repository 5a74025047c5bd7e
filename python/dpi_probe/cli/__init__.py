"""The `dpi-probe` command.

Every verb lives in a module of its own and is imported when it is called, so that `dpi-probe read` starts fast.
Exit status: 0 success; 1 failure while running; 2 bad usage or setting; 3 an input could not be read, or only in part;
4 a verification failed; 5 missing permission; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import select
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dpi_probe.cli._output import STANDARD_OUTPUT, silence_stdout
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERRUPTED = 130
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

# verb -> (module below dpi_probe.cli, help line); the module's `command` is the click command.
VERBS: dict[str, tuple[str, str]] = {
    "read": ("read", "Read capture files and print or write their flows."),
    "run": ("run", "Run the probe: capture, seal, spool, deliver."),
    "top": ("top", "Show a running probe: rates, losses, queues, latencies, applications."),
    "core": ("core", "Run the Core, or rebuild and export what it holds."),
    "verify": ("verify", "Check sealed batches, spools, archives, exports and proofs."),
    "prove": ("prove", "Write one record's inclusion proof."),
    "doctor": ("doctor", "Say what is wrong for capturing here, and what mends it."),
    "tune": ("tune", "Set what is safe of that, and take it back."),
    "pki": ("pki", "Make, issue and revoke certificates."),
    "bench": ("bench", "Measure the probe on this machine, and beside other tools."),
    "demo": ("demo", "Show the whole path on recorded traffic."),
}


def _keep_lines(command: click.Command) -> None:
    r"""Let `\b` in a command's raw docstring mean what click means by it: the lines that follow stay as they are."""
    if command.help:
        command.help = command.help.replace("\\b\n", "\b\n")
    if isinstance(command, click.Group):
        for part in command.commands.values():
            _keep_lines(part)


@contextmanager
def _past_click() -> Iterator[None]:
    """Within the block a broken pipe of whatever kind would be to click the end, with status 1 and no message.

    One without a number passes.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise BrokenPipeError(error.strerror or str(error)) from error


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Parse the command line as far as it is this group's, which may show `--help`."""
        with _past_click():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        with _past_click():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs in the order in which a user meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb's module and return its command."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"dpi_probe.cli.{VERBS[cmd_name][0]}").command
        _keep_lines(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dpi-probe", prog_name="dpi-probe")
def cli() -> None:
    r"""Packets to signed flow records: a passive DPI probe and its Core.

    \b
    dpi-probe read capture.pcap                 flows of a file, as a table
    dpi-probe read -f 'port 53' -o f.parquet *.pcap
    dpi-probe run -i eth0                       capture, seal, deliver
    dpi-probe core                              receive, verify, archive, index
    dpi-probe verify BUFFER_DIR                 check what lies on disk
    """


_keep_lines(cli)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs the command line and exits with the documented status."""
    status: int | str | None
    _replace_closed()
    _prepare_stdout()
    _prepare_stderr()
    try:
        status = _run(arguments)
    except SystemExit as end:
        status = end.code
    try:
        sys.stdout.flush()
    except OSError as error:
        silence_stdout()
        if not status and not isinstance(error, BrokenPipeError):
            status = _tell(f"cannot write {STANDARD_OUTPUT}: {error.strerror}", 1)
    sys.exit(status)


def _replace_closed() -> None:
    """Put something in the place of standard streams that are closed, or the next file that is opened would be one.

    Reading from standard input and writing to standard output fail as they should; messages go nowhere.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free, and those below are not.
            os.open(os.devnull, flags)
    # They stay open as long as the process runs.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _prepare_stdout() -> None:
    r"""Let no character end a command: files and pipes get UTF-8, as JSON must be, a terminal that lacks one a `?`.

    What in a file's name is not UTF-8 stands as `\udcNN` in files and pipes, which JSON reads back as that name.
    """
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    if sys.stdout.isatty():
        sys.stdout.reconfigure(errors="replace")
    else:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


class _Unheard(io.FileIO):
    """Standard error: where what is told there finds no place, the command goes on all the same."""

    def write(self, data: Any, /) -> int:
        """Write to it, or nowhere."""
        try:
            written: int | None = super().write(data)
        except OSError:
            return len(data)
        # None where it would have to wait and may not.
        return len(data) if written is None else written


def _prepare_stderr() -> None:
    """Let a closed pipe, as in `dpi-probe … 2>&1 | head`, or a full disk change no exit status."""
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        raw = io.BufferedWriter(_Unheard(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, encoding=sys.stderr.encoding, errors=sys.stderr.errors, line_buffering=True)


def _run(arguments: Sequence[str] | None) -> int:
    """Run the command line; the exit status. Whatever goes wrong is told in one line."""
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="dpi-probe", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _tell(_usage(error), error.exit_code)
    except DpiProbeError as error:
        return _tell(str(error), error.exit_status)
    except OSError as error:
        # Whoever reads standard output may go away; any other pipe is something that was needed.
        if not (isinstance(error, BrokenPipeError) and _is_unread()):
            return _tell(_of_system(error), 1)
    return 0


def _is_unread() -> bool:
    """Whether standard output is a pipe or a socket that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _of_system(error: OSError) -> str:
    """What the system refused, and of which file."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    # A file that is being written does not say which one it is.
    return f"cannot write the output: {reason}" if error.errno in _FULL else reason


def _usage(error: click.ClickException) -> str:
    """What was wrong with the command line, and where its description is, in one line."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    if not isinstance(error, click.UsageError):
        return message
    command = error.ctx.command_path if error.ctx is not None else "dpi-probe"
    return f"{message} (see {command} --help)"


def _tell(message: str, status: int) -> int:
    """Each line of the message says one thing that went wrong."""
    for line in message.splitlines():
        click.echo(f"dpi-probe: {line}", err=True)
    return status
