//! Matrix products on slices, one thread each: callers divide the work.

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

    fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "a view ends within its data");
        }
    }
}

/// `out = a b`, or `out += a b`. `out`: `[a.rows, b.cols]`, rows `stride` apart.
pub(super) fn product(out: &mut [f32], stride: usize, add: bool, a: View<'_>, b: View<'_>) {
    assert_eq!(a.cols, b.rows, "inner sizes agree");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= stride && (m - 1) * stride + n <= out.len(), "the result fits in `out`");
    if k == 0 {
        if !add {
            out.chunks_mut(stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    a.check();
    b.check();
    // SAFETY: every index that the call forms is `row * row_stride + col * col_stride` with row and
    // col within the sizes given, and the checks above hold the largest of each matrix within its
    // slice. `out` is borrowed mutably, so it overlaps neither `a` nor `b`. All strides are far below
    // `isize::MAX`, being bounded by the lengths of slices.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
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

    use super::*;

    proptest! {
        #[test]
        fn products_are_those_of_the_definition(
            m in 0_usize..20, n in 0_usize..20, k in 0_usize..20, pad in 0_usize..3,
            (a_t, b_t, add) in any::<(bool, bool, bool)>(), seed in 0_u32..1_000,
        ) {
            let value = |at: usize| ((at as u32 * 37 + seed) % 17) as f32 - 8.0;
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(|at| value(at + 5)).collect();
            let stride = n + pad;
            let mut out = vec![3.0; m * stride];
            let view = |data, rows, cols, t: bool| {
                if t { View::new(data, cols, rows).t() } else { View::new(data, rows, cols) }
            };
            product(&mut out, stride, add, view(&a, m, k, a_t), view(&b, k, n, b_t));
            for row in 0..m {
                for col in 0..n {
                    let sum: f32 = (0..k).map(|at| {
                        let a = if a_t { a[at * m + row] } else { a[row * k + at] };
                        let b = if b_t { b[col * k + at] } else { b[at * n + col] };
                        a * b
                    }).sum();
                    let expected = sum + if add { 3.0 } else { 0.0 };
                    prop_assert_eq!(out[row * stride + col], expected);
                }
                prop_assert!(out[row * stride + n..(row + 1) * stride].iter().all(|v| *v == 3.0));
            }
        }
    }
}
