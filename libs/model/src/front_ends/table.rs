//! Tabular features: rows of a hashed table, and keys of the wide path.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_contracts::FeatureValue;

use super::{Evidence, TERMS};
use crate::{
    FEATURE_SCALES, ModelError,
    text::{fnv, mix},
};

/// Features of one input that are read at all: with more it is refused.
pub const MOST_FEATURES: usize = 1_000;
/// Names whose scale is remembered.
const MOST_NAMES: usize = 4_096;
/// Fewer values say too little about a scale.
const LEAST_VALUES: usize = 20;
/// Steps between quantiles.
const STEPS: usize = 32;
/// Bins that the wide path sees a number in: coarse ones learn from few examples, fine ones more.
const BINS: [usize; 2] = [4, 16];
/// Deviation of a logistic variable of scale 1, inverted.
const LOGISTIC: f64 = 0.551_328_895_421_792_1;

type Values = BTreeMap<String, FeatureValue>;

/// Refuses what no model can read.
///
/// `before`: features of the input's other parts.
pub(super) fn check(values: &Values, before: usize) -> Result<(), String> {
    if values.is_empty() {
        return Err("it has no features".to_owned());
    }
    let count = before.saturating_add(values.len());
    if count > MOST_FEATURES {
        return Err(format!("it has {count} features: at most {MOST_FEATURES} are read"));
    }
    for (name, value) in values {
        if let FeatureValue::Number(number) = value
            && !number.is_finite()
        {
            return Err(format!("feature `{name}` is {number}: a finite number is needed"));
        }
    }
    Ok(())
}

/// How the numbers of each feature are spread: quantiles of the values that it had in the window
/// that it was seen in first. Part of a generation; a name that is not here has a fixed scale.
///
/// A number counts by its place among them, not by its size (as FT-Transformer's authors prepare
/// theirs, arXiv 2106.11959, section 4): outliers and units make no difference.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scales(BTreeMap<String, Vec<f64>>);

impl Scales {
    /// These, and those of the names in `tables` that are new.
    #[must_use]
    pub fn learn<'a>(&self, tables: impl IntoIterator<Item = &'a Values>) -> Self {
        let mut seen: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, value) in tables.into_iter().flatten() {
            if let FeatureValue::Number(number) = value
                && number.is_finite()
                && !self.0.contains_key(name)
            {
                seen.entry(name).or_default().push(*number);
            }
        }
        let mut new: Vec<(&str, Vec<f64>)> =
            seen.into_iter().filter(|(_, values)| values.len() >= LEAST_VALUES).collect();
        // The most common first; among equals by name.
        new.sort_by_key(|(_, values)| std::cmp::Reverse(values.len()));
        new.truncate(MOST_NAMES.saturating_sub(self.0.len()));
        let mut scales = self.clone();
        scales.0.extend(new.into_iter().map(|(name, values)| (name.to_owned(), quantiles(values))));
        scales
    }

    /// Names that have one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of [`FEATURE_SCALES`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("finite numbers by name are JSON")
    }

    /// Reads what [`Scales::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] when it is anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let bad = |reason: String| ModelError::BadFile { file: FEATURE_SCALES, reason };
        let scales: Self = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        let sound = |q: &Vec<f64>| q.len() == STEPS + 1 && q.is_sorted();
        match scales.0.iter().find(|(_, quantiles)| !sound(quantiles)) {
            Some((name, _)) => Err(bad(format!("`{name}` has no {} rising quantiles", STEPS + 1))),
            None => Ok(scales),
        }
    }

    /// The share of values below, 0 to 1; of equal ones half counts.
    fn place(&self, name: &str, number: f64) -> Option<f64> {
        let quantiles = self.0.get(name)?;
        let below = quantiles.partition_point(|&q| q < number);
        let not_above = quantiles.partition_point(|&q| q <= number);
        let place = if below < not_above {
            (below + not_above - 1) as f64 / 2.0
        } else if below == 0 || below > STEPS {
            below.min(STEPS) as f64
        } else {
            let (low, high) = (quantiles[below - 1], quantiles[below]);
            // Halved first: the difference of two huge numbers may have no finite double.
            let way = (number / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
            // Of numbers next to 0 all three halves may be one: then there is no way.
            (below - 1) as f64 + way.max(0.0)
        };
        Some(place / STEPS as f64)
    }
}

fn quantiles(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len() - 1;
    // Values that there were, so that equal ones stay equal.
    (0..=STEPS).map(|step| values[(step * last + STEPS / 2) / STEPS]).collect()
}

/// One part as both paths see it.
#[derive(Debug, PartialEq)]
pub(crate) struct Read {
    /// Rows of the table and their weights.
    pub(crate) tokens: Vec<[(u32, f32); TERMS]>,
    /// Of each category one, of each number one for each size of bins; of length 1.
    pub(crate) evidence: Vec<Evidence>,
}

impl Read {
    /// `rows`: of the table, a power of two.
    pub(crate) fn new(values: &Values, rows: usize, scales: &Scales) -> Self {
        let mut tokens = Vec::new();
        let mut keys = Vec::new();
        for (name, value) in values {
            let of_name = mix(fnv(name.bytes()));
            let (key, factor) = match value {
                FeatureValue::Category(category) => {
                    let key = mix(of_name ^ fnv(category.bytes()));
                    keys.push(key);
                    (key, 1.0)
                }
                FeatureValue::Number(number) => {
                    let (level, bins) = self::number(name, *number, scales);
                    keys.extend(bins);
                    (mix(of_name ^ 1), level)
                }
            };
            let row = |hash: u64| u32::try_from(hash & (rows as u64 - 1)).expect("at most 2^24");
            // The upper half of a hash knows nothing of the lower.
            let [a, b, c, d] = [of_name, of_name >> 32, key, key >> 32].map(row);
            tokens.push([(a, 1.0), (b, 1.0), (c, factor), (d, factor)]);
        }
        let value = 1.0 / (keys.len() as f32).sqrt();
        Self { tokens, evidence: keys.into_iter().map(|key| (key, value)).collect() }
    }
}

/// What both paths make of one number: its level, and keys of the wide path, each of which counts
/// alike.
pub(crate) fn number(name: &str, number: f64, scales: &Scales) -> (f32, [u64; BINS.len()]) {
    let (level, bins) = number_of(name, number, scales);
    let of_name = mix(fnv(name.bytes()));
    (level, bins.map(|bin| mix(of_name.wrapping_add(bin))))
}

/// A number of about deviation 1, and the bins that it lies in.
fn number_of(name: &str, number: f64, scales: &Scales) -> (f32, [u64; BINS.len()]) {
    let mut kind = 2_u64;
    if let Some(place) = scales.place(name, number) {
        let inside = place.clamp(1.0 / 64.0, 63.0 / 64.0);
        let level = LOGISTIC * (inside / (1.0 - inside)).ln();
        let bins = BINS.map(|count| {
            kind += 64;
            kind + ((place * count as f64) as u64).min(count as u64 - 1)
        });
        return (level as f32, bins);
    }
    // Of unknown scale: by the order of its size, by powers of 4 and of 2.
    let size = number.abs().ln_1p();
    let level = (size / 3.0).min(2.3).copysign(number);
    let order = if number == 0.0 { 0 } else { 2_048 + number.abs().log2().floor() as i64 };
    let sign = u64::from(number < 0.0) << 20;
    let bins = [order >> 1, order].map(|order| {
        kind += 1 << 21;
        kind + sign + order.unsigned_abs()
    });
    (level as f32, bins)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(name: &str, values: impl IntoIterator<Item = f64>) -> Vec<Values> {
        let table = |value| Values::from([(name.to_owned(), FeatureValue::Number(value))]);
        values.into_iter().map(table).collect()
    }

    fn category(name: &str, value: &str) -> Values {
        Values::from([(name.to_owned(), FeatureValue::Category(value.to_owned()))])
    }

    #[test]
    fn a_number_counts_by_its_place_whatever_its_unit() {
        let grams = numbers("weight", (0..1_000).map(f64::from));
        let tons = numbers("weight", (0..1_000).map(|at| f64::from(at) * 1e-6 - 7.0));
        let (grams, tons) = (Scales::default().learn(&grams), Scales::default().learn(&tons));
        for at in [-5.0, 0.0, 130.0, 500.0, 999.0, 1e9_f64] {
            let one = number_of("weight", at, &grams);
            let other = number_of("weight", at * 1e-6 - 7.0, &tons);
            assert!((one.0 - other.0).abs() < 1e-2, "{at}: {one:?}, {other:?}");
            assert!(one.0.abs() < 2.5);
        }
        let levels: Vec<f32> =
            (0..1_000).map(|at| number_of("weight", f64::from(at), &grams).0).collect();
        assert!(levels.is_sorted());
        let square: f32 = levels.iter().map(|level| level * level).sum::<f32>() / 1_000.0;
        assert!((square - 1.0).abs() < 0.15, "{square}");
        // A flag has two levels, one to each side.
        let flag = Scales::default().learn(&numbers("flag", (0..60).map(|at| f64::from(at % 2))));
        let [no, yes] = [0.0, 1.0].map(|at| number_of("flag", at, &flag).0);
        assert!((no + yes).abs() < 0.1 && yes > 0.5, "{no} {yes}");
    }

    #[test]
    fn bins_tell_numbers_apart_and_a_constant_has_one() {
        let scales = Scales::default().learn(&numbers("x", (0..320).map(f64::from)));
        let bins = |at: f64| number_of("x", at, &scales).1;
        let distinct = |level: usize| {
            let mut all: Vec<u64> = (0..320).map(|at| bins(f64::from(at))[level]).collect();
            all.dedup();
            all.len()
        };
        assert_eq!([distinct(0), distinct(1)], [4, 16]);
        let same = Scales::default().learn(&numbers("x", [3.0; 50]));
        assert_eq!(number_of("x", 3.0, &same).0, 0.0);
    }

    #[test]
    fn a_name_without_a_scale_has_a_fixed_one() {
        let none = Scales::default().learn(&numbers("x", [1.0; LEAST_VALUES - 1]));
        assert!(none.is_empty());
        let level = |at: f64| number_of("x", at, &none).0;
        assert!(level(-3.0) < level(0.0) && level(0.0) < level(3.0) && level(3.0) < level(1e3));
        assert!(level(f64::MAX) <= 2.3 && level(f64::MIN) >= -2.3 && level(0.0) == 0.0);
        let bins = |at: f64| number_of("x", at, &none).1;
        assert_ne!(bins(3.0), bins(-3.0));
        assert_ne!(bins(1e-300), bins(0.0));
        assert_eq!(bins(5.0), bins(7.9));
    }

    #[test]
    fn a_scale_once_learnt_stays_and_new_names_join() {
        let first = Scales::default().learn(&numbers("a", (0..100).map(f64::from)));
        let mut later = numbers("a", (0..100).map(|at| f64::from(at) + 1e6));
        later.extend(numbers("b", (0..50).map(f64::from)));
        let second = first.learn(&later);
        assert_eq!(second.place("a", 50.0), first.place("a", 50.0));
        assert_eq!((first.len(), second.len()), (1, 2));
        assert_eq!(Scales::from_bytes(&second.to_bytes()).unwrap(), second);
        for wrong in [&b"{}["[..], b"{\"a\":[1.0]}", b"{\"a\":3}"] {
            let error = Scales::from_bytes(wrong).unwrap_err().to_string();
            assert!(error.contains(FEATURE_SCALES), "{error}");
        }
    }

    #[test]
    fn names_values_and_their_pairs_have_rows_of_their_own() {
        let scales = Scales::default();
        let read = |values: &Values| Read::new(values, 2_048, &scales);
        let (red, blue) = (read(&category("colour", "red")), read(&category("colour", "blue")));
        assert_eq!(red.tokens[0][..2], blue.tokens[0][..2]);
        assert_ne!(red.tokens[0][2..], blue.tokens[0][2..]);
        assert_ne!(red.evidence, blue.evidence);
        assert_ne!(red.evidence, read(&category("size", "red")).evidence);
        let mut both = category("colour", "red");
        both.insert("n".to_owned(), FeatureValue::Number(2.0));
        let both = read(&both);
        assert_eq!((both.tokens.len(), both.evidence.len()), (2, 1 + BINS.len()));
        assert_eq!(both.tokens[0], red.tokens[0]);
    }

    #[test]
    fn what_no_model_reads_is_refused_by_name() {
        let broken = &numbers("speed", [f64::NAN])[0];
        assert_eq!(
            check(broken, 0).unwrap_err(),
            "feature `speed` is NaN: a finite number is needed"
        );
        let many: Values =
            (0..10_000).map(|at| (at.to_string(), FeatureValue::Number(0.0))).collect();
        assert!(check(&many, 0).unwrap_err().contains("10000 features: at most 1000"));
        assert!(check(&Values::new(), 0).unwrap_err().contains("no features"));
    }
}
