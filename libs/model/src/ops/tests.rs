//! Fused beside plain, forward and backward.
use burn::{
    backend::{Autodiff, Flex},
    tensor::{Tensor, TensorData, backend::AutodiffBackend},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{AdamW, Dispatch, Heads, Kernels, Segments, plain};

type Train = Autodiff<Flex>;
type Gradients = <Train as AutodiffBackend>::Gradients;

/// Seeded normal-ish values.
struct Values(ChaCha8Rng);

impl Values {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn tensor<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<Train, D> {
        let size = shape.iter().product();
        let values: Vec<f32> = (0..size).map(|_| self.0.random_range(-1.0..1.0)).collect();
        Tensor::from_data(TensorData::new(values, shape), &Default::default()).require_grad()
    }
}

fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

fn near(what: &str, fused: &[f32], plain: &[f32]) {
    assert_eq!(fused.len(), plain.len(), "{what}");
    let size = plain.iter().fold(1.0_f32, |size, v| size.max(v.abs()));
    for (at, (a, b)) in fused.iter().zip(plain).enumerate() {
        assert!((a - b).abs() <= 2e-5 * size, "{what}[{at}]: fused {a}, plain {b}");
    }
}

/// Runs both forms, weighs their results alike, and holds results and gradients to each other.
macro_rules! compare {
    ($fused:expr, $plain:expr, $cotangent:expr, [$($input:ident),* $(,)?]) => {{
        let (fused, plain) = ($fused, $plain);
        near("result", &values(fused.clone().inner()), &values(plain.clone().inner()));
        let back = |y: Tensor<Train, 2>| -> Gradients { (y * $cotangent.clone()).sum().backward() };
        let (of_fused, of_plain) = (back(fused), back(plain));
        $(
            let (a, b) = ($input.grad(&of_fused), $input.grad(&of_plain));
            near(stringify!($input), &values(a.unwrap()), &values(b.unwrap()));
        )*
    }};
}

#[test]
fn linear_is_as_composed() {
    for (rows, inputs, outputs) in [(1, 1, 1), (5, 3, 4), (300, 70, 33)] {
        let mut v = Values::new(8);
        let (x, matrix) = (v.tensor([rows, inputs]), v.tensor([inputs, outputs]));
        let cotangent = v.tensor([rows, outputs]);
        compare!(
            Train::project(x.clone(), matrix.clone()),
            x.clone().matmul(matrix.clone()),
            cotangent,
            [x, matrix]
        );
    }
}

#[test]
fn rms_norm_is_as_composed() {
    for (rows, width) in [(1, 1), (3, 7), (130, 48)] {
        let mut v = Values::new(1);
        let (x, gain) = (v.tensor([rows, width]), v.tensor([width]));
        let cotangent = v.tensor([rows, width]);
        compare!(
            Train::rms_norm(x.clone(), gain.clone(), 1e-5),
            plain::rms_norm(x.clone(), gain.clone(), 1e-5),
            cotangent,
            [x, gain]
        );
    }
}

#[test]
fn feed_forward_is_as_composed() {
    for (rows, d, width) in [(1, 2, 1), (5, 8, 6), (150, 24, 70)] {
        let mut v = Values::new(2);
        let x = v.tensor([rows, d]);
        let (gate, up, down) = (v.tensor([d, width]), v.tensor([d, width]), v.tensor([width, d]));
        let cotangent = v.tensor([rows, d]);
        compare!(
            Train::feed_forward(x.clone(), gate.clone(), up.clone(), down.clone()),
            plain::feed_forward(x.clone(), gate.clone(), up.clone(), down.clone()),
            cotangent,
            [x, gate, up, down]
        );
    }
}

#[test]
fn experts_are_as_composed_with_idle_and_full_ones() {
    for (rows, experts, k) in [(1, 1, 1), (7, 4, 2), (300, 3, 2)] {
        let (d, width) = (10, 6);
        let mut v = Values::new(3);
        // The last expert gets nothing; every fifth row is dropped altogether.
        let open = (experts - 1).max(1);
        let choices: Vec<(u32, u32)> = (0..rows as u32)
            .filter(|row| rows == 1 || row % 5 != 3)
            .flat_map(|row| {
                (0..k.min(open) as u32).map(move |at| (row, (row / 2 + at) % open as u32))
            })
            .collect();
        let dispatch = Dispatch::new(&choices, rows, experts);
        let x = v.tensor([rows, d]);
        let (gate, up) = (v.tensor([experts, d, width]), v.tensor([experts, d, width]));
        let (down, weight) = (v.tensor([experts, width, d]), v.tensor([choices.len()]));
        let cotangent = v.tensor([rows, d]);
        let all = || (x.clone(), gate.clone(), up.clone(), down.clone(), weight.clone());
        let (a, b) = (all(), all());
        compare!(
            Train::experts(a.0, a.1, a.2, a.3, a.4, &dispatch),
            plain::experts(b.0, b.1, b.2, b.3, b.4, &dispatch),
            cotangent,
            [x, gate, up, down, weight]
        );
    }
}

#[test]
fn attention_is_as_composed_for_any_texts_heads_and_prefix() {
    for (queries, keys) in [(1, 1), (4, 2), (4, 4), (6, 2)] {
        for causal in [false, true] {
            for lengths in [&[1][..], &[5, 1, 9], &[130, 64, 70]] {
                for before in [0, 3] {
                    attention(queries, keys, causal, lengths, before);
                }
            }
        }
    }
}

fn attention(queries: usize, keys: usize, causal: bool, lengths: &[usize], before: usize) {
    let width = 4;
    let heads = Heads { queries, keys, width, causal, rope_base: 100.0 };
    let segments = Segments::new(lengths.iter().copied());
    let rows = segments.rows();
    let mut v = Values::new(4);
    let (query, key) = (v.tensor([rows, queries * width]), v.tensor([rows, keys * width]));
    let (value, cotangent) = (v.tensor([rows, keys * width]), v.tensor([rows, queries * width]));
    let (pk, pv) =
        (v.tensor([before.max(1), keys * width]), v.tensor([before.max(1), keys * width]));
    let prefix = || (before > 0).then(|| (pk.clone(), pv.clone()));
    let of = || (query.clone(), key.clone(), value.clone());
    let ((q, k, x), (r, l, y)) = (of(), of());
    let fused = Train::attend(q, k, x, prefix(), heads, &segments);
    let composed = plain::attention(r, l, y, prefix(), heads, &segments);
    if before > 0 {
        compare!(fused, composed, cotangent, [query, key, value, pk, pv]);
    } else {
        compare!(fused, composed, cotangent, [query, key, value]);
    }
}

#[test]
fn cross_entropy_is_as_composed() {
    for (rows, classes) in [(1, 1), (3, 5), (130, 70)] {
        let mut v = Values::new(7);
        let logits = v.tensor([rows, classes]);
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7 % classes as u32).collect();
        let two = |loss: Tensor<Train, 1>| loss.reshape([1, 1]);
        let cotangent = Tensor::<Train, 2>::from_data([[-3.0]], &Default::default());
        compare!(
            two(Train::cross_entropy(logits.clone(), &targets)),
            two(plain::cross_entropy(logits.clone(), &targets)),
            cotangent,
            [logits]
        );
    }
}

#[test]
fn adamw_is_as_composed_step_after_step() {
    let mut v = Values::new(5);
    let start = || Tensor::<Flex, 2>::zeros([3, 50], &Default::default());
    let p = v.tensor([3, 50]).inner();
    let mut fused = [p.clone(), start(), start()];
    let mut composed = fused.clone();
    for time in 1..20 {
        let gradient = v.tensor([3, 50]).inner();
        let by = AdamW {
            rate: 0.01,
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 0.7,
            time,
        };
        fused = by.step(fused, gradient.clone());
        composed = plain::adamw(composed, gradient, &by);
        for (a, b) in fused.iter().zip(&composed) {
            near("state", &values(a.clone()), &values(b.clone()));
        }
    }
    assert_ne!(values(fused[0].clone()), values(p), "what others hold is not written to");
}

/// Central differences of each operator, so that not only burn's gradients vouch for ours.
#[test]
fn gradients_are_those_of_finite_differences() {
    let mut v = Values::new(6);
    let heads = Heads { queries: 2, keys: 1, width: 2, causal: true, rope_base: 10.0 };
    let segments = Segments::new([3, 2]);
    let dispatch = Dispatch::new(&[(0, 1), (1, 0), (2, 1), (3, 0), (4, 1), (0, 0)], 5, 2);
    let (x, gain) = (v.tensor([5, 4]), v.tensor([4]));
    let (key, value) = (v.tensor([5, 2]), v.tensor([5, 2]));
    let (gate, up, down) = (v.tensor([2, 4, 3]), v.tensor([2, 4, 3]), v.tensor([2, 3, 4]));
    let (weight, cotangent) = (v.tensor([6]), v.tensor([5, 4]));
    let flat = |t: &Tensor<Train, 3>| t.clone().narrow(0, 0, 1).squeeze_dim::<2>(0);
    let (g, u, d) = (flat(&gate), flat(&up), flat(&down));
    let whole = |x: Tensor<Train, 2>| {
        let a = Train::rms_norm(x.clone(), gain.clone(), 1e-3);
        let b = Train::attend(a, key.clone(), value.clone(), None, heads, &segments);
        let c = Train::feed_forward(b + x, g.clone(), u.clone(), d.clone());
        let (gate, up, down) = (gate.clone(), up.clone(), down.clone());
        let y = Train::experts(c, gate, up, down, weight.clone(), &dispatch);
        (y * cotangent.clone()).sum()
    };
    let gradient = values(x.grad(&whole(x.clone()).backward()).unwrap());
    let at = values(x.clone().inner());
    let step = 1e-2_f32;
    for (index, found) in gradient.iter().enumerate() {
        let moved = |by: f32| {
            let mut moved = at.clone();
            moved[index] += by;
            let moved = Tensor::from_data(TensorData::new(moved, [5, 4]), &Default::default());
            values(whole(moved).inner())[0]
        };
        let difference = (moved(step) - moved(-step)) / (2.0 * step);
        assert!(
            (found - difference).abs() < 2e-3 * (1.0 + found.abs()),
            "{index}: {found} {difference}"
        );
    }
}
