use proptest::prelude::*;
use tidegate_contracts::proto::inference::model_infer_request::InferInputTensor;

use super::*;

fn raw(shape: &[i64], bytes: &[u8]) -> ModelInferRequest {
    ModelInferRequest {
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: shape.into(),
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![bytes.to_vec()],
        ..ModelInferRequest::default()
    }
}

fn refusal(mut request: ModelInferRequest) -> String {
    match Asking::read(&mut request).map(|asking| asking.inputs.len()) {
        Err(Refused::Invalid(reason)) => reason,
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn each_mistake_is_named() {
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = raw(&[1], b"\x01\0\0\0a");
        change(&mut request);
        refusal(request)
    };
    let contents = |bytes: &[&[u8]]| InferTensorContents {
        bytes_contents: bytes.iter().map(|b| b.to_vec()).collect(),
        ..InferTensorContents::default()
    };
    assert!(with(|r| r.inputs.clear()).contains("missing"));
    assert!(with(|r| r.inputs[0].name = "video".into()).contains("`video` is unknown"));
    assert!(with(|r| r.inputs.push(r.inputs[0].clone())).contains("2 times"));
    assert!(with(|r| r.inputs[0].datatype = "FP32".into()).contains("`FP32`"));
    for shape in [vec![], vec![0], vec![-1], vec![1, 2], vec![1, 1, 1]] {
        let reason = refusal(raw(&shape, b"\x01\0\0\0a"));
        assert!(reason.contains(&format!("{shape:?}")), "{reason}");
    }
    assert!(refusal(raw(&[2], b"\x01\0\0\0a")).contains("holds 1 strings"));
    assert!(refusal(raw(&[1], b"\x01\0\0")).contains("4 bytes is needed, 3 are left"));
    let short = refusal(raw(&[2], b"\x01\0\0\0a\x05\0\0\0bc"));
    assert!(short.contains("at byte 5, text[1]: 5 bytes are announced, 2 are left"), "{short}");
    assert!(refusal(raw(&[1], b"\x02\0\0\0\xff\xfe")).contains("text[0] is not UTF-8"));
    assert!(refusal(raw(&[2], b"\x01\0\0\0a\0\0\0\0")).contains("text[1] is blank"));
    assert!(with(|r| r.raw_input_contents.clear()).contains("no contents"));
    assert!(with(|r| r.raw_input_contents.push(vec![])).contains("2 entries for 1 input"));
    let mut both = raw(&[1], b"\x01\0\0\0a");
    both.inputs[0].contents = Some(contents(&[b"a"]));
    assert!(refusal(both).contains("both"));
    let mut floats = raw(&[1], b"");
    floats.raw_input_contents.clear();
    floats.inputs[0].contents =
        Some(InferTensorContents { fp32_contents: vec![1.0], ..contents(&[b"a"]) });
    assert!(refusal(floats).contains("another type"));
    let output = with(|r| {
        r.outputs.push(Default::default());
        r.outputs[0].name = "logits".into();
    });
    assert!(output.contains("`logits`"));
}

/// Columns by name, a list of cells each.
fn columns(of: &[(&str, &[&[u8]])]) -> ModelInferRequest {
    let input = |(name, cells): &(&str, &[&[u8]])| InferInputTensor {
        name: (*name).to_owned(),
        datatype: "BYTES".into(),
        shape: vec![cells.len() as i64],
        contents: Some(InferTensorContents {
            bytes_contents: cells.iter().map(|cell| cell.to_vec()).collect(),
            ..InferTensorContents::default()
        }),
        ..InferInputTensor::default()
    };
    ModelInferRequest { inputs: of.iter().map(input).collect(), ..ModelInferRequest::default() }
}

#[test]
fn a_row_of_all_columns_is_one_input() {
    let png: &[u8] = b"\x89PNG\r\n\x1a\n";
    let table: &[u8] = br#"{"size": 3, "colour": "red"}"#;
    let mut request =
        columns(&[("text", &[b"one", b""]), ("image", &[b"", png]), ("features", &[table, table])]);
    let inputs = Asking::read(&mut request).map(|asking| asking.inputs).unwrap();
    let kinds = |input: &tidegate_model::Input| {
        input.parts.iter().map(tidegate_contracts::Part::name).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&inputs[0]), ["text", "features"]);
    assert_eq!(kinds(&inputs[1]), ["image", "features"]);

    for (request, needle) in [
        (columns(&[("text", &[b"a"]), ("image", &[png, png])]), "`image` has 2 rows and `text` 1"),
        (columns(&[("text", &[b"a", b""]), ("image", &[b"", b""])]), "row 1 is empty"),
        (columns(&[("image", &[b"GIF89a"])]), "image[0] is neither PNG nor JPEG"),
        (columns(&[("audio", &[b""])]), "audio[0] is not WAV"),
        (columns(&[("features", &[b"[1]"])]), "features[0] is"),
        (columns(&[("features", &[b"{}"])]), "features[0] is empty"),
        (columns(&[("features", &[br#"{"a": null}"#])]), "features[0] has a `a` that is neither"),
    ] {
        let reason = refusal(request);
        assert!(reason.contains(needle), "{reason}");
    }
}

proptest! {
    #[test]
    fn raw_strings_read_back_what_was_written(texts in prop::collection::vec("\\PC{0,20}", 1..9)) {
        let joined = join_raw(texts.iter().map(String::as_str));
        let split: Vec<String> =
            split_raw((0, "text"), &joined).unwrap().into_iter().map(|s| String::from_utf8(s).unwrap()).collect();
        prop_assert_eq!(split, texts);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Asking::read(&mut raw(&[1], &bytes));
    }
}
