//! A client that asks by the Open Inference Protocol.
use std::net::SocketAddr;

use tidegate_contracts::proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};
use tonic::transport::{Channel, Endpoint};

/// Of one connection.
pub type Client = GrpcInferenceServiceClient<Channel>;

/// Connects.
///
/// # Errors
/// When nobody listens.
pub async fn connect(at: SocketAddr) -> anyhow::Result<Client> {
    let channel =
        Endpoint::from_shared(format!("http://{at}"))?.tcp_nodelay(true).connect().await?;
    Ok(Client::new(channel))
}

/// Asks the default model about one text.
#[must_use]
pub fn request(text: &str) -> ModelInferRequest {
    let contents = InferTensorContents {
        bytes_contents: vec![text.as_bytes().to_vec()],
        ..Default::default()
    };
    ModelInferRequest {
        model_name: "default".to_owned(),
        inputs: vec![InferInputTensor {
            name: "text".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            contents: Some(contents),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Asks, and waits for the answer.
///
/// # Errors
/// The service's.
pub async fn ask(client: &mut Client, text: &str) -> anyhow::Result<ModelInferResponse> {
    Ok(client.model_infer(request(text)).await?.into_inner())
}

/// The class of the one text, and its probability.
#[must_use]
pub fn answer(response: &ModelInferResponse) -> Option<(&[u8], f32)> {
    let output =
        |name: &str| response.outputs.iter().find(|output| output.name == name)?.contents.as_ref();
    let label = output("label")?.bytes_contents.first()?;
    let probability = output("probabilities")?.fp32_contents.iter().copied().reduce(f32::max)?;
    Some((label, probability))
}
