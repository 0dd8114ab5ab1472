//! What may change, in which numbers it is computed, and what is watched.
use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_model::Adapters;

use super::bounds::{whole, within};
use crate::LearningError;

/// Which parameters learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Decided by the parameter's name. Of jobs that start from a champion; from scratch everything
    /// has to be learnt.
    pub train: Train,
    /// Which adapters, where `train` says adapters. A champion that has the very same goes on with
    /// them; those of another are folded into its weights first.
    pub adapters: Adapters,
}

impl Default for Method {
    /// LoRA of rank 8 on attention, and the head: 0.5 to 2 % of usual networks.
    fn default() -> Self {
        let adapters =
            Adapters { attention_rank: 8, expert_rank: 0, alpha: 16.0, prefix: 0, head: true };
        Self { train: Train::Full, adapters }
    }
}

impl Method {
    /// Whether the parameter of this name learns.
    pub(crate) fn includes(&self, name: &str) -> bool {
        let router = name.ends_with(".router") || name.ends_with(".mixture.bias");
        match self.train {
            Train::Full => true,
            Train::RouterOnly => router,
            Train::FrozenRouter => !router,
            Train::HeadOnly => name.starts_with("head."),
            Train::Adapters => self.adapters.keep(name),
        }
    }

    /// What is wrong for any network; the rest shows beside the champion's.
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        let adapters = &self.adapters;
        for (field, size) in [
            ("attention_rank", adapters.attention_rank),
            ("expert_rank", adapters.expert_rank),
            ("prefix", adapters.prefix),
        ] {
            whole(&format!("method.adapters.{field}"), size, 0, 1 << 16)?;
        }
        within("method.adapters.alpha", adapters.alpha, 1e-6..=1e6)?;
        if self.train == Train::Adapters && adapters.is_empty() {
            return Err(LearningError::Recipe {
                field: "method.adapters".to_owned(),
                value: "empty".to_owned(),
                need: "a rank or a prefix above 0, or the head, has to learn",
            });
        }
        Ok(())
    }
}

/// A set of parameters. What is not in it is frozen: it has no optimiser state and keeps its bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Train {
    /// Everything, the wide path included.
    #[default]
    Full,
    /// The experts' centroids and balancing biases.
    RouterOnly,
    /// Everything but those: tokens go on being sent where the champion sent them.
    FrozenRouter,
    /// The deep path's classifier.
    HeadOnly,
    /// The adapters of `method.adapters` beside weights that stay as they are, the wide path's
    /// among them.
    Adapters,
}

/// In which numbers the network is computed. Parameters and optimiser state are f32.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precision {
    /// Of forward and backward.
    pub compute: Compute,
    /// Whether the loss is scaled (Micikevicius et al. 2018, arXiv 1710.03740). `f16` always does;
    /// elsewhere it costs nothing, helps nothing, and takes non-finite gradients for overflow.
    pub loss_scaling: bool,
}

/// A number format of the network's operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// 8 bits of exponent, 23 of fraction.
    #[default]
    F32,
    /// 8 and 7.
    Bf16,
    /// 5 and 10: small gradients vanish unless the loss is scaled.
    F16,
}

/// What is measured beside the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watching {
    /// Steps between two measurements of weight norms and update ratios, which cost two more
    /// passes over the parameters. Gradient norms and loads are taken at every step.
    pub every: u64,
    /// FLOP/s that this device can do at most, for model FLOPs utilisation; 0: measured once in a
    /// process by a matrix product of 1024 x 1024.
    pub peak_flops: f64,
}

/// What stops a job, as its result would be worthless. A bound of 0 is switched off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alerts {
    /// The gradient's norm is this many times its running median.
    pub exploding: f64,
    /// Every layer's gradient norm is below this.
    pub vanishing: f64,
    /// One expert of a layer gets this share of the tokens.
    pub collapsed: f64,
    /// How many steps in a row it must be so.
    pub steps: u64,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Adapters { attention_rank, expert_rank, prefix, head, .. } = self.adapters;
        let parts = [
            (attention_rank > 0).then(|| format!("LoRA of rank {attention_rank} on attention")),
            (expert_rank > 0).then(|| format!("LoRA of rank {expert_rank} on experts")),
            (prefix > 0).then(|| format!("a prefix of {prefix}")),
            head.then(|| "the head".to_owned()),
        ];
        match self.train {
            Train::Full => f.write_str("full"),
            Train::RouterOnly => f.write_str("router only"),
            Train::FrozenRouter => f.write_str("frozen router"),
            Train::HeadOnly => f.write_str("head only"),
            Train::Adapters => {
                f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Train {
    /// Whether routers learn, and so are balanced.
    pub(crate) const fn balances(self) -> bool {
        matches!(self, Self::Full | Self::RouterOnly)
    }
}

impl Precision {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        let refused = |value: &str| {
            Err(LearningError::Recipe {
                field: "precision.compute".to_owned(),
                value: value.to_owned(),
                need: "the network of this version computes in `f32` only",
            })
        };
        match self.compute {
            Compute::F32 => Ok(()),
            Compute::Bf16 => refused("bf16"),
            Compute::F16 => refused("f16"),
        }
    }

    pub(crate) const fn scales(&self) -> bool {
        self.loss_scaling || matches!(self.compute, Compute::F16)
    }
}

impl Default for Watching {
    fn default() -> Self {
        Self { every: 10, peak_flops: 0.0 }
    }
}

impl Watching {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        whole("diagnosis.every", self.every as usize, 1, 1 << 30)?;
        within("diagnosis.peak_flops", self.peak_flops, 0.0..=1e18)
    }
}

impl Default for Alerts {
    /// Outside of what healthy jobs show. On the first 40 % of the e-mail stream none is stopped by
    /// 100, 1e-12, 0.98 and 20 steps; a cold start's first steps do reach 75 times the median, and
    /// 0.98 of the tokens for one expert, but not for long.
    fn default() -> Self {
        Self { exploding: 1_000.0, vanishing: 1e-12, collapsed: 0.99, steps: 50 }
    }
}

impl Alerts {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        let off = self.exploding == 0.0;
        within("alerts.exploding", self.exploding, if off { 0.0..=0.0 } else { 1.0..=1e12 })?;
        within("alerts.vanishing", self.vanishing, 0.0..=1e12)?;
        within("alerts.collapsed", self.collapsed, 0.0..=1.0)?;
        whole("alerts.steps", self.steps as usize, 1, 1_000_000)
    }
}
