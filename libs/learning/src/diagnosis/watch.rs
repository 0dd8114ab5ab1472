//! What stops a job.
use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use tidegate_model::{Architecture, ExpertLoad};

use super::Norms;
use crate::{Alerts, LearningError};

/// Steps that the running median is of.
const MEDIAN_OF: usize = 101;

/// Steps before a gradient is compared with the median.
const ENOUGH: usize = 20;

/// For how many steps in a row something has been wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watch {
    /// Norms of the newest steps that did not explode.
    norms: VecDeque<f64>,
    exploding: u64,
    vanishing: u64,
    /// By layer: the expert that gets too much, and for how long.
    collapsed: BTreeMap<usize, (usize, u64)>,
}

impl Watch {
    /// Looks at the gradient of a step, before it is clipped.
    pub(super) fn gradient(
        &mut self,
        step: u64,
        norms: &Norms,
        alerts: &Alerts,
    ) -> Result<(), LearningError> {
        let median = median(&self.norms);
        let explodes = alerts.exploding > 0.0
            && self.norms.len() >= ENOUGH
            && norms.total > alerts.exploding * median;
        self.exploding = if explodes { self.exploding + 1 } else { 0 };
        if self.exploding >= alerts.steps {
            let (norm, steps) = (norms.total, self.exploding);
            return Err(LearningError::Exploding { step, norm, median, steps });
        }
        if !explodes {
            self.norms.push_back(norms.total);
            if self.norms.len() > MEDIAN_OF {
                self.norms.pop_front();
            }
        }
        let largest = norms.layers.values().copied().fold(0.0, f64::max);
        let vanishes = alerts.vanishing > 0.0 && largest < alerts.vanishing;
        self.vanishing = if vanishes { self.vanishing + 1 } else { 0 };
        if self.vanishing >= alerts.steps {
            return Err(LearningError::Vanishing { step, norm: largest, steps: self.vanishing });
        }
        Ok(())
    }

    /// Looks at the loads of a step, one a layer. An expert gets `1 / top_k` of the assignments
    /// when every token is sent to it: that is a share of 1 of the tokens.
    pub(super) fn loads<'a>(
        &mut self,
        step: u64,
        loads: impl IntoIterator<Item = &'a ExpertLoad>,
        architecture: &Architecture,
        alerts: &Alerts,
    ) -> Result<(), LearningError> {
        if alerts.collapsed == 0.0 {
            return Ok(());
        }
        for (layer, load) in loads.into_iter().enumerate() {
            let (experts, top_k) = architecture.experts_of(layer);
            if top_k >= experts {
                // Every token goes to every expert anyway.
                continue;
            }
            let fullest = load.0.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            let Some((expert, share)) = fullest else { continue };
            let share = f64::from(share) * top_k as f64;
            if share <= alerts.collapsed {
                self.collapsed.remove(&layer);
                continue;
            }
            let (of, steps) = self.collapsed.entry(layer).or_insert((expert, 0));
            if *of != expert {
                (*of, *steps) = (expert, 0);
            }
            *steps += 1;
            if *steps >= alerts.steps {
                return Err(LearningError::Collapsed { step, layer, expert, share, steps: *steps });
            }
        }
        Ok(())
    }
}

fn median(norms: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = norms.iter().copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alerts() -> Alerts {
        Alerts { exploding: 100.0, vanishing: 1e-9, collapsed: 0.9, steps: 5 }
    }

    fn norms(total: f64) -> Norms {
        Norms { total, layers: BTreeMap::from([("head".to_owned(), total)]) }
    }

    /// The step at which the series stops a job.
    fn stops(series: impl IntoIterator<Item = f64>) -> Option<(usize, LearningError)> {
        let mut watch = Watch::default();
        series.into_iter().enumerate().find_map(|(step, norm)| {
            let judged = watch.gradient(step as u64, &norms(norm), &alerts());
            judged.err().map(|error| (step, error))
        })
    }

    #[test]
    fn a_gradient_far_above_its_median_for_long_enough_stops_the_job() {
        let calm = || (0..50).map(|step| 1.0 + f64::from(step % 3));
        let (step, error) = stops(calm().chain([500.0; 9])).unwrap();
        assert_eq!(step, 54);
        assert!(matches!(error, LearningError::Exploding { steps: 5, .. }), "{error}");
        assert!(error.to_string().contains("median of 2"), "{error}");
        assert!(stops(calm().chain([500.0; 4]).chain(calm()).chain([500.0; 4])).is_none());
        // Growing slowly is not exploding.
        assert!(stops((0..500).map(|step| 1.05_f64.powi(step))).is_none());
        // The first steps have nothing to be compared with.
        assert!(stops([1e-6, 1.0, 1e6, 1e9, 1e9, 1e9, 1e9, 1e9]).is_none());
    }

    #[test]
    fn a_gradient_of_nothing_for_long_enough_stops_the_job() {
        let (step, error) = stops([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1e-12, 0.0, 0.0, 0.0]).unwrap();
        assert_eq!(step, 9);
        assert!(matches!(error, LearningError::Vanishing { .. }), "{error}");
    }

    #[test]
    fn a_router_that_sends_everything_to_one_expert_stops_the_job() {
        let architecture = Architecture { experts: 4, top_k: 2, ..Architecture::default() };
        let even = ExpertLoad(vec![0.25; 4]);
        let to = |expert: usize| {
            let mut load = vec![0.5 / 3.0; 4];
            load[expert] = 0.5;
            ExpertLoad(load)
        };
        let mut watch = Watch::default();
        let mut judge = |step: u64, load: ExpertLoad, architecture: &Architecture| {
            watch.loads(step, &[even.clone(), load], architecture, &alerts())
        };
        for step in 0..20 {
            // Another expert each time is a strange router, but not a collapsed one.
            judge(step, to(step as usize % 2), &architecture).unwrap();
        }
        for step in 20..24 {
            judge(step, to(3), &architecture).unwrap();
        }
        let error = judge(24, to(3), &architecture).unwrap_err();
        assert!(
            matches!(error, LearningError::Collapsed { layer: 1, expert: 3, steps: 5, .. }),
            "{error}"
        );
        let both = Architecture { top_k: 4, ..architecture };
        for step in 0..20 {
            judge(step, ExpertLoad(vec![0.25; 4]), &both).unwrap();
        }
    }
}
