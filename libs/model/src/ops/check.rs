//! Another backend's operators beside the CPU's, on the machine that has it.
use burn::{
    backend::Autodiff,
    tensor::{Tensor, TensorData, backend::AutodiffBackend},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{AdamW, Heads, Learns, Segments};
use crate::{
    Affinity, Compute, CpuBackend, Tile, fp8_matmul, fp8_round,
    network::{Routing, Rule},
    precision::full,
};

/// The CPU's own, to compare with.
type Cpu = Autodiff<CpuBackend>;

/// One result or gradient of an operator, beside the CPU's.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The operator, and in which case.
    pub operator: String,
    /// `result`, or the input whose gradient it is.
    pub what: String,
    /// The format that it was computed in.
    pub compute: Compute,
    /// The largest difference, as a share of the largest number of the CPU's.
    pub apart: f64,
    /// What it may be.
    pub tolerance: f64,
}

impl Compared {
    /// Whether both found the same; NaN is never the same.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.apart <= self.tolerance
    }
}

/// Runs every operator on `B` and on the CPU, in each format, with the same numbers, and compares
/// results and gradients.
///
/// Tolerances are some steps of the coarsest numbers that take part: 2^-8 in bf16, 2^-11 in f16, and
/// as much in f32, whose products a GPU may compute in TF32. A wrong index, mask or factor is off by
/// a good part of 1.
#[must_use]
pub fn operators_beside_cpu<B: Learns>(device: &B::Device) -> Vec<Compared> {
    let mut all = Vec::new();
    for compute in [Compute::F32, Compute::Bf16, Compute::F16] {
        all.extend(all_cases::<B>(device, compute));
    }
    all.extend(moved::<B>(device));
    all.extend(eight_bits::<B>(device));
    all
}

fn tolerance(compute: Compute) -> f64 {
    match compute {
        Compute::F32 => 4e-3,
        Compute::Bf16 => 4e-2,
        Compute::F16 => 6e-3,
    }
}

/// Numbers by name.
type Found = Vec<(String, Vec<f32>)>;

fn compared(
    operator: &str,
    compute: Compute,
    tolerance: f64,
    found: Found,
    expected: Found,
) -> Vec<Compared> {
    let pairs = found.into_iter().zip(expected);
    let one = |((what, found), (_, expected)): ((String, Vec<f32>), (String, Vec<f32>))| {
        let apart = apart(&found, &expected);
        Compared { operator: operator.to_owned(), what, compute, apart, tolerance }
    };
    pairs.map(one).collect()
}

/// The largest difference over the largest of `expected`; infinite where one is no number, or where
/// there is nothing to compare.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    let is_there = !found.is_empty() && found.len() == expected.len();
    if !is_there || found.iter().chain(expected).any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let largest =
        |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |a: f32, b| a.max(b.abs()));
    let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    f64::from(difference) / f64::from(largest(&mut expected.iter().copied())).max(1e-30)
}

/// Takes one input's gradient out of all.
type Taking<B> = Box<dyn Fn(&<B as AutodiffBackend>::Gradients) -> Vec<f32>>;

/// Seeded numbers on a device, and which of them learn.
struct Given<'a, B: Learns> {
    rng: ChaCha8Rng,
    device: &'a B::Device,
    compute: Compute,
    learn: Vec<(String, Taking<B>)>,
}

impl<'a, B: Learns> Given<'a, B> {
    fn new(device: &'a B::Device, compute: Compute) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(23), device, compute, learn: Vec::new() }
    }

    fn numbers<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<B, D> {
        let size = shape.iter().product();
        let values: Vec<f32> = (0..size).map(|_| self.rng.random_range(-1.0..1.0)).collect();
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    /// f32, and learns.
    fn master<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<B, D> {
        let x = self.numbers(shape).require_grad();
        let own = x.clone();
        let gradient = move |gradients: &B::Gradients| match own.grad(gradients) {
            Some(gradient) => values(gradient),
            None => Vec::new(),
        };
        self.learn.push((name.to_owned(), Box::new(gradient)));
        x
    }

    /// The same in the format that is computed in.
    fn held<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<B, D> {
        let compute = self.compute;
        compute.hold(self.master(name, shape))
    }
}

fn values<B: burn::tensor::backend::Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    x.into_data().convert::<f32>().into_vec().expect("converted to f32 in this line")
}

/// The result of a case, and the gradients of a weighted sum of it.
fn run<B: Learns>(
    case: fn(&mut Given<'_, B>) -> Tensor<B, 2>,
    device: &B::Device,
    compute: Compute,
) -> Found {
    let mut given = Given::new(device, compute);
    let y = case(&mut given);
    let y = full(compute.hold(y));
    let weights = given.numbers(y.dims());
    let gradients = (y.clone() * weights).sum().backward();
    let mut found = vec![("result".to_owned(), values(y.inner()))];
    found.extend(given.learn.iter().map(|(name, of)| (name.clone(), of(&gradients))));
    found
}

macro_rules! cases {
    ($($name:literal => $case:ident),* $(,)?) => {
        fn all_cases<B: Learns>(device: &B::Device, compute: Compute) -> Vec<Compared> {
            let mut all = Vec::new();
            $(
                let found = run::<B>($case::<B>, device, compute);
                let expected = run::<Cpu>($case::<Cpu>, &Default::default(), compute);
                all.extend(compared($name, compute, tolerance(compute), found, expected));
            )*
            all
        }
    };
}

cases! {
    "embed" => embed,
    "project" => project,
    "project_all" => project_all,
    "rms_norm" => rms_norm,
    "layer_norm" => layer_norm,
    "turn" => turn,
    "attend, texts of one length" => attend_even,
    "attend, texts of several lengths" => attend_ragged,
    "attend, causal" => attend_causal,
    "attend, causal, grouped queries, prefix" => attend_prefix,
    "attend, behind rows that were seen before" => attend_later,
    "attend, nothing turned" => attend_unturned,
    "feed_forward" => feed_forward,
    "gelu_feed_forward" => gelu_feed_forward,
    "experts, sigmoid" => experts_sigmoid,
    "experts, softmax" => experts_softmax,
    "experts, limited groups" => experts_grouped,
    "experts, full ones drop" => experts_dropping,
    "gelu_experts" => gelu_experts,
    "gelu_experts, full ones drop" => gelu_experts_dropping,
    "gelu_experts, a single one" => gelu_experts_dense,
    "cross_entropy" => cross_entropy,
}

fn embed<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    let table = given.master("table", [50, 24]);
    let at: Vec<i32> = (0..300).map(|row| row * 7 % 49).collect();
    let at = Tensor::from_data(TensorData::new(at, [300]), given.device);
    let compute = given.compute;
    compute.hold(B::embed(table, at))
}

fn project<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    B::project(given.held("x", [70, 48]), given.held("matrix", [48, 40]))
}

fn project_all<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    let x = given.held("x", [70, 48]);
    let matrices = ["first", "second", "third"].map(|name| given.held(name, [48, 32]));
    let [a, b, c] = B::project_all(x, matrices);
    a + b.mul_scalar(2.0) + c.mul_scalar(4.0)
}

fn rms_norm<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    B::rms_norm(given.held("x", [70, 48]), given.master("gain", [48]), 1e-5)
}

fn layer_norm<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    let (gain, bias) = (given.master("gain", [48]), given.master("bias", [48]));
    B::normalised(given.held("x", [70, 48]), gain, bias, 1e-5)
}

fn turn<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    let segments = Segments::new([30, 1, 39]);
    B::turn(given.held("x", [70, 64]), Heads { first: 7, ..HEADS }, &segments)
}

fn attend<B: Learns>(
    given: &mut Given<'_, B>,
    heads: Heads,
    lengths: &[usize],
    before: usize,
) -> Tensor<B, 2> {
    let segments = Segments::new(lengths.iter().copied());
    let (all, kv) = (heads.queries * heads.width, heads.keys * heads.width);
    let query = given.held("query", [segments.rows(), all]);
    let key = given.held("key", [segments.rows(), kv]);
    let value = given.held("value", [segments.rows(), kv]);
    let prefix = (before > 0).then(|| {
        (given.held("keys of the prefix", [before, kv]), given.held("its values", [before, kv]))
    });
    B::attend(query, key, value, prefix, heads, &segments)
}

const HEADS: Heads =
    Heads { queries: 4, keys: 4, width: 16, causal: false, rope_base: Some(10_000.0), first: 0 };

fn attend_even<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    attend(given, HEADS, &[48, 48], 0)
}

fn attend_ragged<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    attend(given, HEADS, &[300, 1, 70], 0)
}

fn attend_causal<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    attend(given, Heads { causal: true, ..HEADS }, &[300, 300], 0)
}

fn attend_prefix<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    attend(given, Heads { causal: true, keys: 2, ..HEADS }, &[280, 30], 5)
}

fn attend_later<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    attend(given, Heads { causal: true, first: 40, ..HEADS }, &[9], 40)
}

fn attend_unturned<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    attend(given, Heads { rope_base: None, ..HEADS }, &[20, 50], 0)
}

fn feed_forward<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    let x = given.held("x", [70, 48]);
    let (gate, up) = (given.held("gate", [48, 40]), given.held("up", [48, 40]));
    B::feed_forward(x, gate, up, given.held("down", [40, 48]))
}

fn gelu_feed_forward<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    let x = given.held("x", [70, 48]);
    let matrices = [given.held("up", [48, 40]), given.held("down", [40, 48])];
    let biases = [given.master("bias of up", [40]), given.master("bias of down", [48])];
    B::gelu_feed_forward(x, matrices, biases)
}

/// Rows that are sent, and to how many experts.
const SENT: [usize; 2] = [200, 8];

/// Who was sent where, and what it counts.
fn routed<B: Learns>(
    given: &mut Given<'_, B>,
    kind: Affinity,
    (rule, capacity_factor): (Rule, f64),
    [rows, experts]: [usize; 2],
) -> (Tensor<B, 1>, B::Sent) {
    // From 0 to 1, as both kinds are.
    let affinity = given.master("affinity", [rows, experts]).add_scalar(1.1).div_scalar(2.2);
    let segments = Segments::new([120, rows - 120]);
    let how = Routing { rule, capacity_factor, segments: &segments };
    let (sent, _) = B::route(affinity.clone(), Tensor::zeros([experts], given.device), &how);
    (B::weights(affinity, kind, &sent), sent)
}

fn experts<B: Learns>(
    given: &mut Given<'_, B>,
    kind: Affinity,
    rule: Rule,
    capacity_factor: f64,
) -> Tensor<B, 2> {
    let ([rows, experts], d, width) = (SENT, 48, 24);
    let x = given.held("x", [rows, d]);
    let (gate, up) =
        (given.held("gate", [experts, d, width]), given.held("up", [experts, d, width]));
    let down = given.held("down", [experts, width, d]);
    let (weight, sent) = routed(given, kind, (rule, capacity_factor), SENT);
    B::experts(x, gate, up, down, weight, &sent)
}

fn gelu_of<B: Learns>(
    given: &mut Given<'_, B>,
    kind: Affinity,
    how: (Rule, f64),
    [rows, experts]: [usize; 2],
) -> Tensor<B, 2> {
    let (d, width) = (48, 24);
    let x = given.held("x", [rows, d]);
    let up = given.held("up", [experts, d, width]);
    let down = given.held("down", [experts, width, d]);
    let a = given.master("bias of up", [experts, width]);
    let b = given.master("bias of down", [experts, d]);
    let (weight, sent) = routed(given, kind, how, [rows, experts]);
    B::gelu_experts(x, [up, down], [a, b], weight, &sent)
}

fn gelu_experts<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    gelu_of(given, Affinity::Sigmoid, (TWO, 0.0), SENT)
}

fn gelu_experts_dropping<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    gelu_of(given, Affinity::Sigmoid, (TWO, 0.8), SENT)
}

fn gelu_experts_dense<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    // A sigmoid's share of itself is 1, and its gradient nothing but rounding.
    gelu_of(given, Affinity::Softmax, (Rule::ONE, 0.0), [200, 1])
}

const TWO: Rule = Rule { top_k: 2, groups: 1, top_groups: 1, even: false };

fn experts_sigmoid<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    experts(given, Affinity::Sigmoid, TWO, 0.0)
}

fn experts_softmax<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    experts(given, Affinity::Softmax, Rule { top_k: 3, ..TWO }, 0.0)
}

fn experts_grouped<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    experts(given, Affinity::Sigmoid, Rule { groups: 4, top_groups: 2, ..TWO }, 0.0)
}

fn experts_dropping<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    experts(given, Affinity::Sigmoid, TWO, 0.8)
}

fn cross_entropy<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
    let logits = full(given.held("logits", [70, 40]).mul_scalar(4.0));
    let targets: Vec<u32> = (0..70).map(|row| row * 7 % 40).collect();
    B::cross_entropy(logits, &targets).reshape([1, 1])
}

/// Ten steps of AdamW.
fn moved<B: Learns>(device: &B::Device) -> Vec<Compared> {
    fn steps<B: Learns>(device: &B::Device) -> Found {
        let mut given = Given::<B>::new(device, Compute::F32);
        let start = |x: Tensor<B, 1>| x.inner();
        let parameter = start(given.numbers([500]));
        let zeros = parameter.zeros_like();
        let mut state = [parameter, zeros.clone(), zeros];
        for time in 1..=10 {
            let by = AdamW {
                rate: 0.01,
                beta_1: 0.9,
                beta_2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.1,
                gradient_scale: 0.5,
                time,
            };
            state = by.step(state, start(given.numbers([500])));
        }
        let names = ["parameter", "first moment", "second moment"];
        names.iter().map(|name| (*name).to_owned()).zip(state.map(values)).collect()
    }
    let (found, expected) = (steps::<B>(device), steps::<Cpu>(&Default::default()));
    // Nothing here is a matrix product.
    compared("adamw", Compute::F32, 1e-5, found, expected)
}

/// Rounding to FP8, and products of what is rounded.
fn eight_bits<B: Learns>(device: &B::Device) -> Vec<Compared> {
    fn rounded<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
        fp8_round(given.master("x", [130, 150]), Tile::Block)
    }
    fn product<B: Learns>(given: &mut Given<'_, B>) -> Tensor<B, 2> {
        fp8_matmul(given.master("x", [130, 150]), given.master("matrix", [150, 140]))
    }
    let mut all = Vec::new();
    for (name, found, expected) in [
        (
            "fp8_round",
            run::<B>(rounded::<B>, device, Compute::F32),
            run::<Cpu>(rounded::<Cpu>, &Default::default(), Compute::F32),
        ),
        (
            "fp8_matmul",
            run::<B>(product::<B>, device, Compute::F32),
            run::<Cpu>(product::<Cpu>, &Default::default(), Compute::F32),
        ),
    ] {
        // A quotient that is a bit off may be rounded to the other side: by a sixteenth.
        let tolerance = if name == "fp8_round" { 1.0 / 15.0 } else { 1e-2 };
        all.extend(compared(name, Compute::F32, tolerance, found, expected));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortableBackend;

    #[test]
    fn a_gpus_operators_hold_on_the_cpu_and_every_kind_is_among_them() {
        let found = operators_beside_cpu::<PortableBackend>(&Default::default());
        let failed: Vec<_> = found.iter().filter(|compared| !compared.holds()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(found.len() > 150, "{}", found.len());
        // In f32 nothing here is TF32: the forms themselves are far nearer than is asked of a GPU.
        let far = found.iter().filter(|c| c.compute == Compute::F32 && !c.operator.contains("fp8"));
        let far = far.map(|compared| compared.apart).fold(0.0, f64::max);
        assert!(far < 1e-4, "{far}");
    }

    #[test]
    fn what_differs_or_is_no_number_does_not_hold() {
        let found = |values: Vec<f32>| vec![("result".to_owned(), values)];
        let against = |values: Vec<f32>| {
            compared("one", Compute::F32, 4e-3, found(values), found(vec![1.0, 2.0])).remove(0)
        };
        assert!(against(vec![1.0, 2.001]).holds());
        let off = against(vec![1.0, 2.1]);
        assert!(!off.holds() && (off.apart - 0.05).abs() < 1e-6, "{off:?}");
        assert!(!against(vec![1.0, f32::NAN]).holds());
        assert!(!against(vec![1.0]).holds());
    }

    /// A gradient that is missing is no agreement.
    #[test]
    fn every_input_has_a_gradient() {
        let found = run::<Cpu>(attend_prefix::<Cpu>, &Default::default(), Compute::F32);
        assert_eq!(found.len(), 6);
        assert!(found.iter().all(|(_, values)| values.iter().any(|value| *value != 0.0)));
    }
}
