//! The queue before a model, and the threads that run it.
//!
//! Each served generation has its own, so a batch never mixes generations. A worker takes what
//! waits, up to `max_batch` texts. A text that comes to an idle worker goes at once, and so does one
//! that is alone; only a worker that comes back to a queue in which several wait already waits for
//! the batch to be full, at most `batch_wait` after the oldest text came.
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tidegate_contracts::Class;
use tidegate_model::{Input, Levels, Model, ModelError, Scores};
use tokio::sync::oneshot;

use crate::{config::BatchConfig, error::Refused, sight::Sight};

/// What a worker runs: the model, or in tests something that can be foreseen.
pub(crate) trait Forward: Send + Sync + 'static {
    /// The classes, in the order of scores.
    fn labels(&self) -> &[Class];
    /// What these stand for where it answers with numbers.
    fn levels(&self) -> Option<&Levels> {
        None
    }
    /// What it reads: names of parts.
    fn reads(&self) -> Vec<&'static str> {
        vec!["text"]
    }
    /// One [`Scores`] for each input, in order, or why this input cannot be read.
    fn forward(&self, inputs: &[Input]) -> Result<Vec<Result<Scores, String>>, String>;
    /// Width of an embedding.
    fn width(&self) -> usize;
    /// One embedding of that width for each input, in order; only asked of what can be read.
    fn embed(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>, String>;
}

impl Forward for Model {
    fn labels(&self) -> &[Class] {
        Self::labels(self)
    }

    fn levels(&self) -> Option<&Levels> {
        Self::levels(self)
    }

    fn reads(&self) -> Vec<&'static str> {
        self.architecture().reads()
    }

    fn forward(&self, inputs: &[Input]) -> Result<Vec<Result<Scores, String>>, String> {
        // What the input is not to blame for is the model's failure.
        let answer = |answer: Result<Scores, ModelError>| match answer {
            Ok(scores) => Ok(Ok(scores)),
            Err(error) if error.is_of_input() => Ok(Err(error.to_string())),
            Err(error) => Err(error.to_string()),
        };
        self.predict_each(inputs).into_iter().map(answer).collect()
    }

    fn width(&self) -> usize {
        self.architecture().d_model
    }

    fn embed(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>, String> {
        Self::embed(self, inputs).map_err(|error| error.to_string())
    }
}

/// What the model said about some inputs.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) scores: Vec<Scores>,
    /// Empty where nobody asked for them.
    pub(crate) embeddings: Vec<Vec<f32>>,
}

/// Part of a request, small enough for one batch.
struct Job {
    inputs: Vec<Input>,
    /// The place of its first input in the request, where there are more than one.
    from: Option<usize>,
    bytes: usize,
    deadline: Option<Instant>,
    came: Instant,
    /// Whether embeddings are wanted beside the scores.
    embeds: bool,
    reply: oneshot::Sender<Result<Answers, Refused>>,
}

impl Job {
    /// Nobody waits for its answer any more.
    fn is_over(&self, now: Instant) -> bool {
        self.reply.is_closed() || self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    texts: usize,
    bytes: usize,
    closed: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.texts -= job.inputs.len();
        self.bytes -= job.bytes;
        Some(job)
    }
}

struct Shared {
    model: Arc<dyn Forward>,
    config: BatchConfig,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// What a text took lately, in nanoseconds: tells refused clients when to come back.
    pace: AtomicU64,
    sight: Arc<Sight>,
}

/// One generation's queue and threads. Dropping it lets the threads finish what waits and end.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Batcher {
    pub(crate) fn start(model: Arc<dyn Forward>, config: &BatchConfig, sight: Arc<Sight>) -> Self {
        let shared = Arc::new(Shared {
            model,
            config: config.clone(),
            queue: Mutex::default(),
            changed: Condvar::new(),
            pace: AtomicU64::new(1_000_000),
            sight,
        });
        let worker = |_| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("gateway-model".into())
                .spawn(move || shared.work())
                .expect("a thread can be started")
        };
        let threads = (0..config.workers).map(worker).collect();
        Self { shared, threads }
    }

    pub(crate) fn labels(&self) -> &[Class] {
        self.shared.model.labels()
    }

    pub(crate) fn levels(&self) -> Option<&Levels> {
        self.shared.model.levels()
    }

    pub(crate) fn reads(&self) -> Vec<&'static str> {
        self.shared.model.reads()
    }

    /// Texts in the queue.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.lock().texts
    }

    /// Width of an embedding.
    pub(crate) fn width(&self) -> usize {
        self.shared.model.width()
    }

    /// Scores of `inputs`, in order, or why not: full, expired, failed. Dropping the future
    /// withdraws what has not reached the model. With embeddings if `embeds`.
    pub(crate) async fn submit(
        &self,
        inputs: Vec<Input>,
        deadline: Option<Instant>,
        embeds: bool,
    ) -> Result<Answers, Refused> {
        let parts = self.shared.admit(inputs, deadline, embeds)?;
        let answers = async {
            let mut answers = Answers::default();
            for part in parts {
                let part = part.await.map_err(|_| Refused::Expired)??;
                if answers.scores.is_empty() {
                    answers = part;
                } else {
                    answers.scores.extend(part.scores);
                    answers.embeddings.extend(part.embeddings);
                }
            }
            Ok(answers)
        };
        match deadline {
            None => answers.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), answers)
                .await
                .unwrap_or(Err(Refused::Expired)),
        }
    }

    /// Finishes what waits, ends the threads, drops the model. Blocks.
    pub(crate) fn close(mut self) {
        self.shared.close();
        for thread in self.threads.drain(..) {
            thread.join().expect("a worker catches its model's panics");
        }
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.shared.close();
    }
}

type Part = oneshot::Receiver<Result<Answers, Refused>>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no code panics while it holds this lock")
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// All parts of a request, or none.
    fn admit(
        &self,
        mut inputs: Vec<Input>,
        deadline: Option<Instant>,
        embeds: bool,
    ) -> Result<Vec<Part>, Refused> {
        let (came, config) = (Instant::now(), &self.config);
        if deadline.is_some_and(|deadline| deadline <= came) {
            return Err(Refused::Expired);
        }
        let texts = inputs.len();
        let mut jobs = Vec::with_capacity(texts.div_ceil(config.max_batch));
        let mut parts = Vec::with_capacity(jobs.capacity());
        let mut from = 0;
        while !inputs.is_empty() {
            let rest = inputs.split_off(inputs.len().min(config.max_batch));
            let inputs = std::mem::replace(&mut inputs, rest);
            let bytes = inputs.iter().map(Input::bytes).sum();
            let (reply, part) = oneshot::channel();
            let place = (texts > 1).then_some(from);
            from += inputs.len();
            jobs.push(Job { inputs, from: place, bytes, deadline, came, embeds, reply });
            parts.push(part);
        }
        let bytes: usize = jobs.iter().map(|job| job.bytes).sum();
        let mut queue = self.lock();
        let over_bytes = queue.texts > 0 && queue.bytes + bytes > config.queue_bytes;
        if queue.texts + texts > config.queue || over_bytes {
            let (waiting, limit) = (queue.texts, config.queue);
            drop(queue);
            return Err(Refused::Full { waiting, limit, retry: self.patience(waiting) });
        }
        let many = jobs.len() > 1;
        queue.jobs.extend(jobs);
        queue.texts += texts;
        queue.bytes += bytes;
        drop(queue);
        self.sight.depth.add(texts as f64);
        if many {
            self.changed.notify_all();
        } else {
            self.changed.notify_one();
        }
        Ok(parts)
    }

    /// How long `waiting` texts will take, nearly.
    fn patience(&self, waiting: usize) -> Duration {
        let each = Duration::from_nanos(self.pace.load(Ordering::Relaxed));
        let all = each.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX));
        all.clamp(Duration::from_millis(10), Duration::from_secs(10))
    }

    fn work(&self) {
        while let Some(batch) = self.next_batch() {
            self.answer(batch);
        }
    }

    /// Waits for jobs; none when the queue is closed and empty.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let wait = Duration::from_micros(self.config.batch_wait_us);
        let mut queue = self.lock();
        let was_idle = queue.jobs.is_empty();
        loop {
            let Some(oldest) = queue.jobs.front() else {
                if queue.closed {
                    return None;
                }
                queue = self.changed.wait(queue).expect("no code panics with this lock");
                continue;
            };
            let left = wait.saturating_sub(oldest.came.elapsed());
            // A client that asks one at a time is back before the worker is: nobody else will come.
            let alone = was_idle || queue.jobs.len() < 2;
            if alone || queue.closed || left.is_zero() || queue.texts >= self.config.max_batch {
                break;
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.expect("no code panics with this lock").0;
        }
        let batch = self.take(&mut queue);
        // Whoever was woken for what is left may have been us.
        if !queue.jobs.is_empty() {
            self.changed.notify_one();
        }
        Some(batch)
    }

    fn take(&self, queue: &mut Queue) -> Vec<Job> {
        let now = Instant::now();
        let (mut batch, mut texts, mut gone) = (Vec::new(), 0, 0);
        while let Some(next) = queue.jobs.front() {
            let size = next.inputs.len();
            let over = next.is_over(now);
            if !over && texts + size > self.config.max_batch {
                break;
            }
            let job = queue.pop().expect("it is at the front");
            gone += size;
            if over {
                // Dropping the reply tells a client that still listens that it expired.
                self.sight.dropped.inc_by(size as u64);
                continue;
            }
            texts += size;
            batch.push(job);
        }
        self.sight.depth.sub(gone as f64);
        batch
    }

    fn answer(&self, batch: Vec<Job>) {
        if batch.is_empty() {
            return;
        }
        let started = Instant::now();
        let mut inputs = Vec::with_capacity(self.config.max_batch);
        let mut embeds = Vec::with_capacity(inputs.capacity());
        let mut replies = Vec::with_capacity(batch.len());
        for job in batch {
            self.sight.queued.observe(started.duration_since(job.came).as_secs_f64());
            replies.push((job.inputs.len(), job.from, job.reply));
            embeds.extend(std::iter::repeat_n(job.embeds, job.inputs.len()));
            inputs.extend(job.inputs);
        }
        self.sight.batch.observe(inputs.len() as f64);
        let answers = self.forward(&inputs, &embeds);
        let took = started.elapsed();
        self.sight.forward.observe(took.as_secs_f64());
        let each = u64::try_from(took.as_nanos() / inputs.len() as u128).unwrap_or(u64::MAX);
        let before = self.pace.load(Ordering::Relaxed);
        self.pace.store(before - before / 8 + each / 8, Ordering::Relaxed);

        let mut answers = answers.map(Vec::into_iter);
        for (texts, from, reply) in replies {
            let part = match &mut answers {
                Ok(answers) => whole(answers.by_ref().take(texts), from),
                Err(error) => Err(Refused::Failed(error.clone())),
            };
            // A client that went away meanwhile misses nothing.
            let _ = reply.send(part);
        }
    }

    /// A model that panics or miscounts fails its batch, never the worker. `embeds`: of each input
    /// whether its embedding is wanted.
    fn forward(&self, inputs: &[Input], embeds: &[bool]) -> Result<Vec<Answered>, String> {
        let answered = catch_unwind(AssertUnwindSafe(|| self.ask(inputs, embeds)));
        let result = answered.unwrap_or_else(|panic| Err(panic_message(panic.as_ref())));
        if let Err(error) = &result {
            tracing::error!(%error, texts = inputs.len(), "the model failed");
        }
        result
    }

    fn ask(&self, inputs: &[Input], embeds: &[bool]) -> Result<Vec<Answered>, String> {
        let counted = |found: usize, expected: usize| {
            if found == expected {
                return Ok(());
            }
            Err(format!("{found} answers for {expected} inputs"))
        };
        let scores = self.model.forward(inputs)?;
        counted(scores.len(), inputs.len())?;
        let wanted = |at: &usize| embeds[*at] && scores[*at].is_ok();
        let embedded: Vec<usize> = (0..inputs.len()).filter(wanted).collect();
        let mut embeddings = vec![None; inputs.len()];
        if !embedded.is_empty() {
            let asked: Vec<Input> = embedded.iter().map(|&at| inputs[at].clone()).collect();
            let found = self.model.embed(&asked)?;
            counted(found.len(), asked.len())?;
            for (at, embedding) in embedded.into_iter().zip(found) {
                embeddings[at] = Some(embedding);
            }
        }
        let both = |(scores, embedding): (Result<Scores, String>, _)| Ok((scores?, embedding));
        Ok(scores.into_iter().zip(embeddings).map(both).collect())
    }
}

/// What the model said about one input: its scores, and its embedding where that is wanted; or why
/// it cannot be read.
type Answered = Result<(Scores, Option<Vec<f32>>), String>;

/// A request is answered as a whole or refused for the first input that cannot be read, which only
/// others of its batch do not mind. `from`: the place of the first, where there are more.
fn whole(answers: impl Iterator<Item = Answered>, from: Option<usize>) -> Result<Answers, Refused> {
    // All are taken, also behind one that cannot be read: what follows is another request's.
    let answers: Vec<Answered> = answers.collect();
    let mut whole = Answers::default();
    for (at, answer) in answers.into_iter().enumerate() {
        let (scores, embedding) = answer.map_err(|reason| match from {
            None => Refused::Invalid(reason),
            Some(from) => Refused::Invalid(format!("input {}: {reason}", from + at)),
        })?;
        whole.scores.push(scores);
        whole.embeddings.extend(embedding);
    }
    Ok(whole)
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests;
