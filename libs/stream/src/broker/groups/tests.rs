//! Groups, with time as an argument.
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;
use tokio::sync::oneshot::{self, Receiver};

use super::{
    group::{Group, Phase},
    member::{Join, JoinAnswer, Joined, SyncAnswer},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

fn join_as(member: &str) -> Join {
    Join {
        member: member.to_owned(),
        instance: None,
        client: "client".to_owned(),
        host: "127.0.0.1".to_owned(),
        session: 10 * SECOND,
        rebalance: 30 * SECOND,
        kind: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"topics"))],
        name_first: false,
    }
}

fn ask(group: &mut Group, now: Instant, join: Join) -> Receiver<JoinAnswer> {
    let (answer, told) = oneshot::channel();
    group.join(now, join, answer);
    told
}

fn joined(told: &mut Receiver<JoinAnswer>) -> Joined {
    told.try_recv().expect("the round is complete").unwrap()
}

fn refused(told: &mut Receiver<JoinAnswer>) -> Code {
    told.try_recv().expect("the answer is there").unwrap_err().0
}

fn sync(
    group: &mut Group,
    now: Instant,
    who: &Joined,
    shares: &[(&Joined, &'static [u8])],
) -> Receiver<SyncAnswer> {
    let shares = shares.iter().map(|(m, share)| (m.member.clone(), Bytes::from_static(share)));
    let (answer, told) = oneshot::channel();
    group.sync(now, (&who.member, None, who.generation), shares.collect(), answer);
    told
}

fn share(told: &mut Receiver<SyncAnswer>) -> Bytes {
    told.try_recv().expect("the leader has given out").unwrap().2
}

/// A group at rest with one member.
fn alone(now: Instant) -> (Group, Joined) {
    let mut group = Group::new("g");
    let member = joined(&mut ask(&mut group, now, join_as("")));
    assert_eq!(share(&mut sync(&mut group, now, &member, &[(&member, b"all")])), "all");
    (group, member)
}

/// A group at rest with two members, the leader first.
fn pair(now: Instant) -> (Group, Joined, Joined) {
    let (mut group, first) = alone(now);
    let mut second = ask(&mut group, now, join_as(""));
    assert!(second.try_recv().is_err(), "the first must come back before");
    let first = joined(&mut ask(&mut group, now, join_as(&first.member)));
    let second = joined(&mut second);
    assert_eq!((first.members.len(), second.members.len()), (2, 0), "the leader is told who is in");
    let mut waits = sync(&mut group, now, &second, &[]);
    assert!(waits.try_recv().is_err());
    let mut leader = sync(&mut group, now, &first, &[(&first, b"one"), (&second, b"two")]);
    assert_eq!((share(&mut leader), share(&mut waits)), ("one".into(), "two".into()));
    (group, first, second)
}

#[test]
fn a_new_member_is_given_a_name_first() {
    let now = Instant::now();
    let mut group = Group::new("g");
    let mut told = ask(&mut group, now, Join { name_first: true, ..join_as("") });
    let (code, name) = told.try_recv().unwrap().unwrap_err();
    assert_eq!(code, Code::MemberIdRequired);
    assert!(name.starts_with("client-"));
    assert_eq!(joined(&mut ask(&mut group, now, join_as(&name))).member, name);
    assert_eq!(refused(&mut ask(&mut group, now, join_as("someone"))), Code::UnknownMemberId);
}

#[test]
fn a_name_that_nobody_uses_is_forgotten() {
    let now = Instant::now();
    let mut group = Group::new("g");
    let mut told = ask(&mut group, now, Join { name_first: true, ..join_as("") });
    let (_, name) = told.try_recv().unwrap().unwrap_err();
    assert!(!group.is_idle());
    group.tick(now + 61 * SECOND);
    assert!(group.is_idle());
    let late = &mut ask(&mut group, now, join_as(&name));
    assert_eq!(refused(late), Code::UnknownMemberId);
}

#[test]
fn two_members_share_and_the_heartbeat_tells_of_a_third() {
    let now = Instant::now();
    let (mut group, first, second) = pair(now);
    let who = (&*second.member, None, second.generation);
    assert_eq!(group.heartbeat(now, who), Ok(()));
    let _third = ask(&mut group, now, join_as(""));
    assert_eq!(group.heartbeat(now, who), Err(Code::RebalanceInProgress));
    let old = (&*first.member, None, first.generation - 1);
    assert_eq!(group.heartbeat(now, old), Err(Code::IllegalGeneration));
    assert_eq!(group.heartbeat(now, ("x", None, 1)), Err(Code::UnknownMemberId));
}

#[test]
fn a_member_that_leaves_gives_its_share_back() {
    let now = Instant::now();
    let (mut group, first, second) = pair(now);
    assert_eq!(group.leave(now, &second.member, None), Ok(second.member.clone()));
    assert_eq!(group.leave(now, &second.member, None), Err(Code::UnknownMemberId));
    let again = joined(&mut ask(&mut group, now, join_as(&first.member)));
    assert_eq!((again.generation, again.members.len()), (first.generation + 1, 1));
    assert_eq!(group.leave(now, &first.member, None), Ok(first.member));
    assert_eq!(group.phase, Phase::Empty);
    assert!(group.is_idle());
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let now = Instant::now();
    let (mut group, first, second) = pair(now);
    let later = now + 9 * SECOND;
    group.heartbeat(later, (&first.member, None, first.generation)).unwrap();
    group.tick(now + 11 * SECOND);
    assert_eq!(group.members.keys().collect::<Vec<_>>(), [&first.member]);
    let gone = (&*second.member, None, second.generation);
    assert_eq!(group.heartbeat(later, gone), Err(Code::UnknownMemberId));
    assert_eq!(group.may_commit(later, gone), Err(Code::UnknownMemberId));
}

#[test]
fn who_does_not_come_back_in_time_is_left_behind() {
    let now = Instant::now();
    let (mut group, first, second) = pair(now);
    let mut third = ask(&mut group, now, join_as(""));
    let mut back = ask(&mut group, now, join_as(&second.member));
    // The first is alive, but does not rejoin.
    for second in 1..=31 {
        let at = now + second * SECOND;
        let _ = group.heartbeat(at, (&first.member, None, first.generation));
        group.tick(at);
    }
    let (third, back) = (joined(&mut third), joined(&mut back));
    assert_eq!(third.generation, first.generation + 1);
    assert!([&third, &back].iter().any(|member| member.members.len() == 2), "one of them leads");
    assert!(!group.members.contains_key(&first.member));
}

#[test]
fn a_leader_that_gives_nothing_out_is_left_behind() {
    let now = Instant::now();
    let mut group = Group::new("g");
    let leader = joined(&mut ask(&mut group, now, join_as("")));
    let mut other = ask(&mut group, now, join_as(""));
    let leader = joined(&mut ask(&mut group, now, Join { member: leader.member, ..join_as("") }));
    let other = joined(&mut other);
    let mut waits = sync(&mut group, now, &other, &[]);
    for second in 1..=31 {
        let at = now + second * SECOND;
        let _ = group.heartbeat(at, (&leader.member, None, leader.generation));
        group.tick(at);
    }
    assert_eq!(waits.try_recv().unwrap(), Err(Code::RebalanceInProgress));
    let now = now + 32 * SECOND;
    let other = joined(&mut ask(&mut group, now, join_as(&other.member)));
    assert_eq!(other.leader, other.member);
}

#[test]
fn an_answer_that_got_lost_is_given_again() {
    let now = Instant::now();
    let (mut group, first, second) = pair(now);
    let again = joined(&mut ask(&mut group, now, join_as(&second.member)));
    assert_eq!(again.generation, second.generation);
    assert_eq!(share(&mut sync(&mut group, now, &second, &[])), "two");
    // The leader asks for a new round by joining again.
    assert!(ask(&mut group, now, join_as(&first.member)).try_recv().is_err());
}

#[test]
fn members_agree_on_a_protocol_that_all_speak() {
    let now = Instant::now();
    let speak = |names: &[&str]| {
        names.iter().map(|name| ((*name).to_owned(), Bytes::new())).collect::<Vec<_>>()
    };
    let mut group = Group::new("g");
    let both = Join { protocols: speak(&["sticky", "range"]), ..join_as("") };
    let first = joined(&mut ask(&mut group, now, both.clone()));
    assert_eq!(first.protocol, "sticky");
    let mut second = ask(&mut group, now, Join { protocols: speak(&["range"]), ..join_as("") });
    let back = Join { member: first.member, ..both };
    assert_eq!(joined(&mut ask(&mut group, now, back)).protocol, "range");
    joined(&mut second);
    for stranger in [
        Join { protocols: speak(&["other"]), ..join_as("") },
        Join { kind: "connect".to_owned(), ..join_as("") },
        Join { protocols: Vec::new(), ..join_as("") },
    ] {
        assert_eq!(refused(&mut ask(&mut group, now, stranger)), Code::InconsistentGroupProtocol);
    }
}

#[test]
fn a_static_member_that_comes_back_fences_its_former_self() {
    let now = Instant::now();
    let mut group = Group::new("g");
    let fixed = Join { instance: Some("a".into()), name_first: true, ..join_as("") };
    let before = joined(&mut ask(&mut group, now, fixed.clone()));
    sync(&mut group, now, &before, &[(&before, b"all")]);
    let after = joined(&mut ask(&mut group, now, fixed));
    assert_ne!(before.member, after.member);
    assert_eq!(group.members.len(), 1);
    let old = (&*before.member, Some("a"), before.generation);
    assert_eq!(group.heartbeat(now, old), Err(Code::FencedInstanceId));
    assert_eq!(group.leave(now, "", Some("a")), Ok(after.member));
}

#[test]
fn offsets_come_from_members_or_from_no_group_at_all() {
    let now = Instant::now();
    let (mut group, member) = alone(now);
    let mut commit = |name: &str, generation| group.may_commit(now, (name, None, generation));
    assert_eq!(commit(&member.member, member.generation), Ok(()));
    assert_eq!(commit(&member.member, member.generation + 1), Err(Code::IllegalGeneration));
    assert_eq!(commit("", -1), Err(Code::UnknownMemberId), "a group with members");
    let mut empty = Group::new("g");
    assert_eq!(empty.may_commit(now, ("", None, -1)), Ok(()));
    // Between a new generation and its shares nobody knows whose partition it is.
    let _second = ask(&mut group, now, join_as(""));
    let first = joined(&mut ask(&mut group, now, join_as(&member.member)));
    let who = (&*first.member, None, first.generation);
    assert_eq!(group.may_commit(now, who), Err(Code::RebalanceInProgress));
}

#[test]
fn groups_that_nobody_is_in_are_forgotten() {
    let groups = Groups::default();
    assert!(matches!(groups.enter("").map(drop), Err(Code::InvalidGroupId)));
    groups.enter("g").map(drop).unwrap();
    assert!(groups.find("g").is_some());
    groups.tick(Instant::now());
    assert!(groups.find("g").is_none());
}
