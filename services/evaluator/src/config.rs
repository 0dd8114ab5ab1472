//! How the evaluator is set up.
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_curation::NearConfig;
use tidegate_evaluation::{Frozen, Suite};
use tidegate_model::Task;
use tidegate_telemetry::energy::{DEFAULT_REGION, grid_intensity};

/// The suite that judges when none is configured.
const DEFAULT_SUITE: &str = include_str!("../../../eval-suites/default/suite.yaml");

/// The same where candidates answer with numbers.
const REGRESSION_SUITE: &str = include_str!("../../../eval-suites/regression/suite.yaml");

/// Configuration of the evaluator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluatorConfig {
    /// The suite that judges; the built-in one for classes or for numbers when absent. Read once, at
    /// start, with its frozen data, whose files lie beside it.
    pub suite: Option<PathBuf>,
    /// Held-out examples that judge at most: the newest.
    pub max_rows: usize,
    /// Labels of a candidate's window that are screened at most: the newest.
    pub max_window_labels: usize,
    /// Training-side ids that are remembered for the leak check at most: the newest.
    pub max_trained_ids: usize,
    /// Offsets of the curated topic that are read at start at most: the newest.
    pub max_scan: u64,
    /// Which held-out texts are said to be nearly ones that were trained on. The newest `capacity`
    /// training-side texts are looked through.
    pub near: NearConfig,
    /// The grid whose carbon intensity is assumed: an ISO 3166 alpha-3 code, or `WORLD`.
    pub region: String,
    /// How many times the energy of its machines the building takes (power usage effectiveness).
    pub pue: f64,
    /// How champions are watched once they serve.
    pub live: LiveConfig,
    /// Seconds after which an evaluator that went silent loses its lease.
    pub lease_s: u64,
}

/// How a champion is held against the one before it, on labels that come after its promotion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveConfig {
    /// Whether it is.
    pub enabled: bool,
    /// The probability with which a champion that is no worse may ever be accused.
    pub alpha: f64,
    /// A loss of accuracy that is tolerated, as a share of one.
    pub margin: f64,
    /// Labelled records that wait to be looked at, at most: the newest.
    pub max_rows: usize,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self { enabled: true, alpha: 0.01, margin: 0.02, max_rows: 2_000 }
    }
}

impl Default for EvaluatorConfig {
    fn default() -> Self {
        Self {
            suite: None,
            max_rows: 2_000,
            max_window_labels: 2_000,
            max_trained_ids: 1_000_000,
            max_scan: 1_000_000,
            near: NearConfig { threshold: 0.8, ..NearConfig::default() },
            region: DEFAULT_REGION.to_owned(),
            pue: 1.0,
            live: LiveConfig::default(),
            lease_s: 10,
        }
    }
}

impl EvaluatorConfig {
    /// The suite in force for candidates of a task.
    ///
    /// # Errors
    /// When the file cannot be read, or is no suite; names the file and the check.
    pub fn suite(&self, task: Task) -> anyhow::Result<Suite> {
        let Some(path) = &self.suite else {
            let suite = match task {
                Task::Regression => REGRESSION_SUITE,
                Task::Classification | Task::NextToken => DEFAULT_SUITE,
            };
            return Suite::parse(suite).context("the built-in suite");
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("evaluator.suite {}", path.display()))?;
        Suite::parse(&text).with_context(|| format!("evaluator.suite {}", path.display()))
    }

    /// The frozen data of a suite that [`EvaluatorConfig::suite`] gave, verified.
    ///
    /// # Errors
    /// Names the entry, its file and what is not as the suite says.
    pub fn frozen(&self, suite: &Suite) -> anyhow::Result<Vec<Frozen>> {
        match &self.suite {
            None => Ok(vec![]),
            Some(path) => crate::frozen::read(suite, crate::frozen::folder_of(path))
                .with_context(|| format!("evaluator.suite {}", path.display())),
        }
    }

    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.max_rows > 0, "evaluator.max_rows is 0: at least 1 is needed");
        anyhow::ensure!(self.max_scan > 0, "evaluator.max_scan is 0: at least 1 is needed");
        anyhow::ensure!(self.lease_s > 0, "evaluator.lease_s is 0: at least 1 is needed");
        self.near.validate().context("evaluator.near")?;
        let pue = self.pue;
        anyhow::ensure!((1.0..=10.0).contains(&pue), "evaluator.pue is {pue}: use 1 to 10");
        let LiveConfig { alpha, margin, max_rows, .. } = self.live;
        anyhow::ensure!(
            alpha > 0.0 && alpha < 1.0,
            "evaluator.live.alpha is {alpha}: a probability above 0 and below 1 is needed"
        );
        anyhow::ensure!(
            (0.0..1.0).contains(&margin),
            "evaluator.live.margin is {margin}: a share of one is needed, 0 or more and below 1"
        );
        anyhow::ensure!(max_rows > 0, "evaluator.live.max_rows is 0: at least 1 is needed");
        let region = &self.region;
        anyhow::ensure!(
            grid_intensity(region).is_some(),
            "evaluator.region `{region}` is not in the table: use an ISO 3166 alpha-3 code or WORLD"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suites_of_the_house_are_valid() {
        for (task, name) in [(Task::Classification, "default"), (Task::Regression, "regression")] {
            let suite = EvaluatorConfig::default().suite(task).unwrap();
            assert_eq!(suite.reference().name, name);
        }
        let email = concat!(env!("CARGO_MANIFEST_DIR"), "/../../eval-suites/email/suite.yaml");
        let config = EvaluatorConfig { suite: Some(email.into()), ..EvaluatorConfig::default() };
        assert_eq!(config.suite(Task::Regression).unwrap().reference().name, "email");
    }

    #[test]
    fn a_suite_that_is_wrong_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suite.yaml");
        let config = EvaluatorConfig { suite: Some(path.clone()), ..EvaluatorConfig::default() };
        assert!(
            format!("{:#}", config.suite(Task::Classification).unwrap_err()).contains("suite.yaml")
        );
        std::fs::write(&path, DEFAULT_SUITE.replace("severity: block", "severity: harsh")).unwrap();
        let error = format!("{:#}", config.suite(Task::Classification).unwrap_err());
        assert!(error.contains("suite.yaml") && error.contains("harsh"), "{error}");
    }

    #[test]
    fn a_region_without_a_figure_is_refused_at_start() {
        let config = EvaluatorConfig { region: "ATLANTIS".into(), ..EvaluatorConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("ATLANTIS"));
        EvaluatorConfig::default().validate().unwrap();
    }
}
