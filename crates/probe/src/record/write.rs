//! Record batches to files.
//!
//! | format | rows | nested columns | times |
//! |---|---|---|---|
//! | NDJSON | one object a line; nulls and absent protocol structs are left out | objects and arrays | RFC 3339, nanoseconds, `Z` |
//! | CSV (RFC 4180) | one line each after a header | structs become columns `tls.sni`; lists become JSON text | the same |
//! | Parquet (zstd) | row groups of at most 131,072 rows or 64 MiB | as they are | `TIMESTAMP(NANOS, UTC)` |
//! | Arrow IPC file or stream (zstd) | one record batch each | as they are | `Timestamp(ns, UTC)` |
//!
//! Everything is streamed: no more than one batch (Parquet: one row group) is held.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::json::writer::LineDelimited;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::text::{TimeText, flatten};

const BUFFER_BYTES: usize = 256 << 10;
const ROW_GROUP_ROWS: usize = 128 << 10;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// A format of [`Writer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Newline-delimited JSON.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC: a file where it goes to a path, a stream where it goes to standard output.
    Arrow,
}

impl Format {
    /// Every format with its name and the file name suffixes that choose it.
    pub const ALL: [(Self, &'static str, &'static [&'static str]); 4] = [
        (Self::Ndjson, "ndjson", &["ndjson", "jsonl", "json"]),
        (Self::Csv, "csv", &["csv"]),
        (Self::Parquet, "parquet", &["parquet", "pq"]),
        (Self::Arrow, "arrow", &["arrow", "feather", "ipc"]),
    ];

    /// The format that a file name's suffix chooses.
    pub fn of_path(path: &Path) -> Option<Self> {
        let suffix = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::ALL
            .iter()
            .find(|(_, _, suffixes)| suffixes.contains(&suffix.as_str()))
            .map(|(format, ..)| *format)
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(format, ..)| *format)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|(_, known, _)| *known).collect();
                format!("format: {name:?} is not known; allowed are {}", known.join(", "))
            })
    }
}

/// Why writing stopped. What was written before stays.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The reader of standard output went away (`head`): nothing is wrong.
    #[error("standard output was closed by its reader")]
    Closed,
    /// The output cannot be made or written.
    #[error("cannot write {}: {reason}", path.display())]
    Output {
        /// Where to.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// The batch cannot be expressed in the format.
    #[error("cannot write {}: {reason}; please report this", path.display())]
    Encode {
        /// Where to.
        path: PathBuf,
        /// The encoder's words.
        reason: String,
    },
}

/// The operating system's words without the number that Rust appends.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The first I/O error of an output: the encoders pass on its text at best.
type FirstError = Arc<Mutex<Option<io::Error>>>;

struct Output {
    file: BufWriter<File>,
    first_error: FirstError,
}

impl Output {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let copy = error
                .raw_os_error()
                .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            self.first_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(error);
            copy
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.file.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.flush();
        self.note(result)
    }
}

enum Encoder {
    Ndjson(arrow::json::Writer<Output, LineDelimited>),
    Csv(Box<arrow::csv::Writer<Output>>),
    Parquet(Box<ArrowWriter<Output>>),
    File(Box<FileWriter<Output>>),
    Stream(Box<StreamWriter<Output>>),
}

/// Writes record batches of one schema to one output.
pub struct Writer {
    path: PathBuf,
    encoder: Encoder,
    first_error: FirstError,
    rows: u64,
}

impl Writer {
    /// Writes to a new file, or over an old one.
    pub fn create(path: &Path, format: Format, schema: &SchemaRef) -> Result<Self, WriteError> {
        let file = File::create(path).map_err(|error| WriteError::Output {
            path: path.to_owned(),
            reason: words(&error),
        })?;
        Self::begin(file, path.to_owned(), format, schema, false)
    }

    /// Writes to standard output.
    pub fn stdout(format: Format, schema: &SchemaRef) -> Result<Self, WriteError> {
        let path = PathBuf::from("standard output");
        // A handle of its own: Rust's own standard output flushes at every line.
        let file = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| WriteError::Output {
                path: path.clone(),
                reason: words(&error),
            })?;
        Self::begin(File::from(file), path, format, schema, true)
    }

    fn begin(
        file: File,
        path: PathBuf,
        format: Format,
        schema: &SchemaRef,
        stream: bool,
    ) -> Result<Self, WriteError> {
        let first_error = FirstError::default();
        let output = Output {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            first_error: Arc::clone(&first_error),
        };
        let encoder = Self::encoder(output, format, schema, stream)
            .map_err(|error| explain(&path, &first_error, &error))?;
        Ok(Self {
            path,
            encoder,
            first_error,
            rows: 0,
        })
    }

    fn encoder(
        output: Output,
        format: Format,
        schema: &SchemaRef,
        stream: bool,
    ) -> Result<Encoder, EncodeError> {
        let ipc = || IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD));
        Ok(match format {
            Format::Ndjson => Encoder::Ndjson(
                arrow::json::WriterBuilder::new()
                    .with_explicit_nulls(false)
                    .with_encoder_factory(Arc::new(TimeText))
                    .build(output),
            ),
            Format::Csv => {
                let mut writer = arrow::csv::Writer::new(output);
                // The header, also where no row follows.
                writer.write(&flatten(&RecordBatch::new_empty(Arc::clone(schema)))?)?;
                Encoder::Csv(Box::new(writer))
            }
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_created_by(concat!("dpi-probe ", env!("CARGO_PKG_VERSION")).to_owned())
                    .set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::try_new(3)?))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
                    .build();
                Encoder::Parquet(Box::new(ArrowWriter::try_new(
                    output,
                    Arc::clone(schema),
                    Some(properties),
                )?))
            }
            Format::Arrow if stream => Encoder::Stream(Box::new(StreamWriter::try_new_with_options(
                output,
                schema,
                ipc()?,
            )?)),
            Format::Arrow => Encoder::File(Box::new(FileWriter::try_new_with_options(
                output,
                schema,
                ipc()?,
            )?)),
        })
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes a batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        self.encode(batch)
            .map_err(|error| explain(&self.path, &self.first_error, &error))?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        match &mut self.encoder {
            Encoder::Ndjson(writer) => {
                writer.write(batch)?;
                // What follows a pipe sees each batch when it is complete.
                writer.get_mut().flush()?;
            }
            Encoder::Csv(writer) => writer.write(&flatten(batch)?)?,
            Encoder::Parquet(writer) => writer.write(batch)?,
            Encoder::File(writer) => writer.write(batch)?,
            Encoder::Stream(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// Completes the output; its number of rows.
    pub fn finish(self) -> Result<u64, WriteError> {
        let Self {
            path,
            encoder,
            first_error,
            rows,
        } = self;
        close(encoder).map_err(|error| explain(&path, &first_error, &error))?;
        Ok(rows)
    }
}

fn close(encoder: Encoder) -> Result<(), EncodeError> {
    match encoder {
        Encoder::Ndjson(mut writer) => {
            writer.finish()?;
            writer.into_inner().flush()?;
        }
        Encoder::Csv(writer) => writer.into_inner().flush()?,
        Encoder::Parquet(writer) => writer.into_inner()?.flush()?,
        Encoder::File(writer) => writer.into_inner()?.flush()?,
        Encoder::Stream(writer) => writer.into_inner()?.flush()?,
    }
    Ok(())
}

/// What the encoders can say.
#[derive(Debug, thiserror::Error)]
enum EncodeError {
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn explain(path: &Path, first_error: &FirstError, error: &EncodeError) -> WriteError {
    match &*first_error.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(io) if io.kind() == io::ErrorKind::BrokenPipe => WriteError::Closed,
        Some(io) => WriteError::Output {
            path: path.to_owned(),
            reason: words(io),
        },
        None => WriteError::Encode {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowRecord;
    use crate::record::{Addresses, Builder, Layout, Limits};
    use wire::column::{Address, Time};

    fn batch() -> RecordBatch {
        let mut builder = Builder::new(Layout::output(Addresses::Text, Vec::new()), Limits::LOCAL);
        for number in 0..3 {
            let record = FlowRecord {
                flow_id: u64::MAX - number,
                start_time: Time(1_700_000_000_000_000_001),
                ip_version: 4,
                src_ip: Address::v4([192, 0, 2, 7]),
                vlan_ids: (number == 1).then(|| vec![10, 20]),
                server_name: (number == 2).then(|| "a \"b\", c".to_owned()),
                ..FlowRecord::default()
            };
            assert!(builder.push(&record, None, None).unwrap().is_none());
        }
        builder.finish().unwrap().unwrap()
    }

    fn written(format: Format, batches: &[RecordBatch], schema: &SchemaRef) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut writer = Writer::create(&path, format, schema).unwrap();
        for batch in batches {
            writer.write(batch).unwrap();
        }
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(writer.finish().unwrap(), rows as u64);
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn ndjson_leaves_nulls_out_and_keeps_nanoseconds() {
        let batch = batch();
        let text = String::from_utf8(written(
            Format::Ndjson,
            &[batch.clone(), batch.clone()],
            &batch.schema(),
        ))
        .unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[0]["flow_id"], u64::MAX);
        assert_eq!(lines[0]["start_time"], "2023-11-14T22:13:20.000000001Z");
        assert_eq!(lines[0]["src_ip"], "192.0.2.7");
        assert!(lines[0].get("server_name").is_none());
        assert_eq!(lines[1]["vlan_ids"], serde_json::json!([10, 20]));
        assert_eq!(lines[2]["server_name"], "a \"b\", c");
    }

    #[test]
    fn csv_has_one_header_also_without_rows() {
        let batch = batch();
        let empty = String::from_utf8(written(Format::Csv, &[], &batch.schema())).unwrap();
        assert_eq!(empty.lines().count(), 1);
        let text = String::from_utf8(written(
            Format::Csv,
            &[batch.clone(), batch.clone()],
            &batch.schema(),
        ))
        .unwrap();
        assert_eq!(text.lines().count(), 7);
        assert!(text.starts_with(&empty));
        assert!(text.contains("\"[10,20]\""), "{text}");
        assert!(text.contains("\"a \"\"b\"\", c\""), "{text}");
        assert!(text.contains("2023-11-14T22:13:20.000000001Z"), "{text}");
    }

    #[test]
    fn parquet_and_arrow_give_the_batch_back() {
        let batch = batch();
        let bytes = written(Format::Parquet, std::slice::from_ref(&batch), &batch.schema());
        let (head, tail) = (
            bytes.first_chunk::<4>().unwrap(),
            bytes.last_chunk::<4>().unwrap(),
        );
        assert_eq!((head, tail), (b"PAR1", b"PAR1"));
        let bytes = written(Format::Arrow, std::slice::from_ref(&batch), &batch.schema());
        let mut reader = arrow::ipc::reader::FileReader::try_new(io::Cursor::new(bytes), None).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), batch);
        assert!(reader.next().is_none());
    }

    #[test]
    fn an_output_that_cannot_be_written_is_named() {
        let schema = batch().schema();
        let error = Writer::create(Path::new("/nonexistent/out.csv"), Format::Csv, &schema)
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "cannot write /nonexistent/out.csv: No such file or directory"
        );
        for format in [Format::Ndjson, Format::Csv, Format::Parquet, Format::Arrow] {
            let mut writer = match Writer::create(Path::new("/dev/full"), format, &schema) {
                Ok(writer) => writer,
                Err(error) => {
                    assert_eq!(
                        error.to_string(),
                        "cannot write /dev/full: No space left on device"
                    );
                    continue;
                }
            };
            let result = writer.write(&batch()).and_then(|()| writer.finish());
            assert_eq!(
                result.unwrap_err().to_string(),
                "cannot write /dev/full: No space left on device",
                "{format:?}"
            );
        }
    }

    #[test]
    fn formats_are_chosen_by_suffix_or_name() {
        assert_eq!(Format::of_path(Path::new("a/b.PARQUET")), Some(Format::Parquet));
        assert_eq!(Format::of_path(Path::new("flows.jsonl")), Some(Format::Ndjson));
        assert_eq!(Format::of_path(Path::new("flows.txt")), None);
        assert_eq!("csv".parse(), Ok(Format::Csv));
        let error = "xml".parse::<Format>().unwrap_err();
        assert_eq!(
            error,
            "format: \"xml\" is not known; allowed are ndjson, csv, parquet, arrow"
        );
    }
}
