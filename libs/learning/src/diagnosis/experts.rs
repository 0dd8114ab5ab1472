//! How a layer's experts share the work.
use serde::{Deserialize, Serialize};

use super::History;

/// Steps that a load is averaged over before it is judged.
const WINDOW: u64 = 100;

/// An expert with less than this share of the even share is dead.
const DEAD: f64 = 0.01;

/// The experts of one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Experts {
    /// Share of the assignments that each got, averaged over the last whole window of 100 steps,
    /// or over all steps until there is one.
    pub load: Vec<f64>,
    /// Experts with less than 1 % of the even share.
    pub dead: usize,
    /// Entropy of `load`, as a share of that of an even one: 1 is even, 0 is one expert alone.
    pub entropy: f64,
    /// Load of each expert at each step, as a multiple of the even share.
    pub history: History,
    /// Sums and steps of the window that is being filled.
    sums: Vec<f64>,
    steps: u64,
}

impl Experts {
    pub(super) fn add(&mut self, step: u64, load: &[f32]) {
        let even = 1.0 / load.len() as f64;
        self.sums.resize(load.len(), 0.0);
        for (sum, &share) in self.sums.iter_mut().zip(load) {
            *sum += f64::from(share);
            self.history.add(step, f64::from(share) / even);
        }
        self.steps += 1;
        let whole = self.steps == WINDOW;
        if whole || step < WINDOW {
            self.load = self.sums.iter().map(|sum| sum / self.steps as f64).collect();
            self.dead = self.load.iter().filter(|&&share| share < DEAD * even).count();
            self.entropy = entropy(&self.load);
        }
        if whole {
            self.sums.fill(0.0);
            self.steps = 0;
        }
    }
}

fn entropy(load: &[f64]) -> f64 {
    if load.len() < 2 {
        return 1.0;
    }
    let nats: f64 = load.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
    nats / (load.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_that_gets_nothing_is_dead_after_a_window_and_alive_again_after_another() {
        let mut experts = Experts::default();
        for step in 0..WINDOW {
            experts.add(step, &[0.5, 0.5, 0.0, 0.0]);
        }
        assert_eq!(experts.dead, 2);
        assert!((experts.entropy - 0.5).abs() < 1e-9);
        for step in WINDOW..2 * WINDOW {
            assert_eq!(experts.dead, 2);
            experts.add(step, &[0.25; 4]);
        }
        assert_eq!((experts.dead, experts.load.as_slice()), (0, [0.25; 4].as_slice()));
        assert!((experts.entropy - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_layer_of_one_expert_is_even() {
        let mut experts = Experts::default();
        experts.add(0, &[1.0]);
        assert!((experts.entropy - 1.0).abs() < f64::EPSILON && experts.dead == 0);
    }
}
