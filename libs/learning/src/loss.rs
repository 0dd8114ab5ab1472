//! What a step minimises, and its gradients for both paths.
use burn::tensor::{Tensor, TensorData, activation::log_softmax};
use tidegate_model::{Batch, ExpertLoad, Features, Learns, Network};

use crate::Course;

/// What each text of a batch should be answered by. All are `[batch, classes]`, row by row, and
/// carry the texts' weights, which sum to 1 over the batch.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// The label: one-hot.
    pub(crate) label: Vec<f32>,
    /// The label's part where the rest is distilled.
    pub(crate) hard: Vec<f32>,
    /// The champion's softened answer's part.
    pub(crate) soft: Option<Vec<f32>>,
    pub(crate) temperature: f32,
}

/// What a pass found.
pub(crate) struct Pass<B: Learns> {
    pub(crate) loss: f32,
    pub(crate) gradients: B::Gradients,
    /// dL/dlogits of the wide path, `[batch, classes]`.
    pub(crate) wide_gradient: Vec<f32>,
    pub(crate) loads: Vec<ExpertLoad>,
}

/// Forward and backward.
///
/// The loss is cross entropy of both paths' summed logits, plus that of each path alone by the
/// course's weights. On distilled texts a share is cross entropy with the champion's softened
/// answer, times T^2 so that its gradient does not depend on T (Hinton et al. 2015).
pub(crate) fn pass<B: Learns>(
    network: &Network<B>,
    features: &[&Features],
    wide: Vec<f32>,
    targets: &Targets,
    course: &Course,
    device: &B::Device,
) -> Pass<B> {
    let shape = [features.len(), network.classes()];
    let constant =
        |values: &[f32]| Tensor::<B, 2>::from_data(TensorData::new(values.to_vec(), shape), device);
    // The wide table is outside of autodiff: its logits are a leaf, whose gradient its own
    // optimiser takes.
    let wide = constant(&wide).require_grad();
    let output = network.forward(&Batch::new(features, device));
    let deep = if course.deep_rate > 0.0 { output.logits } else { output.logits.detach() };
    let logits = deep.clone() + wide.clone();

    let cross_entropy = |logits: Tensor<B, 2>, target: &[f32]| {
        (log_softmax(logits, 1) * constant(target)).sum().neg()
    };
    let mut loss = cross_entropy(logits.clone(), &targets.hard);
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
    let gradients = loss.backward();
    let wide_gradient = wide.grad(&gradients).expect("the wide logits are a leaf of the loss");
    let wide_gradient = wide_gradient.into_data().convert::<f32>();
    Pass {
        loss: value,
        gradients,
        wide_gradient: wide_gradient.into_vec().expect("converted to f32 in the line above"),
        loads: output.loads,
    }
}

fn scalar<B: Learns>(loss: Tensor<B, 1>) -> f32 {
    let data = loss.detach().into_data().convert::<f32>();
    data.into_vec::<f32>().expect("converted to f32 in the line above")[0]
}

/// Softmax of each row at temperature `t`, in f64.
pub(crate) fn softened(logits: &[f32], t: f32) -> Vec<f32> {
    let t = f64::from(t);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|l| (f64::from(l - highest) / t).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| (e / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_temperature_is_a_softer_answer() {
        let (sharp, soft) = (softened(&[2.0, 0.0], 1.0), softened(&[2.0, 0.0], 4.0));
        assert!((sharp[0] - 0.880_797).abs() < 1e-5);
        assert!(soft[0] < sharp[0] && soft[0] > 0.5);
        assert!((soft.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
