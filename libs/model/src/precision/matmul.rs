//! The product, its gradients, and how each backend rounds.
use burn::{
    backend::{
        Autodiff, Flex,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind, binary, unary},
        },
    },
    tensor::{
        DType, Int, Tensor, TensorData, TensorPrimitive,
        backend::Backend,
        ops::{FloatTensor, PadMode},
    },
};

use super::{E4M3, Tile, tiles};

/// `x w`, both rounded to FP8 and multiplied in f32.
///
/// `x`: `[.., m, k]`, in [`Tile::Row`]s; `w`: `[.., k, n]`, in [`Tile::Block`]s; the leading
/// dimensions are the same. Returns `[.., m, n]` of the element type of `x`.
///
/// Gradients pass the rounding as if it were not there, and are FP8 products themselves
/// (DeepSeek-V3, arXiv 2412.19437, fig. 6 and 7): `dx = dy w^T` with `dy` in rows and `w` in blocks,
/// `dw = x^T dy` with both in columns. There `x` is rounded once, from what came in; the paper
/// rounds the FP8 rows that it kept a second time, to save memory that an emulation doesn't save.
///
/// Emulated, on a GPU too: burn 0.21 has no FP8 product. On CUDA it may take TF32 for one of f32,
/// which adds 2^-11 to FP8's 2^-4.
///
/// # Panics
/// When the shapes do not fit.
#[must_use]
pub fn fp8_matmul<B: Fp8Backend, const D: usize>(x: Tensor<B, D>, w: Tensor<B, D>) -> Tensor<B, D> {
    let (mut shape, inner) = (x.dims(), w.dims());
    let fits = D >= 2 && shape[..D - 2] == inner[..D - 2] && shape[D - 1] == inner[D - 2];
    assert!(fits, "no product of {shape:?} and {inner:?}");
    let dtype = x.dtype();
    let y = Tensor::<B, 3>::from_primitive(TensorPrimitive::Float(B::fp8_matmul(
        matrices(x).into_primitive().tensor(),
        matrices(w).into_primitive().tensor(),
    )));
    shape[D - 1] = inner[D - 1];
    cast(y.reshape(shape), dtype)
}

/// `x` as FP8 would hold it; the gradient passes unchanged.
///
/// `x`: `[.., rows, columns]`. Returns the same shape and element type. What is not finite makes
/// at least itself NaN; on a CPU, and for an infinity everywhere, its whole tile.
///
/// # Panics
/// When there are no rows and columns.
#[must_use]
pub fn fp8_round<B: Fp8Backend, const D: usize>(x: Tensor<B, D>, tile: Tile) -> Tensor<B, D> {
    assert!(D >= 2, "a tile is of a matrix");
    let (shape, dtype) = (x.dims(), x.dtype());
    let rounded = B::fp8_round(matrices(x).into_primitive().tensor(), tile);
    let rounded = Tensor::<B, 3>::from_primitive(TensorPrimitive::Float(rounded));
    cast(rounded.reshape(shape), dtype)
}

/// `[.., rows, columns]` as f32 `[matrices, rows, columns]`.
fn matrices<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, 3> {
    let shape = x.dims();
    let count = shape[..D - 2].iter().product();
    cast(x, DType::F32).reshape([count, shape[D - 2], shape[D - 1]])
}

fn cast<B: Backend, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// A backend that rounds to FP8. With the default methods it does so by burn's own operators.
///
/// Needed wherever [`fp8_matmul`] is called: for a trained model on `B` and `B::InnerBackend`.
pub trait Fp8Backend: Backend {
    /// `x`: f32 `[matrices, rows, columns]`, as [`Fp8Matrix`](super::Fp8Matrix) would return it.
    fn fp8_round(x: FloatTensor<Self>, tile: Tile) -> FloatTensor<Self> {
        let x = Tensor::from_primitive(TensorPrimitive::Float(x));
        round_by_operators::<Self>(x, tile).into_primitive().tensor()
    }

    /// `x`: f32 `[matrices, m, k]`, `w`: f32 `[matrices, k, n]`. Returns `[matrices, m, n]`.
    fn fp8_matmul(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(Self::fp8_round(x, Tile::Row), Self::fp8_round(w, Tile::Block))
    }
}

#[cfg(feature = "cuda")]
impl Fp8Backend for crate::CudaBackend {}

impl Fp8Backend for Flex {
    /// One pass over memory, where operators would need a dozen.
    fn fp8_round(x: FloatTensor<Self>, tile: Tile) -> FloatTensor<Self> {
        let x = Tensor::<Self, 3>::from_primitive(TensorPrimitive::Float(x));
        let shape = x.dims();
        let [_, rows, columns] = shape;
        let device = x.device();
        let data = x.into_data();
        let values = data.as_slice::<f32>().expect("the caller has cast to f32");
        let mut rounded = Vec::with_capacity(values.len());
        for matrix in values.chunks((rows * columns).max(1)) {
            tiles::round(matrix, columns, tile, &mut rounded);
        }
        let rounded = Tensor::<Self, 3>::from_data(TensorData::new(rounded, shape), &device);
        rounded.into_primitive().tensor()
    }
}

impl<B: Fp8Backend, C: CheckpointStrategy> Fp8Backend for Autodiff<B, C> {
    fn fp8_round(x: FloatTensor<Self>, tile: Tile) -> FloatTensor<Self> {
        let rounded = B::fp8_round(x.primitive, tile);
        StraightThrough.prepare::<C>([x.node]).compute_bound().stateless(rounded)
    }

    fn fp8_matmul(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let y = B::fp8_matmul(x.primitive.clone(), w.primitive.clone());
        let nodes = [x.node.clone(), w.node.clone()];
        match Fp8Matmul.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                // What is kept is what came in, which others keep too; the gradient of one factor
                // needs the other.
                let kept = (
                    w.is_tracked().then(|| prep.checkpoint(&x)),
                    x.is_tracked().then(|| prep.checkpoint(&w)),
                );
                prep.finish(kept, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct StraightThrough;

impl<B: Backend> Backward<B, 1> for StraightThrough {
    type State = ();

    fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, grads, |grad| grad);
    }
}

#[derive(Debug)]
struct Fp8Matmul;

impl<B: Fp8Backend> Backward<B, 2> for Fp8Matmul {
    /// `x` if `w` is trained, and `w` if `x` is.
    type State = (Option<NodeId>, Option<NodeId>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, w) = ops.state;
        let mut kept = |id: Option<NodeId>| -> Option<FloatTensor<B>> {
            id.map(|id| checkpointer.retrieve_node_output(id))
        };
        let (x, w) = (kept(x), kept(w));
        binary::<B, _, _>(
            ops.parents,
            ops.node,
            grads,
            |dy| {
                let w = B::fp8_round(w.expect("kept: x is tracked"), Tile::Block);
                B::float_matmul(B::fp8_round(dy, Tile::Row), B::float_transpose(w))
            },
            |dy| {
                let x = B::fp8_round(x.expect("kept: w is tracked"), Tile::Column);
                B::float_matmul(B::float_transpose(x), B::fp8_round(dy, Tile::Column))
            },
        );
    }
}

/// `x`: `[matrices, rows, columns]`; the same bits as [`tiles::round`], but for the sign of zeros.
fn round_by_operators<B: Backend>(x: Tensor<B, 3>, tile: Tile) -> Tensor<B, 3> {
    /// Exponents of E4M3's smallest and largest normal numbers.
    const EXPONENTS: (i32, i32) = (-6, 8);
    /// 2^-9: the step of numbers with the smallest exponent.
    const SMALLEST_STEP: f64 = 1.0 / 512.0;

    let [count, rows, columns] = x.dims();
    let [height, width] = tile.shape();
    let (down, across) = (rows.div_ceil(height), columns.div_ceil(width));
    let missing = (down * height - rows, across * width - columns);
    let x = match missing {
        (0, 0) => x,
        (rows, columns) => x.pad((0, columns, 0, rows), PadMode::Constant(0.0)),
    };
    let x = x.reshape([count, down, height, across, width]);

    let peak = x.clone().abs().max_dims(&[2, 4]);
    let scale = peak.div_scalar(E4M3::MAX).clamp_min(f32::MIN_POSITIVE);
    let x = x / scale.clone();

    // Rounded to steps of 2^(exponent - 3). The logarithm needs no more than two digits: within
    // 3 % of a power of two, the steps of either side round to that power.
    let (lowest, highest) = EXPONENTS;
    let exponent = x.clone().abs().log().mul_scalar(std::f32::consts::LOG2_E).floor();
    let above = exponent.clamp(lowest, highest).sub_scalar(lowest).int();
    let power = Tensor::<B, 5, Int>::ones_like(&above).bitwise_left_shift(above);
    let step = power.float().mul_scalar(SMALLEST_STEP);
    let x = (x / step.clone()).round() * step * scale;

    x.reshape([count, down * height, across * width]).slice([0..count, 0..rows, 0..columns])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    /// GPUs round by operators, which no machine without one would test otherwise.
    #[test]
    fn operators_round_as_the_loops_do() {
        let device = Default::default();
        let codes = (0..=255).map(|code| E4M3::from_bits(code).to_f32()).filter(|v| !v.is_nan());
        let mut values: Vec<f32> = codes.collect();
        values.sort_by(f32::total_cmp);
        let boundaries: Vec<f32> = values
            .windows(2)
            .map(|pair| f32::midpoint(pair[0], pair[1]))
            .flat_map(|v| [v.next_down(), v, v.next_up()])
            .collect();
        values.extend(boundaries);
        let length = values.len();
        // Peaks of 448: all scales are 1.
        let exact =
            Tensor::<Flex, 1>::from_floats(values.as_slice(), &device).reshape([1, length, 1]);
        let edge = Tensor::full([1, length, 1], E4M3::MAX, &device);
        compare(Tensor::cat(vec![exact, edge], 2), Tile::Row);

        for (shape, size) in [([2, 3, 5], 1.0), ([1, 128, 256], 1e-3), ([3, 130, 257], 1e30)] {
            let x = Tensor::random(shape, Distribution::Normal(0.0, size), &device);
            for tile in [Tile::Row, Tile::Column, Tile::Block] {
                compare(x.clone(), tile);
                compare(x.clone().mul_scalar(1e-38), tile);
                compare(x.zeros_like(), tile);
            }
        }
    }

    fn compare(x: Tensor<Flex, 3>, tile: Tile) {
        let loops = fp8_round(x.clone(), tile).into_data();
        let operators = round_by_operators(x, tile).into_data();
        assert_eq!(loops.as_slice::<f32>().unwrap(), operators.as_slice::<f32>().unwrap());
    }
}
