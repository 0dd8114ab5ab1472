//! From the training thread to tasks, metrics and whoever wants to draw a curve.
use serde::Serialize;
use tidegate_contracts::{ArtifactHash, JobId, JobKind};
use tidegate_learning::{Observer, Progress, SearchProgress};
use tidegate_telemetry::metrics;
use tokio::sync::watch;

/// Points of the curve at most; then every second one is left out.
const POINTS: usize = 200;

/// What is kept in the ledger's state `progress/<job>` while a job trains.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) job: String,
    pub(crate) kind: String,
    pub(crate) attempt: u32,
    pub(crate) step: u64,
    pub(crate) steps: u64,
    pub(crate) loss: f64,
    pub(crate) examples_per_s: f64,
    pub(crate) expert_load_max_share: f64,
    /// How far the architecture search is, or was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) search: Option<Searched>,
    /// Step and loss.
    pub(crate) history: Vec<(u64, f64)>,
    /// The newest checkpoint on disk.
    #[serde(skip)]
    pub(crate) checkpoint: Option<(u64, ArtifactHash)>,
}

/// How far an architecture search is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Searched {
    /// From 1.
    pub(crate) rung: usize,
    pub(crate) rungs: usize,
    /// The candidate that trains.
    pub(crate) candidate: usize,
    pub(crate) candidates: usize,
    pub(crate) step: u64,
    pub(crate) steps: u64,
    /// The highest of the newest accuracies.
    pub(crate) best: Option<f64>,
}

/// Keeps the newest report where tasks can see it; never blocks.
pub(crate) struct Reporter {
    reports: watch::Sender<Report>,
    /// Steps between two points of the curve.
    every: u64,
    kind: &'static str,
}

impl Reporter {
    pub(crate) fn new(job: &JobId, kind: JobKind, attempt: u32) -> (Self, watch::Receiver<Report>) {
        let report = Report {
            job: job.to_string(),
            kind: kind.as_str().to_owned(),
            attempt,
            ..Report::default()
        };
        let (reports, receiver) = watch::channel(report);
        (Self { reports, every: 1, kind: kind.as_str() }, receiver)
    }
}

impl Reporter {
    /// Of the job as a whole.
    fn show_job(&self, now: &Progress) {
        for (name, help, value) in [
            ("tidegate_trainer_loss", "Averaged loss of the job that trains.", now.loss),
            ("tidegate_trainer_step", "Step of the job that trains.", now.step as f64),
            ("tidegate_trainer_steps", "Steps of the job that trains.", now.steps as f64),
            (
                "tidegate_trainer_examples_per_second",
                "Examples a second of the job that trains.",
                now.examples_per_s,
            ),
            (
                "tidegate_trainer_tokens_per_second",
                "Tokens a second of the job that trains.",
                now.tokens_per_s,
            ),
            (
                "tidegate_trainer_joules_per_token",
                "Energy for each token of the job that trains.",
                now.joules_per_token,
            ),
            (
                "tidegate_trainer_expert_load_max_share",
                "Share of the tokens that the fullest expert gets.",
                now.expert_load_max_share,
            ),
            (
                "tidegate_trainer_drop_rate",
                "Share of the assignments to experts that found their expert full.",
                now.drop_rate,
            ),
        ] {
            metrics::gauge(name, help, &["kind"]).with_label_values(&[self.kind]).set(value);
        }
        if let Some(mfu) = now.mfu {
            let help = "Model FLOPs utilisation: work of the network as a share of what the device \
                        can do.";
            let gauge = metrics::gauge("tidegate_trainer_mfu", help, &["kind"]);
            gauge.with_label_values(&[self.kind]).set(mfu);
        }
        for (group, &rate) in &now.group_drop_rates {
            let help = "Share of a fairness group's assignments that found their expert full.";
            let name = "tidegate_trainer_group_drop_rate";
            let gauge = metrics::gauge(name, help, &["kind", "group"]);
            gauge.with_label_values(&[self.kind, group]).set(rate);
        }
        if let Some(loss) = now.router_loss {
            let help = "Averaged balance and z-loss of the routers, weighted.";
            let gauge = metrics::gauge("tidegate_trainer_router_loss", help, &["kind"]);
            gauge.with_label_values(&[self.kind]).set(loss);
        }
        if let Some(scale) = now.loss_scale {
            let help = "What the loss is multiplied by before the backward pass.";
            let gauge = metrics::gauge("tidegate_trainer_loss_scale", help, &["kind"]);
            gauge.with_label_values(&[self.kind]).set(scale);
        }
    }

    /// Layer by layer.
    fn show_layers(&self, now: &Progress) {
        let show = |name: &str, help: &str, layer: &str, value: f64| {
            let gauge = metrics::gauge(name, help, &["kind", "layer"]);
            gauge.with_label_values(&[self.kind, layer]).set(value);
        };
        for layer in &now.layers {
            for (name, help, value) in [
                (
                    "tidegate_trainer_gradient_norm",
                    "Norm of the newest gradient, before clipping.",
                    layer.gradient_norm,
                ),
                ("tidegate_trainer_weight_norm", "Norm of the weights.", layer.weight_norm),
                (
                    "tidegate_trainer_update_ratio",
                    "Norm of a step as a share of the weights' norm; about 1e-3 is healthy.",
                    layer.update_ratio,
                ),
            ] {
                show(name, help, &layer.name, value);
            }
        }
        for (layer, experts) in now.experts.iter().enumerate() {
            let layer = layer.to_string();
            let help = "Experts that get less than 1 % of the even share of the tokens.";
            show("tidegate_trainer_dead_experts", help, &layer, experts.dead as f64);
            let help = "Entropy of the router: 1 when it does not care, 0 when it is sure.";
            show("tidegate_trainer_router_entropy", help, &layer, experts.entropy);
            let help = "Share of the layer's assignments that found their expert full.";
            show("tidegate_trainer_layer_drop_rate", help, &layer, experts.dropped);
        }
    }
}

impl Observer for Reporter {
    fn progress(&mut self, now: &Progress) {
        let every = &mut self.every;
        self.reports.send_modify(|report| {
            report.step = now.step;
            report.steps = now.steps;
            report.loss = now.loss;
            report.examples_per_s = now.examples_per_s;
            report.expert_load_max_share = now.expert_load_max_share;
            if now.step.is_multiple_of(*every) || now.step == now.steps {
                report.history.push((now.step, now.loss));
            }
            if report.history.len() > POINTS {
                *every *= 2;
                report.history.retain(|(step, _)| step.is_multiple_of(*every));
            }
        });
        self.show_job(now);
        self.show_layers(now);
    }

    fn checkpoint(&mut self, step: u64, digest: ArtifactHash) {
        self.reports.send_modify(|report| report.checkpoint = Some((step, digest)));
    }

    fn search(&mut self, now: &SearchProgress<'_>) {
        let scores = now.log.candidates.iter().filter_map(|one| one.scores.last());
        let searched = Searched {
            rung: now.rung,
            rungs: now.log.rungs.len(),
            candidate: now.candidate,
            candidates: now.log.candidates.len(),
            step: now.step,
            steps: now.steps,
            best: scores.map(|score| score.accuracy).max_by(f64::total_cmp),
        };
        for (name, help, value) in [
            ("tidegate_trainer_search_step", "Step of the architecture search.", now.step as f64),
            ("tidegate_trainer_search_steps", "Steps of the search in all.", now.steps as f64),
            ("tidegate_trainer_search_rung", "Rung of the search, from 1.", now.rung as f64),
        ] {
            metrics::gauge(name, help, &["kind"]).with_label_values(&[self.kind]).set(value);
        }
        self.reports.send_modify(|report| report.search = Some(searched));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_job_has_a_short_curve_with_its_end() {
        let (mut reporter, reports) = Reporter::new(&JobId::new("j"), JobKind::ColdStart, 1);
        for step in 1..=5_001 {
            reporter.progress(&Progress {
                step,
                steps: 5_001,
                loss: 1.0 / step as f64,
                examples_per_s: 1.0,
                expert_load_max_share: 0.2,
                ..Progress::default()
            });
        }
        let report = reports.borrow();
        assert!((POINTS / 3..=POINTS).contains(&report.history.len()), "{}", report.history.len());
        assert!(report.history.is_sorted_by_key(|(step, _)| *step));
        assert_eq!(report.history.last().unwrap().0, 5_001);
    }
}
