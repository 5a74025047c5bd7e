//! One row of a batch as a Python object whose attributes are made when they are asked for.

use arrow::array::{Array, AsArray as _, StructArray};
use arrow::datatypes::{
    DataType, Float64Type, Int8Type, Int64Type, TimeUnit, TimestampNanosecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use probe::record::schema::{FEATURES, recorded};
use probe::record::text::time_text;
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};

/// A struct value: a protocol's record of a flow, or an item of a list of structs.
#[pyclass(frozen, subclass, module = "dpi_probe._native")]
pub struct Record {
    name: String,
    values: StructArray,
    row: usize,
}

/// A flow.
#[pyclass(frozen, subclass, module = "dpi_probe._native")]
pub struct Flow {
    values: StructArray,
    row: usize,
}

impl Flow {
    /// Row `row` of a batch.
    pub fn new(values: StructArray, row: usize) -> Self {
        Self { values, row }
    }
}

#[pymethods]
impl Record {
    fn __getattr__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        attribute(py, &self.values, self.row, name)?.ok_or_else(|| unknown(&self.name, name))
    }

    fn __dir__(&self) -> Vec<String> {
        names(&self.values)
    }

    /// All values by name, structs as dictionaries.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        dictionary(py, &self.values, self.row)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut members = Vec::new();
        for (field, column) in self.values.fields().iter().zip(self.values.columns()) {
            let value = value(py, field.name(), column, self.row)?;
            if !value.is_none() {
                members.push(format!("{}={}", field.name(), value.repr()?));
            }
        }
        Ok(format!("{}({})", self.name, members.join(", ")))
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.name == other.name && same(&self.values, self.row, &other.values, other.row)
    }
}

#[pymethods]
impl Flow {
    fn __getattr__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        if let Some(value) = attribute(py, &self.values, self.row, name)? {
            return Ok(value);
        }
        // A struct that does not occur in the batch.
        if name == FEATURES || recorded().iter().any(|protocol| protocol.name() == name) {
            return Ok(py.None().into_bound(py));
        }
        Err(unknown("Flow", name))
    }

    fn __dir__(&self) -> Vec<String> {
        names(&self.values)
    }

    /// All values by name, structs as dictionaries; times as datetime, which has microseconds.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        dictionary(py, &self.values, self.row)
    }

    fn __repr__(&self) -> String {
        let text = |name| {
            self.values
                .column_by_name(name)
                .map_or_else(String::new, |column| plain(column, self.row))
        };
        let number = |name| text(name).parse::<u64>().unwrap_or_default();
        let endpoint = |address: &str, port: u64| match (port, address.contains(':')) {
            (0, _) => address.to_owned(),
            (_, true) => format!("[{address}]:{port}"),
            (_, false) => format!("{address}:{port}"),
        };
        let mut parts = vec![format!(
            "{} → {}",
            endpoint(&text("src_ip"), number("src_port")),
            endpoint(&text("dst_ip"), number("dst_port"))
        )];
        let protocol = number("ip_protocol");
        parts.push(match protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmp6".to_owned(),
            132 => "sctp".to_owned(),
            _ => format!("IP protocol {protocol}"),
        });
        let application = [text("app"), text("server_name")].join(" ");
        if !application.trim().is_empty() {
            parts.push(application.trim().escape_debug().to_string());
        }
        let packets = number("packets_fwd") + number("packets_rev");
        let bytes = number("bytes_fwd") + number("bytes_rev");
        parts.push(format!("{packets} packet{}", if packets == 1 { "" } else { "s" }));
        parts.push(format!("{bytes} bytes"));
        parts.push(text("start_time"));
        format!("Flow({})", parts.join(", "))
    }

    fn __eq__(&self, other: &Self) -> bool {
        same(&self.values, self.row, &other.values, other.row)
    }

    fn __hash__(&self) -> u64 {
        self.values
            .column_by_name("flow_id")
            .and_then(|column| column.as_primitive_opt::<UInt64Type>())
            .map_or(0, |column| column.value(self.row))
    }
}

fn same(left: &StructArray, left_row: usize, right: &StructArray, right_row: usize) -> bool {
    left.slice(left_row, 1) == right.slice(right_row, 1)
}

fn unknown(class: &str, name: &str) -> PyErr {
    PyAttributeError::new_err(format!("{class} has no column {name:?}"))
}

fn names(values: &StructArray) -> Vec<String> {
    let mut names = vec!["to_dict".to_owned()];
    for field in values.fields() {
        names.push(field.name().clone());
        if matches!(field.data_type(), DataType::Timestamp(..)) {
            names.push(format!("{}_ns", field.name()));
        }
    }
    names
}

fn attribute<'py>(
    py: Python<'py>,
    values: &StructArray,
    row: usize,
    name: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Some(column) = values.column_by_name(name) {
        return value(py, name, column, row).map(Some);
    }
    // A column whose name is a Python keyword can only be typed with an underscore after it.
    if let Some((name, column)) = name
        .strip_suffix('_')
        .and_then(|name| values.column_by_name(name).map(|column| (name, column)))
    {
        return value(py, name, column, row).map(Some);
    }
    // A time `x` is also there as `x_ns`, exact.
    let time = name
        .strip_suffix("_ns")
        .and_then(|name| values.column_by_name(name));
    let Some(times) = time.and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>()) else {
        return Ok(None);
    };
    Ok(Some(if times.is_null(row) {
        py.None().into_bound(py)
    } else {
        times.value(row).into_pyobject(py)?.into_any()
    }))
}

fn dictionary<'py>(py: Python<'py>, values: &StructArray, row: usize) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (field, column) in values.fields().iter().zip(values.columns()) {
        dict.set_item(field.name(), deep(py, column, row)?)?;
    }
    Ok(dict)
}

/// A value with structs as dictionaries.
fn deep<'py>(py: Python<'py>, column: &dyn Array, row: usize) -> PyResult<Bound<'py, PyAny>> {
    if column.is_null(row) {
        return Ok(py.None().into_bound(py));
    }
    match column.data_type() {
        DataType::Struct(_) => dictionary(py, column.as_struct(), row).map(Bound::into_any),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            let list = PyList::empty(py);
            for item in 0..items.len() {
                list.append(deep(py, &items, item)?)?;
            }
            Ok(list.into_any())
        }
        _ => value(py, "", column, row),
    }
}

fn value<'py>(py: Python<'py>, name: &str, column: &dyn Array, row: usize) -> PyResult<Bound<'py, PyAny>> {
    if column.is_null(row) {
        return Ok(py.None().into_bound(py));
    }
    macro_rules! number {
        ($kind:ty) => {
            column
                .as_primitive::<$kind>()
                .value(row)
                .into_pyobject(py)?
                .into_any()
        };
    }
    Ok(match column.data_type() {
        DataType::Boolean => column
            .as_boolean()
            .value(row)
            .into_pyobject(py)?
            .to_owned()
            .into_any(),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Int8 => number!(Int8Type),
        DataType::Int64 => number!(Int64Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => column.as_string::<i32>().value(row).into_pyobject(py)?.into_any(),
        DataType::FixedSizeBinary(_) => PyBytes::new(py, column.as_fixed_size_binary().value(row)).into_any(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            datetime(py, column.as_primitive::<TimestampNanosecondType>().value(row))?
        }
        DataType::Struct(_) => {
            let record = Record {
                name: name.to_owned(),
                values: column.as_struct().clone(),
                row,
            };
            Bound::new(py, record)?.into_any()
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            let list = PyList::empty(py);
            for item in 0..items.len() {
                list.append(value(py, name, &items, item)?)?;
            }
            list.into_any()
        }
        other => {
            return Err(PyTypeError::new_err(format!(
                "column {name}: no Python value for {other}"
            )));
        }
    })
}

/// A time as an aware `datetime`: microseconds, rounded down.
fn datetime(py: Python<'_>, nanoseconds: i64) -> PyResult<Bound<'_, PyAny>> {
    static EPOCH: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    let (epoch, timedelta) = EPOCH.get_or_try_init(py, || {
        let module = py.import("datetime")?;
        let utc = module.getattr("timezone")?.getattr("utc")?;
        let epoch = module
            .getattr("datetime")?
            .call_method1("fromtimestamp", (0, utc))?;
        PyResult::Ok((epoch.unbind(), module.getattr("timedelta")?.unbind()))
    })?;
    let since = timedelta.bind(py).call1((0, 0, nanoseconds.div_euclid(1000)))?;
    epoch.bind(py).add(since)
}

/// A value of a flow column as short text; empty where there is none.
fn plain(column: &dyn Array, row: usize) -> String {
    if column.is_null(row) {
        return String::new();
    }
    match column.data_type() {
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).to_string(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).to_string(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Timestamp(..) => time_text(column.as_primitive::<TimestampNanosecondType>().value(row)),
        DataType::FixedSizeBinary(16) => {
            let bytes = column.as_fixed_size_binary().value(row);
            <[u8; 16]>::try_from(bytes).map_or_else(
                |_| String::new(),
                |bytes| std::net::Ipv6Addr::from(bytes).to_canonical().to_string(),
            )
        }
        _ => String::new(),
    }
}
