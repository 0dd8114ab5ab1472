//! Commands that need no running service.
use std::{path::Path, process::ExitCode};

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
