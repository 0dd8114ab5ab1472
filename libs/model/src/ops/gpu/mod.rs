//! The operators for a GPU: composed of burn's, with ways back of their own.
//!
//! What they are written around, on burn 0.21:
//!
//! - Adding rows at indices (`select_assign`, `scatter`) runs through the indices one after the other.
//!   So everything here **gathers**, forward and backward; the one scatter writes each place once.
//! - Reading a tensor waits for all that was asked for. A layer reads one short list: how many
//!   tokens each expert got; and where one is full, what was dropped.
//! - A product of half tensors accumulates in f32 and returns half; all between two products is
//!   written in f32, and is one kernel where burn fuses it.
//!
//! All is generic: the tests run it on the CPU, in halves too, beside the CPU's own.
mod attention;
mod cross_entropy;
mod embed;
mod experts;
mod gelu;
mod norm;
mod places;
mod route;
mod swiglu;
pub(super) mod trained;

use burn::tensor::{Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor};

#[cfg(feature = "cuda")]
pub(super) use self::{
    attention::forward as attend, cross_entropy::forward as cross_entropy,
    experts::forward as experts, experts::gelu as gelu_experts, norm::forward as rms_norm,
    swiglu::forward as feed_forward,
};
pub(super) use self::{
    attention::turn,
    gelu::feed_forward as gelu,
    norm::layer as layer_norm,
    route::{Slots, route},
};
use super::AdamW;

/// In the format of `like`.
fn in_format<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    like: burn::tensor::DType,
) -> Tensor<B, D> {
    if x.dtype() == like { x } else { x.cast(like) }
}

fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn primitive<B: Backend, const D: usize>(x: Tensor<B, D>) -> FloatTensor<B> {
    x.into_primitive().tensor()
}

/// See [`super::Kernels::adamw`].
pub(super) fn adamw<B: Backend, const D: usize>(
    [parameter, first, second]: [Tensor<B, D>; 3],
    gradient: Tensor<B, D>,
    by: &AdamW,
) -> [Tensor<B, D>; 3] {
    let gradient = gradient.mul_scalar(by.gradient_scale);
    let square = gradient.clone() * gradient.clone();
    let first = first.mul_scalar(by.beta_1) + gradient.mul_scalar(1.0 - by.beta_1);
    let second = second.mul_scalar(by.beta_2) + square.mul_scalar(1.0 - by.beta_2);
    let (c1, c2) = by.corrections();
    let root = second.clone().div_scalar(c2).sqrt().add_scalar(by.epsilon);
    let step = first.clone().div_scalar(c1) / root;
    let kept = parameter.mul_scalar(1.0 - by.rate * by.weight_decay);
    [kept - step.mul_scalar(by.rate), first, second]
}
