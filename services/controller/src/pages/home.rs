//! The gate: what serves, what waits, and why.
use std::sync::Arc;

use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use tidegate_contracts::{JobKind, Verdict};
use tidegate_ledger::{
    GenerationRecord, GenerationState, JobRecord, JobState, StageProgress, State as Ledger,
};

use super::{
    Frame, chart, forms, history, producers, stages, verdict,
    words::{badge, fact, gate, link, plain, when},
};
use crate::{
    api::Query,
    caller::Caller,
    desk::{Answer, Desk},
    policy::{self, Gate},
    trigger,
};

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Shown {
    /// Not loaded again by itself.
    still: bool,
    /// The whole history.
    all: bool,
}

/// What the trainer keeps under `progress/<job>`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Progress {
    step: u64,
    steps: u64,
    loss: f64,
    examples_per_s: f64,
    expert_load_max_share: f64,
    /// Before the first step of a cold start that is searched.
    search: Option<Search>,
    /// Step and loss.
    history: Vec<(f64, f64)>,
}

/// How far an architecture search is.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Search {
    rung: usize,
    rungs: usize,
    candidate: usize,
    candidates: usize,
    step: u64,
    steps: u64,
    best: Option<f64>,
}

/// All that the page is drawn from.
struct Sight<'a> {
    desk: &'a Desk,
    state: &'a Ledger,
    /// Of the candidate in a stage.
    stage: Option<StageProgress>,
    now: DateTime<Utc>,
}

pub(super) async fn show(
    State(desk): State<Arc<Desk>>,
    Query(shown): Query<Shown>,
    caller: Caller,
) -> Answer<Response> {
    let state = desk.ledger.state().await?;
    let candidate = state.candidate();
    let stage = match candidate {
        Some(one) => desk.stage_progress(one).await,
        None => None,
    };
    let sight = Sight { desk: &desk, state: &state, stage, now: Utc::now() };
    let judged = candidate.or_else(|| sight.last_judged());
    let document = match judged.filter(|one| one.verdict.is_some()) {
        Some(one) => Some(desk.document(one).await),
        None => None,
    };
    let running = state.jobs().iter().find(|job| job.state == JobState::Running);
    let progress = match running {
        Some(job) => sight.progress(job).await?,
        None => Progress::default(),
    };
    let body = html! {
        (sight.headline())
        @if let Some(champion) = sight.champion() { (forms::overridden(champion)) }
        dl.facts { (sight.serves()) (sight.waits()) (sight.learns()) (sight.record()) }
        @if let Some(job) = running { (training(job, &progress, sight.now)) }
        (producers::set_aside(&desk, &caller, &state, sight.now))
        @if let Some(one) = judged { (sight.judged(&caller, one, document.as_ref())) }
        section id="history" { h2 { "History" } (history::view(&state, shown.all, sight.now)) }
    };
    // A page on which a reason is being written must not be loaded away.
    let refresh = !shown.still && !candidate.is_some_and(|one| sight.asks(one));
    let frame = Frame { desk: &desk, caller: &caller, title: "Gate", here: "/", refresh };
    Ok(frame.around(&body))
}

fn training(job: &JobRecord, progress: &Progress, now: DateTime<Utc>) -> Markup {
    let Progress { step, steps, .. } = *progress;
    html! {
        section {
            h2 { "Training: " (plain(job.kind.as_str())) }
            p.dim { (job.reason) @if let Some((at, ..)) = &job.started { ", started " (when(*at, now)) } }
            @if let Some(search) = progress.search.as_ref().filter(|_| step == 0) {
                progress max=(search.steps.max(1)) value=(search.step) aria-label="Steps of the search done" {}
                p {
                    "Looking for its architecture: rung " (search.rung) " of " (search.rungs)
                    ", candidate " (search.candidate) " of " (search.candidates)
                    @if let Some(best) = search.best { ", best accuracy so far " (format!("{best:.4}")) }
                }
            }
            progress max=(steps.max(1)) value=(step) aria-label="Steps done" {}
            p {
                "Step " (step) " of " (steps) ", loss " (format!("{:.3}", progress.loss)) ", "
                (format!("{:.0}", progress.examples_per_s)) " examples/s, fullest expert takes "
                (format!("{:.0} %", progress.expert_load_max_share * 100.0))
            }
            @if let Some(curve) = chart::curve(&progress.history) { (curve) }
        }
    }
}

impl<'a> Sight<'a> {
    fn last_judged(&self) -> Option<&'a GenerationRecord> {
        self.state.generations().iter().rev().find(|one| one.verdict.is_some())
    }

    fn champion(&self) -> Option<&'a GenerationRecord> {
        self.state.champion().and_then(|id| self.state.generation(&id))
    }

    fn gate(&self, one: &GenerationRecord) -> Gate {
        policy::gate(self.state, one, &self.desk.config.policy, self.now)
    }

    /// Whether an operator's decision is what it waits for.
    fn asks(&self, one: &GenerationRecord) -> bool {
        matches!(self.gate(one), Gate::Asks { .. })
    }

    async fn progress(&self, job: &JobRecord) -> Answer<Progress> {
        let bytes = self.desk.ledger.get_state(&format!("progress/{}", job.job)).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// The one thing to know.
    fn headline(&self) -> Markup {
        let open = self.state.jobs().iter().find(|job| trigger::is_open(job));
        let last = self.state.generations().last();
        let (tone, title) = match (self.state.candidate().map(|one| self.gate(one)), open) {
            (Some(Gate::Asks { .. }), _) => ("ask", "A candidate waits for a decision".to_owned()),
            (Some(Gate::Unjudged), _) => ("busy", "A candidate is being judged".to_owned()),
            (Some(Gate::Open), _) => {
                ("busy", "A candidate passed and is being promoted".to_owned())
            }
            (Some(Gate::Staged { stage, .. }), _) => {
                ("busy", format!("A candidate passed the gate and is tried in {stage}"))
            }
            (_, Some(job)) => {
                let does = if job.state == JobState::Running { "trains" } else { "is asked for" };
                ("busy", format!("A {} {does}", plain(job.kind.as_str())))
            }
            _ if self.state.champion().is_none() => ("", "Nothing serves yet".to_owned()),
            _ if last.is_some_and(|one| one.state == GenerationState::Blocked) => {
                ("bad", "The last candidate was blocked; the champion serves on".to_owned())
            }
            _ => ("good", "All quiet".to_owned()),
        };
        html! { h1 class={ "headline " (tone) } { (title) } }
    }

    fn serves(&self) -> Markup {
        let one = self.champion();
        let value = html! { @match one { Some(one) => (link(&one.id)), None => "nothing yet" } };
        let note = html! {
            @if let Some(one) = one {
                (plain(one.kind.as_str()))
                @if let Some(at) = one.promoted_at { ", promoted " (when(at, self.now)) }
                @if one.swapped_at.is_none() { ", no gateway serves it yet" }
            }
        };
        fact("Serves now", &value, &note)
    }

    fn waits(&self) -> Markup {
        let one = self.state.candidate();
        let value = html! { @match one { Some(one) => (link(&one.id)), None => "none" } };
        let note = html! { @if let Some(one) = one { (plain(one.state.as_str())) ", registered " (when(one.registered_at, self.now)) } };
        fact("Candidate", &value, &note)
    }

    /// Records that wait, on the way to the next job.
    fn learns(&self) -> Markup {
        let config = &self.desk.config;
        let (now, wanted, job) = if self.state.champion().is_none() {
            (self.desk.lag.tally().total(), config.bootstrap.min_labelled, "the first cold start")
        } else {
            let considered = self.state.considered_up_to();
            let waiting = self.desk.lag.tally().since(&considered);
            (waiting, config.lag_trigger.records, "the next hot update")
        };
        let next = self.desk.schedule.next(JobKind::HotUpdate, self.now);
        let next = next.filter(|_| self.state.champion().is_some());
        let value = html! { (self.desk.waiting(self.state)) };
        let note = html! {
            progress max=(wanted) value=(now.min(wanted)) aria-label={ "On the way to " (job) } {}
            (now) " of the " (wanted) " that ask for " (job)
            @if let Some(at) = next { ", or by the clock " (when(at, self.now)) }
        };
        fact("Records not learnt", &value, &note)
    }

    fn record(&self) -> Markup {
        let head = self.state.head();
        let value = html! { (self.state.promotions()) };
        let note = html! {
            (self.state.blocked()) " blocked · " a href="/ledger" { (head.seq) " ledger entries" }
        };
        fact("Promotions", &value, &note)
    }

    /// The candidate beside the champion, or the last verdict when nothing waits.
    fn judged(
        &self,
        caller: &Caller,
        one: &GenerationRecord,
        document: Option<&Answer<Verdict>>,
    ) -> Markup {
        let waits = self.state.candidate().is_some_and(|candidate| candidate.id == one.id);
        html! {
            section {
                h2 { @if waits { "Candidate " } @else { "Last verdict, on " } (link(&one.id)) " " (badge(one.state.as_str())) }
                @if let Some(Ok(document)) = document { (verdict::summary(document, self.gate(one).is_undecided())) }
                (gate(&self.gate(one).words(), one))
                (stages::view(one, self.stage.as_ref(), self.now))
                @if let Some(Ok(document)) = document { (producers::proposed(self.desk, caller, self.state, one, document)) }
                @if self.asks(one) { (forms::decisions(self.desk, caller, self.state, one, self.now)) }
                @else if waits { p { "Nothing is asked of you now. It can be rejected on " a href=(format!("/generations/{}", one.id)) { "its own page" } "." } }
                @match document {
                    None => {},
                    Some(Ok(document)) => (verdict::view(document)),
                    Some(Err(error)) => p.refusal { "Its verdict cannot be shown: " (error) },
                }
            }
        }
    }
}
