//! Fused forms, and those of a GPU, beside plain ones, forward and backward.
use burn::{
    backend::{Autodiff, Flex},
    tensor::{FloatDType, Tensor, TensorData, backend::AutodiffBackend},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{AdamW, Heads, Kernels, PortableBackend, Segments, flex, plain};
use crate::{
    Affinity, Compute,
    network::{Plan, Routing, Rule},
};

/// Seeded normal-ish values.
struct Values(ChaCha8Rng);

impl Values {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn tensor<B: AutodiffBackend, const D: usize>(&mut self, shape: [usize; D]) -> Tensor<B, D> {
        let size = shape.iter().product();
        let values: Vec<f32> = (0..size).map(|_| self.0.random_range(-1.0..1.0)).collect();
        Tensor::from_data(TensorData::new(values, shape), &Default::default()).require_grad()
    }
}

fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().into_vec().unwrap()
}

fn length(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|value| value * value).sum::<f32>().sqrt()
}

fn near(what: &str, fused: &[f32], plain: &[f32]) {
    assert_eq!(fused.len(), plain.len(), "{what}");
    let size = plain.iter().fold(1.0_f32, |size, v| size.max(v.abs()));
    for (at, (a, b)) in fused.iter().zip(plain).enumerate() {
        assert!((a - b).abs() <= 2e-5 * size, "{what}[{at}]: {a}, plain {b}");
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

/// What each form of the operators is held to.
macro_rules! suite {
    ($name:ident, $backend:ty) => {
        mod $name {
            use super::*;

            type Train = $backend;
            type Gradients = <Train as AutodiffBackend>::Gradients;

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
            fn layer_norm_is_as_composed() {
                for (rows, width) in [(1, 2), (3, 7), (130, 48)] {
                    let mut v = Values::new(14);
                    let (x, gain, bias) =
                        (v.tensor([rows, width]), v.tensor([width]), v.tensor([width]));
                    let cotangent = v.tensor([rows, width]);
                    compare!(
                        Train::normalised(x.clone(), gain.clone(), bias.clone(), 1e-3),
                        plain::layer_norm(x.clone(), gain.clone(), bias.clone(), 1e-3),
                        cotangent,
                        [x, gain, bias]
                    );
                }
            }

            #[test]
            fn gelu_feed_forward_is_as_composed() {
                for (rows, d, width) in [(1, 2, 1), (5, 8, 6), (150, 24, 70)] {
                    let mut v = Values::new(15);
                    let (x, cotangent) = (v.tensor([rows, d]), v.tensor([rows, d]));
                    let (up, down) = (v.tensor([d, width]), v.tensor([width, d]));
                    let (a, b) = (v.tensor([width]), v.tensor([d]));
                    let matrices = || [up.clone(), down.clone()];
                    let biases = || [a.clone(), b.clone()];
                    compare!(
                        Train::gelu_feed_forward(x.clone(), matrices(), biases()),
                        plain::gelu_feed_forward(x.clone(), matrices(), biases()),
                        cotangent,
                        [x, up, down, a, b]
                    );
                }
            }

            #[test]
            fn feed_forward_is_as_composed() {
                for (rows, d, width) in [(1, 2, 1), (5, 8, 6), (150, 24, 70)] {
                    let mut v = Values::new(2);
                    let x = v.tensor([rows, d]);
                    let (gate, up, down) =
                        (v.tensor([d, width]), v.tensor([d, width]), v.tensor([width, d]));
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
            fn rows_of_a_table_are_as_composed() {
                let mut v = Values::new(9);
                let (table, cotangent) = (v.tensor::<Train, 2>([7, 3]), v.tensor([5, 3]));
                let at = Tensor::from_ints([2, 6, 2, 0, 2], &Default::default());
                compare!(
                    Train::embed(table.clone(), at.clone()),
                    table.clone().select(0, at),
                    cotangent,
                    [table]
                );
            }

            #[test]
            fn experts_are_as_composed_by_whatever_rule_tokens_are_sent() {
                let all = Rule { top_k: 2, groups: 1, top_groups: 1, even: false };
                let grouped = Rule { groups: 3, top_groups: 2, ..all };
                let one = Rule { top_k: 1, ..all };
                for (rows, experts, rule, capacity_factor) in [
                    (1, 1, one, 0.0),
                    (7, 4, all, 0.0),
                    (300, 3, all, 0.0),
                    (130, 6, grouped, 0.0),
                    (90, 6, Rule { top_k: 3, ..grouped }, 0.0),
                    (50, 5, Rule { even: true, ..all }, 0.0),
                    (300, 4, all, 0.7),
                    (9, 4, one, 1.0),
                ] {
                    for kind in [Affinity::Sigmoid, Affinity::Softmax] {
                        mixture(rows, experts, rule, capacity_factor, kind);
                    }
                }
            }

            fn leaf<const D: usize>(of: &Tensor<Train, D>) -> Tensor<Train, D> {
                Tensor::from_inner(of.clone().inner()).require_grad()
            }

            fn mixture(
                rows: usize,
                experts: usize,
                rule: Rule,
                capacity_factor: f64,
                kind: Affinity,
            ) {
                let (d, width) = (10, 6);
                let mut v = Values::new(3);
                let x = v.tensor::<Train, 2>([rows, d]);
                let (gate, up) = (v.tensor([experts, d, width]), v.tensor([experts, d, width]));
                let (down, cotangent) = (v.tensor([experts, width, d]), v.tensor([rows, d]));
                // From 0 to 1, as both kinds are.
                let affinity =
                    v.tensor::<Train, 2>([rows, experts]).inner().add_scalar(1.1).div_scalar(2.2);
                let affinity = Tensor::from_inner(affinity).require_grad();
                // So that the last one is idle, and others overflow.
                let mut bias = vec![0.0_f32; experts];
                if experts > 3 {
                    bias[experts - 1] = -2.0;
                    bias[1] = 0.5;
                }
                let segments = Segments::new(
                    [rows / 3 + 1, rows - rows / 3 - 1].into_iter().filter(|&n| n > 0),
                );
                let how = Routing { rule, capacity_factor, segments: &segments };
                let all = || (x.clone(), gate.clone(), up.clone(), down.clone());
                let found = {
                    let bias = Tensor::from_floats(&bias[..], &Default::default());
                    let (sent, routed) = Train::route(affinity.clone(), bias, &how);
                    let weight = Train::weights(affinity.clone(), kind, &sent);
                    let (x, gate, up, down) = all();
                    (Train::experts(x, gate, up, down, weight, &sent), routed, sent)
                };
                let plan = Plan::new(&values(affinity.clone().inner()), &bias, &how);
                assert_eq!(
                    (&found.1.load, &found.1.dropped),
                    (&plan.routed.load, &plan.routed.dropped)
                );
                assert_eq!(found.1.assignments, plan.routed.assignments);
                assert!((found.1.entropy - plan.routed.entropy).abs() < 1e-4);
                let weight = flex::weights(affinity.clone(), kind, &plan);
                let (b, g, u, w) = all();
                let expected = plain::experts(b, g, u, w, weight, &plan.dispatch);
                compare!(found.0, expected, cotangent, [x, gate, up, down, affinity]);

                // Leaves of their own: burn takes the graph of a leaf apart with the first way back.
                let (x, affinity) = (leaf(&x), leaf(&affinity));
                let (up, down) = (leaf(&up), leaf(&down));
                let (a, b) = (v.tensor([experts, width]), v.tensor([experts, d]));
                let matrices = || [up.clone(), down.clone()];
                let biases = || [a.clone(), b.clone()];
                let of_sent = Train::weights(affinity.clone(), kind, &found.2);
                let weight = flex::weights(affinity.clone(), kind, &plan);
                compare!(
                    Train::gelu_experts(x.clone(), matrices(), biases(), of_sent, &found.2),
                    plain::gelu_experts(x.clone(), matrices(), biases(), weight, &plan.dispatch),
                    cotangent,
                    [x, up, down, a, b, affinity]
                );
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

            fn attention(
                queries: usize,
                keys: usize,
                causal: bool,
                lengths: &[usize],
                before: usize,
            ) {
                let width = 4;
                let heads =
                    Heads { queries, keys, width, causal, rope_base: Some(100.0), first: before };
                let segments = Segments::new(lengths.iter().copied());
                let rows = segments.rows();
                let mut v = Values::new(4);
                let (query, key) =
                    (v.tensor([rows, queries * width]), v.tensor([rows, keys * width]));
                let (value, cotangent) =
                    (v.tensor([rows, keys * width]), v.tensor([rows, queries * width]));
                let (pk, pv) = (
                    v.tensor([before.max(1), keys * width]),
                    v.tensor([before.max(1), keys * width]),
                );
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
            fn rows_that_come_later_see_what_came_before_as_if_all_had_come_at_once() {
                let segments = |rows| Segments::new([rows]);
                for (queries, keys, rope_base) in
                    [(4, 2, Some(100.0)), (2, 2, Some(10.0)), (2, 1, None)]
                {
                    let heads =
                        Heads { queries, keys, width: 4, causal: true, rope_base, first: 0 };
                    let (rows, later) = (70, 40);
                    let mut v = Values::new(11);
                    let mut tensor = |heads: usize| v.tensor::<Train, 2>([rows, heads * 4]);
                    let all = [tensor(queries), tensor(keys), tensor(keys)];
                    let [q, k, x] = all.clone();
                    let whole = Train::attend(q, k.clone(), x, None, heads, &segments(rows));
                    let turned = Train::turn(k.clone(), heads, &segments(rows));
                    let plainly = plain::rotate(k, heads, &segments(rows));
                    near("turned", &values(turned.inner()), &values(plainly.inner()));
                    let [old, new] = [(0, later), (later, rows - later)]
                        .map(|(from, count)| all.clone().map(|x| x.narrow(0, from, count)));
                    let [_, key, value] = old;
                    let before = (Train::turn(key, heads, &segments(later)), value);
                    let [q, k, x] = new;
                    let heads = Heads { first: later, ..heads };
                    let found =
                        Train::attend(q, k, x, Some(before), heads, &segments(rows - later));
                    let expected = whole.narrow(0, later, rows - later);
                    near("later", &values(found.inner()), &values(expected.inner()));
                }
            }

            #[test]
            fn cross_entropy_is_as_composed() {
                for (rows, classes) in [(1, 1), (3, 5), (130, 70)] {
                    let mut v = Values::new(7);
                    let logits = v.tensor([rows, classes]);
                    let targets: Vec<u32> =
                        (0..rows as u32).map(|row| row * 7 % classes as u32).collect();
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

            /// Central differences of each operator, so that not only burn's gradients vouch for ours.
            #[test]
            fn gradients_are_those_of_finite_differences() {
                let mut v = Values::new(6);
                let heads = Heads {
                    queries: 2,
                    keys: 1,
                    width: 2,
                    causal: true,
                    rope_base: Some(10.0),
                    first: 2,
                };
                let segments = Segments::new([3, 2]);
                let rule = Rule { top_k: 1, groups: 1, top_groups: 1, even: true };
                let how = Routing { rule, capacity_factor: 0.0, segments: &segments };
                let affinity = v.tensor::<Train, 2>([5, 2]);
                let bias = Tensor::zeros([2], &Default::default());
                let (sent, _) = Train::route(affinity.clone(), bias, &how);
                let (x, gain) = (v.tensor([5, 4]), v.tensor([4]));
                let (key, value) = (v.tensor([5, 2]), v.tensor([5, 2]));
                let (gate, up, down) =
                    (v.tensor([2, 4, 3]), v.tensor([2, 4, 3]), v.tensor([2, 3, 4]));
                let cotangent = v.tensor([5, 4]);
                let flat = |t: &Tensor<Train, 3>| t.clone().narrow(0, 0, 1).squeeze_dim::<2>(0);
                let (g, u, d) = (flat(&gate), flat(&up), flat(&down));
                let (a_bias, b_bias) = (v.tensor([2, 3]), v.tensor([2, 4]));
                let norm_bias = v.tensor([4]);
                let whole = |x: Tensor<Train, 2>| {
                    let weight = Train::weights(affinity.clone(), Affinity::Softmax, &sent);
                    let x = Train::normalised(x, gain.clone(), norm_bias.clone(), 1e-3);
                    let (matrices, biases) =
                        ([up.clone(), down.clone()], [a_bias.clone(), b_bias.clone()]);
                    let y = Train::gelu_experts(x.clone(), matrices, biases, weight.clone(), &sent);
                    let x = x + y;
                    let a = Train::rms_norm(x.clone(), gain.clone(), 1e-3);
                    let b = Train::attend(a, key.clone(), value.clone(), None, heads, &segments);
                    let c = Train::feed_forward(b + x, g.clone(), u.clone(), d.clone());
                    let (gate, up, down) = (gate.clone(), up.clone(), down.clone());
                    let y = Train::experts(c, gate, up, down, weight, &sent);
                    (y * cotangent.clone()).sum()
                };
                let gradient = values(x.grad(&whole(x.clone()).backward()).unwrap());
                let at = values(x.clone().inner());
                let step = 1e-2_f32;
                for (index, found) in gradient.iter().enumerate() {
                    let moved = |by: f32| {
                        let mut moved = at.clone();
                        moved[index] += by;
                        let moved =
                            Tensor::from_data(TensorData::new(moved, [5, 4]), &Default::default());
                        values(whole(moved).inner())[0]
                    };
                    let difference = (moved(step) - moved(-step)) / (2.0 * step);
                    assert!(
                        (found - difference).abs() < 2e-3 * (1.0 + found.abs()),
                        "{index}: {found} {difference}"
                    );
                }
            }
        }
    };
}

suite!(fused, Autodiff<Flex>);
suite!(gpu, PortableBackend);

/// What serves has no gradients, and a form of its own.
#[test]
fn keys_are_turned_by_their_positions_as_composed() {
    for (first, rope_base) in [(0, Some(100.0)), (5, Some(10.0)), (5, None)] {
        let heads = Heads { queries: 4, keys: 2, width: 4, causal: true, rope_base, first };
        let segments = Segments::new([9, 1, 70]);
        let key = Values::new(13).tensor::<Autodiff<Flex>, 2>([80, 8]).inner();
        let turned = Flex::turn(key.clone(), heads, &segments);
        near("turned", &values(turned), &values(plain::rotate(key, heads, &segments)));
    }
}

/// Of the CPU's form beside that of a GPU.
#[test]
fn adamw_is_as_composed_step_after_step() {
    type Train = Autodiff<Flex>;
    let mut v = Values::new(5);
    let start = || Tensor::<Flex, 2>::zeros([3, 50], &Default::default());
    let p = v.tensor::<Train, 2>([3, 50]).inner();
    let mut fused = [p.clone(), start(), start()];
    let mut composed = fused.clone();
    for time in 1..20 {
        let gradient = v.tensor::<Train, 2>([3, 50]).inner();
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
        composed = super::gpu::adamw(composed, gradient, &by);
        for (a, b) in fused.iter().zip(&composed) {
            near("state", &values(a.clone()), &values(b.clone()));
        }
    }
    assert_ne!(values(fused[0].clone()), values(p), "what others hold is not written to");
}

/// In halves a GPU's operators find what f32 finds, but for what some thirty roundings in a row add up
/// to. By length: the worst of 10,000 numbers says little.
#[test]
fn halves_of_a_gpu_are_near_f32() {
    let heads =
        Heads { queries: 4, keys: 2, width: 8, causal: true, rope_base: Some(100.0), first: 0 };
    let segments = Segments::new([300, 40]);
    let (rows, d, width, experts) = (340, 32, 24, 4);
    let rule = Rule { top_k: 2, groups: 1, top_groups: 1, even: false };
    let how = Routing { rule, capacity_factor: 0.0, segments: &segments };
    // Not f16: burn's CPU products of it overflow on their way, which a GPU's do not (decision 4).
    for (compute, share) in [(Compute::Bf16, 0.08)] {
        let mut v = Values::new(12);
        let (x, cotangent) =
            (v.tensor::<PortableBackend, 2>([rows, d]), v.tensor::<PortableBackend, 2>([rows, d]));
        let gain = v.tensor::<PortableBackend, 1>([d]);
        let (key, value) = (v.tensor::<PortableBackend, 2>([d, 16]), v.tensor([d, 16]));
        let mats = [[d, width], [d, width], [width, d]].map(|shape| v.tensor::<_, 2>(shape));
        let many = [[experts, d, width], [experts, d, width], [experts, width, d]]
            .map(|shape| v.tensor::<_, 3>(shape));
        let affinity = v.tensor::<PortableBackend, 2>([rows, experts]).inner().add_scalar(1.1);
        let affinity = Tensor::<PortableBackend, 2>::from_inner(affinity).require_grad();
        let bias = || Tensor::zeros([experts], &Default::default());
        let biases = [[experts, width], [experts, d]].map(|shape| v.tensor::<_, 2>(shape));
        let shift = v.tensor::<PortableBackend, 1>([d]);
        let run = |compute: Compute| {
            type B = PortableBackend;
            let hold = |x: &Tensor<B, 2>| compute.hold(x.clone());
            let normed = B::rms_norm(hold(&x), gain.clone(), 1e-5);
            let [key, value] =
                [&key, &value].map(|matrix| B::project(normed.clone(), hold(matrix)));
            let seen = B::attend(normed.clone(), key, value, None, heads, &segments);
            let [gate, up, down] = mats.each_ref().map(hold);
            let fed = B::feed_forward(seen + normed, gate, up, down);
            let (sent, _) = B::route(affinity.clone(), bias(), &how);
            let weight = B::weights(affinity.clone(), Affinity::Sigmoid, &sent);
            let [gate, up, down] = many.each_ref().map(|m| compute.hold(m.clone()));
            let y = B::experts(fed.clone(), gate, up, down, weight.clone(), &sent);
            let fed = B::normalised(fed + y, gain.clone(), shift.clone(), 1e-3);
            let [_, up, down] = many.each_ref().map(|m| compute.hold(m.clone()));
            let y = B::gelu_experts(fed.clone(), [up, down], biases.clone(), weight, &sent);
            let [_, up, down] = mats.each_ref().map(hold);
            let own = biases.clone().map(|bias| bias.narrow(0, 0, 1).squeeze_dim::<1>(0));
            let y = y + B::gelu_feed_forward(fed, [up, down], own);
            assert_eq!(y.dtype(), burn::tensor::DType::from(compute.dtype()));
            let y = y.cast(FloatDType::F32);
            let gradients = (y.clone() * cotangent.clone()).sum().backward();
            let mut found = vec![values(y.inner())];
            found.push(values(x.grad(&gradients).unwrap()));
            found.push(values(gain.grad(&gradients).unwrap()));
            found.push(values(mats[0].grad(&gradients).unwrap()));
            found.push(values(many[2].grad(&gradients).unwrap()));
            found.push(values(affinity.grad(&gradients).unwrap()));
            found.push(values(biases[0].grad(&gradients).unwrap()));
            found.push(values(shift.grad(&gradients).unwrap()));
            found
        };
        for (at, (half, full)) in run(compute).iter().zip(run(Compute::F32)).enumerate() {
            let apart = length(half.iter().zip(&full).map(|(a, b)| a - b));
            let apart = apart / length(full.iter().copied());
            assert!(apart < share && apart > 0.0, "{compute:?} {at}: {apart}");
        }
    }
}
