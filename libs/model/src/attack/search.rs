//! The black box: random changes, of which those are kept that do harm.
use std::time::Instant;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    Ball, Means, Norm, Point, Stop,
    target::{Change, Found, Victims},
};

/// Share of the coordinates that the first change is of, and the last.
const SHARES: (f64, f64) = (0.5, 0.02);

/// Asks each target's model `queries` times: a stretch of coordinates goes to the ball's edge, to a
/// random side of each, and stays there where the margin shrinks (after the Square attack,
/// Andriushchenko et al. 2019, arXiv 1912.00049, with stretches for squares).
pub(super) fn search(
    victims: &Victims<'_>,
    mut worst: Vec<Found>,
    balls: &[Ball],
    queries: u32,
    means: &Means<'_>,
) -> Result<Vec<Found>, Stop> {
    let mut rngs: Vec<ChaCha8Rng> =
        victims.targets.iter().map(|target| ChaCha8Rng::seed_from_u64(target.seed)).collect();
    for query in 0..queries {
        if Instant::now() > means.until {
            return Err(Stop::Late);
        }
        if worst.iter().all(|found| found.margin <= 0.0) {
            break;
        }
        let way = f64::from(query) / f64::from(queries);
        let share = SHARES.0 * (SHARES.1 / SHARES.0).powf(way);
        let mut points = victims.points();
        for (row, point) in points.iter_mut().enumerate() {
            if let Change::Point(at) = &worst[row].change {
                point.at.clone_from(at);
            }
            let share = if query == 0 { 1.0 } else { share };
            push(balls[row], point, share, &mut rngs[row]);
        }
        let found = victims.scored(points, 1)?;
        worst = worst.into_iter().zip(found).map(|(worst, found)| worst.or(found)).collect();
    }
    Ok(worst)
}

fn push(ball: Ball, point: &mut Point, share: f64, rng: &mut ChaCha8Rng) {
    let count = point.at.len();
    let stretch = ((count as f64 * share).round() as usize).clamp(1, count);
    let from = rng.random_range(0..=count - stretch);
    let side = match ball.norm {
        Norm::Linf => ball.radius,
        Norm::L2 => ball.radius / (stretch as f64).sqrt(),
    };
    for at in from..from + stretch {
        let side = if rng.random_bool(0.5) { side } else { -side };
        point.at[at] = match ball.norm {
            Norm::Linf => point.centre[at] + side,
            Norm::L2 => point.at[at] + side,
        };
    }
    ball.project(point);
}
