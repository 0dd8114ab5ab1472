//! The gateway's metrics, looked up once.
use std::{sync::Arc, time::Duration};

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec};
use tidegate_contracts::GenerationId;
use tidegate_ledger::Stage;
use tidegate_telemetry::metrics::{SECONDS, counter, gauge, histogram};
use tonic::Code;

use crate::error::Refused;

/// Texts in a batch: powers of two.
const BATCHES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

pub(crate) struct Sight {
    requests: IntCounterVec,
    total: Histogram,
    pub(crate) queued: Histogram,
    pub(crate) forward: Histogram,
    pub(crate) batch: Histogram,
    pub(crate) depth: Gauge,
    pub(crate) dropped: IntCounter,
    pub(crate) predictions: IntCounterVec,
    swaps: IntCounterVec,
    prepare: Histogram,
    staged: IntCounterVec,
    degraded: Gauge,
    serving: GaugeVec,
}

impl Sight {
    pub(crate) fn new() -> Arc<Self> {
        let seconds =
            |name, help| histogram(name, help, &[], SECONDS).with_label_values::<&str>(&[]);
        let sight = Self {
            requests: counter(
                "tidegate_gateway_requests_total",
                "Inference requests by gRPC status and answering generation.",
                &["status", "generation"],
            ),
            total: seconds(
                "tidegate_gateway_request_seconds",
                "Time from the decoded request to its answer.",
            ),
            queued: seconds(
                "tidegate_gateway_queue_seconds",
                "Time a request's part waited for the model.",
            ),
            forward: seconds("tidegate_gateway_forward_seconds", "Time of one batch in the model."),
            batch: histogram("tidegate_gateway_batch_texts", "Texts in a batch.", &[], BATCHES)
                .with_label_values::<&str>(&[]),
            depth: gauge("tidegate_gateway_queue_texts", "Texts that wait for the model.", &[])
                .with_label_values::<&str>(&[]),
            dropped: counter(
                "tidegate_gateway_withdrawn_texts_total",
                "Texts whose client went away or whose deadline passed before the model was asked.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            predictions: counter(
                "tidegate_gateway_predictions_total",
                "Answers for the predictions topic: published, or dropped because Kafka is behind.",
                &["result"],
            ),
            swaps: counter(
                "tidegate_gateway_swaps_total",
                "Attempts to serve another generation, by result.",
                &["result"],
            ),
            prepare: seconds(
                "tidegate_gateway_swap_prepare_seconds",
                "Time to fetch, verify, build, warm and compare a generation before it serves.",
            ),
            staged: counter(
                "tidegate_gateway_staged_total",
                "Requests of a stage, by stage and result: paired (both answered), failed (the other \
                 did not), fell_back (the champion answered in the candidate's place), dropped (too \
                 much to do to ask the other).",
                &["stage", "result"],
            ),
            degraded: gauge(
                "tidegate_gateway_degraded",
                "1 while the ledger's champion cannot be served and another generation answers.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            serving: gauge(
                "tidegate_gateway_generation_info",
                "1 for the generation that serves.",
                &["generation"],
            ),
        };
        sight.set_degraded(false);
        Arc::new(sight)
    }

    /// One request, answered or refused.
    pub(crate) fn request(&self, outcome: Result<&GenerationId, &Refused>, took: Duration) {
        let (status, generation) = match outcome {
            Ok(generation) => (Code::Ok, generation.short()),
            Err(refused) => (refused.code(), String::new()),
        };
        self.requests.with_label_values(&[name(status), &generation]).inc();
        self.total.observe(took.as_secs_f64());
    }

    /// A generation now serves in place of `before`.
    pub(crate) fn swapped(
        &self,
        now: &GenerationId,
        before: Option<&GenerationId>,
        took: Duration,
    ) {
        if let Some(before) = before {
            let _ = self.serving.remove_label_values(&[&before.short()]);
        }
        self.serving.with_label_values(&[&now.short()]).set(1.0);
        self.swaps.with_label_values(&["ok"]).inc();
        self.prepare.observe(took.as_secs_f64());
    }

    /// A generation was not taken into service.
    pub(crate) fn swap_failed(&self, result: &str) {
        self.swaps.with_label_values(&[result]).inc();
    }

    /// One request of a stage.
    pub(crate) fn staged(&self, stage: Stage, result: &str) {
        self.staged.with_label_values(&[stage.as_str(), result]).inc();
    }

    pub(crate) fn set_degraded(&self, degraded: bool) {
        self.degraded.set(f64::from(u8::from(degraded)));
    }

    /// Series of a generation that is gone; new ones come every day.
    pub(crate) fn forget(&self, generation: &GenerationId) {
        // Not there when it never answered.
        let _ = self.requests.remove_label_values(&[name(Code::Ok), &generation.short()]);
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}
