//! How to train; part of a generation's lineage.
use serde::{Deserialize, Serialize};
use tidegate_contracts::JobKind;
use tidegate_model::Architecture;

use crate::LearningError;

/// How to train: TOML, every field with a default, unknown fields refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Of every random choice, together with the job's id.
    pub seed: u64,
    /// The network of a cold start. A hot update keeps its champion's.
    pub architecture: Architecture,
    /// From nothing, over a long window. Also of a transfer.
    pub cold_start: Course,
    /// From the champion, over what is new.
    pub hot_update: Course,
    /// Earlier examples that are learnt again.
    pub rehearsal: Rehearsal,
    /// What keeps a hot update near its champion.
    pub distillation: Distillation,
    /// What keeps the experts evenly loaded.
    pub balancing: Balancing,
    /// When progress is made safe.
    pub checkpoints: Checkpoints,
}

/// Steps, rates and budget of one job kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// Passes over the window.
    pub epochs: u64,
    /// Examples of a step, rehearsed ones included.
    pub batch: usize,
    /// Steps at most; 0: no bound but the epochs. The learning rate is annealed to this end.
    pub max_steps: u64,
    /// Seconds at most; training ends in good order when they are over. A job that meets this
    /// bound is not reproducible to the bit, so it is a safety net, not a setting.
    pub max_seconds: f64,
    /// Examples at most: the newest of the window.
    pub max_examples: usize,
    /// Highest learning rate of the deep path (AdamW); 0 leaves the deep path as it is.
    pub deep_rate: f64,
    /// Highest learning rate of the wide path (Adagrad); 0 leaves the wide path as it is.
    pub wide_rate: f64,
    /// Share of the steps in which the rates rise from 0.
    pub warm_up: f64,
    /// What the rates fall to by a half cosine, as a share of the highest.
    pub final_rate: f64,
    /// Of AdamW, decoupled.
    pub weight_decay: f64,
    /// The deep path's gradient is scaled down to this norm at most.
    pub clip_norm: f64,
    /// Weight of the deep path's own loss beside that of both paths together. At 0 the deep path
    /// learns what the wide one leaves unexplained, which is best while examples are few; more
    /// makes it stand on its own feet.
    pub deep_loss: f64,
    /// The same for the wide path. Above 0 it goes on learning new words where both paths together
    /// are sure already.
    pub wide_loss: f64,
    /// How far rare classes of the window count for more: a class of share s weighs `s^-balance`.
    /// 0: every example alike; 1: every class alike. A first window often holds a few examples of
    /// what will be common a day later.
    pub balance: f64,
}

/// The replay buffer: class-balanced, part of the generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rehearsal {
    /// Examples it holds; 0: none.
    pub capacity: usize,
    /// Bytes kept of a text.
    pub text_bytes: usize,
    /// Share of each batch of a hot update that is replayed.
    pub share: f64,
}

/// Replayed examples are also learnt towards what the champion said of them (Li and Hoiem 2016,
/// arXiv 1606.09282; Buzzega et al. 2020, arXiv 2004.07211).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Share of a replayed example's loss; the rest is its label's.
    pub weight: f64,
    /// Softens both answers.
    pub temperature: f64,
}

/// Bias steps of the router, annealed with the learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balancing {
    /// The first and largest step; 0: no balancing.
    pub step: f64,
}

/// When a checkpoint is due; whichever comes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoints {
    /// Steps between two; 0: by time only.
    pub steps: u64,
    /// Seconds between two; 0: by steps only.
    pub seconds: f64,
}

impl Default for Recipe {
    /// Chosen by `examples/prequential.rs` on the first 40 % of the e-mail stream.
    fn default() -> Self {
        let cold_start = Course {
            epochs: 3,
            batch: 16,
            max_steps: 0,
            max_seconds: 1_800.0,
            max_examples: 20_000,
            deep_rate: 5e-4,
            wide_rate: 1.0,
            warm_up: 0.1,
            final_rate: 0.1,
            weight_decay: 0.01,
            clip_norm: 1.0,
            deep_loss: 0.0,
            wide_loss: 1.0,
            balance: 0.5,
        };
        let hot_update = Course {
            epochs: 1,
            max_seconds: 300.0,
            max_examples: 10_000,
            deep_rate: 2e-3,
            ..cold_start.clone()
        };
        Self {
            seed: 17,
            architecture: Architecture::default(),
            cold_start,
            hot_update,
            rehearsal: Rehearsal { capacity: 1_500, text_bytes: 4_096, share: 0.25 },
            distillation: Distillation { weight: 0.3, temperature: 2.0 },
            balancing: Balancing { step: 1e-3 },
            checkpoints: Checkpoints { steps: 0, seconds: 10.0 },
        }
    }
}

impl Recipe {
    /// Reads a recipe; what it leaves out is as in [`Recipe::default`].
    ///
    /// # Errors
    /// [`LearningError`] names the field that is unknown, of the wrong type or out of its range.
    pub fn from_toml(text: &str) -> Result<Self, LearningError> {
        let bad = |error: String| LearningError::RecipeToml(error);
        let given: toml::Table = text.parse().map_err(|e: toml::de::Error| bad(e.to_string()))?;
        let mut whole = toml::Table::try_from(Self::default()).map_err(|e| bad(e.to_string()))?;
        merge(&mut whole, given);
        let recipe: Self = whole.try_into().map_err(|e: toml::de::Error| bad(e.to_string()))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Every field, as TOML. [`Recipe::from_toml`] reads it back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is tables of numbers, so it is TOML")
    }

    /// The course of a job of this kind.
    #[must_use]
    pub const fn course(&self, kind: JobKind) -> &Course {
        match kind {
            JobKind::ColdStart | JobKind::Transfer => &self.cold_start,
            JobKind::HotUpdate => &self.hot_update,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`LearningError`] names the first field that is wrong and what would be right.
    pub fn validate(&self) -> Result<(), LearningError> {
        self.architecture.validate()?;
        self.cold_start.validate("cold_start")?;
        self.hot_update.validate("hot_update")?;
        let (rehearsal, distillation) = (&self.rehearsal, &self.distillation);
        whole("rehearsal.capacity", rehearsal.capacity, 0, 1_000_000)?;
        whole("rehearsal.text_bytes", rehearsal.text_bytes, 1, 1 << 20)?;
        within("rehearsal.share", rehearsal.share, 0.0..=0.95)?;
        within("distillation.weight", distillation.weight, 0.0..=1.0)?;
        within("distillation.temperature", distillation.temperature, 0.1..=100.0)?;
        within("balancing.step", self.balancing.step, 0.0..=1.0)?;
        within("checkpoints.seconds", self.checkpoints.seconds, 0.0..=86_400.0)
    }
}

impl Course {
    fn validate(&self, name: &str) -> Result<(), LearningError> {
        let field = |field: &str| format!("{name}.{field}");
        whole(&field("epochs"), self.epochs as usize, 1, 10_000)?;
        whole(&field("batch"), self.batch, 1, 1 << 16)?;
        whole(&field("max_examples"), self.max_examples, 1, 1 << 30)?;
        within(&field("max_seconds"), self.max_seconds, 0.001..=1e7)?;
        within(&field("deep_rate"), self.deep_rate, 0.0..=1.0)?;
        within(&field("wide_rate"), self.wide_rate, 0.0..=100.0)?;
        within(&field("warm_up"), self.warm_up, 0.0..=1.0)?;
        within(&field("final_rate"), self.final_rate, 0.0..=1.0)?;
        within(&field("weight_decay"), self.weight_decay, 0.0..=1.0)?;
        within(&field("clip_norm"), self.clip_norm, 1e-6..=1e9)?;
        within(&field("deep_loss"), self.deep_loss, 0.0..=100.0)?;
        within(&field("wide_loss"), self.wide_loss, 0.0..=100.0)?;
        within(&field("balance"), self.balance, 0.0..=1.0)
    }
}

fn whole(field: &str, value: usize, low: usize, high: usize) -> Result<(), LearningError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let need = if value < low { "too small: use a larger number" } else { "too large" };
    Err(LearningError::Recipe { field: field.to_owned(), value: value.to_string(), need })
}

fn within(
    field: &str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<(), LearningError> {
    // NaN is in no range.
    if range.contains(&value) {
        return Ok(());
    }
    let need = match (*range.start() == 0.0, *range.end() <= 1.0) {
        (true, true) => "a share of 0 to 1 is needed",
        (true, false) => "a finite number of at least 0 is needed, not a huge one",
        _ => "a finite number above 0 is needed, not a huge one",
    };
    Err(LearningError::Recipe { field: field.to_owned(), value: value.to_string(), need })
}

/// Puts every value of `given` over the one in `whole`, table by table.
fn merge(whole: &mut toml::Table, given: toml::Table) {
    for (key, value) in given {
        match (whole.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            // An integer where a number is wanted.
            (Some(old @ toml::Value::Float(_)), toml::Value::Integer(new)) => {
                *old = toml::Value::Float(new as f64);
            }
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reads_back_from_what_it_prints() {
        let recipe = Recipe::default();
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
        assert_eq!(Recipe::from_toml("").unwrap(), recipe);
    }

    #[test]
    fn a_field_left_out_keeps_the_default_of_its_own_course() {
        let recipe =
            Recipe::from_toml("[hot_update]\nwide_rate = 1\n[cold_start]\nepochs = 9").unwrap();
        let default = Recipe::default();
        assert!((recipe.hot_update.wide_rate - 1.0).abs() < f64::EPSILON);
        assert_eq!(recipe.hot_update.epochs, default.hot_update.epochs);
        assert_eq!(recipe.cold_start.epochs, 9);
    }

    #[test]
    fn an_error_names_the_field() {
        for (text, needle) in [
            ("sede = 3", "sede"),
            ("[hot_update]\nrate = 1.0", "rate"),
            ("[hot_update]\nbatch = 0", "`hot_update.batch`"),
            ("[cold_start]\nwide_rate = nan", "`cold_start.wide_rate`"),
            ("[cold_start]\nclip_norm = inf", "`cold_start.clip_norm`"),
            ("[rehearsal]\nshare = 1.0", "`rehearsal.share`"),
            ("[distillation]\ntemperature = 0", "`distillation.temperature`"),
            ("[architecture]\nd_model = 3", "`d_model`"),
            ("[architecture]\nwidth = 3", "width"),
            ("epochs", "recipe"),
        ] {
            let error = Recipe::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
