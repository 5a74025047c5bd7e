//! Reading capture files: batches to Arrow consumers, flows to Python, or both to a file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchReader, StructArray};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ffi::FFI_ArrowSchema;
use arrow::ffi_stream::FFI_ArrowArrayStream;
use probe::capture::bpf::{Filters, Instruction, Program};
use probe::counters::Kind;
use probe::flow::{Features, FlowRecord, MAX_WORKERS, Profile, Settings};
use probe::pipeline::Declared;
use probe::record::files::{self, Options};
use probe::record::read::{Reading, Shared, Step};
use probe::record::schema::{FEATURES, definition, recorded, type_name};
use probe::record::{Addresses, Format, Layout, Limits, Protocols, WriteError, Writer};
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList};
use wire::column::{Column, Type};
use wire::decode::{LinkType, Tunnel};
use wire::l7::Protocol;

use crate::error::{Class, python_error};
use crate::row::Flow;

/// How long a wait lasts before signals are looked at: Ctrl-C takes effect within this time.
const PATIENCE: Duration = Duration::from_millis(50);

enum State {
    /// The inputs are open; nothing has been read beyond their headers.
    Opened(Box<files::Opened>),
    Running(Arc<Reading>),
    /// Handed to a consumer, or failed to start.
    Taken,
}

/// One pass over capture files. Use one of: `next_flows`, `write`, `__arrow_c_stream__`.
#[pyclass(frozen, module = "dpi_probe._native")]
pub struct FlowReader {
    state: Mutex<State>,
    schema: SchemaRef,
    shared: Arc<Shared>,
    bytes_total: Option<u64>,
    /// What a signal handler raised while an Arrow consumer was waiting.
    raised: Arc<Mutex<Option<PyErr>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(message: impl std::fmt::Display) -> PyErr {
    python_error(Class::Config, message)
}

fn protocols(names: Option<Vec<String>>) -> PyResult<Vec<Protocol>> {
    let mut all = recorded();
    let Some(names) = names else { return Ok(all) };
    for name in &names {
        if !all.iter().any(|protocol| protocol.name() == name) {
            let known: Vec<_> = all.iter().map(|protocol| protocol.name()).collect();
            let message = format!(
                "protocols: {name:?} is not known; allowed are {}",
                known.join(", ")
            );
            return Err(config(message));
        }
    }
    // In table order, whatever order the user chose.
    all.retain(|protocol| names.iter().any(|name| name == protocol.name()));
    Ok(all)
}

/// Whether VLAN ids and whether tunnels join the flow key.
pub(crate) fn key_parts(names: Vec<String>) -> PyResult<(bool, bool)> {
    let (mut vlan, mut tunnel) = (false, false);
    for name in names {
        match name.as_str() {
            "vlan" => vlan = true,
            "tunnel" => tunnel = true,
            other => {
                return Err(config(format!(
                    "flow_key: {other:?} is not known; allowed are vlan, tunnel"
                )));
            }
        }
    }
    Ok((vlan, tunnel))
}

#[pymethods]
impl FlowReader {
    #[new]
    #[pyo3(signature = (
        paths, *, filter=None, workers=1, idle_timeout_ns=300_000_000_000, active_timeout_ns=1_800_000_000_000,
        profile="standard", flow_key=Vec::new(), protocols=None, addresses="text", fixed=true, count=None, keep_going=false,
    ))]
    #[allow(clippy::too_many_arguments)] // one for each setting
    fn new(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        filter: Option<Vec<(u32, Compiled)>>,
        workers: usize,
        idle_timeout_ns: i64,
        active_timeout_ns: i64,
        profile: &str,
        flow_key: Vec<String>,
        protocols: Option<Vec<String>>,
        addresses: &str,
        fixed: bool,
        count: Option<u64>,
        keep_going: bool,
    ) -> PyResult<Self> {
        let list = self::protocols(protocols)?;
        let addresses = match addresses {
            "text" => Addresses::Text,
            "binary" => Addresses::Binary,
            other => {
                return Err(config(format!(
                    "addresses: {other:?} is not known; allowed are text, binary"
                )));
            }
        };
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(config(format!(
                "workers: {workers} is not allowed; give 1 to {MAX_WORKERS}"
            )));
        }
        let (key_vlan, key_tunnel) = key_parts(flow_key)?;
        let settings = Settings {
            workers,
            idle_timeout_ns,
            active_timeout_ns,
            profile: profile.parse().map_err(config)?,
            key_vlan,
            key_tunnel,
            ..Settings::default()
        };
        settings.validate().map_err(config)?;
        let protocols = if fixed {
            Protocols::Fixed(list)
        } else {
            Protocols::Occurring(list)
        };
        let features = settings.profile == Profile::Full;
        let options = Options {
            inputs: paths,
            filters: filter.map(filters).transpose()?,
            count,
            keep_going,
            settings,
            layout: Layout {
                addresses,
                features,
                protocols,
                documented: fixed,
            },
            limits: Limits::LOCAL,
        };
        let schema = options.layout.full_schema();
        let opened = py
            .detach(|| files::open(options))
            .map_err(|error| python_error(Class::Capture, error))?;
        Ok(Self {
            schema,
            shared: Arc::clone(opened.shared()),
            bytes_total: opened.bytes_total(),
            state: Mutex::new(State::Opened(Box::new(opened))),
            raised: Arc::default(),
        })
    }

    /// The flows of the next batch, or None at the end.
    fn next_flows<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let reading = self.reading()?;
        let Some(batch) = next_batch(py, &reading)? else {
            self.check()?;
            return Ok(None);
        };
        let values = StructArray::from(batch);
        let list = PyList::empty(py);
        for row in 0..arrow::array::Array::len(&values) {
            list.append(Flow::new(values.clone(), row))?;
        }
        Ok(Some(list))
    }

    /// Writes all flows to a path, or to standard output, and returns their number; None if the reader of standard
    /// output went away. When interrupted, what was metered so far is written out first; when interrupted again, not.
    fn write(&self, py: Python<'_>, path: Option<PathBuf>, format: &str) -> PyResult<Option<u64>> {
        let format: Format = format.parse().map_err(config)?;
        let reading = self.reading()?;
        let mut writer = match py.detach(|| match &path {
            Some(path) => Writer::create(path, format, &self.schema),
            None => Writer::stdout(format, &self.schema),
        }) {
            Ok(writer) => writer,
            Err(error) => return unwritten(&error),
        };
        let mut interrupted = None;
        loop {
            match next_batch(py, &reading) {
                Ok(Some(batch)) => {
                    if let Err(error) = py.detach(|| writer.write(&batch)) {
                        self.shared.cancel();
                        return unwritten(&error);
                    }
                }
                Ok(None) => break,
                Err(_) if interrupted.is_some() => break,
                Err(error) => {
                    self.shared.end_inputs();
                    interrupted = Some(error);
                }
            }
        }
        let rows = match py.detach(|| writer.finish()) {
            Ok(rows) => Some(rows),
            Err(error) => unwritten(&error)?,
        };
        match interrupted {
            Some(error) => {
                self.shared.cancel();
                Err(error)
            }
            None => self.check().map(|()| rows),
        }
    }

    /// Reads to the end without handing out flows; returns how many there are. Ctrl-C is raised.
    fn drain(&self, py: Python<'_>) -> PyResult<u64> {
        let reading = self.reading()?;
        let mut rows = 0;
        while let Some(batch) = next_batch(py, &reading)? {
            rows += batch.num_rows() as u64;
        }
        self.check()?;
        Ok(rows)
    }

    /// What is known of the inputs so far: bytes read and passed over, frames by link type, time span (nanoseconds).
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let source = self.shared.source();
        let dict = PyDict::new(py);
        dict.set_item("bytes_read", source.bytes_read)?;
        dict.set_item("bytes_skipped", source.bytes_skipped)?;
        let link_types = PyDict::new(py);
        for (link_type, frames) in &source.link_types {
            link_types.set_item(link_type.to_string(), frames)?;
        }
        dict.set_item("link_types", link_types)?;
        dict.set_item("first_time_ns", source.span.map(|(first, _)| first))?;
        dict.set_item("last_time_ns", source.span.map(|(_, last)| last))?;
        Ok(dict)
    }

    /// The schema as an Arrow C data interface capsule.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(self.schema.as_ref())
            .map_err(|error| python_error(Class::Failure, error))?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }

    /// The batches as an Arrow C stream interface capsule. A requested schema is not converted to: the interface leaves
    /// that to the consumer. After an error `check` is to be asked, which raises a Ctrl-C too.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        drop(requested_schema);
        self.stream(py, false)
    }

    /// The same for a consumer that does not ask `check`: a Ctrl-C is raised by itself.
    fn arrow_stream_of_others<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        self.stream(py, true)
    }

    /// Raises what stopped the reading before its end, if anything did.
    fn check(&self) -> PyResult<()> {
        if let Some(raised) = lock(&self.raised).take() {
            return Err(raised);
        }
        self.shared
            .failure()
            .map_or(Ok(()), |failure| Err(python_error(Class::Failure, failure)))
    }

    /// Takes no further packets; the flows so far come out as at the end of the inputs.
    fn end_inputs(&self) {
        self.shared.end_inputs();
    }

    /// Ends the reading early.
    fn cancel(&self) {
        self.shared.cancel();
        *lock(&self.state) = State::Taken;
    }

    /// (bytes read, bytes in all or None, frames): how far the inputs have been read.
    fn progress(&self) -> (u64, Option<u64>, u64) {
        let (read, frames) = self.shared.progress();
        (read, self.bytes_total, frames)
    }

    /// What could not be read so far, one line each.
    fn problems(&self) -> Vec<String> {
        self.shared.problems()
    }

    /// The books: account to count, or to counts by reason.
    fn accounts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let accounts = PyDict::new(py);
        for entry in self.shared.counters().ledger_entries() {
            let Some(value) = entry.value else { continue };
            if entry.reason.is_empty() {
                add(&accounts, entry.account, value)?;
                continue;
            }
            if !accounts.contains(entry.account)? {
                accounts.set_item(entry.account, PyDict::new(py))?;
            }
            let reasons = accounts.as_any().get_item(entry.account)?.cast_into::<PyDict>()?;
            add(&reasons, entry.reason, value)?;
        }
        accounts.set_item("frames_filtered", self.shared.filtered())?;
        Ok(accounts)
    }
}

/// Adds to a count: each worker has its own.
fn add(counts: &Bound<'_, PyDict>, key: &str, value: u64) -> PyResult<()> {
    let before = counts
        .get_item(key)?
        .map_or(Ok(0), |count| count.extract::<u64>())?;
    counts.set_item(key, before + value)
}

fn unwritten(error: &WriteError) -> PyResult<Option<u64>> {
    match error {
        WriteError::Closed => Ok(None),
        WriteError::Output { .. } | WriteError::Encode { .. } => Err(python_error(Class::Failure, error)),
    }
}

impl FlowReader {
    fn stream<'py>(&self, py: Python<'py>, raises_again: bool) -> PyResult<Bound<'py, PyCapsule>> {
        let reading = self.reading()?;
        *lock(&self.state) = State::Taken;
        let stream = Stream {
            reading,
            schema: Arc::clone(&self.schema),
            raised: Arc::clone(&self.raised),
            raises_again,
        };
        PyCapsule::new_with_value(
            py,
            FFI_ArrowArrayStream::new(Box::new(stream)),
            c"arrow_array_stream",
        )
    }

    /// The running reading, started if need be.
    fn reading(&self) -> PyResult<Arc<Reading>> {
        let mut state = lock(&self.state);
        let opened = match std::mem::replace(&mut *state, State::Taken) {
            State::Opened(opened) => opened,
            State::Running(reading) => {
                *state = State::Running(Arc::clone(&reading));
                return Ok(reading);
            }
            State::Taken => {
                return Err(python_error(
                    Class::Failure,
                    "this reader has been used; call read() again",
                ));
            }
        };
        let reading = opened
            .start()
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        let reading = Arc::new(reading);
        *state = State::Running(Arc::clone(&reading));
        Ok(reading)
    }
}

/// Waits for the next batch without the GIL; raises what a signal handler raises.
fn next_batch(py: Python<'_>, reading: &Reading) -> PyResult<Option<RecordBatch>> {
    loop {
        match py.detach(|| reading.next(PATIENCE)) {
            Step::Batch(batch) => return Ok(Some(batch)),
            Step::End => return Ok(None),
            Step::Wait => py.check_signals()?,
        }
    }
}

/// The batches for an Arrow consumer, which may or may not hold the GIL while it waits.
struct Stream {
    reading: Arc<Reading>,
    schema: SchemaRef,
    raised: Arc<Mutex<Option<PyErr>>>,
    /// Whether nobody asks for `raised`.
    raises_again: bool,
}

impl Iterator for Stream {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stopped = |message: String| Some(Err(ArrowError::ExternalError(message.into())));
        match Python::attach(|py| next_batch(py, &self.reading)) {
            Ok(Some(batch)) => Some(Ok(batch)),
            Ok(None) => self.reading.shared().failure().and_then(stopped),
            Err(raised) => {
                self.reading.shared().cancel();
                if self.raises_again {
                    Python::attach(|py| raise_again(py, &raised));
                }
                *lock(&self.raised) = Some(raised);
                stopped("interrupted".to_owned())
            }
        }
    }
}

/// Ctrl-C was taken by a stream whose consumer raises an error of its own, which programs catch: it is raised in this thread
/// once Python has the word. Not as a signal, whose handler was called already.
fn raise_again(py: Python<'_>, raised: &PyErr) {
    if !raised.is_instance_of::<PyKeyboardInterrupt>(py) {
        return;
    }
    let raise = || {
        let ctypes = py.import("ctypes")?;
        let thread = py.import("threading")?.call_method0("get_ident")?;
        let thread = ctypes.call_method1("c_ulong", (thread,))?;
        let interrupt = ctypes.call_method1("py_object", (py.get_type::<PyKeyboardInterrupt>(),))?;
        let python = ctypes.getattr("pythonapi")?;
        python.call_method1("PyThreadState_SetAsyncExc", (thread, interrupt))
    };
    if let Err(error) = raise() {
        error.write_unraisable(py, None);
    }
}

impl RecordBatchReader for Stream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// What the filter's compiler made of an expression for one link type.
#[derive(FromPyObject)]
pub(crate) enum Compiled {
    /// The program as (code, jump if true, jump if false, operand).
    Program(Vec<(u16, u8, u8, u32)>),
    /// Why there is none.
    Message(String),
}

/// The programs for every link type; `ConfigError` where one is not valid.
pub(crate) fn filters(compiled: Vec<(u32, Compiled)>) -> PyResult<Filters> {
    let mut filters = Filters::default();
    for (link_type, compiled) in compiled {
        let program = match compiled {
            Compiled::Message(message) => Err(message),
            Compiled::Program(code) => {
                let instruction = |(code, jump_true, jump_false, operand)| Instruction {
                    code,
                    jump_true,
                    jump_false,
                    operand,
                };
                Ok(Program::new(code.into_iter().map(instruction).collect()).map_err(config)?)
            }
        };
        filters.insert(LinkType(link_type), program);
    }
    Ok(filters)
}

/// The link types that can be decoded, as LINKTYPE numbers.
#[pyfunction]
pub fn link_types() -> Vec<u32> {
    LinkType::SUPPORTED.iter().map(|link_type| link_type.0).collect()
}

/// The registered link types: a list of `{number, name, supported, doc}`.
#[pyfunction]
pub fn link_type_table(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    LinkType::SUPPORTED
        .iter()
        .chain(LinkType::UNSUPPORTED)
        .map(|link_type| {
            let dict = PyDict::new(py);
            dict.set_item("number", link_type.0)?;
            dict.set_item("name", link_type.name().unwrap_or_default())?;
            dict.set_item("supported", link_type.is_supported())?;
            dict.set_item("doc", link_type.description().trim())?;
            Ok(dict)
        })
        .collect()
}

/// The encapsulations that are looked into: a list of `{name, doc}`.
#[pyfunction]
pub fn tunnel_table(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    Tunnel::ALL
        .iter()
        .map(|tunnel| {
            let dict = PyDict::new(py);
            dict.set_item("name", tunnel.name())?;
            dict.set_item("doc", tunnel.doc().trim())?;
            Ok(dict)
        })
        .collect()
}

/// The columns: a list of `{name, type, nullable, doc, table}`, structs with `members`, lists with `item`. `table` is
/// `flow`, `features` or the protocol whose record has the column. Columns of `flow` have `profile`, the lowest that computes them.
#[pyfunction]
pub fn schema(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let all = PyList::empty(py);
    for column in FlowRecord::COLUMNS {
        let entry = describe(py, column, "flow")?;
        entry.set_item("profile", Profile::of(column).to_string())?;
        all.append(entry)?;
    }
    for column in Features::COLUMNS {
        all.append(describe(py, column, FEATURES)?)?;
    }
    for protocol in Protocol::ALL {
        for column in protocol.columns() {
            all.append(describe(py, column, protocol.name())?)?;
        }
    }
    Ok(all)
}

fn describe<'py>(py: Python<'py>, column: &Column, table: &str) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item("name", column.name)?;
    describe_type(py, &entry, &column.kind, table)?;
    entry.set_item("nullable", column.nullable)?;
    entry.set_item("doc", definition(column))?;
    entry.set_item("table", table)?;
    Ok(entry)
}

fn describe_type(py: Python<'_>, entry: &Bound<'_, PyDict>, kind: &Type, table: &str) -> PyResult<()> {
    entry.set_item("type", type_name(kind))?;
    match kind {
        Type::List(item) => {
            let described = PyDict::new(py);
            describe_type(py, &described, item, table)?;
            entry.set_item("item", described)
        }
        Type::Struct(members) => {
            let list = PyList::empty(py);
            for member in *members {
                list.append(describe(py, member, table)?)?;
            }
            entry.set_item("members", list)
        }
        _ => Ok(()),
    }
}

/// The protocols in the order of their columns: a list of `{name, category}`.
#[pyfunction]
pub fn protocol_table(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let all = PyList::empty(py);
    for protocol in Protocol::ALL {
        let entry = PyDict::new(py);
        entry.set_item("name", protocol.name())?;
        entry.set_item("category", protocol.category())?;
        all.append(entry)?;
    }
    Ok(all)
}

/// The accounts of the books: a list of `{name, reason, kind, doc, reason_doc, of_worker}`; `of_worker` is whether each
/// worker has its own.
#[pyfunction]
pub fn account_table(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let all = PyList::empty(py);
    for Declared { account, of_worker } in probe::pipeline::accounts() {
        let entry = PyDict::new(py);
        entry.set_item("name", account.name)?;
        entry.set_item("reason", account.reason)?;
        let kind = match account.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        entry.set_item("kind", kind)?;
        entry.set_item("doc", account.doc.trim())?;
        entry.set_item("reason_doc", account.reason_doc.trim())?;
        entry.set_item("of_worker", of_worker)?;
        all.append(entry)?;
    }
    Ok(all)
}

/// The name of the format that a path's suffix chooses, or None.
#[pyfunction]
pub fn format_of(path: PathBuf) -> Option<&'static str> {
    let format = Format::of_path(&path)?;
    Format::ALL
        .iter()
        .find(|(known, ..)| *known == format)
        .map(|(_, name, _)| *name)
}
