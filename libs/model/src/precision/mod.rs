//! The formats that a network is computed in.
//!
//! [`Compute`] is what a whole network's products and activations are held in. The rest is about
//! numbers of eight bits, and products of matrices that are held in them.
//!
//! As DeepSeek-V3 trains (arXiv 2412.19437, 3.3): [`E4M3`] everywhere, forward and backward, and
//! one f32 scale for each [`Tile`], so that an outlier costs 127 neighbours their resolution and
//! not the whole tensor. [`Fp8Matrix`] holds codes and scales; [`fp8_matmul`] multiplies what they
//! stand for, and its gradients are products of such matrices too; [`fp8_round`] is the rounding
//! alone.
//!
//! The products are **emulated**: values are rounded to what FP8 holds and then multiplied in f32,
//! because burn 0.21 multiplies no FP8 on any backend. That shows what FP8 does to a training or
//! a candidate; it saves neither time nor memory.

mod compute;
mod fp8;
mod matmul;
mod tiles;

pub use compute::Compute;
pub(crate) use compute::full;
pub use fp8::{E4M3, E5M2};
pub use matmul::{Fp8Backend, fp8_matmul, fp8_round};
pub use tiles::{Fp8Matrix, Tile};
