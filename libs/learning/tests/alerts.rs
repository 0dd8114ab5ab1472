//! What a job shows of its inside, and what stops it.
mod common;

use common::{Log, cold_start, examples, hot_update, published, trained};
use safetensors::{SafeTensors, tensor::TensorView};
use tidegate_learning::{DIAGNOSIS, Diagnosis, Job, LearningError, Recipe};
use tidegate_model::WEIGHTS;

const BOTH: &[&str] = &["spam", "ham"];

fn stopped(change: impl Fn(&mut Recipe)) -> LearningError {
    let mut job = cold_start("alert");
    job.recipe.cold_start.epochs = 20;
    change(&mut job.recipe);
    let error = trained(&job, &examples(BOTH, 0, 60)).unwrap_err();
    assert!(!error.is_retryable(), "the same job would end the same way");
    error
}

/// A champion with one weight of the deep path set to `value`.
fn spoilt(parameter: &str, value: f32) -> Job {
    let job = cold_start("cold");
    let mut first = trained(&job, &examples(BOTH, 0, 24)).unwrap();
    let file = SafeTensors::deserialize(&first.files[WEIGHTS]).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    for (_, _, bytes) in tensors.iter_mut().filter(|(name, _, _)| name == parameter) {
        bytes.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    first.files.insert(WEIGHTS.to_owned(), bytes.into());
    hot_update("hot", published(&job, &first))
}

#[test]
fn a_loss_that_is_no_number_stops_the_job() {
    let error = trained(&spoilt("head.weight", 3e38), &examples(BOTH, 60, 20)).unwrap_err();
    assert!(matches!(error, LearningError::Diverged { step: 0, .. }), "{error}");
}

#[test]
fn a_gradient_that_is_no_number_stops_the_job_and_names_the_layer() {
    // Every answer is wrong, and the logits are still finite; what flows back to the layers below is
    // not.
    let error = trained(&spoilt("norm.gain", -1e30), &examples(BOTH, 60, 20)).unwrap_err();
    assert!(matches!(error, LearningError::Gradient { step: 0, .. }), "{error}");
    // Scaling is given up at its floor rather than skipping every step for ever.
    let mut job = spoilt("norm.gain", -1e30);
    job.recipe.precision.loss_scaling = true;
    job.recipe.hot_update.epochs = 40;
    let error = trained(&job, &examples(BOTH, 60, 20)).unwrap_err();
    // 2^16 is halved to 1 by 16 skipped steps; the next one is not skipped any more.
    assert!(matches!(error, LearningError::Gradient { step: 16.., .. }), "{error}");
}

#[test]
fn a_gradient_far_above_its_median_stops_the_job() {
    let error = stopped(|recipe| {
        (recipe.alerts.exploding, recipe.alerts.steps) = (1.0, 2);
    });
    assert!(matches!(error, LearningError::Exploding { .. }), "{error}");
    assert!(error.to_string().contains("`alerts.exploding`"), "{error}");
}

#[test]
fn gradients_of_nothing_stop_the_job() {
    let error = stopped(|recipe| {
        (recipe.alerts.vanishing, recipe.alerts.steps) = (1e9, 7);
    });
    assert!(matches!(error, LearningError::Vanishing { step: 6, steps: 7, .. }), "{error}");
}

#[test]
fn a_collapsed_router_stops_the_job() {
    let error = stopped(|recipe| {
        (recipe.alerts.collapsed, recipe.alerts.steps) = (0.5, 3);
        // Nothing brings the load back.
        recipe.balancing.step = 0.0;
        recipe.architecture.top_k = 1;
    });
    assert!(matches!(error, LearningError::Collapsed { layer: 0, .. }), "{error}");
}

#[test]
fn an_alert_that_is_switched_off_stops_nothing() {
    let mut job = cold_start("off");
    let alerts = &mut job.recipe.alerts;
    (alerts.exploding, alerts.vanishing, alerts.collapsed, alerts.steps) = (0.0, 0.0, 0.0, 1);
    trained(&job, &examples(BOTH, 0, 60)).unwrap();
}

#[test]
fn a_generation_says_how_each_layer_and_expert_fared() {
    let job = cold_start("shown");
    let trained = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    let diagnosis: Diagnosis = serde_json::from_slice(&trained.files[DIAGNOSIS]).unwrap();
    let names: Vec<&str> = diagnosis.layers.keys().map(String::as_str).collect();
    let expected = [
        "blocks.0.attention",
        "blocks.0.attention_norm",
        "blocks.0.mixture",
        "blocks.0.mixture_norm",
        "embedding",
        "head",
        "norm",
    ];
    assert_eq!(names, expected);
    let steps = trained.metrics["steps"] as u64;
    for (name, layer) in &diagnosis.layers {
        let counted: u64 = layer.gradient_history.rows.iter().flat_map(|row| row.values()).sum();
        assert_eq!(counted, steps, "{name}");
        for history in [&layer.weight_history, &layer.update_history] {
            let counted: u64 = history.rows.iter().flat_map(|row| row.values()).sum();
            // Every tenth step from the first, and the last.
            assert_eq!(
                counted,
                (steps - 1) / 10 + 1 + u64::from(!(steps - 1).is_multiple_of(10)),
                "{name}"
            );
        }
        assert!(layer.gradient_norm > 0.0 && layer.weight_norm > 0.0, "{name}");
        assert!((1e-6..1.0).contains(&layer.update_ratio), "{name}: {}", layer.update_ratio);
    }
    let experts = &diagnosis.experts[0];
    assert!((experts.load.iter().sum::<f64>() - 1.0).abs() < 1e-4);
    assert!((0.0..=1.0).contains(&experts.entropy) && experts.load.len() == 4);
    for name in ["tokens_per_s", "mfu", "joules_per_token", "training_flops", "router_entropy"] {
        assert!(trained.metrics[name] >= 0.0, "{name}");
    }
    assert!(trained.metrics["mfu"] < 1.0);
}

#[test]
fn progress_says_it_while_the_job_runs() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = tidegate_learning::CheckpointDir::open(folder.path()).unwrap();
    let mut job = cold_start("live");
    job.recipe.precision.loss_scaling = true;
    // A job as short as this one does not measure its device before its end.
    job.recipe.diagnosis.peak_flops = 1e11;
    let (mut log, cancel) = (Log::default(), Default::default());
    tidegate_learning::train(&job, &examples(BOTH, 0, 60), &checkpoints, &mut log, &cancel)
        .unwrap();
    let last = log.last.unwrap();
    assert_eq!((last.layers.len(), last.experts.len()), (7, 1));
    assert_eq!(last.loss_scale, Some(65_536.0));
    assert!(last.tokens_per_s > 0.0 && last.mfu.unwrap() > 0.0);
}
