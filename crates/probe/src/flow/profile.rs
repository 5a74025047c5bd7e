//! How much is computed of a flow: what the user chose, less what is shed under pressure.
//!
//! Work is left out packet by packet, from the next block on, so that neither a change of the profile nor the begin or
//! end of shedding waits for anything. A column is null in every record for one of whose packets its work was left out;
//! the column `shed` names what was left out because of pressure.

use std::fmt;
use std::str::FromStr;

use wire::column::Column;

/// A set of kinds of work that can be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work(u8);

impl Work {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Packet lengths and times between packets: smallest, mean, largest and standard deviation.
    pub const STATISTICS: Self = Self(1);
    /// The sequence of packet lengths and times.
    pub const SPLT: Self = Self(1 << 1);
    /// Payload: streams, protocols, names.
    pub const LAYER7: Self = Self(1 << 2);
    /// The struct of features.
    pub const FEATURES: Self = Self(1 << 3);
    /// What TCP segments tell beyond the counts of every profile.
    pub const TCP: Self = Self(1 << 4);
    /// Everything.
    pub const ALL: Self = Self(0b1_1111);

    /// Whether the whole of `other` is in this set.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set less `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The kind of work that a column's declaration names.
    pub fn named(name: &str) -> Self {
        match name {
            "statistics" => Self::STATISTICS,
            "splt" => Self::SPLT,
            "layer7" => Self::LAYER7,
            "tcp" => Self::TCP,
            _ => Self::NONE,
        }
    }

    /// What is in this set or in `other`.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How much is computed (setting `PROFILE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Identity and counters.
    Minimal,
    /// Statistics and layer 7 too.
    #[default]
    Standard,
    /// Everything.
    Full,
}

impl Profile {
    /// The profiles with the names that users type.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::Minimal, "minimal"),
        (Self::Standard, "standard"),
        (Self::Full, "full"),
    ];

    /// The lowest profile that computes a column of the flow record.
    pub fn of(column: &Column) -> Self {
        let work = column.work.map_or(Work::NONE, Work::named);
        let computes = |profile: &Self| profile.work().has(work);
        let mut profiles = Self::ALL.iter().map(|(profile, _)| *profile);
        profiles.find(computes).unwrap_or(Self::Full)
    }

    /// The work that is done.
    pub const fn work(self) -> Work {
        match self {
            Self::Minimal => Work::NONE,
            Self::Standard => Work::ALL.without(Work::FEATURES).without(Work::TCP),
            Self::Full => Work::ALL,
        }
    }
}

/// A name that is no profile's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profile: {0:?} is not known; allowed are minimal, standard, full")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known
            .map(|(profile, _)| *profile)
            .ok_or_else(|| UnknownProfile(name.to_owned()))
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(profile, _)| profile == self);
        formatter.write_str(named.map_or("", |(_, name)| name))
    }
}

/// What is shed under pressure, whatever the profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shed {
    /// Nothing.
    #[default]
    Nothing,
    /// Statistics, features, the sequence of packets and the analysis of TCP.
    Statistics,
    /// That, and layer 7.
    Layer7,
}

impl Shed {
    /// The work that is not done.
    pub const fn work(self) -> Work {
        match self {
            Self::Nothing => Work::NONE,
            Self::Statistics => Work::ALL.without(Work::LAYER7),
            Self::Layer7 => Work::ALL,
        }
    }
}

wire::reasons! {
    /// What was left out for some packet of a record under pressure (column `shed`).
    ShedWork {
        /// Statistics, features, the sequence of packets and the analysis of TCP.
        Statistics = "statistics",
        /// Layer 7.
        Layer7 = "layer7",
    }
}

/// The work to be done for a packet, and why the rest is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duty {
    /// What is done.
    pub work: Work,
    /// What is left out.
    pub left_out: LeftOut,
}

impl Duty {
    /// What the profile asks for less what is shed.
    pub const fn new(profile: Profile, shed: Shed) -> Self {
        let wanted = profile.work();
        let work = wanted.without(shed.work());
        let because_shed = wanted.without(work);
        Self {
            work,
            left_out: LeftOut::new(Work::ALL.without(work), because_shed),
        }
    }
}

/// The work that was left out for some packet of a record, and what column `shed` says of it: one bit for each kind of
/// work, and one for each of the two names that the column has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut(u8);

impl LeftOut {
    const SHED_STATISTICS: u8 = 1 << 6;
    const SHED_LAYER7: u8 = 1 << 7;

    const fn new(work: Work, shed: Work) -> Self {
        let statistics = shed.without(Work::LAYER7).0 != 0;
        let layer7 = shed.has(Work::LAYER7);
        Self(
            work.0
                | if statistics { Self::SHED_STATISTICS } else { 0 }
                | if layer7 { Self::SHED_LAYER7 } else { 0 },
        )
    }

    /// The sequence of packets, for want of memory.
    pub const SPLT: Self = Self(Work::SPLT.0);
    /// The features, for want of memory.
    pub const FEATURES: Self = Self(Work::FEATURES.0);
    /// The analysis of TCP, for want of memory.
    pub const TCP: Self = Self(Work::TCP.0);

    /// Takes note of what is left out for one more packet.
    #[inline]
    pub const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether any of the work was left out.
    #[inline]
    pub const fn has(self, work: Work) -> bool {
        self.0 & work.0 != 0
    }

    /// Whether work of this kind was left out because of pressure.
    pub const fn has_shed(self, work: ShedWork) -> bool {
        let bit = match work {
            ShedWork::Statistics => Self::SHED_STATISTICS,
            ShedWork::Layer7 => Self::SHED_LAYER7,
        };
        self.0 & bit != 0
    }

    /// Column `shed`.
    pub const fn shed(self) -> Option<&'static str> {
        match (
            self.has_shed(ShedWork::Statistics),
            self.has_shed(ShedWork::Layer7),
        ) {
            (false, false) => None,
            (true, false) => Some("statistics"),
            (false, true) => Some("layer7"),
            (true, true) => Some("statistics,layer7"),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Array as _;

    use super::*;
    use crate::flow::FlowRecord;
    use crate::flow::meter::tests::{Bench, Frame, SECOND};
    use crate::record::{Builder, Layout, Limits};

    #[test]
    fn names_and_profiles_are_one_to_one() {
        for (profile, name) in Profile::ALL {
            assert_eq!(name.parse(), Ok(*profile));
            assert_eq!(profile.to_string(), *name);
        }
        let unknown = "fast".parse::<Profile>().unwrap_err().to_string();
        assert_eq!(
            unknown,
            "profile: \"fast\" is not known; allowed are minimal, standard, full"
        );
    }

    #[test]
    fn every_kind_of_work_that_a_column_names_is_known() {
        for column in FlowRecord::COLUMNS {
            let known = column.work.is_none_or(|name| Work::named(name) != Work::NONE);
            assert!(known, "{}: {:?}", column.name, column.work);
            assert!(
                column.work.is_none() || column.nullable,
                "{} cannot be left out",
                column.name
            );
        }
        let profile = |name: &str| {
            let column = FlowRecord::COLUMNS.iter().find(|column| column.name == name);
            Profile::of(column.unwrap())
        };
        assert_eq!(profile("packets_fwd"), Profile::Minimal);
        assert_eq!(profile("packet_length_mean"), Profile::Standard);
        assert_eq!(profile("tcp_keep_alives_fwd"), Profile::Full);
    }

    #[test]
    fn what_the_profile_leaves_out_is_not_shed() {
        let minimal = Duty::new(Profile::Minimal, Shed::Layer7);
        assert!(minimal.left_out.has(Work::LAYER7) && !minimal.work.has(Work::STATISTICS));
        assert_eq!(minimal.left_out.shed(), None);
        let standard = Duty::new(Profile::Standard, Shed::Nothing);
        assert_eq!(
            (standard.work, standard.left_out),
            (Profile::Standard.work(), LeftOut(Work::FEATURES.and(Work::TCP).0))
        );
        let full = Duty::new(Profile::Full, Shed::Nothing);
        assert_eq!((full.work, full.left_out), (Work::ALL, LeftOut::default()));
    }

    /// A DNS query, its answer, and another query.
    fn queries(bench: &mut Bench, change: impl Fn(&mut Bench, usize)) {
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x01x\x07example\x00\x00\x01\x00\x01");
        for packet in 0..3 {
            change(bench, packet);
            bench.at(packet as i64, &Frame::udp(4000, 53).payload(&query));
        }
        bench.flush();
    }

    /// The values of the record's columns as text, with the work that each needs.
    fn columns(record: &FlowRecord) -> Vec<(&'static str, Option<&'static str>, String)> {
        let mut builder = Builder::new(Layout::evidence(), Limits::LOCAL);
        builder.push(record, None, None).unwrap();
        let row = builder.finish().unwrap().unwrap();
        let columns = FlowRecord::COLUMNS.iter().zip(row.columns());
        columns
            .map(|(column, value)| {
                let text = if value.is_null(0) {
                    "null".to_owned()
                } else {
                    format!("{value:?}")
                };
                (column.name, column.work, text)
            })
            .collect()
    }

    #[test]
    fn a_column_is_null_exactly_where_the_profile_leaves_its_work_out() {
        let of = |profile| {
            let mut bench = Bench::new(|settings| settings.profile = profile);
            queries(&mut bench, |_, _| {});
            assert_eq!(bench.flows()[0].session.is_some(), profile != Profile::Minimal);
            columns(bench.records()[0])
        };
        let standard = of(Profile::Standard);
        let told = ["app", "app_confidence", "category"];
        for ((name, work, minimal), (_, _, standard)) in of(Profile::Minimal).iter().zip(&standard) {
            if work.is_some() {
                assert_eq!(minimal, "null", "{name}");
            } else if !told.contains(name) {
                assert_eq!(minimal, standard, "{name}");
            }
        }
        let value = |wanted: &str| {
            standard
                .iter()
                .find(|(name, ..)| *name == wanted)
                .unwrap()
                .2
                .clone()
        };
        assert!(value("packet_length_mean").contains(" 55.0,"));
        assert!(value("server_name").contains("\"x.example\""));
        assert_eq!(of(Profile::Full), standard);
    }

    #[test]
    fn what_is_shed_for_a_while_is_null_and_named_and_comes_back() {
        let mut bench = Bench::new(|_| {});
        queries(&mut bench, |bench, packet| {
            let shed = if packet == 1 { Shed::Layer7 } else { Shed::Nothing };
            bench.meter.set_duty(Profile::Standard, shed);
        });
        let record = bench.records()[0];
        assert_eq!(record.shed, Some("statistics,layer7"));
        assert_eq!((record.packets_fwd, record.packet_length_min), (3, None));
        assert_eq!(record.splt_lengths, None);
        assert_eq!(
            record.server_name.as_deref(),
            Some("x.example"),
            "of the packets seen"
        );
        let clock = bench.clock + 1;
        bench.at(clock, &Frame::udp(1, 2));
        bench.flush();
        let record = bench.records()[1];
        assert_eq!((record.shed, record.packet_length_min), (None, Some(28)));
    }

    #[test]
    fn shorter_timeouts_end_flows_from_now_on() {
        let mut bench = Bench::new(|_| {});
        bench.at(0, &Frame::udp(1, 2));
        bench.at(5 * SECOND, &Frame::udp(3, 4));
        bench.meter.set_timeouts(2 * SECOND, 20 * SECOND, bench.clock);
        bench.meter.settle();
        bench.at(6 * SECOND, &Frame::udp(5, 6));
        bench.at(9 * SECOND, &Frame::udp(5, 6));
        assert_eq!(
            bench.ends(),
            [("idle_timeout", 1), ("idle_timeout", 1), ("idle_timeout", 1)]
        );
        assert_eq!(
            bench.export_times(),
            [5 * SECOND, 7 * SECOND, 8 * SECOND],
            "not before the change"
        );
        bench.meter.set_timeouts(300 * SECOND, 300 * SECOND, bench.clock);
        bench.at(200 * SECOND, &Frame::udp(5, 6));
        bench.flush();
        assert_eq!(
            bench.ends().last(),
            Some(&("forced_end", 2)),
            "longer ones hold at once"
        );
    }

    #[test]
    fn changed_timeouts_hold_when_the_clock_is_turned_back() {
        let mut bench = Bench::new(|_| {});
        bench.at(1000 * SECOND, &Frame::udp(1, 2));
        bench.meter.set_timeouts(2 * SECOND, 20 * SECOND, bench.clock);
        let mut events = Vec::new();
        bench
            .meter
            .turn_back(bench.clock, 1, &mut |event| events.push(event));
        bench.clock = i64::MIN;
        bench.at(0, &Frame::udp(3, 4));
        bench.at(3 * SECOND, &Frame::udp(5, 6));
        assert_eq!((events.len(), bench.export_times()), (1, vec![2 * SECOND]));
    }

    #[test]
    fn what_was_shed_for_any_packet_is_named() {
        let mut record = LeftOut::default();
        record.add(Duty::new(Profile::Standard, Shed::Statistics).left_out);
        assert_eq!(record.shed(), Some("statistics"));
        assert!(record.has(Work::SPLT) && !record.has(Work::LAYER7));
        record.add(Duty::new(Profile::Standard, Shed::Nothing).left_out);
        record.add(Duty::new(Profile::Minimal, Shed::Nothing).left_out);
        assert_eq!(
            record.shed(),
            Some("statistics"),
            "the profile's choice is none of pressure"
        );
        record.add(Duty::new(Profile::Standard, Shed::Layer7).left_out);
        assert_eq!(record.shed(), Some("statistics,layer7"));
    }
}
