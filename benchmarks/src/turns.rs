//! A Python peer that lives through a benchmark and is measured in turns with ours.
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::Context as _;
use serde::{Deserialize, de::DeserializeOwned};

/// The process: `benchmarks/peers/turns.py` says how it is spoken to.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    script: String,
}

/// What a timed request found.
#[derive(Debug, Clone, Deserialize)]
pub struct Timed {
    /// Seconds of each call.
    pub samples_s: Vec<f64>,
}

impl Peer {
    /// Starts `script` with its job, and returns what it says of itself once it is warm.
    ///
    /// # Errors
    /// When it does not start, or says something else.
    pub fn start<T: DeserializeOwned>(
        python: &Path,
        script: &str,
        job: &serde_json::Value,
        folder: &Path,
    ) -> anyhow::Result<(Self, T)> {
        let path = folder.join("job.json");
        std::fs::write(&path, serde_json::to_vec_pretty(job)?)?;
        let mut process = Command::new(python)
            .arg(script)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| python.display().to_string())?;
        let requests = process.stdin.take().context("its input was asked for")?;
        let answers = process.stdout.take().context("its output was asked for")?;
        let answers = BufReader::new(answers);
        let mut peer = Self { process, requests, answers, script: script.to_owned() };
        let first = peer.answer("its start")?;
        Ok((peer, first))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When the peer failed, or has ended.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &str) -> anyhow::Result<T> {
        writeln!(self.requests, "{request}").with_context(|| self.script.clone())?;
        self.requests.flush()?;
        self.answer(request)
    }

    fn answer<T: DeserializeOwned>(&mut self, to: &str) -> anyhow::Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "{} ended; its errors are above", self.script);
        serde_json::from_str(&line).with_context(|| format!("{}, {to}: `{line}`", self.script))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Calls `work` until `seconds` are over, at least once. Seconds of each call.
///
/// # Errors
/// The work's.
pub fn timed(seconds: f64, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Timed> {
    let mut samples_s = Vec::new();
    let began = std::time::Instant::now();
    while samples_s.is_empty() || began.elapsed().as_secs_f64() < seconds {
        let call = std::time::Instant::now();
        work()?;
        samples_s.push(call.elapsed().as_secs_f64());
    }
    Ok(Timed { samples_s })
}

/// Samples of one measurement, from all of its turns.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<String, Vec<f64>>);

impl Samples {
    /// Adds a turn's.
    pub fn add(&mut self, name: &str, turn: Timed) {
        self.0.entry(name.to_owned()).or_default().extend(turn.samples_s);
    }

    /// The sample that so large a share of all is not above, in seconds; NaN of nothing.
    #[must_use]
    pub fn quantile(&self, name: &str, share: f64) -> f64 {
        let mut all = self.0.get(name).cloned().unwrap_or_default();
        all.sort_by(f64::total_cmp);
        let last = all.len().saturating_sub(1);
        all.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, Vec::len)
    }
}
