//! What the features of examples are like.
use std::collections::{BTreeMap, BTreeSet};

use tidegate_contracts::{FeatureValue, Part};

use crate::Input;

/// Values of one category that are remembered.
const MOST_VALUES: usize = 1_000;

/// How the numbers of one feature are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NumberSpread {
    /// Their standard deviation.
    pub deviation: f64,
    /// The least of them.
    pub low: f64,
    /// The most of them.
    pub high: f64,
}

/// Features of many inputs: what a change of them is measured by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spread {
    numbers: BTreeMap<String, NumberSpread>,
    categories: BTreeMap<String, Vec<String>>,
}

impl Spread {
    /// Of all feature parts of these inputs. What is not finite is passed over.
    #[must_use]
    pub fn of<'a>(inputs: impl IntoIterator<Item = &'a Input>) -> Self {
        let mut numbers: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut categories: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let parts = inputs.into_iter().flat_map(|input| &input.parts);
        let tables = parts.filter_map(|part| match part {
            Part::Features(values) => Some(values),
            _ => None,
        });
        for (name, value) in tables.flatten() {
            match value {
                FeatureValue::Number(number) if number.is_finite() => {
                    numbers.entry(name).or_default().push(*number);
                }
                FeatureValue::Number(_) => {}
                FeatureValue::Category(category) => {
                    let seen = categories.entry(name).or_default();
                    if seen.len() < MOST_VALUES {
                        seen.insert(category);
                    }
                }
            }
        }
        let owned = |seen: BTreeSet<&str>| seen.into_iter().map(ToOwned::to_owned).collect();
        Self {
            numbers: numbers
                .into_iter()
                .map(|(name, all)| (name.to_owned(), spread(&all)))
                .collect(),
            categories: categories
                .into_iter()
                .map(|(name, s)| (name.to_owned(), owned(s)))
                .collect(),
        }
    }

    /// Of a feature that had numbers.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<NumberSpread> {
        self.numbers.get(name).copied()
    }

    /// The categories that a feature had, by name.
    #[must_use]
    pub fn categories(&self, name: &str) -> &[String] {
        self.categories.get(name).map_or(&[], Vec::as_slice)
    }
}

fn spread(all: &[f64]) -> NumberSpread {
    let count = all.len() as f64;
    // Of huge numbers squares have no finite double.
    let most = all.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let mean = all.iter().map(|value| value / most).sum::<f64>() / count;
    let square = |value: &f64| (value / most - mean).powi(2);
    NumberSpread {
        deviation: (all.iter().map(square).sum::<f64>() / count).sqrt() * most,
        low: all.iter().copied().fold(f64::INFINITY, f64::min),
        high: all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}
