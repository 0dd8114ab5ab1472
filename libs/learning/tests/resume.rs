//! A job that is cancelled or killed ends with the bytes of one that was not.
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{Log, cold_start, examples, hot_update, published, trained};
use tidegate_learning::{
    BalanceBy, CheckpointDir, Example, Job, LearningError, Train, Trained, manifest, train,
};
use tidegate_ledger::{Verified, write_folder};
use tokio_util::sync::CancellationToken;

const BOTH: &[&str] = &["spam", "ham"];

fn run(job: &Job, window: &[Example], folder: &Path) -> (Result<Trained, LearningError>, Log) {
    let mut log = Log::default();
    let checkpoints = CheckpointDir::open(folder).unwrap();
    let result = train(job, window, &checkpoints, &mut log, &CancellationToken::new());
    (result, log)
}

/// Cancels after `step`.
fn cancelled(job: &Job, window: &[Example], folder: &Path, step: u64) -> Log {
    let cancel = CancellationToken::new();
    let mut log = Log { cancel_after: Some((step, cancel.clone())), ..Log::default() };
    let checkpoints = CheckpointDir::open(folder).unwrap();
    let error = train(job, window, &checkpoints, &mut log, &cancel).unwrap_err();
    assert!(matches!(error, LearningError::Cancelled { step: s } if s == step), "{error}");
    assert!(error.is_retryable());
    log
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "ckpt"));
    files.sort();
    files
}

#[test]
fn a_cold_start_cancelled_after_any_step_ends_with_the_same_bytes() {
    let (job, window) = (cold_start("job"), examples(BOTH, 0, 40));
    let whole = trained(&job, &window).unwrap();
    let steps = whole.metrics["steps"] as u64;
    assert_eq!(steps, 15);
    for step in 1..steps {
        let folder = tempfile::tempdir().unwrap();
        cancelled(&job, &window, folder.path(), step);
        let (resumed, log) = run(&job, &window, folder.path());
        assert_eq!(log.steps.first(), Some(&(step + 1)), "it goes on where it was");
        assert_eq!(resumed.unwrap().files, whole.files, "cancelled after step {step}");
    }
}

#[test]
fn a_hot_update_cancelled_again_and_again_ends_with_the_same_bytes() {
    let first = cold_start("first");
    let champion = published(&first, &trained(&first, &examples(BOTH, 0, 40)).unwrap());
    let (job, window) = (hot_update("job", champion), examples(&["spam", "ham", "news"], 40, 30));
    let whole = trained(&job, &window).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for step in 1..whole.metrics["steps"] as u64 {
        cancelled(&job, &window, folder.path(), step);
    }
    assert_eq!(run(&job, &window, folder.path()).0.unwrap().files, whole.files);
}

#[test]
fn where_the_deep_path_takes_part_in_some_steps_only_a_cancelled_job_ends_with_the_same_bytes() {
    let first = cold_start("first");
    let champion = published(&first, &trained(&first, &examples(BOTH, 0, 40)).unwrap());
    let mut job = hot_update("job", champion);
    job.recipe.hot_update.deep_every = 3;
    job.recipe.rehearsal.share = 0.5;
    let window = examples(&["spam", "ham", "news"], 40, 20);
    let whole = trained(&job, &window).unwrap();
    let (steps, deep) = (whole.metrics["steps"], whole.metrics["deep_steps"]);
    assert!((deep - (steps / 3.0).ceil()).abs() < f64::EPSILON, "{deep} of {steps}");
    let folder = tempfile::tempdir().unwrap();
    for step in 1..steps as u64 {
        cancelled(&job, &window, folder.path(), step);
    }
    assert_eq!(run(&job, &window, folder.path()).0.unwrap().files, whole.files);
}

/// Every term that this version has.
fn everything(job: &mut Job) {
    let recipe = &mut job.recipe;
    recipe.precision.loss_scaling = true;
    recipe.hot_update.micro_batch = 3;
    recipe.rehearsal.capacity = 30;
    recipe.rehearsal.share = 0.5;
    recipe.rehearsal.balance_by = vec![BalanceBy::Class, BalanceBy::Group, BalanceBy::Domain];
    recipe.distillation.fresh_weight = 0.2;
    (recipe.der.alpha, recipe.der.beta) = (0.5, 0.7);
    (recipe.ewc.weight, recipe.ewc.samples) = (10.0, 12);
    recipe.l2_to_start.weight = 0.1;
    recipe.balancing.capacity_factor = 1.25;
    (recipe.balancing.balance_loss, recipe.balancing.z_loss) = (0.01, 0.001);
    recipe.method.adapters.expert_rank = 2;
    recipe.method.adapters.prefix = 2;
    recipe.diagnosis.every = 2;
}

#[test]
fn with_every_term_switched_on_a_cancelled_job_ends_with_the_same_bytes() {
    let mut first = cold_start("first");
    everything(&mut first);
    let champion = published(&first, &trained(&first, &examples(BOTH, 0, 40)).unwrap());
    for train in [Train::Full, Train::FrozenRouter, Train::HeadOnly, Train::Adapters] {
        let mut job = hot_update("job", champion.clone());
        everything(&mut job);
        job.recipe.method.train = train;
        let window = examples(&["spam", "ham", "news"], 40, 20);
        let whole = trained(&job, &window).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for step in 1..whole.metrics["steps"] as u64 {
            cancelled(&job, &window, folder.path(), step);
        }
        let resumed = run(&job, &window, folder.path()).0.unwrap();
        for (name, bytes) in &whole.files {
            assert!(resumed.files[name] == bytes, "{train:?}: {name} is not the same");
        }
        assert_eq!(resumed.files.len(), whole.files.len());
    }
}

#[test]
fn two_checkpoints_are_kept_and_a_damaged_one_is_passed_over() {
    let (job, window) = (cold_start("job"), examples(BOTH, 0, 40));
    let whole = trained(&job, &window).unwrap();
    let folder = tempfile::tempdir().unwrap();
    cancelled(&job, &window, folder.path(), 3);
    cancelled(&job, &window, folder.path(), 6);
    let files = checkpoints(folder.path());
    assert_eq!(files.len(), 2);
    let sound = fs::read(&files[1]).unwrap();
    for at in [0, 20, 100, sound.len() / 2, sound.len() - 1] {
        let mut altered = sound.clone();
        altered[at] ^= 1;
        fs::write(&files[1], &altered).unwrap();
        let copy = tempfile::tempdir().unwrap();
        for file in &files {
            fs::copy(file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
        let (resumed, log) = run(&job, &window, copy.path());
        assert!(log.steps[0] > 1 && log.steps[0] < 7, "from the one before: {:?}", log.steps);
        assert_eq!(resumed.unwrap().files, whole.files);
    }
    fs::write(&files[1], &sound[..sound.len() / 2]).unwrap();
    fs::write(&files[0], b"").unwrap();
    let (resumed, log) = run(&job, &window, folder.path());
    assert_eq!(log.steps[0], 1, "with none left it begins anew");
    assert_eq!(resumed.unwrap().files, whole.files);
}

#[test]
fn a_checkpoint_of_other_data_is_not_taken_up() {
    let (job, window) = (cold_start("job"), examples(BOTH, 0, 40));
    let folder = tempfile::tempdir().unwrap();
    cancelled(&job, &window, folder.path(), 6);
    let other = examples(BOTH, 1, 40);
    let (result, log) = run(&job, &other, folder.path());
    assert_eq!(log.steps[0], 1);
    assert_eq!(result.unwrap().files, trained(&job, &other).unwrap().files);
    CheckpointDir::open(folder.path()).unwrap().clear(&job.id).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_observer_hears_of_every_checkpoint_that_is_on_disk() {
    let (job, window) = (cold_start("job"), examples(BOTH, 0, 40));
    let folder = tempfile::tempdir().unwrap();
    let log = cancelled(&job, &window, folder.path(), 9);
    let (step, digest) = *log.checkpoints.last().unwrap();
    assert_eq!(step, 9);
    let newest = fs::read(checkpoints(folder.path()).last().unwrap()).unwrap();
    assert_eq!(digest, tidegate_contracts::ArtifactHash::of(&newest));
}

const CHILD: &str = "TIDEGATE_TEST_CHECKPOINTS";
const CHAMPION: &str = "TIDEGATE_TEST_CHAMPION";

/// Not a test: what [`a_killed_process_goes_on_and_ends_with_the_same_bytes`] starts and kills.
#[test]
fn child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let champion = std::env::var_os(CHAMPION);
        let (job, window) = slow(champion.as_deref().map(Path::new));
        run(&job, &window, Path::new(&folder)).0.unwrap();
    }
}

/// Long enough to be killed in: a cold start, or adapters beside the champion of a folder.
fn slow(champion: Option<&Path>) -> (Job, Vec<Example>) {
    let mut job = cold_start("killed");
    if let Some(folder) = champion {
        job = hot_update("killed", Verified::from_folder(folder).unwrap());
        job.recipe.method.train = Train::Adapters;
    }
    job.recipe.cold_start.epochs = 40;
    job.recipe.hot_update.epochs = 40;
    (job, examples(BOTH, 0, 40))
}

fn start(folder: &Path, champion: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child"]).env(CHILD, folder);
    if let Some(champion) = champion {
        command.env(CHAMPION, champion);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_killed_process_goes_on_and_ends_with_the_same_bytes() {
    killed_again_and_again(None);
}

#[test]
fn so_does_one_that_trains_adapters() {
    let champion = tempfile::tempdir().unwrap();
    let first = cold_start("first");
    let made = trained(&first, &examples(BOTH, 0, 24)).unwrap();
    write_folder(champion.path(), &manifest(&first, &made, None), &made.files).unwrap();
    killed_again_and_again(Some(champion.path()));
}

fn killed_again_and_again(champion: Option<&Path>) {
    let (job, window) = slow(champion);
    let whole = trained(&job, &window).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut reached = Vec::new();
    for _ in 0..3 {
        let before = checkpoints(folder.path()).last().cloned();
        let mut child = start(folder.path(), champion);
        let deadline = Instant::now() + Duration::from_secs(60);
        // Killed once it has got further, at whatever it is doing then.
        while checkpoints(folder.path()).last().cloned() <= before {
            assert!(Instant::now() < deadline, "no checkpoint in time");
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        reached.push(checkpoints(folder.path()).last().cloned());
    }
    assert!(reached.is_sorted(), "{reached:?}");
    let (resumed, log) = run(&job, &window, folder.path());
    assert!(log.steps[0] > 1);
    assert_eq!(resumed.unwrap().files, whole.files);
}
