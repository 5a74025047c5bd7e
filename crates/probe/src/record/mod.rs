//! Flows to Arrow record batches, and to files.

/// The flow record: every column declared once, with its definition.
pub mod flow_record;
