//! One consumer group: who is in it, and which round of giving out partitions it is in.
//!
//! Kafka's classic protocol. The broker only gathers: members say which protocols (assignors) they
//! speak, one of them, the leader, gives out the partitions, and the broker hands each member its
//! share. A round ends the former *generation*; a member that speaks for an older one is refused.
//!
//! ```text
//! Empty ──join──► Joining ──all are back──► Syncing ──leader's shares──► Stable
//!   ▲                ▲                         │                           │
//!   └──last leaves───┴──────someone joins, leaves or is silent─────────────┘
//! ```
//!
//! Time comes in as an argument: nothing here waits. Answers that must wait for others are sent
//! through channels.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;
use tokio::sync::oneshot;

use super::member::{Join, JoinAnswer, Joined, Member, SyncAnswer};

/// Members of one group, those included that only have a name yet.
const MEMBERS: usize = 1_000;
/// How long a name that was given out is kept for its member to come back with it.
const NAME_KEPT: Duration = Duration::from_secs(60);

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No members.
    Empty,
    /// Waiting for members to (re)join; those who have not by then are out.
    Joining { until: Instant },
    /// Waiting for the leader to give out the partitions.
    Syncing { until: Instant },
    /// Everyone has their share.
    Stable,
}

impl Phase {
    /// What Kafka calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Joining { .. } => "PreparingRebalance",
            Self::Syncing { .. } => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A group.
pub(crate) struct Group {
    id: String,
    pub(crate) phase: Phase,
    generation: i32,
    pub(crate) kind: String,
    pub(crate) protocol: String,
    leader: String,
    pub(crate) members: BTreeMap<String, Member>,
    /// Names given out to members that have not come back with them.
    named: BTreeMap<String, Instant>,
}

impl Group {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            phase: Phase::Empty,
            generation: 0,
            kind: String::new(),
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            named: BTreeMap::new(),
        }
    }

    /// Whether forgetting it loses nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.members.is_empty() && self.named.is_empty()
    }

    /// Joins or rejoins; the answer comes when the round is complete.
    pub(crate) fn join(&mut self, now: Instant, join: Join, answer: oneshot::Sender<JoinAnswer>) {
        let refuse = |code, member: String, answer: oneshot::Sender<JoinAnswer>| {
            // A client that is gone needs no answer.
            let _ = answer.send(Err((code, member)));
        };
        if let Err(code) = self.admits(&join) {
            return refuse(code, join.member, answer);
        }
        if join.member.is_empty() {
            let member = self.name(&join);
            if let Some(before) = self.by_instance(join.instance.as_deref()) {
                self.take_over(&before, &member);
                return self.rejoin(now, member, join, answer);
            }
            if join.name_first && join.instance.is_none() {
                self.named.insert(member.clone(), now);
                return refuse(Code::MemberIdRequired, member, answer);
            }
            return self.enter(now, member, join, answer);
        }
        let member = join.member.clone();
        if self.named.remove(&member).is_some() {
            return self.enter(now, member, join, answer);
        }
        match self.speaks(&member, join.instance.as_deref()) {
            Err(code) => refuse(code, member, answer),
            Ok(_) => self.rejoin(now, member, join, answer),
        }
    }

    fn admits(&self, join: &Join) -> Result<(), Code> {
        if join.kind.is_empty() || join.protocols.is_empty() {
            return Err(Code::InconsistentGroupProtocol);
        }
        let others = self.members.keys().any(|name| *name != join.member);
        if others {
            let common = self.common(&join.member);
            let shared = join.protocols.iter().any(|(name, _)| common.contains(name.as_str()));
            if join.kind != self.kind || !shared {
                return Err(Code::InconsistentGroupProtocol);
            }
        }
        let comes =
            !self.members.contains_key(&join.member) && !self.named.contains_key(&join.member);
        if comes && self.members.len() + self.named.len() >= MEMBERS {
            return Err(Code::GroupMaxSizeReached);
        }
        Ok(())
    }

    /// The protocols that every member speaks, not asking the one named `but`.
    fn common(&self, but: &str) -> BTreeSet<&str> {
        let asked = self.members.iter().filter(|(name, _)| *name != but);
        let mut spoken = asked.map(|(_, member)| {
            member.protocols.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>()
        });
        let first = spoken.next().unwrap_or_default();
        spoken.fold(first, |common, names| &common & &names)
    }

    fn name(&self, join: &Join) -> String {
        let stem = join.instance.as_deref().unwrap_or(&join.client);
        format!("{stem}-{}", uuid::Uuid::new_v4())
    }

    fn by_instance(&self, instance: Option<&str>) -> Option<String> {
        let instance = instance?;
        let same = |(_, member): &(&String, &Member)| member.instance.as_deref() == Some(instance);
        self.members.iter().find(same).map(|(name, _)| name.clone())
    }

    /// A static member is back under a new name; whoever still uses the old one is fenced.
    fn take_over(&mut self, before: &str, after: &str) {
        let Some(mut member) = self.members.remove(before) else { return };
        if let Some(waiting) = member.joining.take() {
            let _ = waiting.send(Err((Code::FencedInstanceId, before.to_owned())));
        }
        if let Some(waiting) = member.syncing.take() {
            let _ = waiting.send(Err(Code::FencedInstanceId));
        }
        if self.leader == before {
            after.clone_into(&mut self.leader);
        }
        self.members.insert(after.to_owned(), member);
    }

    fn enter(
        &mut self,
        now: Instant,
        name: String,
        join: Join,
        answer: oneshot::Sender<JoinAnswer>,
    ) {
        if self.members.is_empty() {
            self.kind.clone_from(&join.kind);
        }
        tracing::debug!(group = self.id, member = name, "a member joins");
        let member = Member {
            instance: join.instance,
            client: join.client,
            host: join.host,
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols,
            share: Bytes::new(),
            heard: now,
            joining: Some(answer),
            syncing: None,
        };
        self.members.insert(name, member);
        self.rebalance(now);
    }

    fn rejoin(
        &mut self,
        now: Instant,
        name: String,
        join: Join,
        answer: oneshot::Sender<JoinAnswer>,
    ) {
        let leads = self.leader == name;
        let Some(member) = self.members.get_mut(&name) else { return };
        member.heard = now;
        let same = member.protocols == join.protocols;
        // What it was told got lost: it is told again. A leader that rejoins a group at rest wants
        // to give out the partitions anew.
        let again = match self.phase {
            Phase::Syncing { .. } => same,
            Phase::Stable => same && !leads && join.instance.is_none(),
            Phase::Joining { .. } | Phase::Empty => false,
        };
        if again {
            let _ = answer.send(Ok(self.told(&name)));
            return;
        }
        member.protocols = join.protocols;
        member.session = join.session;
        member.rebalance = join.rebalance;
        member.joining = Some(answer);
        self.rebalance(now);
    }

    /// Begins a round, or goes on with the one that runs, and ends it if everyone is here.
    fn rebalance(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Joining { .. }) {
            for member in self.members.values_mut() {
                if let Some(waiting) = member.syncing.take() {
                    let _ = waiting.send(Err(Code::RebalanceInProgress));
                }
            }
            let patience = self.members.values().map(|m| m.rebalance).max().unwrap_or_default();
            self.phase = Phase::Joining { until: now + patience };
        }
        if self.members.values().all(|member| member.joining.is_some()) {
            self.complete(now);
        }
    }

    /// Everyone who is part of the next generation is here.
    fn complete(&mut self, now: Instant) {
        let Some(first) = self.members.keys().next().cloned() else {
            self.phase = Phase::Empty;
            self.leader.clear();
            self.protocol.clear();
            return;
        };
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.vote();
        if !self.members.contains_key(&self.leader) {
            self.leader = first;
        }
        let patience = self.members.values().map(|m| m.rebalance).max().unwrap_or_default();
        self.phase = Phase::Syncing { until: now + patience };
        tracing::info!(
            group = self.id,
            generation = self.generation,
            members = self.members.len(),
            "consumer group has a new generation"
        );
        let names: Vec<String> = self.members.keys().cloned().collect();
        for name in names {
            let told = self.told(&name);
            if let Some(member) = self.members.get_mut(&name) {
                member.share = Bytes::new();
                member.heard = now;
                if let Some(waiting) = member.joining.take() {
                    let _ = waiting.send(Ok(told));
                }
            }
        }
    }

    /// The protocol that most members prefer among those that all speak.
    fn vote(&self) -> String {
        let common = self.common("");
        let mut votes = BTreeMap::<&str, usize>::new();
        for member in self.members.values() {
            let prefers = member.protocols.iter().find(|(name, _)| common.contains(name.as_str()));
            if let Some((name, _)) = prefers {
                *votes.entry(name).or_default() += 1;
            }
        }
        let winner = votes.into_iter().max_by_key(|&(_, count)| count);
        winner.map(|(name, _)| name.to_owned()).unwrap_or_default()
    }

    fn told(&self, name: &str) -> Joined {
        let everyone = self.members.iter().filter(|_| self.leader == name);
        let metadata = |(name, member): (&String, &Member)| {
            (name.clone(), member.instance.clone(), member.metadata(&self.protocol))
        };
        Joined {
            generation: self.generation,
            kind: self.kind.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member: name.to_owned(),
            members: everyone.map(metadata).collect(),
        }
    }

    /// The member of this name, unless its place was taken over.
    fn speaks(&mut self, name: &str, instance: Option<&str>) -> Result<&mut Member, Code> {
        if let Some(holder) = self.by_instance(instance)
            && holder != name
        {
            return Err(Code::FencedInstanceId);
        }
        self.members.get_mut(name).ok_or(Code::UnknownMemberId)
    }

    fn speaks_now(
        &mut self,
        name: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<&mut Member, Code> {
        let current = self.generation;
        let member = self.speaks(name, instance)?;
        if generation == current { Ok(member) } else { Err(Code::IllegalGeneration) }
    }

    /// Waits for the member's share; the leader brings everyone's.
    pub(crate) fn sync(
        &mut self,
        now: Instant,
        (name, instance, generation): (&str, Option<&str>, i32),
        shares: Vec<(String, Bytes)>,
        answer: oneshot::Sender<SyncAnswer>,
    ) {
        let (kind, protocol, phase) = (self.kind.clone(), self.protocol.clone(), self.phase);
        let refused = match self.speaks_now(name, instance, generation) {
            Err(code) => code,
            Ok(member) => {
                member.heard = now;
                match phase {
                    Phase::Stable => {
                        let _ = answer.send(Ok((kind, protocol, member.share.clone())));
                        return;
                    }
                    Phase::Syncing { .. } => {
                        member.syncing = Some(answer);
                        if self.leader == name {
                            self.share_out(now, shares);
                        }
                        return;
                    }
                    Phase::Joining { .. } => Code::RebalanceInProgress,
                    Phase::Empty => Code::UnknownMemberId,
                }
            }
        };
        let _ = answer.send(Err(refused));
    }

    fn share_out(&mut self, now: Instant, shares: Vec<(String, Bytes)>) {
        for (name, share) in shares {
            if let Some(member) = self.members.get_mut(&name) {
                member.share = share;
            }
        }
        self.phase = Phase::Stable;
        for member in self.members.values_mut() {
            if let Some(waiting) = member.syncing.take() {
                member.heard = now;
                let told = (self.kind.clone(), self.protocol.clone(), member.share.clone());
                let _ = waiting.send(Ok(told));
            }
        }
    }

    /// A sign of life.
    pub(crate) fn heartbeat(
        &mut self,
        now: Instant,
        (name, instance, generation): (&str, Option<&str>, i32),
    ) -> Result<(), Code> {
        let phase = self.phase;
        self.speaks_now(name, instance, generation)?.heard = now;
        if matches!(phase, Phase::Joining { .. }) { Err(Code::RebalanceInProgress) } else { Ok(()) }
    }

    /// Whether offsets may be committed. A group without members takes them from anyone who does
    /// not claim to be one (assignment by hand).
    pub(crate) fn may_commit(
        &mut self,
        now: Instant,
        (name, instance, generation): (&str, Option<&str>, i32),
    ) -> Result<(), Code> {
        if generation < 0 && name.is_empty() {
            return if self.members.is_empty() { Ok(()) } else { Err(Code::UnknownMemberId) };
        }
        let phase = self.phase;
        self.speaks_now(name, instance, generation)?.heard = now;
        // Its share in the new generation is not known yet.
        if matches!(phase, Phase::Syncing { .. }) { Err(Code::RebalanceInProgress) } else { Ok(()) }
    }

    /// Leaves, by name or (static members) by instance; returns the name.
    pub(crate) fn leave(
        &mut self,
        now: Instant,
        name: &str,
        instance: Option<&str>,
    ) -> Result<String, Code> {
        if self.named.remove(name).is_some() {
            return Ok(name.to_owned());
        }
        let name = match self.by_instance(instance) {
            Some(holder) if name.is_empty() || holder == name => holder,
            Some(_) => return Err(Code::FencedInstanceId),
            None => name.to_owned(),
        };
        if !self.members.contains_key(&name) {
            return Err(Code::UnknownMemberId);
        }
        tracing::debug!(group = self.id, member = name, "a member leaves");
        self.drop_member(&name);
        self.rebalance(now);
        Ok(name)
    }

    fn drop_member(&mut self, name: &str) {
        let Some(mut member) = self.members.remove(name) else { return };
        if let Some(waiting) = member.joining.take() {
            let _ = waiting.send(Err((Code::UnknownMemberId, name.to_owned())));
        }
        if let Some(waiting) = member.syncing.take() {
            let _ = waiting.send(Err(Code::UnknownMemberId));
        }
    }

    /// What the passing of time does: silent members are out, rounds end.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.named.retain(|_, given| now < *given + NAME_KEPT);
        let late = |member: &Member| match self.phase {
            Phase::Joining { until } => now > until && member.joining.is_none(),
            Phase::Syncing { until } => now > until && member.syncing.is_none(),
            Phase::Stable | Phase::Empty => false,
        };
        let out = |member: &Member| member.is_silent(now) || late(member);
        let names: Vec<String> =
            self.members.iter().filter(|(_, m)| out(m)).map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        for name in names {
            tracing::info!(group = self.id, member = name, "a member is silent: out of its group");
            self.drop_member(&name);
        }
        self.rebalance(now);
    }
}
