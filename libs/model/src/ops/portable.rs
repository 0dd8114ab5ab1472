//! Who runs the GPU's operators.
#[cfg(feature = "cuda")]
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::{
    backend::{Autodiff, Flex, autodiff::checkpoint::strategy::BalancedCheckpointing},
    tensor::{Int, Tensor},
};

use super::{Heads, Kernels, Segments, gpu};
use crate::{
    Affinity,
    network::{Routed, Routing},
};

/// Trains on the CPU by the operators that a GPU would use, and in real half tensors: how they are
/// tested where there is none. Slow.
///
/// burn lets no other crate define a strategy of checkpointing; this one, which nothing else here
/// uses, tells the two apart.
pub type PortableBackend = Autodiff<Flex, BalancedCheckpointing>;

/// Operators with a way back, around `$inner`.
macro_rules! trained {
    ([$($generic:tt)*] $backend:ty, $inner:ty) => {
        impl $($generic)* Kernels for $backend {
            type Sent = gpu::Slots<$inner>;

            fn embed(table: Tensor<Self, 2>, at: Tensor<Self, 1, Int>) -> Tensor<Self, 2> {
                gpu::trained::embed(table, at.inner())
            }

            fn rms_norm(
                x: Tensor<Self, 2>,
                gain: Tensor<Self, 1>,
                epsilon: f64,
            ) -> Tensor<Self, 2> {
                gpu::trained::rms_norm(x, gain, epsilon)
            }

            fn attend(
                query: Tensor<Self, 2>,
                key: Tensor<Self, 2>,
                value: Tensor<Self, 2>,
                prefix: Option<(Tensor<Self, 2>, Tensor<Self, 2>)>,
                heads: Heads,
                segments: &Segments,
            ) -> Tensor<Self, 2> {
                gpu::trained::attend([query, key, value], prefix, heads, segments)
            }

            fn feed_forward(
                x: Tensor<Self, 2>,
                gate: Tensor<Self, 2>,
                up: Tensor<Self, 2>,
                down: Tensor<Self, 2>,
            ) -> Tensor<Self, 2> {
                gpu::trained::feed_forward(x, [gate, up, down])
            }

            fn route(
                affinity: Tensor<Self, 2>,
                bias: Tensor<Self, 1>,
                how: &Routing<'_>,
            ) -> (Self::Sent, Routed) {
                gpu::route(affinity.inner(), bias.inner(), how)
            }

            fn weights(
                affinity: Tensor<Self, 2>,
                kind: Affinity,
                sent: &Self::Sent,
            ) -> Tensor<Self, 1> {
                let kept = sent.all_kept().map(Tensor::from_inner);
                gpu::trained::weights(affinity, kind, Tensor::from_inner(sent.chosen()), kept)
            }

            fn experts(
                x: Tensor<Self, 2>,
                gate: Tensor<Self, 3>,
                up: Tensor<Self, 3>,
                down: Tensor<Self, 3>,
                weight: Tensor<Self, 1>,
                sent: &Self::Sent,
            ) -> Tensor<Self, 2> {
                gpu::trained::experts(x, [gate, up, down], weight, sent)
            }

            fn gelu_experts(
                x: Tensor<Self, 2>,
                matrices: [Tensor<Self, 3>; 2],
                biases: [Tensor<Self, 2>; 2],
                weight: Tensor<Self, 1>,
                sent: &Self::Sent,
            ) -> Tensor<Self, 2> {
                gpu::trained::gelu_experts(x, matrices, biases, weight, sent)
            }

            fn cross_entropy(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
                gpu::trained::cross_entropy(logits, targets)
            }
        }
    };
}

trained!([] PortableBackend, Flex);

#[cfg(feature = "cuda")]
trained!(
    [<C: CheckpointStrategy>] Autodiff<crate::CudaBackend, C>, crate::CudaBackend
);

#[cfg(feature = "cuda")]
impl Kernels for crate::CudaBackend {
    type Sent = gpu::Slots<Self>;

    fn rms_norm(x: Tensor<Self, 2>, gain: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        gpu::rms_norm(x, gain, epsilon).0
    }

    fn attend(
        query: Tensor<Self, 2>,
        key: Tensor<Self, 2>,
        value: Tensor<Self, 2>,
        prefix: Option<(Tensor<Self, 2>, Tensor<Self, 2>)>,
        heads: Heads,
        segments: &Segments,
    ) -> Tensor<Self, 2> {
        gpu::attend([query, key, value], prefix, heads, segments).0
    }

    fn feed_forward(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
        down: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        gpu::feed_forward(x, [gate, up, down]).0
    }

    fn route(
        affinity: Tensor<Self, 2>,
        bias: Tensor<Self, 1>,
        how: &Routing<'_>,
    ) -> (Self::Sent, Routed) {
        gpu::route(affinity, bias, how)
    }

    fn weights(affinity: Tensor<Self, 2>, kind: Affinity, sent: &Self::Sent) -> Tensor<Self, 1> {
        gpu::trained::weights(affinity, kind, sent.chosen(), sent.all_kept())
    }

    fn experts(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 3>,
        up: Tensor<Self, 3>,
        down: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2> {
        gpu::experts(x, [gate, up, down], weight, sent).0
    }

    fn gelu_experts(
        x: Tensor<Self, 2>,
        matrices: [Tensor<Self, 3>; 2],
        biases: [Tensor<Self, 2>; 2],
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2> {
        gpu::gelu_experts(x, matrices, biases, weight, sent)
    }

    fn cross_entropy(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        gpu::cross_entropy(logits, targets).0
    }
}
