//! The operating characteristic, for people and machines.
use std::collections::BTreeMap;

use serde::Serialize;
use tidegate_contracts::{Outcome, SuiteRef};
use tidegate_evaluation::stats::wilson;

use super::{
    trial::Judged,
    twins::{Meant, Twin},
};
use crate::output::{self, Format};

/// Share of runs in which a bad twin must be caught by the layer that is meant for it.
const CAUGHT: f64 = 0.99;
/// Share of runs in which an identical twin may be blocked.
const FALSE_BLOCKS: f64 = 0.01;
/// Confidence of the intervals that are shown.
const LEVEL: f64 = 0.95;

/// All that was found.
#[derive(Serialize)]
pub(super) struct Report {
    suite: SuiteRef,
    runs: u32,
    seed: u64,
    twins: Vec<Row>,
    /// What does not hold; empty when the gate does.
    pub(super) broken: Vec<String>,
    seconds: f64,
}

/// One twin over all runs.
#[derive(Serialize)]
pub(super) struct Row {
    twin: Twin,
    meant: &'static str,
    runs: u64,
    /// By the layer that is meant for it; of a good one, nothing.
    caught: Option<u64>,
    blocked: u64,
    waits: u64,
    promoted: u64,
    /// Runs in which a check of the layer stops it.
    layers: BTreeMap<&'static str, u64>,
    /// The same by check.
    checks: BTreeMap<String, u64>,
    /// Mean: accuracy beyond the gate's sight, less the champion's; of a backdoor, what its phrase
    /// gets through.
    truly: f64,
    /// Mean, of one evaluation.
    seconds: f64,
    /// Of the first run.
    reason: String,
}

impl Row {
    pub(super) fn new(twin: Twin, all: &[&Judged]) -> Self {
        let count = |of: &dyn Fn(&Judged) -> bool| all.iter().filter(|one| of(one)).count() as u64;
        let mean = |of: &dyn Fn(&Judged) -> f64| {
            all.iter().map(|one| of(one)).sum::<f64>() / all.len() as f64
        };
        let (mut layers, mut checks) = (BTreeMap::new(), BTreeMap::new());
        for one in all {
            one.layers.iter().for_each(|layer| *layers.entry(layer.as_str()).or_insert(0) += 1);
            one.checks.iter().for_each(|check| *checks.entry(check.clone()).or_insert(0) += 1);
        }
        let good = twin.meant() == Meant::Pass;
        Self {
            twin,
            meant: twin.meant().words(),
            runs: all.len() as u64,
            caught: (!good).then(|| count(&|one| one.by_meant && !one.promoted)),
            blocked: count(&|one| one.outcome == Outcome::Blocked),
            waits: count(&|one| one.outcome == Outcome::NeedsApproval),
            promoted: count(&|one| one.promoted),
            layers,
            checks,
            truly: mean(&|one| one.truly),
            seconds: mean(&|one| one.seconds),
            reason: all.first().map(|one| one.reason.clone()).unwrap_or_default(),
        }
    }

    /// What of this row breaks the gate's promise.
    fn broken(&self) -> Option<String> {
        let (twin, runs) = (self.twin.name(), self.runs);
        if let Some(caught) = self.caught {
            let enough = caught as f64 >= CAUGHT * runs as f64;
            let meant = self.meant;
            return (!enough).then(|| format!("{twin}: {meant} caught {caught} of {runs}"));
        }
        let held = self.twin == Twin::Identical;
        let blocked = self.blocked;
        let too_often = held && blocked as f64 > FALSE_BLOCKS * runs as f64;
        too_often.then(|| format!("{twin}: blocked {blocked} times of {runs}"))
    }
}

impl Report {
    pub(super) fn new(
        suite: SuiteRef,
        runs: u32,
        seed: u64,
        twins: Vec<Row>,
        seconds: f64,
    ) -> Self {
        let broken = twins.iter().filter_map(Row::broken).collect();
        Self { suite, runs, seed, twins, broken, seconds }
    }
}

pub(super) fn print(format: Format, report: &Report) -> anyhow::Result<()> {
    let header = [
        "twin",
        "meant for",
        "caught by it",
        "blocked",
        "waits",
        "promoted",
        "also seen by",
        "truly",
    ];
    let rows = report.twins.iter().map(|row| {
        let caught = row.caught.map_or_else(String::new, |caught| {
            let interval = wilson(caught, row.runs, LEVEL);
            format!("{caught} ({:.0} to {:.0} %)", interval.low * 100.0, interval.high * 100.0)
        });
        let others = row.layers.iter().filter(|(layer, _)| **layer != row.meant);
        let others: Vec<String> = others.map(|(layer, n)| format!("{layer} {n}")).collect();
        vec![
            row.twin.name().to_owned(),
            row.meant.to_owned(),
            caught,
            row.blocked.to_string(),
            row.waits.to_string(),
            row.promoted.to_string(),
            others.join(", "),
            format!("{:+.1}", row.truly * 100.0),
        ]
    });
    output::print(format, report, &header, rows.collect())?;
    if format == Format::Table {
        let Report { suite, runs, seed, seconds, .. } = report;
        println!(
            "suite {} {} ({}), {runs} runs, seed {seed}, {seconds:.0} s. `truly`: points of accuracy \
             on mails that no gate sees, beside the champion; of a backdoor, what its phrase gets \
             through, in points",
            suite.name,
            suite.version,
            suite.digest.short()
        );
        for row in &report.twins {
            println!("{:11} {}", row.twin.name(), row.reason);
        }
    }
    Ok(())
}
