//! Suites: versioned lists of checks, written in YAML.
use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use tidegate_contracts::{ArtifactHash, Class, Layer, NO_LEAK, Severity, SuiteRef};
use tidegate_model::Attack;

use crate::{
    Line, Metric, Spending,
    data::{DataDraft, DataEntry, MAX_SETS, Role},
    metric::Family,
    perturb::Perturbation,
    under::{Under, UnderDocument},
};

/// The largest suite that is read, in bytes.
pub const MAX_SUITE_BYTES: usize = 256 << 10;
const MAX_CHECKS: usize = 200;

/// Resamples that must lie outside of an interval for its ends to be known.
const OUTSIDE: f64 = 9.5;

/// Confidence levels that an interval may have.
const LEVELS: std::ops::RangeInclusive<f64> = 0.5..=0.9999;

/// The checks, beside [`NO_LEAK`], that no suite can leave out: they look for what is the same as what was
/// trained on, and nearly so.
pub(crate) const COPIES: &str = "copies";
pub(crate) const NEAR_COPIES: &str = "near-copies";

/// What is wrong with a suite.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// Over [`MAX_SUITE_BYTES`].
    #[error("the suite has {0} bytes: at most {MAX_SUITE_BYTES} are read")]
    TooLarge(usize),
    /// Not YAML, a key that is unknown or missing, or a value of the wrong type.
    #[error("the suite cannot be read: {0}")]
    Yaml(String),
    /// A field of the suite itself.
    #[error("suite field `{field}`: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// An entry of `data` that means nothing.
    #[error("data `{id}`: {reason}")]
    Data {
        /// The entry's id.
        id: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A check that means nothing.
    #[error("check `{id}`: {reason}")]
    Check {
        /// The check's id.
        id: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
}

/// Bounds on what an evaluation may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Examples that are perturbed: the newest, each class by its share.
    pub perturbed_rows: usize,
    /// Examples that are attacked, of the same kind.
    pub attack_rows: usize,
    /// Milliseconds of all attacks and their controls, both models together. What is not finished is
    /// inconclusive.
    pub attack_ms: u64,
    /// Bootstrap resamples.
    pub bootstrap: usize,
    /// Permutations of group labels.
    pub permutations: usize,
    /// Milliseconds of predictions one at a time, both models together.
    pub latency_ms: u64,
    /// Milliseconds of predictions in batches, both models together.
    pub throughput_ms: u64,
    /// Milliseconds of predictions that arrive at random, both models together; only spent where a
    /// check asks for it.
    pub server_ms: u64,
    /// How many of them arrive each second.
    pub server_qps: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            perturbed_rows: 150,
            attack_rows: 64,
            attack_ms: 120_000,
            bootstrap: 1000,
            permutations: 499,
            latency_ms: 400,
            throughput_ms: 400,
            server_ms: 10_000,
            server_qps: 100,
        }
    }
}

/// A tolerated loss that is wider while there are few examples.
///
/// The noise of a difference shrinks with the square root of `n`. Below `from_n` the margin grows
/// at that rate, so that an equal candidate passes about as often with few examples as with many;
/// it never exceeds `at_most`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Margin {
    /// The loss that is tolerated from `from_n` examples on.
    pub value: f64,
    /// Below, the margin widens; 0: it never does.
    #[serde(default)]
    pub from_n: u64,
    /// The widest margin.
    #[serde(default)]
    pub at_most: Option<f64>,
}

impl Margin {
    /// The loss that is tolerated on `n` examples.
    #[must_use]
    pub fn at(&self, n: u64) -> f64 {
        if n >= self.from_n || n == 0 {
            return if n == 0 { self.at_most.unwrap_or(self.value) } else { self.value };
        }
        let wide = self.value * (self.from_n as f64 / n as f64).sqrt();
        wide.min(self.at_most.unwrap_or(f64::INFINITY))
    }
}

/// What a value or a difference is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At least this.
    Floor(f64),
    /// At most this.
    Ceil(f64),
    /// At least this more than one over the number of classes.
    AboveChance(f64),
    /// At most this much worse than the baseline.
    Margin(Margin),
    /// At most this many times worse than the baseline.
    Ratio(f64),
}

impl Bound {
    /// Whether it needs a baseline.
    #[must_use]
    pub const fn is_relative(&self) -> bool {
        matches!(self, Self::Margin(_) | Self::Ratio(_))
    }
}

/// Which model a candidate is held against.
///
/// Each update may lose a little that no test can see; a line of them may lose a lot. The anchor stays
/// where it is while champions come and go, so what all of them lose together is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The one that serves.
    #[default]
    Champion,
    /// The one that the champion's line of hot updates began with.
    Anchor,
}

impl Baseline {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Champion => "champion",
            Self::Anchor => "anchor",
        }
    }
}

/// Which examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// All held-out examples.
    Overall,
    /// Those of windows before the candidate's.
    Earlier,
    /// Those of the candidate's window.
    Fresh,
    /// Those with a value of a group attribute.
    Group(String, String),
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overall => f.write_str("overall"),
            Self::Earlier => f.write_str("earlier"),
            Self::Fresh => f.write_str("fresh"),
            Self::Group(name, value) => write!(f, "{name}={value}"),
        }
    }
}

impl Slice {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "overall" => Some(Self::Overall),
            "earlier" => Some(Self::Earlier),
            "fresh" => Some(Self::Fresh),
            _ => {
                let (name, value) = text.split_once('=')?;
                let both = !name.is_empty() && !value.is_empty();
                both.then(|| Self::Group(name.to_owned(), value.to_owned()))
            }
        }
    }

    /// For people.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Overall => "on all held-out examples".to_owned(),
            Self::Earlier => "on earlier windows".to_owned(),
            Self::Fresh => "on the new window".to_owned(),
            Self::Group(name, value) => format!("where {name} is {value}"),
        }
    }
}

/// One check: a metric, where it is measured, what it is held against and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Unique in the suite.
    pub id: String,
    /// Where it is shown.
    pub layer: Layer,
    /// What is measured.
    pub metric: Metric,
    /// The frozen data that is asked; held-out examples of the stream when absent.
    pub data: Option<String>,
    /// On which examples of it.
    pub slice: Slice,
    /// The group attribute that a gap is measured over.
    pub over: Option<String>,
    /// What the inputs go through.
    pub under: Option<Under>,
    /// What it is held against.
    pub bound: Bound,
    /// Whose value that is, where the bound is relative.
    pub versus: Baseline,
    level: Option<f64>,
    /// The class that it is of, where it is of one.
    pub class: Option<Class>,
    /// Of shares: an interval that covers as often as its level says whatever the share is, and not
    /// on average only (Clopper and Pearson).
    pub exact: bool,
    /// How the error is spent over a line of candidates.
    pub spend: Option<Spend>,
    /// What a failure does.
    pub severity: Severity,
    /// Fewer examples are not enough. For a gap: in each group. For drift: on each side.
    pub min_n: u64,
    /// For [`Metric::EqualizedOdds`] and [`Metric::EqualOpportunity`]: fewer positives or negatives in
    /// a group are not enough. For [`Metric::LabelAgreementDrop`]: fewer earlier examples of a class
    /// are not enough. For metrics of one class: fewer examples of it are not enough.
    pub min_class: u64,
}

/// How a check against the anchor, which every candidate of a line is asked, spends its error over
/// that line: all looks together err as often as its level says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spend {
    /// More at the end, or evenly.
    pub function: Spending,
    /// For how many candidates it must last.
    pub looks: u64,
}

impl Check {
    /// The confidence level of its interval: its own, or the suite's; where the error is spent over a
    /// line, what is left to a candidate at this place of it.
    #[must_use]
    pub fn level(&self, suite: &Suite, line: Line) -> f64 {
        let level = self.level.unwrap_or(suite.level);
        match self.spend {
            None => level,
            Some(Spend { function, looks }) => {
                let share = function.at_look(1.0 - level, line.judged + 1, looks);
                // Beyond this nothing is told apart from certainty.
                (1.0 - share).min(1.0 - 1e-12)
            }
        }
    }

    /// `format`, `overall`, `earlier, characters 0.05`, `class spam, fresh`: where it is measured, and
    /// under what.
    pub(crate) fn place(&self) -> String {
        let mut place = match &self.over {
            Some(over) => over.clone(),
            None if self.metric.has_slices() => self.slice.to_string(),
            None => "all".to_owned(),
        };
        if let Some(class) = &self.class {
            place = format!("class {class}, {place}");
        }
        if let Some(data) = &self.data {
            place = format!("{data}: {place}");
        }
        match self.under {
            Some(under) => format!("{place}, {under}"),
            None => place,
        }
    }

    /// Whether its interval is found by resampling.
    fn is_resampled(&self) -> bool {
        match self.metric {
            metric if metric.is_right_or_wrong() => false,
            Metric::Asr
            | Metric::Precision
            | Metric::Recall
            | Metric::BalancedAccuracy
            | Metric::AccuracyOverMajority => self.bound.is_relative(),
            metric => matches!(metric.family(), Family::Quality | Family::Gap | Family::Drift),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    name: String,
    version: String,
    #[serde(default)]
    about: String,
    #[serde(default = "default_level")]
    level: f64,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    data: Vec<DataDraft>,
    checks: Vec<CheckDocument>,
}

const fn default_level() -> f64 {
    0.90
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckDocument {
    id: String,
    layer: Layer,
    metric: Metric,
    data: Option<String>,
    slice: Option<String>,
    over: Option<String>,
    under: Option<UnderDocument>,
    floor: Option<f64>,
    ceil: Option<f64>,
    above_chance: Option<f64>,
    versus: Option<Baseline>,
    margin: Option<Margin>,
    ratio: Option<f64>,
    level: Option<f64>,
    class: Option<Class>,
    #[serde(default)]
    exact: bool,
    spend: Option<Spend>,
    severity: Severity,
    min_n: Option<u64>,
    min_class: Option<u64>,
}

/// A validated suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    reference: SuiteRef,
    level: f64,
    limits: Limits,
    data: Vec<DataEntry>,
    checks: Vec<Check>,
}

impl Suite {
    /// Reads a suite. Unknown keys, impossible bounds and checks that could never be judged are
    /// errors.
    ///
    /// # Errors
    /// [`SuiteError`] names the check and says what would be right.
    pub fn parse(yaml: &str) -> Result<Self, SuiteError> {
        let document = Document::read(yaml)?;
        let field = |field, reason: String| Err(SuiteError::Field { field, reason });
        if document.format != 1 {
            return field("format", format!("is {}: this build reads 1", document.format));
        }
        if document.name.is_empty() || document.version.is_empty() {
            return field("name", "name and version must not be empty".to_owned());
        }
        if !LEVELS.contains(&document.level) {
            return field("level", format!("is {}: use 0.5 to 0.9999", document.level));
        }
        if document.checks.is_empty() || document.checks.len() > MAX_CHECKS {
            let count = document.checks.len();
            return field("checks", format!("has {count} checks: use 1 to {MAX_CHECKS}"));
        }
        check_limits(&document.limits)?;
        check_data(&document.data)?;
        let data =
            document.data.into_iter().map(DataDraft::pinned).collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        let mut checks = Vec::new();
        for raw in document.checks {
            if !seen.insert(raw.id.clone()) {
                return Err(wrong(&raw.id, "this id is there twice"));
            }
            let check = raw.validate(&data)?;
            // Of the resamples so many lie outside of the interval, both sides together.
            let level = check.level.unwrap_or(document.level);
            let outside = document.limits.bootstrap as f64 * (1.0 - level);
            if check.is_resampled() && outside < OUTSIDE {
                let need = (OUTSIDE / (1.0 - level)).ceil();
                let reason =
                    format!("level {level} of this metric needs limits.bootstrap >= {need}");
                return Err(wrong(&check.id, reason));
            }
            checks.push(check);
        }
        let digest = ArtifactHash::of(yaml.as_bytes());
        Ok(Self {
            reference: SuiteRef {
                name: document.name,
                version: document.version,
                digest,
                about: document.about,
            },
            level: document.level,
            limits: document.limits,
            data,
            checks,
        })
    }

    /// The entries of `data`, as they are written: hash and rows may be missing or wrong. The rest of
    /// the suite is not looked at.
    ///
    /// # Errors
    /// As [`Suite::parse`].
    pub fn drafts(yaml: &str) -> Result<Vec<DataDraft>, SuiteError> {
        let document = Document::read(yaml)?;
        check_data(&document.data)?;
        Ok(document.data)
    }

    /// The frozen data, in order.
    #[must_use]
    pub fn data(&self) -> &[DataEntry] {
        &self.data
    }

    /// The same suite without the checks that ask frozen data, for who has none.
    #[must_use]
    pub fn of_stream(&self) -> Self {
        self.only(None)
    }

    /// The same suite with those checks alone that ask this frozen data, or the stream.
    pub(crate) fn only(&self, data: Option<&str>) -> Self {
        let mut one = self.clone();
        one.checks.retain(|check| check.data.as_deref() == data);
        one
    }

    /// Name, version and the hash of its text, which has the hashes of its frozen data.
    #[must_use]
    pub fn reference(&self) -> SuiteRef {
        self.reference.clone()
    }

    /// What it is for, as its author says.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.reference.about
    }

    /// The confidence level of every interval whose check has none of its own.
    #[must_use]
    pub const fn level(&self) -> f64 {
        self.level
    }

    /// Bounds on what an evaluation may cost.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The checks, in order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Whether some check holds a candidate against the anchor.
    #[must_use]
    pub fn asks_anchor(&self) -> bool {
        self.checks.iter().any(|check| check.versus == Baseline::Anchor)
    }

    /// Whether some check asks for a metric.
    #[must_use]
    pub fn asks(&self, metric: Metric) -> bool {
        self.checks.iter().any(|check| check.metric == metric)
    }

    /// Whether some check asks for predictions under a load that does not wait.
    #[must_use]
    pub fn asks_server(&self) -> bool {
        self.checks.iter().any(|check| check.metric.family() == Family::Server)
    }

    /// Every perturbation that some check asks for, once.
    #[must_use]
    pub fn perturbations(&self) -> Vec<Perturbation> {
        let mut all: Vec<Perturbation> = Vec::new();
        let asked = self.checks.iter().filter_map(|check| check.under);
        for one in asked.flat_map(|under| under.perturbations()) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }

    /// Every attack that some check asks for, once.
    #[must_use]
    pub fn attacks(&self) -> Vec<Attack> {
        let mut all: Vec<Attack> = Vec::new();
        for check in &self.checks {
            if let Some(Under::Attacked(attack)) = check.under
                && !all.contains(&attack)
            {
                all.push(attack);
            }
        }
        all
    }
}

impl Document {
    fn read(yaml: &str) -> Result<Self, SuiteError> {
        if yaml.len() > MAX_SUITE_BYTES {
            return Err(SuiteError::TooLarge(yaml.len()));
        }
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_events: 20_000, max_aliases: 0, max_anchors: 0, max_depth: 8,
                max_buffered_comment_events: 1_000,
            },
        };
        serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| SuiteError::Yaml(error.to_string()))
    }
}

/// All but hashes and rows.
fn check_data(data: &[DataDraft]) -> Result<(), SuiteError> {
    if data.len() > MAX_SETS {
        let reason = format!("has {} entries: use at most {MAX_SETS}", data.len());
        return Err(SuiteError::Field { field: "data", reason });
    }
    let (mut ids, mut files) = (BTreeSet::new(), BTreeSet::new());
    for one in data {
        one.check()?;
        if !ids.insert(&one.id) || !files.insert(&one.path) {
            let reason = "this id, or its file, is there twice".to_owned();
            return Err(SuiteError::Data { id: one.id.clone(), reason });
        }
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Result<(), SuiteError> {
    let field = |field, reason: String| Err(SuiteError::Field { field, reason });
    if !(200..=20_000).contains(&limits.bootstrap) {
        return field("limits.bootstrap", format!("is {}: use 200 to 20000", limits.bootstrap));
    }
    if !(99..=20_000).contains(&limits.permutations) {
        let found = limits.permutations;
        return field("limits.permutations", format!("is {found}: use 99 to 20000"));
    }
    if limits.attack_ms > 7_200_000 {
        return field("limits.attack_ms", "at most 7200000 (two hours)".to_owned());
    }
    if limits.latency_ms > 600_000 || limits.throughput_ms > 600_000 {
        return field("limits.latency_ms", "at most 600000 (ten minutes) a model pair".to_owned());
    }
    if !(100..=600_000).contains(&limits.server_ms) {
        let found = limits.server_ms;
        return field("limits.server_ms", format!("is {found}: use 100 to 600000 (ten minutes)"));
    }
    if !(1..=10_000).contains(&limits.server_qps) {
        let found = limits.server_qps;
        return field("limits.server_qps", format!("is {found}: use 1 to 10000 a second"));
    }
    Ok(())
}

fn wrong(id: &str, reason: impl Into<String>) -> SuiteError {
    SuiteError::Check { id: id.to_owned(), reason: reason.into() }
}

impl CheckDocument {
    fn validate(self, data: &[DataEntry]) -> Result<Check, SuiteError> {
        if [NO_LEAK, COPIES, NEAR_COPIES].contains(&self.id.as_str()) {
            return Err(wrong(&self.id, "this check is made of every candidate: leave it out"));
        }
        if self.id.is_empty() || self.id.len() > 100 {
            return Err(wrong(&self.id, "the id must have 1 to 100 bytes"));
        }
        if let Some(level) = self.level.filter(|level| !LEVELS.contains(level)) {
            return Err(wrong(&self.id, format!("level {level}: use 0.5 to 0.9999")));
        }
        let bound = self.bound()?;
        self.bound_fits(&bound)?;
        let family = self.metric.family();
        let text = self.slice.as_deref().unwrap_or("overall");
        let slice = Slice::parse(text).ok_or_else(|| {
            wrong(&self.id, format!("slice `{text}`: use overall, earlier, fresh or group=value"))
        })?;
        if slice != Slice::Overall && !self.metric.has_slices() {
            return Err(wrong(&self.id, "this metric has no slices: leave `slice` out"));
        }
        self.data_fits(data, &slice)?;
        if (family == Family::Gap) != self.over.is_some() {
            return Err(wrong(
                &self.id,
                "`over: <group attribute>` belongs to gap metrics, always",
            ));
        }
        let under = match &self.under {
            None if self.metric == Metric::CorruptionError => {
                return Err(wrong(&self.id, "corruption_error needs `under: {kind: ...}`"));
            }
            None => None,
            Some(_) if family != Family::Quality => {
                return Err(wrong(&self.id, "`under` belongs to quality metrics"));
            }
            Some(under) => {
                Some(under.validate(self.metric).map_err(|reason| wrong(&self.id, reason))?)
            }
        };
        self.options_fit(&bound)?;
        let default_n =
            if self.metric.has_slices() || matches!(family, Family::Drift | Family::Producer) {
                30
            } else {
                1
            };
        Ok(Check {
            id: self.id,
            layer: self.layer,
            metric: self.metric,
            data: self.data,
            slice,
            over: self.over,
            under,
            bound,
            versus: self.versus.unwrap_or_default(),
            level: self.level,
            class: self.class,
            exact: self.exact,
            spend: self.spend,
            severity: self.severity,
            min_n: self.min_n.unwrap_or(default_n),
            min_class: self.min_class.unwrap_or(10),
        })
    }

    /// Frozen data has no windows and is asked for answers alone.
    fn data_fits(&self, data: &[DataEntry], slice: &Slice) -> Result<(), SuiteError> {
        let family = self.metric.family();
        let Some(id) = &self.data else {
            return if family == Family::Retention {
                Err(wrong(&self.id, "this metric needs `data: <id>` of a slice of the past"))
            } else {
                Ok(())
            };
        };
        let Some(entry) = data.iter().find(|entry| entry.id == *id) else {
            let ids: Vec<&str> = data.iter().map(|entry| entry.id.as_str()).collect();
            let reason =
                format!("data `{id}` is no entry of `data`; there are: {}", ids.join(", "));
            return Err(wrong(&self.id, reason));
        };
        if !matches!(family, Family::Quality | Family::Gap | Family::Retention) {
            return Err(wrong(&self.id, "`data` belongs to metrics of answers: leave it out"));
        }
        if matches!(slice, Slice::Earlier | Slice::Fresh) {
            return Err(wrong(&self.id, "frozen data has no windows: use overall or group=value"));
        }
        if family == Family::Retention && (entry.role != Role::Past || *slice != Slice::Overall) {
            let need = "this metric is of the whole of a slice of the past: give the data \
                        `role: past`, and no `slice`";
            return Err(wrong(&self.id, need));
        }
        Ok(())
    }

    /// Exactly one bound, so that a result has one rule.
    fn bound(&self) -> Result<Bound, SuiteError> {
        let mut bounds: Vec<Bound> = Vec::new();
        bounds.extend(self.floor.map(Bound::Floor));
        bounds.extend(self.ceil.map(Bound::Ceil));
        bounds.extend(self.above_chance.map(Bound::AboveChance));
        bounds.extend(self.margin.map(Bound::Margin));
        bounds.extend(self.ratio.map(Bound::Ratio));
        let [bound] = bounds[..] else {
            let need = "give exactly one of floor, ceil, above_chance, margin, ratio; \
                        for two bounds write two checks";
            return Err(wrong(&self.id, need));
        };
        if bound.is_relative() != self.versus.is_some() {
            let need = "`versus: champion` (or `anchor`) goes with margin or ratio, always";
            return Err(wrong(&self.id, need));
        }
        let clean = self.metric.family() == Family::Quality && !self.metric.is_robust();
        if self.versus == Some(Baseline::Anchor) && (!clean || self.under.is_some()) {
            let need = "`versus: anchor` is of quality metrics on inputs as they are: the anchor is \
                        asked nothing else";
            return Err(wrong(&self.id, need));
        }
        let finite = match bound {
            Bound::Floor(v) | Bound::Ceil(v) => v.is_finite(),
            Bound::AboveChance(v) => (0.0..1.0).contains(&v),
            Bound::Ratio(v) => v.is_finite() && v >= 1.0,
            Bound::Margin(m) => {
                let wide = m.at_most.unwrap_or(m.value);
                m.value.is_finite() && m.value > 0.0 && wide.is_finite() && wide >= m.value
            }
        };
        if !finite {
            let need = "the bound is out of range: a margin is a tolerated loss above 0 (and \
                        at_most not below it), a ratio at least 1, above_chance 0 to 1";
            return Err(wrong(&self.id, need));
        }
        Ok(bound)
    }

    /// Options that only some metrics have.
    fn options_fit(&self, bound: &Bound) -> Result<(), SuiteError> {
        let metric = self.metric;
        if self.class.is_some() != metric.is_of_class()
            && !(self.class.is_some() && metric.takes_class())
        {
            let need = "`class: <name>` belongs to precision, recall, f1, f2, benefit_entropy and \
                        benefit_theil, always, and may be given to auroc and auprc";
            return Err(wrong(&self.id, need));
        }
        if self.exact && (bound.is_relative() || !metric.is_counted()) {
            let need = "`exact` belongs to shares that are counted (accuracy, robust_accuracy, \
                        top-k accuracy, precision, recall) with a floor";
            return Err(wrong(&self.id, need));
        }
        let Some(spend) = self.spend else { return Ok(()) };
        if self.versus != Some(Baseline::Anchor) || !metric.is_right_or_wrong() {
            let need = "`spend` belongs to accuracy and top-k accuracy with `versus: anchor`: only a \
                        line of candidates has looks to spend over, and resamples do not reach so far";
            return Err(wrong(&self.id, need));
        }
        if !(2..=10_000).contains(&spend.looks) {
            return Err(wrong(&self.id, format!("spend.looks is {}: use 2 to 10000", spend.looks)));
        }
        Ok(())
    }

    fn bound_fits(&self, bound: &Bound) -> Result<(), SuiteError> {
        let higher = self.metric.higher_is_better();
        let fits = match (self.metric.family(), bound) {
            (Family::Quality, Bound::AboveChance(_)) => self.metric == Metric::BalancedAccuracy,
            (Family::Quality | Family::Gap, Bound::Margin(_)) => {
                self.metric != Metric::AccuracyOverMajority
            }
            (Family::Quality, Bound::Ratio(_)) => {
                self.metric.is_error_of_numbers() || self.metric == Metric::CorruptionError
            }
            (Family::Retention, Bound::Margin(_) | Bound::Ratio(_)) => false,
            (Family::Agreement | Family::Drift | Family::Trigger | Family::Producer, bound) => {
                matches!(bound, Bound::Ceil(_))
            }
            (
                Family::Latency
                | Family::Server
                | Family::Throughput
                | Family::Energy
                | Family::Training,
                Bound::Ratio(_),
            ) => true,
            (_, Bound::Floor(_)) => higher,
            (_, Bound::Ceil(_)) => !higher,
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let way = if higher { "higher" } else { "lower" };
        let metric = self.metric.as_str();
        Err(wrong(&self.id, format!("this bound says nothing about {metric} ({way} is better)")))
    }
}
