//! `tidegate.v1.Predict`: prediction on an event, and streaming.
use std::{pin::Pin, sync::Arc, time::Instant};

use chrono::Utc;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tidegate_contracts::{
    Event,
    proto::v1::{PredictEventRequest, PredictEventResponse, predict_server::Predict},
};
use tidegate_model::Input;
use tidegate_telemetry::trace_context;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use crate::{
    error::Refused,
    front::{Answer, Front, Question, deadline},
    grpc::{authorization, client, timeout, traceparent},
};

/// Events of one stream that are asked about at a time.
const STREAM_WINDOW: usize = 32;

/// The service.
pub(crate) struct Predictor(pub(crate) Arc<Front>);

/// What holds for a call, or for all events of a stream.
#[derive(Clone)]
struct Call {
    client: Option<String>,
    deadline: Option<Instant>,
    traced: bool,
}

type Answers = Pin<Box<dyn Stream<Item = Result<PredictEventResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Predict for Predictor {
    async fn predict_event(
        &self,
        request: Request<PredictEventRequest>,
    ) -> Result<Response<PredictEventResponse>, Status> {
        let came = Instant::now();
        let (metadata, _, request) = request.into_parts();
        let _in_flight = self.0.in_flight.token();
        let span = tracing::info_span!("predict_event");
        trace_context::continue_trace(&span, traceparent(&metadata));
        let call = Call {
            client: client(&metadata),
            deadline: deadline(came, [timeout(&metadata), None]),
            traced: traceparent(&metadata).next().is_some(),
        };
        let answered = async {
            self.0.authorize(authorization(&metadata))?;
            predict(&self.0, request, call).await
        };
        let answered = answered.instrument(span).await;
        let outcome = answered.as_ref().map(|(_, answer)| &answer.served.id);
        self.0.sight.request(outcome, came.elapsed());
        let (event, answer) = answered?;
        Ok(Response::new(respond(event, &answer)))
    }

    type PredictStreamStream = Answers;

    /// Answers in order; a full queue slows the stream down. The first event that cannot be
    /// answered ends it, by its number and reason.
    async fn predict_stream(
        &self,
        request: Request<Streaming<PredictEventRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (metadata, _, events) = request.into_parts();
        self.0.authorize(authorization(&metadata)).map_err(Refused::from)?;
        let call = Call {
            client: client(&metadata),
            deadline: deadline(Instant::now(), [timeout(&metadata), None]),
            traced: traceparent(&metadata).next().is_some(),
        };
        let (front, draining) = (self.0.clone(), self.0.draining.clone());
        let in_flight = front.in_flight.token();
        let answer = move |(number, event): (usize, PredictEventRequest)| {
            let (front, call) = (front.clone(), call.clone());
            async move {
                let came = Instant::now();
                let answered = patiently(&front, event, call).await;
                let outcome = answered.as_ref().map(|(_, answer)| &answer.served.id);
                front.sight.request(outcome, came.elapsed());
                let (event, answer) = answered.map_err(|refused| {
                    let status = Status::from(refused);
                    Status::new(status.code(), format!("event {number}: {}", status.message()))
                })?;
                Ok(respond(event, &answer))
            }
        };
        let until = draining.clone();
        let last = futures::stream::once(async move {
            draining.is_cancelled().then(|| Err(Status::from(Refused::Stopping)))
        })
        .filter_map(std::future::ready);
        let answers = events
            .take_until(until.cancelled_owned())
            .enumerate()
            .map(|(number, event)| event.map(|event| (number, event)))
            .map_ok(answer)
            .try_buffered(STREAM_WINDOW)
            .chain(last)
            .inspect(move |_| _ = &in_flight);
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The event's id and the answer.
async fn predict(
    front: &Front,
    request: PredictEventRequest,
    call: Call,
) -> Result<(String, Answer), Refused> {
    let came = Instant::now();
    let model = if request.model_name.is_empty() {
        front.config.model_name.clone()
    } else {
        request.model_name
    };
    front.check_model(&model)?;
    let invalid = |reason: String| Refused::Invalid(reason);
    let event = request.event.ok_or_else(|| invalid("field `event`: is missing".into()))?;
    let event = Event::from_proto(event, Utc::now()).map_err(|error| invalid(error.to_string()))?;
    let input = Input::from_event(&event);
    let id = event.id.to_string();
    let question = Question {
        model,
        version: request.model_version,
        request: uuid::Uuid::now_v7().to_string(),
        event: Some(id.clone()),
        client: call.client.clone(),
        inputs: vec![input],
        exact: false,
        outputs: vec![],
        came,
        deadline: call.deadline,
        traced: call.traced,
    };
    Ok((id, front.ask(question).await?))
}

/// As [`predict`], but waits while the queue is full: a stream can be slowed down.
async fn patiently(
    front: &Front,
    request: PredictEventRequest,
    call: Call,
) -> Result<(String, Answer), Refused> {
    loop {
        match predict(front, request.clone(), call.clone()).await {
            Err(Refused::Full { retry, .. }) => tokio::time::sleep(retry).await,
            answered => return answered,
        }
    }
}

fn respond(event_id: String, answer: &Answer) -> PredictEventResponse {
    let (served, scores) = (&answer.served, &answer.scores[0]);
    let interval = served.interval(scores);
    PredictEventResponse {
        event_id,
        generation: served.name.clone(),
        label: served.label(scores).into_owned(),
        classes: served.labels().iter().map(ToString::to_string).collect(),
        probabilities: scores.probabilities.clone(),
        value: served.value(scores),
        low: interval.map(|(low, _)| low),
        high: interval.map(|(_, high)| high),
    }
}
