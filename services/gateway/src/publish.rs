//! Answers go to the predictions topic; serving never waits for it.
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use prost::Message as _;
use tidegate_contracts::{ContentType, proto, proto::v1};
use tidegate_model::{Input, Scores};
use tidegate_stream::{Message, Sink};
use tidegate_telemetry::trace_context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{config::PredictionsConfig, front::Question, sight::Sight, slot::Served};

/// Records sent at a time.
const BURST: usize = 256;
/// How long what waits may take to be sent at shutdown.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// An answer on its way, with the trace it belongs to.
pub(crate) struct Outgoing {
    prediction: v1::Prediction,
    trace: Vec<(String, String)>,
}

/// The near end of the queue.
pub(crate) struct Publisher {
    share: f64,
    queue: mpsc::Sender<Outgoing>,
}

/// Which inputs of a request are published, noted before the model takes them.
pub(crate) struct Noted(Vec<(usize, String)>);

/// One input's answer, ready to be queued.
pub(crate) struct Told {
    index: usize,
    sampled: bool,
    outgoing: Outgoing,
}

impl Told {
    /// The input's place in its request.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Whether it is in the share that is published anyhow.
    pub(crate) fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Says what the other generation said.
    pub(crate) fn stamp(&mut self, staged: v1::Staged) {
        self.outgoing.prediction.staged = Some(staged);
    }
}

impl Publisher {
    pub(crate) fn new(config: &PredictionsConfig) -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, outgoing) = mpsc::channel(config.queue);
        (Self { share: config.share, queue }, outgoing)
    }

    /// Draws the sample and notes the inputs' digests.
    pub(crate) fn note(&self, request: &str, inputs: &[Input]) -> Noted {
        let chosen = inputs.iter().enumerate().filter(|(index, _)| self.chosen(request, *index));
        Noted(chosen.map(|(index, input)| (index, digest(input))).collect())
    }

    /// The same without drawing: a stage rests on all that both were asked.
    pub(crate) fn note_all(inputs: &[Input]) -> Noted {
        Noted(inputs.iter().map(digest).enumerate().collect())
    }

    /// By a hash of the request's id, so that a retry is sampled like the first try.
    fn chosen(&self, request: &str, index: usize) -> bool {
        if self.share >= 1.0 || self.share <= 0.0 {
            return self.share >= 1.0;
        }
        let mut hash = blake3::Hasher::new();
        hash.update(request.as_bytes()).update(&(index as u64).to_le_bytes());
        let mut drawn = [0; 4];
        hash.finalize_xof().fill(&mut drawn);
        f64::from(u32::from_le_bytes(drawn)) < self.share * (f64::from(u32::MAX) + 1.0)
    }

    /// What was noted, now that it is answered.
    pub(crate) fn told(
        &self,
        noted: Noted,
        asked: &Asked<'_>,
        served: &Served,
        scores: &[Scores],
    ) -> Vec<Told> {
        let many = scores.len() > 1;
        let tell = |(index, input_digest): (usize, String)| {
            let scores = &scores[index];
            let request_id =
                if many { format!("{}/{index}", asked.request) } else { asked.request.to_owned() };
            let prediction = v1::Prediction {
                request_id,
                event_id: asked.event.unwrap_or_default().to_owned(),
                generation: served.name.clone(),
                label: served.label(scores).into_owned(),
                probabilities: scores.probabilities.clone(),
                classes: served.labels().iter().map(ToString::to_string).collect(),
                time: Some(proto::timestamp(Utc::now())),
                latency_ms: asked.came.elapsed().as_secs_f64() * 1e3,
                input_digest,
                value: served.value(scores),
                staged: None,
            };
            let trace = if asked.traced { trace_context::inject() } else { Vec::new() };
            let sampled = self.chosen(asked.request, index);
            Told { index, sampled, outgoing: Outgoing { prediction, trace } }
        };
        noted.0.into_iter().map(tell).collect()
    }

    /// Queues these; drops and counts what does not fit.
    pub(crate) fn offer(&self, told: impl IntoIterator<Item = Told>, sight: &Sight) {
        for one in told {
            if self.queue.try_send(one.outgoing).is_err() {
                sight.predictions.with_label_values(&["dropped"]).inc();
            }
        }
    }
}

fn digest(input: &Input) -> String {
    blake3::hash(&input.canonical()).to_hex().to_string()
}

/// What a prediction says about the request it answers.
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a str,
    pub(crate) event: Option<&'a str>,
    pub(crate) came: std::time::Instant,
    pub(crate) traced: bool,
}

impl<'a> Asked<'a> {
    pub(crate) fn of(question: &'a Question) -> Self {
        Self {
            request: &question.request,
            event: question.event.as_deref(),
            came: question.came,
            traced: question.traced,
        }
    }
}

/// Sends what is queued until `stop`, then what is left, as far as Kafka takes it in time.
pub(crate) async fn publish(
    sink: Sink,
    topic: String,
    mut queue: mpsc::Receiver<Outgoing>,
    sight: std::sync::Arc<Sight>,
    stop: CancellationToken,
) {
    let mut burst = Vec::with_capacity(BURST);
    loop {
        let received = stop.run_until_cancelled(queue.recv_many(&mut burst, BURST)).await;
        if received.is_none() {
            queue.close();
            while let Ok(last) = queue.try_recv() {
                burst.push(last);
            }
        }
        let (count, last) = (burst.len() as u64, received.is_none_or(|received| received == 0));
        let messages = burst.drain(..).map(|outgoing| outgoing.message(&topic)).collect();
        let sending = sink.send_all(messages);
        tokio::pin!(sending);
        // While Kafka is away `send_all` waits: a stop must not wait with it.
        let sent = tokio::select! {
            sent = &mut sending => Some(sent),
            () = async { stop.cancelled().await; tokio::time::sleep(LAST_WORDS).await } => None,
        };
        let result = match sent {
            Some(Ok(_)) => "published",
            Some(Err(error)) => {
                tracing::warn!(%error, count, "predictions were not published");
                "failed"
            }
            None => "dropped",
        };
        sight.predictions.with_label_values(&[result]).inc_by(count);
        if last {
            return;
        }
    }
}

impl Outgoing {
    pub(crate) fn message(self, topic: &str) -> Message {
        let key = match self.prediction.event_id.as_str() {
            "" => self.prediction.request_id.clone(),
            event => event.to_owned(),
        };
        let message = Message::new(topic, self.prediction.encode_to_vec())
            .key(key)
            .header("content-type", ContentType::Protobuf.as_str());
        self.trace
            .into_iter()
            .fold(message, |message, (name, value)| message.header(name, Bytes::from(value)))
    }
}
