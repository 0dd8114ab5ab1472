//! A stream of pictures instead of texts: published as events, learnt without configuration, asked for
//! over gRPC.
#[path = "../../libs/model/tests/model/png.rs"]
mod png;

use std::time::Duration;

use serde_json::json;
use tidegate_contracts::{
    Event, Part,
    proto::{
        inference::{
            InferTensorContents, ModelInferRequest, ModelMetadataRequest,
            model_infer_request::InferInputTensor,
        },
        v1::{self, predict_client::PredictClient},
    },
};
use tidegate_stream::Message;
use tidegate_tests::{House, until};
use tonic::Code;

/// Of real handwriting; see `export.py` beside it.
const DIGITS: &[u8] = include_bytes!("../../libs/learning/tests/data/digits.bin");

const PATIENCE: Duration = Duration::from_secs(240);

/// A picture and what it shows.
fn digits(from: usize, count: usize) -> Vec<(String, Vec<u8>)> {
    let digit = |row: &[u8]| {
        let pixels: Vec<u8> = row[1..].iter().map(|&level| level * 15).collect();
        (row[0].to_string(), png::png(8, &pixels))
    };
    DIGITS.chunks_exact(65).skip(from).take(count).map(digit).collect()
}

fn question(pictures: &[Vec<u8>]) -> ModelInferRequest {
    let contents = InferTensorContents { bytes_contents: pictures.to_vec(), ..Default::default() };
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![pictures.len() as i64],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: "default".into(), inputs: vec![input], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_pictures_is_learnt_served_and_kept_clean() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    // The network of the default recipe; a first generation from the first 60 labels.
    house.configure_eager("")?;
    house.start().await?;
    let stream = house.stream()?;
    let sink = stream.sink()?;
    let mut messages: Vec<Message> = Vec::new();
    for (at, (label, picture)) in digits(0, 700).into_iter().enumerate() {
        let id = format!("d-{at}");
        let event = Event {
            id: id.as_str().into(),
            time: chrono::Utc::now(),
            domain: "digits".into(),
            groups: Default::default(),
            parts: vec![Part::Image(picture)],
            label: Some(label.as_str().into()),
            weight: 1.0,
        };
        let bytes = event.encode(tidegate_contracts::ContentType::Json);
        messages.push(Message::new(&stream.topics().events, bytes).key(id));
    }
    // One that is cut short: it never reaches a trainer.
    let (_, mut broken) = digits(700, 1).swap_remove(0);
    broken.truncate(50);
    let broken_event = v1::Part { content: Some(v1::part::Content::Image(broken.clone())) };
    let broken_event = json!({ "id": "broken", "label": "1", "parts": [broken_event] });
    messages.push(Message::new(&stream.topics().events, broken_event.to_string()).key("broken"));
    sink.send_all(messages).await?;

    let (labels, pictures): (Vec<String>, Vec<Vec<u8>>) = digits(1_200, 100).into_iter().unzip();
    let mut gateway = house.gateway().await?;
    let right = until("most of a hundred new digits are told", PATIENCE, async || {
        let answers = gateway.model_infer(question(&pictures)).await.ok()?.into_inner();
        let told = &answers.outputs[0].contents.as_ref()?.bytes_contents;
        let right = told.iter().zip(&labels).filter(|(told, label)| **told == label.as_bytes());
        let right = right.count();
        (right >= 80).then_some(right)
    })
    .await;
    println!("{right} of 100 digits are told, chance is 10");

    let named = ModelMetadataRequest { name: "default".into(), version: String::new() };
    let metadata = gateway.model_metadata(named).await?.into_inner();
    let inputs: Vec<&str> = metadata.inputs.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(inputs, ["text", "image"]);

    let status = gateway.model_infer(question(&[broken])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`parts[0].image` cannot be read"), "{status}");

    let mut predict = PredictClient::connect(format!("http://{}", house.grpc())).await?;
    let part = |content| v1::Part { content: Some(content) };
    let event = v1::Event {
        id: "asked".into(),
        parts: vec![
            part(v1::part::Content::Image(pictures[0].clone())),
            part(v1::part::Content::Audio(b"RIFF\0\0\0\0WAVE".to_vec())),
        ],
        ..Default::default()
    };
    let request = v1::PredictEventRequest { event: Some(event), ..Default::default() };
    let answer = predict.predict_event(request).await?.into_inner();
    assert_eq!((answer.event_id.as_str(), answer.classes.len()), ("asked", 10));

    // The broken one lies with the rejected, with the reason.
    let rejected = &stream.topics().rejected;
    let marks = stream.watermarks(rejected).await?;
    let ranges = marks.into_iter().collect();
    let window = tidegate_contracts::Window::new(rejected.clone(), ranges)?;
    let mut reasons = Vec::new();
    stream
        .read_each(&window, |record| {
            reasons.extend(
                record.headers.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()),
            );
            std::ops::ControlFlow::Continue(())
        })
        .await?;
    let named = reasons.iter().any(|reason| reason.contains("`parts[0].image` cannot be read"));
    assert!(named, "{reasons:?}");
    house.stop()
}
