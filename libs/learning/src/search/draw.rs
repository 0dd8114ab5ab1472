//! Which architectures are tried, and which are better.
use std::{cmp::Ordering, iter};

use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use tidegate_model::{Adapters, Architecture};

use crate::{LearningError, Method, Recipe, Search, diagnosis::flops, plan::Parameters};

/// Combinations that are looked at; of a space that has more, so many draws.
const LOOKED_AT: u64 = 1 << 16;

/// The recipe's own architecture and others of its space: different ones that are possible and
/// within the search's bounds, as many as are asked for or there are. A function of the recipe.
pub(crate) fn candidates(
    recipe: &Recipe,
    classes: usize,
) -> Result<Vec<Architecture>, LearningError> {
    let search = &recipe.search;
    let mut rng = ChaCha8Rng::seed_from_u64(search.seed);
    let size = search.space.size();
    let order: Box<dyn Iterator<Item = u64>> = if size <= LOOKED_AT {
        let mut all: Vec<u64> = (0..size).collect();
        all.shuffle(&mut rng);
        Box::new(all.into_iter())
    } else {
        Box::new((0..LOOKED_AT).map(move |_| rng.random_range(0..size)))
    };
    let base = &recipe.architecture;
    let drawn = order.map(|at| search.space.combination(at, base));
    let mut chosen: Vec<Architecture> = Vec::new();
    for architecture in iter::once(base.clone()).chain(drawn) {
        if chosen.len() == search.candidates {
            break;
        }
        let fits = architecture.validate().is_ok() && is_within(search, &architecture, classes);
        if fits && !chosen.contains(&architecture) {
            chosen.push(architecture);
        }
    }
    if chosen.is_empty() {
        return Err(LearningError::Recipe {
            field: "search.space".to_owned(),
            value: format!("{size} combinations"),
            need: "none of them is possible and within `max_parameters` and \
                   `max_flops_per_token`; nor is the recipe's own architecture",
        });
    }
    Ok(chosen)
}

fn is_within(search: &Search, a: &Architecture, classes: usize) -> bool {
    let parameters = parameters(a, classes).total;
    (search.max_parameters == 0 || parameters <= search.max_parameters)
        && (search.max_flops_per_token == 0.0
            || flops_per_token(a, classes) <= search.max_flops_per_token)
}

pub(super) fn parameters(a: &Architecture, classes: usize) -> Parameters {
    Parameters::of(a, classes, &Adapters::default(), &Method::default())
}

/// Of a prediction: a third of what a step does.
pub(super) fn flops_per_token(a: &Architecture, classes: usize) -> f64 {
    flops::training(a, classes, a.context) / 3.0 / a.context as f64
}

/// Best first. `scored`: index, accuracy and work. The first is the one of the least work among
/// those within `tie` of the highest accuracy, the next likewise of the rest, and so on; of equals
/// the one that was drawn first.
pub(super) fn ranked(mut scored: Vec<(usize, f64, f64)>, tie: f64) -> Vec<usize> {
    let mut order = Vec::with_capacity(scored.len());
    while !scored.is_empty() {
        let highest = scored.iter().map(|one| one.1).fold(f64::NEG_INFINITY, f64::max);
        let cheaper = |a: &(usize, f64, f64), b: &(usize, f64, f64)| -> Ordering {
            a.2.total_cmp(&b.2).then(b.1.total_cmp(&a.1)).then(a.0.cmp(&b.0))
        };
        let best = (0..scored.len())
            .filter(|&at| scored[at].1 + tie >= highest)
            .min_by(|&a, &b| cheaper(&scored[a], &scored[b]))
            .expect("the highest is within a tie of itself");
        order.push(scored.remove(best).0);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Recipe {
        Recipe::from_toml(text).unwrap()
    }

    #[test]
    fn candidates_are_different_possible_and_the_same_for_the_same_seed() {
        let recipe = recipe("[search]\ncandidates = 20");
        let all = candidates(&recipe, 2).unwrap();
        assert_eq!(all.len(), 20);
        assert_eq!(all[0], recipe.architecture);
        for (at, one) in all.iter().enumerate() {
            one.validate().unwrap();
            assert!(!all[..at].contains(one));
        }
        assert_eq!(candidates(&recipe, 2).unwrap(), all);
        let mut other = recipe;
        other.search.seed = 1;
        assert_ne!(candidates(&other, 2).unwrap(), all);
    }

    #[test]
    fn a_small_space_is_tried_whole_and_bounds_hold_for_all() {
        let text = "[search]\ncandidates = 50\n[search.space]\nd_model = [32]\nlayers = [1, 2]\n\
                    heads = [4]\nkv_heads = [3, 2]\nexperts = [4]\ntop_k = [1]\n\
                    expert_width = [32]\n";
        // Three key heads do not divide four, so two are left beside the recipe's own.
        assert_eq!(candidates(&recipe(text), 2).unwrap().len(), 3);
        let bound = text.replace("candidates = 50", "candidates = 50\nmax_flops_per_token = 1e5");
        let found = candidates(&recipe(&bound), 2).unwrap();
        assert!(!found.is_empty() && found.iter().all(|one| flops_per_token(one, 2) <= 1e5));
        let none = text.replace("candidates = 50", "candidates = 50\nmax_parameters = 9");
        let error = candidates(&recipe(&none), 2).unwrap_err().to_string();
        assert!(error.contains("`search.space`") && error.contains("max_parameters"), "{error}");
    }

    #[test]
    fn of_those_within_a_tie_the_cheaper_is_first() {
        let scored = vec![(0, 0.90, 5.0), (1, 0.904, 9.0), (2, 0.80, 1.0), (3, 0.899, 2.0)];
        assert_eq!(ranked(scored.clone(), 0.005), [3, 0, 1, 2]);
        assert_eq!(ranked(scored, 0.0), [1, 0, 3, 2]);
        assert_eq!(ranked(vec![(4, 0.5, 1.0), (7, 0.5, 1.0)], 0.1), [4, 7]);
    }
}
