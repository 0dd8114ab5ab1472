//! Who serves: one atomic pointer, read once by each request.
use std::{borrow::Cow, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use tidegate_contracts::{Class, GenerationId};
use tidegate_model::Scores;

use crate::{batcher::Batcher, staging::Staged};

/// A generation that answers.
///
/// INVARIANT: outside tests it is made by [`prepare`](crate::prepare::prepare) alone, which takes a
/// [`Verified`](tidegate_ledger::Verified) generation: what was not verified cannot be served.
pub(crate) struct Served {
    pub(crate) id: GenerationId,
    /// `id` as clients see it.
    pub(crate) name: String,
    /// The classes as a JSON list.
    pub(crate) labels_json: String,
    pub(crate) batcher: Batcher,
}

impl Served {
    pub(crate) fn new(id: GenerationId, batcher: Batcher) -> Self {
        let labels_json = serde_json::to_string(batcher.labels()).expect("strings are JSON");
        Self { id, name: id.to_hex(), labels_json, batcher }
    }

    pub(crate) fn labels(&self) -> &[Class] {
        self.batcher.labels()
    }

    /// What an answer says, as an event's label would: the likeliest class, or a number.
    pub(crate) fn label(&self, scores: &Scores) -> Cow<'_, str> {
        match self.value(scores) {
            Some(value) => Cow::Owned(value.to_string()),
            None => Cow::Borrowed(self.labels()[scores.best().0].as_str()),
        }
    }

    /// The number that an answer is; nothing where classes are answered.
    pub(crate) fn value(&self, scores: &Scores) -> Option<f64> {
        self.batcher.levels().map(|levels| levels.mean(&scores.probabilities))
    }

    /// The interval beside that number.
    pub(crate) fn interval(&self, scores: &Scores) -> Option<(f64, f64)> {
        self.batcher.levels().map(|levels| levels.interval(&scores.probabilities))
    }
}

/// Who serves now, and who is kept beside; the champion first.
#[derive(Default)]
struct Lineup(Vec<Arc<Served>>);

/// The gateway's slot. Many read it; only the keeper writes it.
pub(crate) struct Slot {
    lineup: ArcSwap<Lineup>,
    /// Who is tried beside the champion.
    staged: ArcSwapOption<Staged>,
    held: usize,
}

impl Slot {
    pub(crate) fn new(held: usize) -> Self {
        Self { lineup: ArcSwap::default(), staged: ArcSwapOption::empty(), held }
    }

    /// Who answers a request that names no version.
    pub(crate) fn champion(&self) -> Option<Arc<Served>> {
        self.lineup.load().0.first().cloned()
    }

    /// Who answers a request that names this version.
    pub(crate) fn held(&self, version: &str) -> Option<Arc<Served>> {
        let held = self.lineup.load().0.iter().find(|served| served.name == version).cloned();
        let staged = || Some(self.staged()?.served.clone()).filter(|one| one.name == version);
        held.or_else(staged)
    }

    /// Who is tried beside the champion.
    pub(crate) fn staged(&self) -> Option<Arc<Staged>> {
        self.staged.load_full()
    }

    /// Tries a candidate from the next request on. It takes the place of the oldest that is held, so that
    /// a stage needs no more memory than a swap. Returns those that have lost theirs.
    pub(crate) fn stage(&self, staged: Staged) -> Vec<Arc<Served>> {
        let before = self.lineup.load_full();
        let mut lineup = before.0.clone();
        let retired = lineup.split_off(lineup.len().min((self.held - 1).max(1)));
        self.lineup.store(Arc::new(Lineup(lineup)));
        let replaced = self.staged.swap(Some(Arc::new(staged)));
        retired.into_iter().chain(replaced.map(|one| one.served.clone())).collect()
    }

    /// Tries nobody any more. Returns who was.
    pub(crate) fn unstage(&self) -> Option<Arc<Served>> {
        self.staged.swap(None).map(|one| one.served.clone())
    }

    /// Every version that answers, the champion first and who is tried last.
    pub(crate) fn versions(&self) -> Vec<String> {
        let mut versions: Vec<String> =
            self.lineup.load().0.iter().map(|served| served.name.clone()).collect();
        let staged = self.staged().map(|staged| staged.served.name.clone());
        versions.extend(staged.filter(|name| !versions.contains(name)));
        versions
    }

    /// Makes `served` the champion from the next request on. Returns those that have lost their
    /// place: to be dropped by [`retire`].
    pub(crate) fn install(&self, served: Arc<Served>) -> Vec<Arc<Served>> {
        let before = self.lineup.load_full();
        let others = before.0.iter().filter(|other| other.id != served.id).cloned();
        let mut lineup: Vec<_> = std::iter::once(served.clone()).chain(others).collect();
        let mut retired = lineup.split_off(lineup.len().min(self.held));
        // The same generation, prepared again.
        let replaced = |other: &&Arc<Served>| other.id == served.id && !Arc::ptr_eq(other, &served);
        retired.extend(before.0.iter().filter(replaced).cloned());
        self.lineup.store(Arc::new(Lineup(lineup)));
        retired
    }
}

/// Drops a generation off the request path: waits until its last request is answered, then ends
/// its threads and frees its weights on a thread that may block.
pub(crate) async fn retire(mut served: Arc<Served>) {
    loop {
        match Arc::try_unwrap(served) {
            Ok(last) => {
                let closed = tokio::task::spawn_blocking(move || last.batcher.close());
                return closed.await.expect("closing does not panic");
            }
            Err(shared) => served = shared,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
