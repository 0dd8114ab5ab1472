//! Dynamic loss scaling (Micikevicius et al. 2018, arXiv 1710.03740).
use serde::{Deserialize, Serialize};

/// Every scale is a power of two, so that scaling and unscaling change no bit but where a value
/// leaves the format's range.
const START: f32 = 65_536.0;
const FLOOR: f32 = 1.0;
const CEILING: f32 = 16_777_216.0;
/// Good steps in a row before the scale is doubled.
const GROW_AFTER: u64 = 2_000;

/// What the loss is multiplied by before the backward pass, so that small gradients survive a
/// format of few exponents. Part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct LossScaler {
    scale: f32,
    /// Since the scale last changed.
    good: u64,
}

impl Default for LossScaler {
    fn default() -> Self {
        Self { scale: START, good: 0 }
    }
}

impl LossScaler {
    pub(crate) const fn scale(self) -> f32 {
        self.scale
    }

    /// All gradients of a step were finite.
    pub(crate) fn succeeded(&mut self) {
        self.good += 1;
        if self.good >= GROW_AFTER {
            *self = Self { scale: (self.scale * 2.0).min(CEILING), good: 0 };
        }
    }

    /// Some were not: the step is left out. `false` when the scale is as low as it gets, so that
    /// scaling is not what makes them overflow.
    pub(crate) fn overflowed(&mut self) -> bool {
        let lower = self.scale > FLOOR;
        *self = Self { scale: (self.scale * 0.5).max(FLOOR), good: 0 };
        lower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_once_and_doubles_after_two_thousand_good_steps_in_a_row() {
        let mut scaler = LossScaler::default();
        // Overflows at these steps; the scale after each change, by the rule of torch.amp.GradScaler
        // with the same numbers.
        let overflows = [0, 1, 1_500, 5_600];
        let mut trace = Vec::new();
        for step in 0..8_000_u32 {
            let before = scaler.scale();
            if overflows.contains(&step) {
                assert!(scaler.overflowed());
            } else {
                scaler.succeeded();
            }
            if scaler.scale() != before {
                trace.push((step, scaler.scale().log2() as i32));
            }
        }
        let expected = [(0, 15), (1, 14), (1_500, 13), (3_500, 14), (5_500, 15), (5_600, 14)];
        assert_eq!(trace[..6], expected);
        assert_eq!(trace[6..], [(7_600, 15)]);
    }

    #[test]
    fn it_stays_between_floor_and_ceiling() {
        let mut scaler = LossScaler::default();
        let halvings = std::iter::from_fn(|| scaler.overflowed().then_some(())).count();
        assert_eq!(halvings, 16);
        assert!((scaler.scale() - FLOOR).abs() < f32::EPSILON);
        for _ in 0..GROW_AFTER * 40 {
            scaler.succeeded();
        }
        assert!((scaler.scale() - CEILING).abs() < f32::EPSILON);
    }
}
