//! Flow records to record batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use wire::column::Value as _;
use wire::l7::{Protocol, Session};

use super::RecordError;
use super::schema::{FEATURES, Layout};
use super::tree::Tree;
use crate::flow::{Features, FlowRecord};

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most rows.
    pub rows: usize,
    /// Estimated uncompressed size in bytes from which the batch is closed. The last row may exceed it.
    pub bytes: usize,
}

impl Limits {
    /// Most rows of a sealed batch (design D5).
    pub const SEALED_ROWS: usize = 8192;
    /// Most bytes of a sealed batch as a whole (design D5).
    pub const SEALED_BYTES: usize = 900 * 1024;
    /// What is kept free in a sealed batch for its last row, the schema and the manifest.
    pub const SEALED_RESERVE: usize = 128 * 1024;

    /// Limits that keep a sealed batch below its bounds even where nothing can be compressed.
    pub const SEALED: Self = Self {
        rows: Self::SEALED_ROWS,
        bytes: Self::SEALED_BYTES - Self::SEALED_RESERVE,
    };
    /// Limits for batches that stay in the process or go to a file.
    pub const LOCAL: Self = Self {
        rows: 8192,
        bytes: 16 << 20,
    };
}

/// One protocol's struct column.
struct Slot {
    protocol: Protocol,
    tree: Tree,
}

/// The structs that a batch has: whether that of features, and which protocols'.
type Structs = (bool, Vec<Protocol>);

/// Makes record batches of flow records, one batch after another, with the same buffers' owner.
pub struct Builder {
    layout: Layout,
    limits: Limits,
    rows: usize,
    flow: Tree,
    features: Option<Tree>,
    slots: Vec<Slot>,
    /// The schema made last and the structs that it has: batches in a row mostly have the same.
    schema: Option<(Structs, SchemaRef)>,
}

impl Builder {
    /// An empty builder.
    pub fn new(layout: Layout, limits: Limits) -> Self {
        let flow = Tree::new("flow", FlowRecord::COLUMNS, &layout);
        let features = features(&layout);
        let slots = slots(&layout);
        Self {
            layout,
            limits,
            rows: 0,
            flow,
            features,
            slots,
            schema: None,
        }
    }

    /// Rows since the last batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Estimated uncompressed size of the rows since the last batch, in bytes.
    pub fn bytes(&self) -> usize {
        let features = self.features.as_ref().map_or(0, Tree::bytes);
        self.flow.bytes() + features + self.slots.iter().map(|slot| slot.tree.bytes()).sum::<usize>()
    }

    /// Adds a flow; the batch, if it is full with it. After an error the rows since the last batch are lost.
    pub fn push(
        &mut self,
        record: &FlowRecord,
        features: Option<&Features>,
        session: Option<&Session>,
    ) -> Result<Option<RecordBatch>, RecordError> {
        self.append(record, features, session)
            .inspect_err(|_| self.reset())?;
        if self.rows >= self.limits.rows || self.bytes() >= self.limits.bytes {
            return self.finish();
        }
        Ok(None)
    }

    fn append(
        &mut self,
        record: &FlowRecord,
        features: Option<&Features>,
        session: Option<&Session>,
    ) -> Result<(), RecordError> {
        record.emit(&mut self.flow.row(self.rows, record.ip_version));
        self.flow.end_row()?;
        if let (Some(tree), Some(features)) = (&mut self.features, features) {
            features.emit(&mut tree.row(self.rows, 0));
            tree.end_row()?;
        }
        if let Some(session) = session {
            for slot in &mut self.slots {
                if session.emit(slot.protocol, &mut slot.tree.row(self.rows, 0)) {
                    slot.tree.end_row()?;
                }
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// The batch of the rows since the last one, if there are any.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, RecordError> {
        if self.rows == 0 {
            return Ok(None);
        }
        self.take().map(Some).inspect_err(|_| self.reset())
    }

    fn take(&mut self) -> Result<RecordBatch, RecordError> {
        let rows = std::mem::take(&mut self.rows);
        let (_, mut columns, _) = self.flow.take()?.into_parts();
        let fixed = matches!(self.layout.protocols, super::Protocols::Fixed(_));
        let mut has_features = false;
        if let Some(tree) = &mut self.features
            && (fixed || tree.len() > 0)
        {
            tree.fill(rows);
            columns.push(Arc::new(tree.take()?) as ArrayRef);
            has_features = true;
        }
        let mut present = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            if fixed || slot.tree.len() > 0 {
                slot.tree.fill(rows);
                columns.push(Arc::new(slot.tree.take()?) as ArrayRef);
                present.push(slot.protocol);
            }
        }
        let schema = match &self.schema {
            Some(((features, protocols), schema)) if *features == has_features && *protocols == present => {
                Arc::clone(schema)
            }
            _ => {
                let schema = self.layout.schema(has_features, &present);
                self.schema = Some(((has_features, present), Arc::clone(&schema)));
                schema
            }
        };
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    fn reset(&mut self) {
        self.rows = 0;
        self.flow = Tree::new("flow", FlowRecord::COLUMNS, &self.layout);
        self.features = features(&self.layout);
        self.slots = slots(&self.layout);
    }
}

fn features(layout: &Layout) -> Option<Tree> {
    layout
        .features
        .then(|| Tree::new(FEATURES, Features::COLUMNS, layout))
}

fn slots(layout: &Layout) -> Vec<Slot> {
    layout
        .protocols
        .list()
        .iter()
        .map(|&protocol| Slot {
            protocol,
            tree: Tree::new(protocol.name(), protocol.columns(), layout),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::community_id::CommunityId;
    use crate::record::schema::{Addresses, recorded};
    use arrow::array::{Array as _, AsArray as _};
    use arrow::datatypes::{
        Float64Type, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    };
    use proptest::prelude::*;
    use wire::column::{Address, Mac, Time};
    use wire::flowkey::Direction;
    use wire::l7::{Context, Input};

    fn record(seed: u64) -> FlowRecord {
        FlowRecord {
            flow_id: seed,
            community_id: CommunityId::new([seed as u8; 20]),
            start_time: Time(seed as i64),
            ip_version: if seed.is_multiple_of(2) { 4 } else { 6 },
            src_ip: Address::v4([192, 0, 2, seed as u8]),
            src_port: seed as u16,
            src_mac: (!seed.is_multiple_of(3)).then_some(Mac([seed as u8; 6])),
            vlan_ids: (!seed.is_multiple_of(5)).then(|| vec![seed as u16; (seed % 4) as usize]),
            packet_length_mean: (!seed.is_multiple_of(7)).then_some(seed as f64 / 3.0),
            splt_lengths: Some(vec![seed as u32; (seed % 20) as usize]),
            app: (!seed.is_multiple_of(11)).then_some("tls"),
            server_name: (!seed.is_multiple_of(13)).then(|| format!("host{seed}.example")),
            ..FlowRecord::default()
        }
    }

    #[test]
    fn a_batch_closes_at_its_rows_and_the_next_begins() {
        let mut builder = Builder::new(
            Layout::evidence(),
            Limits {
                rows: 3,
                bytes: usize::MAX,
            },
        );
        let mut sizes = Vec::new();
        for seed in 0..8 {
            if let Some(batch) = builder.push(&record(seed), None, None).unwrap() {
                sizes.push(batch.num_rows());
            }
        }
        sizes.extend(builder.finish().unwrap().map(|batch| batch.num_rows()));
        assert_eq!(sizes, [3, 3, 2]);
        assert!(builder.finish().unwrap().is_none());
    }

    #[test]
    fn the_estimate_is_at_least_the_size_of_the_values() {
        let mut builder = Builder::new(Layout::evidence(), Limits::SEALED);
        let batch = (0..)
            .find_map(|seed| builder.push(&record(seed), None, None).unwrap())
            .unwrap();
        assert!(
            batch.num_rows() < Limits::SEALED_ROWS,
            "wide rows reach the bytes first"
        );
        let mut stream = Vec::new();
        let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        assert!(
            stream.len() <= Limits::SEALED_BYTES,
            "{} bytes without any compression",
            stream.len()
        );
    }

    #[test]
    fn sealed_batches_hold_only_protocols_that_occur() {
        let mut builder = Builder::new(Layout::evidence(), Limits::LOCAL);
        builder.push(&record(1), None, None).unwrap();
        builder.push(&record(2), None, Some(&Session::default())).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        assert_eq!(batch.num_columns(), FlowRecord::COLUMNS.len());
        let fixed = Layout::output(Addresses::Text, recorded());
        let mut builder = Builder::new(fixed.clone(), Limits::LOCAL);
        builder.push(&record(1), None, None).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        assert_eq!(batch.schema(), fixed.full_schema());
        for protocol in recorded() {
            assert_eq!(batch.column_by_name(protocol.name()).unwrap().null_count(), 1);
        }
    }

    #[test]
    fn features_stand_where_they_occur_and_in_every_batch_of_a_fixed_layout() {
        let features = Features {
            subflows: 7,
            burst_bytes_rev: vec![1, 2],
            ..Features::default()
        };
        let mut builder = Builder::new(Layout::evidence(), Limits::LOCAL);
        builder.push(&record(1), None, None).unwrap();
        builder.push(&record(2), Some(&features), None).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        assert_eq!(batch.schema(), Layout::evidence().schema(true, &[]));
        let column = batch.column_by_name(FEATURES).unwrap().as_struct();
        assert_eq!((column.is_valid(0), column.is_valid(1)), (false, true));
        let subflows = column.column_by_name("subflows").unwrap();
        assert_eq!(subflows.as_primitive::<UInt32Type>().value(1), 7);
        let bursts = column.column_by_name("burst_bytes_rev").unwrap();
        let bursts = bursts.as_list::<i32>().value(1);
        assert_eq!(bursts.as_primitive::<UInt64Type>().values(), &[1, 2]);
        builder.push(&record(3), None, None).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        assert!(
            batch.column_by_name(FEATURES).is_none(),
            "the next batch has none"
        );

        let fixed = Layout {
            features: true,
            ..Layout::output(Addresses::Text, Vec::new())
        };
        let mut builder = Builder::new(fixed.clone(), Limits::LOCAL);
        builder.push(&record(1), None, None).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        assert_eq!(batch.schema(), fixed.full_schema());
        assert_eq!(batch.column_by_name(FEATURES).unwrap().null_count(), 1);
    }

    /// A session that has seen the DNS query `name` A IN, in 12 bytes of header and the question.
    fn dns_session(name: &str) -> Session {
        let mut query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(b"\x00\x00\x01\x00\x01");
        let context = Context {
            direction: Direction::Forward,
            time: 0,
            src_port: 50_000,
            dst_port: 53,
            stream: false,
        };
        let mut session = Session::default();
        session.feed(Input::Datagram(&query), &context, &crate::crypto::Crypto);
        session
    }

    #[test]
    fn a_session_fills_its_protocols_struct_and_no_other() {
        let mut builder = Builder::new(Layout::evidence(), Limits::LOCAL);
        builder.push(&record(1), None, None).unwrap();
        builder
            .push(&record(2), None, Some(&dns_session("example.org")))
            .unwrap();
        builder.push(&record(3), None, None).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        assert_eq!(batch.num_columns(), FlowRecord::COLUMNS.len() + 1);
        let dns = batch.column_by_name("dns").unwrap();
        assert_eq!(
            (dns.is_valid(0), dns.is_valid(1), dns.is_valid(2)),
            (false, true, false)
        );
        let queries = dns
            .as_struct()
            .column_by_name("queries")
            .unwrap()
            .as_list::<i32>()
            .value(1);
        let names = queries.as_struct().column_by_name("name").unwrap();
        assert_eq!(names.as_string::<i32>().value(0), "example.org");

        builder.push(&record(4), None, None).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        assert_eq!(
            batch.num_columns(),
            FlowRecord::COLUMNS.len(),
            "the next batch begins without it"
        );
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(seeds in prop::collection::vec(any::<u64>(), 1..200), rows in 1usize..50) {
            let mut builder = Builder::new(Layout::evidence(), Limits { rows, bytes: usize::MAX });
            let mut batches = Vec::new();
            for seed in &seeds {
                batches.extend(builder.push(&record(*seed), None, None).unwrap());
            }
            batches.extend(builder.finish().unwrap());
            let mut expected = seeds.iter().map(|seed| record(*seed));
            for batch in &batches {
                let column = |name: &str| batch.column_by_name(name).unwrap();
                for row in 0..batch.num_rows() {
                    let record = expected.next().unwrap();
                    prop_assert_eq!(column("flow_id").as_primitive::<UInt64Type>().value(row), record.flow_id);
                    prop_assert_eq!(column("community_id").as_string::<i32>().value(row), record.community_id.as_str());
                    let time = column("start_time").as_primitive::<TimestampNanosecondType>().value(row);
                    prop_assert_eq!(time, record.start_time.0);
                    prop_assert_eq!(column("ip_version").as_primitive::<UInt8Type>().value(row), record.ip_version);
                    prop_assert_eq!(column("src_ip").as_fixed_size_binary().value(row), &record.src_ip.0);
                    let mac = column("src_mac");
                    let mac = mac.is_valid(row).then(|| mac.as_fixed_size_binary().value(row).to_vec());
                    prop_assert_eq!(mac, record.src_mac.map(|mac| mac.0.to_vec()));
                    let vlans = column("vlan_ids").as_list::<i32>();
                    let vlans = column("vlan_ids").is_valid(row)
                        .then(|| vlans.value(row).as_primitive::<UInt16Type>().values().to_vec());
                    prop_assert_eq!(vlans, record.vlan_ids);
                    let mean = column("packet_length_mean");
                    let mean = mean.is_valid(row).then(|| mean.as_primitive::<Float64Type>().value(row));
                    prop_assert_eq!(mean, record.packet_length_mean);
                    let name = column("server_name");
                    let name = name.is_valid(row).then(|| name.as_string::<i32>().value(row).to_owned());
                    prop_assert_eq!(name, record.server_name);
                }
            }
            prop_assert!(expected.next().is_none(), "no row is lost");
        }
    }
}
