//! `index.html`: the demo in pictures. One file, no scripts, nothing loaded from elsewhere.
use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::{DayReport, Report};

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1d2733;--dim:#667;--line:#d6dbe2;--paper:#fff;--a:#0b6e6e;--b:#b05c00;--c:#7a7f87;--bad:#b3261e;--good:#1b7f3b}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--dim:#9aa3ad;--line:#39424d;--paper:#14181d;--a:#4cc4c4;--b:#e8a04c;--c:#8b929b;--bad:#f2857d;--good:#6fcf8b}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}p,td,th{color:var(--ink)}.dim{color:var(--dim)}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font:12px system-ui,sans-serif}
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:1rem}.facts b{display:block;font-size:1.5rem}
.bad{color:var(--bad)}.good{color:var(--good)}.scroll{overflow-x:auto}
";

/// The whole page.
pub(crate) fn render(report: &Report) -> Markup {
    let after = &report.prequential.after_first_250;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "tidegate demo" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "tidegate demo: " (report.events) " e-mails, " (report.days.len()) " days" }
                p.dim {
                    "Every mail was asked of the serving champion first; its label was published \
                     after the answer. Then the day was learnt, judged and, where the gate said \
                     yes, swapped in."
                }
                div.facts {
                    (fact(&format!("{:.1} %", after.accuracy * 100.0), "accuracy after the first 250"))
                    (fact(&format!("{:.1} s", report.freshness_s.p50), "label to serving, median"))
                    (fact(&report.failed_requests.to_string(), &format!("failed of {} requests", report.requests)))
                    (fact(&report.swaps.to_string(), "swaps under load"))
                    (fact(&report.blocked.len().to_string(), "candidates blocked"))
                    (fact(&energy(report), "energy, by the stated method"))
                }
                h2 { "Accuracy day by day" }
                p.dim {
                    "Champion (solid), SGD on hashed 1-2-grams in the same batches, the poisoned one \
                     included (dashed), first generation never updated (dotted). Marks: blocked days."
                }
                (accuracy(&report.days))
                h2 { "Gate decisions" }
                div.scroll { (decisions(&report.days)) }
                h2 { "Requests and swaps" }
                p.dim {
                    "p50 " (ms(report.latency_ms.p50)) ", p99 " (ms(report.latency_ms.p99))
                    ", p99.9 " (ms(report.latency_ms.p999)) ", worst " (ms(report.latency_ms.max))
                    "; within a second of a swap: p99 " (ms(report.latency_during_swap_ms.p99))
                    ", worst " (ms(report.latency_during_swap_ms.max)) "."
                }
                (swaps(report))
                h2 { "Energy day by day" }
                p.dim { "Joules of the service, by " code { (report.energy_method) } ": serving, curation, training and evaluation together." }
                (energy_by_day(&report.days))
                h2 { "What was claimed" }
                table {
                    @for claim in &report.claims {
                        tr {
                            td { @if claim.holds { span.good { "holds" } } @else { span.bad { "fails" } } }
                            td { (claim.claim) }
                        }
                    }
                }
                h2 { "Machine" }
                table { @for (name, value) in &report.machine { tr { td { (name) } td { (value) } } } }
            }
        }
    }
}

fn fact(value: &str, what: &str) -> Markup {
    html! { div { b { (value) } span.dim { (what) } } }
}

fn ms(value: f64) -> String {
    format!("{value:.1} ms")
}

fn energy(report: &Report) -> String {
    let carbon = report.gco2e.map(|grams| format!(" ({grams:.2} gCO2e)")).unwrap_or_default();
    format!("{:.0} J{carbon}", report.energy_j)
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 44.0;

fn accuracy(days: &[DayReport]) -> Markup {
    type Right = fn(&DayReport) -> Option<usize>;
    let lines: [(Right, &str, &str); 3] = [
        (|day| day.right_frozen, "var(--c)", "2 4"),
        (|day| day.right_sgd, "var(--b)", "7 4"),
        (|day| day.right, "var(--a)", ""),
    ];
    let share = |day: &DayReport, right: usize| right as f64 / day.mails.max(1) as f64;
    let lowest = days
        .iter()
        .flat_map(|day| lines.iter().filter_map(|(of, ..)| of(day)).map(|right| share(day, right)))
        .fold(0.9_f64, f64::min);
    let floor = (lowest * 10.0).floor() / 10.0;
    let x = |i: usize| LEFT + (WIDTH - LEFT - 8.0) * i as f64 / (days.len().max(2) - 1) as f64;
    let y = |v: f64| 8.0 + (HEIGHT - 36.0) * (1.0 - v) / (1.0 - floor).max(0.1);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="accuracy by day" {
            @for tick in 0..=5 {
                @let v = floor + (1.0 - floor) * f64::from(tick) / 5.0;
                line x1=(LEFT) x2=(WIDTH) y1=(y(v)) y2=(y(v)) stroke="var(--line)" {}
                text x="0" y=(y(v) + 4.0) { (format!("{:.0} %", v * 100.0)) }
            }
            @for (i, day) in days.iter().enumerate().filter(|(_, day)| day.decision == "blocked") {
                line x1=(x(i)) x2=(x(i)) y1="8" y2=(HEIGHT - 28.0) stroke="var(--bad)" stroke-width="2" {}
                text x=(x(i) + 6.0) y=(HEIGHT / 2.0) { @if day.poisoned { "poisoned, blocked" } @else { "blocked" } }
            }
            @for (of, colour, dash) in lines {
                path d=(path(days.iter().enumerate().filter_map(|(i, day)| Some((x(i), y(share(day, of(day)?)))))))
                    fill="none" stroke=(colour) stroke-width="2" stroke-dasharray=(dash) {}
            }
            @for i in (0..days.len()).step_by((days.len() / 8).max(1)) {
                text x=((x(i) - 20.0).min(WIDTH - 44.0)) y=(HEIGHT - 8.0) { (days[i].date.format("%d %b")) }
            }
        }
    }
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut d = String::new();
    for (i, (x, y)) in points.enumerate() {
        let _ = write!(d, "{}{x:.1} {y:.1} ", if i == 0 { 'M' } else { 'L' });
    }
    d
}

fn decisions(days: &[DayReport]) -> Markup {
    html! {
        table {
            tr { th { "day" } th { "mails" } th { "accuracy" } th { "decision" } th { "generation" } th { "fresh after" } th { "why" } }
            @for day in days {
                tr {
                    td { (day.date) }
                    td { (day.mails) }
                    td { @if let Some(right) = day.right { (format!("{:.1} %", right as f64 * 100.0 / day.mails.max(1) as f64)) } }
                    td { span.bad[day.decision == "blocked"].good[day.decision != "blocked"] { (day.decision) } @if day.poisoned { " (labels flipped on purpose)" } }
                    td { code { (crate::output::short(&day.generation)) } }
                    td { @if let Some(s) = day.freshness_s { (format!("{s:.1} s")) } }
                    td { @for reason in day.reasons.iter().take(2) { div { (reason) } } }
                }
            }
        }
    }
}

/// Request latency second by second, on a logarithmic scale, with a mark for each swap.
fn swaps(report: &Report) -> Markup {
    let points = &report.latency_timeline;
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return html! { p { "no requests" } };
    };
    let span = (last.at_ms - first.at_ms).max(1) as f64;
    let x = |at: i64| LEFT + (WIDTH - LEFT - 8.0) * (at - first.at_ms) as f64 / span;
    let top = points.iter().map(|point| point.max).fold(10.0, f64::max).log10().ceil();
    let y = |ms: f64| 8.0 + (HEIGHT - 36.0) * (1.0 - ms.max(1.0).log10() / top);
    let bottom = HEIGHT - 28.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="request latency over time, with swaps" {
            @for decade in 0..=(top as i32) {
                @let ms = 10_f64.powi(decade);
                line x1=(LEFT) x2=(WIDTH) y1=(y(ms)) y2=(y(ms)) stroke="var(--line)" {}
                text x="0" y=(y(ms) + 4.0) { (format!("{ms:.0} ms")) }
            }
            @for swap in report.swap_timeline.iter().filter(|swap| swap.at_ms >= first.at_ms && swap.at_ms <= last.at_ms) {
                line x1=(x(swap.at_ms)) x2=(x(swap.at_ms)) y1="8" y2=(bottom) stroke="var(--b)" stroke-dasharray="2 3" {
                    title { "swap to " (crate::output::short(&swap.generation)) ", prepared in " (ms(swap.prepare_ms)) }
                }
            }
            path d=(path(points.iter().map(|point| (x(point.at_ms), y(point.max)))))
                fill="none" stroke="var(--c)" {}
            path d=(path(points.iter().map(|point| (x(point.at_ms), y(point.p50)))))
                fill="none" stroke="var(--a)" stroke-width="2" {}
            text x=(LEFT) y=(HEIGHT - 8.0) { "median (strong) and worst (thin) of each second; vertical marks: swaps" }
        }
    }
}

fn energy_by_day(days: &[DayReport]) -> Markup {
    let top = days.iter().map(|day| day.energy_j).fold(1.0, f64::max);
    let slot = (WIDTH - LEFT - 8.0) / days.len().max(1) as f64;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} 130")) role="img" aria-label="energy by day" {
            text x="0" y="14" { (format!("{top:.0} J")) }
            line x1=(LEFT) x2=(WIDTH) y1="100" y2="100" stroke="var(--line)" {}
            @for (i, day) in days.iter().enumerate() {
                @let height = 90.0 * day.energy_j / top;
                rect x=(LEFT + slot * i as f64) y=(100.0 - height) width=(slot * 0.7) height=(height) fill="var(--a)" {
                    title { (day.date) ": " (format!("{:.1} J", day.energy_j)) }
                }
            }
            @for i in (0..days.len()).step_by((days.len() / 8).max(1)) {
                text x=(LEFT + slot * i as f64) y="120" { (days[i].date.format("%d %b")) }
            }
        }
    }
}
