//! Shared and routed SwiGLU experts.
use burn::{
    module::{Module, Param},
    tensor::{
        Int, Tensor, TensorData,
        activation::{sigmoid, softmax},
        backend::Backend,
    },
};

use super::{
    Adapters, ExpertLoad, Routed, RouterTraining, Source, Start,
    adapters::{ExpertLora, Lora, folded},
    param,
    routing::{Plan, Rule},
};
use crate::{
    Affinity, Architecture, ModelError,
    ops::{Kernels, Segments},
};

/// Keeps the normalisation finite when every chosen affinity underflows.
const TINY: f64 = 1e-9;

/// How a pass routes; the same in all layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Router {
    pub(super) affinity: Affinity,
    pub(super) rule: Rule,
    pub(super) training: RouterTraining,
}

impl Router {
    /// What one layer adds to the loss; nothing when nothing is asked for.
    fn loss<B: Backend>(
        &self,
        logits: Tensor<B, 2>,
        affinity: &Tensor<B, 2>,
        plan: &Plan,
    ) -> Option<Tensor<B, 1>> {
        let [_, experts] = logits.dims();
        let RouterTraining { balance_loss, z_loss, .. } = self.training;
        let mut loss = None;
        if balance_loss > 0.0 {
            // Switch, eq. 4-6: experts * sum of (share of the choices) * (mean affinity).
            let share = TensorData::new(plan.routed.load.0.clone(), [1, experts]);
            let share = Tensor::<B, 2>::from_data(share, &logits.device());
            let even = affinity.clone() / affinity.clone().sum_dim(1).add_scalar(TINY);
            let balance = (even.mean_dim(0) * share).sum();
            loss = Some(balance.mul_scalar(balance_loss * experts as f64));
        }
        if z_loss > 0.0 {
            // ST-MoE (Zoph et al. 2022, arXiv 2202.08906), eq. 5: the mean of log-sum-exp squared.
            let highest = logits.clone().detach().max_dim(1);
            let sum = (logits - highest.clone()).exp().sum_dim(1).log() + highest;
            let z = (sum.clone() * sum).mean().mul_scalar(z_loss);
            loss = Some(loss.map_or_else(|| z.clone(), |loss: Tensor<B, 1>| loss + z.clone()));
        }
        loss
    }
}

/// The feed-forward of one block.
#[derive(Module, Debug)]
pub(super) struct Mixture<B: Backend> {
    shared: Option<Shared<B>>,
    /// `[d_model, experts]`: the experts' centroids.
    router: Param<Tensor<B, 2>>,
    /// `[experts]`: steers the choice. Moved by [`Mixture::balance`], never by gradient.
    bias: Param<Tensor<B, 1>>,
    /// `[experts, d_model, width]`.
    gate: Param<Tensor<B, 3>>,
    /// `[experts, d_model, width]`.
    up: Param<Tensor<B, 3>>,
    /// `[experts, width, d_model]`.
    down: Param<Tensor<B, 3>>,
    gate_lora: Option<ExpertLora<B>>,
    up_lora: Option<ExpertLora<B>>,
    down_lora: Option<ExpertLora<B>>,
}

/// Experts that see every token, as one of their summed width.
#[derive(Module, Debug)]
struct Shared<B: Backend> {
    gate: Param<Tensor<B, 2>>,
    up: Param<Tensor<B, 2>>,
    down: Param<Tensor<B, 2>>,
    gate_lora: Option<Lora<B>>,
    up_lora: Option<Lora<B>>,
    down_lora: Option<Lora<B>>,
}

impl<B: Kernels> Shared<B> {
    fn build(
        name: &str,
        a: &Architecture,
        adapters: &Adapters,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let (d, width) = (a.d_model, a.shared_experts * a.expert_width);
        let into = Start::fan_in(d);
        let mut matrix = |part: &str, shape, start| {
            param(source, &format!("{name}.{part}"), shape, start, device)
        };
        let gate = matrix("gate", [d, width], into)?;
        let up = matrix("up", [d, width], into)?;
        let down = matrix("down", [width, d], Start::residual(width, a.layers))?;
        let mut lora = |part: &str, shape| {
            let name = format!("{name}.{part}");
            Lora::build(&name, shape, adapters.expert_rank, adapters, source, device)
        };
        Ok(Self {
            gate,
            up,
            down,
            gate_lora: lora("gate", [d, width])?,
            up_lora: lora("up", [d, width])?,
            down_lora: lora("down", [width, d])?,
        })
    }

    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let matrix = |matrix: &Param<Tensor<B, 2>>, lora: &Option<Lora<B>>| match lora {
            None => matrix.val(),
            Some(lora) => matrix.val() + lora.change(),
        };
        let gate = matrix(&self.gate, &self.gate_lora);
        let up = matrix(&self.up, &self.up_lora);
        B::feed_forward(x, gate, up, matrix(&self.down, &self.down_lora))
    }

    fn folded(self) -> Self {
        let fold = |matrix, lora: &Option<Lora<B>>| folded(matrix, lora.as_ref().map(Lora::change));
        Self {
            gate: fold(self.gate, &self.gate_lora),
            up: fold(self.up, &self.up_lora),
            down: fold(self.down, &self.down_lora),
            gate_lora: None,
            up_lora: None,
            down_lora: None,
        }
    }
}

impl<B: Kernels> Mixture<B> {
    pub(super) fn build(
        name: &str,
        a: &Architecture,
        adapters: &Adapters,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let (d, width, experts) = (a.d_model, a.expert_width, a.experts);
        let into = Start::fan_in(d);
        let shared = match a.shared_experts {
            0 => None,
            _ => Some(Shared::build(&format!("{name}.shared"), a, adapters, source, device)?),
        };
        let router = param(source, &format!("{name}.router"), [d, experts], into, device)?;
        let bias = param(source, &format!("{name}.bias"), [experts], Start::Zero, device)?;
        let (wide, tall) = ([experts, d, width], [experts, width, d]);
        let mut matrices = |part: &str, shape, start| {
            param(source, &format!("{name}.{part}"), shape, start, device)
        };
        let gate = matrices("gate", wide, into)?;
        let up = matrices("up", wide, into)?;
        let down = matrices("down", tall, Start::residual(width, a.layers))?;
        let mut lora = |part: &str, shape| {
            let name = format!("{name}.{part}");
            ExpertLora::build(&name, shape, adapters.expert_rank, adapters, source, device)
        };
        Ok(Self {
            shared,
            router,
            bias: bias.set_require_grad(false),
            gate,
            up,
            down,
            gate_lora: lora("gate", wide)?,
            up_lora: lora("up", wide)?,
            down_lora: lora("down", tall)?,
        })
    }

    /// The same answers, with low-rank changes folded into their matrices.
    pub(super) fn folded(self) -> Self {
        let fold = |matrix, lora: &Option<ExpertLora<B>>| {
            folded(matrix, lora.as_ref().map(ExpertLora::change))
        };
        Self {
            shared: self.shared.map(Shared::folded),
            router: self.router,
            bias: self.bias,
            gate: fold(self.gate, &self.gate_lora),
            up: fold(self.up, &self.up_lora),
            down: fold(self.down, &self.down_lora),
            gate_lora: None,
            up_lora: None,
            down_lora: None,
        }
    }

    /// Routes each token to its `k` experts and mixes what they return.
    ///
    /// `x`: `[rows, d_model]`. Returns `[rows, d_model]`, what the router did, and the losses that
    /// `training` asks for.
    ///
    /// Sigmoid affinities are normalised over the chosen `k`, softmax ones are taken as they are;
    /// the bias steers the choice and never the mixture (DeepSeek-V3, arXiv 2412.19437, eq. 12-16;
    /// Switch, arXiv 2101.03961, eq. 1-2).
    pub(super) fn forward(
        &self,
        x: Tensor<B, 2>,
        rule: &Router,
        segments: &Segments,
    ) -> (Tensor<B, 2>, Routed, Option<Tensor<B, 1>>) {
        let [rows, _] = x.dims();
        let [experts, _, _] = self.gate.dims();
        let device = x.device();
        let logits = B::project(x.clone(), self.router.val());
        let affinity = match rule.affinity {
            Affinity::Sigmoid => sigmoid(logits.clone()),
            Affinity::Softmax => softmax(logits.clone(), 1),
        };
        let plan = Plan::new(
            &values(affinity.clone()),
            &values(self.bias.val()),
            rule.rule,
            rule.training.capacity_factor,
            segments,
        );
        let loss = rule.loss(logits, &affinity, &plan);
        let mixture = match rule.affinity {
            Affinity::Softmax => affinity,
            Affinity::Sigmoid => {
                let chosen = TensorData::new(plan.chosen, [rows, experts]);
                let affinity = affinity * Tensor::from_data(chosen, &device);
                affinity.clone() / affinity.sum_dim(1).add_scalar(TINY)
            }
        };
        let assignments = plan.cells.len();
        let cells =
            Tensor::<B, 1, Int>::from_data(TensorData::new(plan.cells, [assignments]), &device);
        let weight = mixture.reshape([rows * experts]).select(0, cells);
        let matrices = |matrix: &Param<Tensor<B, 3>>, lora: &Option<ExpertLora<B>>| match lora {
            None => matrix.val(),
            Some(lora) => matrix.val() + lora.change(),
        };
        let gate = matrices(&self.gate, &self.gate_lora);
        let up = matrices(&self.up, &self.up_lora);
        let down = matrices(&self.down, &self.down_lora);
        let mut y = B::experts(x.clone(), gate, up, down, weight, &plan.dispatch);
        if let Some(shared) = &self.shared {
            y = y + shared.forward(x);
        }
        (y, plan.routed, loss)
    }

    /// One step of `b_i += step_size * sign(mean load - load_i)`.
    pub(super) fn balance(&mut self, load: &ExpertLoad, step_size: f32) {
        let mut bias = values(self.bias.val());
        assert_eq!(bias.len(), load.0.len(), "one share an expert");
        let even = 1.0 / bias.len() as f32;
        for (bias, load) in bias.iter_mut().zip(&load.0) {
            if *load != even {
                *bias += step_size * (even - load).signum();
            }
        }
        let data = TensorData::new(bias, self.bias.dims());
        let tensor = Tensor::from_data(data, &self.bias.device());
        self.bias = Param::initialized(self.bias.id, tensor);
    }
}

fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.detach().into_data().convert::<f32>();
    data.into_vec().expect("converted to f32 in the line above")
}
