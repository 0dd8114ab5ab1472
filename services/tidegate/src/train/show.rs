//! A plan, and what came of it, as tables.
use std::collections::BTreeMap;

use tidegate_learning::{Finding, Plan, SearchPlan};

use crate::output::{Format, print};

/// The plan, and what each method would train.
pub(super) fn plan(plan: &Plan) -> anyhow::Result<()> {
    let (parameters, work, time) = (&plan.parameters, &plan.work, &plan.time);
    let share = |share: f64| format!("{:.2} %", 100.0 * share);
    let mut rows = vec![
        ("job", plan.kind.to_string()),
        ("method", plan.method.clone()),
        ("parameters", count(parameters.total as f64)),
        ("  active per token", count(parameters.active as f64)),
        ("  trained", count(parameters.trained as f64)),
        ("  trained share", share(parameters.trained_share)),
        ("examples", count(work.examples as f64)),
        ("  to replay", count(work.replayed as f64)),
        ("  classes", work.classes.to_string()),
        ("steps", count(work.steps as f64)),
        ("tokens", count(work.tokens as f64)),
        ("memory", bytes(plan.memory.total as f64)),
    ];
    let parts: Vec<(String, u64)> =
        plan.memory.parts().iter().map(|(name, size)| (format!("  {name}"), *size)).collect();
    rows.extend(parts.iter().map(|(name, size)| (name.as_str(), bytes(*size as f64))));
    rows.extend([
        ("time", seconds(time.seconds)),
        ("  to prepare", seconds(time.prepare_s)),
        ("  steps", seconds(time.steps_s)),
        ("  to finish", seconds(time.finish_s)),
        ("energy", plan.energy.joules.map_or("unknown".to_owned(), joules)),
        ("  by", plan.energy.method.clone()),
        ("ends by", plan.ended_by.clone().unwrap_or_else(|| "its last epoch".to_owned())),
    ]);
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    if let Some(search) = &plan.search {
        searched(search);
    }
    print(Format::Table, plan, &["plan", ""], rows)?;
    let methods = plan.methods.iter().map(|method| {
        vec![method.method.clone(), count(method.trained as f64), share(method.share)]
    });
    print(Format::Table, &plan.methods, &["method", "trained", "share"], methods.collect())?;
    println!(
        "time and energy by {} steps of this job on this machine ({})",
        plan.probe.steps,
        seconds(plan.probe.seconds)
    );
    Ok(())
}

/// What will be done before the architecture is known.
fn searched(search: &SearchPlan) {
    let rungs: Vec<String> = search
        .rungs
        .iter()
        .map(|(candidates, steps)| format!("{candidates} to step {steps}"))
        .collect();
    println!(
        "first the architecture is searched: {}; {} steps, about {}{}\n\
         the plan below is of the recipe's own architecture; another may win",
        rungs.join(", "),
        count(search.steps as f64),
        seconds(search.seconds),
        search.ended_by.as_ref().map(|by| format!(", ended by {by}")).unwrap_or_default(),
    );
}

/// What a transfer knew of the new domain, before and after; nothing of another job.
pub(super) fn transfer(metrics: &BTreeMap<String, f64>) -> anyhow::Result<()> {
    let of = |name: &str| metrics.get(name).map_or("-".to_owned(), |found| format!("{found:.4}"));
    let few = metrics
        .keys()
        .filter(|name| name.starts_with("transfer.few_shot_") && name.ends_with("_accuracy"));
    let mut rows: Vec<Vec<String>> = few
        .map(|name| {
            let shots = name.trim_start_matches("transfer.few_shot_").trim_end_matches("_accuracy");
            vec![format!("{shots} examples a class"), of(name), of(&format!("{name}_after"))]
        })
        .collect();
    rows.sort_by_key(|row| row[0].split(' ').next().and_then(|shots| shots.parse::<usize>().ok()));
    if let Some(zero) = metrics.get("transfer.zero_shot_accuracy") {
        let answers = "its own answers".to_owned();
        rows.insert(0, vec![answers, format!("{zero:.4}"), of("transfer.accuracy")]);
    }
    if let Some(zero) = metrics.get("transfer.zero_shot_mae") {
        let row = vec!["its own answers".to_owned(), format!("{zero:.4}"), of("transfer.mae")];
        let header = ["mean absolute error on what was held back", "before", "after"];
        return print(Format::Table, metrics, &header, vec![row]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    print(Format::Table, metrics, &["accuracy on what was held back", "before", "after"], rows)
}

/// What was planned beside what was found.
pub(super) fn findings(findings: &[Finding]) -> anyhow::Result<()> {
    let rows = findings.iter().map(|finding| {
        let show = |value: f64| match finding.what.as_str() {
            "seconds" => seconds(value),
            "energy_joules" => joules(value),
            "memory_bytes" => bytes(value),
            "trained_share" => format!("{:.2} %", 100.0 * value),
            _ => count(value),
        };
        let off = format!("{:+.1} %", 100.0 * finding.off);
        vec![finding.what.clone(), show(finding.planned), show(finding.found), off]
    });
    print(Format::Table, &findings, &["", "planned", "found", "plan is off by"], rows.collect())
}

fn count(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn bytes(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} GB", v / 1e9),
        v if v >= 1e6 => format!("{:.1} MB", v / 1e6),
        v => format!("{:.1} kB", v / 1e3),
    }
}

fn seconds(value: f64) -> String {
    match value {
        v if v >= 3_600.0 => format!("{:.1} h", v / 3_600.0),
        v if v >= 120.0 => format!("{:.1} min", v / 60.0),
        v if v >= 1.0 => format!("{v:.1} s"),
        v => format!("{:.0} ms", v * 1e3),
    }
}

fn joules(value: f64) -> String {
    match value {
        v if v >= 3.6e6 => format!("{:.2} kWh", v / 3.6e6),
        v if v >= 1e4 => format!("{:.1} kJ", v / 1e3),
        v => format!("{v:.1} J"),
    }
}
