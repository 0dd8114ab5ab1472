//! Half precision with f32 master weights.
mod common;

use common::{Log, accuracy, cold_start, example, examples, hot_update, published, trained};
use safetensors::{Dtype, SafeTensors};
use tidegate_learning::{CheckpointDir, Compute, DIAGNOSIS, Diagnosis, Job, OPTIMIZER, train};
use tidegate_model::WEIGHTS;
use tokio_util::sync::CancellationToken;

const BOTH: &[&str] = &["spam", "ham"];

fn computing_in(compute: Compute) -> Job {
    let mut job = cold_start("precision");
    job.recipe.precision.compute = compute;
    // Both paths would answer; only the deep one is computed in halves.
    (job.recipe.cold_start.wide_rate, job.recipe.cold_start.deep_rate) = (0.0, 5e-3);
    job.recipe.cold_start.epochs = 12;
    job
}

fn diagnosis(files: &std::collections::BTreeMap<String, bytes::Bytes>) -> Diagnosis {
    serde_json::from_slice(&files[DIAGNOSIS]).unwrap()
}

#[test]
fn halves_learn_what_f32_learns_and_leave_f32_weights() {
    let window = examples(BOTH, 0, 60);
    let full = trained(&computing_in(Compute::F32), &window).unwrap();
    for compute in [Compute::Bf16, Compute::F16] {
        let half = trained(&computing_in(compute), &window).unwrap();
        let apart = (half.metrics["loss"] - full.metrics["loss"]).abs();
        assert!(apart < 0.02, "{compute:?}: {apart} from {}", full.metrics["loss"]);
        assert!(accuracy(&half.files, &examples(BOTH, 1_000, 60)) > 0.95, "{compute:?}");
        assert_ne!(half.files[WEIGHTS], full.files[WEIGHTS]);
        // Master weights have bits that the half format does not hold.
        let file = SafeTensors::deserialize(&half.files[WEIGHTS]).unwrap();
        let head = file.tensor("head.weight").unwrap();
        assert_eq!(head.dtype(), Dtype::F32);
        let fine = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) & 0x1fff != 0;
        assert!(head.data().chunks_exact(4).any(fine));
    }
}

#[test]
fn a_hot_update_goes_on_in_another_format() {
    let job = computing_in(Compute::F32);
    let champion = published(&job, &trained(&job, &examples(BOTH, 0, 60)).unwrap());
    let mut update = hot_update("halves", champion);
    update.recipe.precision.compute = Compute::Bf16;
    let second = trained(&update, &examples(BOTH, 60, 40)).unwrap();
    assert!(accuracy(&second.files, &examples(BOTH, 1_000, 60)) > 0.95);
    assert!(diagnosis(&second.files).loss_scale.is_empty(), "bf16 needs no scaling");
}

#[test]
fn a_job_in_halves_resumes_to_the_bit() {
    for compute in [Compute::Bf16, Compute::F16] {
        let window = examples(BOTH, 0, 60);
        let job = computing_in(compute);
        let whole = trained(&job, &window).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointDir::open(folder.path()).unwrap();
        let cancel = CancellationToken::new();
        let mut log = Log { cancel_after: Some((5, cancel.clone())), ..Log::default() };
        train(&job, &window, &checkpoints, &mut log, &cancel).unwrap_err();
        let cancel = CancellationToken::new();
        let resumed = train(&job, &window, &checkpoints, &mut Log::default(), &cancel).unwrap();
        assert_eq!(whole.files[WEIGHTS], resumed.files[WEIGHTS], "{compute:?}");
        assert_eq!(whole.files[OPTIMIZER], resumed.files[OPTIMIZER], "{compute:?}");
        assert_eq!(whole.files[DIAGNOSIS], resumed.files[DIAGNOSIS], "{compute:?}");
    }
}

#[test]
fn a_scale_that_overflows_is_halved_and_its_step_left_out() {
    // One text a step, so that the first gradients are as large as they get.
    let mut job = computing_in(Compute::F16);
    job.recipe.cold_start.batch = 1;
    job.recipe.cold_start.epochs = 2;
    let mut window = examples(BOTH, 0, 40);
    window.push(example("ham", 77));
    let trained = trained(&job, &window).unwrap();
    let found = diagnosis(&trained.files);
    assert_eq!(found.loss_scale[0], (0, 65_536.0));
    assert!(found.skipped > 0, "65,536 was not too much");
    assert_eq!(found.loss_scale.len() as u64, found.skipped + 1, "each overflow is on record");
    for pair in found.loss_scale.windows(2) {
        assert!((pair[1].1 - pair[0].1 / 2.0).abs() < f32::EPSILON, "{pair:?}");
    }
    assert!((trained.metrics["skipped_steps"] - found.skipped as f64).abs() < f64::EPSILON);
}
