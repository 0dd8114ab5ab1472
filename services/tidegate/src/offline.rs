//! Commands that need no running service.
use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use tidegate_evaluation::Suite;
use tidegate_ledger::{Holder, Keys, seal};

use crate::{
    cli::Global,
    output::{Format, print},
};

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

pub(crate) fn suite_check(
    global: &Global,
    path: Option<&Path>,
    n: u64,
) -> anyhow::Result<ExitCode> {
    let suite = match path {
        None => {
            let config = global.load()?;
            config.evaluator.suite(config.trainer.recipe()?.architecture.task)?
        }
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Suite::parse(&text)?
        }
    };
    let lint = suite.lint(n);
    let header = ["check", "layer", "metric", "slice", "severity", "rule", "can tell at this n"];
    let rows = lint.iter().map(|line| {
        vec![
            line.id.clone(),
            line.layer.as_str().to_owned(),
            line.metric.clone(),
            line.slice.clone(),
            format!("{:?}", line.severity).to_lowercase(),
            line.rule.clone(),
            line.resolution.clone(),
        ]
    });
    print(global.output, &lint, &header, rows.collect())?;
    if global.output == Format::Table {
        let suite = suite.reference();
        println!("suite {} {} ({}), n = {n}", suite.name, suite.version, suite.digest.short());
    }
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
