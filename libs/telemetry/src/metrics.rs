//! Prometheus metrics by name: the first caller registers, later callers get the same one.
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
};

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, TextEncoder,
};

#[derive(Clone)]
enum Metric {
    Counter(IntCounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

static METRICS: LazyLock<Mutex<HashMap<String, Metric>>> = LazyLock::new(Mutex::default);

/// Seconds, from 100 µs to 100 s: for latencies of requests and stages.
pub const SECONDS: &[f64] = &[
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0,
    50.0, 100.0,
];

fn get_or_register(name: &str, make: impl FnOnce() -> Metric) -> Metric {
    let mut metrics = METRICS.lock().expect("no code panics while it holds this lock");
    metrics
        .entry(name.to_owned())
        .or_insert_with(|| {
            let metric = make();
            let collector: Box<dyn prometheus::core::Collector> = match metric.clone() {
                Metric::Counter(counter) => Box::new(counter),
                Metric::Gauge(gauge) => Box::new(gauge),
                Metric::Histogram(histogram) => Box::new(histogram),
            };
            prometheus::register(collector).expect("each name is registered once, here");
            metric
        })
        .clone()
}

/// A count that only grows.
///
/// # Panics
/// When `name` is no metric name, or is already of another kind: both are mistakes in code.
#[must_use]
pub fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let metric = get_or_register(name, || {
        Metric::Counter(IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name"))
    });
    let Metric::Counter(counter) = metric else { panic!("{name} is not a counter") };
    counter
}

/// A value that goes up and down.
///
/// # Panics
/// As [`counter`].
#[must_use]
pub fn gauge(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    let metric = get_or_register(name, || {
        Metric::Gauge(GaugeVec::new(Opts::new(name, help), labels).expect("a valid name"))
    });
    let Metric::Gauge(gauge) = metric else { panic!("{name} is not a gauge") };
    gauge
}

/// A distribution over `buckets` (upper bounds, ascending).
///
/// # Panics
/// As [`counter`].
#[must_use]
pub fn histogram(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let metric = get_or_register(name, || {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        Metric::Histogram(HistogramVec::new(options, labels).expect("a valid name"))
    });
    let Metric::Histogram(histogram) = metric else { panic!("{name} is not a histogram") };
    histogram
}

/// Everything, in Prometheus' text format.
#[must_use]
pub fn render() -> String {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&prometheus::gather(), &mut text)
        .expect("writing into a vector cannot fail");
    String::from_utf8(text).expect("the text format is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_metric() {
        counter("tidegate_test_total", "t", &["a"]).with_label_values(&["x"]).inc();
        counter("tidegate_test_total", "t", &["a"]).with_label_values(&["x"]).inc();
        assert!(render().contains("tidegate_test_total{a=\"x\"} 2"));
    }
}
