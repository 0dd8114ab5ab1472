//! The ledger as somebody outside checks it: verified, held against copies, proved entry by entry.
use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tidegate_contracts::{Actor, EntryHash, proto::v1};
use tidegate_ledger::{Entry, Keys, Proof, Witness, audit_at_rest, read_at_rest};

use crate::{
    cli::Global,
    operate,
    output::{Found, print_fields},
};

/// Entries asked for at once.
const PAGE: u32 = 1_000;

/// Checks the ledger and all that it names: through the service that runs, or its files when none
/// does.
pub(crate) async fn verify(global: &Global, against: Option<&Path>) -> anyhow::Result<ExitCode> {
    let witnesses = against.map(read_witnesses).transpose()?;
    let mut report = match operate::client(global).await {
        Ok(mut client) => {
            let spinner = ProgressBar::new_spinner()
                .with_message("the service reads its ledger and all that it names")
                .with_style(ProgressStyle::with_template("{spinner} {msg}, {elapsed}")?);
            spinner.enable_steady_tick(Duration::from_millis(100));
            let request = v1::VerifyLedgerRequest { artifacts: true };
            let report = client.verify_ledger(request).await;
            spinner.finish_and_clear();
            report?.into_inner()
        }
        Err(not_running) => {
            anyhow::ensure!(global.endpoint.is_none(), not_running);
            let config = global.load()?;
            let style = "{bar:30} {pos} of {len} generations read, {eta} to go";
            let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
            let report = audit_at_rest(&config.ledger, &config.data_dir, |progress| {
                bar.set_length(progress.of);
                bar.set_position(progress.done);
            });
            let report = report.await;
            bar.finish_and_clear();
            let report = report?;
            v1::VerifyLedgerResponse {
                ok: report.faults.is_empty(),
                entries: report.entries,
                faults: report.faults.iter().map(ToString::to_string).collect(),
                signatures: report.signatures,
                artifacts: report.artifacts,
                checkpoints: report.checkpoints,
            }
        }
    };
    if let Some(witnesses) = &witnesses {
        let hashes: Vec<EntryHash> = entries(global).await?.iter().map(|one| one.hash).collect();
        let differ = witnesses.iter().filter_map(|one| one.differs(&hashes));
        report.faults.extend(differ.map(|fault| fault.to_string()));
        report.ok = report.faults.is_empty();
    }
    let faults = report.faults.join("\n");
    let fields = [
        ("entries", report.entries.to_string()),
        ("signatures", report.signatures.to_string()),
        ("artifacts", report.artifacts.to_string()),
        ("checkpoints", report.checkpoints.to_string()),
        ("copies compared", witnesses.map_or(0, |all| all.len()).to_string()),
        ("chain", (if report.ok { "holds" } else { "broken" }).to_owned()),
        ("faults", if faults.is_empty() { "none".into() } else { faults.clone() }),
    ];
    print_fields(global.output, &report, &fields)?;
    if report.ok {
        Ok(ExitCode::SUCCESS)
    } else {
        let count = report.faults.len();
        Err(Found(format!("the ledger does not verify: {count} faults")).into())
    }
}

fn read_witnesses(path: &Path) -> anyhow::Result<Vec<Witness>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let all = Witness::read(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    anyhow::ensure!(!all.is_empty(), "{}: there is nothing to compare with", path.display());
    Ok(all)
}

/// All entries: through the service that runs, or from its files when none does.
async fn entries(global: &Global) -> anyhow::Result<Vec<Entry>> {
    let mut client = match operate::client(global).await {
        Ok(client) => client,
        Err(not_running) => {
            anyhow::ensure!(global.endpoint.is_none(), not_running);
            let config = global.load()?;
            return Ok(read_at_rest(&config.ledger, &config.data_dir).await?);
        }
    };
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let request = v1::ListEntriesRequest { from: all.len() as u64 + 1, limit: PAGE };
        let page = client.list_entries(request).await?.into_inner().entries;
        if page.is_empty() {
            return Ok(all);
        }
        for one in page {
            let seq = one.seq;
            all.push(entry(one).with_context(|| format!("entry {seq} of the service"))?);
        }
    }
}

/// An entry of the API as it is stored.
fn entry(one: v1::LedgerEntry) -> anyhow::Result<Entry> {
    let time = one.time.context("it has no time")?;
    Ok(Entry {
        seq: one.seq,
        prev: one.prev.parse()?,
        hash: one.hash.parse()?,
        time: tidegate_contracts::proto::from_timestamp(&time)
            .context("its time is out of range")?,
        actor: Actor::new(one.actor),
        token: one.token,
        fact: serde_json::from_str(&one.body_json)?,
    })
}

/// Prints a proof, or checks one.
pub(crate) async fn prove(
    global: &Global,
    seq: Option<u64>,
    check: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    if let Some(path) = check {
        return check_proof(global, path);
    }
    let seq = seq.context("which entry?")?;
    let proof = Proof::of(seq, &entries(global).await?).map_err(anyhow::Error::msg)?;
    println!("{}", serde_json::to_string_pretty(&proof)?);
    Ok(ExitCode::SUCCESS)
}

fn check_proof(global: &Global, path: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let proof: Proof = serde_json::from_str(&text)
        .with_context(|| format!("{}: it is no proof", path.display()))?;
    let config = global.load()?;
    let keys = Keys::read(&config.ledger.keys, &config.data_dir)?;
    if let Err(why) = proof.check(&keys) {
        return Err(Found(format!("the proof does not hold: {why}")).into());
    }
    let fields = [
        ("entry", proof.entry.seq.to_string()),
        ("what", proof.entry.fact.kind().to_owned()),
        ("hash", proof.entry.hash.to_hex()),
        ("checkpoint", format!("entry {}, of {}", proof.checkpoint.seq, proof.checkpoint.time)),
        ("proof", "holds".to_owned()),
    ];
    print_fields(global.output, &proof, &fields)?;
    Ok(ExitCode::SUCCESS)
}
