//! From a generation's name to a model that may serve: fetch, verify, build, compare, warm.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

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

/// How long a generation is warmed with more than one text: a large one that waits for its last
/// page serves nobody.
const WARMING: Duration = Duration::from_millis(100);

/// Everything preparation needs.
pub(crate) struct Preparer {
    pub(crate) artifacts: ArtifactStore,
    pub(crate) device: Device,
    pub(crate) batch: BatchConfig,
    pub(crate) sight: Arc<Sight>,
}

impl Preparer {
    /// Makes generation `id`, judged by `verdict`, ready to serve. `recent` are inputs that clients
    /// asked about lately; the model has answered them before it gets its first request.
    pub(crate) async fn prepare(
        &self,
        id: GenerationId,
        verdict: Option<ArtifactHash>,
        recent: Vec<Input>,
    ) -> Result<Served, PrepareError> {
        let verdict = verdict.ok_or(PrepareError::NoVerdict(id))?;
        let store = |what| move |source| PrepareError::Store { what, source };
        let document = self.artifacts.get(&verdict).await.map_err(store("its verdict document"))?;
        let verdict: Verdict = serde_json::from_slice(&document)
            .map_err(|error| PrepareError::BadVerdict(error.to_string()))?;
        if verdict.generation != id {
            return Err(PrepareError::ForeignVerdict(verdict.generation));
        }
        let began = Instant::now();
        let verified = self.artifacts.generation_part(&id, &Model::FILES).await;
        let verified = verified.map_err(store("it"))?;
        let fetch_ms = began.elapsed().as_millis();
        tracing::debug!(generation = id.short(), fetch_ms, "fetched and verified");
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
    recent: Vec<Input>,
    device: &Device,
    max_batch: usize,
) -> Result<Model, PrepareError> {
    let began = Instant::now();
    let model = Model::from_files(verified.files(), device)?;
    let build_ms = began.elapsed().as_millis();
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
    let began = Instant::now();
    let one = compare(&model, golden)?;
    let compare_ms = began.elapsed().as_millis();
    let began = Instant::now();
    warm(&model, golden, recent, max_batch, one)?;
    let warm_ms = began.elapsed().as_millis();
    let generation = manifest.id().short();
    tracing::debug!(generation, build_ms, compare_ms, warm_ms, "built, compared and warmed");
    Ok(model)
}

/// Whether the model answers as it did when it was judged. Returns how long the last answer took.
fn compare(model: &Model, golden: &[Golden]) -> Result<Option<Duration>, PrepareError> {
    let mut one = None;
    for (index, golden) in golden.iter().enumerate() {
        let began = Instant::now();
        let scores = model.predict(&[Input::from_golden(golden)])?.swap_remove(0);
        one = Some(began.elapsed());
        let (found, expected) = (scores.probabilities, &golden.probabilities);
        // A NaN is near nothing.
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE;
        if found.len() != expected.len() || !found.iter().zip(expected).all(near) {
            let (expected, tolerance) = (expected.clone(), TOLERANCE);
            return Err(PrepareError::Golden { index, found, expected, tolerance });
        }
    }
    Ok(one)
}

/// First answers touch every page and kernel: no client waits for that. One that came lately may be
/// one that cannot be read; a model that fails at any other does not serve. `one`: how long an answer
/// takes, where there were some already.
fn warm(
    model: &Model,
    golden: &[Golden],
    recent: Vec<Input>,
    max_batch: usize,
    one: Option<Duration>,
) -> Result<(), PrepareError> {
    let golden = golden.iter().map(Input::from_golden);
    let mut inputs: Vec<Input> =
        recent.into_iter().chain(golden).filter(|input| model.reads(input)).collect();
    if inputs.is_empty() {
        inputs.push(Input::text("the first text"));
    }
    let answered = |inputs: &[Input]| {
        let failed = model.predict_each(inputs).into_iter().filter_map(Result::err);
        failed.filter(|error| !error.is_of_input()).map(Err).next().unwrap_or(Ok(()))
    };
    // One text; then as many as batches have, as far as time allows.
    let one = match one {
        Some(one) => one,
        None => {
            let began = Instant::now();
            answered(&inputs[..1])?;
            began.elapsed()
        }
    };
    let in_time = WARMING.as_secs_f64() / one.as_secs_f64().max(1e-6);
    inputs.truncate(max_batch.min(in_time as usize));
    if inputs.len() > 1 {
        answered(&inputs)?;
    }
    Ok(())
}
