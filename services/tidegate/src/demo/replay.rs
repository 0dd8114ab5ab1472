//! Directs the processes of the demo, day by day.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::Utc;
use indicatif::{ProgressBar, ProgressStyle};
use tidegate_contracts::{Curated, GenerationId, JobKind, Outcome, proto::v1};
use tidegate_ledger::{ArtifactStore, ArtifactsConfig, Fact};
use tidegate_model::{Device, Input, Model};
use tidegate_stream::{Stream, StreamConfig};

use super::{
    FIRST,
    baseline::Sgd,
    corpus::{Day, Mail},
    processes::{Producer, Service, SteadyClient},
    report::{
        Approved, Blocked, Claim, DayReport, PrequentialReport, Report, Swap, during_swap, latency,
        prequential, spread, timeline,
    },
};
use crate::{cli::Global, infer, operate, output::short};

/// Nothing in the demo may take longer than this; beyond it the demo says what it waited for.
const PATIENCE: Duration = Duration::from_secs(180);
/// Mails asked in one request.
const BATCH: usize = 32;

pub(crate) struct Replay {
    folder: PathBuf,
    data: PathBuf,
    rate: f64,
    service: Service,
    producer: Producer,
    global: Global,
    seen: Seen,
}

/// Who is asked about each mail before its label is known.
#[derive(Clone, Copy)]
enum Who {
    Champion,
    /// SGD that learns every day as its labels were published.
    Sgd,
    /// SGD that somebody spares the poisoned day: what no stream without a gate has.
    SparedSgd,
    /// The first generation, never updated.
    Frozen,
}

/// What the demo has gathered so far.
#[derive(Default)]
struct Seen {
    next_entry: u64,
    swaps: Vec<Swap>,
    promotions: u64,
    days: Vec<DayReport>,
    blocked: Vec<Blocked>,
    approvals: Vec<Approved>,
    /// Answers of the champion, both baselines and the first generation ([`Who`]); and the truth.
    /// In order of delivery.
    answers: Vec<[Option<String>; 4]>,
    truth: Vec<String>,
    freshness: Vec<f64>,
    joules: f64,
    /// The service's meter at the last look.
    metered: f64,
    method: String,
}

/// What became of a job's candidate.
struct Decided {
    generation: GenerationId,
    decision: String,
    reasons: Vec<String>,
    /// When a gateway began to serve it.
    serving_ms: Option<i64>,
}

impl Replay {
    pub(crate) async fn start(folder: &Path, rate: f64) -> anyhow::Result<Self> {
        let data = folder.join("data");
        let service = Service::start(folder, &data).await?;
        let producer = Producer::start(folder)?;
        let seen = Seen { next_entry: 1, ..Seen::default() };
        let global = globals(&service);
        Ok(Self { folder: folder.to_owned(), data, rate, service, producer, global, seen })
    }

    pub(crate) async fn run(mut self, days: &[Day], began: Instant) -> anyhow::Result<Report> {
        let events: usize = days.iter().map(|day| day.mails.len()).sum();
        let progress = progress(days.len());
        let poisoned = poisoned_day(days);
        let mut baselines = [Sgd::new(), Sgd::new()];
        let (mut frozen, mut client) = (None, None);
        let last = days.len() - 1;
        for (i, day) in days[..last].iter().enumerate() {
            progress.set_message(format!("{} {} mails: publish, ask", day.date, day.mails.len()));
            let lines: Vec<String> = day.mails.iter().map(Mail::event_json).collect();
            self.producer.publish(&lines).await?;
            let rights = self.ask(day, i, &baselines, frozen.as_ref()).await?;
            progress.set_message(format!("{} labels out: learn, judge", day.date));
            let labelled_ms = self.publish_labels(day, i == poisoned).await?;
            let decided =
                if i == 0 { self.cold_start(day).await? } else { self.hot_update(day).await? };
            baselines[0].learn(&batch(day, i == poisoned));
            if i != poisoned {
                baselines[1].learn(&batch(day, false));
            }
            let energy_j = self.energy().await?;
            self.record(day, i == poisoned, rights, &decided, labelled_ms, energy_j);
            if i == 0 {
                frozen = Some(self.load(&decided.generation).await?);
                let texts: Vec<String> = day.mails.iter().map(|mail| mail.text.clone()).collect();
                client = Some(SteadyClient::start(&self.folder, &texts, self.rate)?);
            }
            progress.println(self.line(i));
            progress.inc(1);
        }
        let requests = client.context("the first day starts the client")?.stop().await?;

        progress.set_message("last day: kill -9 in the middle of learning it".to_owned());
        let day = &days[last];
        let lines: Vec<String> = day.mails.iter().map(Mail::event_json).collect();
        self.producer.publish(&lines).await?;
        let rights = self.ask(day, last, &baselines, frozen.as_ref()).await?;
        let labelled_ms = self.publish_labels(day, false).await?;
        let (this, decided, resume_s, before_kill) = self.killed_and_resumed(day).await?;
        self = this;
        let energy_j = before_kill + self.energy().await?;
        self.record(day, false, rights, &decided, labelled_ms, energy_j);
        progress.println(self.line(last));
        progress.finish_and_clear();
        let accounted = self.accounted(events).await?;
        self.finish(days, accounted, &requests, resume_s, began).await
    }

    /// Asks the champion about each mail of a day before its label is known, and both baselines.
    async fn ask(
        &mut self,
        day: &Day,
        index: usize,
        baselines: &[Sgd; 2],
        frozen: Option<&Model>,
    ) -> anyhow::Result<[Option<usize>; 4]> {
        let texts: Vec<String> = day.mails.iter().map(|mail| mail.text.clone()).collect();
        let mut said: Vec<[Option<String>; 4]> = vec![[const { None }; 4]; texts.len()];
        if index > 0 {
            let mut client = infer::client(&self.global).await?;
            let mut at = 0;
            for texts in texts.chunks(BATCH) {
                for answer in infer::ask(&mut client, texts, "champion").await? {
                    said[at][Who::Champion as usize] = Some(answer.label);
                    at += 1;
                }
            }
            for (said, text) in said.iter_mut().zip(&texts) {
                for (who, sgd) in [Who::Sgd, Who::SparedSgd].into_iter().zip(baselines) {
                    let label = if sgd.predict(text) { "spam" } else { "ham" };
                    said[who as usize] = Some(label.to_owned());
                }
            }
        }
        if let Some(model) = frozen {
            let inputs: Vec<Input> = texts.iter().map(|t| Input::text(&**t)).collect();
            let scores = model.predict(&inputs)?;
            for (said, scores) in said.iter_mut().zip(scores) {
                said[Who::Frozen as usize] = Some(model.labels()[scores.best().0].to_string());
            }
        }
        let mut rights = [None; 4];
        for (which, right) in rights.iter_mut().enumerate() {
            let asked = said.iter().zip(&day.mails).filter(|(said, _)| said[which].is_some());
            let hits = asked.clone().filter(|(said, m)| said[which].as_deref() == Some(m.label));
            *right = (asked.count() > 0).then(|| hits.count());
        }
        self.seen.answers.extend(said);
        self.seen.truth.extend(day.mails.iter().map(|mail| mail.label.to_owned()));
        Ok(rights)
    }

    /// Publishes the labels of a day; when each was acknowledged.
    async fn publish_labels(&mut self, day: &Day, flip: bool) -> anyhow::Result<Vec<i64>> {
        let lines: Vec<String> = day.mails.iter().map(|mail| mail.label_json(flip)).collect();
        let acks = self.producer.publish(&lines).await?;
        self.curated(day).await?;
        Ok(acks.into_iter().map(|ack| ack.acked_ms).collect())
    }

    /// Waits until every mail of the day is curated or rejected.
    async fn curated(&self, day: &Day) -> anyhow::Result<()> {
        let mut waiting: HashSet<&str> = day.mails.iter().map(|mail| mail.id.as_str()).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            for id in self.outputs().await?.into_keys() {
                waiting.remove(id.as_str());
            }
            if waiting.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{} mails of {} were neither curated nor rejected within {PATIENCE:?}",
                waiting.len(),
                day.date
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Every event id on the curated and rejected topics, with how often it is there.
    async fn outputs(&self) -> anyhow::Result<HashMap<String, [usize; 2]>> {
        let stream = Stream::connect(&StreamConfig::default(), &self.service.endpoints.kafka)?;
        let mut found: HashMap<String, [usize; 2]> = HashMap::new();
        for (which, topic) in
            [&stream.topics().curated, &stream.topics().rejected].iter().enumerate()
        {
            let marks = stream.watermarks(topic).await?;
            let window = tidegate_contracts::Window::new(topic.as_str(), marks)?;
            for record in stream.read(&window).await? {
                let id = if which == 0 {
                    Curated::decode(&record.value)?.event.id.to_string()
                } else {
                    // A rejected event keeps its bytes and its key; the key is its id.
                    let key = record.key.clone().unwrap_or_default();
                    String::from_utf8_lossy(&key).into_owned()
                };
                found.entry(id).or_default()[which] += 1;
            }
        }
        Ok(found)
    }

    async fn accounted(&self, events: usize) -> anyhow::Result<BTreeMap<String, usize>> {
        let outputs = self.outputs().await?;
        let curated = outputs.values().filter(|n| n[0] == 1 && n[1] == 0).count();
        let rejected = outputs.values().filter(|n| n[0] == 0 && n[1] >= 1).count();
        let doubled = outputs.values().filter(|n| n[0] > 1).count();
        Ok([
            ("published".to_owned(), events),
            ("curated".to_owned(), curated),
            ("rejected".to_owned(), rejected),
            ("doubled".to_owned(), doubled),
        ]
        .into())
    }

    /// The controller orders it by itself; an operator must say yes.
    async fn cold_start(&mut self, day: &Day) -> anyhow::Result<Decided> {
        self.decided(day, None).await
    }

    /// Asked for as the daily CronJob asks.
    async fn hot_update(&mut self, day: &Day) -> anyhow::Result<Decided> {
        let job = self.request_job(day).await?;
        self.decided(day, Some(job)).await
    }

    async fn request_job(&self, day: &Day) -> anyhow::Result<String> {
        let mut client = operate::client(&self.global).await?;
        let request = v1::RequestJobRequest {
            kind: JobKind::HotUpdate.to_string(),
            reason: format!("daily update of {}", day.date),
            actor: "cron:daily".into(),
            ..Default::default()
        };
        Ok(client.request_job(request).await?.into_inner().job)
    }

    /// Follows the ledger until the candidate of `job` (of the first job when none is named) is
    /// blocked, or serves.
    async fn decided(&mut self, day: &Day, job: Option<String>) -> anyhow::Result<Decided> {
        let deadline = Instant::now() + PATIENCE;
        let (mut ours, mut approved, mut reasons) = (None, false, vec![]);
        loop {
            let entries = match self.entries().await {
                Ok(entries) => entries,
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!("{error:#}");
                    vec![]
                }
                Err(error) => return Err(error),
            };
            for (time_ms, fact) in entries {
                match fact {
                    Fact::CandidateRegistered { job: of, generation, .. }
                        if job.as_deref().is_none_or(|job| job == of.as_str()) =>
                    {
                        ours = Some(generation);
                    }
                    Fact::JobFailed { reason, retry: false, .. } => {
                        anyhow::bail!("the job of {} failed: {reason}", day.date);
                    }
                    Fact::VerdictIssued { generation, outcome, reasons: why, .. }
                        if Some(generation) == ours =>
                    {
                        reasons = why;
                        match outcome {
                            Outcome::Blocked => {
                                let decision = "blocked".to_owned();
                                let serving_ms = None;
                                return Ok(Decided { generation, decision, reasons, serving_ms });
                            }
                            Outcome::AutoPromote if job.is_some() => {}
                            _ => {
                                self.approve(day, &generation, &reasons).await?;
                                approved = true;
                            }
                        }
                    }
                    Fact::Promoted { .. } => self.seen.promotions += 1,
                    Fact::Swapped { generation, prepare, .. } => {
                        self.seen.swaps.push(Swap {
                            at_ms: time_ms,
                            generation: generation.to_string(),
                            prepare_ms: prepare.0,
                        });
                        if Some(generation) == ours {
                            let decision =
                                if approved { "approved" } else { "promoted" }.to_owned();
                            let serving_ms = Some(time_ms);
                            return Ok(Decided { generation, decision, reasons, serving_ms });
                        }
                    }
                    _ => {}
                }
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the update of {} was not decided within {PATIENCE:?}: see tidegate.log",
                day.date
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The operator reads the verdict and says yes, by the command line.
    async fn approve(
        &mut self,
        day: &Day,
        generation: &GenerationId,
        why_asked: &[String],
    ) -> anyhow::Result<()> {
        let id = generation.to_string();
        let reason = format!("read the verdict of {}", day.date);
        let args = ["approve", &id, "--reason", &reason, "--actor", "demo-operator"];
        self.service.operator(&args).await?;
        let why_asked = why_asked.to_vec();
        self.seen.approvals.push(Approved { generation: id, day: day.date, why_asked });
        Ok(())
    }

    /// Ledger entries since the last call, with their time in milliseconds since the epoch.
    async fn entries(&mut self) -> anyhow::Result<Vec<(i64, Fact)>> {
        let mut client = operate::client(&self.global).await?;
        let request = v1::ListEntriesRequest { from: self.seen.next_entry, limit: 1_000 };
        let entries = client.list_entries(request).await?.into_inner().entries;
        let mut facts = Vec::with_capacity(entries.len());
        for entry in entries {
            self.seen.next_entry = entry.seq + 1;
            let time = entry.time.as_ref().and_then(tidegate_contracts::proto::from_timestamp);
            let time = time.context("a ledger entry without time")?.timestamp_millis();
            facts.push((time, serde_json::from_str(&entry.body_json)?));
        }
        Ok(facts)
    }

    /// `kill -9` while the last day is being learnt; the time from the restart until a champion
    /// answers and the job is under way again.
    async fn killed_and_resumed(mut self, day: &Day) -> anyhow::Result<(Self, Decided, f64, f64)> {
        let job = self.request_job(day).await?;
        self.started(&job, 1).await?;
        let before_kill = self.energy().await?;
        self.seen.metered = 0.0;
        let Self { folder, data, rate, service, producer, seen, .. } = self;
        producer.stop().await?;
        service.kill().await?;
        let began = Instant::now();
        let service = Service::start(&folder, &data).await?;
        let producer = Producer::start(&folder)?;
        let global = globals(&service);
        let mut this = Self { folder, data, rate, service, producer, global, seen };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = infer::client(&this.global).await
                && infer::ask(&mut client, &["are you there?".to_owned()], "champion").await.is_ok()
            {
                break;
            }
            anyhow::ensure!(Instant::now() < deadline, "no champion served after kill -9");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        this.started(&job, 2).await?;
        let resume_s = began.elapsed().as_secs_f64();
        let decided = this.decided(day, Some(job)).await?;
        Ok((this, decided, resume_s, before_kill))
    }

    /// Waits until attempt `attempt` of a job (or its candidate) is on record.
    async fn started(&mut self, job: &str, attempt: u32) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut client = operate::client(&self.global).await?;
            let jobs = client.list_jobs(v1::ListJobsRequest { limit: 10 }).await?.into_inner().jobs;
            let ours = jobs.iter().find(|one| one.id == job);
            if ours.is_some_and(|one| one.attempts >= attempt || one.state == "succeeded") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "attempt {attempt} of {job} did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn load(&self, generation: &GenerationId) -> anyhow::Result<Model> {
        let store = ArtifactStore::open(&ArtifactsConfig::default(), &self.data)?;
        let verified = store.generation(generation).await?;
        Ok(Model::from_files(verified.files(), &Device::Cpu)?)
    }

    /// Joules since the last look.
    async fn energy(&mut self) -> anyhow::Result<f64> {
        let (total, method) = self.service.joules().await?;
        let used = total - self.seen.metered;
        self.seen.metered = total;
        self.seen.joules += used;
        self.seen.method = method;
        Ok(used)
    }

    fn record(
        &mut self,
        day: &Day,
        poisoned: bool,
        rights: [Option<usize>; 4],
        decided: &Decided,
        labelled_ms: Vec<i64>,
        energy_j: f64,
    ) {
        let fresh = |at: i64| decided.serving_ms.map(|serving| (serving - at) as f64 / 1e3);
        let freshness_s = labelled_ms.iter().max().copied().and_then(fresh);
        self.seen.freshness.extend(labelled_ms.into_iter().filter_map(fresh));
        let generation = decided.generation.to_string();
        if decided.decision == "blocked" {
            let (generation, reasons) = (generation.clone(), decided.reasons.clone());
            self.seen.blocked.push(Blocked { generation, day: day.date, poisoned, reasons });
        }
        self.seen.days.push(DayReport {
            date: day.date,
            mails: day.mails.len(),
            poisoned,
            right: rights[Who::Champion as usize],
            right_sgd: rights[Who::Sgd as usize],
            right_spared_sgd: rights[Who::SparedSgd as usize],
            right_frozen: rights[Who::Frozen as usize],
            decision: decided.decision.clone(),
            reasons: decided.reasons.clone(),
            generation,
            freshness_s,
            energy_j,
        });
    }

    fn line(&self, index: usize) -> String {
        let day = &self.seen.days[index];
        let share = |right: Option<usize>| match right {
            Some(right) => format!("{:5.1} %", right as f64 * 100.0 / day.mails as f64),
            None => "      -".to_owned(),
        };
        format!(
            "{} {:4} mails  champion {}  sgd {}  {} {} {}{}",
            day.date,
            day.mails,
            share(day.right),
            share(day.right_sgd),
            day.decision,
            short(&day.generation),
            day.freshness_s.map(|s| format!("after {s:.1} s ")).unwrap_or_default(),
            if day.poisoned { "(labels flipped on purpose)" } else { "" },
        )
    }

    async fn finish(
        self,
        days: &[Day],
        accounted: BTreeMap<String, usize>,
        requests: &[infer::LoggedRequest],
        resume_s: f64,
        began: Instant,
    ) -> anyhow::Result<Report> {
        let Self { service, producer, seen, .. } = self;
        producer.stop().await?;
        let live = service.operator(&["ledger", "verify"]).await.is_ok();
        let region = tidegate_telemetry::energy::DEFAULT_REGION.to_owned();
        let joules = tidegate_contracts::Joules(seen.joules);
        let grams = tidegate_telemetry::energy::carbon(joules, &region);
        service.stop().await?;

        let figures = |who: Who, from: usize| {
            let pairs = seen.answers.iter().zip(&seen.truth).skip(from);
            prequential(pairs.filter_map(|(a, t)| Some((a[who as usize].as_deref()?, t.as_str()))))
        };
        let prequential = PrequentialReport {
            all: figures(Who::Champion, 0),
            after_first_250: figures(Who::Champion, FIRST),
            sgd_after_first_250: figures(Who::Sgd, FIRST),
            spared_sgd_after_first_250: figures(Who::SparedSgd, FIRST),
            frozen_after_first_250: figures(Who::Frozen, FIRST),
        };
        let swapping: Vec<_> = requests.iter().filter(|r| during_swap(r, &seen.swaps)).collect();
        let mut report = Report {
            events: days.iter().map(|day| day.mails.len()).sum(),
            accounted,
            days: seen.days,
            promotions: seen.promotions,
            blocked: seen.blocked,
            approvals: seen.approvals,
            prequential,
            requests: requests.len(),
            failed_requests: requests.iter().filter(|request| request.error.is_some()).count(),
            swaps: seen.swaps.len(),
            latency_ms: latency(requests.iter()),
            latency_during_swap_ms: latency(swapping.into_iter()),
            latency_timeline: timeline(requests),
            swap_timeline: seen.swaps,
            freshness_s: spread(seen.freshness),
            resume_s,
            energy_j: joules.0,
            energy_method: seen.method,
            gco2e: grams.map(|grams| grams.0),
            region,
            wall_s: began.elapsed().as_secs_f64(),
            ledger_verified: live,
            machine: machine(),
            claims: vec![],
        };
        report.claims = claims(&report);
        Ok(report)
    }
}

/// What the demo must show. Each is read off the report, so each can fail.
fn claims(report: &Report) -> Vec<Claim> {
    let poisoned = report.days.iter().position(|day| day.poisoned);
    let recovered = poisoned
        .and_then(|at| report.days.get(at + 1))
        .is_some_and(|next| next.decision != "blocked");
    let count = |name: &str| report.accounted.get(name).copied().unwrap_or_default();
    let all = [
        (
            report.requests > 0 && report.failed_requests == 0,
            "no request of the steady client failed",
        ),
        (report.blocked.iter().any(|b| b.poisoned), "the gate blocked the poisoned day"),
        (recovered, "the next clean day recovered"),
        (report.swaps >= 8, "at least 8 swaps under load"),
        (!report.approvals.is_empty(), "a promotion waited for an approval, given by the CLI"),
        (
            count("curated") + count("rejected") == report.events && count("doubled") == 0,
            "every event is accounted for exactly once",
        ),
        (report.ledger_verified, "the ledger verifies from its first entry to its last"),
        (
            report.prequential.after_first_250.accuracy
                >= report.prequential.spared_sgd_after_first_250.accuracy,
            "the champion's prequential accuracy is at least that of SGD on the same batches, which \
             was spared the poisoned one",
        ),
    ];
    all.into_iter().map(|(holds, claim)| Claim { claim: claim.to_owned(), holds }).collect()
}

/// The largest day in the third quarter of the stream: late enough that much could be forgotten.
fn poisoned_day(days: &[Day]) -> usize {
    let (from, to) = (days.len() / 2, (days.len() * 3 / 4).max(days.len() / 2 + 1));
    // The last two are kept clean: one to recover on, one to be killed in.
    let to = to.min(days.len() - 2).max(from + 1);
    (from..to).max_by_key(|&i| days[i].mails.len()).unwrap_or(from)
}

fn batch(day: &Day, flipped: bool) -> Vec<(&str, bool)> {
    day.mails.iter().map(|mail| (mail.text.as_str(), (mail.label == "spam") != flipped)).collect()
}

fn globals(service: &Service) -> Global {
    Global { endpoint: service.endpoints.grpc.map(|at| at.to_string()), ..Global::default() }
}

fn progress(days: usize) -> ProgressBar {
    let bar = ProgressBar::new(days as u64);
    let style = ProgressStyle::with_template("{elapsed} {bar:30} {pos}/{len} {msg}");
    bar.set_style(style.expect("the template is valid"));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn machine() -> BTreeMap<String, String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    [
        ("cpu".to_owned(), model.unwrap_or("unknown").to_owned()),
        ("cores".to_owned(), cores.to_string()),
        ("date".to_owned(), Utc::now().to_rfc3339()),
        ("version".to_owned(), tidegate_contracts::CODE_VERSION.to_owned()),
    ]
    .into()
}
