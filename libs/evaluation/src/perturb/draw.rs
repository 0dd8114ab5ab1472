//! Random numbers of a few distributions.
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Counts above this are drawn from the normal distribution that they nearly have.
const MANY: f64 = 60.0;

/// Of mean 0 and deviation 1 (Box and Muller 1958).
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// A count of this mean (Knuth, "The art of computer programming", volume 2, 3.4.1).
pub(super) fn poisson(mean: f64, rng: &mut ChaCha8Rng) -> f64 {
    if mean > MANY {
        return (mean + mean.sqrt() * normal(rng)).round().max(0.0);
    }
    let least = (-mean).exp();
    let (mut count, mut left) = (0.0, rng.random::<f64>());
    while left > least {
        count += 1.0;
        left *= rng.random::<f64>();
    }
    count
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn means_and_deviations_are_those_of_their_names() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut moments = |draw: &dyn Fn(&mut ChaCha8Rng) -> f64| {
            let all: Vec<f64> = (0..20_000).map(|_| draw(&mut rng)).collect();
            let mean = all.iter().sum::<f64>() / 20_000.0;
            (mean, all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0)
        };
        let (mean, square) = moments(&normal);
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05, "{mean} {square}");
        for wanted in [0.3, 5.0, 200.0] {
            let (mean, square) = moments(&|rng| poisson(wanted, rng));
            assert!((mean / wanted - 1.0).abs() < 0.05, "{wanted}: {mean}");
            assert!((square / wanted - 1.0).abs() < 0.06, "{wanted}: {square}");
        }
    }
}
