//! Ledger and event batches: the probe's own books and incidents, sealed like its flows.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampNanosecondArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use crate::counters::LedgerEntry;

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For the record.
    Info,
    /// Work is shed, slowed down or retried.
    Warning,
    /// Something was lost or refused; somebody should look.
    Error,
}

impl Severity {
    /// The name in the batch.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that happened to the probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in UTC nanoseconds.
    pub time: i64,
    /// How bad.
    pub severity: Severity,
    /// What: a name of fixed vocabulary (`batch_rejected`, `delivery_refused`, …).
    pub name: &'static str,
    /// One sentence for people.
    pub detail: String,
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

static LEDGER: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("time", time_type(), false),
        Field::new("account", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("worker", DataType::UInt32, true),
        Field::new("value", DataType::UInt64, true),
    ]))
});

static EVENTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("time", time_type(), false),
        Field::new("severity", DataType::Utf8, false),
        Field::new("event", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
    ]))
});

/// The books at `time` (UTC nanoseconds) as a batch of kind `ledger`.
pub fn ledger_batch(time: i64, entries: &[LedgerEntry]) -> Result<RecordBatch, ArrowError> {
    let times = TimestampNanosecondArray::from(vec![time; entries.len()]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times),
        Arc::new(StringArray::from_iter_values(
            entries.iter().map(|entry| entry.account),
        )),
        Arc::new(StringArray::from_iter_values(
            entries.iter().map(|entry| entry.reason),
        )),
        Arc::new(entries.iter().map(|entry| entry.worker).collect::<UInt32Array>()),
        Arc::new(entries.iter().map(|entry| entry.value).collect::<UInt64Array>()),
    ];
    RecordBatch::try_new(Arc::clone(&LEDGER), columns)
}

/// Events as a batch of kind `event`.
pub fn event_batch(events: &[Event]) -> Result<RecordBatch, ArrowError> {
    let times = TimestampNanosecondArray::from_iter_values(events.iter().map(|event| event.time));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times.with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(
            events.iter().map(|event| event.severity.name()),
        )),
        Arc::new(StringArray::from_iter_values(
            events.iter().map(|event| event.name),
        )),
        Arc::new(StringArray::from_iter_values(
            events.iter().map(|event| event.detail.as_str()),
        )),
    ];
    RecordBatch::try_new(Arc::clone(&EVENTS), columns)
}
