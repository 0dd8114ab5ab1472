//! Ours: a cold start, then a hot update for each batch; and a cold start on everything so far.
use tidegate_benchmarks::{
    learner::{Learner, Seconds},
    streams::Stream,
};
use tidegate_learning::Recipe;

/// What came of the stream.
#[derive(Default)]
pub(crate) struct Replayed {
    /// In the order of the stream; none where nothing was predicted.
    pub(crate) predictions: Vec<Option<String>>,
    pub(crate) cold_start: Seconds,
    /// The cold start included.
    pub(crate) training: Seconds,
}

/// Each batch is predicted, then learnt.
pub(crate) fn updated(stream: &Stream, recipe: &Recipe, seed: u64) -> anyhow::Result<Replayed> {
    let mut learner = Learner::new(recipe, seed)?;
    let mut replayed = Replayed::default();
    for batch in &stream.batches {
        replayed.predictions.extend(learner.answers(batch)?);
        learner.learn(batch)?;
        if replayed.cold_start == Seconds::default() {
            replayed.cold_start = learner.seconds;
        }
    }
    replayed.training = learner.seconds;
    eprintln!("{}: hot updates {:.1} CPU s", stream.name, learner.seconds.cpu_s);
    Ok(replayed)
}

/// Before each `every`th batch a cold start on all before it predicts that batch. Seconds are scaled
/// to what it had been before each batch.
pub(crate) fn from_scratch(stream: &Stream, every: usize) -> anyhow::Result<Replayed> {
    let mut learner = Learner::new(&Recipe::default(), 0)?;
    let mut replayed = Replayed::default();
    // Texts that were learnt, over all cold starts; and had it been done for each batch.
    let (mut learnt, mut all) = (0, 0);
    for (at, batch) in stream.batches.iter().enumerate() {
        let before: usize = stream.batches[..at].iter().map(Vec::len).sum();
        all += before;
        if at == 0 || at % every != 0 {
            replayed.predictions.extend(vec![None; batch.len()]);
            continue;
        }
        learner.forget();
        learner.learn(stream.batches[..at].iter().flatten())?;
        learnt += before;
        replayed.predictions.extend(learner.answers(batch)?);
    }
    let scale = all as f64 / learnt.max(1) as f64;
    let Seconds { wall_s, cpu_s } = learner.seconds;
    replayed.training = Seconds { wall_s: scale * wall_s, cpu_s: scale * cpu_s };
    eprintln!("{}: from scratch {:.1} CPU s of {:.1}", stream.name, cpu_s, scale * cpu_s);
    Ok(replayed)
}
