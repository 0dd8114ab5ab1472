//! Clients of other makers: Python packages in their own environment, and curl.
use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Context as _;
use serde_json::Value;

/// Where the set-up keeps what the tests need.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("TIDEGATE_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/tidegate"),
        PathBuf::from,
    )
}

/// Runs `tests/clients/<script>` with `input` on its standard input; the JSON it prints.
///
/// # Errors
/// When the environment is not there, the script fails, or prints anything else.
pub async fn python(script: &str, args: &[&str], input: &Value) -> anyhow::Result<Value> {
    let interpreter = cache().join("clients/bin/python");
    anyhow::ensure!(
        interpreter.is_file(),
        "{}: the foreign clients are missing (run setup/tools.sh)",
        interpreter.display()
    );
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let mut command = Command::new(interpreter);
    command.arg(path).args(args);
    let (name, input) = (script.to_owned(), input.to_string());
    tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context(name.clone())?;
        let mut pipe = child.stdin.take().expect("its input is piped");
        // It may end without reading; its exit code tells.
        let _ = pipe.write_all(input.as_bytes());
        drop(pipe);
        let output = child.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "{name} ended with {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("{name} printed: {text}"))
    })
    .await?
}

/// What an HTTP request was answered with.
#[derive(Debug)]
pub struct Http {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Http {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Asks by `curl`; `args` end with the URL.
///
/// # Errors
/// When nobody answers.
pub fn curl(args: &[&str]) -> anyhow::Result<Http> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("curl")?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "curl {}: {}", args.join(" "), error.trim());
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
    Ok(Http { status: status.parse()?, body: body.to_owned() })
}
