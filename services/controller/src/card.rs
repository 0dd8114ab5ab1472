//! Model cards (Mitchell et al., Model Cards for Model Reporting, FAT* 2019, arXiv 1810.03993), made
//! of what the ledger, the manifest and the verdict say. Nothing is written by hand, so that no card
//! can promise what was not measured.
use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
};

use chrono::{DateTime, Utc};
use tidegate_contracts::{
    CheckResult, CheckState, Joules, Layer, Manifest, SliceKind, SliceResult, Verdict,
};
use tidegate_ledger::{GenerationRecord, State};
use tidegate_telemetry::energy::carbon;

use crate::{
    account::{Account, answers_numbers},
    pages::{amount, slice_value, slices_shown},
};

/// Ancestors and classes that are named.
const ANCESTORS: usize = 12;
const CLASSES: usize = 50;

/// All that a card is made of.
pub(crate) struct Card<'a> {
    pub(crate) state: &'a State,
    pub(crate) one: &'a GenerationRecord,
    /// `None`: it cannot be read.
    pub(crate) manifest: Option<&'a Manifest>,
    /// `None`: it has not been judged.
    pub(crate) verdict: Option<&'a Verdict>,
}

impl Card<'_> {
    pub(crate) fn markdown(&self) -> String {
        let sections = [
            ("Model details", self.details()),
            ("Intended use", self.use_of()),
            ("Factors", self.factors()),
            ("Metrics", self.metrics()),
            ("Evaluation data", self.evaluation_data()),
            ("Training data", self.training_data()),
            ("Quantitative analyses", self.analyses()),
            ("Ethical considerations", self.ethics()),
            ("Energy and carbon", self.energy()),
            ("Caveats and recommendations", self.caveats()),
        ];
        let mut card = format!("# Model card: generation `{}`\n", self.one.id.short());
        if let Some(verdict) = self.verdict {
            let account = Account::of(verdict);
            let short = [account.judged, account.conclusion].into_iter().chain(account.because);
            card.push('\n');
            card.push_str(&escaped(&short.collect::<Vec<_>>().join(" ")));
            card.push('\n');
        }
        for (title, body) in sections {
            card.push_str(&format!("\n## {title}\n\n{}\n", body.0.trim_end()));
        }
        card
    }

    fn details(&self) -> Body {
        let (one, mut body) = (self.one, Body::default());
        body.item("Generation", code(one.id));
        body.item("Made by", format!("a {} ({})", plain(one.kind.as_str()), code(&one.job)));
        body.item("Stands as", plain(one.state.as_str()));
        body.item("Started from", self.lineage());
        if let Some(manifest) = self.manifest {
            body.item("Trained", time(manifest.created));
            let version = escaped(&manifest.code_version);
            body.item("Code and seed", format!("tidegate {version}, {}", manifest.seed));
            body.item("Answers", self.answers(manifest));
        } else {
            body.line("Its manifest cannot be read from the artifact store.");
        }
        body.item("Registered", time(one.registered_at));
        body.item_if("Promoted", one.promoted_at.map(time));
        body.item_if("First served", one.swapped_at.map(time));
        for given in &one.approvals {
            let who = escaped(given.approver.as_str());
            let mut said = format!("{who}, {}: {}", time(given.given_at), escaped(&given.reason));
            if given.own_key {
                said.push_str(", signed with their own key");
            }
            if !given.waives.is_empty() {
                said.push_str(&format!(", waives {}", escaped(&given.waives.join(", "))));
            }
            if given.withdrawn {
                said.push_str(", withdrawn");
            }
            body.item("Approval", said);
        }
        body
    }

    fn lineage(&self) -> String {
        let parent = |one: &GenerationRecord| one.parent.and_then(|id| self.state.generation(&id));
        let Some(id) = self.one.parent else { return "nothing".to_owned() };
        let known: Vec<String> = std::iter::successors(parent(self.one), |one| parent(one))
            .take(ANCESTORS + 1)
            .map(|one| code(one.id.short()))
            .collect();
        if known.is_empty() {
            return format!("{} of another model", code(id.short()));
        }
        let more = if known.len() > ANCESTORS { ", which has ancestors of its own" } else { "" };
        let shown = &known[..known.len().min(ANCESTORS)];
        format!("{}{more}", shown.join(", which started from "))
    }

    fn answers(&self, manifest: &Manifest) -> String {
        if self.verdict.is_some_and(answers_numbers) {
            return "numbers, each with a 90 % interval".to_owned();
        }
        let named = manifest.labels.iter().take(CLASSES).map(|label| escaped(label.as_str()));
        let count = manifest.labels.len();
        let more = if count > CLASSES { ", and others" } else { "" };
        format!("{count} classes: {}{more}", named.collect::<Vec<_>>().join(", "))
    }

    fn use_of(&self) -> Body {
        let mut body = Body::default();
        let about = self.verdict.map(|verdict| verdict.suite.about.trim());
        if let Some(about) = about.filter(|about| !about.is_empty()) {
            body.item("Judged for", escaped(about));
        }
        body.item_if("Domains judged on", self.names(SliceKind::Domain));
        let job = self.state.job(&self.one.job);
        let learnt = job.and_then(|job| job.domain.as_ref());
        body.item_if("Domain learnt by this job", learnt.map(|domain| escaped(domain.as_str())));
        body.line(
            "Events like those it was judged on, answered by the gateway. What it says of others \
             has not been measured.",
        );
        body
    }

    /// Names of slices of a kind, with their sizes.
    fn names(&self, kind: SliceKind) -> Option<String> {
        let of_kind = self.verdict?.slices.iter().filter(|one| one.kind == kind);
        let name = |one: &SliceResult| {
            let value = one.slice.split_once('=').map_or(&*one.slice, |(_, value)| value);
            format!("{} ({})", escaped(value), one.n)
        };
        let names: Vec<String> = of_kind.map(name).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn factors(&self) -> Body {
        let mut body = Body::default();
        let mut attributes = BTreeMap::<&str, Vec<String>>::new();
        for one in self.verdict.map_or(&[][..], |verdict| &verdict.slices) {
            if let (SliceKind::Group, Some((name, value))) = (one.kind, one.slice.split_once('=')) {
                let named = format!("{} ({})", escaped(value), one.n);
                attributes.entry(name).or_default().push(named);
            }
        }
        for (name, values) in &attributes {
            body.item(&escaped(name), values.join(", "));
        }
        body.item_if("Classes", self.names(SliceKind::Class));
        if body.0.is_empty() {
            body.line("None: events had no group attributes, or it has not been judged.");
        } else {
            body.line("In brackets: held-out examples of each, as far as the verdict shows them.");
        }
        body
    }

    fn metrics(&self) -> Body {
        let mut body = Body::default();
        let Some(verdict) = self.verdict.filter(|verdict| !verdict.checks.is_empty()) else {
            body.line("Nothing was measured.");
            return body;
        };
        body.line(
            "Each with the interval that its check is decided on: of the difference or ratio where \
             the rule has one, else of the candidate's value. L and U are its ends.",
        );
        body.row(&[
            "Check", "Metric", "On", "Champion", "This one", "Interval", "n", "Rule", "Found",
        ]);
        body.row(&["---"; 9]);
        for check in &verdict.checks {
            let value =
                |value: Option<f64>| value.map_or("–".to_owned(), |v| amount(&check.metric, v));
            let interval = check.interval.map_or("–".to_owned(), |(low, high)| {
                format!("{low:.4} to {high:.4} ({} %)", percent(check.level))
            });
            body.row(&[
                &escaped(&check.id),
                &escaped(&check.metric),
                &escaped(&check.slice),
                &value(check.baseline),
                &value(check.candidate),
                &interval,
                &check.n.to_string(),
                &escaped(&check.rule),
                &plain(check.state.as_str()),
            ]);
        }
        body
    }

    fn evaluation_data(&self) -> Body {
        let mut body = Body::default();
        let Some(Verdict { suite, data, .. }) = self.verdict else {
            body.line("It has not been judged.");
            return body;
        };
        body.item("Held-out examples", format!("{} earlier, {} fresh", data.earlier, data.fresh));
        body.item("Of them also trained on", data.leaked);
        body.item("Read from", escaped(&data.window.to_string()));
        body.item("Hash over all", code(data.digest));
        let name = escaped(&format!("{} {}", suite.name, suite.version));
        body.item("Suite", format!("{name}, {}", code(suite.digest)));
        body
    }

    fn training_data(&self) -> Body {
        let (one, mut body) = (self.one, Body::default());
        let records = one.window.len();
        body.item("Window", format!("{} ({records} records)", escaped(&one.window.to_string())));
        let metrics = self.manifest.map(|manifest| &manifest.metrics);
        let metric = |name: &str| metrics.and_then(|all| all.get(name).copied());
        for (title, name) in [
            ("Examples learnt from in this window", "window_examples"),
            ("Examples replayed from before", "replay_examples"),
            ("Examples gone through in all", "examples"),
        ] {
            body.item_if(title, metric(name).map(|count| format!("{count:.0}")));
        }
        let newest = self.manifest.and_then(|manifest| manifest.newest_label);
        body.item_if("Newest label", newest.map(time));
        if one.quarantined {
            body.line("This window was set aside: no later job learns from it.");
        }
        if one.parent.is_some() {
            body.line("What was known before came with the generation that it started from.");
        }
        body
    }

    fn analyses(&self) -> Body {
        let mut body = Body::default();
        let slices = self.verdict.map_or_else(Vec::new, slices_shown);
        let Some(first) = slices.first() else {
            body.line("None.");
            return body;
        };
        let level = percent(first.level);
        body.line(&match (first.metric.as_str(), first.champion) {
            ("mae", Some(_)) => format!(
                "Mean absolute error, and the {level} % interval of its difference to the champion's."
            ),
            ("mae", None) => format!("Mean absolute error with its {level} % interval."),
            (_, Some(_)) => format!(
                "Accuracy, and the {level} % interval of its difference to the champion's."
            ),
            (_, None) => format!("Accuracy with its {level} % interval."),
        });
        body.row(&["Slice", "n", "Champion", "This one", "Interval"]);
        body.row(&["---"; 5]);
        for one in slices {
            let value = |value: f64| slice_value(&one.metric, value);
            let ends = one.interval.map(|(low, high)| format!("{} to {}", value(low), value(high)));
            body.row(&[
                &escaped(&one.slice),
                &one.n.to_string(),
                &one.champion.map_or("–".to_owned(), value),
                &value(one.candidate),
                &ends.unwrap_or_else(|| "–".to_owned()),
            ]);
        }
        body
    }

    fn ethics(&self) -> Body {
        let mut body = Body::default();
        let checks = self.verdict.map_or(&[][..], |verdict| &verdict.checks);
        for check in checks.iter().filter(|check| check.layer == Layer::Fairness) {
            let found = format!("{}: {}", plain(check.state.as_str()), escaped(&check.reason));
            body.item(&escaped(&check.id), found);
        }
        if body.0.is_empty() {
            body.line("How differently it serves groups of people has not been measured.");
        }
        body.line("A decision about a person should not rest on its answers alone.");
        body
    }

    fn energy(&self) -> Body {
        let mut body = Body::default();
        let unknown = || "unknown".to_owned();
        let metrics = self.manifest.map(|manifest| &manifest.metrics);
        let metric = |name: &str| metrics.and_then(|all| all.get(name)).filter(|&&j| j > 0.0);
        let method = metrics
            .and_then(|all| all.keys().find_map(|name| name.strip_prefix("energy_method.")))
            .filter(|method| *method != "none");
        let region = self.verdict.map_or("WORLD", |verdict| &verdict.energy.region);
        let figure = |joules: Joules, method: &str, region: &str| {
            let grams = carbon(joules, region)
                .map_or_else(unknown, |grams| format!("{:.3} gCO2e", grams.0));
            format!("{:.0} J by `{method}`, {grams} on the grid of {}", joules.0, escaped(region))
        };
        let trained = metric("energy_joules").zip(method).map(|(joules, method)| {
            // The architecture's search is a part of what a cold start took.
            let search = metric("search.joules").copied().unwrap_or_default();
            figure(Joules(joules + search), method, region)
        });
        body.item("Training", trained.unwrap_or_else(unknown));
        let judged = self.verdict.map(|verdict| {
            let energy = &verdict.energy;
            energy.joules.map_or_else(unknown, |joules| figure(joules, &energy.method, region))
        });
        body.item("Evaluation", judged.unwrap_or_else(|| "none was made".to_owned()));
        body.line("Figures of different methods are not comparable.");
        body
    }

    fn caveats(&self) -> Body {
        let mut body = Body::default();
        if !self.one.overridden.is_empty() {
            let waived = escaped(&self.one.overridden.join(", "));
            body.item("Promoted by override", format!("it was blocked; waived: {waived}"));
        }
        for stage in &self.one.stages {
            let said = stage.ended.as_ref().map_or_else(
                || "runs, or was given up".to_owned(),
                |end| format!("{}: {}", end.outcome.as_str(), escaped(&end.reason)),
            );
            body.item(&format!("Tried in {}", stage.stage), said);
        }
        body.item_if("Harm found while it served", self.one.harm.as_deref().map(escaped));
        let Some(verdict) = self.verdict else {
            body.line("It has not been judged: nothing is known of its quality.");
            return body;
        };
        let mut say = |state: CheckState, title: &str| {
            let found = verdict.checks.iter().filter(|check| check.state == state);
            found.for_each(|check: &CheckResult| {
                body.item(title, format!("{}: {}", escaped(&check.id), escaped(&check.reason)));
            });
        };
        say(CheckState::Fail, "Failed");
        say(CheckState::Error, "Could not be measured");
        say(CheckState::Inconclusive, "Undecided");
        say(CheckState::Insufficient, "Too few examples");
        say(CheckState::NotApplicable, "Not asked");
        let without = |layer: &&Layer| verdict.checks.iter().all(|check| check.layer != **layer);
        let unasked: Vec<&str> =
            Layer::ALL.iter().filter(without).map(|layer| layer.as_str()).collect();
        if !unasked.is_empty() {
            body.item("Without any check in this suite", unasked.join(", "));
        }
        let left_out = verdict.environment.iter().filter(|(name, _)| name.starts_with("sample."));
        for (name, value) in left_out {
            body.item(&escaped(name), escaped(value));
        }
        if verdict.checks.is_empty() {
            verdict.reasons.iter().for_each(|reason| body.item("Why", escaped(reason)));
        }
        body
    }
}

/// Markdown of a section.
#[derive(Default)]
struct Body(String);

impl Body {
    fn item(&mut self, term: &str, value: impl Display) {
        writeln!(self.0, "- {term}: {value}").expect("a string takes all");
    }

    fn item_if(&mut self, term: &str, value: Option<String>) {
        if let Some(value) = value {
            self.item(term, value);
        }
    }

    fn line(&mut self, text: &str) {
        // A paragraph of its own, also beside lists and tables.
        let gap = if self.0.is_empty() || self.0.ends_with("\n\n") { "" } else { "\n" };
        write!(self.0, "{gap}{text}\n\n").expect("a string takes all");
    }

    fn row(&mut self, cells: &[&str]) {
        writeln!(self.0, "| {} |", cells.join(" | ")).expect("a string takes all");
    }
}

fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// 0.9 as 90, 0.999 as 99.9.
fn percent(share: f64) -> f64 {
    (share * 1e4).round() / 1e2
}

fn plain(name: &str) -> String {
    name.replace('_', " ")
}

/// Only of what is a hash or a name of ours: a code span has no escapes.
fn code(text: impl Display) -> String {
    format!("`{text}`")
}

/// Text that others wrote, as text and nothing else: no markup, no HTML, no link, no new line.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 8);
    for (at, letter) in text.char_indices() {
        let rest = &text[at..];
        let mut before = text[..at].bytes().rev().take(3);
        let www = at >= 3 && before.all(|byte| byte.eq_ignore_ascii_case(&b'w'));
        match letter {
            letter if letter.is_control() || letter.is_whitespace() => safe.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' | '!' | '$'
            | '@' => safe.extend(['\\', letter]),
            // What GitHub would make a link of by itself.
            ':' if rest.starts_with("://") => safe.push_str("\\:"),
            '.' if www => safe.push_str("\\."),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_write_is_text_and_no_markup() {
        for (raw, safe) in [
            ("plain, 1.5 % (a)", "plain, 1.5 % (a)"),
            ("a\n# b\t|c|", "a \\# b \\|c\\|"),
            ("<script>&lt;", "\\<script\\>\\&lt;"),
            ("![x](http://evil) *b* _i_ `c`", "\\!\\[x\\](http\\://evil) \\*b\\* \\_i\\_ \\`c\\`"),
            ("www.evil.example @me", "www\\.evil.example \\@me"),
            ("\u{202e}a\\", "\u{202e}a\\\\"),
        ] {
            assert_eq!(escaped(raw), safe, "{raw}");
        }
    }
}
