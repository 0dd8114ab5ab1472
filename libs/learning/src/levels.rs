//! Which levels a regressor answers by.
use tidegate_contracts::Class;
use tidegate_model::{Levels, ModelError};

use crate::Regression;

/// One number in so many, and one in a few, at either end is no reason to have a level there: it may be
/// a mistake, and a level far off would move every answer.
const ONE_IN: usize = 200;

/// Levels, and how a number is learnt by them.
#[derive(Debug)]
pub(crate) struct Learnt {
    levels: Levels,
    spread: f64,
    /// Share of the window's numbers that lie outside of the levels: they are learnt as the outermost
    /// one.
    pub(crate) outside: f64,
}

impl Learnt {
    /// `numbers`: the window's.
    pub(crate) fn new(
        labels: &[Class],
        numbers: &[f64],
        regression: &Regression,
    ) -> Result<Self, ModelError> {
        let levels = Levels::of(labels)?;
        let (low, high) = levels.range();
        let outside = numbers.iter().filter(|&&number| number < low || number > high).count();
        let outside = outside as f64 / numbers.len().max(1) as f64;
        Ok(Self { levels, spread: regression.spread, outside })
    }

    /// The nearest level, and how likely each should be called.
    ///
    /// # Panics
    /// When the label is no number: only those that are get this far.
    pub(crate) fn answer(&self, label: &Class) -> (usize, Vec<f32>) {
        let number = number(label);
        (self.levels.nearest(number), self.levels.target(number, self.spread))
    }

    /// The number that an answer is.
    pub(crate) fn mean(&self, probabilities: &[f32]) -> f64 {
        self.levels.mean(probabilities)
    }
}

/// # Panics
/// When the label is none.
pub(crate) fn number(label: &Class) -> f64 {
    label.number().expect("examples without a number were left out")
}

/// The champion's levels, if there are any, and those that the window needs.
///
/// The first ones are evenly spread over the window's numbers by rank, or the numbers themselves
/// where there are no more of them. Later ones are added where more than one number in 200 lies
/// outside, and more than one in all.
///
/// # Errors
/// [`ModelError::BadFile`] when the champion's are no levels.
pub(crate) fn levels(
    old: Vec<Class>,
    mut numbers: Vec<f64>,
    regression: &Regression,
) -> Result<Vec<Class>, ModelError> {
    numbers.sort_by(f64::total_cmp);
    let spare = numbers.len().div_ceil(ONE_IN).min(numbers.len().saturating_sub(1) / 4);
    let within = &numbers[spare..numbers.len() - spare];
    let label = |number: f64| Class::new(number.to_string());
    if !old.is_empty() {
        let (low, high) = Levels::of(&old)?.range();
        let ends = [within.first(), within.last()].into_iter().flatten();
        let mut new: Vec<f64> = ends.copied().filter(|&end| end < low || end > high).collect();
        new.dedup();
        return Ok(old.into_iter().chain(new.into_iter().map(label)).collect());
    }
    let mut different = within.to_vec();
    different.dedup_by(|a, b| a == b);
    if different.len() > regression.levels {
        let last = (regression.levels - 1) as f64;
        let rank = |at: usize| (at as f64 / last * (within.len() - 1) as f64).round() as usize;
        different = (0..regression.levels).map(|at| within[rank(at)]).collect();
        different.dedup_by(|a, b| a == b);
    }
    Ok(different.into_iter().map(label).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(old: &[&str], numbers: Vec<f64>, count: usize) -> Vec<String> {
        let old = old.iter().map(|&level| Class::new(level)).collect();
        let regression = Regression { levels: count, ..Regression::default() };
        let found = levels(old, numbers, &regression).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn few_different_numbers_are_the_levels_and_many_are_met_by_rank() {
        let stars = [3.0, 1.0, 5.0, 1.0, 3.0, 5.0].repeat(3);
        assert_eq!(of(&[], stars, 8), ["1", "3", "5"]);
        // As many examples between any two levels, however they are spread.
        let squares = (0..=100).map(|at| f64::from(at * at)).chain([-9.0, 1e9]).collect();
        assert_eq!(of(&[], squares, 5), ["0", "625", "2500", "5625", "10000"]);
        // A number that most have is one level.
        let mut zeros = vec![0.0; 90];
        zeros.extend((1..=10).map(f64::from));
        assert_eq!(of(&[], zeros, 5), ["0", "9"]);
        assert_eq!(of(&[], vec![7.0; 9], 5), ["7"]);
    }

    #[test]
    fn one_wrong_number_in_many_makes_no_level_and_many_outside_make_one_at_each_end() {
        let mut numbers: Vec<f64> = (0..400).map(|at| f64::from(at % 11)).collect();
        numbers.push(1e30);
        assert_eq!(of(&[], numbers.clone(), 3), ["0", "5", "10"]);
        assert_eq!(of(&["0", "5", "10"], numbers.clone(), 3), ["0", "5", "10"]);
        numbers.extend([12.0; 9]);
        numbers.extend([-3.5; 9]);
        assert_eq!(of(&["0", "5", "10"], numbers.clone(), 3), ["0", "5", "10", "-3.5", "12"]);
        assert_eq!(of(&["0", "10"], vec![70.0; 9], 3), ["0", "10", "70"]);
        // In a small window too.
        let small = [vec![5.0; 30], vec![1e30]].concat();
        assert_eq!(of(&["0", "10"], small, 3), ["0", "10"]);
        let labels = ["0", "5", "10"].map(Class::new);
        let learnt = Learnt::new(&labels, &numbers, &Regression::default()).unwrap();
        assert!((learnt.outside - 19.0 / 419.0).abs() < 1e-9);
        let (nearest, target) = learnt.answer(&Class::new("6"));
        assert_eq!((nearest, target.len()), (1, 3));
        // Cut at the outermost levels, so a little nearer to the middle.
        assert!((learnt.mean(&target) - 6.0).abs() < 1.0);
    }
}
