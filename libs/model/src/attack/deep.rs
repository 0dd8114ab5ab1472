//! Slopes through the network.
use burn::{
    module::{AutodiffModule as _, Module as _},
    tensor::{Tensor, TensorData, backend::Backend},
};

use crate::{Batch, Features, Network, ops::Learns};

/// Slopes of a score over what goes into the network, of all inputs of a batch one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Slopes {
    /// Over the logits, `[batch, classes]`, as it was given.
    pub(crate) of_logits: Vec<f32>,
    /// Over patches of pictures and of sounds, `[patches, width]`.
    pub(crate) image: Vec<f32>,
    pub(crate) audio: Vec<f32>,
    /// Over what each row of the features' table counts, `[features, TERMS]`.
    pub(crate) factors: Vec<f32>,
    /// Over the tokens' vectors, `[text rows, d_model]`.
    pub(crate) tokens: Vec<f32>,
}

/// One way there and back. `of_logits`: the score's slope over the logits, `[batch, classes]`, which
/// it is told; `wide`: the wide path's logits; `nudge`: what is added to the tokens' vectors.
pub(crate) fn slopes<B: Learns>(
    network: &Network<B::InnerBackend>,
    features: &[&Features],
    (wide, classes): (Vec<f32>, usize),
    nudge: Option<Vec<f32>>,
    of_logits: &dyn Fn(&[f32]) -> Vec<f32>,
    device: &B::Device,
) -> Slopes {
    // Weights stay as they are: only what is read has slopes.
    let network = Network::<B>::from_inner(network.clone()).no_grad();
    let mut batch = Batch::<B>::new(features, device).with_wide(wide, classes);
    let [rows, width] = network.embedded(&batch).dims();
    let nudge = nudge.unwrap_or_else(|| vec![0.0; rows * width]);
    let nudge = Tensor::from_data(TensorData::new(nudge, [rows, width]), device).require_grad();
    batch.nudge = Some(nudge.clone());
    let (mut image, mut audio, mut factors) = (None, None, None);
    if let Some(parts) = &mut batch.parts {
        let track = |values: &mut Tensor<B, 2>| {
            *values = values.clone().require_grad();
            values.clone()
        };
        image = parts.image.as_mut().map(|(values, _)| track(values));
        audio = parts.audio.as_mut().map(|(values, _)| track(values));
        factors = parts.features.as_mut().map(|(_, factors)| track(factors));
    }
    let logits = network.forward(&batch).logits;
    let given = of_logits(&floats(logits.clone()));
    let weights = Tensor::from_data(TensorData::new(given.clone(), logits.dims()), device);
    let gradients = (logits * weights).sum().backward();
    let of = |tensor: Option<Tensor<B, 2>>| {
        let gradient = tensor.and_then(|tensor| tensor.grad(&gradients));
        gradient.map(floats).unwrap_or_default()
    };
    Slopes {
        of_logits: given,
        image: of(image),
        audio: of(audio),
        factors: of(factors),
        tokens: of(Some(nudge)),
    }
}

/// The network's logits with something added to the tokens' vectors.
pub(crate) fn nudged<B: crate::Kernels>(
    network: &Network<B>,
    features: &[&Features],
    (wide, classes): (Vec<f32>, usize),
    nudge: Vec<f32>,
    device: &B::Device,
) -> Vec<f32> {
    let mut batch = Batch::<B>::new(features, device).with_wide(wide, classes);
    let [rows, width] = network.embedded(&batch).dims();
    batch.nudge = Some(Tensor::from_data(TensorData::new(nudge, [rows, width]), device));
    floats(network.forward(&batch).logits)
}

/// The vectors of tokens, `[tokens, d_model]`.
pub(crate) fn vectors<B: crate::Kernels>(
    network: &Network<B>,
    tokens: &[u32],
    device: &B::Device,
) -> Vec<f32> {
    floats(network.embedded(&Batch::<B>::of_tokens([tokens], device)))
}

fn floats<B: Backend>(tensor: Tensor<B, 2>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.into_vec().expect("converted to f32 in the line above")
}
