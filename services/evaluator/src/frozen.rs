//! Frozen data of a suite: read from the files beside it, verified at start and before each use.
use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tidegate_contracts::{FrozenUse, Sha256, Verdict};
use tidegate_curation::likeness::content;
use tidegate_evaluation::{DataEntry, Frozen, FrozenSet, MAX_DATA_BYTES, Suite, verify};
use tidegate_ledger::State;

use crate::{
    EvaluatorConfig,
    held_out::Cut,
    judging::heals,
    service::{Evaluator, InForce},
};

/// The folder that a suite's data lies in.
#[must_use]
pub fn folder_of(suite: &Path) -> &Path {
    suite.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads and verifies the frozen data of a suite in `folder`.
///
/// # Errors
/// Names the entry, its file and what is not as the suite says.
pub fn read(suite: &Suite, folder: &Path) -> anyhow::Result<Vec<Frozen>> {
    let one = |entry: &DataEntry| {
        let bytes = read_file(folder, &entry.path)?;
        anyhow::Ok(Frozen::parse(entry, &bytes)?)
    };
    let named = suite
        .data()
        .iter()
        .map(|entry| one(entry).with_context(|| format!("data `{}` ({})", entry.id, entry.path)));
    named.collect()
}

/// The bytes of a file of frozen data, one more than are read at most.
///
/// # Errors
/// When it is missing, no file, or a link leads out of `folder`.
pub fn read_file(folder: &Path, path: &str) -> anyhow::Result<Vec<u8>> {
    let root = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let file = root.join(path).canonicalize().context("it cannot be read")?;
    anyhow::ensure!(
        file.starts_with(&root),
        "a link leads out of the suite's folder: copy the file into it"
    );
    anyhow::ensure!(file.is_file(), "it is no file");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&file).context("it cannot be read")?;
    file.take(MAX_DATA_BYTES as u64 + 1).read_to_end(&mut bytes).context("it cannot be read")?;
    Ok(bytes)
}

/// Frozen data as it was at start.
pub(crate) struct Known {
    data: Arc<Frozen>,
    /// Hashes of what the examples say, in their order.
    contents: Vec<Option<u128>>,
}

impl Known {
    pub(crate) fn new(data: Frozen) -> Self {
        let contents = data.events().iter().map(content).collect();
        Self { data: Arc::new(data), contents }
    }
}

/// Whether the files are still what they were; by entry, why not.
fn problems(config: &EvaluatorConfig, frozen: &[Known]) -> Vec<Option<String>> {
    let folder: PathBuf = config.suite.as_deref().map(folder_of).unwrap_or(Path::new(".")).into();
    let problem = |known: &Known| {
        let entry = known.data.entry();
        let read = read_file(&folder, &entry.path);
        let checked = read.and_then(|bytes| Ok(verify(entry, &bytes)?));
        checked.err().map(|error| format!("{}: {error:#}", entry.path))
    };
    frozen.iter().map(problem).collect()
}

impl Evaluator {
    /// The suite's frozen data as it stands before a candidate.
    pub(crate) async fn frozen_sets(
        &self,
        in_force: &InForce,
        state: &State,
        cut: &Cut<'_>,
    ) -> anyhow::Result<Vec<FrozenSet>> {
        if in_force.frozen.is_empty() {
            return Ok(vec![]);
        }
        let (config, frozen) = (self.config.clone(), Arc::clone(&in_force.frozen));
        let problems = tokio::task::spawn_blocking(move || problems(&config, &frozen)).await?;
        let mut sets = Vec::new();
        for (known, problem) in in_force.frozen.iter().zip(problems) {
            let sha256 = &known.data.entry().sha256;
            let examples = known.data.examples();
            let (last, unread) = match self.last_use(state, sha256).await? {
                Ok(last) => (last, None),
                Err(why) => (None, Some(why)),
            };
            sets.push(FrozenSet {
                data: Arc::clone(&known.data),
                problem: problem.or(unread),
                copies: self.held_out.copies_of(cut, examples, &known.contents),
                queries: state.queries(sha256),
                last,
                champions: state.champions().to_vec(),
            });
        }
        Ok(sets)
    }

    /// What the newest verdict that asked this data says of it, or why that is not known; an error is
    /// worth another try.
    async fn last_use(
        &self,
        state: &State,
        data: &Sha256,
    ) -> anyhow::Result<Result<Option<FrozenUse>, String>> {
        let verdicts = state.generations().iter().filter_map(|one| one.verdict.as_ref());
        let asked = verdicts.filter(|verdict| verdict.queried.contains(data));
        let Some(newest) = asked.max_by_key(|verdict| verdict.issued_at) else {
            return Ok(Ok(None));
        };
        let unread = |why: String| {
            Ok(Err(format!("the verdict that asked it last ({}): {why}", newest.id.short())))
        };
        let document = match self.artifacts.get(&newest.id).await {
            Ok(document) => document,
            Err(error) if heals(&error) => return Err(error.into()),
            Err(error) => return unread(error.to_string()),
        };
        let verdict: Verdict = match serde_json::from_slice(&document) {
            Ok(verdict) => verdict,
            Err(error) => return unread(error.to_string()),
        };
        let is_it = |one: &FrozenUse| one.sha256 == *data && one.not_asked.is_none();
        Ok(Ok(verdict.frozen.into_iter().find(is_it)))
    }
}
