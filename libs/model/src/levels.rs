//! Numbers as an answer by classes: what a regressor's outputs stand for.
use tidegate_contracts::Class;

use crate::{LABELS, ModelError};

/// The part of a regressor's answer that its interval holds.
pub const INTERVAL: f64 = 0.9;

/// The numbers that a regressor's outputs stand for, by output.
///
/// A regressor says how likely each of a few levels is, and its answer is their mean (Imani and White
/// 2018, arXiv 1806.04613; Farebrother et al. 2024, arXiv 2403.03950): a loss that no outlier can
/// blow up, an interval beside every answer, and all that holds for classes (rehearsal, distillation,
/// levels that are added) holds for numbers too. Between levels answers are interpolated; no answer
/// lies outside of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    values: Vec<f64>,
    /// Outputs by their value, ascending.
    order: Vec<usize>,
}

impl Levels {
    /// Reads the labels of a regressor: decimal numbers.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] when one is no number or there twice, or when there are fewer than two.
    pub fn of(labels: &[Class]) -> Result<Self, ModelError> {
        let bad = |reason: String| ModelError::BadFile { file: LABELS, reason };
        let value = |label: &Class| {
            label.number().ok_or_else(|| bad(format!("level `{label}` is not a number")))
        };
        let values = labels.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        if values.len() < 2 {
            return Err(bad(format!("a regressor has at least two levels, not {}", values.len())));
        }
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        match order.windows(2).find(|pair| values[pair[0]] >= values[pair[1]]) {
            Some(pair) => Err(bad(format!("level {} is there twice", values[pair[0]]))),
            None => Ok(Self { values, order }),
        }
    }

    /// The lowest and the highest.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        (self.at(0), self.at(self.order.len() - 1))
    }

    /// The level at this place from below.
    fn at(&self, place: usize) -> f64 {
        self.values[self.order[place]]
    }

    /// Where a number lies among the levels from below, in levels: 0 at the lowest and under it.
    fn place(&self, value: f64) -> f64 {
        let last = self.order.len() - 1;
        let above = self.order.partition_point(|&output| self.values[output] <= value);
        if above == 0 {
            return 0.0;
        }
        if above > last {
            return last as f64;
        }
        let (low, high) = (self.at(above - 1), self.at(above));
        (above - 1) as f64 + (value - low) / (high - low)
    }

    /// The output whose level is nearest.
    #[must_use]
    pub fn nearest(&self, value: f64) -> usize {
        self.order[self.place(value).round() as usize]
    }

    /// How likely each output should be called where the number is `value`; sums to 1.
    ///
    /// A normal distribution of `spread` levels around it, cut at the outermost levels: neighbours
    /// learn from each other (the histogram loss, HL-Gauss; 0.75 in Farebrother et al. 2024). With a
    /// spread of 0 only the two levels about the value are, and their mean is the value.
    #[must_use]
    pub fn target(&self, value: f64, spread: f64) -> Vec<f32> {
        let place = self.place(value);
        let mut target = vec![0.0; self.values.len()];
        if spread <= 0.0 {
            let low = place.floor() as usize;
            let part = (place - low as f64) as f32;
            target[self.order[low]] = 1.0 - part;
            if part > 0.0 {
                target[self.order[low + 1]] = part;
            }
            return target;
        }
        let below = |edge: f64| normal_cdf((edge - place) / spread);
        let last = self.order.len() - 1;
        let (low, high) = (below(-0.5), below(last as f64 + 0.5));
        for (at, &output) in self.order.iter().enumerate() {
            let (from, to) = (below(at as f64 - 0.5), below(at as f64 + 0.5));
            target[output] = ((to - from) / (high - low)) as f32;
        }
        target
    }

    /// The mean of an answer's levels: the number that it is.
    #[must_use]
    pub fn mean(&self, probabilities: &[f32]) -> f64 {
        let total: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        let sum: f64 =
            probabilities.iter().zip(&self.values).map(|(&p, value)| f64::from(p) * value).sum();
        sum / total
    }

    /// The central interval that holds [`INTERVAL`] of an answer.
    #[must_use]
    pub fn interval(&self, probabilities: &[f32]) -> (f64, f64) {
        let tail = (1.0 - INTERVAL) / 2.0;
        (self.quantile(probabilities, tail), self.quantile(probabilities, 1.0 - tail))
    }

    /// The number below which this part of an answer lies. A level's part is spread evenly from half
    /// way to the one below to half way to the one above it, and as far on the outer side of the
    /// outermost as on their inner side.
    #[must_use]
    pub fn quantile(&self, probabilities: &[f32], part: f64) -> f64 {
        let last = self.order.len() - 1;
        // Half way from this place to the next, also behind the last.
        let edge = |place: usize| match place {
            0 => self.at(0) - (self.at(1) - self.at(0)) / 2.0,
            place if place > last => self.at(last) + (self.at(last) - self.at(last - 1)) / 2.0,
            place => self.at(place - 1) + (self.at(place) - self.at(place - 1)) / 2.0,
        };
        let total: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        let mut rest = part.clamp(0.0, 1.0) * total;
        for (place, &output) in self.order.iter().enumerate() {
            let p = f64::from(probabilities[output]);
            if p >= rest && p > 0.0 {
                return edge(place) + rest / p * (edge(place + 1) - edge(place));
            }
            rest -= p;
        }
        edge(last + 1)
    }
}

/// Of the standard normal distribution.
fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appended out of order, as a hot update does.
    fn levels() -> Levels {
        let labels = ["0", "10", "20", "40", "-5"].map(Class::new);
        Levels::of(&labels).unwrap()
    }

    #[test]
    fn a_target_without_spread_has_the_number_as_its_mean() {
        let levels = levels();
        assert_eq!(levels.range(), (-5.0, 40.0));
        for value in [-5.0, -1.0, 0.0, 3.0, 20.0, 33.0, 40.0] {
            let target = levels.target(value, 0.0);
            assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(target.iter().filter(|&&p| p > 0.0).count() <= 2);
            assert!((levels.mean(&target) - value).abs() < 1e-5, "{value}: {target:?}");
        }
        // Outside of the levels the outermost one is meant.
        assert_eq!(levels.target(1e9, 0.0), [0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(levels.target(-1e9, 0.0), [0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!((levels.nearest(-4.0), levels.nearest(16.0), levels.nearest(1e9)), (4, 2, 3));
    }

    #[test]
    fn a_spread_target_is_highest_at_the_number_and_its_mean_is_near() {
        let labels: Vec<Class> = (0..21).map(|at| Class::new(at.to_string())).collect();
        let levels = Levels::of(&labels).unwrap();
        for value in [5.0, 7.3, 10.5, 14.9] {
            let target = levels.target(value, 0.75);
            assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!((levels.mean(&target) - value).abs() < 1e-3, "{value}");
            let highest = (0..21).max_by(|&a, &b| target[a].total_cmp(&target[b])).unwrap();
            assert!((highest as f64 - value).abs() <= 0.5 + 1e-9, "{value}: {highest}");
        }
    }

    #[test]
    fn quantiles_enclose_the_part_they_name() {
        let levels = levels();
        let target = levels.target(10.0, 0.0);
        assert!((levels.quantile(&target, 0.0) - 5.0).abs() < 1e-9);
        assert!((levels.quantile(&target, 0.5) - 10.0).abs() < 1e-9);
        assert!((levels.quantile(&target, 1.0) - 15.0).abs() < 1e-9);
        let even = [0.2; 5];
        let at = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0].map(|part| levels.quantile(&even, part));
        let edges = [-7.5, -2.5, 5.0, 15.0, 30.0, 50.0];
        assert!(at.iter().zip(edges).all(|(found, edge)| (found - edge).abs() < 1e-5), "{at:?}");
    }

    #[test]
    fn what_is_no_level_is_named() {
        for (labels, needle) in [
            (&["1", "two"][..], "`two`"),
            (&["1", "inf"], "`inf`"),
            (&["1"], "at least two"),
            (&["1", "2", "1.0"], "level 1 is there twice"),
        ] {
            let labels: Vec<Class> = labels.iter().map(|&label| Class::new(label)).collect();
            let error = Levels::of(&labels).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
