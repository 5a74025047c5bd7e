//! The door to Python: types, error mapping, Arrow capsules, GIL release. No logic.

mod error;
mod seal;

use pyo3::prelude::*;

/// The native module. Each room of the data plane adds its functions and classes in a file of its own.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    seal::register(module)?;
    Ok(())
}
