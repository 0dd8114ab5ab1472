//! What pulls weights back to the champion's: L2-SP and elastic weight consolidation.
use burn::module::AutodiffModule as _;
use tidegate_model::Network;

use crate::{
    Recipe, Trains,
    named::{Named, parameters},
    optimizer::{Gradients, read},
};

/// The champion's weights, and how much each mattered.
pub(crate) struct Tether<B: Trains> {
    start: Named<B::InnerBackend>,
    /// Diagonal Fisher information; empty where none was estimated.
    fisher: Named<B::InnerBackend>,
    ewc: f64,
    l2: f64,
}

impl<B: Trains> Tether<B> {
    /// `start`: the champion's network, with the new classes' columns at 0.
    pub(crate) fn new(
        start: &Network<B::InnerBackend>,
        fisher: Named<B::InnerBackend>,
        recipe: &Recipe,
    ) -> Self {
        let start = parameters(start);
        Self { start, fisher, ewc: recipe.ewc.weight, l2: recipe.l2_to_start.weight }
    }

    /// Whether a job of this recipe needs one.
    pub(crate) fn is_needed(recipe: &Recipe) -> bool {
        recipe.ewc.weight > 0.0 || recipe.l2_to_start.weight > 0.0
    }

    /// Adds the gradient of `l2/2 |w - w0|^2 + ewc/2 sum F (w - w0)^2` (L2-SP, eq. 2; online EWC,
    /// eq. 8) to that of the loss, and returns the penalty itself.
    pub(crate) fn pull(
        &self,
        network: &Network<B>,
        gradients: &mut Gradients<B::InnerBackend>,
    ) -> f64 {
        let mut penalties = Vec::new();
        for (name, weight) in parameters(&network.valid()) {
            let Some(start) = self.start.get(&name) else { continue };
            let Some(gradient) = gradients.0.remove(&name) else { continue };
            let way = weight - start.clone();
            let force = match self.fisher.get(&name).filter(|_| self.ewc > 0.0) {
                Some(fisher) => {
                    way.clone() * fisher.clone().mul_scalar(self.ewc).add_scalar(self.l2)
                }
                None => way.clone().mul_scalar(self.l2),
            };
            penalties.push((way * force.clone()).sum().mul_scalar(0.5));
            gradients.0.insert(name, gradient + force);
        }
        read::<B::InnerBackend>(penalties).into_iter().map(f64::from).sum()
    }
}
