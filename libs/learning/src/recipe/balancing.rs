//! What keeps the experts evenly loaded.
use serde::{Deserialize, Serialize};
use tidegate_model::RouterTraining;

use super::{Train, bounds::within};
use crate::LearningError;

/// What keeps the experts evenly loaded: steps of the router's bias (DeepSeek-V3, arXiv 2412.19437,
/// section 2.1.2), and if need be losses of its own and a bound on what an expert takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balancing {
    /// The first and largest step of the bias, annealed with the learning rate; 0: none.
    pub step: f64,
    /// An expert takes at most so many times its even share of a micro-batch's assignments, and
    /// drops the rest (Switch, arXiv 2101.03961, eq. 3); 0: none is dropped. In training only.
    pub capacity_factor: f64,
    /// Weight of the auxiliary loss for an even load (Switch, eq. 4); 0: off.
    pub balance_loss: f64,
    /// Weight of the loss on large router logits (ST-MoE, arXiv 2202.08906, eq. 5); 0: off.
    pub z_loss: f64,
}

impl Default for Balancing {
    fn default() -> Self {
        Self { step: 1e-3, capacity_factor: 0.0, balance_loss: 0.0, z_loss: 0.0 }
    }
}

impl Balancing {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        within("balancing.step", self.step, 0.0..=1.0)?;
        within("balancing.capacity_factor", self.capacity_factor, 0.0..=1e6)?;
        within("balancing.balance_loss", self.balance_loss, 0.0..=1e3)?;
        within("balancing.z_loss", self.z_loss, 0.0..=1e3)
    }

    /// How routers work in a job that trains this set: losses only where they can learn from them.
    pub(crate) fn training(&self, train: Train) -> RouterTraining {
        let capacity_factor = self.capacity_factor;
        if train.balances() {
            let (balance_loss, z_loss) = (self.balance_loss, self.z_loss);
            return RouterTraining { capacity_factor, balance_loss, z_loss };
        }
        RouterTraining { capacity_factor, ..RouterTraining::default() }
    }
}
