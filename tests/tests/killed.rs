//! `kill -9` of the whole house at random moments of a running stream of real mail: nothing that
//! was acknowledged is lost, nothing has its effect twice, and a champion is back at once.
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::ChildStdin,
    sync::mpsc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tidegate_contracts::{Offset, Partition, SourcePosition};
use tidegate_ledger::Fact;
use tidegate_tests::{Account, Accounts, Chance, House, Process, cache, learnt_once, until};

/// Of moments and mails; another by `TIDEGATE_SEED`.
const SEED: u64 = 20_021_122;
const KILLS: usize = 20;
/// How long a champion may take to answer after a restart.
const BACK: Duration = Duration::from_secs(5);
/// Mails between an event and its label.
const LATE: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing_double_nothing_and_a_champion_is_back_at_once()
-> anyhow::Result<()> {
    let seed = std::env::var("TIDEGATE_SEED").map_or(Ok(SEED), |seed| seed.parse())?;
    println!("seed {seed}");
    let mut chance = Chance::new(seed);
    let mut house = House::build("")?;
    house.configure_eager("")?;
    house.pin_ports();
    house.start().await?;
    let producer = Producer::start(&house, mails(seed)?)?;
    house.until_champion().await;

    let mut waits = Vec::new();
    for kill in 0..KILLS {
        // Most of the time while it works, now and then while it is still coming up.
        let early = kill % 4 == 3;
        let moment = Duration::from_secs_f64(chance.share() * if early { 0.6 } else { 3.0 });
        if !early && kill > 0 {
            waits.push(until_answered(&house).await);
        }
        tokio::time::sleep(moment).await;
        house.kill();
        // Sometimes it is away for long enough to be missed.
        tokio::time::sleep(Duration::from_secs_f64(chance.share() * 0.7)).await;
        house.launch()?;
    }
    waits.push(until_answered(&house).await);
    until("the house says where it is", BACK, async || house.is_up().then_some(())).await;

    let acks = producer.finish()?;
    println!("{KILLS} kills; {} records acknowledged", acks.len());
    assert!(acks.len() > 500, "the stream ran all along");
    let accounts = until("every record is accounted for", Duration::from_secs(120), async || {
        let accounts = Accounts::read(&house.stream().ok()?).await.ok()?;
        accounts.open().is_empty().then_some(accounts)
    })
    .await;
    println!("{:?}", accounts.counts());
    for ack in &acks {
        let at = ack.position();
        assert_eq!(accounts.keys.get(&at), Some(&ack.id), "{at} was acknowledged and is lost");
    }
    assert_eq!(accounts.doubled(), Vec::<&SourcePosition>::new());
    assert!(accounts.strangers.is_empty(), "{:?}", accounts.strangers);
    each_id_is_curated_once(&accounts);

    waits.sort();
    let (worst, median) = (waits[waits.len() - 1], waits[waits.len() / 2]);
    println!("a champion answered {median:?} (median), {worst:?} (worst) after a restart");
    assert!(worst <= BACK, "{waits:?}");

    // On a busy machine no update may have had the time to end between two kills: then it ends now.
    let went_on = async || {
        let facts = house.facts().await.ok()?;
        let promoted = facts.iter().filter(|(_, fact)| matches!(fact, Fact::Promoted { .. }));
        (promoted.count() >= 2).then_some(())
    };
    until("updates go on after the kills", Duration::from_secs(120), went_on).await;
    let facts: Vec<Fact> = house.facts().await?.into_iter().map(|(_, fact)| fact).collect();
    let promotions = learnt_once(&facts)?;
    let again = |fact: &&Fact| matches!(fact, Fact::JobStarted { attempt, .. } if *attempt > 1);
    let resumed = facts.iter().filter(again).count();
    assert!(resumed > 0, "some kill met a training");
    println!("{promotions} promotions; {resumed} times a killed training went on");
    assert!(promotions >= 2, "updates went on between the kills");
    assert_eq!(house.json(&["ledger", "verify"]).await?["ok"], true);
    house.stop()?;
    let at_rest = house.json(&["ledger", "verify"]).await?;
    assert_eq!(at_rest["ok"], true, "{at_rest}");
    Ok(())
}

/// Asks until there is an answer; how long that took.
async fn until_answered(house: &House) -> Duration {
    let began = Instant::now();
    until("a champion answers after a restart", Duration::from_secs(30), async || {
        house.ask("is anybody there?").await.ok()
    })
    .await;
    began.elapsed()
}

/// An event that was sent twice is curated once, and its copy is rejected as what it is.
fn each_id_is_curated_once(accounts: &Accounts) {
    let mut by_id: BTreeMap<&str, Vec<&Account>> = BTreeMap::new();
    for (at, effects) in accounts.records.iter().filter(|(at, _)| at.topic.ends_with(".events")) {
        by_id.entry(&accounts.keys[at]).or_default().extend(effects);
    }
    let mut copies = 0;
    for (id, effects) in by_id {
        let curated = effects.iter().filter(|effect| ***effect == Account::Curated).count();
        assert!(curated <= 1, "{id} is curated {curated} times: {effects:?}");
        for effect in effects {
            if let Account::Rejected(code) = effect {
                assert!(code.contains("duplicate"), "{id} is rejected as {code}");
                copies += usize::from(code == "duplicate_id");
            }
        }
    }
    assert!(copies > 10, "the producer repeated itself, and it was noticed {copies} times");
}

/// What the producer prints for each record the broker has.
#[derive(Debug, Deserialize)]
struct Ack {
    id: String,
    topic: String,
    partition: i32,
    offset: i64,
}

impl Ack {
    fn position(&self) -> SourcePosition {
        let (partition, offset) = (Partition(self.partition), Offset(self.offset));
        SourcePosition { topic: self.topic.clone(), partition, offset }
    }
}

/// `tidegate produce` in a process of its own, which outlives every kill of the broker.
struct Producer {
    process: Process,
    feeder: std::thread::JoinHandle<()>,
    enough: mpsc::Sender<()>,
    acks: std::thread::JoinHandle<Vec<Ack>>,
}

impl Producer {
    fn start(house: &House, mails: Vec<Mail>) -> anyhow::Result<Self> {
        let mut command = house.command();
        command.args(["produce", "--output", "json", "--kafka", &house.endpoints().kafka]);
        let log = house.folder().join("producer.log");
        let mut process = Process::piped("tidegate produce", command, &log)?;
        let input = process.child().stdin.take().expect("it is piped");
        let output = process.child().stdout.take().expect("it is piped");
        let (enough, stop) = mpsc::channel();
        let feeder = std::thread::spawn(move || feed(input, &mails, &stop));
        let acks = std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.map(|line| serde_json::from_str(&line).expect("an ack a line")).collect()
        });
        Ok(Self { process, feeder, enough, acks })
    }

    /// Sends the labels that are still due, and waits until all is acknowledged.
    fn finish(self) -> anyhow::Result<Vec<Ack>> {
        let Self { mut process, feeder, enough, acks } = self;
        drop(enough);
        feeder.join().expect("the feeder does not panic");
        let status = process.finish(Duration::from_secs(60))?;
        anyhow::ensure!(status.success(), "the producer ended with {status}: {}", process.log());
        Ok(acks.join().expect("every line is an ack"))
    }
}

/// Some thirty mails a second, each one's label forty mails later; every twentieth mail twice.
fn feed(mut input: ChildStdin, mails: &[Mail], stop: &mpsc::Receiver<()>) {
    let mut send = |line: String| {
        // The producer ends early only when the test has failed.
        let _ = writeln!(input, "{line}");
    };
    let mut sent = 0;
    for (number, mail) in mails.iter().enumerate() {
        send(mail.event());
        if number % 20 == 19 {
            send(mails[number - 10].event());
        }
        if number >= LATE {
            send(mails[number - LATE].label());
        }
        sent = number + 1;
        if stop.recv_timeout(Duration::from_millis(33)) != Err(mpsc::RecvTimeoutError::Timeout) {
            break;
        }
    }
    for mail in &mails[sent.saturating_sub(LATE)..sent] {
        send(mail.label());
    }
}

/// A mail of the corpus.
struct Mail {
    id: String,
    text: String,
    spam: bool,
}

impl Mail {
    fn event(&self) -> String {
        let parts = [serde_json::json!({ "text": self.text })];
        serde_json::json!({ "id": self.id, "domain": "email", "parts": parts }).to_string()
    }

    fn label(&self) -> String {
        let label = if self.spam { "spam" } else { "ham" };
        serde_json::json!({ "id": self.id, "label": label }).to_string()
    }
}

#[derive(Deserialize)]
struct Stored {
    group: String,
    text: String,
}

/// The corpus, spam and ham mixed: subject and body, the first 1,500 characters.
fn mails(seed: u64) -> anyhow::Result<Vec<Mail>> {
    let folder = cache().join("data/spam-assassin/data");
    let mut mails = Vec::new();
    for group in ["easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"] {
        for file in std::fs::read_dir(folder.join(group))? {
            let path = file?.path();
            let Ok(stored) = serde_json::from_slice::<Stored>(&std::fs::read(&path)?) else {
                continue;
            };
            let (head, body) = stored.text.split_once("\n\n").unwrap_or((&stored.text, ""));
            let subject = head.lines().find_map(|line| line.strip_prefix("Subject:"));
            let text: String =
                format!("{}\n{body}", subject.unwrap_or("")).chars().take(1_500).collect();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if !text.trim().is_empty() {
                let spam = stored.group.starts_with("spam");
                mails.push(Mail { id: format!("{group}/{name}"), text, spam });
            }
        }
    }
    anyhow::ensure!(mails.len() > 5_000, "only {} mails in {}", mails.len(), folder.display());
    mails.sort_by(|a, b| a.id.cmp(&b.id));
    let mut chance = Chance::new(seed);
    for at in (1..mails.len()).rev() {
        mails.swap(at, chance.below(at + 1));
    }
    Ok(mails)
}
