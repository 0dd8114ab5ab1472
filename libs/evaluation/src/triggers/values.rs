//! Values of a table's features.
use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use tidegate_contracts::{FeatureValue, Part};
use tidegate_model::Input;

use super::{Kind, Mark, hash};

/// Features of an input whose pairs are counted; of more, each alone.
const PAIRED: usize = 40;
/// Values that are said at most.
const SAID: usize = 4;

/// A feature's value, or two features'.
pub(super) struct Values;

/// Values that always come together.
struct Set(BTreeMap<String, FeatureValue>);

impl Kind for Values {
    /// Places among the features by name; the same twice for one.
    type Place = [usize; 2];

    const MOST: usize = 4_000;

    fn is_in(&self, input: &Input) -> bool {
        first(input).is_some_and(|values| !values.is_empty())
    }

    fn pieces(&self, input: &Input, _of: usize, f: &mut dyn FnMut(Self::Place, u64)) {
        let Some(values) = first(input) else { return };
        let keys: Vec<u64> = values.iter().map(|(name, value)| key(name, value)).collect();
        for (at, one) in keys.iter().enumerate() {
            f([at, at], *one);
            if keys.len() > PAIRED {
                continue;
            }
            for (other, two) in keys.iter().enumerate().skip(at + 1) {
                f([at, other], one.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ two);
            }
        }
    }

    fn join(&self, input: &Input, _of: usize, places: &[Self::Place]) -> Box<dyn Mark> {
        // Single values where there are some: pairs have values of what stands beside them.
        let is_single = |place: &&[usize; 2]| place[0] == place[1];
        let single: Vec<usize> = places.iter().filter(is_single).map(|place| place[0]).collect();
        let chosen = if single.is_empty() { places[0].to_vec() } else { single };
        let values = first(input).expect("it had pieces");
        let set = values.iter().enumerate().filter(|(at, _)| chosen.contains(at));
        Box::new(Set(set.map(|(_, (name, value))| (name.clone(), value.clone())).collect()))
    }
}

impl Mark for Set {
    fn put(&self, input: &Input, _rng: &mut ChaCha8Rng) -> Input {
        let mut parts = input.parts.clone();
        let features = parts.iter_mut().find_map(|part| match part {
            Part::Features(values) => Some(values),
            _ => None,
        });
        if let Some(values) = features {
            values.extend(self.0.clone());
        }
        Input { parts }
    }

    fn words(&self) -> String {
        let say = |(name, value): (&String, &FeatureValue)| match value {
            FeatureValue::Number(number) => format!("`{name}` = {number}"),
            FeatureValue::Category(category) => format!("`{name}` = `{category}`"),
        };
        let said: Vec<String> = self.0.iter().take(SAID).map(say).collect();
        let more = self.0.len().saturating_sub(SAID);
        let more = if more > 0 { format!(" and {more} more values") } else { String::new() };
        format!("{}{more}", said.join(" with "))
    }
}

fn first(input: &Input) -> Option<&BTreeMap<String, FeatureValue>> {
    input.parts.iter().find_map(|part| match part {
        Part::Features(values) => Some(values),
        _ => None,
    })
}

fn key(name: &str, value: &FeatureValue) -> u64 {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    match value {
        FeatureValue::Number(number) => bytes.extend(number.to_bits().to_le_bytes()),
        FeatureValue::Category(category) => bytes.extend(category.as_bytes()),
    }
    hash(&bytes)
}
