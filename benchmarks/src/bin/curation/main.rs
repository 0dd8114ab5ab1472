//! Records that one core curates in a second: our pipeline beside a Python loop that does the
//! same stages. `benchmarks/curation/run.sh` runs it.
use std::path::PathBuf;

use clap::Parser;
use serde_json::json;
use tidegate_benchmarks::{Report, corpus, crate_version, median, table};
use tidegate_curation::CurationConfig;

mod input;
mod limit;
mod ours;
mod peer;

use peer::{Counts, Decisions, Peer};

/// Curation records/s of one core, beside Python.
#[derive(Parser)]
struct Options {
    /// The unpacked corpus.
    #[arg(long)]
    corpus: PathBuf,
    /// Python with numpy.
    #[arg(long)]
    python: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/curation.json", overrides_with = "out")]
    out: PathBuf,
    /// Mails, from the beginning of the stream; all of them when absent.
    #[arg(long)]
    mails: Option<usize>,
    /// Turns; in each ours, then each peer.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

const SEED: u64 = 20_020_822;
/// Ours is short: passes in each turn.
const PASSES: usize = 5;
/// Counts may differ by so much of the events where the hashes differ.
const TOLERANCE: f64 = 0.01;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut report =
        Report::begin("curation", "records that one core curates in a second, beside Python");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("stream.txt");
    let mut mails = corpus::mails(&options.corpus)?;
    mails.truncate(options.mails.unwrap_or(usize::MAX));
    std::fs::write(&path, input::mix(&mails, SEED))?;
    let records = input::read(&path)?;
    let peer = Peer { python: &options.python, input: &path, folder: folder.path() };

    let compared = same_decisions(&records, &peer)?;
    let config = CurationConfig::default();
    let counts = ours::decisions(&config, &records)?.counts();

    let (mut ours, mut stages) = (Rates::new(records.len()), vec![]);
    let (mut plain, mut numpy) = (Rates::new(records.len()), Rates::new(records.len()));
    let mut peers = None;
    for round in 1..=options.rounds {
        eprintln!("turn {round} of {}", options.rounds);
        for _ in 0..PASSES {
            let pass = ours::pass(&config, &records)?;
            ours.add(pass.cpu_s, pass.wall_s);
            stages = pass.stages;
        }
        let (pass, vectorised) = peer.run(&config, "numpy", "fast")?;
        numpy.add(pass.cpu_s, pass.wall_s);
        report.versions.extend(pass.versions);
        let (pass, looped) = peer.run(&config, "plain", "fast")?;
        plain.add(pass.cpu_s, pass.wall_s);
        anyhow::ensure!(looped == vectorised, "the two peers decide differently");
        peers = Some(looped.counts());
    }
    let peers = peers.ok_or_else(|| anyhow::anyhow!("--rounds must be at least 1"))?;
    let apart = counts.apart(&peers);
    let draws = counts.held_out_apart(&peers, config.holdout.fraction);
    // A part of the stream is too short for such a bound.
    let alike = options.mails.is_some() || (apart <= TOLERANCE && draws < 4.0);
    anyhow::ensure!(alike, "counts differ: {counts:?}, {peers:?}");
    let limit = limit::measure(&records, &config.near);
    let limit_rate = records.len() as f64 / limit.seconds;

    report.versions.insert("serde_json".to_owned(), crate_version("serde_json"));
    report.versions.insert("blake3".to_owned(), crate_version("blake3"));
    report.result = json!({
        "unit": "records per second of CPU time, one thread, median of all passes",
        "records": records.len(),
        "bytes": bytes(&records),
        "ours": ours.summary(),
        "python_plain": plain.summary(),
        "python_numpy": numpy.summary(),
        "limit": { "records_per_s": limit_rate, "parts": limit },
        "ratio": {
            "ours_to_python_plain": ours.rate() / plain.rate(),
            "ours_to_python_numpy": ours.rate() / numpy.rate(),
            "ours_to_limit": ours.rate() / limit_rate,
        },
        "decisions": {
            "ours": counts,
            "peers": peers,
            "largest_difference_of_a_count": apart,
            "held_out_standard_deviations_apart": draws,
            "compared_with_the_same_hashes": compared,
            "of_them_different": 0,
        },
        "stage_us_per_event": stages
            .iter()
            .map(|s| (s.stage.as_str(), s.seconds * 1e6 / counts.events as f64))
            .collect::<std::collections::BTreeMap<_, _>>(),
    });

    let mut rows =
        table(&["", "records/s per core", "ours is", "kept", "exact", "near", "held out"]);
    for (who, rate, counts) in [
        ("tidegate", ours.rate(), Some(counts)),
        ("Python loop, standard library", plain.rate(), Some(peers)),
        ("Python loop, numpy signatures", numpy.rate(), Some(peers)),
        ("limit: JSON + BLAKE3 + permutations", limit_rate, None),
    ] {
        let count = |of: fn(&Counts) -> usize| {
            counts.as_ref().map(of).map_or_else(String::new, |n| n.to_string())
        };
        rows.add_row(vec![
            who.to_owned(),
            format!("{rate:.0}"),
            format!("{:.2} x", ours.rate() / rate),
            count(|c| c.kept),
            count(|c| c.exact),
            count(|c| c.near),
            count(|c| c.held_out),
        ]);
    }
    let notes = [
        format!(
            "{} records ({:.1} MB): {} events, {} labels; median of {} passes (Python {})",
            records.len(),
            bytes(&records) as f64 / 1e6,
            counts.events,
            records.len() - counts.events,
            options.rounds * PASSES,
            options.rounds,
        ),
        format!("with our hashes in the Python loop all {compared} decisions are the same"),
        format!(
            "with its own (CRC-32, BLAKE2b) kept, exact and near differ by {:.2} % of the events at \
             most, held out by {draws:.1} standard deviations of two draws",
            100.0 * apart
        ),
        format!(
            "measured here: copy {:.1}, JSON {:.2}, BLAKE3 {:.2} GB/s, {:.2} permutations/ns",
            limit.copy_gb_per_s,
            limit.json_gb_per_s,
            limit.blake3_gb_per_s,
            limit.permutations_per_ns
        ),
        stages
            .iter()
            .map(|s| format!("{} {:.1}", s.stage.as_str(), s.seconds * 1e6 / counts.events as f64))
            .fold("stages, µs an event:".to_owned(), |all, one| format!("{all} {one}")),
    ];
    report.publish(&rows, &notes, &options.out)
}

/// Whether ours and the peer decide the same about every record when they hash alike, with
/// memories so small that all of them forget. Returns how many decisions were compared.
fn same_decisions(
    records: &[tidegate_curation::Incoming],
    peer: &Peer<'_>,
) -> anyhow::Result<usize> {
    let mut config = CurationConfig::default();
    config.exact.capacity = 1_500;
    config.near.capacity = 1_000;
    config.join.capacity = 150;
    let ours = ours::decisions(&config, records)?;
    let (_, theirs): (_, Decisions) = peer.run(&config, "numpy", "reference")?;
    let differ = ours.differ(&theirs);
    if differ > 0 {
        let unlike = ours.events.iter().zip(&theirs.events).enumerate();
        for (at, (ours, theirs)) in unlike.filter(|(_, (a, b))| a != b).take(5) {
            eprintln!("event {at}: ours {ours}, theirs {theirs}");
        }
    }
    anyhow::ensure!(differ == 0, "{differ} of {} decisions differ", records.len());
    Ok(records.len())
}

fn bytes(records: &[tidegate_curation::Incoming]) -> usize {
    use tidegate_curation::Incoming::{Event, Label};
    records.iter().map(|(Event(raw) | Label(raw))| raw.value.len()).sum()
}

/// Passes of one of those who are compared.
struct Rates {
    records: usize,
    cpu_s: Vec<f64>,
    wall_s: Vec<f64>,
}

impl Rates {
    fn new(records: usize) -> Self {
        Self { records, cpu_s: vec![], wall_s: vec![] }
    }

    fn add(&mut self, cpu_s: f64, wall_s: f64) {
        self.cpu_s.push(cpu_s);
        self.wall_s.push(wall_s);
    }

    /// Records per second of CPU time.
    fn rate(&self) -> f64 {
        self.records as f64 / median(self.cpu_s.clone())
    }

    fn summary(&self) -> serde_json::Value {
        let best = self.cpu_s.iter().copied().fold(f64::INFINITY, f64::min);
        json!({
            "records_per_s": self.rate(),
            "best_records_per_s": self.records as f64 / best,
            "cpu_s": median(self.cpu_s.clone()),
            "wall_s": median(self.wall_s.clone()),
            "passes": self.cpu_s.len(),
        })
    }
}
