//! The champion under watch: is it worse, on labels that came since, than the one it displaced?
//!
//! A verdict rests on what was held out before; what comes after a promotion no gate has seen. So every
//! labelled record that neither generation has learnt is put to both, and their differences are evidence
//! that may be looked at after each of them (Ville's inequality): a champion that is no worse is
//! accused with a probability of at most `alpha`, however long it is watched. What is found goes on
//! record; the controller rolls back.
use serde::{Deserialize, Serialize};
use tidegate_contracts::{GenerationId, Offset};
use tidegate_evaluation::{EvalExample, live::compare, sequential::Harm};
use tidegate_ledger::{Fact, State};
use tidegate_model::in_background;
use tidegate_telemetry::metrics;

use crate::{LiveConfig, held_out::Marks, judging::set_aside, service::Evaluator};

/// Under which the watch is kept, so that a restart goes on with it.
const KEPT: &str = "evaluator/live";
/// Records that are put to both at a time; a candidate waits for no more than these.
const AT_ONCE: usize = 64;
/// While a job runs the processor is its own, until so many records wait.
const BACKLOG: usize = 512;

/// One champion's record since its promotion. The evidence does not depend on the order in which
/// differences came, so their counts are enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Watch {
    champion: GenerationId,
    before: GenerationId,
    /// What was looked at, by partition.
    position: Marks,
    better: u64,
    worse: u64,
    alike: u64,
    /// Nothing more is asked of it.
    found: bool,
}

impl Watch {
    fn new(champion: GenerationId, before: GenerationId, position: Marks) -> Self {
        Self { champion, before, position, better: 0, worse: 0, alike: 0, found: false }
    }

    fn take(&mut self, differences: &[f64]) {
        for difference in differences {
            match difference {
                d if *d > 0.0 => self.better += 1,
                d if *d < 0.0 => self.worse += 1,
                _ => self.alike += 1,
            }
        }
    }

    /// The evidence that the champion is worse by more than the margin.
    fn harm(&self, config: &LiveConfig) -> Harm {
        let mut harm = Harm::beyond(config.margin);
        for (count, difference) in [(self.better, 1.0), (self.worse, -1.0), (self.alike, 0.0)] {
            (0..count).for_each(|_| harm.observe(difference));
        }
        harm
    }

    fn n(&self) -> u64 {
        self.better + self.worse + self.alike
    }

    fn words(&self, config: &LiveConfig) -> String {
        let (better, worse, n) = (self.better, self.worse, self.n());
        format!(
            "on {n} labels that came since its promotion it alone is right {better} times and {} alone \
             {worse} times: worse by more than {:.1} points, with a probability of error of at most {}",
            self.before.short(),
            100.0 * config.margin,
            config.alpha
        )
    }
}

impl Evaluator {
    /// Puts what came since the last look to the champion and to the one before it. Whether there was
    /// something.
    pub(crate) async fn watch(&mut self, state: &State) -> anyhow::Result<bool> {
        if !self.config.live.enabled {
            return Ok(false);
        }
        let Some((champion, before)) = state.champion().zip(state.earlier_champion()) else {
            return Ok(false);
        };
        self.resume_watch(state, champion, before).await?;
        let Some(watch) = self.watch.clone().filter(|watch| !watch.found) else {
            return Ok(false);
        };
        let aside = set_aside(state);
        let producers = state.quarantined_producers(chrono::Utc::now());
        let waiting = self.held_out.live(&watch.position, &aside, &producers);
        let busy = state.next_job().is_some() && waiting.len() < BACKLOG;
        if waiting.is_empty() || busy {
            return Ok(false);
        }
        let (position, examples): (Vec<_>, Vec<_>) = waiting.into_iter().take(AT_ONCE).unzip();
        let mut watch = watch;
        for (partition, offset) in position {
            watch.position.insert(partition, Offset(offset.0 + 1));
        }
        let Some(differences) = self.compared(champion, before, examples).await? else {
            watch.found = true; // One of them cannot be asked: nothing can be told.
            self.watch = Some(watch);
            return Ok(false);
        };
        watch.take(&differences);
        self.conclude(watch).await?;
        Ok(true)
    }

    /// The watch over the present champion: the one that is under way, the one that was kept, or a
    /// new one from where the champion has learnt to.
    async fn resume_watch(
        &mut self,
        state: &State,
        champion: GenerationId,
        before: GenerationId,
    ) -> anyhow::Result<()> {
        let of_both = |watch: &Watch| watch.champion == champion && watch.before == before;
        if self.watch.as_ref().is_some_and(of_both) {
            return Ok(());
        }
        let kept = self.ledger.get_state(KEPT).await?;
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Watch>(&bytes).ok());
        let record = state.generation(&champion);
        let learnt = record.map(|one| one.window.watermark()).unwrap_or_default();
        self.watch =
            Some(kept.filter(of_both).unwrap_or_else(|| Watch::new(champion, before, learnt)));
        Ok(())
    }

    /// Both models' differences, off the runtime's threads; `None` where one of them cannot be asked.
    pub(crate) async fn compared(
        &mut self,
        new: GenerationId,
        old: GenerationId,
        examples: Vec<EvalExample>,
    ) -> anyhow::Result<Option<Vec<f64>>> {
        let mut both = Vec::with_capacity(2);
        for id in [new, old] {
            match self.load(&id).await? {
                Ok(loaded) => both.push(loaded),
                Err(reason) => {
                    tracing::warn!(generation = id.short(), reason, "cannot be asked");
                    return Ok(None);
                }
            }
        }
        for one in &both {
            self.keep_loaded(one);
        }
        let mut memory = std::mem::take(&mut self.memory);
        let done = tokio::task::spawn_blocking(move || {
            let (new, old) = (both[0].subject(), both[1].subject());
            let found = in_background(|| compare(&new, &old, &examples, &mut memory));
            (found, memory)
        });
        let (found, memory) = done.await?;
        self.memory = memory;
        Ok(found.inspect_err(|error| tracing::warn!(%error, "the champion is not watched")).ok())
    }

    /// Keeps the watch, and puts harm on record once it is beyond doubt.
    async fn conclude(&mut self, mut watch: Watch) -> anyhow::Result<()> {
        let config = self.config.live.clone();
        let harm = watch.harm(&config);
        let gauge = |name, what| metrics::gauge(name, what, &[]);
        gauge(
            "tidegate_evaluator_live_labels",
            "Labels that champion and predecessor were compared on since the promotion.",
        )
        .with_label_values::<&str>(&[])
        .set(watch.n() as f64);
        gauge(
            "tidegate_evaluator_live_harm_log_e",
            "Logarithm of the evidence that the champion is worse than its predecessor.",
        )
        .with_label_values::<&str>(&[])
        .set(harm.log_e());
        if harm.holds_at(config.alpha) {
            watch.found = true;
            let fact = Fact::HarmFound {
                generation: watch.champion,
                before: watch.before,
                labels: watch.n(),
                reason: watch.words(&config),
                seal: None,
            };
            let (champion, before) = (watch.champion, watch.before);
            let written = self.record(|state| {
                let same =
                    (state.champion(), state.earlier_champion()) == (Some(champion), Some(before));
                let known = state.generation(&champion).is_some_and(|one| one.harm.is_some());
                (same && !known).then(|| fact.clone())
            });
            if written.await?.is_some() {
                tracing::warn!(champion = champion.short(), reason = watch.words(&config), "harm");
            }
        }
        let bytes = serde_json::to_vec(&watch)?;
        self.ledger.put_state(KEPT, self.token, &bytes).await?;
        self.watch = Some(watch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(differences: impl IntoIterator<Item = f64>) -> Watch {
        let (new, old) = (GenerationId::of(b"new"), GenerationId::of(b"old"));
        let mut watch = Watch::new(new, old, Marks::new());
        watch.take(&differences.into_iter().collect::<Vec<_>>());
        watch
    }

    #[test]
    fn a_champion_that_is_clearly_worse_is_accused_and_one_that_differs_is_not() {
        let config = LiveConfig::default();
        let worse = watched((0..100).map(|n| if n % 4 == 0 { -1.0 } else { 0.0 }));
        assert!(worse.harm(&config).holds_at(config.alpha), "{}", worse.harm(&config).log_e());
        assert!(worse.words(&config).contains("alone 25 times"), "{}", worse.words(&config));
        let other = watched((0..2_000).map(|n| [-1.0, 1.0, 0.0, 0.0, 0.0][n % 5]));
        assert!(!other.harm(&config).holds_at(0.5));
    }

    #[test]
    fn a_watch_that_was_kept_is_the_same() {
        let mut watch = watched([1.0, -1.0, 0.0]);
        watch.position = [(tidegate_contracts::Partition(3), tidegate_contracts::Offset(9))].into();
        let bytes = serde_json::to_vec(&watch).unwrap();
        assert_eq!(serde_json::from_slice::<Watch>(&bytes).unwrap(), watch);
    }
}
