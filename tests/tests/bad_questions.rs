//! What does not belong at the gateway gets the status that says what is wrong; a right question
//! is answered all the same.
use std::time::Duration;

use tidegate_contracts::proto::inference::{
    InferTensorContents, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use tidegate_tests::{House, Topics, curl};
use tonic::Code;

fn input(name: &str, datatype: &str, shape: &[i64], texts: &[&[u8]]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        contents: Some(InferTensorContents {
            bytes_contents: texts.iter().map(|text| text.to_vec()).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn asking(inputs: Vec<InferInputTensor>) -> ModelInferRequest {
    ModelInferRequest { model_name: "default".into(), inputs, ..Default::default() }
}

fn right() -> ModelInferRequest {
    asking(vec![input("text", "BYTES", &[1], &[b"a vessel at the quay"])])
}

fn raw(bytes: &[u8]) -> ModelInferRequest {
    let mut request = right();
    request.inputs[0].contents = None;
    request.raw_input_contents = vec![bytes.to_vec()];
    request
}

/// What is wrong, the request, the status, and what the message names.
type Case = (&'static str, ModelInferRequest, Code, &'static str);

fn cases() -> Vec<Case> {
    let wrong = Code::InvalidArgument;
    let text = |shape: &[i64], texts: &[&[u8]]| asking(vec![input("text", "BYTES", shape, texts)]);
    let numbers = InferTensorContents { fp32_contents: vec![1.0], ..Default::default() };
    let contents = |contents: InferTensorContents| {
        let mut request = right();
        request.inputs[0].contents = Some(contents);
        request
    };
    let both = ModelInferRequest { raw_input_contents: vec![b"\x01\0\0\0a".to_vec()], ..right() };
    let outputs = vec![InferRequestedOutputTensor { name: "mood".into(), ..Default::default() }];
    let many: Vec<&[u8]> = vec![b"a"; 65];
    vec![
        (
            "another model",
            ModelInferRequest { model_name: "other".into(), ..right() },
            Code::NotFound,
            "other",
        ),
        (
            "no model",
            ModelInferRequest { model_name: String::new(), ..right() },
            Code::NotFound,
            "default",
        ),
        (
            "another version",
            ModelInferRequest { model_version: "0".repeat(64), ..right() },
            Code::NotFound,
            "champion",
        ),
        (
            "no version at all",
            ModelInferRequest { model_version: "newest".into(), ..right() },
            Code::NotFound,
            "newest",
        ),
        ("no input", asking(vec![]), wrong, "text"),
        ("another name", asking(vec![input("texts", "BYTES", &[1], &[b"a"])]), wrong, "texts"),
        ("two inputs", asking(vec![input("text", "BYTES", &[1], &[b"a"]); 2]), wrong, "2 times"),
        ("another datatype", asking(vec![input("text", "FP32", &[1], &[b"a"])]), wrong, "FP32"),
        ("numbers for texts", contents(numbers), wrong, "BYTES"),
        ("no contents", contents(InferTensorContents::default()), wrong, "0 strings"),
        ("fewer than the shape says", text(&[2], &[b"a"]), wrong, "1 strings"),
        ("more than the shape says", text(&[1], &[b"a", b"b"]), wrong, "2 strings"),
        ("no shape", text(&[], &[b"a"]), wrong, "shape"),
        ("nothing by its shape", text(&[0], &[]), wrong, "shape"),
        ("less than nothing", text(&[-1], &[b"a"]), wrong, "shape"),
        ("a table", text(&[1, 2], &[b"a", b"b"]), wrong, "shape"),
        ("an empty text", text(&[1], &[b""]), wrong, "text[0]"),
        ("a blank one among others", text(&[2], &[b"a", b" \n"]), wrong, "text[1]"),
        ("not UTF-8", text(&[1], &[b"a\xff"]), wrong, "UTF-8"),
        ("more texts than the queue holds", text(&[65], &many), wrong, "65"),
        ("raw bytes that end too early", raw(b"\x09\0\0\0abc"), wrong, "raw_input_contents"),
        ("raw bytes of half a length", raw(b"\x01\0"), wrong, "raw_input_contents"),
        ("raw bytes of another length", raw(b"\xff\xff\xff\xffa"), wrong, "raw_input_contents"),
        ("raw and typed", both, wrong, "both"),
        ("an output it does not have", ModelInferRequest { outputs, ..right() }, wrong, "mood"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_gets_the_status_that_says_so() -> anyhow::Result<()> {
    let extra = "[gateway]\nmax_message_bytes = 1000000\n[gateway.batch]\nqueue = 64\n";
    let mut house = House::small(extra).await?;
    let early = house.gateway().await?.model_infer(right()).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "nothing serves yet: {early}");
    assert!(early.message().contains("champion"), "{early}");
    house.publish(&Topics::new(11).labelled(120)).await?;
    house.until_champion().await;

    let mut gateway = house.gateway().await?;
    for (what, request, code, named) in cases() {
        let status = gateway.model_infer(request).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status}");
        assert!(status.message().contains(named), "{what}: `{}`", status.message());
        gateway.model_infer(right()).await?;
    }
    let huge = "a".repeat(2_000_000);
    let huge = asking(vec![input("text", "BYTES", &[1], &[huge.as_bytes()])]);
    let status = gateway.model_infer(huge).await.unwrap_err();
    // The first is gRPC's own word for it, the second what tonic's decoder says.
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange), "{status}");
    let mut hurried = tonic::Request::new(right());
    hurried.set_timeout(Duration::from_nanos(1));
    let status = gateway.model_infer(hurried).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");

    let unknown = ModelMetadataRequest { name: "other".into(), version: String::new() };
    assert_eq!(gateway.model_metadata(unknown).await.unwrap_err().code(), Code::NotFound);
    let unknown = ModelReadyRequest { name: "default".into(), version: "0".repeat(64) };
    let ready = gateway.model_ready(unknown).await;
    assert!(
        ready.is_err() || !ready?.into_inner().ready,
        "a version it does not hold is not ready"
    );

    gateway.model_infer(right()).await?;
    assert!(!house.log().contains("panicked"), "{}", house.log());
    over_http(&house)?;
    house.stop()
}

fn over_http(house: &House) -> anyhow::Result<()> {
    let infer = house.url("/v2/models/default/infer");
    let post = |url: &str, body: &str| {
        curl(&["--data-binary", body, "--header", "content-type: application/json", url])
    };
    let right = r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a quay"]}]}"#;
    for (what, body, status) in [
        ("no JSON", "{", 400),
        ("no input", "{}", 400),
        (
            "a number",
            r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":[3]}]}"#,
            400,
        ),
        (
            "another shape",
            r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[2],"data":["a"]}]}"#,
            400,
        ),
        ("right", right, 200),
    ] {
        let answer = post(&infer, body)?;
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        assert_eq!(answer.json()["error"].is_string(), status != 200, "{what}: {}", answer.body);
    }
    assert_eq!(post(&house.url("/v2/models/other/infer"), right)?.status, 404);
    let folder = house.folder().join("huge.json");
    std::fs::write(&folder, format!(r#"{{"inputs":["{}"]}}"#, "a".repeat(2_000_000)))?;
    assert_eq!(post(&infer, &format!("@{}", folder.display()))?.status, 413);
    assert_eq!(curl(&[&house.url("/no/such/page")])?.status, 404);
    Ok(())
}
