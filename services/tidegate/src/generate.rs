//! Text by a generation that learnt next tokens, from its folder, and how well it knows other texts.
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::json;
use tidegate_ledger::Verified;
use tidegate_model::{Model, Sampling, Surprise};

use crate::{
    cli::Global,
    output::{Format, print_fields},
    train,
};

/// What to write, or what to be judged by.
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    /// Text to be continued.
    #[arg(default_value = "")]
    prompt: String,
    /// The generation's folder, as `tidegate train` writes it.
    #[arg(long)]
    generation: PathBuf,
    /// Tokens at most.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// What logits are divided by; 0: always the likeliest token.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Of the likeliest so many tokens; 0: of all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Of the fewest likeliest tokens that have this share of the probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// The same seed writes the same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A text that ends it; may be given several times.
    #[arg(long)]
    stop: Vec<String>,
    /// Say instead how well it foretells the texts of these events (JSON lines).
    #[arg(long, conflicts_with = "prompt")]
    judge: Option<PathBuf>,
}

pub(crate) async fn run(global: &Global, args: GenerateArgs) -> anyhow::Result<ExitCode> {
    let (device, format) = (global.load()?.device, global.output);
    let work = move || -> anyhow::Result<()> {
        let folder = &args.generation;
        let verified =
            Verified::from_folder(folder).with_context(|| folder.display().to_string())?;
        let model = Model::from_files(verified.files(), &device)?;
        match &args.judge {
            Some(path) => judge(&model, path, format),
            None => write(&model, &args, format),
        }
    };
    tokio::task::spawn_blocking(work).await.context("the model panicked")??;
    Ok(ExitCode::SUCCESS)
}

/// Prints the text as it comes; for machines all of it at the end.
fn write(model: &Model, args: &GenerateArgs, format: Format) -> anyhow::Result<()> {
    let sampling = Sampling {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
        stop: args.stop.clone(),
    };
    let mut continuation = model.generate(&args.prompt, sampling)?;
    let mut out = std::io::stdout().lock();
    let mut text = String::new();
    for piece in continuation.by_ref() {
        if format == Format::Table {
            out.write_all(piece.text.as_bytes())?;
            out.flush()?;
        }
        text.push_str(&piece.text);
    }
    match format {
        Format::Table => writeln!(out)?,
        Format::Json => {
            let (tokens, ended) = (continuation.tokens(), continuation.ended());
            writeln!(out, "{}", json!({ "text": text, "tokens": tokens, "ended": ended }))?;
        }
    }
    Ok(())
}

fn judge(model: &Model, path: &Path, format: Format) -> anyhow::Result<()> {
    let inputs = train::texts(path)?;
    let found: Surprise = model.surprise(&inputs)?.into_iter().sum();
    let (perplexity, bits) = (found.perplexity(), found.bits_per_byte());
    let fields = [
        ("texts", inputs.len().to_string()),
        ("tokens", found.tokens.to_string()),
        ("bytes", found.bytes.to_string()),
        ("perplexity", format!("{perplexity:.3}")),
        ("bits per byte", format!("{bits:.4}")),
    ];
    let report = json!({
        "texts": inputs.len(), "tokens": found.tokens, "bytes": found.bytes,
        "perplexity": perplexity, "bits_per_byte": bits,
    });
    print_fields(format, &report, &fields)
}
