//! How to train; part of a generation's lineage.
mod balancing;
mod bounds;
mod course;
mod encoder;
mod method;
mod regression;
mod search;
mod terms;
mod transfer;

use serde::{Deserialize, Serialize};
use tidegate_contracts::JobKind;
use tidegate_model::{Architecture, Task};

use self::bounds::{whole, within};
pub(crate) use self::method::Part;
pub use self::{
    balancing::Balancing,
    course::Course,
    encoder::EncoderFiles,
    method::{Alerts, Expansion, Method, Precision, Train, Watching},
    regression::Regression,
    search::{Search, Space},
    terms::{BalanceBy, Counting, Der, Distillation, Ewc, L2ToStart, Rehearsal},
    transfer::{NewLabels, Transfer},
};
use crate::LearningError;

/// How to train: TOML, every field with a default, unknown fields refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Of every random choice, together with the job's id.
    pub seed: u64,
    /// The network of a cold start. A hot update keeps its champion's.
    pub architecture: Architecture,
    /// What a cold start begins with; left out, it begins with noise.
    pub encoder: Option<EncoderFiles>,
    /// From nothing, or from an encoder, over a long window.
    pub cold_start: Course,
    /// From the champion, over what is new.
    pub hot_update: Course,
    /// From another domain's champion, over a new domain.
    pub transfer: Transfer,
    /// Whether a cold start looks for its architecture first.
    pub search: Search,
    /// Which parameters learn. A transfer has its own.
    pub method: Method,
    /// In which numbers.
    pub precision: Precision,
    /// How numbers are learnt.
    #[serde(default)]
    pub regression: Regression,
    /// What is counted beside what is learnt by steps.
    #[serde(default)]
    pub counting: Counting,
    /// Earlier examples that are learnt again.
    pub rehearsal: Rehearsal,
    /// What keeps a hot update's answers near its champion's.
    pub distillation: Distillation,
    /// What keeps its logits near those of generations long gone.
    pub der: Der,
    /// What keeps the weights that mattered near the champion's.
    pub ewc: Ewc,
    /// What keeps all weights near the champion's.
    pub l2_to_start: L2ToStart,
    /// What keeps the experts evenly loaded.
    pub balancing: Balancing,
    /// What is measured beside the loss.
    pub diagnosis: Watching,
    /// What stops a job.
    pub alerts: Alerts,
    /// When progress is made safe.
    pub checkpoints: Checkpoints,
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
    fn default() -> Self {
        Self {
            seed: 17,
            architecture: Architecture::default(),
            encoder: None,
            cold_start: Course::cold_start(),
            hot_update: Course::hot_update(),
            transfer: Transfer::default(),
            search: Search::default(),
            method: Method::default(),
            precision: Precision::default(),
            regression: Regression::default(),
            counting: Counting::default(),
            rehearsal: Rehearsal::default(),
            distillation: Distillation::default(),
            der: Der::default(),
            ewc: Ewc::default(),
            l2_to_start: L2ToStart::default(),
            balancing: Balancing::default(),
            diagnosis: Watching::default(),
            alerts: Alerts::default(),
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
            JobKind::ColdStart => &self.cold_start,
            JobKind::HotUpdate => &self.hot_update,
            JobKind::Transfer => &self.transfer.course,
        }
    }

    /// What learns in a job of this kind that starts from a champion.
    #[must_use]
    pub const fn method(&self, kind: JobKind) -> &Method {
        match kind {
            JobKind::Transfer => &self.transfer.method,
            JobKind::ColdStart | JobKind::HotUpdate => &self.method,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`LearningError`] names the first field that is wrong and what would be right.
    pub fn validate(&self) -> Result<(), LearningError> {
        self.architecture.validate()?;
        if self.architecture.task == Task::NextToken {
            // The bytes, and the end of a text.
            whole("architecture.vocab", self.architecture.vocab, 257, 1 << 24)?;
        }
        self.cold_start.validate("cold_start")?;
        self.hot_update.validate("hot_update")?;
        self.transfer.validate()?;
        self.search.validate()?;
        self.validate_what_is_searched()?;
        self.method.validate("method")?;
        self.regression.validate()?;
        self.counting.validate()?;
        self.rehearsal.validate()?;
        self.distillation.validate()?;
        self.der.validate()?;
        self.ewc.validate()?;
        self.l2_to_start.validate()?;
        self.diagnosis.validate()?;
        self.alerts.validate()?;
        self.balancing.validate()?;
        within("checkpoints.seconds", self.checkpoints.seconds, 0.0..=86_400.0)
    }

    /// A search compares architectures by how well they tell classes apart.
    fn validate_what_is_searched(&self) -> Result<(), LearningError> {
        let need = if self.architecture.task != Task::Classification {
            "candidates are judged by their classes: 0 is needed where none are learnt"
        } else if self.encoder.is_some() {
            "an encoder has an architecture of its own: 0 is needed where a cold start begins with \
             one"
        } else {
            return Ok(());
        };
        if !self.search.is_on() {
            return Ok(());
        }
        let (field, value) = ("search.candidates".to_owned(), self.search.candidates.to_string());
        Err(LearningError::Recipe { field, value, need })
    }
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
            ("[counting]\nsmoothing = -1", "`counting.smoothing`"),
            ("[regression]\nlevels = 1", "`regression.levels`"),
            ("[regression]\nspread = -0.5", "`regression.spread`"),
            ("[rehearsal]\nshare = 1.0", "`rehearsal.share`"),
            ("[rehearsal]\nbalance_by = [\"age\"]", "balance_by"),
            ("[rehearsal]\nbalance_by = [\"class\", \"class\"]", "`rehearsal.balance_by`"),
            ("[distillation]\ntemperature = 0", "`distillation.temperature`"),
            ("[distillation]\nfresh_weight = 2", "`distillation.fresh_weight`"),
            ("[hot_update]\ndeep_every = 0", "`hot_update.deep_every`"),
            ("[hot_update]\nmicro_batch = 99999", "`hot_update.micro_batch`"),
            ("[hot_update]\nmax_joules = -1", "`hot_update.max_joules`"),
            ("[method]\ntrain = \"prefixes\"", "prefixes"),
            ("[method.adapters]\nalpha = 0", "`method.adapters.alpha`"),
            ("[method.adapters]\nprefix = 99999", "`method.adapters.prefix`"),
            ("[method.adapters]\nrank = 8", "rank"),
            (
                "[method]\ntrain = \"adapters\"\n[method.adapters]\nattention_rank = 0\nhead = false",
                "`method.adapters`",
            ),
            ("[method]\ntrain = \"new_experts\"", "`method.expansion.experts`"),
            ("[method.expansion]\nexperts = 9999", "`method.expansion.experts`"),
            ("[method.expansion]\nnoise = nan", "`method.expansion.noise`"),
            (
                "[method]\ntrain = \"adapters\"\n[method.expansion]\nexperts = 2",
                "`method.expansion.experts`",
            ),
            ("[transfer]\nepochs = 3", "epochs"),
            ("[transfer.course]\nbatch = 0", "`transfer.course.batch`"),
            ("[transfer]\nheld_back = 0.9", "`transfer.held_back`"),
            ("[transfer]\nfew_shot = [0]", "`transfer.few_shot`"),
            ("[transfer]\nlabels = \"mine\"", "mine"),
            ("[transfer.method.adapters]\nalpha = 0", "`transfer.method.adapters.alpha`"),
            ("[search]\neta = 1", "`search.eta`"),
            ("[search]\nheld_back = 0", "`search.held_back`"),
            ("[search.space]\nlayers = []", "`search.space.layers`"),
            ("[search.space]\nheads = [0]", "`search.space.heads`"),
            ("[search.space]\nwidth = [2]", "width"),
            ("[precision]\ncompute = \"f8\"", "f8"),
            ("[der]\nalpha = -0.5", "`der.alpha`"),
            ("[ewc]\ndecay = 1.5", "`ewc.decay`"),
            ("[ewc]\nsamples = 0", "`ewc.samples`"),
            ("[l2_to_start]\nweight = inf", "`l2_to_start.weight`"),
            ("[balancing]\ncapacity_factor = -1", "`balancing.capacity_factor`"),
            ("[balancing]\nbalance_loss = nan", "`balancing.balance_loss`"),
            ("[balancing]\nz_loss = 1e9", "`balancing.z_loss`"),
            ("[diagnosis]\nevery = 0", "`diagnosis.every`"),
            ("[alerts]\nexploding = 0.5", "`alerts.exploding`"),
            ("[alerts]\nsteps = 0", "`alerts.steps`"),
            ("[architecture]\nd_model = 3", "`d_model`"),
            ("[architecture]\nwidth = 3", "width"),
            ("[architecture]\ntask = \"next_token\"\nvocab = 256", "`architecture.vocab`"),
            ("[architecture]\ndense_layers = 3", "`dense_layers`"),
            ("[architecture.block]\nnorm = \"batch\"", "batch"),
            ("[encoder]\nfolder = \"minilm\"", "config"),
            (
                "[search]\ncandidates = 4\n[architecture]\ntask = \"next_token\"",
                "`search.candidates`",
            ),
            ("epochs", "recipe"),
        ] {
            let error = Recipe::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
