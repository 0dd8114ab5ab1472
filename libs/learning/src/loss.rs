//! What a step minimises, and its gradients for both paths.
use std::ops::Range;

use burn::tensor::{Tensor, TensorData, activation::log_softmax};
use tidegate_model::{Batch, ExpertLoad, Features, Network};

use crate::{Course, Trains, optimizer::Gradients};

/// What each text of a batch should be answered by. All tables are `[batch, classes]`, row by row,
/// and carry the texts' weights, which sum to 1 over the batch: a sum over any parts of a batch is
/// a part of its loss, so gradients of micro-batches only need adding.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Targets {
    /// The label: one-hot.
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
    pub(crate) loss: f32,
    /// Still scaled.
    pub(crate) gradients: Gradients<B::InnerBackend>,
    /// dL/dlogits of the wide path, `[batch, classes]`; still scaled.
    pub(crate) wide_gradient: Vec<f32>,
    pub(crate) loads: Vec<ExpertLoad>,
}

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) course: &'a Course,
    /// What the loss is multiplied by before it goes backward.
    pub(crate) scale: f32,
}

/// Forward and backward over a batch, one micro-batch after the other.
///
/// `wide`: the wide path's logits, `[batch, classes]`.
pub(crate) fn accumulate<B: Trains>(
    network: &Network<B>,
    features: &[&Features],
    wide: &[f32],
    targets: &Targets,
    setting: Setting<'_>,
    device: &B::Device,
) -> Pass<B> {
    let (rows, classes) = (features.len(), network.classes());
    let size = match setting.course.micro_batch {
        0 => rows,
        size => size.min(rows),
    };
    let part = |rows: Range<usize>| {
        let wide = &wide[rows.start * classes..rows.end * classes];
        let targets = targets.rows(&rows, classes);
        pass(network, &features[rows], wide, &targets, setting, device)
    };
    let tokens = |rows: Range<usize>| features[rows].iter().map(|f| f.tokens.len().max(1)).sum();
    let mut whole = part(0..size);
    let mut seen: usize = tokens(0..size);
    for start in (size..rows).step_by(size) {
        let rows = start..rows.min(start + size);
        let next = part(rows.clone());
        whole.loss += next.loss;
        whole.gradients.add(next.gradients);
        whole.wide_gradient.extend(next.wide_gradient);
        let more: usize = tokens(rows);
        let share = more as f32 / (seen + more) as f32;
        for (load, next) in whole.loads.iter_mut().zip(&next.loads) {
            for (load, next) in load.0.iter_mut().zip(&next.0) {
                *load += share * (next - *load);
            }
        }
        seen += more;
    }
    whole
}

/// Forward and backward.
///
/// The loss is cross entropy of both paths' summed logits, plus that of each path alone by the
/// course's weights. On distilled texts a share is cross entropy with the champion's softened
/// answer, times T^2 so that its gradient does not depend on T (Hinton et al. 2015). Where logits
/// are recorded, their squared distance is added (DER++, eq. 6).
fn pass<B: Trains>(
    network: &Network<B>,
    features: &[&Features],
    wide: &[f32],
    targets: &Targets,
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
    let output = network.forward(&Batch::new(features, device));
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
    if setting.scale != 1.0 {
        loss = loss.mul_scalar(setting.scale);
    }
    let gradients = loss.backward();
    let wide_gradient = wide.grad(&gradients).expect("the wide logits are a leaf of the loss");
    let wide_gradient = wide_gradient.into_data().convert::<f32>();
    Pass {
        loss: value,
        gradients: Gradients::take(network, gradients),
        wide_gradient: wide_gradient.into_vec().expect("converted to f32 in the line above"),
        loads: output.loads,
    }
}

fn scalar<B: Trains>(loss: Tensor<B, 1>) -> f32 {
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
    use tidegate_model::{Architecture, Weights};

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
        let setting = Setting { course: &course, scale: 1.0 };
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
            grams: Vec::new(),
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
        let run = |micro_batch: usize| {
            let mut course = Recipe::default().hot_update;
            (course.micro_batch, course.deep_loss) = (micro_batch, 0.5);
            let setting = Setting { course: &course, scale: 1.0 };
            accumulate(&network, &features, &wide, &targets, setting, &device)
        };
        let whole = run(0);
        for size in [1, 2, 3, 4, 10, 11, 64] {
            let parts = run(size);
            assert!((whole.loss - parts.loss).abs() < 1e-5, "{size}");
            close(&whole.wide_gradient, &parts.wide_gradient);
            for (whole, parts) in whole.loads.iter().zip(&parts.loads) {
                close(&whole.0, &parts.0);
            }
            assert!(whole.gradients.0.len() > 10);
            assert!(whole.gradients.0.keys().eq(parts.gradients.0.keys()));
            for (whole, parts) in whole.gradients.0.values().zip(parts.gradients.0.values()) {
                let values = |t: &Tensor<Flex, 1>| t.to_data().to_vec::<f32>().unwrap();
                close(&values(whole), &values(parts));
            }
        }
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
            let setting = Setting { course: &course, scale };
            accumulate(&network, &features, &[0.0; 18], &targets, setting, &device)
        };
        let (plain, mut scaled) = (run(1.0), run(65_536.0));
        scaled.gradients.scale(1.0 / 65_536.0);
        for (name, plain) in plain.gradients.0 {
            assert_eq!(plain.into_data(), scaled.gradients.0[&name].to_data(), "{name}");
        }
    }

    #[test]
    fn a_higher_temperature_is_a_softer_answer() {
        let (sharp, soft) = (softened(&[2.0, 0.0], 1.0), softened(&[2.0, 0.0], 4.0));
        assert!((sharp[0] - 0.880_797).abs() < 1e-5);
        assert!(soft[0] < sharp[0] && soft[0] > 0.5);
        assert!((soft.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
