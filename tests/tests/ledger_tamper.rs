//! Whatever is changed in the record of what happened, `tidegate ledger verify` says so: exit code
//! 5, and where.
use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde_json::{Value, json};
use tidegate_tests::{Chance, House, Redis};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const HEAD: TableDefinition<'_, (), &[u8]> = TableDefinition::new("head");

/// A house that was asked for some jobs, which had no data: a short true history.
async fn with_history(flags: &[&str]) -> anyhow::Result<House> {
    let mut house = House::of("up", "", flags)?;
    house.start().await?;
    for round in 0..4 {
        let reason = format!("round {round}: let us see");
        let args = ["jobs", "request", "cold_start", "--actor", "ana", "--reason", &reason];
        tidegate_tests::until(
            "a job may be asked for",
            std::time::Duration::from_secs(60),
            async || house.run(&args).await.ok()?.status.success().then_some(()),
        )
        .await;
    }
    house.stop()?;
    Ok(house)
}

/// What `ledger verify` finds, and its exit code.
async fn verify(house: &House) -> anyhow::Result<(Option<i32>, Value)> {
    let output = house.run(&["ledger", "verify", "--output", "json"]).await?;
    let found = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| json!({ "error": String::from_utf8_lossy(&output.stderr) }));
    Ok((output.status.code(), found))
}

/// It fails, and says where.
async fn is_found(house: &House, what: &str, place: &str) -> anyhow::Result<()> {
    let (code, found) = verify(house).await?;
    assert_eq!(code, Some(5), "{what}: {found}");
    assert!(!found["ok"].as_bool().unwrap_or_default(), "{what}: {found}");
    let faults = found["faults"].as_array().unwrap_or_else(|| panic!("{what}: {found}"));
    let says = faults.iter().any(|fault| fault.as_str().is_some_and(|f| f.contains(place)));
    assert!(says, "{what}: `{place}` is in none of {faults:?}");
    Ok(())
}

async fn holds(house: &House) -> anyhow::Result<()> {
    let (code, found) = verify(house).await?;
    assert_eq!((code, &found["ok"]), (Some(0), &json!(true)), "{found}");
    Ok(())
}

fn entries(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let database = Database::create(path)?;
    let read = database.begin_read()?;
    let table = read.open_table(ENTRIES)?;
    table.iter()?.map(|row| Ok(row?.1.value().to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_of_any_entry_is_found() -> anyhow::Result<()> {
    let house = with_history(&[]).await?;
    holds(&house).await?;
    let path = house.data().join("ledger.redb");
    let stored = entries(&path)?;
    let whole = std::fs::read(&path)?;
    assert!(stored.len() >= 8, "a history to change: {} entries", stored.len());
    let mut chance = Chance::new(5);
    let mut changed = 0;
    for (index, entry) in stored.iter().enumerate() {
        // All copies: a page that was written anew leaves its old one behind.
        let places: Vec<usize> = (0..=whole.len() - entry.len())
            .filter(|&at| whole[at] == entry[0] && whole[at..at + entry.len()] == entry[..])
            .collect();
        assert!(!places.is_empty(), "entry {} stands in the file", index + 1);
        // The first and the last byte, and some between.
        let between: Vec<usize> = (0..10).map(|_| chance.below(entry.len())).collect();
        for at in [vec![0, entry.len() - 1], between].concat() {
            let mut bytes = whole.clone();
            let bit = 1 << chance.below(8);
            for place in &places {
                bytes[place + at] ^= bit;
            }
            std::fs::write(&path, bytes)?;
            let what = format!("byte {at} of {}", String::from_utf8_lossy(entry));
            is_found(&house, &what, &format!("entry {}", index + 1)).await?;
            changed += 1;
        }
    }
    println!("{changed} changes of single bits in {} entries: all found", stored.len());
    std::fs::write(&path, &whole)?;
    holds(&house).await
}

/// A change of entries and stored head.
type Edit = fn(&mut Vec<(u64, Vec<u8>)>, &mut Option<Vec<u8>>);

#[tokio::test(flavor = "multi_thread")]
async fn removed_reordered_and_rewritten_entries_are_found() -> anyhow::Result<()> {
    let house = with_history(&[]).await?;
    let path = house.data().join("ledger.redb");
    let whole = std::fs::read(&path)?;
    let changes: [(&str, Edit, &str); 8] = [
        ("one removed", |rows, _| drop(rows.remove(3)), "entry 4"),
        (
            "one removed, the rest moved up",
            |rows, _| {
                rows.remove(3);
                (1..).zip(rows).for_each(|(seq, row)| row.0 = seq);
            },
            "entry 4",
        ),
        ("the first removed", |rows, _| drop(rows.remove(0)), "entry 1"),
        ("the last removed", |rows, _| drop(rows.pop()), "the stored head"),
        ("the head removed", |_, head| *head = None, "the stored head"),
        (
            "two exchanged",
            |rows, _| {
                let (before, after) = rows.split_at_mut(4);
                std::mem::swap(&mut before[3].1, &mut after[0].1);
            },
            "entry 4",
        ),
        (
            "one there twice",
            |rows, _| {
                let last = rows[rows.len() - 1].clone();
                rows.push((last.0 + 1, last.1));
            },
            "entry",
        ),
        (
            "another actor, in JSON that is whole",
            |rows, _| {
                let text = String::from_utf8_lossy(&rows[0].1).replace("ana", "bob");
                rows[0].1 = text.into_bytes();
            },
            "entry 1",
        ),
    ];
    for (what, change, place) in changes {
        std::fs::write(&path, &whole)?;
        edit(&path, change)?;
        is_found(&house, what, place).await?;
    }
    std::fs::write(&path, &whole)?;
    edit(&path, |_, _| ())?;
    holds(&house).await
}

/// Changes the file as one would who has the same library: its checksums are right again.
fn edit(path: &Path, change: Edit) -> anyhow::Result<()> {
    let database = Database::create(path)?;
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(ENTRIES)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (seq, bytes) = row?;
            rows.push((seq.value(), bytes.value().to_vec()));
        }
        let mut heads = write.open_table(HEAD)?;
        let mut head = heads.get(())?.map(|bytes| bytes.value().to_vec());
        change(&mut rows, &mut head);
        table.retain(|_, _| false)?;
        for (seq, bytes) in &rows {
            table.insert(seq, bytes.as_slice())?;
        }
        heads.remove(())?;
        if let Some(head) = head {
            heads.insert((), head.as_slice())?;
        }
    }
    write.commit()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_in_redis_is_checked_the_same_way() -> anyhow::Result<()> {
    let redis = Redis::start()?;
    let house = with_history(&["--redis", &redis.url()]).await?;
    let url = redis.url();
    let verify = async || house.run(&["ledger", "verify", "--redis", &url]).await;
    let log = "tidegate:log";
    let length: i64 = redis.say(&["LLEN", log])?.parse()?;
    assert!(length >= 8, "a history to change: {length} entries");
    assert_eq!(verify().await?.status.code(), Some(0));

    let fails = async |what: &str, place: &str| -> anyhow::Result<()> {
        let output = verify().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(5), "{what}: {said}");
        assert!(said.contains(place), "{what}: {said}");
        Ok(())
    };
    let mut chance = Chance::new(6);
    for index in 0..length {
        let at = index.to_string();
        let entry = redis.say(&["LINDEX", log, &at])?;
        // Any digit of its hash, and any character of it at all.
        let digit = entry.find("\"hash\":\"").expect("an entry has a hash") + 8 + chance.below(64);
        for place in [digit, chance.below(entry.len())] {
            let mut bytes = entry.clone().into_bytes();
            bytes[place] = if bytes[place] == b'7' { b'8' } else { b'7' };
            redis.say(&["LSET", log, &at, &String::from_utf8(bytes)?])?;
            fails(&format!("byte {place} of {entry}"), &format!("entry {}", index + 1)).await?;
        }
        redis.say(&["LSET", log, &at, &entry])?;
    }
    let (third, fourth) = (redis.say(&["LINDEX", log, "2"])?, redis.say(&["LINDEX", log, "3"])?);
    redis.say(&["LSET", log, "2", &fourth])?;
    redis.say(&["LSET", log, "3", &third])?;
    fails("two exchanged", "entry 3").await?;
    redis.say(&["LSET", log, "2", &third])?;
    redis.say(&["LSET", log, "3", &fourth])?;
    redis.say(&["LREM", log, "1", &fourth])?;
    fails("one removed", "entry 4").await?;
    redis.say(&["LINSERT", log, "AFTER", &third, &fourth])?;
    let last = redis.say(&["RPOP", log])?;
    fails("the last removed", "the stored head").await?;
    redis.say(&["RPUSH", log, &last])?;
    assert_eq!(verify().await?.status.code(), Some(0), "and whole again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_house_notices_it_too() -> anyhow::Result<()> {
    let redis = Redis::start()?;
    let mut house = with_history(&["--redis", &redis.url()]).await?;
    house.start().await?;
    assert_eq!(house.run(&["ledger", "verify"]).await?.status.code(), Some(0));
    let first = redis.say(&["LINDEX", "tidegate:log", "0"])?;
    redis.say(&["LSET", "tidegate:log", "0", &first.replace("ana", "bob")])?;
    let output = house.run(&["ledger", "verify"]).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("entry 1"), "{said}");
    Ok(())
}
