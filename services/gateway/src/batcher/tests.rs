use std::time::{Duration, Instant};

use super::*;
use crate::tests::{Toy, until};

fn input(text: &str) -> Input {
    Input { text: text.into() }
}

fn config() -> BatchConfig {
    BatchConfig { max_batch: 4, queue: 100, workers: 1, ..BatchConfig::default() }
}

#[tokio::test]
async fn a_lone_request_waits_for_nobody() {
    let toy = Toy::new(1);
    let long = BatchConfig { batch_wait_us: 10_000_000, ..config() };
    let batcher = Batcher::start(toy.clone(), &long, Sight::new());
    let started = Instant::now();
    for _ in 0..20 {
        batcher.submit(vec![input("a")], None).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "an idle worker waited for a full batch");
    batcher.close();
}

#[tokio::test]
async fn what_waits_while_the_model_works_becomes_full_batches_in_order() {
    let toy = Toy::shut(1);
    let batcher = Arc::new(Batcher::start(toy.clone(), &config(), Sight::new()));
    let ask = |text: String| {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(vec![input(&text)], None).await })
    };
    let mut asked = vec![ask("first".into())];
    until("the model works", || toy.asked() == 1).await;
    for n in 0..10 {
        asked.push(ask(n.to_string()));
        until("it waits", || batcher.shared.lock().texts == n + 1).await;
    }
    toy.open();
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().len(), 1);
    }
    let batches = toy.batches.lock().unwrap();
    let expected: [&[&str]; 4] =
        [&["first"], &["0", "1", "2", "3"], &["4", "5", "6", "7"], &["8", "9"]];
    assert_eq!(*batches, expected);
}

#[tokio::test]
async fn a_request_larger_than_a_batch_is_answered_whole_and_in_order() {
    struct Lengths(Vec<Class>);
    impl Forward for Lengths {
        fn labels(&self) -> &[Class] {
            &self.0
        }
        fn forward(&self, inputs: &[Input]) -> Result<Vec<Scores>, String> {
            assert!(inputs.len() <= 4);
            let length = |input: &Input| Scores { probabilities: vec![input.text.len() as f32] };
            Ok(inputs.iter().map(length).collect())
        }
    }
    let config = BatchConfig { workers: 3, ..config() };
    let batcher = Batcher::start(Arc::new(Lengths(vec![])), &config, Sight::new());
    let inputs = (1..=50).map(|n| input(&"x".repeat(n))).collect();
    let scores = batcher.submit(inputs, None).await.unwrap();
    let lengths: Vec<f32> = scores.iter().map(|scores| scores.probabilities[0]).collect();
    assert_eq!(lengths, (1..=50).map(|n| n as f32).collect::<Vec<_>>());
}

#[tokio::test]
async fn closing_answers_what_waits_first() {
    let toy = Toy::shut(1);
    let batcher = Arc::new(Batcher::start(toy.clone(), &config(), Sight::new()));
    let waiting = {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(vec![input("a"); 9], None).await })
    };
    until("the model works", || toy.asked() == 1).await;
    batcher.shared.close();
    toy.open();
    assert_eq!(waiting.await.unwrap().unwrap().len(), 9);
    Arc::into_inner(batcher).unwrap().close();
}
