//! The broker dies, and is back.
use std::{collections::BTreeMap, time::Duration};

use tidegate_contracts::{Offset, Partition};
use tidegate_stream::Message;

use crate::{
    client::{
        fresh, from, next_record, number, numbered, stream, take, until, window, with_topic, within,
    },
    house::House,
};

pub(crate) async fn what_was_acknowledged_survives_a_kill(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 2).await;
    let group = fresh("group");
    let sink = stream.sink().unwrap();
    within(sink.send_all(numbered(&topic, 0..2_000))).await.unwrap();
    let mut member = within(stream.group(&group, &[&topic])).await.unwrap();
    next_record(&mut member).await;
    within(member.commit(&[(topic.clone(), Partition(0), Offset(1_234))])).await.unwrap();
    drop(member);
    house.kill();
    house.start();

    let marks = within(stream.watermarks(&topic)).await.unwrap();
    let expected =
        [(Partition(0), (Offset(0), Offset(2_000))), (Partition(1), (Offset(0), Offset(0)))];
    assert_eq!(marks, BTreeMap::from(expected));
    let records = within(stream.read(&window(&topic, 0, 2_000))).await.unwrap();
    assert!(records.iter().map(number).eq(0..2_000));
    let mut member = within(stream.group(&group, &[&topic])).await.unwrap();
    assert_eq!(number(&next_record(&mut member).await), 1_234);
    // The same producer goes on where it was.
    let next = within(sink.send_all(numbered(&topic, 2_000..2_001))).await.unwrap();
    assert_eq!(next, [(Partition(0), Offset(2_000))]);
}

pub(crate) async fn a_broker_that_is_away_is_waited_for(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    within(sink.send_all(numbered(&topic, 0..1))).await.unwrap();
    let mut source = stream.tail(&topic, from(0)).await.unwrap();
    take(&mut source, 1).await;
    assert!(within(stream.ready()).await);
    house.kill();
    until("the loss is noticed", async || !stream.ready().await).await;

    // Who writes, who reads, who asks and who comes new: all wait.
    let write = tokio::spawn({
        let (sink, messages) = (sink.clone(), numbered(&topic, 1..2));
        async move { sink.send_all(messages).await.unwrap() }
    });
    let read = tokio::spawn(async move { source.next().await.unwrap() });
    let ask = tokio::spawn({
        let (stream, topic) = (stream.clone(), topic.clone());
        async move { stream.watermarks(&topic).await.unwrap() }
    });
    let newcomer = crate::client::stream(house);
    let new = fresh("new");
    let create = tokio::spawn({
        let new = new.clone();
        async move { newcomer.ensure_topic(&new, 1).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        ![write.is_finished(), read.is_finished(), ask.is_finished(), create.is_finished()]
            .contains(&true)
    );

    house.start();
    assert_eq!(within(write).await.unwrap(), [(Partition(0), Offset(1))]);
    assert_eq!(number(&within(read).await.unwrap()), 1);
    assert_eq!(within(ask).await.unwrap().len(), 1);
    within(create).await.unwrap();
    assert_eq!(within(stream.watermarks(&new)).await.unwrap().len(), 1);
}

pub(crate) async fn a_group_survives_a_kill_of_the_broker(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    let mut member = within(stream.group(&fresh("group"), &[&topic])).await.unwrap();
    within(sink.send_all(numbered(&topic, 0..10))).await.unwrap();
    for expected in 0..10 {
        assert_eq!(number(&next_record(&mut member).await), expected);
    }
    within(member.commit(&[(topic.clone(), Partition(0), Offset(10))])).await.unwrap();
    house.kill();
    house.start();
    within(sink.send_all(numbered(&topic, 10..20))).await.unwrap();
    for expected in 10..20 {
        assert_eq!(number(&next_record(&mut member).await), expected);
    }
    // It is a member again, or will be: what it did before its place was lost may be refused.
    until("the commit", async || {
        let commit = member.commit(&[(topic.clone(), Partition(0), Offset(20))]).await;
        if commit.is_err() {
            let _ = tokio::time::timeout(Duration::from_millis(100), member.next()).await;
        }
        commit.is_ok()
    })
    .await;
}

pub(crate) async fn nothing_is_lost_or_doubled_by_kills_in_a_running_stream(house: &mut dyn House) {
    const KILLS: usize = 4;
    let (_, topic) = with_topic(house, 1).await;
    let stream = stream(house);
    let sink = stream.sink().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (report, mut progress) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn({
        let topic = topic.clone();
        async move {
            let mut acknowledged = 0;
            while !*stopped.borrow() {
                // Some of a kibibyte, some of many, so that kills come in the middle of a write.
                let size = if acknowledged % 300 == 0 { 2 << 20 } else { 1 << 10 };
                let messages = numbered(&topic, acknowledged..acknowledged + 20).into_iter();
                let pad = |m: Message| Message { key: Some(vec![1; size].into()), ..m };
                let written = sink.send_all(messages.map(pad).collect()).await.unwrap();
                assert_eq!(written.last().unwrap().1, Offset(acknowledged as i64 + 19));
                acknowledged += 20;
                report.send(acknowledged).unwrap();
            }
            acknowledged
        }
    });
    let mut before = 0;
    for kill in 0..KILLS {
        // Only a running stream is cut, however slow the machine; but not in step with its writes.
        before = *within(progress.wait_for(|now| *now > before + 40)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100 + 133 * kill as u64)).await;
        house.kill();
        tokio::time::sleep(Duration::from_millis(100)).await;
        house.start();
    }
    within(progress.wait_for(|now| *now > before + 40)).await.unwrap();
    stop.send(true).unwrap();
    let acknowledged = within(writer).await.unwrap();
    println!("    {acknowledged} records acknowledged over {KILLS} kills");
    let records = within(stream.read(&window(&topic, 0, acknowledged as i64))).await.unwrap();
    assert!(records.iter().map(number).eq(0..acknowledged), "a record is missing, or twice");
    let (_, high) = within(stream.watermarks(&topic)).await.unwrap()[&Partition(0)];
    assert_eq!(high, Offset(acknowledged as i64), "there is more than was acknowledged");
}
