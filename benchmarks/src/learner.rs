//! Our learner as the service runs it, without its gate: jobs from a recipe, generations through the
//! artifact store.
use std::{collections::BTreeMap, path::Path, time::Instant};

use tempfile::{TempDir, tempdir, tempdir_in};
use tidegate_contracts::{JobId, JobKind, Offset, Partition, Window};
use tidegate_learning::{CheckpointDir, Job, NoObserver, Recipe, StartingPoint, manifest, train};
use tidegate_ledger::{ArtifactStore, ArtifactsConfig, Verified};
use tidegate_model::{Device, Model};
use tidegate_telemetry::energy::process_cpu_seconds;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::streams::Text;

/// Of learning, features included.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Seconds {
    /// On the clock.
    pub wall_s: f64,
    /// Of all cores.
    pub cpu_s: f64,
}

impl Seconds {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { wall_s: self.wall_s + other.wall_s, cpu_s: self.cpu_s + other.cpu_s }
    }
}

/// A champion, and what becomes of it.
#[derive(Debug)]
pub struct Learner {
    recipe: Recipe,
    seed: u64,
    store: ArtifactStore,
    checkpoints: CheckpointDir,
    runtime: Runtime,
    champion: Option<Verified>,
    jobs: u64,
    /// Of its files; goes with it.
    _folder: TempDir,
    /// Of all jobs so far.
    pub seconds: Seconds,
}

impl Learner {
    /// With nothing learnt. Its files are in memory where the system has a folder for that: what is
    /// measured is learning, and a disk that others use too would hold it up.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn new(recipe: &Recipe, seed: u64) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempdir_in(memory)? } else { tempdir()? };
        let path = folder.path();
        Ok(Self {
            recipe: recipe.clone(),
            seed,
            store: ArtifactStore::open(&ArtifactsConfig::default(), path)?,
            checkpoints: CheckpointDir::open(path.join("checkpoints"))?,
            runtime: Runtime::new()?,
            champion: None,
            jobs: 0,
            _folder: folder,
            seconds: Seconds::default(),
        })
    }

    /// A cold start where there is no champion, else a hot update from it. The result is the
    /// champion.
    ///
    /// # Errors
    /// The job's.
    pub fn learn<'a>(&mut self, texts: impl IntoIterator<Item = &'a Text>) -> anyhow::Result<()> {
        let examples: Vec<_> = texts.into_iter().map(Text::example).collect();
        let (kind, start) = match self.champion.take() {
            Some(champion) => (JobKind::HotUpdate, StartingPoint::Champion(champion)),
            None => (JobKind::ColdStart, StartingPoint::Scratch),
        };
        let offset = Offset(self.jobs as i64);
        let ranges = BTreeMap::from([(Partition(0), (offset, offset))]);
        let job = Job {
            id: JobId::new(format!("job-{}", self.jobs)),
            kind,
            without: std::collections::BTreeSet::new(),
            recipe: self.recipe.clone(),
            start,
            window: Window::new("curated", ranges)?,
            seed: self.recipe.seed ^ (self.seed << 32) ^ self.jobs,
            device: Device::Cpu,
        };
        let (began, cpu) = (Instant::now(), process_cpu_seconds().unwrap_or_default());
        let cancel = CancellationToken::new();
        let trained = train(&job, &examples, &self.checkpoints, &mut NoObserver, &cancel)?;
        self.seconds = self.seconds.plus(Seconds {
            wall_s: began.elapsed().as_secs_f64(),
            cpu_s: process_cpu_seconds().unwrap_or_default() - cpu,
        });
        self.jobs += 1;
        let manifest = manifest(&job, &trained, None);
        self.champion = Some(self.runtime.block_on(async {
            let id = self.store.put_generation(&manifest, &trained.files).await?;
            self.store.generation(&id).await
        })?);
        Ok(())
    }

    /// Who was learnt last.
    #[must_use]
    pub fn champion(&self) -> Option<&Verified> {
        self.champion.as_ref()
    }

    /// Forgets everything but its seconds: the next job is a cold start.
    pub fn forget(&mut self) {
        self.champion = None;
    }

    /// What the champion says; nothing of each before there is one.
    ///
    /// # Errors
    /// When its files are no model.
    pub fn answers<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a Text>,
    ) -> anyhow::Result<Vec<Option<String>>> {
        let inputs: Vec<_> = texts.into_iter().map(Text::input).collect();
        let Some(champion) = &self.champion else { return Ok(vec![None; inputs.len()]) };
        let model = Model::from_files(champion.files(), &Device::Cpu)?;
        let scores = model.predict(&inputs)?;
        Ok(scores.iter().map(|s| Some(model.labels()[s.best().0].to_string())).collect())
    }
}
