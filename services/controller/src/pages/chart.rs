//! Pictures, as inline SVG.
use maud::{Markup, html};
use tidegate_contracts::{CheckResult, SliceResult};
use tidegate_learning::History;

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

/// Where the candidate and whom it is held against are equal, and where the candidate is found.
fn marks(check: &CheckResult) -> (Option<f64>, Option<f64>) {
    let pair = check.candidate.zip(check.baseline);
    let versus = |sign: &str| {
        ["champion", "anchor"]
            .iter()
            .any(|who| check.rule.contains(&format!("candidate {sign} {who}")))
    };
    if versus("-") {
        (Some(0.0), pair.map(|(candidate, other)| candidate - other))
    } else if versus("/") {
        (Some(1.0), pair.map(|(candidate, other)| candidate / other))
    } else if check.rule.contains("label_agreement_drop") {
        // Both columns are the champion's agreement, before and now.
        (Some(0.0), pair.map(|(now, before)| before - now))
    } else if check.rule.contains("trigger_success") || check.rule.contains("producer_") {
        (Some(0.0), pair.map(|(candidate, champion)| candidate - champion))
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

/// Where a candidate may lie on a slice: the interval of its difference, put to the champion's value.
fn reach(one: &SliceResult) -> Option<(f64, f64)> {
    let (low, high) = one.interval.filter(|(low, high)| low.is_finite() && high.is_finite())?;
    let start = one.champion.unwrap_or_default();
    let ends = (start + low, start + high);
    Some(if one.metric == "mae" { ends } else { (ends.0.max(0.0), ends.1.min(1.0)) })
}

/// What the pictures of all slices of a verdict are drawn to.
pub(super) struct Scale {
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Scale {
    /// `None` where there is nothing to draw.
    pub(super) fn of(slices: &[&SliceResult]) -> Option<Self> {
        let ends = |one: &&SliceResult| {
            let (low, high) = reach(one).unzip();
            [Some(one.candidate), one.champion, low, high]
        };
        let all: Vec<f64> =
            slices.iter().flat_map(ends).flatten().filter(|at| at.is_finite()).collect();
        let from = all.iter().copied().reduce(f64::min)?;
        let to = all.iter().copied().reduce(f64::max)?;
        Some(Self { from, to: to.max(from + 1e-9) })
    }
}

/// Candidate and champion on one slice.
pub(super) fn slice(one: &SliceResult, scale: &Scale) -> Markup {
    let px = |at: f64| {
        let share = (at - scale.from) / (scale.to - scale.from);
        format!("{:.1}", EDGE + share * (WIDE - 2.0 * EDGE))
    };
    // Surely more than the champion's, surely less, or neither.
    let moved = match one.interval.filter(|_| one.champion.is_some()) {
        Some((low, _)) if low > 0.0 => 1,
        Some((_, high)) if high < 0.0 => -1,
        _ => 0,
    };
    let tone = match (moved, one.metric == "mae") {
        (0, _) => "",
        (1, false) | (-1, true) => "pass",
        _ => "fail",
    };
    let value = |at: f64| super::slices::slice_value(&one.metric, at);
    let mut label = format!("{}: candidate {}", one.slice, value(one.candidate));
    if let Some(champion) = one.champion {
        label.push_str(&format!(", champion {}", value(champion)));
    }
    let ends = reach(one);
    if let Some((low, high)) = ends {
        label.push_str(&format!(", the candidate between {} and {}", value(low), value(high)));
    }
    html! {
        svg class={ "interval " (tone) } viewBox=(format!("0 0 {WIDE} {HIGH}")) role="img" aria-label=(label) {
            title { (label) }
            @if let Some((low, high)) = ends {
                line.reach x1=(px(low)) x2=(px(high)) y1="11" y2="11" {}
                @for end in [low, high] { line.end x1=(px(end)) x2=(px(end)) y1="7" y2="15" {} }
            }
            @if let Some(champion) = one.champion { circle.champion cx=(px(champion)) cy="11" r="5" {} }
            circle cx=(px(one.candidate)) cy="11" r="4" {}
        }
    }
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

/// How often values of which size came, as a picture: time to the right, size upwards in powers of
/// two, darker is more often. Nothing where there are no values.
pub(super) fn heat(what: &str, history: &History) -> Option<Markup> {
    let (wide, high) = (160.0, 36.0);
    let rows: Vec<_> = history.rows.iter().enumerate().filter(|(_, row)| !row.is_empty()).collect();
    let buckets = || rows.iter().flat_map(|(_, row)| row.keys().copied());
    let (lowest, highest) = (buckets().min()?, buckets().max()?);
    let width = wide / history.rows.len() as f64;
    let height = high / f64::from(highest - lowest + 1);
    // Values that are taken at few steps fill the time to the next.
    let ends = rows.iter().skip(1).map(|(at, _)| *at).chain([history.rows.len()]);
    let cells: Vec<_> = rows
        .iter()
        .zip(ends)
        .flat_map(|((at, row), end)| {
            let all: u64 = row.values().sum();
            row.iter().map(move |(bucket, count)| (*at, end, *bucket, *count as f64 / all as f64))
        })
        .collect();
    let label = format!("{what}: between 2^{lowest} and 2^{}", i32::from(highest) + 1);
    Some(html! {
        svg.heat viewBox=(format!("0 0 {wide} {high}")) preserveAspectRatio="none" role="img" aria-label=(label) {
            title { (label) }
            @for (at, end, bucket, share) in cells {
                rect x=(format!("{:.1}", at as f64 * width))
                    y=(format!("{:.1}", f64::from(highest - bucket) * height))
                    width=(format!("{:.1}", (end - at) as f64 * width))
                    height=(format!("{height:.1}")) fill-opacity=(format!("{:.2}", share.max(0.08))) {}
            }
        }
    })
}

/// Shares of a whole, a bar each, and the even share as a line.
pub(super) fn bars(what: &str, shares: &[f64]) -> Option<Markup> {
    let top = shares.iter().copied().filter(|share| share.is_finite()).fold(0.0, f64::max);
    if top <= 0.0 {
        return None;
    }
    let (wide, high) = (160.0, 36.0);
    let width = wide / shares.len() as f64;
    let y = |share: f64| high - share / top * (high - 2.0);
    let even = format!("{:.1}", y(1.0 / shares.len() as f64));
    let listed: Vec<String> = shares.iter().map(|share| format!("{:.1}", 100.0 * share)).collect();
    let label = format!("{what}, in per cent: {}", listed.join(", "));
    Some(html! {
        svg.heat viewBox=(format!("0 0 {wide} {high}")) preserveAspectRatio="none" role="img" aria-label=(label) {
            title { (label) }
            @for (at, &share) in shares.iter().enumerate() {
                rect x=(format!("{:.1}", (at as f64 + 0.1) * width)) y=(format!("{:.1}", y(share)))
                    width=(format!("{:.1}", 0.8 * width)) height=(format!("{:.1}", high - y(share))) {}
            }
            line x1="0" x2=(wide) y1=(even) y2=(even) {}
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

    fn slice_of(champion: Option<f64>, interval: (f64, f64)) -> SliceResult {
        SliceResult {
            kind: tidegate_contracts::SliceKind::Group,
            slice: "format=<html>".to_owned(),
            n: 50,
            metric: "accuracy".to_owned(),
            candidate: 0.7,
            champion,
            interval: Some(interval),
            level: 0.9,
            method: "newcombe_paired".to_owned(),
        }
    }

    #[test]
    fn a_slice_shows_both_on_the_scale_of_all_and_says_so() {
        let (beside, alone) = (slice_of(Some(0.9), (-0.3, -0.1)), slice_of(None, (0.6, 1.0)));
        let scale = Scale::of(&[&beside, &alone]).unwrap();
        assert!((scale.from - 0.6).abs() < 1e-9 && (scale.to - 1.0).abs() < 1e-9);
        let drawn = slice(&beside, &scale).into_string();
        assert!(drawn.contains(r#"class="interval fail""#), "surely worse: {drawn}");
        assert!(drawn.contains(
            "candidate 70.0 %, champion 90.0 %, the candidate between 60.0 % and 80.0 %"
        ));
        assert_eq!(drawn.matches("<circle").count(), 2);
        assert!(!drawn.contains("<html>"), "what users wrote is no markup");
        let drawn = slice(&alone, &scale).into_string();
        assert_eq!(drawn.matches("<circle").count(), 1);
        assert!(drawn.contains(r#"x1="8.0" x2="172.0""#), "from edge to edge: {drawn}");
        assert!(Scale::of(&[]).is_none());
    }

    #[test]
    fn the_difference_to_the_anchor_is_marked_like_that_to_the_champion() {
        for (rule, equal, found) in [
            ("L(candidate - anchor) > -0.05", 0.0, -0.25),
            ("L(candidate - champion) > -0.05", 0.0, -0.25),
            ("U(candidate / anchor) <= 1.2", 1.0, 0.75),
        ] {
            let check = CheckResult {
                id: "x".to_owned(),
                layer: tidegate_contracts::Layer::Quality,
                metric: "accuracy".to_owned(),
                data: None,
                slice: "overall".to_owned(),
                severity: tidegate_contracts::Severity::Block,
                state: tidegate_contracts::CheckState::Fail,
                candidate: Some(0.75),
                baseline: Some(1.0),
                interval: None,
                level: 0.9,
                method: "none".to_owned(),
                n: 9,
                chance: None,
                rule: rule.to_owned(),
                reason: String::new(),
            };
            assert_eq!(marks(&check), (Some(equal), Some(found)), "{rule}");
        }
    }

    #[test]
    fn a_heat_map_has_a_cell_for_each_size_and_fills_gaps_in_time() {
        let rows = [vec![(0, 3), (2, 1)], vec![], vec![(1, 4)], vec![]];
        let rows = rows.map(|row| row.into_iter().collect()).to_vec();
        let drawn = heat("norm", &History { span: 1, rows }).unwrap().into_string();
        assert_eq!(drawn.matches("<rect").count(), 3);
        assert!(drawn.contains("between 2^0 and 2^3"), "{drawn}");
        // Of four rows each is 40 wide; the third reaches to the end.
        assert!(
            drawn.contains(r#"x="80.0" y="12.0" width="80.0" height="12.0" fill-opacity="1.00""#)
        );
        assert!(
            drawn.contains(r#"x="0.0" y="24.0" width="80.0" height="12.0" fill-opacity="0.75""#)
        );
        assert!(heat("norm", &History::default()).is_none());
    }

    #[test]
    fn bars_are_drawn_only_where_there_are_shares() {
        let drawn = bars("load", &[0.5, 0.25, 0.25, 0.0]).unwrap().into_string();
        assert_eq!(drawn.matches("<rect").count(), 4);
        assert!(drawn.contains("50.0, 25.0, 25.0, 0.0"), "{drawn}");
        assert!(bars("load", &[]).is_none() && bars("load", &[0.0, f64::NAN]).is_none());
    }
}
