//! Packets to flows.

use wire::l7::Session;

/// The flow record: every column declared once, with its definition.
pub mod flow_record;

pub use flow_record::FlowRecord;

/// A flow, or an interim part of one, that is ready to become a record.
#[derive(Debug)]
pub struct EndedFlow {
    /// When it is exported, in UTC nanoseconds of packet time: the moment of the closing packet or of the timeout.
    /// Output is ordered by (`export_time`, `record.flow_id`).
    pub export_time: i64,
    /// The flow columns.
    pub record: FlowRecord,
    /// The protocol columns, where layer 7 was looked at. For an interim record: what was learned so far.
    pub session: Option<Box<Session>>,
}
