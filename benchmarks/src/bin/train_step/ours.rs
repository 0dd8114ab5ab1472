//! Our network, as the peer has it: the same weights, tokens and optimiser.
use std::collections::HashMap;

use anyhow::Context as _;
use burn::{
    backend::Autodiff,
    module::{AutodiffModule as _, Module as _, ModuleMapper, Param, ParamId},
    tensor::{Tensor, backend::AutodiffBackend},
};
use tidegate_model::{AdamW, Architecture, Batch, CpuBackend, Network, RouterTraining};

use crate::Settings;

type Train = Autodiff<CpuBackend>;
type Gradients = <Train as AutodiffBackend>::Gradients;

/// Rows of tokens, a batch after the other, from the beginning again at the end.
pub(crate) struct Batches {
    rows: Vec<Vec<u32>>,
    batch: usize,
    next: usize,
}

impl Batches {
    pub(crate) fn new(rows: &[Vec<u32>], batch: usize) -> Self {
        let whole = rows.len() / batch * batch;
        Self { rows: rows[..whole].to_vec(), batch, next: 0 }
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

pub(crate) struct Ours {
    /// Always there, but while a step moves it: what nobody else holds is moved in place.
    network: Option<Network<Train>>,
    moments: Moments,
    settings: Settings,
    batches: Batches,
}

impl Ours {
    pub(crate) fn new(
        architecture: &Architecture,
        settings: &Settings,
        rows: &[Vec<u32>],
    ) -> anyhow::Result<Self> {
        let network =
            Network::init(architecture, architecture.vocab, settings.seed, &Default::default());
        let batches = Batches::new(rows, settings.batch);
        let settings = settings.clone();
        Ok(Self { network: Some(network), moments: Moments::default(), settings, batches })
    }

    pub(crate) fn begin_again(&mut self) {
        self.batches.next = 0;
    }

    /// Logits of a batch, `[rows, vocab]`.
    pub(crate) fn forward(&mut self) -> anyhow::Result<Vec<f32>> {
        let network = self.network.as_ref().context("no step runs")?.valid();
        let (read, _) = self.batches.take();
        let logits = network.forward(&Batch::of_tokens(read, &Default::default())).logits;
        logits.into_data().into_vec().ok().context("f32 on the CPU")
    }

    /// A step; returns its loss.
    pub(crate) fn train(&mut self) -> anyhow::Result<f32> {
        let (read, following) = self.batches.take();
        let batch = Batch::of_tokens(read, &Default::default());
        let network = self.network.take().context("no step runs")?;
        let output = network.forward_learning(&batch, RouterTraining::default());
        let loss = output.next_token_loss(&following);
        let value = loss.clone().into_data().into_vec::<f32>().ok().context("f32 on the CPU")?[0];
        let mut gradients = loss.backward();
        let loads = output.loads;
        drop(output.logits);
        let mut step = Step {
            gradients: &mut gradients,
            moments: &mut self.moments,
            settings: &self.settings,
        };
        step.moments.time += 1;
        let network = network.map(&mut step);
        self.network = Some(network.balance(&loads, self.settings.balance));
        Ok(value)
    }
}

/// The optimiser's state, by parameter.
#[derive(Default)]
struct Moments {
    time: u64,
    of: HashMap<ParamId, Box<dyn std::any::Any + Send>>,
}

struct Step<'a> {
    gradients: &'a mut Gradients,
    moments: &'a mut Moments,
    settings: &'a Settings,
}

impl ModuleMapper<Train> for Step<'_> {
    fn map_float<const D: usize>(
        &mut self,
        param: Param<Tensor<Train, D>>,
    ) -> Param<Tensor<Train, D>> {
        let (id, tensor, mapper) = param.consume();
        let Some(gradient) = tensor.grad_remove(self.gradients) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let inner = tensor.inner();
        let zeros = || Tensor::<CpuBackend, D>::zeros(inner.dims(), &inner.device());
        let moments = self.moments.of.remove(&id);
        let [first, second] = moments
            .and_then(|moments| moments.downcast::<[Tensor<CpuBackend, D>; 2]>().ok())
            .map_or_else(|| [zeros(), zeros()], |moments| *moments);
        let by = AdamW {
            rate: self.settings.learning_rate,
            beta_1: self.settings.beta1,
            beta_2: self.settings.beta2,
            epsilon: self.settings.epsilon,
            weight_decay: self.settings.weight_decay,
            gradient_scale: 1.0,
            time: self.moments.time,
        };
        let [moved, first, second] = by.step([inner, first, second], gradient);
        self.moments.of.insert(id, Box::new([first, second]));
        Param::from_mapped_value(id, Tensor::from_inner(moved).require_grad(), mapper)
    }
}
