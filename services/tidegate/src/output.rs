//! Tables for people, JSON for machines, and exit codes that mean something.
use std::{cmp::Reverse, process::ExitCode};

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use tidegate_contracts::{Candidate, SearchLog};

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables.
    #[default]
    Table,
    /// JSON, one document.
    Json,
}

/// Prints rows under a header, or `value` as JSON.
pub(crate) fn print(
    format: Format,
    value: &impl serde::Serialize,
    header: &[&str],
    rows: Vec<Vec<String>>,
) -> anyhow::Result<()> {
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(value)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(header.to_vec());
    if rows.is_empty() {
        println!("nothing yet");
        return Ok(());
    }
    table.add_rows(rows);
    println!("{table}");
    Ok(())
}

/// Prints one thing as aligned `name  value` lines, or as JSON.
pub(crate) fn print_fields(
    format: Format,
    value: &impl serde::Serialize,
    fields: &[(&str, String)],
) -> anyhow::Result<()> {
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(value)?);
        return Ok(());
    }
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in fields {
        println!("{name:width$}  {value}");
    }
    Ok(())
}

/// Every candidate of an architecture search, as a table: the one that won first.
pub(crate) fn search_log(log: &SearchLog) -> anyhow::Result<()> {
    let mut all: Vec<(usize, &Candidate)> = log.candidates.iter().enumerate().collect();
    all.sort_by_key(|(at, one)| (Some(*at) != log.winner, Reverse(one.scores.len()), *at));
    let rows = all.into_iter().map(|(at, one)| {
        let scores: Vec<String> = one
            .scores
            .iter()
            .map(|score| format!("{:.4} after {}", score.accuracy, score.steps))
            .collect();
        vec![
            at.to_string(),
            one.describe(),
            one.parameters.to_string(),
            one.active.to_string(),
            scores.join("\n"),
            one.dropped.clone().unwrap_or_else(|| "the winner".to_owned()),
        ]
    });
    let header = ["candidate", "architecture", "parameters", "a token", "accuracy, steps", "why"];
    print(Format::Table, log, &header, rows.collect())?;
    if let Some(budget) = &log.ended_by {
        println!("the search was ended early by {budget}");
    }
    Ok(())
}

/// A check that found something wrong: exit code 5.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Found(pub(crate) String);

/// No service to ask: exit code 4.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotRunning(pub(crate) String);

/// 3 when refused, 4 when not reachable, 5 when a check found something, 1 for all else.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Found>().is_some() {
        return ExitCode::from(5);
    }
    if error.downcast_ref::<tonic::transport::Error>().is_some()
        || error.downcast_ref::<NotRunning>().is_some()
    {
        return ExitCode::from(4);
    }
    match error.downcast_ref::<tonic::Status>().map(tonic::Status::code) {
        Some(
            tonic::Code::FailedPrecondition
            | tonic::Code::PermissionDenied
            | tonic::Code::Unauthenticated
            | tonic::Code::Aborted,
        ) => ExitCode::from(3),
        Some(tonic::Code::Unavailable | tonic::Code::DeadlineExceeded) => ExitCode::from(4),
        Some(tonic::Code::InvalidArgument) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// A proto time as people write it.
pub(crate) fn time(time: Option<&pbjson_types::Timestamp>) -> String {
    time.and_then(tidegate_contracts::proto::from_timestamp)
        .map(|time| time.format("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}

/// The first 12 digits of a hash.
pub(crate) fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}
