//! Matrices in FP8: what rounding costs, what products cost, and what their gradients are.
use burn::{
    backend::{Autodiff, autodiff::checkpoint::strategy::BalancedCheckpointing},
    tensor::{DType, Tensor, TensorData, backend::AutodiffBackend},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_model::{CpuBackend, E4M3, E5M2, Fp8Backend, Fp8Matrix, Tile, fp8_matmul, fp8_round};

const TILES: [Tile; 3] = [Tile::Row, Tile::Column, Tile::Block];
/// Ragged in every way: less than a tile, one, one and a bit, several.
const SHAPES: [[usize; 2]; 5] = [[1, 1], [3, 130], [128, 128], [129, 257], [260, 96]];
/// Half a step of a normal number, and the roundings of scale, quotient and product in f32.
const RELATIVE: f64 = 1.0 / 16.0 + 1e-6;
/// Half a step of a subnormal code.
const ABSOLUTE: f64 = 1.0 / 1024.0 + 1e-9;

/// Box and Muller's normal numbers.
fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || {
        let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    (0..count).map(|_| draw()).collect()
}

/// The scale of each element, by the definition.
fn scales(values: &[f32], [rows, columns]: [usize; 2], tile: Tile) -> Vec<f32> {
    let [height, width] = tile.shape();
    let across = columns.div_ceil(width);
    let tile_of = |at: usize| at / columns / height * across + at % columns / width;
    let mut peaks = vec![0_f32; rows.div_ceil(height) * across];
    for (at, value) in values.iter().enumerate() {
        peaks[tile_of(at)] = peaks[tile_of(at)].max(value.abs());
    }
    let scale = |at| (peaks[tile_of(at)] / 448.0).max(f32::MIN_POSITIVE);
    (0..values.len()).map(scale).collect()
}

#[test]
fn each_element_is_its_nearest_code_times_the_scale_of_its_tile() {
    for shape in SHAPES {
        let values = gaussian(shape[0] * shape[1], 1);
        for tile in TILES {
            let matrix = Fp8Matrix::quantise(&values, shape, tile);
            let [height, width] = tile.shape();
            let tiles = shape[0].div_ceil(height) * shape[1].div_ceil(width);
            assert_eq!(matrix.scales().len(), tiles);
            assert_eq!((matrix.shape(), matrix.tile()), (shape, tile));

            let scales = scales(&values, shape, tile);
            let back = matrix.dequantise();
            assert_eq!(back.len(), values.len());
            for at in 0..values.len() {
                let code = E4M3::from_f32(values[at] / scales[at]);
                assert_eq!(matrix.codes()[at], code, "{shape:?} {tile:?} {at}");
                assert_eq!(back[at], code.to_f32() * scales[at], "{shape:?} {tile:?} {at}");
            }
        }
    }
}

#[test]
fn rounding_errs_by_a_sixteenth_at_most_or_by_half_a_subnormal_step() {
    let shape = [256, 384];
    for (seed, size) in [(2, 1.0), (3, 1e-30), (4, 1e30)] {
        let values: Vec<f32> =
            gaussian(shape[0] * shape[1], seed).iter().map(|v| v.powi(5) * size).collect();
        for tile in TILES {
            let scales = scales(&values, shape, tile);
            let back = Fp8Matrix::quantise(&values, shape, tile).dequantise();
            for ((value, back), scale) in values.iter().zip(back).zip(scales) {
                let (value, scale) = (f64::from(*value), f64::from(scale));
                let bound = (RELATIVE * value.abs()).max(ABSOLUTE * scale);
                assert!((value - f64::from(back)).abs() <= bound, "{value} {back} {scale}");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_the_smallest_numbers_stay_finite() {
    for tile in TILES {
        let zeros = Fp8Matrix::quantise(&[0.0; 300], [3, 100], tile);
        assert!(zeros.codes().iter().all(|code| code.to_bits() == 0));
        assert!(zeros.dequantise().iter().all(|value| *value == 0.0));

        let values: Vec<f32> = (0..300).map(|i| f32::from_bits(i * 1000)).collect();
        let back = Fp8Matrix::quantise(&values, [3, 100], tile).dequantise();
        for (value, back) in values.iter().zip(back) {
            let error = (f64::from(*value) - f64::from(back)).abs();
            assert!(error <= f64::from(*value) / 16.0 + 2_f64.powi(-136), "{value} {back}");
        }
        let none = Fp8Matrix::quantise(&[], [0, 100], tile);
        assert!(none.dequantise().is_empty() && none.scales().is_empty());
        let none = Fp8Matrix::quantise(&[], [100, 0], tile);
        assert!(none.dequantise().is_empty() && none.scales().is_empty());
    }
}

#[test]
fn what_is_not_finite_makes_its_tile_nan_and_no_other() {
    let shape = [130, 260];
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = gaussian(shape[0] * shape[1], 5);
        values[0] = bad;
        for tile in TILES {
            let [height, width] = tile.shape();
            let matrix = Fp8Matrix::quantise(&values, shape, tile).dequantise();
            let tensor = fp8_round(tensor::<CpuBackend>(&values, shape), tile);
            for back in [matrix, vector(tensor)] {
                for (at, back) in back.iter().enumerate() {
                    let struck = at / shape[1] < height && at % shape[1] < width;
                    assert_eq!(back.is_nan(), struck, "{bad} {tile:?} {at}");
                }
            }
        }
    }
}

#[test]
fn a_transposed_matrix_in_blocks_has_the_same_codes() {
    let [rows, columns] = [200, 150];
    let values = gaussian(rows * columns, 6);
    let turned: Vec<f32> =
        (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect();
    let straight = Fp8Matrix::quantise(&values, [rows, columns], Tile::Block);
    let turned = Fp8Matrix::quantise(&turned, [columns, rows], Tile::Block);
    for (at, code) in turned.codes().iter().enumerate() {
        assert_eq!(*code, straight.codes()[at % rows * columns + at / rows]);
    }
}

/// The share of `values` that became 0 and were not.
fn flushed(values: &[f32], back: &[f32]) -> f64 {
    let lost = values.iter().zip(back).filter(|(value, back)| **value != 0.0 && **back == 0.0);
    lost.count() as f64 / values.len() as f64
}

#[test]
fn outliers_flush_fewer_numbers_to_zero_in_tiles_than_in_a_whole_tensor() {
    let shape = [512, 1024];
    let mut values = gaussian(shape[0] * shape[1], 7);
    // Activations of a transformer: a few thousand times the rest, in about one tile of thirty.
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for value in &mut values {
        if random.random::<f64>() < 1.0 / 4096.0 {
            *value *= 2048.0;
        }
    }
    let peak = values.iter().fold(0_f32, |peak, value| peak.max(value.abs()));
    let whole: Vec<f32> =
        values.iter().map(|value| E4M3::from_f32(value / (peak / E4M3::MAX)).to_f32()).collect();
    let whole = flushed(&values, &whole);
    let rows = flushed(&values, &Fp8Matrix::quantise(&values, shape, Tile::Row).dequantise());
    println!("flushed to zero: {:.3} % by tensor, {:.3} % by row tiles", whole * 1e2, rows * 1e2);
    assert!(whole > 0.009 && rows < 0.0004, "{whole} {rows}");
}

/// Root mean square of the differences, as a share of that of `exact`.
fn relative_error(found: &[f32], exact: &[f64]) -> f64 {
    let error: f64 = found.iter().zip(exact).map(|(f, e)| (f64::from(*f) - e).powi(2)).sum();
    (error / exact.iter().map(|e| e * e).sum::<f64>()).sqrt()
}

#[test]
fn gaussian_numbers_lose_a_fortieth_in_e4m3_and_twice_that_in_e5m2() {
    let values = gaussian(1 << 18, 8);
    let exact: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
    let rows = Fp8Matrix::quantise(&values, [2048, 128], Tile::Row).dequantise();
    let wide: Vec<f32> = values.iter().map(|value| E5M2::from_f32(*value).to_f32()).collect();
    let (rows, wide) = (relative_error(&rows, &exact), relative_error(&wide, &exact));
    println!("relative error: {rows:.4} in E4M3, {wide:.4} in E5M2");
    assert!((0.022..0.030).contains(&rows) && (0.044..0.060).contains(&wide), "{rows} {wide}");
}

fn tensor<B: Fp8Backend>(values: &[f32], shape: [usize; 2]) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

fn vector<B: Fp8Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().into_vec().expect("f32")
}

/// `[m, k]` x `[k, n]` in f64.
fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
    let n = w.len() / k;
    let mut y = vec![0.0; x.len() / k * n];
    for (row, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        for (x, w) in row.iter().zip(w.chunks_exact(n)) {
            for (y, w) in y.iter_mut().zip(w) {
                *y += f64::from(*x) * f64::from(*w);
            }
        }
    }
    y
}

fn transposed(x: &[f32], columns: usize) -> Vec<f32> {
    let rows = x.len() / columns;
    (0..x.len()).map(|at| x[at % rows * columns + at / rows]).collect()
}

fn rounded(x: &[f32], shape: [usize; 2], tile: Tile) -> Vec<f32> {
    Fp8Matrix::quantise(x, shape, tile).dequantise()
}

/// What f32 sums of `k` products may differ by, relative to the sum of their magnitudes.
fn assert_close(found: &[f32], exact: &[f64], magnitudes: &[f64], k: usize) {
    assert_eq!(found.len(), exact.len());
    for ((found, exact), magnitude) in found.iter().zip(exact).zip(magnitudes) {
        let bound = (k + 2) as f64 * f64::from(f32::EPSILON) * magnitude;
        assert!((f64::from(*found) - exact).abs() <= bound, "{found} {exact} {bound}");
    }
}

fn magnitudes(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
    let abs = |x: &[f32]| x.iter().map(|v| v.abs()).collect::<Vec<_>>();
    product(&abs(x), &abs(w), k)
}

#[test]
fn a_product_is_that_of_the_codes_and_within_the_bound_of_the_exact_one() {
    for [m, k, n] in [[1, 1, 1], [5, 130, 260], [64, 512, 128]] {
        let (x, w) = (gaussian(m * k, 9), gaussian(k * n, 10));
        let y = fp8_matmul(tensor::<CpuBackend>(&x, [m, k]), tensor(&w, [k, n]));
        assert_eq!(y.dims(), [m, n]);
        let y = vector(y);

        let (xq, wq) = (rounded(&x, [m, k], Tile::Row), rounded(&w, [k, n], Tile::Block));
        assert_close(&y, &product(&xq, &wq, k), &magnitudes(&xq, &wq, k), k);

        // |xq wq - x w| <= |x| dw + |w| dx + dx dw, with the bound of each rounding.
        let widened = |x: &[f32], scales: Vec<f32>| -> Vec<f32> {
            let bound = |(x, s): (&f32, f32)| {
                x.abs() + (RELATIVE as f32 * x.abs()).max(ABSOLUTE as f32 * s)
            };
            x.iter().zip(scales).map(bound).collect()
        };
        let xs = widened(&x, scales(&x, [m, k], Tile::Row));
        let ws = widened(&w, scales(&w, [k, n], Tile::Block));
        let (exact, sizes) = (product(&x, &w, k), magnitudes(&x, &w, k));
        for ((y, exact), (wide, size)) in
            y.iter().zip(&exact).zip(product(&xs, &ws, k).into_iter().zip(sizes))
        {
            assert!((f64::from(*y) - exact).abs() <= (wide - size) * 1.001, "{y} {exact}");
        }
        if k == 512 {
            let error = relative_error(&y, &exact);
            println!("relative error of a product: {error:.4}");
            assert!((0.034..0.040).contains(&error), "{error}");
        }
    }
}

#[test]
fn each_matrix_of_a_batch_is_multiplied_by_itself() {
    let [count, m, k, n] = [3, 4, 140, 7];
    let (x, w) = (gaussian(count * m * k, 11), gaussian(count * k * n, 12));
    let (all_x, all_w) = (
        tensor::<CpuBackend>(&x, [count * m, k]).reshape([1, count, m, k]),
        tensor(&w, [count * k, n]).reshape([1, count, k, n]),
    );
    let all = vector(fp8_matmul(all_x, all_w));
    for (i, (x, w)) in x.chunks(m * k).zip(w.chunks(k * n)).enumerate() {
        let one = fp8_matmul(tensor::<CpuBackend>(x, [m, k]), tensor(w, [k, n]));
        assert_eq!(all[i * m * n..][..m * n], vector(one));
    }
}

/// Gradients of `sum(y * dy)`.
fn gradients<B: AutodiffBackend<InnerBackend = CpuBackend> + Fp8Backend>([m, k, n]: [usize; 3]) {
    let (x, w, dy) = (gaussian(m * k, 13), gaussian(k * n, 14), gaussian(m * n, 15));
    let (dy_row, dy_column) = (rounded(&dy, [m, n], Tile::Row), rounded(&dy, [m, n], Tile::Column));
    let w_turned = transposed(&rounded(&w, [k, n], Tile::Block), n);
    let x_turned = transposed(&rounded(&x, [m, k], Tile::Column), k);

    for (train_x, train_w) in [(true, true), (true, false), (false, true)] {
        let leaf =
            |values: &[f32], shape, trained| tensor::<B>(values, shape).set_require_grad(trained);
        let (tx, tw) = (leaf(&x, [m, k], train_x), leaf(&w, [k, n], train_w));
        // Through `x` once more, so that its gradient is a sum.
        let y = fp8_matmul(tx.clone(), tw.clone());
        let loss = (y * tensor(&dy, [m, n])).sum() + tx.clone().sum();
        let found = loss.backward();

        let dx = tx.grad(&found).filter(|_| train_x);
        assert_eq!((dx.is_some(), tw.grad(&found).is_some()), (train_x, train_w));
        if let Some(dx) = dx {
            let exact: Vec<f64> =
                product(&dy_row, &w_turned, n).iter().map(|value| value + 1.0).collect();
            let sizes: Vec<f64> =
                magnitudes(&dy_row, &w_turned, n).iter().map(|value| value + 1.0).collect();
            assert_close(&vector(dx), &exact, &sizes, n);
        }
        if let Some(dw) = tw.grad(&found) {
            let exact = product(&x_turned, &dy_column, m);
            assert_close(&vector(dw), &exact, &magnitudes(&x_turned, &dy_column, m), m);
        }
    }
}

#[test]
fn gradients_are_products_of_codes_too() {
    for shape in [[1, 1, 1], [5, 130, 260], [200, 96, 140]] {
        gradients::<Autodiff<CpuBackend>>(shape);
        gradients::<Autodiff<CpuBackend, BalancedCheckpointing>>(shape);
    }
}

#[test]
fn rounding_passes_gradients_unchanged() {
    let x = tensor::<Autodiff<CpuBackend>>(&gaussian(600, 16), [4, 150]).require_grad();
    let dy = tensor(&gaussian(600, 17), [4, 150]);
    let found = (fp8_round(x.clone(), Tile::Row) * dy.clone()).sum().backward();
    assert_eq!(vector(x.grad(&found).unwrap()), vector(dy));
}

#[test]
fn other_element_types_come_back_as_they_went_in() {
    let x = tensor::<Autodiff<CpuBackend>>(&gaussian(600, 18), [4, 150]).cast(DType::BF16);
    let (x, w) = (x.require_grad(), tensor(&gaussian(300, 19), [150, 2]));
    let y = fp8_matmul(x.clone(), w);
    assert_eq!(y.dtype(), DType::BF16);
    let found = y.sum().backward();
    assert_eq!(x.grad(&found).unwrap().dtype(), DType::BF16);
}
