//! Columns as text: times, and nested columns where a format has none.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch, StringArray, StringBuilder, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit, TimestampNanosecondType};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use chrono::{DateTime, SecondsFormat};

/// A time as RFC 3339 with nine digits: the same width for every value, so that text sorts as time does.
pub fn time_text(nanoseconds: i64) -> String {
    DateTime::from_timestamp_nanos(nanoseconds).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Makes arrow's JSON writer write times as [`time_text`]: its own way needs the time zone database for "UTC".
#[derive(Debug)]
pub(super) struct TimeText;

impl EncoderFactory for TimeText {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        Ok(match array.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                let times = Times(array.as_primitive::<TimestampNanosecondType>().values());
                Some(NullableEncoder::new(Box::new(times), array.nulls().cloned()))
            }
            _ => None,
        })
    }
}

struct Times<'a>(&'a [i64]);

impl Encoder for Times<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(time_text(self.0[row]).as_bytes());
        out.push(b'"');
    }
}

/// The batch with structs replaced by their members (`tls.sni`) and lists by JSON text.
pub(super) fn flatten(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        flatten_column(field.name(), field, column, None, &mut fields, &mut columns)?;
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn flatten_column(
    name: &str,
    field: &FieldRef,
    column: &ArrayRef,
    outer: Option<&NullBuffer>,
    fields: &mut Vec<Field>,
    columns: &mut Vec<ArrayRef>,
) -> Result<(), ArrowError> {
    let nulls = NullBuffer::union(outer, column.nulls());
    match column.data_type() {
        DataType::Struct(members) => {
            for (member, values) in members.iter().zip(column.as_struct().columns()) {
                let path = format!("{name}.{}", member.name());
                flatten_column(&path, member, values, nulls.as_ref(), fields, columns)?;
            }
        }
        DataType::List(_) => {
            fields.push(Field::new(name, DataType::Utf8, true));
            columns.push(json_text(field, column, nulls.as_ref())?);
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            fields.push(Field::new(name, DataType::Utf8, true));
            let times = column.as_primitive::<TimestampNanosecondType>().values();
            let valid = |row| {
                nulls
                    .as_ref()
                    .is_none_or(|nulls: &NullBuffer| nulls.is_valid(row))
            };
            let text = times
                .iter()
                .enumerate()
                .map(|(row, time)| valid(row).then(|| time_text(*time)));
            columns.push(Arc::new(text.collect::<StringArray>()));
        }
        data_type => {
            fields.push(Field::new(name, data_type.clone(), true));
            let data = column.to_data().into_builder().nulls(nulls).build()?;
            columns.push(make_array(data));
        }
    }
    Ok(())
}

fn json_text(
    field: &FieldRef,
    column: &ArrayRef,
    nulls: Option<&NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let options = EncoderOptions::default().with_encoder_factory(Arc::new(TimeText));
    let mut encoder = make_encoder(field, column, &options)?;
    let mut text = StringBuilder::with_capacity(column.len(), 0);
    let mut json = Vec::new();
    for row in 0..column.len() {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            text.append_null();
        } else {
            json.clear();
            encoder.encode(row, &mut json);
            text.append_value(String::from_utf8_lossy(&json));
        }
    }
    Ok(Arc::new(text.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListArray, StructArray};
    use arrow::datatypes::{Fields, Int64Type};

    #[test]
    fn times_keep_their_nanoseconds_over_the_whole_range() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time_text(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(time_text(i64::MAX), "2262-04-11T23:47:16.854775807Z");
        assert_eq!(time_text(i64::MIN), "1677-09-21T00:12:43.145224192Z");
    }

    #[test]
    fn flattening_masks_members_of_absent_structs() {
        let inner = Arc::new(Field::new("item", DataType::Int64, false));
        let members = Fields::from(vec![
            Field::new("count", DataType::Int64, false),
            Field::new("all", DataType::List(Arc::clone(&inner)), false),
        ]);
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![0, 5]));
        let offsets = arrow::buffer::OffsetBuffer::new(vec![0, 0, 2].into());
        let all: ArrayRef = Arc::new(
            ListArray::try_new(inner, offsets, Arc::new(Int64Array::from(vec![1, 2])), None).unwrap(),
        );
        let structs =
            StructArray::try_new(members.clone(), vec![counts, all], Some(vec![false, true].into())).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new(
            "tls",
            DataType::Struct(members),
            true,
        )]));
        let flat = flatten(&RecordBatch::try_new(schema, vec![Arc::new(structs)]).unwrap()).unwrap();
        let names: Vec<_> = flat
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(names, ["tls.count", "tls.all"]);
        let counts = flat.column(0).as_primitive::<Int64Type>();
        assert!(counts.is_null(0), "the zero below an absent struct is no value");
        assert_eq!(counts.value(1), 5);
        let all = flat.column(1).as_string::<i32>();
        assert!(all.is_null(0));
        assert_eq!(all.value(1), "[1,2]");
    }
}
