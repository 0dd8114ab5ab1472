//! Where parameters come from: every one is asked for by name and shape.
use burn::{
    module::{Param, ParamId},
    tensor::{Tensor, TensorData, backend::Backend},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::Adapters;
use crate::ModelError;

/// What a parameter holds before anything is learnt.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    Zero,
    One,
    /// Uniform with this standard deviation.
    Spread(f64),
}

impl Start {
    /// Keeps the variance of a sum over `fan_in` inputs.
    pub(crate) fn fan_in(fan_in: usize) -> Self {
        Self::Spread((fan_in as f64).sqrt().recip())
    }

    /// The same for a matrix that writes to the residual stream, which sums two a layer.
    pub(crate) fn residual(fan_in: usize, layers: usize) -> Self {
        Self::Spread(((fan_in * 2 * layers) as f64).sqrt().recip())
    }
}

/// Gives the values of a named parameter: fresh ones, or those of a file.
pub(crate) trait Source {
    fn take(&mut self, name: &str, shape: &[usize], start: Start) -> Result<Vec<f32>, ModelError>;
}

/// Fresh values. Each parameter has a stream of its own, so one more parameter changes no other.
pub(crate) struct Random {
    seed: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl Source for Random {
    fn take(&mut self, name: &str, shape: &[usize], start: Start) -> Result<Vec<f32>, ModelError> {
        let size = shape.iter().product();
        Ok(match start {
            Start::Zero => vec![0.0; size],
            Start::One => vec![1.0; size],
            Start::Spread(deviation) => {
                let bound = (deviation * 3_f64.sqrt()) as f32;
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ hash(name, &[]));
                (0..size).map(|_| rng.random_range(-bound..bound)).collect()
            }
        })
    }
}

/// Adapters from one source, all else from another.
pub(crate) struct Pair<'a> {
    pub(crate) base: &'a mut dyn Source,
    pub(crate) adapters: &'a mut dyn Source,
    pub(crate) which: &'a Adapters,
    /// Whether the adapters are new: a head among them then starts as the base's.
    pub(crate) fresh: bool,
}

impl Source for Pair<'_> {
    fn take(&mut self, name: &str, shape: &[usize], start: Start) -> Result<Vec<f32>, ModelError> {
        if Adapters::own(name) {
            return self.adapters.take(name, shape, start);
        }
        let values = self.base.take(name, shape, start)?;
        if self.which.keep(name) && !self.fresh {
            return self.adapters.take(name, shape, start);
        }
        Ok(values)
    }
}

/// Takes one parameter from `source`.
pub(crate) fn param<B: Backend, const D: usize>(
    source: &mut dyn Source,
    name: &str,
    shape: [usize; D],
    start: Start,
    device: &B::Device,
) -> Result<Param<Tensor<B, D>>, ModelError> {
    let values = source.take(name, &shape, start)?;
    Ok(named(name, Tensor::from_data(TensorData::new(values, shape), device)))
}

/// A trainable parameter whose id is made from its name and shape.
pub(crate) fn named<B: Backend, const D: usize>(
    name: &str,
    tensor: Tensor<B, D>,
) -> Param<Tensor<B, D>> {
    let id = ParamId::from(hash(name, &tensor.dims()));
    Param::initialized(id, tensor.require_grad())
}

/// FNV-1a: the same on every machine and in every version.
fn hash(name: &str, shape: &[usize]) -> u64 {
    let sizes = shape.iter().flat_map(|size| (*size as u64).to_le_bytes());
    name.bytes().chain(sizes).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
