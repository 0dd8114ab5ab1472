//! Which examples make which step: a pure function of the seed and the epoch, so that a resumed
//! job needs to know nothing but the number of its step.
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Batches whose examples are sorted by length together: enough that a batch is of even length,
/// few enough that batches stay random.
const BUCKET: usize = 8;

/// The examples of one step, by index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Step {
    pub(crate) fresh: Vec<usize>,
    pub(crate) replayed: Vec<usize>,
}

/// Draws steps.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Bytes of each text of the window.
    pub(crate) fresh: Vec<usize>,
    /// Bytes of each text of the replay buffer.
    pub(crate) replay: Vec<usize>,
    pub(crate) batch: usize,
    /// Share of a batch that is replayed.
    pub(crate) share: f64,
    pub(crate) seed: u64,
}

impl Sampler {
    /// Fresh and replayed examples of a full batch; at least one is fresh.
    fn split(&self) -> (usize, usize) {
        if self.replay.is_empty() {
            return (self.batch, 0);
        }
        let replayed = (self.batch as f64 * self.share).round() as usize;
        let replayed = replayed.min(self.batch - 1);
        (self.batch - replayed, replayed)
    }

    /// Part of a full batch that is replayed.
    pub(crate) fn replayed(&self) -> f64 {
        self.split().1 as f64 / self.batch as f64
    }

    /// Steps of an epoch.
    pub(crate) fn steps(&self) -> u64 {
        self.fresh.len().div_ceil(self.split().0) as u64
    }

    /// The steps of one epoch. Every fresh example is in exactly one.
    pub(crate) fn epoch(&self, epoch: u64) -> Vec<Step> {
        let mut rng = rng(self.seed, epoch);
        let (fresh_share, replay_share) = self.split();
        let fresh = shuffled(self.fresh.len(), &mut rng);
        let draws = self.draws(self.steps() as usize * replay_share, &mut rng);
        let fresh = chunks(fresh, fresh_share, &self.fresh);
        let replayed = chunks(draws, replay_share, &self.replay);
        let mut steps: Vec<Step> = fresh
            .into_iter()
            .zip(replayed.into_iter().map(Some).chain(std::iter::repeat(None)))
            .map(|(fresh, replayed)| Step { fresh, replayed: replayed.unwrap_or_default() })
            .collect();
        steps.shuffle(&mut rng);
        steps
    }

    /// `count` of the replay buffer, each as often as any other (or once more).
    fn draws(&self, count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut draws = Vec::with_capacity(count);
        while draws.len() < count {
            draws.extend(shuffled(self.replay.len(), rng));
        }
        draws.truncate(count);
        draws
    }
}

/// A generator for this purpose and no other.
pub(crate) fn rng(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(purpose);
    rng
}

fn shuffled(count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(rng);
    order
}

/// Cuts into batches of like length.
fn chunks(mut order: Vec<usize>, size: usize, lengths: &[usize]) -> Vec<Vec<usize>> {
    if size == 0 {
        return Vec::new();
    }
    for bucket in order.chunks_mut(size * BUCKET) {
        bucket.sort_by_key(|&at| lengths[at]);
    }
    order.chunks(size).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_fresh_example_is_in_exactly_one_step(
            fresh in prop::collection::vec(0_usize..5_000, 1..300),
            replay in prop::collection::vec(0_usize..5_000, 0..50),
            batch in 1_usize..40,
            share in 0.0..0.95_f64,
            seed: u64,
            epoch in 0_u64..5,
        ) {
            let sampler = Sampler { fresh, replay, batch, share, seed };
            let steps = sampler.epoch(epoch);
            prop_assert_eq!(steps.len() as u64, sampler.steps());
            let mut seen: Vec<usize> = steps.iter().flat_map(|s| s.fresh.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..sampler.fresh.len()).collect::<Vec<_>>());
            for step in &steps {
                prop_assert!(!step.fresh.is_empty());
                prop_assert!(step.fresh.len() + step.replayed.len() <= batch);
                prop_assert!(step.replayed.iter().all(|&at| at < sampler.replay.len()));
            }
            prop_assert_eq!(&steps, &sampler.epoch(epoch));
        }
    }

    #[test]
    fn a_batch_is_of_even_length_and_epochs_differ() {
        let fresh: Vec<usize> = (0..256).map(|at| at * 37 % 256).collect();
        let sampler = Sampler { fresh, replay: vec![], batch: 16, share: 0.5, seed: 3 };
        let spread: usize = sampler
            .epoch(0)
            .iter()
            .map(|step| {
                let lengths = step.fresh.iter().map(|&at| sampler.fresh[at]);
                lengths.clone().max().unwrap() - lengths.min().unwrap()
            })
            .sum();
        assert!(spread / 16 < 64, "{spread}");
        assert_ne!(sampler.epoch(0), sampler.epoch(1));
    }
}
