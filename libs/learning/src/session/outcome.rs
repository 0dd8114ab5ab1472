//! What a session tells and leaves.
use std::collections::BTreeMap;

use burn::module::AutodiffModule as _;
use bytes::Bytes;
use half::f16;
use tidegate_contracts::ArtifactHash;
use tidegate_model::{
    ADAPTER_WEIGHTS, ADAPTERS, ARCHITECTURE, COUNTS, FEATURE_SCALES, LABELS, Modality, ModelError,
    TOKENIZER, Task, WEIGHTS, Weights,
};

use super::Session;
use crate::{
    DIAGNOSIS, Drops, FISHER, LearningError, OPTIMIZER, Observer, Progress, REPLAY, Trains,
    clock::Clock,
    fisher,
    job::{ExpertsProgress, LayerProgress},
    lesson::Item,
    optimizer, sampler,
    teacher::{self, ASK},
};

/// The stream of random numbers that Fisher information is estimated with.
const FISHER_STREAM: u64 = u64::MAX - 1;

/// What a finished session leaves.
pub(crate) struct Outcome {
    pub(crate) files: BTreeMap<String, Bytes>,
    pub(crate) metrics: BTreeMap<String, f64>,
}

impl<B: Trains> Session<'_, B> {
    /// Those of a checkpoint.
    pub(super) fn files(&self) -> Result<BTreeMap<String, Bytes>, LearningError> {
        self.files_with(|| self.weights.to_safetensors())
    }

    /// What a checkpoint and a generation have in common, and these weights unless they lie below
    /// adapters that learn.
    fn files_with(
        &self,
        weights: impl FnOnce() -> Result<Vec<u8>, ModelError>,
    ) -> Result<BTreeMap<String, Bytes>, LearningError> {
        let lesson = self.lesson;
        let json = |value: serde_json::Result<Vec<u8>>| value.expect("plain structs are JSON");
        let architecture = &lesson.featurizer.architecture;
        let weights = match &self.base {
            Some(base) => base.clone(),
            None => weights()?.into(),
        };
        let mut files: Vec<(&str, Bytes)> = vec![
            (ARCHITECTURE, json(serde_json::to_vec_pretty(architecture)).into()),
            (LABELS, json(serde_json::to_vec(&lesson.labels)).into()),
            (TOKENIZER, lesson.featurizer.tokenizer.to_bytes()?.into()),
            (WEIGHTS, weights),
            (OPTIMIZER, self.optimizer.to_bytes(&self.weights.network)?.into()),
            (REPLAY, self.replay.clone()),
            (DIAGNOSIS, self.diagnosis.to_bytes().into()),
        ];
        if architecture.modalities.contains(&Modality::Features) {
            files.push((FEATURE_SCALES, lesson.featurizer.scales.to_bytes().into()));
        }
        if let Some(counted) = &self.counted {
            files.push((COUNTS, counted.file.clone()));
        }
        if !self.adapters.is_empty() {
            let own = self.weights.adapters_to_safetensors(&self.adapters)?;
            files.push((ADAPTERS, json(serde_json::to_vec(&self.adapters)).into()));
            files.push((ADAPTER_WEIGHTS, own.into()));
        }
        Ok(files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect())
    }

    /// Those of the generation: with what is found out about the weights as they are in the end.
    pub(super) fn last_files(&self) -> Result<BTreeMap<String, Bytes>, LearningError> {
        let mut files = self.files_with(|| self.in_use().to_safetensors())?;
        let recipe = &self.job.recipe;
        if recipe.der.alpha > 0.0 {
            files.insert(REPLAY.to_owned(), self.recorded()?.into());
        }
        if recipe.ewc.weight > 0.0 {
            let rng = sampler::rng(self.job.seed, FISHER_STREAM);
            let (fresh, older) = (&self.lesson.fresh, self.fisher.clone());
            let fisher =
                fisher::estimate(&self.weights, fresh, older, &recipe.ewc, rng, &self.device);
            files.insert(FISHER.to_owned(), fisher::to_bytes(&self.weights, &fisher)?.into());
        }
        Ok(files)
    }

    /// The weights as they answer: with what was counted.
    pub(super) fn in_use(&self) -> Weights<B::InnerBackend> {
        let network = self.weights.network.valid();
        let weights = Weights { network, wide: self.weights.wide.clone() };
        match &self.counted {
            Some(counted) => counted.into(weights),
            None => weights,
        }
    }

    /// The replay buffer with logits of the examples that this job learnt first.
    fn recorded(&self) -> Result<Vec<u8>, LearningError> {
        let mut replay = self.lesson.after.clone();
        let network = self.weights.network.valid();
        let weights = Weights::<B::InnerBackend> { network, wide: self.weights.wide.clone() };
        let classes = self.lesson.labels.len();
        let mut new: Vec<_> =
            replay.items_mut().iter_mut().filter(|item| item.logits.is_empty()).collect();
        for chunk in new.chunks_mut(ASK) {
            let asked = self.lesson.items_of(chunk.iter().map(|item| &**item))?;
            let asked: Vec<&Item> = asked.iter().collect();
            let logits = teacher::logits::<B>(&weights, &asked, &self.device);
            for (item, logits) in chunk.iter_mut().zip(logits.chunks_exact(classes)) {
                // What f16 cannot hold is beyond any doubt anyway.
                let bound = f32::from(f16::MAX);
                item.logits =
                    logits.iter().map(|l| f16::from_f32(l.clamp(-bound, bound))).collect();
            }
        }
        Ok(replay.to_bytes())
    }

    pub(super) fn progress(&self, clock: &Clock<'_>, load_max: f64) -> Progress {
        let stats = &self.position.stats;
        let tokens_per_s = clock.rate(stats.tokens, |before| before.tokens);
        let layer = |(name, layer): (&String, &crate::diagnosis::Layer)| LayerProgress {
            name: name.clone(),
            gradient_norm: layer.gradient_norm,
            weight_norm: layer.weight_norm,
            update_ratio: layer.update_ratio,
        };
        let experts = |experts: &crate::diagnosis::Experts| ExpertsProgress {
            dead: experts.dead,
            entropy: experts.entropy,
            dropped: experts.dropped,
        };
        let rate = |(group, drops): (&String, &Drops)| (group.clone(), drops.rate());
        Progress {
            step: self.position.step,
            steps: self.lesson.steps,
            loss: stats.loss.unwrap_or_default(),
            examples_per_s: clock.rate(stats.examples, |before| before.examples),
            expert_load_max_share: load_max,
            tokens_per_s,
            mfu: self.peak.map(|peak| tokens_per_s * self.flops_per_token() / peak),
            joules_per_token: stats.joules / (stats.tokens as f64).max(1.0),
            router_loss: stats.router_loss,
            drop_rate: self.diagnosis.drops.rate(),
            group_drop_rates: self.diagnosis.group_drops.iter().map(rate).collect(),
            loss_scale: self.position.scaler.map(|scaler| f64::from(scaler.scale())),
            layers: self.diagnosis.layers.iter().map(layer).collect(),
            experts: self.diagnosis.experts.iter().map(experts).collect(),
        }
    }

    /// Of all attempts.
    pub(crate) fn seconds(&self) -> f64 {
        self.position.stats.seconds
    }

    /// Of all attempts.
    pub(crate) fn joules(&self) -> f64 {
        self.position.stats.joules
    }

    fn trained_share(&self) -> f64 {
        optimizer::share(&self.weights, &self.method, &self.lesson.featurizer.architecture)
    }

    fn flops_per_token(&self) -> f64 {
        self.diagnosis.flops / (self.position.stats.tokens as f64).max(1.0)
    }

    pub(super) fn metrics(
        &self,
        clock: &Clock<'_>,
        ended_by: Option<&'static str>,
    ) -> BTreeMap<String, f64> {
        let stats = &self.position.stats;
        let steps = self.position.step as f64;
        let seconds = stats.seconds.max(1e-9);
        let peak = self.peak.unwrap_or_else(|| self.measured_peak());
        let deep_steps = self.course.deep_steps(self.position.step) as f64;
        let experts = &self.diagnosis.experts;
        let entropy = experts.iter().map(|experts| experts.entropy).sum::<f64>();
        // A metric is a number, so the method is a part of a name.
        let method = format!("energy_method.{}", clock.meter.method().as_str());
        let mut values = vec![
            (method, 1.0),
            ("energy_joules".to_owned(), stats.joules),
            ("loss".to_owned(), stats.loss.unwrap_or_default()),
            ("steps".to_owned(), steps),
            ("deep_steps".to_owned(), deep_steps),
            ("skipped_steps".to_owned(), self.diagnosis.skipped as f64),
            ("examples".to_owned(), stats.examples as f64),
            ("window_examples".to_owned(), self.lesson.fresh.len() as f64),
            ("unread_examples".to_owned(), self.lesson.unread as f64),
            ("replay_examples".to_owned(), self.lesson.after.len() as f64),
            ("tokens".to_owned(), stats.tokens as f64),
            ("seconds".to_owned(), stats.seconds),
            ("checkpoint_pause_s".to_owned(), stats.paused),
            ("examples_per_s".to_owned(), stats.examples as f64 / seconds),
            ("tokens_per_s".to_owned(), stats.tokens as f64 / seconds),
            ("joules_per_token".to_owned(), stats.joules / (stats.tokens as f64).max(1.0)),
            ("training_flops".to_owned(), self.diagnosis.flops),
            ("peak_flops_per_s".to_owned(), peak),
            ("mfu".to_owned(), self.diagnosis.flops / seconds / peak),
            ("trained_share".to_owned(), self.trained_share()),
            ("expert_load_max_share".to_owned(), stats.load_max_sum / deep_steps.max(1.0)),
            ("dead_experts".to_owned(), self.diagnosis.dead() as f64),
            ("router_entropy".to_owned(), entropy / (experts.len() as f64).max(1.0)),
        ];
        if self.job.recipe.balancing.capacity_factor > 0.0 {
            values.push(("drop_rate".to_owned(), self.diagnosis.drops.rate()));
            let groups = self.diagnosis.group_drops.iter();
            values
                .extend(groups.map(|(group, drops)| (format!("drop_rate.{group}"), drops.rate())));
        }
        if self.lesson.task() == Task::NextToken {
            values.push(("perplexity".to_owned(), stats.loss.unwrap_or_default().exp()));
        }
        if let Some(levels) = &self.lesson.levels {
            values.push(("outside_levels".to_owned(), levels.outside));
        }
        if let Some(counted) = &self.counted {
            values.push(("evidence_scale".to_owned(), f64::from(counted.scale())));
            values.push(("evidence_heat".to_owned(), f64::from(counted.heat())));
        }
        values.extend(stats.router_loss.map(|loss| ("router_loss".to_owned(), loss)));
        values.extend(stats.penalty.map(|penalty| ("penalty".to_owned(), penalty)));
        values.extend(ended_by.map(|budget| (format!("ended_by.{budget}"), 1.0)));
        values.into_iter().collect()
    }
}

pub(super) fn report(written: Vec<(u64, ArtifactHash)>, observer: &mut dyn Observer) {
    for (step, digest) in written {
        observer.checkpoint(step, digest);
    }
}
