//! What a running probe shows beside its books: latency histograms and gauges.
//!
//! **In**: moments and amounts that the stages note. **Out**: [`Family`] values, from which the Prometheus endpoint and
//! the reference are made. **Owns**: atomics that one stage writes and anybody reads. **Never**: a lock on the packet
//! path, or an unbounded set of labels.
//!
//! Names follow Prometheus' rules: `dpi_probe_` first, base units (seconds, bytes) last, `_total` on counters.

/// Distributions of durations.
mod histogram;
/// What the kernel says of this process.
mod process;
/// What one worker notes.
mod worker;

pub use histogram::{BOUNDS_NS, Distribution, Histogram};
pub use process::resident_bytes;
pub use worker::{Application, WorkerMetrics};

use crate::counters::{Account, Kind, LedgerEntry};

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only ever grows.
    Counter,
    /// A state at one moment.
    Gauge,
    /// A distribution of durations in seconds.
    Histogram,
}

impl MetricKind {
    /// The name that Prometheus has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, without the `_total` that a counter's samples have.
    pub name: String,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// What it says.
    pub help: String,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// The value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Distribution(Distribution),
}

/// One time series at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values of the labels, in the order of [`Metric::labels`]; empty where one does not apply.
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// A metric with its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// What it is.
    pub metric: Metric,
    /// What it says now. What is not known has no sample.
    pub samples: Vec<Sample>,
}

/// The metric of every account of the books, in their order: an account that is split by reason is one metric.
pub fn of_accounts(accounts: &[Account]) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for account in accounts {
        let name = account_metric(account.name);
        if metrics.iter().any(|metric| metric.name == name) {
            continue;
        }
        metrics.push(Metric {
            name,
            kind: match account.kind {
                Kind::Counter => MetricKind::Counter,
                Kind::Gauge => MetricKind::Gauge,
            },
            help: account.doc.trim().to_owned(),
            labels: &["worker", "reason"],
        });
    }
    metrics
}

/// The books as metrics. An entry without a value gives no sample: not known is not zero.
pub fn of_entries(metrics: Vec<Metric>, entries: &[LedgerEntry]) -> Vec<Family> {
    let samples_of = |name: &str| {
        let own = entries
            .iter()
            .filter(|entry| account_metric(entry.account) == name);
        let sample = |entry: &LedgerEntry| {
            let worker = entry.worker.map(|worker| worker.to_string());
            Some(Sample {
                labels: vec![worker.unwrap_or_default(), entry.reason.to_owned()],
                value: Value::Number(entry.value? as f64),
            })
        };
        own.filter_map(sample).collect()
    };
    let family = |metric: Metric| Family {
        samples: samples_of(&metric.name),
        metric,
    };
    metrics.into_iter().map(family).collect()
}

fn account_metric(account: &str) -> String {
    format!("dpi_probe_{account}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Tally;

    #[test]
    fn an_account_with_reasons_is_one_metric_and_what_is_not_known_has_no_sample() {
        let metrics = of_accounts(&Tally::accounts());
        let exported: Vec<_> = metrics
            .iter()
            .filter(|metric| metric.name == "dpi_probe_flows_exported")
            .collect();
        assert_eq!(exported.len(), 1);
        assert_eq!(exported[0].kind, MetricKind::Counter);
        assert_eq!(exported[0].help, "Flow records ended and handed on.");
        let entry = |reason, worker, value| LedgerEntry {
            account: "flows_exported",
            reason,
            worker,
            value,
        };
        let entries = [
            entry("reset", Some(1), Some(7)),
            entry("idle_timeout", None, None),
        ];
        let families = of_entries(metrics, &entries);
        let family = families
            .iter()
            .find(|family| family.metric.name == "dpi_probe_flows_exported")
            .unwrap();
        assert_eq!(
            family.samples,
            [Sample {
                labels: vec!["1".to_owned(), "reset".to_owned()],
                value: Value::Number(7.0)
            }]
        );
    }
}
