//! The device's numbers beside the CPU's.
use burn::backend::Autodiff;
use serde::Serialize;
use tidegate_benchmarks::training::{Batches, Training, rows};
use tidegate_model::{
    Architecture, Compute, CpuBackend, Learns, Network, Task, operators_beside_cpu,
};

use crate::speed::ADAMW;

/// One number that must be as the CPU's.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// The operator, or the run.
    pub(crate) of: String,
    /// Its result, or whose gradient.
    pub(crate) what: String,
    pub(crate) compute: &'static str,
    /// Largest difference, as a share of the largest number.
    pub(crate) apart: f64,
    pub(crate) tolerance: f64,
}

impl Check {
    /// NaN does not hold.
    pub(crate) fn holds(&self) -> bool {
        self.apart <= self.tolerance
    }
}

pub(crate) fn operators<B: Learns>(device: &B::Device) -> Vec<Check> {
    let check = |compared: tidegate_model::Compared| Check {
        of: compared.operator,
        what: compared.what,
        compute: compared.compute.as_str(),
        apart: compared.apart,
        tolerance: compared.tolerance,
    };
    operators_beside_cpu::<B>(device).into_iter().map(check).collect()
}

/// A small network whose every part takes part.
fn network() -> Architecture {
    Architecture {
        task: Task::NextToken,
        d_model: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        context: 300,
        vocab: 256,
        experts: 8,
        top_k: 2,
        shared_experts: 1,
        expert_width: 32,
        wide_buckets: 1,
        ..Architecture::default()
    }
}

/// Losses of some training steps. They drift apart as a token that is on the edge is sent elsewhere.
pub(crate) fn steps<B: Learns>(device: &B::Device) -> anyhow::Result<Vec<Check>> {
    const STEPS: usize = 12;
    let mut checks = Vec::new();
    for (compute, tolerance) in [(Compute::F32, 0.01), (Compute::Bf16, 0.02), (Compute::F16, 0.01)]
    {
        let found = losses::<B>(device, compute, STEPS)?;
        let expected = losses::<Autodiff<CpuBackend>>(&Default::default(), compute, STEPS)?;
        anyhow::ensure!(expected[STEPS - 1] < expected[0], "the CPU learns nothing");
        let apart = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs() / b.abs()));
        // `max` would leave out what is no number.
        let larger = |most: f64, one| if most.is_nan() || one <= most { most } else { one };
        let apart = apart.fold(0.0, larger);
        checks.push(Check {
            of: "training steps of a network".to_owned(),
            what: "loss".to_owned(),
            compute: compute.as_str(),
            apart,
            tolerance,
        });
    }
    Ok(checks)
}

fn losses<B: Learns>(
    device: &B::Device,
    compute: Compute,
    steps: usize,
) -> anyhow::Result<Vec<f32>> {
    let architecture = network();
    let network = Network::<B>::init(&architecture, architecture.vocab, 3, device);
    let batches = Batches::new(&rows(architecture.vocab as u32, 8, 281), 2);
    let network = network.computing_in(compute);
    let mut training = Training::new(network, ADAMW, 1e-3, batches, device.clone());
    (0..steps).map(|_| training.step()).collect()
}

/// Prints the worst of each operator, and every one that fails. Returns how many do.
pub(crate) fn show(checks: &[Check]) -> usize {
    let mut rows = tidegate_benchmarks::table(&["", "in", "furthest apart", "may be", "of"]);
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for check in checks {
        if seen.contains(&(&check.of, check.compute)) {
            continue;
        }
        seen.push((&check.of, check.compute));
        let same = checks.iter().filter(|c| c.of == check.of && c.compute == check.compute);
        let share = |check: &&Check| check.apart / check.tolerance;
        if let Some(worst) = same.max_by(|a, b| share(a).total_cmp(&share(b))) {
            rows.add_row(vec![
                worst.of.clone(),
                worst.compute.to_owned(),
                format!("{:.1e}", worst.apart),
                format!("{:.1e}", worst.tolerance),
                worst.what.clone(),
            ]);
        }
    }
    println!("{rows}");
    let wrong: Vec<&Check> = checks.iter().filter(|check| !check.holds()).collect();
    for check in &wrong {
        let Check { of, what, compute, apart, tolerance } = check;
        println!("WRONG: {of} in {compute}, {what}: {apart:.3e} apart, at most {tolerance:.1e}");
    }
    wrong.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_counted_and_so_is_what_is_no_number() {
        let check = |apart| Check {
            of: "rms_norm".to_owned(),
            what: "result".to_owned(),
            compute: "f32",
            apart,
            tolerance: 1e-3,
        };
        assert_eq!(show(&[check(0.0), check(1e-4)]), 0);
        assert_eq!(show(&[check(0.0), check(2e-3), check(f64::NAN), check(f64::INFINITY)]), 3);
    }
}
