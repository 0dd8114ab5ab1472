//! What may change, in which numbers it is computed, and what is watched.
use std::fmt;

use serde::{Deserialize, Serialize};
use tidegate_model::{Adapters, Affinity, Architecture, Compute};

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
    /// New experts beside the champion's.
    pub expansion: Expansion,
}

/// New routed experts beside those of the champion: copies of the ones that the window's texts are
/// sent to most, moved by a little noise, and closed at first, so that training begins at the
/// champion's answers. They open while the learning rate warms up (see
/// [`tidegate_model::Network::grow_experts`]; growing beside frozen experts: Lifelong-MoE, Chen et
/// al. 2023, arXiv 2305.12281, section 3). `top_k` stays, so a prediction costs what it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expansion {
    /// New experts of each layer, a multiple of its groups; 0: none. Every job that starts from a
    /// champion adds as many.
    pub experts: usize,
    /// Routed experts of a layer at most. Where they would be more none is added, and the newest
    /// `experts` go on learning.
    pub most: usize,
    /// How far a copy is moved, as a share of its weights' root mean square.
    pub noise: f64,
}

impl Default for Expansion {
    fn default() -> Self {
        Self { experts: 0, most: 64, noise: 0.01 }
    }
}

impl Expansion {
    /// The network that a job makes of a champion's, and how many experts it adds to a layer. `name`:
    /// of the method that this is a part of.
    pub(crate) fn of(
        &self,
        champion: Architecture,
        name: &str,
    ) -> Result<(Architecture, usize), LearningError> {
        let wrong = |need| LearningError::Recipe {
            field: format!("{name}.expansion.experts"),
            value: self.experts.to_string(),
            need,
        };
        if self.experts > 0 && !self.experts.is_multiple_of(champion.expert_groups) {
            return Err(wrong("a multiple of the champion's `expert_groups` is needed"));
        }
        let added = if champion.experts + self.experts > self.most { 0 } else { self.experts };
        if self.experts > champion.experts + added {
            return Err(wrong(
                "the champion has fewer experts, and `expansion.most` lets none be added",
            ));
        }
        if added == 0 {
            return Ok((champion, 0));
        }
        if champion.dense_layers == champion.layers {
            return Err(wrong(
                "every layer of the champion is dense, and none has experts to add to",
            ));
        }
        if champion.affinity != Affinity::Sigmoid {
            return Err(wrong(
                "experts are added to a router of sigmoid affinities only: with softmax each new one \
                 takes its part of the others'",
            ));
        }
        Ok((champion.with_experts(added)?, added))
    }
}

/// How much of a parameter learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Nothing,
    /// Of a tensor with a part for each routed expert, those of the new ones.
    NewExperts,
    All,
}

impl Default for Method {
    /// LoRA of rank 8 on attention, and the head: 0.5 to 2 % of usual networks.
    fn default() -> Self {
        let adapters =
            Adapters { attention_rank: 8, expert_rank: 0, alpha: 16.0, prefix: 0, head: true };
        Self { train: Train::Full, adapters, expansion: Expansion::default() }
    }
}

impl Method {
    /// How much of the parameter of this name learns.
    pub(crate) fn part(&self, name: &str) -> Part {
        let router = name.ends_with(".router") || name.ends_with(".mixture.bias");
        let routed = [
            ".mixture.gate",
            ".mixture.up",
            ".mixture.down",
            ".mixture.up_bias",
            ".mixture.down_bias",
        ];
        let routed = routed.iter().any(|end| name.ends_with(end));
        let whole = |learns: bool| if learns { Part::All } else { Part::Nothing };
        let new = if self.expansion.experts > 0 { Part::NewExperts } else { Part::Nothing };
        match self.train {
            Train::Full => Part::All,
            Train::RouterOnly => whole(router),
            Train::FrozenRouter => whole(!router),
            Train::HeadOnly => whole(name.starts_with("head.")),
            Train::FrozenExperts if routed => new,
            Train::FrozenExperts => Part::All,
            Train::NewExperts if routed || router => new,
            Train::NewExperts => whole(name.starts_with("head.")),
            Train::Adapters => whole(self.adapters.keep(name)),
        }
    }

    /// Whether the parameter of this name learns, or a part of it.
    pub(crate) fn includes(&self, name: &str) -> bool {
        self.part(name) != Part::Nothing
    }

    /// How many of the `size` numbers of a parameter of this name learn. Of the experts that it has
    /// a part for so many are `new`, out of so many.
    pub(crate) fn trained(&self, name: &str, size: usize, [new, all]: [usize; 2]) -> usize {
        match self.part(name) {
            Part::Nothing => 0,
            Part::NewExperts => size / all * new,
            Part::All => size,
        }
    }

    /// Experts that learn as new ones in each layer of this network that is not dense.
    pub(crate) fn new_experts(&self, a: &Architecture) -> usize {
        self.expansion.experts.min(a.experts)
    }

    /// What is wrong for any network; the rest shows beside the champion's. `name`: its path.
    pub(super) fn validate(&self, name: &str) -> Result<(), LearningError> {
        let adapters = &self.adapters;
        for (field, size) in [
            ("attention_rank", adapters.attention_rank),
            ("expert_rank", adapters.expert_rank),
            ("prefix", adapters.prefix),
        ] {
            whole(&format!("{name}.adapters.{field}"), size, 0, 1 << 16)?;
        }
        within(&format!("{name}.adapters.alpha"), adapters.alpha, 1e-6..=1e6)?;
        if self.train == Train::Adapters && adapters.is_empty() {
            return Err(LearningError::Recipe {
                field: format!("{name}.adapters"),
                value: "empty".to_owned(),
                need: "a rank or a prefix above 0, or the head, has to learn",
            });
        }
        let Expansion { experts, most, noise } = self.expansion;
        whole(&format!("{name}.expansion.experts"), experts, 0, 4_096)?;
        whole(&format!("{name}.expansion.most"), most, 1, 4_096)?;
        within(&format!("{name}.expansion.noise"), noise, 0.0..=1.0)?;
        let need = match self.train {
            Train::NewExperts if experts == 0 => "`train = \"new_experts\"` needs at least 1",
            Train::RouterOnly | Train::FrozenRouter | Train::HeadOnly | Train::Adapters
                if experts > 0 =>
            {
                "new experts learn where `train` is `new_experts`, `frozen_experts` or `full`"
            }
            _ => return Ok(()),
        };
        let field = format!("{name}.expansion.experts");
        Err(LearningError::Recipe { field, value: experts.to_string(), need })
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
    /// Everything but the routed experts that were there before; new ones are those of
    /// `method.expansion`.
    FrozenExperts,
    /// The new experts of `method.expansion` with their part of the router, and the deep path's
    /// classifier.
    NewExperts,
    /// The adapters of `method.adapters` beside weights that stay as they are, the wide path's
    /// among them.
    Adapters,
}

/// In which numbers the network is computed. Parameters and optimiser state are f32, and so is what
/// is computed with a generation once it is trained: it is judged and served in f32.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precision {
    /// Of the deep path's forward and backward passes. On a CPU half precision is emulated: it shows
    /// what it does to what is learnt, and is a little slower than f32.
    pub compute: Compute,
    /// Whether the loss is scaled (Micikevicius et al. 2018, arXiv 1710.03740). `f16` always does;
    /// elsewhere it costs nothing, helps nothing, and takes non-finite gradients for overflow.
    pub loss_scaling: bool,
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
        if self.expansion.experts > 0 {
            write!(f, "{} experts a layer added; ", self.expansion.experts)?;
        }
        match self.train {
            Train::Full => f.write_str("full"),
            Train::RouterOnly => f.write_str("router only"),
            Train::FrozenRouter => f.write_str("frozen router"),
            Train::HeadOnly => f.write_str("head only"),
            Train::FrozenExperts => f.write_str("frozen experts"),
            Train::NewExperts => f.write_str("new experts, the head"),
            Train::Adapters => {
                f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Train {
    /// Whether routers learn, and so are balanced.
    pub(crate) const fn balances(self) -> bool {
        matches!(self, Self::Full | Self::RouterOnly | Self::FrozenExperts | Self::NewExperts)
    }
}

impl Precision {
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
