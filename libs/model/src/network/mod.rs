//! The deep path: embedding, pre-norm transformer blocks with expert mixtures, pooled head.
mod attention;
mod experts;
mod norm;
mod parameters;
mod places;

use burn::{
    module::{AutodiffModule as _, Module, Param},
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};

use self::{attention::Attention, experts::Mixture, norm::RmsNorm, places::Places};
pub(crate) use self::{
    parameters::{Random, param},
    parameters::{Source, Start},
};
use crate::{Architecture, Batch, ModelError};

/// Share of one layer's assignments that each expert got; sums to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertLoad(pub Vec<f32>);

/// What a forward pass returns.
#[derive(Debug)]
pub struct Output<B: Backend> {
    /// `[batch, classes]`, the wide evidence included.
    pub logits: Tensor<B, 2>,
    /// One a layer.
    pub loads: Vec<ExpertLoad>,
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
    heads: usize,
    kv_heads: usize,
    rope_base: f64,
}

/// `x + attention(norm(x))`, then `x + mixture(norm(x))`.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    attention_norm: RmsNorm<B>,
    attention: Attention<B>,
    mixture_norm: RmsNorm<B>,
    mixture: Mixture<B>,
}

/// A column for each class.
#[derive(Module, Debug)]
struct Head<B: Backend> {
    /// `[d_model, classes]`.
    weight: Param<Tensor<B, 2>>,
    /// `[classes]`.
    bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Network<B> {
    /// Fresh weights; the same seed gives the same bits on every device.
    #[must_use]
    pub fn init(
        architecture: &Architecture,
        classes: usize,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        Self::build(architecture, classes, &mut Random::new(seed), device)
            .expect("random weights have every name and shape")
    }

    /// Takes every parameter from `source`, by name and shape.
    pub(crate) fn build(
        a: &Architecture,
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
                    attention: Attention::build(&name("attention"), a, source, device)?,
                    mixture_norm: norm("mixture_norm", source)?,
                    mixture: Mixture::build(&name("mixture"), a, source, device)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            embedding,
            blocks,
            norm: RmsNorm::build("norm", a.d_model, a.norm_epsilon, source, device)?,
            head: Head {
                weight: param(source, "head.weight", [a.d_model, classes], Start::Zero, device)?,
                bias: param(source, "head.bias", [classes], Start::Zero, device)?,
            },
            heads: a.heads,
            kv_heads: a.kv_heads,
            rope_base: a.rope_base,
        })
    }

    /// Logits of each text, `[batch, classes]`. A text's logits do not depend on the others.
    pub fn forward(&self, batch: &Batch<B>) -> Output<B> {
        let [texts, longest] = batch.tokens.dims();
        let [_, d_model] = self.embedding.dims();
        let head_width = d_model / self.heads;
        let device = batch.tokens.device();
        let places = Places::new(
            &batch.lengths,
            longest,
            (self.heads, self.kv_heads, head_width),
            self.rope_base,
            &device,
        );
        let mut x = self.embedding.val().select(0, batch.tokens.clone().reshape([texts * longest]));
        let mut loads = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            x = x.clone() + block.attention.forward(block.attention_norm.forward(x), &places);
            let (y, load) = block.mixture.forward(block.mixture_norm.forward(x.clone()), &places);
            x = x + y;
            loads.push(load);
        }
        let x = self.norm.forward(x).reshape([texts, longest, d_model]);
        let pooled = places.pooling(&device).matmul(x).reshape([texts, d_model]);
        let mut logits = pooled.matmul(self.head.weight.val())
            + self.head.bias.val().reshape([1, self.classes()]);
        if let Some(wide) = &batch.wide {
            logits = logits + wide.clone();
        }
        Output { logits, loads }
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

impl<B: AutodiffBackend> Network<B> {
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
