//! The deep path: embedding, pre-norm transformer blocks with expert mixtures, pooled head.
mod adapters;
mod attention;
mod cache;
mod expansion;
mod experts;
mod front_ends;
mod norm;
mod parameters;
mod routing;
#[cfg(test)]
mod tests;

use burn::{
    module::{AutodiffModule as _, Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};

pub(crate) use self::routing::{Plan, Routing, Rule};
pub use self::{
    adapters::Adapters,
    cache::Cache,
    expansion::Grown,
    routing::{ExpertLoad, Routed},
};
use self::{
    attention::{Attention, Seen},
    experts::{Mixture, Router},
    front_ends::FrontEnds,
    norm::Norm,
};
pub(crate) use self::{
    parameters::{Pair, Random, param},
    parameters::{Source, Start},
};
use crate::{
    Affinity, Architecture, Batch, Compute, ModelError, Placement, Positions, Task,
    ops::{Heads, Kernels, Learns, Segments},
    precision::full,
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

/// Embedding, front-ends, transformer blocks, mean pooling and a linear head over an open label set.
///
/// Ids of its parameters are made from their names and shapes, so that optimiser state kept by id
/// finds its parameter again in a network that was read from a file.
#[derive(Module, Debug)]
pub struct Network<B: Backend> {
    /// `[vocab, d_model]`.
    embedding: Param<Tensor<B, 2>>,
    front_ends: FrontEnds<B>,
    /// `[context, d_model]`; only where positions are learned.
    positions: Option<Param<Tensor<B, 2>>>,
    /// Of the embedding; only where sums are normed.
    embedding_norm: Option<Norm<B>>,
    blocks: Vec<Block<B>>,
    /// Before the head; only where what goes into blocks is normed.
    norm: Option<Norm<B>>,
    head: Head<B>,
    #[module(skip)]
    form: Form,
}

/// What of the architecture a forward pass needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Form {
    task: Task,
    placement: Placement,
    heads: Heads,
    affinity: Affinity,
    rule: Rule,
    compute: Compute,
}

impl Form {
    fn of(a: &Architecture) -> Self {
        let heads = Heads {
            queries: a.heads,
            keys: a.kv_heads,
            width: a.head_width(),
            causal: a.task == Task::NextToken,
            first: 0,
            rope_base: (a.block.positions == Positions::Rotary).then_some(a.rope_base),
        };
        let (task, placement) = (a.task, a.block.placement);
        let (affinity, rule) = (a.affinity, Rule::of(a));
        Self { task, placement, heads, affinity, rule, compute: Compute::F32 }
    }
}

/// `x + attention(norm(x))`, then `x + mixture(norm(x))`; or `norm(x + attention(x))`, then
/// `norm(x + mixture(x))`.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    attention_norm: Norm<B>,
    attention: Attention<B>,
    mixture_norm: Norm<B>,
    mixture: Mixture<B>,
}

impl<B: Kernels> Block<B> {
    /// `x`: `[rows, d_model]`, and so is the result; with what [`Mixture::forward`] tells.
    fn forward(
        &self,
        x: Tensor<B, 2>,
        form: &Form,
        router: &Router,
        segments: &Segments,
        before: Option<&mut Seen<B>>,
    ) -> (Tensor<B, 2>, Routed, Option<Tensor<B, 1>>) {
        let (compute, heads) = (form.compute, form.heads);
        match form.placement {
            Placement::Pre => {
                let seen = self.attention_norm.forward(x.clone(), compute);
                let y = self.attention.forward(seen, heads, segments, compute, before);
                let x = compute.hold(x + y);
                let seen = self.mixture_norm.forward(x.clone(), compute);
                let (y, routed, loss) = self.mixture.forward(seen, router, segments);
                (compute.hold(x + y), routed, loss)
            }
            Placement::Post => {
                let y = self.attention.forward(x.clone(), heads, segments, compute, before);
                let x = self.attention_norm.forward(compute.hold(x + y), compute);
                let (y, routed, loss) = self.mixture.forward(x.clone(), router, segments);
                let y = self.mixture_norm.forward(compute.hold(x + y), compute);
                (y, routed, loss)
            }
        }
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

    /// The same network, whose forward and backward passes are computed in this format from now on;
    /// f32 unless said so. Parameters, their gradients and the logits stay f32.
    #[must_use]
    pub fn computing_in(mut self, compute: Compute) -> Self {
        self.form.compute = compute;
        self
    }

    /// The same network, whose routers are not asked: every expert gets as many tokens. For
    /// measurements of what uneven loads cost.
    #[must_use]
    pub fn routed_evenly(mut self) -> Self {
        self.form.rule.even = true;
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
        let positions = match a.block.positions {
            Positions::Rotary => None,
            Positions::Learned => {
                let shape = [a.context, a.d_model];
                Some(param(source, "positions", shape, Start::Spread(0.1), device)?)
            }
        };
        let (pre, post) = match a.block.placement {
            Placement::Pre => (true, false),
            Placement::Post => (false, true),
        };
        let norm = |here: bool, name: &str, source: &mut dyn Source| {
            here.then(|| Norm::build(name, a, source, device)).transpose()
        };
        let embedding_norm = norm(post, "embedding_norm", source)?;
        let blocks = (0..a.layers)
            .map(|layer| {
                let name = |part: &str| format!("blocks.{layer}.{part}");
                let norm = |part: &str, source: &mut dyn Source| {
                    Norm::build(&name(part), a, source, device)
                };
                Ok(Block {
                    attention_norm: norm("attention_norm", source)?,
                    attention: Attention::build(&name("attention"), a, adapters, source, device)?,
                    mixture_norm: norm("mixture_norm", source)?,
                    mixture: Mixture::build(&name("mixture"), layer, a, adapters, source, device)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        // Classes come one by one, and start without evidence; tokens are all there.
        let start = match a.task {
            Task::Classification | Task::Regression => Start::Zero,
            Task::NextToken => Start::fan_in(a.d_model),
        };
        Ok(Self {
            embedding,
            front_ends: FrontEnds::build(a, source, device)?,
            positions,
            embedding_norm,
            blocks,
            norm: norm(pre, "norm", source)?,
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

    /// The final hidden state of each token, `[rows, d_model]`, in the format that is computed in.
    pub fn hidden(&self, batch: &Batch<B>) -> Tensor<B, 2> {
        self.states(batch, RouterTraining::default(), None).0
    }

    /// The mean of each input's final hidden states, f32 `[batch, d_model]`: what the head of a
    /// classifier reads.
    pub fn pooled(&self, batch: &Batch<B>) -> Tensor<B, 2> {
        let x = full(self.hidden(batch));
        pooling(&batch.segments, &x.device()).matmul(x)
    }

    /// The vector of each token of text, `[text rows, d_model]`, before its place is added.
    pub(crate) fn embedded(&self, batch: &Batch<B>) -> Tensor<B, 2> {
        B::embed(self.embedding.val(), batch.tokens.clone())
    }

    /// Final hidden states, what the routers did, and their losses.
    fn states(
        &self,
        batch: &Batch<B>,
        training: RouterTraining,
        mut cache: Option<&mut Cache<B>>,
    ) -> (Tensor<B, 2>, Vec<Routed>, Option<Tensor<B, 1>>) {
        let segments = &batch.segments;
        let first = cache.as_ref().map_or(0, |cache| cache.len());
        let mut form = self.form;
        form.heads.first = first;
        let Form { affinity, rule, compute, .. } = form;
        let router = Router { affinity, rule, training, compute };
        let mut x = self.embedded(batch);
        if let Some(nudge) = &batch.nudge {
            x = x + nudge.clone();
        }
        if let Some(positions) = &self.positions {
            // Of texts: pictures and sounds have places of their own.
            let at = batch.positions(first, &x.device());
            x = x + B::embed(positions.val(), at);
        }
        if let Some(parts) = &batch.parts {
            x = self.front_ends.join(x, parts);
        }
        let mut x = compute.hold(x);
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(x, compute);
        }
        let mut routed = Vec::with_capacity(self.blocks.len());
        let mut router_loss: Option<Tensor<B, 1>> = None;
        for (layer, block) in self.blocks.iter().enumerate() {
            let before = cache.as_mut().map(|cache| cache.layer(layer));
            let (y, did, loss) = block.forward(x, &form, &router, segments, before);
            x = y;
            routed.push(did);
            router_loss = match (router_loss, loss) {
                (Some(sum), Some(loss)) => Some(sum + loss),
                (sum, loss) => sum.or(loss),
            };
        }
        let x = match &self.norm {
            Some(norm) => norm.forward(x, compute),
            None => x,
        };
        (x, routed, router_loss)
    }

    /// The same as [`Network::forward`], with routers that work as they do while they learn.
    pub fn forward_learning(&self, batch: &Batch<B>, training: RouterTraining) -> Output<B> {
        let compute = self.form.compute;
        let (mut x, routed, router_loss) = self.states(batch, training, None);
        if self.form.task != Task::NextToken {
            x = compute.hold(pooling(&batch.segments, &x.device()).matmul(full(x)));
        }
        let mut logits = self.answers(x);
        if let Some(wide) = &batch.wide {
            logits = logits + wide.clone();
        }
        let loads = routed.iter().map(|did| did.load.clone()).collect();
        Output { logits, loads, routed, router_loss }
    }

    /// What the head makes of final states. `x`: `[rows, d_model]`; returns f32 `[rows, classes]`.
    fn answers(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let compute = self.form.compute;
        let logits = B::project(x, compute.hold(self.head.weight.val()));
        full(compute.hold(logits)) + self.head.bias.val().reshape([1, self.classes()])
    }

    /// What it answers.
    #[must_use]
    pub fn task(&self) -> Task {
        self.form.task
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

    /// Multiplies the head, and so all logits. Its parameters get new ids.
    #[must_use]
    pub(crate) fn multiply_logits(mut self, by: f32) -> Self {
        let (weight, bias) = (self.head.weight.val(), self.head.bias.val());
        self.head = Head {
            weight: parameters::named("head.weight", weight.mul_scalar(by).detach()),
            bias: parameters::named("head.bias", bias.mul_scalar(by).detach()),
        };
        self
    }

    /// Columns of another label set: of each class that of the class at its index in the present
    /// one, or zeros for a class that is new. The head's parameters get new ids.
    ///
    /// # Panics
    /// When an index is of no present class.
    #[must_use]
    pub fn relabel(mut self, columns: &[Option<usize>]) -> Self {
        let device = self.head.weight.device();
        let [d_model, old] = self.head.weight.dims();
        let take = |row: &[f32]| -> Vec<f32> {
            columns.iter().map(|from| from.map_or(0.0, |from| row[from])).collect()
        };
        let weight = experts::values(self.head.weight.val());
        let weight: Vec<f32> = weight.chunks_exact(old).flat_map(take).collect();
        let bias = take(&experts::values(self.head.bias.val()));
        let weight = TensorData::new(weight, [d_model, columns.len()]);
        let bias = TensorData::new(bias, [columns.len()]);
        self.head = Head {
            weight: parameters::named("head.weight", Tensor::from_data(weight, &device)),
            bias: parameters::named("head.bias", Tensor::from_data(bias, &device)),
        };
        self
    }

    /// Moves each layer's routing bias by `step_size` towards the even load: down for experts that
    /// got more than their share, up for the others (DeepSeek-V3, arXiv 2412.19437, eq. 16 ff).
    ///
    /// # Panics
    /// When `loads` are not of this network's layers.
    #[must_use]
    pub fn balance(self, loads: &[ExpertLoad], step_size: f32) -> Self {
        self.balance_where(loads, step_size, |_| true)
    }

    /// The same for the experts that are `moved`, by index; the biases of the others keep their
    /// bits.
    ///
    /// # Panics
    /// When `loads` are not of this network's layers.
    #[must_use]
    pub fn balance_where(
        mut self,
        loads: &[ExpertLoad],
        step_size: f32,
        moved: impl Fn(usize) -> bool,
    ) -> Self {
        assert_eq!(loads.len(), self.blocks.len(), "one load a layer");
        for (block, load) in self.blocks.iter_mut().zip(loads) {
            block.mixture.balance(load, step_size, &moved);
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
