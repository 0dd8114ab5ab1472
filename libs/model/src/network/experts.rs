//! Shared and routed SwiGLU experts.
use burn::{
    module::{Module, Param},
    tensor::{
        IndexingUpdateOp, Int, Tensor, TensorData,
        activation::{sigmoid, silu},
        backend::Backend,
    },
};

use super::{ExpertLoad, Places, Source, Start, param};
use crate::{Architecture, ModelError};

/// Keeps the normalisation finite when every chosen affinity underflows.
const TINY: f64 = 1e-9;

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
    top_k: usize,
}

/// Experts that see every token, as one of their summed width.
#[derive(Module, Debug)]
struct Shared<B: Backend> {
    gate: Param<Tensor<B, 2>>,
    up: Param<Tensor<B, 2>>,
    down: Param<Tensor<B, 2>>,
}

impl<B: Backend> Shared<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let hidden = silu(x.clone().matmul(self.gate.val())) * x.matmul(self.up.val());
        hidden.matmul(self.down.val())
    }
}

impl<B: Backend> Mixture<B> {
    pub(super) fn build(
        name: &str,
        a: &Architecture,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let (d, width, experts) = (a.d_model, a.expert_width, a.experts);
        let into = Start::fan_in(d);
        let shared = if a.shared_experts == 0 {
            None
        } else {
            let width = a.shared_experts * width;
            let mut matrix = |part: &str, shape, start| {
                param(source, &format!("{name}.shared.{part}"), shape, start, device)
            };
            Some(Shared {
                gate: matrix("gate", [d, width], into)?,
                up: matrix("up", [d, width], into)?,
                down: matrix("down", [width, d], Start::residual(width, a.layers))?,
            })
        };
        let router = param(source, &format!("{name}.router"), [d, experts], into, device)?;
        let bias = param(source, &format!("{name}.bias"), [experts], Start::Zero, device)?;
        let mut experts = |part: &str, shape, start| {
            param(source, &format!("{name}.{part}"), shape, start, device)
        };
        Ok(Self {
            shared,
            router,
            bias: bias.set_require_grad(false),
            gate: experts("gate", [a.experts, d, width], into)?,
            up: experts("up", [a.experts, d, width], into)?,
            down: experts("down", [a.experts, width, d], Start::residual(width, a.layers))?,
            top_k: a.top_k,
        })
    }

    /// Routes each token to its `k` experts and mixes what they return.
    ///
    /// `x`: `[rows, d_model]`. Returns `[rows, d_model]`, and the load `[experts]`
    /// (share of assignments, sums to 1) that the balancing bias is updated from. Padding is
    /// routed nowhere; no token is ever dropped.
    ///
    /// Affinities are sigmoid, normalised over the chosen `k`; the bias steers the choice
    /// and never the mixture (DeepSeek-V3, arXiv 2412.19437, eq. 12-16).
    pub(super) fn forward(
        &self,
        x: Tensor<B, 2>,
        places: &Places<B>,
    ) -> (Tensor<B, 2>, ExpertLoad) {
        let [rows, d_model] = x.dims();
        let [experts, _, _] = self.gate.dims();
        let device = x.device();
        let affinity = sigmoid(x.clone().matmul(self.router.val()));
        let plan = Plan::new(
            &values(affinity.clone()),
            &values(self.bias.val()),
            rows,
            places.real_rows(),
            self.top_k,
        );
        let slots = experts * plan.capacity;
        let indices = |list: Vec<i32>| -> Tensor<B, 1, Int> {
            Tensor::from_data(TensorData::new(list, [slots]), &device)
        };

        // The weight of an empty slot is 0, so that it adds nothing to the row it points at.
        let chosen = Tensor::from_data(TensorData::new(plan.chosen, [rows, experts]), &device);
        let filled = Tensor::<B, 1>::from_data(TensorData::new(plan.filled, [slots]), &device);
        let affinity = affinity * chosen;
        let mixture = affinity.clone() / affinity.sum_dim(1).add_scalar(TINY);
        let weight = mixture.reshape([rows * experts]).select(0, indices(plan.cell)) * filled;

        let row = indices(plan.row);
        let sent = x.clone().select(0, row.clone()).reshape([experts, plan.capacity, d_model]);
        let hidden = silu(sent.clone().matmul(self.gate.val())) * sent.matmul(self.up.val());
        let answer =
            hidden.matmul(self.down.val()).reshape([slots, d_model]) * weight.reshape([slots, 1]);
        let start = match &self.shared {
            Some(shared) => shared.forward(x),
            None => Tensor::zeros([rows, d_model], &device),
        };
        (start.select_assign(0, row, answer, IndexingUpdateOp::Add), plan.load)
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

/// Who goes where: every expert has `capacity` slots, as many as the fullest one needs.
struct Plan {
    /// Slots of each expert.
    capacity: usize,
    /// `[experts * capacity]`: the row in each slot; 0 in an empty one.
    row: Vec<i32>,
    /// `[experts * capacity]`: `row * experts + expert`; 0 in an empty one.
    cell: Vec<i32>,
    /// `[experts * capacity]`: 1 where there is a token.
    filled: Vec<f32>,
    /// `[rows, experts]`: 1 where the row chose the expert, padding too (its sum must not be 0).
    chosen: Vec<f32>,
    load: ExpertLoad,
}

impl Plan {
    /// `affinity`: `[rows, experts]`; `bias`: `[experts]`.
    fn new(
        affinity: &[f32],
        bias: &[f32],
        rows: usize,
        real_rows: impl Iterator<Item = usize>,
        top_k: usize,
    ) -> Self {
        let experts = bias.len();
        let mut chosen = vec![0.0; rows * experts];
        for (affinity, chosen) in
            affinity.chunks_exact(experts).zip(chosen.chunks_exact_mut(experts))
        {
            choose(affinity, bias, top_k, chosen);
        }
        let mut queues: Vec<Vec<usize>> = vec![Vec::new(); experts];
        for row in real_rows {
            for expert in 0..experts {
                if chosen[row * experts + expert] != 0.0 {
                    queues[expert].push(row);
                }
            }
        }
        let capacity = queues.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let assignments = queues.iter().map(Vec::len).sum::<usize>().max(1) as f32;
        let load = queues.iter().map(|queue| queue.len() as f32 / assignments).collect();
        let mut plan = Self {
            capacity,
            row: vec![0; experts * capacity],
            cell: vec![0; experts * capacity],
            filled: vec![0.0; experts * capacity],
            chosen,
            load: ExpertLoad(load),
        };
        for (expert, queue) in queues.iter().enumerate() {
            for (slot, &row) in (expert * capacity..).zip(queue) {
                plan.row[slot] = index(row);
                plan.cell[slot] = index(row * experts + expert);
                plan.filled[slot] = 1.0;
            }
        }
        plan
    }
}

/// Marks the `k` experts with the highest affinity + bias; of equals, the first.
fn choose(affinity: &[f32], bias: &[f32], top_k: usize, chosen: &mut [f32]) {
    for _ in 0..top_k {
        let mut best: Option<(usize, f32)> = None;
        for expert in 0..bias.len() {
            let score = affinity[expert] + bias[expert];
            if chosen[expert] == 0.0 && best.is_none_or(|(_, highest)| score > highest) {
                best = Some((expert, score));
            }
        }
        let (expert, _) = best.expect("top_k is at most the number of experts");
        chosen[expert] = 1.0;
    }
}

fn index(at: usize) -> i32 {
    i32::try_from(at).expect("a batch has fewer than 2^31 cells")
}
