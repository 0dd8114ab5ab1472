//! What a job shows of its inside: gradients, weights and experts, layer by layer.
mod drops;
mod experts;
pub(crate) mod flops;
mod history;
mod watch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_model::{Architecture, Routed};

use self::watch::Watch;
pub use self::{drops::Drops, experts::Experts, history::History};
use crate::{Alerts, DIAGNOSIS, LearningError, optimizer::Moved};

/// Changes of the loss scale that are kept: the newest. It changes every few thousand steps.
const SCALES: usize = 256;

/// Content of [`DIAGNOSIS`]. Reproducible: it holds no times; those are in the job's metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// By name: the first components of its parameters' names, as `blocks.0.attention`.
    pub layers: BTreeMap<String, Layer>,
    /// Of each layer's mixture.
    pub experts: Vec<Experts>,
    /// Of all steps and layers. Nothing is dropped without `balancing.capacity_factor`.
    pub drops: Drops,
    /// The same of the texts of each fairness group, by `name=value`; of the 64 that have most.
    pub group_drops: BTreeMap<String, Drops>,
    /// FLOPs of all steps' matrix products.
    pub flops: f64,
    /// Step from which on it held, and the loss scale. Empty where the loss is not scaled.
    pub loss_scale: Vec<(u64, f32)>,
    /// Steps left out because scaled gradients overflowed.
    pub skipped: u64,
    watch: Watch,
}

/// Parameters that belong together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Norm of the newest gradient, before clipping.
    pub gradient_norm: f64,
    /// Norm of the weights at the last measurement.
    pub weight_norm: f64,
    /// Norm of a step as a share of it. About 1e-3 is healthy.
    pub update_ratio: f64,
    /// Gradient norm of each step.
    pub gradient_history: History,
    /// Weight norm at each measurement.
    #[serde(default)]
    pub weight_history: History,
    /// Update ratio at each measurement.
    #[serde(default)]
    pub update_history: History,
}

/// Gradient norms of one step, before clipping.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Norms {
    pub(crate) total: f64,
    pub(crate) layers: BTreeMap<String, f64>,
}

impl Norms {
    /// From those of the parameters.
    pub(crate) fn of(parameters: &BTreeMap<&str, f64>) -> Self {
        let mut layers: BTreeMap<String, f64> = BTreeMap::new();
        for (name, norm) in parameters {
            *layers.entry(layer_of(name).to_owned()).or_default() += norm * norm;
        }
        let total = layers.values().sum::<f64>().sqrt();
        layers.values_mut().for_each(|square| *square = square.sqrt());
        Self { total, layers }
    }
}

impl Diagnosis {
    /// Of a job whose loss is scaled so at first.
    pub(crate) fn start(scale: Option<f32>) -> Self {
        Self { loss_scale: scale.map(|scale| (0, scale)).into_iter().collect(), ..Self::default() }
    }

    /// Reads the content of [`DIAGNOSIS`].
    ///
    /// # Errors
    /// [`LearningError::BadFile`] when it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LearningError> {
        serde_json::from_slice(bytes).map_err(|error| LearningError::BadFile {
            file: DIAGNOSIS.to_owned(),
            reason: error.to_string(),
        })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs of finite numbers are JSON")
    }

    /// Notes the gradient of a step that is going to be taken.
    pub(crate) fn gradient(
        &mut self,
        step: u64,
        norms: &Norms,
        alerts: &Alerts,
    ) -> Result<(), LearningError> {
        for (name, &norm) in &norms.layers {
            let layer = self.layers.entry(name.clone()).or_default();
            layer.gradient_norm = norm;
            layer.gradient_history.add(step, norm);
        }
        self.watch.gradient(step, norms, alerts)
    }

    /// Notes how far a step moved each parameter; nothing of steps that were not measured.
    pub(crate) fn moved(&mut self, step: u64, moved: &BTreeMap<String, Moved>) {
        let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for (name, moved) in moved {
            let sum = sums.entry(layer_of(name)).or_default();
            *sum = (sum.0 + moved.weights, sum.1 + moved.update);
        }
        for (name, (weights, update)) in sums {
            let layer = self.layers.entry(name.to_owned()).or_default();
            layer.weight_norm = weights.sqrt();
            // Weights that are all zero yet have no scale that a step could be a share of.
            layer.update_ratio = if weights > 0.0 { (update / weights).sqrt() } else { 0.0 };
            layer.weight_history.add(step, layer.weight_norm);
            layer.update_history.add(step, layer.update_ratio);
        }
    }

    /// Notes how a step's tokens were shared out.
    pub(crate) fn routed(
        &mut self,
        step: u64,
        routed: &[Routed],
        architecture: &Architecture,
        alerts: &Alerts,
    ) -> Result<(), LearningError> {
        self.experts.resize_with(routed.len(), Experts::default);
        for (experts, routed) in self.experts.iter_mut().zip(routed) {
            experts.add(step, routed);
        }
        self.watch.loads(step, routed.iter().map(|routed| &routed.load), architecture, alerts)
    }

    /// Notes what was dropped, and whose it was. `texts`: of each text, its assignments in all
    /// layers and its groups.
    pub(crate) fn dropped<'a>(
        &mut self,
        routed: &[Routed],
        texts: impl Iterator<Item = (usize, Vec<&'a str>)>,
    ) {
        for (at, (assignments, groups)) in texts.enumerate() {
            let dropped = routed.iter().map(|routed| u64::from(routed.dropped[at])).sum();
            let more = Drops { dropped, assignments: assignments as u64 };
            self.drops += more;
            for group in groups {
                *self.group_drops.entry(group.to_owned()).or_default() += more;
            }
        }
    }

    /// Notes a change of the loss scale.
    pub(crate) fn scale(&mut self, step: u64, scale: f32) {
        if self.loss_scale.last().is_some_and(|(_, last)| *last == scale) {
            return;
        }
        if self.loss_scale.len() == SCALES {
            self.loss_scale.remove(0);
        }
        self.loss_scale.push((step, scale));
    }

    /// Experts of all layers that get next to nothing.
    pub(crate) fn dead(&self) -> usize {
        self.experts.iter().map(|experts| experts.dead).sum()
    }
}

/// All but the last component of a parameter's name, three at most; a name of one component is its
/// own layer.
fn layer_of(name: &str) -> &str {
    let dots: Vec<usize> = name.match_indices('.').map(|(at, _)| at).take(3).collect();
    dots.last().map_or(name, |&at| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_belong_to_the_layer_that_their_name_begins_with() {
        for (name, layer) in [
            ("embedding", "embedding"),
            ("head.weight", "head"),
            ("norm.gain", "norm"),
            ("blocks.0.attention.query", "blocks.0.attention"),
            ("blocks.11.mixture.shared.gate", "blocks.11.mixture"),
            ("blocks.11.mixture.router", "blocks.11.mixture"),
        ] {
            assert_eq!(layer_of(name), layer);
        }
    }

    #[test]
    fn a_layers_norm_is_that_of_all_its_parameters() {
        let norms = Norms::of(&BTreeMap::from([
            ("head.weight", 3.0),
            ("head.bias", 4.0),
            ("embedding", 12.0),
        ]));
        assert!((norms.layers["head"] - 5.0).abs() < 1e-12);
        assert!((norms.total - 13.0).abs() < 1e-12);
    }

    #[test]
    fn it_reads_back_to_the_bit() {
        let mut diagnosis = Diagnosis { flops: 0.1 + 0.2, ..Diagnosis::default() };
        let alerts = Alerts::default();
        for step in 0..300 {
            let norm = 1.0 / (step as f64 + 3.0);
            let norms = Norms::of(&BTreeMap::from([("head.bias", norm)]));
            diagnosis.gradient(step, &norms, &alerts).unwrap();
            let load = tidegate_model::ExpertLoad(vec![0.3, 0.3, 0.2, 0.2]);
            let routed = [Routed { load, dropped: vec![1, 2], assignments: 8, entropy: 0.7 }];
            diagnosis.routed(step, &routed, &Architecture::default(), &alerts).unwrap();
            let texts = [(4, vec!["region=eu"]), (4, vec![])].into_iter();
            diagnosis.dropped(&routed, texts);
            diagnosis.scale(step, if step < 150 { 2.0 } else { 1.0 });
        }
        assert_eq!(diagnosis.loss_scale, [(0, 2.0), (150, 1.0)]);
        assert_eq!(diagnosis.drops, Drops { dropped: 900, assignments: 2_400 });
        let eu = diagnosis.group_drops["region=eu"];
        assert!((eu.rate() - 0.25).abs() < 1e-12 && diagnosis.group_drops.len() == 1);
        let bytes = diagnosis.to_bytes();
        assert!(bytes.len() < 20_000, "{}", bytes.len());
        let read = Diagnosis::from_bytes(&bytes).unwrap();
        assert_eq!(read, diagnosis);
        assert_eq!(read.to_bytes(), bytes);
    }
}
