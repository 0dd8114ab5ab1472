//! Training steps of a next-token network on any backend, as a peer takes them.
use std::collections::HashMap;

use anyhow::Context as _;
use burn::{
    module::{AutodiffModule as _, Module as _, ModuleMapper, Param, ParamId},
    tensor::Tensor,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_model::{AdamW, Batch, ExpertLoad, Learns, Network, RouterTraining};

/// Rows of tokens, a batch after the other, from the beginning again at the end.
#[derive(Debug)]
pub struct Batches {
    rows: Vec<Vec<u32>>,
    batch: usize,
    next: usize,
}

impl Batches {
    /// `rows`: each one token longer than what is read of it.
    #[must_use]
    pub fn new(rows: &[Vec<u32>], batch: usize) -> Self {
        let whole = rows.len() / batch * batch;
        Self { rows: rows[..whole].to_vec(), batch, next: 0 }
    }

    /// From the first again.
    pub fn begin_again(&mut self) {
        self.next = 0;
    }

    /// What is read, and what is to be predicted, of each row.
    fn take(&mut self) -> (Vec<&[u32]>, Vec<u32>) {
        let start = self.next * self.batch % self.rows.len();
        self.next += 1;
        let rows = &self.rows[start..start + self.batch];
        let read = rows.iter().map(|row| &row[..row.len() - 1]).collect();
        (read, rows.iter().flat_map(|row| row[1..].iter().copied()).collect())
    }
}

/// Rows of tokens, each most often followed by one of a few: there is something to learn.
#[must_use]
pub fn rows(vocab: u32, count: usize, length: usize) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut row = |_| {
        let mut token = rng.random_range(0..vocab);
        let mut next = |_| {
            token = match rng.random_range(0..10) {
                0 => rng.random_range(0..vocab),
                way => (token * 7 + way % 3) % vocab,
            };
            token
        };
        (0..length).map(&mut next).collect()
    };
    (0..count).map(&mut row).collect()
}

/// A network, its optimiser, and where it is in the stream.
#[derive(Debug)]
pub struct Training<B: Learns> {
    /// Always there, but while a step moves it: what nobody else holds is moved in place.
    network: Option<Network<B>>,
    moments: Moments,
    by: AdamW,
    balance: f32,
    batches: Batches,
    device: B::Device,
    /// Of each layer, at the last step.
    loads: Vec<ExpertLoad>,
}

impl<B: Learns> Training<B> {
    /// `by`: with any time; `balance`: the step of the routers' biases.
    #[must_use]
    pub fn new(
        network: Network<B>,
        by: AdamW,
        balance: f32,
        batches: Batches,
        device: B::Device,
    ) -> Self {
        let by = AdamW { time: 0, ..by };
        let moments = Moments::default();
        Self { network: Some(network), moments, by, balance, batches, device, loads: Vec::new() }
    }

    /// From the first batch again.
    pub fn begin_again(&mut self) {
        self.batches.begin_again();
    }

    /// What of its tokens the fullest expert of the last step got, as a multiple of the even share.
    #[must_use]
    pub fn fullest(&self) -> f32 {
        let of =
            |load: &ExpertLoad| load.0.iter().copied().fold(0.0, f32::max) * load.0.len() as f32;
        self.loads.iter().map(of).fold(0.0, f32::max)
    }

    /// Logits of a batch, `[rows, vocab]`, row by row.
    ///
    /// # Errors
    /// When a step failed before.
    pub fn forward(&mut self) -> anyhow::Result<Vec<f32>> {
        let network = self.network.as_ref().context("no step runs")?.valid();
        let (read, _) = self.batches.take();
        let logits = network.forward(&Batch::of_tokens(read, &self.device)).logits;
        logits.into_data().convert::<f32>().into_vec().ok().context("f32, converted")
    }

    /// A step; returns its loss.
    ///
    /// # Errors
    /// When a step failed before.
    pub fn step(&mut self) -> anyhow::Result<f32> {
        let (read, following) = self.batches.take();
        let batch = Batch::of_tokens(read, &self.device);
        let network = self.network.take().context("no step runs")?;
        let output = network.forward_learning(&batch, RouterTraining::default());
        let loss = output.next_token_loss(&following);
        self.loads = output.loads;
        drop(output.logits);
        let mut gradients = loss.backward();
        self.by.time += 1;
        let mut step = Step { gradients: &mut gradients, moments: &mut self.moments, by: self.by };
        let network = network.map(&mut step);
        self.network = Some(network.balance(&self.loads, self.balance));
        // Read last: waiting for it is waiting for the whole step.
        let loss = loss.into_data().convert::<f32>().into_vec::<f32>().ok().context("converted")?;
        loss.first().copied().context("a loss is one number")
    }
}

/// The optimiser's state, by parameter.
#[derive(Debug, Default)]
struct Moments(HashMap<ParamId, Box<dyn std::any::Any + Send>>);

struct Step<'a, B: Learns> {
    gradients: &'a mut B::Gradients,
    moments: &'a mut Moments,
    by: AdamW,
}

impl<B: Learns> ModuleMapper<B> for Step<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let Some(gradient) = tensor.grad_remove(self.gradients) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let inner = tensor.inner();
        let zeros = || Tensor::<B::InnerBackend, D>::zeros(inner.dims(), &inner.device());
        let moments = self.moments.0.remove(&id);
        let [first, second] = moments
            .and_then(|moments| moments.downcast::<[Tensor<B::InnerBackend, D>; 2]>().ok())
            .map_or_else(|| [zeros(), zeros()], |moments| *moments);
        let [moved, first, second] = self.by.step([inner, first, second], gradient);
        self.moments.0.insert(id, Box::new([first, second]));
        Param::from_mapped_value(id, Tensor::from_inner(moved).require_grad(), mapper)
    }
}
