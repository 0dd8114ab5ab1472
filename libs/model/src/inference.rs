//! A trained model that answers.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use burn::{backend::Autodiff, module::Module as _};
use bytes::Bytes;
use rayon::prelude::*;
use tidegate_contracts::Class;

#[cfg(feature = "cuda")]
use crate::CudaBackend;
use crate::{
    Adapters, Architecture, Batch, Cache, CpuBackend, Device, Features, Featurizer, Input, Kernels,
    Levels, Modality, ModelError, Network, Scales, Task, Tokenizer, Weights, WideTable,
    attack::{Slopes, nudged, slopes, vectors},
    threads::{alone, in_haste, on_all_cores},
};

/// File of a generation: the [`Architecture`] as JSON.
pub const ARCHITECTURE: &str = "architecture.json";
/// File of a generation: the tokenizer, as HF `tokenizers` writes it.
pub const TOKENIZER: &str = "tokenizer.json";
/// File of a generation: every weight.
pub const WEIGHTS: &str = "weights.safetensors";
/// File of a generation: the classes by index, a JSON list of strings; of a regressor its levels, in
/// decimal notation.
pub const LABELS: &str = "labels.json";

/// File of a generation that reads tabular features: how its numbers are spread, the
/// [`crate::Scales`] as JSON.
pub const FEATURE_SCALES: &str = "features.json";
/// File of a generation that has adapters: which, the [`crate::Adapters`] as JSON.
pub const ADAPTERS: &str = "adapters.json";
/// File of a generation that has adapters: their weights, apart from those they change.
pub const ADAPTER_WEIGHTS: &str = "adapters.safetensors";

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
    /// Of a regressor.
    levels: Option<Levels>,
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
    /// The files that a model is built from; the last three only where it reads tabular features,
    /// or has adapters.
    pub const FILES: [&str; 7] =
        [ARCHITECTURE, LABELS, TOKENIZER, WEIGHTS, FEATURE_SCALES, ADAPTERS, ADAPTER_WEIGHTS];

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
        let labels = read_labels(file(LABELS)?, architecture.task)?;
        let regresses = architecture.task == Task::Regression;
        let levels = regresses.then(|| Levels::of(&labels)).transpose()?;
        let tokenizer = Tokenizer::from_bytes(file(TOKENIZER)?)?;
        if tokenizer.vocab() > architecture.tokenizer_vocab() {
            let (tokenizer, vocab) = (tokenizer.vocab(), architecture.tokenizer_vocab());
            return Err(ModelError::Vocabulary { tokenizer, vocab });
        }
        let adapters = match files.get(ADAPTERS) {
            Some(bytes) => Some((from_json(ADAPTERS, bytes)?, &file(ADAPTER_WEIGHTS)?[..])),
            None => None,
        };
        let outputs = architecture.outputs(labels.len());
        let (deep, wide) = Deep::load(&architecture, outputs, (file(WEIGHTS)?, adapters), device)?;
        let mut featurizer = Featurizer::new(tokenizer, architecture);
        if featurizer.architecture.modalities.contains(&Modality::Features) {
            featurizer.scales = Arc::new(Scales::from_bytes(file(FEATURE_SCALES)?)?);
        }
        Ok(Self(Arc::new(Inner { featurizer, labels, levels, deep, wide })))
    }

    /// The classes, by label index; of a regressor its levels, and none of a model of next tokens.
    #[must_use]
    pub fn labels(&self) -> &[Class] {
        &self.0.labels
    }

    /// What a regressor's scores stand for; nothing of other models.
    #[must_use]
    pub fn levels(&self) -> Option<&Levels> {
        self.0.levels.as_ref()
    }

    /// Which network it is.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.0.featurizer.architecture
    }

    /// Whether it reads any part of `input`.
    #[must_use]
    pub fn reads(&self, input: &Input) -> bool {
        self.0.featurizer.reads(input)
    }

    /// Scores of each input, in order. An answer does not depend on the other inputs.
    ///
    /// # Errors
    /// [`ModelError::Task`] for a model that has no labels; for the first input that cannot be
    /// read: [`ModelError::NothingToRead`], [`ModelError::BadPart`], [`ModelError::Tokenizer`].
    pub fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        self.predict_each(inputs).into_iter().collect()
    }

    /// The same, for who asks on behalf of many: an input that cannot be read leaves the others
    /// their answers.
    #[must_use]
    pub fn predict_each(&self, inputs: &[Input]) -> Vec<Result<Scores, ModelError>> {
        if !self.architecture().task.has_labels() {
            return inputs.iter().map(|_| Err(self.is_none_of(Task::Classification))).collect();
        }
        if let [input] = inputs {
            // This is the latency that a lone request sees.
            return vec![self.0.featurizer.features(input).map(|features| {
                let scores = || self.0.scores(&[&features]);
                let short = is_short(self.architecture(), features.rows());
                if short { alone(scores) } else { in_haste(scores) }.swap_remove(0)
            })];
        }
        on_all_cores(|| self.predict_all(inputs))
    }

    fn predict_all(&self, inputs: &[Input]) -> Vec<Result<Scores, ModelError>> {
        let read: Vec<Result<Features, ModelError>> = self.0.featurizer.features_each(inputs);
        let mut answers: Vec<Result<Scores, ModelError>> = Vec::with_capacity(inputs.len());
        let (mut places, mut features) = (Vec::new(), Vec::new());
        for (at, read) in read.into_iter().enumerate() {
            match read {
                Ok(read) => {
                    places.push(at);
                    features.push(read);
                    // Until it is known.
                    answers.push(Ok(Scores { probabilities: Vec::new() }));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        // Inputs of about the same length go together, so that little is padding.
        let mut order: Vec<usize> = (0..features.len()).collect();
        order.sort_by_key(|&at| features[at].rows());
        let scored: Vec<Vec<Scores>> = order
            .par_chunks(CHUNK)
            .map(|chunk| self.0.scores(&chunk.iter().map(|&at| &features[at]).collect::<Vec<_>>()))
            .collect();
        for (at, scores) in order.into_iter().zip(scored.into_iter().flatten()) {
            answers[places[at]] = Ok(scores);
        }
        answers
    }

    /// Each input's embedding, `[d_model]`: the mean of its tokens' final hidden states, of length 1
    /// (L2). Of the deep path alone; it depends neither on the classes nor on the other inputs.
    ///
    /// # Errors
    /// As [`Model::predict`], but for the task: every model has embeddings.
    pub fn embed(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>, ModelError> {
        on_all_cores(|| {
            let features = self.0.featurizer.features_all(inputs)?;
            let chunks: Vec<Vec<f32>> = features
                .par_chunks(CHUNK)
                .map(|chunk| self.0.deep.pooled(&chunk.iter().collect::<Vec<_>>()))
                .collect();
            let d_model = self.architecture().d_model;
            Ok(chunks.iter().flat_map(|chunk| chunk.chunks_exact(d_model).map(unit)).collect())
        })
    }

    /// How little each text surprises a model of next tokens. `inputs` that are longer than its
    /// context are read up to there.
    ///
    /// # Errors
    /// [`ModelError::Task`] for a model of another task, [`ModelError::NothingToRead`] for an input
    /// without text, [`ModelError::Tokenizer`].
    pub fn surprise(&self, inputs: &[Input]) -> Result<Vec<Surprise>, ModelError> {
        self.needs(Task::NextToken)?;
        on_all_cores(|| {
            let features = self.0.featurizer.features_all(inputs)?;
            Ok(features.par_iter().map(|features| self.0.surprise(features)).collect())
        })
    }

    pub(crate) fn needs(&self, task: Task) -> Result<(), ModelError> {
        if self.architecture().task == task { Ok(()) } else { Err(self.is_none_of(task)) }
    }

    fn is_none_of(&self, task: Task) -> ModelError {
        ModelError::Task { found: self.architecture().task.as_str(), needed: task.as_str() }
    }

    pub(crate) fn featurizer(&self) -> &Featurizer {
        &self.0.featurizer
    }

    pub(crate) fn wide(&self) -> &WideTable {
        &self.0.wide
    }

    /// Logits of both paths, `[features.len(), classes]`; `nudge` is added to the tokens' vectors.
    pub(crate) fn logits(&self, features: &[&Features], nudge: Option<Vec<f32>>) -> Vec<f32> {
        let (wide, classes) = (self.0.wide.logits(features), self.0.labels.len());
        match (nudge, &self.0.deep) {
            (None, deep) => deep.logits(features, wide, classes),
            (Some(nudge), Deep::Cpu(network)) => {
                nudged(network, features, (wide, classes), nudge, &Default::default())
            }
            #[cfg(feature = "cuda")]
            (Some(nudge), Deep::Cuda(network, device)) => {
                nudged(network, features, (wide, classes), nudge, device)
            }
        }
    }

    /// Slopes of a score over what the network reads; see [`crate::attack::slopes`].
    pub(crate) fn slopes(
        &self,
        features: &[&Features],
        nudge: Option<Vec<f32>>,
        of_logits: &dyn Fn(&[f32]) -> Vec<f32>,
    ) -> Slopes {
        let wide = (self.0.wide.logits(features), self.0.labels.len());
        match &self.0.deep {
            Deep::Cpu(network) => {
                let device = Default::default();
                slopes::<Autodiff<CpuBackend>>(network, features, wide, nudge, of_logits, &device)
            }
            #[cfg(feature = "cuda")]
            Deep::Cuda(network, device) => {
                slopes::<Autodiff<CudaBackend>>(network, features, wide, nudge, of_logits, device)
            }
        }
    }

    /// The vectors of tokens, `[tokens, d_model]`.
    pub(crate) fn vectors(&self, tokens: &[u32]) -> Vec<f32> {
        match &self.0.deep {
            Deep::Cpu(network) => vectors(network, tokens, &Default::default()),
            #[cfg(feature = "cuda")]
            Deep::Cuda(network, device) => vectors(network, tokens, device),
        }
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.0.featurizer.tokenizer
    }

    /// Of a text without a token yet.
    pub(crate) fn cache(&self) -> Known {
        match &self.0.deep {
            Deep::Cpu(network) => Known::Cpu(network.cache()),
            #[cfg(feature = "cuda")]
            Deep::Cuda(network, _) => Known::Cuda(network.cache()),
        }
    }

    /// Reads tokens behind those in `cache`: the logits of the one that follows, `[vocab]`.
    ///
    /// # Panics
    /// When `cache` is of a model on another device.
    pub(crate) fn read(&self, tokens: &[u32], cache: &mut Known) -> Vec<f32> {
        let logits = match (&self.0.deep, cache) {
            (Deep::Cpu(network), Known::Cpu(cache)) => network.next(tokens, cache).into_data(),
            #[cfg(feature = "cuda")]
            (Deep::Cuda(network, _), Known::Cuda(cache)) => network.next(tokens, cache).into_data(),
            #[cfg(feature = "cuda")]
            _ => unreachable!("a cache is of the model that made it"),
        };
        logits.convert::<f32>().into_vec().expect("converted to f32 in the line above")
    }

    /// Weights in all, and weights that one token uses: of the routed experts its `top_k`, of the
    /// embedding and of the wide table a row.
    #[must_use]
    pub fn parameters(&self) -> (usize, usize) {
        let (a, classes) = (self.architecture(), self.0.labels.len());
        let deep = self.0.deep.parameters();
        let expert = a.expert_matrices() * a.d_model * a.expert_width + a.expert_biases();
        let idle_experts = (a.layers - a.dense_layers) * (a.experts - a.top_k) * expert;
        let idle_rows = (a.vocab - 1 + a.idle_feature_rows()) * a.d_model;
        let [buckets, columns] = a.wide_shape(classes);
        (deep + buckets * columns, deep - idle_experts - idle_rows + columns)
    }
}

/// Whether a request of so many tokens is over before a second thread would be of help.
pub(crate) fn is_short(a: &Architecture, tokens: usize) -> bool {
    tokens * multiplications(a) < SHORT
}

/// Of one token in all layers, about.
fn multiplications(a: &Architecture) -> usize {
    let experts = a.expert_matrices() * a.experts_met() * a.d_model * a.expert_width;
    a.layers * 4 * a.d_model * a.d_model + experts
}

/// What a model keeps of a text that it continues, on its device.
#[derive(Debug)]
pub(crate) enum Known {
    Cpu(Cache<CpuBackend>),
    #[cfg(feature = "cuda")]
    Cuda(Cache<CudaBackend>),
}

impl Known {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Cpu(cache) => cache.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(cache) => cache.len(),
        }
    }
}

/// How little a text surprised a model: its negative log-likelihood.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Surprise {
    /// Of all its tokens together, in nats.
    pub nats: f64,
    /// Tokens, the end of the text included where it was read.
    pub tokens: usize,
    /// Bytes of text that these tokens are.
    pub bytes: usize,
}

impl Surprise {
    /// `e^(nats / tokens)`: among how many equally likely tokens the model chose, so to say.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        (self.nats / (self.tokens as f64).max(1.0)).exp()
    }

    /// Bits that a byte of text takes: comparable between tokenizers.
    #[must_use]
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / (self.bytes as f64).max(1.0)
    }
}

impl std::iter::Sum for Surprise {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            nats: sum.nats + one.nats,
            tokens: sum.tokens + one.tokens,
            bytes: sum.bytes + one.bytes,
        })
    }
}

impl Inner {
    fn surprise(&self, features: &Features) -> Surprise {
        let targets = &features.tokens[1..];
        let logits = self.deep.successors(features);
        let rows = logits.chunks_exact(self.featurizer.architecture.vocab);
        let nats = rows.zip(targets).map(|(row, &target)| {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|logit| f64::from(logit - highest).exp()).sum();
            sum.ln() - f64::from(row[target as usize] - highest)
        });
        let bytes = targets.iter().map(|&token| self.featurizer.tokenizer.bytes(token).len());
        Surprise { nats: nats.sum(), tokens: targets.len(), bytes: bytes.sum() }
    }

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

    /// `[rows, vocab]`: of each token but the last, the logits of the one that follows.
    fn successors(&self, features: &Features) -> Vec<f32> {
        match self {
            Self::Cpu(network) => successors(network, features, &Default::default()),
            #[cfg(feature = "cuda")]
            Self::Cuda(network, device) => successors(network, features, device),
        }
    }

    /// `[features.len(), d_model]`.
    fn pooled(&self, features: &[&Features]) -> Vec<f32> {
        match self {
            Self::Cpu(network) => pooled(network, features, &Default::default()),
            #[cfg(feature = "cuda")]
            Self::Cuda(network, device) => pooled(network, features, device),
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

fn successors<B: Kernels>(
    network: &Network<B>,
    features: &Features,
    device: &B::Device,
) -> Vec<f32> {
    let (batch, _) = Batch::successors(&[features], device);
    let logits = network.forward(&batch).logits.into_data().convert::<f32>();
    logits.into_vec().expect("converted to f32 in the line above")
}

fn pooled<B: Kernels>(
    network: &Network<B>,
    features: &[&Features],
    device: &B::Device,
) -> Vec<f32> {
    let pooled = network.pooled(&Batch::new(features, device)).into_data().convert::<f32>();
    pooled.into_vec().expect("converted to f32 in the line above")
}

/// The same direction, of length 1; zeros stay zeros.
pub(crate) fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let scale = if length > 0.0 { length.recip() } else { 0.0 };
    vector.iter().map(|value| (f64::from(*value) * scale) as f32).collect()
}

/// In f64: probabilities sum to 1 to the last bits of an f32.
pub(crate) fn softmax(logits: &[f32]) -> Scores {
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

/// At least one label, each once; of next tokens none.
fn read_labels(bytes: &[u8], task: Task) -> Result<Vec<Class>, ModelError> {
    let labels: Vec<Class> = from_json(LABELS, bytes)?;
    let mut seen = BTreeSet::new();
    let reason = match labels.iter().find(|label| !seen.insert(label.as_str())) {
        Some(twice) => format!("label `{twice}` is there twice"),
        None if task == Task::NextToken && !labels.is_empty() => {
            format!("a model of next tokens has no labels, and there is `{}`", labels[0])
        }
        None if task == Task::NextToken => return Ok(labels),
        None if labels.is_empty() => "there are no labels".to_owned(),
        None => return Ok(labels),
    };
    Err(ModelError::BadFile { file: LABELS, reason })
}
