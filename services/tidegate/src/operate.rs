//! The operator's commands. They use the control API and nothing else.
use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use tidegate_contracts::{
    Actor, SearchLog,
    proto::v1::{self, control_client::ControlClient},
};
use tidegate_ledger::{Consent, seal};
use tonic::{
    metadata::MetadataValue, service::interceptor::InterceptedService, transport::Channel,
};

use crate::{
    cli::{Command, Global, JobsCommand, LedgerCommand, QuarantineCommand},
    listen,
    output::{Format, print, print_fields, search_log, short, time},
};

/// Yes or no to one generation.
#[derive(clap::Args)]
pub(crate) struct Decision {
    /// The generation: an id, an unambiguous prefix, or `candidate`.
    #[arg(default_value = "candidate")]
    generation: String,
    /// Why; on record.
    #[arg(long)]
    reason: String,
    /// Who, where the service knows no tokens.
    #[arg(long, env = "USER", default_value = "local")]
    actor: String,
}

/// What is said about a producer.
#[derive(clap::Args)]
pub(crate) struct OfProducer {
    /// As its records name it; `unknown` for all that name nobody.
    producer: String,
    /// Why; on record.
    #[arg(long)]
    reason: String,
    /// Who, where the service knows no tokens.
    #[arg(long, env = "USER", default_value = "local")]
    actor: String,
}

/// Yes to one generation, and whose signature it bears.
#[derive(clap::Args)]
pub(crate) struct Approval {
    #[command(flatten)]
    pub(crate) decision: Decision,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// How a yes is signed.
#[derive(clap::Args)]
pub(crate) struct Signing {
    /// Sign with this key of yours (PEM, as `tidegate keys make` writes it); the controller signs on
    /// your behalf when absent, if policy lets it.
    #[arg(long, env = "TIDEGATE_KEY")]
    key: Option<PathBuf>,
    /// With a key: how long the approval counts, at most as policy says.
    #[arg(long, default_value = "12h", value_parser = humantime::parse_duration)]
    expires: std::time::Duration,
}

/// What a yes is sent with.
struct Signed {
    generation: String,
    verdict: String,
    envelope: String,
}

impl Signing {
    /// Binds it to the verdict that stands now, and signs, where there is a key.
    async fn sign(
        self,
        client: &mut Client,
        decision: &Decision,
        waives: Vec<String>,
    ) -> anyhow::Result<Signed> {
        let id = decision.generation.clone();
        let Some(path) = self.key else {
            return Ok(Signed { generation: id, verdict: String::new(), envelope: String::new() });
        };
        let key = seal::read_private(&path)?;
        let read = client.get_verdict(v1::GetVerdictRequest { id }).await?.into_inner();
        let suite = read.suite_digest.parse().context("the verdict is from before signatures")?;
        let champion = Some(&read.champion).filter(|id| !id.is_empty());
        let name = decision.actor.trim();
        let consent = Consent {
            generation: read.generation.parse()?,
            verdict: read.id.parse()?,
            suite,
            champion: champion.map(|id| id.parse()).transpose()?,
            approver: Actor::new(format!("operator:{}", name.trim_start_matches("operator:"))),
            reason: decision.reason.trim().to_owned(),
            waives,
            expires: Utc::now() + TimeDelta::from_std(self.expires).context("--expires")?,
            nonce: Consent::fresh_nonce(),
        };
        let (generation, verdict) = (read.generation, read.id);
        Ok(Signed { generation, verdict, envelope: serde_json::to_string(&consent.seal(&key))? })
    }
}

/// A control client that sends the token, where there is one.
pub(crate) type Client = ControlClient<InterceptedService<Channel, Bearer>>;

/// Adds `authorization: Bearer ...`.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Bearer {
    pub(crate) fn new(token: Option<&str>) -> anyhow::Result<Self> {
        let value = token.map(|token| format!("Bearer {token}").parse()).transpose();
        Ok(Self(value.context("the token has characters that no header can carry")?))
    }
}

impl tonic::service::Interceptor for Bearer {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

pub(crate) async fn client(global: &Global) -> anyhow::Result<Client> {
    let channel = listen::connect(global).await?;
    let bearer = Bearer::new(global.token.as_deref())?;
    Ok(ControlClient::with_interceptor(channel, bearer).max_decoding_message_size(64 << 20))
}

pub(crate) async fn run(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let mut client = client(global).await?;
    let format = global.output;
    match command {
        Command::Status => status(global, &mut client).await?,
        Command::Jobs { command: None | Some(JobsCommand::List) } => {
            let jobs = client.list_jobs(v1::ListJobsRequest { limit: 50 }).await?.into_inner().jobs;
            let header = ["job", "kind", "state", "requested", "by", "generation", "reason"];
            print(format, &jobs, &header, jobs.iter().map(job_row).collect())?;
        }
        Command::Jobs {
            command: Some(JobsCommand::Request { kind, domain, from, reason, actor }),
        } => {
            let request = v1::RequestJobRequest {
                kind: kind.to_string(),
                reason,
                actor,
                domain: domain.unwrap_or_default(),
                source: from.unwrap_or_default(),
            };
            let job = client.request_job(request).await?.into_inner();
            print_fields(format, &job, &[("job", job.job.clone())])?;
        }
        Command::Generations { id: None, .. } => {
            let request = v1::ListGenerationsRequest { limit: 50 };
            let all = client.list_generations(request).await?.into_inner().generations;
            let header = ["generation", "kind", "state", "registered", "parent", "classes"];
            print(format, &all, &header, all.iter().map(generation_row).collect())?;
        }
        Command::Generations { id: Some(id), card: true } => {
            let card = client.get_model_card(v1::GetModelCardRequest { id }).await?.into_inner();
            match format {
                Format::Json => println!("{}", serde_json::to_string_pretty(&card)?),
                Format::Table => print!("{}", card.markdown),
            }
        }
        Command::Generations { id: Some(id), .. } => {
            let one = client.get_generation(v1::GetGenerationRequest { id }).await?.into_inner();
            print_fields(format, &one, &generation_fields(&one))?;
            if format == Format::Table && !one.search_json.is_empty() {
                let log: SearchLog =
                    serde_json::from_str(&one.search_json).context("search_json")?;
                search_log(&log)?;
            }
        }
        Command::Stages => {
            let request = v1::ListGenerationsRequest { limit: 50 };
            let all = client.list_generations(request).await?.into_inner().generations;
            let stages: Vec<v1::Stage> =
                all.into_iter().flat_map(|one| one.stages.into_iter().rev()).collect();
            let header = ["generation", "stage", "outcome", "began", "requests", "labels", "why"];
            print(format, &stages, &header, stages.iter().map(stage_row).collect())?;
        }
        Command::Verdicts { id: None } => {
            let request = v1::ListVerdictsRequest { limit: 50 };
            let all = client.list_verdicts(request).await?.into_inner().verdicts;
            let header = ["verdict", "generation", "outcome", "issued", "why"];
            print(format, &all, &header, all.iter().map(verdict_row).collect())?;
        }
        Command::Verdicts { id: Some(id) } => {
            let one = client.get_verdict(v1::GetVerdictRequest { id }).await?.into_inner();
            print_fields(format, &one, &verdict_fields(&one))?;
        }
        Command::Approve(Approval { decision, signing }) => {
            let Signed { generation, verdict, envelope } =
                signing.sign(&mut client, &decision, vec![]).await?;
            let Decision { actor, reason, .. } = decision;
            let request = v1::ApproveRequest { generation, verdict, actor, reason, envelope };
            decided(global, client.approve(request).await?.into_inner())?;
        }
        Command::Override { approval: Approval { decision, signing }, waives } => {
            let Signed { generation, verdict, envelope } =
                signing.sign(&mut client, &decision, waives.clone()).await?;
            let Decision { actor, reason, .. } = decision;
            let request =
                v1::OverrideRequest { generation, verdict, actor, reason, waives, envelope };
            decided(global, client.r#override(request).await?.into_inner())?;
        }
        Command::Reject(Decision { generation, reason, actor }) => {
            let request = v1::RejectRequest { generation, actor, reason };
            decided(global, client.reject(request).await?.into_inner())?;
        }
        Command::Withdraw(Decision { generation, reason, actor }) => {
            let request = v1::WithdrawApprovalRequest { generation, actor, reason };
            decided(global, client.withdraw_approval(request).await?.into_inner())?;
        }
        Command::Promote(Decision { generation, reason, actor }) => {
            let request = v1::PromoteRequest { generation, actor, reason };
            decided(global, client.promote(request).await?.into_inner())?;
        }
        Command::Rollback { generation, reason, actor } => {
            let generation = generation.unwrap_or_default();
            let request = v1::RollbackRequest { generation, actor, reason };
            decided(global, client.rollback(request).await?.into_inner())?;
        }
        Command::Quarantine { command } => {
            let all = match command {
                QuarantineCommand::Producer(OfProducer { producer, reason, actor }) => {
                    let request = v1::ProducerRequest { producer, actor, reason };
                    client.quarantine_producer(request).await?
                }
                QuarantineCommand::Release(OfProducer { producer, reason, actor }) => {
                    let request = v1::ProducerRequest { producer, actor, reason };
                    client.release_producer(request).await?
                }
                QuarantineCommand::List => {
                    client.list_producers(v1::ListProducersRequest {}).await?
                }
            };
            let all = all.into_inner().producers;
            let header = ["producer", "since", "by", "why", "released"];
            print(format, &all, &header, all.iter().map(producer_row).collect())?;
        }
        Command::Ledger { command: LedgerCommand::Show { from, limit } } => {
            let request = v1::ListEntriesRequest { from, limit };
            let all = client.list_entries(request).await?.into_inner().entries;
            let header = ["seq", "time", "actor", "entry", "body"];
            print(format, &all, &header, all.iter().map(entry_row).collect())?;
        }
        _ => unreachable!("dispatched in cli.rs"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(global: &Global, client: &mut Client) -> anyhow::Result<()> {
    let view = client.get_overview(v1::GetOverviewRequest {}).await?.into_inner();
    let name = |g: Option<&v1::Generation>| g.map_or_else(|| "none yet".into(), |g| short(&g.id));
    let running: Vec<String> =
        view.active_jobs.iter().map(|job| format!("{} {}", job.kind, job.state)).collect();
    let verdict = view.candidate_verdict.as_ref().map(|v| v.outcome.clone()).unwrap_or_default();
    let tried = view.candidate.as_ref().map(|one| stages(&one.stages)).unwrap_or_default();
    let fields = [
        ("champion", name(view.champion.as_ref())),
        (
            "candidate",
            format!("{} {verdict} {tried}", name(view.candidate.as_ref())).trim().to_owned(),
        ),
        ("jobs", running.join(", ")),
        ("promotions", view.promotions.to_string()),
        ("blocked", view.blocked.to_string()),
        ("records waiting", view.lag_records.to_string()),
        ("ledger", format!("{} entries, head {}", view.ledger_length, short(&view.ledger_head))),
        ("version", view.version.clone()),
    ];
    print_fields(global.output, &view, &fields)
}

fn decided(global: &Global, response: v1::DecisionResponse) -> anyhow::Result<()> {
    let generation = response.generation.clone().unwrap_or_default();
    let fields = [
        ("generation", short(&generation.id)),
        ("state", generation.state.clone()),
        ("", response.message.clone()),
    ];
    print_fields(global.output, &response, &fields)
}

fn job_row(job: &v1::Job) -> Vec<String> {
    let why = if job.failure.is_empty() { &job.reason } else { &job.failure };
    let mut kind = job.kind.clone();
    for (word, named) in [("of", &job.domain), ("from", &short(&job.source))] {
        if !named.is_empty() {
            kind = format!("{kind} {word} {named}");
        }
    }
    vec![
        job.id.clone(),
        kind,
        job.state.clone(),
        time(job.requested_at.as_ref()),
        job.requested_by.clone(),
        short(&job.generation),
        why.clone(),
    ]
}

fn generation_row(one: &v1::Generation) -> Vec<String> {
    vec![
        short(&one.id),
        one.kind.clone(),
        one.state.clone(),
        time(one.registered_at.as_ref()),
        short(&one.parent),
        one.labels.join(", "),
    ]
}

/// `shadow passed, canary runs`.
fn stages(all: &[v1::Stage]) -> String {
    let one = |one: &v1::Stage| {
        let outcome = if one.outcome.is_empty() { "runs" } else { &one.outcome };
        format!("{} {outcome}", one.stage)
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn generation_fields(one: &v1::Generation) -> Vec<(&'static str, String)> {
    vec![
        ("generation", one.id.clone()),
        ("parent", one.parent.clone()),
        ("kind", one.kind.clone()),
        ("state", one.state.clone()),
        ("registered", time(one.registered_at.as_ref())),
        ("verdict", one.verdict.clone()),
        (
            "approvals",
            one.approvals.iter().map(|a| a.approver.clone()).collect::<Vec<_>>().join(", "),
        ),
        ("overridden", one.overridden.join(", ")),
        ("stages", stages(&one.stages)),
        ("manifest", one.manifest_json.clone()),
    ]
}

fn stage_row(one: &v1::Stage) -> Vec<String> {
    let why = match one.outcome.as_str() {
        "" if one.waits.is_empty() => String::new(),
        "" => format!("waits for {}", one.waits.join("; ")),
        _ => one.reason.clone(),
    };
    vec![
        short(&one.generation),
        format!("{} {:.1} %", one.stage, 100.0 * one.share),
        if one.outcome.is_empty() { "runs".to_owned() } else { one.outcome.clone() },
        time(one.started_at.as_ref()),
        format!("{}, {} failed, {} alike", one.requests, one.errors, one.agreed),
        format!("{}, {} better, {} worse", one.labels, one.better, one.worse),
        why,
    ]
}

fn verdict_row(one: &v1::Verdict) -> Vec<String> {
    vec![
        short(&one.id),
        short(&one.generation),
        one.outcome.clone(),
        time(one.issued_at.as_ref()),
        one.reasons.first().cloned().unwrap_or_default(),
    ]
}

fn verdict_fields(one: &v1::Verdict) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("verdict", one.id.clone()),
        ("generation", one.generation.clone()),
        ("champion", one.champion.clone()),
        ("suite", one.suite.clone()),
        ("outcome", one.outcome.clone()),
        ("waivable", one.waivable.join(", ")),
    ];
    fields.extend(one.reasons.iter().map(|reason| ("why", reason.clone())));
    if let Ok(document) = serde_json::from_str::<tidegate_contracts::Verdict>(&one.document_json) {
        for check in document.checks {
            let line = format!("{}: {}: {}", check.id, check.state.as_str(), check.reason);
            fields.push((check.layer.as_str(), line));
        }
        for one in &document.frozen {
            let (id, asked) = (&one.id, one.not_asked.as_deref().unwrap_or("asked"));
            let (used, budget, left) = (one.queries, one.query_budget, one.left());
            let tier = one.tier.as_str();
            let line = format!("{id} ({tier}): {asked}; {used} of {budget} queries, {left} left");
            fields.push(("data", line));
        }
        fields.extend(document.line.map(|line| ("error budget", line.says)));
    }
    fields
}

fn producer_row(one: &v1::SetAsideProducer) -> Vec<String> {
    let released = match &one.released {
        None => "no".to_owned(),
        at => format!("{} by {}: {}", time(at.as_ref()), one.released_by, one.released_reason),
    };
    let since = time(one.since.as_ref());
    vec![one.producer.clone(), since, one.by.clone(), one.reason.clone(), released]
}

fn entry_row(one: &v1::LedgerEntry) -> Vec<String> {
    vec![
        one.seq.to_string(),
        time(one.time.as_ref()),
        one.actor.clone(),
        one.kind.clone(),
        one.body_json.clone(),
    ]
}
