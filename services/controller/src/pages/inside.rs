//! What a job showed of its inside: gradients, weights and experts over its steps, in pictures.
use maud::{DOCTYPE, Markup, html};
use tidegate_contracts::Manifest;
use tidegate_learning::{Diagnosis, Experts, History, Layer};

use super::{
    STYLE, chart,
    words::{amount, plain},
};

/// Of the manifest's metrics, those that say what the job cost and reached.
const FIGURES: [&str; 8] = [
    "loss",
    "steps",
    "seconds",
    "tokens_per_s",
    "mfu",
    "energy_joules",
    "joules_per_token",
    "trained_share",
];

/// The report of a job as a page of its own: for jobs that no dashboard knows.
pub fn job_report(manifest: &Manifest, diagnosis: &Diagnosis) -> String {
    let title = format!("Job {}", manifest.job);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · tidegate" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (plain(manifest.kind.as_str())) " " code { (manifest.id().short()) } }
                    section { (view(manifest, diagnosis)) }
                    section {
                        h2 { "All figures" }
                        dl.pairs {
                            @for (name, value) in &manifest.metrics {
                                dt { (plain(name)) } dd { (amount(name, *value)) }
                            }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

/// Its part of a page.
pub(super) fn view(manifest: &Manifest, diagnosis: &Diagnosis) -> Markup {
    let figures = FIGURES.map(|name| manifest.metrics.get(name).map(|value| (name, *value)));
    html! {
        dl.facts {
            @for (name, value) in figures.into_iter().flatten() {
                div.fact { dt { (plain(name)) } dd.value { (amount(name, value)) } }
            }
        }
        @if !diagnosis.layers.is_empty() {
            h3 { "Layers" }
            p.dim {
                "Time runs to the right, size upwards in powers of two; darker is more often. An \
                 update of about a thousandth of the weights is healthy."
            }
            (layers(diagnosis))
        }
        @if !diagnosis.experts.is_empty() {
            h3 { "Experts" }
            p.dim { "A bar for each expert: its share of the work at the end; the line is the even share." }
            (experts(&diagnosis.experts))
        }
        @if !diagnosis.loss_scale.is_empty() {
            h3 { "Loss scale" }
            p { (scales(diagnosis)) }
        }
        @if diagnosis.drops.dropped > 0 {
            h3 { "Dropped" }
            dl.pairs {
                dt { "all" } dd { (share(diagnosis.drops.rate())) }
                @for (group, drops) in &diagnosis.group_drops {
                    dt { (group) } dd { (share(drops.rate())) }
                }
            }
        }
    }
}

fn layers(diagnosis: &Diagnosis) -> Markup {
    let cell = |what: &str, layer: &str, value: f64, history: &History| {
        html! {
            td {
                span.number { (amount("", value)) }
                @if let Some(picture) = chart::heat(&format!("{what} of {layer}"), history) { (picture) }
            }
        }
    };
    html! {
        table.inside {
            thead { tr { th { "" } th { "gradient norm" } th { "weight norm" } th { "update / weights" } } }
            tbody {
                @for (name, layer) in &diagnosis.layers {
                    @let Layer { gradient_norm, weight_norm, update_ratio, .. } = *layer;
                    tr {
                        th scope="row" { code { (name) } }
                        (cell("gradient norm", name, gradient_norm, &layer.gradient_history))
                        (cell("weight norm", name, weight_norm, &layer.weight_history))
                        (cell("update ratio", name, update_ratio, &layer.update_history))
                    }
                }
            }
        }
    }
}

fn experts(layers: &[Experts]) -> Markup {
    html! {
        table.inside {
            thead { tr { th { "layer" } th { "load" } th { "load over time" } th { "router" } } }
            tbody {
                @for (at, layer) in layers.iter().enumerate() {
                    tr {
                        th scope="row" { (at) }
                        @let now = chart::bars(&format!("load of the experts of layer {at}"), &layer.load);
                        td { @if let Some(picture) = now { (picture) } }
                        @let name = format!("load in layer {at}, as a multiple of the even share");
                        td { @if let Some(picture) = chart::heat(&name, &layer.history) { (picture) } }
                        td {
                            "entropy " span.number { (share(layer.entropy)) }
                            @if layer.dead > 0 { br; span.refusal { (layer.dead) " dead" } }
                            @if layer.dropped > 0.0 { br; "dropped " (share(layer.dropped)) }
                        }
                    }
                }
            }
        }
    }
}

fn scales(diagnosis: &Diagnosis) -> String {
    let scales: Vec<String> = diagnosis
        .loss_scale
        .iter()
        .map(|(step, scale)| format!("{scale} from step {step}"))
        .collect();
    format!("{}; {} steps were left out", scales.join(", "), diagnosis.skipped)
}

fn share(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
