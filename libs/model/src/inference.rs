//! A trained model that answers.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use burn::module::Module as _;
use bytes::Bytes;
use rayon::prelude::*;
use tidegate_contracts::{Class, Event};

#[cfg(feature = "cuda")]
use crate::CudaBackend;
use crate::{
    Adapters, Architecture, Batch, CpuBackend, Device, Features, Featurizer, Kernels, ModelError,
    Network, Tokenizer, Weights, WideTable,
    threads::{alone, in_haste, on_all_cores},
};

/// File of a generation: the [`Architecture`] as JSON.
pub const ARCHITECTURE: &str = "architecture.json";
/// File of a generation: the tokenizer, as HF `tokenizers` writes it.
pub const TOKENIZER: &str = "tokenizer.json";
/// File of a generation: every weight.
pub const WEIGHTS: &str = "weights.safetensors";
/// File of a generation: the classes by index, a JSON list of strings.
pub const LABELS: &str = "labels.json";

/// File of a generation that has adapters: which, the [`crate::Adapters`] as JSON.
pub const ADAPTERS: &str = "adapters.json";
/// File of a generation that has adapters: their weights, apart from those they change.
pub const ADAPTER_WEIGHTS: &str = "adapters.safetensors";

/// What a prediction is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Any text; only the first [`Architecture::text_bytes`] are read.
    pub text: String,
}

impl Input {
    /// The event's text parts.
    ///
    /// # Errors
    /// [`ModelError::NoText`] for an event without text.
    pub fn from_event(event: &Event) -> Result<Self, ModelError> {
        let text = event.text();
        if text.is_empty() {
            return Err(ModelError::NoText(event.id.to_string()));
        }
        Ok(Self { text })
    }
}

/// What a model says about one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// By label index; sums to 1.
    pub probabilities: Vec<f32>,
}

impl Scores {
    /// Index and probability of the likeliest label; the first of equals.
    #[must_use]
    pub fn best(&self) -> (usize, f32) {
        let mut best = (0, 0.0);
        for (index, &probability) in self.probabilities.iter().enumerate() {
            if probability > best.1 {
                best = (index, probability);
            }
        }
        best
    }
}

/// Texts that go through the network at a time. Small enough that a chunk's activations stay in
/// the cache, large enough that matrices are worth a matmul.
const CHUNK: usize = 16;

/// Multiplications of a request that one thread does before a second one would be of help: some
/// half a millisecond.
const SHORT: usize = 50_000_000;

/// An immutable model. Cloning shares the weights; predicting takes no lock and copies none.
#[derive(Debug, Clone)]
pub struct Model(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    featurizer: Featurizer,
    labels: Vec<Class>,
    deep: Deep,
    wide: WideTable,
}

/// Shared by every request's thread without a lock.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
};

/// The deep path, on the device it was built for.
// One a model: its size is of no weight beside the weights.
#[cfg_attr(feature = "cuda", allow(clippy::large_enum_variant))]
#[derive(Debug)]
enum Deep {
    Cpu(Network<CpuBackend>),
    #[cfg(feature = "cuda")]
    Cuda(Network<CudaBackend>, burn::backend::cuda::CudaDevice),
}

impl Model {
    /// The files that a model is built from; the last two only where it has adapters.
    pub const FILES: [&str; 6] =
        [ARCHITECTURE, LABELS, TOKENIZER, WEIGHTS, ADAPTERS, ADAPTER_WEIGHTS];

    /// Builds the model from a generation's files.
    ///
    /// # Errors
    /// [`ModelError`] names the file or the tensor that is wrong.
    pub fn from_files(
        files: &BTreeMap<String, Bytes>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let file = |name| files.get(name).ok_or(ModelError::MissingFile(name));
        let architecture: Architecture = from_json(ARCHITECTURE, file(ARCHITECTURE)?)?;
        architecture.validate()?;
        let labels = read_labels(file(LABELS)?)?;
        let tokenizer = Tokenizer::from_bytes(file(TOKENIZER)?)?;
        if tokenizer.vocab() > architecture.vocab {
            let (tokenizer, vocab) = (tokenizer.vocab(), architecture.vocab);
            return Err(ModelError::Vocabulary { tokenizer, vocab });
        }
        let adapters = match files.get(ADAPTERS) {
            Some(bytes) => Some((from_json(ADAPTERS, bytes)?, &file(ADAPTER_WEIGHTS)?[..])),
            None => None,
        };
        let (deep, wide) =
            Deep::load(&architecture, labels.len(), (file(WEIGHTS)?, adapters), device)?;
        let featurizer = Featurizer { tokenizer, architecture };
        Ok(Self(Arc::new(Inner { featurizer, labels, deep, wide })))
    }

    /// The classes, by label index.
    #[must_use]
    pub fn labels(&self) -> &[Class] {
        &self.0.labels
    }

    /// Which network it is.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.0.featurizer.architecture
    }

    /// Scores of each input, in order. An answer does not depend on the other inputs.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        if let [input] = inputs {
            // This is the latency that a lone request sees.
            let features = self.0.featurizer.features(input)?;
            let scores = || self.0.scores(&[&features]);
            let is_short = features.tokens.len() * multiplications(self.architecture()) < SHORT;
            return Ok(if is_short { alone(scores) } else { in_haste(scores) });
        }
        on_all_cores(|| self.predict_all(inputs))
    }

    fn predict_all(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        let features = self.0.featurizer.features_all(inputs)?;
        // Texts of about the same length go together, so that little is padding.
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&at| features[at].tokens.len());
        let scored: Vec<Vec<Scores>> = order
            .par_chunks(CHUNK)
            .map(|chunk| self.0.scores(&chunk.iter().map(|&at| &features[at]).collect::<Vec<_>>()))
            .collect();
        let mut answers: Vec<(usize, Scores)> =
            order.into_iter().zip(scored.into_iter().flatten()).collect();
        answers.sort_unstable_by_key(|(at, _)| *at);
        Ok(answers.into_iter().map(|(_, scores)| scores).collect())
    }

    /// Weights in all, and weights that one token uses: of the routed experts its `top_k`, of the
    /// embedding and of the wide table a row.
    #[must_use]
    pub fn parameters(&self) -> (usize, usize) {
        let (a, classes) = (self.architecture(), self.0.labels.len());
        let deep = self.0.deep.parameters();
        let idle_experts = a.layers * (a.experts - a.top_k) * 3 * a.d_model * a.expert_width;
        let idle_rows = (a.vocab - 1) * a.d_model;
        (deep + a.wide_buckets * classes, deep - idle_experts - idle_rows + classes)
    }
}

/// Of one token in all layers, about.
fn multiplications(a: &Architecture) -> usize {
    let experts = 3 * (a.top_k + a.shared_experts) * a.d_model * a.expert_width;
    a.layers * (4 * a.d_model * a.d_model + experts)
}

impl Inner {
    /// Scores of one chunk.
    fn scores(&self, features: &[&Features]) -> Vec<Scores> {
        let classes = self.labels.len();
        let wide = self.wide.logits(features);
        let logits = self.deep.logits(features, wide, classes);
        logits.chunks_exact(classes).map(softmax).collect()
    }
}

impl Deep {
    fn load(
        architecture: &Architecture,
        classes: usize,
        files: (&[u8], Option<(Adapters, &[u8])>),
        device: &Device,
    ) -> Result<(Self, WideTable), ModelError> {
        match device {
            Device::Cpu => {
                let weights = read(architecture, classes, files, &Default::default())?;
                Ok((Self::Cpu(weights.network), weights.wide))
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                let cuda = burn::backend::cuda::CudaDevice::new(*index);
                let weights = read(architecture, classes, files, &cuda)?;
                Ok((Self::Cuda(weights.network, cuda), weights.wide))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(ModelError::Device {
                device: device.to_string(),
                reason: "this build has no CUDA: build with `--features cuda`, or use `cpu`"
                    .to_owned(),
            }),
        }
    }

    /// `[features.len(), classes]`, the wide evidence included.
    fn logits(&self, features: &[&Features], wide: Vec<f32>, classes: usize) -> Vec<f32> {
        match self {
            Self::Cpu(network) => forward(network, features, wide, classes, &Default::default()),
            #[cfg(feature = "cuda")]
            Self::Cuda(network, device) => forward(network, features, wide, classes, device),
        }
    }

    fn parameters(&self) -> usize {
        match self {
            Self::Cpu(network) => network.num_params(),
            #[cfg(feature = "cuda")]
            Self::Cuda(network, _) => network.num_params(),
        }
    }
}

/// Weights with their adapters folded in.
fn read<B: Kernels>(
    architecture: &Architecture,
    classes: usize,
    (weights, adapters): (&[u8], Option<(Adapters, &[u8])>),
    device: &B::Device,
) -> Result<Weights<B>, ModelError> {
    let Some((adapters, bytes)) = adapters else {
        return Weights::from_safetensors(architecture, classes, weights, device);
    };
    let files = (weights, Some(bytes));
    let mut weights = Weights::with_adapters(architecture, &adapters, classes, files, 0, device)?;
    weights.network = weights.network.folded();
    Ok(weights)
}

fn forward<B: Kernels>(
    network: &Network<B>,
    features: &[&Features],
    wide: Vec<f32>,
    classes: usize,
    device: &B::Device,
) -> Vec<f32> {
    let batch = Batch::new(features, device).with_wide(wide, classes);
    let logits = network.forward(&batch).logits.into_data().convert::<f32>();
    logits.into_vec().expect("converted to f32 in the line above")
}

/// In f64: probabilities sum to 1 to the last bits of an f32.
fn softmax(logits: &[f32]) -> Scores {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|l| f64::from(l - highest).exp()).collect();
    let sum: f64 = exps.iter().sum();
    Scores { probabilities: exps.iter().map(|e| (e / sum) as f32).collect() }
}

fn from_json<T: serde::de::DeserializeOwned>(
    file: &'static str,
    bytes: &[u8],
) -> Result<T, ModelError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ModelError::BadFile { file, reason: error.to_string() })
}

/// At least one label, each once.
fn read_labels(bytes: &[u8]) -> Result<Vec<Class>, ModelError> {
    let labels: Vec<Class> = from_json(LABELS, bytes)?;
    let mut seen = BTreeSet::new();
    let reason = match labels.iter().find(|label| !seen.insert(label.as_str())) {
        Some(twice) => format!("label `{twice}` is there twice"),
        None if labels.is_empty() => "there are no labels".to_owned(),
        None => return Ok(labels),
    };
    Err(ModelError::BadFile { file: LABELS, reason })
}
