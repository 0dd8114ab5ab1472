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
use tidegate_model::{Input, Model, Scores};
use tokio::sync::oneshot;

use crate::{config::BatchConfig, error::Refused, sight::Sight};

/// What a worker runs: the model, or in tests something that can be foreseen.
pub(crate) trait Forward: Send + Sync + 'static {
    /// The classes, in the order of scores.
    fn labels(&self) -> &[Class];
    /// One [`Scores`] for each input, in order.
    fn forward(&self, inputs: &[Input]) -> Result<Vec<Scores>, String>;
}

impl Forward for Model {
    fn labels(&self) -> &[Class] {
        Self::labels(self)
    }

    fn forward(&self, inputs: &[Input]) -> Result<Vec<Scores>, String> {
        self.predict(inputs).map_err(|error| error.to_string())
    }
}

/// Part of a request, small enough for one batch.
struct Job {
    inputs: Vec<Input>,
    bytes: usize,
    deadline: Option<Instant>,
    came: Instant,
    reply: oneshot::Sender<Result<Vec<Scores>, Refused>>,
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

    /// Texts in the queue.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.shared.lock().texts
    }

    /// Scores of `inputs`, in order, or why not: full, expired, failed. Dropping the future
    /// withdraws what has not reached the model.
    pub(crate) async fn submit(
        &self,
        inputs: Vec<Input>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Scores>, Refused> {
        let parts = self.shared.admit(inputs, deadline)?;
        let answers = async {
            let mut scores = Vec::new();
            for part in parts {
                let part = part.await.map_err(|_| Refused::Expired)??;
                if scores.is_empty() {
                    scores = part;
                } else {
                    scores.extend(part);
                }
            }
            Ok(scores)
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

type Part = oneshot::Receiver<Result<Vec<Scores>, Refused>>;

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
    ) -> Result<Vec<Part>, Refused> {
        let (came, config) = (Instant::now(), &self.config);
        if deadline.is_some_and(|deadline| deadline <= came) {
            return Err(Refused::Expired);
        }
        let texts = inputs.len();
        let mut jobs = Vec::with_capacity(texts.div_ceil(config.max_batch));
        let mut parts = Vec::with_capacity(jobs.capacity());
        while !inputs.is_empty() {
            let rest = inputs.split_off(inputs.len().min(config.max_batch));
            let inputs = std::mem::replace(&mut inputs, rest);
            let bytes = inputs.iter().map(|input| input.text.len()).sum();
            let (reply, part) = oneshot::channel();
            jobs.push(Job { inputs, bytes, deadline, came, reply });
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
        let mut replies = Vec::with_capacity(batch.len());
        for job in batch {
            self.sight.queued.observe(started.duration_since(job.came).as_secs_f64());
            replies.push((job.inputs.len(), job.reply));
            inputs.extend(job.inputs);
        }
        self.sight.batch.observe(inputs.len() as f64);
        let scores = self.forward(&inputs);
        let took = started.elapsed();
        self.sight.forward.observe(took.as_secs_f64());
        let each = u64::try_from(took.as_nanos() / inputs.len() as u128).unwrap_or(u64::MAX);
        let before = self.pace.load(Ordering::Relaxed);
        self.pace.store(before - before / 8 + each / 8, Ordering::Relaxed);

        let mut scores = scores.map(Vec::into_iter);
        for (texts, reply) in replies {
            let part = match &mut scores {
                Ok(scores) => Ok(scores.by_ref().take(texts).collect()),
                Err(error) => Err(Refused::Failed(error.clone())),
            };
            // A client that went away meanwhile misses nothing.
            let _ = reply.send(part);
        }
    }

    /// A model that panics or miscounts fails its batch, never the worker.
    fn forward(&self, inputs: &[Input]) -> Result<Vec<Scores>, String> {
        let scores = catch_unwind(AssertUnwindSafe(|| self.model.forward(inputs)))
            .unwrap_or_else(|panic| Err(panic_message(panic.as_ref())));
        let result = scores.and_then(|scores| {
            let (found, expected) = (scores.len(), inputs.len());
            if found == expected {
                Ok(scores)
            } else {
                Err(format!("{found} answers for {expected} inputs"))
            }
        });
        if let Err(error) = &result {
            tracing::error!(%error, texts = inputs.len(), "the model failed");
        }
        result
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests;
