//! The chart is true to the binary: what it renders is configuration that the binary takes, and
//! with Kafka, Redis, a certificate and tokens beside them its pods run.
//!
//! That it renders, and what Kubernetes says of it, is checked by `helm/check.sh`.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;
use tidegate_ledger::{Holder, seal};
use tidegate_tests::{Endpoints, Kafka, Process, Redis, binary, cache, curl, until};

/// As the chart's README writes them.
const TOKENS: &str = r#"[
  {name="web",   token="w-1",    role="client"},
  {name="clock", token="c-1",    role="operator"},
  {name="ana",   token="a, {1}", role="approver"}]"#;

fn helm(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm").join(path)
}

fn python(script: &str) -> Command {
    let interpreter = cache().join("clients/bin/python");
    assert!(interpreter.is_file(), "{}: run setup/tools.sh", interpreter.display());
    let mut command = Command::new(interpreter);
    command.arg(helm(script));
    command
}

fn checked(output: Output) -> anyhow::Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// A rendered release, its files where a test may put them.
struct Release {
    folder: TempDir,
    objects: Vec<Value>,
    secrets: BTreeMap<&'static str, String>,
}

/// The one container of a workload.
struct Container {
    /// `Deployment house-tidegate-gateway`
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Release {
    /// Renders one of the value sets of `helm/ci`.
    fn render(set: &str, more: &[String]) -> anyhow::Result<Self> {
        let mut command = python("render.py");
        let rendered = checked(command.arg(helm("ci").join(set)).args(more).output()?)?;
        let release = Self {
            folder: tempfile::tempdir()?,
            objects: serde_json::from_str(&rendered)?,
            secrets: BTreeMap::from([
                ("TIDEGATE_LEDGER__STORE__REDIS__URL", "redis://:p@redis:6379/0".to_owned()),
                (
                    "TIDEGATE_STREAM__PROPERTIES",
                    r#"{"sasl.username"="u", "sasl.password"="p, {x}"}"#.to_owned(),
                ),
                ("TIDEGATE_LISTEN__TOKENS", TOKENS.to_owned()),
                (
                    "TIDEGATE_CONTROLLER__WEBHOOKS",
                    r#"[{url="https://hooks.example/t", secret="s, {1}", events=["blocked"]}]"#
                        .to_owned(),
                ),
                ("TIDEGATE_TOKEN", "c-1".to_owned()),
            ]),
        };
        let config = release.objects.iter().find(|object| object["kind"] == "ConfigMap");
        let files = config.context("a ConfigMap")?["data"].as_object().context("data")?;
        for (name, text) in files {
            let text = release.here(text.as_str().context("text")?);
            std::fs::write(release.folder.path().join(name), text)?;
        }
        Ok(release)
    }

    /// The same with the folders of a pod in the test's own.
    fn here(&self, text: &str) -> String {
        let folder = self.folder.path().display().to_string();
        text.replace("/etc/tidegate/ca/", &format!("{folder}/tls/"))
            .replace("/etc/tidegate", &folder)
            .replace("/var/lib/tidegate", &format!("{folder}/data"))
    }

    fn containers(&self, kinds: &[&str]) -> anyhow::Result<Vec<Container>> {
        let kind = |object: &&Value| kinds.contains(&object["kind"].as_str().unwrap_or_default());
        self.objects.iter().filter(kind).map(|object| self.container(object)).collect()
    }

    fn container(&self, object: &Value) -> anyhow::Result<Container> {
        let spec = &object["spec"];
        let spec =
            if spec["jobTemplate"].is_object() { &spec["jobTemplate"]["spec"] } else { spec };
        let container = &spec["template"]["spec"]["containers"][0];
        let list = |key: &str| container[key].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let env = list("env").into_iter().map(|variable| {
            let name = text(&variable["name"]);
            let value = match variable["value"].as_str() {
                Some(value) => value.to_owned(),
                None if variable["valueFrom"]["fieldRef"].is_object() => "a-pod-7".to_owned(),
                None => self.secrets[name.as_str()].clone(),
            };
            (name, value)
        });
        Ok(Container {
            name: format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"])),
            args: list("args").iter().map(|arg| self.here(&text(arg))).collect(),
            env: env.collect(),
        })
    }

    /// A certificate of an authority of our own, as cert-manager would put it into a Secret.
    fn certify(&self) -> anyhow::Result<String> {
        let folder = self.folder.path().join("tls");
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n")?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for step in [
            format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=authority -days 2"),
            format!("req {key} -keyout tls.key -out tls.csr -subj /CN=tidegate"),
            "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tls.crt -days 2 \
             -extfile names"
                .to_owned(),
        ] {
            let mut openssl = Command::new("openssl");
            openssl.args(step.split_whitespace()).current_dir(&folder).stdin(Stdio::null());
            checked(openssl.output().context("openssl")?).context(step)?;
        }
        Ok(folder.join("ca.crt").display().to_string())
    }
}

impl Container {
    /// The binary with these arguments, in the pod's environment and no other.
    fn command<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().envs(self.env.iter().cloned()).args(args).stdin(Stdio::null());
        command
    }

    /// What the pod does, but on loopback and at ports that are free, and with data of its own
    /// beside the shared artifacts.
    fn start(&self, folder: &Path) -> anyhow::Result<Pod> {
        let verb = &self.args[0];
        let data = folder.join(verb);
        std::fs::create_dir_all(&data)?;
        std::os::unix::fs::symlink(folder.join("artifacts"), data.join("artifacts"))?;
        let local = |arg: &String| match arg.split_once("=0.0.0.0:") {
            Some((flag, _)) => format!("{flag}=127.0.0.1:0"),
            None => arg.clone(),
        };
        let mut command = self.command(self.args.iter().map(local));
        command.env("TIDEGATE_DATA_DIR", &data);
        let process = Process::start(verb, command, &folder.join(format!("{verb}.log")))?;
        Ok(Pod { verb: verb.clone(), process, data })
    }
}

/// A container that runs.
struct Pod {
    verb: String,
    process: Process,
    data: PathBuf,
}

impl Pod {
    async fn endpoints(&mut self) -> Endpoints {
        let (verb, path) = (self.verb.clone(), self.data.join("endpoints.json"));
        until(&format!("`{verb}` is up"), Duration::from_secs(60), async || {
            assert!(self.process.ended().is_none(), "`{verb}` ended: {}", self.process.log());
            serde_json::from_slice(&std::fs::read(&path).ok()?).ok()
        })
        .await
    }
}

#[test]
fn the_values_schema_knows_every_field_of_the_configuration() -> anyhow::Result<()> {
    let mut show = Command::new(binary());
    show.env_clear().args(["config", "show", "--output", "json"]).stdin(Stdio::null());
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), checked(show.output()?)?)?;
    checked(python("schema.py").arg("--check").stdin(config.reopen()?).output()?)?;
    Ok(())
}

#[test]
fn the_binary_takes_every_configuration_that_the_chart_renders() -> anyhow::Result<()> {
    for set in ["minimal.yaml", "gpu.yaml", "full.yaml"] {
        let release = Release::render(set, &[])?;
        let pods = release.containers(&["Deployment", "StatefulSet"])?;
        assert_eq!(pods.len(), 5, "{set}");
        for pod in pods {
            // Listening beyond loopback included: without TLS and tokens this would be refused.
            let args = ["config", "show", "--output", "json"].map(str::to_owned);
            let shown = pod.command(args.iter().chain(&pod.args[1..])).output()?;
            let shown = checked(shown).with_context(|| format!("{set}: {}", pod.name))?;
            let shown: Value = serde_json::from_str(&shown)?;
            let serves = matches!(&*pod.args[0], "control" | "serve");
            let open = shown["listen"]["grpc"] == "0.0.0.0:8001";
            assert_eq!(open, serves, "{set}: {}: only who serves listens", pod.name);
            assert_eq!(shown["controller"]["schedule"]["hot_update"], "", "{set}: {}", pod.name);
            if set == "full.yaml" {
                let recipe = &shown["trainer"]["recipe"];
                assert_eq!(recipe["architecture"]["layers"], 4);
                assert_eq!(recipe["cold_start"]["max_seconds"], 3600.0);
                assert_eq!(shown["gateway"]["batch"]["queue_bytes"], 17_179_869_184_u64);
                assert_eq!(shown["ledger"]["keys"]["unsigned_until"], 4711);
                let told = pod.args[0] == "control";
                assert_eq!(
                    shown["controller"]["webhooks"].as_array().unwrap().len(),
                    usize::from(told)
                );
                assert_eq!(shown["stream"]["properties"].as_object().unwrap().len(), 4);
            }
            let gpu = set == "gpu.yaml" && matches!(&*pod.args[0], "train" | "evaluate" | "serve");
            assert_eq!(shown["device"] == "cuda:0", gpu, "{set}: {}", pod.name);
        }
    }
    Ok(())
}

/// Exit code and output of what a CronJob does, sent to `endpoint`.
fn ask(clock: &Container, endpoint: &str) -> anyhow::Result<(Option<i32>, String)> {
    let args = clock.args.iter().map(|arg| match arg.strip_prefix("--endpoint=") {
        Some(_) => format!("--endpoint={endpoint}"),
        None => arg.clone(),
    });
    let output = clock.command(args).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_the_chart_run_and_its_clocks_only_ask() -> anyhow::Result<()> {
    let (kafka, redis) = (Kafka::start()?, Redis::start()?);
    let brokers = format!("--set=kafka.brokers={}", kafka.brokers());
    let mut release =
        Release::render("minimal.yaml", &[brokers, "--set=kafka.replication=1".into()])?;
    release.secrets.insert("TIDEGATE_LEDGER__STORE__REDIS__URL", redis.url());
    let ca = release.certify()?;
    std::fs::create_dir(release.folder.path().join("artifacts"))?;
    for holder in [Holder::Evaluator, Holder::Controller] {
        seal::make(&release.folder.path().join("keys"), &holder)?;
    }

    let containers = release.containers(&["Deployment", "StatefulSet"])?;
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    for container in &containers {
        let pod = container.start(release.folder.path())?;
        pods.insert(pod.verb.clone(), pod);
    }
    let mut found = BTreeMap::new();
    for (verb, pod) in &mut pods {
        found.insert(verb.clone(), pod.endpoints().await);
    }
    let http = |verb: &str, path: &str| {
        let at = found[verb].http.as_deref().expect("it serves HTTP");
        format!("https://{at}{path}")
    };

    // The probes, and what Prometheus reads: over TLS, without a token.
    let status = |url: String| anyhow::Ok(curl(&["--cacert", &ca, &url])?.status);
    assert_eq!(status(http("serve", "/v2/health/live"))?, 200);
    assert_eq!(status(http("serve", "/v2/health/ready"))?, 503, "there is no champion yet");
    assert_eq!(status(http("serve", "/metrics"))?, 200);
    assert_eq!(status(http("control", "/metrics"))?, 200);
    assert_eq!(status(http("control", "/api/v1/overview"))?, 401);
    assert_eq!(status(http("serve", "/v2"))?, 401);

    // The clocks: one entry each at most, and nothing else.
    let control = found["control"].grpc.as_deref().context("it serves gRPC")?;
    let clocks = release.containers(&["CronJob"])?;
    let clock = |kind: &str| clocks.iter().find(|clock| clock.args[2] == kind).expect("both");
    let endpoint = format!("https://{control}");
    let (code, said) = ask(clock("hot_update"), &endpoint)?;
    assert_eq!(code, Some(3), "refused, as there is no champion to start from: {said}");
    let (code, said) = ask(clock("cold_start"), &endpoint)?;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = ask(clock("cold_start"), "https://127.0.0.1:1")?;
    assert_eq!(code, Some(4), "to be asked again: {said}");
    let approver = "authorization: Bearer a, {1}";
    let entries = http("control", "/api/v1/entries?limit=1");
    let entries = curl(&["--cacert", &ca, "--header", approver, &entries])?.json();
    let first = &entries["entries"][0];
    assert_eq!(first["kind"], "JobRequested", "{entries}");
    assert_eq!(first["actor"], "operator:clock", "whoever holds the CronJobs' token: {entries}");
    let body = first["bodyJson"].as_str().context("a body")?;
    assert!(body.contains("cold_start") && body.contains("quarterly cold start"), "{body}");

    // Nobody gave up, and everybody stops when the kubelet says so.
    for (verb, pod) in &mut pods {
        assert!(pod.process.ended().is_none(), "`{verb}` ended: {}", pod.process.log());
    }
    for (verb, pod) in &mut pods {
        let status = pod.process.stop(Duration::from_secs(40))?;
        assert!(status.success(), "`{verb}` stopped with {status}: {}", pod.process.log());
    }
    Ok(())
}
