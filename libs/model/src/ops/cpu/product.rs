//! Matrix products on slices, one thread each: callers divide the work.
use super::fresh::{Blank, written};

/// With so few rows beside it a matrix is multiplied column by column of a few, in strides that no
/// prefetcher follows: from memory it comes at a fifth of the rate that it is worked on. Read in order
/// first, it comes several times as fast: `benchmarks/infer` went from 17 ms a text to 11 on AMD EPYC.
/// With more rows there is work enough meanwhile.
const FEW: usize = 64;

/// Numbers of a matrix that a cache of the first level does not hold.
const LARGE: usize = 8192;

/// Numbers in a cache line.
const LINE: usize = 16;

/// A matrix that is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// `data`: `[rows, cols]`, row by row.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows begin `stride` apart.
    pub(super) fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let view = Self { data, rows, cols, row_stride: stride, col_stride: 1 };
        view.check();
        view
    }

    /// Rows and columns.
    pub(super) fn shape(self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Transposed, without a copy.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Reads one number of each cache line, row by row, so that the caches have the matrix.
    fn touch(&self) {
        let rows = self.data.chunks(self.row_stride).take(self.rows);
        let sum = |row: &[f32]| row[..self.cols].iter().step_by(LINE).sum::<f32>();
        std::hint::black_box(rows.map(sum).sum::<f32>());
    }

    fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "a view ends within its data");
        }
    }
}

/// `a b`, row by row, in `out`: `[a.rows, b.cols]`.
pub(super) fn product<'a>(out: &'a mut Blank, a: View<'_>, b: View<'_>) -> &'a mut [f32] {
    assert_eq!(out.len(), a.rows * b.cols, "room for the whole result");
    if a.cols == 0 {
        return written(out, std::iter::repeat(0.0));
    }
    multiply(out.as_mut_ptr().cast(), out.len(), false, a, b);
    // SAFETY: `multiply` has written every number of the result, which is the whole of `out`.
    #[allow(unsafe_code)]
    unsafe {
        out.assume_init_mut()
    }
}

/// `a b` on this thread. `a`: `[rows, inner]`; `b`: `[inner, cols]`; returns `[rows, cols]`.
pub(crate) fn matrix_product(a: &[f32], b: &[f32], [rows, inner, cols]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; rows * cols];
    product_into(&mut out, View::new(a, rows, inner), View::new(b, inner, cols));
    out
}

/// `out = a b`. `out`: `[a.rows, b.cols]`, row by row; what it held is lost.
pub(super) fn product_into(out: &mut [f32], a: View<'_>, b: View<'_>) {
    if a.cols == 0 {
        out.fill(0.0);
    }
    multiply(out.as_mut_ptr(), out.len(), false, a, b);
}

/// `out += a b`. `out`: `[a.rows, b.cols]`, row by row.
pub(super) fn add_product(out: &mut [f32], a: View<'_>, b: View<'_>) {
    multiply(out.as_mut_ptr(), out.len(), true, a, b);
}

/// Writes `a b` to the `size` numbers from `out` on, or adds it to them; touches nothing where a
/// size is 0. `out` is the start of a slice that the caller has borrowed mutably.
fn multiply(out: *mut f32, size: usize, add: bool, a: View<'_>, b: View<'_>) {
    assert_eq!(a.cols, b.rows, "inner sizes agree");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(size, m * n, "the result fits in `out`");
    if size == 0 || k == 0 {
        return;
    }
    a.check();
    b.check();
    if m <= FEW && b.col_stride == 1 && k * n >= LARGE {
        b.touch();
    }
    // SAFETY: every index that the call forms is `row * row_stride + col * col_stride` with row and
    // col within the sizes given, and the checks above hold the largest of each matrix within its
    // slice. `out` is borrowed mutably, so it overlaps neither `a` nor `b`; where nothing is added
    // it is only written. All strides are far below `isize::MAX`, being bounded by the lengths of
    // slices.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::fresh::blank, *};

    proptest! {
        #[test]
        fn products_are_those_of_the_definition(
            m in 0_usize..20, n in 0_usize..20, k in 0_usize..20,
            (a_t, b_t) in any::<(bool, bool)>(), seed in 0_u32..1_000,
        ) {
            let value = |at: usize| ((at as u32 * 37 + seed) % 17) as f32 - 8.0;
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(|at| value(at + 5)).collect();
            let view = |data, rows, cols, t: bool| {
                if t { View::new(data, cols, rows).t() } else { View::new(data, rows, cols) }
            };
            let (a_view, b_view) = (view(&a, m, k, a_t), view(&b, k, n, b_t));
            let expected: Vec<f32> = (0..m * n).map(|at| {
                let (row, col) = (at / n, at % n);
                (0..k).map(|at| {
                    let a = if a_t { a[at * m + row] } else { a[row * k + at] };
                    let b = if b_t { b[col * k + at] } else { b[at * n + col] };
                    a * b
                }).sum()
            }).collect();
            let mut out = blank(m * n);
            prop_assert_eq!(&*product(&mut out, a_view, b_view), &expected[..]);
            let mut out = vec![3.0; m * n];
            product_into(&mut out, a_view, b_view);
            prop_assert_eq!(&out, &expected);
            out.fill(3.0);
            add_product(&mut out, a_view, b_view);
            prop_assert!(out.iter().zip(&expected).all(|(out, expected)| *out == expected + 3.0));
        }
    }
}
