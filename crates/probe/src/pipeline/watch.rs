//! Looks at what may suffer, asks for relief, and says so: a log line, a signed event and a metric for every change.

use std::sync::Arc;
use std::time::Duration;

use wire::malformed::Reason as _;

use super::config::Configuration;
use super::degradation::{Change, Degradation, Limits, Relief, Suffering};
use super::metrics::Instruments;
use crate::clock;
use crate::seal::Intake;
use crate::seal::ledger::{Event, Severity};

/// Above this share a queue, table or store is degraded.
const FULL: f64 = 0.8;
/// More active flows than this are a degradation, however large the table.
const MANY_FLOWS: f64 = 1e6;
/// More batches than this that wait for their signature are a degradation.
const MANY_BATCHES: f64 = 50.0;

fn limits(what: Suffering) -> Limits {
    let (low, patience_ms, calm_ms) = match what {
        Suffering::CaptureQueue => (0.5 / FULL, 500, 3000),
        Suffering::FlowTable => (0.6 / FULL, 2000, 5000),
        Suffering::SealQueue => (0.5, 1000, 3000),
        Suffering::Storage => (0.7 / FULL, 2000, 5000),
    };
    Limits {
        low,
        deepest: 3,
        patience: Duration::from_millis(patience_ms),
        calm: Duration::from_millis(calm_ms),
    }
}

/// The four degradations of a live probe.
pub(super) struct Watch {
    instruments: Arc<Instruments>,
    configuration: Arc<Configuration>,
    intake: Intake,
    degradations: Vec<(Suffering, Degradation)>,
}

impl Watch {
    pub(super) fn new(
        instruments: Arc<Instruments>,
        configuration: Arc<Configuration>,
        intake: Intake,
    ) -> Self {
        Self {
            instruments,
            configuration,
            intake,
            degradations: Suffering::EVERY
                .iter()
                .map(|what| (*what, Degradation::new(limits(*what))))
                .collect(),
        }
    }

    /// Looks at everything once; what changed, as events.
    pub(super) fn look(&mut self) -> Vec<Event> {
        let now = clock::monotonic();
        let mut changes = Vec::new();
        for (what, degradation) in &mut self.degradations {
            let (pressure, cause) = pressure(*what, &self.instruments);
            if let Some(change) = degradation.look(now, pressure) {
                changes.push((*what, change, cause));
            }
        }
        if changes.is_empty() {
            return Vec::new();
        }
        let relief = Relief::of(|wanted| {
            let found = self.degradations.iter().find(|(what, _)| *what == wanted);
            found.map_or(0, |(_, degradation)| degradation.level())
        });
        self.intake.set_compression_level(relief.compression_level);
        self.configuration.relieve(relief);
        // A level is told once what it asks for is in force.
        changes
            .into_iter()
            .map(|(what, change, cause)| {
                self.instruments.set_level(what, change);
                event(what, change, &cause)
            })
            .collect()
    }
}

/// How hard something is pressed, where 1 is its limit, and that in words.
fn pressure(what: Suffering, instruments: &Instruments) -> (f64, String) {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    match what {
        Suffering::CaptureQueue => {
            let share = instruments.take_queue_peak();
            (
                share / FULL,
                format!("{} of the capture queue was full", percent(share)),
            )
        }
        Suffering::FlowTable => {
            let (share, flows) = instruments.table_fill();
            let pressure = (share / FULL).max(flows as f64 / MANY_FLOWS);
            (
                pressure,
                format!(
                    "{flows} flows are active, {} of the flow table is taken",
                    percent(share)
                ),
            )
        }
        Suffering::SealQueue => {
            let (waiting, share) = instruments.seal_queue();
            (
                (waiting as f64 / MANY_BATCHES).max(share / FULL),
                format!(
                    "{waiting} batches wait for their signature and take {} of their memory",
                    percent(share)
                ),
            )
        }
        Suffering::Storage => {
            let spool = instruments.spool_fill();
            (spool / FULL, format!("{} of the spool is used", percent(spool)))
        }
    }
}

fn event(what: Suffering, change: Change, cause: &str) -> Event {
    let (name, severity) = match change {
        Change { from: 0, .. } => ("degradation_began", Severity::Warning),
        Change { to: 0, .. } => ("degradation_ended", Severity::Info),
        Change { from, to } if to > from => ("degradation_deepened", Severity::Warning),
        Change { .. } => ("degradation_eased", Severity::Info),
    };
    let detail = format!(
        "{}: {cause}; level {} -> {}",
        what.label(),
        change.from,
        change.to
    );
    match severity {
        Severity::Info => tracing::info!(event = name, "{detail}"),
        Severity::Warning | Severity::Error => tracing::warn!(event = name, "{detail}"),
    }
    Event {
        time: clock::utc_now(),
        severity,
        name,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow;
    use crate::pipeline::fixtures::Parts;

    /// How hard two workers' tables are pressed that have so many places each and hold so many flows.
    fn pressure_of_tables(places: usize, flows: [usize; 2]) -> f64 {
        let settings = flow::Settings {
            workers: 2,
            ..flow::Settings::for_memory(1 << 20)
        };
        let parts = Parts::with_tables(settings, 1);
        for (number, flows) in flows.into_iter().enumerate() {
            parts.instruments.worker(number).set_table(flows, places);
        }
        let (pressure, cause) = pressure(Suffering::FlowTable, &parts.instruments);
        let active: usize = flows.iter().sum();
        assert!(
            cause.starts_with(&format!("{active} flows are active, ")),
            "{cause}"
        );
        parts.sealer.finish();
        pressure
    }

    #[test]
    fn a_million_active_flows_are_a_degradation_however_large_the_tables_are() {
        let huge = 100_000_000;
        assert!(pressure_of_tables(huge, [400_000, 599_999]) < 1.0);
        assert!(pressure_of_tables(huge, [400_000, 600_000]) >= 1.0);
    }

    #[test]
    fn the_fullest_table_is_a_degradation_however_few_flows_there_are() {
        assert!(pressure_of_tables(1000, [799, 799]) < 1.0);
        assert!(pressure_of_tables(1000, [0, 800]) >= 1.0);
    }

    #[test]
    fn a_table_is_full_when_others_have_taken_its_memory() {
        let settings = flow::Settings::for_memory(1 << 20);
        let places = settings.share().flows;
        let parts = Parts::with_tables(settings, places);
        let worker = parts.instruments.worker(0);
        assert_eq!(worker.table(), (0, places as u64), "before it tells itself");
        worker.set_table(places / 2, places / 2 + 1);
        let (pressure, cause) = pressure(Suffering::FlowTable, &parts.instruments);
        assert!(
            pressure > 1.0 && cause.contains("100 % of the flow table"),
            "{pressure}: {cause}"
        );
        parts.sealer.finish();
    }
}
