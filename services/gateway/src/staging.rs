//! A candidate that is tried beside the champion: whom it answers, and what both said.
//!
//! In a shadow the champion answers, and a share of the requests is put to the candidate afterwards. In a
//! canary the candidate answers a share of the clients, always the same ones while the stage lasts, and the
//! champion is asked afterwards; where the candidate fails, the champion answers. What is asked afterwards
//! waits in a queue of its own and is dropped first when there is much to do, so that nobody waits for it.
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate_contracts::{GenerationId, proto::v1};
use tidegate_ledger::Stage;
use tidegate_model::{Input, Scores};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    batcher::Answers,
    error::Refused,
    front::{Answer, Front, Question},
    publish::{Asked, Publisher, Told},
    slot::Served,
    tensors::Output,
};

/// Requests that wait to be put to the other generation.
const QUEUE: usize = 128;
/// Bytes of their inputs.
const QUEUE_BYTES: usize = 32 << 20;
/// How long the other may take to answer afterwards; longer is a failure.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// How long a canary may keep a client waiting before the champion answers: at most this, and half of
/// what the client leaves.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is tried, how, and beside whom.
#[derive(Clone)]
pub(crate) struct Staged {
    pub(crate) served: Arc<Served>,
    pub(crate) champion: GenerationId,
    pub(crate) stage: Stage,
    pub(crate) share: f64,
    pub(crate) until: Instant,
}

impl Staged {
    /// Whether whoever goes by this name is in the share. By a hash, so that it is the same each time
    /// while the stage lasts, and drawn anew for the next one.
    fn draws(&self, name: &str) -> bool {
        let mut hash = blake3::Hasher::new();
        hash.update(self.served.id.as_bytes());
        hash.update(self.stage.as_str().as_bytes()).update(b"\0").update(name.as_bytes());
        let mut drawn = [0; 4];
        hash.finalize_xof().fill(&mut drawn);
        f64::from(u32::from_le_bytes(drawn)) < self.share * (f64::from(u32::MAX) + 1.0)
    }

    /// What an answer's record says of the stage, before the other was asked.
    fn of(&self, other: &Served, answered: Duration) -> v1::Staged {
        v1::Staged {
            stage: self.stage.as_str().to_owned(),
            candidate: self.served.name.clone(),
            other: other.name.clone(),
            answered_ms: answered.as_secs_f64() * 1e3,
            ..v1::Staged::default()
        }
    }
}

/// One generation's answer, and how long it took from the queue on.
pub(crate) struct Timed {
    pub(crate) answer: Answer,
    pub(crate) took: Duration,
}

/// What is to be put to the other generation.
struct Mirrored {
    inputs: Vec<Input>,
    bytes: usize,
    other: Arc<Served>,
    told: Vec<Told>,
    stage: Stage,
    staged: v1::Staged,
}

/// The queue of these.
pub(crate) struct Mirror {
    queue: mpsc::Sender<Mirrored>,
    /// Bytes that wait.
    bytes: AtomicUsize,
    waiting: Mutex<Option<mpsc::Receiver<Mirrored>>>,
}

impl Mirror {
    pub(crate) fn new() -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        Self { queue, bytes: AtomicUsize::new(0), waiting: Mutex::new(Some(waiting)) }
    }

    /// Gives it back where there is no room.
    fn offer(&self, one: Mirrored) -> Result<(), Vec<Told>> {
        let bytes = one.bytes;
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(one.told);
        }
        self.queue.try_send(one).map_err(|full| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            full.into_inner().told
        })
    }
}

impl Front {
    /// Who is tried on this question. Only on one that leaves the version to us.
    pub(crate) fn tried(&self, question: &Question, champion: &Served) -> Option<Arc<Staged>> {
        let staged = self.slot.staged().filter(|_| question.version.is_empty())?;
        if staged.champion != champion.id || Instant::now() >= staged.until {
            return None;
        }
        let name = match (staged.stage, &question.client) {
            (Stage::Canary, Some(client)) => client,
            _ => question.event.as_ref().unwrap_or(&question.request),
        };
        staged.draws(name).then_some(staged)
    }

    /// Answers a question on which `staged` is tried.
    pub(crate) async fn try_on(
        &self,
        staged: &Staged,
        champion: Arc<Served>,
        mut question: Question,
    ) -> Result<Answer, Refused> {
        let noted = Publisher::note_all(&question.inputs);
        let (inputs, outputs) = (question.inputs.clone(), question.outputs.clone());
        let (first, other, staging) = match staged.stage {
            Stage::Shadow => {
                let first = self.put(&champion, &mut question, None).await?;
                (first, staged.served.clone(), None)
            }
            Stage::Canary => match self.put(&staged.served, &mut question, Some(PATIENCE)).await {
                Ok(first) => (first, champion, None),
                Err(failed) => {
                    (question.inputs, question.outputs) = (inputs.clone(), outputs);
                    let first = self.put(&champion, &mut question, None).await?;
                    let error = failed.to_string();
                    let failed = v1::Staged { error, ..staged.of(&staged.served, first.took) };
                    self.sight.staged(staged.stage, "fell_back");
                    (first, staged.served.clone(), Some(failed))
                }
            },
        };
        let Timed { answer, took } = first;
        let asked = Asked::of(&question);
        let told = self.publisher.told(noted, &asked, &answer.served, &answer.scores);
        match staging {
            Some(failed) => self.publisher.offer(stamped(told, &failed), &self.sight),
            None => {
                let bytes = inputs.iter().map(Input::bytes).sum();
                let staging = staged.of(&other, took);
                let stage = staged.stage;
                let one = Mirrored { inputs, bytes, other, told, stage, staged: staging };
                if let Err(told) = self.mirror.offer(one) {
                    self.sight.staged(staged.stage, "dropped");
                    self.publisher.offer(told.into_iter().filter(Told::is_sampled), &self.sight);
                }
            }
        }
        Ok(answer)
    }

    /// Puts what waits to the other generations, one after the other, until `stop`.
    pub(crate) async fn mirror(self: Arc<Self>, stop: CancellationToken) {
        let waiting = self.mirror.waiting.lock().expect("no code panics with this lock").take();
        let Some(mut waiting) = waiting else { return };
        while let Some(Some(one)) = stop.run_until_cancelled(waiting.recv()).await {
            let bytes = one.bytes;
            stop.run_until_cancelled(self.afterwards(one)).await;
            self.mirror.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    async fn afterwards(&self, one: Mirrored) {
        let Mirrored { inputs, other, told, stage, mut staged, .. } = one;
        let is_busy = |served: Arc<Served>| served.batcher.waiting() > self.config.batch.max_batch;
        let began = Instant::now();
        let answered = if self.slot.champion().is_some_and(is_busy) {
            None
        } else {
            let deadline = Some(began + AFTERWARDS);
            match other.batcher.submit(inputs, deadline, false).await {
                // Of our own making: others ask it too.
                Err(Refused::Full { .. }) => None,
                answered => Some(answered),
            }
        };
        staged.other_ms = began.elapsed().as_secs_f64() * 1e3;
        match answered {
            None => {
                self.sight.staged(stage, "dropped");
                self.publisher.offer(told.into_iter().filter(Told::is_sampled), &self.sight);
            }
            Some(Err(refused)) => {
                self.sight.staged(stage, "failed");
                staged.error = match refused {
                    Refused::Expired => format!("no answer within {} s", AFTERWARDS.as_secs()),
                    refused => refused.to_string(),
                };
                self.publisher.offer(stamped(told, &staged), &self.sight);
            }
            Some(Ok(Answers { scores, .. })) => {
                self.sight.staged(stage, "paired");
                let stamp = |mut told: Told| {
                    let said = &scores[told.index()];
                    told.stamp(said_by(&staged, &other, said));
                    told
                };
                self.publisher.offer(told.into_iter().map(stamp), &self.sight);
            }
        }
    }

    /// Puts a question's inputs to one generation; takes them out of it.
    pub(crate) async fn put(
        &self,
        served: &Arc<Served>,
        question: &mut Question,
        patience: Option<Duration>,
    ) -> Result<Timed, Refused> {
        self.check(served, question)?;
        let outputs = Output::of(served, std::mem::take(&mut question.outputs))?;
        let embeds = outputs.contains(&Output::Embedding);
        let (inputs, began) = (std::mem::take(&mut question.inputs), Instant::now());
        let deadline = match (patience, question.deadline) {
            (None, deadline) => deadline,
            (Some(patience), None) => Some(began + patience),
            (Some(patience), Some(deadline)) => {
                Some(began + patience.min(deadline.saturating_duration_since(began) / 2))
            }
        };
        let Answers { scores, embeddings } =
            served.batcher.submit(inputs, deadline, embeds).await?;
        let answer = Answer { served: served.clone(), scores, outputs, embeddings };
        Ok(Timed { answer, took: began.elapsed() })
    }
}

fn said_by(staged: &v1::Staged, other: &Served, said: &Scores) -> v1::Staged {
    v1::Staged {
        label: other.label(said).into_owned(),
        probabilities: said.probabilities.clone(),
        value: other.value(said),
        ..staged.clone()
    }
}

fn stamped(told: Vec<Told>, staged: &v1::Staged) -> impl Iterator<Item = Told> {
    told.into_iter().map(|mut one| {
        one.stamp(staged.clone());
        one
    })
}
