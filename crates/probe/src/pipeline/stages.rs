//! What each stage costs, measured one after another on one thread: for `dpi-probe bench stages`.
//!
//! Every stage is run over the same frames, so that the difference of two runs is the cost of what the longer one does
//! more. Costs are CPU time of the thread; the spool's is wall time, because it waits for the disk.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use wire::decode::Decoder;

use super::PipelineError;
use super::desk::LIMITS;
use super::memory::Shares;
use crate::capture::{FrameHeader, OwnedFrames};
use crate::clock;
use crate::counters::Published;
use crate::engine::{Outlet, Worker};
use crate::flow::{self, EndedFlow};
use crate::record::{Builder, Layout};
use crate::seal::{Chain, Kind, SealedBatch, Signer};
use crate::spool::{Spool, SpoolSettings, Stored, Sync, WhenFull};
use crate::traffic::{self, Cycle, Offer};

/// Bytes of a block, as in the capture ring.
const BLOCK_BYTES: u64 = crate::capture::af_packet::RING_BLOCK_BYTES as u64;
/// Idle timeout: flows end within the frames that there are.
const IDLE_TIMEOUT_NS: i64 = 1_000_000_000;

/// What to measure.
#[derive(Debug)]
pub struct StageSettings<'a> {
    /// The traffic.
    pub traffic: traffic::Settings,
    /// Bytes of frames to run over.
    pub bytes: u64,
    /// Bound of the memory of a probe, which gives flows their share of it.
    pub memory_bytes: usize,
    /// The probe's certificate, PEM.
    pub certificate: &'a Path,
    /// Its private key, PEM.
    pub key: &'a Path,
    /// The name in the certificate.
    pub probe_id: &'a str,
    /// An empty directory for the spool.
    pub spool_directory: &'a Path,
}

/// What the stages cost, in nanoseconds over all frames and flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCosts {
    /// Frames.
    pub frames: u64,
    /// Flow records.
    pub flows: u64,
    /// Sealed batches.
    pub batches: u64,
    /// Headers, key, hash and checksums.
    pub decode: Duration,
    /// Decoding and metering without layer 7.
    pub decode_flow: Duration,
    /// Decoding, metering and layer 7.
    pub decode_flow_layer7: Duration,
    /// Flow records to record batches.
    pub record: Duration,
    /// Leaves, Merkle tree, signature, compression.
    pub seal: Duration,
    /// Sealed batches to disk, each flushed: wall time.
    pub spool: Duration,
}

/// Runs every stage once.
pub fn measure(settings: &StageSettings<'_>) -> Result<StageCosts, PipelineError> {
    let blocks = blocks(&settings.traffic, settings.bytes)?;
    let mut costs = StageCosts {
        frames: blocks.iter().map(|block| block.headers.len() as u64).sum(),
        ..StageCosts::default()
    };
    let decoder = Decoder::default();
    costs.decode = timed(|| {
        for block in &blocks {
            for (_, header, frame) in block.as_frames().iter() {
                let _ = black_box(decoder.decode(frame, &header.meta()));
            }
        }
    })
    .0;
    let flow = flow::Settings {
        idle_timeout_ns: IDLE_TIMEOUT_NS,
        ..flow::Settings::for_memory(Shares::of(settings.memory_bytes).metering)
    };
    let without = flow::Settings {
        sessions: 0,
        ..flow.clone()
    };
    costs.decode_flow = meter(&blocks, &without, &mut |ended| drop(black_box(ended)));
    costs.decode_flow_layer7 = meter(&blocks, &flow, &mut |ended| drop(black_box(ended)));
    let mut ended = Vec::new();
    meter(&blocks, &flow, &mut |flow| ended.push(flow));
    drop(blocks);
    costs.flows = ended.len() as u64;
    let (record, batches) = timed(|| record(&ended));
    costs.record = record;
    drop(ended);
    deliver(settings, &batches?, &mut costs)?;
    Ok(costs)
}

/// Frames of the traffic, in blocks.
fn blocks(traffic: &traffic::Settings, bytes: u64) -> Result<Vec<OwnedFrames>, PipelineError> {
    let cycle = Cycle::build(traffic)?;
    let period = cycle.shape().period_ns;
    let mut offer = Offer::new(cycle, u64::MAX, u64::MAX, Arc::default());
    let (mut blocks, mut taken, mut made, mut number, mut now) = (Vec::new(), Vec::new(), 0, 1, 0);
    while made < bytes {
        now += period;
        offer.advance(now);
        while offer.waiting() > 0 {
            offer.take(BLOCK_BYTES, usize::MAX, &mut taken);
            let mut block = OwnedFrames {
                first_number: number,
                ..OwnedFrames::default()
            };
            for due in &taken {
                let start = due.offset as usize;
                let frame = offer.bytes().get(start..start + due.length as usize);
                block.headers.push(FrameHeader {
                    time: i64::try_from(due.at).unwrap_or(i64::MAX),
                    offset: block.bytes.len() as u32,
                    captured_length: due.length,
                    wire_length: due.length,
                    link_type: wire::decode::LinkType::ETHERNET,
                    stripped_vlan: None,
                    checksum_offloaded: false,
                    clock: None,
                });
                block.bytes.extend_from_slice(frame.unwrap_or_default());
            }
            made += block.bytes.len() as u64;
            number += block.headers.len() as u64;
            blocks.push(block);
        }
    }
    Ok(blocks)
}

/// CPU time of this thread.
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = clock::thread_cpu();
    let result = work();
    (clock::thread_cpu().saturating_sub(before), result)
}

fn meter(
    blocks: &[OwnedFrames],
    settings: &flow::Settings,
    sink: &mut dyn FnMut(Box<EndedFlow>),
) -> Duration {
    let mut worker = Worker::new(settings, Decoder::default(), Arc::new(Published::default()));
    let mut outlet = Outlet::new(settings, Arc::default());
    let mut take = |event| {
        if let Some(ended) = outlet.take(event) {
            sink(ended);
        }
    };
    timed(|| {
        for block in blocks {
            worker.process(block.as_frames(), &mut take);
        }
        worker.flush(&mut take);
    })
    .0
}

fn record(flows: &[Box<EndedFlow>]) -> Result<Vec<RecordBatch>, PipelineError> {
    let mut builder = Builder::new(Layout::evidence(), LIMITS);
    let mut batches = Vec::new();
    for ended in flows {
        batches.extend(builder.push(&ended.record, ended.features.as_deref(), ended.session.as_deref())?);
    }
    batches.extend(builder.finish()?);
    Ok(batches)
}

/// Seals and spools.
fn deliver(
    settings: &StageSettings<'_>,
    batches: &[RecordBatch],
    costs: &mut StageCosts,
) -> Result<(), PipelineError> {
    let now = clock::utc_now().div_euclid(1_000_000_000);
    let signer = Signer::load(settings.certificate, settings.key, settings.probe_id, now)?;
    let mut chain = Chain::start(None)?;
    let mut sealed: Vec<SealedBatch> = Vec::new();
    let (seal, result) = timed(|| {
        batches.iter().try_for_each(|batch| {
            chain.seal_in_parts(Kind::Flow, batch, now, &signer, &mut |done| sealed.push(done))
        })
    });
    result?;
    costs.seal = seal;
    costs.batches = sealed.len() as u64;
    let spool = Spool::open(
        settings.spool_directory,
        SpoolSettings {
            max_bytes: u64::MAX,
            when_full: WhenFull::DropNewest,
            sync: Sync::EveryBatch,
        },
    )?;
    let begun = clock::monotonic();
    for batch in &sealed {
        if let Stored::Lost(error) = spool.store(batch) {
            return Err(PipelineError::Spool(error));
        }
    }
    costs.spool = clock::elapsed(begun);
    Ok(())
}
