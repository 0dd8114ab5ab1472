//! Many tests at once.

/// Holm's adjusted p-values, in the given order: below a level, the test holds though so many were
/// made, whatever depends on what (Scandinavian Journal of Statistics 6, 1979).
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let order = by_size(p);
    let mut adjusted = vec![0.0; p.len()];
    let mut highest = 0.0_f64;
    for (place, &at) in order.iter().enumerate() {
        highest = highest.max((p.len() - place) as f64 * p[at]).min(1.0);
        adjusted[at] = highest;
    }
    adjusted
}

/// Benjamini and Hochberg's adjusted p-values, in the given order: of those below a level, at most
/// that share is expected to be chance (Journal of the Royal Statistical Society B 57, 1995).
#[must_use]
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let order = by_size(p);
    let mut adjusted = vec![0.0; p.len()];
    let mut lowest = 1.0_f64;
    for (place, &at) in order.iter().enumerate().rev() {
        lowest = lowest.min(p.len() as f64 / (place + 1) as f64 * p[at]);
        adjusted[at] = lowest;
    }
    adjusted
}

fn by_size(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}
