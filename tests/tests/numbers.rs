//! A stream whose labels are numbers: published, learnt, judged by the built-in suite, answered with
//! intervals, learnt on, and kept clean.
use std::time::Duration;

use serde_json::Value;
use tidegate_contracts::{Class, Domain, Event, EventId, FeatureValue, Part, proto::v1};
use tidegate_stream::Message;
use tidegate_tests::{Accounts, Chance, House, until};

const PATIENCE: Duration = Duration::from_secs(240);

/// All that has to be said: numbers are learnt, and nothing else is a label.
const CONFIG: &str = "[trainer.recipe.architecture]\ntask = \"regression\"\n\
                      [curator.curation.validate]\nlabels = \"numbers\"\n";

/// A flat: where it is in words, how large in a table, and its rent.
fn flat(chance: &mut Chance, number: usize) -> (Event, f64) {
    let places = [("by the station", 8.0), ("in the old town", 15.0), ("outside", 6.0)];
    let (place, per_metre) = chance.pick(&places);
    let metres = 20.0 + 100.0 * chance.share();
    let rent = metres * per_metre + 60.0 * chance.share();
    let text = format!("a flat {place}, offer {}", chance.below(10_000));
    let table = [("metres".to_owned(), FeatureValue::Number(metres))];
    let event = Event {
        id: EventId::new(format!("flat-{number}")),
        time: chrono::Utc::now(),
        domain: Domain::new("default"),
        groups: [("size".to_owned(), if metres < 60.0 { "small" } else { "large" }.to_owned())]
            .into(),
        parts: vec![Part::Text(text), Part::Features(table.into())],
        label: Some(Class::new(format!("{rent:.2}"))),
        weight: 1.0,
    };
    (event, rent)
}

/// Publishes `count` flats with a number from `from` on; `lie` has a say in their labels.
async fn publish(
    house: &House,
    from: usize,
    count: usize,
    lie: impl Fn(usize) -> Option<String>,
) -> anyhow::Result<()> {
    let mut chance = Chance::new(from as u64);
    let messages = (from..from + count).map(|number| {
        let (mut event, _) = flat(&mut chance, number);
        if let Some(label) = lie(number) {
            event.label = Some(Class::new(label));
        }
        let value = event.encode(tidegate_contracts::ContentType::Json);
        Message::new("tidegate.events", value).key(event.id.to_string())
    });
    house.stream()?.sink()?.send_all(messages.collect()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_numbers_is_learnt_judged_and_served() -> anyhow::Result<()> {
    let mut house = House::build(CONFIG)?;
    house.start().await?;
    publish(&house, 0, 900, |_| None).await?;
    let first = until_serves(&house, "").await;

    let explained = explained(&house).await?;
    println!("first champion: {explained:.3} of the variance of rents");
    assert!(explained > 0.7, "{explained}");
    let verdict = house.json(&["verdicts", "champion"]).await?;
    let suite = verdict["suite"].as_str().unwrap_or_default();
    assert!(suite.starts_with("regression "), "{suite}");

    // More of them are learnt; a label that is no number is rejected, and nothing waits for it.
    publish(&house, 1_000, 400, |number| (number == 1_007).then(|| "dear".to_owned())).await?;
    let second = until_serves(&house, &first).await;
    let generation = house.json(&["generations", "champion"]).await?;
    assert_eq!(generation["kind"], "hot_update");
    let verdict = house.json(&["verdicts", "champion"]).await?;
    let document: Value = serde_json::from_str(verdict["documentJson"].as_str().unwrap())?;
    assert_eq!(document["environment"]["anchor"], first.as_str(), "what the line began with");
    let checks = document["checks"].as_array().unwrap();
    let anchor = checks.iter().find(|check| check["id"] == "anchor").unwrap();
    assert_eq!(anchor["state"], "pass", "{anchor}");
    let said = house.json(&["infer", "a flat outside"]).await?;
    let (low, high) = (&said[0]["interval"][0], &said[0]["interval"][1]);
    assert!(low.as_f64().unwrap() < high.as_f64().unwrap(), "{said}");
    assert!(said[0].get("probability").is_none(), "a number has an interval instead: {said}");
    let fates = Accounts::read(&house.stream()?).await?.counts();
    assert_eq!(fates.get("events label_no_number"), Some(&1), "{fates:?}");

    // Rents in other money: what the champion says is nowhere near, and the gate does not have it.
    publish(&house, 2_000, 400, |number| Some(format!("{}", 5 + number % 40))).await?;
    let blocked = until("the other money is judged", PATIENCE, async || {
        let all = house.json(&["generations"]).await.ok()?;
        let newest = all.as_array()?.iter().find(|one| one["parent"] == second.as_str())?;
        let state = newest["state"].as_str()?;
        (state != "candidate").then(|| state.to_owned())
    });
    assert_eq!(blocked.await, "blocked");
    assert_eq!(house.overview().await?.champion.map(|one| one.id), Some(second));
    house.stop()
}

/// What the champion explains of flats it has not seen, asked as events.
async fn explained(house: &House) -> anyhow::Result<f64> {
    let mut chance = Chance::new(77);
    let flats: Vec<(Event, f64)> = (0..200).map(|at| flat(&mut chance, 90_000 + at)).collect();
    let mean = flats.iter().map(|(_, rent)| rent).sum::<f64>() / flats.len() as f64;
    let (mut off, mut all, mut inside) = (0.0, 0.0, 0);
    let mut client = v1::predict_client::PredictClient::new(house.channel().await?);
    for (event, rent) in &flats {
        let event = Some(Event { label: None, ..event.clone() }.to_proto());
        let request = v1::PredictEventRequest { event, ..Default::default() };
        let said = client.predict_event(request).await?.into_inner();
        let value = said.value.expect("a number is answered");
        assert_eq!(said.label.parse::<f64>()?.to_bits(), value.to_bits());
        off += (value - rent).powi(2);
        all += (mean - rent).powi(2);
        inside += usize::from((said.low()..=said.high()).contains(rent));
    }
    println!("{inside} of {} in their 90 % intervals", flats.len());
    assert!(inside >= 150, "{inside}");
    Ok(1.0 - off / all)
}

/// Waits for a champion after `before`; where the gate asks for an operator, one says yes.
async fn until_serves(house: &House, before: &str) -> String {
    until("a champion of numbers serves", PATIENCE, async || {
        let overview = house.overview().await.ok()?;
        house.approve_if_asked(&overview).await;
        let champion = overview.champion?.id;
        let serves = house.ask("a flat outside").await.ok()?.generation == champion;
        (champion != before && serves).then_some(champion)
    })
    .await
}
