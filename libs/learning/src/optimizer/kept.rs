//! The experts that keep their bits while new ones beside them learn.
use burn::tensor::{Bool, Tensor, TensorData, backend::Backend};
use tidegate_model::Architecture;

use super::Gradients;
use crate::{Method, recipe::Part};

/// Which numbers of a parameter with a part for each routed expert do not learn.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    method: Method,
    /// By expert: whether it learns.
    learns: Vec<bool>,
    /// First layers whose only expert was there before.
    dense_layers: usize,
}

impl Kept {
    pub(crate) fn of(method: &Method, architecture: &Architecture) -> Self {
        let mut learns = vec![false; architecture.experts];
        for new in architecture.new_experts(method.expansion.experts) {
            learns[new] = true;
        }
        Self { method: method.clone(), learns, dense_layers: architecture.dense_layers }
    }

    /// Whether expert `at` of each layer learns, where only new ones do.
    pub(crate) fn learns(&self, at: usize) -> bool {
        self.learns[at]
    }

    /// True for the numbers of parameter `name` that do not learn, `[size]`; nothing when all do.
    pub(crate) fn mask<I: Backend>(
        &self,
        name: &str,
        size: usize,
        device: &I::Device,
    ) -> Option<Tensor<I, 1, Bool>> {
        if self.method.part(name) != Part::NewExperts {
            return None;
        }
        if layer(name).is_some_and(|layer| layer < self.dense_layers) {
            let mask = TensorData::new(vec![true; size], [size]);
            return Some(Tensor::from_data(mask, device));
        }
        let experts = self.learns.len();
        // Routers have a column an expert, matrices one behind the other.
        let expert = |at: usize| {
            if name.ends_with(".router") { at % experts } else { at / (size / experts) }
        };
        let mask: Vec<bool> = (0..size).map(|at| !self.learns[expert(at)]).collect();
        Some(Tensor::from_data(TensorData::new(mask, [size]), device))
    }

    /// Takes what does not learn out of the gradients, so that their norm is of what does.
    pub(crate) fn out_of<I: Backend>(&self, gradients: &mut Gradients<I>) {
        for (name, gradient) in &mut gradients.0 {
            let [size] = gradient.dims();
            if let Some(mask) = self.mask(name, size, &gradient.device()) {
                *gradient = gradient.clone().mask_fill(mask, 0.0);
            }
        }
    }
}

/// The layer that the parameter of this name is of, where it is of one.
pub(super) fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::{Expansion, Train};

    #[test]
    fn only_the_last_experts_of_each_group_are_open_to_learning() {
        let expansion = Expansion { experts: 2, ..Expansion::default() };
        let method = Method { train: Train::NewExperts, expansion, ..Method::default() };
        let architecture = Architecture {
            experts: 6,
            expert_groups: 2,
            dense_layers: 1,
            ..Architecture::default()
        };
        let kept = Kept::of(&method, &architecture);
        let mask = |name: &str, size: usize| -> Option<Vec<bool>> {
            let mask = kept.mask::<Flex>(name, size, &Default::default())?;
            Some(mask.into_data().iter::<bool>().collect())
        };
        let row = [true, true, false, true, true, false];
        assert_eq!(mask("blocks.1.mixture.router", 12).unwrap(), row.repeat(2));
        let twice: Vec<bool> = row.iter().flat_map(|kept| [*kept; 2]).collect();
        assert_eq!(mask("blocks.1.mixture.down", 12).unwrap(), twice);
        assert_eq!(mask("blocks.1.mixture.up_bias", 12).unwrap(), twice);
        assert_eq!(mask("blocks.0.mixture.down", 2).unwrap(), [true; 2], "it is dense");
        assert_eq!(mask("head.weight", 12), None);
        assert_eq!(mask("blocks.0.mixture.shared.gate", 12), None);
    }
}
