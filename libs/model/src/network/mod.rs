//! The deep path: embedding, pre-norm transformer blocks with expert mixtures, pooled head.
mod adapters;
mod attention;
mod experts;
mod norm;
mod parameters;
mod routing;
#[cfg(test)]
mod tests;

use burn::{
    module::{AutodiffModule as _, Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};

pub use self::{
    adapters::Adapters,
    routing::{ExpertLoad, Routed},
};
use self::{
    attention::Attention,
    experts::{Mixture, Router},
    norm::RmsNorm,
    routing::Rule,
};
pub(crate) use self::{
    parameters::{Pair, Random, param},
    parameters::{Source, Start},
};
use crate::{
    Affinity, Architecture, Batch, ModelError, Task,
    ops::{Heads, Kernels, Learns, Segments},
};

/// What a forward pass returns.
#[derive(Debug)]
pub struct Output<B: Backend> {
    /// `[batch, classes]`, the wide evidence included; of [`Task::NextToken`] `[rows, vocab]`.
    pub logits: Tensor<B, 2>,
    /// One a layer.
    pub loads: Vec<ExpertLoad>,
    /// What the routers did; one a layer.
    pub routed: Vec<Routed>,
    /// The routers' own losses, weighted and summed over the layers; where any is asked for.
    pub router_loss: Option<Tensor<B, 1>>,
}

impl<B: Kernels> Output<B> {
    /// Of [`Task::NextToken`]: the mean cross entropy of each token's successor, `[1]`.
    ///
    /// `targets`: `[rows]`, each below the vocabulary's size.
    #[must_use]
    pub fn next_token_loss(&self, targets: &[u32]) -> Tensor<B, 1> {
        B::cross_entropy(self.logits.clone(), targets)
    }
}

/// How routers work while they learn. All 0: as when they serve.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RouterTraining {
    /// An expert takes at most so many times its even share of the assignments, and drops the rest
    /// (Switch, arXiv 2101.03961, eq. 3); 0: none is dropped.
    pub capacity_factor: f64,
    /// Weight of the auxiliary loss for an even load (Switch, eq. 4).
    pub balance_loss: f64,
    /// Weight of the loss on large router logits (ST-MoE, arXiv 2202.08906, eq. 5).
    pub z_loss: f64,
}

/// Embedding, transformer blocks, mean pooling and a linear head over an open label set.
///
/// Ids of its parameters are made from their names and shapes, so that optimiser state kept by id
/// finds its parameter again in a network that was read from a file.
#[derive(Module, Debug)]
pub struct Network<B: Backend> {
    embedding: Param<Tensor<B, 2>>,
    blocks: Vec<Block<B>>,
    norm: RmsNorm<B>,
    head: Head<B>,
    #[module(skip)]
    form: Form,
}

/// What of the architecture a forward pass needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Form {
    task: Task,
    heads: Heads,
    affinity: Affinity,
    rule: Rule,
}

impl Form {
    fn of(a: &Architecture) -> Self {
        let heads = Heads {
            queries: a.heads,
            keys: a.kv_heads,
            width: a.head_width(),
            causal: a.task == Task::NextToken,
            rope_base: a.rope_base,
        };
        Self { task: a.task, heads, affinity: a.affinity, rule: Rule::of(a) }
    }
}

/// `x + attention(norm(x))`, then `x + mixture(norm(x))`.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    attention_norm: RmsNorm<B>,
    attention: Attention<B>,
    mixture_norm: RmsNorm<B>,
    mixture: Mixture<B>,
}

impl<B: Kernels> Block<B> {
    /// `x`: `[rows, d_model]`, and so is the result; with what [`Mixture::forward`] tells.
    fn forward(
        &self,
        x: Tensor<B, 2>,
        heads: Heads,
        router: &Router,
        segments: &Segments,
    ) -> (Tensor<B, 2>, Routed, Option<Tensor<B, 1>>) {
        let seen = self.attention_norm.forward(x.clone());
        let x = x + self.attention.forward(seen, heads, segments);
        let seen = self.mixture_norm.forward(x.clone());
        let (y, routed, loss) = self.mixture.forward(seen, router, segments);
        (x + y, routed, loss)
    }
}

/// A column for each class.
#[derive(Module, Debug)]
struct Head<B: Backend> {
    /// `[d_model, classes]`.
    weight: Param<Tensor<B, 2>>,
    /// `[classes]`.
    bias: Param<Tensor<B, 1>>,
}

impl<B: Kernels> Network<B> {
    /// Fresh weights; the same seed gives the same bits on every device.
    #[must_use]
    pub fn init(
        architecture: &Architecture,
        classes: usize,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        Self::build(architecture, &Adapters::default(), classes, &mut Random::new(seed), device)
            .expect("random weights have every name and shape")
    }

    /// The same answers with low-rank changes folded into the matrices they change: as quick as
    /// without. Prefixes stay.
    #[must_use]
    pub fn folded(mut self) -> Self {
        let fold = |block: Block<B>| Block {
            attention: block.attention.folded(),
            mixture: block.mixture.folded(),
            ..block
        };
        self.blocks = self.blocks.into_iter().map(fold).collect();
        self
    }

    /// Takes every parameter from `source`, by name and shape.
    pub(crate) fn build(
        a: &Architecture,
        adapters: &Adapters,
        classes: usize,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let embedding =
            param(source, "embedding", [a.vocab, a.d_model], Start::Spread(0.1), device)?;
        let blocks = (0..a.layers)
            .map(|layer| {
                let name = |part: &str| format!("blocks.{layer}.{part}");
                let norm = |part: &str, source: &mut dyn Source| {
                    RmsNorm::build(&name(part), a.d_model, a.norm_epsilon, source, device)
                };
                Ok(Block {
                    attention_norm: norm("attention_norm", source)?,
                    attention: Attention::build(&name("attention"), a, adapters, source, device)?,
                    mixture_norm: norm("mixture_norm", source)?,
                    mixture: Mixture::build(&name("mixture"), a, adapters, source, device)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        // Classes come one by one, and start without evidence; tokens are all there.
        let start = match a.task {
            Task::Classification => Start::Zero,
            Task::NextToken => Start::fan_in(a.d_model),
        };
        Ok(Self {
            embedding,
            blocks,
            norm: RmsNorm::build("norm", a.d_model, a.norm_epsilon, source, device)?,
            head: Head {
                weight: param(source, "head.weight", [a.d_model, classes], start, device)?,
                bias: param(source, "head.bias", [classes], Start::Zero, device)?,
            },
            form: Form::of(a),
        })
    }

    /// Logits of each text, `[batch, classes]`; of [`Task::NextToken`] those of each token's
    /// successor, `[rows, vocab]`. A text's logits do not depend on the others.
    pub fn forward(&self, batch: &Batch<B>) -> Output<B> {
        self.forward_learning(batch, RouterTraining::default())
    }

    /// The same, with routers that work as they do while they learn.
    pub fn forward_learning(&self, batch: &Batch<B>, training: RouterTraining) -> Output<B> {
        let segments = &batch.segments;
        let router = Router { affinity: self.form.affinity, rule: self.form.rule, training };
        let mut x = self.embedding.val().select(0, batch.tokens.clone());
        let mut routed = Vec::with_capacity(self.blocks.len());
        let mut router_loss: Option<Tensor<B, 1>> = None;
        for block in &self.blocks {
            let (y, did, loss) = block.forward(x, self.form.heads, &router, segments);
            x = y;
            routed.push(did);
            router_loss = match (router_loss, loss) {
                (Some(sum), Some(loss)) => Some(sum + loss),
                (sum, loss) => sum.or(loss),
            };
        }
        let mut x = self.norm.forward(x);
        if self.form.task != Task::NextToken {
            x = pooling(segments, &x.device()).matmul(x);
        }
        let mut logits = B::project(x, self.head.weight.val())
            + self.head.bias.val().reshape([1, self.classes()]);
        if let Some(wide) = &batch.wide {
            logits = logits + wide.clone();
        }
        let loads = routed.iter().map(|did| did.load.clone()).collect();
        Output { logits, loads, routed, router_loss }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.head.bias.dims()[0]
    }

    /// Appends classes with zero weights; the old columns keep their bits.
    ///
    /// The head's parameters get new ids: optimiser state of the old shape must not be used.
    ///
    /// # Panics
    /// When there are more classes already.
    #[must_use]
    pub fn grow_labels(mut self, classes: usize) -> Self {
        let old = self.classes();
        assert!(classes >= old, "labels are never removed");
        if classes > old {
            let [d_model, _] = self.head.weight.dims();
            let device = self.head.weight.device();
            let weight = self.head.weight.val().detach();
            let bias = self.head.bias.val().detach();
            let columns = Tensor::zeros([d_model, classes - old], &device);
            self.head = Head {
                weight: parameters::named("head.weight", Tensor::cat(vec![weight, columns], 1)),
                bias: parameters::named(
                    "head.bias",
                    Tensor::cat(vec![bias, Tensor::zeros([classes - old], &device)], 0),
                ),
            };
        }
        self
    }

    /// Moves each layer's routing bias by `step_size` towards the even load: down for experts that
    /// got more than their share, up for the others (DeepSeek-V3, arXiv 2412.19437, eq. 16 ff).
    ///
    /// # Panics
    /// When `loads` are not of this network's layers.
    #[must_use]
    pub fn balance(mut self, loads: &[ExpertLoad], step_size: f32) -> Self {
        assert_eq!(loads.len(), self.blocks.len(), "one load a layer");
        for (block, load) in self.blocks.iter_mut().zip(loads) {
            block.mixture.balance(load, step_size);
        }
        self
    }
}

/// `[texts, rows]`: the matrix that takes the mean over each text's tokens.
fn pooling<B: Backend>(segments: &Segments, device: &B::Device) -> Tensor<B, 2> {
    let shape = [segments.texts(), segments.rows()];
    let mut shares = vec![0.0_f32; shape[0] * shape[1]];
    for (row, tokens) in shares.chunks_exact_mut(shape[1]).zip(segments.ranges()) {
        let share = 1.0 / tokens.len() as f32;
        row[tokens].fill(share);
    }
    Tensor::from_data(TensorData::new(shares, shape), device)
}

impl<B: Learns> Network<B> {
    /// The same weights under the same ids, on a graph of their own.
    ///
    /// Small operations keep one core busy at best, so a step is fastest as one shard of the batch
    /// a core: each shard runs forward and backward on its own copy, in parallel, and their
    /// gradients are added in the order of the shards (which keeps a step deterministic).
    #[must_use]
    pub fn shard(&self) -> Self {
        // Not `valid().clone()`: a clone forgets which parameters are trained.
        Self::from_inner(self.valid())
    }
}
