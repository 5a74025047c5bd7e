//! The door to Python: types, error mapping, Arrow capsules, GIL release. No logic.

// PyO3 hands over extracted arguments as owned values.
#![allow(clippy::needless_pass_by_value)]

mod counter;
mod error;
mod pipeline;
mod read;
mod row;
mod seal;
mod traffic;

use pyo3::prelude::*;

/// The native module. Each room of the data plane adds its functions and classes in a file of its own.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<read::FlowReader>()?;
    module.add_class::<row::Flow>()?;
    module.add_class::<row::Record>()?;
    module.add_function(wrap_pyfunction!(read::schema, module)?)?;
    module.add_function(wrap_pyfunction!(read::protocol_table, module)?)?;
    module.add_function(wrap_pyfunction!(read::link_types, module)?)?;
    module.add_function(wrap_pyfunction!(read::link_type_table, module)?)?;
    module.add_function(wrap_pyfunction!(read::tunnel_table, module)?)?;
    module.add_function(wrap_pyfunction!(read::account_table, module)?)?;
    module.add_function(wrap_pyfunction!(read::format_of, module)?)?;
    seal::register(module)?;
    module.add_class::<pipeline::Pipeline>()?;
    module.add_class::<traffic::Traffic>()?;
    module.add_class::<traffic::TrafficSender>()?;
    module.add_function(wrap_pyfunction!(traffic::measure_stages, module)?)?;
    module.add_class::<counter::CaptureCounter>()?;
    module.add_function(wrap_pyfunction!(counter::capture_ring_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(pipeline::metric_table, module)?)?;
    module.add_function(wrap_pyfunction!(pipeline::interface_link_type, module)?)?;
    module.add_function(wrap_pyfunction!(pipeline::log, module)?)?;
    module.add_function(wrap_pyfunction!(pipeline::log_to_stderr, module)?)?;
    Ok(())
}
