//! What every door leads to: pick a generation, queue, answer.
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tidegate_contracts::{AccessError, ListenConfig, Part, Role};
use tidegate_model::{Input, MOST_FEATURES, Scores};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::GatewayConfig,
    error::Refused,
    publish::{Asked, Publisher},
    sight::Sight,
    slot::{Served, Slot},
    staging::{Mirror, Timed},
    tensors::Output,
};

/// Inputs kept to warm the next generation with.
const RECENT: usize = 32;
/// Of a text, so much: more than any model reads. An input with other parts is kept when it is no
/// larger.
const RECENT_BYTES: usize = 16 << 10;

/// Shared by all doors and the keeper.
pub(crate) struct Front {
    pub(crate) config: GatewayConfig,
    pub(crate) slot: Slot,
    pub(crate) sight: Arc<Sight>,
    /// Why the ledger's champion is not the one that serves.
    pub(crate) degraded: ArcSwapOption<String>,
    /// Requests that are being answered.
    pub(crate) in_flight: TaskTracker,
    /// Set at shutdown: not ready, long streams end.
    pub(crate) draining: CancellationToken,
    pub(crate) publisher: Publisher,
    /// What is put to the other generation of a stage afterwards.
    pub(crate) mirror: Mirror,
    listen: ListenConfig,
    recent: Mutex<VecDeque<Input>>,
}

/// One request, whatever door it came by.
pub(crate) struct Question {
    pub(crate) model: String,
    pub(crate) version: String,
    /// The client's id, or one made for it.
    pub(crate) request: String,
    pub(crate) event: Option<String>,
    /// Who asks, by their own word: in a canary they meet the same generation each time.
    pub(crate) client: Option<String>,
    pub(crate) inputs: Vec<Input>,
    /// Whether a part that the model does not read is refused: of tensors, which the client chose by
    /// the model's metadata. Of an event, which is as it came, it is passed over.
    pub(crate) exact: bool,
    /// What is asked for by name; nothing: the usual.
    pub(crate) outputs: Vec<Output>,
    pub(crate) came: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) traced: bool,
}

/// One generation's answer to the whole of a question.
pub(crate) struct Answer {
    pub(crate) served: Arc<Served>,
    pub(crate) scores: Vec<Scores>,
    /// What was asked for.
    pub(crate) outputs: Vec<Output>,
    /// One a text, where they were asked for.
    pub(crate) embeddings: Vec<Vec<f32>>,
}

impl Front {
    pub(crate) fn new(config: GatewayConfig, listen: ListenConfig, publisher: Publisher) -> Self {
        Self {
            slot: Slot::new(config.held),
            sight: Sight::new(),
            degraded: ArcSwapOption::empty(),
            in_flight: TaskTracker::new(),
            draining: CancellationToken::new(),
            recent: Mutex::default(),
            config,
            listen,
            publisher,
            mirror: Mirror::new(),
        }
    }

    /// Whether the caller may infer.
    pub(crate) fn authorize(&self, authorization: Option<&str>) -> Result<(), AccessError> {
        self.listen.authorize(authorization, Role::Client).map(|_| ())
    }

    /// Whether to be sent requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.slot.champion().is_some() && !self.draining.is_cancelled()
    }

    /// Refuses any model but ours.
    pub(crate) fn check_model(&self, model: &str) -> Result<(), Refused> {
        let serves = &self.config.model_name;
        if model == serves {
            return Ok(());
        }
        Err(Refused::UnknownModel { asked: model.to_owned(), serves: serves.clone() })
    }

    /// Who answers: the champion, the candidate that is tried, or a generation still held.
    pub(crate) fn pick(&self, model: &str, version: &str) -> Result<Arc<Served>, Refused> {
        self.check_model(model)?;
        if matches!(version, "" | "champion") {
            return self.slot.champion().ok_or_else(|| match self.degraded.load_full() {
                Some(why) => Refused::Degraded(why.to_string()),
                None => Refused::NoChampion,
            });
        }
        if version == "candidate"
            && let Some(staged) = self.slot.staged()
        {
            return Ok(staged.served.clone());
        }
        let unknown =
            || Refused::UnknownVersion { asked: version.to_owned(), held: self.slot.versions() };
        self.slot.held(version).ok_or_else(unknown)
    }

    /// Answers a question. The generation is picked once; all inputs go to it.
    pub(crate) async fn ask(&self, mut question: Question) -> Result<Answer, Refused> {
        let served = self.pick(&question.model, &question.version)?;
        // Before anything is hashed or kept of it.
        self.check(&served, &question)?;
        let first = self.worth_remembering(&question.inputs[0]);
        let answered = if let Some(staged) = self.tried(&question, &served) {
            self.try_on(&staged, served, question).await
        } else {
            let noted = self.publisher.note(&question.request, &question.inputs);
            let put = self.put(&served, &mut question, None).await;
            put.map(|Timed { answer, .. }| {
                let asked = Asked::of(&question);
                let told = self.publisher.told(noted, &asked, &served, &answer.scores);
                self.publisher.offer(told, &self.sight);
                answer
            })
        };
        if answered.is_ok() {
            self.remember(first);
        }
        answered
    }

    /// Whether `served` can be asked this.
    pub(crate) fn check(&self, served: &Served, question: &Question) -> Result<(), Refused> {
        let (texts, limit) = (question.inputs.len(), self.config.batch.queue);
        if texts > limit {
            let reason =
                format!("the request has {texts} texts: at most {limit} are taken at once");
            return Err(Refused::Invalid(reason));
        }
        if question.exact {
            let reads = served.batcher.reads();
            let parts = question.inputs.iter().flat_map(|input| &input.parts);
            if let Some(part) = parts.map(Part::name).find(|name| !reads.contains(name)) {
                let reads = reads.join(", ");
                let reason = format!("input `{part}` is not read by this model: it reads {reads}");
                return Err(Refused::Invalid(reason));
            }
        }
        let features = question.inputs.iter().map(|input| input.features());
        if let Some(count) = features.filter(|&count| count > MOST_FEATURES).max() {
            let reason = format!("an input has {count} features: at most {MOST_FEATURES} are read");
            return Err(Refused::Invalid(reason));
        }
        Ok(())
    }

    /// What of an input is kept to warm with.
    fn worth_remembering(&self, input: &Input) -> Option<Input> {
        let fits = input.is_text() || input.bytes() <= RECENT_BYTES;
        let cut = |text: &str| text[..text.floor_char_boundary(RECENT_BYTES)].to_owned();
        fits.then(|| input.with_text(cut))
    }

    /// Keeps one that was answered. Skipped when another request does the same right now.
    fn remember(&self, input: Option<Input>) {
        if let (Some(input), Ok(mut recent)) = (input, self.recent.try_lock()) {
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(input);
        }
    }

    /// The latest inputs that were asked about.
    pub(crate) fn recent(&self) -> Vec<Input> {
        self.recent.lock().expect("no code panics with this lock").iter().cloned().collect()
    }
}

/// The earlier of what the client's protocol says and what the request's `timeout` says.
pub(crate) fn deadline(came: Instant, timeouts: [Option<Duration>; 2]) -> Option<Instant> {
    timeouts.into_iter().flatten().min().and_then(|timeout| came.checked_add(timeout))
}

/// The client's own id, or a new one.
pub(crate) fn request_id(given: &str) -> String {
    if given.is_empty() { uuid::Uuid::now_v7().to_string() } else { given.to_owned() }
}
