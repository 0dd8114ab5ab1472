//! The Open Inference Protocol, version 2, over HTTP and JSON.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD as STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_contracts::{CODE_VERSION, proto::inference::model_metadata_response::TensorMetadata};

use crate::{
    error::Refused,
    front::{Answer, Front, Question, deadline, request_id},
    grpc::CLIENT,
    inputs::{Column, Declared, check_inputs, rows},
    oip::SERVER,
    tensors::Output,
};

/// The routes under `/v2`.
pub(crate) fn routes(front: Arc<Front>) -> Router {
    let limit = DefaultBodyLimit::max(front.config.max_message_bytes);
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(async || Json(json!({ "live": true }))))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(model))
        .route("/v2/models/{name}/versions/{version}", get(model))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{name}/infer", post(infer))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer))
        .layer(limit)
        .with_state(front)
}

#[derive(Deserialize)]
struct Target {
    name: String,
    #[serde(default)]
    version: String,
}

fn authorize(front: &Front, headers: &HeaderMap) -> Result<(), Refused> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    Ok(front.authorize(header)?)
}

/// `degraded` says why the ledger's champion is not the one that answers; null when it is.
async fn server(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    authorize(&front, &headers)?;
    Ok(Json(json!({
        "name": SERVER,
        "version": CODE_VERSION,
        "extensions": [],
        "degraded": front.degraded.load_full().as_deref(),
    })))
}

fn readiness(ready: bool, body: Value) -> Response {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn ready(State(front): State<Arc<Front>>) -> Response {
    let ready = front.is_ready();
    readiness(ready, json!({ "ready": ready }))
}

async fn model_ready(
    State(front): State<Arc<Front>>,
    Path(target): Path<Target>,
) -> Result<Response, Refused> {
    let ready = front.model_ready(&target.name, &target.version)?;
    Ok(readiness(ready, json!({ "name": target.name, "ready": ready })))
}

async fn model(
    State(front): State<Arc<Front>>,
    Path(target): Path<Target>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    authorize(&front, &headers)?;
    let found = front.metadata(&target.name, &target.version)?;
    let tensors = |tensors: Vec<TensorMetadata>| {
        let tensor =
            |t: TensorMetadata| json!({"name": t.name, "datatype": t.datatype, "shape": t.shape});
        tensors.into_iter().map(tensor).collect::<Vec<_>>()
    };
    Ok(Json(json!({
        "name": found.name,
        "versions": found.versions,
        "platform": found.platform,
        "inputs": tensors(found.inputs),
        "outputs": tensors(found.outputs),
        "properties": found.properties,
    })))
}

#[derive(Deserialize)]
struct InferRequest {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(default)]
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<OutputName>,
}

#[derive(Deserialize, Default)]
struct Parameters {
    /// Microseconds.
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct InputTensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    data: Vec<Text>,
}

/// A string, or, in a tensor of shape `[n, 1]` written as rows, a row of one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "every element of `data` is a string")]
enum Text {
    Flat(String),
    Row([String; 1]),
}

#[derive(Deserialize)]
struct OutputName {
    name: String,
}

#[derive(Serialize)]
struct InferResponse {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    parameters: Value,
    outputs: Vec<OutputTensor>,
}

#[derive(Serialize)]
struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
    data: Value,
}

async fn infer(
    State(front): State<Arc<Front>>,
    Path(target): Path<Target>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<InferResponse>, Refused> {
    let came = Instant::now();
    let _in_flight = front.in_flight.token();
    let answered = answer(&front, target, &headers, body, came).await;
    let outcome = answered.as_ref().map(|(answer, ..)| &answer.served.id);
    front.sight.request(outcome, came.elapsed());
    let (answer, id) = answered?;
    let tensor = |output: Output| OutputTensor {
        name: output.name(),
        datatype: output.datatype(),
        shape: answer.shape(output),
        data: match output {
            Output::Label => answer.labels().collect(),
            Output::Value => answer.values().collect(),
            Output::Interval => answer.intervals().collect(),
            Output::Probabilities => answer.probabilities().collect(),
            Output::Embedding => answer.embeddings().collect(),
            Output::Generation => json!([answer.served.name]),
        },
    };
    Ok(Json(InferResponse {
        model_name: front.config.model_name.clone(),
        model_version: answer.served.name.clone(),
        id,
        parameters: json!({ "generation": answer.served.name }),
        outputs: answer.outputs.iter().copied().map(tensor).collect(),
    }))
}

async fn answer(
    front: &Front,
    target: Target,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    came: Instant,
) -> Result<(Answer, String), Refused> {
    authorize(front, headers)?;
    front.check_model(&target.name)?;
    if headers.contains_key("inference-header-content-length") {
        let reason = "the binary tensor extension is not served over HTTP: send JSON, or use gRPC";
        return Err(Refused::Invalid(reason.into()));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refused::TooLarge { limit: front.config.max_message_bytes }
        }
        _ => Refused::Invalid(rejection.body_text()),
    })?;
    let request: InferRequest = serde_json::from_slice(&body)
        .map_err(|error| Refused::Invalid(format!("the body is no inference request: {error}")))?;
    let outputs = Output::requested(request.outputs.iter().map(|output| output.name.as_str()))?;
    let timeout = request.parameters.timeout.map(Duration::from_micros);
    let id = request.id.clone();
    let question = Question {
        model: target.name,
        version: target.version,
        request: request_id(&request.id),
        event: None,
        client: headers.get(CLIENT).and_then(|client| Some(client.to_str().ok()?.to_owned())),
        inputs: inputs(request)?,
        exact: true,
        outputs,
        came,
        deadline: deadline(came, [timeout.filter(|timeout| !timeout.is_zero()), None]),
        traced: false,
    };
    Ok((front.ask(question).await?, id))
}

fn inputs(request: InferRequest) -> Result<Vec<tidegate_model::Input>, Refused> {
    let declared = request.inputs.iter().map(|input| Declared {
        name: &input.name,
        datatype: &input.datatype,
        shape: &input.shape,
    });
    let (columns, count) = check_inputs(declared)?;
    let mut read = Vec::with_capacity(columns.len());
    for (column, input) in columns.into_iter().zip(request.inputs) {
        if input.data.len() != count {
            let (name, found, shape) = (column.name(), input.data.len(), input.shape);
            return Err(Refused::Invalid(format!(
                "input `{name}` holds {found} strings in data: its shape {shape:?} says {count}"
            )));
        }
        let cell = |(row, cell)| match cell {
            Text::Flat(text) | Text::Row([text]) => bytes(column, row, text),
        };
        let cells = input.data.into_iter().enumerate().map(cell).collect::<Result<_, _>>()?;
        read.push((column, cells));
    }
    rows(read)
}

/// Pictures and sounds come as base64 of the standard alphabet, with padding.
fn bytes(column: Column, row: usize, text: String) -> Result<Vec<u8>, Refused> {
    match column {
        Column::Text | Column::Features => Ok(text.into_bytes()),
        Column::Image | Column::Audio => STANDARD.decode(text.as_bytes()).map_err(|error| {
            Refused::Invalid(format!("{}[{row}] is not base64: {error}", column.name()))
        }),
    }
}
