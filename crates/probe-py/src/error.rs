//! The one place where Rust errors become Python exceptions: the classes of `dpi_probe.errors`.

use std::fmt::Display;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A class of `dpi_probe.errors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A setting that is not allowed.
    Config,
    /// A capture file or interface that cannot be read.
    Capture,
    /// Missing permission to capture.
    CapturePermission,
    /// The buffer directory cannot be used.
    Spool,
    /// The Core cannot be reached or trusted.
    Transport,
    /// Evidence that does not hold.
    Verification,
    /// Anything else that failed while running.
    Failure,
}

impl Class {
    const fn name(self) -> &'static str {
        match self {
            Self::Config => "ConfigError",
            Self::Capture => "CaptureError",
            Self::CapturePermission => "CapturePermissionError",
            Self::Spool => "SpoolError",
            Self::Transport => "TransportError",
            Self::Verification => "VerificationError",
            Self::Failure => "DpiProbeError",
        }
    }
}

/// The Python exception of `class` with the error's one-line message.
pub fn python_error(class: Class, message: impl Display) -> PyErr {
    let message = message.to_string();
    Python::attach(|py| {
        let made = py
            .import("dpi_probe.errors")
            .and_then(|module| module.getattr(class.name()))
            .and_then(|exception| exception.call1((message.as_str(),)));
        match made {
            Ok(exception) => PyErr::from_value(exception),
            Err(_) => PyRuntimeError::new_err(message),
        }
    })
}
