//! The operators with their ways back, for burn's `Autodiff` around any backend.
use burn::{
    backend::{
        Autodiff,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
    },
    tensor::{Int, Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

use super::{
    attention::{self, Attended},
    cross_entropy::{self, Entropy},
    embed,
    experts::{self},
    gelu::{self},
    norm, primitive,
    route::Slots,
    swiglu::{self, Hidden},
    tensor,
};
use crate::{
    Affinity,
    ops::{Heads, Segments, TINY},
};

type Tracked<B, C, const D: usize> = Tensor<Autodiff<B, C>, D>;

fn tracked<B: Backend, C: CheckpointStrategy, const D: usize>(
    x: Tracked<B, C, D>,
) -> FloatTensor<Autodiff<B, C>> {
    x.into_primitive().tensor()
}

fn result<B: Backend, C: CheckpointStrategy, const D: usize>(
    x: FloatTensor<Autodiff<B, C>>,
) -> Tracked<B, C, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// Defines an operator's way back: `$back` makes the gradients, in the order of the parents, of the
/// state, the gradient of the result, and which of them are wanted.
macro_rules! way_back {
    ($name:ident, $parents:literal, $state:ty, $back:expr) => {
        #[derive(Debug)]
        struct $name;

        impl<B: Backend> Backward<B, $parents> for $name {
            type State = $state;

            fn backward(
                self,
                ops: Ops<Self::State, $parents>,
                gradients: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let dy = gradients.consume::<B>(&ops.node);
                let nodes = ops.parents.map(|parent| parent.map(|node| node.id));
                let back: fn(
                    $state,
                    FloatTensor<B>,
                    [bool; $parents],
                ) -> [Option<FloatTensor<B>>; $parents] = $back;
                let found = back(ops.state, dy, nodes.map(|node| node.is_some()));
                for (node, gradient) in nodes.into_iter().zip(found) {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        gradients.register::<B>(node, gradient);
                    }
                }
            }
        }
    };
}

/// The result, with its way back where anything before it learns.
macro_rules! with_way_back {
    ($operator:expr, $nodes:expr, $state:expr, $y:expr) => {
        result(match $operator.prepare::<C>($nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish($state, $y),
            OpsKind::UnTracked(prepared) => prepared.finish($y),
        })
    };
}

#[derive(Debug, Clone)]
struct Read<B: Backend> {
    entries: usize,
    at: Tensor<B, 1, Int>,
}

way_back!(Embed, 1, Read<B>, |state, dy, _| {
    [Some(primitive(embed::backward(state.entries, state.at, tensor(dy))))]
});

/// See [`crate::Kernels::embed`].
pub(in crate::ops) fn embed<B: Backend, C: CheckpointStrategy>(
    table: Tracked<B, C, 2>,
    at: Tensor<B, 1, Int>,
) -> Tracked<B, C, 2> {
    let [entries, _] = table.dims();
    let table = tracked(table);
    let y = tensor::<B, 2>(table.primitive).select(0, at.clone());
    with_way_back!(Embed, [table.node], Read { entries, at }, primitive(y))
}

#[derive(Debug, Clone)]
struct Normed<B: Backend> {
    x: Tensor<B, 2>,
    gain: Tensor<B, 1>,
    scale: Tensor<B, 2>,
}

way_back!(RmsNorm, 2, Normed<B>, |state, dy, _| {
    let (dx, dgain) = norm::backward(state.x, state.gain, state.scale, tensor(dy));
    [Some(primitive(dx)), Some(primitive(dgain))]
});

/// See [`crate::Kernels::rms_norm`].
pub(in crate::ops) fn rms_norm<B: Backend, C: CheckpointStrategy>(
    x: Tracked<B, C, 2>,
    gain: Tracked<B, C, 1>,
    epsilon: f64,
) -> Tracked<B, C, 2> {
    let (x, gain) = (tracked(x), tracked(gain));
    let nodes = [x.node, gain.node];
    let (x, gain) = (tensor::<B, 2>(x.primitive), tensor::<B, 1>(gain.primitive));
    let (y, scale) = norm::forward(x.clone(), gain.clone(), epsilon);
    with_way_back!(RmsNorm, nodes, Normed { x, gain, scale }, primitive(y))
}

#[derive(Debug, Clone)]
struct Seen<B: Backend> {
    attended: Attended<B>,
    heads: Heads,
    segments: Segments,
}

way_back!(Attention, 3, Seen<B>, |state, dy, _| {
    let found = attention::backward(state.attended, state.heads, &state.segments, tensor(dy));
    found.own.map(|found| Some(primitive(found)))
});

way_back!(PrefixedAttention, 5, Seen<B>, |state, dy, _| {
    let found = attention::backward(state.attended, state.heads, &state.segments, tensor(dy));
    let [query, key, value] = found.own.map(|found| Some(primitive(found)));
    let prefix = found.prefix.map(|prefix| prefix.map(|found| Some(primitive(found))));
    let [keys, values] = prefix.unwrap_or([None, None]);
    [query, key, value, keys, values]
});

/// See [`crate::Kernels::attend`].
pub(in crate::ops) fn attend<B: Backend, C: CheckpointStrategy>(
    own: [Tracked<B, C, 2>; 3],
    prefix: Option<(Tracked<B, C, 2>, Tracked<B, C, 2>)>,
    heads: Heads,
    segments: &Segments,
) -> Tracked<B, C, 2> {
    let [query, key, value] = own.map(tracked);
    let (nodes, own) = (
        [query.node, key.node, value.node],
        [query.primitive, key.primitive, value.primitive].map(tensor::<B, 2>),
    );
    let prefix = prefix.map(|(keys, values)| (tracked(keys), tracked(values)));
    let given = prefix.as_ref().map(|(keys, values)| {
        (tensor::<B, 2>(keys.primitive.clone()), tensor::<B, 2>(values.primitive.clone()))
    });
    let (y, attended) = attention::forward(own, given, heads, segments);
    let y = primitive(y);
    let state = Seen { attended, heads, segments: segments.clone() };
    match prefix {
        None => with_way_back!(Attention, nodes, state, y),
        Some((keys, values)) => {
            let [query, key, value] = nodes;
            let nodes = [query, key, value, keys.node, values.node];
            with_way_back!(PrefixedAttention, nodes, state, y)
        }
    }
}

#[derive(Debug, Clone)]
struct Fed<B: Backend> {
    x: Tensor<B, 2>,
    matrices: [Tensor<B, 2>; 3],
    hidden: Hidden<B, 2>,
}

way_back!(FeedForward, 4, Fed<B>, |state, dy, [_, gate, up, down]| {
    let Fed { x, matrices, hidden } = state;
    let learn = gate || up || down;
    let found = swiglu::backward(x, matrices, hidden, None, tensor(dy), learn);
    let [gate, up, down] = of_matrices(found.matrices);
    [Some(primitive(found.x)), gate, up, down]
});

/// Gradients of matrices, where there are any.
fn of_matrices<B: Backend, const D: usize>(
    found: Option<[Tensor<B, D>; 3]>,
) -> [Option<FloatTensor<B>>; 3] {
    match found {
        Some(found) => found.map(|found| Some(primitive(found))),
        None => [None, None, None],
    }
}

/// See [`crate::Kernels::feed_forward`].
pub(in crate::ops) fn feed_forward<B: Backend, C: CheckpointStrategy>(
    x: Tracked<B, C, 2>,
    matrices: [Tracked<B, C, 2>; 3],
) -> Tracked<B, C, 2> {
    let (x, [gate, up, down]) = (tracked(x), matrices.map(tracked));
    let nodes = [x.node, gate.node, up.node, down.node];
    let x = tensor::<B, 2>(x.primitive);
    let matrices = [gate.primitive, up.primitive, down.primitive].map(tensor::<B, 2>);
    let (y, hidden) = swiglu::forward(x.clone(), matrices.clone());
    with_way_back!(FeedForward, nodes, Fed { x, matrices, hidden }, primitive(y))
}

#[derive(Debug, Clone)]
struct Mixed<B: Backend> {
    x: Tensor<B, 2>,
    matrices: [Tensor<B, 3>; 3],
    weight: Tensor<B, 1>,
    hidden: Hidden<B, 3>,
    slots: Slots<B>,
}

way_back!(Experts, 5, Mixed<B>, |state, dy, [_, gate, up, down, _]| {
    let Mixed { x, matrices, weight, hidden, slots } = state;
    let learn = gate || up || down;
    let (dx, dweight, found) =
        experts::backward(x, matrices, weight, hidden, &slots, tensor(dy), learn);
    let [gate, up, down] = of_matrices(found);
    [Some(primitive(dx)), gate, up, down, Some(primitive(dweight))]
});

/// See [`crate::Kernels::experts`].
pub(in crate::ops) fn experts<B: Backend, C: CheckpointStrategy>(
    x: Tracked<B, C, 2>,
    matrices: [Tracked<B, C, 3>; 3],
    weight: Tracked<B, C, 1>,
    slots: &Slots<B>,
) -> Tracked<B, C, 2> {
    let (x, weight, [gate, up, down]) = (tracked(x), tracked(weight), matrices.map(tracked));
    let nodes = [x.node, gate.node, up.node, down.node, weight.node];
    let (x, weight) = (tensor::<B, 2>(x.primitive), tensor::<B, 1>(weight.primitive));
    let matrices = [gate.primitive, up.primitive, down.primitive].map(tensor::<B, 3>);
    let (y, hidden) = experts::forward(x.clone(), matrices.clone(), weight.clone(), slots);
    let state = Mixed { x, matrices, weight, hidden, slots: slots.clone() };
    with_way_back!(Experts, nodes, state, primitive(y))
}

way_back!(Send, 1, Slots<B>, |slots, dsent, _| {
    [Some(primitive(experts::sent_backward(tensor(dsent), &slots)))]
});

#[derive(Debug, Clone)]
struct Answered<B: Backend> {
    answers: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    slots: Slots<B>,
}

way_back!(Mix, 2, Answered<B>, |state, dy, _| {
    let Answered { answers, weight, slots } = state;
    let (danswers, dweight) = experts::mixed_backward(answers, weight, &slots, tensor(dy));
    [Some(primitive(danswers)), Some(primitive(dweight))]
});

/// See [`crate::Kernels::gelu_experts`]. Sending and mixing go back by gathers, as those of SwiGLU
/// do; what is between them is differentiated by burn.
pub(in crate::ops) fn gelu_experts<B: Backend, C: CheckpointStrategy>(
    x: Tracked<B, C, 2>,
    matrices: [Tracked<B, C, 3>; 2],
    biases: [Tracked<B, C, 2>; 2],
    weight: Tracked<B, C, 1>,
    slots: &Slots<B>,
) -> Tracked<B, C, 2> {
    let x = tracked(x);
    let sent = experts::sent(tensor::<B, 2>(x.primitive), slots);
    let sent: Tracked<B, C, 3> = with_way_back!(Send, [x.node], slots.clone(), primitive(sent));
    let biases = biases.map(|bias| bias.unsqueeze_dim(1));
    let answers = tracked(gelu::forward(sent, matrices, biases));
    let weight = tracked(weight);
    let nodes = [answers.node, weight.node];
    let (answers, weight) = (tensor::<B, 3>(answers.primitive), tensor::<B, 1>(weight.primitive));
    let y = experts::mixed(answers.clone(), weight.clone(), slots);
    let state = Answered { answers, weight, slots: slots.clone() };
    with_way_back!(Mix, nodes, state, primitive(y))
}

way_back!(CrossEntropy, 1, Entropy<B>, |state, dloss, _| {
    [Some(primitive(cross_entropy::backward(state, tensor(dloss))))]
});

/// See [`crate::Kernels::cross_entropy`].
pub(in crate::ops) fn cross_entropy<B: Backend, C: CheckpointStrategy>(
    logits: Tracked<B, C, 2>,
    targets: &[u32],
) -> Tracked<B, C, 1> {
    let logits = tracked(logits);
    let (loss, entropy) = cross_entropy::forward(tensor::<B, 2>(logits.primitive), targets);
    with_way_back!(CrossEntropy, [logits.node], entropy, primitive(loss))
}

/// See [`crate::Kernels::weights`].
pub(in crate::ops) fn weights<B: Backend>(
    affinity: Tensor<B, 2>,
    kind: Affinity,
    chosen: Tensor<B, 2, Int>,
    kept: Option<Tensor<B, 2>>,
) -> Tensor<B, 1> {
    let affinity = affinity.gather(1, chosen);
    let weights = match kind {
        Affinity::Softmax => affinity,
        Affinity::Sigmoid => affinity.clone() / affinity.sum_dim(1).add_scalar(TINY),
    };
    let weights = match kept {
        Some(kept) => weights * kept,
        None => weights,
    };
    weights.flatten(0, 1)
}
