//! One worker: frames to events.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use arrayvec::ArrayVec;
use wire::decode::{Decoder, FrameMeta, Packet};
use wire::malformed::Undecodable;

use crate::capture::{FrameHeader, Frames};
use crate::clock::PacketClock;
use crate::counters::{Published, Tally};
use crate::crypto::Crypto;
use crate::flow::memory;
use crate::flow::meter::{Event, Meter, Seen};
use crate::flow::{Order, Profile, Settings, SettingsError, Shed};
use crate::steer::{Block, Turn};

/// Packets that are decoded before the first of them is metered, so that the memory of their flows is under way.
const BATCH: usize = 32;

/// How many frames ahead the first bytes of a frame are asked for.
const FRAMES_AHEAD: usize = 8;

type Batch<'a> = ArrayVec<(Packet<'a>, Seen), BATCH>;

static CRYPTO: Crypto = Crypto;

/// Frame to packet.
pub trait Decode {
    /// As [`wire::decode::Decoder::decode`].
    fn decode<'a>(&self, frame: &'a [u8], meta: &FrameMeta) -> Result<Packet<'a>, Undecodable>;
}

impl Decode for Decoder {
    #[inline]
    fn decode<'a>(&self, frame: &'a [u8], meta: &FrameMeta) -> Result<Packet<'a>, Undecodable> {
        Self::decode(self, frame, meta)
    }
}

/// One decoder, one flow table, one page of counters. Used by one thread: offline behind [`super::read`], live by the
/// thread that owns the ring.
///
/// A panic while a block is processed is a bug; it is caught and counted (`worker_panics`), the flows of the worker and
/// what is left of the block are counted as lost, and the worker goes on with an empty table.
#[derive(Debug)]
pub struct Worker<D = Decoder> {
    meter: Meter,
    decoder: D,
    clock: PacketClock,
    last_frame: u64,
    settings: Settings,
    shed: Shed,
    page: Arc<Published>,
}

impl<D: Decode> Worker<D> {
    /// A worker with its share of the limits (see [`Settings::share`]), which counts on the page.
    pub fn new(share: &Settings, decoder: D, page: Arc<Published>) -> Self {
        Self {
            meter: Meter::new(share, &CRYPTO),
            decoder,
            clock: PacketClock::new(share.idle_timeout_ns),
            last_frame: 0,
            settings: share.clone(),
            shed: Shed::default(),
            page,
        }
    }

    /// Processes all frames of a block.
    pub fn process(&mut self, frames: Frames<'_>, sink: &mut dyn FnMut(Event)) {
        let mut clock = self.clock;
        let places = frames.headers.iter().enumerate();
        let all = places.map(|(place, header)| {
            let epoch = clock.epoch();
            let now = clock.observe(header.time);
            let turn = (clock.epoch() != epoch).then(|| Turn {
                place: place as u32,
                epoch: clock.epoch(),
                ended: clock.ended(),
            });
            (place, header, now, turn)
        });
        self.guarded(frames, frames.headers.len(), all, sink);
        self.clock = clock;
        self.last_frame = last_number(frames);
        self.finish_block(sink);
    }

    /// Processes the frames of a block that are this worker's.
    pub fn process_share(&mut self, block: &Block, number: usize, sink: &mut dyn FnMut(Event)) {
        let frames = block.frames.as_frames();
        let share = block.shares.get(number).map_or(&[][..], Vec::as_slice);
        let mut turns = block.turns.iter().copied().peekable();
        let own = share.iter().filter_map(|place| {
            let mut turn: Option<Turn> = None;
            while let Some(next) = turns.next_if(|next| next.place <= *place) {
                // Of several, the first one says when the epoch ended that this worker knows.
                let ended = turn.map_or(next.ended, |first| first.ended);
                turn = Some(Turn { ended, ..next });
            }
            let place = *place as usize;
            Some((place, frames.headers.get(place)?, *block.clocks.get(place)?, turn))
        });
        self.guarded(frames, share.len(), own, sink);
        // The frames of the others let time pass here too, and turn it back.
        let known = self.meter.epoch();
        if let Some(next) = block.turns.iter().find(|turn| turn.epoch > known) {
            let epoch = block.turns.last().map_or(next.epoch, |last| last.epoch);
            self.catch(sink, |meter, _, sink| meter.turn_back(next.ended, epoch, sink));
        }
        self.clock = block.clock.unwrap_or(self.clock);
        self.last_frame = last_number(frames);
        self.finish_block(sink);
    }

    /// The next frame is the first one of an input, whose time may begin anew.
    pub fn start_input(&mut self) {
        self.clock.start_input();
    }

    /// Live: lets time pass where no frames come. `now` is in UTC nanoseconds.
    pub fn advance(&mut self, now: i64, sink: &mut dyn FnMut(Event)) {
        self.clock.observe(now);
        self.finish_block(sink);
    }

    /// Ends all flows: at the end of the input, or when the probe stops.
    pub fn flush(&mut self, sink: &mut dyn FnMut(Event)) {
        let clock = self.clock.now();
        self.catch(sink, |meter, _, sink| meter.flush(clock, sink));
        self.page.publish(self.meter.tally());
    }

    /// Everything that comes later is after this.
    pub fn reached(&self) -> Option<Order> {
        (self.clock.now() > i64::MIN).then(|| Order {
            epoch: self.clock.epoch(),
            export_time: self.clock.now(),
            frame: self.last_frame,
            flow_id: u64::MAX,
            interim_number: u32::MAX,
        })
    }

    /// Places of the flow table that are taken: flows, and the keys of connections that have just ended.
    pub fn flows(&self) -> usize {
        self.meter.flows()
    }

    /// Places that the flow table may have now, taken or not.
    pub fn places(&self) -> usize {
        self.meter.places()
    }

    /// What was counted so far.
    pub fn tally(&self) -> &Tally {
        self.meter.tally()
    }

    /// From the next block on computes what the profile asks for, less what is shed under pressure. Costs nothing: it may
    /// be called before every block.
    pub fn set_profile(&mut self, profile: Profile, shed: Shed) {
        self.settings.profile = profile;
        self.shed = shed;
        self.meter.set_duty(profile, shed);
    }

    /// From the next block on uses other timeouts, in nanoseconds; refuses what [`Settings::validate`] does. Flows that
    /// are due by shorter ones end within the next blocks, at the clock of now or later.
    pub fn set_timeouts(&mut self, idle: i64, active: i64) -> Result<(), SettingsError> {
        let settings = Settings {
            idle_timeout_ns: idle,
            active_timeout_ns: active,
            ..self.settings.clone()
        };
        settings.validate()?;
        self.settings = settings;
        self.meter.set_timeouts(idle, active, self.clock.now());
        Ok(())
    }

    /// Meters frames; on a panic counts what it cost.
    fn guarded<'a>(
        &mut self,
        frames: Frames<'a>,
        count: usize,
        selected: impl Iterator<Item = (usize, &'a FrameHeader, i64, Option<Turn>)>,
        sink: &mut dyn FnMut(Event),
    ) {
        self.meter.tally_mut().frames_delivered += count as u64;
        self.catch(sink, |meter, decoder, sink| {
            let mut batch = Batch::new();
            for (place, header, clock, turn) in selected {
                if let Some(Turn { epoch, ended, .. }) = turn {
                    meter_batch(meter, &mut batch, sink);
                    meter.turn_back(ended, epoch, sink);
                }
                // Frames have all lengths, so that the processor cannot tell by itself where the next ones begin.
                if let Some(coming) = frames.headers.get(place + FRAMES_AHEAD) {
                    memory::ask_for(frames.bytes, coming.offset as usize);
                }
                let start = header.offset as usize;
                let bytes = frames
                    .bytes
                    .get(start..start.saturating_add(header.captured_length as usize));
                match decoder.decode(bytes.unwrap_or_default(), &header.meta()) {
                    Ok(packet) => {
                        meter.prefetch_bucket(&packet);
                        let seen = Seen {
                            time: header.time,
                            clock,
                            frame: frames.first_number + place as u64,
                            wire_length: header.wire_length,
                        };
                        batch.push((packet, seen));
                        if batch.is_full() {
                            meter_batch(meter, &mut batch, sink);
                        }
                    }
                    Err(reason) => meter.tally_mut().frames_undecodable.add(reason, 1),
                }
            }
            meter_batch(meter, &mut batch, sink);
        });
    }

    fn finish_block(&mut self, sink: &mut dyn FnMut(Event)) {
        let clock = self.clock;
        self.catch(sink, |meter, _, sink| {
            // Where no frame turned it back, but the machine's own clock; or a panic came between.
            if meter.epoch() != clock.epoch() {
                meter.turn_back(clock.ended(), clock.epoch(), sink);
            }
            meter.settle();
            meter.advance(clock.now(), sink);
        });
        self.page.publish(self.meter.tally());
    }

    /// Runs a part of the work; after a panic in it, goes on with an empty meter. A panic of the sink is not ours.
    fn catch(
        &mut self,
        sink: &mut dyn FnMut(Event),
        part: impl FnOnce(&mut Meter, &D, &mut dyn FnMut(Event)),
    ) {
        let in_sink = Cell::new(false);
        let mut watched = |event| {
            in_sink.set(true);
            sink(event);
            in_sink.set(false);
        };
        let Self { meter, decoder, .. } = self;
        // The meter is thrown away if it was interrupted, so that nobody sees a broken state.
        let result = catch_unwind(AssertUnwindSafe(|| part(meter, decoder, &mut watched)));
        let Err(panic) = result else { return };
        if in_sink.get() {
            resume_unwind(panic);
        }
        let mut fresh = Meter::new(&self.settings, &CRYPTO);
        fresh.set_duty(self.settings.profile, self.shed);
        fresh.begin_epoch(self.meter.epoch());
        let mut tally = std::mem::replace(&mut self.meter, fresh).lose();
        tally.worker_panics += 1;
        let accounted = tally.frames_metered + tally.frames_undecodable.total() + tally.frames_lost;
        tally.frames_lost += tally.frames_delivered.saturating_sub(accounted);
        *self.meter.tally_mut() = tally;
    }
}

/// Meters the packets of a batch, whose buckets are under way.
fn meter_batch(meter: &mut Meter, batch: &mut Batch<'_>, sink: &mut dyn FnMut(Event)) {
    for (packet, _) in &*batch {
        meter.prefetch_flow(packet);
    }
    for (packet, _) in &*batch {
        meter.prefetch_state(packet);
    }
    for (packet, _) in &*batch {
        meter.prefetch_streams(packet);
    }
    for (packet, seen) in &*batch {
        meter.packet(packet, *seen, sink);
    }
    batch.clear();
}

fn last_number(frames: Frames<'_>) -> u64 {
    (frames.first_number + frames.headers.len() as u64).saturating_sub(1)
}
