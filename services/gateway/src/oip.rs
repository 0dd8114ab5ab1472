//! The Open Inference Protocol, version 2, over gRPC.
use std::{sync::Arc, time::Instant};

use tidegate_contracts::{
    CODE_VERSION,
    proto::inference::{
        InferParameter, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
        ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ServerLiveRequest,
        ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
        ServerReadyResponse, grpc_inference_service_server::GrpcInferenceService,
        infer_parameter::ParameterChoice, model_metadata_response::TensorMetadata,
    },
};
use tidegate_telemetry::trace_context;
use tonic::{Request, Response, Status, metadata::MetadataMap};
use tracing::Instrument as _;

use crate::{
    error::Refused,
    front::{Answer, Front, Question, deadline, request_id},
    grpc::{authorization, client, timeout, traceparent},
    slot::Served,
    tensors::{Asking, Output},
};

/// Its name for clients.
pub(crate) const SERVER: &str = "tidegate";
/// What runs the model, for clients.
pub(crate) const PLATFORM: &str = "tidegate_moe";

/// The service. Liveness and readiness may be asked by anyone, the rest by clients.
pub(crate) struct OpenInference(pub(crate) Arc<Front>);

#[tonic::async_trait]
impl GrpcInferenceService for OpenInference {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.0.model_ready(&name, &version)?;
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        self.0.authorize(authorization(request.metadata())).map_err(Refused::from)?;
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER.to_owned(),
            version: CODE_VERSION.to_owned(),
            extensions: vec![],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        self.0.authorize(authorization(request.metadata())).map_err(Refused::from)?;
        let ModelMetadataRequest { name, version } = request.into_inner();
        Ok(Response::new(self.0.metadata(&name, &version)?))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let came = Instant::now();
        let (metadata, _, request) = request.into_parts();
        let _in_flight = self.0.in_flight.token();
        let span = tracing::info_span!("infer", model = request.model_name);
        trace_context::continue_trace(&span, traceparent(&metadata));
        let answered = self.infer(&metadata, request, came).instrument(span).await;
        let outcome = answered.as_ref().map(|(answer, _)| &answer.served.id);
        self.0.sight.request(outcome, came.elapsed());
        let (answer, (id, raw)) = answered?;
        Ok(Response::new(answer.respond(self.0.config.model_name.clone(), id, raw)))
    }
}

impl OpenInference {
    async fn infer(
        &self,
        metadata: &MetadataMap,
        mut request: ModelInferRequest,
        came: Instant,
    ) -> Result<(Answer, (String, bool)), Refused> {
        self.0.authorize(authorization(metadata))?;
        self.0.check_model(&request.model_name)?;
        let asking = Asking::read(&mut request)?;
        let question = Question {
            model: request.model_name,
            version: request.model_version,
            request: request_id(&request.id),
            event: None,
            client: client(metadata),
            inputs: asking.inputs,
            exact: true,
            outputs: asking.outputs,
            came,
            deadline: deadline(came, [timeout(metadata), patience(&request.parameters)]),
            traced: traceparent(metadata).next().is_some(),
        };
        let answer = self.0.ask(question).await?;
        Ok((answer, (request.id, asking.raw)))
    }
}

/// The `timeout` parameter, in microseconds, as Triton's clients send it.
fn patience(
    parameters: &std::collections::HashMap<String, InferParameter>,
) -> Option<std::time::Duration> {
    let micros = match parameters.get("timeout")?.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(micros) => u64::try_from(*micros).ok()?,
        ParameterChoice::Uint64Param(micros) => *micros,
        _ => return None,
    };
    (micros > 0).then(|| std::time::Duration::from_micros(micros))
}

impl Front {
    /// Whether this version answers. A name or version that is not here is an error, except that
    /// nothing is here before the first champion.
    pub(crate) fn model_ready(&self, name: &str, version: &str) -> Result<bool, Refused> {
        match self.pick(name, version) {
            Ok(_) => Ok(!self.draining.is_cancelled()),
            Err(Refused::NoChampion | Refused::Degraded(_)) => Ok(false),
            Err(refused) => Err(refused),
        }
    }

    /// What clients read of a model.
    pub(crate) fn metadata(
        &self,
        name: &str,
        version: &str,
    ) -> Result<ModelMetadataResponse, Refused> {
        let served: Arc<Served> = self.pick(name, version)?;
        let tensor = |name: &str, datatype: &str, shape| TensorMetadata {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape,
        };
        let classes = served.labels().len();
        let width = served.batcher.width();
        let input = |name| tensor(name, "BYTES", vec![-1]);
        let output = |o: Output| tensor(o.name(), o.datatype(), o.shape(-1, classes, width));
        let mut properties: std::collections::HashMap<_, _> = [
            ("labels".to_owned(), served.labels_json.clone()),
            ("generation".to_owned(), served.name.clone()),
        ]
        .into();
        if let Some(reason) = self.degraded.load_full() {
            properties.insert("degraded".to_owned(), reason.as_ref().clone());
        }
        Ok(ModelMetadataResponse {
            name: self.config.model_name.clone(),
            versions: self.slot.versions(),
            platform: PLATFORM.to_owned(),
            inputs: served.batcher.reads().into_iter().map(input).collect(),
            outputs: Output::all(&served).map(output).collect(),
            properties,
        })
    }
}
