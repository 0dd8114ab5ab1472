//! Evaluation suites and their frozen data: check, pin, freeze.
mod edit;
mod freeze;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde::Serialize;
use tidegate_contracts::Tier;
use tidegate_evaluation::{DataDraft, Frozen, Suite, pin};
use tidegate_evaluator::frozen;

use crate::{
    cli::Global,
    output::{Format, print},
};

#[derive(Subcommand)]
pub(crate) enum SuiteCommand {
    /// Verify a suite and its frozen data, and print for every check what it can tell at a sample
    /// size.
    Check {
        /// The suite (YAML); the one in force by the configuration when absent.
        path: Option<PathBuf>,
        /// Held-out examples of the stream to reckon with.
        #[arg(long, default_value_t = 500)]
        n: u64,
    },
    /// Print hash and rows of a suite's frozen data.
    Pin {
        /// The suite (YAML).
        path: PathBuf,
        /// Write them into the suite, each entry that differs on one line.
        #[arg(long)]
        write: bool,
    },
    /// Freeze held-out examples of the stream of a running service beside a suite, as data of it.
    Freeze(freeze::FreezeArgs),
}

pub(crate) async fn run(global: &Global, command: SuiteCommand) -> anyhow::Result<ExitCode> {
    match command {
        SuiteCommand::Check { path, n } => check(global, path.as_deref(), n),
        SuiteCommand::Pin { path, write } => pin_all(global, &path, write),
        SuiteCommand::Freeze(args) => freeze::run(global, &args).await,
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn check(global: &Global, path: Option<&Path>, n: u64) -> anyhow::Result<ExitCode> {
    let (suite, data) = match path {
        None => {
            let config = global.load()?;
            let suite = config.evaluator.suite(config.trainer.recipe()?.architecture.task)?;
            let data = config.evaluator.frozen(&suite)?;
            (suite, data)
        }
        Some(path) => {
            let suite = Suite::parse(&read(path)?)?;
            let data = frozen::read(&suite, frozen::folder_of(path))?;
            (suite, data)
        }
    };
    let lint = suite.lint(n, &data);
    let header =
        ["check", "layer", "metric", "slice", "severity", "n", "rule", "can tell at this n"];
    let rows = lint.iter().map(|line| {
        vec![
            line.id.clone(),
            line.layer.as_str().to_owned(),
            line.metric.clone(),
            line.slice.clone(),
            format!("{:?}", line.severity).to_lowercase(),
            line.n.to_string(),
            line.rule.clone(),
            line.resolution.clone(),
        ]
    });
    print(global.output, &lint, &header, rows.collect())?;
    if global.output == Format::Table {
        if !data.is_empty() {
            show(&suite, &data)?;
        }
        let suite = suite.reference();
        println!("suite {} {} ({}), n = {n}", suite.name, suite.version, suite.digest.short());
    }
    Ok(ExitCode::SUCCESS)
}

/// The files, as they were verified.
fn show(suite: &Suite, data: &[Frozen]) -> anyhow::Result<()> {
    let header = ["data", "tier", "role", "rows", "sha256", "budget", "groups", "checks"];
    let row = |one: &Frozen| {
        let entry = one.entry();
        let asks = |data: &Option<String>| data.as_ref() == Some(&entry.id);
        let checks = suite.checks().iter().filter(|check| asks(&check.data)).count();
        vec![
            entry.id.clone(),
            entry.tier.as_str().to_owned(),
            format!("{:?}", entry.role).to_lowercase(),
            entry.rows.to_string(),
            entry.sha256.short().to_owned(),
            entry.query_budget.to_string(),
            groups(one).join(", "),
            if checks == 0 { "none asks it".to_owned() } else { checks.to_string() },
        ]
    };
    print(Format::Table, &(), &header, data.iter().map(row).collect())
}

/// Values of group attributes that are shown of one file at most.
const GROUPS: usize = 12;

/// `format=html 120`, the largest first.
fn groups(data: &Frozen) -> Vec<String> {
    let mut counts = BTreeMap::<String, u64>::new();
    for (name, value) in data.examples().iter().flat_map(|one| &one.groups) {
        *counts.entry(format!("{name}={value}")).or_default() += 1;
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let more = counts.len().saturating_sub(GROUPS);
    let mut shown: Vec<String> =
        counts.iter().take(GROUPS).map(|(group, n)| format!("{group} {n}")).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown
}

/// What an entry is, and what it must say.
#[derive(Serialize)]
struct Pinned {
    #[serde(flatten)]
    draft: DataDraft,
    /// Whether the suite says so already.
    pinned: bool,
}

fn pin_all(global: &Global, path: &Path, write: bool) -> anyhow::Result<ExitCode> {
    let text = read(path)?;
    let folder = frozen::folder_of(path);
    let one = |draft: DataDraft| -> anyhow::Result<Pinned> {
        let named = || format!("data `{}` ({})", draft.id, draft.path);
        let bytes = frozen::read_file(folder, &draft.path).with_context(named)?;
        let (sha256, rows) = pin(&draft.path, &bytes).with_context(named)?;
        let pinned = draft.sha256.as_ref() == Some(&sha256) && draft.rows == Some(rows);
        let draft = DataDraft { sha256: Some(sha256), rows: Some(rows), ..draft };
        Ok(Pinned { draft, pinned })
    };
    let all = Suite::drafts(&text)?.into_iter().map(one).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(
        !all.is_empty(),
        "{}: the suite has no `data`: `tidegate suite freeze` makes some",
        path.display()
    );
    if write && all.iter().any(|one| !one.pinned) {
        let drafts: Vec<(DataDraft, bool)> =
            all.iter().map(|one| (one.draft.clone(), one.pinned)).collect();
        replace(path, &edit::pinned(&text, &drafts)?)?;
    }
    let row = |one: &Pinned| {
        let sha256 = one.draft.sha256.as_ref().map(ToString::to_string).unwrap_or_default();
        let said = match (one.pinned, write) {
            (true, _) => "as the suite says",
            (false, true) => "written",
            (false, false) => "not in the suite: --write puts it there",
        };
        let rows = one.draft.rows.unwrap_or_default().to_string();
        vec![one.draft.id.clone(), rows, sha256, said.to_owned()]
    };
    print(global.output, &all, &["data", "rows", "sha256", ""], all.iter().map(row).collect())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file whole or not at all.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = frozen::folder_of(path);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    // A temporary file is its owner's alone, a suite is read by others.
    if let Ok(before) = std::fs::metadata(path) {
        file.as_file().set_permissions(before.permissions())?;
    }
    file.persist(path).with_context(|| path.display().to_string())?;
    Ok(())
}

/// A tier by its name.
fn tier(text: &str) -> Result<Tier, String> {
    let all = [Tier::Open, Tier::Gate, Tier::Sealed];
    let found = all.into_iter().find(|tier| tier.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is no tier: use open, gate or sealed"))
}
