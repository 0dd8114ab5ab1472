//! Routed experts: each gets as many slots as the fullest needs, and all are one batched product.
use burn::tensor::{IndexingUpdateOp, Tensor, backend::Backend};

#[cfg(feature = "cuda")]
use super::gelu::{self};
use super::{
    in_format,
    route::Slots,
    swiglu::{self, Found, Hidden},
};
use crate::precision::full;

/// Returns `[rows, d_model]`, in the format of `x`, and what the way back needs.
///
/// `x`: `[rows, d_model]`; `weight`: f32 `[rows * top_k]`, row by row.
pub(in crate::ops) fn forward<B: Backend>(
    x: Tensor<B, 2>,
    matrices: [Tensor<B, 3>; 3],
    weight: Tensor<B, 1>,
    slots: &Slots<B>,
) -> (Tensor<B, 2>, Hidden<B, 3>) {
    let (answers, hidden) = swiglu::forward(sent(x, slots), matrices);
    (mixed(answers, weight, slots), hidden)
}

/// The same of GELU. `biases`: f32 `[experts, width]` and `[experts, d_model]`.
#[cfg(feature = "cuda")]
pub(in crate::ops) fn gelu<B: Backend>(
    x: Tensor<B, 2>,
    matrices: [Tensor<B, 3>; 2],
    biases: [Tensor<B, 2>; 2],
    weight: Tensor<B, 1>,
    slots: &Slots<B>,
) -> Tensor<B, 2> {
    let biases = biases.map(|bias| bias.unsqueeze_dim(1));
    mixed(gelu::forward(sent(x, slots), matrices, biases), weight, slots)
}

/// Gradients of `x`, of `weight`, and of `gate`, `up` and `down` where they learn.
#[allow(clippy::type_complexity)]
pub(super) fn backward<B: Backend>(
    x: Tensor<B, 2>,
    matrices: [Tensor<B, 3>; 3],
    weight: Tensor<B, 1>,
    hidden: Hidden<B, 3>,
    slots: &Slots<B>,
    dy: Tensor<B, 2>,
    matrices_learn: bool,
) -> (Tensor<B, 2>, Tensor<B, 1>, Option<[Tensor<B, 3>; 3]>) {
    let dtype = x.dtype();
    // An empty slot holds some row's numbers, and its weight is 0.
    let of_slots = slots.scattered(weight).reshape([slots.experts(), slots.capacity(), 1]);
    let danswers = sent(in_format(dy, dtype), slots);
    let Found { x: dsent, weight: dweight, matrices } = swiglu::backward(
        sent(x, slots),
        matrices,
        hidden,
        Some(of_slots),
        danswers,
        matrices_learn,
    );
    let dx = sent_backward(dsent, slots);
    let dweight = dweight.expect("there are weights").reshape([slots.count()]);
    (in_format(dx, dtype), of_choices(dweight, slots), matrices)
}

/// Gradient of the rows that were sent, `[rows, d_model]`, in the format of `dsent`.
pub(super) fn sent_backward<B: Backend>(dsent: Tensor<B, 3>, slots: &Slots<B>) -> Tensor<B, 2> {
    let ([_, _, d_model], dtype) = (dsent.dims(), dsent.dtype());
    let dsent = dsent.reshape([slots.count(), d_model]);
    in_format(summed(dsent, slots, |choice| slots.kept(choice)), dtype)
}

/// Each row's answers, by weight, `[rows, d_model]`, in their format. `answers`: `[experts, capacity,
/// d_model]`; `weight`: f32 `[rows * top_k]`.
pub(super) fn mixed<B: Backend>(
    answers: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    slots: &Slots<B>,
) -> Tensor<B, 2> {
    let ([_, _, d_model], dtype) = (answers.dims(), answers.dtype());
    let ([assignments], top_k) = (weight.dims(), slots.top_k());
    let weight = weight.reshape([assignments / top_k, top_k]);
    let answers = answers.reshape([slots.count(), d_model]);
    let y = summed(answers, slots, |choice| Some(weight.clone().narrow(1, choice, 1)));
    in_format(y, dtype)
}

/// Gradients of answers, in their format, and of weights.
pub(super) fn mixed_backward<B: Backend>(
    answers: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    slots: &Slots<B>,
    dy: Tensor<B, 2>,
) -> (Tensor<B, 3>, Tensor<B, 1>) {
    let dtype = answers.dtype();
    // An empty slot holds some row's numbers, and its weight is 0.
    let of_slots = slots.scattered(weight).reshape([slots.experts(), slots.capacity(), 1]);
    let dslots = full(sent(dy, slots));
    let dweight = (dslots.clone() * full(answers)).sum_dim(2).reshape([slots.count()]);
    (in_format(dslots * of_slots, dtype), of_choices(dweight, slots))
}

/// Of each choice what stands in its slot, `[rows * top_k]`. `of_slots`: `[slots]`.
fn of_choices<B: Backend>(of_slots: Tensor<B, 1>, slots: &Slots<B>) -> Tensor<B, 1> {
    let of_choices = slots.places().iter().map(|at| of_slots.clone().select(0, at.clone()));
    Tensor::stack::<2>(of_choices.collect(), 1).flatten(0, 1)
}

/// What stands in the slots, `[experts, capacity, d_model]`.
pub(super) fn sent<B: Backend>(x: Tensor<B, 2>, slots: &Slots<B>) -> Tensor<B, 3> {
    let [_, d_model] = x.dims();
    x.select(0, slots.rows()).reshape([slots.experts(), slots.capacity(), d_model])
}

/// For each row the sum of what stands in its slots, each times its factor, f32 `[rows, 1]`.
///
/// `slotted`: `[slots, d_model]`. Returns f32 `[rows, d_model]`.
fn summed<B: Backend>(
    slotted: Tensor<B, 2>,
    slots: &Slots<B>,
    factor: impl Fn(usize) -> Option<Tensor<B, 2>>,
) -> Tensor<B, 2> {
    let of_choice = |(choice, at): (usize, &Tensor<B, 1, burn::tensor::Int>)| {
        let part = full(slotted.clone().select(0, at.clone()));
        match factor(choice) {
            Some(factor) => part * factor,
            None => part,
        }
    };
    let parts = slots.places().iter().enumerate().map(of_choice);
    parts.reduce(|sum, part| sum + part).expect("a row has at least one choice")
}

impl<B: Backend> Slots<B> {
    /// What belongs to each choice, put into its slot; 0 in empty ones. `of_choices`: f32
    /// `[rows * top_k]`. Returns `[slots]`.
    fn scattered(&self, of_choices: Tensor<B, 1>) -> Tensor<B, 1> {
        let [assignments] = of_choices.dims();
        // Dropped choices share one more place, which is cut off.
        let empty = Tensor::<B, 1>::zeros([self.count() + 1], &of_choices.device());
        let at = self.written().reshape([assignments, 1]);
        empty.scatter_nd(at, of_choices, IndexingUpdateOp::Assign).narrow(0, 0, self.count())
    }
}
