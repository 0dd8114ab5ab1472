//! Rows of a table.
use burn::tensor::{Int, Tensor, backend::Backend};

use super::in_format;

/// Cells of a one-hot matrix that are there at a time.
const CELLS: usize = 1 << 27;

/// The gradient of a table of `entries` rows: for each the sum of the gradients of those that read
/// it, as products with one-hot matrices. burn's sum at indices goes through them one by one.
///
/// `at`: `[rows]`; `dy`: `[rows, width]`. Returns `[entries, width]`.
pub(super) fn backward<B: Backend>(
    entries: usize,
    at: Tensor<B, 1, Int>,
    dy: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let [rows, _] = dy.dims();
    let number = Tensor::<B, 1, Int>::arange(0..entries as i64, &dy.device());
    let number = number.reshape([entries, 1]);
    let size = (CELLS / entries).clamp(1, rows);
    let parts = (0..rows).step_by(size).map(|start| {
        let length = size.min(rows - start);
        let shape = [entries, length];
        let at = at.clone().narrow(0, start, length).reshape([1, length]);
        let reads = number.clone().expand(shape).equal(at.expand(shape)).float();
        in_format(reads, dy.dtype()).matmul(dy.clone().narrow(0, start, length))
    });
    parts.reduce(|sum, part| sum + part).expect("a batch has rows")
}
