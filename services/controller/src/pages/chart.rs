//! Pictures, as inline SVG.
use maud::{Markup, html};
use tidegate_contracts::CheckResult;

/// Width and height of the picture of an interval.
const WIDE: f64 = 180.0;
const HIGH: f64 = 22.0;
/// Free at both ends.
const EDGE: f64 = 8.0;

/// The bound of a check, read from its rule: `L(x) >= 0.6` is broken below 0.6, `U(x) < 0.04` above.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound {
    at: f64,
    below_is_bad: bool,
}

impl Bound {
    /// `None` for a rule of another shape: the picture goes without it, the words have it anyway.
    fn of(rule: &str) -> Option<Self> {
        let (what, bound) = rule.rsplit_once(')')?;
        let at: f64 = bound.trim().trim_start_matches(['<', '>', '=', ' ']).parse().ok()?;
        let below_is_bad = match what.chars().next()? {
            'L' => true,
            'U' => false,
            _ => return None,
        };
        at.is_finite().then_some(Self { at, below_is_bad })
    }
}

/// Where champion and candidate are equal, and where the candidate is found.
fn marks(check: &CheckResult) -> (Option<f64>, Option<f64>) {
    let pair = check.candidate.zip(check.baseline);
    if check.rule.contains("candidate - champion") {
        (Some(0.0), pair.map(|(candidate, champion)| candidate - champion))
    } else if check.rule.contains("candidate / champion") {
        (Some(1.0), pair.map(|(candidate, champion)| candidate / champion))
    } else if check.rule.contains("label_agreement_drop") {
        // Both columns are the champion's agreement, before and now.
        (Some(0.0), pair.map(|(now, before)| before - now))
    } else {
        (None, check.candidate)
    }
}

/// The interval a check is decided on, its bound with the forbidden side, and where both are equal.
pub(super) fn interval(check: &CheckResult) -> Option<Markup> {
    let (low, high) = check.interval.filter(|(low, high)| low.is_finite() && high.is_finite())?;
    let bound = Bound::of(&check.rule);
    let (equal, found) = marks(check);
    let found = found.filter(|at| at.is_finite());
    let all = [Some(low), Some(high), bound.map(|bound| bound.at), equal, found];
    let (from, to) = all
        .into_iter()
        .flatten()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), at| (from.min(at), to.max(at)));
    let reach = (to - from).max(1e-12);
    let x = |at: f64| EDGE + (at - from) / reach * (WIDE - 2.0 * EDGE);
    let px = |at: f64| format!("{:.1}", x(at));
    let label = format!(
        "{:.0} % interval from {low:.4} to {high:.4}{}",
        check.level * 100.0,
        bound.map_or(String::new(), |bound| format!(", bound {}", bound.at))
    );
    Some(html! {
        svg class={ "interval " (check.state.as_str()) } viewBox=(format!("0 0 {WIDE} {HIGH}"))
            role="img" aria-label=(label) {
            title { (label) }
            @if let Some(Bound { at, below_is_bad }) = bound {
                @let (start, width) = if below_is_bad { (0.0, x(at)) } else { (x(at), WIDE - x(at)) };
                rect.forbidden x=(format!("{start:.1}")) y="0" width=(format!("{width:.1}")) height=(HIGH) {}
                line.bound x1=(px(at)) x2=(px(at)) y1="0" y2=(HIGH) {}
            }
            @if let Some(at) = equal { line.equal x1=(px(at)) x2=(px(at)) y1="0" y2=(HIGH) {} }
            line.reach x1=(px(low)) x2=(px(high)) y1="11" y2="11" {}
            @for end in [low, high] { line.end x1=(px(end)) x2=(px(end)) y1="6" y2="16" {} }
            @if let Some(at) = found { circle cx=(px(at)) cy="11" r="4" {} }
        }
    })
}

/// The loss of a job that trains, by step.
pub(super) fn curve(points: &[(f64, f64)]) -> Option<Markup> {
    let points: Vec<_> =
        points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).copied().collect();
    let (&(first, _), &(last, _)) = (points.first()?, points.last()?);
    let top = points.iter().map(|&(_, y)| y).fold(0.0, f64::max);
    if last <= first || top <= 0.0 {
        return None;
    }
    let place = |&(x, y): &(f64, f64)| {
        format!("{:.1},{:.1}", (x - first) / (last - first) * 600.0, 98.0 - y / top * 92.0)
    };
    let line: Vec<String> = points.iter().map(place).collect();
    let label = format!("loss from step {first} to {last}, at most {top:.3}");
    Some(html! {
        svg.curve viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            title { (label) }
            line.axis x1="0" x2="600" y1="98" y2="98" {}
            polyline points=(line.join(" ")) {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_read_from_its_rule() {
        let below = |at| Some(Bound { at, below_is_bad: true });
        let above = |at| Some(Bound { at, below_is_bad: false });
        assert_eq!(Bound::of("L(accuracy) >= 0.6"), below(0.6));
        assert_eq!(Bound::of("L(candidate - champion) > -0.03"), below(-0.03));
        assert_eq!(Bound::of("U(candidate / champion) <= 1.5"), above(1.5));
        for other in ["", "accuracy", "L(x) > many", "X(x) > 1", "L(x) > NaN"] {
            assert_eq!(Bound::of(other), None, "{other}");
        }
    }
}
