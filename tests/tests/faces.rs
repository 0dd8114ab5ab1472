//! The command line, configuration, and who may do what.
use std::{net::TcpListener, path::Path, process::Output, time::Duration};

use serde_json::{Value, json};
use tidegate_contracts::proto::v1;
use tidegate_tests::{House, curl, until};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn with_env(house: &House, env: &[(&str, &str)], args: &[&str]) -> anyhow::Result<Output> {
    Ok(house.command().args(args).envs(env.iter().copied()).output()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_mean_something() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    for wrong in [
        &["frobnicate"][..],
        &["up", "--grpc", "nowhere"],
        &["approve", "candidate"],
        &["jobs", "request", "someday"],
        &["status", "--output", "xml"],
    ] {
        let output = house.run(wrong).await?;
        assert_eq!(code(&output), Some(2), "{wrong:?}: {}", error(&output));
    }
    // Nothing runs yet, or not there.
    for away in [&["status"][..], &["--endpoint", "127.0.0.1:1", "status"], &["infer", "hello"]] {
        let output = house.run(away).await?;
        assert_eq!(code(&output), Some(4), "{away:?}: {}", error(&output));
    }
    let output = house.run(&["suite", "check", "/no/such/suite.yaml"]).await?;
    assert_eq!(code(&output), Some(1), "{}", error(&output));
    assert!(error(&output).contains("suite.yaml"), "{}", error(&output));

    house.start().await?;
    for (done, exit) in [
        (&["status"][..], 0),
        (&["generations"], 0),
        (&["verdicts"], 0),
        (&["stages"], 0),
        (&["jobs"], 0),
        (&["ledger", "show"], 0),
        (&["ledger", "verify"], 0),
        (&["suite", "check"], 0),
        (&["recipe", "show"], 0),
        (&["rollback", "--reason", "back"], 3),
        (&["jobs", "request", "hot_update"], 3),
        (&["infer", "hello"], 4),
    ] {
        let output = house.run(done).await?;
        assert_eq!(code(&output), Some(exit), "{done:?}: {}", error(&output));
        assert_eq!(error(&output).is_empty(), exit == 0, "{done:?}: {}", error(&output));
    }
    for machine in [
        &["status"][..],
        &["generations"],
        &["verdicts"],
        &["stages"],
        &["jobs"],
        &["ledger", "show"],
        &["ledger", "verify"],
        &["suite", "check"],
        &["config", "show"],
    ] {
        house.json(machine).await?;
    }
    house.kill();
    let output = house.run(&["status"]).await?;
    assert_eq!(
        code(&output),
        Some(4),
        "its address is known, and nobody is there: {}",
        error(&output)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_house_says_what_is_in_its_way() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    house.start().await?;
    // The same data.
    let output = house.run(&["up", "--grpc", ":0", "--http", ":0", "--kafka-listen", ":0"]).await?;
    assert_eq!(code(&output), Some(1), "{}", error(&output));
    assert!(error(&output).contains("in use by another"), "{}", error(&output));
    // The same port.
    let taken = house.grpc().to_owned();
    let other = House::build("")?;
    let output =
        other.run(&["up", "--grpc", &taken, "--http", ":0", "--kafka-listen", ":0"]).await?;
    assert_eq!(code(&output), Some(1), "{}", error(&output));
    let error = error(&output);
    assert!(error.contains(&taken) && error.contains("--grpc"), "{error}");
    assert!(house.overview().await.is_ok(), "the first one does not mind");
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_win_over_environment_over_file_over_defaults() -> anyhow::Result<()> {
    let house = House::build("")?;
    let lag = |output: &Output| -> anyhow::Result<[Value; 3]> {
        let shown: Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| anyhow::anyhow!("{}", error(output)))?;
        let listen = shown["listen"]["grpc"].clone();
        Ok([listen, shown["curator"]["batch"].clone(), shown["stream"]["topic_prefix"].clone()])
    };
    let show = ["config", "show", "--output", "json"];
    let defaults = lag(&with_env(&house, &[], &show)?)?;
    assert_eq!(defaults, [json!("127.0.0.1:8001"), json!(512), json!("tidegate")]);

    house.configure(
        "[curator]\nbatch = 100\n[stream]\ntopic_prefix = 'filed'\n[listen]\ngrpc = '127.0.0.1:9001'\n",
    )?;
    let filed = lag(&with_env(&house, &[], &show)?)?;
    assert_eq!(filed, [json!("127.0.0.1:9001"), json!(100), json!("filed")]);

    let env =
        [("TIDEGATE_STREAM__TOPIC_PREFIX", "said"), ("TIDEGATE_LISTEN__GRPC", "127.0.0.1:9002")];
    let said = lag(&with_env(&house, &env, &show)?)?;
    assert_eq!(said, [json!("127.0.0.1:9002"), json!(100), json!("said")]);

    let flagged = lag(&with_env(&house, &env, &[&show[..], &["--grpc", ":9003"]].concat())?)?;
    assert_eq!(flagged, [json!("127.0.0.1:9003"), json!(100), json!("said")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named() -> anyhow::Result<()> {
    let house = House::build("")?;
    for (config, named) in [
        ("[curator]\nbatsch = 3\n", "batsch"),
        ("[gateway]\nheld = 'two'\n", "held"),
        ("[gateway]\nheld = 0\n", "gateway.held"),
        ("[curator]\nbatch = 0\n", "curator.batch"),
        ("[controller.schedule]\nhot_update = 'often'\n", "controller.schedule.hot_update"),
        ("[controller.bootstrap]\nmin_labelled = 0\n", "min_labelled"),
        ("[trainer.recipe.hot_update]\nbatch = 0\n", "hot_update.batch"),
        ("[evaluator]\nregion = 'ATLANTIS'\n", "evaluator.region"),
        ("this is no TOML", "TOML"),
    ] {
        house.configure(config)?;
        let args = ["up", "--grpc", ":0", "--http", ":0", "--kafka-listen", ":0"];
        let output = house.run(&args).await?;
        assert!(!output.status.success(), "{config} was taken");
        let said = error(&output);
        assert!(said.contains(named), "{config}: {said}");
    }
    house.configure("")?;
    let output = with_env(&house, &[("TIDEGATE_CURATOR__BATSCH", "3")], &["config", "show"])?;
    assert!(!output.status.success() && error(&output).contains("batsch"), "{}", error(&output));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_names_what_flags_name() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    house.start().await?;
    let file = house.folder().join("other.toml");
    std::fs::write(&file, "[curator]\nbatch = 77\n")?;
    // What the build and the tests are told by must not be taken for configuration.
    let env = [
        ("TIDEGATE_CONFIG", file.to_str().unwrap()),
        ("TIDEGATE_ENDPOINT", house.grpc()),
        ("TIDEGATE_TOKEN", "a-token"),
        ("TIDEGATE_CACHE", "/nowhere"),
    ];
    let mut bare = std::process::Command::new(tidegate_tests::binary());
    let output = bare.envs(env).args(["config", "show", "--output", "json"]).output()?;
    let shown: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", error(&output)));
    assert_eq!(shown["curator"]["batch"], 77);
    let mut bare = std::process::Command::new(tidegate_tests::binary());
    let output = bare.envs(env).arg("status").output()?;
    assert_eq!(code(&output), Some(0), "{}", error(&output));
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_shown() -> anyhow::Result<()> {
    let house = House::build(
        "[[listen.tokens]]\nname = 'ana'\ntoken = 'hunter2-token'\nrole = 'approver'\n\
         [stream.properties]\n'sasl.password' = 'hunter2-kafka'\n\
         [ledger.store.redis]\nurl = 'redis://:hunter2-redis@127.0.0.1:1/'\n",
    )?;
    for format in ["table", "json"] {
        let output = house.run(&["config", "show", "--output", format]).await?;
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", error(&output));
        assert!(shown.contains("ana") && shown.contains("***"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // Nor when it fails.
    let output = house.run(&["up", "--grpc", ":0", "--http", ":0", "--kafka-listen", ":0"]).await?;
    assert!(!output.status.success());
    assert!(!error(&output).contains("hunter2"), "{}", error(&output));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_completions_print() -> anyhow::Result<()> {
    let house = House::build("")?;
    for shell in ["bash", "zsh", "fish"] {
        let output = house.run(&["completions", shell]).await?;
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && script.contains("rollback"), "{shell}");
    }
    let output = house.run(&["completions", "bash"]).await?;
    let script = house.folder().join("completions.bash");
    std::fs::write(&script, output.stdout)?;
    let read = std::process::Command::new("bash").arg("-n").arg(&script).output()?;
    assert!(read.status.success(), "bash reads it: {}", error(&read));
    for args in [&["--help"][..], &["--version"], &["up", "--help"], &["jobs", "request", "--help"]]
    {
        assert!(house.run(args).await?.status.success(), "{args:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_address_without_protection_is_refused() -> anyhow::Result<()> {
    let house = House::build("")?;
    let free = ["--kafka-listen", ":0"];
    for open in [["--grpc", "0.0.0.0:0", "--http", ":0"], ["--grpc", ":0", "--http", "[::]:0"]] {
        let output = house.run(&[&["up"], &open[..], &free].concat()).await?;
        assert!(!output.status.success(), "{open:?} was opened");
        assert!(error(&output).contains("TLS"), "{open:?}: {}", error(&output));
    }
    let (cert, key) = certificate(house.folder())?;
    house.configure(&format!("[listen.tls]\ncert = {cert:?}\nkey = {key:?}\n"))?;
    let open = ["up", "--grpc", "0.0.0.0:0", "--http", ":0", "--kafka-listen", ":0"];
    let output = house.run(&open).await?;
    assert!(!output.status.success() && error(&output).contains("tokens"), "{}", error(&output));
    house.configure("")?;
    let open = ["up", "--grpc", ":0", "--http", ":0", "--kafka-listen", "0.0.0.0:0"];
    let output = house.run(&open).await?;
    assert!(!output.status.success() && error(&output).contains("loopback"), "{}", error(&output));
    Ok(())
}

/// A certificate of our own making for 127.0.0.1.
fn certificate(folder: &Path) -> anyhow::Result<(String, String)> {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"])
        .arg("subjectAltName=DNS:localhost,IP:127.0.0.1")
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()?;
    anyhow::ensure!(made.status.success(), "openssl: {}", error(&made));
    Ok((cert.display().to_string(), key.display().to_string()))
}

const ROLES: [&str; 4] = ["client", "viewer", "operator", "approver"];

/// A house on an open address, with TLS and one token for each role.
async fn guarded() -> anyhow::Result<(House, String)> {
    let mut house = House::of("up", "", &["--grpc", "0.0.0.0:0", "--http", "0.0.0.0:0"])?;
    let (cert, key) = certificate(house.folder())?;
    let tokens: String = ROLES
        .map(|role| {
            format!(
                "[[listen.tokens]]\nname = 'the-{role}'\ntoken = '{role}-token'\nrole = '{role}'\n"
            )
        })
        .concat();
    house.configure(&format!("[listen.tls]\ncert = {cert:?}\nkey = {key:?}\n{tokens}"))?;
    house.start().await?;
    Ok((house, cert))
}

fn local(address: &str) -> String {
    address.replace("0.0.0.0", "127.0.0.1")
}

async fn channel(house: &House, cert: &str) -> anyhow::Result<Channel> {
    let ca = Certificate::from_pem(std::fs::read(cert)?);
    let endpoint = Endpoint::from_shared(format!("https://{}", local(house.grpc())))?;
    Ok(endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca))?.connect().await?)
}

fn bearing<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a token is ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn said<T>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// What inference, overview, a job request and a rollback are answered with.
async fn calls(channel: &Channel, token: Option<&str>) -> [Code; 4] {
    use tidegate_contracts::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
    let mut control = v1::control_client::ControlClient::new(channel.clone());
    let mut gateway = GrpcInferenceServiceClient::new(channel.clone());
    let question = tidegate_tests::question(&["hello"], "");
    let job = v1::RequestJobRequest {
        kind: "cold_start".into(),
        reason: "to see who may".into(),
        actor: "somebody-else".into(),
        ..Default::default()
    };
    let back = v1::RollbackRequest { reason: "to see who may".into(), ..Default::default() };
    [
        said(gateway.model_infer(bearing(token, question)).await),
        said(control.get_overview(bearing(token, v1::GetOverviewRequest {})).await),
        said(control.request_job(bearing(token, job)).await),
        said(control.rollback(bearing(token, back)).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_allows_what_its_role_allows() -> anyhow::Result<()> {
    use Code::{FailedPrecondition, Ok as Fine, PermissionDenied, Unauthenticated, Unavailable};
    let (mut house, cert) = guarded().await?;
    let channel = channel(&house, &cert).await?;
    for nobody in [None, Some("guessed"), Some("")] {
        assert_eq!(calls(&channel, nobody).await, [Unauthenticated; 4], "{nobody:?}");
    }
    // No champion yet, so allowed inference is unavailable, and there is nothing to go back to.
    for (role, wanted) in [
        ("client", [Unavailable, PermissionDenied, PermissionDenied, PermissionDenied]),
        ("viewer", [Unavailable, Fine, PermissionDenied, PermissionDenied]),
        ("operator", [Unavailable, Fine, Fine, PermissionDenied]),
        ("approver", [Unavailable, Fine, Fine, FailedPrecondition]),
    ] {
        let token = format!("{role}-token");
        // One cold start at a time: the one of the role before has ended first.
        let found = until("the job before has ended", Duration::from_secs(60), async || {
            let found = calls(&channel, Some(&token)).await;
            (found[2] != FailedPrecondition).then_some(found)
        })
        .await;
        assert_eq!(found, wanted, "{role}");
    }

    let mut control = v1::control_client::ControlClient::new(channel);
    let list = bearing(Some("viewer-token"), v1::ListJobsRequest { limit: 10 });
    let jobs = control.list_jobs(list).await?.into_inner().jobs;
    assert!(
        jobs.iter().all(|job| job.requested_by.contains("the-")),
        "names are the tokens': {jobs:?}"
    );

    let url = |path: &str| local(&house.url(path));
    let secured = |token: &str, path: &str, more: &[&str]| {
        let header = format!("authorization: Bearer {token}");
        curl(&[&["--cacert", &cert, "--header", &header], more, &[&url(path)]].concat())
    };
    assert_eq!(curl(&["--cacert", &cert, &url("/api/v1/overview")])?.status, 401);
    assert_eq!(curl(&["--cacert", &cert, &url("/v2")])?.status, 401);
    assert_eq!(secured("guessed", "/api/v1/overview", &[])?.status, 401);
    assert_eq!(secured("client-token", "/api/v1/overview", &[])?.status, 403);
    assert_eq!(secured("client-token", "/v2", &[])?.status, 200);
    assert_eq!(secured("viewer-token", "/api/v1/overview", &[])?.status, 200);
    assert_eq!(secured("viewer-token", "/", &[])?.status, 200);
    let job = [
        "--header",
        "content-type: application/json",
        "--data",
        r#"{"kind":"cold_start","reason":"x"}"#,
    ];
    assert_eq!(secured("viewer-token", "/api/v1/jobs", &job)?.status, 403);
    // No TLS, no talk; and nobody trusts this certificate unasked.
    assert!(
        curl(&[&url("/v2/health/live").replace("https", "http")]).is_err_and(|_| true) || {
            curl(&[&url("/v2/health/live").replace("https", "http")])?.status >= 400
        }
    );
    assert!(curl(&[&url("/v2/health/live")]).is_err());
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_speaks_tls_and_tokens() -> anyhow::Result<()> {
    let (mut house, cert) = guarded().await?;
    let endpoint = format!("https://{}", local(house.grpc()));
    let with = |token: &'static str, args: &[&str]| {
        let more = ["--endpoint", &endpoint, "--ca", &cert, "--token", token];
        house.command().args([args, &more].concat()).output()
    };
    let output = with("viewer-token", &["status", "--output", "json"])?;
    assert_eq!(code(&output), Some(0), "{}", error(&output));
    let output = with("viewer-token", &["jobs", "request", "cold_start"])?;
    assert_eq!(code(&output), Some(3), "{}", error(&output));
    let output = with("guessed", &["status"])?;
    assert_eq!(code(&output), Some(3), "{}", error(&output));
    assert!(!error(&output).contains("guessed"), "a token is not repeated: {}", error(&output));
    let output = with("client-token", &["infer", "hello"])?;
    assert_eq!(code(&output), Some(4), "no champion yet: {}", error(&output));
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn free_ports_are_chosen_and_told() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    house.start().await?;
    let told = house.endpoints().clone();
    for address in [&told.kafka, told.grpc.as_ref().unwrap(), told.http.as_ref().unwrap()] {
        assert!(!address.ends_with(":0"), "{told:?}");
        assert!(TcpListener::bind(address).is_err(), "{address} is in use");
        assert!(house.log().contains(address), "{address} is in the log");
    }
    assert!(!told.tls);
    let metrics = curl(&[&house.url("/metrics")])?;
    assert!(metrics.status == 200 && metrics.body.contains("tidegate_"), "{}", metrics.body);
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_producer_names_the_line_that_is_wrong() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    house.start().await?;
    let file = house.folder().join("lines.jsonl");
    let good = r#"{"id":"a","parts":[{"text":"hello"}],"label":"x"}"#;
    let late = r#"{"id":"a","label":"x"}"#;
    std::fs::write(&file, format!("{good}\n\n{late}\nnot JSON\n"))?;
    let path = file.to_str().unwrap();
    let output = house.run(&["produce", path]).await?;
    assert!(!output.status.success());
    assert!(error(&output).contains("line 4"), "{}", error(&output));
    let output = house.run(&["produce", path, "--raw", "--output", "json"]).await?;
    assert!(output.status.success(), "{}", error(&output));
    let acks = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Value> = acks.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 3, "{acks}");
    assert!(lines.iter().all(|ack| ack["topic"] == "tidegate.events"), "{acks}");
    house.stop()
}
