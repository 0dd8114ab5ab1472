//! Ours: one `Pipeline` on one thread.
use std::time::Instant;

use tidegate_benchmarks::thread_cpu_seconds;
use tidegate_contracts::Split;
use tidegate_curation::{CurationConfig, Emit, Incoming, Pipeline, StageCounters};

use crate::peer::Decisions;

/// One pass over the stream.
pub(crate) struct Pass {
    pub(crate) cpu_s: f64,
    pub(crate) wall_s: f64,
    pub(crate) stages: Vec<StageCounters>,
}

pub(crate) fn pass(config: &CurationConfig, records: &[Incoming]) -> anyhow::Result<Pass> {
    let mut pipeline = Pipeline::new(config)?;
    let records = records.to_vec();
    let cpu = thread_cpu_seconds()?;
    let began = Instant::now();
    let mut decided = 0_usize;
    for record in records {
        decided += pipeline.apply(record).len();
    }
    let wall_s = began.elapsed().as_secs_f64();
    let cpu_s = thread_cpu_seconds()? - cpu;
    anyhow::ensure!(decided > 0, "nothing was decided");
    Ok(Pass { cpu_s, wall_s, stages: pipeline.counters() })
}

/// What becomes of each record.
pub(crate) fn decisions(
    config: &CurationConfig,
    records: &[Incoming],
) -> anyhow::Result<Decisions> {
    let mut pipeline = Pipeline::new(config)?;
    let events = records.iter().filter(|record| matches!(record, Incoming::Event(_))).count();
    let waiting = |n| vec!["waiting".to_owned(); n];
    let mut all = Decisions { events: waiting(events), labels: waiting(records.len() - events) };
    for record in records {
        for emit in pipeline.apply(record.clone()) {
            match emit {
                Emit::Curated(curated) => {
                    let record = &curated.record;
                    let side = if record.split == Split::Eval { "eval" } else { "train" };
                    let labelled = if record.event.label.is_some() { "" } else { "_unlabelled" };
                    all.events[record.source.offset.0 as usize] = format!("{side}{labelled}");
                    if let Some(label) = curated.label {
                        all.labels[label.position.offset.0 as usize] = "joined".to_owned();
                    }
                }
                Emit::Rejected(rejected) => {
                    let at = rejected.raw.position;
                    let of_events = at.topic.ends_with(".events");
                    let side = if of_events { &mut all.events } else { &mut all.labels };
                    side[at.offset.0 as usize] = rejected.code.to_owned();
                }
            }
        }
    }
    Ok(all)
}
