//! What a step minimises where next tokens are learnt, and its gradients.
use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};
use tidegate_model::{Batch, Features, Network};

use crate::{
    Trains,
    loss::{Part, Pass, Setting, in_parts, scalar},
    optimizer::Gradients,
};

/// Forward and backward over a batch of texts, one micro-batch after the other: the mean over all
/// tokens of the cross entropy of each token's successor, each text's by its weight.
///
/// `weights`: of each text, `[batch]`.
pub(crate) fn accumulate<B: Trains>(
    network: &Network<B>,
    features: &[&Features],
    weights: &[f32],
    setting: Setting<'_>,
    device: &B::Device,
) -> Pass<B> {
    let rows = |text: &Features| (text.tokens.len() - 1) as f64;
    let weighted = features.iter().zip(weights).map(|(text, w)| f64::from(*w) * rows(text));
    let total: f64 = weighted.sum();
    let all: f64 = features.iter().map(|text| rows(text)).sum();
    in_parts(features, setting, |Part { texts, .. }| {
        let (features, weights) = (&features[texts.clone()], &weights[texts]);
        let (batch, targets) = Batch::successors(features, device);
        let output = network.forward_learning(&batch, setting.router);
        let alike = weights.iter().all(|weight| *weight == weights[0]);
        let mut loss = if alike {
            let share = f64::from(weights[0]) * targets.len() as f64 / total;
            B::cross_entropy(output.logits, &targets).mul_scalar(share)
        } else {
            let each = features.iter().zip(weights).flat_map(|(text, weight)| {
                let weight = (f64::from(*weight) / total) as f32;
                std::iter::repeat_n(weight, text.tokens.len() - 1)
            });
            let each: Vec<f32> = each.collect();
            let count = each.len();
            let each = Tensor::<B, 2>::from_data(TensorData::new(each, [count, 1]), device);
            let at: Vec<i32> = targets.iter().map(|&target| target as i32).collect();
            let at = Tensor::<B, 2, Int>::from_data(TensorData::new(at, [count, 1]), device);
            (log_softmax(output.logits, 1).gather(1, at) * each).sum().neg()
        };
        let value = scalar(loss.clone());
        let mut router_loss = None;
        if let Some(of_routers) = output.router_loss {
            let of_routers = of_routers.mul_scalar(targets.len() as f64 / all);
            router_loss = Some(scalar(of_routers.clone()));
            loss = loss + of_routers;
        }
        if setting.scale != 1.0 {
            loss = loss.mul_scalar(setting.scale);
        }
        let gradients = Gradients::take(network, loss.backward());
        let (wide_gradient, routed) = (Vec::new(), output.routed);
        Pass { loss: value, router_loss, gradients, wide_gradient, routed }
    })
}
