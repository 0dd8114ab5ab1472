//! A whole training job on the device, beside the same on the CPU.
use std::collections::BTreeMap;

use tidegate_contracts::{Class, Domain, EventId, JobId, JobKind, Offset, Partition, Window};
use tidegate_learning::{
    CheckpointDir, Compute, Example, Job, NoObserver, Recipe, StartingPoint, Trained, train,
};
use tidegate_model::{Device, Input, Model};
use tokio_util::sync::CancellationToken;

use crate::checks::Check;

/// Texts that a job learns from, and as many that it is asked about.
const TEXTS: usize = 240;

/// The device in f32 and in bf16, the CPU in f32: losses, and answers to texts that none has seen.
pub(crate) fn beside_cpu(device: Device) -> anyhow::Result<Vec<Check>> {
    let expected = job(Device::Cpu, Compute::F32)?;
    let answers = answers(&expected)?;
    let mut checks = Vec::new();
    for compute in [Compute::F32, Compute::Bf16] {
        let found = job(device, compute)?;
        let differ = self::answers(&found)?.iter().zip(&answers).filter(|(a, b)| a != b).count();
        let mut check = |what: &str, apart: f64, tolerance: f64| {
            checks.push(Check {
                of: "a training job".to_owned(),
                what: what.to_owned(),
                compute: compute.as_str(),
                apart,
                tolerance,
            });
        };
        check("loss", (found.metrics["loss"] - expected.metrics["loss"]).abs(), 0.05);
        check("answers that differ", differ as f64 / TEXTS as f64, 0.02);
    }
    Ok(checks)
}

fn job(device: Device, compute: Compute) -> anyhow::Result<Trained> {
    let mut recipe = Recipe::default();
    recipe.architecture.context = 32;
    recipe.architecture.wide_buckets = 1 << 10;
    recipe.precision.compute = compute;
    // The wide path is not the device's.
    recipe.cold_start.wide_rate = 0.0;
    (recipe.cold_start.deep_rate, recipe.cold_start.epochs) = (3e-3, 8);
    let range = (Offset(0), Offset(TEXTS as i64));
    let job = Job {
        id: JobId::new("gpu"),
        kind: JobKind::ColdStart,
        without: std::collections::BTreeSet::new(),
        seed: recipe.seed,
        recipe,
        start: StartingPoint::Scratch,
        window: Window::new("curated", BTreeMap::from([(Partition(0), range)]))?,
        device,
    };
    let example = |at: usize| Example {
        id: EventId::new(at.to_string()),
        input: Input::text(text(at)),
        label: Class::new(CLASSES[at % 3].0),
        weight: 1.0,
        domain: Domain::new("benchmark"),
        groups: BTreeMap::new(),
        producer: None,
    };
    let examples: Vec<Example> = (0..TEXTS).map(example).collect();
    let folder = tempfile::tempdir()?;
    let checkpoints = CheckpointDir::open(folder.path())?;
    Ok(train(&job, &examples, &checkpoints, &mut NoObserver, &CancellationToken::new())?)
}

const CLASSES: [(&str, [&str; 4]); 3] = [
    ("spam", ["winner", "free", "prize", "claim"]),
    ("work", ["meeting", "patch", "review", "agenda"]),
    ("news", ["election", "storm", "market", "strike"]),
];

/// Two words of its class among others.
fn text(at: usize) -> String {
    let words = CLASSES[at % 3].1;
    let (one, other) = (words[at / 3 % 4], words[at / 12 % 4]);
    format!("number {} of the {one} list says {other} to all {} of us", at % 17, at * 7 % 23)
}

/// Of the trained model on the CPU, whatever it was trained on.
fn answers(trained: &Trained) -> anyhow::Result<Vec<usize>> {
    let model = Model::from_files(&trained.files, &Device::Cpu)?;
    let inputs: Vec<Input> = (TEXTS..2 * TEXTS).map(|at| Input::text(text(at))).collect();
    Ok(model.predict(&inputs)?.iter().map(|scores| scores.best().0).collect())
}
