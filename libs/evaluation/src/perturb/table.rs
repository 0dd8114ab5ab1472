//! Faults in tables.
use std::collections::BTreeMap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::FeatureValue;
use tidegate_model::Spread;

use super::{Kind, draw::normal};

/// In the feature's own standard deviations.
const NOISE: [f64; 5] = [0.05, 0.1, 0.2, 0.35, 0.5];
/// Probabilities with which each value is concerned.
const MISSING: [f64; 5] = [0.01, 0.05, 0.1, 0.2, 0.3];
const SWAPPED: [f64; 5] = [0.05, 0.1, 0.15, 0.2, 0.3];
const WRONG_UNIT: [f64; 5] = [0.01, 0.02, 0.05, 0.1, 0.2];

type Values = BTreeMap<String, FeatureValue>;

/// The features with faults; at least one is left.
pub(super) fn change(
    kind: Kind,
    severity: usize,
    values: &Values,
    spread: &Spread,
    rng: &mut ChaCha8Rng,
) -> Values {
    let at = severity - 1;
    let kept = rng.random_range(0..values.len().max(1));
    let one = |(index, (name, value)): (usize, (&String, &FeatureValue))| {
        let new = match (kind, value) {
            (Kind::FeaturesGaussianNoise, FeatureValue::Number(number)) => {
                let deviation = spread.number(name).map_or(0.0, |spread| spread.deviation);
                FeatureValue::Number(number + NOISE[at] * deviation * normal(rng))
            }
            (Kind::FeaturesMissing, _) if rng.random_bool(MISSING[at]) && index != kept => {
                return None;
            }
            (Kind::FeaturesCategorySwap, FeatureValue::Category(category))
                if rng.random_bool(SWAPPED[at]) =>
            {
                let others: Vec<&String> =
                    spread.categories(name).iter().filter(|other| *other != category).collect();
                match others.len() {
                    0 => value.clone(),
                    count => FeatureValue::Category(others[rng.random_range(0..count)].clone()),
                }
            }
            (Kind::FeaturesUnitError, FeatureValue::Number(number))
                if rng.random_bool(WRONG_UNIT[at]) =>
            {
                let times = if rng.random_bool(0.5) { 10.0 } else { 0.1 };
                FeatureValue::Number(number * times)
            }
            _ => value.clone(),
        };
        // A sum or a product may leave the finite numbers, and no model reads what does.
        let finite = !matches!(new, FeatureValue::Number(number) if !number.is_finite());
        Some((name.clone(), if finite { new } else { value.clone() }))
    };
    values.iter().enumerate().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use tidegate_contracts::Part;
    use tidegate_model::Input;

    use super::*;

    const KINDS: [Kind; 4] = [
        Kind::FeaturesGaussianNoise,
        Kind::FeaturesMissing,
        Kind::FeaturesCategorySwap,
        Kind::FeaturesUnitError,
    ];

    fn rows() -> Vec<Values> {
        let row = |at: u32| {
            let numbers = (0..20).map(|n| {
                let value = f64::from(at * 7 % 31) * 10_f64.powi(n % 5 - 2) + f64::from(n);
                (format!("n{n:02}"), FeatureValue::Number(value))
            });
            let categories = (0..20).map(|n| {
                let value = ["red", "green", "blue"][(at + n) as usize % 3];
                (format!("c{n:02}"), FeatureValue::Category(value.to_owned()))
            });
            numbers.chain(categories).collect()
        };
        (0..40).map(row).collect()
    }

    fn spread(rows: &[Values]) -> Spread {
        let inputs: Vec<Input> =
            rows.iter().map(|row| Input { parts: vec![Part::Features(row.clone())] }).collect();
        Spread::of(&inputs)
    }

    #[test]
    fn what_is_more_severe_is_further_away_and_bytes_are_the_same_for_a_seed() {
        let rows = rows();
        let spread = spread(&rows);
        for kind in KINDS {
            let far = |severity| {
                let mut sum = 0.0;
                for (seed, row) in rows.iter().enumerate() {
                    let of = || {
                        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
                        change(kind, severity, row, &spread, &mut rng)
                    };
                    let changed = of();
                    assert_eq!(changed, of());
                    sum += row
                        .iter()
                        .map(|(name, old)| match (old, changed.get(name)) {
                            (FeatureValue::Number(old), Some(FeatureValue::Number(new))) => {
                                (old - new).abs() / spread.number(name).unwrap().deviation
                            }
                            (old, new) => f64::from(u8::from(Some(old) != new)),
                        })
                        .sum::<f64>();
                }
                sum
            };
            let all: Vec<f64> = (1..=5).map(far).collect();
            assert!(all.is_sorted_by(|a, b| a < b) && all[0] > 0.0, "{kind:?}: {all:?}");
        }
    }

    #[test]
    fn swapped_categories_were_seen_and_one_value_is_always_left() {
        let rows = rows();
        let spread = spread(&rows);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for row in &rows {
            let changed = change(Kind::FeaturesCategorySwap, 5, row, &spread, &mut rng);
            for (name, value) in changed {
                if let FeatureValue::Category(category) = value {
                    assert!(spread.categories(&name).contains(&category));
                }
            }
        }
        let one = Values::from([("only".to_owned(), FeatureValue::Number(1.0))]);
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            assert_eq!(change(Kind::FeaturesMissing, 5, &one, &spread, &mut rng), one);
        }
        let huge = Values::from([("n00".to_owned(), FeatureValue::Number(f64::MAX))]);
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let changed = change(Kind::FeaturesUnitError, 5, &huge, &spread, &mut rng);
            let FeatureValue::Number(number) = changed["n00"] else { panic!("it is a number") };
            assert!(number.is_finite());
        }
    }
}
