//! Verification from the first entry to the last, and of everything that the entries name.
use std::{collections::BTreeSet, path::Path};

use tidegate_contracts::{ArtifactHash, GenerationId, Manifest, Verdict};

use crate::{
    ArtifactError, ArtifactStore, Fact, GenerationRecord, GenerationState, Ledger, LedgerConfig,
    LedgerError, State, VerifyReport, verify,
};

/// How far an audit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Verdicts and generations read.
    pub done: u64,
    /// Of so many.
    pub of: u64,
}

/// Checks a ledger that is open: the log as [`Ledger::verify`] does, every verdict's document against
/// what the signed entry says, and every file of every generation that was or can be champion.
///
/// # Errors
/// When the store does not answer; what is wrong is in the report.
pub async fn audit(
    ledger: &Ledger,
    artifacts: &ArtifactStore,
    progress: impl Fn(Progress),
) -> Result<VerifyReport, LedgerError> {
    let (mut report, state) = ledger.verified().await?;
    check_artifacts(&mut report, &state, artifacts, progress).await?;
    Ok(report)
}

/// The same of a ledger that no process has open. The file itself is not touched: a copy is checked,
/// page checksums first.
///
/// # Errors
/// [`LedgerError::InUse`] when a process has it, [`LedgerError::Store`] when there is none.
pub async fn audit_at_rest(
    config: &LedgerConfig,
    data_dir: &Path,
    progress: impl Fn(Progress),
) -> Result<VerifyReport, LedgerError> {
    let (mut report, state) = verify::verify_at_rest(config, data_dir).await?;
    let artifacts = ArtifactStore::open(&config.artifacts, data_dir)
        .map_err(|error| LedgerError::Store(error.to_string()))?;
    check_artifacts(&mut report, &state, &artifacts, progress).await?;
    Ok(report)
}

/// Whether it serves, has served, or may yet.
fn counts(state: &State, one: &GenerationRecord) -> bool {
    use GenerationState::{Blocked, Candidate, Champion, NeedsApproval};
    matches!(one.state, Candidate | NeedsApproval | Blocked | Champion)
        || state.champions().contains(&one.id)
}

async fn check_artifacts(
    report: &mut VerifyReport,
    state: &State,
    artifacts: &ArtifactStore,
    progress: impl Fn(Progress),
) -> Result<(), LedgerError> {
    let all = state.generations();
    let mut audit = Audit { report, artifacts, read: BTreeSet::new() };
    for (done, one) in (0..).zip(all) {
        progress(Progress { done, of: all.len() as u64 });
        if let Some(verdict) = &one.verdict {
            let bytes =
                audit.get(&verdict.id, || format!("the verdict on {}", one.id.short())).await?;
            if let Some(bytes) = bytes
                && let Err(why) = agrees(one, &bytes)
            {
                audit.fault(format!("the verdict on {}: {why}", one.id.short()));
            }
        }
        if counts(state, one) {
            audit.generation(&one.id).await?;
        }
    }
    progress(Progress { done: all.len() as u64, of: all.len() as u64 });
    Ok(())
}

/// Whether a document says what the entry says that names it.
fn agrees(one: &GenerationRecord, bytes: &[u8]) -> Result<(), String> {
    let document: Verdict = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Some(standing) = &one.verdict else { return Ok(()) };
    let Fact::VerdictIssued {
        generation,
        champion,
        suite,
        outcome,
        reasons,
        digest,
        waivable,
        queried,
        line,
        ..
    } = Fact::verdict(&document, standing.id)
    else {
        unreachable!("a verdict makes a verdict's entry")
    };
    let differs = [
        ("generation", generation != one.id),
        ("champion", champion != standing.champion),
        ("suite", suite != standing.suite),
        ("suite's digest", standing.digest.is_some() && digest != standing.digest),
        ("outcome", outcome != standing.outcome),
        ("reasons", reasons != standing.reasons),
        ("checks that may be waived", standing.digest.is_some() && waivable != standing.waivable),
        ("use of frozen data", queried != standing.queried),
        ("error budget", line != standing.line),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(format!("its document names another {what} than its entry")),
        None => Ok(()),
    }
}

struct Audit<'a> {
    report: &'a mut VerifyReport,
    artifacts: &'a ArtifactStore,
    /// Generations share files: each is read once.
    read: BTreeSet<ArtifactHash>,
}

impl Audit<'_> {
    fn fault(&mut self, what: String) {
        verify::fault(self.report, 0, what);
    }

    /// The bytes of that name, if they are whole and were not read before.
    async fn get(
        &mut self,
        hash: &ArtifactHash,
        what: impl Fn() -> String,
    ) -> Result<Option<bytes::Bytes>, LedgerError> {
        if !self.read.insert(*hash) {
            return Ok(None);
        }
        self.report.artifacts += 1;
        match self.artifacts.get(hash).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ArtifactError::Store(error)) => Err(LedgerError::Store(error)),
            Err(error) => {
                self.fault(format!("{}: {error}", what()));
                Ok(None)
            }
        }
    }

    async fn generation(&mut self, id: &GenerationId) -> Result<(), LedgerError> {
        let name = || format!("generation {}: its manifest", id.short());
        let hash = ArtifactHash::from_bytes(*id.as_bytes());
        let Some(bytes) = self.get(&hash, name).await? else { return Ok(()) };
        let manifest: Manifest = match serde_json::from_slice(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.fault(format!("{}: {error}", name()));
                return Ok(());
            }
        };
        for (file, entry) in &manifest.files {
            let what = || format!("generation {}: file `{file}`", id.short());
            self.get(&entry.hash, what).await?;
        }
        Ok(())
    }
}
