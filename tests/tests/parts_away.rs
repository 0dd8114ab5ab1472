//! The services apart, as in production, on a real Apache Kafka and a real Redis; each part is
//! killed and comes back. What is away is waited for; the champion answers all the while; nothing
//! is lost, and nothing has its effect twice.
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tempfile::TempDir;
use tidegate_ledger::{Fact, Holder, seal};
use tidegate_tests::{Accounts, House, Kafka, Process, Redis, Topics, learnt_once, until};

/// Two curators share the partitions; what is after the dash tells them apart.
const SERVICES: [&str; 6] = ["curate-a", "curate-b", "train", "evaluate", "control", "serve"];
/// How long a part is away.
const AWAY: Duration = Duration::from_secs(4);
/// How long it may take until what was published is learnt and serves.
const LEARNT: Duration = Duration::from_secs(90);
/// Labelled records that an update is made for.
const ENOUGH: u64 = 40;
/// Lines that a service may log while a part is away and comes back: it waits, it does not rave.
const LINES: usize = 60;

/// All of production on one machine.
struct Apart {
    services: BTreeMap<&'static str, House>,
    kafka: Kafka,
    redis: Redis,
    topics: Topics,
    published: i64,
    _artifacts: TempDir,
}

impl Apart {
    async fn start() -> anyhow::Result<Self> {
        let (kafka, redis) = (Kafka::start()?, Redis::start()?);
        let artifacts = tempfile::tempdir()?;
        let keys = artifacts.path().join("keys");
        for holder in [Holder::Evaluator, Holder::Controller] {
            seal::make(&keys, &holder)?;
        }
        let mut services = BTreeMap::new();
        let (brokers, url) = (kafka.brokers(), redis.url());
        for service in SERVICES {
            let flags = ["--kafka", &brokers, "--redis", &url];
            let command = service.split('-').next().unwrap_or_default();
            let mut house = House::of(command, "", &flags)?;
            let artifacts = artifacts.path();
            house.configure_small(&format!(
                "[ledger.artifacts]\ndir = {artifacts:?}\n[ledger.keys]\ndir = {keys:?}\n"
            ))?;
            house.pin_ports();
            house.launch()?;
            services.insert(service, house);
        }
        let topics = Topics::new(41);
        let mut apart =
            Self { services, kafka, redis, topics, published: 0, _artifacts: artifacts };
        for service in SERVICES {
            apart.until_up(service).await;
        }
        Ok(apart)
    }

    fn of(&mut self, service: &str) -> &mut House {
        self.services.get_mut(service).expect("it is one of them")
    }

    async fn until_up(&mut self, service: &str) {
        let house = self.of(service);
        until(&format!("{service} is up"), Duration::from_secs(60), async || {
            house.is_up().then_some(())
        })
        .await;
    }

    async fn champion(&self) -> Option<String> {
        Some(self.services["control"].overview().await.ok()?.champion?.id)
    }

    /// Publishes `n` texts.
    async fn publish(&mut self, n: usize) -> anyhow::Result<()> {
        let texts = self.topics.labelled(n);
        self.services["serve"].publish(&texts).await?;
        self.published += texts.len() as i64;
        Ok(())
    }

    /// Publishes enough for an update, and waits until all there is has been curated and learnt,
    /// up to what is too little for an update, and serves.
    async fn learn_more(&mut self) -> anyhow::Result<()> {
        self.publish(100).await?;
        let stream = self.services["serve"].stream()?;
        let began = Instant::now();
        until("what came is learnt, and serves", LEARNT, async || {
            let marks = stream.watermarks(&stream.topics().curated).await.ok()?;
            let curated: i64 = marks.values().map(|(low, high)| high.0 - low.0).sum();
            let overview = self.services["control"].overview().await.ok()?;
            let champion = overview.champion.filter(|_| overview.lag_records < ENOUGH)?;
            let answer = self.services["serve"].ask("a badger under the oak").await.ok()?;
            (curated == self.published && answer.generation == champion.id).then_some(())
        })
        .await;
        println!("learnt after {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Nobody has ended, and nobody raves.
    fn all_wait(&mut self, part: &str, before: &BTreeMap<&str, usize>) {
        for (service, house) in &mut self.services {
            assert!(house.process().ended().is_none(), "{service} ended while {part} was away");
            let log = house.log();
            assert!(!log.contains("panicked"), "{service}: {log}");
            let lines = log.lines().count() - before[service];
            println!("{part} away: {service} logged {lines} lines");
            assert!(lines <= LINES, "{service} logged {lines} lines while {part} was away");
        }
    }

    fn lines(&self) -> BTreeMap<&'static str, usize> {
        self.services
            .iter()
            .map(|(service, house)| (*service, house.log().lines().count()))
            .collect()
    }

    /// Which services said, since then, that they wait for this part.
    fn waiting(&self, before: &BTreeMap<&str, usize>, words: &[&str]) -> Vec<&'static str> {
        let says = |service: &&&str| {
            let log = self.services[**service].log();
            let mut news = log.lines().skip(before[**service]);
            news.any(|line| line.contains("WARN") && words.iter().any(|word| line.contains(word)))
        };
        self.services.keys().filter(says).copied().collect()
    }
}

/// `tidegate infer`, which asks all the while.
struct Client {
    process: Process,
    log: PathBuf,
}

#[derive(Deserialize)]
struct Asked {
    latency_ms: f64,
    error: Option<String>,
}

impl Client {
    fn start(serve: &House) -> anyhow::Result<Self> {
        let (texts, log) = (serve.folder().join("texts"), serve.folder().join("asked.jsonl"));
        std::fs::write(&texts, "a deer in the clearing\nthe pilot at the quay\n")?;
        let mut command = serve.command();
        command.args(["--endpoint", serve.grpc(), "infer", "--rate", "20", "--file"]);
        command.arg(texts).arg("--log").arg(&log);
        let process = Process::piped("tidegate infer", command, &serve.folder().join("infer.log"))?;
        Ok(Self { process, log })
    }

    /// How many it asked; each was answered.
    fn stop(mut self) -> anyhow::Result<usize> {
        drop(self.process.child().stdin.take());
        let status = self.process.finish(Duration::from_secs(30))?;
        anyhow::ensure!(status.success(), "the client ended with {status}");
        let log = std::fs::read_to_string(&self.log)?;
        let asked: Vec<Asked> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let failed: Vec<_> = asked.iter().filter_map(|one| one.error.as_ref()).collect();
        let worst = asked.iter().map(|one| one.latency_ms).fold(0.0, f64::max);
        println!(
            "{} questions, {} failed, the slowest took {worst:.0} ms",
            asked.len(),
            failed.len()
        );
        assert!(failed.is_empty(), "{failed:?}");
        Ok(asked.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_is_waited_for_and_nothing_is_lost_or_doubled() -> anyhow::Result<()> {
    let mut house = Apart::start().await?;
    house.learn_more().await?;
    let client = Client::start(&house.services["serve"])?;

    // Redis: the ledger and the leases.
    let before = house.lines();
    house.redis.kill();
    house.publish(20).await?;
    tokio::time::sleep(AWAY).await;
    house.services["serve"].ask("the gateway goes on").await?;
    house.redis.restart()?;
    house.learn_more().await?;
    house.all_wait("redis", &before);
    let waiting = house.waiting(&before, &["ledger", "redis", "Redis"]);
    assert_eq!(waiting, house.services.keys().copied().collect::<Vec<_>>(), "each says so");

    // Kafka: the stream.
    let before = house.lines();
    house.kafka.kill();
    tokio::time::sleep(AWAY).await;
    house.services["serve"].ask("the gateway goes on").await?;
    house.kafka.restart()?;
    house.learn_more().await?;
    house.all_wait("kafka", &before);
    let waiting = house.waiting(&before, &["kafka", "Kafka", "broker"]);
    assert!(waiting.contains(&"curate-a"), "who reads all the time says so: {waiting:?}");

    // Each of ours, killed while there is work to be done.
    for service in ["curate-a", "train", "evaluate", "control"] {
        house.publish(100).await?;
        house.of(service).kill();
        house.services["serve"].ask("the gateway goes on").await?;
        house.of(service).launch()?;
        house.until_up(service).await;
        house.learn_more().await?;
    }
    let asked = client.stop()?;
    assert!(asked > 200, "the client asked all along: {asked}");

    // The gateway itself: back at once, with the champion.
    let champion = house.champion().await;
    house.of("serve").kill();
    house.of("serve").launch()?;
    let began = Instant::now();
    let answer = until("a champion answers after a restart", Duration::from_secs(30), async || {
        house.services["serve"].ask("is anybody there?").await.ok()
    })
    .await;
    println!("the gateway was back after {:.1} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(Some(answer.generation), champion);
    house.until_up("serve").await;

    accounts_are_square(&house).await?;
    for service in SERVICES {
        house.of(service).stop()?;
    }
    Ok(())
}

async fn accounts_are_square(house: &Apart) -> anyhow::Result<()> {
    let stream = house.services["serve"].stream()?;
    let accounts = until("each record is accounted for", Duration::from_secs(60), async || {
        let accounts = Accounts::read(&stream).await.ok()?;
        accounts.open().is_empty().then_some(accounts)
    })
    .await;
    println!("{:?}", accounts.counts());
    assert!(accounts.doubled().is_empty(), "{:?}", accounts.doubled());
    assert!(accounts.strangers.is_empty(), "{:?}", accounts.strangers);
    let control = &house.services["control"];
    let facts: Vec<Fact> = control.facts().await?.into_iter().map(|(_, fact)| fact).collect();
    let promotions = learnt_once(&facts)?;
    assert!(promotions >= 7, "{promotions} promotions");
    assert_eq!(control.json(&["ledger", "verify"]).await?["ok"], true);
    Ok(())
}
