//! Consumer groups: the broker's side of the classic protocol.
//!
//! Membership is memory only: after a restart members are unknown, rejoin, and go on from the
//! committed offsets, which are on the disk.
mod group;
mod member;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kafka_protocol::ResponseError as Code;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

pub(crate) use self::{
    group::{Group, Phase},
    member::{Join, JoinAnswer, SyncAnswer},
};

/// Groups with members at the same time.
const GROUPS: usize = 4_096;
/// How often silence is looked for.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// All groups that have members, or had some a moment ago.
#[derive(Default)]
pub(crate) struct Groups(Mutex<BTreeMap<String, Group>>);

impl Groups {
    /// The group of this name, begun if there is none.
    pub(crate) fn enter(&self, id: &str) -> Result<MappedMutexGuard<'_, Group>, Code> {
        if id.is_empty() {
            return Err(Code::InvalidGroupId);
        }
        let groups = self.0.lock();
        if !groups.contains_key(id) && groups.len() >= GROUPS {
            return Err(Code::GroupMaxSizeReached);
        }
        Ok(MutexGuard::map(groups, |groups| {
            groups.entry(id.to_owned()).or_insert_with(|| Group::new(id))
        }))
    }

    /// The group of this name, if it has members.
    pub(crate) fn find(&self, id: &str) -> Option<MappedMutexGuard<'_, Group>> {
        MutexGuard::try_map(self.0.lock(), |groups| groups.get_mut(id)).ok()
    }

    /// Names and a look at each.
    pub(crate) fn each<T>(&self, look: impl Fn(&str, &Group) -> T) -> Vec<T> {
        self.0.lock().iter().map(|(id, group)| look(id, group)).collect()
    }

    /// Lets time pass; forgets groups that nobody is in.
    pub(crate) fn tick(&self, now: Instant) {
        self.0.lock().retain(|_, group| {
            group.tick(now);
            !group.is_idle()
        });
    }
}
