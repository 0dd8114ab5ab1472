//! State is a fold of the log. Every invariant of the gate is checked here, and only here: before
//! an entry is written, and again when the log is verified.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use tidegate_contracts::{
    Actor, ArtifactHash, Domain, GenerationId, JobId, JobKind, LineEvidence, Offset, Outcome,
    Partition, Producer, Sha256, Window,
};

use crate::{
    Consent, Entry, Fact, Head, Keys, PromotedBy, StageEnd, StageOutcome, StageRecord, merkle::Tree,
};

/// Why an entry may not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

pub(crate) fn refuse<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(why.into()))
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Waits for the trainer.
    Requested,
    /// Is trained, or waits to be resumed.
    Running,
    /// Made a generation.
    Succeeded,
    /// Will not be tried again.
    Failed,
}

/// A job, folded.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its id.
    pub job: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// Why it was requested.
    pub reason: String,
    /// The domain it learns, where it is not all.
    pub domain: Option<Domain>,
    /// What it is to start from, where that is not the champion.
    pub source: Option<GenerationId>,
    /// By whom.
    pub requested_by: Actor,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// First start, with the window and the parent it fixed.
    pub started: Option<(DateTime<Utc>, Window, Option<GenerationId>)>,
    /// Starts so far.
    pub attempts: u32,
    /// Where it stands.
    pub state: JobState,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// What it made.
    pub generation: Option<GenerationId>,
    /// Why the last attempt failed.
    pub failure: Option<String>,
}

/// Where a generation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationState {
    /// Judged favourably or not yet; not promoted.
    Candidate,
    /// The gate said no.
    Blocked,
    /// The gate asks an operator.
    NeedsApproval,
    /// An operator said no.
    Rejected,
    /// Serves.
    Champion,
    /// Served before, or was overtaken by another candidate's promotion.
    Superseded,
    /// Was rolled back from.
    RolledBack,
}

impl GenerationState {
    /// `candidate`, `blocked`, `needs_approval`, ...
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Blocked => "blocked",
            Self::NeedsApproval => "needs_approval",
            Self::Rejected => "rejected",
            Self::Champion => "champion",
            Self::Superseded => "superseded",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// A producer that is set aside, or was.
#[derive(Debug, Clone, PartialEq)]
pub struct ProducerRecord {
    /// Who it says it is.
    pub producer: Producer,
    /// From when on.
    pub since: DateTime<Utc>,
    /// Who set it aside.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When it was released, by whom and why.
    pub released: Option<(DateTime<Utc>, Actor, String)>,
}

/// A yes.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovalRecord {
    /// Who gave it.
    pub approver: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub given_at: DateTime<Utc>,
    /// Until when it counts.
    pub expires: DateTime<Utc>,
    /// The verdict it is bound to.
    pub verdict: ArtifactHash,
    /// Of an override: the checks that are waived.
    pub waives: Vec<String>,
    /// Signed with the approver's own key, not by the controller on their behalf.
    pub own_key: bool,
    /// Taken back.
    pub withdrawn: bool,
}

/// The verdict a generation stands under.
#[derive(Debug, Clone, PartialEq)]
pub struct VerdictRecord {
    /// Hash of the document.
    pub id: ArtifactHash,
    /// The champion it was judged against.
    pub champion: Option<GenerationId>,
    /// By which suite.
    pub suite: String,
    /// Hash of the suite's text; none in verdicts from before signatures.
    pub digest: Option<ArtifactHash>,
    /// The conclusion.
    pub outcome: Outcome,
    /// Why.
    pub reasons: Vec<String>,
    /// The checks that an override must waive; `None` where nobody may override.
    pub waivable: Option<Vec<String>>,
    /// Frozen data of the suite that it asked.
    pub queried: Vec<Sha256>,
    /// What the error budget of the line of candidates says; none in verdicts from before there was
    /// one.
    pub line: Option<LineEvidence>,
    /// When.
    pub issued_at: DateTime<Utc>,
}

/// A generation, folded.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationRecord {
    /// Its id.
    pub id: GenerationId,
    /// The job that made it.
    pub job: JobId,
    /// That job's kind.
    pub kind: JobKind,
    /// What it started from.
    pub parent: Option<GenerationId>,
    /// What it learnt from.
    pub window: Window,
    /// When it was registered.
    pub registered_at: DateTime<Utc>,
    /// Where it stands.
    pub state: GenerationState,
    /// The newest verdict on it.
    pub verdict: Option<VerdictRecord>,
    /// In the order they were given.
    pub approvals: Vec<ApprovalRecord>,
    /// The blocking checks that were waived when it became champion.
    pub overridden: Vec<String>,
    /// When it became champion, last.
    pub promoted_at: Option<DateTime<Utc>>,
    /// When a gateway first served it.
    pub swapped_at: Option<DateTime<Utc>>,
    /// Whether its window was set aside.
    pub quarantined: bool,
    /// Why it is held to do harm, found while it served.
    pub harm: Option<String>,
    /// How it was tried before it might serve, in order.
    pub stages: Vec<StageRecord>,
}

impl GenerationRecord {
    /// Approvals that count at `now`: bound to the present verdict, in force, one an approver. Where
    /// the verdict blocks, they are overrides.
    pub fn approvals_in_force(&self, now: DateTime<Utc>) -> Vec<&ApprovalRecord> {
        let Some(verdict) = &self.verdict else { return vec![] };
        let overrides = verdict.outcome == Outcome::Blocked || self.harmful_stage().is_some();
        let mut seen = BTreeSet::new();
        self.approvals
            .iter()
            .filter(|a| !a.withdrawn && a.expires > now && a.verdict == verdict.id)
            .filter(|a| a.waives.is_empty() != overrides)
            .filter(|a| seen.insert(a.approver.as_str()))
            .collect()
    }
}

type Marks = BTreeMap<Partition, Offset>;

/// What the log says, up to its head.
#[derive(Debug, Clone, Default)]
pub struct State {
    head: Option<Head>,
    champions: Vec<GenerationId>,
    champion: Option<GenerationId>,
    jobs: Vec<JobRecord>,
    generations: Vec<GenerationRecord>,
    promotions: u64,
    blocked: u64,
    /// How often verdicts asked frozen data.
    queries: BTreeMap<Sha256, u64>,
    /// Of approvals; each counts once.
    nonces: BTreeSet<String>,
    /// Entries that may not stand where they stand.
    void: BTreeSet<u64>,
    /// Over the hashes of all entries.
    tree: Tree,
    began: Option<DateTime<Utc>>,
    /// When the newest checkpoint was made, and its entry.
    checkpoint: Option<(DateTime<Utc>, u64)>,
    producers: Vec<ProducerRecord>,
    keys: Arc<Keys>,
}

impl State {
    /// Of an empty log, whose signatures are to be checked with `keys`.
    pub(crate) fn under(keys: Arc<Keys>) -> Self {
        Self { keys, ..Self::default() }
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A checkpoint over all entries, when so many or so much time have passed since the newest one, or
    /// since the first entry.
    #[must_use]
    pub fn due_checkpoint(&self, entries: u64, age: TimeDelta, now: DateTime<Utc>) -> Option<Fact> {
        let (since, seq) = self.checkpoint.or_else(|| Some((self.began?, 0)))?;
        let size = self.tree.size();
        let new = size - seq;
        let due = new >= entries || (new > 0 && now.signed_duration_since(since) >= age);
        due.then(|| Fact::Checkpointed { size, root: self.tree.root(), seal: None })
    }

    /// Every producer that was ever set aside, the oldest first.
    #[must_use]
    pub fn producers(&self) -> &[ProducerRecord] {
        &self.producers
    }

    /// Producers that were set aside at `time`: a job learns from none of those of its first start.
    #[must_use]
    pub fn quarantined_producers(&self, time: DateTime<Utc>) -> BTreeSet<Producer> {
        let aside = |one: &&ProducerRecord| {
            one.since <= time && one.released.as_ref().is_none_or(|(until, _, _)| *until > time)
        };
        self.producers.iter().filter(aside).map(|one| one.producer.clone()).collect()
    }

    fn is_quarantined(&self, producer: &Producer) -> bool {
        self.producers.iter().any(|one| one.producer == *producer && one.released.is_none())
    }

    /// Whether an entry counts: one that may not stand where it stands is in the log and decides
    /// nothing.
    #[must_use]
    pub fn has_effect(&self, seq: u64) -> bool {
        !self.void.contains(&seq)
    }

    pub(crate) fn has_seen(&self, nonce: &str) -> bool {
        self.nonces.contains(nonce)
    }

    /// The entry it is folded up to.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.unwrap_or(Head::EMPTY)
    }

    /// Who serves.
    #[must_use]
    pub fn champion(&self) -> Option<GenerationId> {
        self.champion
    }

    /// Who the champion's line of hot updates began with: the champion itself, or the first before it
    /// that was no hot update.
    #[must_use]
    pub fn anchor(&self) -> Option<GenerationId> {
        let mut one = self.generation(&self.champion?)?;
        while let (JobKind::HotUpdate, Some(parent)) = (one.kind, one.parent) {
            one = self.generation(&parent)?;
        }
        Some(one.id)
    }

    /// The generations that were registered after the anchor, in order: the line that it bounds.
    #[must_use]
    pub fn since_anchor(&self) -> &[GenerationRecord] {
        let Some(anchor) = self.anchor() else { return &[] };
        let at = self.generations.iter().rposition(|one| one.id == anchor);
        at.map_or(&[], |at| &self.generations[at + 1..])
    }

    /// Every generation that became champion, in order.
    #[must_use]
    pub fn champions(&self) -> &[GenerationId] {
        &self.champions
    }

    /// The champion before the present one that was not rolled back from: where a rollback leads.
    #[must_use]
    pub fn earlier_champion(&self) -> Option<GenerationId> {
        let present = self.champion?;
        let at = self.champions.iter().rposition(|id| *id == present)?;
        let fit = |id: &&GenerationId| {
            **id != present
                && self.generation(id).is_some_and(|one| one.state != GenerationState::RolledBack)
        };
        self.champions[..at].iter().rev().find(fit).copied()
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<&JobRecord> {
        self.jobs.iter().rev().find(|job| &job.job == id)
    }

    /// All jobs, in the order they were requested.
    #[must_use]
    pub fn jobs(&self) -> &[JobRecord] {
        &self.jobs
    }

    /// The job the trainer takes next: one to resume, else the oldest request.
    #[must_use]
    pub fn next_job(&self) -> Option<&JobRecord> {
        let in_state = |state| self.jobs.iter().find(move |job| job.state == state);
        in_state(JobState::Running).or_else(|| in_state(JobState::Requested))
    }

    /// One generation.
    #[must_use]
    pub fn generation(&self, id: &GenerationId) -> Option<&GenerationRecord> {
        self.generations.iter().rev().find(|one| &one.id == id)
    }

    /// All generations, in the order they were registered.
    #[must_use]
    pub fn generations(&self) -> &[GenerationRecord] {
        &self.generations
    }

    /// The newest generation that is neither promoted nor decided against.
    #[must_use]
    pub fn candidate(&self) -> Option<&GenerationRecord> {
        self.generations.iter().rev().find(|one| {
            matches!(one.state, GenerationState::Candidate | GenerationState::NeedsApproval)
        })
    }

    /// Candidates without a verdict, oldest first.
    #[must_use]
    pub fn awaiting_verdict(&self) -> Vec<&GenerationRecord> {
        let waits = |one: &&GenerationRecord| {
            one.state == GenerationState::Candidate && one.verdict.is_none()
        };
        self.generations.iter().filter(waits).collect()
    }

    /// Where the next hot update starts: the champion's watermark, moved over quarantined windows
    /// that follow on it without a gap.
    #[must_use]
    pub fn learnt_up_to(&self) -> Marks {
        let champion = self.champion.and_then(|id| self.generation(&id));
        let mut marks = champion.map(|one| one.window.watermark()).unwrap_or_default();
        // In order of registration, so that one pass moves over a chain of them.
        for one in self.generations.iter().filter(|one| one.quarantined) {
            for (&partition, &(from, to)) in one.window.ranges() {
                let mark = marks.entry(partition).or_default();
                if from <= *mark {
                    *mark = to.max(*mark);
                }
            }
        }
        marks
    }

    /// Windows that were set aside: nobody learns from them.
    #[must_use]
    pub fn set_aside(&self) -> Vec<Window> {
        let aside = self.generations.iter().filter(|one| one.quarantined);
        aside.map(|one| one.window.clone()).collect()
    }

    /// The highest watermark of any candidate so far: what lag is counted from.
    #[must_use]
    pub fn considered_up_to(&self) -> Marks {
        let mut marks = self.learnt_up_to();
        for one in &self.generations {
            for (partition, to) in one.window.watermark() {
                let mark = marks.entry(partition).or_default();
                *mark = to.max(*mark);
            }
        }
        marks
    }

    /// Promotions so far.
    #[must_use]
    pub fn promotions(&self) -> u64 {
        self.promotions
    }

    /// Candidates the gate has blocked so far.
    #[must_use]
    pub fn blocked(&self) -> u64 {
        self.blocked
    }

    /// How many verdicts have asked frozen data so far, whatever suite named it.
    #[must_use]
    pub fn queries(&self, data: &Sha256) -> u64 {
        self.queries.get(data).copied().unwrap_or_default()
    }

    /// Whether `fact` may follow, written by `actor` at `now`.
    ///
    /// # Errors
    /// [`Refusal`] says which invariant it would break.
    pub fn check(&self, fact: &Fact, actor: &Actor, now: DateTime<Utc>) -> Result<(), Refusal> {
        self.check_rules(fact, actor, now)?;
        self.check_seal(fact, actor, now)
    }

    fn check_rules(&self, fact: &Fact, actor: &Actor, now: DateTime<Utc>) -> Result<(), Refusal> {
        match fact {
            Fact::JobRequested { job, .. } if self.job(job).is_some() => {
                refuse(format!("job {job} was requested already"))
            }
            Fact::JobRequested { kind, domain, source, .. }
                if *kind != JobKind::Transfer && (domain.is_some() || source.is_some()) =>
            {
                refuse(format!("a {kind} names no domain and no source: only a transfer does"))
            }
            Fact::JobRequested { .. } | Fact::Swapped { .. } => Ok(()),
            Fact::JobStarted { job, attempt, window, parent } => {
                let record = self.open_job(job)?;
                if *attempt != record.attempts + 1 {
                    let next = record.attempts + 1;
                    return refuse(format!("job {job}: attempt {attempt}, {next} is next"));
                }
                match &record.started {
                    Some((_, fixed, from)) if fixed != window || from != parent => refuse(format!(
                        "job {job}: attempt {attempt} must repeat the window and parent of the first"
                    )),
                    _ => Ok(()),
                }
            }
            Fact::CheckpointWritten { job, .. } => self.running_job(job).map(|_| ()),
            Fact::JobFailed { job, attempt, .. } => {
                let record = self.running_job(job)?;
                if record.attempts == *attempt {
                    Ok(())
                } else {
                    refuse(format!("job {job}: attempt {attempt} is not the present one"))
                }
            }
            Fact::CandidateRegistered { job, generation, .. } => {
                self.running_job(job)?;
                match self.generation(generation) {
                    Some(_) => refuse(format!("generation {} is known", generation.short())),
                    None => Ok(()),
                }
            }
            Fact::VerdictIssued { generation, .. } => {
                let one = self.known(generation)?;
                if one.state == GenerationState::Candidate && one.verdict.is_none() {
                    Ok(())
                } else {
                    let state = one.state.as_str();
                    refuse(format!("generation {} is {state}, judged already", generation.short()))
                }
            }
            Fact::WindowQuarantined { generation, .. } => {
                let one = self.known(generation)?;
                let harmed = one.state == GenerationState::RolledBack && one.harm.is_some();
                let set_aside = harmed
                    || matches!(one.state, GenerationState::Blocked | GenerationState::Rejected);
                if set_aside && !one.quarantined {
                    Ok(())
                } else {
                    refuse(format!(
                        "the window of {} is set aside once, and only when it is blocked, rejected or \
                         rolled back for harm",
                        generation.short()
                    ))
                }
            }
            Fact::ApprovalGiven { generation, verdict, expires, waives, .. } => {
                let one = self.known(generation)?;
                self.check_approval(one, verdict, *expires, actor, now)?;
                self.check_waivers(one, waives, *expires, now)
            }
            Fact::ApprovalWithdrawn { generation, .. } => {
                let one = self.known(generation)?;
                if one.state != GenerationState::Blocked {
                    self.open_generation(generation)?;
                }
                let given = one.approvals.iter().any(|a| &a.approver == actor && !a.withdrawn);
                if given { Ok(()) } else { refuse(format!("{actor} has no approval to withdraw")) }
            }
            Fact::CandidateRejected { generation, .. } => {
                self.open_generation(generation).map(|_| ())
            }
            Fact::Promoted { generation, previous, verdict, by, .. } => {
                self.check_promotion(generation, previous.as_ref(), verdict, *by, now)
            }
            Fact::HarmFound { generation, before, .. } => {
                let one = self.known(generation)?;
                if self.champion != Some(*generation) || self.earlier_champion() != Some(*before) {
                    return refuse(format!(
                        "harm is of the champion, beside the one before it: {} and {} are not these",
                        generation.short(),
                        before.short()
                    ));
                }
                if one.harm.is_some() {
                    return refuse(format!("harm of {} is on record", generation.short()));
                }
                Ok(())
            }
            Fact::StageStarted { generation, champion, verdict, stage, terms, .. } => {
                self.check_stage_start(generation, champion, verdict, *stage, terms, now)
            }
            Fact::StageEnded { generation, stage, outcome, evidence, .. } => {
                self.check_stage_end(generation, *stage, *outcome, evidence, now)
            }
            Fact::ProducerQuarantined { producer, .. } if self.is_quarantined(producer) => {
                refuse(format!("producer {producer} is set aside already"))
            }
            Fact::ProducerQuarantined { .. } => Ok(()),
            Fact::ProducerReleased { producer, .. } if self.is_quarantined(producer) => Ok(()),
            Fact::ProducerReleased { producer, .. } => {
                refuse(format!("producer {producer} is not set aside"))
            }
            Fact::Checkpointed { size, root, .. } => {
                if (*size, *root) == (self.tree.size(), self.tree.root()) {
                    return Ok(());
                }
                refuse(format!(
                    "a checkpoint of root {} over {size} entries: the {} entries before it have root {}",
                    root.short(),
                    self.tree.size(),
                    self.tree.root().short()
                ))
            }
            Fact::RolledBack { to, from, .. } => {
                if self.champion != Some(*from) {
                    return refuse(format!("{} is not the champion", from.short()));
                }
                if to == from || !self.champions.contains(to) {
                    return refuse(format!("{} is not an earlier champion", to.short()));
                }
                Ok(())
            }
        }
    }

    pub(crate) fn known(&self, id: &GenerationId) -> Result<&GenerationRecord, Refusal> {
        self.generation(id).map_or_else(|| refuse(format!("no generation {}", id.short())), Ok)
    }

    pub(crate) fn open_generation(&self, id: &GenerationId) -> Result<&GenerationRecord, Refusal> {
        let one = self.known(id)?;
        match one.state {
            GenerationState::Candidate | GenerationState::NeedsApproval => Ok(one),
            state => refuse(format!("generation {} is {}", id.short(), state.as_str())),
        }
    }

    fn open_job(&self, id: &JobId) -> Result<&JobRecord, Refusal> {
        match self.job(id) {
            None => refuse(format!("no job {id}")),
            Some(job) if matches!(job.state, JobState::Requested | JobState::Running) => Ok(job),
            Some(_) => refuse(format!("job {id} has ended")),
        }
    }

    fn running_job(&self, id: &JobId) -> Result<&JobRecord, Refusal> {
        let job = self.open_job(id)?;
        if job.state == JobState::Running {
            Ok(job)
        } else {
            refuse(format!("job {id} has not started"))
        }
    }

    /// Takes the next entry in, if it may stand there. One that may not has its place in the log, and
    /// no effect: whoever can write to the store does not decide who serves.
    ///
    /// # Errors
    /// Says why it has no effect.
    pub(crate) fn follow(&mut self, entry: &Entry) -> Result<(), Refusal> {
        let checked = self.check(&entry.fact, &entry.actor, entry.time);
        if checked.is_ok() {
            self.apply(entry);
        } else {
            self.void.insert(entry.seq);
        }
        self.head = Some(entry.head());
        self.began.get_or_insert(entry.time);
        self.tree.push(entry.hash.as_bytes());
        checked
    }

    fn apply(&mut self, entry: &Entry) {
        let (time, actor) = (entry.time, &entry.actor);
        match &entry.fact {
            Fact::JobRequested { job, kind, reason, domain, source } => self.jobs.push(JobRecord {
                job: job.clone(),
                kind: *kind,
                reason: reason.clone(),
                domain: domain.clone(),
                source: *source,
                requested_by: actor.clone(),
                requested_at: time,
                started: None,
                attempts: 0,
                state: JobState::Requested,
                finished_at: None,
                generation: None,
                failure: None,
            }),
            Fact::JobStarted { job, attempt, window, parent } => self.with_job(job, |record| {
                record.started.get_or_insert_with(|| (time, window.clone(), *parent));
                record.attempts = *attempt;
                record.state = JobState::Running;
            }),
            Fact::CheckpointWritten { .. } => {}
            Fact::JobFailed { job, reason, retry, .. } => self.with_job(job, |record| {
                record.failure = Some(reason.clone());
                if !retry {
                    record.state = JobState::Failed;
                    record.finished_at = Some(time);
                }
            }),
            Fact::CandidateRegistered { job, generation, parent, kind, window } => {
                self.with_job(job, |record| {
                    record.state = JobState::Succeeded;
                    record.finished_at = Some(time);
                    record.generation = Some(*generation);
                });
                // A newer candidate takes in what an undecided older one has learnt.
                for one in &mut self.generations {
                    if matches!(
                        one.state,
                        GenerationState::Candidate | GenerationState::NeedsApproval
                    ) {
                        one.state = GenerationState::Superseded;
                    }
                }
                self.generations.push(GenerationRecord {
                    id: *generation,
                    job: job.clone(),
                    kind: *kind,
                    parent: *parent,
                    window: window.clone(),
                    registered_at: time,
                    state: GenerationState::Candidate,
                    verdict: None,
                    approvals: vec![],
                    overridden: vec![],
                    promoted_at: None,
                    swapped_at: None,
                    quarantined: false,
                    harm: None,
                    stages: vec![],
                });
            }
            Fact::VerdictIssued {
                generation,
                champion,
                verdict,
                suite,
                outcome,
                reasons,
                digest,
                waivable,
                queried,
                line,
                ..
            } => {
                for data in queried {
                    *self.queries.entry(data.clone()).or_default() += 1;
                }
                self.blocked += u64::from(*outcome == Outcome::Blocked);
                self.with_generation(generation, |one| {
                    one.verdict = Some(VerdictRecord {
                        id: *verdict,
                        champion: *champion,
                        suite: suite.clone(),
                        digest: *digest,
                        outcome: *outcome,
                        reasons: reasons.clone(),
                        waivable: waivable.clone(),
                        queried: queried.clone(),
                        line: line.clone(),
                        issued_at: time,
                    });
                    one.state = match outcome {
                        Outcome::AutoPromote => GenerationState::Candidate,
                        Outcome::NeedsApproval => GenerationState::NeedsApproval,
                        Outcome::Blocked => GenerationState::Blocked,
                    };
                });
            }
            Fact::WindowQuarantined { generation, .. } => {
                self.with_generation(generation, |one| one.quarantined = true);
            }
            Fact::ApprovalGiven { generation, verdict, reason, expires, waives, seal } => {
                self.nonces.extend(seal.as_ref().and_then(Consent::of).map(|said| said.nonce));
                let own_key = seal.as_ref().is_some_and(|seal| self.keys.is_own(seal));
                self.with_generation(generation, |one| {
                    one.approvals.push(ApprovalRecord {
                        approver: actor.clone(),
                        reason: reason.clone(),
                        given_at: time,
                        expires: *expires,
                        verdict: *verdict,
                        waives: waives.clone(),
                        own_key,
                        withdrawn: false,
                    });
                });
            }
            Fact::ApprovalWithdrawn { generation, .. } => self.with_generation(generation, |one| {
                for given in one.approvals.iter_mut().filter(|a| &a.approver == actor) {
                    given.withdrawn = true;
                }
            }),
            Fact::CandidateRejected { generation, .. } => {
                self.with_generation(generation, |one| one.state = GenerationState::Rejected);
            }
            Fact::Promoted { generation, by, .. } => {
                self.promotions += 1;
                self.crown(generation, time, GenerationState::Superseded);
                self.champions.push(*generation);
                if *by == PromotedBy::Override {
                    self.with_generation(generation, |one| {
                        one.overridden = one.waivable().unwrap_or_default();
                        // It serves what it learnt there: the window is no longer kept from anybody.
                        one.quarantined = false;
                    });
                }
            }
            Fact::RolledBack { to, .. } => self.crown(to, time, GenerationState::RolledBack),
            Fact::HarmFound { generation, reason, .. } => {
                self.with_generation(generation, |one| one.harm = Some(reason.clone()));
            }
            Fact::StageStarted { generation, champion, stage, terms, .. } => {
                self.with_generation(generation, |one| {
                    one.stages.push(StageRecord {
                        stage: *stage,
                        champion: *champion,
                        terms: terms.clone(),
                        started_at: time,
                        ended: None,
                    });
                });
            }
            Fact::StageEnded { generation, outcome, evidence, reason, .. } => {
                self.blocked += u64::from(*outcome == StageOutcome::Harmful);
                self.with_generation(generation, |one| {
                    if let Some(stage) = one.stages.last_mut() {
                        let (outcome, evidence) = (*outcome, *evidence);
                        let reason = reason.clone();
                        stage.ended = Some(StageEnd { outcome, evidence, reason, at: time });
                    }
                    if *outcome == StageOutcome::Harmful {
                        one.state = GenerationState::Blocked;
                    }
                });
            }
            Fact::ProducerQuarantined { producer, reason } => {
                self.producers.push(ProducerRecord {
                    producer: producer.clone(),
                    since: time,
                    by: actor.clone(),
                    reason: reason.clone(),
                    released: None,
                });
            }
            Fact::ProducerReleased { producer, reason } => {
                let open = self
                    .producers
                    .iter_mut()
                    .find(|one| one.producer == *producer && one.released.is_none());
                if let Some(one) = open {
                    one.released = Some((time, actor.clone(), reason.clone()));
                }
            }
            Fact::Checkpointed { .. } => self.checkpoint = Some((time, entry.seq)),
            Fact::Swapped { generation, .. } => {
                self.with_generation(generation, |one| {
                    one.swapped_at.get_or_insert(time);
                });
            }
        }
    }

    fn crown(&mut self, new: &GenerationId, time: DateTime<Utc>, old: GenerationState) {
        if let Some(champion) = self.champion {
            self.with_generation(&champion, |one| one.state = old);
        }
        self.with_generation(new, |one| {
            one.state = GenerationState::Champion;
            one.promoted_at = Some(time);
        });
        self.champion = Some(*new);
    }

    fn with_job(&mut self, id: &JobId, change: impl FnOnce(&mut JobRecord)) {
        if let Some(job) = self.jobs.iter_mut().rev().find(|job| &job.job == id) {
            change(job);
        }
    }

    fn with_generation(&mut self, id: &GenerationId, change: impl FnOnce(&mut GenerationRecord)) {
        if let Some(one) = self.generations.iter_mut().rev().find(|one| &one.id == id) {
            change(one);
        }
    }
}
