use std::time::{Duration, Instant};

use super::*;
use crate::tests::{Toy, until};

fn input(text: &str) -> Input {
    Input::text(text)
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
        batcher.submit(vec![input("a")], None, false).await.unwrap();
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
        tokio::spawn(async move { batcher.submit(vec![input(&text)], None, false).await })
    };
    let mut asked = vec![ask("first".into())];
    until("the model works", || toy.asked() == 1).await;
    for n in 0..10 {
        asked.push(ask(n.to_string()));
        until("it waits", || batcher.shared.lock().texts == n + 1).await;
    }
    toy.open();
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().scores.len(), 1);
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
        fn forward(&self, inputs: &[Input]) -> Result<Vec<Result<Scores, String>>, String> {
            assert!(inputs.len() <= 4);
            let length =
                |input: &Input| Ok(Scores { probabilities: vec![input.texts().len() as f32] });
            Ok(inputs.iter().map(length).collect())
        }
        fn width(&self) -> usize {
            2
        }
        fn embed(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>, String> {
            Ok(inputs.iter().map(|input| vec![input.texts().len() as f32, 0.0]).collect())
        }
    }
    let config = BatchConfig { workers: 3, ..config() };
    let batcher = Batcher::start(Arc::new(Lengths(vec![])), &config, Sight::new());
    let inputs: Vec<Input> = (1..=50).map(|n| input(&"x".repeat(n))).collect();
    // Beside others that want no embeddings, in the same batches.
    let others = batcher.submit(inputs.clone(), None, false);
    let (answers, others) = tokio::join!(batcher.submit(inputs, None, true), others);
    let expected: Vec<f32> = (1..=50).map(|n| n as f32).collect();
    for (answers, embeds) in [(answers.unwrap(), true), (others.unwrap(), false)] {
        let lengths: Vec<f32> = answers.scores.iter().map(|s| s.probabilities[0]).collect();
        assert_eq!(lengths, expected);
        let embeddings: Vec<f32> = answers.embeddings.iter().map(|e| e[0]).collect();
        assert_eq!(embeddings, if embeds { expected.clone() } else { Vec::new() });
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_not_embedded_and_its_batch_is() {
    let toy = Toy::shut(1);
    let batcher = Arc::new(Batcher::start(toy.clone(), &config(), Sight::new()));
    let ask = |text: &'static str| {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(vec![input(text)], None, true).await })
    };
    let first = ask("first");
    until("the model works", || toy.asked() == 1).await;
    let bad = ask("unreadable");
    until("it waits", || batcher.shared.lock().texts == 1).await;
    let good = ask("good");
    until("both wait", || batcher.shared.lock().texts == 2).await;
    toy.open();
    assert_eq!(first.await.unwrap().unwrap().embeddings.len(), 1);
    assert!(matches!(bad.await.unwrap(), Err(Refused::Invalid(_))));
    let good = good.await.unwrap().unwrap();
    // The first of what was embedded.
    assert_eq!((good.scores.len(), good.embeddings), (1, vec![vec![1.0, 0.0, 0.5]]));
}

#[tokio::test]
async fn closing_answers_what_waits_first() {
    let toy = Toy::shut(1);
    let batcher = Arc::new(Batcher::start(toy.clone(), &config(), Sight::new()));
    let waiting = {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(vec![input("a"); 9], None, false).await })
    };
    until("the model works", || toy.asked() == 1).await;
    batcher.shared.close();
    toy.open();
    assert_eq!(waiting.await.unwrap().unwrap().scores.len(), 9);
    Arc::into_inner(batcher).unwrap().close();
}
