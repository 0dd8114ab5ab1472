//! The product of rows with a matrix.
use super::{
    bank::{Outer, outer_all},
    block,
    fresh::fresh,
    product::{View, product},
};

/// `x`: `[rows, inputs]`; `matrix`: `[inputs, outputs]`. Returns `[rows, outputs]`.
pub(in crate::ops) fn linear(x: &[f32], matrix: &[f32], inputs: usize) -> Vec<f32> {
    rows_times(x, View::new(matrix, inputs, matrix.len() / inputs))
}

/// Gradients of `x` and of `matrix`, where they are wanted.
pub(in crate::ops) fn linear_backward(
    x: &[f32],
    matrix: &[f32],
    inputs: usize,
    dy: &[f32],
    [of_x, of_matrix]: [bool; 2],
) -> [Option<Vec<f32>>; 2] {
    let outputs = matrix.len() / inputs;
    let dx = of_x.then(|| rows_times(dy, View::new(matrix, inputs, outputs).t()));
    let dmatrix = of_matrix.then(|| {
        let [dmatrix] = outer_all(&[(0, Outer { a: x, b: dy, shape: [inputs, outputs] })]);
        dmatrix
    });
    [dx, dmatrix]
}

/// `x`: `[rows, inputs]`; returns the products with each matrix, `[rows, outputs]`.
pub(in crate::ops) fn linear_all(x: &[f32], matrices: [&[f32]; 3], inputs: usize) -> [Vec<f32>; 3] {
    let rows = x.len() / inputs;
    let outputs = matrices.map(|matrix| matrix.len() / inputs);
    let block = block(rows, inputs * outputs.iter().sum::<usize>());
    let tasks = x.chunks(block * inputs).map(|x| {
        let rows = x.len() / inputs;
        (View::new(x, rows, inputs), outputs.map(|outputs| rows * outputs))
    });
    let work = x.len() * outputs.iter().sum::<usize>();
    fresh(outputs.map(|outputs| rows * outputs), work, tasks, |x, parts| {
        let mut of = matrices.iter().zip(outputs);
        parts.map(|part| {
            let (matrix, outputs) = of.next().expect("a matrix for each result");
            product(part, x, View::new(matrix, inputs, outputs))
        })
    })
}

fn rows_times(x: &[f32], matrix: View<'_>) -> Vec<f32> {
    let [inputs, outputs] = matrix.shape();
    let rows = x.len() / inputs;
    let tasks =
        x.chunks(block(rows, inputs * outputs) * inputs).map(|x| (x, [x.len() / inputs * outputs]));
    let [y] = fresh([rows * outputs], x.len() * outputs, tasks, |x, [y]| {
        [product(y, View::new(x, x.len() / inputs, inputs), matrix)]
    });
    y
}
