//! Commands that need no running service.
use std::{path::Path, process::ExitCode, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tidegate_contracts::proto::v1;
use tidegate_ledger::{Holder, Keys, audit_at_rest, seal};

use crate::{
    cli::Global,
    operate,
    output::{Format, Found, print, print_fields},
};

/// Checks the ledger and all that it names: through the service that runs, or its files when none
/// does.
pub(crate) async fn ledger_verify(global: &Global) -> anyhow::Result<ExitCode> {
    let report = match operate::client(global).await {
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
            }
        }
    };
    let faults = report.faults.join("\n");
    let fields = [
        ("entries", report.entries.to_string()),
        ("signatures", report.signatures.to_string()),
        ("artifacts", report.artifacts.to_string()),
        ("chain", if report.ok { "holds".into() } else { "broken".into() }),
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

pub(crate) fn keys_make(holders: &[Holder], dir: &Path) -> anyhow::Result<ExitCode> {
    for holder in holders {
        let public = seal::make(dir, holder)?;
        println!("{}", public.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn keys_list(global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load()?;
    let keys = Keys::read(&config.ledger.keys, &config.data_dir)?;
    let all: Vec<_> = keys.trusted().map(|(id, holder)| (holder.to_string(), id)).collect();
    let rows = all.iter().map(|(holder, id)| vec![holder.clone(), id.to_string()]).collect();
    print(global.output, &all, &["holder", "key"], rows)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn recipe_show(global: &Global) -> anyhow::Result<ExitCode> {
    println!("{}", global.load()?.trainer.recipe()?.to_toml());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn config_show(global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load()?;
    match global.output {
        Format::Table => println!("{}", toml::to_string(&config)?),
        Format::Json => println!("{}", serde_json::to_string_pretty(&config)?),
    }
    Ok(ExitCode::SUCCESS)
}
