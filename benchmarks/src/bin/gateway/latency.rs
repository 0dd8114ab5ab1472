//! Latencies, as a histogram with three significant digits.
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) n: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let minute = 60_000_000_000;
        Self(Histogram::new_with_bounds(1_000, minute, 3).expect("the bounds are in order"))
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |q| self.0.value_at_quantile(q) as f64 / 1e3;
        Percentiles {
            n: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: self.0.max() as f64 / 1e3,
        }
    }
}
