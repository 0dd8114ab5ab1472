//! Reading as a group.
use std::{collections::BTreeSet, time::Duration};

use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tidegate_contracts::{Offset, Partition};
use tidegate_stream::{GroupEvent, GroupSource, Message};

use crate::{
    client::{admin, fresh, next_record, number, numbered, plain, until, with_topic, within},
    house::House,
};

/// Reads until partitions are assigned.
async fn assigned(source: &mut GroupSource) -> Vec<(String, Partition)> {
    loop {
        if let GroupEvent::Assigned(partitions) = within(source.next()).await.unwrap() {
            return partitions;
        }
    }
}

pub(crate) async fn a_group_goes_on_from_what_it_committed(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let group = fresh("group");
    let sink = stream.sink().unwrap();
    within(sink.send_all(numbered(&topic, 0..20))).await.unwrap();

    let mut first = within(stream.group(&group, &[&topic])).await.unwrap();
    for expected in 0..10 {
        assert_eq!(number(&next_record(&mut first).await), expected);
    }
    within(first.commit(&[(topic.clone(), Partition(0), Offset(6))])).await.unwrap();
    drop(first);
    let mut second = within(stream.group(&group, &[&topic])).await.unwrap();
    for expected in 6..20 {
        assert_eq!(number(&next_record(&mut second).await), expected, "what was not committed");
    }
    // Another group has its own.
    let mut other = within(stream.group(&fresh("group"), &[&topic])).await.unwrap();
    assert_eq!(number(&next_record(&mut other).await), 0);
}

pub(crate) async fn two_members_share_the_partitions(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 4).await;
    let group = fresh("group");
    let sink = stream.sink().unwrap();
    let mut first = within(stream.group(&group, &[&topic])).await.unwrap();
    assert_eq!(assigned(&mut first).await.len(), 4);

    let mut second = within(stream.group(&group, &[&topic])).await.unwrap();
    // Both must be asked: each takes part in the round while it is waited for.
    let (lost, (kept, gained)) = within(async {
        let first = async {
            let lost = loop {
                if let GroupEvent::Revoked(partitions) = first.next().await.unwrap() {
                    break partitions;
                }
            };
            (lost, assigned(&mut first).await)
        };
        let ((lost, kept), gained) = tokio::join!(first, assigned(&mut second));
        (lost, (kept, gained))
    })
    .await;
    assert_eq!(lost.len(), 4);
    let all: BTreeSet<_> = kept.iter().chain(&gained).collect();
    assert_eq!((kept.len(), gained.len(), all.len()), (2, 2, 4));

    let message = |i: i32| Message {
        partition: Some(Partition(i % 4)),
        ..Message::new(&topic, i.to_string())
    };
    within(sink.send_all((0..40).map(message).collect())).await.unwrap();
    let mut seen = BTreeSet::new();
    for (member, share) in [(&mut first, &kept), (&mut second, &gained)] {
        for _ in 0..20 {
            let record = next_record(member).await;
            assert!(share.contains(&(topic.clone(), record.partition)));
            assert!(seen.insert(number(&record)), "it was read twice");
        }
    }

    // One leaves: the other has everything, from what was committed (nothing).
    drop(second);
    assert_eq!(assigned(&mut first).await.len(), 4);
}

pub(crate) async fn what_is_committed_while_partitions_are_taken_away_counts(
    house: &mut dyn House,
) {
    let (stream, topic) = with_topic(house, 2).await;
    let group = fresh("group");
    let sink = stream.sink().unwrap();
    let message = |i: i32| Message {
        partition: Some(Partition(i % 2)),
        ..Message::new(&topic, i.to_string())
    };
    within(sink.send_all((0..20).map(message).collect())).await.unwrap();
    let mut first = within(stream.group(&group, &[&topic])).await.unwrap();
    for _ in 0..20 {
        next_record(&mut first).await;
    }
    let mut second = within(stream.group(&group, &[&topic])).await.unwrap();
    let hand_over = async {
        loop {
            if let GroupEvent::Revoked(taken) = first.next().await.unwrap() {
                assert_eq!(taken.len(), 2);
                let offsets = taken.into_iter().map(|(topic, p)| (topic, p, Offset(7)));
                first.commit(&offsets.collect::<Vec<_>>()).await.unwrap();
            } else {
                // Both members go on from what was just committed.
                return next_record(&mut first).await;
            }
        }
    };
    let (one, other) = within(async { tokio::join!(hand_over, next_record(&mut second)) }).await;
    assert_eq!((one.offset, other.offset), (Offset(7), Offset(7)));
    assert_ne!(one.partition, other.partition);
}

pub(crate) async fn a_seek_at_assignment_is_where_reading_starts(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    within(sink.send_all(numbered(&topic, 0..20))).await.unwrap();
    let mut source = within(stream.group(&fresh("group"), &[&topic])).await.unwrap();
    assigned(&mut source).await;
    source.seek(&topic, Partition(0), Offset(15)).unwrap();
    assert_eq!(number(&next_record(&mut source).await), 15);
    // Later too, and nothing from before the seek comes after it.
    source.seek(&topic, Partition(0), Offset(3)).unwrap();
    for expected in 3..20 {
        assert_eq!(number(&next_record(&mut source).await), expected);
    }
}

pub(crate) async fn a_paused_partition_waits_and_comes_back(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 2).await;
    let sink = stream.sink().unwrap();
    let mut source = within(stream.group(&fresh("group"), &[&topic])).await.unwrap();
    assigned(&mut source).await;
    let paused = [(topic.clone(), Partition(0))];
    source.pause(&paused);
    // The order is carried out before the next poll: see it take effect by what comes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let message = |i: i32| Message {
        partition: Some(Partition(i % 2)),
        ..Message::new(&topic, i.to_string())
    };
    within(sink.send_all((0..10).map(message).collect())).await.unwrap();
    for _ in 0..5 {
        assert_eq!(next_record(&mut source).await.partition, Partition(1));
    }
    let quiet = tokio::time::timeout(Duration::from_millis(700), source.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    source.resume(&paused);
    for expected in [0, 2, 4, 6, 8] {
        assert_eq!(number(&next_record(&mut source).await), expected);
    }
}

pub(crate) async fn groups_are_listed_and_deleted(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let group = fresh("group");
    let mut source = within(stream.group(&group, &[&topic])).await.unwrap();
    assigned(&mut source).await;
    within(source.commit(&[(topic.clone(), Partition(0), Offset(0))])).await.unwrap();

    let consumer: BaseConsumer = plain(house).create().unwrap();
    let state = || {
        let list = consumer.fetch_group_list(Some(&group), Duration::from_secs(10)).unwrap();
        list.groups().first().map(|g| (g.state().to_owned(), g.members().len()))
    };
    // The member that reads must be asked meanwhile to get to rest.
    let rest = async {
        let _ = tokio::time::timeout(Duration::from_millis(50), source.next()).await;
        state() == Some(("Stable".to_owned(), 1))
    };
    assert!(within(rest).await || state() == Some(("Stable".to_owned(), 1)), "{:?}", state());

    let (admin, options) = (admin(house), AdminOptions::new());
    let refused = within(admin.delete_groups(&[&group], &options)).await.unwrap();
    assert!(refused[0].is_err(), "a group with members is kept");
    drop(source);
    until("the deletion of an empty group", async || {
        admin.delete_groups(&[&group], &options).await.unwrap()[0].is_ok()
    })
    .await;
    let again = within(admin.delete_groups(&[&group], &options)).await.unwrap();
    assert!(again[0].is_err(), "it is gone");
}
