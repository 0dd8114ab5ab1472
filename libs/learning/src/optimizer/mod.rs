//! AdamW of the deep path, with a global bound on the gradient and state that is kept by name.
mod adamw;
mod gradients;
mod kept;
mod scaler;
mod state;
mod trainable;

use std::collections::BTreeMap;

use burn::{
    module::{Module as _, ModuleMapper, Param},
    tensor::{Tensor, backend::Backend},
};
use tidegate_model::Network;

use self::adamw::{Moments, Rates};
pub(crate) use self::{
    gradients::Gradients,
    kept::Kept,
    scaler::LossScaler,
    trainable::{freeze, share},
};
use crate::{Course, LearningError, Trains};

/// Moves the deep path.
pub(crate) struct DeepOptimizer<B: Trains> {
    moments: BTreeMap<String, Moments<B::InnerBackend>>,
    weight_decay: f64,
    clip_norm: f64,
    /// Where a part of a parameter learns.
    kept: Option<Kept>,
}

/// How far a step moved a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moved {
    /// Square of the weights' norm before.
    pub(crate) weights: f64,
    /// Square of their change's.
    pub(crate) update: f64,
}

impl<B: Trains> DeepOptimizer<B> {
    pub(crate) fn new(course: &Course) -> Self {
        let moments = BTreeMap::new();
        let (weight_decay, clip_norm) = (course.weight_decay, course.clip_norm);
        Self { moments, weight_decay, clip_norm, kept: None }
    }

    /// Leaves the bits of `kept` as they are.
    pub(crate) fn keeping(self, kept: Option<Kept>) -> Self {
        Self { kept, ..self }
    }

    /// One step down the gradient, whose `norm` over all parameters is scaled down to `clip_norm`
    /// (Pascanu et al. 2013, arXiv 1211.5063). A parameter without gradient keeps its bits.
    /// Says how far each moved if `measured`.
    pub(crate) fn step(
        &mut self,
        network: Network<B>,
        gradients: Gradients<B::InnerBackend>,
        norm: f64,
        rate: f64,
        measured: bool,
    ) -> (Network<B>, BTreeMap<String, Moved>) {
        let scale = if norm > self.clip_norm { self.clip_norm / norm } else { 1.0 };
        let rates = Rates { rate, weight_decay: self.weight_decay, scale };
        let mut mover = Mover::<'_, B> {
            path: Vec::new(),
            gradients,
            moments: &mut self.moments,
            kept: self.kept.as_ref(),
            rates,
            measured,
            names: Vec::new(),
            squares: Vec::new(),
        };
        let network = network.map(&mut mover);
        let squares = read(mover.squares);
        let moved = squares
            .chunks_exact(2)
            .map(|pair| Moved { weights: f64::from(pair[0]), update: f64::from(pair[1]) });
        (network, mover.names.into_iter().zip(moved).collect())
    }

    /// The content of [`crate::OPTIMIZER`].
    pub(crate) fn to_bytes(&self, network: &Network<B>) -> Result<Vec<u8>, LearningError> {
        state::write(network, &self.moments)
    }

    /// Takes up the state of every parameter of `learns` that is still there in the same shape.
    pub(crate) fn load(
        mut self,
        network: &Network<B>,
        bytes: &[u8],
        learns: impl Fn(&str) -> bool,
    ) -> Result<Self, LearningError> {
        self.moments = state::read(network, bytes)?;
        self.moments.retain(|name, _| learns(name));
        Ok(self)
    }
}

/// Reads numbers, each `[1]`, in one transfer from the device.
pub(crate) fn read<I: Backend>(numbers: Vec<Tensor<I, 1>>) -> Vec<f32> {
    if numbers.is_empty() { Vec::new() } else { values(Tensor::cat(numbers, 0)) }
}

pub(crate) fn values<I: Backend, const D: usize>(tensor: Tensor<I, D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.into_vec().expect("converted to f32 in the line above")
}

struct Mover<'a, B: Trains> {
    path: Vec<String>,
    gradients: Gradients<B::InnerBackend>,
    moments: &'a mut BTreeMap<String, Moments<B::InnerBackend>>,
    kept: Option<&'a Kept>,
    rates: Rates,
    measured: bool,
    names: Vec<String>,
    /// Of weights and update, by turns.
    squares: Vec<Tensor<B::InnerBackend, 1>>,
}

impl<B: Trains> ModuleMapper<B> for Mover<'_, B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let name = self.path.join(".");
        let Some(gradient) = self.gradients.0.remove(&name) else { return param };
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        let size = shape.iter().product::<usize>();
        let old = tensor.inner().reshape([size]);
        let mask = self.kept.and_then(|kept| kept.mask(&name, size, &old.device()));
        let before = (self.measured || mask.is_some()).then(|| old.clone());
        let (mut new, moments) =
            adamw::update(old, gradient, self.moments.remove(&name), self.rates);
        if let (Some(mask), Some(before)) = (mask, &before) {
            // Also weight decay and older moments move what has no gradient.
            new = new.mask_where(mask, before.clone());
        }
        if let Some(before) = before.filter(|_| self.measured) {
            let update = new.clone() - before.clone();
            self.squares.push((before.clone() * before).sum());
            self.squares.push((update.clone() * update).sum());
            self.names.push(name.clone());
        }
        self.moments.insert(name, moments);
        let new = Tensor::from_inner(new.reshape(shape)).require_grad();
        Param::from_mapped_value(id, new, mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        backend::{Autodiff, Flex},
        tensor::{FloatDType, TensorData, activation::log_sigmoid},
    };

    use super::*;

    type Tracked = Autodiff<Flex>;

    const EXAMPLES: usize = 64;
    const INPUTS: usize = 8;

    /// Inputs `[EXAMPLES, INPUTS]`, and 1 or -1 for each by a plane through them.
    fn plane() -> (Tensor<Tracked, 2>, Tensor<Tracked, 2>) {
        let x: Vec<f32> = (0..EXAMPLES * INPUTS).map(|at| (at as f32 * 1.7).sin()).collect();
        let side = |row: &[f32]| {
            let sum: f32 = row.iter().enumerate().map(|(at, x)| x * (at as f32 - 3.5)).sum();
            sum.signum()
        };
        let y: Vec<f32> = x.chunks_exact(INPUTS).map(side).collect();
        let device = Default::default();
        let tensor = |values, shape| Tensor::from_data(TensorData::new(values, shape), &device);
        (tensor(x, [EXAMPLES, INPUTS]), tensor(y, [EXAMPLES, 1]))
    }

    /// Loss after 200 steps of f32 parameters whose product is computed in `dtype`, and how many
    /// of the steps overflowed.
    fn learnt_in(dtype: FloatDType, mut scaler: Option<LossScaler>) -> (f32, usize) {
        let (x, y) = plane();
        let mut weight = Tensor::<Flex, 1>::zeros([INPUTS], &Default::default());
        let (mut moments, mut skipped, mut last) = (None, 0, f32::INFINITY);
        for _ in 0..200 {
            let master = Tensor::<Tracked, 1>::from_inner(weight.clone()).require_grad();
            let copy = master.clone().reshape([INPUTS, 1]).cast(dtype);
            let logits = x.clone().cast(dtype).matmul(copy).cast(FloatDType::F32);
            let loss = log_sigmoid(logits * y.clone()).sum().neg();
            last = values(loss.clone().inner())[0] / EXAMPLES as f32;
            let scale = scaler.map_or(1.0, LossScaler::scale);
            let gradients = loss.mul_scalar(scale).backward();
            let gradient = master.grad(&gradients).unwrap().div_scalar(scale);
            if let Some(scaler) = &mut scaler {
                if values(gradient.clone()).iter().any(|value| !value.is_finite()) {
                    assert!(scaler.overflowed());
                    skipped += 1;
                    continue;
                }
                scaler.succeeded();
            }
            let rates = Rates { rate: 0.1, weight_decay: 0.0, scale: 1.0 };
            let (next, kept) = adamw::update(weight, gradient, moments, rates);
            (weight, moments) = (next, Some(kept));
        }
        (last, skipped)
    }

    #[test]
    fn training_in_half_precision_with_f32_parameters_converges() {
        let (full, _) = learnt_in(FloatDType::F32, None);
        let (bf16, _) = learnt_in(FloatDType::BF16, None);
        let (f16, skipped) = learnt_in(FloatDType::F16, Some(LossScaler::default()));
        assert!(full < 0.1, "{full}");
        assert!((bf16 - full).abs() < 0.02, "{bf16} {full}");
        assert!((f16 - full).abs() < 0.02, "{f16} {full}");
        // A scale of 2^16 overflows the first gradients of this loss, a lower one does not.
        assert!((1..12).contains(&skipped), "{skipped}");
    }
}
