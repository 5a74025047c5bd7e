"""What can go wrong, as one tree.

DpiProbeError
├── ConfigError (ValueError)       exit status 2: a setting, named with its value and what is allowed
├── CaptureError (OSError)         exit status 3: a capture file or interface
│   └── CapturePermissionError     exit status 5: which capability is missing and how to give it
├── SpoolError (OSError)           exit status 1: the buffer directory
├── TransportError (OSError)       exit status 1: the way to the Core
└── VerificationError              exit status 4: evidence that does not hold

CaptureWarning (UserWarning)       a capture file that could be read only in part
"""


class DpiProbeError(Exception):
    """Base of all errors of dpi-probe. The message is one line: what, where, and what to do."""

    exit_status = 1


class ConfigError(DpiProbeError, ValueError):
    """A setting has a value that is not allowed."""

    exit_status = 2


class CaptureError(DpiProbeError, OSError):
    """A capture file or an interface cannot be read, or not to its end."""

    exit_status = 3


class CapturePermissionError(CaptureError):
    """The process may not capture."""

    exit_status = 5


class SpoolError(DpiProbeError, OSError):
    """The buffer directory cannot be used."""


class TransportError(DpiProbeError, OSError):
    """The Core cannot be reached, or not be trusted."""


class VerificationError(DpiProbeError):
    """A batch, a receipt or a proof does not hold."""

    exit_status = 4


class CaptureWarning(UserWarning):
    """An input could be read only in part: everything before and after the damage was delivered."""
