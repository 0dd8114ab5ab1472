//! How a layer's experts share the work.
use serde::{Deserialize, Serialize};

use tidegate_model::Routed;

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
    /// Entropy of the router's affinities, as a share of the highest there is, averaged as `load`
    /// is: 1 when it does not care where a token goes, 0 when it is sure.
    pub entropy: f64,
    /// Share of the assignments that found their expert full, averaged likewise.
    pub dropped: f64,
    /// Load of each expert at each step, as a multiple of the even share.
    pub history: History,
    /// Sums and steps of the window that is being filled.
    sums: Vec<f64>,
    entropies: f64,
    drops: f64,
    steps: u64,
}

impl Experts {
    pub(super) fn add(&mut self, step: u64, routed: &Routed) {
        let load = &routed.load.0;
        let even = 1.0 / load.len() as f64;
        self.sums.resize(load.len(), 0.0);
        for (sum, &share) in self.sums.iter_mut().zip(load) {
            *sum += f64::from(share);
            self.history.add(step, f64::from(share) / even);
        }
        self.entropies += f64::from(routed.entropy);
        let dropped: u64 = routed.dropped.iter().map(|&count| u64::from(count)).sum();
        self.drops += dropped as f64 / routed.assignments.max(1) as f64;
        self.steps += 1;
        let whole = self.steps == WINDOW;
        if whole || step < WINDOW {
            self.load = self.sums.iter().map(|sum| sum / self.steps as f64).collect();
            self.dead = self.load.iter().filter(|&&share| share < DEAD * even).count();
            self.entropy = self.entropies / self.steps as f64;
            self.dropped = self.drops / self.steps as f64;
        }
        if whole {
            self.sums.fill(0.0);
            (self.entropies, self.drops, self.steps) = (0.0, 0.0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_model::ExpertLoad;

    use super::*;

    fn routed(load: &[f32], entropy: f32, dropped: u32) -> Routed {
        let load = ExpertLoad(load.to_vec());
        Routed { load, dropped: vec![0, dropped], assignments: 20, entropy }
    }

    #[test]
    fn an_expert_that_gets_nothing_is_dead_after_a_window_and_alive_again_after_another() {
        let mut experts = Experts::default();
        for step in 0..WINDOW {
            experts.add(step, &routed(&[0.5, 0.5, 0.0, 0.0], 0.2, 5));
        }
        assert_eq!(experts.dead, 2);
        assert!((experts.entropy - 0.2).abs() < 1e-6, "the router's, not that of the loads");
        assert!((experts.dropped - 0.25).abs() < 1e-9);
        for step in WINDOW..2 * WINDOW {
            assert_eq!(experts.dead, 2);
            experts.add(step, &routed(&[0.25; 4], 0.9, 0));
        }
        assert_eq!((experts.dead, experts.load.as_slice()), (0, [0.25; 4].as_slice()));
        assert!((experts.entropy - 0.9).abs() < 1e-6 && experts.dropped == 0.0);
    }
}
