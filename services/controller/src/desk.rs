//! What operators can see, behind gRPC, HTTP/JSON and the pages alike.
use futures::{StreamExt as _, stream::BoxStream};
use tidegate_contracts::{CODE_VERSION, Manifest, SEARCH, SearchLog, Verdict, proto::v1};
use tidegate_learning::{DIAGNOSIS, Diagnosis};
use tidegate_ledger::{ArtifactStore, Entry, GenerationRecord, Ledger, LedgerError, State, audit};
use tidegate_stream::Stream;
use tokio_util::sync::CancellationToken;

use crate::{
    ControllerConfig, card::Card, error::Refused, find, lag::Lag, schedule::Schedule, trigger, view,
};

/// Manifests read at once for a list.
const AT_ONCE: usize = 16;
/// Rows of a list that names no limit.
const ROWS: u32 = 100;
/// Rows of a list at most.
const MAX_ROWS: u32 = 1_000;

/// What a request gets.
pub(crate) type Answer<T> = Result<T, Refused>;

/// Shared by the hand that acts and by every door.
pub(crate) struct Desk {
    pub(crate) config: ControllerConfig,
    pub(crate) schedule: Schedule,
    pub(crate) stream: Stream,
    pub(crate) ledger: Ledger,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) listen: tidegate_contracts::ListenConfig,
    pub(crate) lag: Lag,
    /// Set at shutdown: what is watched without end, ends.
    pub(crate) closing: CancellationToken,
}

/// Rows to be shown when `limit` were asked for; 0 is the default.
fn rows(limit: u32) -> usize {
    let limit = if limit == 0 { ROWS } else { limit.min(MAX_ROWS) };
    limit as usize
}

impl Desk {
    pub(crate) async fn overview(&self) -> Answer<v1::Overview> {
        let state = self.ledger.state().await?;
        let champion = state.champion().and_then(|id| state.generation(&id));
        let candidate = state.candidate();
        let mut verdict = candidate.and_then(view::verdict);
        if let (Some(verdict), Some(one)) = (&mut verdict, candidate) {
            match self.document(one).await {
                Ok(document) => verdict.document_json = json(&document)?,
                Err(error) => tracing::warn!(%error, "a verdict is shown without its document"),
            }
        }
        let active = state.jobs().iter().filter(|job| trigger::is_open(job));
        Ok(v1::Overview {
            champion: self.described_if(champion).await,
            candidate: self.described_if(candidate).await,
            candidate_verdict: verdict,
            active_jobs: active.map(view::job).collect(),
            ledger_length: state.head().seq,
            ledger_head: state.head().hash.to_hex(),
            promotions: state.promotions(),
            blocked: state.blocked(),
            lag_records: self.waiting(&state),
            version: CODE_VERSION.to_owned(),
        })
    }

    pub(crate) async fn jobs(&self, limit: u32) -> Answer<v1::ListJobsResponse> {
        let state = self.ledger.state().await?;
        let jobs = state.jobs().iter().rev().take(rows(limit)).map(view::job).collect();
        Ok(v1::ListJobsResponse { jobs })
    }

    pub(crate) async fn generations(&self, limit: u32) -> Answer<v1::ListGenerationsResponse> {
        let state = self.ledger.state().await?;
        let newest = state.generations().iter().rev().take(rows(limit));
        let described: Vec<_> = newest.map(|one| self.described(one)).collect();
        let generations = futures::stream::iter(described).buffered(AT_ONCE).collect().await;
        Ok(v1::ListGenerationsResponse { generations })
    }

    pub(crate) async fn generation(&self, id: &str) -> Answer<v1::Generation> {
        let state = self.ledger.state().await?;
        let one = find::generation(&state, id)?;
        let manifest = self.manifest(one).await;
        let mut generation = self.with_progress(one, described(one, manifest.as_ref())).await;
        let log = match &manifest {
            Some(manifest) => self.search(one, manifest).await,
            None => None,
        };
        if let Some(log) = log {
            generation.search_json =
                serde_json::to_string(&log).map_err(|error| Refused::Broken(error.to_string()))?;
        }
        Ok(generation)
    }

    /// The model card of a generation.
    pub(crate) async fn card(&self, id: &str) -> Answer<v1::ModelCard> {
        let state = self.ledger.state().await?;
        let one = find::generation(&state, id)?;
        let manifest = self.manifest(one).await;
        let verdict = match &one.verdict {
            Some(_) => Some(self.document(one).await?),
            None => None,
        };
        let card =
            Card { state: &state, one, manifest: manifest.as_ref(), verdict: verdict.as_ref() };
        Ok(v1::ModelCard { generation: one.id.to_string(), markdown: card.markdown() })
    }

    pub(crate) async fn verdicts(&self, limit: u32) -> Answer<v1::ListVerdictsResponse> {
        let state = self.ledger.state().await?;
        let newest = state.generations().iter().rev();
        let verdicts = newest.filter_map(view::verdict).take(rows(limit)).collect();
        Ok(v1::ListVerdictsResponse { verdicts })
    }

    pub(crate) async fn verdict(&self, id: &str) -> Answer<v1::Verdict> {
        let state = self.ledger.state().await?;
        let one = find::judged(&state, id)?;
        let unjudged = || Refused::NotFound(format!("{} has no verdict yet", one.id.short()));
        let mut verdict = view::verdict(one).ok_or_else(unjudged)?;
        verdict.document_json = json(&self.document(one).await?)?;
        Ok(verdict)
    }

    pub(crate) async fn entries(&self, from: u64, limit: u32) -> Answer<v1::ListEntriesResponse> {
        let entries = self.ledger.read(from.max(1), rows(limit)).await?;
        Ok(v1::ListEntriesResponse { entries: entries.iter().map(view::entry).collect() })
    }

    /// Entries from `from` on, then live, until the first error or the shutdown.
    pub(crate) fn watch(&self, from: u64) -> BoxStream<'static, Result<Entry, LedgerError>> {
        let closing = self.closing.clone().cancelled_owned();
        self.ledger.watch(from.max(1)).take_until(closing).boxed()
    }

    /// Checks the log; with `artifacts`, all that it names too.
    pub(crate) async fn verify(&self, artifacts: bool) -> Answer<v1::VerifyLedgerResponse> {
        let report = if artifacts {
            audit(&self.ledger, &self.artifacts, |_| ()).await?
        } else {
            self.ledger.verify().await?
        };
        Ok(v1::VerifyLedgerResponse {
            ok: report.faults.is_empty(),
            entries: report.entries,
            faults: report.faults.iter().map(ToString::to_string).collect(),
            signatures: report.signatures,
            artifacts: report.artifacts,
            checkpoints: report.checkpoints,
        })
    }

    /// Labelled training records that the champion's lineage has not learnt.
    pub(crate) fn waiting(&self, state: &State) -> u64 {
        self.lag.tally().since(&state.learnt_up_to())
    }

    /// The verdict on a generation, with all its evidence.
    pub(crate) async fn document(&self, one: &GenerationRecord) -> Answer<Verdict> {
        let name = one.id.short();
        let unjudged = || Refused::NotFound(format!("{name} has no verdict yet"));
        let id = one.verdict.as_ref().ok_or_else(unjudged)?.id;
        let bytes = self.artifacts.get(&id).await?;
        let verdict: Verdict = serde_json::from_slice(&bytes).map_err(|error| {
            Refused::Broken(format!("the verdict {} on {name} cannot be read: {error}", id.short()))
        })?;
        if verdict.generation != one.id {
            let about = verdict.generation.short();
            return Err(Refused::Broken(format!("the verdict on {name} is about {about}")));
        }
        Ok(verdict)
    }

    /// A generation's manifest; `None`, with a log line, when it cannot be had.
    pub(crate) async fn manifest(&self, one: &GenerationRecord) -> Option<Manifest> {
        let manifest = self.artifacts.manifest(&one.id).await;
        manifest
            .inspect_err(|error| tracing::warn!(%error, "a generation is shown without manifest"))
            .ok()
    }

    /// What a generation's job showed of its inside; `None`, with a log line, when it cannot be had.
    pub(crate) async fn diagnosis(
        &self,
        one: &GenerationRecord,
        manifest: &Manifest,
    ) -> Option<Diagnosis> {
        let read = |bytes: &[u8]| Diagnosis::from_bytes(bytes).map_err(|error| error.to_string());
        self.file(one, manifest, DIAGNOSIS, read).await
    }

    /// How a generation's architecture was found; `None` where it was not searched, and, with a log
    /// line, where that cannot be read.
    pub(crate) async fn search(
        &self,
        one: &GenerationRecord,
        manifest: &Manifest,
    ) -> Option<SearchLog> {
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| error.to_string());
        self.file(one, manifest, SEARCH, read).await
    }

    async fn file<T>(
        &self,
        one: &GenerationRecord,
        manifest: &Manifest,
        name: &'static str,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Option<T> {
        let entry = manifest.files.get(name)?;
        let bytes = self.artifacts.get(&entry.hash).await.map_err(|error| error.to_string());
        bytes
            .and_then(|bytes| read(&bytes))
            .inspect_err(|error| {
                tracing::warn!(generation = %one.id.short(), file = name, error, "shown without it");
            })
            .ok()
    }

    /// A generation with what its manifest says, as far as that can be read.
    pub(crate) async fn described(&self, one: &GenerationRecord) -> v1::Generation {
        let described = described(one, self.manifest(one).await.as_ref());
        self.with_progress(one, described).await
    }

    async fn with_progress(
        &self,
        one: &GenerationRecord,
        mut generation: v1::Generation,
    ) -> v1::Generation {
        if let Some(progress) = self.stage_progress(one).await {
            view::progress(&mut generation, progress);
        }
        generation
    }

    async fn described_if(&self, one: Option<&GenerationRecord>) -> Option<v1::Generation> {
        match one {
            Some(one) => Some(self.described(one).await),
            None => None,
        }
    }
}

fn described(one: &GenerationRecord, manifest: Option<&Manifest>) -> v1::Generation {
    let mut generation = view::generation(one);
    if let Some(manifest) = manifest {
        generation.labels = manifest.labels.iter().map(ToString::to_string).collect();
        generation.manifest_json = String::from_utf8_lossy(&manifest.to_bytes()).into_owned();
    }
    generation
}

fn json(document: &Verdict) -> Answer<String> {
    serde_json::to_string(document).map_err(|error| Refused::Broken(error.to_string()))
}
