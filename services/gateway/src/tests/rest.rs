//! The HTTP twin.
use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{House, Toy};
use crate::{GatewayConfig, rest};

async fn call(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn get(router: &Router, path: &str) -> (StatusCode, Value) {
    call(router, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn post(router: &Router, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    call(router, request.body(body.into()).unwrap()).await
}

fn ask(shape: Value, data: Value) -> String {
    let text = json!({"name": "text", "datatype": "BYTES", "shape": shape, "data": data});
    json!({"id": "7", "inputs": [text]}).to_string()
}

#[tokio::test]
async fn the_twin_answers_as_the_grpc_door_does() {
    let house = House::open(GatewayConfig::default()).await;
    let router = rest::routes(house.front.clone());
    assert_eq!(get(&router, "/v2/health/live").await.0, StatusCode::OK);
    let (status, body) = get(&router, "/v2/health/ready").await;
    assert_eq!((status, body), (StatusCode::SERVICE_UNAVAILABLE, json!({"ready": false})));
    let (status, _) =
        post(&router, "/v2/models/default/infer", ask(json!([1]), json!(["a"]))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);

    house.serve(&Toy::new(1));
    let id = Toy::id(1).to_hex();
    assert_eq!(get(&router, "/v2/health/ready").await.0, StatusCode::OK);
    let (_, server) = get(&router, "/v2").await;
    assert_eq!((&server["name"], &server["degraded"]), (&json!("tidegate"), &Value::Null));
    let (_, model) = get(&router, "/v2/models/default").await;
    assert_eq!(model["outputs"][1]["shape"], json!([-1, 2]));
    let (status, ready) = get(&router, "/v2/models/default/ready").await;
    assert_eq!((status, ready), (StatusCode::OK, json!({"name": "default", "ready": true})));

    let rows = ask(json!([2, 1]), json!([["a"], ["b"]]));
    let (status, body) = post(&router, "/v2/models/default/infer", rows).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!((&body["id"], &body["model_version"]), (&json!("7"), &json!(id)));
    assert_eq!(body["outputs"][0]["data"], json!(["label-1", "label-1"]));
    assert_eq!(body["outputs"][1]["shape"], json!([2, 2]));
    assert_eq!(body["outputs"][2]["data"], json!([id]));
    let path = format!("/v2/models/default/versions/{id}/infer");
    assert_eq!(post(&router, &path, ask(json!([1]), json!(["a"]))).await.0, StatusCode::OK);
    let mut asks: Value = serde_json::from_str(&ask(json!([1]), json!(["a"]))).unwrap();
    asks["outputs"] = json!([{"name": "embedding"}]);
    let (_, body) = post(&router, "/v2/models/default/infer", asks.to_string()).await;
    let expected = json!([{"name": "embedding", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 0.0, 0.5]}]);
    assert_eq!(body["outputs"], expected);
    house.close().await;
}

#[tokio::test]
async fn a_model_of_numbers_answers_with_numbers_and_their_intervals() {
    let house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::of_numbers(300));
    let router = rest::routes(house.front.clone());
    let (_, model) = get(&router, "/v2/models/default").await;
    let outputs: Vec<(&str, &str)> = model["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| (tensor["name"].as_str().unwrap(), tensor["datatype"].as_str().unwrap()))
        .collect();
    assert!(outputs.contains(&("value", "FP64")) && outputs.contains(&("interval", "FP64")));
    let infer = "/v2/models/default/infer";
    let (status, body) = post(&router, infer, ask(json!([2]), json!(["a", "b"]))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let output = |name: &str| {
        let found = body["outputs"].as_array().unwrap().iter().find(|o| o["name"] == name);
        found.unwrap_or_else(|| panic!("no `{name}` in {body}")).clone()
    };
    // 0.8 x 10 + 0.2 x 20.
    let value = output("value")["data"][1].as_f64().unwrap();
    assert!((value - 12.0).abs() < 1e-5);
    let label = output("label")["data"][1].as_str().unwrap().to_owned();
    assert!((label.parse::<f64>().unwrap() - value).abs() < 1e-12);
    // Of 5 to 15 the lower end, of 15 to 25 the upper one.
    let interval = output("interval");
    assert_eq!(interval["shape"], json!([2, 2]));
    let ends: Vec<f64> =
        interval["data"].as_array().unwrap().iter().map(|end| end.as_f64().unwrap()).collect();
    for (end, expected) in ends.iter().zip([5.625, 22.5, 5.625, 22.5]) {
        assert!((end - expected).abs() < 1e-4, "{ends:?}");
    }
    house.serve(&Toy::new(1));
    let mut asks: Value = serde_json::from_str(&ask(json!([1]), json!(["a"]))).unwrap();
    asks["outputs"] = json!([{"name": "value"}]);
    let (status, body) = post(&router, infer, asks.to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"].as_str().unwrap().contains("answers with classes"), "{body}");
    house.close().await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let config = GatewayConfig { max_message_bytes: 1000, ..GatewayConfig::default() };
    let house = House::open(config).await;
    house.serve(&Toy::new(1));
    let router = rest::routes(house.front.clone());
    let infer = "/v2/models/default/infer";
    let cases = [
        (infer, "{".to_owned(), 400, "no inference request"),
        (infer, "{}".to_owned(), 400, "`text` is missing"),
        (infer, ask(json!([2]), json!(["a"])), 400, "says 2"),
        (infer, ask(json!([0]), json!([])), 400, "at least 1"),
        (infer, ask(json!([1]), json!([5])), 400, "is a string"),
        (infer, ask(json!([2]), json!(["a", ""])), 400, "text[1] is blank"),
        (infer, ask(json!([1]), json!(["a"])).replace("text", "image"), 400, "is not base64"),
        (infer, ask(json!([1]), json!(["AAAA"])).replace("text", "image"), 400, "neither PNG"),
        (infer, ask(json!([1]), json!(["/9j/"])).replace("text", "image"), 400, "it reads text"),
        (infer, ask(json!([1]), json!(["a".repeat(2000)])), 413, "1000 bytes"),
        ("/v2/models/x/infer", ask(json!([1]), json!(["a"])), 404, "`x`"),
        ("/v2/models/default/versions/9/infer", ask(json!([1]), json!(["a"])), 404, "`9`"),
    ];
    for (path, body, status, words) in cases {
        let (found, answer) = post(&router, path, body).await;
        assert_eq!(found.as_u16(), status, "{answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(words), "`{error}` should say `{words}`");
    }
    house.close().await;
}
