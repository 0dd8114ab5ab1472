//! One candidate, from the ledger's record to its verdict.
use std::sync::Arc;

use chrono::Utc;
use tidegate_contracts::{GenerationId, JobKind, Manifest, Outcome, Verdict, Window};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, FrozenSet, Line, Memory, Refusal, Subject, Suite, evaluate,
};
use tidegate_ledger::{ArtifactError, Fact, GenerationRecord, State};
use tidegate_model::{Model, in_background};
use tidegate_telemetry::metrics;

use crate::{
    held_out::{Cut, window_labels},
    service::Evaluator,
};

/// A generation that was verified and built.
#[derive(Clone)]
pub(crate) struct Loaded {
    id: GenerationId,
    manifest: Arc<Manifest>,
    model: Model,
}

impl Loaded {
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { id: self.id, predictor: &self.model, manifest: &self.manifest }
    }
}

/// Whether another try may find it healed.
pub(crate) fn heals(error: &ArtifactError) -> bool {
    match error {
        ArtifactError::Store(_) => true,
        ArtifactError::File { source, .. } => heals(source),
        _ => false,
    }
}

impl Evaluator {
    /// Judges one candidate and writes the verdict down.
    pub(crate) async fn judge(
        &mut self,
        record: &GenerationRecord,
        state: &State,
    ) -> anyhow::Result<()> {
        let generation = record.id;
        tracing::info!(generation = generation.short(), "judging a candidate");
        let verdict = self.verdict(record, state).await?;
        let document = serde_json::to_vec(&verdict)?;
        let hash = self.artifacts.put(document.into()).await?;
        let fact = Fact::verdict(&verdict, hash);
        let written = self.record(|state| {
            let waits = state.awaiting_verdict().iter().any(|one| one.id == generation);
            waits.then(|| fact.clone())
        });
        if written.await?.is_some() {
            say(&verdict);
        }
        Ok(())
    }

    async fn verdict(
        &mut self,
        record: &GenerationRecord,
        state: &State,
    ) -> anyhow::Result<Verdict> {
        let champion = state.champion();
        let refuse = |suite: &Suite, reason: String| {
            let refusal = Refusal {
                generation: record.id,
                champion,
                job: record.job.clone(),
                kind: record.kind,
                suite: suite.reference(),
                window: record.window.clone(),
                region: self.config.region.clone(),
                seed: seed(&record.id),
                reason,
            };
            Ok(refusal.verdict())
        };
        let candidate = match self.load(&record.id).await? {
            Ok(loaded) => loaded,
            // What it would have answered with is not known.
            Err(reason) => return refuse(&self.suites.classes.suite, reason),
        };
        let in_force = self.suites.of(&candidate.model).clone();
        let suite = Arc::clone(&in_force.suite);
        let champion = match champion {
            None => None,
            Some(id) => match self.load(&id).await? {
                Ok(loaded) => Some(loaded),
                Err(reason) => {
                    return refuse(&suite, format!("the champion cannot be loaded: {reason}"));
                }
            },
        };
        let anchor = match state.anchor().filter(|_| suite.asks_anchor()) {
            None => None,
            Some(id) => match self.load(&id).await? {
                Ok(loaded) => Some(loaded),
                Err(reason) => {
                    return refuse(&suite, format!("the anchor cannot be loaded: {reason}"));
                }
            },
        };
        let mut loaded = vec![candidate.clone()];
        for other in champion.iter().chain(&anchor) {
            if loaded.iter().all(|one| one.id != other.id) {
                loaded.push(other.clone());
            }
        }
        // Whom the champion is watched beside.
        let before = state.earlier_champion();
        let known = self.loaded.iter().find(|one| Some(one.id) == before).cloned();
        self.loaded = loaded;
        if let Some(known) = &known {
            self.keep_loaded(known);
        }
        self.held_out.catch_up(&self.stream, &self.config).await?;
        let set_aside = set_aside(state);
        let learnt = state.learnt_up_to();
        let cut = Cut {
            window: &record.window,
            learnt: champion.is_some().then_some(&learnt),
            set_aside: &set_aside,
            producers: &state.quarantined_producers(Utc::now()),
        };
        let examples = self.held_out.examples(&cut, self.config.max_rows);
        let copies = self.held_out.copies(&cut, &examples);
        let frozen = self.frozen_sets(&in_force, state, &cut).await?;
        let labels = match &champion {
            None => vec![],
            Some(_) => {
                let window = cut.new_to_champion();
                // Who is set aside since was learnt from, and is to be seen.
                let started = state.job(&record.job).and_then(|job| job.started.as_ref());
                let without = started.map(|(at, ..)| state.quarantined_producers(*at));
                let (without, max) = (without.unwrap_or_default(), self.config.max_window_labels);
                window_labels(&self.stream, &window, &set_aside, &without, max).await?
            }
        };
        let task = Task {
            suite,
            candidate,
            champion,
            anchor,
            examples,
            copies,
            frozen,
            labels,
            window: record.window.clone(),
            line: line(state, &record.id),
            region: self.config.region.clone(),
            pue: self.config.pue,
        };
        self.measure(task).await
    }

    /// Measures off the runtime's threads.
    async fn measure(&mut self, task: Task) -> anyhow::Result<Verdict> {
        let mut memory = std::mem::take(&mut self.memory);
        let held_out = std::mem::take(&mut self.held_out);
        let done = tokio::task::spawn_blocking(move || {
            let verdict = in_background(|| task.run(&held_out, &mut memory));
            (verdict, held_out, memory)
        });
        let (verdict, held_out, memory) = done.await?;
        (self.held_out, self.memory) = (held_out, memory);
        Ok(verdict)
    }

    /// Spares the next look or verdict its building.
    pub(crate) fn keep_loaded(&mut self, one: &Loaded) {
        if self.loaded.iter().all(|loaded| loaded.id != one.id) {
            self.loaded.push(one.clone());
        }
    }

    /// A verified generation as a model, or why there is none; an error is worth another try.
    pub(crate) async fn load(&self, id: &GenerationId) -> anyhow::Result<Result<Loaded, String>> {
        if let Some(loaded) = self.loaded.iter().find(|loaded| loaded.id == *id) {
            return Ok(Ok(loaded.clone()));
        }
        let verified = match self.artifacts.generation(id).await {
            Ok(verified) => verified,
            Err(error) if heals(&error) => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (id, device) = (*id, self.device);
        let build = tokio::task::spawn_blocking(move || {
            let model =
                Model::from_files(verified.files(), &device).map_err(|error| error.to_string())?;
            if model.labels() != verified.manifest().labels {
                return Err("its manifest names other classes than its model".to_owned());
            }
            let manifest = Arc::new(verified.manifest().clone());
            Ok(Loaded { id, manifest, model })
        });
        Ok(build.await?)
    }
}

/// Everything that the blocking thread needs.
struct Task {
    suite: Arc<Suite>,
    candidate: Loaded,
    champion: Option<Loaded>,
    anchor: Option<Loaded>,
    examples: Vec<EvalExample>,
    copies: Copies,
    frozen: Vec<FrozenSet>,
    labels: Vec<EvalExample>,
    window: Window,
    line: Line,
    region: String,
    pue: f64,
}

impl Task {
    fn run(&self, held_out: &crate::held_out::HeldOut, memory: &mut Memory) -> Verdict {
        let of = Evaluation {
            suite: &self.suite,
            candidate: self.candidate.subject(),
            champion: self.champion.as_ref().map(Loaded::subject),
            anchor: self.anchor.as_ref().map(Loaded::subject),
            examples: &self.examples,
            window_labels: &self.labels,
            trained: held_out.trained(),
            copies: &self.copies,
            frozen: &self.frozen,
            window: &self.window,
            line: self.line,
            region: &self.region,
            pue: self.pue,
            seed: seed(&self.candidate.id),
        };
        evaluate(&of, memory)
    }
}

/// The candidates since the anchor that were judged before this one.
fn line(state: &State, candidate: &GenerationId) -> Line {
    let others = state.since_anchor().iter().filter(|one| one.id != *candidate);
    let (mut judged, mut promoted) = (0, 0);
    for one in others.filter(|one| one.verdict.is_some()) {
        judged += 1;
        promoted += u64::from(one.promoted_at.is_some());
    }
    Line { judged, promoted }
}

/// Windows of blocked updates. A blocked cold start has read everything: its window says nothing
/// about any part of it.
pub(crate) fn set_aside(state: &State) -> Vec<Window> {
    let blocked = |one: &&GenerationRecord| {
        let judged = one.verdict.as_ref().map(|verdict| verdict.outcome);
        one.kind != JobKind::ColdStart && (one.quarantined || judged == Some(Outcome::Blocked))
    };
    state.generations().iter().filter(blocked).map(|one| one.window.clone()).collect()
}

/// The same candidate is always judged with the same draws.
fn seed(id: &GenerationId) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

fn say(verdict: &Verdict) {
    metrics::counter("tidegate_evaluator_verdicts_total", "Verdicts issued.", &["outcome"])
        .with_label_values(&[verdict.outcome.as_str()])
        .inc();
    let states = metrics::counter(
        "tidegate_evaluator_checks_total",
        "Checks judged, by layer and state.",
        &["layer", "state"],
    );
    for check in &verdict.checks {
        states.with_label_values(&[check.layer.as_str(), check.state.as_str()]).inc();
    }
    metrics::histogram(
        "tidegate_evaluator_seconds",
        "Seconds of an evaluation.",
        &[],
        &[0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
    )
    .with_label_values::<&str>(&[])
    .observe(verdict.seconds);
    tracing::info!(
        generation = verdict.generation.short(),
        outcome = verdict.outcome.as_str(),
        reason = verdict.reasons.first().map(String::as_str),
        seconds = verdict.seconds,
        examples = verdict.data.earlier + verdict.data.fresh,
        "verdict issued"
    );
}
