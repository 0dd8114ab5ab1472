//! What clients of the gRPC doors see.
use std::time::Duration;

use tidegate_contracts::{
    ListenConfig, Role, TokenConfig,
    config::Secret,
    proto::{
        inference::{
            InferParameter, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
            ServerLiveRequest, ServerReadyRequest, infer_parameter::ParameterChoice,
            model_infer_request::InferRequestedOutputTensor,
            model_metadata_response::TensorMetadata,
        },
        v1::{Event, Part, PredictEventRequest, part::Content},
    },
};
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{House, Toy, loopback, request, until};
use crate::{GatewayConfig, config::BatchConfig};

fn tight(queue: usize) -> GatewayConfig {
    let batch = BatchConfig { queue, max_batch: 2, workers: 1, ..BatchConfig::default() };
    GatewayConfig { batch, ..GatewayConfig::default() }
}

#[tokio::test]
async fn before_a_champion_it_lives_and_is_not_ready() {
    let house = House::open(GatewayConfig::default()).await;
    let mut client = house.client().await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let ready = ModelReadyRequest { name: "default".into(), version: String::new() };
    assert!(!client.model_ready(ready.clone()).await.unwrap().into_inner().ready);
    let status = client.model_infer(request(&["a"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let mut health = HealthClient::new(house.channel().await);
    for service in ["", "inference.GRPCInferenceService", "tidegate.v1.Predict"] {
        let check = HealthCheckRequest { service: service.into() };
        let found = health.check(check).await.unwrap().into_inner().status;
        assert_eq!(found, 2, "{service} is not serving");
    }

    house.serve(&Toy::new(1));
    house.health.set(true).await;
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    let check = HealthCheckRequest { service: "inference.GRPCInferenceService".into() };
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);
    house.close().await;
}

#[tokio::test]
async fn metadata_tells_tensors_versions_and_classes() {
    let house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(1));
    house.serve(&Toy::new(2));
    let mut client = house.client().await;
    let named = |name: &str| ModelMetadataRequest { name: name.into(), version: String::new() };
    let found = client.model_metadata(named("default")).await.unwrap().into_inner();
    assert_eq!((found.name.as_str(), found.platform.as_str()), ("default", "tidegate_moe"));
    assert_eq!(found.versions, [2, 1].map(|n| Toy::id(n).to_hex()));
    let tensors = |tensors: &[TensorMetadata]| {
        tensors
            .iter()
            .map(|t| (t.name.clone(), t.datatype.clone(), t.shape.clone()))
            .collect::<Vec<_>>()
    };
    let tensor =
        |name: &str, datatype: &str, shape: &[i64]| (name.into(), datatype.into(), shape.into());
    assert_eq!(tensors(&found.inputs), [tensor("text", "BYTES", &[-1])]);
    assert_eq!(
        tensors(&found.outputs),
        [
            tensor("label", "BYTES", &[-1]),
            tensor("probabilities", "FP32", &[-1, 2]),
            tensor("generation", "BYTES", &[1]),
            tensor("embedding", "FP32", &[-1, 3])
        ]
    );
    assert_eq!(found.properties["labels"], r#"["label-2","other"]"#);
    let status = client.model_metadata(named("resnet")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("resnet") && status.message().contains("default"));
    house.close().await;
}

#[tokio::test]
async fn a_raw_request_is_answered_raw_with_the_outputs_it_names() {
    let house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(1));
    let mut raw = request(&["é", "b"]);
    raw.id = "mine".into();
    raw.inputs[0].contents = None;
    raw.inputs[0].shape = vec![2, 1];
    raw.raw_input_contents = vec![b"\x02\0\0\0\xc3\xa9\x01\0\0\0b".to_vec()];
    raw.outputs = ["probabilities", "label", "embedding"]
        .map(|name| InferRequestedOutputTensor { name: name.into(), ..Default::default() })
        .into();
    let answer = house.client().await.model_infer(raw).await.unwrap().into_inner();
    assert_eq!(answer.id, "mine");
    assert_eq!(answer.model_name, "default");
    assert_eq!(answer.outputs[0].shape, [2, 2]);
    assert!(answer.outputs.iter().all(|output| output.contents.is_none()));
    let row = [Toy::probability(1), 1.0 - Toy::probability(1)];
    let floats: Vec<u8> = row.repeat(2).into_iter().flat_map(f32::to_le_bytes).collect();
    let labels = b"\x07\0\0\0label-1\x07\0\0\0label-1".to_vec();
    assert_eq!(answer.outputs[2].shape, [2, 3]);
    let embedding: [f32; 6] = [1.0, 0.0, 0.5, 1.0, 1.0, 0.5];
    let embeddings = embedding.into_iter().flat_map(f32::to_le_bytes).collect();
    assert_eq!(answer.raw_output_contents, [floats, labels, embeddings]);
    let generation = answer.parameters["generation"].parameter_choice.clone();
    assert_eq!(generation, Some(ParameterChoice::StringParam(Toy::id(1).to_hex())));
    house.close().await;
}

#[tokio::test]
async fn a_full_queue_is_said_with_when_to_come_back_and_what_waits_is_answered() {
    let house = House::open(tight(2)).await;
    let toy = Toy::shut(1);
    house.serve(&toy);
    let client = house.client().await;
    let ask = |texts: &'static [&'static str]| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(request(texts)).await })
    };
    let first = ask(&["a", "b"]);
    until("the model is asked", || toy.asked() == 1).await;
    let second = ask(&["c", "d"]);
    until("two texts wait", || house.front.slot.champion().unwrap().batcher.waiting() == 2).await;

    let status = client.clone().model_infer(request(&["e"])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.metadata().get("retry-after").is_some());
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert!(pushback.to_str().unwrap().parse::<u64>().unwrap() >= 10);
    let status = client.clone().model_infer(request(&["x", "y", "z"])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "it could never be taken");

    toy.open();
    for waited in [first, second] {
        waited.await.unwrap().unwrap();
    }
    house.close().await;
}

#[tokio::test]
async fn an_expired_or_cancelled_request_never_reaches_the_model() {
    let house = House::open(tight(16)).await;
    let toy = Toy::shut(1);
    house.serve(&toy);
    let client = house.client().await;
    let ask = |request: Request<ModelInferRequest>| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(request).await })
    };
    let first = ask(Request::new(request(&["a", "b"])));
    until("the model is asked", || toy.asked() == 1).await;

    let mut late = Request::new(request(&["late"]));
    late.set_timeout(Duration::from_millis(50));
    let status = ask(late).await.unwrap().unwrap_err();
    // tonic's client keeps the same deadline, and says `Cancelled` when it is first to notice.
    let expired = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(expired.contains(&status.code()), "{status}");
    let mut late = request(&["late"]);
    let micros = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(20_000)) };
    late.parameters.insert("timeout".into(), micros);
    let status = ask(Request::new(late)).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let gone = ask(Request::new(request(&["gone"])));
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());

    let last = ask(Request::new(request(&["last"])));
    toy.open();
    first.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    // "gone" may have been withdrawn before or after it was queued, never asked.
    let asked: Vec<String> = toy.batches.lock().unwrap().concat();
    assert!(!asked.contains(&"late".to_owned()), "{asked:?}");
    house.close().await;
}

#[tokio::test]
async fn a_model_that_panics_fails_its_batch_and_goes_on() {
    let house = House::open(tight(16)).await;
    house.serve(&Toy::new(1));
    let mut client = house.client().await;
    let status = client.model_infer(request(&["panic"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("asked to panic"), "{status}");
    client.model_infer(request(&["a"])).await.unwrap();
    house.close().await;
}

#[tokio::test]
async fn a_token_is_needed_where_tokens_are_configured_and_probes_need_none() {
    let token =
        TokenConfig { name: "app".into(), token: Secret::new("secret"), role: Role::Client };
    let listen = ListenConfig { tokens: vec![token], ..loopback() };
    let house = House::guarded(GatewayConfig::default(), listen).await;
    house.serve(&Toy::new(1));
    let mut client = house.client().await;
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    for (header, expected) in [
        (None, Code::Unauthenticated),
        (Some("Bearer x"), Code::Unauthenticated),
        (Some("Bearer secret"), Code::Ok),
    ] {
        let mut asked = Request::new(request(&["a"]));
        if let Some(header) = header {
            asked.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        let code =
            client.model_infer(asked).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{header:?}");
    }
    house.close().await;
}

fn event(id: &str, text: &str) -> PredictEventRequest {
    let part = Part { content: Some(Content::Text(text.into())) };
    let event = Event { id: id.into(), parts: vec![part], ..Event::default() };
    PredictEventRequest { event: Some(event), ..PredictEventRequest::default() }
}

#[tokio::test]
async fn an_input_that_cannot_be_read_is_refused_by_its_place_and_no_other_request_minds() {
    let house = House::open(tight(10)).await;
    let toy = Toy::shut(1);
    house.serve(&toy);
    let client = house.client().await;
    let ask = |texts: &'static [&'static str]| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(request(texts)).await })
    };
    let first = ask(&["a"]);
    until("the model works", || toy.asked() == 1).await;
    // Of one batch: both wait for the model.
    let (bad, good) = (ask(&["unreadable"]), ask(&["b"]));
    let many = ask(&["a", "b", "unreadable"]);
    until("they wait", || house.front.slot.champion().unwrap().batcher.waiting() == 5).await;
    toy.open();
    assert!(first.await.unwrap().is_ok() && good.await.unwrap().is_ok());
    for (asked, said) in [(bad, "`parts[0].image` cannot"), (many, "input 2: `parts[0].image`")] {
        let status = asked.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(said), "{status}");
    }

    // A tensor that the model does not take is refused; of an event it is passed over.
    let mut picture = request(&["a"]);
    let mut image = picture.inputs[0].clone();
    image.name = "image".into();
    image.contents.as_mut().unwrap().bytes_contents[0] = b"\xff\xd8\xff".to_vec();
    picture.inputs.push(image);
    let status = client.clone().model_infer(picture).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "input `image` is not read by this model: it reads text");
    let mut both = event("m-2", "a");
    let image = Part { content: Some(Content::Image(b"\xff\xd8\xff".to_vec())) };
    both.event.as_mut().unwrap().parts.push(image);
    assert!(house.predictor().await.predict_event(both).await.is_ok());
    house.close().await;
}

#[tokio::test]
async fn an_event_is_answered_and_its_prediction_names_it() {
    let mut house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(1));
    let mut client = house.predictor().await;
    let answer = client.predict_event(event("m-1", "free tickets")).await.unwrap().into_inner();
    assert_eq!((answer.event_id.as_str(), answer.label.as_str()), ("m-1", "label-1"));
    assert_eq!(answer.generation, Toy::id(1).to_hex());
    assert_eq!(answer.classes, ["label-1", "other"]);

    let message = house.predictions.recv().await.unwrap().message("p");
    let prediction =
        <tidegate_contracts::proto::v1::Prediction as prost::Message>::decode(message.value)
            .unwrap();
    assert_eq!(message.key.unwrap(), "m-1");
    assert_eq!((prediction.event_id.as_str(), prediction.label.as_str()), ("m-1", "label-1"));
    assert_eq!(prediction.generation, Toy::id(1).to_hex());
    assert_eq!(prediction.input_digest, blake3::hash(b"free tickets").to_hex().as_str());

    let status = client.predict_event(event("", "x")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`id`"), "{status}");
    house.close().await;
}

#[tokio::test]
async fn a_stream_longer_than_the_queue_is_answered_in_order() {
    let house = House::open(tight(4)).await;
    house.serve(&Toy::new(1));
    let events = (0..300).map(|n| event(&format!("m-{n}"), "text"));
    let mut client = house.predictor().await;
    let mut answers =
        client.predict_stream(futures::stream::iter(events)).await.unwrap().into_inner();
    for n in 0..300 {
        assert_eq!(answers.message().await.unwrap().unwrap().event_id, format!("m-{n}"));
    }
    assert!(answers.message().await.unwrap().is_none());

    let events = [event("a", "x"), event("b", " "), event("c", "x")];
    let mut answers =
        client.predict_stream(futures::stream::iter(events)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().event_id, "a");
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("event 1: ") && status.message().contains("blank"));
    house.close().await;
}

#[tokio::test]
async fn serving_never_waits_for_the_predictions_topic() {
    let mut config = GatewayConfig::default();
    config.predictions.queue = 2;
    let mut house = House::open(config).await;
    house.serve(&Toy::new(1));
    let mut client = house.client().await;
    for _ in 0..10 {
        client.model_infer(request(&["a"])).await.unwrap();
    }
    let mut published = Vec::new();
    house.predictions.recv_many(&mut published, 100).await;
    assert_eq!(published.len(), 2, "the rest is dropped");
    house.close().await;
}
