//! How much each weight matters: the diagonal of the Fisher information.
use burn::{
    module::AutodiffModule as _,
    tensor::{Tensor, TensorData, activation::log_softmax},
};
use rand::{RngExt as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use tidegate_model::{Batch, Weights};

use crate::{
    Ewc, Trains,
    lesson::Item,
    loss::softened,
    named::Named,
    optimizer::{Gradients, values},
};

/// Mean square of the gradients of `log p(y | text)` over `ewc.samples` of `items`, with `y` drawn
/// from what the model says itself: the Fisher information, not the empirical one of the labels
/// (Kunstner et al. 2019, arXiv 1905.12558). Added to `ewc.decay` times the older one, so that what
/// mattered long ago fades (Schwarz et al. 2018, eq. 9). The wide path is a constant.
pub(crate) fn estimate<B: Trains>(
    weights: &Weights<B>,
    items: &[Item],
    older: Named<B::InnerBackend>,
    ewc: &Ewc,
    mut rng: ChaCha8Rng,
    device: &B::Device,
) -> Named<B::InnerBackend> {
    let mut chosen: Vec<&Item> = items.iter().collect();
    chosen.shuffle(&mut rng);
    chosen.truncate(ewc.samples);
    let share = 1.0 / chosen.len() as f64;
    let mut fisher: Named<B::InnerBackend> =
        older.into_iter().map(|(name, old)| (name, old.mul_scalar(ewc.decay))).collect();
    for item in chosen {
        for (name, gradient) in score(weights, item, rng.random(), device).0 {
            let square = (gradient.clone() * gradient).mul_scalar(share);
            let sum = match fisher.remove(&name) {
                Some(sum) => sum + square,
                None => square,
            };
            fisher.insert(name, sum);
        }
    }
    fisher
}

/// Gradient of the log-likelihood of the class at quantile `draw` of the model's own answer.
fn score<B: Trains>(
    weights: &Weights<B>,
    item: &Item,
    draw: f32,
    device: &B::Device,
) -> Gradients<B::InnerBackend> {
    let features = [&item.features];
    let classes = weights.wide.classes();
    let wide = weights.wide.logits(&features);
    let batch = Batch::new(&features, device).with_wide(wide, classes);
    let logits = weights.network.forward(&batch).logits;
    let mut left = draw;
    let answer = softened(&values(logits.clone().inner()), 1.0);
    let class = answer.iter().position(|probability| {
        left -= probability;
        left < 0.0
    });
    let mut drawn = vec![0.0_f32; classes];
    // Rounding may leave a little of the draw behind the last class.
    drawn[class.unwrap_or(classes - 1)] = 1.0;
    let drawn = Tensor::from_data(TensorData::new(drawn, [1, classes]), device);
    let likelihood = (log_softmax(logits, 1) * drawn).sum();
    Gradients::take(&weights.network, likelihood.backward())
}

/// The content of [`crate::FISHER`].
pub(crate) fn to_bytes<B: Trains>(
    weights: &Weights<B>,
    fisher: &Named<B::InnerBackend>,
) -> Result<Vec<u8>, crate::LearningError> {
    crate::named::to_bytes(crate::FISHER, &weights.network.valid(), fisher)
}
