//! The candidate in its stage: what both generations said on live requests, and on the labels that came
//! since, until enough is known or its time is over.
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tidegate_contracts::{GenerationId, Offset, Partition, Window, proto::v1};
use tidegate_ledger::{
    Fact, GenerationRecord, STAGE_PROGRESS, Stage, StageEvidence, StageOutcome, StageProgress,
    StageRecord, StageTerms, State,
};
use tidegate_telemetry::metrics;

use crate::{held_out::Marks, judging::set_aside, service::Evaluator, tried::Tried};

/// Under which it is kept, so that a restart goes on with it.
const KEPT: &str = "evaluator/stage";
/// Records that are put to both at a time.
const AT_ONCE: usize = 64;
/// Predictions of a partition that are read at a time.
const READ: i64 = 10_000;

/// One candidate's record in one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    generation: GenerationId,
    stage: Stage,
    started_at: DateTime<Utc>,
    /// What was looked at, by partition: of predictions, and of labels.
    predictions: Marks,
    labels: Marks,
    tried: Tried,
}

impl Trial {
    fn is_of(&self, one: &GenerationRecord, running: &StageRecord) -> bool {
        (self.generation, self.stage, self.started_at)
            == (one.id, running.stage, running.started_at)
    }
}

impl Evaluator {
    /// Looks at what has come since the last time of the stage that runs. Whether there may be more.
    pub(crate) async fn try_stage(&mut self, state: &State) -> anyhow::Result<bool> {
        let Some((one, running)) = state.staged() else {
            self.trial = None;
            return Ok(false);
        };
        let before = self.resume_trial(state, one, running).await?;
        let mut trial = before.clone();
        let more = self.read_predictions(&mut trial, &running.terms).await?;
        let aside = set_aside(state);
        let producers = state.quarantined_producers(chrono::Utc::now());
        let waiting = self.held_out.live(&trial.labels, &aside, &producers);
        let is_full = waiting.len() > AT_ONCE;
        let (positions, examples): (Vec<_>, Vec<_>) = waiting.into_iter().take(AT_ONCE).unzip();
        for (partition, offset) in positions {
            trial.labels.insert(partition, Offset(offset.0 + 1));
        }
        let mut end = None;
        if !examples.is_empty() {
            match self.compared(one.id, running.champion, examples).await? {
                Some(differences) => trial.tried.labels(&differences),
                None => end = Some((StageOutcome::Undecided, UNASKED.to_owned())),
            }
        }
        let now = Utc::now();
        let end = end.or_else(|| trial.tried.end(&running.terms, now));
        let evidence = trial.tried.evidence(&running.terms);
        show(running.stage, &evidence);
        if let Some((outcome, reason)) = end {
            self.end_stage(one.id, running.stage, outcome, evidence, reason).await?;
            self.trial = None;
            return Ok(true);
        }
        if trial != before {
            let waits = trial.tried.waits(&running.terms, now);
            self.keep_trial(&trial, evidence, waits).await?;
        }
        self.trial = Some(trial);
        Ok(more || is_full)
    }

    /// The one that is under way, the one that was kept, or a new one from here on.
    async fn resume_trial(
        &mut self,
        state: &State,
        one: &GenerationRecord,
        running: &StageRecord,
    ) -> anyhow::Result<Trial> {
        if let Some(trial) = self.trial.take().filter(|trial| trial.is_of(one, running)) {
            return Ok(trial);
        }
        let kept = self.ledger.get_state(KEPT).await?;
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Trial>(&bytes).ok());
        if let Some(trial) = kept.filter(|trial| trial.is_of(one, running)) {
            return Ok(trial);
        }
        let topic = &self.stream.topics().predictions;
        let marks = self.stream.watermarks(topic).await?;
        // What neither has learnt.
        let mut labels = one.window.watermark();
        let champion = state.generation(&running.champion);
        for (partition, to) in champion.map(|one| one.window.watermark()).unwrap_or_default() {
            let mark = labels.entry(partition).or_default();
            *mark = to.max(*mark);
        }
        let trial = Trial {
            generation: one.id,
            stage: running.stage,
            started_at: running.started_at,
            predictions: marks
                .into_iter()
                .map(|(partition, (_, high))| (partition, high))
                .collect(),
            labels,
            tried: Tried::default(),
        };
        let evidence = trial.tried.evidence(&running.terms);
        let waits = trial.tried.waits(&running.terms, Utc::now());
        self.keep_trial(&trial, evidence, waits).await?;
        Ok(trial)
    }

    /// Takes in what both were asked since; whether more waits.
    async fn read_predictions(
        &self,
        trial: &mut Trial,
        terms: &StageTerms,
    ) -> anyhow::Result<bool> {
        let topic = self.stream.topics().predictions.clone();
        let marks = self.stream.watermarks(&topic).await?;
        let mut more = false;
        let range = |(partition, (low, high)): (Partition, (Offset, Offset))| {
            let from = trial.predictions.get(&partition).copied().unwrap_or(low);
            // What retention has taken is not counted.
            let from = from.clamp(low, high);
            let to = Offset(high.0.min(from.0 + READ));
            more |= to < high;
            (partition, (from, to))
        };
        let ranges = marks.into_iter().map(range).collect();
        let window = Window::new(topic, ranges)?;
        if window.is_empty() {
            return Ok(false);
        }
        let (candidate, stage) = (trial.generation.to_hex(), trial.stage);
        let tried = &mut trial.tried;
        self.stream
            .read_each(&window, |record| {
                if let Ok(said) = v1::Prediction::decode(record.value.as_ref())
                    && let Some(other) = &said.staged
                    && (&other.candidate, other.stage.as_str()) == (&candidate, stage.as_str())
                {
                    tried.pair(&said, other, terms);
                }
                ControlFlow::Continue(())
            })
            .await?;
        trial.predictions = window.watermark();
        Ok(more)
    }

    async fn keep_trial(
        &self,
        trial: &Trial,
        evidence: StageEvidence,
        waits: Vec<String>,
    ) -> anyhow::Result<()> {
        let (generation, stage) = (trial.generation, trial.stage);
        let progress = StageProgress { generation, stage, evidence, waits };
        let shown = serde_json::to_vec(&progress)?;
        self.ledger.put_state(KEPT, self.token, &serde_json::to_vec(trial)?).await?;
        Ok(self.ledger.put_state(STAGE_PROGRESS, self.token, &shown).await?)
    }

    async fn end_stage(
        &self,
        generation: GenerationId,
        stage: Stage,
        outcome: StageOutcome,
        evidence: StageEvidence,
        reason: String,
    ) -> anyhow::Result<()> {
        let ended = Fact::StageEnded { generation, stage, outcome, evidence, reason, seal: None };
        let written = self.record(|state| {
            let same = |(one, running): (&GenerationRecord, &StageRecord)| {
                one.id == generation && running.stage == stage
            };
            state.staged().is_some_and(same).then(|| ended.clone())
        });
        if let Some(entry) = written.await?
            && let Fact::StageEnded { reason, .. } = &entry.fact
        {
            let outcome = outcome.as_str();
            tracing::info!(generation = generation.short(), %stage, outcome, reason, "stage ended");
        }
        Ok(())
    }
}

/// Why a stage is given up.
const UNASKED: &str =
    "one of the two cannot be loaded by the evaluator, so that labels tell nothing";

fn show(stage: Stage, evidence: &StageEvidence) {
    let gauge = metrics::gauge(
        "tidegate_evaluator_stage_evidence",
        "What the stage that runs has seen: counts, and logarithms of the evidence for and against.",
        &["stage", "what"],
    );
    for (what, value) in [
        ("requests", evidence.requests as f64),
        ("errors", evidence.errors as f64),
        ("agreed", evidence.agreed as f64),
        ("slow", evidence.slow as f64),
        ("labels", evidence.labels as f64),
        ("harm_log_e", evidence.log_harm),
        ("pass_log_e", evidence.log_pass),
        ("drift", evidence.drift),
    ] {
        gauge.with_label_values(&[stage.as_str(), what]).set(value);
    }
}
