//! From a generation's name to a model that may serve: fetch, verify, build, compare, warm.
use std::sync::Arc;

use tidegate_contracts::{ArtifactHash, GenerationId, Golden, Verdict};
use tidegate_ledger::{ArtifactStore, Verified};
use tidegate_model::{Device, Input, Model};

use crate::{
    batcher::{Batcher, panic_message},
    config::BatchConfig,
    error::PrepareError,
    sight::Sight,
    slot::Served,
};

/// How far a probability may be from the one the evaluator got: another machine rounds otherwise,
/// another model answers otherwise.
const TOLERANCE: f32 = 1e-4;

/// Everything preparation needs.
pub(crate) struct Preparer {
    pub(crate) artifacts: ArtifactStore,
    pub(crate) device: Device,
    pub(crate) batch: BatchConfig,
    pub(crate) sight: Arc<Sight>,
}

impl Preparer {
    /// Makes generation `id`, judged by `verdict`, ready to serve. `recent` are texts that clients
    /// asked about lately; the model has answered them before it gets its first request.
    pub(crate) async fn prepare(
        &self,
        id: GenerationId,
        verdict: Option<ArtifactHash>,
        recent: Vec<String>,
    ) -> Result<Served, PrepareError> {
        let verdict = verdict.ok_or(PrepareError::NoVerdict(id))?;
        let store = |what| move |source| PrepareError::Store { what, source };
        let document = self.artifacts.get(&verdict).await.map_err(store("its verdict document"))?;
        let verdict: Verdict = serde_json::from_slice(&document)
            .map_err(|error| PrepareError::BadVerdict(error.to_string()))?;
        if verdict.generation != id {
            return Err(PrepareError::ForeignVerdict(verdict.generation));
        }
        let verified = self.artifacts.generation(&id).await.map_err(store("it"))?;
        let (device, max_batch) = (self.device, self.batch.max_batch);
        let built = tokio::task::spawn_blocking(move || {
            apart(|| build(&verified, &verdict.golden, recent, &device, max_batch))
        });
        let model = built.await.unwrap_or_else(|error| {
            Err(PrepareError::Panicked(panic_message(error.into_panic().as_ref())))
        })?;
        Ok(Served::new(id, Batcher::start(Arc::new(model), &self.batch, self.sight.clone())))
    }
}

/// Runs `work` with a single thread where it would use all: requests that are answered meanwhile
/// keep their cores.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(work),
        Err(_) => work(),
    }
}

fn build(
    verified: &Verified,
    golden: &[Golden],
    recent: Vec<String>,
    device: &Device,
    max_batch: usize,
) -> Result<Model, PrepareError> {
    let model = Model::from_files(verified.files(), device)?;
    let manifest = verified.manifest();
    if manifest.labels != model.labels() {
        let list = |labels: &[tidegate_contracts::Class]| {
            labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let (manifest, model) = (list(&manifest.labels), list(model.labels()));
        return Err(PrepareError::Labels { manifest, model });
    }
    if golden.is_empty() {
        let generation = manifest.id().short();
        tracing::warn!(generation, "its verdict holds no golden inputs: answers are not compared");
    }
    compare(&model, golden)?;
    warm(&model, golden, recent, max_batch)?;
    Ok(model)
}

/// Whether the model answers as it did when it was judged.
fn compare(model: &Model, golden: &[Golden]) -> Result<(), PrepareError> {
    for (index, golden) in golden.iter().enumerate() {
        let scores = model.predict(&[Input { text: golden.text.clone() }])?.swap_remove(0);
        let (found, expected) = (scores.probabilities, &golden.probabilities);
        // A NaN is near nothing.
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE;
        if found.len() != expected.len() || !found.iter().zip(expected).all(near) {
            let (expected, tolerance) = (expected.clone(), TOLERANCE);
            return Err(PrepareError::Golden { index, found, expected, tolerance });
        }
    }
    Ok(())
}

/// First answers touch every page and kernel: no client waits for that.
fn warm(
    model: &Model,
    golden: &[Golden],
    recent: Vec<String>,
    max_batch: usize,
) -> Result<(), PrepareError> {
    let golden = golden.iter().map(|golden| golden.text.clone());
    let mut inputs: Vec<Input> =
        recent.into_iter().chain(golden).map(|text| Input { text }).collect();
    if inputs.is_empty() {
        inputs.push(Input { text: "the first text".to_owned() });
    }
    model.predict(&inputs[..1])?;
    // The sizes that batches have.
    inputs.truncate(max_batch);
    model.predict(&inputs)?;
    Ok(())
}
