//! The product of rows with a matrix.
use rayon::prelude::*;

use super::{
    block,
    product::{View, product},
    swiglu::{Outer, outer_all},
};

/// `x`: `[rows, inputs]`; `matrix`: `[inputs, outputs]`. Returns `[rows, outputs]`.
pub(in crate::ops) fn linear(x: &[f32], matrix: &[f32], inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, matrix.len() / inputs);
    let mut y = vec![0.0; rows * outputs];
    let (block, matrix) = (block(rows), View::new(matrix, inputs, outputs));
    y.par_chunks_mut(block * outputs).zip(x.par_chunks(block * inputs)).for_each(|(y, x)| {
        product(y, outputs, false, View::new(x, x.len() / inputs, inputs), matrix);
    });
    y
}

/// Gradients of `x` and of `matrix`, where they are wanted.
pub(in crate::ops) fn linear_backward(
    x: &[f32],
    matrix: &[f32],
    inputs: usize,
    dy: &[f32],
    [of_x, of_matrix]: [bool; 2],
) -> [Option<Vec<f32>>; 2] {
    let (rows, outputs) = (x.len() / inputs, matrix.len() / inputs);
    let dx = of_x.then(|| {
        let mut dx = vec![0.0; x.len()];
        let (block, matrix) = (block(rows), View::new(matrix, inputs, outputs).t());
        dx.par_chunks_mut(block * inputs).zip(dy.par_chunks(block * outputs)).for_each(
            |(dx, dy)| {
                let dy = View::new(dy, dy.len() / outputs, outputs);
                product(dx, inputs, false, dy, matrix);
            },
        );
        dx
    });
    let dmatrix = of_matrix.then(|| {
        let mut dmatrix = vec![0.0; matrix.len()];
        outer_all(vec![Outer { out: &mut dmatrix, a: x, b: dy, cols: outputs }]);
        dmatrix
    });
    [dx, dmatrix]
}
