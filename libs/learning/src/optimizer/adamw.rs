//! One parameter's AdamW step.
use burn::tensor::{Tensor, backend::Backend};
use tidegate_model::{AdamW, Kernels};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
/// Added behind the root.
const EPSILON: f64 = 1e-8;

/// What is remembered of a parameter's gradients. All tensors are flat, in the parameter's order.
#[derive(Debug, Clone)]
pub(super) struct Moments<I: Backend> {
    /// Averaged gradient, `[parameters]`.
    pub(super) first: Tensor<I, 1>,
    /// Averaged square of it, `[parameters]`.
    pub(super) second: Tensor<I, 1>,
    /// Steps taken.
    pub(super) time: u64,
}

/// Numbers of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// Learning rate.
    pub(super) rate: f64,
    /// Decoupled: not a part of the gradient, and scaled by the learning rate.
    pub(super) weight_decay: f64,
    /// What the gradient is multiplied by first: below 1 where it is clipped.
    pub(super) scale: f64,
}

/// One step of [`AdamW`]. `param`, `gradient`: `[parameters]`, f32, of one parameter tensor.
pub(super) fn update<I: Kernels>(
    param: Tensor<I, 1>,
    gradient: Tensor<I, 1>,
    moments: Option<Moments<I>>,
    rates: Rates,
) -> (Tensor<I, 1>, Moments<I>) {
    let Moments { first, second, time } = moments.unwrap_or_else(|| {
        let zeros = || Tensor::zeros(param.dims(), &param.device());
        Moments { first: zeros(), second: zeros(), time: 0 }
    });
    let by = AdamW {
        rate: rates.rate,
        beta_1: BETA_1,
        beta_2: BETA_2,
        epsilon: EPSILON,
        weight_decay: rates.weight_decay,
        gradient_scale: rates.scale,
        time: time + 1,
    };
    let [param, first, second] = by.step([param, first, second], gradient);
    (param, Moments { first, second, time: by.time })
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    fn tensor(values: &[f32]) -> Tensor<Flex, 1> {
        Tensor::from_floats(values, &Default::default())
    }

    fn numbers(tensor: Tensor<Flex, 1>) -> Vec<f32> {
        tensor.into_data().into_vec().unwrap()
    }

    #[test]
    fn three_steps_are_those_of_the_paper_in_f64() {
        let rates = Rates { rate: 0.1, weight_decay: 0.01, scale: 0.5 };
        let mut param = tensor(&[1.0, -2.0, 0.5]);
        let mut moments = None;
        for step in 0..3_u8 {
            let by = 2.0 * f32::from(step + 1);
            let gradient = tensor(&[0.3 * by, -1e-3 * by, 0.0]);
            let (next, kept) = update(param, gradient, moments, rates);
            (param, moments) = (next, Some(kept));
        }
        // Algorithm 2, element by element.
        let expected = [1.0, -2.0, 0.5].iter().zip([0.3, -1e-3, 0.0]).map(|(&start, g)| {
            let (mut p, mut m, mut v): (f64, f64, f64) = (start, 0.0, 0.0);
            for t in 1..=3 {
                let g = g * f64::from(t);
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let (m, v) = (m / (1.0 - 0.9_f64.powi(t)), v / (1.0 - 0.999_f64.powi(t)));
                p -= 0.1 * 0.01 * p;
                p -= 0.1 * m / (v.sqrt() + 1e-8);
            }
            p
        });
        for (found, expected) in numbers(param).into_iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
        }
        assert_eq!(moments.unwrap().time, 3);
    }

    #[test]
    fn a_gradient_of_zero_leaves_only_the_decay() {
        let rates = Rates { rate: 0.1, weight_decay: 0.5, scale: 1.0 };
        let (param, _) = update(tensor(&[2.0]), tensor(&[0.0]), None, rates);
        assert!((numbers(param)[0] - 1.9).abs() < 1e-6);
    }
}
