//! What a step minimises, and its gradients for both paths.
use std::ops::Range;

use burn::tensor::{Tensor, TensorData, activation::log_softmax};
use tidegate_model::{Batch, Features, Network, Routed, RouterTraining};

use crate::{Course, Trains, optimizer::Gradients};

/// What each text of a batch should be answered by. All tables are `[batch, classes]`, row by row,
/// and carry the texts' weights, which sum to 1 over the batch: a sum over any parts of a batch is
/// a part of its loss, so gradients of micro-batches only need adding.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Targets {
    /// The label: one-hot, or how likely each level of a number should be called.
    pub(crate) label: Vec<f32>,
    /// The label's part where the rest is distilled.
    pub(crate) hard: Vec<f32>,
    /// The champion's softened answer's part.
    pub(crate) soft: Option<Vec<f32>>,
    pub(crate) temperature: f32,
    pub(crate) recorded: Option<Recorded>,
}

/// Logits that texts had when they were learnt, each with the weight of its squared distance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) logits: Vec<f32>,
    /// 0 where nothing is recorded.
    pub(crate) weight: Vec<f32>,
}

impl Targets {
    fn rows(&self, rows: &Range<usize>, classes: usize) -> Self {
        let cut = |table: &Vec<f32>| table[rows.start * classes..rows.end * classes].to_vec();
        Self {
            label: cut(&self.label),
            hard: cut(&self.hard),
            soft: self.soft.as_ref().map(cut),
            temperature: self.temperature,
            recorded: self
                .recorded
                .as_ref()
                .map(|r| Recorded { logits: cut(&r.logits), weight: cut(&r.weight) }),
        }
    }
}

/// What a pass found.
pub(crate) struct Pass<B: Trains> {
    /// Of the answers alone.
    pub(crate) loss: f32,
    /// Of the routers, weighted; where any is asked for.
    pub(crate) router_loss: Option<f32>,
    /// Still scaled.
    pub(crate) gradients: Gradients<B::InnerBackend>,
    /// dL/dlogits of the wide path, `[batch, classes]`; still scaled.
    pub(crate) wide_gradient: Vec<f32>,
    /// What the routers did; one a layer.
    pub(crate) routed: Vec<Routed>,
}

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) course: &'a Course,
    /// What the loss is multiplied by before it goes backward.
    pub(crate) scale: f32,
    /// How routers work meanwhile.
    pub(crate) router: RouterTraining,
}

/// Forward and backward over a batch, one micro-batch after the other.
///
/// `wide`: the wide path's logits, `[batch, classes]`.
///
/// A router's losses are means over tokens, so those of a part count by its share of the tokens.
/// The z-losses then add up to that of the whole batch. The balance losses do not quite: each
/// part's is the product of its own load and affinities, and so evens out each micro-batch, which
/// is stricter than evening out the batch (Qiu et al. 2025, arXiv 2501.11873, eq. 4). The exact one
/// would take the whole batch's load, and so another forward pass. The same holds for capacities.
pub(crate) fn accumulate<B: Trains>(
    network: &Network<B>,
    features: &[&Features],
    wide: &[f32],
    targets: &Targets,
    setting: Setting<'_>,
    device: &B::Device,
) -> Pass<B> {
    let classes = network.classes();
    in_parts(features, setting, |Part { texts, share }| {
        let wide = &wide[texts.start * classes..texts.end * classes];
        let targets = targets.rows(&texts, classes);
        pass(network, &features[texts], wide, &targets, share, setting, device)
    })
}

/// A micro-batch.
pub(crate) struct Part {
    /// Of the batch.
    pub(crate) texts: Range<usize>,
    /// Of the batch's tokens.
    pub(crate) share: f64,
}

/// Adds up what `pass` finds in each micro-batch.
pub(crate) fn in_parts<B: Trains>(
    features: &[&Features],
    setting: Setting<'_>,
    pass: impl Fn(Part) -> Pass<B>,
) -> Pass<B> {
    let rows = features.len();
    let size = match setting.course.micro_batch {
        0 => rows,
        size => size.min(rows),
    };
    let tokens = |texts: Range<usize>| -> usize {
        features[texts].iter().map(|features| features.rows()).sum()
    };
    let all = tokens(0..rows) as f64;
    let part = |texts: Range<usize>| {
        let share = tokens(texts.clone()) as f64 / all;
        pass(Part { texts, share })
    };
    let mut whole = part(0..size);
    for start in (size..rows).step_by(size) {
        let next = part(start..rows.min(start + size));
        whole.loss += next.loss;
        whole.router_loss = match (whole.router_loss, next.router_loss) {
            (Some(sum), Some(loss)) => Some(sum + loss),
            (sum, loss) => sum.or(loss),
        };
        whole.gradients.add(next.gradients);
        whole.wide_gradient.extend(next.wide_gradient);
        for (whole, next) in whole.routed.iter_mut().zip(next.routed) {
            join(whole, next);
        }
    }
    whole
}

/// Loss of the wide path alone, and its gradient `[batch, classes]`: cross entropy with the labels.
///
/// `wide`: its logits, `[batch, classes]`; `label`: as in [`Targets`].
pub(crate) fn wide_alone(wide: &[f32], label: &[f32], classes: usize) -> (f32, Vec<f32>) {
    let (mut loss, mut gradient) = (0.0, Vec::with_capacity(wide.len()));
    for (logits, label) in wide.chunks_exact(classes).zip(label.chunks_exact(classes)) {
        let weight: f32 = label.iter().sum();
        let answer = softened(logits, 1.0);
        for (answer, label) in answer.iter().zip(label) {
            if *label > 0.0 {
                loss -= label * answer.max(f32::MIN_POSITIVE).ln();
            }
            gradient.push(weight * answer - label);
        }
    }
    (loss, gradient)
}

/// Adds what a router did with more texts.
fn join(whole: &mut Routed, next: Routed) {
    whole.assignments += next.assignments;
    let share = next.assignments as f32 / whole.assignments as f32;
    for (load, next) in whole.load.0.iter_mut().zip(&next.load.0) {
        *load += share * (next - *load);
    }
    whole.entropy += share * (next.entropy - whole.entropy);
    whole.dropped.extend(next.dropped);
}

/// Forward and backward.
///
/// The loss is cross entropy of both paths' summed logits, plus that of each path alone by the
/// course's weights. On distilled texts a share is cross entropy with the champion's softened
/// answer, times T^2 so that its gradient does not depend on T (Hinton et al. 2015). Where logits
/// are recorded, their squared distance is added (DER++, eq. 6). `share`: of the batch's tokens.
fn pass<B: Trains>(
    network: &Network<B>,
    features: &[&Features],
    wide: &[f32],
    targets: &Targets,
    share: f64,
    setting: Setting<'_>,
    device: &B::Device,
) -> Pass<B> {
    let course = setting.course;
    let shape = [features.len(), network.classes()];
    let constant =
        |values: &[f32]| Tensor::<B, 2>::from_data(TensorData::new(values.to_vec(), shape), device);
    // The wide table is outside of autodiff: its logits are a leaf, whose gradient its own
    // optimiser takes.
    let wide = constant(wide).require_grad();
    let output = network.forward_learning(&Batch::new(features, device), setting.router);
    let deep = if course.deep_rate > 0.0 { output.logits } else { output.logits.detach() };
    let logits = deep.clone() + wide.clone();

    let cross_entropy = |logits: Tensor<B, 2>, target: &[f32]| {
        (log_softmax(logits, 1) * constant(target)).sum().neg()
    };
    let mut loss = cross_entropy(logits.clone(), &targets.hard);
    if let Some(recorded) = &targets.recorded {
        let distance = logits.clone() - constant(&recorded.logits);
        loss = loss + (distance.clone() * distance * constant(&recorded.weight)).sum();
    }
    if let Some(soft) = &targets.soft {
        let t = targets.temperature;
        loss = loss + cross_entropy(logits.div_scalar(t), soft).mul_scalar(t * t);
    }
    let value = scalar(loss.clone());
    if course.deep_loss > 0.0 && course.deep_rate > 0.0 {
        loss = loss + cross_entropy(deep, &targets.label).mul_scalar(course.deep_loss);
    }
    if course.wide_loss > 0.0 && course.wide_rate > 0.0 {
        loss = loss + cross_entropy(wide.clone(), &targets.label).mul_scalar(course.wide_loss);
    }
    let mut router_loss = None;
    if let Some(of_routers) = output.router_loss.filter(|_| course.deep_rate > 0.0) {
        let of_routers = of_routers.mul_scalar(share);
        router_loss = Some(scalar(of_routers.clone()));
        loss = loss + of_routers;
    }
    if setting.scale != 1.0 {
        loss = loss.mul_scalar(setting.scale);
    }
    let gradients = loss.backward();
    let wide_gradient = wide.grad(&gradients).expect("the wide logits are a leaf of the loss");
    let wide_gradient = wide_gradient.into_data().convert::<f32>();
    Pass {
        loss: value,
        router_loss,
        gradients: Gradients::take(network, gradients),
        wide_gradient: wide_gradient.into_vec().expect("converted to f32 in the line above"),
        routed: output.routed,
    }
}

pub(crate) fn scalar<B: Trains>(loss: Tensor<B, 1>) -> f32 {
    let data = loss.detach().into_data().convert::<f32>();
    data.into_vec::<f32>().expect("converted to f32 in the line above")[0]
}

/// Softmax of a row at temperature `t`, in f64.
pub(crate) fn softened(logits: &[f32], t: f32) -> Vec<f32> {
    let t = f64::from(t);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|l| (f64::from(l - highest) / t).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| (e / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use tidegate_model::{Architecture, Compute, Weights};

    use super::*;
    use crate::Recipe;

    type Tracked = Autodiff<Flex>;

    fn network() -> Network<Tracked> {
        let architecture = Architecture {
            d_model: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            context: 16,
            vocab: 300,
            experts: 4,
            expert_width: 16,
            wide_buckets: 16,
            ..Architecture::default()
        };
        let device = Default::default();
        let weights = Weights::<Tracked>::init(&architecture, 3, 1, &device);
        // A head of zeros would hide every other gradient.
        let mut course = Recipe::default().cold_start;
        course.deep_rate = 0.1;
        let (features, targets) = batch(4, 3);
        let features: Vec<&Features> = features.iter().collect();
        let wide = vec![0.0; features.len() * 3];
        let setting = Setting { course: &course, scale: 1.0, router: RouterTraining::default() };
        let pass = accumulate(&weights.network, &features, &wide, &targets, setting, &device);
        let mut optimizer = crate::optimizer::DeepOptimizer::new(&course);
        optimizer.step(weights.network, pass.gradients, 0.0, 0.1, false).0
    }

    /// Texts of uneven length, one of them empty, with every term of the loss.
    fn batch(texts: usize, classes: usize) -> (Vec<Features>, Targets) {
        let features = (0..texts).map(|text| Features {
            tokens: (0..(text * 5 % 13) as u32)
                .map(|at| (at * 31 + text as u32 * 7) % 300)
                .collect(),
            ..Features::default()
        });
        let table = |seed: f32| -> Vec<f32> {
            (0..texts * classes).map(|at| (at as f32 * seed).sin().abs() / texts as f32).collect()
        };
        let recorded = Some(Recorded { logits: table(5.0), weight: table(6.0) });
        let targets = Targets {
            label: table(1.0),
            hard: table(2.0),
            soft: Some(table(3.0)),
            temperature: 2.0,
            recorded,
        };
        (features.collect(), targets)
    }

    #[test]
    fn micro_batches_add_up_to_the_gradient_of_the_whole_batch() {
        let (network, device) = (network(), Default::default());
        let (features, targets) = batch(11, 3);
        let features: Vec<&Features> = features.iter().collect();
        let wide: Vec<f32> = (0..33).map(|at| (at as f32).cos()).collect();
        // Of the routers' terms, the one that is a mean over tokens.
        let router = RouterTraining { z_loss: 0.1, ..RouterTraining::default() };
        let run = |micro_batch: usize| {
            let mut course = Recipe::default().hot_update;
            (course.micro_batch, course.deep_loss) = (micro_batch, 0.5);
            let setting = Setting { course: &course, scale: 1.0, router };
            accumulate(&network, &features, &wide, &targets, setting, &device)
        };
        let whole = run(0);
        for size in [1, 2, 3, 4, 10, 11, 64] {
            let parts = run(size);
            assert!((whole.loss - parts.loss).abs() < 1e-5, "{size}");
            close(&[whole.router_loss.unwrap()], &[parts.router_loss.unwrap()]);
            close(&whole.wide_gradient, &parts.wide_gradient);
            for (whole, parts) in whole.routed.iter().zip(&parts.routed) {
                close(&whole.load.0, &parts.load.0);
                close(&[whole.entropy], &[parts.entropy]);
                assert_eq!(whole.assignments, parts.assignments);
                assert_eq!(whole.dropped, parts.dropped);
            }
            assert!(whole.gradients.0.len() > 10);
            assert!(whole.gradients.0.keys().eq(parts.gradients.0.keys()));
            for (whole, parts) in whole.gradients.0.values().zip(parts.gradients.0.values()) {
                let values = |t: &Tensor<Flex, 1>| t.to_data().to_vec::<f32>().unwrap();
                close(&values(whole), &values(parts));
            }
        }
    }

    #[test]
    fn the_wide_path_alone_has_the_gradient_that_finite_differences_find() {
        let wide: Vec<f32> = (0..9).map(|at| (at as f32).sin()).collect();
        let mut label = vec![0.0; 9];
        (label[1], label[3], label[8]) = (0.5, 0.2, 0.3);
        let (loss, gradient) = wide_alone(&wide, &label, 3);
        for at in 0..9 {
            let moved = |by: f32| {
                let mut wide = wide.clone();
                wide[at] += by;
                wide_alone(&wide, &label, 3).0
            };
            let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((gradient[at] - numeric).abs() < 1e-3, "{at}: {} {numeric}", gradient[at]);
        }
        // Half of the first text's loss, and so on.
        let expected: f32 = [(0, 1, 0.5), (3, 3, 0.2), (6, 8, 0.3)]
            .map(|(row, class, weight): (usize, usize, f32)| {
                -weight * softened(&wide[row..row + 3], 1.0)[class - row].ln()
            })
            .iter()
            .sum();
        assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
        // A certain error is a large loss, not an infinite one.
        assert!(wide_alone(&[200.0, -200.0], &[0.0, 1.0], 2).0.is_finite());
    }

    #[test]
    fn the_routers_losses_reach_the_router_and_are_told_apart_from_that_of_the_answers() {
        let (network, device) = (network(), Default::default());
        let (features, targets) = batch(6, 3);
        let features: Vec<&Features> = features.iter().collect();
        let course = Recipe::default().hot_update;
        let run = |router: RouterTraining| {
            let setting = Setting { course: &course, scale: 1.0, router };
            accumulate(&network, &features, &[0.0; 18], &targets, setting, &device)
        };
        let plain = run(RouterTraining::default());
        assert_eq!(plain.router_loss, None);
        for router in [
            RouterTraining { balance_loss: 0.5, ..RouterTraining::default() },
            RouterTraining { z_loss: 0.5, ..RouterTraining::default() },
        ] {
            let with = run(router);
            assert!((with.loss - plain.loss).abs() < 1e-6 && with.router_loss.unwrap() > 0.0);
            let router = |pass: &Pass<Tracked>| {
                pass.gradients.0["blocks.0.mixture.router"].to_data().to_vec::<f32>().unwrap()
            };
            assert_ne!(router(&with), router(&plain));
        }
        let full = run(RouterTraining { capacity_factor: 0.5, ..RouterTraining::default() });
        assert_eq!(full.routed[0].dropped.len(), 6);
        assert!(full.routed[0].dropped.iter().sum::<u32>() > 0);
    }

    fn close(one: &[f32], other: &[f32]) {
        assert_eq!(one.len(), other.len());
        let largest = one.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
        for (one, other) in one.iter().zip(other) {
            assert!((one - other).abs() < 1e-5 * largest.max(0.1), "{one} {other}");
        }
    }

    #[test]
    fn a_scaled_loss_gives_gradients_scaled_to_the_bit() {
        let (network, device) = (network(), Default::default());
        let (features, targets) = batch(6, 3);
        let features: Vec<&Features> = features.iter().collect();
        let course = Recipe::default().hot_update;
        let run = |scale: f32| {
            let router = RouterTraining { balance_loss: 0.1, z_loss: 0.1, capacity_factor: 0.0 };
            let setting = Setting { course: &course, scale, router };
            accumulate(&network, &features, &[0.0; 18], &targets, setting, &device)
        };
        let (plain, mut scaled) = (run(1.0), run(65_536.0));
        scaled.gradients.scale(1.0 / 65_536.0);
        for (name, plain) in plain.gradients.0 {
            assert_eq!(plain.into_data(), scaled.gradients.0[&name].to_data(), "{name}");
        }
    }

    /// Gradients of `compute` with this scale, unscaled, by parameter.
    fn gradients_in(
        compute: Compute,
        scale: f32,
        faint: f32,
    ) -> std::collections::BTreeMap<String, Vec<f32>> {
        let (network, device) = (network().computing_in(compute), Default::default());
        let (features, mut targets) = batch(6, 3);
        for table in [&mut targets.label, &mut targets.hard] {
            table.iter_mut().for_each(|weight| *weight *= faint);
        }
        (targets.soft, targets.recorded) = (None, None);
        let features: Vec<&Features> = features.iter().collect();
        let course = Recipe::default().hot_update;
        let setting = Setting { course: &course, scale, router: RouterTraining::default() };
        let mut pass = accumulate(&network, &features, &[0.0; 18], &targets, setting, &device);
        pass.gradients.scale(1.0 / f64::from(scale));
        let values = |t: Tensor<Flex, 1>| t.into_data().into_vec::<f32>().unwrap();
        pass.gradients.0.into_iter().map(|(name, t)| (name, values(t))).collect()
    }

    /// Length of the difference as a share of that of `full`.
    fn apart(half: &[f32], full: &[f32]) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
            values.map(|value| f64::from(value).powi(2)).sum()
        };
        let difference = square(&mut half.iter().zip(full).map(|(a, b)| a - b));
        (difference / square(&mut full.iter().copied())).sqrt()
    }

    #[test]
    fn gradients_in_halves_are_near_those_in_f32() {
        let full = gradients_in(Compute::F32, 1.0, 1.0);
        // 2^-8 and 2^-11 are half a step; errors of some twenty roundings in a row add up.
        for (compute, bound) in [(Compute::Bf16, 0.04), (Compute::F16, 0.005)] {
            let half = gradients_in(compute, 256.0, 1.0);
            assert!(half.keys().eq(full.keys()));
            for (name, full) in &full {
                let apart = apart(&half[name], full);
                assert!(apart < bound && apart > 0.0, "{compute:?} {name}: {apart}");
            }
        }
    }

    /// Of a loss that is nearly learnt, or of texts that weigh little.
    #[test]
    fn small_gradients_vanish_in_f16_and_scaling_keeps_them() {
        let faint = 1e-5;
        let lost = |of: &std::collections::BTreeMap<String, Vec<f32>>| {
            let full = gradients_in(Compute::F32, 1.0, faint);
            let (mut lost, mut all) = (0_usize, 0_usize);
            for (name, full) in full {
                for (half, full) in of[&name].iter().zip(full) {
                    all += usize::from(full != 0.0);
                    lost += usize::from(full != 0.0 && *half == 0.0);
                }
            }
            lost as f64 / all as f64
        };
        let without = lost(&gradients_in(Compute::F16, 1.0, faint));
        let with = lost(&gradients_in(Compute::F16, 65_536.0, faint));
        let bf16 = lost(&gradients_in(Compute::Bf16, 1.0, faint));
        assert!(without > 0.5, "{without}");
        assert!(with < 0.02, "{with}");
        assert!(bf16 < 0.02, "{bf16}: bf16 has the exponents of f32");
    }

    #[test]
    fn a_higher_temperature_is_a_softer_answer() {
        let (sharp, soft) = (softened(&[2.0, 0.0], 1.0), softened(&[2.0, 0.0], 4.0));
        assert!((sharp[0] - 0.880_797).abs() < 1e-5);
        assert!(soft[0] < sharp[0] && soft[0] > 0.5);
        assert!((soft.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
