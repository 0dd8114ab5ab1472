//! What a benchmark says: to the reader, and to a file.
use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use chrono::Utc;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

use crate::{Build, Machine};

/// One run of a benchmark.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub benchmark: &'static str,
    /// What the figures are to show.
    pub claim: &'static str,
    /// When it ran (RFC 3339).
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// What of ours.
    pub build: Build,
    /// Peers and what they rest on, by name.
    pub versions: BTreeMap<String, String>,
    /// The figures.
    pub result: serde_json::Value,
}

impl Report {
    /// Begins one: the machine is looked at before it is put under load.
    #[must_use]
    pub fn begin(benchmark: &'static str, claim: &'static str) -> Self {
        Self {
            benchmark,
            claim,
            date: Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            machine: Machine::here(),
            build: Build::this(),
            versions: BTreeMap::new(),
            result: serde_json::Value::Null,
        }
    }

    /// Prints it with its table and notes, and writes it to `out`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, table: &Table, notes: &[String], out: &Path) -> anyhow::Result<()> {
        let Machine { cpu, cores, memory_gib, system, load } = &self.machine;
        let versions: Vec<_> = self.versions.iter().map(|(n, v)| format!("{n} {v}")).collect();
        println!("\n{}: {}", self.benchmark, self.claim);
        println!("{cpu}, {cores} cores, {memory_gib} GiB, {system}; load {load} at the start");
        let Build { version, profile } = &self.build;
        println!("{}; tidegate {version} ({profile}), {}", self.date, versions.join(", "));
        println!("{table}");
        for note in notes {
            println!("- {note}");
        }
        let bytes = serde_json::to_vec_pretty(self)?;
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        std::fs::write(out, [&bytes[..], b"\n"].concat())
            .with_context(|| out.display().to_string())?;
        println!("\nwritten to {}", out.display());
        Ok(())
    }
}

/// A table with this header, for [`Report::publish`].
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(header.to_vec());
    table
}

/// The middle one; the lower of two.
///
/// # Panics
/// Without any value.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
