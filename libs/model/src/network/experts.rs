//! Shared and routed experts, of SwiGLU or GELU.
use burn::{
    module::{Module, Param},
    tensor::{
        Tensor, TensorData,
        activation::{sigmoid, softmax},
        backend::Backend,
    },
};

use super::{
    Adapters, ExpertLoad, Routed, RouterTraining, Source, Start,
    adapters::{ExpertLora, Lora, folded},
    param,
    routing::{Routing, Rule},
};
use crate::{
    Affinity, Architecture, Compute, FeedForward, ModelError,
    ops::{Kernels, Segments},
    precision::full,
};

/// Keeps the balance loss finite when every affinity underflows.
const TINY: f64 = 1e-9;

/// How a pass routes; the same in all layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Router {
    pub(super) affinity: Affinity,
    pub(super) rule: Rule,
    pub(super) training: RouterTraining,
    /// Of the experts; routers are f32.
    pub(super) compute: Compute,
}

impl Router {
    /// What one layer adds to the loss; nothing when nothing is asked for.
    fn loss<B: Backend>(
        &self,
        logits: Tensor<B, 2>,
        affinity: &Tensor<B, 2>,
        routed: &Routed,
    ) -> Option<Tensor<B, 1>> {
        let [_, experts] = logits.dims();
        let RouterTraining { balance_loss, z_loss, .. } = self.training;
        let mut loss = None;
        if balance_loss > 0.0 {
            // Switch, eq. 4-6: experts * sum of (share of the choices) * (mean affinity).
            let share = TensorData::new(routed.load.0.clone(), [1, experts]);
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
    pub(super) router: Param<Tensor<B, 2>>,
    /// `[experts]`: steers the choice. Moved by [`Mixture::balance`], never by gradient.
    pub(super) bias: Param<Tensor<B, 1>>,
    /// `[experts, d_model, width]`; SwiGLU has one.
    pub(super) gate: Option<Param<Tensor<B, 3>>>,
    /// `[experts, d_model, width]`.
    pub(super) up: Param<Tensor<B, 3>>,
    /// `[experts, width, d_model]`.
    pub(super) down: Param<Tensor<B, 3>>,
    /// `[experts, width]`; GELU has one.
    pub(super) up_bias: Option<Param<Tensor<B, 2>>>,
    /// `[experts, d_model]`; GELU has one.
    pub(super) down_bias: Option<Param<Tensor<B, 2>>>,
    pub(super) gate_lora: Option<ExpertLora<B>>,
    pub(super) up_lora: Option<ExpertLora<B>>,
    pub(super) down_lora: Option<ExpertLora<B>>,
}

/// Experts that see every token, as one of their summed width.
#[derive(Module, Debug)]
struct Shared<B: Backend> {
    gate: Option<Param<Tensor<B, 2>>>,
    up: Param<Tensor<B, 2>>,
    down: Param<Tensor<B, 2>>,
    up_bias: Option<Param<Tensor<B, 1>>>,
    down_bias: Option<Param<Tensor<B, 1>>>,
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
        let gate = gated(a).then(|| matrix("gate", [d, width], into)).transpose()?;
        let up = matrix("up", [d, width], into)?;
        let down = matrix("down", [width, d], Start::residual(width, a.layers))?;
        let mut bias = |part: &str, size| {
            let name = format!("{name}.{part}");
            let bias = || param(source, &name, [size], Start::Zero, device);
            (!gated(a)).then(bias).transpose()
        };
        let (up_bias, down_bias) = (bias("up_bias", width)?, bias("down_bias", d)?);
        let mut lora = |part: &str, shape| {
            let name = format!("{name}.{part}");
            Lora::build(&name, shape, adapters.expert_rank, adapters, source, device)
        };
        let gate_lora = if gated(a) { lora("gate", [d, width])? } else { None };
        Ok(Self {
            gate,
            up,
            down,
            up_bias,
            down_bias,
            gate_lora,
            up_lora: lora("up", [d, width])?,
            down_lora: lora("down", [width, d])?,
        })
    }

    fn forward(&self, x: Tensor<B, 2>, compute: Compute) -> Tensor<B, 2> {
        let matrix = |matrix: &Param<Tensor<B, 2>>, lora: &Option<Lora<B>>| {
            compute.hold(match lora {
                None => matrix.val(),
                Some(lora) => matrix.val() + lora.change(),
            })
        };
        let up = matrix(&self.up, &self.up_lora);
        let down = matrix(&self.down, &self.down_lora);
        compute.hold(match (&self.gate, &self.up_bias, &self.down_bias) {
            (Some(gate), ..) => B::feed_forward(x, matrix(gate, &self.gate_lora), up, down),
            (None, Some(a), Some(b)) => B::gelu_feed_forward(x, [up, down], [a.val(), b.val()]),
            (None, ..) => unreachable!("GELU is built with both of its biases"),
        })
    }

    fn folded(self) -> Self {
        let fold = |matrix, lora: &Option<Lora<B>>| folded(matrix, lora.as_ref().map(Lora::change));
        Self {
            gate: self.gate.map(|gate| fold(gate, &self.gate_lora)),
            up: fold(self.up, &self.up_lora),
            down: fold(self.down, &self.down_lora),
            gate_lora: None,
            up_lora: None,
            down_lora: None,
            ..self
        }
    }
}

impl<B: Kernels> Mixture<B> {
    pub(super) fn build(
        name: &str,
        layer: usize,
        a: &Architecture,
        adapters: &Adapters,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let (d, width) = (a.d_model, a.expert_width);
        let (experts, _) = a.experts_of(layer);
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
        let gate = gated(a).then(|| matrices("gate", wide, into)).transpose()?;
        let up = matrices("up", wide, into)?;
        let down = matrices("down", tall, Start::residual(width, a.layers))?;
        let mut biases = |part: &str, size| {
            let name = format!("{name}.{part}");
            let biases = || param(source, &name, [experts, size], Start::Zero, device);
            (!gated(a)).then(biases).transpose()
        };
        let (up_bias, down_bias) = (biases("up_bias", width)?, biases("down_bias", d)?);
        let mut lora = |part: &str, shape| {
            let name = format!("{name}.{part}");
            ExpertLora::build(&name, shape, adapters.expert_rank, adapters, source, device)
        };
        let gate_lora = if gated(a) { lora("gate", wide)? } else { None };
        Ok(Self {
            shared,
            router,
            bias: bias.set_require_grad(false),
            gate,
            up,
            down,
            up_bias,
            down_bias,
            gate_lora,
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
            gate: self.gate.map(|gate| fold(gate, &self.gate_lora)),
            up: fold(self.up, &self.up_lora),
            down: fold(self.down, &self.down_lora),
            gate_lora: None,
            up_lora: None,
            down_lora: None,
            ..self
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
        let [experts, _, _] = self.up.dims();
        // In a dense layer there is nothing to choose, to drop or to even out.
        let (choice, capacity_factor) = match experts {
            1 => (Rule::ONE, 0.0),
            _ => (rule.rule, rule.training.capacity_factor),
        };
        // In f32: where a token goes is decided by small differences.
        let logits = B::project(full(x.clone()), self.router.val());
        let affinity = match rule.affinity {
            Affinity::Sigmoid => sigmoid(logits.clone()),
            Affinity::Softmax => softmax(logits.clone(), 1),
        };
        let how = Routing { rule: choice, capacity_factor, segments };
        let (sent, routed) = B::route(affinity.clone(), self.bias.val(), &how);
        let loss = if experts == 1 { None } else { rule.loss(logits, &affinity, &routed) };
        let weight = B::weights(affinity, rule.affinity, &sent);
        let compute = rule.compute;
        let matrices = |matrix: &Param<Tensor<B, 3>>, lora: &Option<ExpertLora<B>>| {
            compute.hold(match lora {
                None => matrix.val(),
                Some(lora) => matrix.val() + lora.change(),
            })
        };
        let up = matrices(&self.up, &self.up_lora);
        let down = matrices(&self.down, &self.down_lora);
        let own = x.clone();
        let mut y = compute.hold(match (&self.gate, &self.up_bias, &self.down_bias) {
            (Some(gate), ..) => {
                B::experts(own, matrices(gate, &self.gate_lora), up, down, weight, &sent)
            }
            (None, Some(a), Some(b)) => {
                B::gelu_experts(own, [up, down], [a.val(), b.val()], weight, &sent)
            }
            (None, ..) => unreachable!("GELU is built with both of its biases"),
        });
        if let Some(shared) = &self.shared {
            y = compute.hold(y + shared.forward(x, compute));
        }
        (y, routed, loss)
    }

    /// One step of `b_i += step_size * sign(mean load - load_i)`, of the experts that are `moved`.
    pub(super) fn balance(
        &mut self,
        load: &ExpertLoad,
        step_size: f32,
        moved: impl Fn(usize) -> bool,
    ) {
        let [experts] = self.bias.dims();
        assert_eq!(experts, load.0.len(), "one share an expert");
        let even = 1.0 / experts as f32;
        let step = |(at, load): (usize, &f32)| match *load == even || !moved(at) {
            true => 0.0,
            false => step_size * (even - load).signum(),
        };
        let steps = load.0.iter().enumerate().map(step).collect::<Vec<_>>();
        let bias = self.bias.val().detach();
        // Moved where it is: nobody waits for the device.
        let steps = Tensor::from_data(TensorData::new(steps, [experts]), &bias.device());
        self.bias = Param::initialized(self.bias.id, (bias + steps).set_require_grad(false));
    }

    pub(super) fn set_biases(&mut self, bias: Vec<f32>) {
        let data = TensorData::new(bias, self.bias.dims());
        let tensor = Tensor::from_data(data, &self.bias.device());
        self.bias = Param::initialized(self.bias.id, tensor);
    }
}

/// Whether experts have a gate; else they have biases.
fn gated(a: &Architecture) -> bool {
    a.block.feed_forward == FeedForward::SwiGlu
}

pub(super) fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.detach().into_data().convert::<f32>();
    data.into_vec().expect("converted to f32 in the line above")
}
