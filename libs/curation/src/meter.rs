//! What each stage did, counted here and for Prometheus.
use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use tidegate_telemetry::metrics;

use crate::config::StageName;

/// Seconds, from 1 µs to 1 s.
const BUCKETS: &[f64] = &[1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 0.1, 1.0];

/// What one stage did since the pipeline was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageCounters {
    /// The stage.
    pub stage: StageName,
    /// Records that passed as they were.
    pub kept: u64,
    /// Records that passed changed.
    pub amended: u64,
    /// Records that it rejected.
    pub rejected: u64,
    /// The time it took.
    pub seconds: f64,
}

/// Counts for one stage.
pub(crate) struct Meter {
    counters: StageCounters,
    kept: IntCounter,
    amended: IntCounter,
    rejected: IntCounter,
    seconds: Histogram,
}

impl Meter {
    pub(crate) fn new(stage: StageName) -> Self {
        let records = metrics::counter(
            "tidegate_curation_records_total",
            "Records that passed a stage of curation, by what it made of them.",
            &["stage", "outcome"],
        );
        let seconds = metrics::histogram(
            "tidegate_curation_stage_seconds",
            "Time a stage of curation took for one record.",
            &["stage"],
            BUCKETS,
        );
        let name = stage.as_str();
        let counter = |outcome| records.with_label_values(&[name, outcome]);
        Self {
            counters: StageCounters { stage, kept: 0, amended: 0, rejected: 0, seconds: 0.0 },
            kept: counter("kept"),
            amended: counter("amended"),
            rejected: counter("rejected"),
            seconds: seconds.with_label_values(&[name]),
        }
    }

    pub(crate) fn keep(&mut self) {
        self.counters.kept += 1;
        self.kept.inc();
    }

    pub(crate) fn amend(&mut self) {
        self.counters.amended += 1;
        self.amended.inc();
    }

    pub(crate) fn reject(&mut self) {
        self.counters.rejected += 1;
        self.rejected.inc();
    }

    pub(crate) fn took(&mut self, time: Duration) {
        self.counters.seconds += time.as_secs_f64();
        self.seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn counters(&self) -> StageCounters {
        self.counters
    }
}
