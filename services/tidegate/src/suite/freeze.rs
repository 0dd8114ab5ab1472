//! Held-out examples of the stream as frozen data of a suite.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use tidegate_contracts::{
    ContentType, Curated, Domain, Event, EventId, GenerationId, Split, Tier, Window, proto::v1,
};
use tidegate_evaluation::{DataDraft, MAX_DATA_ROWS, Role, Suite, pin};
use tidegate_evaluator::frozen;
use tidegate_ledger::{Fact, PromotedBy};
use tidegate_stream::Stream;

use super::{edit, read, replace, tier};
use crate::{
    cli::Global,
    listen, operate,
    output::{Format, print_fields},
};

/// Entries of the ledger that are asked for at a time.
const PAGE: u32 = 1_000;

/// What to freeze, and as what.
#[derive(clap::Args)]
pub(crate) struct FreezeArgs {
    /// The suite (YAML); `evaluator.suite` of the configuration when absent.
    #[arg(long)]
    suite: Option<PathBuf>,
    /// The id of the new entry of `data`; its file is `data/<id>.jsonl` beside the suite.
    #[arg(long)]
    id: String,
    /// Who sees what it says: open, gate or sealed.
    #[arg(long, value_parser = tier)]
    tier: Tier,
    /// As a slice of the past, on which forgetting is measured.
    #[arg(long)]
    past: bool,
    /// Labelled at this time or later (RFC 3339).
    #[arg(long)]
    since: Option<DateTime<Utc>>,
    /// Labelled before this time.
    #[arg(long)]
    until: Option<DateTime<Utc>>,
    /// Of this domain alone.
    #[arg(long)]
    domain: Option<String>,
    /// Examples at most: the newest.
    #[arg(long, default_value_t = 4_000)]
    max_rows: usize,
    /// Verdicts that may ask it; what the suite takes for granted when absent.
    #[arg(long)]
    query_budget: Option<u64>,
}

pub(crate) async fn run(global: &Global, args: &FreezeArgs) -> anyhow::Result<ExitCode> {
    let path = match &args.suite {
        Some(path) => path.clone(),
        None => global.load()?.evaluator.suite.context(
            "name the suite with --suite: the built-in one has no folder for data beside it",
        )?,
    };
    ensure!(
        (1..=MAX_DATA_ROWS).contains(&args.max_rows),
        "--max-rows {}: use 1 to {MAX_DATA_ROWS}",
        args.max_rows
    );
    let text = read(&path)?;
    let drafts = Suite::drafts(&text)?;
    ensure!(
        drafts.iter().all(|draft| draft.id != args.id),
        "data `{}` is there already, and frozen data does not change: use another --id",
        args.id
    );
    let draft = DataDraft {
        id: args.id.clone(),
        tier: args.tier,
        role: if args.past { Role::Past } else { Role::Judge },
        path: format!("data/{}.jsonl", args.id),
        sha256: None,
        rows: None,
        query_budget: args.query_budget,
        opened_by: None,
    };
    // What is wrong with the entry is said before anything is read.
    edit::added(&text, &draft)?;
    let (config, brokers) = listen::brokers(global)?;
    let aside = set_aside(global).await?;
    let stream = Stream::connect(&config.stream, &brokers)?;
    let events = held_out(&stream, args, &aside).await?;
    ensure!(
        !events.is_empty(),
        "no labelled held-out example of the curated topic is as asked for: nothing was written"
    );
    let draft = write(&path, draft, &events)?;
    replace(&path, &edit::added(&text, &draft)?)?;
    let sha256 = draft.sha256.as_ref().map(ToString::to_string).unwrap_or_default();
    let fields = [
        ("data", draft.id.clone()),
        ("file", draft.path.clone()),
        ("rows", events.len().to_string()),
        ("sha256", sha256),
    ];
    print_fields(global.output, &draft, &fields)?;
    if global.output == Format::Table {
        let metric = if args.past { "forgetting_max, ceil: 0.03" } else { "accuracy, floor: 0.8" };
        println!(
            "now let a check ask it ({{id: {}, layer: retention, metric: {metric}, data: {}, severity: \
             review}}), raise the suite's version and restart the evaluator",
            draft.id, draft.id
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the file beside the suite; never over another.
fn write(suite: &Path, draft: DataDraft, events: &[Event]) -> anyhow::Result<DataDraft> {
    let mut bytes = Vec::new();
    for event in events {
        bytes.extend(event.encode(ContentType::Json));
        bytes.push(b'\n');
    }
    let (sha256, rows) = pin(&draft.path, &bytes)?;
    let file = frozen::folder_of(suite).join(&draft.path);
    let folder = file.parent().expect("it lies in `data`");
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut open = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&file)
        .with_context(|| file.display().to_string())?;
    std::io::Write::write_all(&mut open, &bytes)?;
    open.sync_all()?;
    Ok(DataDraft { sha256: Some(sha256), rows: Some(rows), ..draft })
}

/// The newest labelled held-out examples that are asked for, the oldest first, each id once.
async fn held_out(
    stream: &Stream,
    args: &FreezeArgs,
    aside: &[Window],
) -> anyhow::Result<Vec<Event>> {
    let topic = stream.topics().curated.clone();
    let window = Window::new(topic.clone(), stream.watermarks(&topic).await?)?;
    let mut found = BTreeMap::new();
    let read = stream.read_each(&window, |record| {
        let at = (record.partition, record.offset);
        if aside.iter().all(|window| !window.contains(at.0, at.1))
            && let Ok(curated) = Curated::decode(&record.value)
            && curated.split == Split::Eval
            && curated.event.label.is_some()
        {
            let time = curated.labelled_at.unwrap_or(curated.event.time);
            let wanted = args.since.is_none_or(|since| time >= since)
                && args.until.is_none_or(|until| time < until)
                && args.domain.as_ref().is_none_or(|name| name == curated.event.domain.as_str());
            if wanted {
                found.insert((time, at), curated.event);
                if found.len() > args.max_rows {
                    found.pop_first();
                }
            }
        }
        ControlFlow::Continue(())
    });
    read.await?;
    let mut seen = BTreeSet::<(Domain, EventId)>::new();
    let mut newest: Vec<Event> = found.into_values().rev().collect();
    newest.retain(|event| seen.insert((event.domain.clone(), event.id.clone())));
    newest.reverse();
    Ok(newest)
}

/// Windows whose labels were not believed: they judge nobody.
async fn set_aside(global: &Global) -> anyhow::Result<Vec<Window>> {
    let mut client = operate::client(global).await?;
    let mut aside = BTreeMap::<GenerationId, Window>::new();
    let mut from = 1;
    loop {
        let request = v1::ListEntriesRequest { from, limit: PAGE };
        let entries = client.list_entries(request).await?.into_inner().entries;
        let Some(last) = entries.last() else { break };
        from = last.seq + 1;
        for entry in &entries {
            match entry.kind.as_str() {
                "WindowQuarantined" | "Promoted" => {}
                _ => continue,
            }
            match serde_json::from_str(&entry.body_json)? {
                Fact::WindowQuarantined { generation, window, .. } => {
                    aside.insert(generation, window);
                }
                Fact::Promoted { generation, by: PromotedBy::Override, .. } => {
                    aside.remove(&generation);
                }
                _ => {}
            }
        }
    }
    Ok(aside.into_values().collect())
}
