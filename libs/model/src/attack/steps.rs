//! Steps up a slope within a ball: what attacks do, whatever the model.

/// How far is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Norm {
    /// The largest change of any coordinate.
    Linf,
    /// The length of the change.
    L2,
}

/// How far from where it began a point may go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ball {
    /// How that is measured.
    pub norm: Norm,
    /// How far.
    pub radius: f64,
}

/// A point that moves, where it began, and the values that each coordinate may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Where it began.
    pub centre: Vec<f64>,
    /// Where it is.
    pub at: Vec<f64>,
    /// The least of each coordinate.
    pub low: Vec<f64>,
    /// The most of each coordinate.
    pub high: Vec<f64>,
}

impl Point {
    /// At its beginning; every coordinate within the same values.
    #[must_use]
    pub fn new(centre: Vec<f64>, low: f64, high: f64) -> Self {
        let count = centre.len();
        let (low, high) = (vec![low; count], vec![high; count]);
        Self { at: centre.clone(), centre, low, high }
    }
}

/// Of vectors shorter than this no direction is known.
const SHORTEST: f64 = 1e-12;

impl Ball {
    /// Takes one step of this length up the slope: along its signs (Goodfellow et al. 2014, arXiv
    /// 1412.6572), or along its direction. Without a slope it stays.
    pub fn step(&self, point: &mut Point, slope: &[f64], length: f64) {
        match self.norm {
            Norm::Linf => {
                for (at, slope) in point.at.iter_mut().zip(slope) {
                    // Not `signum`, which is 1 of 0.
                    *at += length * (f64::from(*slope > 0.0) - f64::from(*slope < 0.0));
                }
            }
            Norm::L2 => {
                let norm = norm(slope.iter()).max(SHORTEST);
                point.at.iter_mut().zip(slope).for_each(|(at, slope)| *at += length * slope / norm);
            }
        }
    }

    /// Brings the point back to the nearest place in the ball, then each coordinate within its
    /// values (Madry et al. 2017, arXiv 1706.06083).
    pub fn project(&self, point: &mut Point) {
        let scale = match self.norm {
            Norm::Linf => 1.0,
            Norm::L2 => {
                let change: Vec<f64> =
                    point.at.iter().zip(&point.centre).map(|(at, centre)| at - centre).collect();
                (self.radius / norm(change.iter()).max(SHORTEST)).min(1.0)
            }
        };
        let reach = if self.norm == Norm::Linf { self.radius } else { f64::INFINITY };
        let places = point.at.iter_mut().zip(&point.centre).zip(point.low.iter().zip(&point.high));
        for ((at, centre), (low, high)) in places {
            let moved = centre + (*at - centre) * scale;
            *at = moved.clamp(centre - reach, centre + reach).clamp(*low, *high);
        }
    }
}

/// So many steps of all points together, each in a ball of its own and projected. A step is `stride`
/// radii long. `slopes`: those of a loss at each point.
///
/// One step as long as the radius is FGSM; more and shorter ones are PGD.
///
/// # Errors
/// What `slopes` says.
pub fn climb<E>(
    balls: &[Ball],
    (steps, stride): (u32, f64),
    points: &mut [Point],
    mut slopes: impl FnMut(&[Point]) -> Result<Vec<Vec<f64>>, E>,
) -> Result<(), E> {
    for _ in 0..steps {
        let found = slopes(points)?;
        for ((point, slope), ball) in points.iter_mut().zip(found).zip(balls) {
            ball.step(point, &slope, ball.radius * stride);
            ball.project(point);
        }
    }
    Ok(())
}

fn norm<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}
