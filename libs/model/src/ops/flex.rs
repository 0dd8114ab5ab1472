//! The fused forms on burn's CPU backend, with and without gradients.
use std::sync::Arc;

use burn::{
    backend::{
        Autodiff, Flex,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
    },
    tensor::{
        DType, FloatDType, Int, Shape, Tensor, TensorData, TensorMetadata as _, TensorPrimitive,
        backend::Backend,
        ops::{FloatTensor, FloatTensorOps as _},
    },
};
use burn_flex::{FlexTensor, Layout};

use super::{
    AdamW, Dispatch, Heads, Kernels, Segments, TINY,
    cpu::{self, Attended, Bank, Form, Hidden, Learnt, Projected},
};
use crate::{
    Affinity, Compute,
    network::{Plan, Routed, Routing},
};

/// What is fused. Another strategy of checkpointing is that of [`super::PortableBackend`].
type Trained = Autodiff<Flex, NoCheckpointing>;

type Tracked<const D: usize> = Tensor<Trained, D>;

/// Row by row, f32: what the kernels read. Costs nothing where it is so already.
#[derive(Debug, Clone)]
struct Plane(FlexTensor);

impl Plane {
    fn new(tensor: FlexTensor) -> Self {
        let tensor = match tensor.dtype() {
            DType::F32 => tensor,
            _ => Flex::float_cast(tensor, FloatDType::F32),
        };
        Self(match tensor.as_slice::<f32>() {
            Some(_) => tensor,
            None => tensor.to_contiguous(),
        })
    }

    fn of<const D: usize>(tensor: Tensor<Flex, D>) -> Self {
        Self::new(tensor.into_primitive().tensor())
    }

    fn values(&self) -> &[f32] {
        self.0.as_slice().expect("made contiguous f32 when it was built")
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }
}

fn primitive(values: Vec<f32>, shape: Shape, dtype: DType) -> FlexTensor {
    let bytes = burn::tensor::Bytes::from_elems(values);
    let tensor = FlexTensor::new(bytes, Layout::contiguous(shape), DType::F32);
    if dtype == DType::F32 { tensor } else { Flex::float_cast(tensor, dtype.into()) }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: Shape, dtype: DType) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive(values, shape, dtype)))
}

/// Numbers of the matrices of experts, the two sizes last.
fn bank<'a>(gate: &'a Plane, up: &'a Plane, down: &'a Plane) -> Bank<'a> {
    formed(Form::SwiGlu { gate: gate.values() }, up, down)
}

fn gelu_bank<'a>([up, down]: [&'a Plane; 2], [a, b]: [&'a Plane; 2]) -> Bank<'a> {
    formed(Form::Gelu { up_bias: a.values(), down_bias: b.values() }, up, down)
}

fn formed<'a>(form: Form<'a>, up: &'a Plane, down: &'a Plane) -> Bank<'a> {
    let shape = up.shape();
    let rank = shape.num_dims();
    let (d_model, width) = (shape[rank - 2], shape[rank - 1]);
    Bank { d_model, width, form, up: up.values(), down: down.values() }
}

fn projected<'a>(
    [query, key, value]: [&'a Plane; 3],
    prefix: Option<(&'a Plane, &'a Plane)>,
) -> Projected<'a> {
    Projected {
        query: query.values(),
        key: key.values(),
        value: value.values(),
        prefix: prefix.map(|(keys, values)| (keys.values(), values.values())),
    }
}

fn routed(affinity: &Plane, bias: &Plane, how: &Routing<'_>) -> (Arc<Plan>, Routed) {
    let plan = Plan::new(affinity.values(), bias.values(), how);
    let routed = plan.routed.clone();
    (Arc::new(plan), routed)
}

pub(super) fn weights<B: Backend>(
    affinity: Tensor<B, 2>,
    kind: Affinity,
    plan: &Plan,
) -> Tensor<B, 1> {
    let ([rows, experts], device) = (affinity.dims(), affinity.device());
    let mixture = match kind {
        Affinity::Softmax => affinity,
        Affinity::Sigmoid => {
            let chosen = TensorData::new(plan.chosen.clone(), [rows, experts]);
            let affinity = affinity * Tensor::from_data(chosen, &device);
            affinity.clone() / affinity.sum_dim(1).add_scalar(TINY)
        }
    };
    let cells = TensorData::new(plan.cells.clone(), [plan.cells.len()]);
    let cells = Tensor::<B, 1, Int>::from_data(cells, &device);
    mixture.reshape([rows * experts]).select(0, cells)
}

impl Kernels for Flex {
    type Sent = Arc<Plan>;

    /// Emulated, in f32: burn's half tensors are no faster on a CPU, and their `f16` products
    /// overflow on the way to a sum that fits.
    fn held<const D: usize>(x: Tensor<Self, D>, compute: Compute) -> Tensor<Self, D> {
        x.cast(compute.dtype()).cast(FloatDType::F32)
    }

    fn project(x: Tensor<Self, 2>, matrix: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let dtype = x.dtype();
        let [x, matrix] = [x, matrix].map(Plane::of);
        let ([rows, inputs], [_, outputs]) = (x.shape().dims(), matrix.shape().dims());
        let y = cpu::linear(x.values(), matrix.values(), inputs);
        tensor(y, Shape::new([rows, outputs]), dtype)
    }

    fn project_all(x: Tensor<Self, 2>, matrices: [Tensor<Self, 2>; 3]) -> [Tensor<Self, 2>; 3] {
        let dtype = x.dtype();
        let (x, matrices) = (Plane::of(x), matrices.map(Plane::of));
        let [rows, inputs] = x.shape().dims();
        let all = cpu::linear_all(x.values(), matrices.each_ref().map(Plane::values), inputs);
        all.map(|y| {
            let outputs = y.len() / rows;
            tensor(y, Shape::new([rows, outputs]), dtype)
        })
    }

    fn rms_norm(x: Tensor<Self, 2>, gain: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        let dtype = x.dtype();
        let (x, gain) = (Plane::of(x), Plane::of(gain));
        let (y, _) = cpu::rms_norm(x.values(), gain.values(), epsilon as f32);
        tensor(y, x.shape(), dtype)
    }

    fn turn(x: Tensor<Self, 2>, heads: Heads, segments: &Segments) -> Tensor<Self, 2> {
        let dtype = x.dtype();
        let x = Plane::of(x);
        tensor(cpu::turned(x.values(), heads, segments), x.shape(), dtype)
    }

    fn attend(
        query: Tensor<Self, 2>,
        key: Tensor<Self, 2>,
        value: Tensor<Self, 2>,
        prefix: Option<(Tensor<Self, 2>, Tensor<Self, 2>)>,
        heads: Heads,
        segments: &Segments,
    ) -> Tensor<Self, 2> {
        let dtype = query.dtype();
        let [query, key, value] = [query, key, value].map(Plane::of);
        let prefix = prefix.map(|(keys, values)| (Plane::of(keys), Plane::of(values)));
        let of = projected([&query, &key, &value], prefix.as_ref().map(|(k, v)| (k, v)));
        let attended = cpu::attention(of, heads, segments);
        tensor(attended.out, query.shape(), dtype)
    }

    fn feed_forward(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
        down: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        let dtype = x.dtype();
        let [x, gate, up, down] = [x, gate, up, down].map(Plane::of);
        let (y, _) = cpu::feed_forward(x.values(), bank(&gate, &up, &down));
        tensor(y, x.shape(), dtype)
    }

    fn route(
        affinity: Tensor<Self, 2>,
        bias: Tensor<Self, 1>,
        how: &Routing<'_>,
    ) -> (Self::Sent, Routed) {
        routed(&Plane::of(affinity), &Plane::of(bias), how)
    }

    fn weights(affinity: Tensor<Self, 2>, kind: Affinity, sent: &Self::Sent) -> Tensor<Self, 1> {
        weights(affinity, kind, sent)
    }

    fn experts(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 3>,
        up: Tensor<Self, 3>,
        down: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2> {
        let dispatch = &sent.dispatch;
        let dtype = x.dtype();
        let [gate, up, down] = [gate, up, down].map(Plane::of);
        let (x, weight) = (Plane::of(x), Plane::of(weight));
        let bank = bank(&gate, &up, &down);
        let sent = cpu::Sent { x: x.values(), bank, weight: weight.values(), dispatch };
        let (y, _) = cpu::experts(sent);
        tensor(y, x.shape(), dtype)
    }

    fn gelu_experts(
        x: Tensor<Self, 2>,
        matrices: [Tensor<Self, 3>; 2],
        biases: [Tensor<Self, 2>; 2],
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2> {
        let dispatch = &sent.dispatch;
        let dtype = x.dtype();
        let (matrices, biases) = (matrices.map(Plane::of), biases.map(Plane::of));
        let (x, weight) = (Plane::of(x), Plane::of(weight));
        let bank = gelu_bank(matrices.each_ref(), biases.each_ref());
        let sent = cpu::Sent { x: x.values(), bank, weight: weight.values(), dispatch };
        let (y, _) = cpu::experts(sent);
        tensor(y, x.shape(), dtype)
    }

    fn cross_entropy(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        let dtype = logits.dtype();
        let (loss, _) = cpu::cross_entropy(Plane::of(logits).values(), targets);
        tensor(vec![loss], Shape::new([1]), dtype)
    }

    fn adamw<const D: usize>(
        state: [Tensor<Self, D>; 3],
        gradient: Tensor<Self, D>,
        by: &AdamW,
    ) -> [Tensor<Self, D>; 3] {
        let gradient = Plane::of(gradient);
        // Written in place where nobody else holds them.
        let mut state = state.map(|tensor| Plane::of(tensor).0);
        for tensor in &mut state {
            if !tensor.is_contiguous() || tensor.layout().start_offset() != 0 {
                *tensor = tensor.to_contiguous();
            }
        }
        let [parameter, first, second] = &mut state;
        let size = gradient.values().len();
        cpu::adamw(
            &mut parameter.storage_mut()[..size],
            gradient.values(),
            &mut first.storage_mut()[..size],
            &mut second.storage_mut()[..size],
            by,
        );
        state.map(|tensor| Tensor::from_primitive(TensorPrimitive::Float(tensor)))
    }
}

/// Hands each gradient to its node, where one is wanted.
fn register<const N: usize>(
    ops: &[Option<NodeId>; N],
    found: [Option<FlexTensor>; N],
    gradients: &mut Gradients,
) {
    for (node, gradient) in ops.iter().zip(found) {
        if let (Some(node), Some(gradient)) = (node, gradient) {
            gradients.register::<Flex>(*node, gradient);
        }
    }
}

/// Defines an operator's way back: `$back` makes the gradients, in the order of the parents, of the
/// state, the gradient of the result, and which of them are wanted.
macro_rules! differentiable {
    ($name:ident, $parents:literal, $state:ty, $back:expr) => {
        #[derive(Debug)]
        struct $name;

        impl Backward<Flex, $parents> for $name {
            type State = $state;

            fn backward(
                self,
                ops: Ops<Self::State, $parents>,
                gradients: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let dy = gradients.consume::<Flex>(&ops.node);
                let back: fn($state, Plane, [bool; $parents]) -> [Option<FlexTensor>; $parents] =
                    $back;
                let nodes = ops.parents.map(|parent| parent.map(|node| node.id));
                let wanted = nodes.map(|node| node.is_some());
                register(&nodes, back(ops.state, Plane::new(dy), wanted), gradients);
            }
        }
    };
}

fn like(values: Vec<f32>, of: &FlexTensor) -> Option<FlexTensor> {
    Some(primitive(values, of.shape(), of.dtype()))
}

differentiable!(Linear, 2, (FlexTensor, FlexTensor), |(x, matrix), dy, wanted| {
    let (a, b) = (Plane::new(x.clone()), Plane::new(matrix.clone()));
    let inputs = matrix.shape()[0];
    let [dx, dmatrix] = cpu::linear_backward(a.values(), b.values(), inputs, dy.values(), wanted);
    [dx.and_then(|dx| like(dx, &x)), dmatrix.and_then(|dmatrix| like(dmatrix, &matrix))]
});

#[derive(Debug, Clone)]
struct NormState {
    x: FlexTensor,
    gain: FlexTensor,
    scales: Vec<f32>,
}

differentiable!(RmsNorm, 2, NormState, |state, dy, _| {
    let (x, gain) = (Plane::new(state.x.clone()), Plane::new(state.gain.clone()));
    let (dx, dgain) = cpu::rms_norm_backward(x.values(), gain.values(), &state.scales, dy.values());
    [like(dx, &state.x), like(dgain, &state.gain)]
});

#[derive(Debug, Clone)]
struct AttentionState {
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    prefix: Option<(FlexTensor, FlexTensor)>,
    heads: Heads,
    segments: Segments,
    attended: Attended,
}

impl AttentionState {
    fn backward(self, dy: &Plane) -> ([Option<FlexTensor>; 3], [Option<FlexTensor>; 2]) {
        let planes = [&self.query, &self.key, &self.value].map(|x| Plane::new(x.clone()));
        let prefix = self.prefix.as_ref();
        let before = prefix.map(|(k, v)| (Plane::new(k.clone()), Plane::new(v.clone())));
        let of = projected(planes.each_ref(), before.as_ref().map(|(k, v)| (k, v)));
        let found =
            cpu::attention_backward(of, self.heads, &self.segments, &self.attended, dy.values());
        let dprefix = found.prefix.zip(prefix);
        let of_prefix = match dprefix {
            Some(((dk, dv), (k, v))) => [like(dk, k), like(dv, v)],
            None => [None, None],
        };
        let own = [
            like(found.query, &self.query),
            like(found.key, &self.key),
            like(found.value, &self.value),
        ];
        (own, of_prefix)
    }
}

differentiable!(Attention, 3, AttentionState, |state, dy, _| state.backward(&dy).0);

differentiable!(PrefixedAttention, 5, AttentionState, |state, dy, _| {
    let ([query, key, value], [keys, values]) = state.backward(&dy);
    [query, key, value, keys, values]
});

#[derive(Debug, Clone)]
struct FeedForwardState {
    x: FlexTensor,
    matrices: [FlexTensor; 3],
    hidden: Hidden,
}

differentiable!(FeedForward, 4, FeedForwardState, |state, dy, [_, gate, up, down]| {
    let matrices_learn = gate || up || down;
    let x = Plane::new(state.x.clone());
    let [gate, up, down] = state.matrices.each_ref().map(|m| Plane::new(m.clone()));
    let bank = bank(&gate, &up, &down);
    let (dx, matrices) =
        cpu::feed_forward_backward(x.values(), bank, state.hidden, dy.values(), matrices_learn);
    let [dgate, dup, ddown] = of_matrices(matrices, &state.matrices);
    [like(dx, &state.x), dgate, dup, ddown]
});

/// Gradients of matrices, where there are any.
fn of_matrices(found: Option<[Vec<f32>; 3]>, of: &[FlexTensor; 3]) -> [Option<FlexTensor>; 3] {
    let Some([gate, up, down]) = found else { return [None, None, None] };
    let [of_gate, of_up, of_down] = of;
    [like(gate, of_gate), like(up, of_up), like(down, of_down)]
}

#[derive(Debug, Clone)]
struct ExpertsState {
    x: FlexTensor,
    matrices: [FlexTensor; 3],
    weight: FlexTensor,
    dispatch: Dispatch,
    hidden: Hidden,
}

differentiable!(Experts, 5, ExpertsState, |state, dy, [_, gate, up, down, _]| {
    let matrices_learn = gate || up || down;
    let (x, weight) = (Plane::new(state.x.clone()), Plane::new(state.weight.clone()));
    let [gate, up, down] = state.matrices.each_ref().map(|m| Plane::new(m.clone()));
    let sent = cpu::Sent {
        x: x.values(),
        bank: bank(&gate, &up, &down),
        weight: weight.values(),
        dispatch: &state.dispatch,
    };
    let (dx, dweight, learnt) =
        cpu::experts_backward(sent, state.hidden, dy.values(), matrices_learn);
    let matrices = learnt.map(|Learnt { gate, up, down, .. }| [gate, up, down]);
    let [dgate, dup, ddown] = of_matrices(matrices, &state.matrices);
    [like(dx, &state.x), dgate, dup, ddown, like(dweight, &state.weight)]
});

#[derive(Debug, Clone)]
struct GeluExpertsState {
    x: FlexTensor,
    matrices: [FlexTensor; 2],
    biases: [FlexTensor; 2],
    weight: FlexTensor,
    dispatch: Dispatch,
    hidden: Hidden,
}

differentiable!(GeluExperts, 6, GeluExpertsState, |state, dy, [_, up, down, a, b, _]| {
    let they_learn = up || down || a || b;
    let (x, weight) = (Plane::new(state.x.clone()), Plane::new(state.weight.clone()));
    let matrices = state.matrices.each_ref().map(|m| Plane::new(m.clone()));
    let biases = state.biases.each_ref().map(|b| Plane::new(b.clone()));
    let sent = cpu::Sent {
        x: x.values(),
        bank: gelu_bank(matrices.each_ref(), biases.each_ref()),
        weight: weight.values(),
        dispatch: &state.dispatch,
    };
    let (dx, dweight, learnt) = cpu::experts_backward(sent, state.hidden, dy.values(), they_learn);
    let (dx, dweight) = (like(dx, &state.x), like(dweight, &state.weight));
    let Some(learnt) = learnt else { return [dx, None, None, None, None, dweight] };
    let Learnt { up, down, up_bias, down_bias, .. } = learnt;
    let ([of_up, of_down], [of_a, of_b]) = (&state.matrices, &state.biases);
    [dx, like(up, of_up), like(down, of_down), like(up_bias, of_a), like(down_bias, of_b), dweight]
});

#[derive(Debug, Clone)]
struct CrossEntropyState {
    logits: FlexTensor,
    targets: Vec<u32>,
    probabilities: Vec<f32>,
}

differentiable!(CrossEntropy, 1, CrossEntropyState, |state, dy, _| {
    let dlogits = cpu::cross_entropy_backward(state.probabilities, &state.targets, dy.values()[0]);
    [like(dlogits, &state.logits)]
});

fn tracked<const D: usize>(x: Tracked<D>) -> FloatTensor<Trained> {
    x.into_primitive().tensor()
}

fn result<const D: usize>(x: FloatTensor<Trained>) -> Tracked<D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

impl Kernels for Trained {
    type Sent = Arc<Plan>;

    /// Each cast's way back is a cast: the gradient is rounded as its value is.
    fn held<const D: usize>(x: Tensor<Self, D>, compute: Compute) -> Tensor<Self, D> {
        x.cast(compute.dtype()).cast(FloatDType::F32)
    }

    fn project(x: Tensor<Self, 2>, matrix: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let ([rows, inputs], [_, outputs]) = (x.dims(), matrix.dims());
        let (x, matrix) = (tracked(x), tracked(matrix));
        let prepared =
            Linear.prepare::<NoCheckpointing>([x.node, matrix.node]).compute_bound().stateful();
        let (x, matrix) = (x.primitive, matrix.primitive);
        let (a, b) = (Plane::new(x.clone()), Plane::new(matrix.clone()));
        let y = cpu::linear(a.values(), b.values(), inputs);
        let y = primitive(y, Shape::new([rows, outputs]), x.dtype());
        result(match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, matrix), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        })
    }

    fn rms_norm(x: Tensor<Self, 2>, gain: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        let (x, gain) = (tracked(x), tracked(gain));
        let prepared =
            RmsNorm.prepare::<NoCheckpointing>([x.node, gain.node]).compute_bound().stateful();
        let (x, gain) = (x.primitive, gain.primitive);
        let (rows, gains) = (Plane::new(x.clone()), Plane::new(gain.clone()));
        let (y, scales) = cpu::rms_norm(rows.values(), gains.values(), epsilon as f32);
        let y = primitive(y, x.shape(), x.dtype());
        result(match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(NormState { x, gain, scales }, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        })
    }

    fn attend(
        query: Tensor<Self, 2>,
        key: Tensor<Self, 2>,
        value: Tensor<Self, 2>,
        prefix: Option<(Tensor<Self, 2>, Tensor<Self, 2>)>,
        heads: Heads,
        segments: &Segments,
    ) -> Tensor<Self, 2> {
        let [query, key, value] = [query, key, value].map(tracked);
        let prefix = prefix.map(|(keys, values)| (tracked(keys), tracked(values)));
        let planes = [&query, &key, &value].map(|x| Plane::new(x.primitive.clone()));
        let before = prefix
            .as_ref()
            .map(|(k, v)| (Plane::new(k.primitive.clone()), Plane::new(v.primitive.clone())));
        let of = projected(planes.each_ref(), before.as_ref().map(|(k, v)| (k, v)));
        let attended = cpu::attention(of, heads, segments);
        let shape = query.primitive.shape();
        let y = primitive(attended.out.clone(), shape, query.primitive.dtype());
        let nodes = [query.node, key.node, value.node];
        let own_prefix = prefix.as_ref().map(|(k, v)| (k.primitive.clone(), v.primitive.clone()));
        let state = AttentionState {
            query: query.primitive,
            key: key.primitive,
            value: value.primitive,
            prefix: own_prefix,
            heads,
            segments: segments.clone(),
            attended,
        };
        let Some((keys, values)) = prefix else {
            let prepared = Attention.prepare::<NoCheckpointing>(nodes).compute_bound().stateful();
            return result(match prepared {
                OpsKind::Tracked(prepared) => prepared.finish(state, y),
                OpsKind::UnTracked(prepared) => prepared.finish(y),
            });
        };
        let [query, key, value] = nodes;
        let nodes = [query, key, value, keys.node, values.node];
        result(
            match PrefixedAttention.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prepared) => prepared.finish(state, y),
                OpsKind::UnTracked(prepared) => prepared.finish(y),
            },
        )
    }

    fn feed_forward(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
        down: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        let x = tracked(x);
        let [gate, up, down] = [gate, up, down].map(tracked);
        let nodes = [x.node, gate.node, up.node, down.node];
        let prepared = FeedForward.prepare::<NoCheckpointing>(nodes).compute_bound().stateful();
        let (x, matrices) = (x.primitive, [gate.primitive, up.primitive, down.primitive]);
        let rows = Plane::new(x.clone());
        let [gate, up, down] = matrices.each_ref().map(|m| Plane::new(m.clone()));
        let (y, hidden) = cpu::feed_forward(rows.values(), bank(&gate, &up, &down));
        let y = primitive(y, x.shape(), x.dtype());
        result(match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish(FeedForwardState { x, matrices, hidden }, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        })
    }

    fn route(
        affinity: Tensor<Self, 2>,
        bias: Tensor<Self, 1>,
        how: &Routing<'_>,
    ) -> (Self::Sent, Routed) {
        Flex::route(affinity.inner(), bias.inner(), how)
    }

    fn weights(affinity: Tensor<Self, 2>, kind: Affinity, sent: &Self::Sent) -> Tensor<Self, 1> {
        weights(affinity, kind, sent)
    }

    fn experts(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 3>,
        up: Tensor<Self, 3>,
        down: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2> {
        let dispatch = &sent.dispatch;
        let (x, weight) = (tracked(x), tracked(weight));
        let [gate, up, down] = [gate, up, down].map(tracked);
        let nodes = [x.node, gate.node, up.node, down.node, weight.node];
        let prepared = Experts.prepare::<NoCheckpointing>(nodes).compute_bound().stateful();
        let (x, weight) = (x.primitive, weight.primitive);
        let matrices = [gate.primitive, up.primitive, down.primitive];
        let (rows, weights) = (Plane::new(x.clone()), Plane::new(weight.clone()));
        let [gate, up, down] = matrices.each_ref().map(|m| Plane::new(m.clone()));
        let bank = bank(&gate, &up, &down);
        let sent = cpu::Sent { x: rows.values(), bank, weight: weights.values(), dispatch };
        let (y, hidden) = cpu::experts(sent);
        let y = primitive(y, x.shape(), x.dtype());
        let dispatch = dispatch.clone();
        result(match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish(ExpertsState { x, matrices, weight, dispatch, hidden }, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        })
    }

    fn gelu_experts(
        x: Tensor<Self, 2>,
        matrices: [Tensor<Self, 3>; 2],
        biases: [Tensor<Self, 2>; 2],
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2> {
        let dispatch = &sent.dispatch;
        let (x, weight) = (tracked(x), tracked(weight));
        let ([up, down], [a, b]) = (matrices.map(tracked), biases.map(tracked));
        let nodes = [x.node, up.node, down.node, a.node, b.node, weight.node];
        let prepared = GeluExperts.prepare::<NoCheckpointing>(nodes).compute_bound().stateful();
        let (x, weight) = (x.primitive, weight.primitive);
        let (matrices, biases) = ([up.primitive, down.primitive], [a.primitive, b.primitive]);
        let (rows, weights) = (Plane::new(x.clone()), Plane::new(weight.clone()));
        let planes = matrices.each_ref().map(|m| Plane::new(m.clone()));
        let rows_of_biases = biases.each_ref().map(|b| Plane::new(b.clone()));
        let bank = gelu_bank(planes.each_ref(), rows_of_biases.each_ref());
        let sent = cpu::Sent { x: rows.values(), bank, weight: weights.values(), dispatch };
        let (y, hidden) = cpu::experts(sent);
        let y = primitive(y, x.shape(), x.dtype());
        let dispatch = dispatch.clone();
        result(match prepared {
            OpsKind::Tracked(prepared) => prepared
                .finish(GeluExpertsState { x, matrices, biases, weight, dispatch, hidden }, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        })
    }

    fn cross_entropy(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        let logits = tracked(logits);
        let prepared =
            CrossEntropy.prepare::<NoCheckpointing>([logits.node]).compute_bound().stateful();
        let logits = logits.primitive;
        let rows = Plane::new(logits.clone());
        let (loss, probabilities) = cpu::cross_entropy(rows.values(), targets);
        let loss = primitive(vec![loss], Shape::new([1]), logits.dtype());
        let targets = targets.to_vec();
        result(match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish(CrossEntropyState { logits, targets, probabilities }, loss)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(loss),
        })
    }
}
