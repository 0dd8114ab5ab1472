//! A training job, in a process of its own, that is killed again and again.
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tidegate_benchmarks::{corpus, reference};
use tidegate_contracts::{
    ArtifactHash, Class, Domain, EventId, JobId, JobKind, Offset, Partition, Window,
};
use tidegate_learning::{
    CheckpointDir, Example, Job, Observer, Progress, Recipe, StartingPoint, train,
};
use tidegate_model::{Architecture, Device, Input, Task, in_background};
use tokio_util::sync::CancellationToken;

/// Mails that the job learns from, again and again.
const MAILS: usize = 400;

/// What the job reads.
#[derive(Serialize, Deserialize)]
struct Mail {
    id: String,
    text: String,
    label: String,
}

/// What the kills showed.
pub(crate) struct Killed {
    /// From each kill to the successor's first step.
    pub(crate) seconds: Vec<f64>,
    /// Mean, by kill.
    pub(crate) steps_lost: f64,
    pub(crate) checkpoint_bytes: u64,
}

/// The job itself. Says each step and each checkpoint; goes on from the newest one in `folder`.
pub(crate) fn learn(mails: &Path, folder: &Path) -> anyhow::Result<()> {
    let architecture = Architecture { task: Task::Classification, ..reference::architecture() };
    let mut recipe = Recipe { architecture, ..Recipe::default() };
    recipe.cold_start.epochs = 1_000;
    recipe.cold_start.batch = 8;
    recipe.checkpoints.seconds = 0.5;
    let range = (Offset(0), Offset(MAILS as i64));
    let job = Job {
        id: JobId::new("killed"),
        kind: JobKind::ColdStart,
        without: std::collections::BTreeSet::new(),
        seed: recipe.seed,
        recipe,
        start: StartingPoint::Scratch,
        window: Window::new("curated", BTreeMap::from([(Partition(0), range)]))?,
        device: Device::Cpu,
    };
    let mails: Vec<Mail> = serde_json::from_slice(&std::fs::read(mails)?)?;
    let example = |mail: Mail| Example {
        id: EventId::new(mail.id),
        input: Input::text(mail.text),
        label: Class::new(mail.label),
        weight: 1.0,
        domain: Domain::new("email"),
        groups: BTreeMap::new(),
        producer: None,
    };
    let examples: Vec<Example> = mails.into_iter().map(example).collect();
    let checkpoints = CheckpointDir::open(folder)?;
    in_background(|| {
        train(&job, &examples, &checkpoints, &mut Say, &CancellationToken::new()).map(drop)
    })?;
    Ok(())
}

struct Say;

impl Observer for Say {
    fn progress(&mut self, progress: &Progress) {
        say("step", progress.step);
    }

    fn checkpoint(&mut self, step: u64, _: ArtifactHash) {
        say("checkpoint", step);
    }
}

fn say(what: &str, step: u64) {
    // When nobody listens any more, the kill comes next.
    let _ = writeln!(std::io::stdout(), "{what} {step}");
}

/// Kills the job at random moments, and has it start again at once.
pub(crate) fn kill(corpus: &Path, folder: &Path, kills: usize) -> anyhow::Result<Killed> {
    let (checkpoints, window) = (folder.join("checkpoints"), folder.join("window.json"));
    let mails = corpus::mails(corpus)?.into_iter().take(MAILS);
    let mails: Vec<Mail> = mails
        .map(|mail| Mail { id: mail.id, text: mail.text, label: mail.label.to_owned() })
        .collect();
    std::fs::write(&window, serde_json::to_vec(&mails)?)?;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut running = Running::start(&window, &checkpoints)?;
    let (mut seconds, mut lost) = (Vec::new(), 0);
    for kill in 1..=kills {
        // After a checkpoint of its own, so that each successor has something new to go on from.
        running.until("checkpoint")?;
        let end = Instant::now() + Duration::from_millis(rng.random_range(0..700));
        let mut last = running.until("step")?;
        while Instant::now() < end {
            last = running.until("step")?;
        }
        let began = Instant::now();
        running.child.kill()?;
        running.child.wait()?;
        running = Running::start(&window, &checkpoints)?;
        let first = running.until("step")?;
        seconds.push(began.elapsed().as_secs_f64());
        anyhow::ensure!(first > 1, "the job began anew instead of going on");
        lost += (last + 1).saturating_sub(first);
        eprintln!("kill {kill} of {kills}: {:.3} s", seconds[kill - 1]);
    }
    let files = std::fs::read_dir(&checkpoints)?;
    let sizes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    let checkpoint_bytes = sizes.max().context("there is a checkpoint")?;
    Ok(Killed { seconds, steps_lost: lost as f64 / kills as f64, checkpoint_bytes })
}

struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    fn start(window: &Path, checkpoints: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("learn").arg(window).arg(checkpoints);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let said = BufReader::new(child.stdout.take().context("its output is piped")?);
        Ok(Self { child, said })
    }

    /// Waits for the next line of this kind; returns its step.
    fn until(&mut self, what: &str) -> anyhow::Result<u64> {
        loop {
            let mut line = String::new();
            self.said.read_line(&mut line)?;
            anyhow::ensure!(!line.is_empty(), "the job ended by itself");
            if let Some((kind, step)) = line.trim().split_once(' ')
                && kind == what
            {
                return Ok(step.parse()?);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing of it is needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
