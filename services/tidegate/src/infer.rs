//! Asks the gateway by the Open Inference Protocol, once or steadily.
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use tidegate_contracts::proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    cli::Global,
    listen,
    operate::Bearer,
    output::{print, short},
};

/// What to ask.
#[derive(clap::Args)]
pub(crate) struct InferArgs {
    /// Texts to ask about.
    texts: Vec<String>,
    /// A file of texts, one a line.
    #[arg(long)]
    file: Option<PathBuf>,
    /// champion, or a generation id still held.
    #[arg(long, default_value = "champion")]
    model_version: String,
    /// Ask steadily, this many times a second, until standard input closes; needs `--log`.
    #[arg(long, requires = "log")]
    rate: Option<f64>,
    /// With `--rate`: one JSON line a request.
    #[arg(long)]
    log: Option<PathBuf>,
}

/// One answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The class, or the number in decimal notation.
    pub(crate) label: String,
    /// Of the class.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) probability: Option<f32>,
    /// About the number: 90 % of what it may be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) interval: Option<(f64, f64)>,
    /// Who answered.
    pub(crate) generation: String,
}

/// One request of a steady client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LoggedRequest {
    /// When it was due, milliseconds since the epoch.
    pub(crate) at_ms: i64,
    /// From when it was due to its answer: an open loop, so a stall is seen by all it delays.
    pub(crate) latency_ms: f64,
    /// Who answered.
    pub(crate) generation: Option<String>,
    /// Why nobody did.
    pub(crate) error: Option<String>,
}

pub(crate) type Client = GrpcInferenceServiceClient<InterceptedService<Channel, Bearer>>;

/// A client of the gateway.
pub(crate) async fn client(global: &Global) -> anyhow::Result<Client> {
    let channel = listen::connect(global).await?;
    let bearer = Bearer::new(global.token.as_deref())?;
    Ok(GrpcInferenceServiceClient::with_interceptor(channel, bearer)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20))
}

/// Asks about `texts` in one request.
pub(crate) async fn ask(
    client: &mut Client,
    texts: &[String],
    version: &str,
) -> anyhow::Result<Vec<Answer>> {
    let input = InferInputTensor {
        name: "text".into(),
        datatype: "BYTES".into(),
        shape: vec![texts.len() as i64],
        contents: Some(InferTensorContents {
            bytes_contents: texts.iter().map(|text| text.clone().into_bytes()).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "default".into(),
        model_version: version.into(),
        inputs: vec![input],
        ..Default::default()
    };
    answers(client.model_infer(request).await?.into_inner())
}

fn answers(response: ModelInferResponse) -> anyhow::Result<Vec<Answer>> {
    let output = |name: &str| {
        let tensor = response.outputs.iter().find(|output| output.name == name);
        let contents = tensor.and_then(|tensor| tensor.contents.as_ref());
        contents.with_context(|| format!("the response has no output `{name}`"))
    };
    let intervals = output("interval").map(|found| &found.fp64_contents[..]).unwrap_or_default();
    let mut intervals = intervals.chunks_exact(2).map(|ends| (ends[0], ends[1]));
    let labels = &output("label")?.bytes_contents;
    let probabilities = &output("probabilities")?.fp32_contents;
    let classes = probabilities.len() / labels.len().max(1);
    anyhow::ensure!(classes > 0, "the response has no probabilities");
    Ok(labels
        .iter()
        .zip(probabilities.chunks(classes))
        .map(|(label, row)| {
            let interval = intervals.next();
            let likeliest = row.iter().copied().fold(0.0, f32::max);
            Answer {
                label: String::from_utf8_lossy(label).into_owned(),
                probability: interval.is_none().then_some(likeliest),
                interval,
                generation: response.model_version.clone(),
            }
        })
        .collect())
}

pub(crate) async fn run(global: &Global, args: InferArgs) -> anyhow::Result<ExitCode> {
    let mut texts = args.texts;
    if let Some(path) = &args.file {
        let file = tokio::fs::read_to_string(path).await;
        let file = file.with_context(|| path.display().to_string())?;
        texts.extend(file.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    anyhow::ensure!(!texts.is_empty(), "nothing to ask: give texts or --file");
    let mut client = client(global).await?;
    if let (Some(rate), Some(log)) = (args.rate, args.log) {
        anyhow::ensure!(rate > 0.0 && rate <= 1e5, "--rate: {rate} is not a rate");
        return steadily(client, texts, rate, &log).await;
    }
    let answers = ask(&mut client, &texts, &args.model_version).await?;
    let rows = texts.iter().zip(&answers).map(|(text, answer)| {
        let text: String = text.chars().take(48).collect();
        let sure = match (answer.interval, answer.probability) {
            (Some((low, high)), _) => format!("{low:.4} to {high:.4}"),
            (None, probability) => format!("{:.3}", probability.unwrap_or_default()),
        };
        vec![answer.label.clone(), sure, short(&answer.generation), text]
    });
    let numbers = answers.iter().any(|answer| answer.interval.is_some());
    let sure = if numbers { "90 % interval" } else { "probability" };
    let header = ["label", sure, "generation", "text"];
    print(global.output, &answers, &header, rows.collect())?;
    Ok(ExitCode::SUCCESS)
}

/// An open loop: requests leave on schedule whether or not earlier ones have been answered.
async fn steadily(
    client: Client,
    texts: Vec<String>,
    rate: f64,
    log: &std::path::Path,
) -> anyhow::Result<ExitCode> {
    let file = tokio::fs::File::create(log).await;
    let mut file = tokio::io::BufWriter::new(file.with_context(|| log.display().to_string())?);
    let mut schedule = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let mut closed = Box::pin(async {
        let mut rest = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    });
    let mut requests = JoinSet::new();
    let (mut next, mut open) = (0, true);
    while open || !requests.is_empty() {
        tokio::select! {
            due = schedule.tick(), if open => {
                let text = vec![texts[next % texts.len()].clone()];
                next += 1;
                requests.spawn(timed(client.clone(), text, due.into_std()));
            }
            () = &mut closed, if open => open = false,
            Some(done) = requests.join_next() => {
                let line = serde_json::to_string(&done?)?;
                file.write_all(line.as_bytes()).await?;
                file.write_all(b"\n").await?;
            }
        }
    }
    file.flush().await?;
    Ok(ExitCode::SUCCESS)
}

async fn timed(mut client: Client, text: Vec<String>, due: Instant) -> LoggedRequest {
    let at = Utc::now() - chrono::Duration::from_std(due.elapsed()).unwrap_or_default();
    let result = ask(&mut client, &text, "champion").await;
    let (generation, error) = match result {
        Ok(answers) => (answers.into_iter().next().map(|answer| answer.generation), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    LoggedRequest {
        at_ms: at.timestamp_millis(),
        latency_ms: due.elapsed().as_secs_f64() * 1e3,
        generation,
        error,
    }
}
