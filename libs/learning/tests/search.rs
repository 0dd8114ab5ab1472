//! A cold start that looks for its architecture first.
mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Log, cold_start, examples, trained};
use tidegate_contracts::{SEARCH, SearchLog};
use tidegate_learning::{
    CheckpointDir, Example, Job, LearningError, Observer, Progress, Search, SearchProgress, Space,
    Trained, manifest, plan, train,
};
use tidegate_model::{ARCHITECTURE, Architecture};
use tokio_util::sync::CancellationToken;

const BOTH: &[&str] = &["spam", "ham"];

fn job(id: &str) -> Job {
    let mut job = cold_start(id);
    job.recipe.cold_start.epochs = 2;
    let space = Space {
        d_model: vec![8, 16],
        layers: vec![1, 2],
        heads: vec![2],
        kv_heads: vec![1, 2],
        experts: vec![2, 4],
        top_k: vec![1, 2],
        expert_width: vec![8, 16],
    };
    job.recipe.search =
        Search { candidates: 5, eta: 2, rungs: 3, steps: 3, space, ..Search::default() };
    job
}

fn window() -> Vec<Example> {
    examples(BOTH, 0, 60)
}

fn log(made: &Trained) -> SearchLog {
    serde_json::from_slice(&made.files[SEARCH]).unwrap()
}

/// Counts steps of the search, and cancels after one if asked to.
#[derive(Default)]
struct Watch {
    searched: Vec<(usize, usize, u64)>,
    steps: u64,
    own: Vec<u64>,
    cancel_after: Option<(usize, CancellationToken)>,
}

impl Observer for Watch {
    fn progress(&mut self, progress: &Progress) {
        self.own.push(progress.step);
    }

    fn checkpoint(&mut self, _: u64, _: tidegate_contracts::ArtifactHash) {}

    fn search(&mut self, now: &SearchProgress<'_>) {
        self.searched.push((now.rung, now.candidate, now.step));
        self.steps = now.steps;
        if let Some((after, cancel)) = &self.cancel_after
            && self.searched.len() == *after
        {
            cancel.cancel();
        }
    }
}

fn watched(folder: &Path, cancel_after: Option<usize>) -> (Result<Trained, LearningError>, Watch) {
    let cancel = CancellationToken::new();
    let cancel_after = cancel_after.map(|after| (after, cancel.clone()));
    let mut watch = Watch { cancel_after, ..Watch::default() };
    let checkpoints = CheckpointDir::open(folder).unwrap();
    let made = train(&job("job"), &window(), &checkpoints, &mut watch, &cancel);
    (made, watch)
}

#[test]
fn every_candidate_is_on_the_log_and_the_winner_is_the_generation() {
    let folder = tempfile::tempdir().unwrap();
    let (made, watch) = watched(folder.path(), None);
    let made = made.unwrap();
    let log = log(&made);
    assert_eq!(log.candidates.len(), 5);
    assert_eq!((&log.rungs[..], log.held_back, log.learnt_from), (&[3, 6][..], 12, 48));
    let winner = log.winner.unwrap();
    for (at, candidate) in log.candidates.iter().enumerate() {
        assert_eq!(candidate.dropped.is_none(), at == winner, "{candidate:?}");
        assert!(
            candidate.scores.iter().zip(&log.rungs).all(|(score, steps)| score.steps == *steps)
        );
        assert!(candidate.active <= candidate.parameters && candidate.flops_per_token > 0.0);
    }
    let reached: Vec<usize> = log.candidates.iter().map(|one| one.scores.len()).collect();
    assert_eq!(reached.iter().filter(|&&rungs| rungs == 2).count(), 2, "{reached:?}");
    let found: Architecture = serde_json::from_slice(&made.files[ARCHITECTURE]).unwrap();
    let numbers = &log.candidates[winner].architecture;
    assert_eq!((found.d_model, found.layers), (numbers["d_model"], numbers["layers"]));
    assert_eq!((found.experts, found.top_k), (numbers["experts"], numbers["top_k"]));
    assert!(manifest(&job("job"), &made, None).files.contains_key(SEARCH), "in the lineage");
    assert!(made.metrics["search.seconds"] > 0.0);
    assert!(made.metrics.contains_key("search.candidate_4_seconds"));
    // 5 to step 3, and 2 from there to 6.
    assert_eq!(watch.steps, 5 * 3 + 2 * 3);
    assert_eq!(watch.searched.last().unwrap().2, watch.steps);
    assert!(watch.searched.is_sorted_by_key(|(rung, _, step)| (*rung, *step)));
    assert_eq!(watch.own.first(), Some(&1), "then the winner is trained from the beginning");
}

#[test]
fn the_same_job_finds_the_same_and_its_bytes_are_those_of_its_architecture() {
    let made = trained(&job("job"), &window()).unwrap();
    let again = trained(&job("job"), &window()).unwrap();
    assert_eq!(made.files, again.files);
    // The winner is trained as any cold start.
    let mut plain = job("job");
    plain.recipe.search.candidates = 0;
    plain.recipe.architecture = serde_json::from_slice(&made.files[ARCHITECTURE]).unwrap();
    let mut plain = trained(&plain, &window()).unwrap().files;
    plain.insert(SEARCH.to_owned(), made.files[SEARCH].clone());
    assert_eq!(plain, made.files);
}

#[test]
fn a_search_cancelled_anywhere_ends_with_the_same_bytes() {
    let whole = trained(&job("job"), &window()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_, watch) = watched(folder.path(), None);
    let all = watch.searched.len();
    let mut fewest = all;
    for after in (1..all).step_by(3) {
        let folder = tempfile::tempdir().unwrap();
        let (cancelled, _) = watched(folder.path(), Some(after));
        let error = cancelled.unwrap_err();
        assert!(matches!(error, LearningError::Cancelled { .. }), "{error}");
        let (resumed, rest) = watched(folder.path(), None);
        assert_eq!(resumed.unwrap().files, whole.files, "cancelled after {after}");
        fewest = fewest.min(rest.searched.len());
        CheckpointDir::open(folder.path()).unwrap().clear(&job("job").id).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
    assert!(fewest < all / 2, "what was done is not done again: {fewest} of {all}");
}

#[test]
fn what_a_search_left_of_other_data_or_damaged_is_not_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    watched(folder.path(), Some(17)).0.unwrap_err();
    let state = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let state = state.join("search.json");
    let sound = fs::read(&state).unwrap();
    for bytes in [&sound[..sound.len() / 2], &b"{}"[..]] {
        fs::write(&state, bytes).unwrap();
        let (made, watch) = watched(folder.path(), None);
        assert_eq!(watch.searched[0].0, 1, "it begins anew");
        assert_eq!(made.unwrap().files, trained(&job("job"), &window()).unwrap().files);
    }
    fs::write(&state, &sound).unwrap();
    let other = examples(BOTH, 1, 60);
    let checkpoints = CheckpointDir::open(folder.path()).unwrap();
    let made =
        train(&job("job"), &other, &checkpoints, &mut Log::default(), &CancellationToken::new());
    assert_eq!(made.unwrap().files, trained(&job("job"), &other).unwrap().files);
}

#[test]
fn a_candidate_that_goes_astray_is_dropped_and_the_search_goes_on() {
    let mut job = job("job");
    // More than half of the tokens for one expert of two is a matter of time, not for one of one.
    job.recipe.alerts.collapsed = 0.51;
    job.recipe.alerts.steps = 1;
    job.recipe.search.space.experts = vec![1, 2];
    job.recipe.search.space.top_k = vec![1];
    job.recipe.architecture.experts = 1;
    job.recipe.architecture.top_k = 1;
    let log = log(&trained(&job, &window()).unwrap());
    let astray: Vec<_> =
        log.candidates.iter().filter(|one| one.architecture["experts"] == 2).collect();
    assert!(!astray.is_empty());
    for one in astray {
        assert!(one.dropped.as_ref().unwrap().contains("router collapsed"), "{one:?}");
    }
    assert_eq!(log.candidates[log.winner.unwrap()].architecture["experts"], 1);

    job.recipe.search.space.experts = vec![2];
    job.recipe.architecture.experts = 2;
    let error = trained(&job, &window()).unwrap_err().to_string();
    assert!(error.contains("every candidate failed"), "{error}");
}

#[test]
fn a_search_out_of_time_takes_the_best_so_far() {
    let mut job = job("job");
    job.recipe.search.max_seconds = 1e-6;
    let log = log(&trained(&job, &window()).unwrap());
    assert_eq!(log.ended_by.as_deref(), Some("search.max_seconds"));
    assert_eq!(log.winner, Some(0), "the recipe's own, as none was judged");
}

#[test]
fn one_candidate_has_won_already_and_a_window_too_small_says_so() {
    let mut alone = job("job");
    alone.recipe.search.candidates = 1;
    let log = log(&trained(&alone, &window()).unwrap());
    assert_eq!((log.winner, log.rungs.len()), (Some(0), 0));
    let error = trained(&job("job"), &examples(BOTH, 0, 4)).unwrap_err().to_string();
    assert!(error.contains("too small"), "{error}");
}

#[test]
fn a_plan_says_what_the_search_will_cost() {
    let planned = plan(&job("job"), &window()).unwrap();
    let search = planned.search.expect("it is searched");
    assert_eq!(search.rungs, [(5, 3), (2, 6)]);
    assert_eq!(search.steps, 21);
    assert!(search.seconds > 0.0 && search.ended_by.is_none());
    let mut short = job("job");
    short.recipe.search.max_seconds = 1e-9;
    let search = plan(&short, &window()).unwrap().search.unwrap();
    assert_eq!(search.ended_by.as_deref(), Some("search.max_seconds"));
    assert_eq!(plan(&cold_start("plain"), &window()).unwrap().search, None);
}

const CHILD: &str = "TIDEGATE_TEST_SEARCH";

/// Not a test: what [`a_killed_search_goes_on_and_ends_with_the_same_bytes`] starts and kills.
#[test]
fn child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        watched(Path::new(&folder), None).0.unwrap();
    }
}

#[test]
fn a_killed_search_goes_on_and_ends_with_the_same_bytes() {
    let whole = trained(&job("job"), &window()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Everything on disk, by name and size.
    let seen = || {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder.path()).unwrap().flatten() {
            let Ok(inner) = fs::read_dir(entry.path()) else { continue };
            all.extend(inner.flatten().map(|file| file.file_name()));
        }
        all.sort();
        all
    };
    for _ in 0..3 {
        let before = seen();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        // Killed once it has got further, at whatever it is doing then.
        while seen() == before && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "nothing written in time");
            std::thread::yield_now();
        }
        drop(child.kill());
        child.wait().unwrap();
    }
    assert_eq!(watched(folder.path(), None).0.unwrap().files, whole.files);
}
